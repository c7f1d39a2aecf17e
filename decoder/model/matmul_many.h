/* matmul_many.h: matmul_rows for several vectors, which share each row of weights: a part of matmul.c. */
#ifndef DECODER_MODEL_MATMUL_MANY_H
#define DECODER_MODEL_MATMUL_MANY_H

#include "decoder/model/matmul.h"

enum { MANY_ROWS = 12 }; /* are taken together: a part is best a multiple of them */

/* Whether these rows are for matmul_many: for few vectors laying rows out costs more than it saves, and the
 * dots of Q8_0 and Q4_0 are not summed in the lanes of dots.h. */
bool many_take(const struct matrix *, uint32_t n);

/* Vectors x (n, cols) as matmul_many takes them: apart by octets of lanes, zeros behind the last. */
size_t many_floats(uint32_t n, uint32_t cols);
void many_lay_out(struct pool *, uint32_t n, uint32_t cols, const float *x, float *out);

/* Rows [from, to) of w: y (n, w->rows) = or += their dots with the n vectors, with the bits of quant.h's dot.
 */
void matmul_many(const struct matmul *, uint32_t from, uint32_t to, uint32_t n, const float *laid_out,
                 bool add);

#endif
