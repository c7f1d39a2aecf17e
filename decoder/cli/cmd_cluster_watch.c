/* cmd_cluster_watch.c: `scoutkv cluster watch`: who looks after a cluster while nobody looks. */
#include "common/clock.h"
#include "common/log.h"
#include "common/size.h"
#include "decoder/cli/cli.h"
#include "decoder/cli/cluster_absence.h"
#include "decoder/cli/cluster_args.h"
#include "decoder/cli/interrupt.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LOOK_MS = 1000 }; /* between two looks at who is there */

struct watch_args {
    struct cluster_args cluster;
    const char *rebuild_after, *every;
    uint64_t rebuild_after_ns, every_ns;
};

#define AT(member) offsetof(struct watch_args, member)
static const struct opt table[] = {
    {"rebuild-after", 0, OPT_STRING, AT(rebuild_after), "TIME",
     "a node that is away for longer is taken out, and its copies are made again elsewhere: 30s, 10m, 2h"},
    {"every", 0, OPT_STRING, AT(every), "TIME", "look so often for copies that are missing or out of place"},
    {0},
};

struct watch {
    const struct watch_args *args;
    struct log log;
    struct absences absences;
    enum absence_verdict said; /* not again at each look */
    uint64_t rebalance_at;
    struct cluster_view view;
};

static int parse_time(const char *name, const char *text, uint64_t *ns, struct skv_error *err)
{
    uint64_t ms;
    if (duration_parse(text, &ms) || ms == 0)
        return skv_fail(err, -EINVAL, "%s: expected a time like 30s, 10m or 2h, not '%s'", name, text);
    *ns = ms * NS_PER_MS;
    return 0;
}

/* ---- what it does ---- */

static void rebalance(struct watch *w)
{
    struct cluster_moved done;
    struct rebalance_report left;
    struct skv_error err = {0};
    char bytes[32];
    int rc = cluster_rebalance(&w->args->cluster, &done, &left, &err);
    w->rebalance_at = clock_ns() + w->args->every_ns;
    if (rc == -ECANCELED)
        return;
    if (rc) {
        log_write(&w->log, LOG_LEVEL_WARN, "copies could not be looked after: %s", err.text);
        return;
    }
    if (done.whole)
        absences_whole(&w->absences);
    if (done.copied || done.dropped)
        log_write(&w->log, LOG_LEVEL_INFO,
                  "%" PRIu64 " copies made (%s), %" PRIu64 " dropped where they don't belong", done.copied,
                  size_format(bytes, sizeof bytes, done.copied_bytes), done.dropped);
    if (left.lost)
        log_write(&w->log, LOG_LEVEL_ERROR, "%" PRIu64 " blocks are LOST: no node has all of their bytes",
                  left.lost);
    else if (!left.absent && (left.missing || left.elsewhere))
        log_write(&w->log, LOG_LEVEL_WARN, "%" PRIu64 " copies are missing, %" PRIu64 " lie elsewhere: %s",
                  left.missing, left.elsewhere,
                  left.failure.code ? left.failure.text : "the next look goes on");
}

static void take_out(struct watch *w, const char *id)
{
    struct cluster_args a = w->args->cluster;
    const struct cluster_node *n = cluster_view_find(&w->view, id);
    struct skv_error err = {0};
    char took[32];
    log_write(
        &w->log, LOG_LEVEL_WARN,
        "%s is away for more than %s: it is taken out, and what it held is copied to others. When it is "
        "back: scoutkv cluster add --node %s@%s*%g",
        id, duration_format(took, sizeof took, (double)w->args->rebuild_after_ns * 1e-9), id,
        n ? n->address : "HOST:PORT", n ? n->weight : 1.0);
    a.node = id;
    if (cluster_take_out(&a, &err))
        log_write(&w->log, LOG_LEVEL_WARN, "%s could not be taken out: %s", id, err.text);
    else
        w->rebalance_at = 0;
}

static void follow_view(struct watch *w, struct tier *t)
{
    uint64_t before = w->view.epoch;
    tier_view(t, &w->view);
    if (w->view.epoch != before)
        log_write(&w->log, LOG_LEVEL_INFO, "the cluster has %zu nodes now (epoch %" PRIu64 ")", w->view.n,
                  w->view.epoch);
}

/* Looks at who is there. */
static void look(struct watch *w, struct tier *t)
{
    struct tier_node *nodes;
    struct skv_error err = {0};
    size_t n;
    if (tier_nodes(t, &nodes, &n, &err)) {
        log_write(&w->log, LOG_LEVEL_WARN, "the nodes could not be asked: %s", err.text);
        return;
    }
    absences_begin(&w->absences);
    for (size_t i = 0; i < n; i++) {
        int changed = absences_note(&w->absences, nodes[i].id, nodes[i].counter ? nodes[i].incarnation : 0,
                                    nodes[i].draining, clock_ns());
        if (changed < 0)
            log_write(&w->log, LOG_LEVEL_WARN, "%s is away: %s", nodes[i].id, nodes[i].why.text);
        if (changed > 0) {
            log_write(&w->log, LOG_LEVEL_INFO, "%s is back%s", nodes[i].id,
                      changed > 1 ? ", perhaps without its blocks" : "");
            w->rebalance_at = 0;
        }
    }
    absences_end(&w->absences);
    tier_nodes_free(nodes, n);
    follow_view(w, t);
}

static void act(struct watch *w)
{
    const char *id;
    size_t owing = absences_owing(&w->absences);
    enum absence_verdict verdict =
        absences_judge(&w->absences, w->args->cluster.replicas, w->args->rebuild_after_ns, clock_ns(), &id);
    if (verdict == ABSENCE_TOO_MANY && w->said != verdict)
        log_write(
            &w->log, LOG_LEVEL_ERROR,
            "as many nodes are away as there are replicas (%u)%s: data may be lost, and none is taken out; "
            "bring them back, or decide with scoutkv cluster remove --force",
            w->args->cluster.replicas,
            owing ? ", those counted whose copies are not all made again yet" : "");
    if (verdict == ABSENCE_TOO_FEW && w->said != verdict)
        log_write(&w->log, LOG_LEVEL_ERROR,
                  "%s is away for too long, but too few nodes are left for %u copies: add one", id,
                  w->args->cluster.replicas);
    w->said = verdict;
    if (verdict == ABSENCE_REMOVE)
        take_out(w, id);
    else if ((verdict == ABSENCE_NONE || owing) && clock_ns() >= w->rebalance_at)
        rebalance(w); /* what is owed doesn't wait for who is away */
}

static int watch(const struct watch_args *a, struct skv_error *err)
{
    struct watch w = {.args = a, .log = {.out = stderr, .name = "watch", .level = LOG_LEVEL_INFO}};
    struct tier *t;
    int rc = cluster_open(&a->cluster, a->cluster.ns, &t, err);
    if (rc)
        return rc;
    tier_view(t, &w.view);
    log_write(&w.log, LOG_LEVEL_INFO, "looking after %u nodes, %u copies of each block", tier_n_nodes(t),
              a->cluster.replicas);
    while (!interrupted()) {
        look(&w, t);
        act(&w);
        for (uint64_t end = clock_ns() + LOOK_MS * NS_PER_MS; clock_ns() < end && !interrupted();)
            tier_pump(t, LOOK_MS / 10, NULL);
    }
    tier_close(t);
    return 0;
}

int cmd_cluster_watch(int argc, char **argv)
{
    struct watch_args a = {.cluster = CLUSTER_ARGS_DEFAULTS, .rebuild_after = "10m", .every = "1m"};
    struct opt_memory mem = {0};
    struct skv_error err = {0};
    const struct opt_group groups[] = {{"Options", table, &a},
                                       {"Cluster", cluster_node_table, &a.cluster},
                                       {"Moving", cluster_move_table, &a.cluster},
                                       {0}};
    const struct opt_command cmd = {
        "scoutkv cluster watch", "--nodes LIST --replicas R [--rebuild-after TIME] [--every TIME]",
        "Looks after a cluster until it is stopped (Ctrl-C, SIGTERM): copies that are missing are made, and "
        "a\n"
        "node that is away for too long is taken out, so that what it held has R copies again. A node that\n"
        "comes back in time keeps its place. It never takes out a node while as many are away as there are\n"
        "replicas; those count too whose copies are not all made again yet. Everything that happens is a "
        "line on standard error. One of these for each cluster.",
        "  scoutkv cluster watch --nodes n1@10.0.0.1:7401,n2@10.0.0.2:7401,n3@10.0.0.3:7401 --replicas 2 "
        "--rate "
        "100M",
        groups};
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    if ((rc = parse_time("rebuild-after", a.rebuild_after, &a.rebuild_after_ns, &err)) ||
        (rc = parse_time("every", a.every, &a.every_ns, &err)))
        rc = options_mistake(&cmd, "%s", err.text);
    else {
        interrupt_catch();
        rc = watch(&a, &err);
        rc = rc ? cli_fail(cmd.name, &err) : 0;
    }
    options_free(&mem);
    return rc;
}
