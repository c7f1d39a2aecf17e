/* The truth that policies are measured against: masses and outputs of a head so small that they are known. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <math.h>
#include <string.h>

#include "decoder/cli/mass_truth.h"

enum { TOKENS = 200, ROWS = 2, D = 8 };

static float q[TOKENS][ROWS][D], k[TOKENS][D], v[TOKENS][D];
static const struct mass_head head = {.q = q[0][0],
                                      .k = k[0],
                                      .v = v[0],
                                      .q_step = ROWS * D,
                                      .k_step = D,
                                      .v_step = D,
                                      .rows = ROWS,
                                      .d_k = D,
                                      .d_v = D,
                                      .scale = 0.5f};

static void near(double got, double wanted, const char *what)
{
    if (!(fabs(got - wanted) <= 1e-12 * fmax(1, fabs(wanted))))
        fail_msg("%s is %.17g, wanted %.17g", what, got, wanted);
}

/* Keys that all score 0 for row 0; row 1 gives token 70 (page 4) the weight of 100 others, and token 100
 * (page 6) that of 50. Values: 1 in dim 0 everywhere, in dim 1 where the two are. */
static void plain(void)
{
    memset(q, 0, sizeof q);
    memset(k, 0, sizeof k);
    memset(v, 0, sizeof v);
    for (unsigned t = 0; t < TOKENS; t++) {
        v[t][0] = 1;
        q[t][1][2] = 2; /* times scale: 1 */
    }
    k[70][2] = (float)log(100);
    k[100][2] = (float)log(50);
    v[70][1] = v[100][1] = 1;
}

static void test_known_masses(void **state)
{
    (void)state;
    struct mass_truth m = {0};
    plain();
    /* 200 tokens, window 60: 140 lie behind it, two whole blocks; their first page is protected */
    assert_int_equal(mass_truth_at(&m, &head, TOKENS - 1, 60, 1), 0);
    assert_int_equal(m.n_pages, 8);
    assert_int_equal(m.n_protected, 1);
    double e100 = exp((double)k[70][2]), e50 = exp((double)k[100][2]), all = 198 + e100 + e50;
    near(m.lse[0], log(200), "log of the mass of row 0");
    near(m.lse[1], log(all), "log of the mass of row 1");
    near(m.far_mass[0], 112. / 200, "far mass of row 0");
    near(m.far_mass[1], (110 + e100 + e50) / all, "far mass of row 1");
    near(m.near_mass[1], 88 / all, "near mass of row 1");
    near(m.far[0], 0, "share of a protected page");
    near(m.far[1], 1. / 7, "share of one of seven equal pages");
    near(m.far[8 + 4], (15 + e100) / (110 + e100 + e50), "share of the page of the largest key");
    near((double)m.logmass[0], (double)(float)log(16), "log mass of a page");
    near((double)m.logmass[m.ld + 6], (double)(float)log(15 + e50), "log mass of a page with a large key");
    near(m.dense[0], 1, "output of row 0, dim 0");
    near(m.dense[1], 2. / 200, "output of row 0, dim 1");
    near(m.dense[D + 1], (e100 + e50) / all, "output of row 1, dim 1");
    mass_truth_free(&m);
}

static void test_outcome(void **state)
{
    (void)state;
    struct mass_truth m = {0};
    plain();
    assert_int_equal(mass_truth_at(&m, &head, TOKENS - 1, 60, 1), 0);
    double e100 = exp((double)k[70][2]), e50 = exp((double)k[100][2]), all = 198 + e100 + e50;
    const uint32_t best[] = {4}, every[] = {1, 2, 3, 4, 5, 6, 7};

    struct mass_outcome got = mass_outcome_of(&m, NULL, 0, NULL);
    assert_int_equal(got.rows, 2);
    near(got.held_rows, 0, "what nothing holds");
    /* near only: both rows give (1, 0) */
    double d0 = 2. / 200, d1 = (e100 + e50) / all;
    near(got.error, d0 / sqrt(1 + d0 * d0) + d1 / sqrt(1 + d1 * d1), "error of reading nothing");

    got = mass_outcome_of(&m, best, 1, NULL);
    near(got.held_rows, 1. / 7 + (15 + e100) / (110 + e100 + e50), "what page 4 holds");
    near(got.held, 16. / 200 + (15 + e100) / all, "what it holds of all attention");
    near(got.far, 112. / 200 + (110 + e100 + e50) / all, "all far mass");
    /* 88 near tokens and the page's 16 */
    double r0 = 1. / 104 - d0, r1 = e100 / (88 + 15 + e100) - d1;
    near(got.error, fabs(r0) / sqrt(1 + d0 * d0) + fabs(r1) / sqrt(1 + d1 * d1), "error of reading page 4");

    got = mass_outcome_of(&m, every, 7, NULL);
    near(got.held_rows, 2, "what all pages hold");
    near(got.error, 0, "error of reading everything");
    float score[8];
    mass_truth_score(&m, score);
    assert_true(score[0] == 0);
    near((double)score[4], (double)(float)(16. / 200 + (15 + e100) / all), "what the oracle sees in page 4");
    mass_truth_free(&m);
}

/* One record after another in the same room: shorter, longer, and none far. */
static void test_room_is_used_again(void **state)
{
    (void)state;
    struct mass_truth m = {0};
    plain();
    static const struct {
        uint64_t t;
        uint32_t window;
        size_t pages;
    } steps[] = {{199, 60, 8}, {62, 0, 0}, {63, 0, 4}, {150, 128, 0}, {191, 128, 4}, {199, 0, 12}};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        assert_int_equal(mass_truth_at(&m, &head, steps[i].t, steps[i].window, 0), 0);
        assert_int_equal(m.n_pages, steps[i].pages);
        double far = 0, all = m.far_mass[0] + m.near_mass[0];
        for (size_t p = 0; p < m.n_pages; p++)
            far += m.far[p];
        near(far, m.n_pages ? 1 : 0, "sum of the far shares");
        near(all, 1, "all mass");
        assert_int_equal(mass_outcome_of(&m, NULL, 0, NULL).rows, m.n_pages ? 2 : 0);
    }
    mass_truth_free(&m);
}

/* Scores far below the largest: shares among far pages don't underflow. */
static void test_far_below(void **state)
{
    (void)state;
    struct mass_truth m = {0};
    plain();
    for (unsigned t = 0; t < TOKENS; t++)
        k[t][2] = t == TOKENS - 1 ? 2000.0f : t == 70 ? 3.0f : 0.0f;
    assert_int_equal(mass_truth_at(&m, &head, TOKENS - 1, 60, 1), 0);
    near(m.far_mass[1], 0, "far mass next to nothing");
    near(m.far[m.n_pages + 4], (15 + exp(3)) / (111 + exp(3)), "share of it");
    near(m.dense[D], 1, "output");
    mass_truth_free(&m);
}

static void test_broken_numbers(void **state)
{
    (void)state;
    struct mass_truth m = {0};
    plain();
    k[20][2] = INFINITY;
    assert_int_equal(mass_truth_at(&m, &head, TOKENS - 1, 60, 1), -ERANGE);
    mass_truth_free(&m);
}

static void test_received(void **state)
{
    (void)state;
    struct mass_truth m = {0};
    enum { PAGES = (TOKENS - 1) / 16 + 1 };
    float score[TOKENS], got[ROWS][PAGES];
    plain();
    assert_int_equal(mass_truth_at(&m, &head, TOKENS - 1, 60, 0), 0);
    mass_received(&head, TOKENS - 1, score, got[0]);
    for (unsigned row = 0; row < ROWS; row++) {
        double all = 0;
        for (size_t p = 0; p < PAGES; p++)
            all += (double)got[row][p];
        if (fabs(all - 1) > 1e-5)
            fail_msg("row %u: all pages received %g", row, all);
        for (size_t p = 0; p < 8; p++)
            if (fabs((double)got[row][p] - m.far[row * 8 + p] * m.far_mass[row]) > 1e-6)
                fail_msg("row %u: page %zu received %g", row, p, (double)got[row][p]);
    }
    mass_truth_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_masses),       cmocka_unit_test(test_outcome),
        cmocka_unit_test(test_room_is_used_again), cmocka_unit_test(test_far_below),
        cmocka_unit_test(test_broken_numbers),     cmocka_unit_test(test_received),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
