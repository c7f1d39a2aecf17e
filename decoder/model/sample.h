/* sample.h: from logits to the next token.
 *
 * Filters in llama.cpp's order: the top_k largest logits; of these the smallest set that holds top_p of the
 * probability; of these the ones that have at least min_p times the probability of the first; then the draw
 * at `temperature`. Ties go to the lower id. Random numbers come from SplitMix64: its whole state is one
 * number, so a sampler is saved by saving `state`, and the same state, settings and logits always draw the
 * same token. */
#ifndef DECODER_MODEL_SAMPLE_H
#define DECODER_MODEL_SAMPLE_H

#include <stdint.h>

#include "common/error.h"

struct sample_opts {
    float temperature; /* 0 or less: greedy (the largest logit), whatever the rest says */
    uint32_t top_k;    /* 0: all */
    float top_p;       /* 1: all */
    float min_p;       /* 0: all */
};

struct sampler {
    struct sample_opts opts;
    uint64_t state; /* of the random numbers; the seed at first */
};

/* -EINVAL with a sentence when a setting makes no sense. */
int sample_check(const struct sample_opts *, struct skv_error *err);

/* Draws from logits (n). -EDOM when none of them is a number. */
int sample_next(struct sampler *, const float *logits, uint32_t n, uint32_t *id, struct skv_error *err);

#endif
