/* cluster_args.c: see cluster_args.h. */
#include "decoder/cli/cluster_args.h"
#include "common/clock.h"
#include "common/progress.h"
#include "common/size.h"
#include "decoder/cli/interrupt.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define AT(member) offsetof(struct cluster_args, member)
const struct opt cluster_node_table[] = {
    {"nodes", 0, OPT_STRING, AT(nodes), "LIST",
     "memory nodes: host:port[*weight],…, id@host:port for those that may be away; or etcd://HOST:PORT",
     .required = true},
    {"replicas", 'r', OPT_U32, AT(replicas), "R", "nodes that each block is to lie on, as clients write it",
     .min = 1, .max = 64},
    {"cluster", 0, OPT_STRING, AT(cluster), "NAME", "name that the nodes were started with"},
    {"namespace", 0, OPT_U64, AT(ns), "N", "tenant to begin with; others are found on the way"},
    {"timeout-ms", 0, OPT_U32, AT(timeout_ms), "MS", "deadline of every request to a node", .min = 1,
     .max = 3600e3},
    {0},
};
const struct opt cluster_move_table[] = {
    {"rate", 0, OPT_SIZE, AT(rate), "BYTES", "copy at most so many bytes a second; 0: as fast as it goes"},
    {"at-once", 0, OPT_U32, AT(at_once), "N", "blocks that are moved at the same time", .min = 1,
     .max = 1024},
    {"passes", 0, OPT_U32, AT(passes), "N",
     "looks at most so many times for what is still out of place: clients write meanwhile", .min = 1,
     .max = 1000},
    {0},
};

int cluster_open(const struct cluster_args *a, uint64_t ns, struct tier **out, struct skv_error *err)
{
    struct tier_opts opts = {.nodes = a->nodes,
                             .cluster = a->cluster,
                             .ns = ns,
                             .may_lack = PLACEMENT_MAX_NODES,
                             .replicas = a->replicas,
                             .timeout_ms = a->timeout_ms};
    return tier_open(&opts, out, err);
}

/* ---- a pass ---- */

enum { PROGRESS_STEPS = 1000 };

static bool on_progress(void *arg, const struct rebalance_report *r)
{
    progress_update(arg, (uint64_t)(r->progress * PROGRESS_STEPS));
    return !interrupted();
}

static void add_up(struct rebalance_report *sum, const struct rebalance_report *r)
{
    sum->blocks += r->blocks;
    sum->bytes += r->bytes;
    sum->in_place += r->in_place;
    sum->missing += r->missing;
    sum->elsewhere += r->elsewhere;
    sum->conflicts += r->conflicts;
    sum->lost += r->lost;
    sum->copied += r->copied;
    sum->copied_bytes += r->copied_bytes;
    sum->dropped += r->dropped;
    sum->leased += r->leased;
    sum->failed += r->failed;
    sum->view_changed |= r->view_changed;
    sum->absent = r->absent > sum->absent ? r->absent : sum->absent;
    if (!sum->failure.code)
        sum->failure = r->failure;
    for (size_t i = 0; i < PLACEMENT_MAX_NODES; i++) {
        struct rebalance_node *to = NULL;
        for (size_t k = 0; k < PLACEMENT_MAX_NODES && r->node[i].id[0] && !to; k++)
            if (!sum->node[k].id[0] || strcmp(sum->node[k].id, r->node[i].id) == 0)
                to = &sum->node[k];
        if (!to)
            continue;
        strcpy(to->id, r->node[i].id);
        to->absent |= r->node[i].absent;
        to->blocks += r->node[i].blocks;
        to->bytes += r->node[i].bytes;
        to->sole += r->node[i].sole;
        to->missing += r->node[i].missing;
        to->elsewhere += r->node[i].elsewhere;
    }
}

/* Those that the pass met and that are not in the sum's list yet. */
static void add_namespaces(struct rebalance_report *sum, const struct rebalance_report *r)
{
    for (size_t i = 0; i < r->n_namespaces; i++) {
        size_t k = 0;
        while (k < sum->n_namespaces && sum->namespaces[k] != r->namespaces[i])
            k++;
        if (k == sum->n_namespaces && k < REBALANCE_NAMESPACES)
            sum->namespaces[sum->n_namespaces++] = r->namespaces[i];
    }
}

int cluster_pass(const struct cluster_args *a, bool dry, struct rebalance_report *out, struct skv_error *err)
{
    struct rebalance_opts opts = {.dry = dry, .rate = a->rate, .at_once = a->at_once};
    struct rebalance_report one;
    struct progress progress;
    int rc = 0;
    *out = (struct rebalance_report){.n_namespaces = 1, .namespaces = {a->ns}};
    progress_begin(&progress, dry ? "scan" : "rebalance", "‰", PROGRESS_STEPS);
    for (size_t i = 0; i < out->n_namespaces && rc == 0; i++) {
        struct tier *t;
        if ((rc = cluster_open(a, out->namespaces[i], &t, err)))
            break;
        rc = tier_rebalance(t, &opts, on_progress, &progress, &one, err);
        tier_close(t);
        add_up(out, &one);
        add_namespaces(out, &one);
    }
    progress_end(&progress);
    return rc;
}

/* ---- until all is in place ---- */

struct objects_seen {
    struct tier *t;
    enum tier_object kind;
    uint64_t n;
};

/* Reading an object gives it to the nodes that should have it. */
static void touch_object(void *arg, const char *name)
{
    struct objects_seen *o = arg;
    struct buf *bytes;
    if (!interrupted() && tier_object_get(o->t, o->kind, name, &bytes, NULL, NULL) == 0) {
        buf_unref(bytes);
        o->n++;
    }
}

static int move_objects(const struct cluster_args *a, uint64_t ns, uint64_t *n, struct skv_error *err)
{
    struct tier *t;
    int rc = cluster_open(a, ns, &t, err);
    if (rc)
        return rc;
    for (int kind = 0; kind < 2 && rc == 0; kind++) {
        struct objects_seen seen = {t, kind ? TIER_SIDECAR : TIER_MANIFEST, 0};
        rc = tier_object_list(t, seen.kind, NULL, touch_object, &seen, err);
        *n += seen.n;
    }
    tier_close(t);
    return rc;
}

static bool out_of_place(const struct rebalance_report *r)
{
    return r->missing || r->elsewhere;
}

int cluster_rebalance(const struct cluster_args *a, struct cluster_moved *done, struct rebalance_report *left,
                      struct skv_error *err)
{
    struct rebalance_report pass = {0};
    uint64_t start = clock_ns();
    int rc = 0;
    *done = (struct cluster_moved){0};
    for (uint32_t i = 0; i < a->passes; i++) {
        rc = cluster_pass(a, false, &pass, err);
        done->copied += pass.copied;
        done->copied_bytes += pass.copied_bytes;
        done->dropped += pass.dropped;
        done->whole |= rc == 0 && !pass.view_changed && !pass.absent && !pass.failed;
        *left = pass;
        if (rc || (!pass.view_changed && (!out_of_place(&pass) || pass.copied + pass.dropped == 0)))
            break;
    }
    for (size_t i = 0; i < pass.n_namespaces && rc == 0; i++)
        rc = move_objects(a, pass.namespaces[i], &done->objects, err);
    if (rc == 0 && out_of_place(left)) { /* what the last pass found may be in place by now */
        struct skv_error failure = left->failure;
        rc = cluster_pass(a, true, left, err);
        left->failure = left->failure.code ? left->failure : failure;
    }
    done->seconds = (double)(clock_ns() - start) * 1e-9;
    return rc;
}

void cluster_print_moved(const struct cluster_moved *m, const struct rebalance_report *left,
                         uint32_t replicas)
{
    char copied[32], dropped[32], bytes[32], blocks[32], took[32];
    printf("%s copies made (%s), %s dropped where they don't belong; %s\n",
           count_format(copied, sizeof copied, m->copied), size_format(bytes, sizeof bytes, m->copied_bytes),
           count_format(dropped, sizeof dropped, m->dropped), duration_format(took, sizeof took, m->seconds));
    if (left->in_place == left->blocks && !left->absent)
        printf("all %s blocks have their %u %s where they belong\n",
               count_format(blocks, sizeof blocks, left->blocks), replicas,
               replicas == 1 ? "copy" : "copies");
    else
        printf("of %s blocks %" PRIu64 " are not in place: %" PRIu64 " copies are missing, %" PRIu64
               " lie elsewhere%s\n",
               count_format(blocks, sizeof blocks, left->blocks), left->blocks - left->in_place,
               left->missing, left->elsewhere,
               left->absent ? "; a node is away, and what it has is not known" : "");
    if (left->lost)
        printf("%" PRIu64 " blocks are LOST: no node has all of their bytes\n", left->lost);
    if (left->conflicts)
        printf("%" PRIu64
               " blocks lie in several versions (of writers that did not see each other): all are kept\n",
               left->conflicts);
    if (left->failure.code)
        printf("the first failure: %s\n", left->failure.text);
}

int cluster_exit(const struct rebalance_report *left)
{
    return left->lost ? 3 : left->absent ? 4 : out_of_place(left) ? 1 : 0;
}
