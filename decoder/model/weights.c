/* weights.c: see weights.h. */
#include "decoder/model/weights.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "decoder/model/quant.h"

enum { SPREAD_FLOATS = 16 << 20 }; /* models up to 64 MiB of f32 in their layers keep a copy */

struct loader {
    struct model *m;
    size_t n_read; /* tensors found so far: all of the file's must be */
    struct skv_error *err;
};

static int wrong_shape(struct loader *l, const struct gguf_tensor *t, uint32_t cols, uint32_t rows)
{
    char has[100];
    int n = 0;
    for (uint32_t i = 0; i < t->n_dims; i++)
        n += snprintf(has + n, sizeof has - (size_t)n, "%s%" PRIu64, i ? " x " : "", t->ne[i]);
    return skv_fail(
        l->err, -EINVAL,
        "%s: tensor %.*s is %s, but its metadata asks for %u x %u; the file is damaged or of another "
        "architecture",
        gguf_path(l->m->gguf), (int)t->name.len, t->name.data, has, cols, rows);
}

static int find(struct loader *l, const char *name, const struct gguf_tensor **t)
{
    int rc = gguf_tensor_need(l->m->gguf, name, t, l->err);
    l->n_read += rc == 0;
    return rc;
}

/* A matrix of `rows` rows; with rows == 0 their number is taken from the file. */
static int load_matrix(struct loader *l, const char *name, uint32_t rows, uint32_t cols, struct matrix *w)
{
    const struct gguf_tensor *t;
    int rc = find(l, name, &t);
    if (rc)
        return rc;
    if (rows == 0 && t->ne[1] <= INT32_MAX)
        rows = (uint32_t)t->ne[1];
    if (t->n_dims > 2 || t->ne[0] != cols || t->ne[1] != rows || rows == 0)
        return wrong_shape(l, t, cols, rows);
    assert(t->nbytes == t->row_bytes * rows);
    *w = (struct matrix){t->data, t->row_bytes, t->type, rows, cols, t->type == GGML_F32 ? t->data : NULL};
    return 0;
}

static int load_vector(struct loader *l, const char *name, uint32_t n, const float **v)
{
    const struct gguf_tensor *t;
    int rc = find(l, name, &t);
    if (rc)
        return rc;
    if (t->n_dims != 1 || t->ne[0] != n)
        return wrong_shape(l, t, n, 1);
    if (t->type != GGML_F32)
        return skv_fail(l->err, -EINVAL, "%s: tensor %s is %s; norms, biases and rope_freqs must be F32",
                        gguf_path(l->m->gguf), name, ggml_type_name(t->type));
    *v = t->data;
    return 0;
}

static bool has(const struct loader *l, const char *name)
{
    return gguf_tensor_find(l->m->gguf, name) != NULL;
}

static int load_layer(struct loader *l, uint32_t layer, struct layer_weights *w)
{
    const struct model_params *p = &l->m->params;
    uint32_t q = p->n_heads * p->d_k, k = p->n_kv_heads * p->d_k, v = p->n_kv_heads * p->d_v,
             o = p->n_heads * p->d_v;
    const struct {
        const char *name;
        uint32_t rows, cols;
        struct matrix *to;
    } matrices[] = {
        {"attn_q", q, p->dim, &w->q},          {"attn_k", k, p->dim, &w->k},
        {"attn_v", v, p->dim, &w->v},          {"attn_output", p->dim, o, &w->o},
        {"ffn_gate", p->ff, p->dim, &w->gate}, {"ffn_up", p->ff, p->dim, &w->up},
        {"ffn_down", p->dim, p->ff, &w->down},
    };
    const struct {
        const char *name;
        uint32_t n;
        const float **to;
        bool optional;
    } vectors[] = {
        {"attn_norm.weight", p->dim, &w->attn_norm, false},
        {"ffn_norm.weight", p->dim, &w->ffn_norm, false},
        {"attn_q.bias", q, &w->q_bias, p->arch == MODEL_LLAMA},
        {"attn_k.bias", k, &w->k_bias, p->arch == MODEL_LLAMA},
        {"attn_v.bias", v, &w->v_bias, p->arch == MODEL_LLAMA},
    };
    char name[64];
    int rc = 0;
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices && rc == 0; i++) {
        snprintf(name, sizeof name, "blk.%u.%s.weight", layer, matrices[i].name);
        rc = load_matrix(l, name, matrices[i].rows, matrices[i].cols, matrices[i].to);
    }
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors && rc == 0; i++) {
        snprintf(name, sizeof name, "blk.%u.%s", layer, vectors[i].name);
        if (!vectors[i].optional || has(l, name))
            rc = load_vector(l, name, vectors[i].n, vectors[i].to);
    }
    return rc;
}

/* Pair i turns by base^(-i / pairs) a position, divided by the file's own factor for the pair where it has
 * some. */
static int load_rope(struct loader *l)
{
    const struct model_params *p = &l->m->params;
    const float *divisor = NULL;
    if (has(l, "rope_freqs.weight")) {
        int rc = load_vector(l, "rope_freqs.weight", p->rope_pairs, &divisor);
        if (rc)
            return rc;
    }
    l->m->rope_freq = calloc(p->rope_pairs, sizeof *l->m->rope_freq);
    if (!l->m->rope_freq)
        return skv_fail(l->err, -ENOMEM, "out of memory for %u rotary frequencies", p->rope_pairs);
    for (uint32_t i = 0; i < p->rope_pairs; i++) {
        double freq = pow(p->rope_base, -(double)i / p->rope_pairs) / p->rope_factor;
        l->m->rope_freq[i] = freq / (divisor ? (double)divisor[i] : 1.0);
        if (!isfinite(l->m->rope_freq[i]))
            return skv_fail(l->err, -EINVAL, "%s: rope_freqs.weight[%u] gives no finite frequency",
                            gguf_path(l->m->gguf), i);
    }
    return 0;
}

/* The name of every tensor that load_* asked for is known; one that is none of them would be left out
 * silently. */
static int refuse_unread(struct loader *l)
{
    static const char *const known[] = {
        "attn_norm.weight",   "ffn_norm.weight", "attn_q.weight", "attn_k.weight",
        "attn_v.weight",      "attn_q.bias",     "attn_k.bias",   "attn_v.bias",
        "attn_output.weight", "ffn_gate.weight", "ffn_up.weight", "ffn_down.weight",
    };
    const struct model *m = l->m;
    for (size_t i = 0; i < gguf_n_tensors(m->gguf); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(m->gguf, i);
        char name[80];
        unsigned layer;
        int skip = 0;
        snprintf(name, sizeof name, "%.*s", (int)(t->name.len < 79 ? t->name.len : 79), t->name.data);
        bool read = gguf_str_is(t->name, "token_embd.weight") || gguf_str_is(t->name, "output.weight") ||
                    gguf_str_is(t->name, "output_norm.weight") || gguf_str_is(t->name, "rope_freqs.weight");
        if (sscanf(name, "blk.%5u.%n", &layer, &skip) == 1 && skip && layer < m->params.n_layers)
            for (size_t j = 0; j < sizeof known / sizeof *known; j++)
                read |= strcmp(name + skip, known[j]) == 0;
        if (!read)
            return skv_fail(l->err, -ENOTSUP,
                            "%s: tensor %s is no part of a %s model of %u layers as this engine knows it",
                            gguf_path(m->gguf), name, model_arch_name(m->params.arch), m->params.n_layers);
    }
    return 0;
}

int weights_load(struct model *m, struct skv_error *err)
{
    struct loader l = {.m = m, .err = err};
    struct model_params *p = &m->params;
    m->layers = calloc(p->n_layers, sizeof *m->layers);
    if (!m->layers)
        return skv_fail(err, -ENOMEM, "out of memory for %u layers", p->n_layers);
    int rc = load_matrix(&l, "token_embd.weight", 0, p->dim, &m->embedding);
    p->vocab = m->embedding.rows;
    if (rc == 0)
        rc = load_vector(&l, "output_norm.weight", p->dim, &m->output_norm);
    if (rc == 0 && has(&l, "output.weight"))
        rc = load_matrix(&l, "output.weight", p->vocab, p->dim, &m->output);
    else
        m->output = m->embedding;
    for (uint32_t i = 0; i < p->n_layers && rc == 0; i++)
        rc = load_layer(&l, i, &m->layers[i]);
    if (rc == 0)
        rc = load_rope(&l);
    if (rc == 0 && l.n_read != gguf_n_tensors(m->gguf))
        rc = refuse_unread(&l);
    return rc;
}

int weights_spread(struct model *m, struct skv_error *err)
{
    enum { PER_LAYER = 7 };
    size_t total = 0, at = 0;
    for (int pass = 0; pass < 2; pass++)
        for (uint32_t i = 0; i < m->params.n_layers; i++) {
            struct layer_weights *w = &m->layers[i];
            struct matrix *all[PER_LAYER] = {&w->q, &w->k, &w->v, &w->o, &w->gate, &w->up, &w->down};
            for (unsigned j = 0; j < PER_LAYER; j++) {
                size_t n = (size_t)all[j]->rows * all[j]->cols;
                if (pass == 0 && (total += all[j]->f32 ? 0 : n) > SPREAD_FLOATS)
                    return 0;
                if (pass == 0 || all[j]->f32)
                    continue;
                if (!m->spread && !(m->spread = malloc(total * sizeof *m->spread)))
                    return skv_fail(err, -ENOMEM, "out of memory for %zu weights", total);
                for (uint32_t r = 0; r < all[j]->rows; r++)
                    matrix_row(all[j], r, m->spread + at + (size_t)r * all[j]->cols);
                all[j]->f32 = m->spread + at;
                at += n;
            }
        }
    assert(at == total);
    return 0;
}
