/* lanes_avx2.h: eight floats at a time; explog.h has the polynomials and their reasons. Only for *_avx2.c. */
#ifndef KERNELS_LANES_AVX2_H
#define KERNELS_LANES_AVX2_H

#include "decoder/kernels/explog.h"

#include <immintrin.h>

/* exp of n <= 4 vectors, step by step: one alone keeps the units waiting for its chain of 15 operations, and
 * the processor does not see far enough to find the next. */
static inline __attribute__((always_inline)) void exp_many_avx2(const unsigned n, __m256 *x)
{
    __m256 p[4], power[4];
    for (unsigned j = 0; j < n; j++) {
        /* max and min return their second operand when one is NaN: NaN stays NaN */
        __m256 tiny = _mm256_cmp_ps(x[j], _mm256_set1_ps(EXP_LOWEST), _CMP_LT_OQ);
        x[j] = _mm256_min_ps(_mm256_set1_ps(EXP_HIGHEST), _mm256_max_ps(_mm256_set1_ps(EXP_LOWEST), x[j]));
        __m256i whole = _mm256_cvtps_epi32(_mm256_mul_ps(x[j], _mm256_set1_ps(EXP_LOG2E)));
        __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(whole, _mm256_set1_epi32(127)), 23);
        p[j] = _mm256_cvtepi32_ps(whole);
        power[j] = _mm256_andnot_ps(tiny, _mm256_castsi256_ps(exponent));
    }
    for (unsigned j = 0; j < n; j++)
        x[j] = _mm256_fnmadd_ps(p[j], _mm256_set1_ps(EXP_LN2_HIGH), x[j]);
    for (unsigned j = 0; j < n; j++)
        x[j] = _mm256_fnmadd_ps(p[j], _mm256_set1_ps(EXP_LN2_LOW), x[j]);
    for (unsigned j = 0; j < n; j++)
        p[j] = _mm256_fmadd_ps(_mm256_set1_ps(EXP_P4), x[j], _mm256_set1_ps(EXP_P3));
    for (unsigned j = 0; j < n; j++)
        p[j] = _mm256_fmadd_ps(p[j], x[j], _mm256_set1_ps(EXP_P2));
    for (unsigned j = 0; j < n; j++)
        p[j] = _mm256_fmadd_ps(p[j], x[j], _mm256_set1_ps(EXP_P1));
    for (unsigned j = 0; j < n; j++)
        p[j] = _mm256_fmadd_ps(p[j], x[j], _mm256_set1_ps(EXP_P0));
    for (unsigned j = 0; j < n; j++)
        p[j] = _mm256_add_ps(_mm256_fmadd_ps(p[j], _mm256_mul_ps(x[j], x[j]), x[j]), _mm256_set1_ps(1.0f));
    for (unsigned j = 0; j < n; j++)
        x[j] = _mm256_mul_ps(p[j], power[j]);
}

static inline __m256 exp_avx2(__m256 x)
{
    exp_many_avx2(1, &x);
    return x;
}

/* 2^x for -126 <= x <= 0; NaN stays NaN. */
static inline __m256 exp2_within_avx2(__m256 x)
{
    __m256i n = _mm256_cvtps_epi32(x);
    __m256 f = _mm256_sub_ps(x, _mm256_cvtepi32_ps(n));
    __m256 q = _mm256_fmadd_ps(_mm256_set1_ps(EXP2_Q4), f, _mm256_set1_ps(EXP2_Q3));
    q = _mm256_fmadd_ps(q, f, _mm256_set1_ps(EXP2_Q2));
    q = _mm256_fmadd_ps(q, f, _mm256_set1_ps(EXP2_Q1));
    q = _mm256_fmadd_ps(q, f, _mm256_set1_ps(EXP2_Q0));
    __m256i e = _mm256_castps_si256(_mm256_fmadd_ps(q, f, _mm256_set1_ps(1.0f)));
    return _mm256_castsi256_ps(_mm256_add_epi32(e, _mm256_slli_epi32(n, 23)));
}

static inline __m256 exp2_avx2(__m256 x)
{
    return exp2_within_avx2(_mm256_max_ps(_mm256_set1_ps(EXP2_LOWEST), x));
}

/* e^x for x <= 0 in two thirds of the operations of exp_avx2: relative error 3e-7 and 1e-7 times |x| (x in
 * multiples of ln 2 is rounded). Below EXP_LOWEST 0; exp(0) is exactly 1. */
static inline __m256 exp_below_avx2(__m256 x)
{
    __m256 power = _mm256_max_ps(_mm256_set1_ps(-126.0f), _mm256_mul_ps(x, _mm256_set1_ps(EXP_LOG2E)));
    __m256 tiny = _mm256_cmp_ps(x, _mm256_set1_ps(EXP_LOWEST), _CMP_LT_OQ);
    return _mm256_andnot_ps(tiny, exp2_within_avx2(power));
}

static inline __m256 log_avx2(__m256 x)
{
    __m256i half = _mm256_castps_si256(_mm256_set1_ps(LOG_SQRT_HALF));
    __m256i shifted = _mm256_sub_epi32(_mm256_castps_si256(x), half);
    __m256 n = _mm256_cvtepi32_ps(_mm256_srai_epi32(shifted, 23));
    __m256i mantissa = _mm256_and_si256(shifted, _mm256_set1_epi32(0x7fffff));
    __m256 m = _mm256_castsi256_ps(_mm256_add_epi32(mantissa, half));
    __m256 one = _mm256_set1_ps(1.0f);
    __m256 s = _mm256_div_ps(_mm256_sub_ps(m, one), _mm256_add_ps(m, one));
    __m256 z = _mm256_mul_ps(s, s);
    __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(LOG_P3), z, _mm256_set1_ps(LOG_P2));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(LOG_P1));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(LOG_P0));
    __m256 tail = _mm256_fmadd_ps(s, _mm256_mul_ps(p, z), _mm256_mul_ps(n, _mm256_set1_ps(EXP_LN2_LOW)));
    return _mm256_fmadd_ps(n, _mm256_set1_ps(EXP_LN2_HIGH), _mm256_fmadd_ps(_mm256_set1_ps(2.0f), s, tail));
}

/* ((0+1)+(2+3)) + ((4+5)+(6+7)), the tree of the portable family. */
static inline float sum_avx2(__m256 v)
{
    __m128 pairs = _mm_hadd_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    __m128 quads = _mm_hadd_ps(pairs, pairs);
    return _mm_cvtss_f32(_mm_add_ss(quads, _mm_movehdup_ps(quads)));
}

static inline float max_avx2(__m256 v)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

/* The first n of eight lanes, 0 <= n <= 8, for masked loads and stores. */
static inline __m256i first_lanes(size_t n)
{
    const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), index);
}

#endif
