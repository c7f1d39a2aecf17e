/* The client core against node cores under a fake network: what arrives is right, what cannot arrive fails
 * with a sentence, every request ends, and credits hold. Failures print the seed. */
#include "tests/unit/tier_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

enum { N_BLOCKS = 96, HEADS = 2, BLOCK_PAGE_COUNT = HEADS * BLOCK_PAGES };
static const struct block_layout layout = {
    .dtype = 1, .d_k = 16, .d_v = 16, .head0 = 1, .n_heads = HEADS}; /* pages of 1 KiB */

static struct world_block blocks[N_BLOCKS];
static struct tier_want wants[N_BLOCKS * BLOCK_PAGE_COUNT];
enum { N_WANTS = sizeof wants / sizeof *wants };

static int make_blocks(void **state)
{
    (void)state;
    for (unsigned b = 0; b < N_BLOCKS; b++) {
        world_block_make(&blocks[b], &layout, 1000 + b);
        for (unsigned p = 0; p < BLOCK_PAGE_COUNT; p++)
            wants[b * BLOCK_PAGE_COUNT + p] =
                (struct tier_want){&blocks[b].key, (uint16_t)(p / BLOCK_PAGES), (uint8_t)(p % BLOCK_PAGES),
                                   blocks[b].checksums[p]};
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

/* ---- what came back ---- */

struct puts {
    unsigned ok, failed, exists;
    int rc;
    char text[500];
    uint64_t stored0;
};
static void on_put(void *arg, const struct tier_put_result *r)
{
    struct puts *p = arg;
    assert_int_equal(r->n_pages, BLOCK_PAGE_COUNT);
    if (r->rc) {
        p->failed++;
        p->rc = r->rc;
        assert_non_null(r->err);
        strcpy(p->text, r->err->text);
    } else {
        p->ok++;
        p->exists += r->stored != NULL;
        if (r->stored)
            p->stored0 = r->stored[0];
    }
}

struct pages {
    const struct tier_want *wants;
    size_t page_bytes;
    unsigned calls[N_WANTS], ok, lost, bad, gone;
    size_t last;
    bool in_order;
};
static void on_page(void *arg, size_t want, int rc, const uint8_t *bytes)
{
    struct pages *p = arg;
    const struct tier_want *w = &p->wants[want];
    if (p->calls[want]++)
        fail_msg("want %zu was answered twice", want);
    p->in_order = p->in_order && want >= p->last;
    p->last = want;
    if (rc == 0) {
        const struct world_block *b = (const struct world_block *)w->key;
        size_t at = ((size_t)w->head * BLOCK_PAGES + w->page) * p->page_bytes;
        assert_memory_equal(bytes, b->payload->data + at, p->page_bytes);
        p->ok++;
        return;
    }
    assert_null(bytes);
    if (rc == -ENODATA)
        p->lost++;
    else if (rc == -EBADMSG)
        p->bad++;
    else if (rc == -EHOSTUNREACH)
        p->gone++;
    else
        fail_msg("page failed with %d", rc);
}

static void start(struct world *w, uint64_t seed, unsigned n_nodes, uint32_t lanes)
{
    struct skv_error err;
    world_open(w, seed, n_nodes, lanes);
    w->page_bytes = layout_page_bytes(&layout);
    if (world_greet(w, &err) != 1)
        fail_msg("seed %llu: %s", (unsigned long long)seed, err.text);
}

static void put_all(struct world *w, struct puts *p)
{
    struct skv_error err;
    for (unsigned b = 0; b < N_BLOCKS; b++)
        if (client_put(w->client, &blocks[b].key, &layout, blocks[b].payload, blocks[b].checksums,
                       TIER_ACK_RAM, on_put, p, &err))
            fail_msg("%s", err.text);
    while (client_puts_open(w->client))
        world_step(w);
}

/* Fetches wants[0..n) and returns what client_fetch_free says. */
static int fetch(struct world *w, const struct tier_want *what, size_t n, struct pages *p,
                 struct skv_error *err)
{
    struct tier_fetch *f;
    *p = (struct pages){.wants = what, .page_bytes = layout_page_bytes(&layout), .in_order = true};
    assert_int_equal(client_fetch_begin(w->client, &layout, what, n, on_page, p, &f, err), 0);
    uint64_t limit = w->now + 100 * NS_PER_S;
    while (!client_fetch_done(f)) {
        world_step(w);
        if (w->now > limit)
            fail_msg("a fetch never ended");
    }
    assert_int_equal(p->ok + p->lost + p->bad + p->gone, n);
    return client_fetch_free(w->client, f, err);
}

/* ---- tests ---- */

static void puts_and_gets(void **state)
{
    (void)state;
    for (unsigned n_nodes = 1; n_nodes <= 3; n_nodes++)
        for (unsigned lanes = 1; lanes <= 2; lanes++) {
            struct world w = {.delay_ns = 3 * NS_PER_MS, .get_window = 64 << 10, .put_credit = 40 << 10};
            struct puts put = {0};
            struct pages *got = malloc(sizeof *got);
            struct skv_error err;
            start(&w, n_nodes * 10 + lanes, n_nodes, lanes);
            put_all(&w, &put);
            assert_int_equal(put.ok, N_BLOCKS);
            assert_int_equal(fetch(&w, wants, N_WANTS, got, &err), 0);
            assert_int_equal(got->ok, N_WANTS);
            if (n_nodes == 1 && lanes == 1)
                assert_true(got->in_order);
            /* The network watched both credits; the client used most of them. */
            assert_in_range(w.worst_asked, (64 << 10) / 2, 64 << 10);
            assert_in_range(w.worst_unacked, (40 << 10) / 2, 40 << 10);
            const struct client_totals *t = client_totals(w.client);
            assert_int_equal(t->tier.get_pages, N_WANTS);
            assert_int_equal(t->tier.get_bytes, N_WANTS * layout_page_bytes(&layout));
            assert_int_equal(t->tier.put_blocks, N_BLOCKS);
            assert_int_equal(
                t->tier.misses + t->tier.bad_checksums + t->tier.timeouts + t->late + t->malformed, 0);
            free(got);
            world_close(&w);
        }
}

static void selections_are_few_messages(void **state)
{
    (void)state;
    struct world w = {0};
    struct puts put = {0};
    struct pages *got = malloc(sizeof *got);
    struct tier_want some[128];
    start(&w, 5, 3, 1);
    put_all(&w, &put);
    for (unsigned i = 0; i < 128; i++)
        some[i] = wants[i * 6 + i % 5];
    w.gets = 0;
    assert_int_equal(fetch(&w, some, 128, got, NULL), 0);
    assert_int_equal(w.gets, 3); /* one to each node */
    free(got);
    world_close(&w);
}

enum { SMALL = 8, SMALL_WANTS = 12 };

/* Begins small fetches, one behind the other in the blocks. */
static void begin_small(struct world *w, struct pages got[SMALL], struct tier_fetch *f[SMALL])
{
    struct skv_error err;
    for (unsigned i = 0; i < SMALL; i++) {
        got[i] = (struct pages){.wants = wants + i * SMALL_WANTS, .page_bytes = layout_page_bytes(&layout)};
        assert_int_equal(
            client_fetch_begin(w->client, &layout, got[i].wants, SMALL_WANTS, on_page, &got[i], &f[i], &err),
            0);
    }
}

/* Waits for them and frees them; how many pages failed. */
static unsigned end_small(struct world *w, struct pages got[SMALL], struct tier_fetch *f[SMALL])
{
    unsigned failed = 0;
    for (unsigned i = 0; i < SMALL; i++) {
        if (!f[i])
            continue;
        while (!client_fetch_done(f[i]))
            world_step(w);
        int rc = client_fetch_free(w->client, f[i], NULL);
        unsigned lost = got[i].lost + got[i].bad + got[i].gone;
        assert_int_equal(got[i].ok + lost, SMALL_WANTS);
        assert_int_equal(rc != 0, lost > 0);
        failed += lost;
    }
    return failed;
}

/* What is queued together travels together, and each fetch has its own end: with bits flipped, a node that
 * misses blocks, one that dies, and one of the fetches given up. */
static void small_fetches_share_messages(void **state)
{
    (void)state;
    enum { PLAIN, FLIPS, MISSES, DEATH, GIVEN_UP, CASES };
    struct pages *got = calloc(SMALL, sizeof *got);
    struct tier_fetch *f[SMALL];
    for (int how = 0; how < CASES; how++) {
        struct world w = {.delay_ns = NS_PER_MS, .replicas = how == FLIPS ? 2 : 1};
        struct puts put = {0};
        start(&w, 40 + (uint64_t)how, how == FLIPS ? 2 : 1, 1);
        if (how != MISSES)
            put_all(&w, &put);
        w.flip_percent = how == FLIPS ? 30 : 0;
        w.gets = 0;
        begin_small(&w, got, f);
        while (w.gets == 0)
            world_step(&w);
        if (how == DEATH)
            world_node_kill(&w, 0, true);
        if (how == GIVEN_UP) {
            client_fetch_give_up(w.client, f[3]);
            assert_int_equal(client_fetch_free(w.client, f[3], NULL), -EHOSTUNREACH);
            f[3] = NULL;
        }
        unsigned failed = end_small(&w, got, f);
        const struct client_totals *t = client_totals(w.client);
        if (how == PLAIN)
            assert_int_equal(w.gets, 1);
        assert_int_equal(t->tier.hedge_bytes, how == GIVEN_UP ? SMALL_WANTS * w.page_bytes : 0);
        if (how == MISSES)
            assert_int_equal(t->tier.misses, SMALL * SMALL_WANTS);
        assert_int_equal(t->tier.bad_checksums > 0, how == FLIPS);
        if (how == MISSES || how == DEATH)
            assert_int_equal(failed, SMALL * SMALL_WANTS);
        else if (how != FLIPS) /* there both copies may come damaged */
            assert_int_equal(failed, 0);
        world_close(&w);
    }
    free(got);
}

/* Answers in several frames: whole, with a bit flipped in some part, and with a part that is no pages. */
static bool cut_a_part(struct world *w, struct world_message *m)
{
    unsigned *cut = w->tamper_arg;
    if (m->to_client && !*cut && view_parts(&m->payload) > 1) {
        m->payload.len--;
        *cut = 1;
    }
    return true;
}

static void large_blocks_come_in_several_frames(void **state)
{
    (void)state;
    enum { PLAIN, FLIPS, CUT, CASES, LARGE = 9, PAGES = 8 };
    static const struct block_layout large = {.dtype = 1, .d_k = 128, .d_v = 128, .n_heads = 2};
    struct world_block b[LARGE];
    struct tier_want want[LARGE * PAGES];
    struct pages *got = malloc(sizeof *got);
    for (unsigned i = 0; i < LARGE; i++) {
        world_block_make(&b[i], &large, 5000 + i);
        for (unsigned p = 0; p < PAGES; p++)
            want[i * PAGES + p] = (struct tier_want){&b[i].key, (uint16_t)(p / BLOCK_PAGES),
                                                     (uint8_t)(p % BLOCK_PAGES), b[i].checksums[p]};
    }
    for (int how = 0; how < CASES; how++) {
        unsigned cut = 0;
        struct world w = {.delay_ns = NS_PER_MS, .tamper_arg = &cut};
        struct puts put = {0};
        struct tier_fetch *f;
        start(&w, 60 + (uint64_t)how, 1, 1);
        for (unsigned i = 0; i < LARGE; i++)
            assert_int_equal(client_put(w.client, &b[i].key, &large, b[i].payload, b[i].checksums,
                                        TIER_ACK_RAM, on_put, &put, NULL),
                             0);
        while (client_puts_open(w.client))
            world_step(&w);
        w.flip_percent = how == FLIPS ? 100 : 0;
        w.tamper = how == CUT ? cut_a_part : NULL;
        w.page_bytes = layout_page_bytes(&large);
        *got = (struct pages){.wants = want, .page_bytes = w.page_bytes, .in_order = true};
        assert_int_equal(client_fetch_begin(w.client, &large, want, LARGE * PAGES, on_page, got, &f, NULL),
                         0);
        while (!client_fetch_done(f))
            world_step(&w);
        const struct client_totals *t = client_totals(w.client);
        int rc = client_fetch_free(w.client, f, NULL);
        assert_int_equal(rc, how == FLIPS ? -EBADMSG : 0);
        assert_int_equal(got->ok, LARGE * PAGES - got->bad);
        assert_in_range(got->bad, how == FLIPS, how == FLIPS ? 2 : 0);
        assert_int_equal(cut, how == CUT); /* such a node is greeted anew, and asked again */
        assert_int_equal(t->malformed > 0, how == CUT);
        world_close(&w);
    }
    for (unsigned i = 0; i < LARGE; i++)
        buf_unref(b[i].payload);
    free(got);
}

/* Another writer's bits stay, and the writer learns their checksums. */
static void first_put_wins(void **state)
{
    (void)state;
    struct world w = {0};
    struct puts put = {0};
    struct skv_error err;
    start(&w, 6, 2, 1);
    put_all(&w, &put);
    put_all(&w, &put);
    assert_int_equal(put.ok, 2 * N_BLOCKS);
    assert_int_equal(put.exists, 0);
    assert_int_equal(client_totals(w.client)->tier.put_same, N_BLOCKS);
    struct buf *other = buf_copy(blocks[0].payload->data, blocks[0].payload->len);
    uint64_t sums[BLOCK_PAGE_COUNT];
    other->data[5] ^= 1;
    block_checksums(&blocks[0].key, &layout, other->data, sums);
    assert_int_equal(
        client_put(w.client, &blocks[0].key, &layout, other, sums, TIER_ACK_RAM, on_put, &put, &err), 0);
    while (client_puts_open(w.client))
        world_step(&w);
    assert_int_equal(put.exists, 1);
    assert_true(put.stored0 == blocks[0].checksums[0] && sums[0] != put.stored0);
    /* Bytes that do not match their checksums never enter; neither does what needs a disk. */
    assert_int_equal(client_put(w.client, &(struct block_key){.layer = 9}, &layout, other, sums, TIER_ACK_RAM,
                                on_put, &put, &err),
                     0);
    while (client_puts_open(w.client))
        world_step(&w);
    assert_int_equal(put.rc, -EBADMSG);
    assert_int_equal(client_put_failure(w.client, &err), -EBADMSG);
    assert_int_equal(client_put_failure(w.client, &err), 0); /* told once */
    assert_int_equal(client_put(w.client, &(struct block_key){.layer = 9}, &layout, other, sums,
                                TIER_ACK_DURABLE, on_put, &put, &err),
                     0);
    while (client_puts_open(w.client))
        world_step(&w);
    assert_int_equal(put.rc, -ENOTSUP);
    assert_non_null(strstr(put.text, "durable"));
    buf_unref(other);
    world_close(&w);
}

static void misses_ask_every_node(void **state)
{
    (void)state;
    struct world w = {0};
    struct puts put = {0};
    struct pages *got = malloc(sizeof *got);
    struct skv_error err;
    start(&w, 7, 3, 1);
    world_node_kill(&w, 1, true); /* its blocks go to the next in rank */
    put_all(&w, &put);
    assert_int_equal(put.ok, N_BLOCKS);
    assert_int_equal(fetch(&w, wants, N_WANTS, got, &err), 0);
    assert_int_equal(got->ok, N_WANTS);
    world_node_start(&w, 1, "n2"); /* back, empty, and first in rank for a third of them */
    while (!client_node_up(w.client, 1))
        world_step(&w);
    uint64_t misses = client_totals(w.client)->tier.misses;
    assert_int_equal(fetch(&w, wants, N_WANTS, got, &err), 0);
    assert_int_equal(got->ok, N_WANTS);
    assert_true(client_totals(w.client)->tier.misses > misses + N_WANTS / 6);
    /* A version that nobody has is lost, once all three were asked, twice: it might have been on the move. */
    struct tier_want none = wants[0];
    none.checksum ^= 1;
    misses = client_totals(w.client)->tier.misses;
    assert_int_equal(fetch(&w, &none, 1, got, &err), -ENODATA);
    assert_int_equal(got->lost, 1);
    assert_int_equal(client_totals(w.client)->tier.misses, misses + 6);
    assert_non_null(strstr(err.text, "all 3 memory nodes"));
    free(got);
    world_close(&w);
}

static void flipped_bits_are_seen(void **state)
{
    (void)state;
    struct world w = {0};
    struct puts put = {0};
    struct pages *got = malloc(sizeof *got);
    struct skv_error err;
    start(&w, 8, 2, 1);
    put_all(&w, &put);
    w.flip_percent = 100; /* one bit per message */
    assert_int_equal(fetch(&w, wants, N_WANTS, got, &err), -EBADMSG);
    assert_true(got->bad >= 1 && got->bad == client_totals(w.client)->tier.bad_checksums);
    assert_int_equal(got->bad + got->ok, N_WANTS);
    assert_non_null(strstr(err.text, "checksum"));
    w.flip_percent = 0;
    assert_int_equal(fetch(&w, wants, N_WANTS, got, &err), 0);
    free(got);
    world_close(&w);
}

/* A bad copy on the first node: the good one further down the rank is found. */
static bool spoil_node(struct world *w, struct world_message *m)
{
    unsigned node = *(unsigned *)w->tamper_arg;
    if (m->to_client && m->lane / w->lanes_per_node == node && m->payload.len) {
        struct buf *copy = buf_copy(m->payload.data, m->payload.len);
        for (size_t i = 0; i < copy->len; i += layout_page_bytes(&layout))
            copy->data[i] ^= 0x40;
        buf_unref(m->payload.owner);
        m->payload = (struct view){copy->data, copy->len, copy};
    }
    return true;
}
static void bad_copies_lead_to_the_next_node(void **state)
{
    (void)state;
    struct world w = {0};
    struct puts put = {0};
    struct pages *got = malloc(sizeof *got);
    struct skv_error err;
    start(&w, 9, 2, 1);
    world_node_kill(&w, 0, true);
    put_all(&w, &put); /* all on node 1 */
    world_node_start(&w, 0, "n1");
    while (!client_node_up(w.client, 0))
        world_step(&w);
    put_all(&w, &put); /* half of them on node 0 too, which is first in rank for these */
    unsigned spoiled = 0;
    w.tamper = spoil_node;
    w.tamper_arg = &spoiled;
    assert_int_equal(fetch(&w, wants, N_WANTS, got, &err), 0);
    assert_int_equal(got->ok, N_WANTS);
    assert_true(client_totals(w.client)->tier.bad_checksums > N_WANTS / 4);
    free(got);
    world_close(&w);
}

static void count_wrong(void *arg, size_t want, int rc, const uint8_t *bytes)
{
    const struct world_block *b = (const struct world_block *)wants[want].key;
    size_t len = layout_page_bytes(&layout),
           at = ((size_t)wants[want].head * BLOCK_PAGES + wants[want].page) * len;
    assert_int_equal(rc, 0);
    *(unsigned *)arg += memcmp(bytes, b->payload->data + at, len) != 0;
}

/* For measuring only: a client that is told not to look hands out what comes. */
static void unchecked_pages_are_handed_out(void **state)
{
    (void)state;
    struct world w = {.unchecked = true};
    struct puts put = {0};
    struct tier_fetch *f;
    struct skv_error err;
    unsigned spoiled = 0, wrong = 0;
    start(&w, 10, 1, 1);
    put_all(&w, &put);
    w.tamper = spoil_node;
    w.tamper_arg = &spoiled;
    assert_int_equal(client_fetch_begin(w.client, &layout, wants, N_WANTS, count_wrong, &wrong, &f, &err), 0);
    while (!client_fetch_done(f))
        world_step(&w);
    assert_int_equal(client_fetch_free(w.client, f, &err), 0);
    assert_int_equal(wrong, N_WANTS);
    assert_int_equal(client_totals(w.client)->tier.bad_checksums, 0);
    world_close(&w);
}

static void a_node_that_dies_is_named(void **state)
{
    (void)state;
    for (int noticed = 0; noticed < 2; noticed++) {
        struct world w = {.delay_ns = NS_PER_MS, .get_window = 32 << 10};
        struct puts put = {0};
        struct pages *got = calloc(1, sizeof *got);
        struct tier_fetch *f;
        struct skv_error err;
        start(&w, 10, 3, 1);
        put_all(&w, &put);
        *got = (struct pages){.wants = wants, .page_bytes = layout_page_bytes(&layout)};
        assert_int_equal(client_fetch_begin(w.client, &layout, wants, N_WANTS, on_page, got, &f, &err), 0);
        while (got->ok < N_WANTS / 4)
            world_step(&w);
        uint64_t died = w.now;
        if (noticed)
            world_node_kill(&w, 2, true);
        else
            w.nodes[2].mute = true; /* stuck: only the deadline tells */
        while (!client_fetch_done(f))
            world_step(&w);
        if (noticed)
            assert_in_range(w.now - died, NS_PER_S - 1, NS_PER_S * 5 / 4); /* it might have come back */
        else
            assert_in_range(w.now - died, NS_PER_S / 2, 3 * NS_PER_S);
        assert_int_equal(client_fetch_free(w.client, f, &err), -EHOSTUNREACH);
        assert_non_null(strstr(err.text, "n3 (host3:7401)"));
        assert_true(got->gone > 0 && got->ok > N_WANTS / 2);
        assert_int_equal(got->ok + got->gone, N_WANTS);
        assert_int_equal(client_totals(w.client)->tier.timeouts > 0, !noticed);
        /* While it is away its pages fail at once; PUTs go elsewhere; back with its old name, it is used
         * again. */
        died = w.now;
        assert_int_equal(fetch(&w, wants, N_WANTS, got, &err), -EHOSTUNREACH);
        assert_true(w.now - died < NS_PER_S);
        if (noticed)
            world_node_start(&w, 2, "n3");
        w.nodes[2].mute = false;
        while (!client_node_up(w.client, 2))
            world_step(&w);
        put_all(&w, &put);
        assert_int_equal(fetch(&w, wants, N_WANTS, got, &err), 0);
        free(got);
        world_close(&w);
    }
}

/* Steps until the time is over, or nobody but those who are behind is waited for; then gives up. */
static int fetch_by(struct world *w, uint64_t until, struct pages *p, struct skv_error *err)
{
    struct tier_fetch *f;
    *p = (struct pages){.wants = wants, .page_bytes = layout_page_bytes(&layout)};
    assert_int_equal(client_fetch_begin(w->client, &layout, wants, N_WANTS, on_page, p, &f, err), 0);
    while (!client_fetch_done(f) && w->now < until && !client_fetch_behind(w->client, f))
        world_step(w);
    if (!client_fetch_done(f))
        client_fetch_give_up(w->client, f);
    assert_true(client_fetch_done(f));
    assert_int_equal(p->ok + p->gone, N_WANTS);
    return client_fetch_free(w->client, f, err);
}

static void who_is_late_is_not_waited_for_again(void **state)
{
    (void)state;
    for (int dead = 0; dead < 2; dead++) {
        struct world w = {.delay_ns = NS_PER_MS};
        struct puts put = {0};
        struct pages *got = calloc(1, sizeof *got);
        struct skv_error err;
        start(&w, 11, 3, 1);
        put_all(&w, &put);
        assert_int_equal(fetch_by(&w, w.now + NS_PER_S / 10, got, &err), 0);
        if (dead)
            world_node_kill(&w, 2, true);
        w.nodes[2].mute = !dead;
        uint64_t begun = w.now;
        assert_int_equal(fetch_by(&w, begun + NS_PER_S / 10, got, &err), -EHOSTUNREACH);
        assert_in_range(w.now - begun, NS_PER_S / 10, NS_PER_S / 5);
        assert_non_null(strstr(err.text, "n3 at host3:7401 has not answered in the time that a step has"));
        assert_true(got->gone > 0 && got->ok > N_WANTS / 2);
        unsigned late = got->gone;
        begun = w.now;
        assert_int_equal(fetch_by(&w, begun + NS_PER_S / 10, got, &err), -EHOSTUNREACH);
        assert_true(w.now - begun < NS_PER_S / 20); /* the others' pages, no more */
        assert_int_equal(got->gone, late);
        /* It answers again: at the latest what it was asked then clears it. */
        if (dead)
            world_node_start(&w, 2, "n3");
        w.nodes[2].mute = false;
        begun = w.now;
        while (w.now < begun + 5 * NS_PER_S)
            world_step(&w);
        if (dead)
            put_all(&w, &put);
        fetch_by(&w, w.now + NS_PER_S / 10, got, &err);
        assert_int_equal(fetch(&w, wants, N_WANTS, got, &err), 0);
        assert_int_equal(fetch_by(&w, w.now + NS_PER_S / 10, got, &err), 0);
        free(got);
        world_close(&w);
    }
}

static void puts_fail_or_move(void **state)
{
    (void)state;
    struct world w = {.delay_ns = NS_PER_MS, .put_credit = 40 << 10};
    struct puts put = {0};
    struct skv_error err;
    start(&w, 11, 2, 1);
    for (unsigned b = 0; b < N_BLOCKS; b++)
        assert_int_equal(client_put(w.client, &blocks[b].key, &layout, blocks[b].payload, blocks[b].checksums,
                                    TIER_ACK_RAM, on_put, &put, &err),
                         0);
    while (put.ok < 10)
        world_step(&w);
    world_node_kill(&w, 0, true);
    while (client_puts_open(w.client))
        world_step(&w);
    assert_int_equal(put.ok, N_BLOCKS); /* what was on its way to it is written to the other */
    world_node_kill(&w, 1, true);
    for (int i = 0; i < 2; i++) { /* the first waits for a return; then there is none to wait for */
        int rc = client_put(w.client, &blocks[0].key, &layout, blocks[0].payload, blocks[0].checksums,
                            TIER_ACK_RAM, on_put, &put, &err);
        assert_int_equal(rc, i == 0 ? 0 : -EHOSTUNREACH);
        while (client_puts_open(w.client))
            world_step(&w);
        assert_int_equal(put.failed, 1);
        assert_int_equal(put.rc, -EHOSTUNREACH);
        assert_non_null(strstr(i == 0 ? put.text : err.text, "(host"));
    }
    world_close(&w);
}

static void ill_networks_end_every_request(void **state)
{
    (void)state;
    struct pages *got = malloc(sizeof *got);
    unsigned good = 0;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct world w = {.delay_ns = 20 * NS_PER_MS, .get_window = 32 << 10, .put_credit = 64 << 10};
        struct puts put = {0};
        struct skv_error err = {0};
        start(&w, seed, 1 + seed % 3, 1 + seed % 2);
        w.reorder = seed & 1;
        w.twice_percent = seed % 5 * 10;
        put_all(&w, &put);
        assert_int_equal(put.ok, N_BLOCKS); /* late, twice and out of order, but nothing was lost */
        w.drop_percent = seed % 4;
        w.flip_percent = seed % 7;
        int rc = fetch(&w, wants, N_WANTS, got, &err);
        if (rc == 0 ? got->ok != N_WANTS : strlen(err.text) < 20)
            fail_msg("seed %llu: rc %d, %u of %d pages, \"%s\"", (unsigned long long)seed, rc, got->ok,
                     N_WANTS, err.text);
        if (w.drop_percent == 0 && w.flip_percent == 0 && rc)
            fail_msg("seed %llu: nothing was lost, but: %s", (unsigned long long)seed, err.text);
        good += rc == 0;
        world_close(&w);
    }
    assert_in_range(good, 10, 59);
    free(got);
}

/* What the network swallows or changes for one kind of answer. */
struct change {
    Scoutkv__Header__BodyCase kind;
    size_t at; /* bit to flip, or bytes to keep */
    bool cut;
    unsigned done; /* messages changed */
    size_t len;    /* of that header */
};
static bool damage(struct world *w, struct world_message *m)
{
    struct change *c = w->tamper_arg;
    if (!m->to_client)
        return true;
    Scoutkv__Header *h = scoutkv__header__unpack(NULL, m->header->len, m->header->data);
    bool hit = h && h->body_case == c->kind && !c->done;
    if (h)
        scoutkv__header__free_unpacked(h, NULL);
    if (!hit)
        return true;
    c->done++;
    c->len = m->header->len;
    if (c->at >= c->len * (c->cut ? 1 : 8))
        return true;
    struct buf *copy = buf_copy(m->header->data, c->cut ? c->at : c->len);
    if (!c->cut)
        copy->data[c->at / 8] ^= (uint8_t)(1u << c->at % 8);
    buf_unref(m->header);
    m->header = copy;
    return true;
}

struct answer {
    unsigned n;
    int rc;
};
static void on_reply(void *arg, int rc, const struct message *m, const struct skv_error *err)
{
    struct answer *a = arg;
    a->n++;
    a->rc = rc;
    if (rc == 0)
        assert_non_null(m);
    else
        assert_true(strlen(err->text) > 10);
}

/* One of everything, with one header damaged. Every request must end once; unharmed ones well. */
static void one_of_everything(struct change *c)
{
    struct world w = {.tamper = damage, .tamper_arg = c};
    struct puts put = {0};
    struct answer calls = {0};
    struct pages *got = malloc(sizeof *got);
    struct skv_error err = {0};
    world_open(&w, 12, 2, 1);
    w.page_bytes = layout_page_bytes(&layout);
    int rc = world_greet(&w, &err);
    if (rc < 0) {
        assert_true(strlen(err.text) > 20);
    } else {
        unsigned begun = 0, failed = 0;
        for (unsigned b = 0; b < 4; b++)
            failed += client_put(w.client, &blocks[b].key, &layout, blocks[b].payload, blocks[b].checksums,
                                 TIER_ACK_RAM, on_put, &put, &err) != 0;
        while (client_puts_open(w.client))
            world_step(&w);
        assert_int_equal(put.ok + put.failed + failed, 4);
        rc = fetch(&w, wants, 4 * BLOCK_PAGE_COUNT, got, &err);
        if (rc)
            assert_true(strlen(err.text) > 20);
        Scoutkv__Stats stats = SCOUTKV__STATS__INIT;
        Scoutkv__Have have = SCOUTKV__HAVE__INIT;
        Scoutkv__Drop drop = SCOUTKV__DROP__INIT;
        Scoutkv__ObjectGet get = SCOUTKV__OBJECT_GET__INIT;
        Scoutkv__ObjectPut object = SCOUTKV__OBJECT_PUT__INIT; /* without a name: refused */
        get.name = "x";
        for (int i = 0; i < 5; i++) {
            Scoutkv__Header h = SCOUTKV__HEADER__INIT;
            Scoutkv__Header__BodyCase expect = (Scoutkv__Header__BodyCase[]){
                SCOUTKV__HEADER__BODY_STATS_ACK, SCOUTKV__HEADER__BODY_HAVE_ACK, SCOUTKV__HEADER__BODY_DONE,
                SCOUTKV__HEADER__BODY_OBJECT, SCOUTKV__HEADER__BODY_DONE}[i];
            h.body_case = (Scoutkv__Header__BodyCase[]){
                SCOUTKV__HEADER__BODY_STATS, SCOUTKV__HEADER__BODY_HAVE, SCOUTKV__HEADER__BODY_DROP,
                SCOUTKV__HEADER__BODY_OBJECT_GET, SCOUTKV__HEADER__BODY_OBJECT_PUT}[i];
            h.stats = i == 0 ? &stats : NULL;
            if (i == 1)
                h.have = &have;
            if (i == 2)
                h.drop = &drop;
            if (i == 3)
                h.object_get = &get;
            if (i == 4)
                h.object_put = &object;
            begun += client_call(w.client, 0, false, &h, (struct view){0}, expect, on_reply, &calls, w.now,
                                 &err) == 0;
        }
        uint64_t limit = w.now + 10 * NS_PER_S;
        while (calls.n < begun && w.now < limit)
            world_step(&w);
        assert_int_equal(calls.n, begun);
    }
    free(got);
    world_close(&w);
}

static void damaged_headers_harm_nobody(void **state)
{
    (void)state;
    static const Scoutkv__Header__BodyCase kinds[] = {
        SCOUTKV__HEADER__BODY_HELLO_ACK, SCOUTKV__HEADER__BODY_PUT_ACK, SCOUTKV__HEADER__BODY_PAGES,
        SCOUTKV__HEADER__BODY_HAVE_ACK,  SCOUTKV__HEADER__BODY_DONE,    SCOUTKV__HEADER__BODY_OBJECT,
        SCOUTKV__HEADER__BODY_STATS_ACK, SCOUTKV__HEADER__BODY_REFUSED};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
        for (int cut = 0; cut < 2; cut++) {
            size_t end = 1, step = 1;
            for (size_t at = 0; at < end; at += step) {
                struct change c = {.kind = kinds[k], .at = at, .cut = cut};
                one_of_everything(&c);
                if (!c.done)
                    fail_msg("no message of kind %d passed", kinds[k]);
                end = cut ? c.len : c.len * 8;
                step = end / 300 + 1; /* STATS answers are long and alike */
            }
        }
}

static bool newer_version(struct world *w, struct world_message *m)
{
    (void)w;
    if (m->to_client && m->lane == 0) {
        Scoutkv__Header *h = scoutkv__header__unpack(NULL, m->header->len, m->header->data);
        h->version = 2;
        buf_unref(m->header);
        m->header = header_pack(h);
        scoutkv__header__free_unpacked(h, NULL);
    }
    return true;
}
static bool swallow(struct world *w, struct world_message *m)
{
    (void)w;
    return m->lane != 2;
}
static bool refuse_version(struct world *w, struct world_message *m)
{
    (void)w;
    if (m->to_client) {
        Scoutkv__Header *old = scoutkv__header__unpack(NULL, m->header->len, m->header->data);
        Scoutkv__Refused refused = SCOUTKV__REFUSED__INIT;
        refused.reason = SCOUTKV__REFUSED__REASON__VERSION;
        refused.text = "node 'n1' speaks protocol versions 7 to 9";
        Scoutkv__Header h = SCOUTKV__HEADER__INIT;
        h.version = 1;
        h.id = old->id;
        h.body_case = SCOUTKV__HEADER__BODY_REFUSED;
        h.refused = &refused;
        buf_unref(m->header);
        m->header = header_pack(&h);
        scoutkv__header__free_unpacked(old, NULL);
    }
    return true;
}

static void unusable_nodes_are_named(void **state)
{
    (void)state;
    struct skv_error err = {0};
    struct world newer = {.tamper = newer_version};
    world_open(&newer, 13, 2, 1);
    assert_int_equal(world_greet(&newer, &err), -EPROTONOSUPPORT);
    assert_non_null(strstr(err.text, "host1:7401"));
    assert_non_null(strstr(err.text, "version 2"));
    world_close(&newer);

    struct world refused = {.tamper = refuse_version};
    world_open(&refused, 13, 1, 1);
    assert_int_equal(world_greet(&refused, &err), -EPROTONOSUPPORT);
    assert_non_null(strstr(err.text, "versions 7 to 9"));
    world_close(&refused);

    struct world silent = {.tamper = swallow};
    world_open(&silent, 13, 2, 1);
    assert_int_equal(world_greet(&silent, &err), -EHOSTUNREACH);
    assert_string_equal(
        err.text, "no memory node answers at host2:7401 within 1000 ms: is scoutkv-memnode running there?");
    world_close(&silent);

    struct world twins = {0};
    world_open(&twins, 13, 2, 1);
    world_node_kill(&twins, 1, false);
    world_node_start(&twins, 1, "n1");
    assert_int_equal(world_greet(&twins, &err), -EINVAL);
    assert_non_null(strstr(err.text, "\"n1\""));
    world_close(&twins);
}

/* ---- nodes that refuse for a while, or for good ---- */

/* Answers what asks for blocks in the node's place. */
struct gate {
    Scoutkv__Refused__Reason reason;
    char *text;
    uint64_t until;
    unsigned gets, puts, calls; /* refused */
};
static bool refuse_at_gate(struct world *w, struct world_message *m)
{
    struct gate *g = w->tamper_arg;
    if (m->to_client || w->now >= g->until)
        return true;
    Scoutkv__Header *asked = scoutkv__header__unpack(NULL, m->header->len, m->header->data);
    bool get = asked->body_case == SCOUTKV__HEADER__BODY_GET,
         put = asked->body_case == SCOUTKV__HEADER__BODY_PUT;
    bool call = asked->body_case == SCOUTKV__HEADER__BODY_HAVE;
    g->gets += get;
    g->puts += put;
    g->calls += call;
    if (get || put || call) {
        Scoutkv__Refused refused = SCOUTKV__REFUSED__INIT;
        refused.reason = g->reason;
        refused.text = g->text;
        refused.credit = put ? m->payload.len : 0;
        Scoutkv__Header h = SCOUTKV__HEADER__INIT;
        h.version = 1;
        h.id = asked->id;
        h.body_case = SCOUTKV__HEADER__BODY_REFUSED;
        h.refused = &refused;
        struct buf *header = header_pack(&h);
        world_enqueue(w, true, m->lane, header, NULL);
        buf_unref(header);
        if (get)
            for (size_t i = 0; i < asked->get->n_wants; i++)
                w->asked[m->lane] -= asked->get->wants[i]->n_checksums * w->page_bytes;
    }
    scoutkv__header__free_unpacked(asked, NULL);
    return !get && !put && !call;
}

struct have {
    unsigned n;
    int rc;
    char text[500];
};
static void on_have(void *arg, int rc, const struct message *m, const struct skv_error *err)
{
    struct have *h = arg;
    h->n++;
    h->rc = rc;
    if (rc)
        strcpy(h->text, err->text);
    else
        assert_int_equal(m->header->have_ack->present.len, 1);
}

static void ask_have(struct world *w, struct have *out)
{
    struct skv_error err;
    Scoutkv__Key key = SCOUTKV__KEY__INIT, *keys[] = {&key};
    key.chain = (ProtobufCBinaryData){CHAIN_BYTES, blocks[0].key.chain};
    Scoutkv__Have have = SCOUTKV__HAVE__INIT;
    have.n_keys = 1;
    have.keys = keys;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.body_case = SCOUTKV__HEADER__BODY_HAVE;
    h.have = &have;
    *out = (struct have){0};
    assert_int_equal(client_call(w->client, 0, false, &h, (struct view){0}, SCOUTKV__HEADER__BODY_HAVE_ACK,
                                 on_have, out, w->now, &err),
                     0);
    while (!out->n)
        world_step(w);
}

/* Nodes that still read their disks are asked again, without hurry, until a request's time is up. */
static void starting_nodes_are_asked_again(void **state)
{
    (void)state;
    static const char sentence[] = "has started and read 37 % of its disks' index";
    struct gate gate = {.reason = SCOUTKV__REFUSED__REASON__STARTING, .text = (char *)(uintptr_t)sentence};
    struct world w = {.tamper = refuse_at_gate, .tamper_arg = &gate, .delay_ns = NS_PER_MS};
    struct puts put = {0};
    struct have have;
    struct pages *got = malloc(sizeof *got);
    struct skv_error err;
    w.get_window = 64 << 10;
    w.put_credit = 40 << 10;
    start(&w, 31, 2, 1);
    uint64_t begin = w.now;
    gate.until = w.now + 400 * NS_PER_MS;
    put_all(&w, &put);
    assert_int_equal(put.ok, N_BLOCKS);
    assert_in_range(w.now - begin, 400 * NS_PER_MS, 700 * NS_PER_MS);
    assert_in_range(gate.puts, 4, 2 * 10 + 2 * 5); /* what the credit let go, then one at a time */
    gate.until = w.now + 400 * NS_PER_MS;
    assert_int_equal(fetch(&w, wants, N_WANTS, got, &err), 0);
    assert_in_range(gate.gets, 4, 40);
    gate.until = w.now + 400 * NS_PER_MS;
    ask_have(&w, &have);
    assert_int_equal(have.rc, 0);
    assert_in_range(gate.calls, 3, 6);
    assert_true(w.worst_unacked <= 40 << 10 && w.worst_asked <= 64 << 10); /* all credit came back */

    /* For longer than a request may take: an error that says what the node does. The node is not lost. */
    gate.until = UINT64_MAX;
    begin = w.now;
    assert_int_equal(fetch(&w, wants, 40, got, &err), -EHOSTUNREACH);
    assert_non_null(strstr(err.text, "is still reading its disks: has started and read 37 %"));
    assert_in_range(w.now - begin, 700 * NS_PER_MS, 2500 * NS_PER_MS); /* one node after the other */
    begin = w.now;
    put = (struct puts){0};
    assert_int_equal(client_put(w.client, &blocks[0].key, &layout, blocks[0].payload, blocks[0].checksums,
                                TIER_ACK_RAM, on_put, &put, &err),
                     0);
    while (client_puts_open(w.client))
        world_step(&w);
    assert_int_equal(put.rc, -EHOSTUNREACH);
    assert_non_null(strstr(put.text, "37 %"));
    assert_in_range(w.now - begin, 700 * NS_PER_MS, 1100 * NS_PER_MS);
    client_put_failure(w.client, NULL);
    ask_have(&w, &have);
    assert_int_equal(have.rc, -EHOSTUNREACH);
    assert_non_null(strstr(have.text, "37 %"));
    assert_true(client_node_up(w.client, 0) && client_node_up(w.client, 1));
    assert_int_equal(client_totals(w.client)->tier.timeouts, 0);

    /* A fetch that is given up meanwhile, and a node that is lost meanwhile. */
    struct tier_fetch *f;
    *got = (struct pages){.wants = wants, .page_bytes = layout_page_bytes(&layout)};
    assert_int_equal(client_fetch_begin(w.client, &layout, wants, N_WANTS, on_page, got, &f, &err), 0);
    for (uint64_t until = w.now + 50 * NS_PER_MS; w.now < until;)
        world_step(&w);
    client_fetch_free(w.client, f, NULL);
    assert_int_equal(client_fetch_begin(w.client, &layout, wants, N_WANTS, on_page, got, &f, &err), 0);
    assert_int_equal(client_put(w.client, &blocks[0].key, &layout, blocks[0].payload, blocks[0].checksums,
                                TIER_ACK_RAM, on_put, &put, &err),
                     0);
    for (uint64_t until = w.now + 50 * NS_PER_MS; w.now < until;)
        world_step(&w);
    world_node_kill(&w, 0, true);
    world_node_kill(&w, 1, true);
    while (!client_fetch_done(f) || client_puts_open(w.client))
        world_step(&w);
    assert_int_equal(client_fetch_free(w.client, f, &err), -EHOSTUNREACH);
    free(got);
    world_close(&w);
}

static void read_only_nodes_are_named(void **state)
{
    (void)state;
    static const char sentence[] = "node 'n1' takes no more blocks: /data: writing failed";
    struct gate gate = {.reason = SCOUTKV__REFUSED__REASON__READ_ONLY,
                        .text = (char *)(uintptr_t)sentence,
                        .until = UINT64_MAX};
    struct world w = {.tamper = refuse_at_gate, .tamper_arg = &gate};
    struct puts put = {0};
    struct skv_error err;
    start(&w, 32, 1, 1);
    put_all(&w, &put);
    assert_int_equal(put.failed, N_BLOCKS);
    assert_int_equal(put.rc, -EROFS);
    assert_non_null(strstr(put.text, "takes no writes: node 'n1' takes no more blocks: /data"));
    assert_int_equal(client_put_failure(w.client, &err), -EROFS);
    gate.reason = SCOUTKV__REFUSED__REASON__FULL;
    gate.text = (char *)(uintptr_t) "node 'n1' is full: give it a larger --disk";
    put_all(&w, &put);
    assert_int_equal(put.rc, -ENOSPC);
    assert_non_null(strstr(put.text, "larger --disk"));
    world_close(&w);
}

/* A lane that was silent for long greets again before it asks; a node that forgot it anyway is greeted anew.
 */
static void long_silence(void **state)
{
    (void)state;
    struct world w = {0};
    struct puts put = {0};
    struct pages *got = malloc(sizeof *got);
    struct skv_error err;
    start(&w, 14, 1, 1);
    put_all(&w, &put);
    w.now += 5000 * NS_PER_S;
    node_tick(w.nodes[0].core, w.now);
    assert_int_equal(fetch(&w, wants, N_WANTS, got, &err), 0);
    put_all(&w, &put);
    assert_int_equal(put.failed, 0);
    free(got);
    world_close(&w);
}

static void bad_arguments(void **state)
{
    (void)state;
    struct world w = {0};
    struct skv_error err;
    struct tier_fetch *f;
    struct pages *got = malloc(sizeof *got);
    start(&w, 15, 1, 1);
    struct tier_want bad = wants[0];
    bad.head = HEADS;
    assert_int_equal(client_fetch_begin(w.client, &layout, &bad, 1, on_page, got, &f, &err), -EINVAL);
    bad = wants[0];
    bad.page = BLOCK_PAGES;
    assert_int_equal(client_fetch_begin(w.client, &layout, &bad, 1, on_page, got, &f, &err), -EINVAL);
    struct block_key other = blocks[0].key;
    other.ns = 5;
    bad = wants[0];
    bad.key = &other;
    assert_int_equal(client_fetch_begin(w.client, &layout, &bad, 1, on_page, got, &f, &err), -EINVAL);
    assert_int_equal(client_put(w.client, &other, &layout, blocks[0].payload, blocks[0].checksums,
                                TIER_ACK_RAM, NULL, NULL, &err),
                     -EINVAL);
    assert_int_equal(fetch(&w, wants, 0, got, &err), 0); /* nothing wanted is soon done */
    /* A block larger than the node's credit can never go. */
    struct block_layout wide = {.dtype = 2, .d_k = 128, .d_v = 128, .n_heads = 32};
    struct buf *large = buf_new(layout_block_bytes(&wide));
    uint64_t *sums = calloc(layout_pages(&wide), sizeof *sums);
    assert_int_equal(client_put(w.client, &blocks[0].key, &wide, large, sums, TIER_ACK_RAM, NULL, NULL, &err),
                     -EMSGSIZE);
    buf_unref(large);
    free(sums);
    /* A fetch that is given up: what comes later goes nowhere, and the credit comes back. */
    struct puts put = {0};
    put_all(&w, &put);
    memset(got, 0, sizeof *got);
    got->wants = wants;
    got->page_bytes = layout_page_bytes(&layout);
    assert_int_equal(client_fetch_begin(w.client, &layout, wants, N_WANTS, on_page, got, &f, &err), 0);
    world_step(&w);
    client_fetch_free(w.client, f, &err);
    assert_int_equal(fetch(&w, wants, N_WANTS, got, &err), 0);
    free(got);
    world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(puts_and_gets),
        cmocka_unit_test(selections_are_few_messages),
        cmocka_unit_test(small_fetches_share_messages),
        cmocka_unit_test(large_blocks_come_in_several_frames),
        cmocka_unit_test(first_put_wins),
        cmocka_unit_test(misses_ask_every_node),
        cmocka_unit_test(flipped_bits_are_seen),
        cmocka_unit_test(unchecked_pages_are_handed_out),
        cmocka_unit_test(bad_copies_lead_to_the_next_node),
        cmocka_unit_test(a_node_that_dies_is_named),
        cmocka_unit_test(who_is_late_is_not_waited_for_again),
        cmocka_unit_test(puts_fail_or_move),
        cmocka_unit_test(ill_networks_end_every_request),
        cmocka_unit_test(damaged_headers_harm_nobody),
        cmocka_unit_test(unusable_nodes_are_named),
        cmocka_unit_test(starting_nodes_are_asked_again),
        cmocka_unit_test(read_only_nodes_are_named),
        cmocka_unit_test(long_silence),
        cmocka_unit_test(bad_arguments),
    };
    return cmocka_run_group_tests_name("tier_client", tests, make_blocks, free_blocks);
}
