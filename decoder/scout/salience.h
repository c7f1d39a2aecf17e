/* salience.h: the attention mass that a page will receive, predicted when it is sealed: a calibration's ridge
 * regression on the log of what a model's tokens have received (design §6; KVzap, Expected Attention). */
#ifndef SCOUT_SALIENCE_H
#define SCOUT_SALIENCE_H

#include "decoder/kernels/kernels.h"

/* Log mass of a page of keys k (16, d_k), as a token's is w·k + w[d_k]·|k| + w[d_k + 1]. Half the log of the
 * tokens' squared masses: a page with one token that stands out is worth more than the same spread evenly,
 * since a copying head wants that token and no other. */
float salience_page(const struct kernels *, unsigned d_k, const float *w, const float *k);

#endif
