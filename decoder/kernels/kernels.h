/* kernels.h: the pure functions that a step spends its time in, in one table per instruction-set family.
 *
 * No allocation, no state, no I/O. Each family is tested against the portable one. A row's bits depend on its
 * own inputs only (batch-invariant): never on neighbours, alignment or thread count. Loads are unaligned. */
#ifndef KERNELS_KERNELS_H
#define KERNELS_KERNELS_H

#include "common/error.h"
#include <stddef.h>
#include <stdint.h>

enum { SCOUT_LANES = 8, SCOUT_ROWS = 16 }; /* pages scored side by side; query rows a scan takes */

/* The pages that will be attended next, wherever they lie. While a page is computed, a quarter of each of
 * them is brought nearer: one stream of reads gets half of what memory gives to four. `turn` counts the
 * caller's pages, so that each page has had its four quarters when its time comes. Fewer than four: name one
 * again. */
struct pages_ahead {
    const uint8_t *page[4];
    unsigned turn;
};

/* What a scan goes over: groups of 8 pages (scout/reps.h has the layout) in pieces that lie anywhere, and the
 * query rows that they are scored for. */
struct scout_scan {
    const uint8_t *const *pieces; /* of per_piece groups behind each other, the last of what is left */
    size_t n_groups;
    unsigned per_piece, n_vec, d_k, g;
    const int8_t *q8;     /* (g, d_k) the rows in 8 bits; g <= SCOUT_ROWS */
    const float *scale;   /* (g) of q8 */
    const int32_t *sum;   /* (g) of q8 */
    const float *square;  /* (pieces, g) what spreads are multiplied with: |q|^2 of the scaled query */
    unsigned square_step; /* g; or 0: the same (g) for all pieces */
};

struct kernels {
    const char *name;

    /* Partial attention of g query rows (one KV head's group) over n <= 16 tokens.
     * q (g, d_k) already scaled; k (n, d_k), v (n, d_v) of dtype f16 / f32; out: m (g) maxima, l (g) sums of
     * exp(s - m), o (g, d_v) sums of exp(s - m)·v. ahead (may be NULL): pages of 16 tokens, K and then V. */
    void (*page_f16)(unsigned g, unsigned n, unsigned d_k, unsigned d_v, const float *q, const uint16_t *k,
                     const uint16_t *v, const struct pages_ahead *ahead, float *m, float *l, float *o);
    void (*page_f32)(unsigned g, unsigned n, unsigned d_k, unsigned d_v, const float *q, const float *k,
                     const float *v, const struct pages_ahead *ahead, float *m, float *l, float *o);

    /* The same of a page of q8_0 (kv_types.h) as it lies, with the bits of page_f32 over what unpack_q8_0
     * gives. ahead: such pages. */
    void (*page_q8_0)(unsigned g, unsigned n, unsigned d_k, unsigned d_v, const float *q, const uint8_t *page,
                      const struct pages_ahead *ahead, float *m, float *l, float *o);

    /* Folds one partial into a running one by log-sum-exp: (M, L, O) <- merge((M, L, O), (m, l, o)), for g
     * rows. Start with M = -inf, L = 0, O = 0. The order of calls decides the bits. */
    void (*merge)(unsigned g, unsigned d_v, float *M, float *L, float *O, const float *m, const float *l,
                  const float *o);

    /* Log-mass scores: out (g, ld), of which each row gets 8·n_groups. */
    void (*scout_groups)(const struct scout_scan *, float *out, size_t ld);

    /* Largest of n, -inf for none; NaN is passed over. */
    float (*max)(size_t n, const float *x);

    /* x[i] <- exp(x[i] - max), returns the sum (f64 accumulation in 8 fixed lanes). */
    double (*exp_sum)(size_t n, float *x, float max);

    /* x (rows, ld), of which n columns: each row times its factor; sum (n): of a column's products, row by
     * row. */
    void (*scale_rows)(unsigned rows, size_t n, size_t ld, float *x, const float *factor, float *sum);

    /* Rows of exp: softmax numerators of a tile for prefill. s (rows, ld) holds scores; row i covers cols[i]
     * columns; writes exp(s - m_i) in place (0 beyond cols), m (rows), l (rows). */
    void (*softmax_tile)(unsigned rows, unsigned ld, unsigned width, const uint32_t *cols, float *s, float *m,
                         float *l);

    /* gate[i] <- silu(gate[i])·up[i], silu(x) = x / (1 + exp(-x)). */
    void (*silu)(size_t n, float *gate, const float *up);

    void (*f16_to_f32)(size_t n, const uint16_t *in, float *out);
    void (*f32_to_f16)(size_t n, const float *in, uint16_t *out); /* round to nearest even */
    float (*dot)(size_t n, const float *a, const float *b);

    /* A page of few bits (kv_types.h) as f32: k (16, d_k), v (16, d_v). The same bits in every family. */
    void (*unpack_q8_0)(unsigned d_k, unsigned d_v, const uint8_t *page, float *k, float *v);
    void (*unpack_q4)(unsigned d_k, unsigned d_v, const uint8_t *page, float *k, float *v);
};

/* The family in use: the best that this CPU runs, or what SKV_ISA=portable|avx2 says. The first call
 * decides (thread-safe). kernels_named: NULL when unknown or when this CPU can't run it. */
const struct kernels *kernels_get(void);
const struct kernels *kernels_named(const char *name);
/* -EINVAL with a sentence when SKV_ISA names a family that is unknown or can't run here. */
int kernels_check(struct skv_error *err);

#endif
