/* weights.h: from the tensors of a GGUF file to the matrices of a model. */
#ifndef DECODER_MODEL_WEIGHTS_H
#define DECODER_MODEL_WEIGHTS_H

#include "decoder/model/model.h"

/* m->gguf and m->params are set; fills in embedding, output, layers and rope_freq, and params.vocab. Missing
 * tensors, other shapes, types that can't be computed with, and tensors nobody reads are errors that name the
 * tensor. */
int weights_load(struct model *m, struct skv_error *err);

/* Spreads the layer matrices to f32 if all of them together are small. */
int weights_spread(struct model *m, struct skv_error *err);

#endif
