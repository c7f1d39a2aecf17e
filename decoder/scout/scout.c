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

enum { MAX_DIMS = 1024, MAX_ROWS = 256, PIECES_AT_ONCE = 128 };

_Static_assert((int)SCOUT_LANES == (int)REPS_LANES, "a kernel scores what a group holds");

/* Query rows as scout_groups wants them. */
struct queries {
    int8_t q8[SCOUT_ROWS * MAX_DIMS];     /* (rows, d_k) */
    float squares[SCOUT_ROWS * MAX_DIMS]; /* (rows, d_k) q_i² */
    float scale[SCOUT_ROWS];
    int32_t sum[SCOUT_ROWS];  /* of q8 */
    float square[SCOUT_ROWS]; /* Σ q_i² */
};

/* Four dims side by side: from plain loops over lanes compilers make no vectors. Sums have eight lanes. */
typedef float floats __attribute__((vector_size(16)));
typedef int32_t ints __attribute__((vector_size(16)));
enum { LANES = 4 };

static inline floats load(const float *from)
{
    floats x;
    memcpy(&x, from, sizeof x);
    return x;
}

static inline float sum_of(floats a, floats b)
{
    return ((a[0] + a[1]) + (a[2] + a[3])) + ((b[0] + b[1]) + (b[2] + b[3]));
}

/* What a spread is multiplied with: Σ w_i q_i². w NULL: 1 everywhere. */
static void weigh_dims(unsigned d_k, unsigned g, const struct queries *q, const float *w, float *out)
{
    if (!w) {
        memcpy(out, q->square, g * sizeof *out);
        return;
    }
    for (unsigned r = 0; r < g; r++) {
        const float *squares = q->squares + (size_t)r * d_k;
        floats a = {0}, b = {0};
        for (unsigned i = 0; i < d_k; i += 2 * LANES) {
            a += load(squares + i) * load(w + i);
            b += load(squares + i + LANES) * load(w + i + LANES);
        }
        float square = q->scale[r] != 0.0f ? sum_of(a, b) : 0.0f;
        out[r] = isfinite(square) ? square : 0.0f;
    }
}

/* Codes of x / scale, |x| <= 127·scale; returns their sum. Adding 1.5·2^23 leaves the nearest integer in the
 * low bits. */
static int32_t round_row(unsigned d_k, const float *x, float scale, int8_t *out)
{
    const float round_to_int = 12582912.0f;
    int32_t codes[MAX_DIMS];
    ints sum = {0};
    for (unsigned i = 0; i < d_k; i += LANES) {
        ints code = (ints)(load(x + i) / scale + round_to_int) - 0x4b400000;
        sum += code;
        memcpy(codes + i, &code, sizeof code);
    }
    for (unsigned i = 0; i < d_k; i++)
        out[i] = (int8_t)codes[i];
    return sum[0] + sum[1] + sum[2] + sum[3];
}

/* Largest |x|, by bits, which order like the numbers; whatever is above infinity is none. */
static float largest(ints a, ints b)
{
    int32_t most = 0;
    float x;
    for (unsigned j = 0; j < LANES; j++) {
        most = a[j] > most ? a[j] : most;
        most = b[j] > most ? b[j] : most;
    }
    memcpy(&x, &most, sizeof x);
    return x;
}

static inline ints larger(ints a, floats x)
{
    ints size = (ints)x & INT32_MAX, more = size > a;
    return (size & more) | (a & ~more);
}

static void round_rows(unsigned d_k, unsigned g, const float *q, struct queries *out)
{
    for (unsigned r = 0; r < g; r++, q += d_k) {
        float *squares = out->squares + (size_t)r * d_k;
        floats sum[2] = {{0}, {0}};
        ints most[2] = {{0}, {0}};
        for (unsigned i = 0; i < d_k; i += 2 * LANES)
            for (unsigned j = 0; j < 2; j++) {
                floats x = load(q + i + LANES * j), square = x * x;
                most[j] = larger(most[j], x);
                sum[j] += square;
                memcpy(squares + i + LANES * j, &square, sizeof square);
            }
        float scale = largest(most[0], most[1]) / 127.0f, square = sum_of(sum[0], sum[1]);
        /* a row without length (or, from a broken model, without a finite one) scores every page alike */
        bool usable = isnormal(scale) && isfinite(square);
        out->scale[r] = usable ? scale : 0.0f;
        out->square[r] = usable ? square : 0.0f;
        out->sum[r] = 0;
        if (usable)
            out->sum[r] = round_row(d_k, q, scale, out->q8 + (size_t)r * d_k);
        else
            memset(out->q8 + (size_t)r * d_k, 0, d_k);
    }
}

static void score_rows(const struct scout_head *h, size_t n_pages, unsigned g, const float *q, float *out,
                       size_t ld)
{
    struct queries queries;
    float square[PIECES_AT_ONCE * SCOUT_ROWS];
    round_rows(h->d_k, g, q, &queries);
    struct scout_scan scan = {.per_piece = h->pages_per_piece / SCOUT_LANES,
                              .n_vec = reps_vecs(h->kind),
                              .d_k = h->d_k,
                              .g = g,
                              .q8 = queries.q8,
                              .scale = queries.scale,
                              .sum = queries.sum,
                              .square = h->scatter ? square : queries.square,
                              .square_step = h->scatter ? g : 0};
    const size_t n_pieces = (n_pages + h->pages_per_piece - 1) / h->pages_per_piece;
    for (size_t at = 0; at < n_pieces; at += PIECES_AT_ONCE) {
        size_t first = at * h->pages_per_piece, most = (size_t)PIECES_AT_ONCE * h->pages_per_piece,
               n = n_pages - first < most ? n_pages - first : most;
        for (size_t i = 0; h->scatter && i < PIECES_AT_ONCE && at + i < n_pieces; i++)
            weigh_dims(h->d_k, g, &queries, h->scatter[at + i], square + i * g);
        scan.pieces = h->groups + at;
        scan.n_groups = (n + SCOUT_LANES - 1) / SCOUT_LANES;
        kernels_get()->scout_groups(&scan, out + first, ld);
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
    for (unsigned r = 0; r < g; r += SCOUT_ROWS) {
        unsigned rows = g - r < SCOUT_ROWS ? g - r : SCOUT_ROWS;
        score_rows(h, n_pages, rows, q + (size_t)r * h->d_k, out + r * ld, ld);
    }
}

void scout_aggregate(size_t n_pages, unsigned g, float *logmass, size_t ld, float *lse, float *score)
{
    const struct kernels *k = kernels_get();
    float factor[MAX_ROWS];
    assert(g <= MAX_ROWS);
    for (unsigned r = 0; r < g; r++) {
        float max = k->max(n_pages, logmass + r * ld);
        double sum = k->exp_sum(n_pages, logmass + r * ld, max);
        lse[r] = sum > 0 ? max + (float)log(sum) : -INFINITY;
        factor[r] = sum > 0 ? (float)(1.0 / sum) : 0.0f;
    }
    k->scale_rows(g, n_pages, ld, logmass, factor, score);
}
