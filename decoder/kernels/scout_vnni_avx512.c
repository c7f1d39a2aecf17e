/* scout_vnni_avx512.c: the dot products of scout_avx2.c with VNNI: four products a byte lane are added to 32
 * bits at once.
 *
 * DESIGN. The same sums in half the instructions, still eight pages wide; integer sums are exact and the rest
 * is shared, so bits are those of the AVX2 family, of which this is the faster half. */
#if defined(__x86_64__)

#define SCOUT_GROUPS scout_groups_vnni
#include "decoder/kernels/scout_lanes.h"

INLINE void add_rows(const unsigned rows, unsigned n, const uint8_t *codes, const __m256i *q, __m256i *acc)
{
    const __m256i nibble = _mm256_set1_epi8(15);
    __m256i high_sum[MAX_ROWS]; /* apart from the low ones: two short chains instead of a long one */
    for (unsigned r = 0; r < rows; r++)
        high_sum[r] = _mm256_setzero_si256();
    for (unsigned i = 0; i < n; i++, q += (size_t)2 * rows) {
        __m256i x = _mm256_loadu_si256((const void *)(codes + 32 * i));
        __m256i low = _mm256_and_si256(x, nibble), high = _mm256_and_si256(_mm256_srli_epi16(x, 4), nibble);
        for (unsigned r = 0; r < rows; r++) {
            acc[r] = _mm256_dpbusd_epi32(acc[r], low, q[2 * r]);
            high_sum[r] = _mm256_dpbusd_epi32(high_sum[r], high, q[2 * r + 1]);
        }
    }
    for (unsigned r = 0; r < rows; r++)
        acc[r] = _mm256_add_epi32(acc[r], high_sum[r]);
}

#else
typedef int scout_vnni_is_x86_only;
#endif
