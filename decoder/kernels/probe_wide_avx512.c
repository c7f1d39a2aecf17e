/* probe_wide_avx512.c: see probe_wide.h. */
#if defined(__x86_64__)

#include "decoder/kernels/probe_wide.h"

#include <immintrin.h>

enum { CHAINS = 12, LANES = 16 }; /* two units of at most five stages */

double probe_peak_avx512(uint64_t steps, float *out)
{
    __m512 a[CHAINS], m = _mm512_set1_ps(0.5f), c = _mm512_set1_ps(1.0f);
    for (int i = 0; i < CHAINS; i++)
        a[i] = _mm512_set1_ps((float)i);
    for (uint64_t s = 0; s < steps; s++)
        for (int i = 0; i < CHAINS; i++)
            a[i] = _mm512_fmadd_ps(a[i], m, c);
    float all[LANES];
    for (int i = 1; i < CHAINS; i++)
        a[0] = _mm512_add_ps(a[0], a[i]);
    _mm512_storeu_ps(all, a[0]);
    *out = all[0];
    return 2.0 * LANES * CHAINS * (double)steps;
}

#else
typedef int probe_wide_avx512_is_x86_only;
#endif
