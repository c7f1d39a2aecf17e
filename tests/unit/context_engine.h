/* context_engine.h: an engine for tests of scoutkv.h, whose q, k and v are noise that depends on place and
 * layer only. Header-only: each test is one program. */
#ifndef TESTS_CONTEXT_ENGINE_H
#define TESTS_CONTEXT_ENGINE_H

#include "decoder/scoutkv.h"

#include <stdlib.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#ifndef ENGINE_D2
#define ENGINE_D2 32 /* dims of layer 1's keys */
#endif
enum { LAYERS = 2, HEADS = 4, KV_HEADS = 2, D = 64, D_V = 32, VOCAB = 1000 };

static const struct skv_layer layers[LAYERS] = {
    {.d_k = D, .d_v = D_V, .n_heads = HEADS, .n_kv_heads = KV_HEADS, .scale = 0.125f},
    {.d_k = ENGINE_D2, .d_v = 48, .n_heads = 6, .n_kv_heads = 2, .scale = 0.2f},
};
static const struct skv_model model = {.n_layers = LAYERS, .layers = layers, .fingerprint = "synthetic"};

/* A deterministic float in about [-1.7, 1.7] for anything with a number. */
static inline float noise(uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t x =
        a * 0x9E3779B97F4A7C15u + b * 0xC2B2AE3D27D4EB4Fu + c * 0x165667B19E3779F9u + 0x27D4EB2F165667C5u;
    x ^= x >> 31;
    x *= 0x94D049BB133111EBu;
    x ^= x >> 29;
    x *= 0xBF58476D1CE4E5B9u;
    x ^= x >> 32;
    return ((float)(x & 0xffff) / 65536.0f - 0.5f) * 3.4f;
}

/* The text: tokens from part_at on are those of another one, if `other` is not 0. A model's keys depend on
 * what lower layers attended to: by `feedback` of it. One of `loud` blocks has longer keys, and so gets more
 * attention. */
static struct {
    uint64_t part_at, other;
    float feedback;
    unsigned loud; /* 0: none */
} text;

static inline uint64_t token_of(uint64_t t)
{
    return t + 1 + (t >= text.part_at ? text.other * 1000003 : 0);
}
static inline uint32_t id_of(uint64_t t)
{
    uint64_t x = token_of(t) - 1;
    return (uint32_t)((x * 7919 + x / 13) % VOCAB);
}
static inline float k_of(unsigned l, uint64_t t, unsigned i)
{
    return noise(token_of(t), l * 3 + 1, i) * (text.loud && t / SKV_BLOCK % text.loud == 0 ? 4.0f : 1.0f);
}
static inline float v_of(unsigned l, uint64_t t, unsigned i)
{
    return noise(token_of(t), l * 3 + 2, i);
}
static inline float q_of(unsigned l, uint64_t t, unsigned i)
{
    return noise(token_of(t), l * 3 + 3, i) * 2.0f;
}

static inline void check(int rc, const struct skv_error *err)
{
    if (rc)
        fail_msg("rc %d: %s", rc, err->text);
}

static inline skv_tier *open_tier(const char *nodes, unsigned threads)
{
    struct skv_error err = {0};
    skv_tier *t = NULL;
    check(skv_tier_open(&(struct skv_tier_opts){.nodes = nodes, .threads = threads, .ram = 256 << 20}, &t,
                        &err),
          &err);
    return t;
}

static inline struct skv_context_opts small_opts(void)
{
    struct skv_context_opts o;
    skv_context_defaults(&o);
    o.window = 128;
    o.decode.budget = 128;
    o.prefill.budget = 128;
    o.cache_bytes = 1 << 20;
    return o;
}

/* One pass of n tokens from position t on; outputs go into the digest and, if wanted, out[layer]. */
static inline int pass(skv_tier *t, skv_context *c, enum skv_mode mode, uint64_t at, unsigned n,
                       uint64_t *digest, float **out, struct skv_error *err)
{
    uint32_t *ids = malloc(n * sizeof *ids);
    for (unsigned i = 0; i < n; i++)
        ids[i] = id_of(at + i);
    int rc = skv_append(c, mode, n, ids, NULL, err);
    free(ids);
    float *below = NULL; /* what the layer below attended to */
    size_t n_below = 0;
    for (unsigned l = 0; l < LAYERS && rc == 0; l++) {
        const struct skv_layer *y = &layers[l];
        size_t nk = y->n_kv_heads * y->d_k, nv = y->n_kv_heads * y->d_v, nq = y->n_heads * y->d_k,
               no = y->n_heads * y->d_v;
        float *k = malloc(n * nk * 4), *v = malloc(n * nv * 4), *q = malloc(n * nq * 4),
              *o = malloc(n * no * 4);
        for (unsigned i = 0; i < n; i++) {
            for (unsigned j = 0; j < nk; j++)
                k[i * nk + j] =
                    k_of(l, at + i, j) + (below ? text.feedback * below[i * n_below + j % n_below] : 0.0f);
            for (unsigned j = 0; j < nv; j++)
                v[i * nv + j] = v_of(l, at + i, j);
            for (unsigned j = 0; j < nq; j++)
                q[i * nq + j] = q_of(l, at + i, j);
        }
        rc = skv_put(c, l, k, v, err);
        skv_attend *a;
        if (rc == 0)
            rc = skv_attend_begin(t, l, &(struct skv_attend_item){c, q, o}, 1, &a, err);
        if (rc == 0)
            rc = skv_attend_finish(a, err);
        if (rc == 0) {
            for (size_t i = 0; i < n * no; i++) {
                uint32_t bits;
                memcpy(&bits, &o[i], 4);
                *digest = (*digest ^ bits) * 0x100000001B3u;
            }
            if (out)
                memcpy(out[l], o, n * no * 4);
        }
        free(k);
        free(v);
        free(q);
        free(below);
        below = o;
        n_below = no;
    }
    free(below);
    return rc;
}

static inline void must_pass(skv_tier *t, skv_context *c, enum skv_mode mode, uint64_t at, unsigned n,
                             uint64_t *digest)
{
    struct skv_error err = {0};
    check(pass(t, c, mode, at, n, digest, NULL, &err), &err);
}

static inline skv_context *open_context(skv_tier *t, const struct skv_context_opts *o)
{
    struct skv_error err = {0};
    skv_context *c = NULL;
    check(skv_context_open(t, &model, o, &c, &err), &err);
    return c;
}

/* Prefill of n in chunks of 100 and then decode of m tokens; the digest of everything decoded. */
static inline void prefill(skv_tier *t, skv_context *c, uint64_t from, uint64_t to, unsigned chunk,
                           uint64_t *digest)
{
    for (uint64_t at = from; at < to;) {
        uint64_t end = (at / chunk + 1) * chunk; /* absolute boundaries */
        if (end > to)
            end = to;
        must_pass(t, c, SKV_PREFILL, at, (unsigned)(end - at), digest);
        at = end;
    }
}

static inline void decode(skv_tier *t, skv_context *c, uint64_t from, uint64_t to, uint64_t *digest)
{
    for (uint64_t at = from; at < to; at++)
        must_pass(t, c, SKV_DECODE, at, 1, digest);
}

#endif
