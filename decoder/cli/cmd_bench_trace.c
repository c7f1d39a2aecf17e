/* cmd_bench_trace.c: `scoutkv bench trace`: recorded requests against memory nodes that serve as a prefix
 * cache.
 *
 * DESIGN. The trace is read twice, line by line: first to check every line and to say what it asks for, so
 * that a mistake in the last line costs a second and not an hour; then to replay it. What an infinite cache
 * would have hit is counted along with the replay, of the same requests, so that the two can be compared
 * wherever it ends. One client does one request after the other, each of which finds all that was stored
 * before: hits depend on the trace and the nodes' room, and hardly on how fast this machine is. */
#include "common/clock.h"
#include "common/pool.h"
#include "common/progress.h"
#include "decoder/cli/cli.h"
#include "decoder/cli/interrupt.h"
#include "decoder/cli/kv_options.h"
#include "decoder/cli/load_blocks.h"
#include "decoder/cli/reload.h"
#include "decoder/cli/trace_report.h"
#include "decoder/tier/tier.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct args {
    const char *file;
    uint32_t bytes_per_token;
    uint64_t requests, seed; /* requests 0: all */
    double speed;            /* 0: as fast as it goes */
    bool json;
    struct kv_options kv;
};

#define AT(member) offsetof(struct args, member)
static const struct opt table[] = {
    {"bytes-per-token", 0, OPT_U32, AT(bytes_per_token), "N",
     "bytes of keys and values that stand for a token; a block has 512 times as many", .min = 1, .max = 8192},
    {"requests", 'n', OPT_U64, AT(requests), "K", "replay only the first K; all if not given", .min = 1,
     .max = 1e15},
    {"speed", 0, OPT_DOUBLE, AT(speed), "X",
     "begin each request when it is due in a replay X times as fast as recorded; if not given, as soon as "
     "the "
     "one before it is done",
     .min = 1e-3, .max = 1e6},
    {"seed", 's', OPT_U64, AT(seed), "S", "what the blocks are made from, beside their ids"},
    {"json", 0, OPT_FLAG, AT(json), NULL, "print one object instead of the table"},
    {0},
};

struct bench {
    const struct args *args;
    struct block_layout layout;
    struct trace_file *file;
    struct trace_bound whole, bound; /* of all requests; of those replayed */
    struct pool *pool;
    struct tier *tier;
    struct replay *replay;
    struct hist late;
    uint64_t older_blocks, start, end;
    uint64_t evicted_ram, evicted_disk; /* the nodes' counters at the start, then what came since */
};

/* ---- evictions ---- */

static int read_evicted(struct bench *b, uint64_t *ram, uint64_t *disk, struct skv_error *err)
{
    struct tier_counter *c = NULL;
    size_t n = 0;
    int rc = tier_stats(b->tier, &c, &n, err);
    *ram = *disk = 0;
    for (size_t i = 0; i < n; i++) {
        *ram += strcmp(c[i].name, "ram_evicted") ? 0 : c[i].value;
        *disk += strcmp(c[i].name, "disk_evicted") ? 0 : c[i].value;
    }
    free(c);
    return rc;
}

/* False: a node did not answer, or began anew meanwhile. */
static bool count_evicted(struct bench *b)
{
    uint64_t ram, disk;
    if (read_evicted(b, &ram, &disk, NULL) || ram < b->evicted_ram || disk < b->evicted_disk)
        return false;
    b->evicted_ram = ram - b->evicted_ram;
    b->evicted_disk = disk - b->evicted_disk;
    return true;
}

/* ---- replaying ---- */

/* Reads what is to be replayed, once. */
static int survey(struct bench *b, struct skv_error *err)
{
    const struct trace_request *q;
    size_t prefix;
    int rc = trace_open(b->args->file, &b->file, err);
    if (rc)
        return rc;
    while ((!b->args->requests || b->whole.requests < b->args->requests) && !interrupted() &&
           (rc = trace_next(b->file, &q, err)) > 0)
        if ((rc = trace_bound_add(&b->whole, q, &prefix, err)))
            return rc;
    if (rc >= 0 && interrupted())
        return skv_fail(err, -EINTR, "interrupted");
    if (rc >= 0 && !b->whole.requests)
        return skv_fail(err, -EINVAL, "there is no request in %s", b->args->file);
    return rc < 0 ? rc : trace_rewind(b->file, err);
}

static int connect_nodes(struct bench *b, struct skv_error *err)
{
    const struct kv_options *kv = &b->args->kv;
    struct tier_opts o = {.nodes = kv->nodes,
                          .cluster = kv->cluster,
                          .ns = kv->ns,
                          .ram = kv->ram,
                          .disks = kv->disk.item,
                          .n_disks = kv->disk.n,
                          .replicas = kv->replicas,
                          .timeout_ms = kv->timeout_ms,
                          .heartbeat_ms = kv->heartbeat_ms};
    reload_catch(o.nodes);
    int rc = tier_open(&o, &b->tier, err);
    if (rc)
        return rc;
    struct replay_opts replay = {.tier = b->tier,
                                 .pool = b->pool = pool_new(kv->threads),
                                 .layout = b->layout,
                                 .ns = kv->ns,
                                 .seed = b->args->seed};
    b->replay = b->pool ? replay_new(&replay) : NULL;
    return b->replay ? read_evicted(b, &b->evicted_ram, &b->evicted_disk, err)
                     : skv_fail(err, -ENOMEM, "out of memory");
}

/* Waits until the request is due, and notes by how much it begins late. */
static void wait_for(struct bench *b, double first_ms, const struct trace_request *q)
{
    enum { SLICE_MS = 20 };
    double ms = (q->at_ms - first_ms) / b->args->speed;
    uint64_t due = b->start + (ms > 0 ? (uint64_t)(ms * (double)NS_PER_MS) : 0), now;
    while ((now = clock_ns()) < due && !interrupted()) {
        uint64_t left = due - now;
        if (left > NS_PER_MS)
            tier_pump(b->tier, left < SLICE_MS * NS_PER_MS ? (int)(left / NS_PER_MS) : SLICE_MS, NULL);
        else
            nanosleep(&(struct timespec){.tv_nsec = (long)left}, NULL);
    }
    if (now >= due)
        hist_add(&b->late, now - due);
}

static int replay(struct bench *b, struct skv_error *err)
{
    const struct trace_request *q;
    struct progress bar;
    double first_ms = 0;
    size_t hits, bound;
    int rc = 0;
    progress_begin(&bar, "replay", "requests", b->whole.requests);
    b->start = clock_ns();
    while (b->bound.requests < b->whole.requests && (rc = trace_next(b->file, &q, err)) > 0) {
        if (b->bound.requests == 0)
            first_ms = q->at_ms;
        if (b->args->speed > 0)
            wait_for(b, first_ms, q);
        reload_tier_nodes(b->tier);
        if (interrupted() || (rc = replay_request(b->replay, q, &hits, err)) ||
            (rc = trace_bound_add(&b->bound, q, &bound, err)))
            break;
        b->older_blocks += hits > bound ? hits - bound : 0;
        progress_update(&bar, b->bound.requests);
    }
    b->end = clock_ns();
    progress_end(&bar);
    return rc < 0 ? rc : 0;
}

/* ---- telling ---- */

static int tell(struct bench *b, struct skv_error *err)
{
    struct trace_report r = {.trace = b->args->file,
                             .bytes_per_token = b->args->bytes_per_token,
                             .speed = b->args->speed,
                             .nodes = tier_n_nodes(b->tier),
                             .whole = &b->whole,
                             .bound = &b->bound,
                             .did = replay_counts(b->replay),
                             .older_blocks = b->older_blocks,
                             .seconds = (double)(b->end - b->start) / NS_PER_S,
                             .late = &b->late,
                             .has_evicted = count_evicted(b)};
    r.evicted_ram = b->evicted_ram;
    r.evicted_disk = b->evicted_disk;
    if (b->args->json)
        return trace_report_json(&r, err);
    trace_report_print(&r);
    return fflush(stdout) ? skv_fail(err, -errno, "cannot write: %s", strerror(errno)) : 0;
}

/* ---- the command ---- */

static int bench(struct bench *b, struct skv_error *err)
{
    int rc = survey(b, err);
    if (!rc)
        rc = connect_nodes(b, err);
    if (rc)
        return rc;
    rc = replay(b, err);
    if (!b->bound.requests)
        return rc;
    int told = tell(b, rc ? NULL : err); /* whatever ended it, what was measured is worth telling */
    return rc ? rc : told;
}

static void close_bench(struct bench *b)
{
    replay_free(b->replay);
    tier_close(b->tier);
    pool_free(b->pool);
    trace_bound_free(&b->whole);
    trace_bound_free(&b->bound);
    trace_close(b->file);
    free(b);
}

static const char about[] =
    "Replays recorded requests against memory nodes that serve as a prefix cache. FILE has one JSON object a "
    "line, as\n"
    "Mooncake publishes them: timestamp (ms), input_length (tokens) and hash_ids, one a block of 512 tokens, "
    "equal where\n"
    "prompts are equal up to there. Each block is stored as 512 times --bytes-per-token bytes made from its "
    "id. A request\n"
    "looks up its longest stored prefix, fetches that (every byte verified), and PUTs the other blocks, as "
    "prefill would.\n"
    "Told are the share of hits beside that of a cache that never forgets, times, bytes and evictions. "
    "Requests run one\n"
    "after the other, at full speed: hits depend on the room that the nodes have, and hardly on how fast "
    "they "
    "are. With\n"
    "--speed they begin when they are due, and how late they began is told. A node without room is not an "
    "error: what it\n"
    "refuses or evicts are misses. Ctrl-C ends the replay and tells what was measured until then.";

int cmd_bench_trace(int argc, char **argv)
{
    struct args a = {.bytes_per_token = 256, .seed = 1};
    struct opt_memory mem = {0};
    struct skv_error err = {0};
    kv_options_defaults(&a.kv);
    const struct opt_group groups[] = {{"Options", table, &a}, {"Memory nodes", kv_node_table, &a.kv}, {0}};
    const struct opt_command cmd = {
        "scoutkv bench trace", "FILE [--bytes-per-token N] [options]", about,
        "  scoutkv bench trace conversation_trace.jsonl --nodes 10.0.0.1:7071,10.0.0.2:7071\n"
        "  scoutkv bench trace conversation_trace.jsonl --ram 2GiB --disk /mnt/nvme/scoutkv:30GiB\n"
        "  scoutkv bench trace conversation_trace.jsonl --requests 1000 --speed 10 --json",
        groups};
    if (argc > 1 && argv[1][0] != '-') {
        a.file = argv[1];
        argc--;
        argv++;
    }
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    struct bench *b = calloc(1, sizeof *b);
    if (!b)
        return 1;
    b->args = &a;
    if (!a.file)
        rc = options_mistake(&cmd, "missing FILE, the trace, which comes before the options");
    else if (load_layout((uint64_t)TRACE_BLOCK * a.bytes_per_token, &b->layout, &err))
        rc = options_mistake(&cmd, "bytes-per-token: %s", err.text);
    else if (kv_node_check(&a.kv, &err))
        rc = options_mistake(&cmd, "%s", err.text);
    if (rc < 0) {
        interrupt_catch();
        rc = bench(b, &err);
        rc = interrupted() ? EXIT_INTERRUPTED : rc ? cli_fail(cmd.name, &err) : 0;
    }
    close_bench(b);
    options_free(&mem);
    return rc;
}
