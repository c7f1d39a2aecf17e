/* recall_model.h: a llama model whose weights are constructed so that it recalls facts at any distance.
 *
 * After "… The key of Levet is 503118. … The key of Levet is" it goes on with " 503118." and ends. How it
 * works is explained in README-recall.md. Nothing in the engine knows about it. */
#ifndef DECODER_MODEL_RECALL_MODEL_H
#define DECODER_MODEL_RECALL_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

struct recall_opts {
    uint64_t seed; /* of all codes; any seed works */
    bool hard;     /* give every token's matching keys the norm of a fact's, in random directions */
};

/* Writes an ordinary GGUF (about 20 MB, F32): llama, 2 layers, dim 256, 4 query and 2 KV heads of 64. */
int recall_model_write(const char *path, const struct recall_opts *, struct skv_error *err);

#endif
