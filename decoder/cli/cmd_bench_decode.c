/* cmd_bench_decode.c: `scoutkv bench decode`: decoding at a short context, where the weights are what is
 * read.
 *
 * DESIGN. Each token takes every matrix once, and a short context hardly adds to it: tokens a second can't be
 * more than what memory reads a second, divided by the weights. Both are measured in turns, on the same
 * threads; a round goes back to where the one before began, so that all are of the same length. */
#include "common/clock.h"
#include "common/progress.h"
#include "common/size.h"
#include "decoder/cli/cli.h"
#include "decoder/cli/engine.h"
#include "decoder/cli/interrupt.h"
#include "decoder/cli/peer_llama.h"
#include "decoder/cli/series.h"
#include "decoder/kernels/probe.h"
#include "decoder/cli/json_out.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

enum { PROBE_BYTES = 256 << 20, PROBE_PASSES = 3 };

struct args {
    const char *model, *llama, *activations;
    uint32_t tokens, steps, rounds, threads;
    bool json;
};

#define AT(member) offsetof(struct args, member)
static const struct opt table[] = {
    {"model", 'm', OPT_STRING, AT(model), "FILE",
     "GGUF model; one larger than the last-level cache tells most", .required = true},
    {"tokens", 0, OPT_U32, AT(tokens), "N", "length of the context where rounds begin", .min = 1,
     .max = 1 << 20},
    {"steps", 'n', OPT_U32, AT(steps), "N", "tokens decoded in a round", .min = 1, .max = 1 << 16},
    {"rounds", 0, OPT_U32, AT(rounds), "N", "how often it is measured", .min = 1, .max = SERIES_MAX},
    {"threads", 't', OPT_U32, AT(threads), "N", "threads; 0: all cores", .max = 1024},
    {"activations", 0, OPT_CHOICE, AT(activations), NULL, "ours, as of scoutkv run; llama.cpp's have 8 bits",
     .choices = "exact|int8"},
    {"llama", 0, OPT_STRING, AT(llama), "DIR",
     "where deploy/peers --llama DIR put llama.cpp: it decodes too, in turns"},
    {"json", 0, OPT_FLAG, AT(json), NULL, "print one object instead of the table"},
    {0},
};

struct bench {
    const struct args *args;
    struct kv_options kv;
    struct engine engine;
    skv_context *ctx;
    struct session *session;
    struct pool *pool;
    struct probe *probe;
    uint32_t *ids;
    float *logits;
    uint64_t weight_bytes; /* that a token reads */
    struct peer_llama llama;
    const char *missing; /* of llama.cpp */
    struct series tokens_s, gbps, read, share, llama_tokens_s;
};

/* ---- measuring ---- */

static uint64_t matrix_bytes(const struct matrix *m)
{
    return (uint64_t)m->rows * m->row_bytes;
}

/* All matrices that a token is multiplied with; of the embedding it reads a row. */
static uint64_t weights_of(const struct model *m)
{
    uint64_t sum = matrix_bytes(&m->output);
    for (uint32_t i = 0; i < m->params.n_layers; i++) {
        const struct layer_weights *l = &m->layers[i];
        const struct matrix *all[] = {&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down};
        for (size_t j = 0; j < sizeof all / sizeof *all; j++)
            sum += matrix_bytes(all[j]);
    }
    return sum;
}

static int make_context(struct bench *b, struct skv_error *err)
{
    const struct args *a = b->args;
    struct skv_context_opts opts;
    size_t n = (size_t)a->tokens + a->steps;
    b->ids = malloc(n * sizeof *b->ids);
    b->logits = malloc(b->engine.model->params.vocab * sizeof *b->logits);
    b->pool = pool_new(a->threads);
    b->probe = probe_new(PROBE_BYTES);
    if (!b->ids || !b->logits || !b->pool || !b->probe)
        return skv_fail(err, -ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++) /* what the ids are is of no matter */
        b->ids[i] = (uint32_t)(i * 2654435761u % b->engine.model->params.vocab);
    int rc = engine_context_opts(&b->engine, &opts, err);
    if (!rc)
        rc = engine_context(&b->engine, &opts, &b->ctx, &b->session, err);
    if (!rc)
        rc = engine_prefill(&b->engine, b->session, "prefill", b->ids, a->tokens, NULL, NULL, err);
    if (!rc && a->llama)
        rc = peer_llama_open(&b->llama, a->llama, a->model, a->tokens, a->steps, pool_threads(b->pool),
                             &b->missing, err);
    return rc;
}

static int steps(struct bench *b, struct skv_error *err)
{
    int rc = 0;
    for (uint32_t i = 0; i < b->args->steps && !rc; i++) {
        rc = session_eval(b->session, SKV_DECODE, &b->ids[b->args->tokens + i], 1, b->logits, false, err);
        if (!rc && interrupted())
            rc = skv_fail(err, -EINTR, "interrupted");
    }
    return rc;
}

static int measure_round(struct bench *b, bool count, struct skv_error *err)
{
    double read = 0;
    for (int i = 0; i < PROBE_PASSES; i++) {
        double gbps = probe_read(b->probe, b->pool);
        read = gbps > read ? gbps : read;
    }
    uint64_t start = clock_ns();
    int rc = steps(b, err);
    double seconds = (double)(clock_ns() - start) / 1e9, gb = (double)b->weight_bytes * b->args->steps / 1e9;
    if (rc == 0)
        rc = session_truncate(b->session, b->args->tokens, err);
    double theirs = 0;
    if (rc == 0 && b->llama.fd)
        rc = peer_llama_run(&b->llama, &theirs, err);
    if (rc || !count)
        return rc;
    if (b->llama.fd)
        series_note(&b->llama_tokens_s, b->args->steps / theirs);
    series_note(&b->tokens_s, b->args->steps / seconds);
    series_note(&b->gbps, gb / seconds);
    series_note(&b->read, read);
    series_note(&b->share, gb / seconds / read);
    return 0;
}

static int measure(struct bench *b, struct skv_error *err)
{
    struct progress bar;
    progress_begin(&bar, "decode", "rounds", b->args->rounds);
    int rc = measure_round(b, false, err); /* warms up */
    for (uint32_t round = 0; round < b->args->rounds && !rc; round++) {
        rc = measure_round(b, true, err);
        progress_update(&bar, round + 1);
    }
    progress_end(&bar);
    return rc;
}

/* ---- telling ---- */

static void print_row(const char *what, const struct series *s)
{
    struct middle m = series_middle(s);
    printf("%-36s %8.2f (%.2f … %.2f)\n", what, m.median, m.low, m.high);
}

static void print_table(const struct bench *b)
{
    char size[32];
    printf("%" PRIu32 " tokens decoded behind %" PRIu32
           ", dense, threads: %u (isa %s); a token reads %s of weights;\n"
           "median (lowest … highest) of %" PRIu32 " rounds\n\n",
           b->args->steps, b->args->tokens, pool_threads(b->pool), skv_isa(),
           size_format(size, sizeof size, b->weight_bytes), b->args->rounds);
    print_row("tokens a second", &b->tokens_s);
    print_row("weights, GB/s", &b->gbps);
    print_row("memory reads, GB/s", &b->read);
    print_row("share of what memory gives", &b->share);
    if (b->missing)
        printf("llama.cpp is absent: %s is not installed (deploy/peers --llama DIR installs it)\n",
               b->missing);
    if (!b->llama.fd)
        return;
    struct middle m = series_ratio(&b->tokens_s, &b->llama_tokens_s);
    print_row("llama.cpp, tokens a second", &b->llama_tokens_s);
    printf("%-36s %8.2f (%.2f … %.2f)\n", "ours / llama.cpp", m.median, m.low, m.high);
}

static int print_json(const struct bench *b, struct skv_error *err)
{
    json_t *o = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I}", "isa", skv_isa(), "weight_bytes",
                          (json_int_t)b->weight_bytes, "threads", (json_int_t)pool_threads(b->pool), "tokens",
                          (json_int_t)b->args->tokens, "steps", (json_int_t)b->args->steps, "rounds",
                          (json_int_t)b->args->rounds);
    series_set(o, "tokens_per_second", series_middle(&b->tokens_s));
    series_set(o, "weights_gbps", series_middle(&b->gbps));
    series_set(o, "read_gbps", series_middle(&b->read));
    series_set(o, "share", series_middle(&b->share));
    if (b->llama.fd) {
        series_set(o, "llama_tokens_per_second", series_middle(&b->llama_tokens_s));
        series_set(o, "ratio_llama", series_ratio(&b->tokens_s, &b->llama_tokens_s));
    }
    if (b->missing)
        json_object_set_new(o, "absent", json_string(b->missing));
    return json_out(o, err);
}

/* ---- the command ---- */

static int bench(struct bench *b, struct skv_error *err)
{
    int rc = engine_open(&b->engine, b->args->model, &b->kv, err);
    if (rc)
        return rc;
    b->weight_bytes = weights_of(b->engine.model);
    rc = engine_connect(&b->engine, err);
    if (!rc)
        rc = make_context(b, err);
    if (!rc)
        rc = measure(b, err);
    if (rc)
        return rc;
    if (b->args->json)
        return print_json(b, err);
    print_table(b);
    return fflush(stdout) ? skv_fail(err, -errno, "cannot write: %s", strerror(errno)) : 0;
}

static void close_bench(struct bench *b)
{
    peer_llama_close(&b->llama);
    session_close(b->session);
    if (b->ctx)
        skv_context_close(b->ctx);
    engine_close(&b->engine);
    if (b->pool)
        pool_free(b->pool);
    probe_free(b->probe);
    free(b->ids);
    free(b->logits);
    free(b);
}

static const char about[] = "Times dense decoding at a short context, where a token's time is that of "
                            "reading the weights once, beside "
                            "plain reads of\n"
                            "memory on as many threads, in turns: tokens a second, and the weights' bytes a "
                            "second as a share of what "
                            "memory gives.\n"
                            "A model that fits the processor's last-level cache may have more than that. "
                            "With --llama, llama.cpp decodes as many tokens\n"
                            "of the same file on as many threads behind as long a context, in turns.";

int cmd_bench_decode(int argc, char **argv)
{
    struct args a = {.activations = "exact", .tokens = 64, .steps = 16, .rounds = 7};
    struct opt_memory mem = {0};
    struct skv_error err = {0};
    const struct opt_group groups[] = {{"Options", table, &a}, {0}};
    const struct opt_command cmd = {
        "scoutkv bench decode", "-m MODEL [options]", about,
        "  scoutkv make-model random -o half.gguf --type Q8_0 --layers 12 --dim 2048 --heads 16 --kv-heads 4 "
        "--ff 5632\n"
        "  deploy/peers --llama build/peers && scoutkv bench decode -m half.gguf --llama build/peers\n"
        "  scoutkv bench decode -m model.gguf --threads 1 --json",
        groups};
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    struct bench *b = calloc(1, sizeof *b);
    if (!b)
        return 1;
    b->args = &a;
    kv_options_defaults(&b->kv);
    b->kv.policy = "dense";
    b->kv.threads = a.threads;
    b->kv.activations = a.activations;
    interrupt_catch();
    rc = bench(b, &err);
    rc = interrupted() ? EXIT_INTERRUPTED : rc ? cli_fail(cmd.name, &err) : 0;
    close_bench(b);
    options_free(&mem);
    return rc;
}
