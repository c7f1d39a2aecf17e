/* cmd_cluster_change.c: `scoutkv cluster add|drain|remove`: the next view of the cluster, given to its nodes,
 * and then a rebalance by it. */
#include "common/clock.h"
#include "common/etcd.h"
#include "decoder/cli/cli.h"
#include "decoder/cli/cluster_args.h"
#include "decoder/cli/interrupt.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum change { ADD, DRAIN, REMOVE };

#define AT(member) offsetof(struct cluster_args, member)
static const struct opt add_table[] = {
    {"node", 0, OPT_STRING, AT(node), "ID@HOST:PORT",
     "the node to add; *W behind it: its share beside the others'", .required = true},
    {"no-move", 0, OPT_FLAG, AT(no_move), NULL,
     "only change the view; blocks are moved by a later rebalance"},
    {0},
};
static const struct opt leave_table[] = {
    {"node", 0, OPT_STRING, AT(node), "ID", "the node's id", .required = true},
    {"no-move", 0, OPT_FLAG, AT(no_move), NULL,
     "only change the view; blocks are moved by a later rebalance"},
    {"force", 0, OPT_FLAG, AT(force), NULL, "remove: even if blocks are lost with it, or it does not answer"},
    {0},
};

/* ---- the next view ---- */

static struct cluster_node *find(struct cluster_view *v, const char *id)
{
    for (size_t i = 0; i < v->n; i++)
        if (strcmp(v->node[i].id, id) == 0)
            return &v->node[i];
    return NULL;
}

static int view_add(struct cluster_view *v, const char *text, struct skv_error *err)
{
    struct cluster_node node;
    const char *wrong = cluster_node_parse(text, strlen(text), &node);
    if (wrong)
        return skv_fail(err, -EINVAL, "node: %s", wrong);
    if (!node.id[0])
        return skv_fail(err, -EINVAL, "node: say which it is, too: ID@%s", node.address);
    for (size_t i = 0; i < v->n; i++)
        if (strcmp(v->node[i].address, node.address) == 0 && strcmp(v->node[i].id, node.id) != 0)
            return skv_fail(err, -EINVAL, "node: %s is the address of %s, which is in the cluster",
                            node.address, v->node[i].id);
    struct cluster_node *old = find(v, node.id);
    if (!old && v->n == CLUSTER_MAX_NODES)
        return skv_fail(err, -E2BIG, "a cluster has at most %d nodes", CLUSTER_MAX_NODES);
    *(old ? old : &v->node[v->n++]) = node; /* one that was draining stays, after all */
    return 0;
}

static int view_leave(struct cluster_view *v, const char *id, enum change what, uint32_t replicas,
                      struct skv_error *err)
{
    struct cluster_node *node = find(v, id);
    unsigned stay = 0;
    if (!node)
        return skv_fail(err, -EINVAL, "node: the cluster has no node %.64s", id);
    for (size_t i = 0; i < v->n; i++)
        stay += &v->node[i] != node && !v->node[i].draining;
    if (stay < replicas)
        return skv_fail(err, -EINVAL, "without %s %u %s left for %u %s of each block: add a node first", id,
                        stay, stay == 1 ? "node is" : "nodes are", replicas,
                        replicas == 1 ? "copy" : "copies");
    if (what == DRAIN)
        node->draining = true;
    else
        *node = v->node[--v->n];
    return 0;
}

/* The view as it is to be, under its epoch: what etcd gives it, or one more than the last. */
static int next_view(const struct cluster_args *a, struct tier *t, enum change what, struct cluster_view *v,
                     struct skv_error *err)
{
    bool etcd = strncmp(a->nodes, TIER_ETCD, strlen(TIER_ETCD)) == 0;
    struct etcd *e = etcd ? etcd_open(a->nodes + strlen(TIER_ETCD), a->cluster, err) : NULL;
    int rc = etcd ? (e ? etcd_view_get(e, v, err) : err->code) : 0;
    if (!etcd) {
        tier_view(t, v);
        v->epoch++;
    }
    if (rc == 0)
        rc = what == ADD ? view_add(v, a->node, err) : view_leave(v, a->node, what, a->replicas, err);
    if (rc == 0 && etcd)
        rc = etcd_view_put(e, v, err);
    etcd_close(e);
    return rc;
}

/* A node that is to be added must answer, and under its id. */
static int check_newcomer(const struct cluster_args *a, struct skv_error *err)
{
    struct tier_opts opts = {
        .nodes = a->node, .cluster = a->cluster, .ns = a->ns, .timeout_ms = a->timeout_ms};
    struct tier *t;
    int rc = tier_open(&opts, &t, err);
    if (rc == 0)
        tier_close(t);
    return rc;
}

/* Removing it must not lose anything. */
static int check_leaver(const struct cluster_args *a, struct skv_error *err)
{
    struct rebalance_report scan;
    int rc = cluster_pass(a, true, &scan, err);
    for (size_t i = 0; rc == 0 && i < PLACEMENT_MAX_NODES && !a->force; i++) {
        const struct rebalance_node *n = &scan.node[i];
        if (strcmp(n->id, a->node) != 0)
            continue;
        if (n->absent)
            return skv_fail(
                err, -EHOSTUNREACH,
                "%s does not answer, so what only it holds can't be told: --force takes it out all "
                "the same, and rebuilds what has other copies",
                a->node);
        if (n->sole)
            return skv_fail(err, -EBUSY,
                            "%s holds %" PRIu64 " blocks of which there is no other copy: drain it first "
                            "(scoutkv cluster drain --node %s), or lose them with --force",
                            a->node, n->sole, a->node);
    }
    return rc;
}

/* ---- the commands ---- */

static int change_view(const struct cluster_args *a, enum change what, struct skv_error *err)
{
    struct tier *t;
    struct cluster_view *v = malloc(sizeof *v);
    unsigned behind = 0;
    int rc = v ? cluster_open(a, a->ns, &t, err) : skv_fail(err, -ENOMEM, "out of memory");
    if (rc) {
        free(v);
        return rc;
    }
    rc = next_view(a, t, what, v, err);
    if (rc == 0)
        rc = tier_change_view(t, v, a->timeout_ms, &behind, err);
    if (rc == 0)
        printf("the cluster has %zu nodes now (epoch %" PRIu64 ")\n", v->n, v->epoch);
    if (rc == 0 && behind)
        fprintf(stderr, "scoutkv cluster: %u of them don't know it yet (%.300s); clients will tell them\n",
                behind, err->text);
    tier_close(t);
    free(v);
    return rc;
}

int cluster_take_out(const struct cluster_args *a, struct skv_error *err)
{
    return change_view(a, REMOVE, err);
}

static int change(const struct cluster_args *a, enum change what, struct skv_error *err)
{
    struct cluster_moved done;
    struct rebalance_report left;
    int rc = what == ADD ? check_newcomer(a, err) : what == REMOVE ? check_leaver(a, err) : 0;
    if (rc || (rc = change_view(a, what, err)) || a->no_move)
        return rc;
    fflush(stdout);
    if ((rc = cluster_rebalance(a, &done, &left, err)))
        return rc;
    cluster_print_moved(&done, &left, a->replicas);
    return cluster_exit(&left);
}

static int run(enum change what, const struct opt_command *cmd, struct cluster_args *a, int argc, char **argv)
{
    struct opt_memory mem = {0};
    struct skv_error err = {0};
    int rc = options_start(cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    interrupt_catch();
    rc = change(a, what, &err);
    if (rc == -EINVAL)
        rc = options_mistake(cmd, "%s", err.text);
    else if (rc == -ECANCELED)
        rc = (fprintf(stderr, "%s: %s\n", cmd->name, err.text), EXIT_INTERRUPTED);
    else if (rc < 0)
        rc = cli_fail(cmd->name, &err);
    options_free(&mem);
    return rc;
}

int cmd_cluster_add(int argc, char **argv)
{
    struct cluster_args a = CLUSTER_ARGS_DEFAULTS;
    const struct opt_group groups[] = {{"Options", add_table, &a},
                                       {"Cluster", cluster_node_table, &a},
                                       {"Moving", cluster_move_table, &a},
                                       {0}};
    const struct opt_command cmd = {
        "scoutkv cluster add", "--node ID@HOST:PORT --nodes LIST [--replicas R]",
        "Makes a memory node part of the cluster: nodes and clients learn of it, and it is given its share "
        "of\n"
        "the blocks, which the others then drop. Clients go on all the while. A node that was being drained\n"
        "is taken back.",
        "  scoutkv cluster add --node n4@10.0.0.4:7401 --nodes 10.0.0.1:7401 --replicas 2 --rate 200M",
        groups};
    return run(ADD, &cmd, &a, argc, argv);
}

int cmd_cluster_drain(int argc, char **argv)
{
    struct cluster_args a = CLUSTER_ARGS_DEFAULTS;
    const struct opt_group groups[] = {{"Options", leave_table, &a},
                                       {"Cluster", cluster_node_table, &a},
                                       {"Moving", cluster_move_table, &a},
                                       {0}};
    const struct opt_command cmd = {
        "scoutkv cluster drain", "--node ID --nodes LIST [--replicas R]",
        "Takes all blocks off a memory node: it gets no new ones, what it has is copied to where it belongs\n"
        "without it, and then dropped there. Afterwards `scoutkv cluster remove` takes it out; `cluster "
        "add`\n"
        "takes it back.",
        "  scoutkv cluster drain --node n2 --nodes 10.0.0.1:7401 --replicas 2", groups};
    return run(DRAIN, &cmd, &a, argc, argv);
}

int cmd_cluster_remove(int argc, char **argv)
{
    struct cluster_args a = CLUSTER_ARGS_DEFAULTS;
    const struct opt_group groups[] = {{"Options", leave_table, &a},
                                       {"Cluster", cluster_node_table, &a},
                                       {"Moving", cluster_move_table, &a},
                                       {0}};
    const struct opt_command cmd = {
        "scoutkv cluster remove", "--node ID --nodes LIST [--replicas R] [--force]",
        "Takes a memory node out of the cluster: one that was drained, or (--force) one that is dead. "
        "Copies\n"
        "that it had are made again on other nodes. Refused while it holds blocks that have no other copy.",
        "  scoutkv cluster remove --node n2 --nodes 10.0.0.1:7401 --replicas 2\n"
        "  scoutkv cluster remove --node n2 --force --nodes 10.0.0.1:7401 --replicas 2   # it is dead",
        groups};
    return run(REMOVE, &cmd, &a, argc, argv);
}
