/* client.h: the logic of a client of the memory nodes, without I/O.
 *
 * A plain state machine. In: messages, the loss of a lane, a tick with the time. Out: messages, pulled by the
 * shell one at a time when a lane can take them, and callbacks. No zmq, no clock, no threads: tier.c binds it
 * to DEALER sockets, tests to scripted replies and to a node core under a fake network.
 *
 * Lanes are numbered node * (1 + GET lanes) + i; i = 0 is the node's bulk lane (PUTs and objects), so that
 * no GET waits behind them.
 *
 * A node is up once every lane of it has been greeted. A silent one is sent a PING after a heartbeat, and is
 * suspect after another: nothing new goes there while others can be had, and what is on its way is asked of
 * others too; a single word from it ends that. It is down from the moment a request misses its deadline, a
 * lane is lost or something unreadable comes from it: what was on its way or queued goes to other nodes,
 * every lane is reset and says HELLO again, and the node is taken back when it answers under its old id. What
 * only that node can answer waits for its return, for as long as a request may take since it was lost.
 *
 * Callbacks may begin PUTs, fetches and calls, but must not free a fetch or wait. */
#ifndef TIER_CLIENT_H
#define TIER_CLIENT_H

#include "decoder/tier/placement.h"
#include "decoder/tier/tier.h"
#include "proto/message.h"

struct client;

struct client_opts {
    const struct cluster_node *nodes; /* copied */
    size_t n_nodes;                   /* 1..PLACEMENT_MAX_NODES */
    uint64_t epoch;                   /* of the view that they are; 0: of none */
    const char *cluster;              /* kept by the caller */
    const char *name;                 /* for the nodes' logs; kept by the caller */
    uint64_t ns;
    uint32_t replicas;     /* at least 1 */
    uint32_t may_lack;     /* nodes that may be absent at the start; 0: replicas - 1 */
    uint64_t timeout_ns;   /* of each request */
    uint64_t heartbeat_ns; /* at most timeout_ns / 2 */
    uint64_t get_window;   /* payload bytes asked for and not yet received, per GET lane */
    uint32_t lanes;        /* GET lanes per node, at least 1 */
    bool unchecked;        /* pages are handed out without looking at their checksums */
};

struct client *client_new(const struct client_opts *, uint64_t now); /* NULL when out of memory */
void client_free(struct client *);                                   /* calls nobody back */

/* ---- in ---- */

/* The frames of one message; payload is referenced only during the call. */
void client_receive(struct client *, unsigned lane, const void *frame0, size_t len0, unsigned n_frames,
                    struct view payload, uint64_t now);
/* The connection under a lane broke (why: "the connection was closed"). What was in flight will not be
 * answered. */
void client_lane_lost(struct client *, unsigned lane, const char *why, uint64_t now);
/* Acts on deadlines and heartbeats, and hands out pages that cannot be had. To be called after all that has
 * come was received. */
void client_tick(struct client *, uint64_t now);
/* When client_tick or client_next has something to do by itself; UINT64_MAX: never. */
uint64_t client_wakeup(const struct client *);

/* ---- out ---- */

struct outgoing {
    struct buf *header;  /* one reference, the taker's */
    struct view payload; /* owner (if any): one reference, the taker's */
};
void outgoing_clear(struct outgoing *);

/* The next message for this lane; deadlines run from here. False: nothing to send now. */
bool client_next(struct client *, unsigned lane, uint64_t now, struct outgoing *out);
/* True (once) when the lane's connection must be replaced by a fresh one, so that neither end mistakes what
 * is old. */
bool client_take_reset(struct client *, unsigned lane);

/* ---- state ---- */

/* 1: every node has been up; 0: not yet; else the -errno and sentence of the first node that cannot be used.
 */
int client_ready(const struct client *, struct skv_error *);
/* The nodes of the cluster, once ready, have numbers below PLACEMENT_MAX_NODES; a node keeps its own for as
 * long as it is a member. */
unsigned client_n_nodes(const struct client *);
unsigned client_node_at(const struct client *, unsigned i); /* the number of the i-th of them */
const struct cluster_map *client_map(const struct client *);
unsigned client_n_lanes(const struct client *); /* lanes that are or were in use; grows with the view */
/* Whether it is up and has disks that take writes: such a one evicts blocks from its RAM. */
bool client_node_has_disk(const struct client *, unsigned node);
bool client_node_up(const struct client *, unsigned node);
const struct cluster_node *client_node(const struct client *, unsigned node); /* as it was given */
bool client_node_suspect(const struct client *, unsigned node); /* up, but silent for two heartbeats */
unsigned client_replicas(const struct client *);
const char *client_node_id(const struct client *, unsigned node);
/* Where the lanes of a node number are to connect to; NULL: nowhere, there is no such member. */
const char *client_node_address(const struct client *, unsigned node);
/* Says why a node is down: -EHOSTUNREACH. */
int client_node_down(const struct client *, unsigned node, struct skv_error *);

/* ---- the view: which nodes the cluster has ---- */

uint64_t client_epoch(const struct client *); /* 0: nodes as they were given, and no node knows better */
void client_view(const struct client *, struct cluster_view *out); /* once ready */
/* Goes by this view from now on: new nodes get lanes, what was on its way to nodes that are no members any
 * more goes elsewhere. -ESTALE: it is older than the one in use, or another of the same epoch (which is taken
 * if that is 0: views written by hand). Nodes that know an older one are told; a newer one that some node
 * knows is taken without being asked. */
int client_set_view(struct client *, const struct cluster_view *, uint64_t now, struct skv_error *);
/* The epoch that a node named last. */
uint64_t client_node_epoch(const struct client *, unsigned node);
/* Of its store, as it said when it was greeted last: another one came back without its blocks. 0: never
 * greeted. */
uint64_t client_node_incarnation(const struct client *, unsigned node);

struct client_totals {
    struct tier_totals tier;
    uint64_t late;      /* replies to requests that were already answered or given up */
    uint64_t malformed; /* messages that could not be read or made no sense */
};
const struct client_totals *client_totals(const struct client *);

/* ---- requests ---- */

/* Places a PUT on the first live nodes in rank, `replicas` of them. Takes a reference on payload, copies the
 * rest. */
int client_put(struct client *, const struct block_key *, const struct block_layout *, struct buf *payload,
               const uint64_t *checksums, enum tier_ack, tier_put_fn *done, void *arg, struct skv_error *);
uint64_t client_put_backlog(const struct client *); /* payload bytes not yet handed to client_next */
size_t client_puts_open(const struct client *);     /* PUTs whose callback is still to come */
/* Blocks that lack a copy, as far as this client knows; it makes them good when their nodes can be had. */
size_t client_repairs_open(const struct client *);
/* The first failure of a PUT since this was last asked. */
int client_put_failure(struct client *, struct skv_error *);

/* See tier_fetch_begin. */
int client_fetch_begin(struct client *, const struct block_layout *, const struct tier_want *wants, size_t n,
                       tier_page_fn *on_page, void *arg, struct tier_fetch **out, struct skv_error *);
bool client_fetch_done(const struct tier_fetch *);
/* All that it still waits for is with nodes for which a fetch was given up since they last answered one. */
bool client_fetch_behind(const struct client *, const struct tier_fetch *);
/* Ends every page that has not come: -EHOSTUNREACH, unless no node has it or no copy is good. */
void client_fetch_give_up(struct client *, struct tier_fetch *);
/* Frees it and returns the first page's failure. If it is not done, what still comes is thrown away. */
int client_fetch_free(struct client *, struct tier_fetch *, struct skv_error *);

/* Any other request to one node. header->version and id are filled in; it is packed during the call. reply is
 * called once: rc 0 with a message whose body is `expect`; or an -errno with err and the Refused, or NULL
 * when the node was lost. */
typedef void client_reply_fn(void *arg, int rc, const struct message *reply, const struct skv_error *err);
int client_call(struct client *, unsigned node, bool bulk, Scoutkv__Header *header, struct view payload,
                Scoutkv__Header__BodyCase expect, client_reply_fn *reply, void *arg, uint64_t now,
                struct skv_error *);
/* Gives a view to a node: such a call, answered with Done. */
int client_give_view(struct client *, unsigned node, const struct cluster_view *, client_reply_fn *reply,
                     void *arg, uint64_t now, struct skv_error *);

#endif
