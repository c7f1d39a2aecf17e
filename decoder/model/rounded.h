/* rounded.h: activations rounded to 8 bits, and their dots with quantised rows: the opt-in beside quant.h's
 * exact ones.
 *
 * A stretch of 32 activations is d·q, q in -127…127 and d = max|x| / 127: an error of at most d/2 each.
 * Products of codes are summed as integers, which is exact; what is left of floats is a scale and a sum for
 * every 32 weights. Weights are the same as in quant.h.
 *
 * DESIGN. A dot has 8 lanes: codes 4l…4l+3 of each 32 (by the order of elements) go to lane l, products in 16
 * and 32 bits, then times scales to the lane's float; what types subtract (minima, codes' middle) comes from
 * sums of the activations' codes, one lane for each 32. So a row's bits depend on the row and the vector
 * only, within one kernel family. */
#ifndef DECODER_MODEL_ROUNDED_H
#define DECODER_MODEL_ROUNDED_H

#include <stddef.h>
#include <stdint.h>

/* A rounded vector of n activations, a multiple of 32, in one piece of memory. */
struct rounded {
    int8_t *q;      /* (n) */
    float *d;       /* (n / 32) */
    float *sum;     /* (n / 32): d·Σq */
    int16_t *sum16; /* (n / 16): Σq of each 16 */
};

/* Bytes of one, a multiple of 64; the one that lies there. */
size_t rounded_bytes(size_t n);
struct rounded rounded_at(void *memory, size_t n);

/* y[i] = row i (n weights) times x, of `rows` (1 or QUANT_SIDE) rows that lie `apart` bytes from each other.
 */
typedef void rounded_dot(unsigned rows, size_t n, const void *row, size_t apart, const struct rounded *x,
                         float *y);

/* Rounds x (n); the same codes in every family. What is not finite makes its 32 NaN. */
void rounded_from_f32(size_t n, const float *x, struct rounded *out);

/* For a type of enum ggml_type in the family that kernels_get() names; NULL: its activations stay exact (F32,
 * F16, BF16: rounding them would save nothing). */
rounded_dot *rounded_dot_of(uint32_t type);
rounded_dot *rounded_dot_named(const char *family, uint32_t type); /* for tests */

/* The families; only rounded.c chooses between them. */
enum { ROUNDED_TYPES = 31 };
extern rounded_dot *const rounded_portable[ROUNDED_TYPES], *const rounded_avx2[ROUNDED_TYPES];

#endif
