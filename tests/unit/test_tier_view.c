/* Nodes that come and go while a client works: the client core against node cores under a fake network.
 * Nothing fails because of a change, blocks lie where the new view says, and views reach everybody. Failures
 * print the seed. */
#include "tests/unit/tier_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

enum {
    N_BLOCKS = 96,
    HEADS = 2,
    PAGES = HEADS * BLOCK_PAGES,
    N_WANTS = N_BLOCKS * PAGES,
    HALF = N_BLOCKS / 2
};
static const struct block_layout layout = {.dtype = 1, .d_k = 16, .d_v = 16, .head0 = 1, .n_heads = HEADS};

static struct world_block blocks[N_BLOCKS];
static struct tier_want wants[N_WANTS];

static int make_blocks(void **state)
{
    (void)state;
    for (unsigned b = 0; b < N_BLOCKS; b++) {
        world_block_make(&blocks[b], &layout, 9000 + b);
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

struct put {
    bool begun, ended;
    int rc;
    uint64_t holders;
};
struct work {
    struct world w;
    uint64_t seed;
    struct put put[N_BLOCKS];
    struct tier_fetch *fetch;
    size_t first, pages_ok, pages_lost; /* of the fetch */
};

static void on_put(void *arg, const struct tier_put_result *r)
{
    struct put *p = arg;
    assert_false(p->ended);
    p->ended = true;
    p->rc = r->rc;
    p->holders = r->holders;
}

static void put(struct work *k, unsigned first, unsigned n)
{
    struct skv_error err;
    for (unsigned b = first; b < first + n; b++) {
        k->put[b].begun = true;
        if (client_put(k->w.client, &blocks[b].key, &layout, blocks[b].payload, blocks[b].checksums,
                       TIER_ACK_RAM, on_put, &k->put[b], &err))
            fail_msg("seed %llu: %s", (unsigned long long)k->seed, err.text);
    }
}

static void steps(struct work *k, unsigned n)
{
    while (n--)
        world_step(&k->w);
}

static void settle_puts(struct work *k)
{
    uint64_t limit = k->w.now + 60 * NS_PER_S;
    while (client_puts_open(k->w.client)) {
        world_step(&k->w);
        if (k->w.now > limit)
            fail_msg("seed %llu: a PUT never ended", (unsigned long long)k->seed);
    }
}

/* All that was begun is stored. */
static void all_stored(struct work *k)
{
    settle_puts(k);
    for (unsigned b = 0; b < N_BLOCKS; b++)
        if (k->put[b].begun && (!k->put[b].ended || k->put[b].rc))
            fail_msg("seed %llu: block %u was not stored: %d", (unsigned long long)k->seed, b, k->put[b].rc);
}

static void on_page(void *arg, size_t want, int rc, const uint8_t *bytes)
{
    struct work *k = arg;
    size_t len = layout_page_bytes(&layout), at = k->first + want;
    if (rc) {
        k->pages_lost++;
        return;
    }
    assert_memory_equal(bytes, blocks[at / PAGES].payload->data + at % PAGES * len, len);
    k->pages_ok++;
}

static void fetch_begin(struct work *k, unsigned first, unsigned n)
{
    struct skv_error err;
    k->first = (size_t)first * PAGES;
    k->pages_ok = k->pages_lost = 0;
    assert_int_equal(client_fetch_begin(k->w.client, &layout, wants + k->first, (size_t)n * PAGES, on_page, k,
                                        &k->fetch, &err),
                     0);
}

static int fetch_end(struct work *k, struct skv_error *err)
{
    uint64_t limit = k->w.now + 100 * NS_PER_S;
    while (!client_fetch_done(k->fetch)) {
        world_step(&k->w);
        if (k->w.now > limit)
            fail_msg("seed %llu: a fetch never ended", (unsigned long long)k->seed);
    }
    int rc = client_fetch_free(k->w.client, k->fetch, err);
    k->fetch = NULL;
    return rc;
}

static void fetched(struct work *k, unsigned n)
{
    struct skv_error err;
    if (fetch_end(k, &err))
        fail_msg("seed %llu: %s", (unsigned long long)k->seed, err.text);
    assert_int_equal(k->pages_ok, (size_t)n * PAGES);
}

static void fetch(struct work *k, unsigned first, unsigned n)
{
    fetch_begin(k, first, n);
    fetched(k, n);
}

static struct work *start(uint64_t seed, unsigned n_nodes, uint32_t replicas)
{
    struct work *k = calloc(1, sizeof *k);
    struct skv_error err;
    assert_non_null(k);
    k->seed = seed;
    k->w.replicas = replicas;
    k->w.delay_ns = NS_PER_MS;
    k->w.put_credit = 64 << 10; /* so that many PUTs wait for their turn */
    world_open(&k->w, seed, n_nodes, 1 + (uint32_t)(seed % 2));
    k->w.page_bytes = layout_page_bytes(&layout);
    if (world_greet(&k->w, &err) != 1)
        fail_msg("seed %llu: %s", (unsigned long long)seed, err.text);
    return k;
}

static void finish(struct work *k)
{
    if (k->w.worst_unacked > k->w.put_credit)
        fail_msg("seed %llu: %llu bytes were unacknowledged", (unsigned long long)k->seed,
                 (unsigned long long)k->w.worst_unacked);
    world_close(&k->w);
    free(k);
}

/* ---- views ---- */

/* "1 2 4-": nodes n1, n2 and, draining, n4. */
static struct cluster_view view_of(const struct work *k, uint64_t epoch, const char *nodes)
{
    struct cluster_view v = {.epoch = epoch};
    for (const char *at = nodes; *at; at++) {
        if (*at < '1' || *at > '9')
            continue;
        unsigned i = (unsigned)(*at - '1');
        struct cluster_node *n = &v.node[v.n++];
        *n = k->w.addrs[i];
        snprintf(n->id, sizeof n->id, "n%u", i + 1);
        n->draining = at[1] == '-';
    }
    return v;
}

static void set_view(struct work *k, uint64_t epoch, const char *nodes)
{
    struct cluster_view v = view_of(k, epoch, nodes);
    struct skv_error err;
    if (client_set_view(k->w.client, &v, k->w.now, &err))
        fail_msg("seed %llu: %s", (unsigned long long)k->seed, err.text);
    assert_int_equal(client_epoch(k->w.client), epoch);
}

/* Somebody else gives a node a view. */
static void teach(struct work *k, unsigned node, uint64_t epoch, const char *nodes)
{
    struct cluster_view v = view_of(k, epoch, nodes);
    struct world_node *n = &k->w.nodes[node];
    struct node_peer peer = {.len = 5, .id = "other"};
    Scoutkv__Hello hello = SCOUTKV__HELLO__INIT;
    Scoutkv__ViewPut put_view = SCOUTKV__VIEW_PUT__INIT;
    Scoutkv__Header h[2] = {SCOUTKV__HEADER__INIT, SCOUTKV__HEADER__INIT};
    hello.version_min = hello.version_max = h[0].version = h[1].version = PROTO_VERSION_MAX;
    hello.cluster = (char *)(uintptr_t) "default";
    h[0].body_case = SCOUTKV__HEADER__BODY_HELLO;
    h[0].hello = &hello;
    h[1].body_case = SCOUTKV__HEADER__BODY_VIEW_PUT;
    h[1].view_put = &put_view;
    struct buf *text = cluster_view_format(&v);
    put_view.epoch = epoch;
    put_view.checksum = view_checksum(text->data, text->len);
    bool mute = n->mute;
    n->mute = true; /* this one's answers are not looked at */
    for (int i = 0; i < 2; i++) {
        struct buf *b = header_pack(&h[i]);
        struct view payload = i ? (struct view){text->data, text->len, text} : (struct view){0};
        struct message m;
        uint64_t id;
        assert_int_equal(message_parse(&m, b->data, b->len, 1 + (unsigned)i, payload, &id, NULL), 0);
        node_receive(n->core, &peer, &m, k->w.now);
        message_clear(&m);
        buf_unref(b);
    }
    n->mute = mute;
    buf_unref(text);
}

static int number_of(const struct work *k, const char *id)
{
    for (unsigned i = 0; i < client_n_nodes(k->w.client); i++)
        if (strcmp(client_node_id(k->w.client, client_node_at(k->w.client, i)), id) == 0)
            return (int)client_node_at(k->w.client, i);
    return -1;
}

static void wait_up(struct work *k, const char *id)
{
    uint64_t limit = k->w.now + 20 * NS_PER_S;
    while (!client_node_up(k->w.client, (unsigned)number_of(k, id))) {
        world_step(&k->w);
        if (k->w.now > limit)
            fail_msg("seed %llu: node %s never came up", (unsigned long long)k->seed, id);
    }
}

/* Every node that is up has told that it knows this view. */
static void wait_spread(struct work *k, uint64_t epoch)
{
    uint64_t limit = k->w.now + 20 * NS_PER_S;
    for (unsigned i = 0; i < client_n_nodes(k->w.client);) {
        unsigned node = client_node_at(k->w.client, i);
        if (!client_node_up(k->w.client, node) || client_node_epoch(k->w.client, node) == epoch) {
            i++;
            continue;
        }
        world_step(&k->w);
        if (k->w.now > limit)
            fail_msg("seed %llu: node %s never heard of epoch %llu", (unsigned long long)k->seed,
                     client_node_id(k->w.client, node), (unsigned long long)epoch);
    }
}

/* The first `replicas` in rank that take blocks. */
static uint64_t ranked(const struct work *k, unsigned block)
{
    uint8_t order[PLACEMENT_MAX_NODES];
    uint64_t nodes = 0;
    placement_rank(client_map(k->w.client), key_hash(&blocks[block].key), order);
    for (unsigned i = 0; i < k->w.replicas; i++)
        nodes |= UINT64_C(1) << order[i];
    return nodes;
}

static const struct tier_totals *totals(const struct work *k)
{
    return &client_totals(k->w.client)->tier;
}

/* ---- tests ---- */

static void a_node_is_added_under_load(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct work *k = start(seed, 3, 1 + (uint32_t)(seed % 3 == 0));
        put(k, 0, HALF);
        all_stored(k);
        fetch_begin(k, 0, HALF);
        put(k, HALF, HALF / 2);
        steps(k, 5 + (unsigned)(seed * 3));
        world_node_start(&k->w, 3, "n4");
        set_view(k, 1 + seed, "1 2 3 4");
        assert_int_equal(number_of(k, "n4"), 3);
        put(k, HALF + HALF / 2, HALF / 4); /* while it is greeted */
        fetched(k, HALF);
        all_stored(k);
        wait_up(k, "n4");
        unsigned last = N_BLOCKS - HALF / 4, on_new = 0;
        put(k, last, HALF / 4);
        all_stored(k);
        for (unsigned b = last; b < N_BLOCKS; b++) {
            assert_int_equal(k->put[b].holders, ranked(k, b));
            on_new += k->put[b].holders >> 3 & 1;
        }
        assert_true(on_new > 0); /* or it was not tried */
        fetch(k, 0, N_BLOCKS);   /* from wherever each block was put */
        wait_spread(k, 1 + seed);
        assert_int_equal(totals(k)->lost, 0);
        finish(k);
    }
}

static void a_draining_node_is_read_and_not_written(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct work *k = start(seed, 3, 1);
        put(k, 0, HALF);
        all_stored(k);
        put(k, HALF, HALF / 2);
        fetch_begin(k, 0, HALF);
        steps(k, (unsigned)(seed * 4));
        set_view(k, 2, "1- 2 3");
        unsigned first = HALF + HALF / 2;
        put(k, first, N_BLOCKS - first);
        fetched(k, HALF);
        all_stored(k);
        unsigned before = 0;
        for (unsigned b = 0; b < HALF; b++)
            before += k->put[b].holders == 1;
        assert_true(before > 0); /* it has some that are read */
        for (unsigned b = first; b < N_BLOCKS; b++)
            assert_false(k->put[b].holders & 1);
        fetch(k, 0, N_BLOCKS);
        uint8_t order[PLACEMENT_MAX_NODES];
        for (unsigned b = 0; b < N_BLOCKS; b++) {
            placement_rank(client_map(k->w.client), key_hash(&blocks[b].key), order);
            assert_int_equal(order[2], 0);
        }
        finish(k);
    }
}

static void all_draining_is_said(void **state)
{
    (void)state;
    struct work *k = start(1, 2, 1);
    struct skv_error err = {0};
    set_view(k, 2, "1- 2-");
    assert_int_equal(client_put(k->w.client, &blocks[0].key, &layout, blocks[0].payload, blocks[0].checksums,
                                TIER_ACK_RAM, on_put, &k->put[0], &err),
                     -EHOSTUNREACH);
    assert_non_null(strstr(err.text, "draining"));
    finish(k);
}

/* With two copies of each block, one node leaves; its number becomes another's. */
static void a_node_is_removed_under_load(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct work *k = start(seed, 3, 2);
        put(k, 0, HALF);
        all_stored(k);
        fetch_begin(k, 0, HALF);
        put(k, HALF, HALF / 2);
        steps(k, (unsigned)(seed * 5));
        unsigned gone = (unsigned)(seed % 3);
        char left[16] = "1 2 3";
        left[2 * gone] = ' ';
        set_view(k, 2, left);
        assert_int_equal(client_n_nodes(k->w.client), 2);
        assert_null(client_node_address(k->w.client, gone));
        fetched(k, HALF); /* what it was asked is asked of the others */
        all_stored(k);
        for (unsigned b = HALF; b < HALF + HALF / 2; b++) /* those that it had acknowledged alone, too */
            assert_true(k->put[b].holders & ~(UINT64_C(1) << gone));

        world_node_start(&k->w, 3, "n4");
        strcat(left, " 4");
        set_view(k, 3, left);
        assert_int_equal(number_of(k, "n4"), (int)gone);
        wait_up(k, "n4");
        put(k, HALF + HALF / 2, HALF / 2);
        all_stored(k);
        unsigned on_new = 0;
        for (unsigned b = HALF + HALF / 2; b < N_BLOCKS; b++)
            on_new += k->put[b].holders >> gone & 1;
        assert_true(on_new > 0);
        fetch(k, 0, N_BLOCKS);
        finish(k);
    }
}

struct reply {
    int rc;
    unsigned calls, count;
};
static void on_reply(void *arg, int rc, const struct message *m, const struct skv_error *err)
{
    struct reply *r = arg;
    (void)err;
    r->calls++;
    r->rc = rc;
    r->count = rc ? 0 : m->header->done->count;
}

static void drop_block(struct work *k, unsigned node, unsigned block, struct reply *r)
{
    Scoutkv__Key key = SCOUTKV__KEY__INIT, *keys[] = {&key};
    key.chain = (ProtobufCBinaryData){CHAIN_BYTES, blocks[block].key.chain};
    key.layer = blocks[block].key.layer;
    Scoutkv__Drop drop = SCOUTKV__DROP__INIT;
    drop.n_keys = 1;
    drop.keys = keys;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.body_case = SCOUTKV__HEADER__BODY_DROP;
    h.drop = &drop;
    struct skv_error err;
    *r = (struct reply){0};
    if (client_call(k->w.client, node, false, &h, (struct view){0}, SCOUTKV__HEADER__BODY_DONE, on_reply, r,
                    k->w.now, &err))
        fail_msg("%s", err.text);
}

/* Others change the cluster; this client hears of it by being refused, or from any answer. */
static void a_stale_client_is_corrected(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct work *k = start(seed, 3, 1 + (uint32_t)(seed % 2));
        struct reply dropped;
        put(k, 0, HALF);
        all_stored(k);
        unsigned owner = (unsigned)__builtin_ctzll(k->put[0].holders);
        world_node_start(&k->w, 3, "n4");
        for (unsigned i = 0; i < 3; i++)
            if (i == owner || seed % 3) /* all of them know, or one */
                teach(k, i, 5, "1 2 3 4");
        drop_block(k, owner, 0, &dropped);
        put(k, HALF, HALF); /* before anything was heard */
        all_stored(k);
        while (!dropped.calls)
            world_step(&k->w);
        assert_int_equal(dropped.rc, 0);
        assert_int_equal(dropped.count, 1);
        assert_int_equal(dropped.calls, 1);
        assert_true(totals(k)->stale > 0);
        assert_int_equal(totals(k)->views, 1);
        assert_int_equal(client_epoch(k->w.client), 5);
        assert_int_equal(client_n_nodes(k->w.client), 4);
        wait_up(k, "n4");
        wait_spread(k, 5); /* and those that did not know were told */
        fetch(k, 1, N_BLOCKS - 1);
        assert_int_equal(totals(k)->lost, 0);
        finish(k);
    }
}

/* A client that only reads hears of it as well. */
static void readers_hear_of_it(void **state)
{
    (void)state;
    struct work *k = start(3, 3, 1);
    put(k, 0, HALF);
    all_stored(k);
    teach(k, 1, 9, "1 2 3-");
    fetch(k, 0, HALF);
    wait_spread(k, 9);
    assert_int_equal(client_epoch(k->w.client), 9);
    assert_int_equal(totals(k)->stale, 0);
    finish(k);
}

static void a_node_that_starts_anew_is_told_again(void **state)
{
    (void)state;
    struct work *k = start(4, 3, 2);
    set_view(k, 7, "1 2 3");
    wait_spread(k, 7);
    put(k, 0, HALF);
    all_stored(k);
    world_node_kill(&k->w, 1, true);
    steps(k, 50);
    world_node_start(&k->w, 1, "n2");
    wait_up(k, "n2");
    wait_spread(k, 7);
    fetch(k, 0, HALF);
    finish(k);
}

/* --nodes may name one node only, if it knows the others. */
static void one_node_tells_of_the_others(void **state)
{
    (void)state;
    struct work *k = calloc(1, sizeof *k);
    struct skv_error err;
    assert_non_null(k);
    k->seed = 5;
    k->w.replicas = 2;
    k->w.delay_ns = NS_PER_MS;
    world_open(&k->w, 5, 1, 1);
    k->w.page_bytes = layout_page_bytes(&layout);
    world_node_start(&k->w, 1, "n2");
    world_node_start(&k->w, 2, "n3");
    teach(k, 0, 3, "1 2 3");
    if (world_greet(&k->w, &err) != 1)
        fail_msg("%s", err.text);
    assert_int_equal(client_n_nodes(k->w.client), 3);
    put(k, 0, HALF);
    all_stored(k);
    for (unsigned b = 0; b < HALF; b++)
        assert_int_equal(k->put[b].holders, ranked(k, b));
    finish(k);
}

/* Another node answers at the address of the one that was added. */
static void an_impostor_gets_nothing(void **state)
{
    (void)state;
    struct work *k = start(6, 3, 1);
    put(k, 0, HALF / 2);
    all_stored(k);
    world_node_start(&k->w, 3, "n9");
    set_view(k, 2, "1 2 3 4");
    steps(k, 400);
    assert_false(client_node_up(k->w.client, 3));
    struct skv_error err;
    assert_int_equal(client_node_down(k->w.client, 3, &err), -EHOSTUNREACH);
    assert_non_null(strstr(err.text, "n4"));
    assert_non_null(strstr(err.text, "\"n9\""));
    put(k, HALF / 2, HALF / 2);
    all_stored(k);
    for (unsigned b = 0; b < HALF; b++)
        assert_false(k->put[b].holders & 8);
    fetch(k, 0, HALF);

    node_free(k->w.nodes[3].core); /* the one that was meant comes */
    world_node_start(&k->w, 3, "n4");
    wait_up(k, "n4");
    put(k, HALF, HALF);
    all_stored(k);
    unsigned on_new = 0;
    for (unsigned b = HALF; b < N_BLOCKS; b++)
        on_new += k->put[b].holders == 8;
    assert_true(on_new > 0);
    finish(k);
}

/* The node that knows more dies before it can tell; its word holds nothing up. */
static void who_knows_more_may_die(void **state)
{
    (void)state;
    for (unsigned after = 0; after < 60; after += 3) {
        struct work *k = start(100 + after, 3, 1);
        teach(k, 0, 5, "1 2 3");
        put(k, 0, HALF);
        steps(k, after);
        world_node_kill(&k->w, 0, after % 2 == 0);
        all_stored(k);
        for (unsigned b = 0; b < HALF; b++)
            assert_true(k->put[b].holders);
        finish(k);
    }
}

static void views_that_are_not_newer_are_refused(void **state)
{
    (void)state;
    struct work *k = start(7, 3, 1);
    struct skv_error err;
    struct cluster_view v = view_of(k, 0, "1 2 3"), now;
    client_view(k->w.client, &now);
    assert_true(cluster_view_equal(&v, &now)); /* the ids are those of HELLO */
    assert_int_equal(client_set_view(k->w.client, &v, k->w.now, &err), 0);
    assert_int_equal(totals(k)->views, 0);
    set_view(k, 0, "1 2"); /* written by hand, and changed */
    assert_int_equal(client_n_nodes(k->w.client), 2);
    set_view(k, 4, "1 2 3");
    set_view(k, 4, "3 1 2");
    assert_int_equal(totals(k)->views, 2);
    v = view_of(k, 4, "1 2");
    assert_int_equal(client_set_view(k->w.client, &v, k->w.now, &err), -ESTALE);
    assert_non_null(strstr(err.text, "epoch 4"));
    v = view_of(k, 3, "1 2");
    assert_int_equal(client_set_view(k->w.client, &v, k->w.now, &err), -ESTALE);
    assert_non_null(strstr(err.text, "epoch 3"));
    assert_int_equal(client_n_nodes(k->w.client), 3);
    finish(k);
}

/* A node has moved: what stands is kept, and the next connection goes to the new address. */
static void addresses_change(void **state)
{
    (void)state;
    struct work *k = start(8, 3, 2);
    put(k, 0, HALF);
    all_stored(k);
    struct cluster_view v = view_of(k, 2, "1 2 3");
    strcpy(v.node[1].address, k->w.addrs[4].address);
    assert_int_equal(client_set_view(k->w.client, &v, k->w.now, NULL), 0);
    fetch(k, 0, HALF);
    assert_int_equal(totals(k)->lost, 0);
    world_node_start(&k->w, 4, "n2");
    world_node_kill(&k->w, 1, true);
    steps(k, 2);
    wait_up(k, "n2");
    assert_int_equal(k->w.ends_at[1 * k->w.lanes_per_node], 4);
    assert_int_equal(totals(k)->reborn, 1);
    fetch(k, 0, HALF);
    finish(k);
}

/* A node that calls a write stale without knowing better talks nonsense: it is passed over. */
static bool call_all_stale(struct world *w, struct world_message *m)
{
    Scoutkv__Header *h = scoutkv__header__unpack(NULL, m->header->len, m->header->data);
    assert_non_null(h);
    bool ack = m->to_client && w->ends_at[m->lane] == 1 && h->body_case == SCOUTKV__HEADER__BODY_PUT_ACK;
    if (ack) {
        Scoutkv__Refused refused = SCOUTKV__REFUSED__INIT;
        Scoutkv__Header lie = SCOUTKV__HEADER__INIT;
        refused.reason = SCOUTKV__REFUSED__REASON__STALE_VIEW;
        refused.credit = h->put_ack->credit;
        lie.version = h->version;
        lie.id = h->id;
        lie.body_case = SCOUTKV__HEADER__BODY_REFUSED;
        lie.refused = &refused;
        buf_unref(m->header);
        m->header = header_pack(&lie);
    }
    scoutkv__header__free_unpacked(h, NULL);
    return true;
}

static void stale_without_a_reason_is_nonsense(void **state)
{
    (void)state;
    struct work *k = start(9, 3, 1);
    k->w.tamper = call_all_stale;
    put(k, 0, HALF);
    all_stored(k);
    for (unsigned b = 0; b < HALF; b++)
        assert_false(k->put[b].holders & 2);
    assert_true(client_totals(k->w.client)->malformed > 0);
    finish(k);
}

/* Any views at any time, on a network that drops and repeats, with nodes that die: every request ends, and
 * what comes is right. */
static void storm(uint64_t seed)
{
    struct work *k = start(seed, 3, 1 + (uint32_t)(seed % 2));
    struct world *w = &k->w;
    w->drop_percent = seed % 4 == 0 ? 1 : 0;
    w->twice_percent = seed % 3 == 0 ? 3 : 0;
    w->reorder = seed % 5 == 0;
    for (unsigned i = 3; i < WORLD_NODES; i++) {
        char id[8];
        snprintf(id, sizeof id, "n%u", i + 1);
        world_node_start(w, i, id);
    }
    uint64_t epoch = 0;
    for (unsigned round = 0; round < 24; round++) {
        char nodes[32] = "";
        unsigned some = 1 + (unsigned)(world_random(w) % 63), draining = (unsigned)world_random(w) & some;
        draining = draining == some ? 0 : draining;
        for (unsigned i = 0; i < WORLD_NODES; i++)
            if (some >> i & 1)
                sprintf(nodes + strlen(nodes), "%u%s ", i + 1, draining >> i & 1 && i % 2 ? "-" : "");
        epoch += 1 + world_random(w) % 3;
        unsigned node = (unsigned)(world_random(w) % WORLD_NODES);
        struct cluster_view v = view_of(k, epoch, nodes);
        if (round % 3 == 2)
            teach(k, node, epoch, nodes);
        else if (client_set_view(w->client, &v, w->now, NULL))
            epoch = client_epoch(w->client); /* a node has taught it a newer one */
        unsigned b = round * 4;
        struct skv_error err;
        for (unsigned i = b; i < b + 4; i++)
            k->put[i].begun = client_put(w->client, &blocks[i].key, &layout, blocks[i].payload,
                                         blocks[i].checksums, TIER_ACK_RAM, on_put, &k->put[i], &err) == 0;
        if (!k->fetch)
            fetch_begin(k, 0, b + 4);
        steps(k, (unsigned)(world_random(w) % 200));
        if (client_fetch_done(k->fetch))
            fetch_end(k, NULL);
    }
    if (k->fetch)
        fetch_end(k, NULL);
    settle_puts(k);
    for (unsigned b = 0; b < N_BLOCKS; b++)
        if (k->put[b].begun != k->put[b].ended)
            fail_msg("seed %llu: block %u was never answered", (unsigned long long)seed, b);

    w->drop_percent = w->twice_percent = 0; /* it calms down: all nodes, and everybody agrees */
    w->reorder = false;
    set_view(k, 1000, "1 2 3 4 5 6");
    for (unsigned i = 0; i < WORLD_NODES; i++) {
        char id[8];
        snprintf(id, sizeof id, "n%u", i + 1);
        wait_up(k, id);
    }
    wait_spread(k, 1000);
    memset(k->put, 0, sizeof k->put);
    put(k, 0, N_BLOCKS);
    all_stored(k);
    fetch(k, 0, N_BLOCKS);
    world_close(w);
    free(k);
}

static void any_views_at_any_time(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++)
        storm(seed);
}

int main(void)
{
    const struct CMUnitTest all[] = {
        cmocka_unit_test(a_node_is_added_under_load),
        cmocka_unit_test(a_draining_node_is_read_and_not_written),
        cmocka_unit_test(all_draining_is_said),
        cmocka_unit_test(a_node_is_removed_under_load),
        cmocka_unit_test(a_stale_client_is_corrected),
        cmocka_unit_test(readers_hear_of_it),
        cmocka_unit_test(a_node_that_starts_anew_is_told_again),
        cmocka_unit_test(one_node_tells_of_the_others),
        cmocka_unit_test(an_impostor_gets_nothing),
        cmocka_unit_test(who_knows_more_may_die),
        cmocka_unit_test(views_that_are_not_newer_are_refused),
        cmocka_unit_test(addresses_change),
        cmocka_unit_test(stale_without_a_reason_is_nonsense),
        cmocka_unit_test(any_views_at_any_time),
    };
    return cmocka_run_group_tests(all, make_blocks, free_blocks);
}
