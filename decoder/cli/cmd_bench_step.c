/* cmd_bench_step.c: `scoutkv bench step`: what a decode step costs a model of a known shape, over memory
 * nodes.
 *
 * DESIGN. The step is the one of scoutkv.h, over nodes that are processes of their own; only the model is
 * missing: keys, values and queries are made (step_keys.h) so that a given share of the pages that a step
 * selects is in the cache. One layer is enough, since all are alike; between two steps the processor's caches
 * are swept, as the other layers and the weights would. Every way of stepping has a fork of one context.
 * Ways, dense attention from this machine's memory, and plain reads take turns, round by round, so that a
 * busy minute slows all; told are medians of rounds. */
#include "common/clock.h"
#include "common/progress.h"
#include "common/size.h"
#include "decoder/cli/cli.h"
#include "decoder/cli/interrupt.h"
#include "decoder/cli/own_nodes.h"
#include "decoder/cli/step_dense.h"
#include "decoder/cli/step_report.h"
#include "decoder/kernels/probe.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    CHUNK = 1024,
    CACHED_BUDGETS = 4,
    PROBE_BYTES = 256 << 20,
    SWEEP_BYTES = 64 << 20, /* more than caches hold */
    SPARE_RAM = 256 << 20,
    MOST_HITS = 12,
    MOST_STEPS = 256,
};

struct args {
    const char *shape, *context, *hits, *trace, *nodes, *cluster;
    uint32_t layers, budget, window, rounds, steps, start, threads, trace_budget;
    uint64_t cache, seed;
    bool json;
};

#define AT(member) offsetof(struct args, member)
static const struct opt table[] = {
    {"shape", 0, OPT_CHOICE, AT(shape), NULL, "of the model: layers, heads, dims", .choices = SHAPE_NAMES},
    {"context", 0, OPT_STRING, AT(context), "N[,…]",
     "lengths in tokens, rising, multiples of 1024: 64K,256K,1M; all ways are measured at the last one"},
    {"layers", 0, OPT_U32, AT(layers), "N", "layers that are real; times are told of one", .min = 1,
     .max = 80},
    {"budget", 0, OPT_U32, AT(budget), "N", "tokens selected per KV head and layer", .min = 64,
     .max = 1 << 20},
    {"window", 0, OPT_U32, AT(window), "N", "newest tokens, attended always", .min = 64, .max = 1 << 20},
    {"cache", 0, OPT_SIZE, AT(cache), "SIZE",
     "fetched pages that are kept, of all layers; four times the budget if not given"},
    {"trace", 0, OPT_STRING, AT(trace), "FILE",
     "a trace of a trained model (scoutkv trace): hits are what its own queries select again"},
    {"trace-budget", 0, OPT_U32, AT(trace_budget), "N", "tokens selected, and of the window, there",
     .min = 16, .max = 1 << 20},
    {"hits", 0, OPT_STRING, AT(hits), "P[,…]", "per cent of selected pages that are held, for the curve"},
    {"rounds", 0, OPT_U32, AT(rounds), "N", "how often each way is measured", .min = 1, .max = SERIES_MAX},
    {"steps", 0, OPT_U32, AT(steps), "N", "of each way in a round", .min = 1, .max = MOST_STEPS},
    {"seed", 's', OPT_U64, AT(seed), "S", "of keys, values and queries"},
    {"json", 0, OPT_FLAG, AT(json), NULL, "print one object instead of the table"},
    {0},
};
static const struct opt node_table[] = {
    {"nodes", 0, OPT_STRING, AT(nodes), "LIST",
     "use these memory nodes (host:port,host:port…, @FILE or etcd://…) instead of own ones"},
    {"start", 0, OPT_U32, AT(start), "N", "nodes that are started here for this, a process each", .min = 1,
     .max = OWN_NODES_MAX},
    {"cluster", 0, OPT_STRING, AT(cluster), "NAME", "name that the nodes were started with"},
    {"threads", 't', OPT_U32, AT(threads), "N", "of scout and attention, dense too; all cores if not given",
     .min = 1, .max = 1024},
    {0},
};

/* A row's own context, and where its queries look. */
struct walker {
    skv_context *ctx;
    struct step_walk walk;
    uint64_t seed;
    size_t at; /* into the trace's hits */
    uint32_t next_id;
};

struct bench {
    const struct args *args;
    struct step_report report;
    struct step_hits trace;
    double hits[MOST_HITS];
    unsigned n_hits;
    struct own_nodes *own;
    skv_tier *tier;
    struct pool *pool;
    struct probe *probe, *sweep;
    struct step_keys *keys;
    struct step_dense *dense;
    skv_context *base[STEP_LENGTHS];
    struct walker walkers[STEP_ROWS];
    float *k, *v, *q, *out, *dense_out;
};

/* ---- mistakes ---- */

static int parse_lengths(struct bench *b, struct skv_error *err)
{
    struct step_report *r = &b->report;
    char *list = strdup(b->args->context), *rest = NULL;
    int rc = list ? 0 : skv_fail(err, -ENOMEM, "out of memory");
    for (char *item = list ? strtok_r(list, ",", &rest) : NULL; item && !rc;
         item = strtok_r(NULL, ",", &rest)) {
        uint64_t n, before = r->n_lengths ? r->tokens[r->n_lengths - 1] : 0;
        if (r->n_lengths == STEP_LENGTHS || size_parse(item, &n) || n % CHUNK || n <= before || n > 1 << 27)
            rc = skv_fail(err, -EINVAL,
                          "context: expected up to %d rising multiples of 1024, as 64K,1M, not '%s'",
                          STEP_LENGTHS, b->args->context);
        else
            r->tokens[r->n_lengths++] = n;
    }
    free(list);
    if (!rc && (!r->n_lengths || r->tokens[0] < 32 * (uint64_t)b->args->budget ||
                r->tokens[0] < 4 * (uint64_t)b->args->window))
        rc = skv_fail(
            err, -EINVAL,
            "context: it must be 32 times as long as the budget, and four times as long as the window");
    return rc;
}

static int parse_hits(struct bench *b, struct skv_error *err)
{
    const char *at = b->args->hits;
    for (bool more = true; more;) {
        char *end;
        double p = strtod(at, &end);
        if (end == at || !(p >= 0 && p < 100) || (*end && *end != ',') || b->n_hits == MOST_HITS)
            return skv_fail(err, -EINVAL,
                            "hits: expected up to %d numbers from 0 to 99, as 0,50,90, not '%s'", MOST_HITS,
                            b->args->hits);
        b->hits[b->n_hits++] = p / 100;
        more = *end == ',';
        at = end + 1;
    }
    return 0;
}

/* ---- opening ---- */

static void add_rows(struct bench *b)
{
    struct step_report *r = &b->report;
    unsigned last = r->n_lengths - 1;
    double hits = step_report_hits(r);
    for (unsigned i = 0; i <= last; i++)
        step_report_add(r, STEP_DEFAULT, i, hits);
    for (unsigned i = 0; i < b->n_hits; i++)
        if (b->hits[i] < hits || b->hits[i] > hits)
            step_report_add(r, STEP_DEFAULT, last, b->hits[i]);
    step_report_add(r, STEP_IN_SERIES, last, hits);
    if (hits < 0)
        step_report_add(r, STEP_IN_SERIES, last, 0);
    step_report_add(r, STEP_NO_CACHE, last, hits);
    step_report_add(r, STEP_ONE_STAGE, last, hits);
}

static int start(struct bench *b, struct skv_error *err)
{
    const struct args *a = b->args;
    struct step_report *r = &b->report;
    uint64_t layer = (uint64_t)step_report_dense_bytes(r, r->n_lengths - 1),
             part = layer * a->layers / a->start;
    struct own_nodes_opts o = {.n = a->start, .ram = part + part / 4 + SPARE_RAM, .cluster = a->cluster};
    int rc = a->nodes ? 0 : own_nodes_start(&o, &b->own, err);
    if (rc)
        return rc;
    struct skv_tier_opts t = {
        .nodes = a->nodes ? a->nodes : own_nodes_list(b->own), .cluster = a->cluster, .threads = a->threads};
    struct skv_tier_stats stats;
    rc = skv_tier_open(&t, &b->tier, err);
    if (rc)
        return rc;
    skv_tier_stats(b->tier, &stats);
    r->nodes = stats.nodes;
    b->pool = pool_new(a->threads);
    b->probe = probe_new(PROBE_BYTES);
    b->sweep = probe_new(SWEEP_BYTES);
    size_t rows = (size_t)CHUNK * r->shape->kv_heads * r->shape->d,
           queries = (size_t)r->shape->heads * r->shape->d;
    b->k = malloc(rows * sizeof *b->k);
    b->v = malloc(rows * sizeof *b->v);
    b->q = malloc(queries * sizeof *b->q);
    b->out = malloc(queries * sizeof *b->out);
    b->dense_out = malloc(queries * sizeof *b->dense_out);
    if (!b->pool || !b->probe || !b->sweep || !b->k || !b->v || !b->q || !b->out || !b->dense_out)
        return skv_fail(err, -ENOMEM, "out of memory");
    r->threads = pool_threads(b->pool);
    struct step_keys_opts k = {
        .shape = r->shape, .n_lengths = r->n_lengths, .pages = a->budget / SKV_PAGE, .seed = a->seed};
    memcpy(k.lengths, r->tokens, sizeof k.lengths);
    rc = step_keys_new(&k, &b->keys, err);
    return rc ? rc : step_dense_new(r->shape, r->tokens[r->n_lengths - 1], &b->dense, err);
}

/* What a context of all layers would keep of pages, for those that are real. */
static uint64_t cache_bytes(const struct bench *b)
{
    return b->report.cache / b->report.shape->layers * b->args->layers;
}

static int open_context(struct bench *b, skv_context **out, struct skv_error *err)
{
    const struct step_report *r = &b->report;
    struct skv_layer layers[80];
    struct skv_model m = {.n_layers = b->args->layers, .layers = layers};
    struct skv_context_opts o;
    for (uint32_t i = 0; i < b->args->layers; i++)
        layers[i] = shape_layer(r->shape);
    snprintf((char *)m.fingerprint, sizeof m.fingerprint, "%s", r->shape->name);
    skv_context_defaults(&o);
    o.decode.budget = b->args->budget;
    o.window = b->args->window;
    o.seal_lag = 0;
    o.cache_bytes = cache_bytes(b);
    o.salt = NULL;
    char recipe[64];
    snprintf(recipe, sizeof recipe, "bench step %" PRIu64 " %" PRIu64, b->args->seed, clock_wall_ns());
    o.recipe = recipe; /* no other run's blocks are taken for these */
    return skv_context_open(b->tier, &m, &o, out, err);
}

/* Fills the longest context; the shorter ones are forks of it on its way. */
static int fill(struct bench *b, struct skv_error *err)
{
    struct step_report *r = &b->report;
    uint64_t all = r->tokens[r->n_lengths - 1];
    uint32_t ids[CHUNK];
    skv_context *ctx = NULL;
    struct progress bar;
    int rc = open_context(b, &ctx, err);
    progress_begin(&bar, "fill", "tokens", all);
    for (uint64_t at = 0, i = 0; at < all && !rc; at += CHUNK) {
        for (uint32_t j = 0; j < CHUNK; j++)
            ids[j] = (uint32_t)(at + j);
        step_keys_make(b->keys, at, CHUNK, b->pool, b->k, b->v);
        step_dense_put(b->dense, b->pool, at, CHUNK, b->k, b->v);
        rc = skv_append(ctx, SKV_PREFILL, CHUNK, ids, NULL, err);
        for (uint32_t l = 0; l < b->args->layers && !rc; l++)
            rc = skv_put(ctx, l, b->k, b->v, err);
        if (!rc && interrupted())
            rc = skv_fail(err, -EINTR, "interrupted");
        if (!rc && at + CHUNK == r->tokens[i] && i + 1 < r->n_lengths)
            rc = skv_context_fork(ctx, &b->base[i++], err);
        progress_update(&bar, at);
    }
    r->fill_s = progress_seconds(&bar);
    progress_end(&bar);
    b->base[r->n_lengths - 1] = ctx;
    return rc ? rc : skv_flush(ctx, err);
}

static int fork_rows(struct bench *b, struct skv_error *err)
{
    const struct step_report *r = &b->report;
    int rc = 0;
    for (size_t i = 0; i < r->n && !rc; i++) {
        const struct step_row *row = &r->rows[i];
        struct walker *w = &b->walkers[i];
        struct skv_context_opts o;
        skv_context_defaults(&o);
        o.decode.budget = b->args->budget;
        if (row->way == STEP_ONE_STAGE)
            rc = skv_policy_parse("cascade:candidates=-1", &o.decode, err);
        if (!rc)
            rc = skv_context_fork(b->base[row->length], &w->ctx, err);
        if (!rc)
            rc =
                skv_context_configure(w->ctx, &o.decode, row->way == STEP_NO_CACHE ? 0 : cache_bytes(b), err);
        if (rc)
            break;
        skv_context_in_series(w->ctx, row->way == STEP_IN_SERIES);
        w->seed = b->args->seed + i + 1;
        w->walk = step_walk_begin(b->keys, row->length, w->seed);
        w->next_id = (uint32_t)(i + 1) << 24;
    }
    return rc;
}

/* ---- measuring ---- */

static void move_on(struct bench *b, const struct step_row *row, struct walker *w)
{
    double hits = row->hits;
    if (hits < 0) {
        hits = (double)b->trace.share[w->at];
        w->at = (w->at + 1) % b->trace.n;
    }
    step_walk_on(b->keys, &w->walk, 1 - hits);
    step_keys_query(b->keys, &w->walk, b->q);
    step_keys_new_token(b->keys, &w->seed, b->k, b->v);
}

/* One step of all real layers; ms of one of them. */
static int step(struct bench *b, struct step_row *row, struct walker *w, double ms[STEP_PARTS],
                struct skv_error *err)
{
    struct skv_stats was, is;
    struct skv_attend_item item = {.ctx = w->ctx, .q = b->q, .out = b->out};
    double n = b->args->layers;
    move_on(b, row, w);
    skv_context_stats(w->ctx, &was);
    uint64_t t0 = clock_ns();
    int rc = skv_append(w->ctx, SKV_DECODE, 1, &w->next_id, NULL, err);
    for (uint32_t l = 0; l < b->args->layers && !rc; l++) {
        skv_attend *a;
        rc = skv_put(w->ctx, l, b->k, b->v, err);
        if (!rc)
            rc = skv_attend_begin(b->tier, l, &item, 1, &a, err);
        if (!rc)
            rc = skv_attend_finish(a, err);
    }
    double whole = (double)(clock_ns() - t0);
    skv_context_stats(w->ctx, &is);
    w->next_id++;
    ms[STEP_WHOLE] = whole / n / 1e6;
    ms[STEP_SCOUT] = (double)(is.scout_ns - was.scout_ns) / n / 1e6;
    ms[STEP_WAIT] = (double)(is.wait_ns - was.wait_ns) / n / 1e6;
    ms[STEP_MERGE] = (double)(is.merge_ns - was.merge_ns) / n / 1e6;
    ms[STEP_ATTENTION] = (double)(is.attend_ns - was.attend_ns) / n / 1e6 - ms[STEP_MERGE];
    ms[STEP_UNSCOUTED] = ms[STEP_WHOLE] - ms[STEP_SCOUT];
    ms[STEP_REST] = ms[STEP_UNSCOUTED] - ms[STEP_WAIT] - ms[STEP_ATTENTION] - ms[STEP_MERGE];
    row->layers += b->args->layers;
    row->wanted += is.pages_wanted - was.pages_wanted;
    row->held += is.pages_held - was.pages_held;
    row->fetched += is.bytes_fetched - was.bytes_fetched;
    row->scout_bytes += is.scout_bytes - was.scout_bytes;
    if (row->way == STEP_IN_SERIES)
        hist_add(&row->fetch, (is.wait_ns - was.wait_ns) / b->args->layers);
    if (!rc && interrupted())
        rc = skv_fail(err, -EINTR, "interrupted");
    return rc;
}

/* Steps that are not counted fill the cache. */
static int warm_up(struct bench *b, struct step_row *row, struct walker *w, struct skv_error *err)
{
    double ms[STEP_PARTS];
    int rc = 0;
    for (unsigned i = 0; i < 2 * CACHED_BUDGETS && !rc; i++)
        rc = step(b, row, w, ms, err);
    row->layers = row->wanted = row->held = row->fetched = row->scout_bytes = 0;
    memset(&row->fetch, 0, sizeof row->fetch);
    return rc;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int measure_row(struct bench *b, struct step_row *row, struct walker *w, struct skv_error *err)
{
    double all[STEP_PARTS][MOST_STEPS], ms[STEP_PARTS];
    uint32_t n = b->args->steps;
    int rc = 0;
    for (uint32_t i = 0; i < n && !rc; i++) {
        probe_read(b->sweep, b->pool);
        rc = step(b, row, w, ms, err);
        for (unsigned p = 0; p < STEP_PARTS; p++)
            all[p][i] = ms[p];
    }
    for (unsigned p = 0; p < STEP_PARTS && !rc; p++) {
        qsort(all[p], n, sizeof *all[p], by_size);
        series_note(&row->part[p], (all[p][(n - 1) / 2] + all[p][n / 2]) / 2);
    }
    return rc;
}

/* Dense attention with the last query of the default way at this length, whose output is still here. */
static int measure_dense(struct bench *b, unsigned length, struct step_row *row, struct skv_error *err)
{
    uint64_t t0 = clock_ns();
    int rc = step_dense_attend(b->dense, b->pool, b->report.tokens[length], b->q, b->dense_out, err);
    series_note(&b->report.dense[length], (double)(clock_ns() - t0) / 1e6);
    double apart = 0, size = 0;
    for (size_t i = 0; i < (size_t)b->report.shape->heads * b->report.shape->d && !rc; i++) {
        double x = (double)b->dense_out[i];
        apart += ((double)b->out[i] - x) * ((double)b->out[i] - x);
        size += x * x;
    }
    row->error = sqrt(apart / size);
    return rc;
}

static int measure(struct bench *b, struct skv_error *err)
{
    struct step_report *r = &b->report;
    struct progress bar;
    int rc = 0;
    for (size_t i = 0; i < r->n && !rc; i++)
        rc = warm_up(b, &r->rows[i], &b->walkers[i], err);
    progress_begin(&bar, "steps", "rounds", r->rounds);
    for (uint32_t round = 0; round < r->rounds && !rc; round++) {
        for (size_t i = 0; i < r->n && !rc; i++) {
            rc = measure_row(b, &r->rows[i], &b->walkers[i], err);
            if (!rc && i < r->n_lengths)
                rc = measure_dense(b, (unsigned)i, &r->rows[i], err);
        }
        series_note(&r->read_gbps, probe_read(b->probe, b->pool));
        progress_update(&bar, round + 1);
    }
    progress_end(&bar);
    return rc;
}

/* ---- the command ---- */

static int bench(struct bench *b, struct skv_error *err)
{
    const struct args *a = b->args;
    int rc = 0;
    if (a->trace) {
        rc = step_hits_read(a->trace, a->trace_budget, a->trace_budget, &b->trace, err);
        b->report.trace = &b->trace;
    }
    if (!rc)
        rc = start(b, err);
    if (!rc)
        rc = fill(b, err);
    if (rc)
        return rc;
    add_rows(b);
    rc = fork_rows(b, err);
    if (!rc)
        rc = measure(b, err);
    if (rc)
        return rc;
    if (a->json)
        return step_report_json(&b->report, err);
    step_report_print(&b->report);
    return fflush(stdout) ? skv_fail(err, -errno, "cannot write: %s", strerror(errno)) : 0;
}

static void close_bench(struct bench *b)
{
    for (size_t i = 0; i < STEP_ROWS; i++)
        if (b->walkers[i].ctx)
            skv_context_close(b->walkers[i].ctx);
    for (unsigned i = 0; i < STEP_LENGTHS; i++)
        if (b->base[i])
            skv_context_close(b->base[i]);
    if (b->tier)
        skv_tier_close(b->tier);
    own_nodes_stop(b->own);
    if (b->pool)
        pool_free(b->pool);
    probe_free(b->probe);
    probe_free(b->sweep);
    step_keys_free(b->keys);
    step_dense_free(b->dense);
    step_hits_free(&b->trace);
    free(b->k);
    free(b->v);
    free(b->q);
    free(b->out);
    free(b->dense_out);
    free(b);
}

static const char about[] =
    "Measures a decode step of a model of this shape over memory nodes, beside dense attention from this "
    "machine's memory, at\n"
    "several lengths of the context, with the same budget. One layer (or --layers) is real: its keys and "
    "values "
    "lie on nodes\n"
    "that are started for this, and once more here, for dense; time and bytes are told of one layer, and of "
    "all "
    "as so many times\n"
    "that. There are no weights: a step is its attention. Parts of it: scout (choosing pages by their "
    "representatives), wait (for\n"
    "pages), attention, merge (folding what pages gave), rest.\n"
    "Keys are random, and such that a query decides which pages are selected; a share of them, the hits, was "
    "selected before\n"
    "and is in the cache. How many are is shown as a curve, and with --trace as it is for the queries of a "
    "trained model.\n"
    "Besides: without overlap (nothing is computed while pages travel), without a cache, and with all pages "
    "judged in one stage.\n"
    "A million tokens of an 8B shape need 4 GiB for the nodes, as much for dense, and a minute or two to "
    "fill.";

int cmd_bench_step(int argc, char **argv)
{
    struct args a = {.shape = "llama-3-8b",
                     .context = "64K,256K,1M",
                     .hits = "0,50,75,90,95,99",
                     .cluster = "default",
                     .layers = 1,
                     .budget = 2048,
                     .window = 1024,
                     .trace_budget = 128,
                     .rounds = 7,
                     .steps = 16,
                     .start = 3,
                     .seed = 1};
    struct opt_memory mem = {0};
    struct skv_error err = {0};
    const struct opt_group groups[] = {{"Options", table, &a}, {"Memory nodes", node_table, &a}, {0}};
    const struct opt_command cmd = {"scoutkv bench step", "[options]", about,
                                    "  scoutkv bench step\n"
                                    "  scoutkv bench step --context 64K                     # quick\n"
                                    "  scoutkv trace -m recall3m.gguf -f book.txt -n 8192 -o book.kvt; "
                                    "scoutkv bench step --trace book.kvt\n"
                                    "  scoutkv bench step --shape llama-3-70b --context 64K,256K --json",
                                    groups};
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    struct bench *b = calloc(1, sizeof *b);
    if (!b)
        return 1;
    b->args = &a;
    struct step_report *r = &b->report;
    r->shape = shape_named(a.shape);
    r->real_layers = a.layers;
    r->budget = a.budget;
    r->window = a.window;
    r->rounds = a.rounds;
    r->steps = a.steps;
    r->cache = a.cache ? a.cache : (uint64_t)CACHED_BUDGETS * a.budget * shape_token_bytes(r->shape);
    rc = parse_lengths(b, &err);
    if (!rc)
        rc = parse_hits(b, &err);
    if (!rc && a.nodes && options_typed(&cmd, &mem, "start"))
        rc = skv_fail(&err, -EINVAL, "nodes, start: give one of them");
    if (!rc && a.budget % SKV_PAGE)
        rc = skv_fail(&err, -EINVAL, "budget: expected a multiple of 16, not %u", a.budget);
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
