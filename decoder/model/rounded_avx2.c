/* rounded_avx2.c: the AVX2 family (with FMA and F16C); see rounded.h. Elsewhere than on x86-64 it is empty
 * and never chosen.
 *
 * DESIGN. The units multiply unsigned bytes by signed ones: of signed weights the magnitude is taken, and the
 * sign goes to the activation. Pairs of products stay below 2^15 (at most 2·128·127), so nothing saturates.
 */
#include "decoder/model/rounded.h"

#ifdef __AVX2__
#include <immintrin.h>

#include "decoder/model/quant.h"

#define INLINE static inline __attribute__((always_inline))

INLINE __m256i codes(const struct rounded *x, size_t i)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)(x->q + 32 * i));
}

/* quant_f16 with F16C. */
INLINE float half(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return _cvtsh_ss(h);
}

/* Sums of two neighbours in 16 bits, w signed. */
INLINE __m256i pairs_signed(__m256i w, __m256i q)
{
    return _mm256_maddubs_epi16(_mm256_sign_epi8(w, w), _mm256_sign_epi8(q, w));
}

/* acc + scale · (pairs times `by`, two added) */
INLINE __m256 add_pairs(__m256i pairs, __m256i by, float scale, __m256 acc)
{
    return _mm256_fmadd_ps(_mm256_set1_ps(scale), _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, by)), acc);
}

INLINE __m256 q8_0_add(const uint8_t *row, size_t i, const struct rounded *x, __m256 acc)
{
    const uint8_t *b = row + i * Q8_0_BYTES;
    __m256i w = _mm256_loadu_si256((const __m256i *)(const void *)(b + 2));
    return add_pairs(pairs_signed(w, codes(x, i)), _mm256_set1_epi16(1), half(b) * x->d[i], acc);
}

INLINE __m256 q4_0_add(const uint8_t *row, size_t i, const struct rounded *x, __m256 acc)
{
    const uint8_t *b = row + i * Q4_0_BYTES;
    __m128i both = _mm_loadu_si128((const __m128i *)(const void *)(b + 2));
    __m256i w = _mm256_inserti128_si256(_mm256_castsi128_si256(both), _mm_srli_epi16(both, 4), 1);
    w = _mm256_sub_epi8(_mm256_and_si256(w, _mm256_set1_epi8(15)), _mm256_set1_epi8(8));
    return add_pairs(pairs_signed(w, codes(x, i)), _mm256_set1_epi16(1), half(b) * x->d[i], acc);
}

INLINE __m256 q4_k_add(const uint8_t *row, size_t block, const struct rounded *x, __m256 acc)
{
    const uint8_t *b = row + block * Q4_K_BYTES;
    const __m256i nibble = _mm256_set1_epi8(15);
    uint32_t w[3], pair[8];
    memcpy(w, b + 4, sizeof w);
    uint64_t scale = (w[0] & 0x3f3f3f3f) | (uint64_t)((w[2] & 0x0f0f0f0f) | (w[0] >> 2 & 0x30303030)) << 32;
    uint64_t min = (w[1] & 0x3f3f3f3f) | (uint64_t)((w[2] >> 4 & 0x0f0f0f0f) | (w[1] >> 2 & 0x30303030))
                                             << 32;
    __m256i scales = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)scale));
    __m256 mins = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)min)));
    _mm256_storeu_si256((__m256i *)(void *)pair, _mm256_or_si256(scales, _mm256_slli_epi32(scales, 16)));
    float d = half(b), dmin = half(b + 2);
    for (unsigned s = 0; s < 4; s++) {
        __m256i both = _mm256_loadu_si256((const __m256i *)(const void *)(b + 16 + 32 * s));
        __m256i low = _mm256_and_si256(both, nibble),
                high = _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble);
        size_t i = 8 * block + 2 * s;
        acc = add_pairs(_mm256_maddubs_epi16(low, codes(x, i)), _mm256_set1_epi32((int)pair[2 * s]),
                        d * x->d[i], acc);
        acc = add_pairs(_mm256_maddubs_epi16(high, codes(x, i + 1)), _mm256_set1_epi32((int)pair[2 * s + 1]),
                        d * x->d[i + 1], acc);
    }
    mins = _mm256_mul_ps(_mm256_set1_ps(dmin), mins);
    return _mm256_fnmadd_ps(mins, _mm256_loadu_ps(x->sum + 8 * block), acc);
}

INLINE __m256 q6_k_add(const uint8_t *row, size_t block, const struct rounded *x, __m256 acc)
{
    const uint8_t *b = row + block * Q6_K_BYTES;
    const __m256i nibble = _mm256_set1_epi8(15), top = _mm256_set1_epi8(0x30);
    /* the first of a pair of scales to the low half, the second to the high one */
    const __m256i spread = _mm256_setr_epi8(0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3,
                                            2, 3, 2, 3, 2, 3, 2, 3, 2, 3);
    __m256i scales = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(b + 192)));
    uint32_t pair[8];
    _mm256_storeu_si256((__m256i *)(void *)pair, scales);
    float d = half(b + 208);
    for (unsigned h = 0; h < 2; h++) {
        __m256i high = _mm256_loadu_si256((const __m256i *)(const void *)(b + 128 + 32 * h));
        for (unsigned k = 0; k < 4; k++) {
            const uint8_t *at = b + 64 * h + 32 * (k % 2);
            __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)at);
            low = _mm256_and_si256(k < 2 ? low : _mm256_srli_epi16(low, 4), nibble);
            __m256i bits = k == 0   ? _mm256_slli_epi16(high, 4)
                           : k == 1 ? _mm256_slli_epi16(high, 2)
                           : k == 2 ? high
                                    : _mm256_srli_epi16(high, 2);
            __m256i w = _mm256_or_si256(low, _mm256_and_si256(bits, top));
            size_t i = 8 * block + 4 * h + k;
            __m256i by = _mm256_shuffle_epi8(_mm256_set1_epi32((int)pair[4 * h + k]), spread);
            acc = add_pairs(_mm256_maddubs_epi16(w, codes(x, i)), by, d * x->d[i], acc);
        }
    }
    /* 32 was not taken from the codes: lane i of what that makes too much is of the i-th 32 */
    __m256i sums = _mm256_loadu_si256((const __m256i *)(const void *)(x->sum16 + 16 * block));
    __m256 unit = _mm256_mul_ps(_mm256_set1_ps(32 * d), _mm256_loadu_ps(x->d + 8 * block));
    return _mm256_fnmadd_ps(unit, _mm256_cvtepi32_ps(_mm256_madd_epi16(scales, sums)), acc);
}

INLINE float lanes(__m256 acc)
{
    float a[8];
    _mm256_storeu_ps(a, acc);
    return quant_add_lanes(a);
}

/* Four rows side by side: see quant_avx2.c. */
#define FAMILY(NAME, UNIT)                                                                                  \
    INLINE void NAME##_rows(const unsigned rows, size_t n, const uint8_t *row, size_t apart,                \
                            const struct rounded *x, float *y)                                              \
    {                                                                                                       \
        __m256 acc[QUANT_SIDE];                                                                             \
        for (unsigned r = 0; r < rows; r++)                                                                 \
            acc[r] = _mm256_setzero_ps();                                                                   \
        for (size_t i = 0; i < n / (UNIT); i++)                                                             \
            for (unsigned r = 0; r < rows; r++)                                                             \
                acc[r] = NAME##_add(row + r * apart, i, x, acc[r]);                                         \
        for (unsigned r = 0; r < rows; r++)                                                                 \
            y[r] = lanes(acc[r]);                                                                           \
    }                                                                                                       \
    static void NAME##_dot(unsigned rows, size_t n, const void *row, size_t apart, const struct rounded *x, \
                           float *y)                                                                        \
    {                                                                                                       \
        if (rows == QUANT_SIDE)                                                                             \
            NAME##_rows(QUANT_SIDE, n, row, apart, x, y);                                                   \
        else                                                                                                \
            for (unsigned r = 0; r < rows; r++)                                                             \
                NAME##_rows(1, n, (const uint8_t *)row + r * apart, 0, x, y + r);                           \
    }
FAMILY(q8_0, 32)
FAMILY(q4_0, 32)
FAMILY(q4_k, QK_N)
FAMILY(q6_k, QK_N)

rounded_dot *const rounded_avx2[ROUNDED_TYPES] = {
    [GGML_Q8_0] = q8_0_dot, [GGML_Q4_0] = q4_0_dot, [GGML_Q4_K] = q4_k_dot, [GGML_Q6_K] = q6_k_dot};
#else
rounded_dot *const rounded_avx2[ROUNDED_TYPES];
#endif
