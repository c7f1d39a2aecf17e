/* Placement: lists of nodes, and what rendezvous hashing promises. */
#include "decoder/tier/placement.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void lists_parse(void **state)
{
    (void)state;
    struct cluster_node a[PLACEMENT_MAX_NODES];
    struct skv_error err;
    size_t n;
    assert_int_equal(node_list_parse("10.0.0.1:7401,node-2.lan:80*2.5,[::1]:65535", a, &n, &err), 0);
    assert_int_equal(n, 3);
    assert_string_equal(a[0].address, "10.0.0.1:7401");
    assert_true(a[0].weight == 1 && a[1].weight == 2.5);
    assert_string_equal(a[1].address, "node-2.lan:80");
    assert_string_equal(a[2].address, "[::1]:65535");
}

static void bad_lists_get_a_sentence(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",          ",",         "a",         "a:",       ":1",       "a:0",     "a:65536",
        "a:1,",      "a:1,,b:2",  "a:1*",      "a:1*0",    "a:1*-1",   "a:1*nan", "a:1*inf",
        "a:1*1x",    "a:1x",      "a:-1",      "::1:7401", "a b:1",    "a:1,a:1", "a/b:1",
        "tcp://a:1", "a:1*1e300", "[::1:7401", "a:+1",     "a:1*2,a:1"};
    struct cluster_node a[PLACEMENT_MAX_NODES];
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct skv_error err = {0};
        size_t n;
        if (node_list_parse(bad[i], a, &n, &err) != -EINVAL || strlen(err.text) < 20)
            fail_msg("\"%s\" was taken, or refused without a sentence", bad[i]);
    }
    char many[65 * 8] = "", long_name[600];
    for (int i = 0; i < 65; i++)
        sprintf(many + strlen(many), "%sh:%d", i ? "," : "", i + 1);
    struct skv_error err;
    size_t n;
    assert_int_equal(node_list_parse(many, a, &n, &err), -EINVAL);
    memset(long_name, 'x', sizeof long_name);
    strcpy(long_name + sizeof long_name - 3, ":1");
    assert_int_equal(node_list_parse(long_name, a, &n, &err), -EINVAL);
}

static void make_map(struct cluster_map *m, const char *const *ids, const double *weights, unsigned n)
{
    *m = (struct cluster_map){0};
    for (unsigned i = 0; i < n; i++)
        cluster_map_add(m, i, ids[i], weights[i], false);
}

static uint64_t nth_hash(uint64_t i)
{
    char name[32];
    snprintf(name, sizeof name, "thing-%llu", (unsigned long long)i);
    return name_hash(0, name);
}

static void share_follows_weight(void **state)
{
    (void)state;
    static const char *const ids[] = {"a", "b", "c"};
    struct cluster_map m;
    make_map(&m, ids, (double[]){1, 2, 5}, 3);
    int won[3] = {0};
    enum { N = 80000 };
    for (uint64_t i = 0; i < N; i++) {
        uint8_t order[PLACEMENT_MAX_NODES];
        placement_rank(&m, nth_hash(i), order);
        assert_int_equal(order[0] + order[1] + order[2], 3); /* a permutation of 0, 1, 2 */
        assert_true(order[0] != order[1] && order[1] != order[2]);
        won[order[0]]++;
    }
    for (int i = 0; i < 3; i++) {
        int want = (int[]){N / 8, N / 4, N * 5 / 8}[i];
        if (abs(won[i] - want) > N / 100)
            fail_msg("node %s got %d of %d, expected about %d", ids[i], won[i], N, want);
    }
}

static void order_of_the_list_does_not_matter(void **state)
{
    (void)state;
    static const char *const one[] = {"a", "b", "c", "d"}, *const other[] = {"c", "a", "d", "b"};
    struct cluster_map m1, m2;
    make_map(&m1, one, (double[]){1, 2, 1, 3}, 4);
    make_map(&m2, other, (double[]){1, 1, 3, 2}, 4);
    for (uint64_t i = 0; i < 2000; i++) {
        uint8_t o1[PLACEMENT_MAX_NODES], o2[PLACEMENT_MAX_NODES];
        placement_rank(&m1, nth_hash(i), o1);
        placement_rank(&m2, nth_hash(i), o2);
        for (int r = 0; r < 4; r++)
            assert_string_equal(one[o1[r]], other[o2[r]]);
    }
}

static void a_new_node_only_takes(void **state)
{
    (void)state;
    static const char *const ids[] = {"a", "b", "c", "new"};
    struct cluster_map before, after;
    make_map(&before, ids, (double[]){1, 1, 1}, 3);
    make_map(&after, ids, (double[]){1, 1, 1, 1}, 4);
    assert_true(after.epoch > before.epoch);
    int moved = 0;
    for (uint64_t i = 0; i < 20000; i++) {
        uint8_t o1[PLACEMENT_MAX_NODES], o2[PLACEMENT_MAX_NODES];
        placement_rank(&before, nth_hash(i), o1);
        placement_rank(&after, nth_hash(i), o2);
        moved += o2[0] == 3;
        unsigned at = 0; /* without the new node the order is as before */
        for (int r = 0; r < 4; r++)
            if (o2[r] != 3)
                assert_int_equal(o2[r], o1[at++]);
    }
    assert_in_range(moved, 4700, 5300);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_parse),           cmocka_unit_test(bad_lists_get_a_sentence),
        cmocka_unit_test(share_follows_weight),  cmocka_unit_test(order_of_the_list_does_not_matter),
        cmocka_unit_test(a_new_node_only_takes),
    };
    return cmocka_run_group_tests_name("tier_placement", tests, NULL, NULL);
}
