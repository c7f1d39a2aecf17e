/* node_impl.h: what the files of the node core share: node.c (peers, answers, dispatch), node_ops.c
 * (operations), node_get.c (streamed page replies), node_stats.c. */
#ifndef MEMNODE_NODE_IMPL_H
#define MEMNODE_NODE_IMPL_H

#include "memnode/leases.h"
#include "memnode/node.h"
#include "memnode/objects.h"
#include "memnode/ram_store.h"

#include <assert.h>

enum {
    MAX_LANES = 4096,
    LANE_BUCKETS = 1024,
    LANE_QUEUE_BYTES = 8 << 20,       /* answers waiting for a peer that does not read */
    OUTGOING_OVERHEAD = 256,          /* what a waiting answer takes besides its bytes, about */
    LANE_JOB_BYTES = 16 << 20,        /* GETs waiting, as parsed */
    MAX_PAGES_PER_BLOCK = 4096,       /* 1024 heads of 4 pages: layout_valid's limit */
    MAX_WANTS = PROTO_MAX_HEADER / 8, /* pages that a GET can name: each has a checksum of 8 bytes */
    JOB_PATIENCE_MS = 5000,           /* a GET that can't move for so long is refused */
    LANE_PATIENCE_MS = 30000,         /* a peer that reads nothing for so long is forgotten */
    N_REASONS = SCOUTKV__REFUSED__REASON__NO_HELLO + 1,
    OWNER_NAME_MAX = OBJECT_NAME_MAX,
};

/* An answer that the transport has not taken yet. */
struct outgoing {
    struct outgoing *next;
    struct buf *header;
    struct view payload; /* owns a reference */
};

/* Where a GET stands: the next page to look at. */
struct cursor {
    size_t want, sum; /* index of the Want, and of the checksum within it */
    uint32_t head, page;
    uint32_t index; /* wanted pages before this one, through all wants */
};

/* A GET that is not completely answered. */
struct get_job {
    struct get_job *next;
    Scoutkv__Header *header; /* owned */
    uint64_t ns;
    size_t bytes; /* counted in lane->job_bytes */
    struct cursor at;
    uint64_t moved_ns; /* when it last produced something */
};

struct lane {
    struct lane *next_of_bucket;
    struct lane *prev, *next; /* all lanes, the latest heard first */
    struct node_peer peer;
    char client[64];
    uint64_t ns;
    bool bulk;
    bool gone; /* to be forgotten when the current call is done with it */
    uint64_t heard_ns;
    uint64_t stuck_ns; /* since when the first outgoing answer waits */
    struct outgoing *out, **out_end;
    size_t out_bytes;
    struct get_job *jobs, **jobs_end;
    size_t job_bytes;
};

/* Everything that STATS shows beside gauges; node_stats.c names them. */
struct node_counters {
    uint64_t puts, puts_stored, puts_same, puts_exists, put_bytes;
    uint64_t gets, get_pages, get_bytes, get_misses, get_zero_copy_bytes;
    uint64_t haves, hints, drops, pins, unpins, object_puts, object_gets, object_lists, stats, pings, hellos;
    uint64_t malformed, wrong_version, unread, leases_ended;
    uint64_t refused[N_REASONS];
};

/* Scratch of one step of a GET: what the next Pages message will hold. */
struct page_plan {
    uint32_t found[PROTO_REPLY_BYTES / 64], missed[MAX_WANTS]; /* the smallest page has 64 bytes */
    const uint8_t *source[PROTO_REPLY_BYTES / 64];
};

struct node {
    char *id, *cluster;
    uint64_t *namespaces; /* NULL: any */
    size_t n_namespaces;
    uint64_t ram, put_credit, idle_ns;
    uint8_t incarnation[16];
    const struct log *log;
    node_send_fn *send;
    void *send_arg;
    struct memory *memory;
    struct ram_store *store;
    struct leases *leases;
    struct objects *objects;
    struct lane *lane_buckets[LANE_BUCKETS];
    struct lane *lanes, *oldest_lane;
    unsigned n_lanes;
    bool waiting; /* some lane may have answers or GETs that wait */
    struct node_counters counters;
    struct node_transport transport;
    struct page_plan plan;
    uint64_t checksums[MAX_PAGES_PER_BLOCK];
};

/* One message being acted on. */
struct call {
    struct node *node;
    const struct node_peer *peer;
    struct lane *lane; /* NULL before HELLO */
    struct message *message;
    uint64_t id, now;
};

/* ---- node.c ---- */

/* Fills in version and id, and sends. The header's strings and arrays are the caller's. */
void call_answer(struct call *, Scoutkv__Header *, const struct view *payload);
/* Answers Refused and counts it. credit: payload bytes of a PUT to give back. */
void call_refuse(struct call *, Scoutkv__Refused__Reason, uint64_t credit, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* The lane of a peer; made if it is new. NULL when out of memory. */
struct lane *lane_open(struct node *, const struct node_peer *, uint64_t now);
/* Queues or sends; takes its own references. */
void lane_send(struct node *, struct lane *, struct buf *header, const struct view *payload, uint64_t now);
static inline bool lane_waits(const struct lane *l)
{
    return l->out || l->jobs;
}

/* ---- operations ---- */

void op_hello(struct call *);
void op_put(struct call *);
void op_get(struct call *);
void op_have(struct call *);
void op_hint(struct call *);
void op_drop(struct call *);
void op_pin(struct call *);
void op_unpin(struct call *);
void op_object_put(struct call *);
void op_object_get(struct call *);
void op_object_list(struct call *);
void op_stats(struct call *);
void op_ping(struct call *);

/* ---- node_get.c ---- */

enum step { STEP_DONE, STEP_SENT, STEP_NO_MEMORY };
/* Sends the next message of the lane's first GET. DONE: that was its last, and it is gone. */
enum step get_step(struct node *, struct lane *, uint64_t now);
void get_drop(struct lane *); /* forgets the first GET */
uint64_t get_id(const struct get_job *);

#endif
