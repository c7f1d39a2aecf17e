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
    COUNTER(puts),           COUNTER(puts_stored),    COUNTER(puts_same),    COUNTER(puts_exists),
    COUNTER(puts_durable),   COUNTER(puts_parked),    COUNTER(put_bytes),    COUNTER(gets),
    COUNTER(get_pages),      COUNTER(get_bytes),      COUNTER(get_misses),   COUNTER(get_zero_copy_bytes),
    COUNTER(get_disk_pages), COUNTER(get_disk_bytes), COUNTER(haves),        COUNTER(describes),
    COUNTER(hints),          COUNTER(drops),          COUNTER(pins),         COUNTER(unpins),
    COUNTER(object_puts),    COUNTER(object_gets),    COUNTER(object_lists), COUNTER(stats),
    COUNTER(pings),          COUNTER(hellos),         COUNTER(malformed),    COUNTER(wrong_version),
    COUNTER(unread),         COUNTER(leases_ended),   COUNTER(object_drops), COUNTER(view_puts),
    COUNTER(view_gets),      COUNTER(lists),
};

/* What the store counts; offsets in struct store_stats. */
#define DISK(name, field)                         \
    {                                             \
        name, offsetof(struct store_stats, field) \
    }
static const struct named disk_counters[] = {
    DISK("ram_blocks", ram_blocks),
    DISK("ram_bytes", ram_bytes),
    DISK("ram_evicted", evicted_ram),
    DISK("disk_dirty_bytes", dirty_bytes),
    DISK("disk_segments", disk_segments),
    DISK("disk_free_segments", disk_free_segments),
    DISK("disk_bytes", disk_bytes),
    DISK("disk_live_bytes", disk_live_bytes),
    DISK("disk_readonly", disk_readonly),
    DISK("disk_written_bytes", written_bytes),
    DISK("disk_put_bytes", put_bytes),
    DISK("disk_moved_bytes", moved_bytes),
    DISK("disk_groups", groups),
    DISK("disk_syncs", syncs),
    DISK("disk_reads", reads),
    DISK("disk_read_bytes", read_bytes),
    DISK("disk_read_errors", read_errors),
    DISK("disk_bad_pages", bad_pages),
    DISK("disk_promoted", promoted),
    DISK("disk_evicted", evicted_disk),
    DISK("disk_scrub_passes", scrub_passes),
    DISK("disk_scrub_bytes", scrub_bytes),
    DISK("disk_scrub_bad_pages", scrub_bad_pages),
    DISK("disk_restart_records", restart_records),
    DISK("disk_restart_bytes", restart_bytes),
    DISK("disk_restart_ns", restart_ns),
    DISK("disk_restart_bad", restart_bad),
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
    [SCOUTKV__REFUSED__REASON__STARTING] = "refused_starting",
    [SCOUTKV__REFUSED__REASON__READ_ONLY] = "refused_read_only",
    [SCOUTKV__REFUSED__REASON__STALE_VIEW] = "refused_stale_view",
};

enum {
    N_COUNTERS = sizeof counters / sizeof counters[0],
    N_DISK_COUNTERS = sizeof disk_counters / sizeof disk_counters[0],
    N_GAUGES = 24,
    N_ALL = N_COUNTERS + N_DISK_COUNTERS + N_REASONS + N_GAUGES
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

static void add_gauges(struct answer *a, const struct node *n, const struct store_stats *s)
{
    double progress = 1;
    store_state(n->store, &progress);
    add(a, "blocks", s->blocks - s->own_blocks);
    add(a, "bytes", s->bytes - s->own_bytes);
    add(a, "objects", objects_count(n->objects));
    add(a, "object_bytes", s->own_bytes);
    add(a, "leases", leases_count(n->leases));
    add(a, "ram_budget", n->ram);
    add(a, "ram_store_used", memory_used(n->memory, MEMORY_STORE));
    add(a, "ram_store_limit", memory_limit(n->memory, MEMORY_STORE));
    add(a, "ram_replies_used", memory_used(n->memory, MEMORY_REPLIES));
    add(a, "ram_replies_limit", memory_limit(n->memory, MEMORY_REPLIES));
    add(a, "lanes", n->n_lanes);
    add(a, "view_epoch", n->epoch);
    add(a, "view_nodes", n->view_nodes);
    add(a, "put_credit_per_lane", n->put_credit);
    add(a, "zmq_accepted", n->transport.accepted);
    add(a, "zmq_disconnected", n->transport.disconnected);
    add(a, "zmq_handshake_failed", n->transport.handshake_failed);
    add(a, "cpu_ns", n->transport.cpu_ns);
    add(a, "disks", n->n_disks);
    add(a, "disk_budget", n->disk_bytes);
    add(a, "disk_reading_bytes", n->reading_bytes);
    add(a, "disk_index_percent", n->n_disks ? (uint64_t)(progress * 100) : 0);
}

static uint64_t value_at(const void *base, size_t offset)
{
    return *(const uint64_t *)((const char *)base + offset);
}

void op_stats(struct call *c)
{
    struct node *n = c->node;
    struct answer a = {.n = 0};
    struct store_stats s;
    n->counters.stats++;
    store_stats(n->store, &s);
    add_gauges(&a, n, &s);
    for (size_t i = 0; i < N_COUNTERS; i++)
        add(&a, counters[i].name, value_at(&n->counters, counters[i].offset));
    for (size_t i = 0; i < N_REASONS; i++)
        add(&a, refusals[i], n->counters.refused[i]);
    for (size_t i = 0; i < N_DISK_COUNTERS; i++)
        add(&a, disk_counters[i].name, value_at(&s, disk_counters[i].offset));
    Scoutkv__StatsAck ack = SCOUTKV__STATS_ACK__INIT;
    ack.n_counters = a.n;
    ack.counters = a.pointers;
    ack.trouble = (char *)(uintptr_t)store_trouble(n->store); /* only read */
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.body_case = SCOUTKV__HEADER__BODY_STATS_ACK;
    h.stats_ack = &ack;
    call_answer(c, &h, NULL);
}
