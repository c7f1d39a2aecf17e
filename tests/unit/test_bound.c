/* test_bound.c: no page gets more than its bounds say, whatever its keys and the query. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "decoder/kernels/kernels.h"
#include "decoder/scout/bound.h"
#include "decoder/scout/reps.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 128, KEYS = REPS_BLOCK_KEYS, PAGES = 4, ROWS = 3 };

static uint64_t lots;

static double uniform(void) /* -1 to 1 */
{
    lots = lots * 6364136223846793005u + 1442695040888963407u;
    return (double)(lots >> 33) / (double)(1u << 30) - 1;
}

/* A piece of one block. */
struct piece {
    uint8_t *groups;
    float norms[PIECE_PAGES], *box, *radii;
    struct far_piece far;
};

static void piece_make(struct piece *p, unsigned d, const float *k)
{
    *p = (struct piece){.groups = malloc(PIECE_PAGES / REPS_LANES * reps_group_bytes(REPS_PAGE, d)),
                        .box = calloc(1, part_bytes(PART_BOX, d, d)),
                        .radii = calloc(1, part_bytes(PART_BALL, d, d))};
    for (unsigned page = 0; page < PAGES; page++) {
        double most = 0;
        for (unsigned t = page * 16; t < page * 16 + 16; t++) {
            double square = 0;
            for (unsigned i = 0; i < d; i++)
                square += (double)k[t * d + i] * (double)k[t * d + i];
            most = fmax(most, square);
        }
        p->norms[page] = (float)sqrt(most);
        reps_build_gamma(REPS_PAGE, d, k + (size_t)page * 16 * d, 0.3f, p->groups, page);
    }
    part_add(PART_BOX, d, d, 0, k, NULL, p->box);
    part_add(PART_BALL, d, d, 0, k, NULL, p->radii);
    p->far = (struct far_piece){.page_groups = p->groups, .norms = p->norms};
    p->far.part[PART_BOX] = p->box;
    p->far.part[PART_BALL] = p->radii;
}

static void piece_free(struct piece *p)
{
    free(p->groups);
    free(p->box);
    free(p->radii);
}

static double true_log_mass(unsigned d, const float *q, const float *k)
{
    double x[16], most = -INFINITY, sum = 0;
    for (unsigned t = 0; t < 16; t++) {
        x[t] = 0;
        for (unsigned i = 0; i < d; i++)
            x[t] += (double)q[i] * (double)k[t * d + i];
        most = fmax(most, x[t]);
    }
    for (unsigned t = 0; t < 16; t++)
        sum += exp(x[t] - most);
    return most + log(sum);
}

/* Keys of many kinds, the last of them made to be misjudged. */
enum { KINDS = 8 };
static void make_keys(unsigned kind, unsigned d, float *k)
{
    double scale = pow(10, 2 * uniform()), shared[MOST];
    for (unsigned i = 0; i < d; i++)
        shared[i] = uniform();
    for (unsigned t = 0; t < KEYS; t++)
        for (unsigned i = 0; i < d; i++) {
            double x = uniform();
            switch (kind) {
            case 0: /* noise */
                break;
            case 1: /* alike */
                x = shared[i] + 0.01 * x;
                break;
            case 2: /* equal */
                x = shared[i];
                break;
            case 3: /* one far from the rest in each page */
                x = t % 16 == 7 ? 1000 * x : x;
                break;
            case 4: /* more that stand apart than there are outliers, at opposite ends */
                x = t % 16 < 8 ? shared[i] * (t % 2 ? 30 : -30) : 0.1 * x;
                break;
            case 5: /* one dim so large that 4 bits see nothing of the others */
                x = i == 3 ? 5000 * x : x;
                break;
            case 6: /* next to nothing */
                x *= 1e-42;
                break;
            default: /* beyond what f16 holds */
                x *= 1e5;
                break;
            }
            k[t * d + i] = (float)(scale * x);
        }
}

/* Along noise, along a key, and away from a page's centre towards one. */
static void make_query(unsigned kind, unsigned d, const float *k, const float *centre, float *q)
{
    unsigned t = (unsigned)((uniform() + 1) * 7.99);
    double norm = 0, length = pow(10, 1.5 * uniform());
    for (unsigned i = 0; i < d; i++) {
        double x = kind == 0 ? uniform() : (double)k[t * d + i] - (kind == 2 ? (double)centre[i] : 0);
        q[i] = (float)x;
        norm += x * x;
    }
    for (unsigned i = 0; i < d && norm > 0; i++)
        q[i] = (float)((double)q[i] / sqrt(norm) * length);
}

static void nothing_is_above_its_bounds(void **state)
{
    (void)state;
    static const unsigned dims[] = {8, 64, 128};
    float k[KEYS * MOST], centre[MOST], q[ROWS * MOST];
    double bound[BOUNDS * ROWS];
    lots = 1;
    for (unsigned n = 0; n < 3 * KINDS * 40; n++) {
        unsigned d = dims[n % 3], kind = n / 3 % KINDS;
        struct piece p;
        make_keys(kind, d, k);
        piece_make(&p, d, k);
        for (unsigned page = 0; page < PAGES; page++) {
            const float *keys = k + (size_t)page * 16 * d;
            reps_get_vec(REPS_PAGE, d, p.groups, page, 0, centre);
            for (unsigned r = 0; r < ROWS; r++)
                make_query(r, d, keys, centre, q + (size_t)r * d);
            struct far_view v = {.d_k = d, .rows = ROWS, .q = q, .pieces = &p.far};
            bound_page(&v, page, bound);
            for (unsigned r = 0; r < ROWS; r++) {
                double truth = true_log_mass(d, q + (size_t)r * d, keys), least = INFINITY;
                for (unsigned b = 0; b < BOUNDS; b++) {
                    double at = bound[b * ROWS + r];
                    if (!(at >= truth - 1e-12 * fabs(truth)))
                        fail_msg("keys of kind %u, %u dims, query %u: %s says at most %.9g and it is %.9g",
                                 kind, d, r, bound_name((enum bound)b), at, truth);
                    least = b == BOUND_LEAST ? least : fmin(least, at);
                }
                assert_true(bound[BOUND_LEAST * ROWS + r] == least);
            }
        }
        piece_free(&p);
    }
}

/* A bound that says nothing would hold too: equal keys are known but for what 4 bits and rounding lose. */
static void bounds_of_what_is_known_are_close(void **state)
{
    (void)state;
    enum { D = 64 };
    float k[KEYS * D], q[D];
    double bound[BOUNDS], norm = 0;
    for (unsigned i = 0; i < KEYS * D; i++)
        k[i] = i % D < 32 ? 0.875f : -1.0f; /* which 4 bits can say */
    for (unsigned i = 0; i < D; i++) {
        q[i] = (float)((int)(i * 7 % 5) - 2) * 0.25f;
        norm += (double)(q[i] * q[i]);
    }
    struct piece p;
    piece_make(&p, D, k);
    struct far_view v = {.d_k = D, .rows = 1, .q = q, .pieces = &p.far};
    bound_page(&v, 1, bound);
    double truth = true_log_mass(D, q, k);
    assert_true(bound[BOUND_BALL] < truth + 1e-3 * sqrt(norm) && bound[BOUND_BOX] < truth + 0.02);
    assert_true(bound[BOUND_NORM] > truth + 1); /* it does not know the direction */
    k[16 * D] = NAN;
    piece_free(&p);
    piece_make(&p, D, k);
    v.pieces = &p.far;
    bound_page(&v, 1, bound);
    assert_true(isinf(bound[BOUND_BALL])); /* and not a number that is no bound */
    piece_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_above_its_bounds),
        cmocka_unit_test(bounds_of_what_is_known_are_close),
    };
    return cmocka_run_group_tests_name("bound", tests, NULL, NULL);
}
