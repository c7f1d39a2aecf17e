/* dots_avx2.c: the AVX2 family (with FMA); see dots.h. Elsewhere than on x86-64 it is empty and never chosen.
 *
 * A block is R rows by T vectors, R·T = 12: of the 16 registers 12 hold sums, T hold x, one a weight. */
#include "decoder/model/dots.h"

#ifdef __AVX2__
#include <immintrin.h>

static void lay_out(size_t cols, const float *row, float *out, size_t stride)
{
    for (size_t i = 0; i < cols / 32; i++)
        for (unsigned j = 0; j < DOTS_OCTETS; j++)
            _mm256_storeu_ps(out + j * stride + 8 * i, _mm256_loadu_ps(row + 32 * i + 8 * j));
    for (size_t i = cols / 32 * 32; i < (cols + 31) / 32 * 32; i++)
        out[i / 8 % 4 * stride + i / 32 * 8 + i % 8] = i < cols ? row[i] : 0;
}

static inline __attribute__((always_inline)) void block(const unsigned R, const unsigned T, size_t len,
                                                        const float *w, const float *x, size_t stride,
                                                        float *sums, size_t sums_stride)
{
    __m256 sum[12];
    for (unsigned r = 0; r < R; r++)
        for (unsigned t = 0; t < T; t++)
            sum[r * T + t] = _mm256_loadu_ps(sums + r * sums_stride + t * 8);
    for (size_t i = 0; i < len; i += 8) {
        __m256 xs[DOTS_VECTORS];
        for (unsigned t = 0; t < T; t++)
            xs[t] = _mm256_loadu_ps(x + t * stride + i);
        for (unsigned r = 0; r < R; r++) {
            __m256 weight = _mm256_loadu_ps(w + r * stride + i);
            for (unsigned t = 0; t < T; t++)
                sum[r * T + t] = _mm256_fmadd_ps(weight, xs[t], sum[r * T + t]);
        }
    }
    for (unsigned r = 0; r < R; r++)
        for (unsigned t = 0; t < T; t++)
            _mm256_storeu_ps(sums + r * sums_stride + t * 8, sum[r * T + t]);
}

/* T vectors by all rows, R at a time. */
#define COLUMN(T, R)                                                                                 \
    static void column_##T(unsigned rows, size_t len, const float *w, const float *x, size_t stride, \
                           float *sums, size_t sums_stride)                                          \
    {                                                                                                \
        unsigned r = 0;                                                                              \
        for (; r + R <= rows; r += R)                                                                \
            block(R, T, len, w + r * stride, x, stride, sums + r * sums_stride, sums_stride);        \
        for (; r < rows; r++)                                                                        \
            block(1, T, len, w + r * stride, x, stride, sums + r * sums_stride, sums_stride);        \
    }
COLUMN(1, 12)
COLUMN(2, 6)
COLUMN(3, 4)
COLUMN(4, 3)

static void add(unsigned rows, unsigned n, size_t len, const float *w, const float *x, size_t stride,
                float *sums, size_t sums_stride)
{
    (n == 4   ? column_4
     : n == 3 ? column_3
     : n == 2 ? column_2
              : column_1)(rows, len, w, x, stride, sums, sums_stride);
}

/* The tree of quant_avx2.c's dot. */
static void sum(size_t n, const float *sums, float *out)
{
    for (size_t i = 0; i < n; i++, sums += 8) {
        __m256 v =
            _mm256_add_ps(_mm256_add_ps(_mm256_loadu_ps(sums), _mm256_loadu_ps(sums + 8 * n)),
                          _mm256_add_ps(_mm256_loadu_ps(sums + 16 * n), _mm256_loadu_ps(sums + 24 * n)));
        __m128 h = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        h = _mm_add_ps(h, _mm_movehl_ps(h, h));
        out[i] = _mm_cvtss_f32(_mm_add_ss(h, _mm_movehdup_ps(h)));
    }
}

const struct dots_ops dots_avx2 = {lay_out, add, sum};
#else
const struct dots_ops dots_avx2;
#endif
