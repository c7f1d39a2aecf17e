/* bound.h: how much attention mass a page can have at most, whatever its keys: a worst case, not an estimate.
 *
 * Of what is kept of a page, for a scaled query q:
 *
 *     norm   |k| <= N:                          log(16·exp(|q|·N))
 *     ball   11 keys lie within R of the centre c, the others within r of an outlier o_j, all as 4 bits have
 *            them, so that what was rounded is in the radii:
 *                                               log(11·exp(q·c + |q|·R) + Σ_j exp(q·o_j + |q|·r))
 *     box    low <= k <= high in each dim:      log(16·exp(Σ_i max(q_i·low_i, q_i·high_i)))
 *
 * and the least of all. They hold for keys of any kind; the arithmetic errs on their side. */
#ifndef SCOUT_BOUND_H
#define SCOUT_BOUND_H

#include "decoder/scout/policy.h"

enum bound { BOUND_NORM, BOUND_BALL, BOUND_BOX, BOUND_LEAST, BOUNDS };
enum { BOUND_NEEDS = 1 << PART_BALL | 1 << PART_BOX }; /* of the view's pieces, besides what is always kept */

const char *bound_name(enum bound);
/* out (BOUNDS, rows): log masses that this page has at most; INFINITY: nothing is known. */
void bound_page(const struct far_view *, size_t page, double *out);

/* The two radii {R, r} of each page of a block whose keys are k (64, d_k): radii [4][2]. */
void bound_radii(unsigned d_k, const float *k, float *radii);

#endif
