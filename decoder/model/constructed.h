/* constructed.h: a llama model of zeros to write weights into, and the ordinary GGUF that comes of it.
 *
 * What the constructed models share: the arrays, the vocabulary (that of the recall model) and the file. */
#ifndef DECODER_MODEL_CONSTRUCTED_H
#define DECODER_MODEL_CONSTRUCTED_H

#include <stdint.h>

#include "common/error.h"
#include "decoder/model/recall_vocab.h"

struct constructed_shape {
    const char *name; /* general.name; kept as a pointer */
    uint32_t n_layers, dim, ff, n_heads, n_kv, head_dim;
    float rope_base;
};

struct constructed_layer {
    float *q, *k, *v, *o;    /* [n_heads or n_kv × head_dim][dim]; o: [dim][n_heads × head_dim] */
    float *gate, *up, *down; /* [ff][dim]; down: [dim][ff] */
};

enum { CONSTRUCTED_LAYERS = 2 };

struct constructed {
    struct constructed_shape shape;
    struct recall_vocab vocab;
    float *embed, *output; /* [vocab][dim]; the output matrix is written as F16 */
    struct constructed_layer layer[CONSTRUCTED_LAYERS];
    float *norm;    /* [dim] of ones: of all norms */
    float *weights; /* all of layer[], one allocation */
};

/* All weights 0, at most CONSTRUCTED_LAYERS layers. 0 or -ENOMEM; to be freed in either case. */
int constructed_open(struct constructed *, const struct constructed_shape *);
int constructed_save(const struct constructed *, const char *path, struct skv_error *);
void constructed_free(struct constructed *);

#endif
