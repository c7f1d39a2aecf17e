/* reps.h: representatives: what the scout keeps of a page, per KV head.
 *
 * Of a page's 16 keys the r farthest from the mean are its outliers; the centre is the mean of the other n =
 * 16 - r; the spread is their mean variance per dim around the centre. The estimated log mass of a page for a
 * query q (already scaled) is
 *
 *     log( n·exp(q·c + f(γ·v, n)) + Σ_j exp(q·o_j) ),   v = spread·|q|²
 *     f(v, n) = v/2 while v <= 2 ln n, else sqrt(2 v ln n) - ln n   (mean of n such exponentials, random
 * energy model)
 *
 * Vectors are 4 bit: value = (code - 8)·scale, codes 0..15, scale = f32 per vector. Eight pages are
 * interleaved, so that a kernel scores eight at once without a horizontal sum:
 *
 *   group of 8 pages = for vec 0..r (0 the centre, then outliers):
 *                         d_k/8 rows of 32 bytes: byte 4·page + j of row i holds dim 8i+j (low nibble) and
 * 8i+4+j (high) then for vec 0..r: float scale[8] then float spread[8] (γ applied) then float lcount[8]: ln n
 * of the centre; -INFINITY in a lane without page
 */
#ifndef SCOUT_REPS_H
#define SCOUT_REPS_H

#include <stddef.h>
#include <stdint.h>

enum { REPS_OUTLIERS = 4, REPS_VECS = 1 + REPS_OUTLIERS, REPS_LANES = 8 };

/* Bytes of a group of 8 pages for keys of d_k dims (a multiple of 8). */
static inline size_t reps_group_bytes(unsigned d_k)
{
    return (size_t)REPS_VECS * (d_k / 8 * 32 + 32) + 64;
}

/* Marks all eight lanes empty. */
void reps_group_clear(unsigned d_k, uint8_t *group);
/* Computes the representative of one page: k (16, d_k) f32, into lane 0..7 of a group. Deterministic: the
 * same keys give the same bytes. */
void reps_build(unsigned d_k, const float *k, uint8_t *group, unsigned lane);
/* Empties a lane again (truncate). */
void reps_lane_clear(unsigned d_k, uint8_t *group, unsigned lane);

#endif
