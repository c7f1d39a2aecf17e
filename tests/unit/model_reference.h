/* model_reference.h: what a llama or qwen2 model computes, for tests: float64, one loop a line of the
 * formulas, with its own reading of the weight formats. Include after cmocka.h. */
#ifndef TESTS_MODEL_REFERENCE_H
#define TESTS_MODEL_REFERENCE_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decoder/model/gguf.h"
#include "decoder/model/random_model.h"

static inline double half_at(const uint8_t *p)
{
    unsigned h = p[0] | (unsigned)p[1] << 8, e = h >> 10 & 31, m = h & 1023;
    double x = e ? ldexp(1 + m / 1024.0, (int)e - 15) : ldexp(m, -24);
    return h >> 15 ? -x : x;
}

static inline double q4_k_at(const uint8_t *b, unsigned i)
{
    unsigned s = i / 32, scale, min;
    const uint8_t *packed = b + 4;
    if (s < 4) {
        scale = packed[s] % 64;
        min = packed[s + 4] % 64;
    } else {
        scale = packed[s + 4] % 16 + packed[s - 4] / 64 * 16;
        min = packed[s + 4] / 16 + packed[s] / 64 * 16;
    }
    unsigned byte = b[16 + i / 64 * 32 + i % 32], q = i % 64 < 32 ? byte % 16 : byte / 16;
    return half_at(b) * scale * q - half_at(b + 2) * min;
}

static inline double q6_k_at(const uint8_t *b, unsigned i)
{
    unsigned in_half = i % 128, low = b[i / 128 * 64 + in_half % 64], high = b[128 + i / 128 * 32 + i % 32];
    int q = (int)((in_half < 64 ? low % 16 : low / 16) + (high >> in_half / 32 * 2) % 4 * 16) - 32;
    return half_at(b + 208) * (int8_t)b[192 + i / 16] * q;
}

static inline double weight_at(const struct gguf_tensor *t, uint64_t row, uint32_t col)
{
    const uint8_t *r = (const uint8_t *)t->data + row * t->row_bytes;
    float f;
    uint32_t bits;
    switch (t->type) {
    case GGML_F32:
        memcpy(&f, r + 4 * (size_t)col, 4);
        return (double)f;
    case GGML_F16:
        return half_at(r + 2 * (size_t)col);
    case GGML_BF16:
        bits = (uint32_t)r[2 * (size_t)col] << 16 | (uint32_t)r[2 * (size_t)col + 1] << 24;
        memcpy(&f, &bits, 4);
        return (double)f;
    case GGML_Q8_0:
        r += col / 32 * 34;
        return half_at(r) * (int8_t)r[2 + col % 32];
    case GGML_Q4_0:
        r += col / 32 * 18;
        return half_at(r) * ((col % 32 < 16 ? r[2 + col % 16] % 16 : r[2 + col % 16] / 16) - 8);
    case GGML_Q4_K:
        return q4_k_at(r + col / 256 * 144, col % 256);
    case GGML_Q6_K:
        return q6_k_at(r + col / 256 * 210, col % 256);
    }
    fail_msg("the reference does not know type %u", t->type);
    return 0;
}

struct reference {
    struct random_model_opts o;
    const struct gguf *gguf;
    uint32_t n, n_rot;
    double factor;        /* of linear RoPE scaling */
    double eps;           /* of the norms; 0: 1e-5 */
    const float *divisor; /* of the pairs' frequencies, or NULL */
};

static inline const struct gguf_tensor *tensor(const struct reference *r, int layer, const char *name)
{
    char full[100];
    snprintf(full, sizeof full, layer < 0 ? "%.0d%s" : "blk.%d.%s", layer < 0 ? 0 : layer, name);
    const struct gguf_tensor *t = gguf_tensor_find(r->gguf, full);
    if (!t)
        fail_msg("the reference misses %s", full);
    return t;
}

/* y (n, rows) = x (n, cols)·Wᵀ + bias */
static inline double *product(const struct reference *r, const struct gguf_tensor *w,
                              const struct gguf_tensor *bias, const double *x)
{
    uint32_t cols = (uint32_t)w->ne[0];
    uint64_t rows = w->ne[1];
    double *y = calloc(r->n * rows, sizeof *y), *row = malloc(cols * sizeof *row);
    for (uint64_t i = 0; i < rows; i++) {
        for (uint32_t j = 0; j < cols; j++)
            row[j] = weight_at(w, i, j);
        for (uint32_t t = 0; t < r->n; t++) {
            double sum = bias ? weight_at(bias, 0, (uint32_t)i) : 0;
            for (uint32_t j = 0; j < cols; j++)
                sum += row[j] * x[t * (size_t)cols + j];
            y[t * rows + i] = sum;
        }
    }
    free(row);
    return y;
}

static inline double *normed(const struct reference *r, const struct gguf_tensor *w, const double *x)
{
    uint32_t dim = r->o.dim;
    double *y = malloc(r->n * dim * sizeof *y);
    for (uint32_t t = 0; t < r->n; t++) {
        double sum = 0;
        for (uint32_t i = 0; i < dim; i++)
            sum += x[t * dim + i] * x[t * dim + i];
        for (uint32_t i = 0; i < dim; i++)
            y[t * dim + i] = x[t * dim + i] / sqrt(sum / dim + (r->eps != 0 ? r->eps : (double)1e-5f)) *
                             weight_at(w, 0, i);
    }
    return y;
}

static inline void turn(const struct reference *r, uint32_t heads, uint32_t d, double *x)
{
    uint32_t pairs = r->n_rot / 2;
    for (uint32_t t = 0; t < r->n; t++)
        for (uint32_t h = 0; h < heads; h++)
            for (uint32_t i = 0; i < pairs; i++) {
                double angle = t * pow((double)r->o.rope_base, -2.0 * i / r->n_rot) / r->factor;
                angle /= r->divisor ? (double)r->divisor[i] : 1;
                double *head = x + ((size_t)t * heads + h) * d;
                double *a = head + (r->o.arch == MODEL_QWEN2 ? i : 2 * i);
                double *b = r->o.arch == MODEL_QWEN2 ? a + pairs : a + 1;
                double u = *a * cos(angle) - *b * sin(angle), v = *a * sin(angle) + *b * cos(angle);
                *a = u;
                *b = v;
            }
}

static inline double *attention(const struct reference *r, uint32_t d, const double *q, const double *k,
                                const double *v)
{
    uint32_t heads = r->o.n_heads, kv = r->o.n_kv_heads;
    double *out = calloc((size_t)r->n * heads * d, sizeof *out), *p = malloc(r->n * sizeof *p);
    for (uint32_t t = 0; t < r->n; t++)
        for (uint32_t h = 0; h < heads; h++) {
            uint32_t g = h / (heads / kv);
            double total = 0;
            for (uint32_t s = 0; s <= t; s++) {
                double dot = 0;
                for (uint32_t i = 0; i < d; i++)
                    dot += q[((size_t)t * heads + h) * d + i] * k[((size_t)s * kv + g) * d + i];
                total += p[s] = exp(dot / sqrt(d));
            }
            for (uint32_t s = 0; s <= t; s++)
                for (uint32_t i = 0; i < d; i++)
                    out[((size_t)t * heads + h) * d + i] += p[s] / total * v[((size_t)s * kv + g) * d + i];
        }
    free(p);
    return out;
}

static inline void add_to(const struct reference *r, double *x, double *delta)
{
    for (size_t i = 0; i < (size_t)r->n * r->o.dim; i++)
        x[i] += delta[i];
    free(delta);
}

static inline void reference_layer(const struct reference *r, int l, double *x)
{
    bool bias = r->o.arch == MODEL_QWEN2;
    uint32_t d = r->o.dim / r->o.n_heads;
    double *h = normed(r, tensor(r, l, "attn_norm.weight"), x);
    double *q = product(r, tensor(r, l, "attn_q.weight"), bias ? tensor(r, l, "attn_q.bias") : NULL, h);
    double *k = product(r, tensor(r, l, "attn_k.weight"), bias ? tensor(r, l, "attn_k.bias") : NULL, h);
    double *v = product(r, tensor(r, l, "attn_v.weight"), bias ? tensor(r, l, "attn_v.bias") : NULL, h);
    turn(r, r->o.n_heads, d, q);
    turn(r, r->o.n_kv_heads, d, k);
    double *a = attention(r, d, q, k, v);
    add_to(r, x, product(r, tensor(r, l, "attn_output.weight"), NULL, a));
    free(h);
    h = normed(r, tensor(r, l, "ffn_norm.weight"), x);
    double *gate = product(r, tensor(r, l, "ffn_gate.weight"), NULL, h);
    double *up = product(r, tensor(r, l, "ffn_up.weight"), NULL, h);
    for (size_t i = 0; i < (size_t)r->n * r->o.ff; i++)
        up[i] *= gate[i] / (1 + exp(-gate[i]));
    add_to(r, x, product(r, tensor(r, l, "ffn_down.weight"), NULL, up));
    free(h);
    free(q);
    free(k);
    free(v);
    free(a);
    free(gate);
    free(up);
}

/* Logits (n, vocab) as f32. */
static inline float *reference_logits(const struct reference *r, const uint32_t *ids)
{
    const struct gguf_tensor *embedding = tensor(r, -1, "token_embd.weight");
    double *x = malloc((size_t)r->n * r->o.dim * sizeof *x);
    for (uint32_t t = 0; t < r->n; t++)
        for (uint32_t i = 0; i < r->o.dim; i++)
            x[t * r->o.dim + i] = weight_at(embedding, ids[t], i);
    for (uint32_t l = 0; l < r->o.n_layers; l++)
        reference_layer(r, (int)l, x);
    double *h = normed(r, tensor(r, -1, "output_norm.weight"), x);
    double *y = product(r, r->o.tied ? embedding : tensor(r, -1, "output.weight"), NULL, h);
    float *logits = malloc((size_t)r->n * r->o.vocab * sizeof *logits);
    for (size_t i = 0; i < (size_t)r->n * r->o.vocab; i++)
        logits[i] = (float)y[i];
    free(x);
    free(h);
    free(y);
    return logits;
}

#endif
