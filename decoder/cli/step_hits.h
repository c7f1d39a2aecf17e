/* step_hits.h: how many of a step's selected pages are in the cache already, by what a trained model did. */
#ifndef CLI_STEP_HITS_H
#define CLI_STEP_HITS_H

#include "common/error.h"

#include <stddef.h>
#include <stdint.h>

struct step_hits {
    float *share; /* (n) of a step's pages in one layer that were held; steps outer, layers inner */
    size_t n;
    double mean;
    uint64_t tokens, steps;
    uint32_t budget, window, layers;
    double per_block; /* pages that a KV head selects of a block that it selects from: 1 to 4 */
};

/* Replays a trace (`scoutkv trace`) in a context of its shape: its first half as a prefill, the rest as
 * decode steps with its own queries, whose pages the cascade selects, with the budget and the window given
 * and a cache of four times the budget. The first steps, which fill the cache, are left out. */
int step_hits_read(const char *trace, uint32_t budget, uint32_t window, struct step_hits *out,
                   struct skv_error *);
void step_hits_free(struct step_hits *);

#endif
