/* Histogram: quantiles within the promised error, at the edges of the range too. */
#include "common/hist.h"
#include "common/progress.h"
#include "common/size.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void near(uint64_t got, double want)
{
    double off = ((double)got - want) / want;
    if (off > 1.0 / HIST_PARTS || off < -1.0 / HIST_PARTS)
        fail_msg("got %llu, want %g within 1/%d", (unsigned long long)got, want, HIST_PARTS);
}

static void empty_is_zero(void **state)
{
    (void)state;
    struct hist *h = calloc(1, sizeof *h);
    assert_int_equal(hist_quantile(h, 0.5), 0);
    assert_true(hist_mean(h) == 0);
    free(h);
}

static void small_values_are_exact(void **state)
{
    (void)state;
    struct hist *h = calloc(1, sizeof *h);
    for (uint64_t v = 0; v < 64; v++)
        hist_add(h, v);
    for (int i = 1; i <= 64; i++)
        assert_int_equal(hist_quantile(h, i / 64.0), i - 1);
    free(h);
}

static void quantiles_of_a_ramp(void **state)
{
    (void)state;
    struct hist *h = calloc(1, sizeof *h);
    for (uint64_t v = 1; v <= 100000; v++)
        hist_add(h, v * 1000);
    near(hist_quantile(h, 0.5), 5e7);
    near(hist_quantile(h, 0.99), 9.9e7);
    assert_int_equal(hist_quantile(h, 1), 100000000); /* exact */
    near(hist_quantile(h, 0), 1000);
    near((uint64_t)hist_mean(h), 5.00005e7);
    free(h);
}

static void extremes_have_a_bucket(void **state)
{
    (void)state;
    struct hist *h = calloc(1, sizeof *h);
    hist_add(h, UINT64_MAX);
    hist_add(h, 0);
    assert_int_equal(hist_quantile(h, 0.5), 0);
    near(hist_quantile(h, 1), 18446744073709551615.0);
    for (int bit = 0; bit < 64; bit++) {
        struct hist *one = calloc(1, sizeof *one);
        hist_add(one, 1ull << bit);
        assert_int_equal(hist_quantile(one, 0.5), 1ull << bit); /* one value: min = max = it */
        free(one);
    }
    free(h);
}

static void merge_is_adding_all(void **state)
{
    (void)state;
    struct hist *a = calloc(3, sizeof *a), *b = a + 1, *both = a + 2;
    for (uint64_t v = 1; v < 5000; v += 7) {
        hist_add(v % 2 ? a : b, v * v);
        hist_add(both, v * v);
    }
    hist_merge(a, b);
    assert_memory_equal(a, both, sizeof *a);
    free(a);
}

static void sizes(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t want;
    } good[] = {{"0", 0},           {"4096", 4096}, {"512M", 512ull << 20}, {"4GiB", 4ull << 30},
                {"4g", 4ull << 30}, {"1.5K", 1536}, {"2 MiB", 2 << 20},     {"1TB", 1ull << 40},
                {"7B", 7}};
    static const char *const bad[] = {"", "x", "-1", "4X", "4GiBs", "4Mi", "inf", "nan", " 4", "0x10", "1e"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        uint64_t got = 1;
        assert_int_equal(size_parse(good[i].text, &got), 0);
        assert_int_equal(got, good[i].want);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint64_t got;
        if (!size_parse(bad[i], &got))
            fail_msg("'%s' was taken for a size: %llu", bad[i], (unsigned long long)got);
    }
    uint64_t got;
    assert_int_equal(size_parse("99999999T", &got), -ERANGE);
    static const struct {
        const char *text;
        uint64_t ms;
    } times[] = {{"0", 0},          {"90", 90000},     {"90s", 90000},          {"1.5m", 90000},
                 {"12h", 43200000}, {"7d", 604800000}, {"2w", 2ull * 604800000}};
    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        assert_int_equal(duration_parse(times[i].text, &got), 0);
        assert_int_equal(got, times[i].ms);
    }
    static const char *const no_times[] = {"", "d", "-1d", "7D", "7days", " 7d", "0x10", "1e3s", "inf", "."};
    for (size_t i = 0; i < sizeof no_times / sizeof *no_times; i++)
        if (!duration_parse(no_times[i], &got))
            fail_msg("'%s' was taken for a time: %llu ms", no_times[i], (unsigned long long)got);
    assert_int_equal(duration_parse("99999999999999999999w", &got), -ERANGE);
    char buf[32];
    assert_string_equal(size_format(buf, sizeof buf, 3436ull << 20), "3.4 GiB");
    assert_string_equal(size_format(buf, sizeof buf, 512), "512 B");
    assert_string_equal(duration_format(buf, sizeof buf, 185), "3m05s");
    assert_string_equal(duration_format(buf, sizeof buf, 7800), "2h10m");
    assert_string_equal(count_format(buf, sizeof buf, 1234567), "1,234,567");
    assert_string_equal(count_format(buf, sizeof buf, 999), "999");
}

static void a_progress_line(void **state)
{
    (void)state;
    struct progress p = {.label = "prefill", .unit = "tokens", .total = 1000, .done = 500, .rate = 100};
    char line[160];
    progress_line(&p, line, sizeof line);
    assert_string_equal(line, "prefill [############............]  50%  100 tokens/s  5s left");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(empty_is_zero),       cmocka_unit_test(small_values_are_exact),
        cmocka_unit_test(quantiles_of_a_ramp), cmocka_unit_test(extremes_have_a_bucket),
        cmocka_unit_test(merge_is_adding_all), cmocka_unit_test(sizes),
        cmocka_unit_test(a_progress_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
