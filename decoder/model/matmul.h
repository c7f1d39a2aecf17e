/* matmul.h: y = x·Wᵀ for a weight matrix in any format, on the threads of a pool.
 *
 * Two forms. Rows (decode): each output is one dot of quant.h, so its bits depend on its own row and its own
 * x, not on how many x there are, nor on threads. Tiles (prefill): tiles of W are spread to f32 and
 * multiplied by OpenBLAS; tile borders depend on shapes only, so bits don't depend on threads, but they do on
 * how many x come together.
 *
 * Rows may round activations to 8 bits (rounded.h), for weights of few bits. */
#ifndef DECODER_MODEL_MATMUL_H
#define DECODER_MODEL_MATMUL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/pool.h"

struct matrix {
    const uint8_t *data; /* rows in the format of a GGUF file, row_bytes apart */
    size_t row_bytes;
    uint32_t type;       /* enum ggml_type */
    uint32_t rows, cols; /* outputs, inputs */
    const float *f32;    /* (rows, cols) if they are at hand, else NULL */
};

struct matmul {
    const struct matrix *w;
    float *y; /* (n, w->rows) */
};

/* Room for what is multiplied, laid out otherwise: tiles, one per thread, or vectors, as panels and rounded;
 * grows by itself. */
struct matmul_room {
    float *tiles;
    size_t tile_floats, n;
};
void matmul_room_free(struct matmul_room *);

enum activations {
    ACTIVATIONS_EXACT, /* f32 */
    ACTIVATIONS_INT8,  /* rounded, where weights have at most 8 bits */
};

/* y = x·wᵀ for several matrices of one input x (n, cols); y += x·wᵀ with add. Weights are read once for all
 * x. 0 or -ENOMEM; one exact x needs no room (NULL) and cannot fail. */
int matmul_rows(struct pool *, struct matmul_room *, enum activations, const struct matmul *, size_t n_w,
                uint32_t n, const float *x, bool add);
/* The same by tiles. Returns 0 or -ENOMEM. */
int matmul_tiles(struct pool *, struct matmul_room *, const struct matmul *, size_t n_w, uint32_t n,
                 const float *x, bool add);

/* One row as f32: out (cols). */
void matrix_row(const struct matrix *, uint32_t row, float *out);

#endif
