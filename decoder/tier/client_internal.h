/* client_internal.h: what the parts of the client core share: client.c (nodes, lanes, requests, HELLO,
 * deadlines, calls), client_view.c (which nodes there are), client_beat.c (which of them live), client_get.c
 * (fetches of pages), client_put.c (blocks to write) and client_repair.c (copies that lack). */
#ifndef TIER_CLIENT_INTERNAL_H
#define TIER_CLIENT_INTERNAL_H

#include "common/clock.h"
#include "decoder/tier/client.h"

enum {
    GET_PAGES = 1024,      /* pages asked for in one GET, at most */
    GET_BYTES = 4 << 20,   /* and their payload */
    GET_PARTS = 64,        /* and fetches that they are of */
    LANE_GETS = 8,         /* GETs on their way per lane: a node bounds what it keeps of them */
    MIN_HEADER = 64 << 10, /* a node that takes less than this is of no use */
    NODE_ID_MAX = 63,
};
#define NO_PAGE UINT32_MAX
#define NO_DEADLINE UINT64_MAX
/* What a node refused because it still reads its disks is asked again after this long. */
#define STARTING_PAUSE_NS (100 * NS_PER_MS)

enum request_kind { REQUEST_FREE, REQUEST_HELLO, REQUEST_PING, REQUEST_GET, REQUEST_PUT, REQUEST_CALL };

/* The pages that a GET asks for. They are of one fetch, or of several that were queued together. */
struct get_asked {
    unsigned n_parts;
    struct get_part {
        struct tier_fetch *fetch; /* NULL: every page of it was answered, or it was freed */
        uint32_t n_left;          /* pages not yet answered */
    } part[GET_PARTS];
    struct get_page {
        uint32_t want, part;
    } page[GET_PAGES];
};

/* One question on its way (or, for calls, waiting in its lane's queue). Slots are reused; the id is not,
 * except that a call which is asked again keeps its own. */
struct request {
    uint64_t id; /* serial << 16 | slot */
    enum request_kind kind;
    unsigned lane;
    uint64_t deadline;
    uint64_t epoch; /* PUT, CALL: of the view that it goes by */
    /* GET */
    struct get_asked *asked; /* stays with the slot */
    uint64_t heard;          /* when it was sent, or a part of its answer came */
    uint64_t hedge_at;       /* then its pages are asked of other nodes too */
    uint64_t answered[GET_PAGES / 64];
    uint32_t n_pages, n_left;
    size_t page_bytes;
    /* PUT */
    struct put_copy *copy;
    /* CALL */
    Scoutkv__Header__BodyCase expect;
    client_reply_fn *reply;
    void *arg;
    struct outgoing message; /* until it is answered */
    bool once;               /* fails if the node knows a newer view */
    bool stale;              /* queued until there is a newer view than the one it went by */
    bool queued;             /* in the lane's queue, */
    uint64_t not_before;     /* to be sent then */
    uint64_t give_up;        /* if the node is starting: asked again until then */
    struct request *next;
};

struct lane {
    unsigned node;
    bool bulk;
    bool hello_sent, greeted;
    bool reset;                    /* the shell is to replace the connection */
    uint64_t last_sent;            /* time */
    uint64_t asked;                /* payload bytes asked for and not yet received */
    unsigned gets;                 /* GETs on their way */
    uint64_t credit, credit_limit; /* payload bytes that PUTs may still send; as granted by HELLO */
    struct request *calls;
};

/* A block to write. It ends when its copies have: done may have been called long before, when those that are
 * left lie with a suspect. */
struct put {
    struct put *next; /* among the stranded */
    struct block_key key;
    struct block_layout layout;
    struct buf *payload;
    enum tier_ack ack;
    int only; /* the node to write to, whatever the rank; -1: by rank */
    tier_put_fn *done;
    void *arg;
    bool answered;           /* done was called */
    uint64_t give_up;        /* stranded until then */
    uint64_t at;             /* nodes that a copy is queued for or on its way to, */
    uint64_t refused;        /* that don't take it, */
    uint64_t acked;          /* that hold the block, */
    uint64_t holders;        /* and that in the version that stays */
    unsigned rank;           /* of the first of those that answered: it decides which version stays */
    uint64_t *stored;        /* [n_checksums] that version, if it is not ours */
    struct skv_error failed; /* why a node did not take it; code 0: none */
    size_t n_checksums;
    uint64_t checksums[];
};
struct put_copy {
    struct put_copy *next; /* in its node's queue */
    struct put *put;
    unsigned node;
    uint64_t give_up; /* refused as the node is starting: asked again until then; 0: not refused */
};

/* How long answers of a node take, lately: what a fetch waits before it asks elsewhere, and what it expects
 * of one node or another. Buckets of a factor of √2 from 1 µs, halved from time to time. */
enum { DELAY_BUCKETS = 48 };
struct delays {
    uint32_t count, bucket[DELAY_BUCKETS];
    uint64_t mean; /* exponentially weighted */
};

/* A view on its way to or from a node. */
struct view_call {
    struct client *client;
    unsigned node;
    bool open;
};

struct client_node {
    bool member;
    uint64_t epoch; /* of its view, as it said last */
    uint64_t given; /* epoch of the view that it was last given, since it came up */
    uint64_t give_again;
    struct view_call view;
    struct cluster_node addr;
    char id[NODE_ID_MAX + 1]; /* empty until its first HELLO */
    uint8_t incarnation[16];
    bool identified; /* by the lanes greeted so far, since it was last lost */
    bool up, suspect;
    uint64_t heard;     /* when it last said anything */
    uint64_t return_by; /* it was lost, but may be back by then: what only it can answer waits so long */
    uint64_t ping_sent; /* 0: none is on its way */
    struct delays delays;
    uint32_t version, max_header, max_block;
    bool durable; /* it has disks that take writes */
    int rc;       /* why it is not up, 0 while it may still come */
    struct skv_error why;
    uint64_t retry_at;                /* no HELLO before */
    uint64_t greet_deadline;          /* all lanes greeted by then */
    struct put_copy *puts, *puts_end; /* placed here, not yet sent */
    bool puts_probe;                  /* the node is starting: one PUT at a time, */
    uint64_t puts_not_before;         /* and not before */
};

/* Room to build one GET in. */
struct get_scratch {
    size_t n_wants, n_masks, bytes; /* so far; bytes: of the header, at most */
    uint32_t walked[GET_PARTS];     /* pages of the queue of each part's fetch that were looked at */
    Scoutkv__Get__Want want[GET_PAGES], *want_at[GET_PAGES];
    Scoutkv__Key key[GET_PAGES];
    uint64_t checksum[GET_PAGES];
    uint32_t *masks;
    size_t masks_size;
};

struct client {
    struct client_opts opts;
    uint64_t epoch;         /* of the view */
    struct cluster_map map; /* n == 0 until every node has been up */
    struct client_node nodes[PLACEMENT_MAX_NODES];
    unsigned n_nodes;   /* numbers below this one are, or were, some node's */
    struct lane *lanes; /* [PLACEMENT_MAX_NODES * (1 + opts.lanes)] */
    unsigned n_lanes;   /* of the first n_nodes */
    struct request **slots;
    uint32_t n_slots, cap_slots;
    uint32_t *free_slots; /* stack of cap_slots */
    uint32_t n_free;
    uint64_t serial, now; /* the latest time heard of */
    uint64_t next_due;    /* no request's deadline or hedge, and nothing stranded, is due before */
    struct tier_fetch *fetches, *fetches_end; /* not yet done, oldest first */
    size_t n_doomed;                          /* pages that wait to be handed out as failures */
    uint64_t behind;      /* nodes that fetches were given up for, and that have answered none since */
    struct put *stranded; /* PUTs that no live node takes, and some that is down might */
    uint64_t put_backlog;
    size_t puts_open;
    struct repairs *repairs;
    struct move *moves;
    struct skv_error put_failure;
    struct client_totals totals;
    struct get_scratch get;
};

static inline uint64_t node_bit(unsigned node)
{
    return UINT64_C(1) << node;
}

/* Whether the cluster has a node of this number. */
static inline bool is_member(const struct client *c, unsigned node)
{
    return c->map.members & node_bit(node);
}

/* ---- client.c ---- */

struct request *request_new(struct client *, enum request_kind, unsigned lane, uint64_t deadline);
void request_free(struct client *, struct request *);
/* Something is due then. */
void client_due(struct client *, uint64_t when);
/* Takes a node down: see client.h. code is what client_ready says. The request at hand, if any, is freed. */
void node_lost(struct client *, unsigned node, uint64_t now, int code, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
/* The same for a reply that makes no sense. */
void node_broke_protocol(struct client *, unsigned node, uint64_t now, const char *what);
/* "memory node n1 (10.0.0.1:7401)" */
const char *node_name(const struct client_node *, char buf[384]);
int refusal(const struct client_node *, const Scoutkv__Refused *, struct skv_error *);
/* Whether a refusal means "ask again soon". */
bool refused_starting(const Scoutkv__Refused *);
/* Whether it means "get the newer view first". */
bool refused_stale(const Scoutkv__Refused *);
/* Calls that wait for a newer view than the one they went by are sent again. */
void calls_view_changed(struct client *);
/* Bits of the nodes that were lost a short while ago and may be back; *by: when the last of `among` is given
 * up. */
uint64_t nodes_returning(const struct client *, uint64_t among, uint64_t *by);
uint64_t nodes_suspect(const struct client *);

/* A client_call that was decided by the view in use: if the node knows a newer one it fails (-ESTALE), and is
 * not sent again by that. */
int client_call_once(struct client *, unsigned node, Scoutkv__Header *, Scoutkv__Header__BodyCase expect,
                     client_reply_fn *reply, void *arg, uint64_t now, struct skv_error *);

/* ---- client_view.c ---- */

/* Makes the nodes that the client was opened with its members. */
void view_begin(struct client *, const struct client_opts *, uint64_t now);
/* Makes the map as soon as no node may still come that has not, and no newer view; see client_ready for those
 * that need not. */
void view_settle(struct client *);
/* Gets a newer view, and tells those that know an older one. */
void view_tick(struct client *, uint64_t now);
/* Whether the node knows a newer view, so that it would refuse writes. */
static inline bool view_newer_at(const struct client *c, unsigned node)
{
    return c->nodes[node].epoch > c->epoch;
}

/* ---- client_beat.c ---- */

/* The PING that is due on this lane, if one is. */
bool beat_next(struct client *, unsigned lane, uint64_t now, struct outgoing *);
void beat_answered(struct client *, struct request *, const struct message *, uint64_t now);
/* Something came from the node. */
void beat_heard(struct client *, unsigned node, uint64_t now);
/* Finds the nodes that are silent. */
void beat_tick(struct client *, uint64_t now);
uint64_t beat_wakeup(const struct client *);
void delays_add(struct delays *, uint64_t ns);
/* What a share q of the answers stays below; 0: too few to tell. */
uint64_t delays_quantile(const struct delays *, double q);

/* ---- client_get.c, client_ask.c ---- */

void get_request_ended(struct request *); /* its fetches need not know it any more */
bool get_next(struct client *, unsigned lane, uint64_t now, struct outgoing *);
void get_answered(struct client *, struct request *, const struct message *, uint64_t now);
/* The node will not answer this request, or none of what is queued for it. */
void get_failed(struct client *, struct request *, const struct skv_error *why);
/* Asks other nodes too for what the request still waits for: those that should have it, or any. */
void get_hedge(struct client *, struct request *, bool any);
/* What was queued for the node goes elsewhere, if there is an elsewhere. */
void get_node_shunned(struct client *, unsigned node);
/* Pages that waited for this node's return are asked. */
void get_node_back(struct client *, unsigned node);
/* Gives up what waited for too long. */
void get_tick(struct client *, uint64_t now);
void get_deliver_doomed(struct client *);
/* The map is another one: these numbers belong to no node any more, or to another that was asked nothing yet.
 */
void get_forget_nodes(struct client *, uint64_t gone);
/* What waits for the return of a node is placed anew. */
void get_view_changed(struct client *);

/* ---- client_put.c ---- */

/* Writes a copy to this node only (-1: by rank). See client_put. */
int put_begin(struct client *, int only, const struct block_key *, const struct block_layout *,
              struct buf *payload, const uint64_t *checksums, enum tier_ack, tier_put_fn *done, void *arg,
              struct skv_error *);
bool put_next(struct client *, unsigned lane, uint64_t now, struct outgoing *);
void put_answered(struct client *, struct request *, const struct message *, uint64_t now);
/* The copy on its way to a node that was lost goes to another. */
void put_lost(struct client *, struct put_copy *);
/* Copies queued for the node go elsewhere; a suspect's are made elsewhere too. */
void put_node_shunned(struct client *, unsigned node);
void put_node_back(struct client *);
void put_tick(struct client *, uint64_t now);
/* See get_forget_nodes, of which the first is to be called before the nodes are lost. */
void put_forget_nodes(struct client *, uint64_t gone);
void put_view_changed(struct client *);
void put_copy_free(struct put_copy *);
void put_free(struct put *);

/* ---- client_move.c ---- */

struct move_opts {
    bool drop;        /* copies that lie elsewhere, once there are as many as there should be */
    uint64_t lacking; /* nodes whose copy is no good, whatever they say */
};
struct move_result {
    int rc;            /* why something could not be done: a node that did not answer, or has no room; err */
    unsigned versions; /* that were found; 0: nobody has it */
    unsigned missing;  /* copies that are still missing, of all versions */
    unsigned copied, dropped; /* copies */
    unsigned leased;          /* copies that stay as they got a lease meanwhile */
    uint64_t copied_bytes;
    struct skv_error err;
};
typedef void move_fn(void *arg, const struct move_result *);

/* Brings a block to where it belongs. done is called once; perhaps at once. -ENOMEM. */
int client_move(struct client *, const struct block_key *, const struct move_opts *, move_fn *done,
                void *arg);
bool move_open(const struct client *, const struct block_key *); /* whether it is being moved */
void moves_tick(struct client *);
void moves_free(struct client *);
/* The first `replicas` nodes in this order that take blocks and are not taken. */
uint64_t block_places(const struct client *, const uint8_t *order, uint64_t taken);

/* ---- client_repair.c ---- */

/* Notes that these nodes lack the block. Only those that should have it, by rank, count. */
void repair_note(struct client *, const struct block_key *, uint64_t nodes);
void repair_tick(struct client *, uint64_t now);
void repairs_free(struct client *);

#endif
