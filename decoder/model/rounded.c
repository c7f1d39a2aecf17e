/* rounded.c: rounding, the portable family and the choice of one; see rounded.h. */
#include "decoder/model/rounded.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "decoder/kernels/kernels.h"
#include "decoder/model/quant.h"

size_t rounded_bytes(size_t n)
{
    return (n + n / 32 * 2 * sizeof(float) + n / 16 * sizeof(int16_t) + 63) / 64 * 64;
}

struct rounded rounded_at(void *memory, size_t n)
{
    struct rounded r = {.q = memory};
    r.d = (float *)(void *)(r.q + n);
    r.sum = r.d + n / 32;
    r.sum16 = (int16_t *)(void *)(r.sum + n / 32);
    return r;
}

void rounded_from_f32(size_t n, const float *x, struct rounded *out)
{
    for (size_t b = 0; b < n / 32; b++, x += 32) {
        float max = 0, unit;
        bool finite = true;
        for (unsigned i = 0; i < 32; i++) {
            finite &= isfinite(x[i]) != 0;
            max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
        }
        out->d[b] = finite ? max / 127 : NAN;
        unit = out->d[b] > 0 ? 1 / out->d[b] : 0;
        int32_t sum[2] = {0};
        for (unsigned i = 0; i < 32; i++) {
            float code = nearbyintf(finite ? x[i] * unit : 0);
            int32_t q = (int32_t)(code > 127 ? 127 : code < -127 ? -127 : code);
            out->q[32 * b + i] = (int8_t)q;
            sum[i / 16] += q;
        }
        out->sum16[2 * b] = (int16_t)sum[0];
        out->sum16[2 * b + 1] = (int16_t)sum[1];
        out->sum[b] = out->d[b] * (float)(sum[0] + sum[1]);
    }
}

/* ---- the portable family: a unit of a type's weights, 32 or a block of 256 ---- */

/* Lane l: the products of four codes. */
static inline int32_t four(const int8_t *w, const int8_t *q, unsigned l)
{
    int32_t sum = 0;
    for (unsigned j = 4 * l; j < 4 * l + 4; j++)
        sum += w[j] * q[j];
    return sum;
}

static void q8_0_add(const uint8_t *row, size_t i, const struct rounded *x, float acc[8])
{
    const uint8_t *b = row + i * Q8_0_BYTES;
    float scale = quant_f16(b) * x->d[i];
    for (unsigned l = 0; l < 8; l++)
        acc[l] += scale * (float)four((const int8_t *)b + 2, x->q + 32 * i, l);
}

static void q4_0_add(const uint8_t *row, size_t i, const struct rounded *x, float acc[8])
{
    const uint8_t *b = row + i * Q4_0_BYTES;
    float scale = quant_f16(b) * x->d[i];
    int8_t w[32];
    for (unsigned j = 0; j < 16; j++) {
        w[j] = (int8_t)((b[2 + j] & 15) - 8);
        w[16 + j] = (int8_t)((b[2 + j] >> 4) - 8);
    }
    for (unsigned l = 0; l < 8; l++)
        acc[l] += scale * (float)four(w, x->q + 32 * i, l);
}

static void q4_k_add(const uint8_t *row, size_t block, const struct rounded *x, float acc[8])
{
    const uint8_t *b = row + block * Q4_K_BYTES;
    float d = quant_f16(b), dmin = quant_f16(b + 2);
    for (unsigned sub = 0; sub < 8; sub++) {
        size_t i = 8 * block + sub;
        uint8_t scale, min;
        int8_t w[32];
        q4_k_scale(b + 4, sub, &scale, &min);
        for (unsigned j = 0; j < 32; j++)
            w[j] = (int8_t)(b[16 + sub / 2 * 32 + j] >> sub % 2 * 4 & 15);
        for (unsigned l = 0; l < 8; l++)
            acc[l] += d * x->d[i] * (float)(scale * four(w, x->q + 32 * i, l));
        acc[sub] -= dmin * (float)min * x->sum[i];
    }
}

static void q6_k_add(const uint8_t *row, size_t block, const struct rounded *x, float acc[8])
{
    const uint8_t *b = row + block * Q6_K_BYTES;
    const int8_t *scale = (const int8_t *)b + 192;
    float d = quant_f16(b + 208);
    for (unsigned sub = 0; sub < 8; sub++, scale += 2) {
        const unsigned half = sub / 4, k = sub % 4;
        const uint8_t *low = b + 64 * half + 32 * (k % 2), *high = b + 128 + 32 * half;
        size_t i = 8 * block + sub;
        float unit = d * x->d[i];
        int8_t w[32];
        for (unsigned j = 0; j < 32; j++)
            w[j] = (int8_t)((low[j] >> k / 2 * 4 & 15) | (high[j] >> 2 * k & 3) << 4);
        for (unsigned l = 0; l < 8; l++)
            acc[l] += unit * (float)(scale[l / 4] * four(w, x->q + 32 * i, l));
        acc[sub] -= 32 * unit * (float)(scale[0] * x->sum16[2 * i] + scale[1] * x->sum16[2 * i + 1]);
    }
}

#define FAMILY(NAME, UNIT)                                                                                  \
    static void NAME##_dot(unsigned rows, size_t n, const void *row, size_t apart, const struct rounded *x, \
                           float *y)                                                                        \
    {                                                                                                       \
        for (unsigned r = 0; r < rows; r++) {                                                               \
            float acc[8] = {0};                                                                             \
            for (size_t i = 0; i < n / (UNIT); i++)                                                         \
                NAME##_add((const uint8_t *)row + r * apart, i, x, acc);                                    \
            y[r] = quant_add_lanes(acc);                                                                    \
        }                                                                                                   \
    }
FAMILY(q8_0, 32)
FAMILY(q4_0, 32)
FAMILY(q4_k, QK_N)
FAMILY(q6_k, QK_N)

rounded_dot *const rounded_portable[ROUNDED_TYPES] = {
    [GGML_Q8_0] = q8_0_dot, [GGML_Q4_0] = q4_0_dot, [GGML_Q4_K] = q4_k_dot, [GGML_Q6_K] = q6_k_dot};

static rounded_dot *of_family(const struct kernels *kernels, uint32_t type)
{
    rounded_dot *const *all = strcmp(kernels->name, "portable") == 0 ? rounded_portable : rounded_avx2;
    return type < ROUNDED_TYPES ? all[type] : NULL;
}

rounded_dot *rounded_dot_named(const char *family, uint32_t type)
{
    const struct kernels *kernels = kernels_named(family);
    return kernels ? of_family(kernels, type) : NULL;
}

rounded_dot *rounded_dot_of(uint32_t type)
{
    return of_family(kernels_get(), type);
}
