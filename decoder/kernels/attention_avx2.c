/* attention_avx2.c: exact attention, softmax and conversions with AVX2, FMA and F16C.
 *
 * DESIGN. A page's keys and values are converted once into a tile that stays in L1, for all query rows of the
 * group. Rows are taken in pairs to have eight independent sums in flight; each score and each output element
 * is nevertheless one chain of additions in a fixed order, whatever the pairing, so a row's bits don't depend
 * on g or on its neighbours. */
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

/* ---- a page ---- */

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

/* Scores of `rows` (1 or 2) query rows with four keys. */
INLINE void dot_4(const unsigned rows, unsigned d_k, const float *q, const float *const key[4],
                  float (*s)[PAGE_MAX_TOKENS], unsigned t)
{
    __m256 acc[2][4];
    for (unsigned r = 0; r < rows; r++)
        for (unsigned j = 0; j < 4; j++)
            acc[r][j] = _mm256_setzero_ps();
    for (unsigned i = 0; i < d_k; i += 8)
        for (unsigned r = 0; r < rows; r++) {
            __m256 x = _mm256_loadu_ps(q + (size_t)r * d_k + i);
            for (unsigned j = 0; j < 4; j++)
                acc[r][j] = _mm256_fmadd_ps(x, _mm256_loadu_ps(key[j] + i), acc[r][j]);
        }
    for (unsigned r = 0; r < rows; r++) {
        __m256 sum =
            _mm256_hadd_ps(_mm256_hadd_ps(acc[r][0], acc[r][1]), _mm256_hadd_ps(acc[r][2], acc[r][3]));
        _mm_storeu_ps(&s[r][t], _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1)));
    }
}

/* Beyond n the last key is scored again: cheaper than a second loop, and page_weights ignores it. */
INLINE void page_scores(const unsigned rows, unsigned n, unsigned d_k, const float *q, const float *k,
                        float (*s)[PAGE_MAX_TOKENS])
{
    for (unsigned t = 0; t < n; t += 4) {
        const float *key[4];
        for (unsigned j = 0; j < 4; j++)
            key[j] = k + (size_t)(t + j < n ? t + j : n - 1) * d_k;
        dot_4(rows, d_k, q, key, s, t);
    }
}

/* s (16) holds a row's n scores: becomes weights, 0 beyond n. */
static void page_weights(unsigned n, float s[PAGE_MAX_TOKENS], float *m, float *l)
{
    const __m256 none = _mm256_set1_ps(-INFINITY);
    __m256 low = _mm256_castsi256_ps(first_lanes(n)),
           high = _mm256_castsi256_ps(first_lanes(n > 8 ? n - 8 : 0));
    __m256 a = _mm256_blendv_ps(none, _mm256_loadu_ps(s), low);
    __m256 b = _mm256_blendv_ps(none, _mm256_loadu_ps(s + 8), high);
    float max = max_avx2(_mm256_max_ps(a, b));
    __m256 shift = _mm256_set1_ps(max == -INFINITY ? 0.0f : max);
    a = exp_avx2(_mm256_sub_ps(a, shift));
    b = exp_avx2(_mm256_sub_ps(b, shift));
    _mm256_storeu_ps(s, a);
    _mm256_storeu_ps(s + 8, b);
    *m = max;
    *l = sum_avx2(_mm256_add_ps(a, b));
}

/* o (rows, d_v), `vectors` (1 or 4) times 8 dims of it: Σ weight·v over the page's tokens, in their order. */
INLINE void values(const unsigned rows, const unsigned vectors, unsigned n, unsigned d_v,
                   const float (*w)[PAGE_MAX_TOKENS], const float *v, float *o)
{
    __m256 acc[2][4];
    for (unsigned r = 0; r < rows; r++)
        for (unsigned j = 0; j < vectors; j++)
            acc[r][j] = _mm256_setzero_ps();
    for (unsigned t = 0; t < n; t++, v += d_v)
        for (unsigned r = 0; r < rows; r++)
            for (unsigned j = 0; j < vectors; j++)
                acc[r][j] =
                    _mm256_fmadd_ps(_mm256_broadcast_ss(&w[r][t]), _mm256_loadu_ps(v + 8 * j), acc[r][j]);
    for (unsigned r = 0; r < rows; r++)
        for (unsigned j = 0; j < vectors; j++)
            _mm256_storeu_ps(o + (size_t)r * d_v + 8 * j, acc[r][j]);
}

/* The same for the last d_v % 8 dims of one row. */
static void values_rest(unsigned n, unsigned d_v, unsigned rest, const float *w, const float *v, float *o)
{
    __m256i mask = first_lanes(rest);
    __m256 acc = _mm256_setzero_ps();
    for (unsigned t = 0; t < n; t++)
        acc = _mm256_fmadd_ps(_mm256_broadcast_ss(&w[t]), _mm256_maskload_ps(v + (size_t)t * d_v, mask), acc);
    _mm256_maskstore_ps(o, mask, acc);
}

INLINE void page_values(const unsigned rows, unsigned n, unsigned d_v, const float (*w)[PAGE_MAX_TOKENS],
                        const float *v, float *o)
{
    unsigned i = 0;
    for (; i + 32 <= d_v; i += 32)
        values(rows, 4, n, d_v, w, v + i, o + i);
    for (; i + 8 <= d_v; i += 8)
        values(rows, 1, n, d_v, w, v + i, o + i);
    for (unsigned r = 0; i < d_v && r < rows; r++)
        values_rest(n, d_v, d_v - i, w[r], v + i, o + (size_t)r * d_v + i);
}

/* s (g, 16): scores of all rows, turned into weights. */
static void score_rows(unsigned g, unsigned n, unsigned d_k, const float *q, const float *k,
                       float (*s)[PAGE_MAX_TOKENS], float *m, float *l)
{
    unsigned r = 0;
    for (; r + 2 <= g; r += 2)
        page_scores(2, n, d_k, q + (size_t)r * d_k, k, s + r);
    if (r < g)
        page_scores(1, n, d_k, q + (size_t)r * d_k, k, s + r);
    for (r = 0; r < g; r++)
        page_weights(n, s[r], &m[r], &l[r]);
}

static void value_rows(unsigned g, unsigned n, unsigned d_v, const float (*w)[PAGE_MAX_TOKENS],
                       const float *v, float *o)
{
    unsigned r = 0;
    for (; r + 2 <= g; r += 2)
        page_values(2, n, d_v, w + r, v, o + (size_t)r * d_v);
    if (r < g)
        page_values(1, n, d_v, w + r, v, o + (size_t)r * d_v);
}

static void check_shape(unsigned g, unsigned n, unsigned d_k, unsigned d_v)
{
    assert(g <= GROUP_MAX_ROWS && n <= PAGE_MAX_TOKENS);
    assert(d_k % 8 == 0 && d_k <= HEAD_MAX_DIMS && d_v <= HEAD_MAX_DIMS);
    (void)g, (void)n, (void)d_k, (void)d_v;
}

static void page_f32(unsigned g, unsigned n, unsigned d_k, unsigned d_v, const float *q, const float *k,
                     const float *v, float *m, float *l, float *o)
{
    check_shape(g, n, d_k, d_v);
    float s[GROUP_MAX_ROWS][PAGE_MAX_TOKENS];
    score_rows(g, n, d_k, q, k, s, m, l);
    value_rows(g, n, d_v, (const float(*)[PAGE_MAX_TOKENS])s, v, o);
}

static void page_f16(unsigned g, unsigned n, unsigned d_k, unsigned d_v, const float *q, const uint16_t *k,
                     const uint16_t *v, float *m, float *l, float *o)
{
    check_shape(g, n, d_k, d_v);
    float tile[PAGE_MAX_TOKENS * HEAD_MAX_DIMS]; /* (n, d_k), then (n, d_v) */
    float s[GROUP_MAX_ROWS][PAGE_MAX_TOKENS];
    f16_to_f32((size_t)n * d_k, k, tile);
    score_rows(g, n, d_k, q, tile, s, m, l);
    f16_to_f32((size_t)n * d_v, v, tile);
    value_rows(g, n, d_v, (const float(*)[PAGE_MAX_TOKENS])s, tile, o);
}

static void merge_row(unsigned d_v, float *O, const float *o, float a, float b)
{
    __m256 va = _mm256_set1_ps(a), vb = _mm256_set1_ps(b);
    unsigned i = 0;
    for (; i + 8 <= d_v; i += 8)
        _mm256_storeu_ps(
            O + i, _mm256_fmadd_ps(_mm256_loadu_ps(O + i), va, _mm256_mul_ps(_mm256_loadu_ps(o + i), vb)));
    if (i < d_v) {
        __m256i mask = first_lanes(d_v - i);
        __m256 scaled = _mm256_mul_ps(_mm256_maskload_ps(o + i, mask), vb);
        _mm256_maskstore_ps(O + i, mask, _mm256_fmadd_ps(_mm256_maskload_ps(O + i, mask), va, scaled));
    }
}

static void merge(unsigned g, unsigned d_v, float *M, float *L, float *O, const float *m, const float *l,
                  const float *o)
{
    for (unsigned r = 0; r < g; r++) {
        if (m[r] == -INFINITY)
            continue; /* nothing was attended */
        float max = m[r] > M[r] ? m[r] : M[r];
        __m256 both = exp_avx2(_mm256_setr_ps(M[r] - max, m[r] - max, 0, 0, 0, 0, 0, 0));
        float a = _mm256_cvtss_f32(both), b = _mm_cvtss_f32(_mm_movehdup_ps(_mm256_castps256_ps128(both)));
        M[r] = max;
        L[r] = L[r] * a + l[r] * b;
        merge_row(d_v, O + (size_t)r * d_v, o + (size_t)r * d_v, a, b);
    }
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

#define AVX2_WITH(scout)                                                                              \
    {                                                                                                 \
        .name = "avx2", .page_f16 = page_f16, .page_f32 = page_f32, .merge = merge, .max = row_max,   \
        .exp_sum = exp_sum, .softmax_tile = softmax_tile, .f16_to_f32 = f16_to_f32,                   \
        .f32_to_f16 = f32_to_f16, .dot = dot, .scout_groups = scout, .unpack_q8_0 = unpack_q8_0_avx2, \
        .unpack_q4 = unpack_q4_avx2                                                                   \
    }
const struct kernels kernels_avx2 = AVX2_WITH(scout_groups_avx2);
const struct kernels kernels_avx2_vnni = AVX2_WITH(scout_groups_vnni);

#else
typedef int attention_avx2_is_x86_only;
#endif
