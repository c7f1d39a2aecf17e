/* cmd_cluster_status.c: `scoutkv cluster status`: the nodes as they are now and, with --scan, whether every
 * block is where it belongs. */
#include "common/size.h"
#include "decoder/cli/cli.h"
#include "decoder/cli/cluster_args.h"
#include "decoder/cli/interrupt.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#define AT(member) offsetof(struct cluster_args, member)
static const struct opt table[] = {
    {"scan", 0, OPT_FLAG, AT(scan), NULL,
     "look at every block: which copies are missing, and which lie where they don't belong"},
    {"json", 0, OPT_FLAG, AT(json), NULL, "print one object instead of the table"},
    {0},
};

static uint64_t counter(const struct tier_node *n, const char *name)
{
    for (size_t i = 0; i < n->n_counters; i++)
        if (strcmp(n->counter[i].name, name) == 0)
            return n->counter[i].value;
    return 0;
}

static const char *trouble(const struct tier_node *n)
{
    for (size_t i = 0; i < n->n_counters; i++)
        if (strcmp(n->counter[i].name, "trouble") == 0)
            return n->counter[i].text;
    return "";
}

static const char *state(const struct tier_node *n)
{
    return !n->up || n->why.code ? "down" : n->suspect ? "silent" : n->draining ? "draining" : "up";
}

static const struct rebalance_node *scanned(const struct rebalance_report *r, const struct tier_node *n)
{
    for (size_t i = 0; r && i < PLACEMENT_MAX_NODES; i++)
        if (strcmp(r->node[i].id, n->id) == 0 && !r->node[i].absent)
            return &r->node[i];
    return NULL;
}

/* ---- for programs ---- */

static void set_u64(json_t *o, const char *name, uint64_t value)
{
    json_object_set_new(o, name, json_integer((json_int_t)value));
}

static json_t *node_json(const struct tier_node *n, const struct rebalance_report *r)
{
    static const char *const names[] = {"blocks",     "bytes",          "objects",
                                        "leases",     "ram_store_used", "ram_store_limit",
                                        "disk_bytes", "disk_budget",    "disk_index_percent"};
    const struct rebalance_node *s = scanned(r, n);
    json_t *o = json_object();
    json_object_set_new(o, "id", json_string(n->id));
    json_object_set_new(o, "address", json_string(n->address));
    json_object_set_new(o, "state", json_string(state(n)));
    json_object_set_new(o, "weight", json_real(n->weight));
    json_object_set_new(o, "draining", json_boolean(n->draining));
    if (n->why.code) {
        json_t *why = json_string(n->why.text);
        json_object_set_new(o, "why", why ? why : json_string("(not UTF-8)"));
        return o;
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        set_u64(o, names[i], counter(n, names[i]));
    set_u64(o, "epoch", n->epoch);
    json_object_set_new(o, "answer_ms", json_real((double)n->answer_ns * 1e-6));
    json_t *text = json_string(trouble(n));
    json_object_set_new(o, "trouble", text ? text : json_string("(not UTF-8)"));
    if (s) {
        set_u64(o, "missing", s->missing);
        set_u64(o, "elsewhere", s->elsewhere);
    }
    return o;
}

static int print_json(const struct cluster_args *a, const struct tier_node *n, size_t n_nodes,
                      const struct rebalance_report *r)
{
    json_t *root = json_object(), *nodes = json_array();
    set_u64(root, "replicas", a->replicas);
    json_object_set_new(root, "nodes", nodes);
    for (size_t i = 0; i < n_nodes; i++)
        json_array_append_new(nodes, node_json(&n[i], r));
    if (r) {
        json_t *s = json_object();
        json_object_set_new(root, "scan", s);
        set_u64(s, "blocks", r->blocks);
        set_u64(s, "bytes", r->bytes);
        set_u64(s, "in_place", r->in_place);
        set_u64(s, "missing", r->missing);
        set_u64(s, "elsewhere", r->elsewhere);
        set_u64(s, "conflicts", r->conflicts);
        set_u64(s, "lost", r->lost);
        set_u64(s, "absent_nodes", r->absent);
    }
    int rc = json_dumpf(root, stdout, JSON_INDENT(2)) || putchar('\n') == EOF ? -EIO : 0;
    json_decref(root);
    return rc;
}

/* ---- for people ---- */

static void print_node(const struct tier_node *n, const struct rebalance_report *r)
{
    char blocks[32], bytes[32], ram[32], disk[32];
    const struct rebalance_node *s = scanned(r, n);
    printf("%-12s %-22s %-9s %6g", n->id[0] ? n->id : "?", n->address, state(n), n->weight);
    if (n->why.code) {
        printf("  %s\n", n->why.text);
        return;
    }
    printf(" %6" PRIu64 " %12s %10s %10s %10s %8.1f", n->epoch,
           count_format(blocks, sizeof blocks, counter(n, "blocks")),
           size_format(bytes, sizeof bytes, counter(n, "bytes")),
           size_format(ram, sizeof ram, counter(n, "ram_store_used")),
           counter(n, "disks") ? size_format(disk, sizeof disk, counter(n, "disk_bytes")) : "-",
           (double)n->answer_ns * 1e-6);
    if (s)
        printf(" %9" PRIu64 " %9" PRIu64, s->missing, s->elsewhere);
    printf("%s%s\n", trouble(n)[0] ? "  " : "", trouble(n));
}

static void print_table(const struct cluster_args *a, const struct tier_node *n, size_t n_nodes,
                        const struct rebalance_report *r)
{
    printf("%-12s %-22s %-9s %6s %6s %12s %10s %10s %10s %8s%s\n", "node", "address", "state", "weight",
           "epoch", "blocks", "bytes", "RAM", "disk", "lag ms", r ? "   missing elsewhere" : "");
    for (size_t i = 0; i < n_nodes; i++)
        print_node(&n[i], r);
    if (!r)
        return;
    char blocks[32], bytes[32], in_place[32];
    printf("\n%s blocks (%s), of which %s have their %u %s in place and no other; missing: %" PRIu64
           " copies, elsewhere: %" PRIu64 "%s\n",
           count_format(blocks, sizeof blocks, r->blocks), size_format(bytes, sizeof bytes, r->bytes),
           count_format(in_place, sizeof in_place, r->in_place), a->replicas,
           a->replicas == 1 ? "copy" : "copies", r->missing, r->elsewhere,
           r->missing + r->elsewhere ? "; `scoutkv cluster rebalance` puts that right" : "");
    if (r->lost)
        printf("%" PRIu64 " blocks are LOST: no node has all of their bytes\n", r->lost);
    if (r->conflicts)
        printf("%" PRIu64 " blocks lie in several versions\n", r->conflicts);
}

static int status(const struct cluster_args *a, struct skv_error *err)
{
    struct tier *t;
    struct tier_node *n = NULL;
    struct rebalance_report scan, *r = a->scan ? &scan : NULL;
    size_t n_nodes = 0;
    bool down = false;
    int rc = cluster_open(a, a->ns, &t, err);
    if (rc)
        return rc;
    rc = tier_nodes(t, &n, &n_nodes, err);
    tier_close(t);
    if (rc == 0 && r)
        rc = cluster_pass(a, true, r, err);
    for (size_t i = 0; rc == 0 && i < n_nodes; i++)
        if (n[i].why.code) {
            down = true;
            *err = n[i].why;
        }
    if (rc == 0 && a->json)
        rc = print_json(a, n, n_nodes, r) ? skv_fail(err, -EIO, "cannot write: %s", strerror(errno)) : 0;
    else if (rc == 0)
        print_table(a, n, n_nodes, r);
    if (rc == 0 && fflush(stdout))
        rc = skv_fail(err, -EIO, "cannot write: %s", strerror(errno));
    tier_nodes_free(n, n_nodes);
    if (rc)
        return rc;
    if (r && r->lost)
        return skv_fail(err, -ENODATA, "%" PRIu64 " blocks are lost: no node has all of their bytes",
                        r->lost);
    return down ? -EHOSTUNREACH : 0;
}

int cmd_cluster_status(int argc, char **argv)
{
    struct cluster_args a = CLUSTER_ARGS_DEFAULTS;
    struct opt_memory mem = {0};
    struct skv_error err = {0};
    const struct opt_group groups[] = {{"Options", table, &a}, {"Cluster", cluster_node_table, &a}, {0}};
    const struct opt_command cmd = {
        "scoutkv cluster status", "--nodes LIST [--scan] [--replicas R] [--json]",
        "Shows each memory node: whether it answers and how fast (lag), its share (weight), what it holds, "
        "in how\n"
        "much memory and disk. --scan lists every block of every node and counts the copies that are "
        "missing\n"
        "from where they belong, or lie elsewhere; R must be what clients write with.\n"
        "Exit: 0 all nodes answer, 3 blocks are lost, 4 a node is down.",
        "  scoutkv cluster status --nodes 10.0.0.1:7401,10.0.0.2:7401\n"
        "  scoutkv cluster status --nodes 10.0.0.1:7401,10.0.0.2:7401 -r 2 --scan --json | jq .scan.missing",
        groups};
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    interrupt_catch();
    rc = status(&a, &err);
    options_free(&mem);
    if (rc == -ECANCELED)
        return EXIT_INTERRUPTED;
    return rc ? cli_fail(cmd.name, &err) : 0;
}
