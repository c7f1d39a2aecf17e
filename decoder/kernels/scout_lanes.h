/* scout_lanes.h: what the two ways of multiplying 4-bit codes share: the group's layout, log mass, the row
 * loop.
 *
 * A *.c file defines add_rows (32-bit sums per page, exact, so both give the same bits) and SCOUT_GROUPS, its
 * function's name, and includes this once. Only for x86 files with AVX2. */
#ifndef KERNELS_SCOUT_LANES_H
#define KERNELS_SCOUT_LANES_H

#include "decoder/kernels/families.h"
#include "decoder/kernels/lanes_avx2.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

enum { MAX_ROWS = 4, WIDEN_ROWS = 4 };

/* acc (rows), 32 bit per page, += codes·q of n (at most WIDEN_ROWS) rows of a group. */
INLINE void add_rows(const unsigned rows, unsigned n, unsigned d_k, const uint8_t *codes, const int8_t *q8,
                     __m256i *acc);

/* log Σ exp of each page's terms, which come as multiples of ln 2: exp2 is cheaper than exp. term[0] is the
 * centre's, still without its count and spread. */
INLINE __m256 log_mass(unsigned n_vec, __m256 *term, __m256 variance, __m256 lcount)
{
    __m256 two = _mm256_add_ps(lcount, lcount);
    __m256 linear = _mm256_mul_ps(variance, _mm256_set1_ps(0.5f));
    __m256 frozen = _mm256_sub_ps(_mm256_sqrt_ps(_mm256_mul_ps(variance, two)), lcount);
    __m256 gain = _mm256_blendv_ps(frozen, linear, _mm256_cmp_ps(variance, two, _CMP_LE_OQ));
    term[0] = _mm256_fmadd_ps(_mm256_add_ps(gain, lcount), _mm256_set1_ps(EXP_LOG2E), term[0]);
    __m256 max = term[0];
    for (unsigned i = 1; i < n_vec; i++)
        max = _mm256_max_ps(term[i], max);
    __m256 beyond = _mm256_setzero_ps(); /* log of the sum relative to its largest term: 0 for one term */
    if (n_vec > 1) {
        __m256 sum = _mm256_setzero_ps();
        for (unsigned i = 0; i < n_vec; i++)
            sum = _mm256_add_ps(sum, exp2_avx2(_mm256_sub_ps(term[i], max)));
        beyond = log_avx2(sum);
    }
    __m256 mass = _mm256_fmadd_ps(max, _mm256_set1_ps(LN_2), beyond);
    const __m256 none = _mm256_set1_ps(-INFINITY);
    return _mm256_blendv_ps(mass, none, _mm256_cmp_ps(lcount, none, _CMP_EQ_OQ));
}

/* Representatives are read once a step: they should pass through the caches without driving out what the rest
 * of the step will want again (weights, window, held pages). */
INLINE void prefetch_once(const uint8_t *group, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += 64)
        _mm_prefetch((const char *)group + at, _MM_HINT_NTA);
}

/* One group against `rows` query rows: out row r at out + r·ld. */
INLINE void score_rows(const unsigned rows, unsigned d_k, unsigned n_vec, const uint8_t *group,
                       const int8_t *restrict q8, const float *restrict qscale, const int32_t *restrict qsum,
                       const float *restrict qsq, float *restrict out, size_t ld)
{
    const unsigned n = d_k / 8;
    const uint8_t *codes = group;
    const float *tail = (const float *)(const void *)(group + (size_t)n_vec * n * 32);
    __m256 term[MAX_ROWS][SCOUT_MAX_VECS];
    for (unsigned v = 0; v < n_vec; v++) {
        __m256i acc[MAX_ROWS];
        for (unsigned r = 0; r < rows; r++)
            acc[r] = _mm256_setzero_si256();
        unsigned i = 0;
        for (; i + WIDEN_ROWS <= n; i += WIDEN_ROWS, codes += 32 * WIDEN_ROWS)
            add_rows(rows, WIDEN_ROWS, d_k, codes, q8 + 8 * i, acc);
        if (i < n)
            add_rows(rows, n - i, d_k, codes, q8 + 8 * i, acc);
        codes += 32 * (size_t)(n - i);
        __m256 scale = _mm256_loadu_ps(tail + 8 * v);
        for (unsigned r = 0; r < rows; r++) {
            __m256 dot = _mm256_cvtepi32_ps(_mm256_sub_epi32(acc[r], _mm256_set1_epi32(8 * qsum[r])));
            term[r][v] = _mm256_mul_ps(dot, _mm256_mul_ps(scale, _mm256_set1_ps(qscale[r] * EXP_LOG2E)));
        }
    }
    __m256 spread = _mm256_loadu_ps(tail + 8 * n_vec), lcount = _mm256_loadu_ps(tail + 8 * n_vec + 8);
    for (unsigned r = 0; r < rows; r++) {
        __m256 variance = _mm256_mul_ps(spread, _mm256_set1_ps(qsq[r]));
        _mm256_storeu_ps(out + r * ld, log_mass(n_vec, term[r], variance, lcount));
    }
}

INLINE void score_all(size_t n_groups, const unsigned g, unsigned d_k, unsigned n_vec, const uint8_t *groups,
                      const int8_t *restrict q8, const float *restrict qscale, const int32_t *restrict qsum,
                      const float *restrict qsq, float *restrict out, size_t ld)
{
    const size_t bytes = (size_t)n_vec * (d_k / 8 * 32 + 32) + 64;
    for (size_t i = 0; i < n_groups; i++, groups += bytes, out += SCOUT_LANES) {
        if (i + SCOUT_AHEAD < n_groups)
            prefetch_once(groups + SCOUT_AHEAD * bytes, bytes);
        unsigned r = 0;
        for (; g - r >= 4; r += 4)
            score_rows(4, d_k, n_vec, groups, q8 + (size_t)r * d_k, qscale + r, qsum + r, qsq + r,
                       out + r * ld, ld);
        if (g - r >= 2) {
            score_rows(2, d_k, n_vec, groups, q8 + (size_t)r * d_k, qscale + r, qsum + r, qsq + r,
                       out + r * ld, ld);
            r += 2;
        }
        if (r < g)
            score_rows(1, d_k, n_vec, groups, q8 + (size_t)r * d_k, qscale + r, qsum + r, qsq + r,
                       out + r * ld, ld);
    }
}

/* The usual shapes with their loops unrolled. */
void SCOUT_GROUPS(size_t n_groups, unsigned g, unsigned d_k, unsigned n_vec, const uint8_t *groups,
                  const int8_t *q8, const float *qscale, const int32_t *qsum, const float *qsq, float *out,
                  size_t ld)
{
    assert(d_k % 8 == 0 && d_k <= HEAD_MAX_DIMS && n_vec >= 1 && n_vec <= SCOUT_MAX_VECS);
#define USUAL(G, D, V)                                                        \
    if (g == G && d_k == D && n_vec == V) {                                   \
        score_all(n_groups, G, D, V, groups, q8, qscale, qsum, qsq, out, ld); \
        return;                                                               \
    }
    USUAL(2, 64, 1)
    USUAL(2, 64, 6)
    USUAL(4, 128, 1)
    USUAL(4, 128, 6)
    USUAL(8, 128, 1)
    USUAL(8, 128, 6)
#undef USUAL
    score_all(n_groups, g, d_k, n_vec, groups, q8, qscale, qsum, qsq, out, ld);
}

#endif
