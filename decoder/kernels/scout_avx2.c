/* scout_avx2.c: log-mass scores of eight pages at once.
 *
 * DESIGN. A 32-byte row of a group holds eight dims of eight pages, four bytes a page: one multiply-add of
 * its low nibbles with q's dims 8i…8i+3 (repeated for every page) and one of its high nibbles with 8i+4…8i+7
 * leave two 16-bit sums a page. |code·q8| <= 15·127, two of them at most 3810: eight such fit 16 bits, so
 * sums are widened every four rows. No horizontal sum is ever taken. All query rows share the load and the
 * unpacking. */
#if defined(__x86_64__)

#define SCOUT_GROUPS scout_groups_avx2
#include "decoder/kernels/scout_lanes.h"

INLINE void add_rows(const unsigned rows, unsigned n, const uint8_t *codes, const __m256i *q, __m256i *acc)
{
    const __m256i nibble = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    __m256i sum[MAX_ROWS];
    for (unsigned r = 0; r < rows; r++)
        sum[r] = _mm256_setzero_si256();
    for (unsigned i = 0; i < n; i++, q += (size_t)2 * rows) {
        __m256i x = _mm256_loadu_si256((const void *)(codes + 32 * i));
        __m256i low = _mm256_and_si256(x, nibble), high = _mm256_and_si256(_mm256_srli_epi16(x, 4), nibble);
        for (unsigned r = 0; r < rows; r++) {
            __m256i both = _mm256_add_epi16(_mm256_maddubs_epi16(low, q[2 * r]),
                                            _mm256_maddubs_epi16(high, q[2 * r + 1]));
            sum[r] = i ? _mm256_add_epi16(sum[r], both) : both;
            __asm__("" : "+x"(sum[r])); /* in this order: else gcc sums pairs, and has no registers left */
        }
    }
    for (unsigned r = 0; r < rows; r++)
        acc[r] = _mm256_add_epi32(acc[r], _mm256_madd_epi16(sum[r], ones));
}

#else
typedef int scout_avx2_is_x86_only;
#endif
