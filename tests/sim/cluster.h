/* cluster.h: what the files of the cluster's simulator share: memory nodes, clients, the network between them
 * and what is known of the blocks, all in one thread and decided by one seed.
 *
 * Time is true time, in ns; every node and client has a clock of its own, which is off and runs at another
 * rate. Messages come first: whoever wakes at the same moment finds them delivered. */
#ifndef TESTS_SIM_CLUSTER_H
#define TESTS_SIM_CLUSTER_H

#include "common/clock.h"
#include "decoder/tier/client.h"
#include "memnode/node.h"
#include "tests/sim/history.h"
#include "tests/store/random.h"
#include "tests/store/sim_disk.h"

enum {
    MAX_NODES = 5,
    MAX_CLIENTS = 3,
    MAX_LANES = 3, /* of a client to a node */
    MAX_KEYS = 40,
    MAX_VERSIONS = 3,          /* of a block's bytes */
    MAX_OWNERS = 3,            /* of leases */
    MAX_SLOTS = 2 * MAX_NODES, /* node numbers of a client: those of leavers are given anew */
    MAX_VIEWS = 24,
    STALE_WRITES = 16, /* per lane, remembered */
    SENT_PUTS = 256,   /* per client; more are never unanswered */
};

enum way { TO_NODE, TO_CLIENT };

struct sim_clock {
    uint64_t offset;
    int64_t skew; /* in 1024ths */
};
static inline uint64_t clock_at(const struct sim_clock *c, uint64_t now)
{
    return c->offset + (now * (uint64_t)(1024 + c->skew) >> 10);
}

/* ---- what the seed decided beforehand ---- */

enum fault {
    FAULT_KILL,      /* a node's process */
    FAULT_POWER,     /* its machine */
    FAULT_DISK_DIES, /* the same, in the middle of its disk's work */
    FAULT_STOP,      /* an orderly end */
    FAULT_EMPTY,     /* its process ends, and it comes back without its blocks */
    FAULT_FREEZE,    /* SIGSTOP */
    FAULT_PARTITION, /* between a node and a client, or all of them */
    FAULT_ONE_WAY,   /* the same, of one direction */
    FAULT_BREAK,     /* a connection */
    FAULT_STALL,     /* a client computes for long */
    FAULT_CRASH,     /* of a client */
    FAULT_SLOW,      /* a node's link, for a while */
    N_FAULTS,
};

struct plan {
    unsigned n_nodes, n_clients, n_keys, n_versions, n_layouts, lanes, hwm, replicas;
    struct block_layout layouts[2];
    bool disk[MAX_NODES], bad_disks; /* they fail writes */
    bool tight;                      /* not all blocks have room */
    int victim;                      /* the only node that anything happens to; -1: all of them */
    bool ids;                        /* clients know them */
    unsigned views, first_members;   /* the first epoch; 0: all nodes are members all the while */
    unsigned impostors;              /* % of starts of a node: another answers at its address first */
    uint64_t view_every;
    unsigned durable_percent, max_open;
    uint64_t ram, put_credit, get_window;
    uint64_t duration, timeout, heartbeat, latency, jitter, fault_every, op_every;
    unsigned weight[N_FAULTS];
    uint32_t drop, twice, reorder, flip; /* of a million messages: what TCP does not do */
    unsigned unnoticed;                  /* % of broken connections */
    struct sim_faults disk_faults;
};
void plan_make(struct plan *, uint64_t *rng);

/* ---- blocks ---- */

/* What an acknowledgement said: this node holds this version, for as long as that process, or that directory,
 * lives. */
struct promise {
    int version;        /* -1: none */
    unsigned life, dir; /* 0: not promised */
    uint64_t event;     /* of the last acknowledgement, */
    uint64_t since;     /* and when it began to hold */
};

struct sim_key {
    struct block_key key;
    unsigned number, pages;
    const struct block_layout *layout;
    struct version {
        struct buf *payload;
        uint64_t *checksums;
    } version[MAX_VERSIONS];
    int known; /* the version that readers have heard of; -1: none */
    struct promise promise[MAX_NODES];
    uint64_t removed[MAX_NODES]; /* event of the last DROP that took it from there */
};

/* ---- the network ---- */

struct cluster;

/* A message on its way, or (no header) the news that the connection broke. */
struct flight {
    struct flight *next; /* of those held up */
    uint64_t time, serial;
    struct conn *conn;
    enum way way;
    unsigned generation, socket, node;
    unsigned life, dir; /* of the node that sent it, */
    uint64_t event;     /* then */
    struct buf *header;
    struct view payload;
};

/* A write by an older view than the node knew when it came. */
struct stale_write {
    uint64_t id, epoch, known;
    unsigned generation;
};

/* A lane. Its socket is the client's; connections under it come and go. */
struct conn {
    struct cluster *k;
    unsigned client, node, lane; /* lane: as the client core counts */
    unsigned socket, generation;
    uint64_t alive_until; /* what the last connection brings until then arrives */
    uint64_t last_time[2];
    unsigned in_flight[2];
    struct flight *held[2], **held_end[2];
    bool open;   /* to `node`; else to nowhere */
    bool broken; /* unnoticed by the client as yet */
    struct stale_write stale[STALE_WRITES];
    unsigned n_stale;
};

/* ---- the ends ---- */

struct sim_node {
    struct cluster *k;
    unsigned number;
    char id[16];
    struct node *core; /* NULL: dead */
    struct sim *sim;   /* its disk, or NULL */
    struct sim_clock clock;
    unsigned life, dir; /* processes and directories so far */
    bool frozen;
    bool impostor;     /* another node at its address, under its own id */
    struct sim *aside; /* its disk, meanwhile */
    uint64_t leave_at;
    uint64_t wake, tick;              /* of the living; true time */
    uint64_t thaw_at, start_at, slow; /* UINT64_MAX: never; slow: latency until slow_until */
    uint64_t slow_until;
    uint64_t evicted, disk_faults; /* counted so far */
    /* Leases end then, by its clock as the disk knows it; 0: none. Those that there are, and those that there
     * may be, as a disk brings them back. */
    uint64_t lease[MAX_OWNERS][MAX_KEYS], may_lease[MAX_OWNERS][MAX_KEYS];
};

struct sent_put {
    uint64_t id;
    unsigned lane, socket;
    int key, version;
    bool durable;
};
struct put_ack {
    uint64_t event; /* when it was sent; 0: never */
    unsigned life, dir;
    int version;
    bool durable;
};

struct sim_client {
    struct cluster *k;
    unsigned number;
    char name[16];
    struct client *core; /* NULL: dead */
    struct sim_clock clock;
    unsigned life;
    bool ready, stalled, giving; /* giving: a view */
    uint64_t wake, next_op, start_at, resume_at, stalled_since;
    uint64_t stalled_for; /* of all stalls that ended; local */
    struct op *ops;
    unsigned n_ops;
    uint64_t putting; /* keys of which a PUT is open */
    struct sent_put sent[SENT_PUTS];
    unsigned n_sent;
    struct put_ack ack[MAX_KEYS][MAX_NODES][MAX_VERSIONS]; /* by the version that was put */
};

struct cluster {
    uint64_t seed, rng;
    bool verbose, failed, calm; /* calm: no more faults */
    struct cluster_counts *counts;
    struct plan plan;
    uint64_t now, serial, event; /* event: counts whatever happens */
    uint64_t next_fault, heal_at[MAX_CLIENTS][MAX_NODES];
    bool cut[MAX_CLIENTS][MAX_NODES][2];
    struct sim_node nodes[MAX_NODES];
    struct sim_client clients[MAX_CLIENTS];
    struct conn conns[MAX_CLIENTS][MAX_SLOTS * MAX_LANES];
    struct sim_view {
        uint64_t epoch;
        enum member { ABSENT, MEMBER, DRAINING } state[MAX_NODES];
    } views[MAX_VIEWS]; /* so far */
    unsigned n_views;
    uint64_t next_view;
    struct sim_key keys[MAX_KEYS];
    struct flight **heap;
    size_t n_heap, cap_heap;
};

/* ---- trace.c ---- */

/* A line of the trace, if one is wanted. */
void say(struct cluster *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* What must not be, with the seed. */
void blame(struct cluster *, uint64_t *counter, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
#define LOST(k, ...) blame(k, &(k)->counts->lost, "lost: " __VA_ARGS__)
#define WRONG(k, ...) blame(k, &(k)->counts->wrong, "wrong: " __VA_ARGS__)
#define BROKEN(k, ...) blame(k, &(k)->counts->broken, "broken: " __VA_ARGS__)
/* what: "", or what became of it instead of arriving. */
void say_message(struct cluster *, const struct flight *, const char *what);

/* ---- net.c ---- */

void net_open(struct cluster *);
void net_close(struct cluster *);
struct conn *net_conn(struct cluster *, unsigned client, unsigned lane);
/* Whether the client's socket takes another message. */
bool net_takes(const struct conn *);
void net_send(struct conn *, enum way, struct buf *header, const struct view *payload);
struct node_peer net_peer(const struct flight *); /* as the node knows who sent it */
/* The node's answer; see node_send_fn. */
int net_answer(void *node, const struct node_peer *, struct buf *header, const struct view *payload);
/* The client replaces its socket. */
void net_reset(struct conn *);
/* The connection breaks, and the client hears of it after `later` (UINT64_MAX: never). */
void net_break(struct conn *, bool at_once, uint64_t later);
/* Something may pass that could not before. */
void net_release(struct cluster *);
/* The time of the next delivery; UINT64_MAX: none. */
uint64_t net_next(const struct cluster *);
void net_deliver(struct cluster *);

/* ---- nodes.c ---- */

void node_start(struct sim_node *);
enum end { END_KILL, END_POWER, END_STOP };
void node_end(struct sim_node *, enum end);
void node_empty(struct sim_node *); /* of a dead one: its disk is replaced */
void node_wake(struct sim_node *);
void node_message(struct sim_node *, struct flight *);
void nodes_note_evictions(struct cluster *);

/* ---- clients.c ---- */

void client_start(struct sim_client *);
void client_end(struct sim_client *);
void client_wake(struct sim_client *);
void client_message(struct sim_client *, struct flight *);
/* No op is open. */
bool clients_idle(const struct cluster *);

/* The node that has this number with the client; -1: none. */
int client_node_of(const struct sim_client *, unsigned number);
/* It is a member, as far as the client knows. */
bool client_knows(const struct sim_client *, unsigned node);

/* ---- views.c ---- */

void views_begin(struct cluster *);
uint64_t views_epoch(const struct cluster *); /* the newest; 0: views are not used */
bool views_member(const struct cluster *, unsigned node);
/* What a client begins with: the newest, an older one or a list of seeds. */
void views_of_client(struct sim_client *, struct cluster_view *);
/* The client knows no node that is still a member. */
bool views_lost(const struct sim_client *);
/* The operator's turn. */
void views_change(struct sim_client *);
void views_calm(struct cluster *);
/* A request reaches a node that knows this epoch; something is answered. */
void views_note_request(struct conn *, unsigned generation, const Scoutkv__Header *, uint64_t epoch);
void views_check_answer(struct conn *, bool impostor, const struct buf *header);

/* ---- ops.c ---- */

void op_any(struct sim_client *);
void op_probe_promised(struct sim_client *);
void op_probe_rest(struct sim_client *);
void op_probe_put(struct sim_client *);
/* Frees those that have ended; blames those that should have. all: those that have not, too, with their
 * client. */
void ops_sweep(struct sim_client *, bool all);

/* ---- model.c ---- */

void model_make(struct cluster *);
void model_free(struct cluster *);
/* -1: no such version. */
int model_version(const struct sim_key *, const uint64_t *checksums, size_t n);
struct sim_key *model_key(struct cluster *, const Scoutkv__Key *); /* NULL: none of ours */
bool promise_holds(const struct cluster *, const struct sim_key *, unsigned node);
/* Held by a node to which nothing happens. */
bool promise_safe(const struct cluster *, const struct sim_key *, int version);
/* A PUT of version `put` was called back: these nodes hold this version now. */
void promise_made(struct sim_client *, struct sim_key *, int put, int version, uint64_t holders, bool durable,
                  uint64_t began);
void promise_void(struct sim_key *, unsigned node);

/* ---- faults.c ---- */

void fault_any(struct cluster *);
void faults_cease(struct cluster *);

#endif
