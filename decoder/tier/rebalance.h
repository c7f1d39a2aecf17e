/* rebalance.h: what every node holds, and every block to where it belongs.
 *
 * A scan lists the blocks of all nodes side by side, in the one order that they share, and so meets each
 * block once with all its copies, in memory for a page a node. A rebalance is a scan that moves what it finds
 * out of place (client_move.c): copies that are missing are made first, copies elsewhere are dropped after.
 * It keeps no state outside: cut short, it is begun again. Blocks can be read all the while, as readers walk
 * the nodes in rank until one has the page.
 *
 * The core is sans-I/O, like the client that it drives; tier_rebalance runs it on a tier. */
#ifndef TIER_REBALANCE_H
#define TIER_REBALANCE_H

#include "common/cluster_view.h"
#include "decoder/tier/placement.h"

struct client;
struct tier;

struct rebalance_opts {
    bool dry;         /* only count */
    uint64_t rate;    /* payload bytes a second that are copied, at most; 0: any */
    uint32_t at_once; /* blocks that are being moved; 0 = 8 */
};

enum { REBALANCE_NAMESPACES = 64 };

/* Blocks and copies as they were listed, and what was done about them. */
struct rebalance_report {
    uint64_t blocks, bytes; /* different ones, payload of one copy each */
    uint64_t in_place;      /* of the blocks: with every copy where it belongs, and none elsewhere */
    uint64_t missing;       /* copies that should be on some node, and are not (or not whole) */
    uint64_t elsewhere;     /* copies on nodes where they don't belong */
    uint64_t conflicts;     /* blocks that lie in several versions */
    uint64_t lost;          /* blocks without one whole copy */
    uint64_t copied, copied_bytes, dropped;
    uint64_t leased;          /* copies that stay where they are as a lease was taken on them meanwhile */
    uint64_t failed;          /* blocks that could not be brought to their places; */
    struct skv_error failure; /* and why, the first */
    double progress;          /* 0…1 */
    bool view_changed; /* the cluster got another view meanwhile, which ended the pass: begin another */
    unsigned absent;   /* nodes that could not be listed: what they hold does not count, and was not moved */
    size_t n_namespaces;
    uint64_t namespaces[REBALANCE_NAMESPACES]; /* others, whose blocks were met on the way */
    struct rebalance_node {
        char id[64]; /* empty: no node has this number */
        bool absent;
        uint64_t blocks, bytes, missing, elsewhere;
        uint64_t sole; /* blocks that have no other whole copy */
    } node[PLACEMENT_MAX_NODES];
};

/* ---- the core ---- */

struct rebalance;
/* For a client that is ready; NULL when out of memory. */
struct rebalance *rebalance_new(struct client *, const struct rebalance_opts *);
/* Begins nothing new; it is done when what is on its way has ended. */
void rebalance_stop(struct rebalance *);
/* Once it is done, or the client was freed. NULL is allowed. */
void rebalance_free(struct rebalance *);
/* Begins what can be begun. To be called after each client_tick until done. */
void rebalance_step(struct rebalance *, uint64_t now);
bool rebalance_done(const struct rebalance *);
const struct rebalance_report *rebalance_report(const struct rebalance *);

/* ---- on a tier ---- */

/* One pass over the tier's namespace; waits for its end. progress (may be NULL) is told now and then, and
 * ends the pass by returning false: then -ECANCELED. 0 also if blocks failed: see the report, which is
 * complete then. */
int tier_rebalance(struct tier *, const struct rebalance_opts *,
                   bool (*progress)(void *, const struct rebalance_report *), void *arg,
                   struct rebalance_report *out, struct skv_error *);

/* Gives the cluster this view, whose epoch is higher than the one in use, and goes by it. One node is asked
 * first: if it knows another one of that epoch, nothing has changed (-ESTALE). Then waits up to wait_ms for
 * the others; *behind: those that did not take it in time, the last of which err names (they learn of it from
 * clients). */
int tier_change_view(struct tier *, const struct cluster_view *, unsigned wait_ms, unsigned *behind,
                     struct skv_error *);

#endif
