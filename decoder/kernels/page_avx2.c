/* page_avx2.c: exact attention over a page, and the merge of pages, with AVX2, FMA and F16C.
 *
 * DESIGN. Rows are taken by four, then two, then one; eight sums are in flight whatever the number: four rows
 * with two keys, or with two vectors of values, …, one row with eight. Halves are turned into floats on their
 * way into the units, again for every four rows: that costs less than a tile that is stored and read again.
 * Each score and each output element is nevertheless one chain of additions in a fixed order, so a row's bits
 * don't depend on g or on its neighbours.
 *
 * Scores of `rows` rows lie token by token, s[rows·t + row]: the exponentials then fill their vectors for any
 * number of rows, and maxima and sums are mostly taken across vectors. */
#if defined(__x86_64__)

#include "decoder/kernels/families.h"
#include "decoder/kernels/lanes_avx2.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>

#define INLINE static inline __attribute__((always_inline))

enum {
    SUMS = 8, /* in flight: two units, four stages */
    LINE = 64,
};

/* A quarter of each of the pages ahead: bytes [from, end) are still to be asked for. */
struct look {
    const uint8_t *page[4];
    size_t from, end;
};

INLINE struct look look_from(const struct pages_ahead *ahead, size_t page_bytes)
{
    struct look l = {.end = 0};
    for (unsigned i = 0; ahead && i < 4; i++)
        l.page[i] = ahead->page[i] + page_bytes / 4 * (ahead->turn % 4);
    l.end = ahead ? page_bytes / 4 : 0;
    return l;
}

/* So often that K's way through the units covers a page of as many dims of V. */
INLINE void look_ahead(const bool half, struct look *l)
{
    if (l->from >= l->end)
        return;
    for (unsigned line = 0; line < (half ? 1 : 2); line++, l->from += LINE)
        for (unsigned i = 0; i < 4; i++)
            _mm_prefetch((const char *)l->page[i] + l->from, _MM_HINT_T0);
}

/* Eight numbers at dim i of a row of f16 (half) or f32. */
INLINE __m256 load_8(const bool half, const uint8_t *row, size_t i)
{
    if (half)
        return _mm256_cvtph_ps(_mm_loadu_si128((const void *)(row + 2 * i)));
    return _mm256_loadu_ps((const void *)(row + 4 * i));
}

/* The last n < 8 of a row. */
INLINE __m256 load_last(const bool half, const uint8_t *row, size_t i, unsigned n)
{
    if (!half)
        return _mm256_maskload_ps((const void *)(row + 4 * i), first_lanes(n));
    __m128i rest = _mm_setzero_si128();
    memcpy(&rest, row + 2 * i, 2 * n);
    return _mm256_cvtph_ps(rest);
}

/* Lane i: the sum of a[i]'s lanes, by the tree of sum_avx2. */
INLINE __m256 sums_of(const __m256 a[SUMS])
{
    __m256 low = _mm256_hadd_ps(_mm256_hadd_ps(a[0], a[1]), _mm256_hadd_ps(a[2], a[3]));
    __m256 high = _mm256_hadd_ps(_mm256_hadd_ps(a[4], a[5]), _mm256_hadd_ps(a[6], a[7]));
    return _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
}

/* Beyond n the last key is scored again: cheaper than a second loop. */
INLINE void scores(const bool half, const unsigned rows, unsigned n, unsigned d_k, const float *q,
                   const uint8_t *k, struct look *look, float *s)
{
    const unsigned keys = SUMS / rows;
    const size_t key_bytes = (size_t)d_k * (half ? 2 : 4);
    for (unsigned t = 0; t < n; t += keys, s += SUMS) {
        const uint8_t *key[SUMS];
        __m256 acc[SUMS], x[SUMS];
        for (unsigned j = 0; j < keys; j++)
            key[j] = k + (t + j < n ? t + j : n - 1) * key_bytes;
        for (unsigned j = 0; j < SUMS; j++)
            acc[j] = _mm256_setzero_ps();
        for (unsigned i = 0; i < d_k; i += 8) {
            if (i / 8 % rows == 0)
                look_ahead(half, look);
            for (unsigned j = 0; j < keys; j++)
                x[j] = load_8(half, key[j], i);
            for (unsigned r = 0; r < rows; r++) {
                __m256 y = _mm256_loadu_ps(q + (size_t)r * d_k + i);
                for (unsigned j = 0; j < keys; j++)
                    acc[j * rows + r] = _mm256_fmadd_ps(y, x[j], acc[j * rows + r]);
            }
        }
        _mm256_storeu_ps(s, sums_of(acc));
    }
}

/* Lanes of other keys and the same rows, one step of the way: `apart` lanes from each other. */
INLINE __m256 swapped(__m256 v, const unsigned apart)
{
    return apart == 4   ? _mm256_permute2f128_ps(v, v, 1)
           : apart == 2 ? _mm256_permute_ps(v, 0x4e)
                        : _mm256_permute_ps(v, 0xb1);
}

INLINE void store_rows(const unsigned rows, float *to, __m256 v)
{
    if (rows == 4)
        _mm_storeu_ps(to, _mm256_castps256_ps128(v));
    else if (rows == 2)
        _mm_storel_pi((__m64 *)(void *)to, _mm256_castps256_ps128(v));
    else
        _mm_store_ss(to, _mm256_castps256_ps128(v));
}

/* s (16, rows) holds scores: becomes weights, 0 beyond n. */
INLINE void weights(const unsigned rows, unsigned n, float *s, float *m, float *l)
{
    const unsigned vectors = 2 * rows; /* of 16 tokens */
    const __m256 none = _mm256_set1_ps(-INFINITY);
    for (unsigned i = n * rows; i < PAGE_MAX_TOKENS * rows; i++)
        s[i] = -INFINITY;
    __m256 max = _mm256_loadu_ps(s), e[2 * SUMS];
    for (unsigned i = 1; i < vectors; i++)
        max = _mm256_max_ps(max, _mm256_loadu_ps(s + 8 * i));
    for (unsigned apart = rows; apart < 8; apart *= 2)
        max = _mm256_max_ps(max, swapped(max, apart));
    __m256 shift = _mm256_andnot_ps(_mm256_cmp_ps(max, none, _CMP_EQ_OQ), max); /* 0 where there is none */
    for (unsigned i = 0; i < vectors; i++) {
        e[i] = exp_avx2(_mm256_sub_ps(_mm256_loadu_ps(s + 8 * i), shift));
        _mm256_storeu_ps(s + 8 * i, e[i]);
    }
    /* token t + token t + 8, then ((0+1)+(2+3)) + ((4+5)+(6+7)) */
    for (unsigned i = 0; i < rows; i++) {
        e[i] = _mm256_add_ps(e[i], e[rows + i]);
        for (unsigned apart = rows; apart < 8; apart *= 2)
            e[i] = _mm256_add_ps(e[i], swapped(e[i], apart));
    }
    for (unsigned step = 1; step < rows; step *= 2)
        for (unsigned i = 0; i < rows; i += 2 * step)
            e[i] = _mm256_add_ps(e[i], e[i + step]);
    store_rows(rows, m, max);
    store_rows(rows, l, e[0]);
}

/* o (rows, d_v), `vectors` times 8 dims of it from dim i: Σ weight·v over the page's tokens, in their order.
 */
INLINE void values(const bool half, const unsigned rows, const unsigned vectors, unsigned n, unsigned d_v,
                   const float *w, const uint8_t *v, unsigned i, float *o)
{
    const size_t value_bytes = (size_t)d_v * (half ? 2 : 4);
    __m256 acc[SUMS], x[SUMS];
    for (unsigned j = 0; j < rows * vectors; j++)
        acc[j] = _mm256_setzero_ps();
    for (unsigned t = 0; t < n; t++, v += value_bytes, w += rows) {
        for (unsigned j = 0; j < vectors; j++)
            x[j] = load_8(half, v, i + 8 * j);
        for (unsigned r = 0; r < rows; r++) {
            __m256 y = _mm256_broadcast_ss(&w[r]);
            for (unsigned j = 0; j < vectors; j++)
                acc[r * vectors + j] = _mm256_fmadd_ps(y, x[j], acc[r * vectors + j]);
        }
    }
    for (unsigned r = 0; r < rows; r++)
        for (unsigned j = 0; j < vectors; j++)
            _mm256_storeu_ps(o + (size_t)r * d_v + i + 8 * j, acc[r * vectors + j]);
}

/* The same for the last d_v % 8 dims. */
INLINE void values_last(const bool half, const unsigned rows, unsigned n, unsigned d_v, const float *w,
                        const uint8_t *v, float *o)
{
    const unsigned last = d_v % 8, i = d_v - last;
    const size_t value_bytes = (size_t)d_v * (half ? 2 : 4);
    for (unsigned r = 0; r < rows; r++) {
        __m256 acc = _mm256_setzero_ps();
        for (unsigned t = 0; t < n; t++)
            acc = _mm256_fmadd_ps(_mm256_broadcast_ss(&w[t * rows + r]),
                                  load_last(half, v + t * value_bytes, i, last), acc);
        _mm256_maskstore_ps(o + (size_t)r * d_v + i, first_lanes(last), acc);
    }
}

INLINE void some_rows(const bool half, const unsigned rows, unsigned n, unsigned d_k, unsigned d_v,
                      const float *q, const uint8_t *k, const uint8_t *v, struct look *look, float *m,
                      float *l, float *o)
{
    const unsigned dims = 8 * SUMS / rows;
    float s[PAGE_MAX_TOKENS * SUMS];
    scores(half, rows, n, d_k, q, k, look, s);
    weights(rows, n, s, m, l);
    unsigned i = 0;
    for (; i + dims <= d_v; i += dims)
        values(half, rows, SUMS / rows, n, d_v, s, v, i, o);
    for (; i + 8 <= d_v; i += 8)
        values(half, rows, 1, n, d_v, s, v, i, o);
    if (i < d_v)
        values_last(half, rows, n, d_v, s, v, o);
}

INLINE void page(const bool half, unsigned g, unsigned n, unsigned d_k, unsigned d_v, const float *q,
                 const void *k, const void *v, const struct pages_ahead *ahead, float *m, float *l, float *o)
{
    assert(g <= GROUP_MAX_ROWS && n <= PAGE_MAX_TOKENS);
    assert(d_k % 8 == 0 && d_k <= HEAD_MAX_DIMS && d_v <= HEAD_MAX_DIMS);
    struct look look = look_from(ahead, (size_t)PAGE_MAX_TOKENS * (d_k + d_v) * (half ? 2 : 4));
    unsigned r = 0;
#define ROWS(rows) \
    some_rows(half, rows, n, d_k, d_v, q + (size_t)r * d_k, k, v, &look, m + r, l + r, o + (size_t)r * d_v)
    for (; g - r >= 4; r += 4)
        ROWS(4);
    if (g - r >= 2) {
        ROWS(2);
        r += 2;
    }
    if (r < g)
        ROWS(1);
#undef ROWS
}

void page_f16_avx2(unsigned g, unsigned n, unsigned d_k, unsigned d_v, const float *q, const uint16_t *k,
                   const uint16_t *v, const struct pages_ahead *ahead, float *m, float *l, float *o)
{
    if (d_k == 128 && d_v == 128) /* the usual shape */
        page(true, g, n, 128, 128, q, k, v, ahead, m, l, o);
    else
        page(true, g, n, d_k, d_v, q, k, v, ahead, m, l, o);
}

void page_f32_avx2(unsigned g, unsigned n, unsigned d_k, unsigned d_v, const float *q, const float *k,
                   const float *v, const struct pages_ahead *ahead, float *m, float *l, float *o)
{
    page(false, g, n, d_k, d_v, q, k, v, ahead, m, l, o);
}

/* ---- merging ---- */

INLINE void merge_row(unsigned d_v, float *O, const float *o, float a, float b)
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

void merge_avx2(unsigned g, unsigned d_v, float *M, float *L, float *O, const float *m, const float *l,
                const float *o)
{
    for (unsigned from = 0; from < g; from += 8, M += 8, L += 8, m += 8, l += 8) {
        const unsigned n = g - from < 8 ? g - from : 8;
        const __m256i mask = first_lanes(n);
        __m256 before = _mm256_maskload_ps(M, mask), here = _mm256_maskload_ps(m, mask);
        __m256 max = _mm256_max_ps(here, before);
        float a[8], b[8], both[8];
        _mm256_storeu_ps(a, exp_avx2(_mm256_sub_ps(before, max)));
        _mm256_storeu_ps(b, exp_avx2(_mm256_sub_ps(here, max)));
        _mm256_storeu_ps(both, max);
        for (unsigned r = 0; r < n; r++, O += d_v, o += d_v) {
            if (m[r] == -INFINITY)
                continue; /* nothing was attended */
            M[r] = both[r];
            L[r] = L[r] * a[r] + l[r] * b[r];
            merge_row(d_v, O, o, a[r], b[r]);
        }
    }
}

#else
typedef int page_avx2_is_x86_only;
#endif
