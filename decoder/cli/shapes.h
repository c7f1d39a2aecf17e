/* shapes.h: the shapes of models that many people know, for benches and plans that need no weights. */
#ifndef CLI_SHAPES_H
#define CLI_SHAPES_H

#include "decoder/scoutkv.h"

#define SHAPE_NAMES "llama-3-8b|llama-3-70b|qwen2.5-7b" /* for options */

struct model_shape {
    const char *name;
    unsigned layers, heads, kv_heads, d; /* heads: of queries; d: of a key and of a value */
};

/* NULL: unknown. */
const struct model_shape *shape_named(const char *name);
/* One of its layers. */
struct skv_layer shape_layer(const struct model_shape *);
/* K and V of one token in f16, all layers. */
uint64_t shape_token_bytes(const struct model_shape *);

#endif
