/* bound.c: see bound.h. In f64, and what is stored as f32 or f16 is rounded up first. */
#include "decoder/scout/bound.h"
#include "decoder/kernels/kernels.h"
#include "decoder/scout/reps.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

enum { MAX_DIMS = 1024, VECS = 1 + REPS_PAGE_OUTLIERS, BLOCK_PAGES = REPS_BLOCK_KEYS / REPS_PAGE_KEYS };

static const double f16_step = 0x1p-11, f16_least = 0x1p-25; /* half a step, of a value and of the smallest */
static const double slack = 1e-6;                            /* of f32 rounding in N, R and r, relative */

const char *bound_name(enum bound b)
{
    static const char *const names[] = {"norm", "ball", "box", "least"};
    return names[b];
}

/* ---- radii ---- */

static double distance(unsigned d_k, const float *a, const float *b)
{
    double sum = 0;
    for (unsigned i = 0; i < d_k; i++)
        sum += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    return sqrt(sum);
}

/* What is no number could be anything. */
static double larger(double a, double b)
{
    return isnan(b) ? (double)INFINITY : fmax(a, b);
}

/* Whichever keys the outliers were made of: a bound holds for any way of giving each outlier a key of its own
 * and the rest to the centre. The nearest one is taken. */
static void page_radii(unsigned d_k, const float *k, float *radii)
{
    uint8_t group[VECS * (MAX_DIMS / 8 * 32 + 32) + 64];
    float vec[MAX_DIMS];
    bool taken[REPS_PAGE_KEYS] = {false};
    double most[2] = {0, 0};
    reps_build(REPS_PAGE, d_k, k, group, 0);
    for (unsigned j = 1; j < VECS; j++) {
        double least = INFINITY;
        int nearest = -1;
        reps_get_vec(REPS_PAGE, d_k, group, 0, j, vec);
        for (int t = 0; t < REPS_PAGE_KEYS; t++) {
            double d = taken[t] ? INFINITY : distance(d_k, k + (size_t)t * d_k, vec);
            if (!taken[t] && (nearest < 0 || d < least)) {
                nearest = t;
                least = d;
            }
        }
        taken[nearest] = true;
        most[1] = larger(most[1], least);
    }
    reps_get_vec(REPS_PAGE, d_k, group, 0, 0, vec);
    for (int t = 0; t < REPS_PAGE_KEYS; t++)
        most[0] = larger(most[0], taken[t] ? 0 : distance(d_k, k + (size_t)t * d_k, vec));
    radii[0] = (float)most[0];
    radii[1] = (float)most[1];
}

void bound_radii(unsigned d_k, const float *k, float *radii)
{
    assert(d_k <= MAX_DIMS);
    for (unsigned p = 0; p < BLOCK_PAGES; p++)
        page_radii(d_k, k + (size_t)p * REPS_PAGE_KEYS * d_k, radii + (size_t)p * 2);
}

/* ---- bounds ---- */

static double dot(unsigned d_k, const float *a, const float *b)
{
    double sum = 0;
    for (unsigned i = 0; i < d_k; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

/* log Σ n_j exp(x_j) of the centre and its outliers. */
static double log_sum(const double *x)
{
    double most = x[0], sum = 0;
    for (unsigned j = 1; j < VECS; j++)
        most = x[j] > most ? x[j] : most;
    for (unsigned j = 0; j < VECS; j++)
        sum += (j ? 1 : REPS_PAGE_KEYS - REPS_PAGE_OUTLIERS) * exp(x[j] - most);
    return most + log(sum);
}

static double by_box(unsigned d_k, const float *q, const float *box)
{
    double sum = 0;
    for (unsigned i = 0; i < d_k; i++) {
        double low = (double)box[i], high = (double)box[d_k + i], x = (double)q[i];
        low -= fabs(low) * f16_step + f16_least;
        high += fabs(high) * f16_step + f16_least;
        sum += fmax(x * low, x * high);
    }
    return sum + log(REPS_PAGE_KEYS);
}

void bound_page(const struct far_view *v, size_t page, double *out)
{
    const struct far_piece *piece = &v->pieces[page / PIECE_PAGES];
    size_t at = page % PIECE_PAGES;
    const float *radii = (const float *)piece->part[PART_BALL] + 2 * at;
    const uint8_t *group = piece->page_groups + at / REPS_LANES * reps_group_bytes(REPS_PAGE, v->d_k);
    float vec[VECS][MAX_DIMS], box[2 * MAX_DIMS];
    bool other = view_pages(v) != REPS_PAGE || v->d_rep; /* its balls are another representative's */
    assert(v->d_k <= MAX_DIMS);
    for (unsigned j = 0; j < VECS && !other; j++)
        reps_get_vec(REPS_PAGE, v->d_k, group, at % REPS_LANES, j, vec[j]);
    kernels_get()->f16_to_f32(2 * v->d_k, (const uint16_t *)piece->part[PART_BOX] + at * 2 * v->d_k, box);
    for (unsigned r = 0; r < v->rows; r++) {
        const float *q = v->q + (size_t)r * v->d_k;
        double norm = sqrt(dot(v->d_k, q, q)) * (1 + slack), x[VECS];
        for (unsigned j = 0; j < VECS && !other; j++)
            x[j] = dot(v->d_k, q, vec[j]) + norm * (double)radii[j ? 1 : 0];
        double bound[BOUNDS] = {[BOUND_NORM] = norm * (double)piece->norms[at] + log(REPS_PAGE_KEYS),
                                [BOUND_BALL] = other ? (double)NAN : log_sum(x),
                                [BOUND_BOX] = by_box(v->d_k, q, box),
                                [BOUND_LEAST] = INFINITY};
        for (unsigned b = 0; b < BOUNDS; b++) {
            double known = isnan(bound[b]) ? (double)INFINITY : bound[b];
            bound[BOUND_LEAST] = fmin(bound[BOUND_LEAST], known);
            out[b * v->rows + r] = b == BOUND_LEAST ? bound[BOUND_LEAST] : known;
        }
    }
}
