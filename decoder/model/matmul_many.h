/* matmul_many.h: matmul_rows for several vectors, which share each row of weights: a part of matmul.c. */
#ifndef DECODER_MODEL_MATMUL_MANY_H
#define DECODER_MODEL_MATMUL_MANY_H

#include "decoder/model/matmul.h"

enum {
    MANY_LEAST = 4, /* for fewer vectors, rows that are read once each are as fast */
    MANY_ROWS = 12, /* are taken together: a part is best a multiple of them */
};

/* n vectors of so many columns as panels: DOTS_VECTORS of them, the last n mod DOTS_VECTORS, side by side in
 * eights (columns / 8, vectors, 8), with zeros behind the last column. */
size_t matmul_panels_floats(uint32_t n, uint32_t cols);
uint32_t matmul_panels(uint32_t n); /* how many */
/* Makes one of them, at its place in out (matmul_panels_floats); x (n, cols). */
void matmul_panel(uint32_t n, uint32_t cols, const float *x, uint32_t panel, float *out);

/* Some rows of a matrix. */
struct matmul_part {
    const struct matmul *mul; /* NULL: none */
    uint32_t from, to;
};

/* Of a part's rows: y (n, rows of w) = or += their dots with n vectors, given as panels, with the bits of
 * quant.h's dot. What the thread will take then is asked for meanwhile, as far as its first rows go. */
void matmul_many(struct matmul_part, struct matmul_part then, uint32_t n, const float *panels, bool add);

#endif
