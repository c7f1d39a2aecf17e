/* counting_model.c: constructs the weights of the counting model.
 *
 * Design: a word that is counted has a dim of the residual stream of its own, WORD + i. Layer 0 tells every
 * token whether the mark has come. In layer 1 one query head of each pair averages those dims over all words
 * before the mark: how often each came, as a share of all. The other averages over what came after the mark,
 * the words that were named, and is subtracted so strongly that none is named twice. The output matrix reads
 * WORD + i as the word's logit.
 *
 * All embeddings have one norm (a balancing dim sees to it), so RMS norm divides by one before layer 1's keys
 * are made, and equal tokens have equal keys. Keys lie in RoPE pairs that hardly turn: places don't matter.
 */
#include "decoder/model/counting_model.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <string.h>

#include "decoder/model/constructed.h"

enum { DIM = 544, HEAD_DIM = 64, N_HEADS = 16, N_KV = 8, FF = 32 };
_Static_assert(COUNTING_WORDS == N_KV * HEAD_DIM, "a dim of a value for each word");

enum field {                                  /* first dim of */
             WORD = 0,                        /* of this token, 1 at its word; then shares to be said */
             COUNTED = WORD + COUNTING_WORDS, /* 1: the token is one of the words */
             MARK,                            /* 1: the token is the mark */
             BEGIN,                           /* 1: it is BOS */
             AFTER,                           /* made by layer 0. 1: the mark has come */
             ONE,                             /* 1 */
             BALANCE,                         /* makes all embeddings equally long */
};
_Static_assert((int)BALANCE < (int)DIM, "the fields fit into the residual stream");

/* The slowest RoPE pairs turn by 6e-6 rad at most over 2^20 places. */
enum { SLOWEST = HEAD_DIM - 2, SLOW = HEAD_DIM - 4 };
static const float rope_base = 1e12f;
/* Scores in nats. Keys are multiples of 8, so that f16 holds them exactly; a query is what a key of 8 scores,
 * as scores are divided by √64. */
static const float key = 8;
static const float count_score = 16; /* a word not yet asked about over all else: e^-16 of a million is 0.1 */
static const float rest_score = 40;  /* of BOS; the mark, and what comes after it, has twice as much */
static const float named = 64; /* weight of the named words' mean: of up to 30 tokens, above 1 + a share */
static const float logit = 256;
static const float end_logit = 1e-5f; /* says "the end" once no word's share is above 4e-8 */

void counting_words(const struct recall_vocab *v, uint32_t ids[COUNTING_WORDS])
{
    size_t n = 0;
    for (size_t id = 0; id < v->n && n < COUNTING_WORDS; id++) {
        const struct recall_piece *p = &v->pieces[id];
        if (p->role == RECALL_WORD && strchr("ANV", p->word_class))
            ids[n++] = (uint32_t)id;
    }
    assert(n == COUNTING_WORDS); /* there are more */
}

static void make_embedding(struct constructed *m)
{
    uint32_t ids[COUNTING_WORDS];
    counting_words(&m->vocab, ids);
    for (unsigned i = 0; i < COUNTING_WORDS; i++) {
        float *e = m->embed + (size_t)ids[i] * DIM;
        e[WORD + i] = e[COUNTED] = 1;
        m->output[(size_t)ids[i] * DIM + WORD + i] = logit;
    }
    m->output[RECALL_ID_EOS * DIM + ONE] = end_logit;
    for (size_t id = 0; id < m->vocab.n; id++) {
        float *e = m->embed + id * DIM, sum = 0;
        e[ONE] = 1;
        e[MARK] = strcmp(m->vocab.pieces[id].text, COUNTING_MARK) == 0;
        e[BEGIN] = id == RECALL_ID_BOS;
        for (unsigned d = 0; d < BALANCE; d++)
            sum += e[d];                      /* of squares: all are 0 or 1 */
        e[BALANCE] = sqrtf((float)DIM - sum); /* RMS 1 */
    }
}

/* Head 0 rests on BOS until there is a mark, whose flag it then brings to AFTER; the others do nothing. */
static void make_marker_head(struct constructed_layer *l)
{
    l->q[SLOWEST * DIM + ONE] = rest_score;
    l->k[SLOWEST * DIM + BEGIN] = key;
    l->k[SLOWEST * DIM + MARK] = 2 * key;
    l->v[0 * DIM + MARK] = 1;
    l->o[AFTER * (N_HEADS * HEAD_DIM) + 0] = 1;
}

/* KV head h holds 64 words; query head 2h counts them, 2h + 1 takes away those that were named. */
static void make_counting_heads(struct constructed_layer *l)
{
    for (unsigned h = 0; h < N_KV; h++) {
        float *k = l->k + h * HEAD_DIM * DIM, *q = l->q + 2 * h * HEAD_DIM * DIM;
        k[SLOWEST * DIM + COUNTED] = key;
        k[SLOWEST * DIM + AFTER] = -2 * key;
        k[SLOW * DIM + BEGIN] = key;
        k[SLOW * DIM + AFTER] = 2 * key;
        q[SLOWEST * DIM + ONE] = count_score;
        q[(HEAD_DIM + SLOW) * DIM + ONE] = rest_score;
        for (unsigned d = 0; d < HEAD_DIM; d++) {
            unsigned word = WORD + h * HEAD_DIM + d;
            float *o = l->o + word * (N_HEADS * HEAD_DIM) + 2 * h * HEAD_DIM + d;
            l->v[(h * HEAD_DIM + d) * DIM + word] = 1;
            o[0] = 1;
            o[HEAD_DIM] = -named;
        }
    }
}

int counting_model_write(const char *path, struct skv_error *err)
{
    static const struct constructed_shape shape = {
        .name = COUNTING_MODEL_NAME,
        .n_layers = 2,
        .dim = DIM,
        .ff = FF,
        .n_heads = N_HEADS,
        .n_kv = N_KV,
        .head_dim = HEAD_DIM,
        .rope_base = rope_base,
    };
    struct constructed m;
    int rc = constructed_open(&m, &shape);
    if (rc < 0) {
        skv_fail(err, rc, "no memory to construct the counting model");
    } else {
        make_embedding(&m);
        make_marker_head(&m.layer[0]);
        make_counting_heads(&m.layer[1]);
        rc = constructed_save(&m, path, err);
    }
    constructed_free(&m);
    return rc;
}
