/* cmd_bench.c: `scoutkv bench`, and of its benches `bench step`: where the time of a decode step goes, and
 * how it grows with the context.
 *
 * DESIGN. Two contexts of different lengths, one budget. The shorter is a fork of the longer on its way, so
 * nothing is computed twice. Steps of both are measured in turn, round by round, so that a busy minute of the
 * machine slows both; figures are medians. Only the scout may grow with the context: the rest of the step is
 * compared as a ratio, the scout's own speed with what this machine's memory delivers, probed in the same
 * run. */
#include "common/options.h"
#include "common/pool.h"
#include "common/progress.h"
#include "common/size.h"
#include "decoder/cli/cli.h"
#include "decoder/cli/engine.h"
#include "decoder/cli/interrupt.h"
#include "decoder/cli/meter.h"
#include "decoder/cli/recall_task.h"
#include "decoder/cli/reload.h"
#include "decoder/kernels/probe.h"
#include "decoder/scout/scan_probe.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { PROBE_BYTES = 256 << 20, PROBE_ROUNDS = 2, STEPS_A_ROUND = 8 };

struct bench_args {
    const char *model, *tokens;
    uint64_t seed;
    uint32_t steps;
    bool json;
    struct kv_options kv;
};

#define AT(member) offsetof(struct bench_args, member)
static const struct opt table[] = {
    {"model", 'm', OPT_STRING, AT(model), "FILE", "GGUF model", .required = true},
    {"tokens", 0, OPT_STRING, AT(tokens), "A,B", "the two context lengths"},
    {"steps", 0, OPT_U32, AT(steps), "N", "decode steps measured at each length", .min = 8, .max = 1e6},
    {"seed", 's', OPT_U64, AT(seed), "S", "of the text"},
    {"json", 0, OPT_FLAG, AT(json), NULL, "print one object instead of the table"},
    {0},
};

enum { SHORT, LONG, LENGTHS };

struct bench {
    const struct bench_args *args;
    uint64_t tokens[LENGTHS];
    struct engine engine;
    uint32_t *ids;
    skv_context *ctx[LENGTHS];
    struct session *session;
    struct meter meter[LENGTHS];
    float *logits;
    double prefill_s, memory_gbps, scan_gbps;
};

/* ---- the text ---- */

/* Ids for the longer context and the steps of both. A recall model gets text of its own language; any other
 * one random ids: what a step costs hardly depends on them. */
static int make_ids(struct bench *b, struct skv_error *err)
{
    size_t n = b->tokens[LONG] + b->args->steps;
    uint32_t vocab = b->engine.model->params.vocab;
    uint64_t random = b->args->seed;
    struct recall_task task;
    struct recall_task_opts o = {
        .seed = b->args->seed, .tokens = n, .facts = n / 512, .questions = 1, .keep_first = 64};
    if (!recall_task_make(&task, b->engine.tok, &o, NULL)) {
        b->ids = task.ids;
        task.ids = NULL;
        recall_task_free(&task);
        return 0;
    }
    b->ids = malloc(n * sizeof *b->ids);
    if (!b->ids)
        return skv_fail(err, -ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++)
        b->ids[i] = recall_below(&random, vocab);
    return 0;
}

static int parse_lengths(struct bench *b, struct skv_error *err)
{
    char end;
    if (sscanf(b->args->tokens, "%" SCNu64 ",%" SCNu64 "%c", &b->tokens[SHORT], &b->tokens[LONG], &end) !=
            2 ||
        b->tokens[SHORT] < 1024 || b->tokens[LONG] <= b->tokens[SHORT] || b->tokens[LONG] > 1 << 27)
        return skv_fail(err, -EINVAL, "tokens: expected A,B with 1024 <= A < B, not '%s'", b->args->tokens);
    return 0;
}

/* ---- measuring ---- */

static int make_contexts(struct bench *b, struct skv_error *err)
{
    struct skv_context_opts opts;
    double seconds;
    int rc = engine_context_opts(&b->engine, &opts, err);
    if (!b->args->kv.cache) /* equal at both lengths, and far from holding the shorter one */
        opts.cache_bytes =
            4 * opts.decode.budget * kv_bytes_per_token(&b->engine.model->params, kv_dtype(&b->args->kv));
    if (!rc)
        rc = engine_context(&b->engine, &opts, &b->ctx[LONG], &b->session, err);
    if (!rc)
        rc = engine_prefill(&b->engine, b->session, "prefill", b->ids, b->tokens[SHORT], NULL, &b->prefill_s,
                            err);
    if (!rc)
        rc = skv_context_fork(b->ctx[LONG], &b->ctx[SHORT], err);
    if (!rc)
        rc = engine_prefill(&b->engine, b->session, "prefill", b->ids + b->tokens[SHORT],
                            b->tokens[LONG] - b->tokens[SHORT], NULL, &seconds, err);
    for (int i = 0; i < LENGTHS && !rc; i++)
        rc = skv_flush(b->ctx[i], err);
    if (!rc)
        b->prefill_s += seconds;
    return rc;
}

static int step(struct bench *b, int which, uint32_t id, bool count, struct skv_error *err)
{
    reload_nodes(b->engine.tier);
    if (count)
        meter_begin(&b->meter[which], b->ctx[which]);
    int rc = session_eval(b->session, SKV_DECODE, &id, 1, b->logits, false, err);
    if (!rc && count)
        meter_end(&b->meter[which], b->ctx[which]);
    if (!rc && interrupted())
        rc = skv_fail(err, -EINTR, "interrupted");
    return rc;
}

static int measure(struct bench *b, struct skv_error *err)
{
    const uint32_t *next = b->ids + b->tokens[LONG];
    struct progress bar;
    int rc = 0;
    progress_begin(&bar, "steps", "steps", b->args->steps);
    for (uint32_t at = 0; at < b->args->steps && !rc; at += STEPS_A_ROUND) {
        for (int which = 0; which < LENGTHS && !rc; which++) {
            session_use(b->session, b->ctx[which]);
            for (uint32_t i = at; i < at + STEPS_A_ROUND && i < b->args->steps && !rc; i++)
                rc = step(b, which, next[i], at > 0 || b->args->steps <= STEPS_A_ROUND,
                          err); /* the first round warms up */
        }
        progress_update(&bar, at);
    }
    progress_end(&bar);
    return rc;
}

/* The scan of block representatives, which is what grows with the context, and plain reads, both from memory:
 * at these lengths a small model's representatives may fit a cache. */
static int probe_memory(struct bench *b, struct skv_error *err)
{
    const struct model_params *p = &b->engine.model->params;
    struct pool *pool = pool_new(b->args->kv.threads);
    for (int round = 0; round < PROBE_ROUNDS; round++) { /* in turns, so that a busy minute slows both */
        double scan = scan_probe_gbps(pool, REPS_BLOCK, p->d_k, p->n_heads / p->n_kv_heads, PROBE_BYTES);
        double memory = probe_read_gbps(pool, PROBE_BYTES);
        b->scan_gbps = scan > b->scan_gbps ? scan : b->scan_gbps;
        b->memory_gbps = memory > b->memory_gbps ? memory : b->memory_gbps;
    }
    pool_free(pool);
    return b->memory_gbps > 0 && b->scan_gbps > 0
               ? 0
               : skv_fail(err, -ENOMEM, "out of memory for the memory probe");
}

/* ---- telling ---- */

static double p50(const struct bench *b, int which, enum meter_part part)
{
    return meter_ms(&b->meter[which], part, 0.5);
}

static double scout_gbps(const struct bench *b, int which)
{
    double bytes = (double)b->meter[which].scout_bytes / (double)meter_steps(&b->meter[which]);
    double ms = p50(b, which, METER_SCOUT);
    return ms > 0 ? bytes / ms / 1e6 : 0;
}

static double ratio(double a, double b)
{
    return b > 0 ? a / b : 0;
}

static uint64_t dense_bytes(const struct bench *b, int which)
{
    struct skv_stats s;
    skv_context_stats(b->ctx[which], &s);
    return s.context_bytes;
}

static void print_table(const struct bench *b)
{
    char tokens[32], fetched[32], dense[32];
    printf("ms per step, median of %" PRIu64 " (isa %s, budget %u)\n\n", meter_steps(&b->meter[LONG]),
           skv_isa(), b->args->kv.budget);
    printf("%12s %8s %8s %8s %9s %8s %10s %12s %12s\n", "tokens", "step", "scout", "wait", "attention",
           "rest", "- scout", "fetched", "dense reads");
    for (int i = 0; i < LENGTHS; i++)
        printf("%12s %8.3f %8.3f %8.3f %9.3f %8.3f %10.3f %12s %12s\n",
               count_format(tokens, sizeof tokens, b->tokens[i]), p50(b, i, METER_STEP),
               p50(b, i, METER_SCOUT), p50(b, i, METER_WAIT), p50(b, i, METER_ATTEND), p50(b, i, METER_REST),
               p50(b, i, METER_UNSCOUTED),
               size_format(fetched, sizeof fetched, (uint64_t)meter_bytes_per_step(&b->meter[i])),
               size_format(dense, sizeof dense, dense_bytes(b, i)));
    printf("\nstep without scout, long / short   %.3f\n",
           ratio(p50(b, LONG, METER_UNSCOUTED), p50(b, SHORT, METER_UNSCOUTED)));
    printf("whole step, long / short           %.3f\n",
           ratio(p50(b, LONG, METER_STEP), p50(b, SHORT, METER_STEP)));
    printf("scout at the long context          reads %s a step, %.1f GB/s\n",
           size_format(fetched, sizeof fetched,
                       b->meter[LONG].scout_bytes /
                           (meter_steps(&b->meter[LONG]) ? meter_steps(&b->meter[LONG]) : 1)),
           scout_gbps(b, LONG));
    printf("scan of representatives in memory  %.1f GB/s = %.2f of plain reads, %.1f GB/s\n", b->scan_gbps,
           ratio(b->scan_gbps, b->memory_gbps), b->memory_gbps);
}

static int print_json(const struct bench *b, struct skv_error *err)
{
    json_t *lengths = json_array();
    for (int i = 0; i < LENGTHS && lengths; i++)
        json_array_append_new(lengths,
                              json_pack("{s:I, s:o, s:f, s:I}", "tokens", (json_int_t)b->tokens[i], "detail",
                                        meter_json(&b->meter[i]), "scout_gbps", scout_gbps(b, i),
                                        "dense_bytes_per_step", (json_int_t)dense_bytes(b, i)));
    json_t *o = json_pack("{s:s, s:I, s:o, s:f, s:f, s:f, s:f, s:f, s:f}", "isa", skv_isa(), "budget_tokens",
                          (json_int_t)b->args->kv.budget, "lengths", lengths, "ratio_without_scout",
                          ratio(p50(b, LONG, METER_UNSCOUTED), p50(b, SHORT, METER_UNSCOUTED)), "ratio",
                          ratio(p50(b, LONG, METER_STEP), p50(b, SHORT, METER_STEP)), "scan_bandwidth_share",
                          ratio(b->scan_gbps, b->memory_gbps), "scan_gbps", b->scan_gbps, "memory_gbps",
                          b->memory_gbps, "prefill_seconds", b->prefill_s);
    int bad = !o || json_dumpf(o, stdout, JSON_INDENT(2)) || putchar('\n') == EOF || fflush(stdout);
    json_decref(o);
    return bad ? skv_fail(err, -EIO, "cannot write the JSON output") : 0;
}

/* ---- the command ---- */

static int bench(struct bench *b, struct skv_error *err)
{
    int rc = engine_open(&b->engine, b->args->model, &b->args->kv, err);
    if (!rc)
        rc = make_ids(b, err);
    if (rc)
        return rc;
    b->logits = malloc(b->engine.model->params.vocab * sizeof *b->logits);
    if (!b->logits)
        return skv_fail(err, -ENOMEM, "out of memory");
    rc = engine_connect(&b->engine, err);
    if (!rc)
        rc = make_contexts(b, err);
    if (!rc)
        rc = measure(b, err);
    if (!rc)
        rc = probe_memory(b, err);
    if (rc)
        return rc;
    if (b->args->json)
        return print_json(b, err);
    print_table(b);
    return 0;
}

static void close_bench(struct bench *b)
{
    session_close(b->session);
    for (int i = 0; i < LENGTHS; i++)
        if (b->ctx[i])
            skv_context_close(b->ctx[i]);
    engine_close(&b->engine);
    free(b->ids);
    free(b->logits);
    free(b);
}

static int bench_step(int argc, char **argv)
{
    struct bench_args a = {.tokens = "65536,1000000", .seed = 1, .steps = 400};
    struct opt_memory mem = {0};
    struct skv_error err = {0};
    kv_options_defaults(&a.kv);
    a.kv.budget = 1024;
    a.kv.cache = 0;
    a.kv.prefill = "window"; /* what was stored doesn't change what a step costs */
    const struct opt_group groups[] = {{"Options", table, &a},
                                       {"Policy", kv_policy_table, &a.kv},
                                       {"KV cache", kv_cache_table, &a.kv},
                                       {"Memory nodes", kv_node_table, &a.kv},
                                       {0}};
    const struct opt_command cmd = {
        "scoutkv bench step", "-m MODEL [--tokens A,B] [options]",
        "Times a decode step at two context lengths under the same budget, in turns, and splits it: scout "
        "(scoring the\n"
        "representatives), wait (for pages from the nodes), attention, rest (the model's matrices). Only the "
        "scout\n"
        "reads more when the context is longer: the step without it should stay as it is, and the scout "
        "itself should\n"
        "run at the speed of memory. Prompts are filled with --prefill window, the fastest; the cache, if "
        "not given,\n"
        "holds four times the budget.",
        "  scoutkv bench step -m recall.gguf\n"
        "  scoutkv bench step -m recall.gguf --tokens 16384,65536 --budget 512\n"
        "  scoutkv bench step -m model.gguf --nodes 10.0.0.1:7071,10.0.0.2:7071 --json",
        groups};
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    struct bench *b = calloc(1, sizeof *b);
    if (!b)
        return 1;
    b->args = &a;
    rc = parse_lengths(b, &err);
    if (!rc)
        rc = kv_check(&a.kv, &err);
    if (rc) {
        rc = options_mistake(&cmd, "%s", err.text);
    } else {
        interrupt_catch();
        rc = bench(b, &err);
        rc = rc ? cli_fail(cmd.name, &err) : 0;
        if (interrupted())
            rc = EXIT_INTERRUPTED;
    }
    close_bench(b);
    options_free(&mem);
    return rc;
}

int cmd_bench(int argc, char **argv)
{
    static const struct cli_command benches[] = {
        {"step", bench_step, "the decode step at two context lengths, split into its parts"},
        {"fetch", cmd_bench_fetch, "how fast blocks and pages come from memory nodes, beside plain TCP"},
        {"store", cmd_bench_store, "the disk engine of a memory node, beside fio"},
        {"hints", cmd_bench_hints,
         "RAM hits of nodes that hold a part in RAM: with hints from the contexts, without"},
        {"peers", cmd_bench_peers, "fetches beside redis, memcached, bare libzmq and others"},
        {"kernels", cmd_bench_kernels, "the kernels of a step, beside what memory and processor can do"},
        {"trace", cmd_bench_trace, "recorded requests against the nodes as a prefix cache: hit rate, times"},
        {0},
    };
    return cli_dispatch(benches, "scoutkv bench", "Usage: scoutkv bench WHAT [options]", "", argc, argv);
}
