/* The client core with replicas, against node cores under a fake network: copies lie where they should, reads
 * do without any one node, silence and slowness cost little, and what lacks is made good. */
#include "tests/unit/tier_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

enum { N_BLOCKS = 64, HEADS = 2, PAGES = HEADS * BLOCK_PAGES, N_WANTS = N_BLOCKS * PAGES, R = 2 };
static const struct block_layout layout = {.dtype = 1, .d_k = 16, .d_v = 16, .head0 = 1, .n_heads = HEADS};

static struct world_block blocks[N_BLOCKS];
static struct tier_want wants[N_WANTS];

static int make_blocks(void **state)
{
    (void)state;
    for (unsigned b = 0; b < N_BLOCKS; b++) {
        world_block_make(&blocks[b], &layout, 5000 + b);
        for (unsigned p = 0; p < PAGES; p++)
            wants[b * PAGES + p] = (struct tier_want){&blocks[b].key, (uint16_t)(p / BLOCK_PAGES),
                                                      (uint8_t)(p % BLOCK_PAGES), blocks[b].checksums[p]};
    }
    return 0;
}

static int free_blocks(void **state)
{
    (void)state;
    for (unsigned b = 0; b < N_BLOCKS; b++)
        buf_unref(blocks[b].payload);
    return 0;
}

/* ---- a client at work ---- */

struct puts {
    struct {
        struct puts *all;
        unsigned block;
    } arg[N_BLOCKS];
    unsigned ok, failed, exists;
    uint64_t holders[N_BLOCKS];
};

static void on_put(void *arg, const struct tier_put_result *r)
{
    struct {
        struct puts *all;
        unsigned block;
    } *a = arg;
    if (r->rc)
        a->all->failed++;
    else
        a->all->ok++;
    a->all->exists += r->stored != NULL;
    a->all->holders[a->block] = r->holders;
}

static void put_blocks(struct world *w, struct puts *p, unsigned first, unsigned n)
{
    struct skv_error err;
    for (unsigned b = first; b < first + n; b++) {
        p->arg[b].all = p;
        p->arg[b].block = b;
        if (client_put(w->client, &blocks[b].key, &layout, blocks[b].payload, blocks[b].checksums,
                       TIER_ACK_RAM, on_put, &p->arg[b], &err))
            fail_msg("%s", err.text);
    }
}

static void put_all(struct world *w, struct puts *p)
{
    put_blocks(w, p, 0, N_BLOCKS);
    while (client_puts_open(w->client))
        world_step(w);
}

struct pages {
    unsigned ok, gone;
};
static void on_page(void *arg, size_t want, int rc, const uint8_t *bytes)
{
    struct pages *p = arg;
    if (rc) {
        p->gone++;
        return;
    }
    size_t len = layout_page_bytes(&layout);
    assert_memory_equal(bytes, blocks[want / PAGES].payload->data + want % PAGES * len, len);
    p->ok++;
}

/* Fetches everything and tells how long that took. */
static uint64_t fetch_all(struct world *w, struct pages *p)
{
    struct tier_fetch *f;
    struct skv_error err;
    uint64_t began = w->now;
    *p = (struct pages){0};
    assert_int_equal(client_fetch_begin(w->client, &layout, wants, N_WANTS, on_page, p, &f, &err), 0);
    while (!client_fetch_done(f)) {
        world_step(w);
        if (w->now - began > 100 * NS_PER_S)
            fail_msg("a fetch never ended");
    }
    client_fetch_free(w->client, f, &err);
    assert_int_equal(p->ok + p->gone, N_WANTS);
    return w->now - began;
}

static void start(struct world *w, uint64_t seed)
{
    struct skv_error err;
    w->replicas = R;
    if (!w->delay_ns)
        w->delay_ns = NS_PER_MS;
    world_open(w, seed, 3, 1);
    w->page_bytes = layout_page_bytes(&layout);
    if (world_greet(w, &err) != 1)
        fail_msg("seed %llu: %s", (unsigned long long)seed, err.text);
}

/* Which nodes should hold a block. */
static uint64_t ranked(const struct world *w, unsigned block)
{
    uint8_t order[PLACEMENT_MAX_NODES];
    uint64_t nodes = 0;
    placement_rank(client_map(w->client), key_hash(&blocks[block].key), order);
    for (unsigned i = 0; i < R; i++)
        nodes |= UINT64_C(1) << order[i];
    return nodes;
}

static const struct tier_totals *totals(const struct world *w)
{
    return &client_totals(w->client)->tier;
}

/* Lets it rest until all that is known to lack is made good. */
static void wait_for_repairs(struct world *w)
{
    uint64_t began = w->now;
    while (client_repairs_open(w->client)) {
        world_step(w);
        if (w->now - began > 60 * NS_PER_S)
            fail_msg("%zu repairs never ended", client_repairs_open(w->client));
    }
}

static void bring_back(struct world *w, unsigned node, const char *id)
{
    world_node_start(w, node, id);
    while (!client_node_up(w->client, node))
        world_step(w);
}

/* ---- tests ---- */

static void copies_lie_where_rank_says(void **state)
{
    (void)state;
    struct world w = {0};
    struct puts put = {0};
    struct pages got;
    start(&w, 1);
    put_all(&w, &put);
    assert_int_equal(put.ok, N_BLOCKS);
    for (unsigned b = 0; b < N_BLOCKS; b++)
        assert_int_equal(put.holders[b], ranked(&w, b));
    assert_int_equal(totals(&w)->put_blocks, N_BLOCKS);
    assert_int_equal(totals(&w)->short_puts, 0);
    fetch_all(&w, &got);
    assert_int_equal(got.ok, N_WANTS);
    assert_int_equal(totals(&w)->misses, 0);
    assert_int_equal(client_repairs_open(w.client), 0);
    world_close(&w);
}

/* Each node in turn is lost in the middle of a fetch and of writes; nobody notices. */
static void any_one_node_may_die(void **state)
{
    (void)state;
    for (unsigned victim = 0; victim < 3; victim++)
        for (int noticed = 0; noticed < 2; noticed++) {
            struct world w = {0};
            struct puts put = {0};
            struct pages got = {0};
            struct tier_fetch *f;
            struct skv_error err;
            start(&w, 10 + victim);
            put_blocks(&w, &put, 0, N_BLOCKS);
            while (put.ok < N_BLOCKS / 2)
                world_step(&w);
            if (victim == 1) { /* it dies while it is written to */
                world_node_kill(&w, victim, noticed);
                uint64_t died = w.now;
                while (client_puts_open(w.client))
                    world_step(&w);
                assert_true(w.now - died < NS_PER_S * 3 / 4);
            } else {
                while (client_puts_open(w.client))
                    world_step(&w);
            }
            assert_int_equal(put.ok, N_BLOCKS);
            assert_int_equal(client_fetch_begin(w.client, &layout, wants, N_WANTS, on_page, &got, &f, &err),
                             0);
            while (got.ok < N_WANTS / 4)
                world_step(&w);
            uint64_t died = w.now;
            if (victim != 1)
                world_node_kill(&w, victim, noticed);
            while (!client_fetch_done(f))
                world_step(&w);
            /* Two heartbeats of 250 ms, and the network. */
            if (w.now - died > NS_PER_S * 3 / 4)
                fail_msg("victim %u: the fetch went on for %.0f ms", victim, (double)(w.now - died) / 1e6);
            assert_int_equal(client_fetch_free(w.client, f, &err), 0);
            assert_int_equal(got.ok, N_WANTS);
            world_close(&w);
        }
}

/* A frozen node costs two heartbeats at most, once, and is used again when it wakes up. */
static void a_frozen_node_is_passed_over(void **state)
{
    (void)state;
    struct world w = {0};
    struct puts put = {0}, more = {0};
    struct pages got;
    start(&w, 20);
    put_blocks(&w, &put, 0, N_BLOCKS / 2);
    while (client_puts_open(w.client))
        world_step(&w);
    w.nodes[1].mute = true;
    uint64_t first = w.now;
    put_blocks(&w, &more, N_BLOCKS / 2, N_BLOCKS / 2);
    while (client_puts_open(w.client))
        world_step(&w);
    assert_true(w.now - first < NS_PER_S * 3 / 4);
    assert_int_equal(more.ok, N_BLOCKS / 2);
    for (unsigned b = N_BLOCKS / 2; b < N_BLOCKS; b++) /* two copies, elsewhere if need be */
        assert_true(__builtin_popcountll(more.holders[b]) == 2 && !(more.holders[b] & 2));
    assert_int_equal(totals(&w)->suspected, 1);
    assert_true(fetch_all(&w, &got) < NS_PER_S / 4); /* it is known to be silent now */
    assert_int_equal(got.ok, N_WANTS);
    w.nodes[1].mute = false;
    while (totals(&w)->timeouts == 0) /* what it swallowed is never answered: it is greeted anew */
        world_step(&w);
    while (!client_node_up(w.client, 1))
        world_step(&w);
    fetch_all(&w, &got);
    assert_int_equal(got.ok, N_WANTS);
    assert_int_equal(totals(&w)->reborn, 0);
    world_close(&w);
}

/* One that wakes up before any deadline was only ever suspect: no connection is given up. */
static void a_word_ends_a_suspicion(void **state)
{
    (void)state;
    struct world w = {0};
    struct puts put = {0};
    struct pages got;
    start(&w, 21);
    put_all(&w, &put);
    w.nodes[2].slow_ns = 700 * NS_PER_MS;
    fetch_all(&w, &got);
    assert_int_equal(got.ok, N_WANTS);
    for (uint64_t until = w.now + 2 * NS_PER_S; w.now < until;)
        world_step(&w);
    assert_true(totals(&w)->suspected > 0);
    w.nodes[2].slow_ns = 0;
    for (uint64_t until = w.now + 2 * NS_PER_S; w.now < until;)
        world_step(&w);
    assert_int_equal(totals(&w)->lost, 0);
    put_all(&w, &put); /* SAME from all, so it is asked */
    for (unsigned b = 0; b < N_BLOCKS; b++)
        assert_int_equal(put.holders[b], ranked(&w, b));
    world_close(&w);
}

static void slow_answers_are_hedged(void **state)
{
    (void)state;
    struct world w = {.get_window = 16 << 10};
    struct puts put = {0};
    struct pages got;
    start(&w, 22);
    put_all(&w, &put);
    for (int i = 0; i < 8; i++)
        fetch_all(&w, &got); /* how fast they are */
    uint64_t hedged = totals(&w)->hedged, usual = fetch_all(&w, &got);
    w.nodes[0].slow_ns = 100 * NS_PER_MS; /* less than a heartbeat */
    uint64_t took = fetch_all(&w, &got);
    assert_int_equal(got.ok, N_WANTS);
    assert_true(totals(&w)->hedged > hedged);
    assert_int_equal(totals(&w)->suspected, 0);
    if (took > usual + 60 * NS_PER_MS)
        fail_msg("%.1f ms with a slow node, %.1f without", (double)took / 1e6, (double)usual / 1e6);
    /* And then the others are asked in the first place. */
    took = fetch_all(&w, &got);
    if (took > usual * 2 + 20 * NS_PER_MS)
        fail_msg("%.1f ms with a slow node that is known, %.1f without", (double)took / 1e6,
                 (double)usual / 1e6);
    world_close(&w);
}

/* A node comes back empty: reads go on, and what is read is put back where it belongs. */
static void reads_repair(void **state)
{
    (void)state;
    struct world w = {0};
    struct puts put = {0};
    struct pages got;
    start(&w, 30);
    put_all(&w, &put);
    world_node_kill(&w, 0, true);
    bring_back(&w, 0, "n1");
    assert_int_equal(totals(&w)->reborn, 1);
    for (int i = 0; i < 20; i++) /* either holder may be asked: not every read meets the empty one */
        fetch_all(&w, &got);
    assert_int_equal(got.ok, N_WANTS);
    wait_for_repairs(&w);
    assert_true(totals(&w)->repaired > N_BLOCKS / 3);
    /* Whoever else goes now, the copies are there. */
    world_node_kill(&w, 1, true);
    fetch_all(&w, &got);
    assert_int_equal(got.ok, N_WANTS);
    world_close(&w);
}

static void short_writes_are_made_good(void **state)
{
    (void)state;
    struct world w = {0};
    struct puts put = {0};
    struct pages got;
    start(&w, 31);
    world_node_kill(&w, 0, true);
    world_node_kill(&w, 2, true);
    put_all(&w, &put);
    assert_int_equal(put.ok, N_BLOCKS);
    for (unsigned b = 0; b < N_BLOCKS; b++)
        assert_int_equal(put.holders[b], 2); /* the only one there is */
    assert_int_equal(totals(&w)->short_puts, N_BLOCKS);
    assert_true(client_repairs_open(w.client) >= N_BLOCKS);
    bring_back(&w, 0, "n1");
    bring_back(&w, 2, "n3");
    wait_for_repairs(&w);
    world_node_kill(&w, 1, true);
    fetch_all(&w, &got);
    assert_int_equal(got.ok, N_WANTS);
    world_close(&w);
}

/* Two writers made different bits of one block while each saw another node: the first in rank decides. */
static void the_first_in_rank_decides(void **state)
{
    (void)state;
    struct world w = {0};
    struct puts put = {0};
    struct skv_error err;
    start(&w, 40);
    uint8_t order[PLACEMENT_MAX_NODES];
    placement_rank(client_map(w.client), key_hash(&blocks[0].key), order);
    world_node_kill(&w, order[0], true);
    put_blocks(&w, &put, 0, 1);
    while (client_puts_open(w.client))
        world_step(&w);
    char id[8];
    snprintf(id, sizeof id, "n%u", order[0] + 1);
    assert_int_equal(client_repairs_open(w.client), 0); /* there were two others */
    bring_back(&w, order[0], id);

    /* The second writer: the first in rank takes its version, the second has the other. */
    struct world_block other = blocks[0];
    other.payload = buf_copy(blocks[0].payload->data, blocks[0].payload->len);
    other.payload->data[3] ^= 1;
    block_checksums(&other.key, &layout, other.payload->data, other.checksums);
    struct puts two = {.arg[0] = {&two, 0}};
    assert_int_equal(client_put(w.client, &other.key, &layout, other.payload, other.checksums, TIER_ACK_RAM,
                                on_put, &two.arg[0], &err),
                     0);
    while (client_puts_open(w.client))
        world_step(&w);
    assert_int_equal(two.ok, 1);
    assert_int_equal(two.exists, 0); /* its own stays: the first in rank has it */
    assert_int_equal(two.holders[0], UINT64_C(1) << order[0]);
    assert_int_equal(totals(&w)->conflicts, 1);

    /* The first writer again: it learns that another version decides. */
    put_blocks(&w, &put, 0, 1);
    while (client_puts_open(w.client))
        world_step(&w);
    assert_int_equal(put.exists, 1);
    assert_int_equal(put.holders[0], UINT64_C(1) << order[0]);
    buf_unref(other.payload);
    world_close(&w);
}

/* A client begins while a node is away, if it is told who that is. */
static void one_may_be_absent_at_the_start(void **state)
{
    (void)state;
    for (int told = 0; told < 2; told++) {
        struct world w = {.replicas = R, .delay_ns = NS_PER_MS};
        struct puts put = {0};
        struct pages got;
        struct skv_error err;
        if (told)
            for (unsigned i = 0; i < 3; i++)
                snprintf(w.addrs[i].id, sizeof w.addrs[i].id, "n%u", i + 1);
        world_open(&w, 50, 3, 1);
        w.page_bytes = layout_page_bytes(&layout);
        world_node_kill(&w, 1, false);
        int rc = world_greet(&w, &err);
        if (!told) {
            assert_int_equal(rc, -EHOSTUNREACH);
            assert_non_null(strstr(err.text, "n1@"));
        } else {
            assert_int_equal(rc, 1);
            put_all(&w, &put);
            fetch_all(&w, &got);
            assert_int_equal(got.ok, N_WANTS);
            bring_back(&w, 1, "n2");
            wait_for_repairs(&w);
            world_node_kill(&w, 0, true);
            fetch_all(&w, &got);
            assert_int_equal(got.ok, N_WANTS);
        }
        world_close(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies_lie_where_rank_says),     cmocka_unit_test(any_one_node_may_die),
        cmocka_unit_test(a_frozen_node_is_passed_over),   cmocka_unit_test(a_word_ends_a_suspicion),
        cmocka_unit_test(slow_answers_are_hedged),        cmocka_unit_test(reads_repair),
        cmocka_unit_test(short_writes_are_made_good),     cmocka_unit_test(the_first_in_rank_decides),
        cmocka_unit_test(one_may_be_absent_at_the_start),
    };
    return cmocka_run_group_tests(tests, make_blocks, free_blocks);
}
