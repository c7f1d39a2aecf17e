/* Rebalance, on nodes under a fake network: blocks that lie anywhere are brought to where they belong, can be
 * read all the while, and never have fewer copies than they had. Failures print the seed. */
#include "decoder/tier/client_internal.h"
#include "decoder/tier/rebalance.h"
#include "tests/unit/tier_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

enum { N_BLOCKS = 80, HEADS = 2, PAGES = HEADS * BLOCK_PAGES, N_NODES = 4, R = 2 };
static const struct block_layout layout = {.dtype = 1, .d_k = 16, .d_v = 16, .n_heads = HEADS};

/* A cluster, and what the network has seen of its blocks: a PUT that reaches a node is there, a DROP ends it.
 */
struct cluster {
    struct world w;
    uint64_t seed;
    struct world_block block[N_BLOCKS];
    uint64_t at[N_BLOCKS];    /* nodes that hold it */
    unsigned least[N_BLOCKS]; /* copies that it may not fall below */
    unsigned puts, drops, lists;
    unsigned reads, n_open;
    struct tier_want want[N_BLOCKS];
    struct tier_fetch *fetch;
    unsigned fetched;
};

static unsigned copies(uint64_t at)
{
    return (unsigned)__builtin_popcountll(at);
}

static unsigned block_of(const struct cluster *k, const Scoutkv__Key *key)
{
    unsigned b = 0;
    while (b < N_BLOCKS && memcmp(k->block[b].key.chain, key->chain.data, CHAIN_BYTES) != 0)
        b++;
    assert_true(b < N_BLOCKS);
    return b;
}

static bool watch(struct world *w, struct world_message *m)
{
    struct cluster *k = w->tamper_arg;
    unsigned node = m->lane / w->lanes_per_node;
    if (m->to_client || !w->nodes[node].core)
        return true;
    Scoutkv__Header *h = scoutkv__header__unpack(NULL, m->header->len, m->header->data);
    k->lists += h->body_case == SCOUTKV__HEADER__BODY_LIST;
    if (h->body_case == SCOUTKV__HEADER__BODY_PUT) {
        k->puts++;
        k->at[block_of(k, h->put->key)] |= node_bit(node);
    } else if (h->body_case == SCOUTKV__HEADER__BODY_DROP) {
        assert_int_equal(h->drop->n_keys, 1);
        unsigned b = block_of(k, h->drop->keys[0]);
        k->drops++;
        k->at[b] &= ~node_bit(node);
        if (copies(k->at[b]) < k->least[b])
            fail_msg("seed %llu: block %u has %u copies left, and had %u", (unsigned long long)k->seed, b,
                     copies(k->at[b]), k->least[b]);
    }
    scoutkv__header__free_unpacked(h, NULL);
    return true;
}

static void greet(struct cluster *k)
{
    struct skv_error err;
    if (world_greet(&k->w, &err) != 1)
        fail_msg("seed %llu: %s", (unsigned long long)k->seed, err.text);
}

static struct cluster *cluster_new(uint64_t seed, const struct world *like)
{
    struct cluster *k = calloc(1, sizeof *k);
    k->w = *like;
    k->w.replicas = R;
    k->w.tamper = watch;
    k->w.tamper_arg = k;
    k->seed = seed;
    world_open(&k->w, seed, N_NODES, 1);
    k->w.page_bytes = layout_page_bytes(&layout);
    for (unsigned b = 0; b < N_BLOCKS; b++) {
        world_block_make(&k->block[b], &layout, 7000 + b);
        k->want[b] = (struct tier_want){&k->block[b].key, b % HEADS, b % BLOCK_PAGES,
                                        k->block[b].checksums[b % HEADS * BLOCK_PAGES + b % BLOCK_PAGES]};
    }
    greet(k);
    return k;
}

static void cluster_free(struct cluster *k)
{
    if (k->fetch)
        client_fetch_free(k->w.client, k->fetch, NULL);
    world_close(&k->w);
    for (unsigned b = 0; b < N_BLOCKS; b++)
        buf_unref(k->block[b].payload);
    free(k);
}

static void settle(struct cluster *k)
{
    while (client_puts_open(k->w.client))
        world_step(&k->w);
}

static void on_put(void *arg, const struct tier_put_result *r)
{
    (void)arg;
    assert_int_equal(r->rc, 0);
}

static void put_at(struct cluster *k, unsigned b, unsigned node)
{
    assert_int_equal(put_begin(k->w.client, (int)node, &k->block[b].key, &layout, k->block[b].payload,
                               k->block[b].checksums, TIER_ACK_RAM, on_put, NULL, NULL),
                     0);
}

/* Puts every block on 1 to 3 nodes, whatever its rank. */
static void scatter(struct cluster *k)
{
    for (unsigned b = 0; b < N_BLOCKS; b++) {
        for (unsigned n = 1 + (unsigned)(world_random(&k->w) % 3); n; n--)
            put_at(k, b, (unsigned)(world_random(&k->w) % N_NODES));
        settle(k);
    }
}

/* Gives the cluster a view by which the node is being drained. */
static void drain(struct cluster *k, unsigned node)
{
    struct cluster_view v;
    char id[8];
    snprintf(id, sizeof id, "n%u", node + 1);
    client_view(k->w.client, &v);
    v.epoch++;
    for (size_t i = 0; i < v.n; i++)
        v.node[i].draining |= strcmp(v.node[i].id, id) == 0;
    k->w.addrs[node].draining = true;
    assert_int_equal(client_set_view(k->w.client, &v, k->w.now, NULL), 0);
}

/* Where a block belongs. */
static uint64_t places(const struct cluster *k, unsigned b)
{
    uint8_t order[PLACEMENT_MAX_NODES];
    uint64_t at = 0;
    placement_rank(client_map(k->w.client), key_hash(&k->block[b].key), order);
    for (unsigned i = 0; i < N_NODES && copies(at) < R; i++)
        at |= k->w.addrs[order[i]].draining ? 0 : node_bit(order[i]);
    return at;
}

static void expect_placed(struct cluster *k)
{
    for (unsigned b = 0; b < N_BLOCKS; b++)
        if (k->at[b] != places(k, b))
            fail_msg("seed %llu: block %u is at %llx, not %llx", (unsigned long long)k->seed, b,
                     (unsigned long long)k->at[b], (unsigned long long)places(k, b));
}

/* ---- reading meanwhile ---- */

static void on_page(void *arg, size_t want, int rc, const uint8_t *bytes)
{
    struct cluster *k = arg;
    const struct tier_want *w = &k->want[want];
    if (rc)
        fail_msg("seed %llu: block %zu can't be read: %d", (unsigned long long)k->seed, want, rc);
    size_t at = ((size_t)w->head * BLOCK_PAGES + w->page) * k->w.page_bytes;
    assert_memory_equal(bytes, k->block[want].payload->data + at, k->w.page_bytes);
    k->reads++;
}

static void read_on(struct cluster *k)
{
    if (k->fetch && !client_fetch_done(k->fetch))
        return;
    if (k->fetch)
        assert_int_equal(client_fetch_free(k->w.client, k->fetch, NULL), 0);
    assert_int_equal(client_fetch_begin(k->w.client, &layout, k->want, N_BLOCKS, on_page, k, &k->fetch, NULL),
                     0);
}

/* ---- rebalancing ---- */

/* Runs a pass, or the first `steps` steps of it. False: it was cut short by the death of its client. */
static bool pass(struct cluster *k, const struct rebalance_opts *o, unsigned steps, bool reading,
                 struct rebalance_report *out)
{
    for (unsigned b = 0; b < N_BLOCKS; b++)
        k->least[b] = copies(k->at[b]) < R ? copies(k->at[b]) : R;
    struct rebalance *r = rebalance_new(k->w.client, o);
    uint64_t limit = k->w.now + 1000 * NS_PER_S;
    for (rebalance_step(r, k->w.now); !rebalance_done(r); rebalance_step(r, k->w.now)) {
        if (reading)
            read_on(k);
        world_step(&k->w);
        if (k->w.now > limit)
            fail_msg("seed %llu: a pass never ended", (unsigned long long)k->seed);
        if (steps && --steps == 0) {
            client_free(k->w.client);
            rebalance_free(r);
            world_client(&k->w);
            greet(k);
            return false;
        }
    }
    *out = *rebalance_report(r);
    rebalance_free(r);
    while (reading && !client_fetch_done(k->fetch))
        world_step(&k->w);
    return true;
}

/* What a scan says, against what the network saw. */
static struct rebalance_report scan(struct cluster *k)
{
    struct rebalance_report report;
    unsigned missing = 0, elsewhere = 0, held = 0;
    uint64_t on_nodes[N_NODES] = {0};
    pass(k, &(struct rebalance_opts){.dry = true}, 0, false, &report);
    for (unsigned b = 0; b < N_BLOCKS; b++) {
        held += k->at[b] != 0;
        missing += k->at[b] ? copies(places(k, b) & ~k->at[b]) : 0;
        elsewhere += copies(k->at[b] & ~places(k, b));
        for (unsigned i = 0; i < N_NODES; i++)
            on_nodes[i] += k->at[b] >> i & 1;
    }
    assert_int_equal(report.blocks, held);
    assert_int_equal(report.bytes, held * layout_block_bytes(&layout));
    assert_int_equal(report.missing, missing);
    assert_int_equal(report.elsewhere, elsewhere);
    assert_int_equal(report.absent, 0);
    assert_int_equal(report.copied + report.dropped + report.failed, 0);
    for (unsigned i = 0; i < N_NODES; i++)
        assert_int_equal(report.node[i].blocks, on_nodes[i]);
    return report;
}

static void expect_clean(struct cluster *k)
{
    struct rebalance_report after = scan(k);
    expect_placed(k);
    assert_int_equal(after.in_place, N_BLOCKS);
}

static void scattered_blocks_find_home(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct rebalance_report report;
        struct cluster *k = cluster_new(
            seed,
            &(struct world){.delay_ns = seed % 3 * NS_PER_MS, .addrs[1].weight = 2, .addrs[2].weight = 0.5});
        scatter(k);
        struct rebalance_report before = scan(k);
        unsigned puts, drops = k->drops;
        assert_true(pass(k, &(struct rebalance_opts){.at_once = 1 + (uint32_t)(seed % 8)}, 0, true, &report));
        assert_int_equal(report.failed, 0);
        uint64_t repaired = client_totals(k->w.client)->tier.repaired; /* by those reads */
        assert_true(report.copied <= before.missing && report.copied + repaired >= before.missing);
        assert_int_equal(report.copied_bytes, report.copied * layout_block_bytes(&layout));
        assert_int_equal(report.dropped, before.elsewhere);
        assert_int_equal(k->drops - drops, before.elsewhere);
        assert_true(k->reads >= N_BLOCKS);
        expect_clean(k);
        assert_true(scan(k).node[1].blocks > scan(k).node[2].blocks); /* weights count */
        /* Nothing is left to do, and nothing is done. */
        while (client_repairs_open(k->w.client))
            world_step(&k->w);
        puts = k->puts;
        pass(k, &(struct rebalance_opts){0}, 0, false, &report);
        assert_int_equal(report.copied + report.dropped + k->puts - puts, 0);
        cluster_free(k);
    }
}

static void a_drained_node_ends_empty(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        struct rebalance_report report;
        struct cluster *k = cluster_new(seed, &(struct world){.delay_ns = NS_PER_MS});
        scatter(k);
        drain(k, (unsigned)seed % N_NODES);
        assert_true(scan(k).node[seed % N_NODES].blocks > 0);
        pass(k, &(struct rebalance_opts){0}, 0, true, &report);
        assert_int_equal(report.failed, 0);
        expect_clean(k);
        assert_int_equal(scan(k).node[seed % N_NODES].blocks, 0);
        cluster_free(k);
    }
}

static void lost_copies_are_rebuilt(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        struct rebalance_report report;
        struct cluster *k = cluster_new(seed, &(struct world){.delay_ns = NS_PER_MS});
        unsigned dead = (unsigned)seed % N_NODES, held = 0;
        char id[8];
        for (unsigned b = 0; b < N_BLOCKS; b++)
            for (unsigned i = 0; i < N_NODES; i++)
                if (places(k, b) & node_bit(i))
                    put_at(k, b, i);
        settle(k);
        expect_clean(k);
        world_node_kill(&k->w, dead, true);
        for (unsigned b = 0; b < N_BLOCKS; b++) {
            held += k->at[b] >> dead & 1;
            k->at[b] &= ~node_bit(dead);
        }
        /* While it is away nothing can be put right, and nothing is moved. */
        pass(k, &(struct rebalance_opts){0}, 0, false, &report);
        assert_int_equal(report.absent, 1);
        assert_true(report.node[dead].absent);
        assert_int_equal(report.missing, held);
        assert_int_equal(report.copied + report.dropped, 0);
        snprintf(id, sizeof id, "n%u", dead + 1);
        world_node_start(&k->w, dead, id);
        while (!client_node_up(k->w.client, dead))
            world_step(&k->w);
        pass(k, &(struct rebalance_opts){0}, 0, true, &report);
        assert_true(report.copied + client_totals(k->w.client)->tier.repaired >= held);
        expect_clean(k);
        cluster_free(k);
    }
}

/* The mover dies at any step, several times; then one that lives finishes the job. */
static void cut_short_and_begun_again(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct rebalance_report report;
        struct cluster *k = cluster_new(seed, &(struct world){.delay_ns = NS_PER_MS});
        scatter(k);
        drain(k, (unsigned)seed % N_NODES);
        for (int i = 0; i < 4; i++) {
            unsigned steps = 1 + (unsigned)(world_random(&k->w) % 300);
            if (pass(k, &(struct rebalance_opts){.at_once = 16}, steps, false, &report))
                break;
        }
        pass(k, &(struct rebalance_opts){0}, 0, true, &report);
        assert_int_equal(report.failed, 0);
        expect_clean(k);
        cluster_free(k);
    }
}

/* A node is drained while blocks are being moved: that pass ends, and the next one goes by the new view. */
static void views_may_change_meanwhile(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct rebalance_report report;
        struct cluster *k = cluster_new(seed, &(struct world){.delay_ns = NS_PER_MS});
        scatter(k);
        for (unsigned b = 0; b < N_BLOCKS; b++)
            k->least[b] = copies(k->at[b]) < R ? copies(k->at[b]) : R;
        struct rebalance *r = rebalance_new(k->w.client, &(struct rebalance_opts){0});
        for (unsigned steps = 20 + (unsigned)(world_random(&k->w) % 200); steps; steps--) {
            rebalance_step(r, k->w.now);
            read_on(k);
            world_step(&k->w);
        }
        assert_false(rebalance_done(r));
        drain(k, (unsigned)seed % N_NODES);
        for (rebalance_step(r, k->w.now); !rebalance_done(r); rebalance_step(r, k->w.now))
            world_step(&k->w);
        assert_true(rebalance_report(r)->view_changed);
        assert_int_equal(rebalance_report(r)->failed, 0);
        rebalance_free(r);
        pass(k, &(struct rebalance_opts){0}, 0, true, &report);
        assert_int_equal(report.failed, 0);
        expect_clean(k);
        cluster_free(k);
    }
}

/* Messages are lost, doubled and overtake each other: passes end, nothing is lost, and a quiet network lets
 * the last one finish. */
static void ill_networks_lose_nothing(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct rebalance_report report;
        struct cluster *k = cluster_new(seed, &(struct world){.delay_ns = 2 * NS_PER_MS});
        scatter(k);
        k->w.drop_percent = seed % 3;
        k->w.twice_percent = 3;
        k->w.reorder = seed & 1;
        k->w.flip_percent = 2;
        for (int i = 0; i < 3; i++)
            pass(k, &(struct rebalance_opts){0}, 0, false, &report);
        k->w.drop_percent = k->w.twice_percent = k->w.flip_percent = 0;
        for (unsigned i = 0; i < N_NODES; i++)
            while (!client_node_up(k->w.client, i))
                world_step(&k->w);
        for (int i = 0; i < 500; i++)
            world_step(&k->w);
        pass(k, &(struct rebalance_opts){0}, 0, true, &report);
        assert_int_equal(report.failed, 0);
        struct rebalance_report after;
        pass(k, &(struct rebalance_opts){.dry = true}, 0, false, &after);
        assert_int_equal(after.in_place, N_BLOCKS);
        cluster_free(k);
    }
}

/* ---- leases, versions, room, pace ---- */

struct described {
    unsigned answers, leases;
    bool found;
    uint64_t checksum, ttl_ms;
};
static void on_described(void *arg, int rc, const struct message *m, const struct skv_error *err)
{
    struct described *d = arg;
    (void)err;
    assert_int_equal(rc, 0);
    d->answers++;
    d->found = m->header->described->found;
    d->leases = (unsigned)m->header->described->n_leases;
    d->ttl_ms = d->leases ? m->header->described->leases[0]->ttl_ms : 0;
    d->checksum = d->found ? m->header->described->checksums[0] : 0;
}
static struct described describe(struct cluster *k, unsigned b, unsigned node)
{
    struct described d = {0};
    Scoutkv__Key key = SCOUTKV__KEY__INIT;
    key.chain = (ProtobufCBinaryData){CHAIN_BYTES, k->block[b].key.chain};
    key.layer = k->block[b].key.layer;
    Scoutkv__Describe ask = SCOUTKV__DESCRIBE__INIT;
    ask.key = &key;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.body_case = SCOUTKV__HEADER__BODY_DESCRIBE;
    h.describe = &ask;
    assert_int_equal(client_call(k->w.client, node, false, &h, (struct view){0},
                                 SCOUTKV__HEADER__BODY_DESCRIBED, on_described, &d, k->w.now, NULL),
                     0);
    while (!d.answers)
        world_step(&k->w);
    return d;
}

static void on_done(void *arg, int rc, const struct message *m, const struct skv_error *err)
{
    (void)m, (void)err;
    assert_int_equal(rc, 0);
    *(bool *)arg = true;
}

static void pin(struct cluster *k, unsigned b, unsigned node)
{
    bool done = false;
    Scoutkv__Key key = SCOUTKV__KEY__INIT, *keys[] = {&key};
    key.chain = (ProtobufCBinaryData){CHAIN_BYTES, k->block[b].key.chain};
    key.layer = k->block[b].key.layer;
    Scoutkv__Pin p = SCOUTKV__PIN__INIT;
    p.owner = "story";
    p.n_keys = 1;
    p.keys = keys;
    p.ttl_ms = 3600 * 1000;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.body_case = SCOUTKV__HEADER__BODY_PIN;
    h.pin = &p;
    assert_int_equal(client_call(k->w.client, node, false, &h, (struct view){0}, SCOUTKV__HEADER__BODY_DONE,
                                 on_done, &done, k->w.now, NULL),
                     0);
    while (!done)
        world_step(&k->w);
}

static void leases_move_along(void **state)
{
    (void)state;
    struct rebalance_report report;
    struct cluster *k = cluster_new(5, &(struct world){.delay_ns = NS_PER_MS});
    for (unsigned b = 0; b < N_BLOCKS; b++)
        put_at(k, b, 0);
    settle(k);
    for (unsigned b = 0; b < N_BLOCKS; b += 2)
        pin(k, b, 0);
    pass(k, &(struct rebalance_opts){0}, 0, true, &report);
    assert_int_equal(report.failed + report.leased, 0);
    expect_clean(k);
    for (unsigned b = 0; b < N_BLOCKS; b++)
        for (unsigned i = 0; i < N_NODES; i++) {
            struct described d = describe(k, b, i);
            assert_int_equal(d.found, places(k, b) >> i & 1);
            assert_int_equal(d.leases, d.found && b % 2 == 0);
            if (d.leases)
                assert_in_range(d.ttl_ms, 3500 * 1000, 3600 * 1000);
        }
    cluster_free(k);
}

/* Two writers that did not see each other: both versions are wanted by somebody, and both stay. */
static void every_version_stays(void **state)
{
    (void)state;
    struct rebalance_report report;
    struct cluster *k = cluster_new(6, &(struct world){0});
    struct world_block other;
    unsigned seen[2] = {0};
    world_block_make(&other, &layout, 99);
    other.key = k->block[0].key;
    block_checksums(&other.key, &layout, other.payload->data, other.checksums);
    put_at(k, 0, 3);
    settle(k);
    assert_int_equal(put_begin(k->w.client, 1, &other.key, &layout, other.payload, other.checksums,
                               TIER_ACK_RAM, on_put, NULL, NULL),
                     0);
    settle(k);
    drain(k, 3);
    pass(k, &(struct rebalance_opts){0}, 0, false, &report);
    assert_int_equal(report.conflicts, 1);
    pass(k, &(struct rebalance_opts){0}, 0, false, &report);
    for (unsigned i = 0; i < N_NODES; i++) {
        struct described d = describe(k, 0, i);
        seen[0] += d.found && d.checksum == k->block[0].checksums[0];
        seen[1] += d.found && d.checksum == other.checksums[0];
    }
    /* The first in rank has its copies. If that is not what the draining node holds, there is one place left
     * for that, and the draining node keeps its copy. */
    assert_int_equal(seen[0], R);
    assert_true(seen[1] >= 1);
    assert_int_equal(report.conflicts, 1);
    buf_unref(other.payload);
    cluster_free(k);
}

static bool refuse_puts(struct world *w, struct world_message *m)
{
    Scoutkv__Header *asked = scoutkv__header__unpack(NULL, m->header->len, m->header->data);
    bool put = !m->to_client && asked->body_case == SCOUTKV__HEADER__BODY_PUT;
    if (put) {
        Scoutkv__Refused refused = SCOUTKV__REFUSED__INIT;
        refused.reason = SCOUTKV__REFUSED__REASON__FULL;
        refused.text = "node 'n3' is full";
        refused.credit = m->payload.len;
        Scoutkv__Header h = SCOUTKV__HEADER__INIT;
        h.version = 1;
        h.id = asked->id;
        h.body_case = SCOUTKV__HEADER__BODY_REFUSED;
        h.refused = &refused;
        struct buf *header = header_pack(&h);
        world_enqueue(w, true, m->lane, header, NULL);
        buf_unref(header);
        w->unacked[m->lane] -= m->payload.len;
    }
    scoutkv__header__free_unpacked(asked, NULL);
    return !put && watch(w, m);
}

static void full_nodes_are_told(void **state)
{
    (void)state;
    struct rebalance_report report;
    struct cluster *k = cluster_new(7, &(struct world){0});
    scatter(k);
    struct rebalance_report before = scan(k);
    k->w.tamper = refuse_puts;
    pass(k, &(struct rebalance_opts){0}, 0, true, &report);
    assert_true(report.failed > 0 && report.failed < N_BLOCKS);
    assert_int_equal(report.copied, 0);
    assert_int_equal(report.failure.code, -ENOSPC);
    assert_non_null(strstr(report.failure.text, "is full"));
    assert_true(report.dropped < before.elsewhere); /* what lacks a copy keeps the others */
    cluster_free(k);
}

static void copying_keeps_its_pace(void **state)
{
    (void)state;
    struct rebalance_report report;
    struct cluster *k = cluster_new(8, &(struct world){0});
    scatter(k);
    uint64_t rate = 64 << 10, begin = k->w.now;
    pass(k, &(struct rebalance_opts){.rate = rate}, 0, false, &report);
    double seconds = (double)(k->w.now - begin) / 1e9, least = (double)report.copied_bytes / (double)rate;
    assert_true(report.copied > 20);
    if (seconds < 0.8 * least || seconds > 2 * least + 1)
        fail_msg("%.1f s for what should take %.1f s", seconds, least);
    cluster_free(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scattered_blocks_find_home), cmocka_unit_test(a_drained_node_ends_empty),
        cmocka_unit_test(lost_copies_are_rebuilt),    cmocka_unit_test(cut_short_and_begun_again),
        cmocka_unit_test(views_may_change_meanwhile), cmocka_unit_test(ill_networks_lose_nothing),
        cmocka_unit_test(leases_move_along),          cmocka_unit_test(every_version_stays),
        cmocka_unit_test(full_nodes_are_told),        cmocka_unit_test(copying_keeps_its_pace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
