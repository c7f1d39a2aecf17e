/* What `scoutkv bench fetch` counts: requests that end, misses that were asked for, times of an open load;
 * the plain TCP pair; medians. The node is the embedded one. */
#include "decoder/cli/fetch_load.h"
#include "decoder/cli/load_blocks.h"
#include "decoder/cli/peer.h"
#include "decoder/cli/scratch.h"
#include "decoder/cli/series.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { BLOCK = 256 << 10, PAGE = 8 << 10, PAGES = BLOCK / PAGE, SET = 4 << 20 };

struct place {
    struct tier *tier;
    struct fetch_set set;
    struct fetch_result *got;
};

static void open_place(struct place *p)
{
    struct tier_opts o = {.ram = 64 << 20};
    struct block_layout l;
    struct skv_error err;
    *p = (struct place){.got = malloc(sizeof *p->got)};
    if (tier_open(&o, &p->tier, &err) || load_layout(BLOCK, &l, &err) ||
        fetch_set_put(&p->set, p->tier, &l, 0, SET, 1, false, &err))
        fail_msg("%s", err.text);
    assert_int_equal(p->set.n, SET / BLOCK);
    assert_int_equal(p->set.pages, PAGES);
}

static void close_place(struct place *p)
{
    tier_close(p->tier);
    fetch_set_free(&p->set);
    free(p->got);
}

static struct fetch_result *run(struct place *p, const struct fetch_load_opts *o)
{
    struct skv_error err;
    if (fetch_load_run(p->tier, &p->set, o, p->got, &err))
        fail_msg("%s", err.text);
    return p->got;
}

/* Of a closed load, what ended is what has a time, and no less than was asked for. */
static void requests_are_counted(void **state)
{
    (void)state;
    struct place p;
    open_place(&p);
    struct fetch_load_opts o = {.batch = 2, .window = 3, .seconds = 60, .count = 50, .seed = 1};
    struct fetch_result *r = run(&p, &o);
    assert_in_range(r->requests, 50, 50 + 3);
    assert_int_equal(r->latency.count, r->requests);
    assert_int_equal(r->bytes, r->found * PAGE);
    assert_in_range(r->found, (r->requests - 3) * 2 * PAGES, (r->requests + 3) * 2 * PAGES);
    assert_true(r->moved_bytes >= r->bytes && r->cpu_s > 0 && r->seconds > 0);
    assert_int_equal(r->missed + r->unfinished + r->late.count, 0);
    o.pages = 5; /* of each block */
    r = run(&p, &o);
    assert_in_range(r->found, (r->requests - 3) * 2 * 5, (r->requests + 3) * 2 * 5);
    close_place(&p);
}

static void misses_are_as_asked_for(void **state)
{
    (void)state;
    struct place p;
    open_place(&p);
    struct fetch_load_opts o = {
        .batch = 4, .window = 2, .seconds = 60, .count = 500, .seed = 2, .misses = 1, .pages = 1};
    struct fetch_result *r = run(&p, &o);
    assert_int_equal(r->found, 0);
    assert_true(r->missed >= 4 * 499);
    o.misses = 0.25;
    r = run(&p, &o);
    double share = (double)r->missed / (double)(r->missed + r->found);
    assert_true(share > 0.2 && share < 0.3); /* of 2000: five standard errors */
    close_place(&p);
}

/* Every request that was due has a time, whether it could begin or not. */
static void nothing_that_is_due_is_left_out(void **state)
{
    (void)state;
    struct place p;
    open_place(&p);
    struct fetch_load_opts o = {
        .batch = 1, .window = 2, .rate = 1000, .warm_up = 0.05, .seconds = 0.2, .seed = 3, .pages = 1};
    struct fetch_result *r = run(&p, &o);
    assert_in_range(r->latency.count, 199, 201);
    assert_in_range(r->late.count, 199, 201);
    o.rate = 2e6; /* more than there can be */
    o.warm_up = 0;
    o.seconds = 0.02;
    r = run(&p, &o);
    assert_in_range(r->latency.count, 39998, 40002);
    assert_true(r->unfinished > 0);
    /* The last requests due could not begin: they waited until all was over. */
    assert_true(r->latency.max >= 20000000);
    assert_true(hist_quantile(&r->latency, 0.5) > 1000000);
    close_place(&p);
}

static void blocks_that_are_gone_are_told(void **state)
{
    (void)state;
    struct place p;
    struct skv_error err;
    open_place(&p);
    assert_int_equal(fetch_set_drop(&p.set, p.tier, &err), 0);
    struct fetch_load_opts o = {.batch = 1, .window = 2, .seconds = 60, .count = 10, .seed = 4};
    assert_int_equal(fetch_load_run(p.tier, &p.set, &o, p.got, &err), -ENODATA);
    assert_non_null(strstr(err.text, "not there any more"));
    close_place(&p);
}

static void the_tcp_pair_gives_what_it_holds(void **state)
{
    (void)state;
    struct peer_pieces pieces;
    struct peer_result *r = malloc(sizeof *r);
    struct skv_error err;
    assert_int_equal(peer_pieces_make(&pieces, 10000, 20, &err), 0);
    for (unsigned lanes = 1; lanes <= 2; lanes++) {
        struct peer tcp = {0};
        struct peer_load l = {.per_request = 700, .window = 3, .checked = true, .seconds = 60, .count = 5};
        if (peer_tcp_open(&tcp, &pieces, lanes, l.per_request, &err) || peer_run(&tcp, &l, r, &err))
            fail_msg("%s", err.text);
        assert_int_equal(r->requests, 5);
        assert_int_equal(r->bytes, 5 * 700 * 10000);
        assert_int_equal(r->latency.count, 5);
        assert_true(r->moved_bytes >= r->bytes && r->client_s > 0 && r->server_s > 0);
        for (uint32_t i = 0; i < pieces.n; i++)
            pieces.hashes[i] ^= lanes == 2;
        if (lanes == 2) {
            assert_int_equal(peer_run(&tcp, &l, r, &err), -EBADMSG);
        }
        peer_close(&tcp);
    }
    peer_pieces_free(&pieces);
    free(r);
}

/* Those that are not installed are named, and left out. */
static void other_peers_give_what_they_hold(void **state)
{
    (void)state;
    enum { ZMQ, REDIS, REDIS_UNIX, MEMCACHED, KINDS };
    struct peer_pieces pieces;
    struct peer_result *r = malloc(sizeof *r);
    struct skv_error err;
    char dir[PATH_MAX];
    assert_int_equal(peer_pieces_make(&pieces, 20000, 20, &err), 0);
    assert_int_equal(scratch_make("/tmp", dir, &err), 0);
    for (int kind = 0; kind < KINDS; kind++)
        for (uint32_t n = 1; n <= 40; n += 39) { /* GET and MGET */
            struct peer peer = {0};
            const char *missing = NULL;
            int rc = kind == ZMQ ? peer_zmq_open(&peer, &pieces, n, &err)
                     : kind == MEMCACHED
                         ? peer_memcached_open(&peer, &pieces, n, &missing, &err)
                         : peer_redis_open(&peer, &pieces, n, dir, kind == REDIS_UNIX, &missing, &err);
            if (missing) {
                print_message("%s is not installed: left out\n", missing);
                continue;
            }
            struct peer_load l = {.per_request = n, .window = 3, .checked = true, .seconds = 60, .count = 20};
            if (rc || peer_run(&peer, &l, r, &err))
                fail_msg("%s", err.text);
            assert_int_equal(r->requests, 20);
            assert_int_equal(r->bytes, 20 * n * 20000);
            pieces.hashes[7] ^= 1;
            l.count = 1000;
            assert_int_equal(peer_run(&peer, &l, r, &err), -EBADMSG);
            pieces.hashes[7] ^= 1;
            peer_close(&peer);
        }
    scratch_remove(dir);
    peer_pieces_free(&pieces);
    free(r);
}

static void medians_and_ratios(void **state)
{
    (void)state;
    struct series a = {0}, b = {0};
    assert_true(isnan(series_middle(&a).median));
    const double x[] = {3, 1, 2, 8}, y[] = {1, 2, 4, 0};
    for (int i = 0; i < 4; i++) {
        series_note(&a, x[i]);
        series_note(&b, y[i]);
        if (i == 2) { /* 3, 0.5, 0.5 */
            struct middle r = series_ratio(&a, &b);
            assert_true(r.median == 0.5 && r.low == 0.5 && r.high == 3);
            assert_true(series_middle(&a).median == 2);
        }
    }
    struct middle m = series_middle(&a);
    assert_true(m.median == 2.5 && m.low == 1 && m.high == 8);
    assert_true(series_ratio(&a, &b).low == 0); /* nothing to compare with is no ratio of use */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_are_counted),
        cmocka_unit_test(misses_are_as_asked_for),
        cmocka_unit_test(nothing_that_is_due_is_left_out),
        cmocka_unit_test(blocks_that_are_gone_are_told),
        cmocka_unit_test(the_tcp_pair_gives_what_it_holds),
        cmocka_unit_test(other_peers_give_what_they_hold),
        cmocka_unit_test(medians_and_ratios),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
