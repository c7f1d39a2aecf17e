/* dots.h: dots of several rows of weights with several vectors.
 *
 * DESIGN. With several vectors, weights are read and turned into f32 for all of them. Each product is still
 * summed as quant.h's dot sums it (element i in lane i mod 8, in rising order, then the lanes in a fixed
 * tree), so its bits are those of that dot alone, whatever comes with it. A dozen products are under way at
 * once, and an element that is loaded serves three or four of them. Lanes don't meet until the end: sums go
 * from one stretch of columns to the next as they are. */
#ifndef DECODER_MODEL_DOTS_H
#define DECODER_MODEL_DOTS_H

#include "decoder/model/quant.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { DOTS_VECTORS = 4, DOTS_PRODUCTS = 12, DOTS_STRIDE = 32 };

/* Memory that will be read soon: `step` bytes from `at` on for every DOTS_STRIDE columns. They are asked for
 * one by one, between products: many at once would hold up what the products read themselves. */
struct dots_ahead {
    const uint8_t *at;
    size_t step;
};

/* sums (n, rows, 8) += w (rows, len) · x, or = where they begin: n at most DOTS_VECTORS, len a multiple of 8.
 * Best is a multiple of DOTS_PRODUCTS / n rows. From one row of w to the next w_bytes; from one vector's sums
 * to the next, sums_stride (at least 8·rows). x is a panel (len / 8, n, 8), so that it is one stream. */
typedef void dots_add(bool begin, unsigned rows, unsigned n, size_t len, const void *w, size_t w_bytes,
                      const float *x, float *sums, size_t sums_stride, struct dots_ahead ahead);

struct dots_ops {
    dots_add *f32, *f16, *bf16; /* by w's type */
    /* out (n): the lanes of each added; sums (n, 8). */
    void (*sum)(size_t n, const float *sums, float *out);
};

/* In the family that kernels_get() names; in a named one, NULL when this CPU can't run it. */
const struct dots_ops *dots_ops(void);
const struct dots_ops *dots_ops_named(const char *family);
/* For weights of this enum ggml_type; NULL: spread them to f32 first. */
dots_add *dots_of_type(const struct dots_ops *, uint32_t type);

/* The families; only dots.c chooses between them. */
extern const struct dots_ops dots_portable, dots_avx2;

#endif
