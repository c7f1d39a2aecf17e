/* client_internal.h: what the three parts of the client core share: client.c (nodes, lanes, requests, HELLO,
 * deadlines, calls), client_get.c (fetches of pages) and client_put.c (blocks to write). */
#ifndef TIER_CLIENT_INTERNAL_H
#define TIER_CLIENT_INTERNAL_H

#include "common/clock.h"
#include "decoder/tier/client.h"

enum {
    GET_PAGES = 1024,      /* pages asked for in one GET, at most */
    GET_BYTES = 4 << 20,   /* and their payload */
    LANE_GETS = 8,         /* GETs on their way per lane: a node bounds what it keeps of them */
    MIN_HEADER = 64 << 10, /* a node that takes less than this is of no use */
    NODE_ID_MAX = 63,
};
#define NO_PAGE UINT32_MAX
#define NO_DEADLINE UINT64_MAX
/* What a node refused because it still reads its disks is asked again after this long. */
#define STARTING_PAUSE_NS (100 * NS_PER_MS)

enum request_kind { REQUEST_FREE, REQUEST_HELLO, REQUEST_GET, REQUEST_PUT, REQUEST_CALL };

/* One question on its way (or, for calls, waiting in its lane's queue). Slots are reused; the id is not,
 * except that a call which is asked again keeps its own. */
struct request {
    uint64_t id; /* serial << 16 | slot */
    enum request_kind kind;
    unsigned lane;
    uint64_t deadline;
    /* GET */
    struct tier_fetch *fetch; /* NULL: the fetch was freed meanwhile */
    uint32_t *pages; /* [GET_PAGES]: the want that each page of the request is; stays with the slot */
    uint64_t answered[GET_PAGES / 64];
    uint32_t n_pages, n_left;
    size_t page_bytes;
    /* PUT */
    struct put *put;
    /* CALL */
    Scoutkv__Header__BodyCase expect;
    client_reply_fn *reply;
    void *arg;
    struct outgoing message; /* until it is answered */
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

struct put {
    struct put *next;
    struct block_key key;
    struct block_layout layout;
    struct buf *payload;
    enum tier_ack ack;
    tier_put_fn *done;
    void *arg;
    uint64_t give_up; /* refused as the node is starting: asked again until then; 0: not refused */
    size_t n_checksums;
    uint64_t checksums[];
};

struct client_node {
    struct node_addr addr;
    char id[NODE_ID_MAX + 1]; /* empty until its first HELLO */
    uint8_t incarnation[16];
    bool up;
    uint32_t version, max_header, max_block;
    int rc; /* why it is not up, 0 while it may still come */
    struct skv_error why;
    uint64_t retry_at;           /* no HELLO before */
    uint64_t greet_deadline;     /* all lanes greeted by then */
    struct put *puts, *puts_end; /* placed here, not yet sent */
    bool puts_probe;             /* the node is starting: one PUT at a time, */
    uint64_t puts_not_before;    /* and not before */
};

/* Room to build one GET in; see get_build. */
struct get_scratch {
    Scoutkv__Get__Want want[GET_PAGES], *want_at[GET_PAGES];
    Scoutkv__Key key[GET_PAGES];
    uint64_t checksum[GET_PAGES];
    uint32_t *masks;
    size_t masks_size;
};

struct client {
    struct client_opts opts;
    struct cluster_map map; /* n == 0 until every node has been up */
    struct client_node nodes[PLACEMENT_MAX_NODES];
    struct lane *lanes;
    unsigned n_lanes;
    struct request **slots;
    uint32_t n_slots, cap_slots;
    uint32_t *free_slots; /* stack of cap_slots */
    uint32_t n_free;
    uint64_t serial;
    uint64_t next_deadline;                   /* none of the requests' is earlier */
    struct tier_fetch *fetches, *fetches_end; /* not yet done, oldest first */
    size_t n_doomed;                          /* pages that wait to be handed out as failures */
    uint64_t put_backlog;
    size_t puts_open;
    struct skv_error put_failure;
    struct client_totals totals;
    struct get_scratch get;
};

/* ---- client.c ---- */

struct request *request_new(struct client *, enum request_kind, unsigned lane, uint64_t deadline);
void request_free(struct client *, struct request *);
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

/* ---- client_get.c ---- */

bool get_next(struct client *, unsigned lane, uint64_t now, struct outgoing *);
void get_answered(struct client *, struct request *, const struct message *, uint64_t now);
/* The node will not answer this request, or none of what is queued for it. */
void get_failed(struct client *, struct request *, const struct skv_error *why);
void get_node_lost(struct client *, unsigned node);
void get_deliver_doomed(struct client *);

/* ---- client_put.c ---- */

bool put_next(struct client *, unsigned lane, uint64_t now, struct outgoing *);
void put_answered(struct client *, struct request *, const struct message *, uint64_t now);
void put_failed(struct client *, struct put *, int rc, const struct skv_error *why);
/* Places what was queued for the node elsewhere. */
void put_node_lost(struct client *, unsigned node);
void put_free(struct put *);

#endif
