/* random_model.h: models with random weights, of any size: for tests and for measuring speed. */
#ifndef DECODER_MODEL_RANDOM_MODEL_H
#define DECODER_MODEL_RANDOM_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "decoder/model/gguf.h"
#include "decoder/model/model.h"

struct random_model_opts {
    enum model_arch arch;
    enum ggml_type type; /* of the matrices; norms and biases are F32 */
    uint32_t n_layers, dim, n_heads, n_kv_heads, ff, vocab, context;
    float rope_base;
    bool tied; /* the embedding is the output matrix too */
    uint64_t seed;
};

/* A small llama: 2 layers, dim 256, 8 query and 2 KV heads, ff 512, vocabulary 512, F16. */
void random_model_defaults(struct random_model_opts *);

/* Writes a GGUF with a valid SentencePiece vocabulary. The same options give the same bytes. */
int random_model_write(const char *path, const struct random_model_opts *, struct skv_error *err);

#endif
