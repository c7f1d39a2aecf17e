/* batch.h: one decode step of several sequences: they read the weights once, and fetch at once. */
#ifndef SERVE_BATCH_H
#define SERVE_BATCH_H

#include "decoder/serve/sequence.h"

/* Every sequence's token drawn last goes in, and its next one is drawn; what failed is in its error. */
void batch_step(struct serving *, struct sequence *const *, unsigned n);

#endif
