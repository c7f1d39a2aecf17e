/* quant_write.c: from f32 to the formats; see quant.h. Every quantiser picks scales that cover the block and
 * rounds each weight to the nearest code. */
#include "decoder/model/quant.h"

#include <assert.h>
#include <math.h>

#include "decoder/kernels/kernels.h"

static float put_f16(float x, uint8_t *out) /* returns the value that was stored */
{
    uint16_t h;
    kernels_get()->f32_to_f16(1, &x, &h);
    memcpy(out, &h, sizeof h);
    return quant_f16(out);
}

static int code(float x, float scale, int lowest, int highest)
{
    int q = scale != 0 ? (int)lrintf(x / scale) : 0;
    return q < lowest ? lowest : q > highest ? highest : q;
}

static float largest(size_t n, const float *x) /* by magnitude, with its sign */
{
    float best = 0;
    for (size_t i = 0; i < n; i++)
        if (fabsf(x[i]) > fabsf(best))
            best = x[i];
    return best;
}

static void bf16_row(size_t n, const float *x, uint8_t *out)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        uint16_t h = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16); /* to nearest even */
        memcpy(out + 2 * i, &h, sizeof h);
    }
}

static void q8_0_block(const float *x, uint8_t *b)
{
    float d = put_f16(fabsf(largest(Q8_0_N, x)) / 127, b);
    for (unsigned j = 0; j < Q8_0_N; j++)
        b[2 + j] = (uint8_t)(int8_t)code(x[j], d, -127, 127);
}

static void q4_0_block(const float *x, uint8_t *b)
{
    float d =
        put_f16(largest(Q4_0_N, x) / -8, b); /* the largest gets code -8, the one that has no negative */
    for (unsigned j = 0; j < Q4_0_N / 2; j++)
        b[2 + j] = (uint8_t)((code(x[j], d, -8, 7) + 8) | (code(x[j + 16], d, -8, 7) + 8) << 4);
}

static void q4_k_block(const float *x, uint8_t *b)
{
    float scale[8], min[8], top_scale = 0, top_min = 0;
    for (unsigned s = 0; s < 8; s++) {
        float lo = 0, hi = 0; /* minima are stored negated and can't be negative, so 0 lies in every range */
        for (unsigned j = 0; j < 32; j++) {
            lo = fminf(lo, x[32 * s + j]);
            hi = fmaxf(hi, x[32 * s + j]);
        }
        scale[s] = (hi - lo) / 15;
        min[s] = -lo;
        top_scale = fmaxf(top_scale, scale[s]);
        top_min = fmaxf(top_min, min[s]);
    }
    memset(b, 0, Q4_K_BYTES);
    float d = put_f16(top_scale / 63, b), dmin = put_f16(top_min / 63, b + 2);
    uint8_t *scales = b + 4, *q = b + 16;
    for (unsigned s = 0; s < 8; s++) {
        int sc = code(scale[s], d, 0, 63), mi = code(min[s], dmin, 0, 63);
        if (s < 4) {
            scales[s] |= (uint8_t)sc;
            scales[s + 4] |= (uint8_t)mi;
        } else {
            scales[s + 4] = (uint8_t)((sc & 15) | (mi & 15) << 4);
            scales[s - 4] |= (uint8_t)((sc >> 4) << 6);
            scales[s] |= (uint8_t)((mi >> 4) << 6);
        }
        for (unsigned j = 0; j < 32; j++)
            q[s / 2 * 32 + j] |=
                (uint8_t)(code(x[32 * s + j] + dmin * (float)mi, d * (float)sc, 0, 15) << s % 2 * 4);
    }
}

static void q6_k_block(const float *x, uint8_t *b)
{
    float scale[16], top = 0;
    for (unsigned s = 0; s < 16; s++) {
        scale[s] = fabsf(largest(16, x + 16 * s)) / 31;
        top = fmaxf(top, scale[s]);
    }
    memset(b, 0, Q6_K_BYTES);
    float d = put_f16(top / 127, b + 208);
    for (unsigned i = 0; i < QK_N; i++) {
        unsigned half = i / 128, k = i % 128 / 32, j = i % 32;
        int sc = code(scale[i / 16], d, 0, 127);
        int q = code(x[i], d * (float)sc, -32, 31) + 32;
        b[64 * half + 32 * (k % 2) + j] |= (uint8_t)((q & 15) << k / 2 * 4);
        b[128 + 32 * half + j] |= (uint8_t)((q >> 4) << 2 * k);
        b[192 + i / 16] = (uint8_t)sc;
    }
}

void quant_from_f32(uint32_t type, size_t n, const float *x, void *row)
{
    static const struct {
        void (*block)(const float *, uint8_t *);
        unsigned n, bytes;
    } blocks[QUANT_TYPES] = {
        [GGML_Q8_0] = {q8_0_block, Q8_0_N, Q8_0_BYTES},
        [GGML_Q4_0] = {q4_0_block, Q4_0_N, Q4_0_BYTES},
        [GGML_Q4_K] = {q4_k_block, QK_N, Q4_K_BYTES},
        [GGML_Q6_K] = {q6_k_block, QK_N, Q6_K_BYTES},
    };
    assert(ggml_type_supported(type));
    switch (type) {
    case GGML_F32:
        memcpy(row, x, n * sizeof *x);
        return;
    case GGML_F16:
        kernels_get()->f32_to_f16(n, x, row);
        return;
    case GGML_BF16:
        bf16_row(n, x, row);
        return;
    }
    assert(n % blocks[type].n == 0);
    for (size_t i = 0; i < n / blocks[type].n; i++)
        blocks[type].block(x + i * blocks[type].n, (uint8_t *)row + i * blocks[type].bytes);
}
