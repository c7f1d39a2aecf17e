/* quant_avx2.c: the AVX2 family (with FMA and F16C); see quant.h. Elsewhere than on x86-64 it is empty and
 * never chosen. */
#include "decoder/model/quant.h"

#ifdef __AVX2__
#include <immintrin.h>

/* 32 weights: vector j holds weights 8j … 8j+7. */
struct group {
    __m256 v[4];
};

static inline struct group f32_group(const uint8_t *row, size_t i)
{
    struct group w;
    for (unsigned j = 0; j < 4; j++)
        w.v[j] = _mm256_loadu_ps((const float *)(const void *)(row + i * 128 + 32 * j));
    return w;
}

static inline struct group f16_group(const uint8_t *row, size_t i)
{
    struct group w;
    for (unsigned j = 0; j < 4; j++)
        w.v[j] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(row + i * 64 + 16 * j)));
    return w;
}

static inline struct group bf16_group(const uint8_t *row, size_t i)
{
    struct group w;
    for (unsigned j = 0; j < 4; j++) {
        __m256i h = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(row + i * 64 + 16 * j)));
        w.v[j] = _mm256_castsi256_ps(_mm256_slli_epi32(h, 16));
    }
    return w;
}

/* d·q for two vectors of 16 signed bytes, d0 for the first, d1 for the second. */
static inline struct group scaled(__m128i a, __m128i b, __m256 d0, __m256 d1)
{
    struct group w;
    w.v[0] = _mm256_mul_ps(d0, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(a)));
    w.v[1] = _mm256_mul_ps(d0, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(a, 8))));
    w.v[2] = _mm256_mul_ps(d1, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(b)));
    w.v[3] = _mm256_mul_ps(d1, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(b, 8))));
    return w;
}

static inline float half(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return _cvtsh_ss(h);
}

static inline struct group q8_0_group(const uint8_t *row, size_t i)
{
    const uint8_t *b = row + i * Q8_0_BYTES;
    __m256 d = _mm256_set1_ps(half(b));
    return scaled(_mm_loadu_si128((const __m128i *)(b + 2)), _mm_loadu_si128((const __m128i *)(b + 18)), d,
                  d);
}

static inline struct group q4_0_group(const uint8_t *row, size_t i)
{
    const uint8_t *b = row + i * Q4_0_BYTES;
    const __m128i nibble = _mm_set1_epi8(15), eight = _mm_set1_epi8(8);
    __m128i q = _mm_loadu_si128((const __m128i *)(b + 2));
    __m128i low = _mm_sub_epi8(_mm_and_si128(q, nibble), eight);
    __m128i high = _mm_sub_epi8(_mm_and_si128(_mm_srli_epi16(q, 4), nibble), eight);
    __m256 d = _mm256_set1_ps(half(b));
    return scaled(low, high, d, d);
}

static inline struct group q4_k_group(const uint8_t *row, size_t i)
{
    const uint8_t *b = row + i / 8 * Q4_K_BYTES;
    unsigned sub = i % 8;
    const uint8_t *q = b + 16 + sub / 2 * 32;
    const __m128i nibble = _mm_set1_epi8(15), shift = _mm_cvtsi32_si128(sub % 2 * 4);
    uint8_t scale, min;
    q4_k_scale(b + 4, sub, &scale, &min);
    __m128i q0 = _mm_and_si128(_mm_srl_epi16(_mm_loadu_si128((const __m128i *)q), shift), nibble);
    __m128i q1 = _mm_and_si128(_mm_srl_epi16(_mm_loadu_si128((const __m128i *)(q + 16)), shift), nibble);
    __m256 d = _mm256_set1_ps(half(b) * scale), m = _mm256_set1_ps(half(b + 2) * min);
    struct group w = scaled(q0, q1, d, d);
    for (unsigned j = 0; j < 4; j++)
        w.v[j] = _mm256_sub_ps(w.v[j], m);
    return w;
}

static inline __m128i q6_k_join(const uint8_t *low, const uint8_t *high, __m128i low_shift,
                                __m128i high_shift)
{
    __m128i l = _mm_srl_epi16(_mm_loadu_si128((const __m128i *)low), low_shift);
    __m128i h = _mm_srl_epi16(_mm_loadu_si128((const __m128i *)high), high_shift);
    l = _mm_and_si128(l, _mm_set1_epi8(15));
    h = _mm_slli_epi16(_mm_and_si128(h, _mm_set1_epi8(3)), 4);
    return _mm_sub_epi8(_mm_or_si128(l, h), _mm_set1_epi8(32));
}

static inline struct group q6_k_group(const uint8_t *row, size_t i)
{
    const uint8_t *b = row + i / 8 * Q6_K_BYTES;
    unsigned half128 = i % 8 / 4, k = i % 4;
    const uint8_t *low = b + 64 * half128 + 32 * (k % 2), *high = b + 128 + 32 * half128;
    const uint8_t *scale = b + 192 + 8 * half128 + 2 * k;
    __m128i low_shift = _mm_cvtsi32_si128(k / 2 * 4), high_shift = _mm_cvtsi32_si128(2 * k);
    float d = half(b + 208);
    return scaled(q6_k_join(low, high, low_shift, high_shift),
                  q6_k_join(low + 16, high + 16, low_shift, high_shift),
                  _mm256_set1_ps(d * (float)(int8_t)scale[0]), _mm256_set1_ps(d * (float)(int8_t)scale[1]));
}

static inline void store_group(struct group w, float *out)
{
    for (unsigned j = 0; j < 4; j++)
        _mm256_storeu_ps(out + 8 * j, w.v[j]);
}

static inline void add_group(struct group w, const float *x, __m256 acc[4])
{
    for (unsigned j = 0; j < 4; j++)
        acc[j] = _mm256_fmadd_ps(w.v[j], _mm256_loadu_ps(x + 8 * j), acc[j]);
}

static inline float add_lanes(const __m256 acc[4])
{
    __m256 v = _mm256_add_ps(_mm256_add_ps(acc[0], acc[1]), _mm256_add_ps(acc[2], acc[3]));
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_movehdup_ps(h)));
}

/* ELEMENT is the size of one weight where rows may end inside a group of 32 (F32, F16, BF16), else 0. */
#define FAMILY(NAME, ELEMENT)                                                             \
    static void NAME##_to_f32(size_t n, const void *row, float *out)                      \
    {                                                                                     \
        for (size_t i = 0; i < n / 32; i++)                                               \
            store_group(NAME##_group(row, i), out + 32 * i);                              \
        if (ELEMENT && n % 32) {                                                          \
            uint8_t tail[128] = {0};                                                      \
            float w[32];                                                                  \
            memcpy(tail, (const uint8_t *)row + n / 32 * 32 * ELEMENT, n % 32 * ELEMENT); \
            store_group(NAME##_group(tail, 0), w);                                        \
            memcpy(out + n / 32 * 32, w, n % 32 * sizeof *w);                             \
        }                                                                                 \
    }                                                                                     \
    static float NAME##_dot(size_t n, const void *row, const float *x)                    \
    {                                                                                     \
        __m256 zero = _mm256_setzero_ps(), acc[4] = {zero, zero, zero, zero};             \
        for (size_t i = 0; i < n / 32; i++)                                               \
            add_group(NAME##_group(row, i), x + 32 * i, acc);                             \
        if (ELEMENT && n % 32) {                                                          \
            uint8_t tail[128] = {0};                                                      \
            float xs[32] = {0};                                                           \
            memcpy(tail, (const uint8_t *)row + n / 32 * 32 * ELEMENT, n % 32 * ELEMENT); \
            memcpy(xs, x + n / 32 * 32, n % 32 * sizeof *xs);                             \
            add_group(NAME##_group(tail, 0), xs, acc);                                    \
        }                                                                                 \
        return add_lanes(acc);                                                            \
    }
FAMILY(f32, 4)
FAMILY(f16, 2)
FAMILY(bf16, 2)
FAMILY(q8_0, 0)
FAMILY(q4_0, 0)
FAMILY(q4_k, 0)
FAMILY(q6_k, 0)

const struct quant_ops quant_avx2[QUANT_TYPES] = {
    [GGML_F32] = {f32_to_f32, f32_dot},    [GGML_F16] = {f16_to_f32, f16_dot},
    [GGML_BF16] = {bf16_to_f32, bf16_dot}, [GGML_Q8_0] = {q8_0_to_f32, q8_0_dot},
    [GGML_Q4_0] = {q4_0_to_f32, q4_0_dot}, [GGML_Q4_K] = {q4_k_to_f32, q4_k_dot},
    [GGML_Q6_K] = {q6_k_to_f32, q6_k_dot},
};
#else
const struct quant_ops quant_avx2[QUANT_TYPES];
#endif
