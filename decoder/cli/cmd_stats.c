/* cmd_stats.c: the counters of every memory node, as a table for people or JSON for programs. */
#include "decoder/cli/cli.h"
#include "decoder/tier/tier.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct stats_args {
    const char *nodes, *cluster;
    uint64_t ns;
    uint32_t timeout_ms;
    bool json, all;
};

#define AT(member) offsetof(struct stats_args, member)
static const struct opt table[] = {
    {"nodes", 0, OPT_STRING, AT(nodes), "LIST", "memory nodes: host:port[*weight],…", .required = true},
    {"json", 0, OPT_FLAG, AT(json), NULL,
     "print {\"nodes\": {\"NAME\": {\"COUNTER\": VALUE, …, \"trouble\": TEXT}, …}}"},
    {"all", 0, OPT_FLAG, AT(all), NULL, "also show counters that are 0 on every node"},
    {"cluster", 0, OPT_STRING, AT(cluster), "NAME", "name that the nodes were started with"},
    {"namespace", 0, OPT_U64, AT(ns), "N", "tenant to ask as, where nodes serve only some"},
    {"timeout-ms", 0, OPT_U32, AT(timeout_ms), "MS", "deadline of every request to a node", .min = 1,
     .max = 3600e3},
    {0},
};

/* The one entry that is no number. */
static bool is_text(const struct tier_counter *c)
{
    return strcmp(c->name, "trouble") == 0;
}

static int print_json(const struct tier_counter *c, size_t n)
{
    json_t *root = json_object(), *nodes = json_object();
    json_object_set_new(root, "nodes", nodes);
    for (size_t i = 0; i < n; i++) {
        json_t *node = json_object_get(nodes, c[i].node);
        if (!node) {
            json_object_set_new(nodes, c[i].node, json_object());
            node = json_object_get(nodes, c[i].node);
        }
        json_t *value = is_text(&c[i]) ? json_string(c[i].text) : json_integer((json_int_t)c[i].value);
        json_object_set_new(node, c[i].name, value ? value : json_string("(not UTF-8)"));
    }
    int rc = json_dumpf(root, stdout, JSON_INDENT(2)) || putchar('\n') == EOF ? -EIO : 0;
    json_decref(root);
    return rc;
}

/* The value of a node's counter, found among n; false where that node has none of this name. */
static bool find(const struct tier_counter *c, size_t n, const char *node, const char *name, uint64_t *value)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(c[i].node, node) == 0 && strcmp(c[i].name, name) == 0) {
            *value = c[i].value;
            return true;
        }
    return false;
}

/* Whether entry i is the first of its node, or of its name. */
static bool is_first(const struct tier_counter *c, size_t i, bool of_node)
{
    for (size_t j = 0; j < i; j++)
        if (strcmp(of_node ? c[j].node : c[j].name, of_node ? c[i].node : c[i].name) == 0)
            return false;
    return true;
}

/* One row a counter, one column a node, and their sum where there are several. */
static void print_table(const struct tier_counter *c, size_t n, bool all)
{
    size_t n_nodes = 0;
    printf("%-24s", "");
    for (size_t i = 0; i < n; i++)
        if (is_first(c, i, true)) {
            printf(" %15s", c[i].node);
            n_nodes++;
        }
    printf("%s\n", n_nodes > 1 ? "           total" : "");
    for (size_t i = 0; i < n; i++) {
        uint64_t value, sum = 0;
        if (is_text(&c[i]) || !is_first(c, i, false))
            continue;
        for (size_t j = 0; j < n; j++)
            sum += strcmp(c[j].name, c[i].name) == 0 ? c[j].value : 0;
        if (!sum && !all)
            continue;
        printf("%-24s", c[i].name);
        for (size_t j = 0; j < n; j++)
            if (is_first(c, j, true)) {
                if (find(c, n, c[j].node, c[i].name, &value))
                    printf(" %15" PRIu64, value);
                else
                    printf(" %15s", "-");
            }
        if (n_nodes > 1)
            printf(" %15" PRIu64, sum);
        putchar('\n');
    }
    for (size_t i = 0; i < n; i++)
        if (is_text(&c[i]) && c[i].text[0])
            printf("%s has trouble: %s\n", c[i].node, c[i].text);
}

static int stats(const struct stats_args *a, struct skv_error *err)
{
    struct tier_opts opts = {
        .nodes = a->nodes, .cluster = a->cluster, .ns = a->ns, .timeout_ms = a->timeout_ms};
    struct tier *t = NULL;
    struct tier_counter *c = NULL;
    size_t n;
    int rc = tier_open(&opts, &t, err);
    if (rc == 0)
        rc = tier_stats(t, &c, &n, err);
    if (rc)
        goto out;
    if (a->json)
        rc = print_json(c, n);
    else
        print_table(c, n, a->all);
    if (rc || fflush(stdout))
        rc = skv_fail(err, -EIO, "cannot write: %s", strerror(errno));
out:
    free(c);
    tier_close(t);
    return rc;
}

int cmd_stats(int argc, char **argv)
{
    struct stats_args a = {.timeout_ms = 5000};
    struct opt_memory mem = {0};
    struct skv_error err = {0};
    const struct opt_group groups[] = {{"Options", table, &a}, {0}};
    const struct opt_command cmd = {
        "scoutkv stats", "--nodes LIST [--json]",
        "Asks each memory node for its counters: what it holds (blocks, bytes, objects, leases), what it was "
        "asked (puts,\n"
        "gets and their pages and bytes, misses), what it refused and why, and what its sockets saw. "
        "Counters begin at 0 when\n"
        "a node starts; blocks, bytes, objects, leases, lanes, the ram_ lines and most of the disk_ lines "
        "that "
        "end in bytes\n"
        "or segments are the state now. What is wrong with a node's disks is said last.",
        "  scoutkv stats --nodes 127.0.0.1:7401,127.0.0.1:7402\n"
        "  scoutkv stats --nodes 127.0.0.1:7401 --json | jq '.nodes[].bytes'",
        groups};
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    rc = stats(&a, &err);
    options_free(&mem);
    return rc ? cli_fail(cmd.name, &err) : 0;
}
