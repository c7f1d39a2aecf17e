/* dots.c: the portable family and the choice of one; see dots.h. */
#include "decoder/model/dots.h"

#include <string.h>

#include "decoder/kernels/kernels.h"
#include "decoder/model/gguf.h"
#include "decoder/model/quant.h"

static inline float f32_at(const uint8_t *row, size_t i)
{
    float f;
    memcpy(&f, row + 4 * i, sizeof f);
    return f;
}

static inline float f16_at(const uint8_t *row, size_t i)
{
    return quant_f16(row + 2 * i);
}

static inline float bf16_at(const uint8_t *row, size_t i)
{
    return quant_bf16(row + 2 * i);
}

#define ADD(NAME)                                                                                            \
    static void add_##NAME(bool begin, unsigned rows, unsigned n, size_t len, const void *w, size_t w_bytes, \
                           const float *x, float *sums, size_t sums_stride, struct dots_ahead ahead)         \
    {                                                                                                        \
        (void)ahead;                                                                                         \
        for (unsigned r = 0; r < rows; r++)                                                                  \
            for (unsigned t = 0; t < n; t++) {                                                               \
                const uint8_t *row = (const uint8_t *)w + r * w_bytes;                                       \
                float *sum = sums + t * sums_stride + r * QUANT_LANES;                                       \
                for (unsigned j = 0; begin && j < QUANT_LANES; j++)                                          \
                    sum[j] = 0;                                                                              \
                for (size_t i = 0; i < len; i += QUANT_LANES)                                                \
                    for (unsigned j = 0; j < QUANT_LANES; j++)                                               \
                        sum[j] += NAME##_at(row, i + j) * x[i * n + t * QUANT_LANES + j];                    \
            }                                                                                                \
    }
ADD(f32)
ADD(f16)
ADD(bf16)

static void sum(size_t n, const float *sums, float *out)
{
    for (size_t i = 0; i < n; i++) {
        float lanes[QUANT_LANES];
        memcpy(lanes, sums + i * QUANT_LANES, sizeof lanes);
        out[i] = quant_add_lanes(lanes);
    }
}

const struct dots_ops dots_portable = {add_f32, add_f16, add_bf16, sum};

static const struct dots_ops *of_family(const struct kernels *kernels)
{
    return strcmp(kernels->name, "portable") == 0 ? &dots_portable : &dots_avx2;
}

const struct dots_ops *dots_ops_named(const char *family)
{
    const struct kernels *kernels = kernels_named(family);
    return kernels ? of_family(kernels) : NULL;
}

const struct dots_ops *dots_ops(void)
{
    return of_family(kernels_get());
}

dots_add *dots_of_type(const struct dots_ops *ops, uint32_t type)
{
    return type == GGML_F32 ? ops->f32 : type == GGML_F16 ? ops->f16 : type == GGML_BF16 ? ops->bf16 : NULL;
}
