/* cluster_args.h: what the commands about a cluster (cmd_cluster*.c) share: their options, and looking at all
 * that its nodes hold. */
#ifndef CLI_CLUSTER_ARGS_H
#define CLI_CLUSTER_ARGS_H

#include "common/options.h"
#include "decoder/tier/rebalance.h"
#include "decoder/tier/tier.h"

struct cluster_args {
    const char *nodes, *cluster, *node; /* node: the one to add or take out */
    uint64_t ns, rate;
    uint32_t replicas, timeout_ms, at_once, passes;
    bool json, scan, no_move, force;
};
extern const struct opt cluster_node_table[]; /* which cluster */
extern const struct opt cluster_move_table[]; /* how blocks are moved */
#define CLUSTER_ARGS_DEFAULTS                                                              \
    (struct cluster_args)                                                                  \
    {                                                                                      \
        .cluster = "default", .replicas = 1, .timeout_ms = 5000, .at_once = 8, .passes = 4 \
    }

/* A tier of one namespace; nodes may be absent if the rest answers. */
int cluster_open(const struct cluster_args *, uint64_t ns, struct tier **out, struct skv_error *);

/* One pass of tier_rebalance over namespace args->ns and every other that is met on the way, with a progress
 * line; *out sums them up. -ECANCELED when interrupted. */
int cluster_pass(const struct cluster_args *, bool dry, struct rebalance_report *out, struct skv_error *);

/* Passes until nothing is out of place that can be put right, at most args->passes; *done: what was done in
 * all; *left: as a last look found it. Objects are brought to their places first. */
struct cluster_moved {
    uint64_t copied, copied_bytes, dropped, objects;
    double seconds;
    bool whole; /* a pass met the blocks of all nodes, and made every copy that lacked */
};
int cluster_rebalance(const struct cluster_args *, struct cluster_moved *done, struct rebalance_report *left,
                      struct skv_error *);
/* Gives the nodes a view without args->node, whatever it holds; see absences_judge for when. */
int cluster_take_out(const struct cluster_args *, struct skv_error *);
/* Says on stdout what was moved, and what is left to be done. */
void cluster_print_moved(const struct cluster_moved *, const struct rebalance_report *left,
                         uint32_t replicas);
/* The exit code that goes with it: 0, 3 if blocks are lost, 4 if nodes were absent, 1 if something is left.
 */
int cluster_exit(const struct rebalance_report *left);

#endif
