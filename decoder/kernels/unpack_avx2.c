/* unpack_avx2.c: pages of few bits as f32 with AVX2, in the order of kv_types.h. */
#if defined(__x86_64__)

#include "common/identity.h"
#include "decoder/kernels/families.h"

#include <immintrin.h>
#include <string.h>

enum { TOKENS = PAGE_TOKENS, GROUP = KV_GROUP };

static float load_half(const uint8_t *at)
{
    uint16_t h;
    memcpy(&h, at, sizeof h);
    return _cvtsh_ss(h);
}

/* Eight codes with their scale. */
static inline void eight_q8_0(__m256 scale, const uint8_t *at, float *x)
{
    __m256i codes = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)at));
    _mm256_storeu_ps(x, _mm256_mul_ps(scale, _mm256_cvtepi32_ps(codes)));
}

static inline void group_q8_0(const unsigned n, float s, const uint8_t *at, float *x)
{
    __m256 scale = _mm256_set1_ps(s);
    unsigned j = 0;
    for (; j + 8 <= n; j += 8)
        eight_q8_0(scale, at + j, x + j);
    for (; j < n; j++)
        x[j] = s * (float)(int8_t)at[j];
}

static const uint8_t *rows_q8_0(unsigned d, const uint8_t *at, float *x)
{
    const uint8_t *scales = at + (size_t)TOKENS * d;
    for (unsigned t = 0; t < TOKENS; t++)
        for (unsigned i = 0; i < d; i += GROUP, scales += 2) {
            unsigned n = d - i < GROUP ? d - i : GROUP;
            if (n == GROUP) /* known to the compiler */
                group_q8_0(GROUP, load_half(scales), at, x);
            else
                group_q8_0(n, load_half(scales), at, x);
            at += n;
            x += n;
        }
    return scales;
}

void unpack_q8_0_avx2(unsigned d_k, unsigned d_v, const uint8_t *page, float *k, float *v)
{
    rows_q8_0(d_v, rows_q8_0(d_k, page, k), v);
}

/* Eight codes of four bits, from four bytes. */
static inline __m256 codes_q4(const uint8_t *at)
{
    int32_t word;
    memcpy(&word, at, sizeof word);
    __m256i spread =
        _mm256_srlv_epi32(_mm256_set1_epi32(word), _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
    return _mm256_cvtepi32_ps(_mm256_and_si256(spread, _mm256_set1_epi32(15)));
}

static inline float code_q4(const uint8_t *row, unsigned i)
{
    return (float)(row[i / 2] >> (i % 2 ? 4 : 0) & 15);
}

/* d is a multiple of 8. */
static const uint8_t *keys_q4(unsigned d, const uint8_t *at, float *x)
{
    const uint8_t *codes = at + (size_t)4 * d;
    for (unsigned i = 0; i < d; i += 8) {
        __m256 least = _mm256_cvtph_ps(_mm_loadu_si128((const void *)(at + 2 * (size_t)i)));
        __m256 step = _mm256_cvtph_ps(_mm_loadu_si128((const void *)(at + 2 * ((size_t)d + i))));
        for (unsigned t = 0; t < TOKENS; t++)
            _mm256_storeu_ps(x + (size_t)t * d + i,
                             _mm256_fmadd_ps(step, codes_q4(codes + ((size_t)t * d + i) / 2), least));
    }
    return codes + (size_t)TOKENS * d / 2;
}

static void values_q4(unsigned d, const uint8_t *at, float *x)
{
    const size_t n_groups = (size_t)TOKENS * kv_groups(d);
    const uint8_t *least = at, *step = at + 2 * n_groups, *codes = at + 4 * n_groups;
    for (unsigned t = 0; t < TOKENS; t++, codes += (d + 1) / 2, x += d)
        for (unsigned i = 0; i < d; i += GROUP, least += 2, step += 2) {
            unsigned end = d - i < GROUP ? d : i + GROUP, j = i;
            float a = load_half(least), b = load_half(step);
            for (; j + 8 <= end; j += 8)
                _mm256_storeu_ps(
                    x + j, _mm256_fmadd_ps(_mm256_set1_ps(b), codes_q4(codes + j / 2), _mm256_set1_ps(a)));
            for (; j < end; j++)
                x[j] = a + b * code_q4(codes, j);
        }
}

void unpack_q4_avx2(unsigned d_k, unsigned d_v, const uint8_t *page, float *k, float *v)
{
    values_q4(d_v, keys_q4(d_k, page, k), v);
}

#else
typedef int unpack_avx2_is_x86_only;
#endif
