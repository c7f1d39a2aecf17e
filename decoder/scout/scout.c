/* scout.c: scoring. Choosing is in top.c.
 *
 * A query row becomes int8 with one scale: rounding adds noise of |q|/127 per dim, far below that of 4-bit
 * keys. */
#include "decoder/scout/scout.h"
#include "decoder/kernels/kernels.h"
#include "decoder/scout/reps.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

enum { MAX_DIMS = 1024, ROWS_AT_ONCE = 16 };

_Static_assert((int)SCOUT_LANES == (int)REPS_LANES, "a kernel scores what a group holds");

/* Query rows as scout_groups wants them. */
struct queries {
    int8_t q8[ROWS_AT_ONCE * MAX_DIMS]; /* (rows, d_k) */
    float scale[ROWS_AT_ONCE];
    int32_t sum[ROWS_AT_ONCE];  /* of q8 */
    float square[ROWS_AT_ONCE]; /* what a spread is multiplied with */
};

/* Σ w_i q_i²; w NULL: all 1. Two loops, each of which a compiler turns into vectors. */
static float weighted_square(unsigned d_k, const float *q, const float *w)
{
    float sum[8] = {0};
    for (unsigned i = 0; w && i < d_k; i += 8)
        for (unsigned j = 0; j < 8; j++)
            sum[j] += q[i + j] * q[i + j] * w[i + j];
    for (unsigned i = 0; !w && i < d_k; i += 8)
        for (unsigned j = 0; j < 8; j++)
            sum[j] += q[i + j] * q[i + j];
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

static void weigh_dims(unsigned d_k, unsigned g, const float *q, const float *w, struct queries *out)
{
    for (unsigned r = 0; r < g; r++) {
        float square = out->scale[r] != 0.0f ? weighted_square(d_k, q + (size_t)r * d_k, w) : 0.0f;
        out->square[r] = isfinite(square) ? square : 0.0f;
    }
}

static void quantise_row(unsigned d_k, const float *q, struct queries *out, unsigned row)
{
    float largest = 0.0f;
    for (unsigned i = 0; i < d_k; i++)
        largest = fabsf(q[i]) > largest ? fabsf(q[i]) : largest;
    float scale = largest / 127.0f;
    /* a row without length (or, from a broken model, without a finite one) scores every page alike */
    bool usable = isnormal(scale) && isfinite(weighted_square(d_k, q, NULL));
    int32_t sum = 0;
    for (unsigned i = 0; i < d_k; i++) {
        int code = usable ? (int)lrintf(q[i] / scale) : 0;
        out->q8[(size_t)row * d_k + i] = (int8_t)code;
        sum += code;
    }
    out->scale[row] = usable ? scale : 0.0f;
    out->sum[row] = sum;
}

/* Pieces lie apart, so the processor can't foresee where the next one begins: the first groups of it, after
 * which the kernel looks ahead by itself. Read once a step: not to stay in the caches. */
static void prefetch_piece(const uint8_t *groups, size_t n_groups, size_t group_bytes)
{
    size_t bytes = (n_groups < SCOUT_AHEAD ? n_groups : SCOUT_AHEAD) * group_bytes;
    for (size_t at = 0; at < bytes; at += 64)
        __builtin_prefetch(groups + at, 0, 0);
}

static size_t groups_of(size_t pages)
{
    return (pages + SCOUT_LANES - 1) / SCOUT_LANES;
}

static void score_rows(const struct scout_head *h, size_t n_pages, unsigned g, const float *q, float *out,
                       size_t ld)
{
    const struct kernels *k = kernels_get();
    struct queries queries;
    const float *last = NULL;
    const size_t group_bytes = reps_group_bytes(h->kind, h->d_k);
    for (unsigned r = 0; r < g; r++)
        quantise_row(h->d_k, q + (size_t)r * h->d_k, &queries, r);
    for (size_t page = 0; page < n_pages; page += h->pages_per_piece) {
        size_t left = n_pages - page, here = left < h->pages_per_piece ? left : h->pages_per_piece;
        const float *w = h->scatter ? h->scatter[page / h->pages_per_piece] : NULL;
        if (page == 0 || w != last) /* neighbouring pieces may share theirs */
            weigh_dims(h->d_k, g, q, w, &queries);
        last = w;
        if (left > here) {
            size_t next = left - here < h->pages_per_piece ? left - here : h->pages_per_piece;
            prefetch_piece(h->groups[page / h->pages_per_piece + 1], groups_of(next), group_bytes);
        }
        k->scout_groups(groups_of(here), g, h->d_k, reps_vecs(h->kind), h->groups[page / h->pages_per_piece],
                        queries.q8, queries.scale, queries.sum, queries.square, out + page, ld);
    }
    for (unsigned r = 0; r < g; r++)
        for (size_t page = n_pages; page % SCOUT_LANES; page++)
            out[r * ld + page] = -INFINITY;
}

void scout_score(const struct scout_head *h, size_t n_pages, unsigned g, const float *q, float *out,
                 size_t ld)
{
    assert(h->d_k % 8 == 0 && h->d_k <= MAX_DIMS && h->pages_per_piece % SCOUT_LANES == 0);
    assert(ld >= (n_pages + SCOUT_LANES - 1) / SCOUT_LANES * SCOUT_LANES);
    for (unsigned r = 0; r < g; r += ROWS_AT_ONCE) {
        unsigned rows = g - r < ROWS_AT_ONCE ? g - r : ROWS_AT_ONCE;
        score_rows(h, n_pages, rows, q + (size_t)r * h->d_k, out + r * ld, ld);
    }
}

void scout_aggregate(size_t n_pages, unsigned g, float *logmass, size_t ld, float *lse, float *score)
{
    const struct kernels *k = kernels_get();
    memset(score, 0, n_pages * sizeof *score);
    for (unsigned r = 0; r < g; r++, logmass += ld) {
        float max = k->max(n_pages, logmass);
        double sum = k->exp_sum(n_pages, logmass, max);
        lse[r] = sum > 0 ? max + (float)log(sum) : -INFINITY;
        float share = sum > 0 ? (float)(1.0 / sum) : 0.0f;
        for (size_t i = 0; i < n_pages; i++)
            score[i] += logmass[i] *= share;
    }
}
