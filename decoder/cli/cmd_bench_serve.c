/* cmd_bench_serve.c: `scoutkv bench serve`: what many streams at once get of one server, beside what one
 * gets, and beside what the machine allows.
 *
 * DESIGN. A server and a memory node as processes of their own, asked over HTTP like any other. Numbers of
 * streams are measured in turns, round by round, and their speed is compared with one stream's of the same
 * round, so that a busy minute slows both. What can be hoped for: one stream is bound by reading the weights,
 * and further ones come for nothing until arithmetic is the limit; how many that are (the balance) follows
 * from the machine's arithmetic and memory, probed in each round while the server is idle, and from the
 * weights' bytes. */
#include "common/progress.h"
#include "common/size.h"
#include "decoder/cli/cli.h"
#include "decoder/cli/interrupt.h"
#include "decoder/cli/own_nodes.h"
#include "decoder/cli/own_server.h"
#include "decoder/cli/series.h"
#include "decoder/cli/serve_load.h"
#include "decoder/kernels/probe.h"
#include "decoder/model/gguf.h"
#include "decoder/model/model.h"
#include "decoder/cli/json_out.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_COUNTS = 8, MOST_STREAMS = 256, PROBE_BYTES = 256 << 20, NODE_RAM = 1 << 30, PROBES = 5 };

struct args {
    const char *model, *streams, *nodes;
    uint32_t prompt, tokens, rounds, threads;
    uint64_t seed;
    bool json;
};

#define AT(member) offsetof(struct args, member)
static const struct opt table[] = {
    {"model", 'm', OPT_STRING, AT(model), "FILE", "GGUF model", .required = true},
    {"streams", 0, OPT_STRING, AT(streams), "N[,…]",
     "how many at once; one is always measured, to compare with"},
    {"prompt", 0, OPT_U32, AT(prompt), "TOKENS", "of each prompt", .min = 1, .max = 1 << 20},
    {"tokens", 'n', OPT_U32, AT(tokens), "N", "of each answer; enough that all go on together for a while",
     .min = 8, .max = 1 << 20},
    {"rounds", 0, OPT_U32, AT(rounds), "N", "how often each is measured", .min = 1, .max = SERIES_MAX},
    {"threads", 't', OPT_U32, AT(threads), "N", "of the server; all cores if not given", .min = 1,
     .max = 1024},
    {"nodes", 0, OPT_STRING, AT(nodes), "LIST", "memory nodes; one is started if not given"},
    {"seed", 's', OPT_U64, AT(seed), "S", "of prompts and draws"},
    {"json", 0, OPT_FLAG, AT(json), NULL, "print one object instead of the table"},
    {0},
};

struct row {
    unsigned streams;
    struct series speed, ratio, share; /* tokens a second; of one stream's; of what can be hoped for */
    struct series first_p50, first_max;
    struct hist gaps; /* of all rounds */
    uint32_t apart;   /* rounds in which they were never all under way */
};

struct bench {
    const struct args *args;
    struct model *model;
    double bytes, flops; /* of a step: weights that are read, multiplications and additions of a stream */
    struct own_nodes *nodes;
    struct own_server *server;
    struct pool *pool;
    struct probe *memory;
    struct row *rows; /* (n_rows), the first is of one stream */
    unsigned n_rows;
    struct series read, peak, balance;
    char *text[MOST_STREAMS]; /* each stream's first answer */
    size_t text_len[MOST_STREAMS];
    uint64_t compared, differed; /* answers: with that one */
};

/* ---- the model's part ---- */

static void add_matrix(struct bench *b, const struct matrix *m)
{
    b->bytes += (double)m->rows * (double)m->row_bytes;
    b->flops += 2.0 * m->rows * m->cols;
}

static void weigh(struct bench *b)
{
    const struct model *m = b->model;
    for (uint32_t i = 0; i < m->params.n_layers; i++) {
        const struct layer_weights *l = &m->layers[i];
        const struct matrix *all[] = {&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down};
        for (size_t j = 0; j < sizeof all / sizeof *all; j++)
            add_matrix(b, all[j]);
    }
    add_matrix(b, &m->output);
}

/* ---- the server ---- */

static int start(struct bench *b, struct skv_error *err)
{
    const struct args *a = b->args;
    char context[24], parallel[16], threads[16];
    snprintf(context, sizeof context, "%" PRIu64, (uint64_t)a->prompt + a->tokens + 1);
    snprintf(parallel, sizeof parallel, "%u", MOST_STREAMS);
    snprintf(threads, sizeof threads, "%u", a->threads);
    int rc = a->nodes
                 ? 0
                 : own_nodes_start(&(struct own_nodes_opts){.n = 1, .ram = NODE_RAM, .cluster = "default"},
                                   &b->nodes, err);
    if (rc)
        return rc;
    const char *nodes = a->nodes ? a->nodes : own_nodes_list(b->nodes);
    char *args[] = {"-m",
                    (char *)a->model,
                    "-c",
                    context,
                    "--parallel",
                    parallel,
                    "--nodes",
                    (char *)nodes,
                    "--log-level",
                    "warn",
                    a->threads ? "--threads" : NULL,
                    threads,
                    NULL};
    return own_server_start(args, &b->server, err);
}

/* ---- measuring ---- */

/* What a stream says must not depend on how many there are. */
static int compare(struct bench *b, const struct serve_stream *s, unsigned n, struct skv_error *err)
{
    for (unsigned i = 0; i < n; i++) {
        if (!b->text[i]) {
            if (!(b->text[i] = malloc(s[i].len + 1)))
                return skv_fail(err, -ENOMEM, "out of memory");
            memcpy(b->text[i], s[i].text, s[i].len);
            b->text_len[i] = s[i].len;
            continue;
        }
        b->compared++;
        b->differed += s[i].len != b->text_len[i] || memcmp(s[i].text, b->text[i], s[i].len) != 0;
    }
    return 0;
}

static int measure_row(struct bench *b, struct row *row, double *tokens_per_s, struct skv_error *err)
{
    const struct args *a = b->args;
    struct serve_load_opts o = {.url = own_server_url(b->server),
                                .prompt = a->prompt,
                                .tokens = a->tokens,
                                .vocab = b->model->params.vocab,
                                .seed = a->seed};
    struct serve_stream *s = calloc(row->streams, sizeof *s);
    struct serve_speed *speed = calloc(1, sizeof *speed);
    int rc = s && speed ? serve_load_run(&o, s, row->streams, err) : skv_fail(err, -ENOMEM, "out of memory");
    if (!rc) {
        serve_speed_of(s, row->streams, speed);
        *tokens_per_s = speed->tokens_per_s;
        series_note(&row->first_p50, speed->first_p50_ms);
        series_note(&row->first_max, speed->first_max_ms);
        hist_merge(&row->gaps, &speed->gaps);
        rc = compare(b, s, row->streams, err);
    }
    for (unsigned i = 0; s && i < row->streams; i++)
        serve_stream_free(&s[i]);
    free(speed);
    free(s);
    return rc;
}

/* Limits: the best of several probes of either. */
static void probe(struct bench *b, double *balance)
{
    double read = 0, peak = 0;
    for (unsigned i = 0; i < PROBES; i++) {
        read = fmax(read, probe_read(b->memory, b->pool));
        peak = fmax(peak, probe_gflops(b->pool));
    }
    series_note(&b->read, read);
    series_note(&b->peak, peak);
    *balance = peak / read * b->bytes / b->flops;
    series_note(&b->balance, *balance);
}

static int measure(struct bench *b, struct skv_error *err)
{
    struct progress bar;
    uint64_t done = 0;
    double one = NAN, speed = NAN, balance = NAN;
    int rc = 0;
    progress_begin(&bar, "measure", "runs", (uint64_t)b->args->rounds * b->n_rows);
    for (uint32_t round = 0; round < b->args->rounds && !rc; round++) {
        probe(b, &balance);
        for (unsigned i = 0; i < b->n_rows && !rc; i++) {
            struct row *r = &b->rows[i];
            rc = measure_row(b, r, &speed, err);
            one = i == 0 ? speed : one;
            progress_update(&bar, ++done);
            if (rc || isnan(speed) || isnan(one)) {
                r->apart += !rc;
                continue;
            }
            series_note(&r->speed, speed);
            series_note(&r->ratio, speed / one);
            series_note(&r->share, speed / one / fmin(r->streams, balance));
        }
    }
    progress_end(&bar);
    return rc;
}

/* ---- telling ---- */

static double gap_ms(const struct row *r, double q)
{
    return (double)hist_quantile(&r->gaps, q) * 1e-6;
}

static double worst_gap(const struct row *r)
{
    return gap_ms(r, 0.5) > 0 ? (double)r->gaps.max * 1e-6 / gap_ms(r, 0.5) : NAN;
}

static void print_table(const struct bench *b)
{
    char size[32];
    printf("streams of %u tokens behind prompts of %u, at once over HTTP; weights %s (%s) a step;\n"
           "median (lowest … highest) of %u rounds in turns\n"
           "reads %.1f GB/s, arithmetic %.1f GFLOP/s: the balance for these weights is %.1f streams\n\n",
           b->args->tokens, b->args->prompt, size_format(size, sizeof size, (uint64_t)b->bytes),
           ggml_type_name(b->model->layers[0].q.type), b->args->rounds, series_middle(&b->read).median,
           series_middle(&b->peak).median, series_middle(&b->balance).median);
    printf("%7s  %-26s %-22s %-22s  %28s  %16s\n", "streams", "tokens/s", "÷ one stream",
           "÷ min(streams, balance)", "ms between tokens", "ms to the first");
    printf("%7s  %-26s %-22s %-22s %7s %7s %7s %8s %8s %8s\n", "", "", "", "", "p50", "p99", "max", "max÷p50",
           "p50", "max");
    for (unsigned i = 0; i < b->n_rows; i++) {
        const struct row *r = &b->rows[i];
        struct middle v = series_middle(&r->speed), ratio = series_middle(&r->ratio),
                      share = series_middle(&r->share);
        printf("%7u  %7.1f (%.1f … %.1f) %*s%5.2f (%.2f … %.2f)    %5.2f (%.2f … %.2f)      %7.2f %7.2f "
               "%7.2f %8.1f %8.1f "
               "%8.1f\n",
               r->streams, v.median, v.low, v.high, 2, "", ratio.median, ratio.low, ratio.high, share.median,
               share.low, share.high, gap_ms(r, 0.5), gap_ms(r, 0.99), (double)r->gaps.max * 1e-6,
               worst_gap(r), series_middle(&r->first_p50).median, series_middle(&r->first_max).median);
    }
    for (unsigned i = 0; i < b->n_rows; i++)
        if (b->rows[i].apart)
            printf("\nin %u of the rounds %u streams were never all under way at once: the first ended "
                   "before the last "
                   "prompt was in; give more --tokens\n",
                   b->rows[i].apart, b->rows[i].streams);
    printf("\nanswers that differed from the same stream's first one: %" PRIu64 " of %" PRIu64 "\n",
           b->differed, b->compared);
}

static json_t *row_json(const struct row *r)
{
    json_t *o = json_pack("{s:I}", "streams", (json_int_t)r->streams);
    series_set(o, "tokens_per_s", series_middle(&r->speed));
    series_set(o, "ratio", series_middle(&r->ratio));
    series_set(o, "share", series_middle(&r->share));
    series_set(o, "first_p50_ms", series_middle(&r->first_p50));
    series_set(o, "first_max_ms", series_middle(&r->first_max));
    json_object_set_new(o, "gap_p50_ms", series_number(gap_ms(r, 0.5)));
    json_object_set_new(o, "gap_p99_ms", series_number(gap_ms(r, 0.99)));
    json_object_set_new(o, "gap_max_ms", series_number((double)r->gaps.max * 1e-6));
    json_object_set_new(o, "gap_max_over_median", series_number(worst_gap(r)));
    return o;
}

static int print_json(const struct bench *b, struct skv_error *err)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < b->n_rows; i++)
        json_array_append_new(list, row_json(&b->rows[i]));
    json_t *o = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "weights",
                          ggml_type_name(b->model->layers[0].q.type), "weight_bytes", (json_int_t)b->bytes,
                          "prompt", (json_int_t)b->args->prompt, "tokens", (json_int_t)b->args->tokens,
                          "rounds", (json_int_t)b->args->rounds, "answers_compared", (json_int_t)b->compared,
                          "answers_differed", (json_int_t)b->differed, "rows", list);
    if (o) {
        series_set(o, "read_gbps", series_middle(&b->read));
        series_set(o, "peak_gflops", series_middle(&b->peak));
        series_set(o, "balance", series_middle(&b->balance));
    }
    return json_out(o, err);
}

/* ---- the command ---- */

static int parse(struct bench *b, struct skv_error *err)
{
    const char *at = b->args->streams;
    b->rows[b->n_rows++].streams = 1;
    for (bool more = true; more;) {
        char *end;
        unsigned long n = strtoul(at, &end, 10);
        if (end == at || n < 1 || n > MOST_STREAMS || (*end && *end != ',') || b->n_rows > MOST_COUNTS)
            return skv_fail(err, -EINVAL, "streams: expected up to %d numbers from 1 to %d, not '%s'",
                            MOST_COUNTS, MOST_STREAMS, b->args->streams);
        if (n > 1)
            b->rows[b->n_rows++].streams = (unsigned)n;
        more = *end == ',';
        at = end + 1;
    }
    return 0;
}

static int bench(struct bench *b, struct skv_error *err)
{
    int rc = model_open(b->args->model, &b->model, err);
    if (rc)
        return rc;
    weigh(b);
    if (!(b->pool = pool_new(b->args->threads)) || !(b->memory = probe_new(PROBE_BYTES)))
        return skv_fail(err, -ENOMEM, "out of memory");
    rc = start(b, err);
    if (!rc)
        rc = measure(b, err);
    if (rc)
        return rc;
    if (b->args->json)
        rc = print_json(b, err);
    else
        print_table(b);
    if (!rc && b->differed)
        rc =
            skv_fail(err, -EILSEQ, "%" PRIu64 " answers depended on what was decoded with them", b->differed);
    return rc;
}

static void close_bench(struct bench *b)
{
    own_server_stop(b->server);
    own_nodes_stop(b->nodes);
    probe_free(b->memory);
    pool_free(b->pool);
    model_close(b->model);
    for (unsigned i = 0; i < MOST_STREAMS; i++)
        free(b->text[i]);
    free(b->rows);
    free(b);
}

static const char about[] = "Starts a server and a memory node for the time of the bench, and asks it for "
                            "streams of completions over HTTP, "
                            "several at\n"
                            "once. Tells how many tokens a second all streams together get, how evenly they "
                            "come, how long the first one "
                            "takes, and how\n"
                            "the speed grows with the streams, beside what can be hoped for: one stream is "
                            "bound by reading the weights from "
                            "memory, so\n"
                            "the speed grows with the streams until arithmetic is the limit (the balance, "
                            "for weights beyond the caches). "
                            "Speed and\n"
                            "gaps are of the time in which all streams were under way. An answer that "
                            "depends on the others makes it fail.";

int cmd_bench_serve(int argc, char **argv)
{
    struct args a = {.streams = "1,4,16,64", .prompt = 16, .tokens = 192, .rounds = 3, .seed = 1};
    struct opt_memory mem = {0};
    struct skv_error err = {0};
    const struct opt_group groups[] = {{"Options", table, &a}, {0}};
    const struct opt_command cmd = {"scoutkv bench serve", "-m MODEL [options]", about,
                                    "  scoutkv make-model random -o 300m.gguf --layers 10 --dim 1024 --heads "
                                    "16 --kv-heads 4 --ff 4096 --vocab 8192\n"
                                    "  scoutkv bench serve -m 300m.gguf\n"
                                    "  scoutkv bench serve -m small.gguf --streams 64 --prompt 2048 --json",
                                    groups};
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    struct bench *b = calloc(1, sizeof *b);
    if (!b || !(b->rows = calloc(MOST_COUNTS + 1, sizeof *b->rows))) {
        free(b);
        return 1;
    }
    b->args = &a;
    if (parse(b, &err)) {
        rc = options_mistake(&cmd, "%s", err.text);
    } else {
        interrupt_catch();
        rc = bench(b, &err);
        rc = interrupted() ? EXIT_INTERRUPTED : rc ? cli_fail(cmd.name, &err) : 0;
    }
    close_bench(b);
    options_free(&mem);
    return rc;
}
