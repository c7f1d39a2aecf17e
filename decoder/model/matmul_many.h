/* matmul_many.h: matmul_rows for several vectors, which share each row of weights: a part of matmul.c. */
#ifndef DECODER_MODEL_MATMUL_MANY_H
#define DECODER_MODEL_MATMUL_MANY_H

#include "decoder/model/matmul.h"

enum {
    MANY_LEAST = 4, /* for fewer vectors, rows that are read once each are as fast */
    MANY_ROWS = 6,  /* are taken together: a part is best a multiple of them */
};

/* Rows [from, to) of w: y (n, w->rows) = or += their dots with x (n, cols), with the bits of quant.h's dot.
 */
void matmul_many(const struct matmul *, uint32_t from, uint32_t to, uint32_t n, const float *x, bool add);

#endif
