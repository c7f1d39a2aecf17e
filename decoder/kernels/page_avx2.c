/* page_avx2.c: exact attention over a page, and the merge of pages, with AVX2, FMA and F16C.
 *
 * DESIGN. The two units take a multiplication a cycle each and keep it for four; blocks of twelve sums keep
 * them busy: four rows by three keys (or three vectors of values), two rows by six; one row by eight, because
 * then loads are the limit. Eight rows are two times four that share their last keys; what else remains of a
 * page is taken in narrower blocks. Halves are turned into floats on their way into the units, again for
 * every four rows: other units do that. Each score and each output element is one chain of additions in a
 * fixed order, whatever its block, so a row's bits don't depend on g or on its neighbours.
 *
 * A block's first step multiplies, the others add: sums that begin as copies of one zero cost a sixth of the
 * time where stores follow.
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

/* A stage has the registers to itself: not a constant of the exponentials is held over the sums. */
#define STAGE static __attribute__((noinline))

/* gcc keeps sums in memory where a loop over them is not unrolled early; clang where it is told to. */
#if defined(__clang__)
#define UNROLL
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

enum {
    SUMS = 12, /* of a block */
    MAX_ROWS = 8,
    LINE = 64,
};

/* Keys or values as they are stored: rows of d numbers of a kind. */
enum kind { F16, F32, Q8_0 };
struct stored {
    const uint8_t *at;
    const float *scales; /* Q8_0: one for every 32 dims */
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

/* The next lines of each page. */
INLINE void look_ahead(const unsigned lines, struct look *l)
{
    if (l->from >= l->end)
        return;
    UNROLL
    for (unsigned line = 0; line < lines; line++, l->from += LINE)
        for (unsigned i = 0; i < 4; i++)
            _mm_prefetch((const char *)l->page[i] + l->from, _MM_HINT_T1);
}

/* What a group of rows asks for with step i of a block, so that the pages ahead are asked for all along a
 * page: many at once are in each other's way. With one or two rows memory is the limit. */
INLINE void look_on(const enum kind kind, const unsigned group, unsigned i, struct look *l)
{
    const unsigned lines = group == 8 ? 2 : group == 4 ? 3 : 1;
    if (group <= 2 ? i % 2 == 0 : i == 0)
        look_ahead(kind == F32 ? 2 * lines : lines, l);
}

INLINE size_t kind_bytes(const enum kind kind)
{
    return kind == F16 ? 2 : kind == F32 ? 4 : 1;
}

INLINE unsigned scales_of(unsigned d)
{
    return (d + 31) / 32;
}

INLINE struct stored row_from(const enum kind kind, struct stored r, unsigned d, size_t n)
{
    return (struct stored){r.at + n * d * kind_bytes(kind),
                           kind == Q8_0 ? r.scales + n * scales_of(d) : NULL};
}

INLINE __m256 codes_times(const float *scale, __m128i codes)
{
    return _mm256_mul_ps(_mm256_broadcast_ss(scale), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes)));
}

/* Eight numbers of a row from dim i on. */
INLINE __m256 load_8(const enum kind kind, struct stored row, size_t i)
{
    if (kind == F16)
        return _mm256_cvtph_ps(_mm_loadu_si128((const void *)(row.at + 2 * i)));
    if (kind == F32)
        return _mm256_loadu_ps((const void *)(row.at + 4 * i));
    return codes_times(row.scales + i / 32, _mm_loadl_epi64((const void *)(row.at + i)));
}

/* The last n < 8 of a row. */
INLINE __m256 load_last(const enum kind kind, struct stored row, size_t i, unsigned n)
{
    if (kind == F32)
        return _mm256_maskload_ps((const void *)(row.at + 4 * i), first_lanes(n));
    __m128i rest = _mm_setzero_si128();
    memcpy(&rest, row.at + kind_bytes(kind) * i, kind_bytes(kind) * n);
    return kind == F16 ? _mm256_cvtph_ps(rest) : codes_times(row.scales + i / 32, rest);
}

/* How many keys, or vectors of values, are taken together when so many are left. */
INLINE unsigned block_of(const unsigned rows, unsigned left)
{
    switch (rows) {
    case 8:
        return left >= 3 ? 3 : 1;
    case 4:
        return left == 4 ? 2 : left >= 3 ? 3 : left;
    case 2:
        return left >= 6 ? 6 : left >= 4 ? 4 : 1;
    default:
        return left >= 8 ? 8 : 1;
    }
}

/* Does BLOCK(some rows, so many together, from row) for the rows of a group. */
#define BLOCKS(BLOCK, rows, together)            \
    do {                                         \
        if (rows == 8 && together == 3) {        \
            BLOCK(4, 3, 0);                      \
            BLOCK(4, 3, 4);                      \
        } else if (rows == 8) {                  \
            BLOCK(8, 1, 0);                      \
        } else if (rows == 4 && together == 3) { \
            BLOCK(4, 3, 0);                      \
        } else if (rows == 4 && together == 2) { \
            BLOCK(4, 2, 0);                      \
        } else if (rows == 4) {                  \
            BLOCK(4, 1, 0);                      \
        } else if (rows == 2 && together == 6) { \
            BLOCK(2, 6, 0);                      \
        } else if (rows == 2 && together == 4) { \
            BLOCK(2, 4, 0);                      \
        } else if (rows == 2) {                  \
            BLOCK(2, 1, 0);                      \
        } else if (together == 8) {              \
            BLOCK(1, 8, 0);                      \
        } else {                                 \
            BLOCK(1, 1, 0);                      \
        }                                        \
    } while (0)

/* Eight floats that stay in a register: compilers would rather load them anew for each use. */
INLINE __m256 held(__m256 x)
{
    __asm__("" : "+x"(x));
    return x;
}

/* ---- scores ---- */

/* Neighbours added: a[0] + a[1], a[2] + a[3], then b's, in either half. As vhaddps, which would take the
 * units from the multiplications. */
INLINE __m256 pairs(__m256 a, __m256 b)
{
    return _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xdd));
}

/* Lane i: the sum of a[i]'s lanes, by the tree of sum_avx2. */
INLINE __m128 sums_of(__m256 a, __m256 b, __m256 c, __m256 d)
{
    __m256 quads = pairs(pairs(a, b), pairs(c, d));
    return _mm_add_ps(_mm256_castps256_ps128(quads), _mm256_extractf128_ps(quads, 1));
}

/* Eight dims from i on: the first step begins the sums. */
INLINE void score_step(const bool first, const enum kind kind, const unsigned rows, const unsigned keys,
                       unsigned d_k, const float *q, struct stored k, unsigned i, __m256 acc[SUMS])
{
    __m256 x[SUMS];
    UNROLL
    for (unsigned j = 0; j < keys; j++)
        x[j] = load_8(kind, row_from(kind, k, d_k, j), i);
    UNROLL
    for (unsigned r = 0; r < rows; r++) {
        __m256 y = held(_mm256_loadu_ps(q + (size_t)r * d_k + i));
        UNROLL
        for (unsigned j = 0; j < keys; j++)
            acc[j * rows + r] = first ? _mm256_mul_ps(y, x[j]) : _mm256_fmadd_ps(y, x[j], acc[j * rows + r]);
    }
}

/* Scores of `rows` rows of a group with `keys` keys that lie behind each other: s[group·key + row]. */
INLINE void score(const enum kind kind, const unsigned rows, const unsigned keys, unsigned d_k,
                  const float *q, struct stored k, const unsigned group, struct look *look, float *s)
{
    __m256 acc[SUMS];
    look_on(kind, group, 0, look);
    score_step(true, kind, rows, keys, d_k, q, k, 0, acc);
    for (unsigned i = 8; i < d_k; i += 8) {
        look_on(kind, group, i / 8, look);
        score_step(false, kind, rows, keys, d_k, q, k, i, acc);
    }
    UNROLL
    for (unsigned j = rows * keys; j % 4; j++)
        acc[j] = _mm256_setzero_ps();
    UNROLL
    for (unsigned j = 0; j < rows * keys; j += 4) {
        __m128 sums = sums_of(acc[j], acc[j + 1], acc[j + 2], acc[j + 3]);
        float *to = s + j / rows * group + j % rows;
        if (rows * keys - j >= 4)
            _mm_storeu_ps(to, sums);
        else if (rows * keys - j == 2)
            _mm_storel_pi((__m64 *)(void *)to, sums);
        else
            _mm_store_ss(to, sums);
    }
}

/* s (n, rows) of n keys. */
INLINE void scores(const enum kind kind, const unsigned rows, unsigned n, unsigned d_k, const float *q,
                   struct stored k, struct look *look, float *s)
{
#define SCORE(some, keys, from)                                                                 \
    score(kind, some, keys, d_k, q + (size_t)(from)*d_k, row_from(kind, k, d_k, t), rows, look, \
          s + t * rows + (from))
    for (unsigned t = 0, keys; t < n; t += keys) {
        keys = block_of(rows, n - t);
        BLOCKS(SCORE, rows, keys);
    }
#undef SCORE
}

/* ---- weights ---- */

/* Lanes of other keys and the same rows, one step of the way: `apart` lanes from each other. */
INLINE __m256 swapped(__m256 v, const unsigned apart)
{
    return apart == 4   ? _mm256_permute2f128_ps(v, v, 1)
           : apart == 2 ? _mm256_permute_ps(v, 0x4e)
                        : _mm256_permute_ps(v, 0xb1);
}

INLINE void store_rows(const unsigned rows, float *to, __m256 v)
{
    if (rows == 8)
        _mm256_storeu_ps(to, v);
    else if (rows == 4)
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
    __m256 max = _mm256_loadu_ps(s), e[2 * MAX_ROWS];
    for (unsigned i = 1; i < vectors; i++)
        max = _mm256_max_ps(max, _mm256_loadu_ps(s + 8 * i));
    for (unsigned apart = rows; apart < 8; apart *= 2)
        max = _mm256_max_ps(max, swapped(max, apart));
    __m256 shift = _mm256_andnot_ps(_mm256_cmp_ps(max, none, _CMP_EQ_OQ), max); /* 0 where there is none */
    UNROLL
    for (unsigned i = 0; i < vectors; i++) {
        e[i] = exp_below_avx2(_mm256_sub_ps(_mm256_loadu_ps(s + 8 * i), shift));
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

/* ---- values ---- */

/* One token. */
INLINE void value_step(const bool first, const enum kind kind, const unsigned rows, const unsigned vectors,
                       const float *w, struct stored v, unsigned i, __m256 acc[SUMS])
{
    __m256 x[SUMS];
    UNROLL
    for (unsigned j = 0; j < vectors; j++)
        x[j] = load_8(kind, v, i + 8 * j);
    UNROLL
    for (unsigned r = 0; r < rows; r++) {
        __m256 y = _mm256_broadcast_ss(&w[r]);
        UNROLL
        for (unsigned j = 0; j < vectors; j++)
            acc[r * vectors + j] =
                first ? _mm256_mul_ps(y, x[j]) : _mm256_fmadd_ps(y, x[j], acc[r * vectors + j]);
    }
}

/* o (rows, d_v) of rows of a group, `vectors` times 8 dims of it from dim i: Σ weight·v over n >= 1 tokens,
 * in their order. w (n, group). */
INLINE void value(const enum kind kind, const unsigned rows, const unsigned vectors, unsigned n, unsigned d_v,
                  const float *w, const unsigned group, struct stored v, unsigned i, struct look *look,
                  float *o)
{
    __m256 acc[SUMS];
    look_on(kind, group, 0, look);
    value_step(true, kind, rows, vectors, w, v, i, acc);
    for (unsigned t = 1; t < n; t++) {
        look_on(kind, group, t, look);
        value_step(false, kind, rows, vectors, w + t * group, row_from(kind, v, d_v, t), i, acc);
    }
    UNROLL
    for (unsigned r = 0; r < rows; r++) {
        UNROLL
        for (unsigned j = 0; j < vectors; j++)
            _mm256_storeu_ps(o + (size_t)r * d_v + i + 8 * j, acc[r * vectors + j]);
    }
}

/* The same for the last d_v % 8 dims. */
INLINE void values_last(const enum kind kind, const unsigned rows, unsigned n, unsigned d_v, const float *w,
                        struct stored v, float *o)
{
    const unsigned last = d_v % 8, i = d_v - last;
    for (unsigned r = 0; r < rows; r++) {
        __m256 acc = _mm256_setzero_ps();
        for (unsigned t = 0; t < n; t++)
            acc = _mm256_fmadd_ps(_mm256_broadcast_ss(&w[t * rows + r]),
                                  load_last(kind, row_from(kind, v, d_v, t), i, last), acc);
        _mm256_maskstore_ps(o + (size_t)r * d_v + i, first_lanes(last), acc);
    }
}

INLINE void values(const enum kind kind, const unsigned rows, unsigned n, unsigned d_v, const float *w,
                   struct stored v, struct look *look, float *o)
{
    if (n == 0) {
        memset(o, 0, (size_t)rows * d_v * sizeof *o);
        return;
    }
#define VALUE(some, vectors, from) \
    value(kind, some, vectors, n, d_v, w + (from), rows, v, i, look, o + (size_t)(from)*d_v)
    for (unsigned i = 0, vectors; i + 8 <= d_v; i += 8 * vectors) {
        vectors = block_of(rows, (d_v - i) / 8);
        BLOCKS(VALUE, rows, vectors);
    }
#undef VALUE
    if (d_v % 8)
        values_last(kind, rows, n, d_v, w, v, o);
}

/* ---- a page ---- */

#define STAGES(name, kind, rows, dim_k, dim_v)                                                   \
    STAGE void scores_##name##_##rows(unsigned n, unsigned d_k, const float *q, struct stored k, \
                                      struct look *look, float *s)                               \
    {                                                                                            \
        (void)d_k;                                                                               \
        scores(kind, rows, n, dim_k, q, k, look, s);                                             \
    }                                                                                            \
    STAGE void values_##name##_##rows(unsigned n, unsigned d_v, const float *w, struct stored v, \
                                      struct look *look, float *o)                               \
    {                                                                                            \
        (void)d_v;                                                                               \
        values(kind, rows, n, dim_v, w, v, look, o);                                             \
    }
#define WEIGHTS(rows)                                                   \
    STAGE void weights_##rows(unsigned n, float *s, float *m, float *l) \
    {                                                                   \
        weights(rows, n, s, m, l);                                      \
    }
WEIGHTS(8)
WEIGHTS(4)
WEIGHTS(2)
WEIGHTS(1)

#define PAGE(name, kind, dim_k, dim_v)                                                              \
    STAGES(name, kind, 8, dim_k, dim_v)                                                             \
    STAGES(name, kind, 4, dim_k, dim_v)                                                             \
    STAGES(name, kind, 2, dim_k, dim_v)                                                             \
    STAGES(name, kind, 1, dim_k, dim_v)                                                             \
    static void page_##name(unsigned g, unsigned n, unsigned d_k, unsigned d_v, const float *q,     \
                            struct stored k, struct stored v, struct look look, float *m, float *l, \
                            float *o)                                                               \
    {                                                                                               \
        assert(g <= GROUP_MAX_ROWS && n <= PAGE_MAX_TOKENS && d_v <= HEAD_MAX_DIMS);                \
        assert(d_k >= 8 && d_k % 8 == 0 && d_k <= HEAD_MAX_DIMS);                                   \
        float s[PAGE_MAX_TOKENS * MAX_ROWS];                                                        \
        unsigned rows;                                                                              \
        for (unsigned r = 0; r < g; r += rows, q += (size_t)rows * d_k, o += (size_t)rows * d_v) {  \
            rows = g - r >= 8 ? 8 : g - r >= 4 ? 4 : g - r >= 2 ? 2 : 1;                            \
            switch (rows) {                                                                         \
                ROWS(name, 8);                                                                      \
                ROWS(name, 4);                                                                      \
                ROWS(name, 2);                                                                      \
                ROWS(name, 1);                                                                      \
            }                                                                                       \
        }                                                                                           \
    }
#define ROWS(name, rows)                                \
    case rows:                                          \
        scores_##name##_##rows(n, d_k, q, k, &look, s); \
        weights_##rows(n, s, m + r, l + r);             \
        values_##name##_##rows(n, d_v, s, v, &look, o); \
        break
PAGE(f16_128, F16, 128, 128)
PAGE(f16, F16, d_k, d_v)
PAGE(f32, F32, d_k, d_v)
PAGE(q8_0_128, Q8_0, 128, 128)
PAGE(q8_0, Q8_0, d_k, d_v)

void page_f16_avx2(unsigned g, unsigned n, unsigned d_k, unsigned d_v, const float *q, const uint16_t *k,
                   const uint16_t *v, const struct pages_ahead *ahead, float *m, float *l, float *o)
{
    const struct stored rk = {.at = (const uint8_t *)k}, rv = {.at = (const uint8_t *)v};
    struct look look = look_from(ahead, (size_t)PAGE_MAX_TOKENS * (d_k + d_v) * 2);
    if (d_k == 128 && d_v == 128) /* the usual shape */
        page_f16_128(g, n, 128, 128, q, rk, rv, look, m, l, o);
    else
        page_f16(g, n, d_k, d_v, q, rk, rv, look, m, l, o);
}

void page_f32_avx2(unsigned g, unsigned n, unsigned d_k, unsigned d_v, const float *q, const float *k,
                   const float *v, const struct pages_ahead *ahead, float *m, float *l, float *o)
{
    const struct stored rk = {.at = (const uint8_t *)k}, rv = {.at = (const uint8_t *)v};
    struct look look = look_from(ahead, (size_t)PAGE_MAX_TOKENS * (d_k + d_v) * 4);
    page_f32(g, n, d_k, d_v, q, rk, rv, look, m, l, o);
}

/* The scales of a page's keys or values, behind the codes. Returns what lies behind them. */
static const uint8_t *scales_from(unsigned d, const uint8_t *at, float *scales)
{
    const unsigned n = PAGE_MAX_TOKENS * scales_of(d); /* a multiple of 8 */
    for (unsigned i = 0; i < n; i += 8)
        _mm256_storeu_ps(scales + i, _mm256_cvtph_ps(_mm_loadu_si128((const void *)(at + 2 * i))));
    return at + (size_t)2 * n;
}

void page_q8_0_avx2(unsigned g, unsigned n, unsigned d_k, unsigned d_v, const float *q, const uint8_t *page,
                    const struct pages_ahead *ahead, float *m, float *l, float *o)
{
    float k_scales[PAGE_MAX_TOKENS * HEAD_MAX_DIMS / 32], v_scales[PAGE_MAX_TOKENS * HEAD_MAX_DIMS / 32];
    assert(d_k <= HEAD_MAX_DIMS && d_v <= HEAD_MAX_DIMS);
    const uint8_t *v = scales_from(d_k, page + (size_t)PAGE_MAX_TOKENS * d_k, k_scales),
                  *end = scales_from(d_v, v + (size_t)PAGE_MAX_TOKENS * d_v, v_scales);
    const struct stored rk = {page, k_scales}, rv = {v, v_scales};
    struct look look = look_from(ahead, (size_t)(end - page));
    if (d_k == 128 && d_v == 128)
        page_q8_0_128(g, n, 128, 128, q, rk, rv, look, m, l, o);
    else
        page_q8_0(g, n, d_k, d_v, q, rk, rv, look, m, l, o);
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

INLINE void merge(unsigned g, unsigned d_v, float *M, float *L, float *O, const float *m, const float *l,
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

void merge_avx2(unsigned g, unsigned d_v, float *M, float *L, float *O, const float *m, const float *l,
                const float *o)
{
    if (d_v == 128)
        merge(g, 128, M, L, O, m, l, o);
    else
        merge(g, d_v, M, L, O, m, l, o);
}

#else
typedef int page_avx2_is_x86_only;
#endif
