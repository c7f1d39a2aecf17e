/* explog.h: exp and log of one float, as the portable family computes them.
 *
 * The vector families evaluate the same polynomials (with fused multiply-adds), so that all agree to a few
 * units in the last place. libm is not used: its bits differ between versions, ours only between families.
 *
 * exp: x = n·ln 2 + r, |r| <= ln 2 / 2, e^r = 1 + r + r²·P(r), P fitted at Chebyshev nodes (relative error
 * 1e-8 before rounding). log: mantissa m in [sqrt 1/2, sqrt 2), log m = 2·atanh(s) with s = (m-1)/(m+1), |s|
 * < 0.172. exp2 is for the scout, which needs five a page, and AVX2's weights of tokens: x = n + f, 2^f = 1 +
 * f·Q(f), relative error 3e-7.
 */
#ifndef KERNELS_EXPLOG_H
#define KERNELS_EXPLOG_H

#include <stdint.h>
#include <string.h>

#define EXP_LOWEST -87.33654f /* below: 0 (the result would be subnormal) */
#define EXP_HIGHEST 88.02f    /* above: as here; callers subtract a maximum first */
#define EXP_LOG2E 1.44269504f
#define EXP_LN2_HIGH 0.693115234375f /* 12 bits: n times it is exact */
#define EXP_LN2_LOW 3.19461849e-5f
#define EXP_P0 0.5f
#define EXP_P1 0.166665768f
#define EXP_P2 0.0416665544f
#define EXP_P3 0.00836320297f
#define EXP_P4 0.00139262135f

#define EXP2_LOWEST -125.0f
#define EXP2_Q0 0.693147181f
#define EXP2_Q1 0.240223484f
#define EXP2_Q2 0.0555038095f
#define EXP2_Q3 0.00966641687f
#define EXP2_Q4 0.00133813504f
#define LN_2 0.693147181f

#define LOG_SQRT_HALF 0.707106781f
#define LOG_P0 0.666666667f /* 2/3, 2/5, … of the atanh series */
#define LOG_P1 0.4f
#define LOG_P2 0.285714286f
#define LOG_P3 0.222222222f

static inline float float_from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
static inline uint32_t float_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

#define ROUND_TO_INT 12582912.0f /* 1.5·2^23: adding it leaves the nearest integer in the low bits */

/* exp(0) is exactly 1, exp(-inf) exactly 0, NaN stays NaN. */
static inline float exp_portable(float x)
{
    float y = x < EXP_LOWEST ? EXP_LOWEST : x;
    y = y > EXP_HIGHEST ? EXP_HIGHEST : y;
    float t = y * EXP_LOG2E + ROUND_TO_INT;
    float n = t - ROUND_TO_INT;
    float r = (y - n * EXP_LN2_HIGH) - n * EXP_LN2_LOW;
    float p = (((EXP_P4 * r + EXP_P3) * r + EXP_P2) * r + EXP_P1) * r + EXP_P0;
    float e = (p * (r * r) + r) + 1.0f;
    uint32_t power = (float_bits(t) - float_bits(ROUND_TO_INT) + 127u) << 23;
    return x < EXP_LOWEST ? 0.0f : e * float_from_bits(power);
}

/* For x <= 0; what lies below 2^-125 may come out as that. exp2(0) is exactly 1. */
static inline float exp2_portable(float x)
{
    float y = x < EXP2_LOWEST ? EXP2_LOWEST : x;
    float t = y + ROUND_TO_INT;
    float f = y - (t - ROUND_TO_INT);
    float q = (((EXP2_Q4 * f + EXP2_Q3) * f + EXP2_Q2) * f + EXP2_Q1) * f + EXP2_Q0;
    uint32_t n = float_bits(t) - float_bits(ROUND_TO_INT);
    return float_from_bits(float_bits(q * f + 1.0f) + (n << 23));
}

/* For normal x > 0. log(1) is exactly 0. */
static inline float log_portable(float x)
{
    /* counts exponents from sqrt 1/2, so that the mantissa lies around 1 */
    uint32_t shifted = float_bits(x) - float_bits(LOG_SQRT_HALF);
    float n = (float)((int32_t)shifted >> 23);
    float m = float_from_bits((shifted & 0x7fffff) + float_bits(LOG_SQRT_HALF));
    float s = (m - 1.0f) / (m + 1.0f);
    float z = s * s;
    float p = ((LOG_P3 * z + LOG_P2) * z + LOG_P1) * z + LOG_P0;
    float tail = s * (p * z) + n * EXP_LN2_LOW;
    return n * EXP_LN2_HIGH + (2.0f * s + tail);
}

#endif
