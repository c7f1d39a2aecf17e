/* tier.h: the client of the memory nodes, as the context sees it.
 *
 * One tier belongs to one thread, which owns its sockets; there are no locks. Calls that "begin" only queue;
 * messages move when tier_pump or a waiting call runs (zmq's own threads move bytes meanwhile). With
 * nodes == NULL the same memory node core runs inside this process, behind inproc://, and is reached through
 * the same code. */
#ifndef TIER_TIER_H
#define TIER_TIER_H

#include "common/cluster_view.h"
#include "common/identity.h"

#include <stdbool.h>

struct tier;

#define TIER_ETCD "etcd://"

struct tier_opts {
    const char *nodes;        /* "[id@]host:port[*weight],…", or "@FILE" with a view, or
                               * "etcd://HOST:PORT,…" which knows one; NULL: embedded */
    const char *cluster;      /* cluster name, NULL = "default" */
    uint64_t ns;              /* namespace of all keys */
    uint64_t ram;             /* embedded node's budget in bytes; 0 = 4 GiB */
    const char *const *disks; /* embedded node's disks, each "DIR:SIZE"; none: it keeps blocks in RAM only */
    size_t n_disks;
    uint32_t may_lack;     /* nodes that may be absent at the start; 0: fewer than `replicas` */
    uint32_t replicas;     /* nodes that each block is written to; 0 = 1 */
    uint32_t timeout_ms;   /* deadline of each request; 0 = 5000 */
    uint32_t heartbeat_ms; /* a node that is silent for two of these is passed over; 0 = 250 */
    uint64_t get_window;   /* payload bytes asked for and not yet received, per lane; 0 = 8 MiB */
    uint32_t lanes;        /* GET lanes per node; 0 = 1 (a bulk lane for PUTs comes on top) */
    bool unchecked;        /* hand out pages without looking at their checksums: to measure what that costs */
};

/* Connects and says HELLO to every node. -EHOSTUNREACH names the node that does not answer,
 * -EPROTONOSUPPORT the one that speaks another version. With replicas, fewer than `replicas` nodes may be
 * absent if `nodes` gives their ids. */
int tier_open(const struct tier_opts *, struct tier **out, struct skv_error *);
void tier_close(struct tier *); /* drops what is still queued; tier_flush first to keep it */

/* ---- which nodes ---- */

/* The view in use; of epoch 0 if it is just the nodes that were given, and none of them knows a view. */
void tier_view(const struct tier *, struct cluster_view *out);
/* Goes by another view from now on, and gives it to every node that knows an older one. Nothing that is under
 * way fails because of that. -ESTALE: it is older than the one in use, or another of the same epoch. Not from
 * within a callback. */
int tier_set_view(struct tier *, const struct cluster_view *, struct skv_error *);
/* The same with what is in the file of `nodes` = "@FILE" now. */
int tier_reload(struct tier *, struct skv_error *);

/* ---- writing ---- */

enum tier_ack { TIER_ACK_RAM, TIER_ACK_DURABLE };

/* How a PUT ended. rc 0: the block is on the tier, and stays readable while one of `holders` lives (`ram`:
 * that process; `durable`: its disks). There are `replicas` of them, or as many as nodes were to be had. If
 * the tier held the key with other bytes already, stored[] (n_pages, payload order) are the checksums of the
 * version that stays (else NULL): the writer must adopt them. Valid during the call. */
struct tier_put_result {
    int rc;
    uint64_t holders; /* bit i: node number i has acknowledged that version */
    const uint64_t *stored;
    size_t n_pages;
    const struct skv_error *err; /* NULL if rc is 0 */
};
/* Called from within tier calls, once per PUT. */
typedef void tier_put_fn(void *arg, const struct tier_put_result *);

/* Queues a PUT of a sealed block (payload: layout_block_bytes; takes a reference; checksums are copied).
 * Blocks (pumping) while the node's credit and a bounded local queue are used up. */
int tier_put(struct tier *, const struct block_key *, const struct block_layout *, struct buf *payload,
             const uint64_t *checksums, enum tier_ack, tier_put_fn *done, void *arg, struct skv_error *);
/* Waits until every PUT so far is answered; the first failure, if any, is returned (and told once). */
int tier_flush(struct tier *, struct skv_error *);

/* ---- reading pages ---- */

/* One page wanted. Wants of one block must be neighbours in the array, heads and pages rising (payload
 * order). */
struct tier_want {
    const struct block_key *key; /* kept by the caller until the fetch ends */
    uint16_t head;               /* slice index in the block, 0..n_heads-1 (not absolute) */
    uint8_t page;                /* 0..3 */
    uint64_t checksum;           /* the version wanted */
};

/* Called once for each wanted page, in order of arrival, from within tier calls. The bytes have passed their
 * checksum. They are valid during the call only, 1-aligned. rc: 0, -ENODATA (no node has it), -EBADMSG (every
 * copy failed its checksum), -EHOSTUNREACH (its nodes are gone or late); then bytes is NULL. */
typedef void tier_page_fn(void *arg, size_t want, int rc, const uint8_t *bytes);

struct tier_fetch;
/* Queues a fetch of wants[0..n) (all of one layout; the array is kept by the caller until the fetch has
 * ended), of every node at once for what it holds. Several fetches may be under way; those that are begun one
 * after the other share messages. tier_send if something else is done before the next pump. */
int tier_fetch_begin(struct tier *, const struct block_layout *, const struct tier_want *wants, size_t n,
                     tier_page_fn *on_page, void *arg, struct tier_fetch **out, struct skv_error *);
/* True when every page was answered. */
bool tier_fetch_done(const struct tier_fetch *);
/* Pumps until done, then frees the fetch. 0 or the first page's failure with its sentence. */
int tier_fetch_end(struct tier *, struct tier_fetch *, struct skv_error *);
/* The same, but at until_ns (clock_ns) what has not come fails with -EHOSTUNREACH. Nodes that are to blame
 * are not waited for again by this call until they have answered some fetch, and others are asked before
 * them. */
int tier_fetch_end_by(struct tier *, struct tier_fetch *, uint64_t until_ns, struct skv_error *);

/* ---- hints ---- */

/* Whether a node has disks, and so evicts blocks from its RAM: others have no use for hints. */
bool tier_takes_hints(const struct tier *);
/* Tells the nodes that the blocks should lie on how often each will be asked for, as a multiple of the
 * average block: what is above 1 stays in their RAM for longer. Nobody waits for the answer. -EAGAIN: an
 * earlier one is not answered yet, and nothing was sent. n <= TIER_HINT_KEYS. */
enum { TIER_HINT_KEYS = 512 };
int tier_hint(struct tier *, const struct block_key *keys, const float *keep, size_t n, struct skv_error *);
/* Grows when nodes may have forgotten, or never heard, what they were told: it may be told again then. */
uint64_t tier_hints_lost(const struct tier *);

/* Sends what was queued, and waits for nothing. */
void tier_send(struct tier *);
/* Moves what can move without waiting (timeout_ms 0) or waits up to timeout_ms for something to. */
int tier_pump(struct tier *, int timeout_ms, struct skv_error *);
/* The same, but waits no longer than until wake_fd is readable: for callers that have something else to wait
 * for. */
int tier_pump_or(struct tier *, int wake_fd, int timeout_ms, struct skv_error *);

/* ---- the rest, each waits for its answers ---- */

int tier_have(struct tier *, const struct block_key *keys, size_t n, bool *present, struct skv_error *);
int tier_drop(struct tier *, const struct block_key *keys, size_t n, struct skv_error *);
int tier_pin(struct tier *, const char *owner, const struct block_key *keys, size_t n, uint32_t ttl_ms,
             struct skv_error *);
int tier_unpin(struct tier *, const char *owner, const struct block_key *keys, size_t n, struct skv_error *);

/* ---- objects: small things with names ---- */

enum tier_object {
    TIER_MANIFEST, /* a later put replaces it */
    TIER_SIDECAR,  /* never changes: the first put wins */
};
enum { TIER_OBJECT_MAX = 1 << 20, TIER_NAME_MAX = 255 }; /* bytes */

struct tier_object_opts {
    uint64_t ttl_ms; /* then nodes forget it; 0: never. Put again, its end moves, a sidecar's never nearer */
    bool durable;    /* on a disk, not in RAM only, before this returns */
    bool absent;     /* only if there is none of this name */
    uint64_t expect; /* only if the one on the tier has this revision (as put or got); 0: any */
    uint64_t *revision; /* out: of what is on the tier now; NULL: not asked */
};

/* Puts it on as many nodes as a block, first in rank of its name first; opts may be NULL. len <=
 * TIER_OBJECT_MAX. 0 when so many of the live nodes have it. -ESTALE: somebody else changed it (or made it)
 * meanwhile; or a sidecar is there with other bytes. -ENOTSUP: durable, and no node has a disk. */
int tier_object_put(struct tier *, enum tier_object, const char *name, const void *bytes, size_t len,
                    const struct tier_object_opts *opts, struct skv_error *err);
/* The latest that a live node has; nodes that lack it or have an older one are given it. -ENOENT when no node
 * has it, -EHOSTUNREACH when one that is away may have it. *out: one reference, to be dropped by the caller;
 * revision may be NULL. */
int tier_object_get(struct tier *, enum tier_object, const char *name, struct buf **out, uint64_t *revision,
                    struct skv_error *err);
/* Reads n sidecars, several at once. name() writes the i-th's name; each() is called once for each, in order
 * of arrival, from within tier calls, with its bytes (valid during the call only) or rc and *err as above.
 * What each() returns, if not 0 (with *err filled), ends the call with that, once what is on its way has
 * come. */
typedef void tier_object_name_fn(void *arg, size_t i, char name[TIER_NAME_MAX + 1]);
typedef int tier_object_fn(void *arg, size_t i, int rc, const uint8_t *bytes, size_t len,
                           struct skv_error *err);
int tier_sidecars_get(struct tier *, size_t n, tier_object_name_fn *name, tier_object_fn *each, void *arg,
                      struct skv_error *err);
/* Takes it off every live node; one that is away will be told when it is read there. -ENOENT when there was
 * none. */
int tier_object_drop(struct tier *, enum tier_object, const char *name, struct skv_error *err);
/* Calls each with every name on a live node that begins with prefix (NULL: every name), in order, once. It
 * may use the tier. */
int tier_object_list(struct tier *, enum tier_object, const char *prefix,
                     void (*each)(void *arg, const char *name), void *arg, struct skv_error *err);

struct tier_counter {
    char node[64]; /* the node's id */
    char name[48];
    uint64_t value;
    char text[256]; /* of "trouble", which is no number but says why a disk takes no writes; else empty */
};
/* Every counter of every node, in order, and its "trouble" last; *out is malloc'd. Of nodes that are absent,
 * fewer than `replicas`, there are none. */
int tier_stats(struct tier *, struct tier_counter **out, size_t *n, struct skv_error *);

/* A node as this client sees it now. */
struct tier_node {
    char id[64], address[264];
    double weight;
    bool draining, up, suspect;   /* suspect: up, but silent */
    uint64_t incarnation;         /* changes when it comes back without its blocks; 0: it never answered */
    uint64_t epoch;               /* of the cluster's view that it knows */
    uint64_t answer_ns;           /* how long it took to answer for this */
    struct tier_counter *counter; /* [n_counters]; none if it is not up */
    size_t n_counters;
    struct skv_error why; /* it is not up, or gave no counters; code 0: it did */
};
/* All nodes, those that are gone too; *out is malloc'd, for tier_nodes_free. */
int tier_nodes(struct tier *, struct tier_node **out, size_t *n, struct skv_error *);
void tier_nodes_free(struct tier_node *, size_t n);

/* Client-side totals since open. */
struct tier_totals {
    uint64_t get_pages, get_bytes; /* pages received and verified, payload bytes */
    uint64_t put_blocks, put_bytes, put_same, put_exists;
    uint64_t misses, bad_checksums, timeouts, refused;
    uint64_t hedged;                  /* pages asked of a second node as the first was slow; */
    uint64_t hedge_bytes;             /* payload that came for nothing because of it */
    uint64_t suspected, lost, reborn; /* nodes passed over as silent, given up, and back without their blocks
                                       */
    uint64_t short_puts;              /* blocks acknowledged by fewer nodes than `replicas` */
    uint64_t conflicts; /* copies that a node refused because it holds another version of the block */
    uint64_t stale;     /* writes sent again, as a node knew a newer view of the cluster, */
    uint64_t etcd_lost; /* times that etcd stopped answering: the last view stayed */
    uint64_t views;     /* views taken since the start */
    uint64_t repaired;  /* copies made good later, after a write that fell short or a read that missed */
};
void tier_get_totals(const struct tier *, struct tier_totals *);
unsigned tier_n_nodes(const struct tier *);
unsigned tier_nodes_up(const struct tier *);

#endif
