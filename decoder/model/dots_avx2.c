/* dots_avx2.c: the AVX2 family (with FMA and F16C); see dots.h. Elsewhere than on x86-64 it is empty and
 * never chosen.
 *
 * A block is R rows by T vectors, R·T = 12: of the 16 registers 12 hold sums. Weights of R rows wait in
 * others while vectors come one by one, or the other way round, whichever are fewer. Halves are turned into
 * floats on their way into the units, again for every four vectors: a tile that is stored and read again
 * costs more. */
#include "decoder/model/dots.h"

#ifdef __AVX2__
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

INLINE __m256 f32_8(const uint8_t *row, size_t i)
{
    return _mm256_loadu_ps((const float *)(const void *)(row + 4 * i));
}

INLINE __m256 f16_8(const uint8_t *row, size_t i)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(row + 2 * i)));
}

INLINE __m256 bf16_8(const uint8_t *row, size_t i)
{
    __m256i h = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(row + 2 * i)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(h, 16));
}

/* sum += weight · x, all three in registers: what compilers make of the intrinsic loads x again with each
 * product, and the first cache gives less than a load a product. */
INLINE void add_product(__m256 *sum, __m256 weight, __m256 x)
{
    __asm__("vfmadd231ps %2, %1, %0" : "+x"(*sum) : "x"(weight), "x"(x));
}

/* Eight columns: x (T, 8). Of weights and vectors the fewer wait in registers, the others come one by one. */
INLINE void step(__m256 (*const weights)(const uint8_t *, size_t), const unsigned R, const unsigned T,
                 const uint8_t *w, size_t w_bytes, size_t i, const float *x, __m256 *sum)
{
    const bool by_vector = R < T;
    __m256 waiting[DOTS_VECTORS];
    for (unsigned j = 0; j < (by_vector ? R : T); j++)
        waiting[j] = by_vector ? weights(w + j * w_bytes, i) : _mm256_loadu_ps(x + j * QUANT_LANES);
    for (unsigned k = 0; k < (by_vector ? T : R); k++) {
        __m256 one = by_vector ? _mm256_loadu_ps(x + k * QUANT_LANES) : weights(w + k * w_bytes, i);
        for (unsigned j = 0; j < (by_vector ? R : T); j++)
            add_product(by_vector ? &sum[j * T + k] : &sum[k * T + j], waiting[j], one);
    }
}

INLINE void block(__m256 (*const weights)(const uint8_t *, size_t), bool begin, const unsigned R,
                  const unsigned T, size_t len, const uint8_t *w, size_t w_bytes, const float *x, float *sums,
                  size_t sums_stride, struct dots_ahead ahead)
{
    __m256 sum[DOTS_PRODUCTS];
    for (unsigned r = 0; r < R; r++)
        for (unsigned t = 0; t < T; t++)
            sum[r * T + t] =
                begin ? _mm256_setzero_ps() : _mm256_loadu_ps(sums + t * sums_stride + r * QUANT_LANES);
    size_t i = 0;
    for (; i + DOTS_STRIDE <= len; i += DOTS_STRIDE, x += DOTS_STRIDE * T, ahead.at += ahead.step) {
        __builtin_prefetch(ahead.at, 0, 2);
#pragma GCC unroll 4
        for (size_t j = 0; j < DOTS_STRIDE; j += QUANT_LANES)
            step(weights, R, T, w, w_bytes, i + j, x + j * T, sum);
    }
    for (; i < len; i += QUANT_LANES, x += QUANT_LANES * T)
        step(weights, R, T, w, w_bytes, i, x, sum);
    for (unsigned r = 0; r < R; r++)
        for (unsigned t = 0; t < T; t++)
            _mm256_storeu_ps(sums + t * sums_stride + r * QUANT_LANES, sum[r * T + t]);
}

/* T vectors by all rows, R at a time. */
#define COLUMN(NAME, T, R)                                                                                   \
    INLINE void column_##NAME##_##T(bool begin, unsigned rows, size_t len, const uint8_t *w, size_t w_bytes, \
                                    const float *x, float *sums, size_t sums_stride,                         \
                                    struct dots_ahead ahead)                                                 \
    {                                                                                                        \
        unsigned r = 0;                                                                                      \
        for (; r + R <= rows; r += R, w += R * w_bytes, sums += R * QUANT_LANES)                             \
            block(NAME##_8, begin, R, T, len, w, w_bytes, x, sums, sums_stride, ahead);                      \
        for (; r < rows; r++, w += w_bytes, sums += QUANT_LANES)                                             \
            block(NAME##_8, begin, 1, T, len, w, w_bytes, x, sums, sums_stride, ahead);                      \
    }
#define ADD(NAME)                                                                                            \
    COLUMN(NAME, 1, 12)                                                                                      \
    COLUMN(NAME, 2, 6)                                                                                       \
    COLUMN(NAME, 3, 4)                                                                                       \
    COLUMN(NAME, 4, 3)                                                                                       \
    static void add_##NAME(bool begin, unsigned rows, unsigned n, size_t len, const void *w, size_t w_bytes, \
                           const float *x, float *sums, size_t sums_stride, struct dots_ahead ahead)         \
    {                                                                                                        \
        if (n == 4)                                                                                          \
            column_##NAME##_4(begin, rows, len, w, w_bytes, x, sums, sums_stride, ahead);                    \
        else if (n == 3)                                                                                     \
            column_##NAME##_3(begin, rows, len, w, w_bytes, x, sums, sums_stride, ahead);                    \
        else if (n == 2)                                                                                     \
            column_##NAME##_2(begin, rows, len, w, w_bytes, x, sums, sums_stride, ahead);                    \
        else                                                                                                 \
            column_##NAME##_1(begin, rows, len, w, w_bytes, x, sums, sums_stride, ahead);                    \
    }
ADD(f32)
ADD(f16)
ADD(bf16)

/* The tree of quant_avx2.c's dot, of four at a time. */
static void sum(size_t n, const float *sums, float *out)
{
    __m128 h[4];
    for (; n >= 4; n -= 4, sums += 4 * QUANT_LANES, out += 4) {
        for (unsigned i = 0; i < 4; i++)
            h[i] = _mm_add_ps(_mm_loadu_ps(sums + i * QUANT_LANES), _mm_loadu_ps(sums + i * QUANT_LANES + 4));
        __m128 a = _mm_add_ps(_mm_unpacklo_ps(h[0], h[1]), _mm_unpackhi_ps(h[0], h[1]));
        __m128 b = _mm_add_ps(_mm_unpacklo_ps(h[2], h[3]), _mm_unpackhi_ps(h[2], h[3]));
        _mm_storeu_ps(out, _mm_add_ps(_mm_movelh_ps(a, b), _mm_movehl_ps(b, a)));
    }
    for (; n; n--, sums += QUANT_LANES, out++) {
        h[0] = _mm_add_ps(_mm_loadu_ps(sums), _mm_loadu_ps(sums + 4));
        h[0] = _mm_add_ps(h[0], _mm_movehl_ps(h[0], h[0]));
        *out = _mm_cvtss_f32(_mm_add_ss(h[0], _mm_movehdup_ps(h[0])));
    }
}

const struct dots_ops dots_avx2 = {add_f32, add_f16, add_bf16, sum};
#else
const struct dots_ops dots_avx2;
#endif
