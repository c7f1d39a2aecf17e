/* recall_model.c: constructs the weights of the recall model and writes them as GGUF.
 *
 * Design: the residual stream is cut into fields (enum field), each with one meaning. Every weight matrix is
 * zero but for a few diagonals that move one field to another, so each part below reads as a sentence:
 * layer 0's heads copy the fields of the last three tokens, its feed-forward passes a name's code where the
 * surrounding flags form a fact or a question, layer 1's heads match those codes and copy the number found.
 *
 * All embeddings have one norm (a balancing field sees to it), and what the layers add is small beside it:
 * RMS norm divides by nearly one everywhere, and weights can be read as if it were not there. */
#include "decoder/model/recall_model.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "decoder/model/constructed.h"

enum { DIM = 256, HEAD_DIM = 64, N_HEADS = 4, N_KV = 2, N_PAIRS = HEAD_DIM / 2 };
enum { FF_PLAIN = 208, FF_HARD = 320 };
enum { CODE = 26 }; /* dims of a code; they turn least: the last 13 RoPE pairs, 0.08 rad over 2^20 at most */
enum { FAST_PAIRS = 12, N_PREV = 3 };

enum flag { FLAG_OTHER, FLAG_IS, FLAG_NAME, FLAG_HEAD, FLAG_TAIL, N_FLAGS };
enum { COPIED = CODE + N_FLAGS };

enum field {                                 /* first dim of */
             CUR = 0,                        /* this token's code and flags */
             PREV = CUR + COPIED,            /* those of the token 1, 2 and 3 places back */
             FIRST = PREV + N_PREV * COPIED, /* at a value's first half: the name's code */
             SECOND = FIRST + CODE,          /* at its second half: the name's code */
             ASK = SECOND + CODE,            /* at "<name> is": the name's code */
             FILL = ASK + CODE,              /* beside FIRST, at a value that is a name: the name's code; with
                                              * --hard, elsewhere: a random code */
             NEXT = FILL + CODE,             /* what is to be said: the code of the next token */
             ONE = NEXT + CODE,              /* 1 */
             BALANCE = ONE + 1,              /* makes all embeddings equally long */
};
_Static_assert(BALANCE + 1 == DIM, "the fields fill the residual stream");

static const double rope_base = 1e12;
static const float sharp_k = 4, sharp_q = 88;  /* layer 0: 44 a pair, one place off costs 25 nats */
static const float match_k = 8, match_q = 128; /* layer 1: the right key scores 128 · cos(codes) */
static const float gate = 80;                  /* a frame lacking one flag passes e^-40 of its content */
static const float recalled = 2, habit = 2;    /* weight in NEXT of what was found, and of usual successors */
static const float logit = 16;
static const float apart = 0.6f; /* largest cosine between two names, or between two outputs */

struct model {
    struct constructed c;
    float (*code)[CODE]; /* [vocab] what a token shows to others: names, numbers; --hard: all */
    float (*out)[CODE];  /* [vocab] what NEXT must hold for it to be said; zero if it never is */
};

/* ---- codes ---- */

static double dot(const float *a, const float *b, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++)
        s += (double)a[i] * b[i];
    return s;
}

static unsigned quarter_begin(unsigned i)
{
    return i * CODE / 4;
}

/* A random code of norm 1, each quarter of norm ½ (so that --hard can build codes from quarters). A sum of
 * twelve uniform numbers is normal enough, and the same on every machine. */
static void draw_code(uint64_t *rng, float *c)
{
    for (unsigned i = 0; i < 4; i++) {
        unsigned b = quarter_begin(i), n = quarter_begin(i + 1) - b;
        for (unsigned d = b; d < b + n; d++) {
            double s = -6;
            for (int j = 0; j < 12; j++)
                s += recall_unit(rng);
            c[d] = (float)s;
        }
        float scale = (float)(0.5 / sqrt(dot(c + b, c + b, n)));
        for (unsigned d = b; d < b + n; d++)
            c[d] *= scale;
    }
}

/* Appends to set (of *n) a code that keeps its distance from those in it. */
static const float *draw_apart(uint64_t *rng, float (*set)[CODE], size_t *n)
{
    float *c = set[*n];
    size_t i;
    do {
        draw_code(rng, c);
        for (i = 0; i < *n && dot(c, set[i], CODE) <= apart; i++)
            ;
    } while (i < *n);
    ++*n;
    return c;
}

static bool is_said(const struct recall_vocab *v, size_t id)
{
    enum recall_role r = v->pieces[id].role;
    return id == RECALL_ID_EOS || (r != RECALL_OTHER && r != RECALL_IS);
}

/* What tells a relation from another is one sign a dim; "is" has none but plus. */
static void draw_signs(uint64_t *rng, bool all_plus, float *c)
{
    for (unsigned i = 0; i < 4; i++) {
        unsigned b = quarter_begin(i), e = quarter_begin(i + 1);
        for (unsigned d = b; d < e; d++)
            c[d] = (all_plus || recall_below(rng, 2) ? 0.5f : -0.5f) / sqrtf((float)(e - b));
    }
}

static bool is_first_relation(const struct recall_piece *p)
{
    const char *text = recall_relations[0];
    size_t len = strlen(p->text), n = strlen(text);
    return len > n && strcmp(p->text + len - n, text) == 0;
}

/* Names and numbers are found by what they are said by: an answer may be the name in the next question. */
static int draw_codes(struct model *m, const struct recall_opts *o)
{
    uint64_t rng = o->seed;
    size_t n_out = 0;
    float(*outs)[CODE] = calloc(m->c.vocab.n, sizeof *outs);
    if (!outs)
        return -ENOMEM;
    for (size_t id = 0; id < m->c.vocab.n; id++) {
        const struct recall_piece *p = &m->c.vocab.pieces[id];
        if (is_said(&m->c.vocab, id))
            memcpy(m->out[id], draw_apart(&rng, outs, &n_out), sizeof *m->out);
        if (p->role == RECALL_NAME || p->role == RECALL_HEAD || p->role == RECALL_TAIL)
            memcpy(m->code[id], m->out[id], sizeof *m->code);
        else if (p->role == RECALL_IS)
            draw_signs(&rng, is_first_relation(p), m->code[id]);
        else if (o->hard)
            draw_code(&rng, m->code[id]);
    }
    free(outs);
    return 0;
}

/* ---- embedding and output ---- */

static enum flag flag_of(enum recall_role r)
{
    switch (r) {
    case RECALL_IS:
        return FLAG_IS;
    case RECALL_NAME:
        return FLAG_NAME;
    case RECALL_HEAD:
        return FLAG_HEAD;
    case RECALL_TAIL:
        return FLAG_TAIL;
    default:
        return FLAG_OTHER;
    }
}

/* The token that usually follows id, or UNK if none: running text is given some sense, a sentence starts
 * after BOS, a value (of digits or a name) ends in a full stop, and that ends the answer. */
static size_t successor(const struct recall_vocab *v, size_t id, uint64_t *rng)
{
    static const char after[] = "SA OD DA AN NV VD IP PD RV CD FP"; /* pairs of classes */
    const struct recall_piece *p = &v->pieces[id];
    if (p->role == RECALL_STOP)
        return RECALL_ID_EOS;
    char want = 0;
    if (p->role == RECALL_WORD) {
        for (const char *pair = after; *pair && !want; pair += pair[2] ? 3 : 2)
            want = pair[0] == p->word_class ? pair[1] : 0;
    } else if (id == RECALL_ID_BOS || id == RECALL_ID_EOS) {
        want = RECALL_START;
    } else if (p->role != RECALL_TAIL && p->role != RECALL_NAME) {
        return RECALL_ID_UNK;
    }
    size_t start = recall_below(rng, (uint32_t)v->n);
    for (size_t i = 0; i < v->n; i++) {
        size_t next = (start + i) % v->n;
        const struct recall_piece *q = &v->pieces[next];
        if (want ? q->role == RECALL_WORD && q->word_class == want : q->role == RECALL_STOP)
            return next;
    }
    assert(!"every class has words");
    return RECALL_ID_UNK;
}

static void make_embedding(struct model *m, uint64_t seed)
{
    uint64_t rng = ~seed;
    for (size_t id = 0; id < m->c.vocab.n; id++) {
        float *e = m->c.embed + id * DIM, *out = m->c.output + id * DIM;
        const float *next = m->out[successor(&m->c.vocab, id, &rng)];
        memcpy(e + CUR, m->code[id], sizeof *m->code);
        e[CUR + CODE + flag_of(m->c.vocab.pieces[id].role)] = 1;
        e[ONE] = 1;
        for (unsigned d = 0; d < CODE; d++) {
            e[NEXT + d] = habit * next[d];
            out[NEXT + d] = logit * m->out[id][d];
        }
        e[BALANCE] = (float)sqrt(DIM - dot(e, e, DIM)); /* RMS 1 */
    }
}

/* ---- layer 0: what came before ---- */

/* Keys say only where they are (a constant in the pairs that turn fastest), values what they are. A query is
 * the key's vector turned back by `back` places, so it meets itself exactly there. */
static void make_previous_heads(struct constructed_layer *l)
{
    static const unsigned back[N_HEADS] = {1, 2, 3, 3}; /* the third is shared by two heads */
    for (unsigned h = 0; h < N_KV; h++) {
        for (unsigned p = 0; p < FAST_PAIRS; p++)
            l->k[(h * HEAD_DIM + 2 * p) * DIM + ONE] = sharp_k;
        for (unsigned d = 0; d < COPIED; d++)
            l->v[(h * HEAD_DIM + d) * DIM + CUR + d] = 1;
    }
    for (unsigned h = 0; h < N_HEADS; h++) {
        for (unsigned p = 0; p < FAST_PAIRS; p++) {
            double angle = back[h] * pow(rope_base, -(double)p / N_PAIRS);
            float *q = l->q + (h * HEAD_DIM + 2 * p) * DIM + ONE;
            q[0] = sharp_q * (float)cos(angle);
            q[DIM] = -sharp_q * (float)sin(angle);
        }
        for (unsigned d = 0; d < COPIED; d++)
            l->o[(PREV + (back[h] - 1) * COPIED + d) * DIM + h * HEAD_DIM + d] = back[h] == 3 ? 0.5f : 1;
    }
}

/* ---- feed-forward 0: frames ---- */

struct frame {
    unsigned needed; /* flags of these dims, all of them */
    unsigned flags[N_PREV + 1];
    unsigned relation; /* where the relation's signs are then, */
    unsigned name;     /* and the name's code */
    unsigned to;       /* where the name's code shall go, with these signs */
};

#define FLAG_AT(back, flag) ((back)*COPIED + CODE + (flag)) /* CUR, PREV …: `back` places ago */
#define CODE_AT(back) ((back)*COPIED)
static const struct frame frames[] = {
    {3, {FLAG_AT(2, FLAG_NAME), FLAG_AT(1, FLAG_IS), FLAG_AT(0, FLAG_HEAD)}, CODE_AT(1), CODE_AT(2), FIRST},
    {4,
     {FLAG_AT(3, FLAG_NAME), FLAG_AT(2, FLAG_IS), FLAG_AT(1, FLAG_HEAD), FLAG_AT(0, FLAG_TAIL)},
     CODE_AT(2),
     CODE_AT(3),
     SECOND},
    {2, {FLAG_AT(1, FLAG_NAME), FLAG_AT(0, FLAG_IS)}, CODE_AT(0), CODE_AT(1), ASK},
    {3, {FLAG_AT(2, FLAG_NAME), FLAG_AT(1, FLAG_IS), FLAG_AT(0, FLAG_NAME)}, CODE_AT(1), CODE_AT(2), FILL},
};

/* One hidden unit: gate = scale · Σ weight of the n dims in `on` − scale · threshold; up = dim `from`, added
 * to `to`. Returns its gate's row. */
static float *add_unit(struct model *m, uint32_t *unit, const unsigned *on, unsigned n, float scale,
                       float threshold, unsigned from, unsigned to, float weight)
{
    struct constructed_layer *l = &m->c.layer[0];
    assert(*unit < m->c.shape.ff);
    float *g = l->gate + *unit * DIM;
    for (unsigned i = 0; i < n; i++)
        g[on[i]] = scale;
    g[ONE] = -scale * threshold;
    l->up[*unit * DIM + from] = 1;
    l->down[to * m->c.shape.ff + *unit] = weight;
    ++*unit;
    return g;
}

/* Dim d of a frame's code: one unit for each sign that the relation may have there. A flag counts as much as
 * four signs, so that no other token's code in the relation's place makes up for its flag. */
static void add_frame_dim(struct model *m, uint32_t *unit, const struct frame *f, unsigned d)
{
    unsigned quarter = 0;
    while (quarter_begin(quarter + 1) <= d)
        quarter++;
    float one = 2 * sqrtf((float)(quarter_begin(quarter + 1) - quarter_begin(quarter)));
    for (int sign = 1; sign >= -1; sign -= 2) {
        float *g = add_unit(m, unit, f->flags, f->needed, 4 * gate, (float)f->needed + 0.125f, f->name + d,
                            f->to + d, (float)sign * 2 / gate);
        g[f->relation + d] = (float)sign * gate * one;
    }
}

/* --hard: where not all `needed` flags of `on` are there, a code made of a quarter of each of the last four
 * tokens' codes: its norm is a name's, its direction hardly ever returns. With u flags missing, min(u, 1) is
 * the difference of two gates. `turn` makes the two KV heads' codes differ. */
static void add_fill(struct model *m, uint32_t *unit, const unsigned *on, unsigned n, unsigned needed,
                     unsigned to, unsigned turn)
{
    for (unsigned i = 0; i < 4; i++) {
        for (unsigned d = quarter_begin(i); d < quarter_begin(i + 1); d++) {
            unsigned from = CODE_AT((i + turn) % 4) + d;
            add_unit(m, unit, on, n, -gate, (float)needed, from, to + d, 1 / gate);
            add_unit(m, unit, on, n, -gate, (float)needed - 1, from, to + d, -1 / gate);
        }
    }
}

static void make_frames(struct model *m, bool hard)
{
    /* Of a value's first half and a name one at most is in a place: both together are one flag. */
    static const unsigned value[] = {FLAG_AT(2, FLAG_NAME), FLAG_AT(1, FLAG_IS), FLAG_AT(0, FLAG_HEAD),
                                     FLAG_AT(0, FLAG_NAME)};
    uint32_t unit = 0;
    for (size_t i = 0; i < sizeof frames / sizeof *frames; i++) {
        for (unsigned d = 0; d < CODE; d++)
            add_frame_dim(m, &unit, &frames[i], d);
    }
    if (hard) {
        add_fill(m, &unit, value, 4, 3, FILL, 0);
        add_fill(m, &unit, frames[1].flags, 4, 4, SECOND, 2);
    }
}

/* ---- layer 1: matching ---- */

/* KV head 0 leads from "<name> is" to the value's first half, KV head 1 from there to the second. */
static void make_matching_heads(struct constructed_layer *l)
{
    for (unsigned d = 0; d < CODE; d++) {
        unsigned row = HEAD_DIM - CODE + d; /* the slowest pairs */
        l->k[row * DIM + FIRST + d] = match_k;
        l->k[row * DIM + FILL + d] = match_k;
        l->k[(HEAD_DIM + row) * DIM + SECOND + d] = match_k;
        for (unsigned h = 0; h < N_HEADS; h++) {
            l->q[(h * HEAD_DIM + row) * DIM + (h < 2 ? ASK : FIRST) + d] = match_q;
            l->o[(NEXT + d) * DIM + h * HEAD_DIM + d] = recalled / 2;
        }
        for (unsigned h = 0; h < N_KV; h++)
            l->v[(h * HEAD_DIM + d) * DIM + CUR + d] = 1;
    }
}

/* ---- the file ---- */

int recall_model_write(const char *path, const struct recall_opts *o, struct skv_error *err)
{
    const struct constructed_shape shape = {
        .name = o->hard ? "scoutkv recall (hard)" : "scoutkv recall",
        .n_layers = 2,
        .dim = DIM,
        .ff = o->hard ? FF_HARD : FF_PLAIN,
        .n_heads = N_HEADS,
        .n_kv = N_KV,
        .head_dim = HEAD_DIM,
        .rope_base = (float)rope_base,
    };
    struct model m = {0};
    int rc = constructed_open(&m.c, &shape);
    m.code = calloc(m.c.vocab.n, sizeof *m.code);
    m.out = calloc(m.c.vocab.n, sizeof *m.out);
    if (rc == 0)
        rc = m.code && m.out ? draw_codes(&m, o) : -ENOMEM;
    if (rc < 0) {
        skv_fail(err, rc, "no memory to construct the recall model");
        goto cleanup;
    }
    make_embedding(&m, o->seed);
    make_previous_heads(&m.c.layer[0]);
    make_frames(&m, o->hard);
    make_matching_heads(&m.c.layer[1]);
    rc = constructed_save(&m.c, path, err);
cleanup:
    constructed_free(&m.c);
    free(m.code);
    free(m.out);
    return rc;
}
