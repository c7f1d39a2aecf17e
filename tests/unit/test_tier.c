/* The tier over real sockets: the embedded node and memory nodes on TCP in threads of this process; nodes
 * that are not there, die, come back, answer damaged messages or speak another version. */
#include "decoder/tier/tier.h"

#include "common/clock.h"
#include "common/zmqx.h"
#include "memnode/server.h"
#include "tests/unit/tier_world.h"

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

enum {
    N_BLOCKS = 64,
    HEADS = 2,
    PER_BLOCK = HEADS * BLOCK_PAGES,
    N_WANTS = N_BLOCKS * PER_BLOCK,
    MAX_SERVERS = 4
};
static const struct block_layout layout = {
    .dtype = 1, .d_k = 64, .d_v = 64, .n_heads = HEADS}; /* pages of 4 KiB */

static struct world_block blocks[N_BLOCKS];
static struct block_key keys[N_BLOCKS];
static struct tier_want wants[N_WANTS];

static int make_blocks(void **state)
{
    (void)state;
    for (unsigned b = 0; b < N_BLOCKS; b++) {
        world_block_make(&blocks[b], &layout, 77 + b);
        keys[b] = blocks[b].key;
        for (unsigned p = 0; p < PER_BLOCK; p++)
            wants[b * PER_BLOCK + p] = (struct tier_want){&blocks[b].key, (uint16_t)(p / BLOCK_PAGES),
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

/* ---- servers ---- */

struct servers {
    void *zmq;
    unsigned n;
    struct server *server[MAX_SERVERS];
    char addr[MAX_SERVERS][ZMQX_ENDPOINT]; /* host:port */
    char list[MAX_SERVERS * ZMQX_ENDPOINT];
};

static void server_up(struct servers *s, unsigned i, const char *endpoint)
{
    char id[8];
    struct skv_error err;
    snprintf(id, sizeof id, "n%u", i + 1);
    struct node_opts opts = {.id = id, .ram = 64 << 20};
    s->server[i] = server_start(s->zmq, endpoint, &opts, &err);
    if (!s->server[i])
        fail_msg("%s", err.text);
    snprintf(s->addr[i], sizeof s->addr[i], "%s", server_endpoint(s->server[i]) + strlen("tcp://"));
}

static struct servers *servers_start(unsigned n)
{
    struct servers *s = calloc(1, sizeof *s);
    s->zmq = zmqx_ctx_new(1, NULL);
    s->n = n;
    for (unsigned i = 0; i < n; i++) {
        server_up(s, i, "tcp://127.0.0.1:0");
        snprintf(s->list + strlen(s->list), sizeof s->list - strlen(s->list), "%s%s", i ? "," : "",
                 s->addr[i]);
    }
    return s;
}

static void servers_stop(struct servers *s)
{
    for (unsigned i = 0; i < s->n; i++)
        server_stop(s->server[i]);
    zmqx_ctx_free(s->zmq);
    free(s);
}

static struct tier *open_tier(const char *nodes, uint32_t timeout_ms)
{
    struct tier_opts o = {.nodes = nodes, .ram = 64 << 20, .timeout_ms = timeout_ms, .get_window = 256 << 10};
    struct tier *t;
    struct skv_error err;
    if (tier_open(&o, &t, &err))
        fail_msg("%s", err.text);
    return t;
}

/* ---- blocks in and out ---- */

static void count_put(void *arg, const struct tier_put_result *r)
{
    assert_true(r->rc == 0 ? !r->err : r->err && strlen(r->err->text) > 20);
    assert_null(r->stored);
    ++*(unsigned *)arg;
}

static int put_all(struct tier *t, struct skv_error *err)
{
    unsigned answered = 0;
    for (unsigned b = 0; b < N_BLOCKS; b++) {
        int rc = tier_put(t, &blocks[b].key, &layout, blocks[b].payload, blocks[b].checksums, TIER_ACK_RAM,
                          count_put, &answered, err);
        if (rc)
            return rc;
    }
    int rc = tier_flush(t, err);
    assert_int_equal(answered, N_BLOCKS);
    return rc;
}

struct got {
    unsigned ok, failed;
    uint8_t seen[N_WANTS];
};
static void on_page(void *arg, size_t want, int rc, const uint8_t *bytes)
{
    struct got *g = arg;
    size_t len = layout_page_bytes(&layout);
    if (g->seen[want]++)
        fail_msg("page %zu was answered twice", want);
    if (rc == 0)
        assert_memory_equal(bytes, blocks[want / PER_BLOCK].payload->data + want % PER_BLOCK * len, len);
    g->ok += rc == 0;
    g->failed += rc != 0;
}

static int get_all(struct tier *t, struct got *g, struct skv_error *err)
{
    struct tier_fetch *f;
    memset(g, 0, sizeof *g);
    int rc = tier_fetch_begin(t, &layout, wants, N_WANTS, on_page, g, &f, err);
    if (rc)
        return rc;
    rc = tier_fetch_end(t, f, err);
    assert_int_equal(g->ok + g->failed, N_WANTS);
    return rc;
}

/* ---- everything that a tier does ---- */

static uint64_t counter(struct tier *t, const char *name, unsigned *n_nodes)
{
    struct tier_counter *all;
    struct skv_error err;
    size_t n;
    uint64_t sum = 0;
    *n_nodes = 0;
    if (tier_stats(t, &all, &n, &err))
        fail_msg("%s", err.text);
    for (size_t i = 0; i < n; i++)
        if (strcmp(all[i].name, name) == 0) {
            sum += all[i].value;
            ++*n_nodes;
        }
    free(all);
    return sum;
}

static void use_objects(struct tier *t)
{
    struct skv_error err;
    struct buf *b;
    char name[300], *big = malloc(PROTO_MAX_OBJECT + 1);
    memset(big, 'x', PROTO_MAX_OBJECT + 1);
    assert_int_equal(tier_object_get(t, TIER_MANIFEST, "nothing", &b, NULL, &err), -ENOENT);
    for (int i = 0; i < 8; i++) {
        snprintf(name, sizeof name, "object-%d", i);
        assert_int_equal(
            tier_object_put(t, TIER_MANIFEST, name, big, (size_t)i * PROTO_MAX_OBJECT / 7, NULL, &err), 0);
        assert_int_equal(tier_object_get(t, TIER_MANIFEST, name, &b, NULL, &err), 0);
        assert_int_equal(b->len, (size_t)i * PROTO_MAX_OBJECT / 7);
        assert_memory_equal(b->data, big, b->len);
        buf_unref(b);
        assert_int_equal(tier_object_get(t, TIER_SIDECAR, name, &b, NULL, &err), -ENOENT);
    }
    assert_int_equal(tier_object_put(t, TIER_MANIFEST, "object-1", "new", 3, NULL, &err),
                     0); /* manifests are replaced */
    assert_int_equal(tier_object_get(t, TIER_MANIFEST, "object-1", &b, NULL, &err), 0);
    assert_memory_equal(b->data, "new", 3);
    buf_unref(b);
    assert_int_equal(tier_object_put(t, TIER_SIDECAR, "s", "one", 3, NULL, &err), 0); /* sidecars are not */
    assert_int_equal(tier_object_put(t, TIER_SIDECAR, "s", "two", 3, NULL, &err), -ESTALE);
    assert_int_equal(tier_object_put(t, TIER_MANIFEST, "large", big, PROTO_MAX_OBJECT + 1, NULL, &err),
                     -EMSGSIZE);
    assert_int_equal(tier_object_put(t, TIER_MANIFEST, "", "x", 1, NULL, &err), -EINVAL);
    memset(name, 'n', sizeof name);
    name[256] = 0;
    assert_int_equal(tier_object_get(t, TIER_MANIFEST, name, &b, NULL, &err), -EINVAL);
    free(big);
}

struct names {
    char text[4096];
    unsigned n;
};

static void note_name(void *arg, const char *name)
{
    struct names *got = arg;
    got->n++;
    if (got->n <= 5)
        strcat(strcat(got->text, name), " ");
}

/* With nothing to move it waits, but not when there is something else to do. */
static void other_work_ends_a_wait(void **state)
{
    (void)state;
    struct tier *t = open_tier(NULL, 5000);
    struct skv_error err;
    uint64_t one = 1, begin = clock_ns();
    int fd = eventfd(0, EFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(tier_pump_or(t, fd, 100, &err), 0);
    assert_true(clock_ns() - begin >= 100 * NS_PER_MS);
    assert_int_equal(write(fd, &one, sizeof one), sizeof one);
    begin = clock_ns();
    assert_int_equal(tier_pump_or(t, fd, 600000, &err), 0);
    assert_true(clock_ns() - begin < 300 * NS_PER_S);
    close(fd);
    tier_close(t);
}

static void list_is(struct tier *t, enum tier_object kind, const char *prefix, const char *first, unsigned n)
{
    struct names got = {0};
    struct skv_error err;
    assert_int_equal(tier_object_list(t, kind, prefix, note_name, &got, &err), 0);
    assert_string_equal(got.text, first);
    assert_int_equal(got.n, n);
}

static void object_is(struct tier *t, const char *name, const char *text, uint64_t revision)
{
    struct skv_error err;
    struct buf *b;
    uint64_t r = 0;
    if (tier_object_get(t, TIER_MANIFEST, name, &b, &r, &err))
        fail_msg("%s", err.text);
    assert_int_equal(b->len, strlen(text));
    assert_memory_equal(b->data, text, b->len);
    assert_true(r == revision);
    buf_unref(b);
}

/* Revisions, conditions, ends, drops and lists. */
static void use_object_options(struct tier *t)
{
    struct skv_error err;
    struct buf *b;
    uint64_t one = 0, two = 0;
    char name[32];
    struct tier_object_opts o = {.revision = &one, .absent = true};
    assert_int_equal(tier_object_put(t, TIER_MANIFEST, "cas", "1", 1, &o, &err), 0);
    assert_int_equal(tier_object_put(t, TIER_MANIFEST, "cas", "x", 1, &o, &err), -ESTALE);
    object_is(t, "cas", "1", one);
    o = (struct tier_object_opts){.revision = &two, .expect = one};
    assert_int_equal(tier_object_put(t, TIER_MANIFEST, "cas", "2", 1, &o, &err), 0);
    assert_true(two > one);
    assert_int_equal(tier_object_put(t, TIER_MANIFEST, "cas", "3", 1, &o, &err), -ESTALE);
    assert_non_null(strstr(err.text, "somebody else"));
    object_is(t, "cas", "2", two);
    o = (struct tier_object_opts){.durable = true};
    assert_int_equal(tier_object_put(t, TIER_MANIFEST, "cas", "3", 1, &o, &err), -ENOTSUP);

    assert_int_equal(tier_object_drop(t, TIER_MANIFEST, "cas", &err), 0);
    assert_int_equal(tier_object_drop(t, TIER_MANIFEST, "cas", &err), -ENOENT);
    assert_int_equal(tier_object_get(t, TIER_MANIFEST, "cas", &b, NULL, &err), -ENOENT);
    o = (struct tier_object_opts){.expect = two};
    assert_int_equal(tier_object_put(t, TIER_MANIFEST, "cas", "4", 1, &o, &err),
                     -ESTALE); /* it was dropped */
    o = (struct tier_object_opts){.absent = true, .revision = &one, .ttl_ms = 300};
    assert_int_equal(tier_object_put(t, TIER_MANIFEST, "cas", "4", 1, &o, &err), 0);
    object_is(t, "cas", "4", one);
    list_is(t, TIER_MANIFEST, "ca", "cas ", 1);
    for (int i = 0; i < 200 && tier_object_get(t, TIER_MANIFEST, "cas", &b, NULL, &err) == 0; i++) {
        buf_unref(b);
        usleep(20000);
    }
    assert_int_equal(err.code, -ENOENT);
    list_is(t, TIER_MANIFEST, "ca", "", 0);

    for (int i = 0; i < 1100; i++) {
        snprintf(name, sizeof name, "list/%04d", i * 7 % 1100);
        assert_int_equal(tier_object_put(t, TIER_SIDECAR, name, "x", 1, NULL, &err), 0);
    }
    assert_int_equal(tier_object_drop(t, TIER_SIDECAR, "list/0001", &err), 0);
    list_is(t, TIER_SIDECAR, "list/", "list/0000 list/0002 list/0003 list/0004 list/0005 ", 1099);
    list_is(t, TIER_SIDECAR, "list/109", "list/1090 list/1091 list/1092 list/1093 list/1094 ", 10);
    list_is(t, TIER_MANIFEST, NULL, "object-0 object-1 object-2 object-3 object-4 ", 8);
    assert_int_equal(tier_object_put(t, TIER_SIDECAR, "list/0001", "other", 5, NULL, &err), 0);
    list_is(t, TIER_SIDECAR, "list/", "list/0000 list/0001 list/0002 list/0003 list/0004 ", 1100);
}

static void use_everything(const char *nodes, unsigned n_nodes)
{
    struct tier *t = open_tier(nodes, 5000);
    struct skv_error err;
    struct got *g = malloc(sizeof *g);
    bool present[N_BLOCKS];
    float keep[N_BLOCKS];
    unsigned n;
    assert_int_equal(tier_n_nodes(t), n_nodes);
    assert_int_equal(tier_have(t, keys, N_BLOCKS, present, &err), 0);
    for (unsigned b = 0; b < N_BLOCKS; b++)
        assert_false(present[b]);
    assert_int_equal(get_all(t, g, &err), -ENODATA);
    assert_int_equal(g->failed, N_WANTS);
    assert_int_equal(put_all(t, &err), 0);
    assert_int_equal(get_all(t, g, &err), 0);
    assert_int_equal(g->ok, N_WANTS);
    assert_int_equal(counter(t, "blocks", &n), N_BLOCKS);
    assert_int_equal(n, n_nodes);
    for (unsigned b = 0; b < N_BLOCKS; b++)
        keep[b] = (float)b;
    assert_false(tier_takes_hints(t)); /* RAM only: nothing is evicted, and nobody needs to hear it */
    assert_int_equal(tier_hint(t, keys, keep, N_BLOCKS, &err), 0);
    assert_int_equal(counter(t, "hints", &n), 0);
    assert_int_equal(tier_pin(t, "lease", keys, 10, 60000, &err), 0);
    assert_int_equal(counter(t, "leases", &n), 10);
    assert_int_equal(tier_drop(t, keys, 20, &err), -EBUSY); /* leased ones stay */
    assert_int_equal(tier_unpin(t, "lease", NULL, 0, &err), 0);
    assert_int_equal(tier_drop(t, keys, 20, &err), 0);
    assert_int_equal(tier_have(t, keys, N_BLOCKS, present, &err), 0);
    for (unsigned b = 0; b < N_BLOCKS; b++)
        if (present[b] != (b >= 20))
            fail_msg("block %u: present is %d after dropping 0 to 19", b, present[b]);
    assert_int_equal(tier_pin(t, "lease", keys, N_BLOCKS, 60000, &err), -ENODATA);
    assert_int_equal(get_all(t, g, &err), -ENODATA);
    assert_int_equal(g->ok, N_WANTS - 20 * PER_BLOCK);
    use_objects(t);
    use_object_options(t);
    struct block_key other = keys[0];
    other.ns = 1;
    assert_int_equal(tier_have(t, &other, 1, present, &err), -EINVAL);
    struct tier_totals totals;
    tier_get_totals(t, &totals);
    assert_int_equal(totals.put_blocks, N_BLOCKS);
    assert_int_equal(totals.get_pages, 2 * N_WANTS - 20 * PER_BLOCK);
    assert_int_equal(totals.timeouts + totals.bad_checksums, 0);
    free(g);
    tier_close(t);
}

/* The embedded node with a disk: what a tier put is there when another one opens it. */
static void embedded_with_a_disk(void **state)
{
    (void)state;
    char dir[] = "/tmp/test_tier.XXXXXX", text[64], command[64];
    const char *disks[] = {text};
    struct got *g = malloc(sizeof *g);
    struct skv_error err;
    assert_non_null(mkdtemp(dir));
    snprintf(text, sizeof text, "%s/disk:64MiB", dir);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    struct tier_opts o = {.ram = 16 << 20, .disks = disks, .n_disks = 1};
    for (int life = 0; life < 3; life++) {
        struct tier *t;
        unsigned answered = 0, n;
        if (tier_open(&o, &t, &err))
            fail_msg("%s", err.text);
        if (life == 0) /* from RAM: it is written when the tier is closed, at the latest */
            assert_int_equal(put_all(t, &err), 0);
        for (unsigned b = 0; b < N_BLOCKS && life == 1; b++)
            assert_int_equal(tier_put(t, &blocks[b].key, &layout, blocks[b].payload, blocks[b].checksums,
                                      TIER_ACK_DURABLE, count_put, &answered, &err),
                             0);
        assert_int_equal(tier_flush(t, &err), 0);
        assert_int_equal(answered, life == 1 ? N_BLOCKS : 0);
        if (get_all(t, g, &err))
            fail_msg("life %d: %s", life, err.text);
        assert_int_equal(g->ok, N_WANTS);
        assert_int_equal(counter(t, "blocks", &n), N_BLOCKS);
        if (life)
            assert_int_equal(counter(t, "get_disk_pages", &n), N_WANTS);
        assert_int_equal(counter(t, "trouble", &n), 0);
        assert_int_equal(n, 1);
        struct tier *other;
        assert_int_equal(tier_open(&o, &other, &err), -EBUSY);
        assert_non_null(strstr(err.text, "in use"));
        tier_close(t);
    }
    snprintf(text, sizeof text, "%s/disk", dir);
    struct tier *t;
    assert_int_equal(tier_open(&o, &t, &err), -EINVAL);
    assert_non_null(strstr(err.text, "DIR:SIZE"));
    free(g);
    assert_int_equal(system(command), 0);
}

/* The node hears them, nobody waits, and no more are sent before it has answered. */
static void hints(void **state)
{
    (void)state;
    char dir[] = "/tmp/test_tier.XXXXXX", text[64], command[64];
    const char *disks[] = {text};
    static struct block_key many[TIER_HINT_KEYS + 1];
    float keep[TIER_HINT_KEYS + 1] = {0};
    struct skv_error err;
    struct tier *t;
    unsigned n;
    assert_non_null(mkdtemp(dir));
    snprintf(text, sizeof text, "%s/disk:64MiB", dir);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    if (tier_open(&(struct tier_opts){.ram = 16 << 20, .disks = disks, .n_disks = 1}, &t, &err))
        fail_msg("%s", err.text);
    assert_true(tier_takes_hints(t));
    assert_int_equal(put_all(t, &err), 0);
    assert_int_equal(tier_hint(t, many, keep, TIER_HINT_KEYS + 1, &err), -EINVAL);
    assert_int_equal(tier_hint(t, keys, keep, N_BLOCKS, &err), 0);
    assert_int_equal(tier_hint(t, keys, keep, N_BLOCKS, &err), -EAGAIN);
    assert_int_equal(counter(t, "hints", &n), 1); /* waits for its own answer only, but is behind the hint */
    while (tier_hint(t, keys, keep, N_BLOCKS, &err) == -EAGAIN)
        tier_pump(t, 10, NULL);
    assert_int_equal(tier_hints_lost(t), 0);
    tier_close(t); /* with one on its way */
    assert_int_equal(system(command), 0);
}

static void embedded(void **state)
{
    (void)state;
    use_everything(NULL, 1);
}

static void one_node(void **state)
{
    (void)state;
    struct servers *s = servers_start(1);
    use_everything(s->list, 1);
    servers_stop(s);
}

static void three_nodes(void **state)
{
    (void)state;
    struct servers *s = servers_start(3);
    use_everything(s->list, 3);
    servers_stop(s);
}

/* More keys than one header holds; and the list of nodes in another order finds the same blocks. */
static void many_keys_and_another_order(void **state)
{
    (void)state;
    enum { MANY = 10000 };
    struct servers *s = servers_start(3);
    struct tier *t = open_tier(s->list, 5000);
    struct skv_error err;
    struct block_key *many = calloc(MANY, sizeof *many);
    bool *present = malloc(MANY);
    unsigned n, found = 0;
    assert_int_equal(put_all(t, &err), 0);
    tier_close(t);
    char other[3 * ZMQX_ENDPOINT];
    snprintf(other, sizeof other, "%.64s,%.64s,%.64s", s->addr[2], s->addr[0], s->addr[1]);
    t = open_tier(other, 5000);
    for (unsigned i = 0; i < MANY; i++) {
        many[i] = keys[i % N_BLOCKS];
        many[i].layer += i / N_BLOCKS * 3;
    }
    assert_int_equal(tier_have(t, many, MANY, present, &err), 0);
    for (unsigned i = 0; i < MANY; i++)
        found += present[i];
    assert_int_equal(found, N_BLOCKS);
    struct got *g = malloc(sizeof *g);
    assert_int_equal(get_all(t, g, &err), 0);
    assert_int_equal(counter(t, "get_misses", &n), 0);
    free(g);
    free(many);
    free(present);
    tier_close(t);
    servers_stop(s);
}

/* ---- nodes that are not as they should be ---- */

static int try_open(const char *nodes, uint32_t timeout_ms, struct skv_error *err)
{
    struct tier_opts o = {.nodes = nodes, .timeout_ms = timeout_ms};
    struct tier *t;
    int rc = tier_open(&o, &t, err);
    if (rc == 0)
        tier_close(t);
    return rc;
}

static void no_node(void **state)
{
    (void)state;
    struct servers *s = servers_start(1);
    struct skv_error err;
    char list[2 * ZMQX_ENDPOINT], want[400];
    /* A port that was free a moment ago, and one where something listens that is no memory node. */
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
    for (int listening = 0; listening < 2; listening++) {
        if (listening)
            assert_int_equal(listen(fd, 8), 0);
        uint64_t start = clock_ns();
        snprintf(list, sizeof list, "%s,127.0.0.1:%u", s->addr[0], ntohs(a.sin_port));
        assert_int_equal(try_open(list, 300, &err), -EHOSTUNREACH);
        snprintf(want, sizeof want,
                 "no memory node answers at 127.0.0.1:%u within 300 ms: is scoutkv-memnode running there?",
                 ntohs(a.sin_port));
        assert_string_equal(err.text, want);
        assert_true(clock_ns() - start < 2 * NS_PER_S);
    }
    close(fd);
    assert_int_equal(try_open("no.such.host.invalid:7401", 300, &err), -EHOSTUNREACH);
    assert_int_equal(try_open("nonsense", 300, &err), -EINVAL);
    servers_stop(s);
}

static void the_same_node_twice(void **state)
{
    (void)state;
    struct servers *s = servers_start(1);
    struct skv_error err;
    char list[2 * ZMQX_ENDPOINT];
    snprintf(list, sizeof list, "%s,localhost:%s", s->addr[0], strchr(s->addr[0], ':') + 1);
    assert_int_equal(try_open(list, 2000, &err), -EINVAL);
    assert_non_null(strstr(err.text, "\"n1\""));
    snprintf(list, sizeof list, "%s,%s", s->addr[0], s->addr[0]);
    assert_int_equal(try_open(list, 2000, &err), -EINVAL);
    struct tier_opts o = {.nodes = s->list, .cluster = "other", .timeout_ms = 2000};
    struct tier *t;
    assert_int_equal(tier_open(&o, &t, &err), -EHOSTUNREACH);
    assert_non_null(strstr(err.text, "cluster"));
    servers_stop(s);
}

static void a_node_dies_and_comes_back(void **state)
{
    (void)state;
    struct servers *s = servers_start(3);
    struct tier *t = open_tier(s->list, 3000);
    struct got *g = calloc(1, sizeof *g);
    struct skv_error err;
    struct tier_fetch *f;
    assert_int_equal(put_all(t, &err), 0);
    assert_int_equal(tier_fetch_begin(t, &layout, wants, N_WANTS, on_page, g, &f, &err), 0);
    char endpoint[ZMQX_ENDPOINT];
    snprintf(endpoint, sizeof endpoint, "%s", server_endpoint(s->server[1]));
    server_stop(s->server[1]);
    s->server[1] = NULL;
    uint64_t start = clock_ns();
    assert_int_equal(tier_fetch_end(t, f, &err), -EHOSTUNREACH);
    struct tier_totals totals;
    tier_get_totals(t, &totals);
    assert_int_equal(totals.timeouts, 0); /* its death was seen; then its return was waited for */
    assert_int_equal(totals.lost, 1);
    assert_non_null(strstr(err.text, "memory node n2"));
    assert_true(g->ok > N_WANTS / 4);
    assert_int_equal(get_all(t, g, &err), -EHOSTUNREACH); /* at once */
    bool present[N_BLOCKS];
    assert_int_equal(tier_have(t, keys, N_BLOCKS, present, &err), -EHOSTUNREACH);
    assert_int_equal(put_all(t, &err), 0); /* new blocks go to those that live */
    assert_int_equal(get_all(t, g, &err), 0);
    server_up(s, 1, endpoint);
    start = clock_ns();
    struct tier_counter *all;
    size_t n;
    while (tier_stats(t, &all, &n, &err)) {
        if (clock_ns() - start > 10 * NS_PER_S)
            fail_msg("the node was not taken back: %s", err.text);
        tier_pump(t, 50, NULL);
    }
    free(all);
    assert_int_equal(get_all(t, g, &err), 0); /* from where they are, though the empty node ranks first */
    free(g);
    tier_close(t);
    servers_stop(s);
}

/* ---- nodes that join and leave ---- */

static void write_view(const char *path, const struct servers *s, const char *epoch, const char *nodes)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f, "# written by a test\n%s\n", epoch);
    for (; *nodes; nodes++)
        if (*nodes >= '1')
            fprintf(f, "n%c@%s%s\n", *nodes, s->addr[*nodes - '1'], nodes[1] == '-' ? " draining" : "");
    fclose(f);
}

static void reload(struct tier *t)
{
    struct skv_error err;
    if (tier_reload(t, &err))
        fail_msg("%s", err.text);
}

/* Waits until the nodes of the view, `n` of them, have told that they know it. */
static void wait_spread(struct tier *t, uint64_t epoch, unsigned n)
{
    unsigned up;
    uint64_t end = clock_ns() + 20 * NS_PER_S;
    while (tier_nodes_up(t) < n || counter(t, "view_epoch", &up) != epoch * n || up != n) {
        if (clock_ns() > end)
            fail_msg("not all nodes heard of epoch %llu", (unsigned long long)epoch);
        tier_pump(t, 20, NULL);
    }
}

static void nodes_join_and_leave(void **state)
{
    (void)state;
    struct servers *s = servers_start(4);
    struct got *g = calloc(1, sizeof *g);
    struct cluster_view v;
    struct skv_error err;
    struct tier_fetch *f;
    char path[] = "/tmp/scoutkv-nodes-XXXXXX", at[sizeof path + 1];
    unsigned n;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    snprintf(at, sizeof at, "@%s", path);
    write_view(path, s, "", "123");
    struct tier_opts o = {.nodes = at, .timeout_ms = 5000, .get_window = 64 << 10, .replicas = 2};
    struct tier *t, *other;
    if (tier_open(&o, &t, &err))
        fail_msg("%s", err.text);
    assert_int_equal(put_all(t, &err), 0);

    memset(g, 0, sizeof *g); /* one joins while pages are on their way */
    assert_int_equal(tier_fetch_begin(t, &layout, wants, N_WANTS, on_page, g, &f, &err), 0);
    write_view(path, s, "epoch 2", "1234");
    reload(t);
    assert_int_equal(tier_n_nodes(t), 4);
    assert_int_equal(tier_fetch_end(t, f, &err), 0);
    assert_int_equal(g->ok, N_WANTS);
    wait_spread(t, 2, 4);
    assert_int_equal(put_all(t, &err), 0);
    struct tier_counter *all;
    size_t n_all;
    uint64_t on_new = 0;
    assert_int_equal(tier_stats(t, &all, &n_all, &err), 0);
    for (size_t i = 0; i < n_all; i++)
        if (strcmp(all[i].node, "n4") == 0 && strcmp(all[i].name, "bytes") == 0)
            on_new = all[i].value;
    free(all);
    assert_true(on_new > 0);

    memset(g, 0, sizeof *g); /* another leaves, and is gone for good */
    assert_int_equal(tier_fetch_begin(t, &layout, wants, N_WANTS, on_page, g, &f, &err), 0);
    write_view(path, s, "epoch 3", "234");
    reload(t);
    server_stop(s->server[0]);
    s->server[0] = NULL;
    assert_int_equal(tier_fetch_end(t, f, &err), 0);
    assert_int_equal(g->ok, N_WANTS);
    wait_spread(t, 3, 3);
    assert_int_equal(counter(t, "view_nodes", &n), 3 * 3);
    assert_int_equal(put_all(t, &err), 0);
    assert_int_equal(get_all(t, g, &err), 0);

    struct tier_opts seed = {.nodes = s->addr[1], .replicas = 2}; /* one address tells of the others */
    if (tier_open(&seed, &other, &err))
        fail_msg("%s", err.text);
    tier_view(other, &v);
    assert_int_equal(v.epoch, 3);
    assert_int_equal(v.n, 3);
    assert_int_equal(tier_reload(other, &err), -ENOTSUP);
    v.epoch = 4; /* and changes them */
    v.node[0].draining = true;
    assert_int_equal(tier_set_view(other, &v, &err), 0);
    wait_spread(other, 4, 3);
    tier_close(other);
    assert_int_equal(put_all(t, &err), 0); /* the first hears of it, and is not in the way */
    tier_view(t, &v);
    assert_int_equal(v.epoch, 4);

    assert_int_equal(tier_reload(t, &err), -ESTALE); /* the file is older now */
    assert_non_null(strstr(err.text, "epoch 4"));
    write_view(path, s, "epoch five", "234");
    assert_int_equal(tier_reload(t, &err), -EINVAL);
    assert_non_null(strstr(err.text, path));
    assert_non_null(strstr(err.text, "line 2"));
    unlink(path);
    assert_int_equal(tier_reload(t, &err), -ENOENT);
    assert_int_equal(get_all(t, g, &err), 0);
    tier_close(t);
    assert_int_equal(tier_open(&o, &t, &err), -ENOENT);

    t = open_tier(NULL, 0);
    tier_view(t, &v);
    assert_int_equal(v.n, 1);
    v.epoch = 9;
    assert_int_equal(tier_set_view(t, &v, &err), -ENOTSUP);
    tier_close(t);
    free(g);
    servers_stop(s);
}

/* A caller that computes for longer than the deadline finds its pages, not timeouts. */
static void a_slow_caller_loses_nothing(void **state)
{
    (void)state;
    struct servers *s = servers_start(2);
    struct tier *t = open_tier(s->list, 300);
    struct got *g = calloc(1, sizeof *g);
    struct skv_error err;
    struct tier_fetch *f;
    assert_int_equal(put_all(t, &err), 0);
    assert_int_equal(tier_fetch_begin(t, &layout, wants, 100, on_page, g, &f, &err), 0);
    usleep(500000);
    if (tier_fetch_end(t, f, &err))
        fail_msg("%s", err.text);
    assert_int_equal(g->ok, 100);
    free(g);
    tier_close(t);
    servers_stop(s);
}

/* ---- a node whose answers are damaged ---- */

struct evil {
    void *zmq;
    struct zmqx_socket *router;
    struct node *node;
    pthread_t thread;
    atomic_bool stop;
    atomic_int kind; /* body to damage, 0: none; -1: claim version 2 */
    atomic_uint at;  /* byte to flip a bit of, as a share of 1/16 of the header's length; odd: cut there */
};

static int evil_send(void *arg, const struct node_peer *peer, struct buf *header, const struct view *payload)
{
    struct evil *e = arg;
    struct zmqx_peer to = {.len = peer->len};
    memcpy(to.id, peer->id, peer->len);
    Scoutkv__Header *h = scoutkv__header__unpack(NULL, header->len, header->data);
    int kind = atomic_load(&e->kind);
    struct buf *damaged = NULL;
    if (kind == -1) {
        h->version = 2;
        damaged = header_pack(h);
    } else if ((int)h->body_case == kind) {
        unsigned at = atomic_load(&e->at);
        size_t byte = header->len * (at / 2) / 16;
        damaged = buf_copy(header->data, at & 1 ? byte : header->len);
        if (!(at & 1))
            damaged->data[byte] ^= (uint8_t)(1u << at % 7);
    }
    scoutkv__header__free_unpacked(h, NULL);
    int rc = zmqx_send(e->router, &to, damaged ? damaged : header, payload);
    buf_unref(damaged);
    return rc;
}

static void *evil_main(void *arg)
{
    struct evil *e = arg;
    while (!atomic_load(&e->stop)) {
        struct zmqx_poll_item item = {.socket = e->router};
        struct zmqx_message m;
        zmqx_poll(&item, 1, 20);
        while (zmqx_recv(e->router, &m) == 0) {
            struct node_peer peer = {.len = m.peer.len};
            struct message msg;
            uint64_t id;
            memcpy(peer.id, m.peer.id, m.peer.len);
            if (message_parse(&msg, m.header.data, m.header.len, m.n_frames, m.payload, &id, NULL) == 0) {
                node_receive(e->node, &peer, &msg, clock_ns());
                message_clear(&msg);
            }
            zmqx_message_clear(&m);
        }
        node_run(e->node, clock_ns());
    }
    return NULL;
}

/* Uses the tier once in every way; whatever fails must say why. */
static void use_evil_node(const char *addr)
{
    struct tier_opts o = {.nodes = addr, .timeout_ms = 60};
    struct skv_error err = {0};
    struct got *g = malloc(sizeof *g);
    struct tier *t;
    struct tier_fetch *f;
    struct tier_counter *all;
    struct buf *b;
    bool present[4];
    size_t n;
    unsigned answered = 0, placed = 0;
    if (tier_open(&o, &t, &err)) {
        assert_true(strlen(err.text) > 20);
        free(g);
        return;
    }
    memset(g, 0, sizeof *g);
    for (unsigned i = 0; i < 4; i++)
        placed += tier_put(t, &keys[i], &layout, blocks[i].payload, blocks[i].checksums, TIER_ACK_RAM,
                           count_put, &answered, &err) == 0;
    tier_flush(t, &err);
    assert_int_equal(answered, placed);
    if (tier_fetch_begin(t, &layout, wants, 4 * PER_BLOCK, on_page, g, &f, &err) == 0)
        if (tier_fetch_end(t, f, &err))
            assert_true(strlen(err.text) > 20);
    assert_int_equal(g->ok + g->failed, 4 * PER_BLOCK);
    err = (struct skv_error){0};
    int rc = tier_have(t, keys, 4, present, &err);
    rc = rc ? rc : tier_object_put(t, TIER_MANIFEST, "x", "y", 1, NULL, &err);
    rc = rc ? rc : tier_object_get(t, TIER_MANIFEST, "x", &b, NULL, &err);
    if (rc == 0) {
        assert_memory_equal(b->data, "y", 1);
        buf_unref(b);
    }
    rc = rc ? rc : tier_stats(t, &all, &n, &err);
    if (rc == 0)
        free(all);
    else
        assert_true(strlen(err.text) > 20);
    tier_close(t);
    free(g);
}

static void evil_answers(void **state)
{
    (void)state;
    struct evil e = {.zmq = zmqx_ctx_new(1, NULL)};
    struct node_opts opts = {.id = "evil", .ram = 64 << 20};
    struct skv_error err;
    assert_int_equal(zmqx_router(e.zmq, "tcp://127.0.0.1:0", PROTO_MAX_PAYLOAD, &e.router, &err), 0);
    e.node = node_new(&opts, evil_send, &e, &err);
    assert_non_null(e.node);
    pthread_create(&e.thread, NULL, evil_main, &e);
    const char *addr = zmqx_endpoint(e.router) + strlen("tcp://");
    use_evil_node(addr);
    static const int kinds[] = {SCOUTKV__HEADER__BODY_HELLO_ACK, SCOUTKV__HEADER__BODY_PUT_ACK,
                                SCOUTKV__HEADER__BODY_PAGES,     SCOUTKV__HEADER__BODY_HAVE_ACK,
                                SCOUTKV__HEADER__BODY_DONE,      SCOUTKV__HEADER__BODY_OBJECT,
                                SCOUTKV__HEADER__BODY_STATS_ACK};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
        for (unsigned at = 0; at < 32; at += 5) { /* even and odd: flips and cuts */
            atomic_store(&e.at, at);
            atomic_store(&e.kind, kinds[k]);
            use_evil_node(addr);
        }
    atomic_store(&e.kind, -1);
    assert_int_equal(try_open(addr, 2000, &err), -EPROTONOSUPPORT);
    assert_non_null(strstr(err.text, addr));
    atomic_store(&e.stop, true);
    pthread_join(e.thread, NULL);
    zmqx_close(e.router);
    node_free(e.node);
    zmqx_ctx_free(e.zmq);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(embedded),
        cmocka_unit_test(embedded_with_a_disk),
        cmocka_unit_test(hints),
        cmocka_unit_test(other_work_ends_a_wait),
        cmocka_unit_test(one_node),
        cmocka_unit_test(three_nodes),
        cmocka_unit_test(many_keys_and_another_order),
        cmocka_unit_test(no_node),
        cmocka_unit_test(the_same_node_twice),
        cmocka_unit_test(a_node_dies_and_comes_back),
        cmocka_unit_test(nodes_join_and_leave),
        cmocka_unit_test(a_slow_caller_loses_nothing),
        cmocka_unit_test(evil_answers),
    };
    return cmocka_run_group_tests_name("tier", tests, make_blocks, free_blocks);
}
