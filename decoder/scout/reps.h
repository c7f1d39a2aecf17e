/* reps.h: representatives: what the scout keeps of a page, and of a block, per KV head.
 *
 * Of its keys (16 of a page, 64 of a block) the r farthest from their mean are outliers; the centre is the
 * mean of the other n; the spread is their mean variance per dim around the centre. The estimated log mass
 * for a query q (already scaled) is
 *
 *     log( n·exp(q·c + f(γ·v, n)) + Σ_j exp(q·o_j) ),   v = spread·Σ_i w_i q_i²
 *     f(v, n) = v/2 while v <= 2 ln n, else sqrt(2 v ln n) - ln n
 *
 * (f: the log mean of n such exponentials by the random energy model.) w says in which dims a head's keys
 * scatter more than in others; it has mean 1 and serves many pages. A page keeps 5 outliers and is accurate,
 * or none and is lean: a fifth of the bytes, which finds what is copied from afar less well;
 * a block keeps none and is cheap to read for every block of a long context at every step: it only names the
 * candidates whose pages are then judged.
 *
 * Vectors are 4 bit: value = (code - 8)·scale, codes 0..15, scale = f32 per vector. Eight pages (or blocks)
 * are interleaved, so that a kernel scores eight at once without a horizontal sum. A group of eight, lane by
 * lane:
 *
 *     for vec 0..r (0 the centre, then outliers): d_k/8 rows of 32 bytes;
 *         byte 4·lane + j of row i holds dim 8i+j (low nibble) and dim 8i+4+j (high nibble)
 *     for vec 0..r: float scale[8]
 *     float spread[8]   γ applied
 *     float lcount[8]   ln n of the centre; -INFINITY in an empty lane
 */
#ifndef SCOUT_REPS_H
#define SCOUT_REPS_H

#include <stddef.h>
#include <stdint.h>

enum reps_kind {
    REPS_PAGE,
    REPS_BLOCK,
    REPS_LEAN, /* a page without outliers; */
    REPS_MANY  /* with eight: of projected keys, where more of them fit the same bytes */
};
enum {
    REPS_LANES = 8,
    REPS_PAGE_KEYS = 16,
    REPS_BLOCK_KEYS = 64,
    REPS_PAGE_OUTLIERS = 5,
    REPS_MANY_OUTLIERS = 8
};

/* Keys that one representative speaks for, and its vectors: the centre and the outliers. */
static inline unsigned reps_keys(enum reps_kind kind)
{
    return kind == REPS_BLOCK ? REPS_BLOCK_KEYS : REPS_PAGE_KEYS;
}
static inline unsigned reps_vecs(enum reps_kind kind)
{
    return 1 + (kind == REPS_PAGE ? REPS_PAGE_OUTLIERS : kind == REPS_MANY ? REPS_MANY_OUTLIERS : 0);
}
/* Bytes of a group of 8 for keys of d_k dims (a multiple of 8). */
static inline size_t reps_group_bytes(enum reps_kind kind, unsigned d_k)
{
    return (size_t)reps_vecs(kind) * (d_k / 8 * 32 + 32) + 64;
}

/* Marks all eight lanes empty. */
void reps_group_clear(enum reps_kind, unsigned d_k, uint8_t *group);
/* Computes one representative of k (16 or 64, d_k) f32 into lane 0..7 of a group. Deterministic: the same
 * keys and gamma give the same bytes. */
void reps_build_gamma(enum reps_kind, unsigned d_k, const float *k, float gamma, uint8_t *group,
                      unsigned lane);
/* The same with all of the spread: what holds without a calibration. */
static inline void reps_build(enum reps_kind kind, unsigned d_k, const float *k, uint8_t *group,
                              unsigned lane)
{
    reps_build_gamma(kind, d_k, k, 1.0f, group, lane);
}
/* w of a block's keys k (64, d_k): how much each dim varies around its page's mean, beside the mean over
 * dims. A fifth of it counts as even, since so few keys tell little. Deterministic. */
void reps_scatter(unsigned d_k, const float *k, float *w);
/* Empties a lane again (truncate). */
void reps_lane_clear(enum reps_kind, unsigned d_k, uint8_t *group, unsigned lane);

/* What a lane says: one of its vectors (d_k), and the spread. */
void reps_get_vec(enum reps_kind, unsigned d_k, const uint8_t *group, unsigned lane, unsigned vec,
                  float *out);
float reps_get_spread(enum reps_kind, unsigned d_k, const uint8_t *group, unsigned lane);
/* A lane of kind REPS_BLOCK for any number of keys, summarised elsewhere. */
void reps_put_summary(unsigned d_k, const float *centre, float spread, unsigned n_keys, uint8_t *group,
                      unsigned lane);

#endif
