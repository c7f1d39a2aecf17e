/* scout_lanes.h: what the two ways of multiplying 4-bit codes share: the group's layout, log mass, the loops
 * over pieces, groups and rows.
 *
 * A *.c file defines add_rows (32-bit sums per page, exact, so both give the same bits) and SCOUT_GROUPS, its
 * function's name, and includes this once. Only for x86 files with AVX2. */
#ifndef KERNELS_SCOUT_LANES_H
#define KERNELS_SCOUT_LANES_H

#include "decoder/kernels/families.h"
#include "decoder/kernels/lanes_avx2.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

enum {
    MAX_ROWS = 4,
    WIDEN_ROWS = 4,
    AHEAD_BYTES = 3072, /* what is scored while memory answers */
};

/* Query rows as the loops want them. Rows lie in blocks of 4, 2 or 1, which are multiplied together. */
struct scan_rows {
    /* of a block of n rows (d_k/8, n, 2): four dims of a row, once for each page of a group, so that a
     * product takes them from memory as they are */
    __m256i q[SCOUT_ROWS * HEAD_MAX_DIMS / 4];
    float factor[SCOUT_ROWS];  /* scale in multiples of ln 2 */
    int32_t eight[SCOUT_ROWS]; /* 8·sum: codes count from -8 */
};

/* acc (rows), 32 bit per page, += codes·q of n (at most WIDEN_ROWS) times 8 dims of a group. */
INLINE void add_rows(const unsigned rows, unsigned n, const uint8_t *codes, const __m256i *q, __m256i *acc);

/* log Σ exp of each page's terms, which come as multiples of ln 2: exp2 is cheaper than exp. term[0] is the
 * centre's, still without its count and spread. */
INLINE __m256 log_mass(unsigned n_vec, __m256 *term, __m256 variance, __m256 lcount)
{
    __m256 two = _mm256_add_ps(lcount, lcount), small = _mm256_cmp_ps(variance, two, _CMP_LE_OQ);
    __m256 gain = _mm256_mul_ps(variance, _mm256_set1_ps(0.5f));
    if (_mm256_movemask_ps(small) != 0xff) { /* seldom, and a root takes its time */
        __m256 frozen = _mm256_sub_ps(_mm256_sqrt_ps(_mm256_mul_ps(variance, two)), lcount);
        gain = _mm256_blendv_ps(frozen, gain, small);
    }
    term[0] = _mm256_fmadd_ps(_mm256_add_ps(gain, lcount), _mm256_set1_ps(EXP_LOG2E), term[0]);
    __m256 max = term[0];
    for (unsigned i = 1; i < n_vec; i++)
        max = _mm256_max_ps(term[i], max);
    __m256 beyond = _mm256_setzero_ps(); /* log of the sum relative to its largest term: 0 for one term */
    if (n_vec > 1) {
        __m256 sum = _mm256_setzero_ps();
        for (unsigned i = 0; i < n_vec; i++)
            sum = _mm256_add_ps(sum, exp2_avx2(_mm256_sub_ps(term[i], max)));
        beyond = log_avx2(sum);
    }
    __m256 mass = _mm256_fmadd_ps(max, _mm256_set1_ps(LN_2), beyond);
    const __m256 none = _mm256_set1_ps(-INFINITY);
    return _mm256_blendv_ps(mass, none, _mm256_cmp_ps(lcount, none, _CMP_EQ_OQ));
}

/* Brings what begins here nearer. Representatives are read once a step: they should pass through the caches
 * without driving out what the rest of the step will want again (weights, window, held pages). */
INLINE void ask(const uint8_t *at, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64)
        _mm_prefetch((const char *)at + i, _MM_HINT_NTA);
}

/* One group against a block of rows: out row r at out + r·ld. Meanwhile the group that lies at `next` is
 * asked for, if there is one, a line for each that is multiplied: more at once would keep those waiting that
 * are needed first. */
INLINE void score_rows(const unsigned rows, unsigned d_k, unsigned n_vec, const uint8_t *group,
                       const uint8_t *next, const __m256i *q, const float *restrict factor,
                       const int32_t *restrict eight, const float *restrict square, float *restrict out,
                       size_t ld)
{
    const unsigned n = d_k / 8;
    const uint8_t *codes = group;
    const float *tail = (const float *)(const void *)(group + (size_t)n_vec * n * 32);
    __m256 term[MAX_ROWS][SCOUT_MAX_VECS];
    for (unsigned v = 0; v < n_vec; v++) {
        __m256i acc[MAX_ROWS];
        for (unsigned r = 0; r < rows; r++)
            acc[r] = _mm256_setzero_si256();
        unsigned i = 0;
        for (; i + WIDEN_ROWS <= n; i += WIDEN_ROWS, codes += 32 * WIDEN_ROWS) {
            if (next)
                ask(next + (codes - group), 32 * WIDEN_ROWS);
            add_rows(rows, WIDEN_ROWS, codes, q + (size_t)2 * rows * i, acc);
        }
        if (i < n)
            add_rows(rows, n - i, codes, q + (size_t)2 * rows * i, acc);
        codes += 32 * (size_t)(n - i);
        __m256 scale = _mm256_loadu_ps(tail + 8 * v);
        for (unsigned r = 0; r < rows; r++) {
            __m256 dot = _mm256_cvtepi32_ps(_mm256_sub_epi32(acc[r], _mm256_set1_epi32(eight[r])));
            term[r][v] = _mm256_mul_ps(dot, _mm256_mul_ps(scale, _mm256_set1_ps(factor[r])));
        }
    }
    if (next)
        ask(next + (codes - group), (n_vec + 2) * 32);
    __m256 spread = _mm256_loadu_ps(tail + 8 * n_vec), lcount = _mm256_loadu_ps(tail + 8 * n_vec + 8);
    for (unsigned r = 0; r < rows; r++) {
        __m256 variance = _mm256_mul_ps(spread, _mm256_set1_ps(square[r]));
        _mm256_storeu_ps(out + r * ld, log_mass(n_vec, term[r], variance, lcount));
    }
}

/* Of the g - r rows that are left, how many the next block has. */
INLINE unsigned block_rows(unsigned left)
{
    return left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

INLINE void spread_rows(const struct scout_scan *s, const unsigned g, unsigned d_k, struct scan_rows *rows)
{
    __m256i *q = rows->q;
    for (unsigned r = 0, n; r < g; r += n) {
        n = block_rows(g - r);
        for (unsigned i = 0; i < d_k; i += 8)
            for (unsigned j = 0; j < n; j++, q += 2) {
                int32_t four[2];
                memcpy(four, s->q8 + (size_t)(r + j) * d_k + i, sizeof four);
                q[0] = _mm256_set1_epi32(four[0]);
                q[1] = _mm256_set1_epi32(four[1]);
            }
    }
    for (unsigned r = 0; r < g; r++) {
        rows->factor[r] = s->scale[r] * EXP_LOG2E;
        rows->eight[r] = 8 * s->sum[r];
    }
}

/* As score_rows, for all rows. */
INLINE void score_group(const unsigned g, unsigned d_k, unsigned n_vec, const uint8_t *group,
                        const uint8_t *next, const struct scan_rows *rows, const float *square, float *out,
                        size_t ld)
{
    const __m256i *q = rows->q;
    unsigned r = 0;
    for (; g - r >= 4; r += 4, q += d_k, next = NULL)
        score_rows(4, d_k, n_vec, group, next, q, rows->factor + r, rows->eight + r, square + r, out + r * ld,
                   ld);
    if (g - r >= 2) {
        score_rows(2, d_k, n_vec, group, next, q, rows->factor + r, rows->eight + r, square + r, out + r * ld,
                   ld);
        r += 2;
        q += d_k / 2;
        next = NULL;
    }
    if (r < g)
        score_rows(1, d_k, n_vec, group, next, q, rows->factor + r, rows->eight + r, square + r, out + r * ld,
                   ld);
}

/* Where the next group to ask for lies. */
struct ahead {
    const uint8_t *const *piece;
    const uint8_t *group;
    unsigned left; /* of the piece */
};

INLINE const uint8_t *move_ahead(struct ahead *a, const struct scout_scan *s, size_t bytes)
{
    if (a->left == 0) {
        a->group = *++a->piece;
        a->left = s->per_piece;
    }
    const uint8_t *group = a->group;
    a->group += bytes;
    a->left--;
    return group;
}

INLINE void score_all(const struct scout_scan *s, const unsigned g, unsigned d_k, unsigned n_vec, float *out,
                      size_t ld)
{
    const size_t bytes = (size_t)n_vec * (d_k / 8 * 32 + 32) + 64,
                 most_ahead = bytes < AHEAD_BYTES ? AHEAD_BYTES / bytes : 1;
    struct scan_rows rows;
    struct ahead ahead = {s->pieces, s->pieces[0], s->per_piece};
    const float *square = s->square;
    size_t n = s->n_groups;
    for (size_t i = 0; i < most_ahead && i < n; i++)
        ask(move_ahead(&ahead, s, bytes), bytes);
    spread_rows(s, g, d_k, &rows);
    for (const uint8_t *const *piece = s->pieces; n; piece++, square += s->square_step) {
        const uint8_t *group = *piece, *end = group + (n < s->per_piece ? n : s->per_piece) * bytes;
        for (; group < end; group += bytes, out += SCOUT_LANES, n--) {
            const uint8_t *next = n > most_ahead ? move_ahead(&ahead, s, bytes) : NULL;
            score_group(g, d_k, n_vec, group, next, &rows, square, out, ld);
        }
    }
}

/* The usual shapes with their loops unrolled. */
void SCOUT_GROUPS(const struct scout_scan *s, float *out, size_t ld)
{
    assert(s->d_k % 8 == 0 && s->d_k <= HEAD_MAX_DIMS && s->n_vec >= 1 && s->n_vec <= SCOUT_MAX_VECS);
    assert(s->g >= 1 && s->g <= SCOUT_ROWS);
    if (s->n_groups == 0)
        return;
#define USUAL(G, D, V)                               \
    if (s->g == G && s->d_k == D && s->n_vec == V) { \
        score_all(s, G, D, V, out, ld);              \
        return;                                      \
    }
    USUAL(2, 64, 1)
    USUAL(2, 64, 6)
    USUAL(4, 128, 1)
    USUAL(4, 128, 6)
    USUAL(8, 128, 1)
    USUAL(8, 128, 6)
#undef USUAL
    score_all(s, s->g, s->d_k, s->n_vec, out, ld);
}

#endif
