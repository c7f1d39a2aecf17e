/* matmul_many.h: matmul_rows for several vectors, which share each row of weights: a part of matmul.c. */
#ifndef DECODER_MODEL_MATMUL_MANY_H
#define DECODER_MODEL_MATMUL_MANY_H

#include "decoder/model/matmul.h"

enum {
    MANY_LEAST = 4, /* for fewer vectors, laying rows out costs more than it saves */
    MANY_ROWS = 6,  /* are taken together: a part is best a multiple of them */
};

/* Vectors x (n, cols) as matmul_many takes them: in stretches of columns, zeros behind the last. */
size_t many_floats(uint32_t n, uint32_t cols);
void many_lay_out(struct pool *, uint32_t n, uint32_t cols, const float *x, float *out);

/* Rows [from, to) of w: y (n, w->rows) = or += their dots with the n vectors, with the bits of quant.h's dot.
 */
void matmul_many(const struct matmul *, uint32_t from, uint32_t to, uint32_t n, const float *laid_out,
                 bool add);

#endif
