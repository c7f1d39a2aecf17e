/* attention_avx2.c: softmax, the gate, dot and conversions with AVX2, FMA and F16C, and the family's table.
 * Pages are in page_avx2.c. */
#if defined(__x86_64__)

#include "decoder/kernels/families.h"
#include "decoder/kernels/lanes_avx2.h"

#include <assert.h>
#include <math.h>

#define INLINE static inline __attribute__((always_inline))

/* ---- conversions ---- */

static void f16_to_f32(size_t n, const uint16_t *in, float *out)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128((const void *)(in + i))));
    if (i < n) {
        __m128i rest = _mm_setzero_si128();
        memcpy(&rest, in + i, 2 * (n - i));
        _mm256_maskstore_ps(out + i, first_lanes(n - i), _mm256_cvtph_ps(rest));
    }
}

static void f32_to_f16(size_t n, const float *in, uint16_t *out)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((void *)(out + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT));
    if (i < n) {
        __m256 rest = _mm256_maskload_ps(in + i, first_lanes(n - i));
        __m128i half = _mm256_cvtps_ph(rest, _MM_FROUND_TO_NEAREST_INT);
        memcpy(out + i, &half, 2 * (n - i));
    }
}

static float dot(size_t n, const float *a, const float *b)
{
    __m256 acc = _mm256_setzero_ps();
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        acc = _mm256_fmadd_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), acc);
    if (i < n) {
        __m256i mask = first_lanes(n - i);
        acc = _mm256_fmadd_ps(_mm256_maskload_ps(a + i, mask), _mm256_maskload_ps(b + i, mask), acc);
    }
    return sum_avx2(acc);
}

/* ---- long rows ---- */

/* Adds eight floats to eight doubles. */
INLINE void add_wide(__m256d sum[2], __m256 e)
{
    sum[0] = _mm256_add_pd(sum[0], _mm256_cvtps_pd(_mm256_castps256_ps128(e)));
    sum[1] = _mm256_add_pd(sum[1], _mm256_cvtps_pd(_mm256_extractf128_ps(e, 1)));
}

static double exp_sum(size_t n, float *x, float max)
{
    __m256 shift = _mm256_set1_ps(max == -INFINITY ? 0.0f : max);
    __m256d sum[2] = {_mm256_setzero_pd(), _mm256_setzero_pd()};
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __m256 e[4];
        for (unsigned j = 0; j < 4; j++)
            e[j] = _mm256_sub_ps(_mm256_loadu_ps(x + i + 8 * j), shift);
        exp_many_avx2(4, e);
        for (unsigned j = 0; j < 4; j++) {
            _mm256_storeu_ps(x + i + 8 * j, e[j]);
            add_wide(sum, e[j]);
        }
    }
    for (; i + 8 <= n; i += 8) {
        __m256 e = exp_avx2(_mm256_sub_ps(_mm256_loadu_ps(x + i), shift));
        _mm256_storeu_ps(x + i, e);
        add_wide(sum, e);
    }
    if (i < n) {
        __m256i mask = first_lanes(n - i);
        __m256 e = exp_avx2(_mm256_sub_ps(_mm256_maskload_ps(x + i, mask), shift));
        _mm256_maskstore_ps(x + i, mask, e);
        add_wide(sum, _mm256_and_ps(e, _mm256_castsi256_ps(mask)));
    }
    double a[8];
    _mm256_storeu_pd(a, sum[0]);
    _mm256_storeu_pd(a + 4, sum[1]);
    return ((a[0] + a[1]) + (a[2] + a[3])) + ((a[4] + a[5]) + (a[6] + a[7]));
}

static float row_max(size_t n, const float *s)
{
    const __m256 none = _mm256_set1_ps(-INFINITY);
    __m256 max = none;
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        max = _mm256_max_ps(_mm256_loadu_ps(s + i), max);
    if (i < n) {
        __m256i mask = first_lanes(n - i);
        max = _mm256_max_ps(
            _mm256_blendv_ps(none, _mm256_maskload_ps(s + i, mask), _mm256_castsi256_ps(mask)), max);
    }
    return max_avx2(max);
}

static void scale_rows(unsigned rows, size_t n, size_t ld, float *x, const float *factor, float *sum)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 s = _mm256_setzero_ps();
        for (unsigned r = 0; r < rows; r++) {
            __m256 y = _mm256_mul_ps(_mm256_loadu_ps(x + r * ld + i), _mm256_set1_ps(factor[r]));
            _mm256_storeu_ps(x + r * ld + i, y);
            s = _mm256_add_ps(s, y);
        }
        _mm256_storeu_ps(sum + i, s);
    }
    for (; i < n; i++) {
        float s = 0.0f;
        for (unsigned r = 0; r < rows; r++)
            s += x[r * ld + i] *= factor[r];
        sum[i] = s;
    }
}

/* s[0, n) <- exp(s - shift); returns the sum. */
static float row_exp(unsigned n, float *s, float shift)
{
    __m256 from = _mm256_set1_ps(shift), sum = _mm256_setzero_ps();
    unsigned i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 e = exp_avx2(_mm256_sub_ps(_mm256_loadu_ps(s + i), from));
        _mm256_storeu_ps(s + i, e);
        sum = _mm256_add_ps(sum, e);
    }
    if (i < n) {
        __m256i mask = first_lanes(n - i);
        __m256 e = exp_avx2(_mm256_sub_ps(_mm256_maskload_ps(s + i, mask), from));
        _mm256_maskstore_ps(s + i, mask, e);
        sum = _mm256_add_ps(sum, _mm256_and_ps(e, _mm256_castsi256_ps(mask)));
    }
    return sum_avx2(sum);
}

static void softmax_tile(unsigned rows, unsigned ld, unsigned width, const uint32_t *cols, float *s, float *m,
                         float *l)
{
    for (unsigned r = 0; r < rows; r++, s += ld) {
        assert(cols[r] <= width && width <= ld);
        m[r] = row_max(cols[r], s);
        l[r] = row_exp(cols[r], s, m[r] == -INFINITY ? 0.0f : m[r]);
        memset(s + cols[r], 0, (width - cols[r]) * sizeof *s);
    }
}

/* n vectors at most 4 */
INLINE void silu_vectors(const unsigned n, __m256 *gate, const __m256 *up)
{
    __m256 e[4];
    for (unsigned j = 0; j < n; j++)
        e[j] = _mm256_xor_ps(gate[j], _mm256_set1_ps(-0.0f));
    exp_many_avx2(n, e);
    for (unsigned j = 0; j < n; j++)
        gate[j] = _mm256_mul_ps(_mm256_div_ps(gate[j], _mm256_add_ps(_mm256_set1_ps(1.0f), e[j])), up[j]);
}

static void silu(size_t n, float *gate, const float *up)
{
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __m256 g[4], u[4];
        for (unsigned j = 0; j < 4; j++) {
            g[j] = _mm256_loadu_ps(gate + i + 8 * j);
            u[j] = _mm256_loadu_ps(up + i + 8 * j);
        }
        silu_vectors(4, g, u);
        for (unsigned j = 0; j < 4; j++)
            _mm256_storeu_ps(gate + i + 8 * j, g[j]);
    }
    for (; i < n; i += 8) {
        __m256i mask = first_lanes(n - i < 8 ? n - i : 8);
        __m256 g = _mm256_maskload_ps(gate + i, mask), u = _mm256_maskload_ps(up + i, mask);
        silu_vectors(1, &g, &u);
        _mm256_maskstore_ps(gate + i, mask, g);
    }
}

#define AVX2_WITH(scout)                                                                                   \
    {                                                                                                      \
        .name = "avx2", .page_f16 = page_f16_avx2, .page_f32 = page_f32_avx2, .page_q8_0 = page_q8_0_avx2, \
        .merge = merge_avx2, .max = row_max, .exp_sum = exp_sum, .scale_rows = scale_rows,                 \
        .softmax_tile = softmax_tile, .silu = silu, .f16_to_f32 = f16_to_f32, .f32_to_f16 = f32_to_f16,    \
        .dot = dot, .scout_groups = scout, .unpack_q8_0 = unpack_q8_0_avx2, .unpack_q4 = unpack_q4_avx2    \
    }
const struct kernels kernels_avx2 = AVX2_WITH(scout_groups_avx2);
const struct kernels kernels_avx2_vnni = AVX2_WITH(scout_groups_vnni);

#else
typedef int attention_avx2_is_x86_only;
#endif
