/* test_node_objects.c: manifests and sidecars of a memory node with a disk, which is simulated: what was
 * acknowledged is back after kills and losses of power, in that version or a later one, and never with wrong
 * bytes; ends and drops hold; blocks that come and go evict none. SEED=n runs one history. */
#include "memnode/node_impl.h"
#include "tests/store/sim_disk.h"
#include "tests/unit/node_asserts.h"

enum { N_NAMES = 8, MANIFESTS = 5, MAX_TRIED = 400, LIVES = 6, STEPS = 30 };

static const struct store_disk disk = {"d", STORE_DISK_MIN};

static uint64_t next(uint64_t *rng)
{
    *rng ^= *rng << 13;
    *rng ^= *rng >> 7;
    *rng ^= *rng << 17;
    return *rng * UINT64_C(0x2545f4914f6cdd1d) >> 16;
}

/* A put or drop that was asked for. */
struct tried {
    uint64_t revision, end_wall; /* 0: for ever */
    bool dropped, durable;       /* durable: acknowledged so */
};

struct world {
    uint64_t seed, rng;
    struct sim *sim;
    struct harness *h;
    uint64_t wall, revisions; /* wall: when the node's clock is 0 */
    unsigned n_tried[N_NAMES];
    struct tried tried[N_NAMES][MAX_TRIED];
    bool flips, churn; /* churn: blocks come and go; then nothing ends and nothing is dropped */
    unsigned n_blocks, n_found;
};

#define CHECK(w, condition, ...)                                       \
    do {                                                               \
        if (!(condition)) {                                            \
            fprintf(stderr, "SEED=%" PRIu64 ": ", (w)->seed);          \
            fprintf(stderr, __VA_ARGS__);                              \
            fail_msg(" at %s:%d: %s", __FILE__, __LINE__, #condition); \
        }                                                              \
    } while (0)

static void begin(struct world *w)
{
    uint64_t now = (1000 + next(&w->rng) % 1000000) * NS_PER_S, wall_now = w->wall;
    w->h = h_new(&(struct node_opts){.id = "n1",
                                     .ram = 32 * MIB,
                                     .disks = &disk,
                                     .n_disks = 1,
                                     .io = sim_io(w->sim),
                                     .wall_offset = (int64_t)(wall_now - now)});
    w->h->now = now;
    w->wall = wall_now - now;
    h_hello(w->h, H_BULK, 0, true);
    h_hello(w->h, H_READ, 0, false);
    h_clear(w->h);
}

static uint64_t wall_now(const struct world *w)
{
    return w->wall + w->h->now;
}

static void end(struct world *w)
{
    w->wall = wall_now(w);
    h_free(w->h);
    sim_io(w->sim)->ops->close(sim_io(w->sim));
    w->h = NULL;
}

static void run(struct world *w, unsigned ms)
{
    for (unsigned i = 0; i < ms; i++) {
        w->h->now += NS_PER_MS;
        node_run(w->h->node, w->h->now);
        if (w->h->now / NS_PER_MS % 100 == 0)
            node_tick(w->h->node, w->h->now);
    }
}

static struct message *answer(struct world *w, uint64_t id)
{
    for (size_t i = 0; i < w->h->n_sent; i++)
        if (w->h->sent[i].m.header->id == id)
            return &w->h->sent[i].m;
    return NULL;
}

/* The answer, once it has come; NULL: the disk died before. */
static struct message *wait_for(struct world *w, uint64_t id)
{
    for (unsigned ms = 0; ms < 8000 && !sim_dead(w->sim); ms++) {
        struct message *m = answer(w, id);
        if (m)
            return m;
        run(w, 1);
    }
    CHECK(w, sim_dead(w->sim), "a request was never answered");
    return NULL;
}

static Scoutkv__ObjectKind kind_of(unsigned name)
{
    return name < MANIFESTS ? SCOUTKV__OBJECT_KIND__MANIFEST : SCOUTKV__OBJECT_KIND__SIDECAR;
}

static char *name_of(unsigned name)
{
    static char text[16];
    snprintf(text, sizeof text, "name %u", name);
    return text;
}

/* What a revision of a name holds; sidecars have the same bytes whatever their revision. */
static struct buf *content(const struct world *w, unsigned name, uint64_t revision)
{
    uint64_t rng = w->seed * 1000 + name * 77 + (name < MANIFESTS ? revision * 7919 : 0) + 1;
    static const size_t most[] = {1, 600, 20000, 200000};
    next(&rng);
    size_t len = next(&rng) % most[next(&rng) % 4];
    if (next(&rng) % 16 == 0)
        len = PROTO_MAX_OBJECT;
    struct buf *b = buf_new(len);
    for (size_t i = 0; i < len; i++)
        b->data[i] = (uint8_t)(rng >> i % 56) + (uint8_t)(i >> 8);
    return b;
}

static uint64_t ask_put(struct world *w, unsigned name, const struct tried *t, bool durable, uint64_t ttl_ms)
{
    struct buf *b = content(w, name, t->revision);
    Scoutkv__ObjectPut put = SCOUTKV__OBJECT_PUT__INIT;
    put.kind = kind_of(name);
    put.name = name_of(name);
    put.checksum = object_checksum(put.kind, put.name, b->data, b->len);
    put.revision = t->revision;
    put.ttl_ms = ttl_ms;
    put.ack = durable ? SCOUTKV__ACK__DURABLE : SCOUTKV__ACK__RAM;
    H_HEADER(header, OBJECT_PUT, object_put, &put);
    uint64_t id = h_request(w->h, H_BULK, &header, b);
    buf_unref(b);
    return id;
}

static uint64_t ask_drop(struct world *w, unsigned name, uint64_t revision, bool durable)
{
    Scoutkv__ObjectDrop drop = SCOUTKV__OBJECT_DROP__INIT;
    drop.kind = kind_of(name);
    drop.name = name_of(name);
    drop.revision = revision;
    drop.ack = durable ? SCOUTKV__ACK__DURABLE : SCOUTKV__ACK__RAM;
    H_HEADER(header, OBJECT_DROP, object_drop, &drop);
    return h_request(w->h, H_BULK, &header, NULL);
}

static struct message *get(struct world *w, unsigned name)
{
    Scoutkv__ObjectGet ask = SCOUTKV__OBJECT_GET__INIT;
    ask.kind = kind_of(name);
    ask.name = name_of(name);
    for (unsigned tries = 0; tries < 5000; tries++) {
        H_HEADER(header, OBJECT_GET, object_get, &ask);
        h_clear(w->h);
        struct message *m = wait_for(w, h_request(w->h, H_READ, &header, NULL));
        if (!m || m->header->body_case != SCOUTKV__HEADER__BODY_REFUSED ||
            m->header->refused->reason != REASON(STARTING))
            return m;
        run(w, 2);
    }
    CHECK(w, false, "the node never knew its objects");
    return NULL;
}

/* ---- what must hold ---- */

/* The latest revision that was acknowledged as durable; what comes back is not older. */
static uint64_t promised(const struct world *w, unsigned name)
{
    uint64_t most = 0;
    for (unsigned i = 0; i < w->n_tried[name]; i++)
        if (w->tried[name][i].durable && w->tried[name][i].revision > most)
            most = w->tried[name][i].revision;
    return most;
}

static bool may_be_absent(const struct world *w, unsigned name, uint64_t at_least)
{
    for (unsigned i = 0; i < w->n_tried[name]; i++) {
        const struct tried *t = &w->tried[name][i];
        if (t->revision >= at_least && (t->dropped || (t->end_wall && t->end_wall <= wall_now(w))))
            return true;
    }
    return at_least == 0;
}

static void check_name(struct world *w, unsigned name)
{
    struct message *m = get(w, name);
    uint64_t least = promised(w, name);
    if (!m)
        return;
    if (m->header->body_case == SCOUTKV__HEADER__BODY_REFUSED) {
        CHECK(w, w->flips && m->header->refused->reason == REASON(CHECKSUM), "name %u: %s", name,
              m->header->refused->text);
        return;
    }
    const Scoutkv__Object *o = m->header->object;
    CHECK(w, m->header->body_case == SCOUTKV__HEADER__BODY_OBJECT, "no object");
    if (!o->found) {
        CHECK(w, w->flips || may_be_absent(w, name, least),
              "name %u is gone, and revision %" PRIu64 " was promised", name, least);
        return;
    }
    const struct tried *t = NULL;
    for (unsigned i = 0; i < w->n_tried[name]; i++)
        if (!w->tried[name][i].dropped && w->tried[name][i].revision == o->revision)
            t = &w->tried[name][i]; /* of those that moved its end, the last */
    w->n_found++;
    CHECK(w, t, "name %u came back with revision %" PRIu64 ", which nobody put", name, o->revision);
    struct buf *b = content(w, name, o->revision);
    CHECK(w, b->len == m->payload.len && (b->len == 0 || memcmp(b->data, m->payload.data, b->len) == 0),
          "name %u came back with wrong bytes", name);
    buf_unref(b);
    CHECK(w, w->flips || o->revision >= least,
          "name %u came back with revision %" PRIu64 "; %" PRIu64 " was promised", name, o->revision, least);
}

/* ---- histories ---- */

/* Blocks that nobody needs, many times what the disk holds. */
static void put_blocks(struct world *w)
{
    for (unsigned i = 0; i < 8; i++) {
        struct h_block b;
        h_block_sized(&b, 0, ++w->n_blocks,
                      (struct block_layout){.dtype = 1, .d_k = 64, .d_v = 64, .n_heads = 16});
        Scoutkv__Put put = h_put_of(&b);
        H_HEADER(header, PUT, put, &put);
        wait_for(w, h_request(w->h, H_BULK, &header, b.payload));
        h_block_free(&b);
        h_clear(w->h);
    }
}

static void one_step(struct world *w)
{
    if (w->churn)
        put_blocks(w);
    unsigned name = (unsigned)(next(&w->rng) % N_NAMES);
    unsigned what = (unsigned)(next(&w->rng) % 10);
    struct tried *t = &w->tried[name][w->n_tried[name]];
    bool durable = next(&w->rng) % 3 != 0, hasty = next(&w->rng) % 6 == 0;
    uint64_t ttl_ms = w->churn || next(&w->rng) % 3 ? 0 : 20000 + next(&w->rng) % 40000, id;
    h_clear(w->h);
    if (what == 0) {
        run(w, (unsigned)(next(&w->rng) % 3000));
        w->h->now += next(&w->rng) % 8 * NS_PER_S;
        return;
    }
    if (what < 4) {
        check_name(w, name);
        return;
    }
    CHECK(w, w->n_tried[name] < MAX_TRIED, "too long");
    *t = (struct tried){.revision = ++w->revisions};
    if (kind_of(name) == SCOUTKV__OBJECT_KIND__SIDECAR) /* its end may be told a quarter later */
        t->end_wall = ttl_ms ? wall_now(w) + ttl_ms * 5 / 4 * NS_PER_MS : 0;
    else
        t->end_wall = ttl_ms ? wall_now(w) + ttl_ms * NS_PER_MS : 0;
    t->dropped = what == 4 && !w->churn;
    w->n_tried[name]++;
    id = t->dropped ? ask_drop(w, name, t->revision, durable) : ask_put(w, name, t, durable, ttl_ms);
    struct message *m = hasty ? NULL : wait_for(w, id);
    if (!m)
        return;
    if (m->header->body_case == SCOUTKV__HEADER__BODY_REFUSED) {
        CHECK(w, m->header->refused->reason == REASON(STARTING), "name %u: %s", name,
              m->header->refused->text);
        w->n_tried[name]--;
        run(w, 10);
        return;
    }
    CHECK(w, m->header->body_case == SCOUTKV__HEADER__BODY_DONE, "not done");
    if (t->dropped && m->header->done->count == 0)
        w->n_tried[name]--; /* there was nothing to drop */
    else if (!t->dropped && m->header->done->revision != t->revision)
        t->revision = m->header->done->revision; /* a sidecar that was there: its end has moved, perhaps */
    t->durable = durable;
}

static void some_flips(struct world *w)
{
    const char *dir;
    uint64_t size, at;
    w->flips = true;
    for (unsigned i = 0, n; i < 30; i++) {
        const char *file = NULL;
        for (n = (unsigned)(next(&w->rng) % 12); !file; n /= 2)
            file = sim_file(w->sim, n, &dir, &size);
        if (strcmp(file, "store") != 0 && sim_written_page(w->sim, dir, file, &at))
            sim_flip(w->sim, dir, file, at + next(&w->rng) % 4096, (unsigned)(next(&w->rng) % 8));
    }
}

static void one_history(uint64_t seed, bool flips, bool churn)
{
    struct world *w = calloc(1, sizeof *w);
    w->seed = seed;
    w->churn = churn;
    w->rng = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    w->wall = UINT64_C(1700000000) * NS_PER_S;
    w->sim = sim_new(seed);
    for (unsigned life = 0; life < LIVES; life++) {
        sim_set_pace(w->sim, 20 + (unsigned)(next(&w->rng) % 80));
        begin(w);
        if (flips && next(&w->rng) % 2) {
            sim_set_faults(w->sim, &(struct sim_faults){.read_error = 30000, .read_misdirected = 30000});
            w->flips = true;
        }
        if (life)
            for (unsigned name = 0; name < N_NAMES; name++)
                check_name(w, name);
        if (next(&w->rng) % 3 == 0)
            (next(&w->rng) % 2 ? sim_kill_after : sim_power_loss_after)(w->sim, next(&w->rng) % 300);
        for (unsigned i = 0; i < STEPS && !sim_dead(w->sim); i++)
            one_step(w);
        if (!sim_dead(w->sim))
            (next(&w->rng) % 2 ? sim_kill : sim_power_loss)(w->sim);
        end(w);
        sim_set_faults(w->sim, &(struct sim_faults){0});
        if (flips && life == LIVES - 2)
            some_flips(w);
    }
    CHECK(w, w->n_found > LIVES, "hardly anything was there: this tests nothing");
    CHECK(w, !churn || w->n_blocks > 2 * 256, "too few blocks: this tests nothing");
    sim_free(w->sim);
    free(w);
}

static void histories(unsigned n, bool flips, bool churn)
{
    const char *seed = getenv("SEED");
    uint64_t first = seed ? strtoull(seed, NULL, 10) : 1;
    for (uint64_t i = first; i < first + (seed ? 1 : n); i++)
        one_history(i, flips, churn);
}

static void survive_crashes(void **state)
{
    (void)state;
    histories(25, false, false);
}

static void never_wrong_bytes(void **state)
{
    (void)state;
    histories(15, true, false);
}

static void never_evicted(void **state)
{
    (void)state;
    histories(2, false, true);
}

/* ---- leases ---- */

static void setup(struct world *w, uint64_t seed)
{
    *w = (struct world){.seed = seed, .rng = seed + 1, .wall = UINT64_C(1700000000) * NS_PER_S};
    w->sim = sim_new(seed);
    sim_set_pace(w->sim, 100);
    begin(w);
    run(w, 100);
}

static void teardown(struct world *w)
{
    end(w);
    sim_free(w->sim);
}

static void crash(struct world *w, bool power)
{
    (power ? sim_power_loss : sim_kill)(w->sim);
    end(w);
    begin(w);
    run(w, 500);
}

static const Scoutkv__Header *ask(struct world *w, char op, const char *owner, uint32_t ttl_ms,
                                  struct h_block **blocks, size_t n)
{
    ask_keys(w->h, H_READ, op, owner, ttl_ms, blocks, n);
    for (unsigned ms = 0; ms < 1000 && !w->h->n_sent; ms++)
        run(w, 1);
    assert_true(w->h->n_sent > 0);
    return w->h->sent[0].m.header;
}

static void leases_survive(void **state)
{
    (void)state;
    enum { N = 6 };
    for (unsigned power = 0; power < 2; power++) {
        struct world w;
        struct h_block b[N], *all[N];
        setup(&w, 7 + power);
        for (uint32_t i = 0; i < N; i++) {
            h_block(&b[i], 0, i);
            all[i] = &b[i];
            Scoutkv__Put put = h_put_of(&b[i]);
            put.ack = SCOUTKV__ACK__DURABLE;
            H_HEADER(header, PUT, put, &put);
            put_is(wait_for(&w, h_request(w.h, H_BULK, &header, b[i].payload))->header, STORED);
        }
        done_is(ask(&w, 'P', "long", 600000, all, 3), 3);
        done_is(ask(&w, 'P', "long", 600000, all, 3), 3); /* again, and again with another end */
        done_is(ask(&w, 'P', "long", 900000, all, 3), 3);
        done_is(ask(&w, 'P', "short", 20000, all + 2, 2), 2);
        done_is(ask(&w, 'P', "given back", 600000, all + 4, 1), 1);
        done_is(ask(&w, 'U', "given back", 0, NULL, 0), 1);
        assert_int_equal(h_counter(w.h, "leases"), 5);
        assert_int_equal(h_counter(w.h, "objects"), 0); /* they are nobody's business */
        run(&w, 500);
        crash(&w, power);
        assert_int_equal(h_counter(w.h, "leases"), 5);
        for (unsigned i = 0; i < 4; i++)
            refused(ask(&w, 'D', NULL, 0, all + i, 1), REASON(LEASED), i < 2 ? "'long'" : "leased by");
        done_is(ask(&w, 'D', NULL, 0, all + 4, 1), 1); /* was given back */
        w.h->now += 30 * NS_PER_S;
        crash(&w, power);
        assert_int_equal(h_counter(w.h, "leases"), 3); /* the short ones have ended */
        done_is(ask(&w, 'D', NULL, 0, all + 3, 1), 1);
        refused(ask(&w, 'D', NULL, 0, all + 2, 1), REASON(LEASED), "'long'");
        done_is(ask(&w, 'U', "long", 0, NULL, 0), 3);
        run(&w, 500);
        crash(&w, power);
        assert_int_equal(h_counter(w.h, "leases"), 0);
        done_is(ask(&w, 'P', "long", 600000, all, 3), 3);
        crash(&w, power);
        assert_int_equal(h_counter(w.h, "leases"), 3);
        teardown(&w);
        for (unsigned i = 0; i < N; i++)
            h_block_free(&b[i]);
    }
}

/* What leases hold is not evicted while a node that has just started does not know its leases yet. */
static void leased_blocks_stay(void **state)
{
    (void)state;
    enum { N = 8 };
    struct world w;
    struct h_block b[N], *all[N];
    uint64_t evicted = 0;
    setup(&w, 9);
    for (uint32_t i = 0; i < N; i++) {
        h_block(&b[i], 0, 1000000 + i);
        all[i] = &b[i];
        Scoutkv__Put put = h_put_of(&b[i]);
        H_HEADER(header, PUT, put, &put);
        put_is(wait_for(&w, h_request(w.h, H_BULK, &header, b[i].payload))->header, STORED);
    }
    done_is(ask(&w, 'P', "ctx", 100000000, all, N), N);
    for (unsigned life = 0; life < 3; life++) {
        for (unsigned i = 0; i < 25; i++)
            put_blocks(&w);
        run(&w, 500);
        evicted += h_counter(w.h, "disk_evicted");
        crash(&w, true);
    }
    assert_true(evicted > 0);
    const Scoutkv__Header *a = ask(&w, 'H', NULL, 0, all, N);
    for (unsigned i = 0; i < N; i++)
        assert_int_equal(a->have_ack->present.data[i], 1);
    teardown(&w);
    for (unsigned i = 0; i < N; i++)
        h_block_free(&b[i]);
}

/* Objects fill a disk; then it says so, and dropping some makes room for others. */
static void a_full_disk(void **state)
{
    (void)state;
    struct world w;
    struct buf *bytes = buf_new(PROTO_MAX_OBJECT);
    memset(bytes->data, 7, bytes->len);
    setup(&w, 11);
    unsigned n = 0, dropped = 0;
    const Scoutkv__Header *a = NULL;
    char name[16];
    Scoutkv__ObjectPut put = SCOUTKV__OBJECT_PUT__INIT;
    put.kind = SCOUTKV__OBJECT_KIND__SIDECAR;
    put.name = name;
    for (; n < 200; n++) {
        snprintf(name, sizeof name, "%u", n);
        put.checksum = object_checksum(put.kind, name, bytes->data, bytes->len);
        H_HEADER(header, OBJECT_PUT, object_put, &put);
        h_clear(w.h);
        a = wait_for(&w, h_request(w.h, H_BULK, &header, bytes))->header;
        if (a->body_case == SCOUTKV__HEADER__BODY_REFUSED)
            break;
        done_is(a, 1);
    }
    assert_in_range(n, 30, 64 + 32);
    refused(a, REASON(FULL), "");
    for (unsigned i = 0; i < n; i++) {
        Scoutkv__ObjectDrop drop = SCOUTKV__OBJECT_DROP__INIT;
        drop.kind = put.kind;
        drop.name = name;
        snprintf(name, sizeof name, "%u", i);
        H_HEADER(header, OBJECT_DROP, object_drop, &drop);
        h_clear(w.h);
        a = wait_for(&w, h_request(w.h, H_BULK, &header, NULL))->header;
        dropped += a->body_case == SCOUTKV__HEADER__BODY_DONE;
        run(&w, 20);
    }
    assert_int_equal(dropped, n);
    run(&w, 1000);
    for (unsigned i = 0; i < 20; i++) {
        snprintf(name, sizeof name, "again %u", i);
        put.checksum = object_checksum(put.kind, name, bytes->data, bytes->len);
        put.ack = SCOUTKV__ACK__DURABLE;
        H_HEADER(header, OBJECT_PUT, object_put, &put);
        h_clear(w.h);
        done_is(wait_for(&w, h_request(w.h, H_BULK, &header, bytes))->header, 1);
    }
    assert_int_equal(h_counter(w.h, "objects"), 20);
    buf_unref(bytes);
    teardown(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(survive_crashes),    cmocka_unit_test(never_wrong_bytes),
        cmocka_unit_test(never_evicted),      cmocka_unit_test(leases_survive),
        cmocka_unit_test(leased_blocks_stay), cmocka_unit_test(a_full_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
