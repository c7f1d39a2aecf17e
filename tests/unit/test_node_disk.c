/* test_node_disk.c: the memory node's core on a disk, which is simulated: what is acknowledged when, pages
 * that are only on disk, a disk that is slow, bad, full of holes, or still being read. */
#include "memnode/node_impl.h"
#include "tests/store/sim_disk.h"
#include "tests/unit/node_asserts.h"

enum { N = 24 }; /* blocks of 32 KiB */

struct world {
    struct sim *sim;
    struct harness *h;
    struct h_block blocks[N];
};

static const struct store_disk disk = {"d", STORE_DISK_MIN};

static void begin(struct world *w, uint64_t ram)
{
    w->h = h_new(&(struct node_opts){
        .id = "n1", .ram = ram, .disks = &disk, .n_disks = 1, .io = sim_io(w->sim), .put_credit = 4 * MIB});
    h_hello(w->h, H_BULK, 0, true);
    h_hello(w->h, H_READ, 0, false);
    h_hello(w->h, H_OTHER, 0, false);
    h_clear(w->h);
}

static void end(struct world *w)
{
    h_free(w->h);
    sim_io(w->sim)->ops->close(sim_io(w->sim));
    w->h = NULL;
}

/* Lets so much time pass. */
static void run(struct world *w, unsigned ms)
{
    for (unsigned i = 0; i < ms; i++) {
        w->h->now += NS_PER_MS;
        node_run(w->h->node, w->h->now);
        if (i % 100 == 99)
            node_tick(w->h->node, w->h->now);
    }
}

static uint64_t ask_put(struct world *w, struct h_block *b, bool durable)
{
    Scoutkv__Put put = h_put_of(b);
    put.ack = durable ? SCOUTKV__ACK__DURABLE : SCOUTKV__ACK__RAM;
    H_HEADER(header, PUT, put, &put);
    return h_request(w->h, H_BULK, &header, b->payload);
}

/* The answer to this request, or NULL. */
static const Scoutkv__Header *answer(struct world *w, uint64_t id)
{
    for (size_t i = 0; i < w->h->n_sent; i++)
        if (w->h->sent[i].m.header->id == id)
            return w->h->sent[i].m.header;
    return NULL;
}

static void put_durable(struct world *w, struct h_block *b, Scoutkv__PutAck__Result result)
{
    uint64_t id = ask_put(w, b, true);
    run(w, 400);
    put_is(answer(w, id), result);
    h_clear(w->h);
}

/* A world whose node holds the blocks on its disk only: it was started anew. */
static void setup_cold(struct world *w, uint64_t seed, uint64_t ram)
{
    *w = (struct world){.sim = sim_new(seed)};
    sim_set_pace(w->sim, 100);
    begin(w, ram);
    run(w, 50);
    for (unsigned i = 0; i < N; i++) {
        h_block(&w->blocks[i], 0, i);
        ask_put(w, &w->blocks[i], true);
    }
    run(w, 1000);
    assert_int_equal(w->h->n_sent, N);
    for (unsigned i = 0; i < N; i++)
        put_is(w->h->sent[i].m.header, STORED);
    end(w);
    begin(w, ram);
    run(w, 200);
    assert_int_equal(h_counter(w->h, "blocks"), N);
    assert_int_equal(h_counter(w->h, "ram_blocks"), 0);
    h_clear(w->h);
}

static void teardown(struct world *w)
{
    if (w->h)
        end(w);
    sim_free(w->sim);
    for (unsigned i = 0; i < N; i++)
        if (w->blocks[i].payload)
            h_block_free(&w->blocks[i]);
}

/* ---- GETs ---- */

struct get {
    uint64_t id;
    unsigned first, n; /* blocks */
    uint32_t masks[N][2];
};

static void ask_get(struct world *w, uint8_t peer, struct get *g)
{
    Scoutkv__Get get = SCOUTKV__GET__INIT;
    Scoutkv__Get__Want wants[N], *pointers[N];
    uint64_t sums[N][8];
    get.n_wants = g->n;
    get.wants = pointers;
    for (unsigned i = 0; i < g->n; i++) {
        struct h_block *b = &w->blocks[g->first + i];
        scoutkv__get__want__init(&wants[i]);
        pointers[i] = &wants[i];
        wants[i].key = &b->wire_key;
        wants[i].n_masks = 2;
        wants[i].masks = g->masks[i];
        wants[i].checksums = sums[i];
        for (unsigned p = 0; p < 8; p++)
            if (g->masks[i][p / 4] >> p % 4 & 1)
                sums[i][wants[i].n_checksums++] = b->checksums[p];
    }
    H_HEADER(header, GET, get, &get);
    g->id = h_request(w->h, peer, &header, NULL);
}

static struct get want_all(unsigned first, unsigned n)
{
    struct get g = {.first = first, .n = n};
    for (unsigned i = 0; i < n; i++)
        g.masks[i][0] = g.masks[i][1] = 0xf;
    return g;
}

struct got {
    unsigned n_found, n_missed, n_messages;
    bool ended;
    bool found[N * 8], missed[N * 8];
};

/* What has come for a GET so far: every page once and right, and nothing after the last message. */
static struct got got(struct world *w, const struct get *g)
{
    struct got r = {0};
    for (size_t m = 0; m < w->h->n_sent; m++) {
        const Scoutkv__Header *a = w->h->sent[m].m.header;
        const uint8_t *bytes = w->h->sent[m].m.payload.data;
        if (a->id != g->id)
            continue;
        if (a->body_case == SCOUTKV__HEADER__BODY_REFUSED)
            fail_msg("refused: %s", a->refused->text);
        assert_int_equal(a->body_case, SCOUTKV__HEADER__BODY_PAGES);
        assert_false(r.ended);
        r.ended = a->pages->last;
        r.n_messages++;
        assert_true(w->h->sent[m].m.payload.len <= PROTO_REPLY_BYTES);
        assert_int_equal(w->h->sent[m].m.payload.len, a->pages->n_found * 4096);
        for (size_t f = 0; f < a->pages->n_found; f++) {
            uint32_t want = a->pages->found[f], index = 0;
            assert_true(want < N * 8 && !r.found[want] && !r.missed[want]);
            r.found[want] = true;
            for (unsigned p = 0; p < g->n * 8; p++)
                if (g->masks[p / 8][p % 8 / 4] >> p % 4 & 1 && index++ == want)
                    assert_memory_equal(bytes + f * 4096,
                                        w->blocks[g->first + p / 8].payload->data + p % 8 * 4096, 4096);
            assert_true(want < index);
        }
        for (size_t f = 0; f < a->pages->n_missed; f++) {
            uint32_t want = a->pages->missed[f];
            assert_true(want < N * 8 && !r.found[want] && !r.missed[want]);
            r.missed[want] = true;
        }
        r.n_found += (unsigned)a->pages->n_found;
        r.n_missed += (unsigned)a->pages->n_missed;
    }
    return r;
}

static void got_all(struct world *w, const struct get *g, unsigned found, unsigned missed)
{
    struct got r = got(w, g);
    assert_true(r.ended);
    assert_int_equal(r.n_found, found);
    assert_int_equal(r.n_missed, missed);
}

/* ---- PUT ---- */

static void hello_says_durable(void **state)
{
    (void)state;
    struct world w = {.sim = sim_new(1)};
    begin(&w, 16 * MIB);
    const Scoutkv__Header *a = h_hello_with(w.h, H_BULK, 1, 1, "default", 0, true);
    assert_true(a->hello_ack->durable);
    uint8_t node[16];
    assert_int_equal(a->hello_ack->incarnation.len, sizeof node);
    memcpy(node, a->hello_ack->incarnation.data, sizeof node);
    end(&w);
    begin(&w, 16 * MIB); /* the same node, after a restart */
    a = h_hello_with(w.h, H_BULK, 1, 1, "default", 0, true);
    assert_memory_equal(node, a->hello_ack->incarnation.data, sizeof node);
    teardown(&w);
}

static void durable_waits_for_the_sync(void **state)
{
    (void)state;
    struct world w = {.sim = sim_new(2)};
    struct h_block *b = w.blocks;
    for (unsigned i = 0; i < 3; i++)
        h_block(&b[i], 0, i);
    sim_set_pace(w.sim, 100);
    begin(&w, 16 * MIB);
    run(&w, 300);
    sim_set_pace(w.sim, 0); /* the disk hangs */
    uint64_t id[] = {ask_put(&w, &b[0], true), ask_put(&w, &b[1], false), ask_put(&w, &b[0], true)};
    run(&w, 300);
    assert_null(answer(&w, id[0]));
    put_is(answer(&w, id[1]), STORED);
    assert_null(answer(&w, id[2])); /* SAME, but not on the medium either */
    assert_int_equal(w.h->sent[0].m.header->put_ack->credit, b[1].payload->len);
    uint64_t syncs = sim_counts(w.sim)->syncs;
    sim_set_pace(w.sim, 100);
    run(&w, 300);
    assert_true(sim_counts(w.sim)->syncs > syncs);
    put_is(answer(&w, id[0]), STORED);
    assert_int_equal(answer(&w, id[0])->put_ack->credit, b[0].payload->len);
    put_is(answer(&w, id[2]), SAME);
    assert_int_equal(h_counter(w.h, "puts_durable"), 2);
    assert_int_equal(h_counter(w.h, "disk_dirty_bytes"), 0);
    h_clear(w.h);
    id[0] = ask_put(&w, &b[1], true); /* there already: at once */
    put_is(answer(&w, id[0]), SAME);

    /* Whatever the power leaves of the rest, what was acknowledged is there. */
    h_clear(w.h);
    ask_put(&w, &b[2], false);
    sim_power_loss(w.sim);
    end(&w);
    begin(&w, 16 * MIB);
    run(&w, 300);
    struct get g = want_all(0, 2);
    ask_get(&w, H_READ, &g);
    run(&w, 50);
    got_all(&w, &g, 16, 0);
    teardown(&w);
}

static void dropped_before_it_was_durable(void **state)
{
    (void)state;
    struct world w = {.sim = sim_new(3)};
    struct h_block *b = w.blocks;
    h_block(b, 0, 1);
    sim_set_pace(w.sim, 100);
    begin(&w, 16 * MIB);
    run(&w, 300);
    sim_set_pace(w.sim, 0);
    uint64_t id = ask_put(&w, b, true);
    run(&w, 20);
    Scoutkv__Key *key = &b->wire_key;
    Scoutkv__Drop drop = SCOUTKV__DROP__INIT;
    drop.n_keys = 1;
    drop.keys = &key;
    H_HEADER(header, DROP, drop, &drop);
    uint64_t dropped = h_request(w.h, H_READ, &header, NULL);
    run(&w, 20);
    done_is(answer(&w, dropped), 1);
    refused(answer(&w, id), REASON(CONFLICT), "dropped");
    assert_int_equal(answer(&w, id)->refused->credit, b->payload->len);
    sim_set_pace(w.sim, 100);
    run(&w, 300);

    /* A lane that goes while its PUTs wait takes them along; the blocks stay. */
    sim_set_pace(w.sim, 0);
    h_clear(w.h);
    ask_put(&w, b, true);
    run(&w, 20);
    w.h->send_rc = -EHOSTUNREACH;
    h_put(w.h, H_BULK, b); /* the answer to this one finds out */
    ask_put(&w, b, false);
    w.h->send_rc = 0;
    sim_set_pace(w.sim, 100);
    run(&w, 300);
    h_hello(w.h, H_BULK, 0, true);
    h_clear(w.h);
    id = ask_put(&w, b, true);
    put_is(answer(&w, id), SAME);
    teardown(&w);
}

static void refusals(void **state)
{
    (void)state;
    struct world w = {.sim = sim_new(4)};
    struct h_block *b = w.blocks;
    h_block(b, 0, 1);
    begin(&w, 16 * MIB);
    run(&w, 300);
    Scoutkv__Put put = h_put_of(b);
    put.ack = (Scoutkv__Ack)7;
    H_HEADER(header, PUT, put, &put);
    refused(h_ask(w.h, H_BULK, &header, b->payload), REASON(MALFORMED), "'ram' or 'durable'");
    teardown(&w);
}

/* More than the disks take is parked, and told when it waits for too long. */
static void parked(void **state)
{
    (void)state;
    enum { MANY = 340 };
    static struct h_block b[MANY];
    struct world w = {.sim = sim_new(5)};
    uint64_t id[MANY];
    unsigned n = 0, stored = 0;
    sim_set_pace(w.sim, 100);
    begin(&w, NODE_RAM_MIN); /* 6 MiB for blocks, half of which may wait for a disk; 4 MiB of credit */
    run(&w, 300);
    sim_set_pace(w.sim, 0);
    for (; n < MANY; n++) {
        h_block(&b[n], 0, n);
        id[n] = ask_put(&w, &b[n], false);
        run(&w, 1);
        const Scoutkv__Header *a = answer(&w, id[n]);
        stored += a && a->body_case == SCOUTKV__HEADER__BODY_PUT_ACK;
        if (a && a->body_case == SCOUTKV__HEADER__BODY_REFUSED)
            break;
    }
    assert_in_range(stored, 80, 100);
    assert_int_equal(n - stored, 4 * MIB / (32 << 10)); /* the credit is used up by what was not answered */
    refused(answer(&w, id[n]), REASON(CREDIT), "unanswered");
    assert_int_equal(answer(&w, id[n])->refused->credit, b[n].payload->len);
    uint64_t again = ask_put(&w, &b[0], false);               /* what is there is found, whatever waits … */
    refused(answer(&w, again), REASON(CREDIT), "unanswered"); /* … but it counts */
    assert_int_equal(h_counter(w.h, "puts_parked"), n - stored);
    h_clear(w.h);
    sim_set_pace(w.sim, 100);
    run(&w, 1000);
    assert_int_equal(w.h->n_sent, n - stored);
    for (unsigned i = stored; i < n; i++) {
        put_is(w.h->sent[i - stored].m.header, STORED);
        assert_int_equal(w.h->sent[i - stored].m.header->id, id[i]); /* in order */
    }
    /* With room again, one passes at once; with a disk that hangs, patience ends. */
    h_clear(w.h);
    again = ask_put(&w, &b[n], false);
    put_is(answer(&w, again), STORED);
    run(&w, 500);
    h_clear(w.h);
    sim_set_pace(w.sim, 0);
    for (unsigned i = n + 1; i < MANY; i++) {
        h_block(&b[i], 0, i);
        id[i] = ask_put(&w, &b[i], false);
    }
    assert_null(answer(&w, id[MANY - 1]));
    run(&w, 3800);
    assert_null(answer(&w, id[MANY - 1]));
    run(&w, 400);
    refused(answer(&w, id[MANY - 1]), REASON(FULL), "too slow");
    assert_int_equal(answer(&w, id[MANY - 1])->refused->credit, b[0].payload->len);
    for (unsigned i = 0; i < MANY; i++)
        h_block_free(&b[i]);
    teardown(&w);
}

/* RAM is full of blocks that are on the disk as well: leases and objects find room all the same. */
static void others_find_room(void **state)
{
    (void)state;
    enum { MANY = 600 };
    struct world w = {.sim = sim_new(6)};
    sim_set_pace(w.sim, 100);
    begin(&w, 16 * MIB);
    run(&w, 300);
    for (uint32_t i = 0; i < MANY; i++) {
        struct h_block b, *one = &b;
        h_block(&b, 0, i);
        uint64_t id = ask_put(&w, &b, true);
        for (unsigned ms = 0; ms < 100 && !answer(&w, id); ms++)
            run(&w, 1);
        put_is(answer(&w, id), STORED);
        if (i % 2) {
            char owner[16];
            snprintf(owner, sizeof owner, "o%u", i);
            ask_keys(w.h, H_READ, 'P', owner, 1000000, &one, 1); /* answered when it is on the disk */
            for (unsigned ms = 0; ms < 200 && !w.h->n_sent; ms++)
                run(&w, 1);
            done_is(w.h->n_sent ? w.h->sent[0].m.header : NULL, 1);
        }
        h_clear(w.h);
        h_block_free(&b);
    }
    struct buf *bytes = buf_new(MIB);
    memset(bytes->data, 7, bytes->len);
    Scoutkv__ObjectPut put = SCOUTKV__OBJECT_PUT__INIT;
    put.name = (char *)(uintptr_t) "manifest";
    put.checksum = object_checksum(put.kind, put.name, bytes->data, bytes->len);
    H_HEADER(header, OBJECT_PUT, object_put, &put);
    done_is(h_ask(w.h, H_READ, &header, bytes), 1);
    assert_true(h_counter(w.h, "ram_store_used") <= h_counter(w.h, "ram_store_limit"));
    buf_unref(bytes);
    teardown(&w);
}

/* ---- pages on disk ---- */

static void cold_pages(void **state)
{
    (void)state;
    struct world w;
    setup_cold(&w, 10, 64 * MIB);
    struct get all = want_all(0, N), some = {.n = N};
    for (unsigned i = 0; i < N; i++)
        some.masks[i][0] = i % 16, some.masks[i][1] = i * 5 % 16;
    ask_get(&w, H_READ, &all);
    ask_get(&w, H_OTHER, &some);
    run(&w, 50);
    got_all(&w, &all, N * 8, 0);
    unsigned wanted = 0;
    for (unsigned i = 0; i < N; i++)
        wanted += (unsigned)(__builtin_popcount(some.masks[i][0]) + __builtin_popcount(some.masks[i][1]));
    got_all(&w, &some, wanted, 0);
    assert_int_equal(h_counter(w.h, "get_disk_pages"), N * 8 + wanted);
    assert_int_equal(h_counter(w.h, "disk_reading_bytes"), 0);

    /* Another version, and a block that is not there, are misses at once; the rest comes. */
    struct get g = want_all(0, 2);
    w.blocks[0].checksums[3] ^= 1;
    sim_set_pace(w.sim, 0);
    h_clear(w.h);
    ask_get(&w, H_READ, &g);
    run(&w, 20);
    assert_int_equal(got(&w, &g).n_missed, 1);
    assert_true(got(&w, &g).missed[3] && !got(&w, &g).ended);
    sim_set_pace(w.sim, 100);
    run(&w, 50);
    w.blocks[0].checksums[3] ^= 1;
    got_all(&w, &g, 15, 1);
    assert_int_equal(h_counter(w.h, "disk_bad_pages"), 0);
    teardown(&w);
}

/* Reads that the disk does in any order, a few at a time: every page comes once, the end at the end. */
static void cold_pages_in_any_order(void **state)
{
    (void)state;
    for (uint64_t seed = 20; seed < 40; seed++) {
        struct world w;
        setup_cold(&w, seed, seed % 2 ? 64 * MIB : NODE_RAM_MIN);
        struct get g[4] = {want_all(0, N), want_all(5, 12), {.n = N}, want_all(N - 1, 1)};
        for (unsigned i = 0; i < N; i++)
            g[2].masks[i][0] = (uint32_t)(seed + i) % 16, g[2].masks[i][1] = 0x9;
        sim_set_pace(w.sim, 15);
        for (unsigned i = 0; i < 4; i++) {
            ask_get(&w, i % 2 ? H_READ : H_OTHER, &g[i]);
            run(&w, (unsigned)seed % 3);
        }
        run(&w, 1500);
        for (unsigned i = 0; i < 4; i++) {
            unsigned wanted = 0;
            for (unsigned k = 0; k < g[i].n; k++)
                wanted +=
                    (unsigned)(__builtin_popcount(g[i].masks[k][0]) + __builtin_popcount(g[i].masks[k][1]));
            struct got r = got(&w, &g[i]);
            if (!r.ended || r.n_found != wanted || r.n_missed)
                fail_msg("seed %u, GET %u: %u of %u found, %u missed, %s", (unsigned)seed, i, r.n_found,
                         wanted, r.n_missed, r.ended ? "ended" : "not ended");
        }
        teardown(&w);
    }
}

static void hits_overtake(void **state)
{
    (void)state;
    struct world w;
    setup_cold(&w, 11, 64 * MIB);
    struct h_block *hot = &w.blocks[0];
    w.h->now += NS_PER_S;
    /* Block 0 is put anew, so that it lies in RAM; the others stay on the disk. */
    struct h_block *drop = hot;
    done_is(ask_keys(w.h, H_READ, 'D', NULL, 0, &drop, 1), 1);
    put_durable(&w, hot, STORED);
    sim_set_pace(w.sim, 0);
    struct get mixed = want_all(0, 8), hits = want_all(0, 1), late = want_all(0, 2);
    ask_get(&w, H_READ, &mixed);
    ask_get(&w, H_READ, &hits);
    ask_get(&w, H_READ, &late);
    run(&w, 500);
    assert_int_equal(got(&w, &mixed).n_found, 8); /* its page in RAM has gone out … */
    assert_false(got(&w, &mixed).ended);
    got_all(&w, &hits, 8, 0); /* … and so has the one behind it */
    assert_int_equal(got(&w, &late).n_found, 8);
    uint64_t pong = 0;
    Scoutkv__Ping ping = SCOUTKV__PING__INIT;
    H_HEADER(p, PING, ping, &ping);
    pong = h_request(w.h, H_READ, &p, NULL);
    assert_non_null(answer(&w, pong));
    sim_set_pace(w.sim, 100);
    run(&w, 50);
    got_all(&w, &mixed, 64, 0);
    got_all(&w, &late, 16, 0);

    /* A disk that never answers: the GET is refused with the reason, and what it brings later is dropped. */
    h_clear(w.h);
    struct get slow = want_all(10, 4);
    sim_set_pace(w.sim, 0);
    ask_get(&w, H_READ, &slow);
    run(&w, 3800);
    assert_null(answer(&w, slow.id));
    run(&w, 400);
    refused(answer(&w, slow.id), REASON(FULL), "too slow");
    assert_null(strstr(answer(&w, slow.id)->refused->text, "nobody reads"));
    sim_set_pace(w.sim, 100);
    run(&w, 50);
    assert_int_equal(w.h->n_sent, 1);
    assert_int_equal(h_counter(w.h, "ram_replies_used"), 0);
    teardown(&w);
}

/* A peer that does not read gets no more than what was read for it when it stopped. */
static void peer_that_does_not_read(void **state)
{
    (void)state;
    struct world w;
    setup_cold(&w, 12, 64 * MIB);
    struct get a = want_all(0, N), b = want_all(0, N);
    w.h->room = 1;
    ask_get(&w, H_READ, &a);
    ask_get(&w, H_READ, &b);
    run(&w, 100);
    assert_int_equal(w.h->n_sent, 1);
    assert_true(h_counter(w.h, "ram_replies_used") <= 3 * MIB);
    w.h->room = H_MAX_SENT;
    run(&w, 100);
    h_clear(w.h);
    ask_get(&w, H_READ, &a);
    run(&w, 50);
    got_all(&w, &a, N * 8, 0);

    /* Forgotten while its reads are on their way: in another life, in which nothing is in RAM yet. */
    end(&w);
    begin(&w, 64 * MIB);
    run(&w, 200);
    sim_set_pace(w.sim, 0);
    ask_get(&w, H_READ, &a);
    ask_get(&w, H_OTHER, &b);
    run(&w, 10);
    assert_true(sim_in_flight(w.sim) > 0);
    w.h->send_rc = -EHOSTUNREACH;
    Scoutkv__Ping ping = SCOUTKV__PING__INIT;
    H_HEADER(p, PING, ping, &ping);
    h_request(w.h, H_READ, &p, NULL);
    w.h->send_rc = 0;
    run(&w, 10);
    sim_set_pace(w.sim, 100);
    run(&w, 50);
    assert_null(answer(&w, a.id));
    got_all(&w, &b, N * 8, 0);
    h_clear(w.h);
    assert_int_equal(h_counter(w.h, "ram_replies_used"), 0);
    assert_int_equal(h_counter(w.h, "disk_reading_bytes"), 0);

    /* And the node's end, with reads on their way. */
    end(&w);
    begin(&w, 64 * MIB);
    run(&w, 200);
    sim_set_pace(w.sim, 0);
    ask_get(&w, H_OTHER, &b);
    run(&w, 10);
    assert_true(sim_in_flight(w.sim) > 0);
    teardown(&w);
}

/* Where a page lies on the disk. */
static bool find_page(struct world *w, const struct h_block *b, unsigned page, const char **file,
                      uint64_t *at)
{
    uint8_t bytes[4096];
    const char *dir;
    uint64_t size;
    for (unsigned i = 0; (*file = sim_file(w->sim, i, &dir, &size)); i++)
        for (*at = 0; *at + 4096 <= size; *at += 4096)
            if (sim_peek(w->sim, dir, *file, *at, bytes, sizeof bytes) &&
                memcmp(bytes, b->payload->data + page * 4096, 4096) == 0)
                return true;
    return false;
}

static void bad_pages_are_missed(void **state)
{
    (void)state;
    struct world w;
    const char *file;
    uint64_t at;
    setup_cold(&w, 13, 64 * MIB);
    assert_true(find_page(&w, &w.blocks[2], 5, &file, &at));
    assert_true(sim_flip(w.sim, disk.dir, file, at + 100, 3));
    assert_true(find_page(&w, &w.blocks[4], 0, &file, &at));
    assert_true(sim_flip(w.sim, disk.dir, file, at + 4095, 7));
    struct get g = want_all(0, 6);
    ask_get(&w, H_READ, &g);
    run(&w, 50);
    got_all(&w, &g, 46, 2);
    assert_true(got(&w, &g).missed[2 * 8 + 5] && got(&w, &g).missed[4 * 8]);
    assert_int_equal(h_counter(w.h, "disk_bad_pages"), 2);
    assert_int_equal(h_counter(w.h, "get_misses"), 2);

    /* The block is there, with a hole: a PUT fills it, and its ack waits for the disk. */
    put_durable(&w, &w.blocks[2], SAME);
    run(&w, 300);
    end(&w);
    begin(&w, 64 * MIB);
    run(&w, 300);
    struct get two = want_all(2, 1);
    ask_get(&w, H_READ, &two);
    run(&w, 50);
    got_all(&w, &two, 8, 0);

    /* Reads that fail altogether. What two processes ago wrote last was read and written anew by the one that
     * ends here, and lay in its RAM. */
    end(&w);
    begin(&w, 64 * MIB);
    run(&w, 300);
    sim_set_faults(w.sim, &(struct sim_faults){.read_error = 1000000});
    ask_get(&w, H_READ, &g);
    run(&w, 50);
    assert_true(got(&w, &g).ended);
    assert_true(got(&w, &g).n_missed >= 40);
    teardown(&w);
}

/* ---- a disk that takes no more writes ---- */

static void read_only(void **state)
{
    (void)state;
    struct world w;
    setup_cold(&w, 14, 64 * MIB);
    struct h_block fresh, later;
    h_block(&fresh, 0, 500);
    h_block(&later, 0, 501);
    sim_set_faults(w.sim, &(struct sim_faults){.write_error = 1000000});
    uint64_t id = ask_put(&w, &fresh, true);
    run(&w, 500);
    refused(answer(&w, id), REASON(READ_ONLY), "could not write");
    assert_int_equal(answer(&w, id)->refused->credit, fresh.payload->len);
    h_clear(w.h);
    id = ask_put(&w, &later, false);
    run(&w, 10);
    refused(answer(&w, id), REASON(READ_ONLY), "no more blocks");
    id = ask_put(&w, &w.blocks[3], true); /* on the medium already */
    put_is(answer(&w, id), SAME);
    assert_int_equal(h_counter(w.h, "disk_readonly"), 1);
    assert_int_equal(h_counter(w.h, "refused_read_only"), 2);
    Scoutkv__Stats stats = SCOUTKV__STATS__INIT;
    H_HEADER(header, STATS, stats, &stats);
    const Scoutkv__Header *a = h_ask(w.h, H_READ, &header, NULL);
    assert_non_null(strstr(a->stats_ack->trouble, "Input/output error"));
    a = h_hello_with(w.h, H_OTHER, 1, 1, "default", 0, false);
    assert_false(a->hello_ack->durable);
    h_clear(w.h);
    struct get g = want_all(0, N);
    ask_get(&w, H_READ, &g);
    run(&w, 50);
    got_all(&w, &g, N * 8, 0);
    h_block_free(&fresh);
    h_block_free(&later);
    teardown(&w);
}

/* ---- while the disks are being read ---- */

static void starting(void **state)
{
    (void)state;
    struct world w;
    setup_cold(&w, 15, 64 * MIB);
    struct h_block absent, *keys[] = {&w.blocks[0], &absent};
    h_block(&absent, 0, 900);
    end(&w);
    sim_set_pace(w.sim, 0);
    begin(&w, 64 * MIB);
    run(&w, 50);
    assert_int_equal(h_counter(w.h, "disk_index_percent"), 0);
    for (const char *op = "HKPDU"; *op; op++)
        refused(ask_keys(w.h, H_READ, *op, "owner", 1000, keys, 1), REASON(STARTING), "0 %");
    struct get g = want_all(0, N);
    h_clear(w.h);
    ask_get(&w, H_READ, &g);
    refused(answer(&w, g.id), REASON(STARTING), "ask again");
    uint64_t id = ask_put(&w, &w.blocks[0], false);
    refused(answer(&w, id), REASON(STARTING), "ask again");
    assert_int_equal(answer(&w, id)->refused->credit, w.blocks[0].payload->len);
    sim_set_pace(w.sim, 100);
    run(&w, 300);
    assert_int_equal(h_counter(w.h, "disk_index_percent"), 100);
    const Scoutkv__Header *a = ask_keys(w.h, H_READ, 'H', NULL, 0, keys, 2);
    assert_int_equal(a->body_case, SCOUTKV__HEADER__BODY_HAVE_ACK);
    assert_true(a->have_ack->present.data[0] && !a->have_ack->present.data[1]);
    h_clear(w.h);
    ask_get(&w, H_READ, &g);
    run(&w, 50);
    got_all(&w, &g, N * 8, 0);
    h_block_free(&absent);
    teardown(&w);
}

/* What is found is served while the rest is being read, and never in another version. */
static void found_while_starting(void **state)
{
    (void)state;
    unsigned served = 0;
    for (uint64_t seed = 50; seed < 60; seed++) {
        struct world w;
        setup_cold(&w, seed, 64 * MIB);
        end(&w);
        sim_set_pace(w.sim, 4);
        begin(&w, 64 * MIB);
        for (unsigned turn = 0; turn < 2000; turn++) {
            double progress;
            run(&w, 1);
            if (store_state(w.h->node->store, &progress) == STORE_SERVING)
                break;
            struct h_block *one = &w.blocks[turn % N];
            if (!store_find(w.h->node->store, &one->key))
                continue;
            done_is(ask_keys(w.h, H_READ, 'K', NULL, 0, &one, 1), 1);
            refused(ask_keys(w.h, H_READ, 'D', NULL, 0, &one, 1), REASON(STARTING), "ask again");
            struct get g = want_all(turn % N, 1);
            h_clear(w.h);
            ask_get(&w, H_READ, &g);
            sim_set_pace(w.sim, 30);
            run(&w, 60);
            got_all(&w, &g, 8, 0);
            served++;
            one->checksums[0] ^= 1; /* another version may yet be read */
            h_clear(w.h);
            if (store_state(w.h->node->store, &progress) == STORE_STARTING) {
                ask_get(&w, H_READ, &g);
                refused(answer(&w, g.id), REASON(STARTING), "ask again");
            }
            one->checksums[0] ^= 1;
            break;
        }
        teardown(&w);
    }
    if (!served)
        print_message("none was found before all were\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hello_says_durable),
        cmocka_unit_test(durable_waits_for_the_sync),
        cmocka_unit_test(dropped_before_it_was_durable),
        cmocka_unit_test(refusals),
        cmocka_unit_test(parked),
        cmocka_unit_test(others_find_room),
        cmocka_unit_test(cold_pages),
        cmocka_unit_test(cold_pages_in_any_order),
        cmocka_unit_test(hits_overtake),
        cmocka_unit_test(peer_that_does_not_read),
        cmocka_unit_test(bad_pages_are_missed),
        cmocka_unit_test(read_only),
        cmocka_unit_test(starting),
        cmocka_unit_test(found_while_starting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
