/* cmd_bench_fetch.c: `scoutkv bench fetch`: how fast blocks and pages come from memory nodes.
 *
 * DESIGN. What a machine's loopback gives changes from minute to minute, so a figure means little by itself:
 * in every round the fetches take turns with a plain TCP pair that moves the same bytes by the same requests,
 * and the share of that is told. Both look at every byte that comes. Nodes are processes of their own, as
 * they would be in use. */
#include "decoder/cli/cli.h"
#include "decoder/cli/fetch_report.h"
#include "decoder/cli/interrupt.h"
#include "decoder/cli/load_blocks.h"
#include "decoder/cli/own_nodes.h"
#include "proto/message.h"

#include "common/progress.h"
#include "common/size.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_SIZES = 32,
    MAX_IN_FLIGHT = 1 << 14, /* pieces: a plain TCP pair must take all requests before it is read from */
    SPARE_RAM = 512 << 20,
};
static const uint64_t MOST_BLOCK = PROTO_MAX_PAYLOAD;

struct args {
    const char *size, *verify, *plot;
    struct fetch_load_opts load;
    uint32_t lanes, rounds;
    uint64_t set;
    bool json, csv;
    /* nodes */
    const char *nodes, *cluster, *disk;
    uint32_t start, replicas, timeout_ms;
    uint64_t ram, ns;
};

#define AT(member) offsetof(struct args, member)
static const struct opt table[] = {
    {"size", 0, OPT_STRING, AT(size), "SIZE[-SIZE][,…]",
     "of the blocks: one or more sizes, or ranges that double: 4KiB-4MiB"},
    {"batch", 'b', OPT_U32, AT(load.batch), "N", "blocks of one request", .min = 1, .max = MAX_IN_FLIGHT},
    {"pages", 0, OPT_U32, AT(load.pages), "N",
     "fetch only N pages of each block (of 8 KiB if the block has 32 KiB or more), scattered over it; all if "
     "not given",
     .min = 1, .max = MAX_IN_FLIGHT},
    {"window", 'w', OPT_U32, AT(load.window), "N", "requests in flight", .min = 1, .max = MAX_IN_FLIGHT},
    {"lanes", 0, OPT_U32, AT(lanes), "N", "connections to each node that pages come over", .min = 1,
     .max = 3},
    {"misses", 0, OPT_DOUBLE, AT(load.misses), "P", "share of blocks asked for that no node has (0…1)",
     .max = 1},
    {"verify", 0, OPT_CHOICE, AT(verify), NULL,
     "whether every page is held against its checksum, as it always is in use", .choices = "on|off"},
    {"rate", 'r', OPT_DOUBLE, AT(load.rate), "R",
     "R requests a second are due, and times count from then; if not given, as many as go", .min = 0.1,
     .max = 1e7},
    {"set", 0, OPT_SIZE, AT(set), "SIZE", "bytes that are stored, of which requests take any",
     .min = 1 << 16},
    {"rounds", 0, OPT_U32, AT(rounds), "N", "how often each is measured", .min = 1, .max = SERIES_MAX},
    {"seconds", 0, OPT_DOUBLE, AT(load.seconds), "S", "how long a round takes", .min = 0.01, .max = 3600},
    {"count", 'n', OPT_U64, AT(load.count), "N", "a round ends after N requests if that is earlier", .min = 1,
     .max = 1e15},
    {"warm-up", 0, OPT_DOUBLE, AT(load.warm_up), "S", "before each round", .max = 3600},
    {"json", 0, OPT_FLAG, AT(json), NULL, "print one object instead of the table"},
    {"csv", 0, OPT_FLAG, AT(csv), NULL, "print a line a size instead of the table"},
    {"plot", 0, OPT_STRING, AT(plot), "FILE", "also draw speed and times by size, as SVG"},
    {0},
};
static const struct opt node_table[] = {
    {"nodes", 0, OPT_STRING, AT(nodes), "LIST",
     "measure these memory nodes (host:port,host:port…, @FILE or etcd://…) instead of own ones"},
    {"start", 0, OPT_U32, AT(start), "N", "nodes that are started here for this, a process each", .min = 1,
     .max = OWN_NODES_MAX},
    {"ram", 0, OPT_SIZE, AT(ram), "SIZE",
     "memory of each of them; enough for the set if not given, an eighth of their part of it with --disk",
     .min = 64 << 20},
    {"disk", 0, OPT_STRING, AT(disk), "DIR",
     "a directory on a disk for them, so that most pages come from there"},
    {"replicas", 0, OPT_U32, AT(replicas), "R", "nodes that each block is written to", .min = 1, .max = 64},
    {"cluster", 0, OPT_STRING, AT(cluster), "NAME", "name that the nodes were started with"},
    {"namespace", 0, OPT_U64, AT(ns), "N", "tenant; blocks of different tenants never meet (0 if not given)"},
    {"timeout-ms", 0, OPT_U32, AT(timeout_ms), "MS", "deadline of every request to a node", .min = 1,
     .max = 3600e3},
    {0},
};

struct bench {
    const struct args *args;
    uint64_t sizes[MAX_SIZES];
    struct fetch_report report;
    struct own_nodes *own;
    struct tier *tier;
    struct fetch_result *got; /* of one round; large */
    struct peer_result *tcp;
    struct progress bar;
    uint64_t n_measured;
};

/* ---- sizes ---- */

static int add_size(struct bench *b, uint64_t size, struct skv_error *err)
{
    struct block_layout l;
    char text[32];
    if (b->report.n == MAX_SIZES)
        return skv_fail(err, -EINVAL, "size: at most %d sizes", MAX_SIZES);
    if (size > MOST_BLOCK)
        return skv_fail(err, -EINVAL, "size: blocks have at most %s",
                        size_format(text, sizeof text, MOST_BLOCK));
    int rc = load_layout(size, &l, err);
    if (rc)
        return rc;
    uint64_t pages = b->args->load.pages ? b->args->load.pages : layout_pages(&l),
             pieces = b->args->load.pages ? pages : 1;
    if (pages > layout_pages(&l))
        return skv_fail(err, -EINVAL, "pages: a block of %" PRIu64 " bytes has %zu", size, layout_pages(&l));
    if (pieces * b->args->load.batch * b->args->load.window > MAX_IN_FLIGHT ||
        pages * b->args->load.batch * b->args->load.window > UINT64_C(1) << 22)
        return skv_fail(err, -EINVAL, "batch, window: that is too much at once: at most %d pieces in flight",
                        MAX_IN_FLIGHT);
    b->sizes[b->report.n++] = size;
    return 0;
}

/* One item of the list: "SIZE" or "SIZE-SIZE". */
static int add_range(struct bench *b, char *item, struct skv_error *err)
{
    char *dash = strchr(item, '-');
    uint64_t from, to;
    if (dash)
        *dash = 0;
    if (size_parse(item, &from) || (dash ? size_parse(dash + 1, &to) : (to = from, 0)) || !from || from > to)
        return skv_fail(err, -EINVAL, "size: expected sizes as 256KiB, or ranges as 4KiB-4MiB, not '%s'",
                        b->args->size);
    int rc = 0;
    for (; from <= to && !rc; from *= 2)
        rc = add_size(b, from, err);
    return rc;
}

static int parse_sizes(struct bench *b, struct skv_error *err)
{
    char *list = strdup(b->args->size), *rest = NULL;
    int rc = list ? 0 : skv_fail(err, -ENOMEM, "out of memory");
    for (char *item = list ? strtok_r(list, ",", &rest) : NULL; item && !rc;
         item = strtok_r(NULL, ",", &rest))
        rc = add_range(b, item, err);
    free(list);
    if (!rc && !b->report.n)
        rc = skv_fail(err, -EINVAL, "size: no size is given");
    return rc;
}

/* ---- nodes ---- */

static int start_nodes(struct bench *b, struct skv_error *err)
{
    const struct args *a = b->args;
    uint64_t part = a->set * a->replicas / a->start;
    struct own_nodes_opts o = {.n = a->start,
                               .ram = a->ram    ? a->ram
                                      : a->disk ? (part / 8 > 64 << 20 ? part / 8 : 64 << 20)
                                                : 2 * part + SPARE_RAM,
                               .disk = a->disk,
                               .disk_size = 4 * part + SPARE_RAM,
                               .cluster = a->cluster};
    return own_nodes_start(&o, &b->own, err);
}

static int connect_nodes(struct bench *b, struct skv_error *err)
{
    const struct args *a = b->args;
    struct tier_opts o = {.nodes = a->nodes ? a->nodes : own_nodes_list(b->own),
                          .cluster = a->cluster,
                          .ns = a->ns,
                          .replicas = a->replicas,
                          .timeout_ms = a->timeout_ms,
                          .lanes = a->lanes,
                          .unchecked = !strcmp(a->verify, "off")};
    int rc = tier_open(&o, &b->tier, err);
    if (!rc)
        b->report.nodes = tier_n_nodes(b->tier);
    return rc;
}

struct node_sums {
    uint64_t cpu_ns, get_pages, disk_pages;
};

static int read_nodes(struct bench *b, struct node_sums *s, struct skv_error *err)
{
    struct tier_counter *c = NULL;
    size_t n = 0;
    int rc = tier_stats(b->tier, &c, &n, err);
    *s = (struct node_sums){0};
    for (size_t i = 0; i < n; i++) {
        s->cpu_ns += strcmp(c[i].name, "cpu_ns") ? 0 : c[i].value;
        s->get_pages += strcmp(c[i].name, "get_pages") ? 0 : c[i].value;
        s->disk_pages += strcmp(c[i].name, "get_disk_pages") ? 0 : c[i].value;
    }
    free(c);
    return rc;
}

/* ---- measuring ---- */

static double per_gb(double seconds, uint64_t bytes)
{
    return bytes ? seconds / ((double)bytes / 1e9) : 0;
}

static double per_second(uint64_t n, double seconds)
{
    return seconds > 0 ? (double)n / seconds : 0;
}

static void measured(struct bench *b)
{
    progress_update(&b->bar, ++b->n_measured);
}

static int measure_fetch(struct bench *b, const struct fetch_set *set, struct fetch_row *w,
                         struct skv_error *err)
{
    struct fetch_load_opts o = b->args->load;
    struct fetch_result *r = b->got;
    struct node_sums before, after;
    o.seed = b->n_measured + 1;
    int rc = read_nodes(b, &before, err);
    if (!rc)
        rc = fetch_load_run(b->tier, set, &o, r, err);
    if (!rc)
        rc = read_nodes(b, &after, err);
    if (rc)
        return rc;
    series_note(&w->gbps, per_second(r->bytes, r->seconds) / 1e9);
    series_note(&w->rps, per_second(r->requests, r->seconds));
    series_note(&w->client_cpu, per_gb(r->cpu_s, r->moved_bytes));
    series_note(&w->node_cpu, per_gb((double)(after.cpu_ns - before.cpu_ns) / 1e9, r->moved_bytes));
    w->get_pages += after.get_pages - before.get_pages;
    w->disk_pages += after.disk_pages - before.disk_pages;
    w->requests += r->requests;
    w->found += r->found;
    w->missed += r->missed;
    w->unfinished += r->unfinished;
    hist_merge(&w->latency, &r->latency);
    hist_merge(&w->late, &r->late);
    measured(b);
    return 0;
}

static int measure_tcp(struct bench *b, const struct peer *tcp, struct fetch_row *w, struct skv_error *err)
{
    const struct fetch_load_opts *o = &b->args->load;
    struct peer_load l = {.per_request = o->batch * (o->pages ? o->pages : 1),
                          .window = o->window,
                          .checked = b->report.checked,
                          .warm_up = o->warm_up,
                          .seconds = o->seconds,
                          .count = o->count,
                          .seed = b->n_measured + 1};
    struct peer_result *r = b->tcp;
    int rc = peer_run(tcp, &l, r, err);
    if (rc)
        return rc;
    series_note(&w->tcp_gbps, per_second(r->bytes, r->seconds) / 1e9);
    series_note(&w->tcp_client_cpu, per_gb(r->client_s, r->moved_bytes));
    series_note(&w->tcp_server_cpu, per_gb(r->server_s, r->moved_bytes));
    hist_merge(&w->tcp_latency, &r->latency);
    measured(b);
    return 0;
}

/* Who begins takes turns as well. */
static int measure_rounds(struct bench *b, const struct fetch_set *set, const struct peer *tcp,
                          struct fetch_row *w, struct skv_error *err)
{
    int rc = 0;
    for (uint32_t i = 0; i < b->args->rounds && !rc; i++) {
        rc = i % 2 ? measure_tcp(b, tcp, w, err) : measure_fetch(b, set, w, err);
        if (!rc)
            rc = i % 2 ? measure_fetch(b, set, w, err) : measure_tcp(b, tcp, w, err);
    }
    return rc;
}

static int measure_size(struct bench *b, struct fetch_row *w, struct skv_error *err)
{
    const struct args *a = b->args;
    struct fetch_set set = {0};
    struct peer_pieces pieces = {0};
    struct peer tcp = {0};
    struct block_layout l;
    int rc = load_layout(w->size, &l, err);
    if (rc)
        return rc;
    size_t piece = a->load.pages ? layout_page_bytes(&l) : w->size;
    uint32_t per_request = a->load.batch * (a->load.pages ? a->load.pages : 1);
    w->request_bytes = per_request * piece;
    rc = peer_pieces_make(&pieces, piece, (uint32_t)(a->set / piece ? a->set / piece : 1), err);
    if (!rc)
        rc = peer_tcp_open(&tcp, &pieces, a->lanes * b->report.nodes, per_request, err);
    if (!rc)
        rc = fetch_set_put(&set, b->tier, &l, a->ns, a->set, 1, b->report.disk, err);
    if (!rc)
        rc = measure_rounds(b, &set, &tcp, w, err);
    int dropped = set.keys ? fetch_set_drop(&set, b->tier, rc ? NULL : err) : 0;
    peer_close(&tcp);
    peer_pieces_free(&pieces);
    fetch_set_free(&set);
    return rc ? rc : dropped;
}

static int measure(struct bench *b, struct skv_error *err)
{
    struct fetch_report *r = &b->report;
    r->rows = calloc(r->n, sizeof *r->rows);
    b->got = malloc(sizeof *b->got);
    b->tcp = malloc(sizeof *b->tcp);
    if (!r->rows || !b->got || !b->tcp)
        return skv_fail(err, -ENOMEM, "out of memory");
    int rc = 0;
    progress_begin(&b->bar, "measure", "measurements", r->n * b->args->rounds * 2);
    for (size_t i = 0; i < r->n && !rc; i++) {
        r->rows[i].size = b->sizes[i];
        rc = measure_size(b, &r->rows[i], err);
    }
    progress_end(&b->bar);
    return rc;
}

/* ---- the command ---- */

static int bench(struct bench *b, struct skv_error *err)
{
    const struct args *a = b->args;
    int rc = a->nodes ? 0 : start_nodes(b, err);
    if (!rc)
        rc = connect_nodes(b, err);
    if (!rc)
        rc = measure(b, err);
    if (!rc && a->plot)
        rc = fetch_report_plot(&b->report, a->plot, err);
    if (rc)
        return rc;
    if (a->json)
        return fetch_report_json(&b->report, err);
    if (a->csv)
        return fetch_report_csv(&b->report, err);
    fetch_report_print(&b->report);
    return fflush(stdout) ? skv_fail(err, -errno, "cannot write: %s", strerror(errno)) : 0;
}

static void close_bench(struct bench *b)
{
    tier_close(b->tier);
    own_nodes_stop(b->own);
    free(b->report.rows);
    free(b->got);
    free(b->tcp);
    free(b);
}

static const char about[] =
    "Measures how fast blocks, or pages of blocks, come from memory nodes to this process: bytes and "
    "requests a second,\n"
    "times, processor time on both sides, and the share of what a plain TCP pair of two processes gets of "
    "the same machine\n"
    "in the same seconds, with the same requests in flight; both look at every byte. A set of blocks is "
    "stored, requests\n"
    "take any of them, and it is dropped at the end.\n"
    "Memory nodes are started for this and end with it, or are those of --nodes. With --rate, requests are "
    "due at even\n"
    "distances, whatever becomes of those before, and the time of one that had to wait counts from when it "
    "was due.\n"
    "A figure from a shared machine means little by itself: compare shares, and figures of one run.";

/* What options say together. */
static int check(const struct opt_command *cmd, const struct opt_memory *mem, struct bench *b)
{
    static const char *const of_own[] = {"start", "ram", "disk"};
    const struct args *a = b->args;
    struct skv_error err;
    if (parse_sizes(b, &err))
        return options_mistake(cmd, "%s", err.text);
    if (a->json && a->csv)
        return options_mistake(cmd, "--json or --csv, not both");
    for (size_t i = 0; a->nodes && i < sizeof of_own / sizeof of_own[0]; i++)
        if (options_typed(cmd, mem, of_own[i]))
            return options_mistake(cmd, "%s: of nodes that are started here; --nodes names others",
                                   of_own[i]);
    if (!a->nodes && a->replicas > a->start)
        return options_mistake(cmd, "replicas: %u need as many nodes: give --start %u", a->replicas,
                               a->replicas);
    return -1;
}

int cmd_bench_fetch(int argc, char **argv)
{
    struct args a = {.size = "256KiB",
                     .verify = "on",
                     .load = {.batch = 1, .window = 8, .warm_up = 0.2, .seconds = 1},
                     .lanes = 1,
                     .rounds = 5,
                     .set = 256 << 20,
                     .cluster = "default",
                     .start = 1,
                     .replicas = 1,
                     .timeout_ms = 5000};
    struct opt_memory mem = {0};
    struct skv_error err = {0};
    const struct opt_group groups[] = {{"Options", table, &a}, {"Memory nodes", node_table, &a}, {0}};
    const struct opt_command cmd = {"scoutkv bench fetch", "[options]", about,
                                    "  scoutkv bench fetch\n"
                                    "  scoutkv bench fetch --size 4KiB-4MiB --plot fetch.svg\n"
                                    "  scoutkv bench fetch --size 1MiB --pages 4 --batch 128 --start 3\n"
                                    "  scoutkv bench fetch --size 32KiB --batch 64 --rate 100 --seconds 10\n"
                                    "  scoutkv bench fetch --disk /mnt/nvme --set 4GiB --json",
                                    groups};
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    struct bench *b = calloc(1, sizeof *b);
    if (!b)
        return 1;
    b->args = &a;
    rc = check(&cmd, &mem, b);
    if (rc < 0) {
        b->report.load = a.load;
        b->report.lanes = a.lanes;
        b->report.rounds = a.rounds;
        b->report.set = a.set;
        b->report.checked = !strcmp(a.verify, "on");
        b->report.disk = a.disk != NULL;
        interrupt_catch();
        rc = bench(b, &err);
        rc = interrupted() ? EXIT_INTERRUPTED : rc ? cli_fail(cmd.name, &err) : 0;
    }
    close_bench(b);
    options_free(&mem);
    return rc;
}
