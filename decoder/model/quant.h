/* quant.h: weights as they lie in a GGUF file, one row at a time.
 *
 * A row of a matrix is a sequence of blocks; a block is a few scales and small integers (or just numbers, for
 * F32, F16, BF16). Two things are done with a row: spread it to f32, or multiply it with f32 activations
 * without spreading it first. Both see exactly the same f32 weights, so `dot` has the bits of `to_f32`
 * followed by the F32 `dot`.
 *
 * DESIGN. dot sums in 8 lanes: element i goes to lane i mod 8, in rising order; the lanes are added in a
 * fixed tree. A row's bits depend on the row and the vector only, within one kernel family (portable, avx2:
 * chosen like decoder/kernels does). dot_side takes four rows side by side: one stream of reads does not keep
 * memory busy, nor one chain of additions the units. */
#ifndef DECODER_MODEL_QUANT_H
#define DECODER_MODEL_QUANT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "decoder/model/gguf.h"

/* Block layouts of the formats, as offsets: rows are not aligned, so fields are read by memcpy. */
enum {
    Q8_0_N = 32,
    Q8_0_BYTES = 34, /* f16 d; i8 q[32]:                             w = d·q */
    Q4_0_N = 32,
    Q4_0_BYTES = 18, /* f16 d; u8 q[16], element j low, 16+j high:   w = d·(q - 8) */
    QK_N = 256,
    Q4_K_BYTES = 144, /* f16 d, dmin; u8 scales[12]; u8 q[128]:       w = d·scale·q - dmin·min */
    Q6_K_BYTES = 210, /* u8 low[128], high[64]; i8 scale[16]; f16 d:  w = d·scale·(q - 32) */
};

enum {
    QUANT_LANES = 8, /* part of contexts' recipes: other ones make other bits */
    QUANT_SIDE = 4,
};
struct quant_ops {
    void (*to_f32)(size_t n, const void *row, float *out);
    float (*dot)(size_t n, const void *row, const float *x);
    /* y[i] = dot of row i of four, whose beginnings lie `apart` bytes from each other: best if far, so that
     * each of four streams is long. */
    void (*dot_side)(size_t n, const void *row, size_t apart, const float *x, float y[QUANT_SIDE]);
};

/* Operations for a type of gguf.h's enum ggml_type, in the family that kernels_get() names. */
const struct quant_ops *quant_ops(uint32_t type);
/* The same for a named family ("portable", "avx2"); NULL when this CPU can't run it. For tests. */
const struct quant_ops *quant_ops_named(const char *family, uint32_t type);

/* Rounds n weights (a multiple of the type's block) to the format: plain nearest-value quantisers, without
 * the search for best scales that tools for real models do. */
void quant_from_f32(uint32_t type, size_t n, const float *x, void *row);

static inline float quant_f16(const void *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 1023, bits;
    float f;
    if (exponent == 0) {
        f = (float)mantissa * 0x1p-24f;
        memcpy(&bits, &f, sizeof bits);
        bits |= sign;
    } else {
        bits = sign | (exponent == 31 ? 0x7f800000 : (exponent + 112) << 23) | mantissa << 13;
    }
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline float quant_bf16(const void *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Scale and minimum (6 bit each) of sub-block j of 8 in a Q4_K block. The first four of each lie in the low
 * six bits of scales[0..3] and [4..7]; of the last four, low nibbles lie in [8..11] and the two high bits on
 * top of the first. */
static inline void q4_k_scale(const uint8_t *scales, unsigned j, uint8_t *scale, uint8_t *min)
{
    if (j < 4) {
        *scale = scales[j] & 63;
        *min = scales[j + 4] & 63;
    } else {
        *scale = (uint8_t)((scales[j + 4] & 15) | (scales[j - 4] >> 6) << 4);
        *min = (uint8_t)(scales[j + 4] >> 4 | (scales[j] >> 6) << 4);
    }
}

/* The lanes of a dot, in the tree that all families have: halves. */
static inline float quant_add_lanes(float acc[8])
{
    for (unsigned j = 0; j < 4; j++)
        acc[j] += acc[4 + j];
    return (acc[0] + acc[2]) + (acc[1] + acc[3]);
}

/* The families, by type number; only quant.c chooses between them. */
enum { QUANT_TYPES = 31 };
extern const struct quant_ops quant_portable[QUANT_TYPES], quant_avx2[QUANT_TYPES];

#endif
