/* quant.c: the portable family and the choice of one; see quant.h. */
#include "decoder/model/quant.h"

#include <assert.h>

#include "decoder/kernels/kernels.h"

/* Each format gives 32 weights at a time: group i of a row. */

static inline void f32_group(const uint8_t *row, size_t i, float w[32])
{
    memcpy(w, row + i * 128, 128);
}

static inline void f16_group(const uint8_t *row, size_t i, float w[32])
{
    for (unsigned j = 0; j < 32; j++)
        w[j] = quant_f16(row + i * 64 + 2 * j);
}

static inline void bf16_group(const uint8_t *row, size_t i, float w[32])
{
    for (unsigned j = 0; j < 32; j++)
        w[j] = quant_bf16(row + i * 64 + 2 * j);
}

static inline void q8_0_group(const uint8_t *row, size_t i, float w[32])
{
    const uint8_t *b = row + i * Q8_0_BYTES;
    float d = quant_f16(b);
    for (unsigned j = 0; j < 32; j++)
        w[j] = d * (float)(int8_t)b[2 + j];
}

static inline void q4_0_group(const uint8_t *row, size_t i, float w[32])
{
    const uint8_t *b = row + i * Q4_0_BYTES;
    float d = quant_f16(b);
    for (unsigned j = 0; j < 16; j++) {
        w[j] = d * (float)((b[2 + j] & 15) - 8);
        w[16 + j] = d * (float)((b[2 + j] >> 4) - 8);
    }
}

/* Sub-blocks 2s and 2s+1 are the low and high nibbles of the same 32 bytes. */
static inline void q4_k_group(const uint8_t *row, size_t i, float w[32])
{
    const uint8_t *b = row + i / 8 * Q4_K_BYTES;
    unsigned sub = i % 8, shift = sub % 2 * 4;
    const uint8_t *q = b + 16 + sub / 2 * 32;
    uint8_t scale, min;
    q4_k_scale(b + 4, sub, &scale, &min);
    float d = quant_f16(b) * scale, m = quant_f16(b + 2) * min;
    for (unsigned j = 0; j < 32; j++)
        w[j] = d * (float)(q[j] >> shift & 15) - m;
}

/* A half of 128 weights is four groups: group k has its low nibbles in bytes 32·(k mod 2)… of the half's
 * low[64] (low nibble for k < 2, else high), its high two bits at bit 2k of the half's high[32], and a scale
 * per 16 weights. */
static inline void q6_k_group(const uint8_t *row, size_t i, float w[32])
{
    const uint8_t *b = row + i / 8 * Q6_K_BYTES;
    unsigned half = i % 8 / 4, k = i % 4, shift = k / 2 * 4;
    const uint8_t *low = b + 64 * half + 32 * (k % 2), *high = b + 128 + 32 * half;
    const uint8_t *scale = b + 192 + 8 * half + 2 * k;
    float d = quant_f16(b + 208);
    for (unsigned j = 0; j < 32; j++) {
        int q = (low[j] >> shift & 15) | (high[j] >> 2 * k & 3) << 4;
        w[j] = d * (float)(int8_t)scale[j / 16] * (float)(q - 32);
    }
}

static inline void add_group(const float w[32], const float *x, float acc[8])
{
    for (unsigned j = 0; j < 32; j++)
        acc[j % 8] += w[j] * x[j];
}

/* ELEMENT is the size of one weight where rows may end inside a group of 32 (F32, F16, BF16), else 0. */
#define FAMILY(NAME, ELEMENT)                                                             \
    static void NAME##_to_f32(size_t n, const void *row, float *out)                      \
    {                                                                                     \
        for (size_t i = 0; i < n / 32; i++)                                               \
            NAME##_group(row, i, out + 32 * i);                                           \
        if (ELEMENT && n % 32) {                                                          \
            uint8_t tail[128] = {0};                                                      \
            float w[32];                                                                  \
            memcpy(tail, (const uint8_t *)row + n / 32 * 32 * ELEMENT, n % 32 * ELEMENT); \
            NAME##_group(tail, 0, w);                                                     \
            memcpy(out + n / 32 * 32, w, n % 32 * sizeof *w);                             \
        }                                                                                 \
    }                                                                                     \
    static float NAME##_dot(size_t n, const void *row, const float *x)                    \
    {                                                                                     \
        float w[32], acc[8] = {0};                                                        \
        for (size_t i = 0; i < n / 32; i++) {                                             \
            NAME##_group(row, i, w);                                                      \
            add_group(w, x + 32 * i, acc);                                                \
        }                                                                                 \
        if (ELEMENT && n % 32) {                                                          \
            uint8_t tail[128] = {0};                                                      \
            float xs[32] = {0};                                                           \
            memcpy(tail, (const uint8_t *)row + n / 32 * 32 * ELEMENT, n % 32 * ELEMENT); \
            memcpy(xs, x + n / 32 * 32, n % 32 * sizeof *xs);                             \
            NAME##_group(tail, 0, w);                                                     \
            add_group(w, xs, acc);                                                        \
        }                                                                                 \
        return quant_add_lanes(acc);                                                      \
    }                                                                                     \
    static void NAME##_dot_side(size_t n, const void *row, size_t apart, const float *x,  \
                                float y[QUANT_SIDE])                                      \
    {                                                                                     \
        for (unsigned i = 0; i < QUANT_SIDE; i++)                                         \
            y[i] = NAME##_dot(n, (const uint8_t *)row + i * apart, x);                    \
    }
FAMILY(f32, 4)
FAMILY(f16, 2)
FAMILY(bf16, 2)
FAMILY(q8_0, 0)
FAMILY(q4_0, 0)
FAMILY(q4_k, 0)
FAMILY(q6_k, 0)

#define OPS(NAME)                                  \
    {                                              \
        NAME##_to_f32, NAME##_dot, NAME##_dot_side \
    }
const struct quant_ops quant_portable[QUANT_TYPES] = {
    [GGML_F32] = OPS(f32),   [GGML_F16] = OPS(f16),   [GGML_BF16] = OPS(bf16), [GGML_Q8_0] = OPS(q8_0),
    [GGML_Q4_0] = OPS(q4_0), [GGML_Q4_K] = OPS(q4_k), [GGML_Q6_K] = OPS(q6_k),
};

static const struct quant_ops *of_family(const struct kernels *kernels, uint32_t type)
{
    assert(ggml_type_supported(type));
    return strcmp(kernels->name, "portable") == 0 ? &quant_portable[type] : &quant_avx2[type];
}

const struct quant_ops *quant_ops_named(const char *family, uint32_t type)
{
    const struct kernels *kernels = kernels_named(family);
    return kernels ? of_family(kernels, type) : NULL;
}

/* Called for every few rows: asking what the CPU can (kernels_named) would cost more than their product, as a
 * virtual machine traps that. */
const struct quant_ops *quant_ops(uint32_t type)
{
    return of_family(kernels_get(), type);
}
