/* test_recall.c: the constructed recall model.
 *
 * The model is run by a plain float64 llama of this file's own, which reads the written GGUF and knows
 * nothing of the construction but that its matrices are mostly zeros; keys and values are rounded to f16 as
 * an engine would. A million tokens of distance are made by positions alone: the text at 0, the question at
 * 2^20. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <math.h>
#include <cmocka.h>

#include "decoder/kernels/kernels.h"
#include "decoder/model/recall_model.h"
#include "decoder/model/recall_text.h"
#include "decoder/model/recall_vocab.h"
#include "decoder/model/tokenizer.h"

enum { DIM = 256, HD = 64, HEADS = 4, KV = 2, LAYERS = 2, MAX_FF = 320, PAGE = 16 };
static const uint64_t far_away = 1u << 20;
static const double ln_million = 13.8;

/* ---- a float64 llama ---- */

struct sparse { /* a matrix's nonzero entries, row by row */
    size_t n_rows;
    size_t *begin; /* [n_rows + 1] */
    uint16_t *col;
    float *val;
};

struct peak {
    size_t at;           /* the cached token with the best score */
    double best, second; /* scores */
};

struct llama {
    struct gguf *file;
    struct tokenizer *tok;
    const float *embed;
    uint32_t n_vocab, n_ff;
    float eps, base;
    struct sparse q[LAYERS], k[LAYERS], v[LAYERS], o[LAYERS], gate[LAYERS], up[LAYERS], down[LAYERS], out;
    size_t n, cap;
    double *keys[LAYERS], *values[LAYERS]; /* [cap][KV * HD], keys after RoPE */
    size_t near;                           /* attend to this many newest only; 0: to all */
    struct peak peak[LAYERS][HEADS];       /* of the last token */
    double *logits;                        /* [n_vocab] of the last token */
};

static void *grab(size_t n, size_t size)
{
    void *p = calloc(n, size);
    assert_non_null(p);
    return p;
}

static const struct gguf_tensor *need(const struct gguf *g, const char *name)
{
    const struct gguf_tensor *t = gguf_tensor_find(g, name);
    assert_non_null(t);
    assert_true(t->type == GGML_F32 || t->type == GGML_F16);
    return t;
}

static struct sparse load_sparse(const struct gguf *g, const char *name)
{
    const struct gguf_tensor *t = need(g, name);
    const size_t all = t->ne[0] * t->ne[1];
    float *wide = t->type == GGML_F16 ? grab(all, sizeof *wide) : NULL;
    const float *w = wide ? wide : t->data;
    if (wide)
        kernels_get()->f16_to_f32(all, t->data, wide);
    struct sparse s = {.n_rows = t->ne[1], .begin = grab(t->ne[1] + 1, sizeof *s.begin)};
    size_t n = 0;
    for (size_t i = 0; i < all; i++)
        n += w[i] != 0;
    s.col = grab(n + 1, sizeof *s.col);
    s.val = grab(n + 1, sizeof *s.val);
    n = 0;
    for (size_t r = 0; r < s.n_rows; r++) {
        for (size_t c = 0; c < t->ne[0]; c++) {
            float x = w[r * t->ne[0] + c];
            if (x == 0)
                continue;
            s.col[n] = (uint16_t)c;
            s.val[n++] = x;
        }
        s.begin[r + 1] = n;
    }
    free(wide);
    return s;
}

static void free_sparse(struct sparse *s)
{
    free(s->begin);
    free(s->col);
    free(s->val);
}

static void apply(const struct sparse *s, const double *x, double *y)
{
    for (size_t r = 0; r < s->n_rows; r++) {
        y[r] = 0;
        for (size_t i = s->begin[r]; i < s->begin[r + 1]; i++)
            y[r] += (double)s->val[i] * x[s->col[i]];
    }
}

static struct sparse *matrices(struct llama *m, unsigned layer, unsigned i, const char **name)
{
    static const char *const names[] = {"attn_q",   "attn_k", "attn_v",  "attn_output",
                                        "ffn_gate", "ffn_up", "ffn_down"};
    struct sparse *const all[] = {&m->q[layer],    &m->k[layer],  &m->v[layer],   &m->o[layer],
                                  &m->gate[layer], &m->up[layer], &m->down[layer]};
    *name = i < 7 ? names[i] : NULL;
    return i < 7 ? all[i] : NULL;
}

static void llama_close(struct llama *m)
{
    const char *name;
    for (unsigned l = 0; l < LAYERS; l++) {
        for (unsigned i = 0; i < 7; i++)
            free_sparse(matrices(m, l, i, &name));
        free(m->keys[l]);
        free(m->values[l]);
    }
    free_sparse(&m->out);
    free(m->logits);
    tokenizer_free(m->tok);
    gguf_close(m->file);
}

/* Constructs a model, writes it, and opens what was written; room for cap tokens. */
static struct llama llama_open(uint64_t seed, bool hard, size_t cap)
{
    struct skv_error err = {0};
    const char *dir = getenv("TMPDIR");
    char path[4096], full[96];
    snprintf(path, sizeof path, "%s/test_recall-XXXXXX", dir ? dir : "/tmp");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    if (recall_model_write(path, &(struct recall_opts){.seed = seed, .hard = hard}, &err) < 0)
        fail_msg("%s", err.text);
    struct llama m = {.cap = cap};
    if (gguf_open(path, &m.file, &err) < 0 || tokenizer_from_gguf(m.file, &m.tok, &err) < 0)
        fail_msg("%s", err.text);
    unlink(path);
    m.embed = need(m.file, "token_embd.weight")->data;
    m.n_vocab = (uint32_t)need(m.file, "token_embd.weight")->ne[1];
    m.out = load_sparse(m.file, "output.weight");
    m.logits = grab(m.n_vocab, sizeof *m.logits);
    gguf_u32(m.file, "llama.feed_forward_length", GGUF_NEED, &m.n_ff, &err);
    gguf_f32(m.file, "llama.attention.layer_norm_rms_epsilon", GGUF_NEED, &m.eps, &err);
    gguf_f32(m.file, "llama.rope.freq_base", GGUF_NEED, &m.base, &err);
    assert_true(m.n_ff <= MAX_FF && m.base > 1);
    for (unsigned l = 0; l < LAYERS; l++) {
        const char *name;
        struct sparse *s;
        for (unsigned i = 0; (s = matrices(&m, l, i, &name)); i++) {
            snprintf(full, sizeof full, "blk.%u.%s.weight", l, name);
            *s = load_sparse(m.file, full);
        }
        m.keys[l] = grab(cap * KV * HD, sizeof(double));
        m.values[l] = grab(cap * KV * HD, sizeof(double));
    }
    return m;
}

static void normalise(const double *x, double eps, double *y) /* all norm weights are 1 */
{
    double s = 0;
    for (unsigned d = 0; d < DIM; d++)
        s += x[d] * x[d];
    s = 1 / sqrt(s / DIM + eps);
    for (unsigned d = 0; d < DIM; d++)
        y[d] = x[d] * s;
}

static void rotate(double *x, size_t n_heads, double pos, double base)
{
    for (unsigned p = 0; p < HD / 2; p++) {
        double angle = pos * pow(base, -2.0 * p / HD), c = cos(angle), s = sin(angle);
        for (size_t h = 0; h < n_heads; h++) {
            double *v = x + h * HD + 2 * p, a = v[0], b = v[1];
            v[0] = a * c - b * s;
            v[1] = a * s + b * c;
        }
    }
}

static double to_f16(double x) /* normal numbers to 11 bits, the rest to multiples of 2^-24 */
{
    int e;
    frexp(x, &e);
    double ulp = ldexp(1, e < -13 ? -24 : e - 11);
    return nearbyint(x / ulp) * ulp;
}

static void attend(struct llama *m, unsigned l, const double *q, double *out)
{
    static double score[1 << 16];
    unsigned used[HD];
    size_t first = m->near && m->n > m->near ? m->n - m->near : 0;
    for (unsigned h = 0; h < HEADS; h++) {
        const double *keys = m->keys[l] + h / (HEADS / KV) * HD;
        const double *values = m->values[l] + h / (HEADS / KV) * HD;
        struct peak *top = &m->peak[l][h];
        *top = (struct peak){0, -INFINITY, -INFINITY};
        unsigned n_used = 0;
        for (unsigned d = 0; d < HD; d++) {
            if (q[h * HD + d] != 0)
                used[n_used++] = d;
            out[h * HD + d] = 0;
        }
        for (size_t t = first; t < m->n; t++) {
            double s = 0;
            for (unsigned i = 0; i < n_used; i++)
                s += q[h * HD + used[i]] * keys[t * KV * HD + used[i]];
            score[t] = s / sqrt(HD);
            if (score[t] > top->best)
                *top = (struct peak){t, score[t], top->best};
            else if (score[t] > top->second)
                top->second = score[t];
        }
        double sum = 0;
        for (size_t t = first; t < m->n; t++) {
            double w = exp(score[t] - top->best);
            sum += w;
            for (unsigned d = 0; w > 1e-30 && d < HD; d++)
                out[h * HD + d] += w * values[t * KV * HD + d];
        }
        for (unsigned d = 0; d < HD; d++)
            out[h * HD + d] /= sum;
    }
}

/* One token at a position; appends its keys and values; fills logits if `say`. */
static void step(struct llama *m, uint32_t id, uint64_t pos, bool say)
{
    double x[DIM], y[DIM], q[HEADS * HD], a[HEADS * HD], gate[MAX_FF], up[MAX_FF];
    assert_true(m->n < m->cap && m->n < (1 << 16) && id < m->n_vocab);
    size_t t = m->n++;
    for (unsigned d = 0; d < DIM; d++)
        x[d] = m->embed[(size_t)id * DIM + d];
    for (unsigned l = 0; l < LAYERS; l++) {
        double *k = m->keys[l] + t * KV * HD, *v = m->values[l] + t * KV * HD;
        normalise(x, m->eps, y);
        apply(&m->q[l], y, q);
        apply(&m->k[l], y, k);
        apply(&m->v[l], y, v);
        rotate(q, HEADS, (double)pos, m->base);
        rotate(k, KV, (double)pos, m->base);
        for (unsigned d = 0; d < KV * HD; d++) {
            k[d] = to_f16(k[d]);
            v[d] = to_f16(v[d]);
        }
        attend(m, l, q, a);
        apply(&m->o[l], a, y);
        for (unsigned d = 0; d < DIM; d++)
            x[d] += y[d];
        normalise(x, m->eps, y);
        apply(&m->gate[l], y, gate);
        apply(&m->up[l], y, up);
        for (unsigned u = 0; u < m->n_ff; u++)
            up[u] *= gate[u] / (1 + exp(-gate[u]));
        apply(&m->down[l], up, y);
        for (unsigned d = 0; d < DIM; d++)
            x[d] += y[d];
    }
    if (say) {
        normalise(x, m->eps, y);
        apply(&m->out, y, m->logits);
    }
}

static uint32_t best_token(const struct llama *m, double *margin)
{
    uint32_t best = 0;
    double second = -INFINITY;
    for (uint32_t i = 1; i < m->n_vocab; i++) {
        if (m->logits[i] > m->logits[best]) {
            second = m->logits[best];
            best = i;
        } else if (m->logits[i] > second) {
            second = m->logits[i];
        }
    }
    *margin = m->logits[best] - second;
    return best;
}

static size_t encode(const struct llama *m, const char *text, bool bos, uint32_t **ids)
{
    size_t n;
    struct skv_error err = {0};
    if (tokenizer_encode(m->tok, text, strlen(text), bos, false, ids, &n, &err) < 0)
        fail_msg("%s", err.text);
    return n;
}

static struct recall_text make_text(uint64_t seed, size_t n_tokens, size_t n_facts, size_t keep_last)
{
    struct recall_text t;
    struct skv_error err = {0};
    struct recall_text_opts o = {seed, n_tokens, n_facts, 16, keep_last, NULL};
    if (recall_text_make(&t, &o, &err) < 0)
        fail_msg("%s", err.text);
    return t;
}

static void read_text(struct llama *m, const struct recall_text *t)
{
    uint32_t *ids;
    size_t n = encode(m, t->text, true, &ids);
    assert_int_equal(n, t->n_tokens + 1);
    for (size_t i = 0; i < n; i++)
        step(m, ids[i], i, false);
    free(ids);
}

/* ---- recall ---- */

struct worst {
    double match, margin, logit; /* smallest score of a right key, its lead over the next, of the logits */
};

/* Asks for one fact at position pos; the answer has to be its value, a full stop and the end. */
static void ask(struct llama *m, const struct recall_fact *f, uint64_t pos, struct worst *w)
{
    char question[RECALL_QUESTION_MAX], said[32] = "", want[32];
    uint32_t *ids, id = 0;
    size_t n, kept = m->n, len = 0;
    recall_question(f, question);
    n = encode(m, question, false, &ids);
    assert_int_equal(n, 5);
    for (size_t i = 0; i < n; i++)
        step(m, ids[i], pos++, i + 1 == n);
    free(ids);
    for (int said_tokens = 0; said_tokens < 4; said_tokens++) {
        double margin;
        id = best_token(m, &margin);
        w->logit = fmin(w->logit, margin);
        if (said_tokens < (f->value[0] <= '9'
                               ? 2
                               : 1)) { /* token 6 and 7 of the fact's sentence, after BOS; one KV head each */
            const struct peak *p = &m->peak[1][said_tokens * 2];
            if (p->at != f->token + 6 + (size_t)said_tokens)
                fail_msg("%s: matched token %zu, not the fact at %zu", f->name, p->at, f->token + 1);
            w->match = fmin(w->match, p->best);
            w->margin = fmin(w->margin, p->best - p->second);
        }
        if (id == tokenizer_eos(m->tok))
            break;
        struct gguf_str piece = tokenizer_piece(m->tok, id, false);
        assert_true(len + piece.len < sizeof said);
        memcpy(said + len, piece.data, piece.len);
        len += piece.len;
        step(m, id, pos++, true);
    }
    snprintf(want, sizeof want, " %s.", f->value);
    if (strcmp(said, want) != 0 || id != tokenizer_eos(m->tok))
        fail_msg("asked for %s at %llu: said \"%s\", not \"%s\"", f->name, (unsigned long long)pos, said,
                 want);
    m->n = kept;
}

static void recall_text(uint64_t seed, bool hard, struct recall_text *t, double margin)
{
    struct llama m = llama_open(seed, hard, t->n_tokens + 16);
    struct worst w = {INFINITY, INFINITY, INFINITY};
    read_text(&m, t);
    for (size_t i = 0; i < t->n_facts; i++) {
        ask(&m, &t->facts[i], m.n, &w);
        ask(&m, &t->facts[i], far_away, &w);
    }
    printf("%s seed %llu: %zu of %zu right from behind and from 2^20; smallest match %.1f, margin %.1f, "
           "logit margin %.1f\n",
           hard ? "hard " : "plain", (unsigned long long)seed, t->n_facts, t->n_facts, w.match, w.margin,
           w.logit);
    assert_true(w.match > 100 && w.margin > margin && w.logit > 5);
    llama_close(&m);
    recall_text_free(t);
}

static void recalls_plain(void **state)
{
    (void)state;
    struct recall_text t = make_text(1, 2000, 64, 0);
    recall_text(1, false, &t, ln_million + 10);
}

/* With --hard, chance brings a token of other text nearer than any fact. */
/* Whether the model recalls does not depend on a sanitizer; what it reads and writes, one text shows. */
static void once_is_enough(void)
{
#ifdef __SANITIZE_ADDRESS__
    puts("SKIPPED: test_recall: whether the model recalls more texts does not depend on a sanitizer");
    skip();
#endif
}

static void recalls_hard(void **state)
{
    (void)state;
    once_is_enough();
    struct recall_text t = make_text(2, 2000, 64, 0);
    recall_text(2, true, &t, ln_million + 8);
}

/* Four values for each name, every other one a name: the next fact's, so that they are chains too. */
static struct recall_text make_chains(uint64_t seed)
{
    enum { FACTS = 64 };
    struct recall_plan plan[FACTS] = {0};
    struct recall_text_opts o = {.seed = seed, .n_tokens = 2000, .n_facts = FACTS, .plan = plan};
    struct recall_text t;
    struct skv_error err = {0};
    for (unsigned i = 0; i < FACTS; i++) {
        recall_name(i / RECALL_N_RELATIONS * 7, plan[i].name);
        plan[i].relation = i % RECALL_N_RELATIONS;
        plan[i].at = (double)i / FACTS;
        if (i % 2)
            recall_name((i / RECALL_N_RELATIONS + 1) * 7, plan[i].value);
        else
            snprintf(plan[i].value, sizeof plan[i].value, "%06u", 100000 + i * 1009);
    }
    if (recall_text_make(&t, &o, &err) < 0)
        fail_msg("%s", err.text);
    return t;
}

static void recalls_names_and_relations(void **state)
{
    (void)state;
    once_is_enough();
    struct recall_text plain = make_chains(3), hard = make_chains(4);
    recall_text(3, false, &plain, ln_million);
    recall_text(4, true, &hard, ln_million);
}

/* The cosine of any two names bounds what one of thousands of facts can score for another's question. */
static void names_stay_apart(void **state)
{
    (void)state;
    struct llama m = llama_open(3, false, 1);
    struct recall_vocab v;
    const float **code = grab(RECALL_N_NAMES, sizeof *code);
    size_t n = 0;
    double most = -1;
    assert_int_equal(recall_vocab_make(&v), 0);
    assert_int_equal(v.n, m.n_vocab);
    for (size_t i = 0; i < v.n; i++) {
        if (v.pieces[i].role == RECALL_NAME)
            code[n++] = m.embed + i * DIM;
    }
    assert_int_equal(n, RECALL_N_NAMES);
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < i; j++) {
            double c = 0;
            for (unsigned d = 0; d < 26; d++)
                c += (double)code[i][d] * code[j][d];
            most = fmax(most, c);
        }
    }
    printf("%zu names, largest cosine %.3f\n", n, most);
    assert_true(most < 0.61);
    free(code);
    recall_vocab_free(&v);
    llama_close(&m);
}

/* Layer 0's heads must see exactly one place, among all of the 2^20 that they may attend to. */
static void previous_heads_are_sharp(void **state)
{
    (void)state;
    static const int back[HEADS] = {1, 2, 3, 3};
    struct llama m = llama_open(4, false, 1);
    double x[DIM], y[DIM], q[HEADS * HD], k[KV * HD];
    for (unsigned d = 0; d < DIM; d++)
        x[d] = m.embed[1000 * DIM + d];
    normalise(x, m.eps, y);
    apply(&m.q[0], y, q);
    apply(&m.k[0], y, k);
    for (unsigned h = 0; h < HEADS; h++) {
        const double *kh = k + h / (HEADS / KV) * HD, *qh = q + h * HD;
        double turn[HD / 2][2], z[HD / 2][2], at_back = 0, others = -INFINITY, sum = 0;
        unsigned n = 0;                         /* pairs in use */
        for (unsigned p = 0; p < HD / 2; p++) { /* q·R(-i)k = Re(conj(q) k exp(-i angle)), a number a pair */
            double f = pow(m.base, -2.0 * p / HD);
            turn[n][0] = cos(f), turn[n][1] = -sin(f);
            z[n][0] = qh[2 * p] * kh[2 * p] + qh[2 * p + 1] * kh[2 * p + 1];
            z[n][1] = qh[2 * p] * kh[2 * p + 1] - qh[2 * p + 1] * kh[2 * p];
            n += z[n][0] != 0 || z[n][1] != 0;
        }
        for (uint64_t i = 0; i < far_away; i++) {
            double s = 0;
            for (unsigned p = 0; p < n; p++) {
                double re = z[p][0], im = z[p][1];
                s += re / sqrt(HD);
                z[p][0] = re * turn[p][0] - im * turn[p][1];
                z[p][1] = re * turn[p][1] + im * turn[p][0];
            }
            if (i == (uint64_t)back[h])
                at_back = s;
            else
                others = fmax(others, s), sum += exp(s - 300);
        }
        printf("head %u: %.1f at -%d, at most %.1f elsewhere, log of all the rest %.1f\n", h, at_back,
               back[h], others, log(sum) + 300);
        assert_true(at_back - (log(sum) + 300) > 20);
    }
    llama_close(&m);
}

/* ---- what representatives can find ---- */

/* Pages' estimated log masses for one query head: the mean of the keys, and n_out keys kept by themselves,
 * those farthest from the mean. */
static double page_score(const double *q, const double *keys, unsigned n_out)
{
    double centre[HD] = {0}, mass = 0, far[PAGE];
    bool alone[PAGE] = {false};
    for (unsigned t = 0; t < PAGE; t++) {
        for (unsigned d = 0; d < HD; d++)
            centre[d] += keys[t * KV * HD + d] / PAGE;
    }
    for (unsigned t = 0; t < PAGE; t++) {
        far[t] = 0;
        for (unsigned d = 0; d < HD; d++)
            far[t] += pow(keys[t * KV * HD + d] - centre[d], 2);
    }
    for (unsigned i = 0; i < n_out; i++) {
        unsigned best = PAGE;
        for (unsigned t = 0; t < PAGE; t++) {
            if (!alone[t] && (best == PAGE || far[t] > far[best]))
                best = t;
        }
        alone[best] = true;
    }
    double c = 0, rest = PAGE - n_out;
    for (unsigned t = 0; t < PAGE; t++) {
        double s = 0;
        for (unsigned d = 0; d < HD; d++)
            s += q[d] * keys[t * KV * HD + d] / sqrt(HD);
        if (alone[t])
            mass += exp(s);
        else
            c += s / rest;
    }
    return log(mass + rest * exp(c));
}

/* How many of the asked facts lie in the n_best pages of highest score; the query is the fact's own key,
 * which is where the question's query points. */
static unsigned found(const struct llama *m, const struct recall_text *t, unsigned n_out, unsigned n_best)
{
    unsigned n_found = 0;
    for (size_t i = 0; i < t->n_facts; i += 4) {
        size_t at = t->facts[i].token + 6, above = 0;
        double q[HD];
        for (unsigned d = 0; d < HD; d++)
            q[d] = m->keys[1][at * KV * HD + d] * 16;
        double own = page_score(q, m->keys[1] + at / PAGE * PAGE * KV * HD, n_out);
        for (size_t p = 0; p + PAGE <= m->n; p += PAGE)
            above += p != at / PAGE * PAGE && page_score(q, m->keys[1] + p * KV * HD, n_out) >= own;
        n_found += above < n_best;
    }
    return n_found;
}

static void show_representatives(bool hard, unsigned out[3])
{
    static const unsigned kept[3] = {0, 4, PAGE};
    struct recall_text t = make_text(5, 8192, 128, 512);
    struct llama m = llama_open(5, hard, t.n_tokens + 1);
    double least = INFINITY, most = 0;
    size_t n_large = 0;
    m.near = 8; /* layer 1's keys come from layer 0's three neighbours */
    read_text(&m, &t);
    for (size_t i = 4; i < m.n; i++) {
        double s = 0;
        for (unsigned d = 0; d < HD; d++)
            s += pow(m.keys[1][i * KV * HD + d], 2);
        n_large += s > 1;
        if (s > 1)
            least = fmin(least, sqrt(s)), most = fmax(most, sqrt(s));
    }
    for (unsigned i = 0; i < 3; i++)
        out[i] = found(&m, &t, kept[i], 4);
    printf(
        "%s: %zu of %zu matching keys are not 0, their norms %.3f to %.3f; of 32 facts' pages among the best "
        "4 of 512: %u by the centre, %u by centre and outliers, %u by all keys\n",
        hard ? "hard " : "plain", n_large, m.n - 4, least, most, out[0], out[1], out[2]);
    assert_true(most / least < 1.01);
    assert_true(hard ? n_large == m.n - 4 : n_large == t.n_facts);
    llama_close(&m);
    recall_text_free(&t);
}

static void representatives(void **state)
{
    (void)state;
    once_is_enough();
    unsigned plain[3], hard[3];
    show_representatives(false, plain);
    show_representatives(true, hard);
    assert_int_equal(plain[0], 32);
    assert_int_equal(plain[1], 32);
    assert_int_equal(hard[2], 32); /* exact scores find all: nothing is wrong with the keys */
    assert_true(hard[0] <= 24 && hard[1] <= 16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_stay_apart),
        cmocka_unit_test(previous_heads_are_sharp),
        cmocka_unit_test(recalls_plain),
        cmocka_unit_test(recalls_hard),
        cmocka_unit_test(recalls_names_and_relations),
        cmocka_unit_test(representatives),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
