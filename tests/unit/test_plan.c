/* What `scoutkv plan` predicts follows from its constants; what bench compare calls a change. */
#include "decoder/cli/bench_compare.h"
#include "decoder/cli/plan_model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const struct plan_constants round_numbers = {.g = 4,
                                                    .d = 128,
                                                    .threads = 2,
                                                    .scan_ns = 10,
                                                    .candidate_ns = 1000,
                                                    .page_ns = 1000,
                                                    .merge_ns = 100,
                                                    .fetch_us = 100,
                                                    .fetch_gbps = 1,
                                                    .overlap = 0.5,
                                                    .rest_us = 200};

static struct plan million(void)
{
    return (struct plan){.shape = shape_named("llama-3-8b"),
                         .tokens = 1 << 20,
                         .budget = 2048,
                         .window = 1024,
                         .nodes = 4,
                         .replicas = 1,
                         .decoders = 1,
                         .node_ram = 1e12,
                         .threads = 2};
}

static void near_to(double x, double want)
{
    if (!(fabs(x - want) <= 1e-6 * fabs(want)))
        fail_msg("%.9g instead of %.9g", x, want);
}

static void a_step_is_the_sum_of_its_parts(void **state)
{
    (void)state;
    struct plan p = million();
    struct plan_cost c;
    plan_predict(&p, &round_numbers, &c);
    /* 16,368 far blocks, 128 candidates, 192 pages of 8 KiB in 8 KV heads */
    near_to(c.part_ms[PLAN_SCOUT], 8 * (16368 * 10 + 128 * 1000) / 1e6);
    near_to(c.part_ms[PLAN_ATTENTION], 8 * 192 * 1000 / 1e6);
    near_to(c.part_ms[PLAN_MERGE], 8 * 192 * 100 / 1e6);
    near_to(c.part_ms[PLAN_FETCH], 0.1 + 8 * 128 * 8192 / 1e6 - 0.5 * c.part_ms[PLAN_ATTENTION]);
    near_to(c.part_ms[PLAN_REST], 0.2);
    near_to(c.step_ms, 32 * c.layer_ms);
    assert_int_equal(c.bottleneck, PLAN_FETCH);
    near_to(c.fetch_bytes, 32.0 * 8 * 128 * 8192);
    near_to(c.dense_bytes, 137438953472.0); /* 128 GiB */
    near_to(c.node_bytes, 137438953472.0 / 4);
    /* 26 bytes a token and KV head of page representatives, 1.2 of blocks', one of checksum, norm, salience
     */
    near_to(c.rep_bytes, 65536.0 * (3328.0 / 8 + 608.0 / 32 + 16) * 8 * 32);
    p.hits = 1; /* nothing to fetch: no latency either */
    plan_predict(&p, &round_numbers, &c);
    near_to(c.part_ms[PLAN_FETCH] + 1, 1);
    assert_int_equal(c.bottleneck, PLAN_SCOUT);
}

static void links_and_disks_bound_a_fetch(void **state)
{
    (void)state;
    struct plan p = million();
    struct plan_cost c, free_link;
    plan_predict(&p, &round_numbers, &free_link);
    p.link_gbit = 8; /* as fast as the processor handles it */
    plan_predict(&p, &round_numbers, &c);
    near_to(c.step_ms, free_link.step_ms);
    p.link_gbit = 4;
    plan_predict(&p, &round_numbers, &c);
    near_to(c.part_ms[PLAN_FETCH] - free_link.part_ms[PLAN_FETCH], 8 * 128 * 8192 / 1e6);
    p.link_gbit = 0;
    p.node_ram = 16.0 * (1 << 30); /* half of its part */
    plan_predict(&p, &round_numbers, &c);
    near_to(c.from_disk, 0.5);
    assert_false(c.fits);
    p.disk_gbps = 0.05; /* four of them, half of the pages: 0.4 GB/s */
    plan_predict(&p, &round_numbers, &c);
    assert_true(c.fits && c.disk_bound);
    near_to(c.part_ms[PLAN_FETCH] - free_link.part_ms[PLAN_FETCH], 8 * 128 * 8192 / 1e6 * 1.5);
}

static void changes_come_by_worth(void **state)
{
    (void)state;
    struct plan p = million();
    struct plan_cost now;
    struct plan_change x[PLAN_CHANGES];
    p.link_gbit = 4; /* nothing is worth as much as the link, or half the misses */
    plan_predict(&p, &round_numbers, &now);
    unsigned n = plan_changes(&p, &round_numbers, x);
    bool lean = false;
    assert_in_range(n, 6, PLAN_CHANGES);
    for (unsigned i = 0; i < n; i++) {
        assert_true(x[i].cost.step_ms <= now.step_ms * (1 + 1e-9));
        assert_true(!i || x[i].cost.step_ms >= x[i - 1].cost.step_ms);
        if (!strcmp(x[i].name, "lean representatives")) {
            lean = true;
            assert_true(x[i].cost.rep_bytes < now.rep_bytes / 3);
        }
    }
    assert_true(lean);
    /* memory of a decoder halves with two */
    p.decoders = 2;
    struct plan_cost two;
    plan_predict(&p, &round_numbers, &two);
    near_to(two.rep_bytes, now.rep_bytes / 2);
    near_to(two.fetch_bytes, now.fetch_bytes);
}

static void constants_go_through_json(void **state)
{
    (void)state;
    struct skv_error err;
    struct plan_constants c = {0};
    json_t *o = plan_constants_json(&round_numbers);
    assert_int_equal(plan_constants_read(o, &c, &err), 0);
    assert_memory_equal(&c, &round_numbers, sizeof c);
    json_object_set_new(o, "page_ns", json_real(0));
    assert_int_equal(plan_constants_read(o, &c, &err), -22);
    assert_non_null(strstr(err.text, "page_ns"));
    json_object_del(o, "page_ns");
    assert_int_equal(plan_constants_read(o, &c, &err), -22);
    json_decref(o);
}

static json_t *json(const char *text)
{
    json_error_t why;
    json_t *o = json_loads(text, 0, &why);
    if (!o)
        fail_msg("%s", why.text);
    return o;
}

/* Spreads that touch are noise; members of lists are found by name; what one run lacks is counted. */
static void changes_are_beyond_the_noise(void **state)
{
    (void)state;
    json_t *
        a = json(
           "{\"x\": {\"tcp_share\": 0.5, \"tcp_share_spread\": [0.4, 0.6], \"ms\": 3, \"ms_spread\": [3, 3]},"
           " \"list\": [{\"name\": \"p\", \"share\": 1, \"share_spread\": [0.9, 1.1]},"
           "            {\"name\": \"q\", \"share\": 2, \"share_spread\": [1.9, 2.1]},"
           "            {\"name\": \"r\", \"share\": 2, \"share_spread\": [1.9, 2.1]}], \"plain\": 7}"),
       *b = json(
           "{\"x\": {\"tcp_share\": 0.7, \"tcp_share_spread\": [0.6, 0.8], \"ms\": 9, \"ms_spread\": [8, 9]},"
           " \"list\": [{\"name\": \"q\", \"share\": 2, \"share_spread\": [1.8, 2.2]},"
           "            {\"name\": \"p\", \"share\": 2, \"share_spread\": [1.2, 2.1]}], \"plain\": 8}");
    struct comparison c;
    assert_int_equal(compare_runs(a, b, &c), 0);
    assert_int_equal(c.n, 4);
    assert_int_equal(c.only_one, 1);
    for (size_t i = 0; i < c.n; i++) {
        const struct compared *x = &c.at[i];
        if (!strcmp(x->path, "x.tcp_share"))
            assert_true(x->ratio && !x->changed);
        else if (!strcmp(x->path, "x.ms"))
            assert_true(!x->ratio && x->changed);
        else if (!strcmp(x->path, "list[p].share"))
            assert_true(x->ratio && x->changed && x->b > 1.99);
        else if (!strcmp(x->path, "list[q].share"))
            assert_true(x->ratio && !x->changed);
        else
            fail_msg("%s", x->path);
    }
    comparison_free(&c);
    json_decref(a);
    json_decref(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_is_the_sum_of_its_parts), cmocka_unit_test(links_and_disks_bound_a_fetch),
        cmocka_unit_test(changes_come_by_worth),          cmocka_unit_test(constants_go_through_json),
        cmocka_unit_test(changes_are_beyond_the_noise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
