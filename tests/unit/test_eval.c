/* What `scoutkv eval` computes: divergences, errors of means, places of texts and lists of rows, on values
 * worked out by hand. */
#include "decoder/cli/eval_rows.h"
#include "decoder/cli/eval_stats.h"
#include "decoder/cli/text_pieces.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void near(double got, double want)
{
    if (!(fabs(got - want) <= 1e-12 * (1 + fabs(want))))
        fail_msg("got %.17g, want %.17g", got, want);
}

static double kl(const float *p, const float *q, size_t n)
{
    return logits_kl(p, logits_lse(p, n), q, logits_lse(q, n), n);
}

static void lse_of_halves(void **state)
{
    (void)state;
    const float same[] = {3, 3}, far[] = {-1e30f, 0, -INFINITY}, large[] = {1000, 1000, 1000, 1000};
    near(logits_lse(same, 2), 3 + log(2));
    near(logits_lse(far, 3), 0);
    near(logits_lse(large, 4), 1000 + log(4));
    const float broken[] = {1, NAN, 2}, infinite[] = {1, INFINITY};
    assert_false(isfinite(logits_lse(broken, 3)));
    assert_false(isfinite(logits_lse(infinite, 2)));
}

/* p = (1/2, 1/2), q = (4/5, 1/5): KL(p‖q) = ½ ln(5/8) + ½ ln(5/2) = ½ ln(25/16) = ln(5/4);
 * KL(q‖p) = 4/5 ln(8/5) + 1/5 ln(2/5). */
static void kl_by_hand(void **state)
{
    (void)state;
    const float p[] = {7, 7};
    const double q_log[] = {log(4), 0};
    const float q[] = {(float)q_log[0], 0};
    double off = 1e-7; /* ln 4 as f32 */
    assert_true(fabs(kl(p, q, 2) - log(1.25)) < off);
    assert_true(fabs(kl(q, p, 2) - (0.8 * log(1.6) + 0.2 * log(0.4))) < off);
    const float sure[] = {200, 0};
    near(kl(sure, p, 2), log(2)); /* a bit that is known */
}

static void equal_rows_diverge_by_nothing(void **state)
{
    (void)state;
    float p[512], q[512];
    for (int i = 0; i < 512; i++)
        q[i] = p[i] = (float)sin(i * 1.7) * 9;
    assert_true(kl(p, q, 512) == 0);
    for (int i = 0; i < 512; i++)
        q[i] += 4; /* the same distribution, other logits: rounding at most */
    assert_true(kl(p, q, 512) >= 0 && kl(p, q, 512) < 1e-6);
    q[3] += 1e-3f;
    assert_true(kl(p, q, 512) > 0);
    assert_int_equal(logits_argmax(p, 512), logits_argmax(q, 512));
    const float tie[] = {1, 5, 5};
    assert_int_equal(logits_argmax(tie, 3), 1);
}

/* Texts differ by much and the rows by little: 0.1, 0.2, 0.3 and 0.4 nats: mean 0.25, variance 1/60. */
static void pairs_drop_what_they_share(void **state)
{
    (void)state;
    const double dense[] = {1, 3, 2, 4}, row[] = {1.1, 3.2, 2.3, 4.4};
    struct estimate e = estimate_paired(row, dense, 4);
    near(e.mean, 0.25);
    near(e.se, sqrt(1.0 / 60 / 4));
    near(e.min, 0.1);
    near(e.max, 0.4);
    struct estimate alone = estimate_mean(dense, 4);
    near(alone.mean, 2.5);
    near(alone.se, sqrt(5.0 / 3 / 4)); /* (2.25 + .25 + .25 + 2.25) / 3 */
    assert_true(isnan(estimate_paired(row, dense, 1).se));
    near(estimate_paired(row, row, 4).mean, 0);
    near(estimate_paired(row, row, 4).se, 0);
}

static void quantiles_are_values(void **state)
{
    (void)state;
    float x[200];
    for (int i = 0; i < 200; i++)
        x[i] = (float)((i * 77) % 200 + 1); /* 1 to 200 in some order */
    assert_true(values_quantile(x, 200, 0.99) == 198);
    assert_true(values_quantile(x, 200, 0.5) == 100);
    assert_true(values_quantile(x, 200, 1) == 200);
    assert_true(values_quantile(x, 200, 0) == 1);
    assert_true(values_quantile(x, 0, 0.5) == 0);
}

static void places_are_apart_and_follow_the_seed(void **state)
{
    (void)state;
    uint64_t at[16], again[16], other[16];
    size_t moved = 0;
    for (uint64_t seed = 1; seed <= 200; seed++) {
        assert_true(text_pieces_place(10007, 16, 600, seed, at));
        assert_true(text_pieces_place(10007, 16, 600, seed, again));
        assert_true(text_pieces_place(10007, 16, 600, seed + 1, other));
        for (size_t i = 0; i < 16; i++) {
            uint64_t part = 10007 / 16;
            if (at[i] < part * i || at[i] + 600 > part * (i + 1))
                fail_msg("seed %llu: piece %zu at %llu", (unsigned long long)seed, i,
                         (unsigned long long)at[i]);
            assert_int_equal(at[i], again[i]);
            moved += at[i] != other[i];
        }
    }
    assert_true(moved > 200 * 16 / 2);
    assert_true(text_pieces_place(9600, 16, 600, 1, at)); /* exactly full */
    assert_int_equal(at[15], 9000);
    assert_false(text_pieces_place(9599, 16, 600, 1, at));
    assert_false(text_pieces_place(599, 1, 600, 1, at));
}

static void budgets(const char *list, uint32_t unit, size_t n, const uint32_t *want)
{
    struct skv_error err = {0};
    uint32_t *b = NULL;
    size_t got;
    if (eval_budgets(list, 4096, unit, &b, &got, &err))
        fail_msg("%s: %s", list, err.text);
    assert_int_equal(got, n);
    assert_memory_equal(b, want, n * sizeof *b);
    free(b);
}

static void budgets_are_whole_selections(void **state)
{
    (void)state;
    budgets("64,128,256,10%", 16, 4, (const uint32_t[]){64, 128, 256, 400});
    budgets("10%,256,64", 64, 3, (const uint32_t[]){64, 256, 384});
    budgets("1,16,17", 16, 1, (const uint32_t[]){16}); /* at least one; doubles go */
    budgets("2.5%,100%", 32, 2, (const uint32_t[]){96, 4096});
}

static void bad_budgets_are_named(void **state)
{
    (void)state;
    static const char *const bad[] = {"0",   "-5",  "5x",   "64,,128", "101%",   "%",
                                      "1.5", "1e3", "0x10", "nan",     "64;128", "99999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct skv_error err = {0};
        uint32_t *b = NULL;
        size_t n;
        if (eval_budgets(bad[i], 4096, 16, &b, &n, &err) != -EINVAL || !strstr(err.text, "budgets: "))
            fail_msg("'%s' was taken: %s", bad[i], err.text);
    }
    uint32_t *b = NULL;
    size_t n;
    assert_int_equal(eval_budgets("", 4096, 16, &b, &n, NULL), -EINVAL);
    free(b);
}

static void policies_keep_their_order(void **state)
{
    (void)state;
    struct eval_choices c = {0};
    struct skv_error err = {0};
    const struct skv_select base = {.budget = 96, .unit = 32, .mass = 0.5f, .tail = true};
    if (eval_policies("window,cascade:beta=0.5,dense,all", &base, &c, &err))
        fail_msg("%s", err.text);
    assert_int_equal(c.n, 3 + SKV_POLICIES);
    assert_string_equal(c.at[0].name, "window");
    assert_string_equal(c.at[1].name, "cascade:beta=0.5");
    assert_int_equal(c.at[1].select.policy, SKV_CASCADE);
    assert_int_equal(c.at[1].select.given, 2);
    assert_int_equal(c.at[2].select.budget, 96);
    assert_int_equal(c.at[2].select.unit, 32);
    assert_true(c.at[2].select.mass == 0.5f);
    assert_true(eval_takes_budget(&c.at[1].select));
    assert_false(eval_takes_budget(&c.at[0].select) || eval_takes_budget(&c.at[2].select));
    assert_true(c.at[1].select.tail && !c.at[2].select.tail); /* only cascade has one */
    assert_int_equal(eval_cache(&c.at[1].select, 1024), 2 * 96 * 1024);
    assert_int_equal(eval_cache(&c.at[2].select, 1024), 0);
    for (int i = 0; i < SKV_POLICIES; i++)
        assert_int_equal(c.at[3 + i].select.policy, i);
    free(c.at);
}

static void bad_policies_are_named(void **state)
{
    (void)state;
    char endless[400];
    memset(endless, 'x', sizeof endless - 1);
    endless[sizeof endless - 1] = 0;
    const char *const bad[] = {"cascade,cascad", "cascade,,dense", "", "cascade:beta=x", endless};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct eval_choices c = {0};
        struct skv_error err = {0};
        const struct skv_select base = {.budget = 96, .unit = 16};
        if (eval_policies(bad[i], &base, &c, &err) != -EINVAL || !err.text[0])
            fail_msg("'%s' was taken", bad[i]);
        free(c.at);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lse_of_halves),
        cmocka_unit_test(kl_by_hand),
        cmocka_unit_test(equal_rows_diverge_by_nothing),
        cmocka_unit_test(pairs_drop_what_they_share),
        cmocka_unit_test(quantiles_are_values),
        cmocka_unit_test(places_are_apart_and_follow_the_seed),
        cmocka_unit_test(budgets_are_whole_selections),
        cmocka_unit_test(bad_budgets_are_named),
        cmocka_unit_test(policies_keep_their_order),
        cmocka_unit_test(bad_policies_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
