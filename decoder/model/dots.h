/* dots.h: dots of several rows of weights with several vectors, in the lanes of quant.h.
 *
 * DESIGN. With several vectors, weights are read and spread to f32 once for all of them. Each product is
 * still summed as quant.h's dot sums it (element i in lane i mod 32, in rising order, then the lanes in a
 * fixed tree), so its bits are those of that dot alone, whatever comes with it. Lanes don't meet until the
 * end: eight of them are taken through all columns, then the next eight. A product so needs one register and
 * not four, a dozen products are under way at once, and an element that is loaded serves three or four of
 * them. For that, rows lie apart by octets of lanes (quant_ops.to_lanes). */
#ifndef DECODER_MODEL_DOTS_H
#define DECODER_MODEL_DOTS_H

#include <stddef.h>

enum { DOTS_OCTETS = 4, DOTS_VECTORS = 4 };

struct dots_ops {
    /* Apart by octets of lanes, zeros behind the last: element i goes to out[i / 8 % 4 * stride + i / 32 * 8
     * + i % 8]. */
    void (*lay_out)(size_t cols, const float *row, float *out, size_t stride);
    /* One octet of lanes: sums (rows, n, 8) += w (rows, len) · x (n, len), both rows `stride` floats apart,
     * of which every eight are one element of each lane. n is at most DOTS_VECTORS; rows of sums are
     * sums_stride floats apart. */
    void (*add)(unsigned rows, unsigned n, size_t len, const float *w, const float *x, size_t stride,
                float *sums, size_t sums_stride);
    /* out (n): the lanes of each added; sums (4, n, 8). */
    void (*sum)(size_t n, const float *sums, float *out);
};

/* In the family that kernels_get() names; in a named one, NULL when this CPU can't run it. */
const struct dots_ops *dots_ops(void);
const struct dots_ops *dots_ops_named(const char *family);

/* The families; only dots.c chooses between them. */
extern const struct dots_ops dots_portable, dots_avx2;

#endif
