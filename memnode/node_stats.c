/* node_stats.c: STATS. Names are for people and scripts: once given, they stay. */
#include "memnode/node_impl.h"

#include <stddef.h>

struct named {
    const char *name;
    size_t offset; /* in struct node_counters */
};
#define COUNTER(field)                                \
    {                                                 \
#field, offsetof(struct node_counters, field) \
    }

static const struct named counters[] = {
    COUNTER(puts),          COUNTER(puts_stored),
    COUNTER(puts_same),     COUNTER(puts_exists),
    COUNTER(put_bytes),     COUNTER(gets),
    COUNTER(get_pages),     COUNTER(get_bytes),
    COUNTER(get_misses),    COUNTER(get_zero_copy_bytes),
    COUNTER(haves),         COUNTER(hints),
    COUNTER(drops),         COUNTER(pins),
    COUNTER(unpins),        COUNTER(object_puts),
    COUNTER(object_gets),   COUNTER(object_lists),
    COUNTER(stats),         COUNTER(pings),
    COUNTER(hellos),        COUNTER(malformed),
    COUNTER(wrong_version), COUNTER(unread),
    COUNTER(leases_ended),
};

static const char *const refusals[N_REASONS] = {
    [SCOUTKV__REFUSED__REASON__MALFORMED] = "refused_malformed",
    [SCOUTKV__REFUSED__REASON__VERSION] = "refused_version",
    [SCOUTKV__REFUSED__REASON__CLUSTER] = "refused_cluster",
    [SCOUTKV__REFUSED__REASON__NAMESPACE] = "refused_namespace",
    [SCOUTKV__REFUSED__REASON__FULL] = "refused_full",
    [SCOUTKV__REFUSED__REASON__NOT_DURABLE] = "refused_not_durable",
    [SCOUTKV__REFUSED__REASON__CHECKSUM] = "refused_checksum",
    [SCOUTKV__REFUSED__REASON__TOO_LARGE] = "refused_too_large",
    [SCOUTKV__REFUSED__REASON__LEASED] = "refused_leased",
    [SCOUTKV__REFUSED__REASON__CONFLICT] = "refused_conflict",
    [SCOUTKV__REFUSED__REASON__CREDIT] = "refused_credit",
    [SCOUTKV__REFUSED__REASON__NO_HELLO] = "refused_no_hello",
};

enum {
    N_COUNTERS = sizeof counters / sizeof counters[0],
    N_GAUGES = 16,
    N_ALL = N_COUNTERS + N_REASONS + N_GAUGES
};

struct answer {
    Scoutkv__StatsAck__Counter counters[N_ALL], *pointers[N_ALL];
    size_t n;
};

static void add(struct answer *a, const char *name, uint64_t value)
{
    assert(a->n < N_ALL);
    Scoutkv__StatsAck__Counter *c = &a->counters[a->n];
    scoutkv__stats_ack__counter__init(c);
    c->name = (char *)(uintptr_t)name; /* protobuf-c's strings are not const; it only reads this one */
    c->value = value;
    a->pointers[a->n++] = c;
}

static void add_gauges(struct answer *a, const struct node *n)
{
    add(a, "blocks", store_blocks(n->store));
    add(a, "bytes", store_bytes(n->store));
    add(a, "objects", objects_count(n->objects));
    add(a, "leases", leases_count(n->leases));
    add(a, "ram_budget", n->ram);
    add(a, "ram_store_used", memory_used(n->memory, MEMORY_STORE));
    add(a, "ram_store_limit", memory_limit(n->memory, MEMORY_STORE));
    add(a, "ram_replies_used", memory_used(n->memory, MEMORY_REPLIES));
    add(a, "ram_replies_limit", memory_limit(n->memory, MEMORY_REPLIES));
    add(a, "lanes", n->n_lanes);
    add(a, "put_credit_per_lane", n->put_credit);
    add(a, "zmq_accepted", n->transport.accepted);
    add(a, "zmq_disconnected", n->transport.disconnected);
    add(a, "zmq_handshake_failed", n->transport.handshake_failed);
}

void op_stats(struct call *c)
{
    struct node *n = c->node;
    struct answer a = {.n = 0};
    n->counters.stats++;
    add_gauges(&a, n);
    for (size_t i = 0; i < N_COUNTERS; i++)
        add(&a, counters[i].name, *(const uint64_t *)((const char *)&n->counters + counters[i].offset));
    for (size_t i = 0; i < N_REASONS; i++)
        add(&a, refusals[i], n->counters.refused[i]);
    Scoutkv__StatsAck ack = SCOUTKV__STATS_ACK__INIT;
    ack.n_counters = a.n;
    ack.counters = a.pointers;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.body_case = SCOUTKV__HEADER__BODY_STATS_ACK;
    h.stats_ack = &ack;
    call_answer(c, &h, NULL);
}
