/* test_tier_objects.c: manifests and sidecars on several nodes, over real sockets: where copies lie, which is
 * the latest, and that those which missed something are repaired. A tier of one node shows and makes what
 * that node has alone. */
#include "common/clock.h"
#include "common/zmqx.h"
#include "decoder/tier/tier.h"
#include "memnode/server.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { NODES = 3, R = 2 };

struct cluster {
    void *zmq;
    struct server *server[NODES];
    char addr[NODES][ZMQX_ENDPOINT];
    char list[NODES * ZMQX_ENDPOINT];
    struct tier *alone[NODES], *all; /* tiers of one node, and of all with R copies */
};

static void node_up(struct cluster *c, unsigned i, const char *endpoint)
{
    char id[8];
    struct skv_error err;
    snprintf(id, sizeof id, "n%u", i + 1);
    struct node_opts opts = {.id = id, .ram = 64 << 20};
    if (!(c->server[i] = server_start(c->zmq, endpoint, &opts, &err)))
        fail_msg("%s", err.text);
    snprintf(c->addr[i], sizeof c->addr[i], "%s", server_endpoint(c->server[i]) + strlen("tcp://"));
}

static struct tier *tier_of(const char *nodes, uint32_t replicas)
{
    struct tier_opts o = {.nodes = nodes, .timeout_ms = 2000, .replicas = replicas};
    struct tier *t;
    struct skv_error err;
    if (tier_open(&o, &t, &err))
        fail_msg("%s", err.text);
    return t;
}

static int cluster_up(void **state)
{
    struct cluster *c = *state = calloc(1, sizeof *c);
    c->zmq = zmqx_ctx_new(1, NULL);
    for (unsigned i = 0; i < NODES; i++) {
        node_up(c, i, "tcp://127.0.0.1:0");
        snprintf(c->list + strlen(c->list), sizeof c->list - strlen(c->list), "%s%s", i ? "," : "",
                 c->addr[i]);
        c->alone[i] = tier_of(c->addr[i], 1);
    }
    c->all = tier_of(c->list, R);
    return 0;
}

static int cluster_down(void **state)
{
    struct cluster *c = *state;
    for (unsigned i = 0; i < NODES; i++)
        tier_close(c->alone[i]);
    tier_close(c->all);
    for (unsigned i = 0; i < NODES; i++)
        server_stop(c->server[i]);
    zmqx_ctx_free(c->zmq);
    free(c);
    return 0;
}

static uint64_t put(struct tier *t, enum tier_object kind, const char *name, const char *text)
{
    uint64_t revision = 0;
    struct tier_object_opts o = {.revision = &revision};
    struct skv_error err;
    if (tier_object_put(t, kind, name, text, strlen(text), &o, &err))
        fail_msg("%s", err.text);
    assert_true(revision > 0);
    return revision;
}

/* What the tier says it is: "" when there is none. */
static const char *get(struct tier *t, enum tier_object kind, const char *name, uint64_t *revision)
{
    static char text[64];
    struct buf *b;
    struct skv_error err;
    int rc = tier_object_get(t, kind, name, &b, revision, &err);
    if (rc == -ENOENT)
        return "";
    if (rc)
        fail_msg("%s", err.text);
    snprintf(text, sizeof text, "%.*s", (int)b->len, (const char *)b->data);
    buf_unref(b);
    return text;
}

static unsigned holders(struct cluster *c, enum tier_object kind, const char *name, const char *text)
{
    unsigned n = 0;
    for (unsigned i = 0; i < NODES; i++)
        n += strcmp(get(c->alone[i], kind, name, NULL), text) == 0;
    return n;
}

static void copies(void **state)
{
    struct cluster *c = *state;
    char name[32];
    for (unsigned i = 0; i < 12; i++) {
        enum tier_object kind = i % 2 ? TIER_SIDECAR : TIER_MANIFEST;
        snprintf(name, sizeof name, "copies/%u", i);
        put(c->all, kind, name, "bytes");
        assert_int_equal(holders(c, kind, name, "bytes"), R);
        assert_string_equal(get(c->all, kind, name, NULL), "bytes");
    }
    put(c->all, TIER_MANIFEST, "copies/0", "others");
    assert_int_equal(holders(c, TIER_MANIFEST, "copies/0", "others"), R);
}

/* A node missed an update: the latest is found wherever it is, and those that should have it get it. */
static void missed_updates(void **state)
{
    struct cluster *c = *state;
    char name[32];
    for (unsigned i = 0; i < 6; i++) {
        uint64_t one, two, seen;
        snprintf(name, sizeof name, "missed/%u", i);
        for (unsigned j = 0; j < NODES; j++)
            one = put(c->alone[j], TIER_MANIFEST, name, "old");
        two = put(c->alone[i % NODES], TIER_MANIFEST, name, "new"); /* one node alone */
        assert_true(two > one);
        assert_string_equal(get(c->all, TIER_MANIFEST, name, &seen), "new");
        assert_true(seen == two);
        assert_int_equal(holders(c, TIER_MANIFEST, name, "new"), NODES); /* each had it older */
        snprintf(name, sizeof name, "once/%u", i);
        put(c->alone[i % NODES], i % 2 ? TIER_SIDECAR : TIER_MANIFEST, name, "once");
        assert_string_equal(get(c->all, i % 2 ? TIER_SIDECAR : TIER_MANIFEST, name, NULL), "once");
        assert_in_range(holders(c, i % 2 ? TIER_SIDECAR : TIER_MANIFEST, name, "once"), R, NODES);
    }
}

/* A node was away when a name was dropped: its copy does not come back, and is not listed. */
static void note_name(void *arg, const char *name)
{
    strcat(strcat(arg, name), " ");
}

static void missed_drops(void **state)
{
    struct cluster *c = *state;
    struct skv_error err;
    struct buf *b;
    char names[200] = "";
    for (unsigned j = 0; j < NODES; j++) {
        put(c->alone[j], TIER_MANIFEST, "gone/a", "x");
        put(c->alone[j], TIER_MANIFEST, "gone/b", "x");
        put(c->alone[j], TIER_MANIFEST, "gone/c", "x");
    }
    assert_int_equal(tier_object_drop(c->alone[1], TIER_MANIFEST, "gone/b", &err), 0);
    assert_int_equal(tier_object_list(c->all, TIER_MANIFEST, "gone/", note_name, names, &err), 0);
    assert_string_equal(names, "gone/a gone/c ");
    assert_int_equal(tier_object_get(c->all, TIER_MANIFEST, "gone/b", &b, NULL, &err), -ENOENT);
    assert_int_equal(holders(c, TIER_MANIFEST, "gone/b", ""), NODES);
    put(c->all, TIER_MANIFEST, "gone/b", "again");
    assert_int_equal(holders(c, TIER_MANIFEST, "gone/b", "again"), R);
    assert_int_equal(tier_object_drop(c->all, TIER_MANIFEST, "gone/b", &err), 0);
    assert_int_equal(tier_object_drop(c->all, TIER_MANIFEST, "gone/b", &err), -ENOENT);
    assert_int_equal(holders(c, TIER_MANIFEST, "gone/b", ""), NODES);
    /* A writer whose clock is far behind is late enough all the same. */
    struct tier_object_opts o = {.expect = UINT64_C(1) << 62}; /* the clock of another was far ahead */
    assert_int_equal(tier_object_put(c->all, TIER_MANIFEST, "ahead", "1", 1, &o, &err), 0);
    put(c->all, TIER_MANIFEST, "ahead", "2");
    assert_int_equal(holders(c, TIER_MANIFEST, "ahead", "2"), R);
    assert_int_equal(tier_object_drop(c->all, TIER_MANIFEST, "ahead", &err), 0);
    assert_int_equal(holders(c, TIER_MANIFEST, "ahead", ""), NODES);
}

/* Two writers who read the same and write on: one of them is told, and no count is lost. */
static void two_writers(void **state)
{
    struct cluster *c = *state;
    struct tier *other = tier_of(c->list, R), *writers[] = {c->all, other};
    struct skv_error err;
    unsigned done = 0, told = 0;
    put(c->all, TIER_MANIFEST, "count", "0");
    for (unsigned i = 0; i < 20; i++) {
        unsigned count[2];
        uint64_t seen[2];
        for (unsigned w = 0; w < 2; w++)
            count[w] = (unsigned)atoi(get(writers[w], TIER_MANIFEST, "count", &seen[w]));
        assert_int_equal(count[0], done);
        for (unsigned w = 0; w < 2; w++) {
            unsigned me = (w + i) % 2;
            char text[16];
            struct tier_object_opts o = {.expect = seen[me]};
            snprintf(text, sizeof text, "%u", count[me] + 1);
            int rc = tier_object_put(writers[me], TIER_MANIFEST, "count", text, strlen(text), &o, &err);
            assert_true(rc == 0 || rc == -ESTALE);
            done += rc == 0;
            told += rc == -ESTALE;
        }
    }
    assert_int_equal(done, 20);
    assert_int_equal(told, 20);
    tier_close(other);
}

/* One of three nodes dies, with all that it had, and comes back empty. */
static void a_node_dies(void **state)
{
    struct cluster *c = *state;
    struct skv_error err;
    char name[32], endpoint[ZMQX_ENDPOINT + 8];
    for (unsigned i = 0; i < 9; i++) {
        snprintf(name, sizeof name, "dies/%u", i);
        put(c->all, i % 2 ? TIER_SIDECAR : TIER_MANIFEST, name, "before");
    }
    server_stop(c->server[0]);
    c->server[0] = NULL;
    for (unsigned i = 0; i < 9; i++) {
        snprintf(name, sizeof name, "dies/%u", i);
        assert_string_equal(get(c->all, i % 2 ? TIER_SIDECAR : TIER_MANIFEST, name, NULL), "before");
        if (i % 2 == 0)
            put(c->all, TIER_MANIFEST, name, "meanwhile");
    }
    snprintf(endpoint, sizeof endpoint, "tcp://%s", c->addr[0]);
    node_up(c, 0, endpoint);
    uint64_t end = clock_ns() + 20 * NS_PER_S;
    struct tier_counter *all = NULL;
    size_t n;
    while (tier_stats(c->all, &all, &n, &err) && clock_ns() < end) /* until all three answer */
        tier_pump(c->all, 20, NULL);
    free(all);
    tier_close(c->alone[0]);
    c->alone[0] = tier_of(c->addr[0], 1);
    for (unsigned i = 0; i < 9; i++) {
        enum tier_object kind = i % 2 ? TIER_SIDECAR : TIER_MANIFEST;
        const char *text = i % 2 ? "before" : "meanwhile";
        snprintf(name, sizeof name, "dies/%u", i);
        assert_string_equal(get(c->all, kind, name, NULL), text);
        if (holders(c, kind, name, text) < R)
            fail_msg("%s was not repaired", name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies),      cmocka_unit_test(missed_updates), cmocka_unit_test(missed_drops),
        cmocka_unit_test(two_writers), cmocka_unit_test(a_node_dies),
    };
    return cmocka_run_group_tests(tests, cluster_up, cluster_down);
}
