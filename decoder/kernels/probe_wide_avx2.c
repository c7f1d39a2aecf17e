/* probe_wide_avx2.c: see probe_wide.h. */
#if defined(__x86_64__)

#include "decoder/kernels/probe_wide.h"

#include <immintrin.h>

enum { CHAINS = 12, LANES = 8 }; /* two units of at most five stages */

double probe_peak_avx2(uint64_t steps, float *out)
{
    __m256 a[CHAINS], m = _mm256_set1_ps(0.5f), c = _mm256_set1_ps(1.0f);
    for (int i = 0; i < CHAINS; i++)
        a[i] = _mm256_set1_ps((float)i);
    for (uint64_t s = 0; s < steps; s++)
        for (int i = 0; i < CHAINS; i++)
            a[i] = _mm256_fmadd_ps(a[i], m, c);
    float all[LANES];
    for (int i = 1; i < CHAINS; i++)
        a[0] = _mm256_add_ps(a[0], a[i]);
    _mm256_storeu_ps(all, a[0]);
    *out = all[0];
    return 2.0 * LANES * CHAINS * (double)steps;
}

uint64_t probe_sum_avx2(const uint64_t *words, size_t n)
{
    enum { REGISTERS = PROBE_TURN_WORDS / 4 };
    __m256i sum[REGISTERS] = {0};
    size_t stream = n / PROBE_STREAMS;
    for (size_t i = 0; i < stream; i += PROBE_TURN_WORDS)
        for (unsigned s = 0; s < PROBE_STREAMS; s++) {
            const __m256i *at = (const __m256i *)(const void *)(words + s * stream + i);
            for (unsigned r = 0; r < REGISTERS; r++)
                sum[r] = _mm256_add_epi64(sum[r], _mm256_loadu_si256(at + r));
        }
    uint64_t lanes[4], all = 0;
    for (unsigned r = 0; r < REGISTERS; r++) {
        _mm256_storeu_si256((__m256i *)(void *)lanes, sum[r]);
        all += lanes[0] + lanes[1] + lanes[2] + lanes[3];
    }
    return all;
}

#else
typedef int probe_wide_avx2_is_x86_only;
#endif
