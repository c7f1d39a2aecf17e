/* batch.h: one decode step of several sequences.
 *
 * Each goes through the weights by itself. One pass over the weights for all of them, one attend, one round
 * of fetches: that belongs here, behind the same function, and decode's bits allow it (forward.h: a token's
 * logits don't depend on how many tokens a pass has). */
#ifndef SERVE_BATCH_H
#define SERVE_BATCH_H

#include "decoder/serve/sequence.h"

/* Every sequence's token drawn last goes in, and its next one is drawn; what failed is in its error. */
void batch_step(struct serving *, struct sequence *const *, unsigned n);

#endif
