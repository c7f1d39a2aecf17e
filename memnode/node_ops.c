/* node_ops.c: what a node does on each request but PUT (node_put.c), GET (node_get.c), PIN and
 * UNPIN (node_leases.c), those about objects (node_objects.c) and STATS (node_stats.c).
 *
 * Every operation checks all of a message before it changes anything: a refused message has changed nothing.
 */
#include "memnode/node_impl.h"
#include "common/clock.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REASON(x) SCOUTKV__REFUSED__REASON__##x

/* ---- HELLO, PING ---- */

static bool serves(const struct node *n, uint64_t ns)
{
    if (!n->namespaces)
        return true;
    for (size_t i = 0; i < n->n_namespaces; i++)
        if (n->namespaces[i] == ns)
            return true;
    return false;
}

static ProtobufCBinaryData incarnation(const struct node *n)
{
    return (ProtobufCBinaryData){DISK_NODE, (uint8_t *)(uintptr_t)store_node(n->store)}; /* only read */
}

static bool takes_durable(const struct node *n)
{
    struct store_stats s;
    store_stats(n->store, &s);
    return s.disk_readonly < n->n_disks;
}

void op_hello(struct call *c)
{
    struct node *n = c->node;
    const Scoutkv__Hello *hello = c->message->header->hello;
    n->counters.hellos++;
    if (hello->version_min > PROTO_VERSION_MAX || hello->version_max < PROTO_VERSION_MIN ||
        hello->version_min > hello->version_max) {
        n->counters.wrong_version++;
        return call_refuse(
            c, REASON(VERSION), 0,
            "node '%s' speaks protocol versions %d to %d and the client %u to %u; use the same release "
            "on both ends",
            n->id, PROTO_VERSION_MIN, PROTO_VERSION_MAX, hello->version_min, hello->version_max);
    }
    if (strcmp(hello->cluster, n->cluster) != 0)
        return call_refuse(c, REASON(CLUSTER), 0,
                           "node '%s' belongs to cluster '%s', not '%.64s'; check the address, or --cluster",
                           n->id, n->cluster, hello->cluster);
    if (!serves(n, hello->namespace_))
        return call_refuse(c, REASON(NAMESPACE), 0,
                           "node '%s' does not serve namespace %" PRIu64 "; see its --namespaces", n->id,
                           hello->namespace_);
    bool is_new = !c->lane;
    struct lane *l = c->lane = c->lane ? c->lane : lane_open(n, c->peer, c->now);
    if (!l)
        return call_refuse(c, REASON(FULL), 0, "node '%s' is out of memory", n->id);
    l->ns = hello->namespace_;
    l->bulk = hello->bulk;
    snprintf(l->client, sizeof l->client, "%.63s", hello->client);
    log_write(n->log, LOG_LEVEL_DEBUG, "%s from client '%s', namespace %" PRIu64 "%s",
              is_new ? "hello" : "hello again", l->client, l->ns, l->bulk ? ", bulk lane" : "");

    Scoutkv__HelloAck ack = SCOUTKV__HELLO_ACK__INIT;
    ack.version = hello->version_max < PROTO_VERSION_MAX ? hello->version_max : PROTO_VERSION_MAX;
    ack.node = n->id;
    ack.incarnation = incarnation(n);
    ack.durable = takes_durable(n);
    ack.put_credit = l->bulk ? n->put_credit : 0;
    ack.max_header = PROTO_MAX_HEADER;
    ack.max_message = PROTO_MAX_PAYLOAD;
    ack.max_block = PROTO_MAX_PAYLOAD;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.body_case = SCOUTKV__HEADER__BODY_HELLO_ACK;
    h.hello_ack = &ack;
    call_answer(c, &h, NULL);
}

void op_ping(struct call *c)
{
    c->node->counters.pings++;
    Scoutkv__Pong pong = SCOUTKV__PONG__INIT;
    pong.incarnation = incarnation(c->node);
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.body_case = SCOUTKV__HEADER__BODY_PONG;
    h.pong = &pong;
    call_answer(c, &h, NULL);
}

/* ---- by keys: HAVE, DESCRIBE, HINT, DROP ---- */

struct block **call_find_blocks(struct call *c, Scoutkv__Key **keys, size_t n, bool all)
{
    bool starting = all && node_starting(c->node);
    struct block **blocks = malloc((n + 1) * sizeof *blocks);
    if (!blocks) {
        call_refuse(c, REASON(FULL), 0, "node '%s' is out of memory", c->node->id);
        return NULL;
    }
    for (size_t i = 0; i < n; i++) {
        struct block_key key;
        if (!key_from_wire(keys[i], c->lane->ns, &key)) {
            free(blocks);
            call_refuse_malformed(c, 0, "a key has a chain of 32 bytes");
            return NULL;
        }
        blocks[i] = store_find(c->node->store, &key);
        if (!blocks[i] && starting) {
            free(blocks);
            call_refuse_starting(c, 0);
            return NULL;
        }
    }
    return blocks;
}

void op_have(struct call *c)
{
    const Scoutkv__Have *have = c->message->header->have;
    c->node->counters.haves++;
    struct block **blocks = call_find_blocks(c, have->keys, have->n_keys, true);
    if (!blocks)
        return;
    uint8_t *present = (uint8_t *)blocks; /* in place: byte i is written after pointer i was read */
    for (size_t i = 0; i < have->n_keys; i++)
        present[i] = blocks[i] != NULL;
    Scoutkv__HaveAck ack = SCOUTKV__HAVE_ACK__INIT;
    ack.present = (ProtobufCBinaryData){have->n_keys, present};
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.body_case = SCOUTKV__HEADER__BODY_HAVE_ACK;
    h.have_ack = &ack;
    call_answer(c, &h, NULL);
    free(blocks);
}

/* The block's leases, into arrays of LEASES_PER_BLOCK. */
static size_t describe_leases(struct call *c, struct block *b, Scoutkv__Lease *lease,
                              Scoutkv__Lease **lease_at)
{
    const char *owner[LEASES_PER_BLOCK];
    uint64_t until[LEASES_PER_BLOCK];
    unsigned n = leases_of(c->node->leases, b, c->now, owner, until);
    for (unsigned i = 0; i < n; i++) {
        uint64_t left_ms = (until[i] - c->now + NS_PER_MS - 1) / NS_PER_MS;
        scoutkv__lease__init(&lease[i]);
        lease[i].owner = (char *)(uintptr_t)owner[i]; /* only read */
        lease[i].ttl_ms = left_ms < UINT32_MAX ? (uint32_t)left_ms : UINT32_MAX;
        lease_at[i] = &lease[i];
    }
    return n;
}

void op_describe(struct call *c)
{
    Scoutkv__Lease lease[LEASES_PER_BLOCK], *lease_at[LEASES_PER_BLOCK];
    Scoutkv__Key *key = c->message->header->describe->key;
    c->node->counters.describes++;
    struct block **blocks = call_find_blocks(c, &key, 1, true);
    if (!blocks)
        return;
    struct block *b = blocks[0];
    free(blocks);
    Scoutkv__Layout layout = SCOUTKV__LAYOUT__INIT;
    Scoutkv__Described ack = SCOUTKV__DESCRIBED__INIT;
    if (b) {
        layout.dtype = b->layout.dtype;
        layout.d_k = b->layout.d_k;
        layout.d_v = b->layout.d_v;
        layout.head0 = b->layout.head0;
        layout.n_heads = b->layout.n_heads;
        ack.found = true;
        ack.layout = &layout;
        ack.n_checksums = layout_pages(&b->layout);
        ack.checksums = b->checksums;
        ack.damaged = !block_whole(b);
        ack.n_leases = describe_leases(c, b, lease, lease_at);
        ack.leases = lease_at;
    }
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.body_case = SCOUTKV__HEADER__BODY_DESCRIBED;
    h.described = &ack;
    call_answer(c, &h, NULL);
}

void op_hint(struct call *c)
{
    struct node *n = c->node;
    const Scoutkv__Hint *hint = c->message->header->hint;
    uint32_t done = 0;
    n->counters.hints++;
    bool ok = hint->n_keys == hint->n_keep;
    for (size_t i = 0; ok && i < hint->n_keep; i++)
        ok = !isnan(hint->keep[i]);
    if (!ok)
        return call_refuse_malformed(c, 0, "a HINT has one number a key");
    struct block **blocks = call_find_blocks(c, hint->keys, hint->n_keys, true);
    if (!blocks)
        return;
    for (size_t i = 0; i < hint->n_keys; i++)
        if (blocks[i]) {
            store_hint(n->store, blocks[i], hint->keep[i]);
            done++;
        }
    free(blocks);
    call_answer_done(c, done, 0);
}

void op_drop(struct call *c)
{
    struct node *n = c->node;
    const Scoutkv__Drop *drop = c->message->header->drop;
    uint32_t done = 0;
    n->counters.drops++;
    if (view_stale(c, 0))
        return;
    if (node_starting(n)) /* a copy that was not read yet would come back in its place */
        return call_refuse_starting(c, 0);
    struct block **blocks = call_find_blocks(c, drop->keys, drop->n_keys, true);
    if (!blocks)
        return;
    for (size_t i = 0; i < drop->n_keys; i++) {
        const char *owner = blocks[i] ? lease_owner(n->leases, blocks[i], c->now) : NULL;
        if (owner) {
            free(blocks);
            return call_refuse(
                c, REASON(LEASED), 0,
                "key %zu of %zu is leased by '%s', so nothing was dropped; unpin it, or wait for the "
                "lease to end",
                i + 1, drop->n_keys, owner);
        }
    }
    /* Looked up again: a key that was named twice is gone the second time. */
    for (size_t i = 0; i < drop->n_keys; i++) {
        struct block_key key;
        struct block *b = key_from_wire(drop->keys[i], c->lane->ns, &key) ? store_find(n->store, &key) : NULL;
        if (b) {
            store_remove(n->store, b);
            done++;
        }
    }
    free(blocks);
    call_answer_done(c, done, 0);
}
