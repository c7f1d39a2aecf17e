/* cmd_cluster.c: `scoutkv cluster`, and of its commands `cluster rebalance`. */
#include "decoder/cli/cli.h"
#include "decoder/cli/cluster_args.h"
#include "decoder/cli/interrupt.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

static int cmd_rebalance(int argc, char **argv)
{
    struct cluster_args a = CLUSTER_ARGS_DEFAULTS;
    struct opt_memory mem = {0};
    struct skv_error err = {0};
    struct cluster_moved done;
    struct rebalance_report left;
    const struct opt_group groups[] = {
        {"Options", cluster_node_table, &a}, {"Moving", cluster_move_table, &a}, {0}};
    const struct opt_command cmd = {
        "scoutkv cluster rebalance", "--nodes LIST [--replicas R] [--rate BYTES]",
        "Brings every block to where it belongs: to the first R nodes in the rank of its key. Copies that "
        "are\n"
        "missing (a node was added, or came back without its blocks) are made from those that are there, "
        "each\n"
        "page verified; then copies on other nodes are dropped. Blocks can be read all the while, and never\n"
        "have fewer copies than they had. Interrupted or killed, it is simply begun again.\n"
        "Exit: 0 all is in place, 1 something is not, 3 blocks are lost, 4 a node is away.",
        "  scoutkv cluster rebalance --nodes 10.0.0.1:7401,10.0.0.2:7401 --replicas 2 --rate 100M", groups};
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    interrupt_catch();
    rc = cluster_rebalance(&a, &done, &left, &err);
    options_free(&mem);
    if (rc == -ECANCELED) {
        fprintf(stderr, "%s: %s\n", cmd.name, err.text);
        return EXIT_INTERRUPTED;
    }
    if (rc)
        return cli_fail(cmd.name, &err);
    cluster_print_moved(&done, &left, a.replicas);
    return cluster_exit(&left);
}

static const struct cli_command commands[] = {
    {"status", cmd_cluster_status, "the nodes, what they hold, and (--scan) which copies are missing"},
    {"add", cmd_cluster_add, "make a node part of it, and give it its share of the blocks"},
    {"drain", cmd_cluster_drain, "take all blocks off a node"},
    {"remove", cmd_cluster_remove, "take a node out: one that was drained, or is dead"},
    {"rebalance", cmd_rebalance, "bring every block to where it belongs"},
    {"watch", cmd_cluster_watch, "do that again and again, and take out nodes that stay away"},
    {0},
};

int cmd_cluster(int argc, char **argv)
{
    return cli_dispatch(
        commands, "scoutkv cluster",
        "Looks after the memory nodes of a cluster.\n\nUsage: scoutkv cluster COMMAND [options]", "", argc,
        argv);
}
