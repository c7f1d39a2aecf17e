/* A recorded request on the node inside this process: what counts as a hit, a miss, an error. */
#include "common/pool.h"
#include "decoder/cli/load_blocks.h"
#include "decoder/cli/trace_replay.h"
#include "decoder/tier/tier.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { SEED = 9, BLOCK_BYTES = 64 << 10, PAGES = 64 };

struct world {
    struct tier *tier;
    struct pool *pool;
    struct replay *replay;
    struct block_layout layout;
    struct skv_error err;
};

static int start(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    struct tier_opts o = {.ram = 16 << 20};
    assert_int_equal(load_layout(BLOCK_BYTES, &w->layout, &w->err), 0);
    assert_true(layout_pages(&w->layout) <= PAGES);
    assert_int_equal(tier_open(&o, &w->tier, &w->err), 0);
    w->pool = pool_new(3);
    assert_non_null(w->pool);
    struct replay_opts r = {.tier = w->tier, .pool = w->pool, .layout = w->layout, .seed = SEED};
    w->replay = replay_new(&r);
    assert_non_null(w->replay);
    *state = w;
    return 0;
}

static int stop(void **state)
{
    struct world *w = *state;
    replay_free(w->replay);
    tier_close(w->tier);
    pool_free(w->pool);
    free(w);
    return 0;
}

/* Replays a request of blocks [first, first + n), whose last one has 10 tokens. */
static int request(struct world *w, uint64_t first, size_t n, size_t *hits)
{
    uint64_t ids[512];
    assert_true(n <= sizeof ids / sizeof *ids);
    for (size_t i = 0; i < n; i++)
        ids[i] = first + i;
    struct trace_request q = {.tokens = n ? (n - 1) * TRACE_BLOCK + 10 : 10, .ids = ids, .n = n};
    return replay_request(w->replay, &q, hits, &w->err);
}

static void expect_hits(struct world *w, uint64_t first, size_t n, size_t want)
{
    size_t hits;
    int rc = request(w, first, n, &hits);
    if (rc || hits != want)
        fail_msg("%d (%s), %zu hits of %zu wanted", rc, w->err.text, hits, want);
}

static void drop(struct world *w, uint64_t id)
{
    struct block_key key;
    load_key(&w->layout, 0, SEED, id, &key);
    assert_int_equal(tier_drop(w->tier, &key, 1, &w->err), 0);
}

static void hits_are_a_prefix(void **state)
{
    struct world *w = *state;
    const struct replay_counts *c = replay_counts(w->replay);
    expect_hits(w, 100, 4, 0);
    expect_hits(w, 100, 4, 4);
    expect_hits(w, 100, 0, 0);
    expect_hits(w, 100, 6, 4);
    assert_int_equal(c->requests, 4);
    assert_int_equal(c->hit_blocks, 8);
    assert_int_equal(c->hit_tokens, 3 * TRACE_BLOCK + 10 + 4 * TRACE_BLOCK);
    assert_int_equal(c->put_blocks, 6);
    assert_int_equal(c->put_bytes, 6 * BLOCK_BYTES);
    assert_int_equal(c->fetched_bytes, 8 * BLOCK_BYTES);
    assert_int_equal(c->lookup.count, 3);
    assert_int_equal(c->fetch.count, 2);
    assert_int_equal(c->put.count, 2);
    drop(w, 102);
    expect_hits(w, 100, 6, 2);
    assert_int_equal(c->stranded_blocks, 3);
    assert_int_equal(c->put_blocks, 10);
    expect_hits(w, 100, 6, 6);
    assert_int_equal(c->full_blocks + c->gone_blocks, 0);
}

static void no_room_is_counted(void **state)
{
    struct world *w = *state;
    const struct replay_counts *c = replay_counts(w->replay);
    expect_hits(w, 0, 500, 0); /* 31 MiB for a node of 16 */
    assert_int_equal(c->put_blocks, 500);
    assert_true(c->full_blocks > 200 && c->full_blocks < 400);
    size_t there = 500 - c->full_blocks;
    expect_hits(w, 0, 500, there); /* it refused what came last */
    assert_int_equal(c->hit_blocks, there);
}

static void other_bytes_are_an_error(void **state)
{
    struct world *w = *state;
    struct block_key key;
    struct buf *payload;
    uint64_t sums[PAGES];
    size_t hits;
    assert_int_equal(load_block(&w->layout, 0, SEED, 3, &key, &payload, sums), 0);
    payload->data[BLOCK_BYTES - 1] ^= 1;
    block_checksums(&key, &w->layout, payload->data, sums);
    assert_int_equal(tier_put(w->tier, &key, &w->layout, payload, sums, TIER_ACK_RAM, NULL, NULL, &w->err),
                     0);
    assert_int_equal(tier_flush(w->tier, &w->err), 0);
    buf_unref(payload);
    assert_int_equal(request(w, 3, 2, &hits), -EBADMSG);
    assert_non_null(strstr(w->err.text, "other bytes"));
    assert_int_equal(hits, 0);
    assert_int_equal(replay_counts(w->replay)->gone_blocks, 1);
    assert_int_equal(replay_counts(w->replay)->requests, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(hits_are_a_prefix, start, stop),
        cmocka_unit_test_setup_teardown(no_room_is_counted, start, stop),
        cmocka_unit_test_setup_teardown(other_bytes_are_an_error, start, stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
