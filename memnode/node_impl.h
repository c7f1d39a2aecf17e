/* node_impl.h: what the files of the node core share: node.c (life, dispatch, running), node_lanes.c (peers
 * and answers), node_ops.c (operations), node_objects.c, node_list.c, node_leases.c, node_put.c (PUTs, those
 * that wait too), node_get.c (streamed page replies from RAM), node_cold.c (and from disks), node_view.c (the
 * view of the cluster), node_stats.c. */
#ifndef MEMNODE_NODE_IMPL_H
#define MEMNODE_NODE_IMPL_H

#include "memnode/leases.h"
#include "memnode/node.h"
#include "memnode/objects.h"
#include "memnode/store/store.h"

#include <assert.h>

enum {
    MAX_LANES = 4096,
    LANE_BUCKETS = 1024,
    LANE_QUEUE_BYTES = 8 << 20,       /* answers waiting for a peer that does not read */
    OUTGOING_OVERHEAD = 256,          /* what a waiting answer takes besides its bytes, about */
    LANE_JOB_BYTES = 16 << 20,        /* GETs waiting, as parsed */
    LANE_OBJECT_BYTES = 16 << 20,     /* objects waiting to be stored */
    MAX_PAGES_PER_BLOCK = 4096,       /* 1024 heads of 4 pages: layout_valid's limit */
    MAX_WANTS = PROTO_MAX_HEADER / 8, /* pages that a GET can name: each has a checksum of 8 bytes */
    JOB_PATIENCE_MS = 5000,           /* a GET that can't move for so long is refused */
    DISK_PATIENCE_MS = 4000,  /* so is what waits for a disk: before the client's usual 5 s, to say why */
    READING_BYTES = 32 << 20, /* pages being read from disks; more GETs wait for their turn */
    BATCH_RUNS = 256,         /* reads that fill one Pages message, at most */
    LANE_PATIENCE_MS = 30000, /* a peer that reads nothing for so long is forgotten */
    N_REASONS = SCOUTKV__REFUSED__REASON__STALE_VIEW + 1,
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

/* A GET that is not completely answered. It first goes through its pages in RAM, in turn with the lane's
 * other GETs, and sets aside those that are only on a disk; if there are any, it then goes to node->cold and
 * has them read. */
struct get_job {
    struct get_job *next; /* of the lane, then of node->cold */
    struct lane *lane;
    Scoutkv__Header *header; /* owned */
    uint64_t ns;
    size_t bytes;       /* counted in lane->job_bytes */
    struct cursor at;   /* of the walk through RAM, then of the one through what was set aside */
    size_t touched;     /* wants before this one were told to the store, in this walk */
    uint64_t moved_ns;  /* when it last produced something */
    uint32_t n_cold;    /* pages set aside and not yet looked at again */
    unsigned n_batches; /* Pages messages being read, or read and not yet sent */
    struct cold_batch *ready, **ready_end; /* of those: to be sent */
    bool starved;                          /* the last thing that it lacked was memory for replies */
    uint64_t cold[];                       /* bit i: wanted page i was set aside; nothing without disks */
};

/* A block that is being copied in and verified. */
struct taking {
    struct buf *buf; /* the store's room for it; NULL: there was none yet */
    uint32_t pages;  /* that are in it, and right */
};

/* A PUT that is not answered yet: it is parked until all of it is in the store, or it is stored and waits for
 * the disk. */
struct put_job {
    struct put_job *next; /* of node->parked */
    struct put_job *prev_of_lane, *next_of_lane;
    struct node *node;
    struct lane *lane;
    uint64_t id, ns;
    size_t bytes; /* counted in lane->unacknowledged */
    bool stored;
    /* parked */
    Scoutkv__Header *header; /* owned */
    struct view payload;     /* owns a reference */
    uint64_t since_ns;
    struct taking taking;
    /* stored */
    struct block_key key;
    Scoutkv__PutAck__Result result;
    struct store_waiter waiter;
};

/* A request about an object that is not answered yet: it is parked until the store takes it, or its version
 * is stored and waits for the disk, or is being read from there. */
struct object_job {
    struct object_job *next; /* of node->objects_parked */
    struct object_job *prev_of_lane, *next_of_lane;
    struct node *node;
    struct lane *lane; /* NULL: gone while it is read */
    uint64_t id;
    enum { OBJECT_PARKED, OBJECT_WRITING, OBJECT_READING } state;
    /* parked */
    Scoutkv__Header *header; /* owned */
    struct view payload;     /* owns a reference */
    uint64_t since_ns;
    /* writing */
    struct store_waiter waiter;
    uint32_t count;
    /* writing and reading: what is to be answered */
    uint64_t revision, checksum, ttl_ms;
    size_t len;
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
    struct get_job *jobs, **jobs_end; /* that go through RAM */
    unsigned n_cold;                  /* others, in node->cold */
    size_t job_bytes;                 /* of both */
    struct put_job *puts;
    size_t unacknowledged; /* payload bytes of these */
    struct object_job *objects;
    size_t object_bytes; /* payload bytes of those that are parked */
};

/* Everything that STATS shows beside gauges; node_stats.c names them. */
struct node_counters {
    uint64_t puts, puts_stored, puts_same, puts_exists, puts_durable, puts_parked, put_bytes;
    uint64_t gets, get_pages, get_bytes, get_misses, get_zero_copy_bytes, get_disk_pages, get_disk_bytes;
    uint64_t haves, describes, lists, hints, drops, pins, unpins, object_puts, object_gets, object_lists,
        object_drops, stats, pings, hellos, view_puts, view_gets;
    uint64_t malformed, wrong_version, unread, leases_ended;
    uint64_t refused[N_REASONS];
};

/* Scratch of one step of a GET: what the next Pages message will hold. */
struct page_plan {
    /* Its frames: pages from found[first] on. */
    struct plan_part {
        uint32_t first;
        size_t bytes;
        struct block *run; /* they lie in this block, one behind the other; NULL: they are to be gathered */
    } part[PROTO_MAX_FRAMES];
    uint32_t found[PROTO_REPLY_BYTES / 64], missed[MAX_WANTS]; /* the smallest page has 64 bytes */
    const uint8_t *source[PROTO_REPLY_BYTES / 64];
};

/* The same for one that is read from disk: neighbouring pages of one block. */
struct cold_run {
    struct block *block;
    uint32_t first, n;
    struct cursor from;         /* where it begins, */
    uint32_t n_pages, n_missed; /* and how many of the message were planned before it */
};

struct node {
    char *id, *cluster;
    uint64_t *namespaces; /* NULL: any */
    size_t n_namespaces;
    uint64_t ram, put_credit, idle_ns;
    size_t n_disks;
    uint64_t disk_bytes; /* of all */
    uint64_t now;        /* as last told */
    uint64_t start_ns;
    bool indexing, served; /* what lies on the disks is still being read; a first GET was answered */
    bool finding;          /* so are the objects and leases among it */
    size_t leases_at;      /* of the objects that hold leases: those before it were begun */
    unsigned leases_reading;
    const struct log *log;
    node_send_fn *send;
    void *send_arg;
    uint64_t epoch;   /* of the view; 0: it knows none */
    struct buf *view; /* its text */
    uint64_t view_nodes;
    bool view_unkept;               /* it is to be put on a disk */
    bool view_looked, view_reading; /* for the one on the disks, at the start */
    struct memory *memory;
    struct store *store;
    struct leases *leases;
    struct objects *objects;
    struct lane *lane_buckets[LANE_BUCKETS];
    struct lane *lanes, *oldest_lane;
    unsigned n_lanes;
    bool waiting; /* some lane may have answers or GETs that wait, or is to be forgotten */
    struct get_job *cold, **cold_end;     /* GETs whose other pages are on disks, oldest first */
    struct cold_batch *batches;           /* all of them, also those whose GET is gone */
    uint64_t reading_bytes;               /* of pages that the store is reading for us */
    struct put_job *parked, **parked_end; /* oldest first, whatever their lane */
    struct object_job *objects_parked, **objects_parked_end;
    struct node_counters counters;
    struct node_transport transport;
    struct page_plan plan;
    struct cold_run runs[BATCH_RUNS];
};

/* One message being acted on. */
struct call {
    struct node *node;
    const struct node_peer *peer;
    struct lane *lane; /* NULL before HELLO */
    struct message *message;
    uint64_t id, now;
};

/* ---- node_lanes.c ---- */

/* The lane of a peer; made if it is new. NULL when out of memory. */
struct lane *lane_open(struct node *, const struct node_peer *, uint64_t now);
struct lane *lane_heard(struct node *, const struct node_peer *, uint64_t now); /* NULL: a stranger */
void lane_forget(struct node *, struct lane *);
void lane_reap(struct node *, const struct node_peer *); /* forgets it if it is gone */
/* Queues or sends; takes its own references. */
void lane_send(struct node *, struct lane *, struct buf *header, const struct view *payload, uint64_t now);
/* Sends what the transport takes of the lane's queue. True if something moved. */
bool lane_flush(struct node *, struct lane *, uint64_t now);
/* Whether node_run has something to do for it, besides what waits for disks. */
static inline bool lane_waits(const struct lane *l)
{
    return l->out || l->jobs;
}

/* Fills in version and id, and sends. The header's strings and arrays are the caller's. */
void call_answer(struct call *, Scoutkv__Header *, const struct view *payload);
/* Answers Refused and counts it. credit: payload bytes of a PUT to give back. */
void call_refuse(struct call *, Scoutkv__Refused__Reason, uint64_t credit, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* CONFLICT of an object: `revision` is held, or 0 when no later one would do either. */
void call_refuse_conflict(struct call *, uint64_t revision, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void call_refuse_malformed(struct call *, uint64_t credit, const char *what);
/* For want of memory, or of room on the disks; err: the store's sentence, or NULL. */
void call_refuse_full(struct call *, uint64_t credit, const struct skv_error *err);
/* What is to become of a key that is not found can't be told while disks are being read. */
bool node_starting(const struct node *);
void call_refuse_starting(struct call *, uint64_t credit);
void call_answer_done(struct call *, uint32_t count, uint64_t revision);

/* ---- operations ---- */

void op_hello(struct call *);
void op_put(struct call *);
void op_get(struct call *);
void op_have(struct call *);
void op_describe(struct call *);
void op_list(struct call *); /* node_list.c */
void op_hint(struct call *);
void op_drop(struct call *);
void op_pin(struct call *);
void op_unpin(struct call *);
void op_object_put(struct call *);
void op_object_get(struct call *);
void op_object_list(struct call *);
void op_object_drop(struct call *);
void op_view_put(struct call *);
void op_view_get(struct call *);
void op_stats(struct call *);
void op_ping(struct call *);

/* ---- node_ops.c ---- */

/* Finds the blocks of keys: blocks[i] is NULL where there is none. NULL when the message was refused; free()
 * it. all: one that is not found while the disks are still being read refuses it. */
struct block **call_find_blocks(struct call *, Scoutkv__Key **keys, size_t n, bool all);

/* ---- node_view.c ---- */

/* Whether a write goes by an older view than this node's; then it was refused. credit: as in call_refuse. */
bool view_stale(struct call *, uint64_t credit);
/* Finds the one on the disks, after the objects: 0 done, 2 something has to come from a disk first. */
int view_find(struct node *);
/* Puts a new one there. */
void view_keep(struct node *);

/* ---- node_put.c ---- */

/* Goes on with the first of the parked PUTs. False: not now. */
bool puts_run(struct node *);
void puts_tick(struct node *, uint64_t now); /* refuses those that were parked for too long */
void puts_forget(struct node *, struct lane *);

/* ---- node_objects.c ---- */

/* At the start: finds the objects and then the leases on the disks. */
enum node_work object_find_run(struct node *, uint64_t now);
/* Keeps the message of a call until the store takes more; then it is acted on again. */
void object_park(struct call *);
/* What is held under this name is what was asked for: answers Done, now or, for `durable`, when it is on the
 * medium. */
void object_settle(struct call *, Scoutkv__ObjectKind, const char *name, Scoutkv__Ack, uint32_t count);
/* Goes on with those that are parked. True if something moved. */
bool object_jobs_run(struct node *);
void object_jobs_tick(struct node *, uint64_t now); /* refuses those that were parked for too long */
void object_jobs_forget(struct node *, struct lane *);

/* ---- node_leases.c ---- */

int pin_now(struct call *); /* of one that was parked. -EAGAIN: not now */
/* At the start, when the objects are found: as objects_begin. */
int leases_find(struct node *);

/* ---- node_get.c ---- */

enum step { STEP_DONE, STEP_SENT, STEP_NO_MEMORY };
/* Sends the next message of the lane's first GET. DONE: that was its last from RAM, and the GET is gone, or
 * waits for disks. */
enum step get_step(struct node *, struct lane *, uint64_t now);
void get_drop(struct lane *); /* forgets the first GET */
void get_free(struct get_job *);
/* Refuses a GET that waited for memory which others' unread replies hold. */
void get_refuse_unread(struct node *, struct lane *, uint64_t id, uint64_t now);
uint64_t get_id(const struct get_job *);

/* Moves to the next wanted page, if not on one. False at the end. */
bool cursor_settle(const Scoutkv__Get *, struct cursor *);
void cursor_pass(struct cursor *);
/* The block that the want under the cursor names, or NULL. */
struct block *cursor_block(struct node *, const Scoutkv__Get *, uint64_t ns, const struct cursor *);
/* Where the page under the cursor is: at *source, or in the block's record, or not here in the version
 * wanted. */
enum page_place { PAGE_MISSED, PAGE_IN_RAM, PAGE_ON_DISK };
enum page_place page_at(const struct block *, const Scoutkv__Get *, const struct cursor *,
                        const uint8_t **source);
/* Sends one Pages message (n->plan's found and missed) and counts it. */
void get_send_pages(struct node *, struct get_job *, size_t n_found, size_t n_missed, size_t page_bytes,
                    bool last, const struct view *payload, uint64_t now);

/* ---- node_cold.c ---- */

/* Sends what was read and starts reading more. */
enum node_work cold_run(struct node *, uint64_t now);
void cold_add(struct node *, struct get_job *); /* a GET that has gone through RAM */
void cold_tick(struct node *, uint64_t now);    /* refuses those that waited for too long */
void cold_forget(struct node *, struct lane *);
void cold_free(struct node *); /* what is left when the store is closed */

#endif
