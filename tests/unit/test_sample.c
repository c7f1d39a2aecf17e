/* test_sample.c: filters, draws and their repeatability. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "decoder/model/sample.h"

static const struct sample_opts everything = {.temperature = 1, .top_p = 1};

static uint32_t next(struct sampler *s, const float *logits, uint32_t n)
{
    uint32_t id = UINT32_MAX;
    struct skv_error err;
    if (sample_next(s, logits, n, &id, &err) != 0)
        fail_msg("%s", err.text);
    assert_true(id < n);
    return id;
}

/* How often each of n tokens is drawn in `draws` tries. */
static void count(const struct sample_opts *opts, const float *logits, uint32_t n, unsigned draws,
                  unsigned *counts)
{
    struct sampler s = {*opts, 99};
    memset(counts, 0, n * sizeof *counts);
    for (unsigned i = 0; i < draws; i++)
        counts[next(&s, logits, n)]++;
}

static void test_greedy(void **state)
{
    (void)state;
    struct sampler s = {{.temperature = 0, .top_k = 3, .top_p = 0.5f}, 1};
    assert_int_equal(next(&s, (float[]){1, 5, 5, NAN, -2}, 5), 1); /* the lower id of a tie */
    assert_int_equal(next(&s, (float[]){-3, -INFINITY, -2}, 3), 2);
    assert_int_equal(s.state, 1); /* no random number was used */
}

static void test_frequencies(void **state)
{
    (void)state;
    const float logits[] = {logf(0.1f), logf(0.6f), logf(0.3f)};
    unsigned counts[3];
    count(&everything, logits, 3, 20000, counts);
    assert_in_range(counts[0], 1800, 2200);
    assert_in_range(counts[1], 11700, 12300);
    struct sample_opts hot = everything;
    hot.temperature = 2; /* probabilities go as their square roots: .193, .473, .334 */
    count(&hot, logits, 3, 20000, counts);
    assert_in_range(counts[0], 3600, 4200);
    assert_in_range(counts[1], 9100, 9800);
}

static void test_filters(void **state)
{
    (void)state;
    const float logits[] = {logf(0.05f), logf(0.4f), logf(0.15f), logf(0.3f), logf(0.1f)};
    struct {
        struct sample_opts opts;
        bool kept[5];
    } cases[] = {
        {{1, 2, 1, 0}, {0, 1, 0, 1, 0}},       {{1, 1, 1, 0}, {0, 1, 0, 0, 0}},
        {{1, 0, 0.65f, 0}, {0, 1, 0, 1, 0}}, /* .4 + .3 reach it */
        {{1, 0, 0.75f, 0}, {0, 1, 1, 1, 0}},   {{1, 0, 1e-6f, 0}, {0, 1, 0, 0, 0}},
        {{1, 0, 1, 0.3f}, {0, 1, 1, 1, 0}}, /* .15 ≥ .3·.4 */
        {{1, 3, 0.8f, 0.5f}, {0, 1, 0, 1, 0}}, {{1, 99, 1, 0}, {1, 1, 1, 1, 1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        unsigned counts[5];
        count(&cases[i].opts, logits, 5, 2000, counts);
        for (unsigned t = 0; t < 5; t++)
            if (cases[i].kept[t] != (counts[t] > 0))
                fail_msg("case %zu: token %u was drawn %u times", i, t, counts[t]);
    }
}

static void test_top_k_of_many(void **state)
{
    (void)state;
    enum { N = 5000, K = 40 };
    static float logits[N];
    static unsigned counts[N];
    for (unsigned i = 0; i < N; i++)
        logits[i] = (float)(i * 7919 % N) * 1e-3f; /* all different; the K largest are those above N - K */
    struct sample_opts opts = {.temperature = 1, .top_k = K, .top_p = 1};
    count(&opts, logits, N, 4000, counts);
    for (unsigned i = 0; i < N; i++)
        assert_true((counts[i] > 0) == (i * 7919 % N >= N - K));
}

static void test_top_k_of_ties(void **state)
{
    (void)state;
    enum { N = 1000, K = 40 };
    static float logits[N];
    static unsigned counts[N];
    for (unsigned i = 0; i < N; i++)
        logits[i] = i % 20 == 9 ? NAN : (float)(i % 10); /* 50 times a 9 */
    struct sample_opts opts = {.temperature = 1, .top_k = K, .top_p = 1};
    count(&opts, logits, N, 4000, counts);
    for (unsigned i = 0; i < N; i++)
        assert_true((counts[i] > 0) == (i % 20 == 19 && i < 20 * K));
}

static void test_state_is_all_there_is(void **state)
{
    (void)state;
    float logits[64];
    for (unsigned i = 0; i < 64; i++)
        logits[i] = sinf((float)i);
    struct sampler a = {everything, 42}, b;
    for (unsigned i = 0; i < 10; i++)
        next(&a, logits, 64);
    b = (struct sampler){everything, a.state};
    unsigned differing_seed = 0;
    struct sampler c = {everything, 43};
    for (unsigned i = 0; i < 50; i++) {
        uint32_t id = next(&a, logits, 64);
        assert_int_equal(id, next(&b, logits, 64));
        differing_seed += id != next(&c, logits, 64);
    }
    assert_true(differing_seed > 25);
    /* The first numbers of SplitMix64 are published: seed 1234567 gives 6457827717110365317. */
    struct sampler d = {everything, 1234567};
    double u = (double)(6457827717110365317u >> 11) * 0x1p-53;
    static const float even[1000];
    assert_int_equal(next(&d, even, 1000), (uint32_t)(u * 1000));
}

static void test_mistakes(void **state)
{
    (void)state;
    struct skv_error err;
    struct sampler s = {everything, 1};
    uint32_t id;
    assert_int_equal(sample_next(&s, (float[]){NAN, -INFINITY}, 2, &id, &err), -EDOM);
    assert_int_equal(sample_next(&s, (float[]){INFINITY, 0}, 2, &id, &err), -EDOM);
    assert_int_equal(sample_check(&everything, &err), 0);
    assert_int_equal(sample_check(&(struct sample_opts){1, 0, 0, 0}, &err), -EINVAL);
    assert_int_equal(sample_check(&(struct sample_opts){1, 0, 1.5f, 0}, &err), -EINVAL);
    assert_int_equal(sample_check(&(struct sample_opts){1, 0, 1, -1}, &err), -EINVAL);
    assert_int_equal(sample_check(&(struct sample_opts){NAN, 0, 1, 0}, &err), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy),        cmocka_unit_test(test_frequencies),
        cmocka_unit_test(test_filters),       cmocka_unit_test(test_top_k_of_many),
        cmocka_unit_test(test_top_k_of_ties), cmocka_unit_test(test_state_is_all_there_is),
        cmocka_unit_test(test_mistakes),
    };
    return cmocka_run_group_tests_name("sample", tests, NULL, NULL);
}
