/* node.h: the memory node's logic, without I/O.
 *
 * DESIGN. A plain state machine: in go messages, each with the peer it came from and the time; out come
 * answers through one callback. No zmq, no clock, no threads: server.c binds it to a ROUTER, tests and the
 * simulator to whatever they like. Disks are reached through the struct io that it is given. A peer is one
 * lane of one client, named by its routing id; it must say HELLO before anything else but PING.
 *
 * Where the transport says -EAGAIN (a peer that does not read), answers wait in the peer's own bounded queue
 * and node_run tries again; the pages of a GET are only gathered when the transport takes them, one message
 * of about 1 MiB at a time. A peer whose queue overflows is forgotten: it does not read. What waits for a
 * disk (pages to be read, PUTs to become durable) is overtaken by answers that need none. */
#ifndef MEMNODE_NODE_H
#define MEMNODE_NODE_H

#include "common/error.h"
#include "common/log.h"
#include "proto/message.h"

#include <inttypes.h>
#include <stdbool.h>

struct store_disk; /* memnode/store/store.h */
struct io;         /* memnode/store/io.h */

/* Zero or NULL means the default everywhere. Strings are copied, the rest is kept by the caller. */
struct node_opts {
    const char *id;      /* default "node" */
    const char *cluster; /* default "default" */
    uint64_t ram;       /* bytes, all that blocks, objects and replies on their way may take; default 4 GiB */
    const uint64_t *ns; /* namespaces served; NULL: any */
    size_t n_ns;
    uint64_t put_credit;        /* bytes a bulk lane may have unacknowledged; default 16 MiB */
    const uint8_t *incarnation; /* 16 bytes; NULL: random (simulations want theirs). What disks hold wins */
    uint32_t idle_ms;           /* a peer that is silent for longer must say HELLO again; default 1 hour */
    const struct store_disk *disks; /* where blocks are kept; none: in RAM only */
    size_t n_disks;
    struct io *io;       /* with disks: how they are reached; to be closed after node_free */
    uint64_t scrub_rate; /* bytes a second that are read again to find what has rotted; 0: none */
    uint64_t start_ns;   /* when the start began, for the log; 0: when the node first hears or runs */
    int64_t wall_offset; /* nanoseconds since 1970 less the time that the node is told: ends on disks are in
                            wall-clock time. Asked once: a clock that is set while the node runs moves none */
    const struct log *log;
};

enum { NODE_RAM_MIN = 8 << 20 }; /* less is a usage error */

/* Who a message came from: the ROUTER's routing id. */
struct node_peer {
    uint8_t len;
    uint8_t id[255];
};

/* Sends one answer; takes references of its own. 0; -EAGAIN: not now, offer it again in node_run; any other
 * error: the peer is gone and is forgotten. */
typedef int node_send_fn(void *arg, const struct node_peer *, struct buf *header, const struct view *payload);

struct node;
/* NULL and err when out of memory, the options make no sense, or a disk can't be used. Opening disks is the
 * only thing here that may take a while; what they hold is read afterwards, by node_run. */
struct node *node_new(const struct node_opts *, node_send_fn *send, void *arg, struct skv_error *err);
/* Buffers that the transport still holds stay valid and are freed with their last reference. What was not
 * written to disk yet is dropped: see node_flushed. */
void node_free(struct node *);

/* Acts on one message. The message stays the caller's, but its header may be taken (set to NULL). */
void node_receive(struct node *, const struct node_peer *, struct message *, uint64_t now_ns);
/* Answers and counts a message that message_parse refused: rc, id and reason as it gave them. */
void node_malformed(struct node *, const struct node_peer *, uint64_t id, int rc, const char *reason,
                    uint64_t now_ns);
/* Continues what waits for a peer to read, for replies' memory or for a disk. To be called after receiving,
 * when node_poll_fd is readable, and again while it has work left: at once when BUSY, in a millisecond or so
 * when BLOCKED (nothing moved); with disks, at least about twice a second in any case. */
enum node_work { NODE_IDLE, NODE_BLOCKED, NODE_BUSY };
enum node_work node_run(struct node *, uint64_t now_ns);
/* Ends leases, forgets idle peers, refuses GETs that waited too long. To be called about twice a second. */
void node_tick(struct node *, uint64_t now_ns);

/* To poll for reading: node_run has something to do then. -1 without disks. */
int node_poll_fd(const struct node *);
/* Whether all that was put is on its disk (always, without disks); *left: about how many bytes are not. For
 * an orderly end: node_run until then. */
bool node_flushed(const struct node *, uint64_t *left);
/* Why a disk takes no writes any more, or "". */
const char *node_trouble(const struct node *);

/* What only the shell knows; appears in STATS. */
struct node_transport {
    uint64_t accepted, disconnected, handshake_failed; /* what the transport saw by itself */
    uint64_t cpu_ns;                                   /* that the process has used, of all its threads */
};
void node_set_transport(struct node *, const struct node_transport *);

const char *node_id(const struct node *);

#endif
