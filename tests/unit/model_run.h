/* model_run.h: models, contexts and sessions for tests, in a folder of their own and over a node inside the
 * process. Include after cmocka.h; run set_up and tear_down around the group. */
#ifndef TESTS_MODEL_RUN_H
#define TESTS_MODEL_RUN_H

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "decoder/model/forward.h"
#include "decoder/model/random_model.h"

static char folder[300];
static skv_tier *tier;

static const char *file_named(const char *name)
{
    static char path[600];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

struct run {
    struct model *model;
    skv_context *ctx;
    struct session *session;
};

static inline struct model *open_model(const char *path)
{
    struct model *m;
    struct skv_error err;
    if (model_open(path, &m, &err) != 0)
        fail_msg("%s", err.text);
    return m;
}

static inline struct skv_context_opts run_options(enum skv_dtype dtype)
{
    struct skv_context_opts opts;
    skv_context_defaults(&opts);
    opts.decode.policy = opts.prefill.policy = SKV_DENSE;
    opts.dtype = dtype;
    opts.window = opts.seal_lag = 128;
    opts.sinks = 0;
    return opts;
}

static inline void run_context(struct run *r, enum skv_dtype dtype)
{
    struct skv_context_opts opts = run_options(dtype);
    struct skv_model shape;
    struct skv_error err;
    model_shape(r->model, &shape);
    if (skv_context_open(tier, &shape, &opts, &r->ctx, &err) != 0)
        fail_msg("%s", err.text);
}

static inline struct run run_start(const char *path, enum skv_dtype dtype, unsigned threads)
{
    struct run r = {.model = open_model(path)};
    struct skv_error err;
    run_context(&r, dtype);
    if (session_open(r.model, tier, r.ctx, threads, &r.session, &err) != 0)
        fail_msg("%s", err.text);
    return r;
}

static inline void run_restart(struct run *r, enum skv_dtype dtype)
{
    skv_context_close(r->ctx);
    run_context(r, dtype);
    session_use(r->session, r->ctx);
}

static inline void run_end(struct run *r)
{
    session_close(r->session);
    skv_context_close(r->ctx);
    model_close(r->model);
}

static inline void eval(struct run *r, enum skv_mode mode, const uint32_t *ids, uint32_t n, float *logits)
{
    struct skv_error err;
    if (session_eval(r->session, mode, ids, n, logits, true, &err) != 0)
        fail_msg("%s", err.text);
}

static inline void prefill(struct run *r, const uint32_t *ids, size_t n, uint32_t chunk, float *logits)
{
    struct skv_error err;
    if (session_prefill(r->session, ids, n, chunk, NULL, NULL, logits, &err) != 0)
        fail_msg("%s", err.text);
}

static inline void check_logits(const char *what, const float *got, const float *expected, size_t n,
                                double tolerance)
{
    double largest = 0, worst = 0;
    for (size_t i = 0; i < n; i++) {
        double delta = fabs((double)got[i] - (double)expected[i]);
        largest = fmax(largest, fabs((double)expected[i]));
        worst = delta <= worst ? worst : delta; /* a NaN is the worst */
    }
    if (!(worst <= tolerance * largest))
        fail_msg("%s: logits are off by %g of the largest, %g are allowed", what, worst / largest, tolerance);
}

/* Three ways through the same tokens: all at once, one by one, and mixed. */
static inline void check_passes(const char *what, const char *path, const uint32_t *ids, uint32_t n,
                                const float *expected, enum skv_dtype dtype, double tolerance)
{
    struct run r = run_start(path, dtype, 2);
    size_t vocab = r.model->params.vocab;
    float *logits = malloc(n * vocab * sizeof *logits);
    char label[200];
    eval(&r, SKV_PREFILL, ids, n, logits);
    snprintf(label, sizeof label, "%s, prefill", what);
    check_logits(label, logits, expected, n * vocab, tolerance);

    run_restart(&r, dtype);
    for (uint32_t t = 0; t < n; t++)
        eval(&r, SKV_DECODE, ids + t, 1, logits + t * vocab);
    snprintf(label, sizeof label, "%s, decode", what);
    check_logits(label, logits, expected, n * vocab, tolerance);

    run_restart(&r, dtype);
    prefill(&r, ids, n / 2, 7, logits + (n / 2 - 1) * vocab);
    eval(&r, SKV_DECODE, ids + n / 2, 3, logits + n / 2 * vocab);
    prefill(&r, ids + n / 2 + 3, n - n / 2 - 3, 7, logits + (n - 1) * vocab);
    snprintf(label, sizeof label, "%s, mixed", what);
    check_logits(label, logits + (n / 2 - 1) * vocab, expected + (n / 2 - 1) * vocab, 4 * vocab, tolerance);
    check_logits(label, logits + (n - 1) * vocab, expected + (n - 1) * vocab, vocab, tolerance);
    free(logits);
    run_end(&r);
}

/* Decoded with activations in 8 bits, one by one and five at once: the same bits, near what is expected, and
 * other than with exact ones. */
static inline void check_rounded(const char *what, const char *path, const uint32_t *ids, uint32_t n,
                                 const float *expected, double tolerance)
{
    struct run r = run_start(path, SKV_F32, 2);
    size_t vocab = r.model->params.vocab;
    float *one = malloc(n * vocab * sizeof *one), *five = malloc(n * vocab * sizeof *five);
    eval(&r, SKV_DECODE, ids, 1, five);
    r.model->activations = ACTIVATIONS_INT8;
    run_restart(&r, SKV_F32);
    for (uint32_t t = 0; t < n; t++)
        eval(&r, SKV_DECODE, ids + t, 1, one + t * vocab);
    check_logits(what, one, expected, n * vocab, tolerance);
    assert_memory_not_equal(one, five, vocab * sizeof *one);
    run_restart(&r, SKV_F32);
    for (uint32_t t = 0; t < n; t += 5)
        eval(&r, SKV_DECODE, ids + t, n - t < 5 ? n - t : 5, five + t * vocab);
    assert_memory_equal(one, five, n * vocab * sizeof *one);
    free(one);
    free(five);
    run_end(&r);
}

static inline const char *write_random(const char *name, const struct random_model_opts *o)
{
    struct skv_error err;
    const char *path = file_named(name);
    if (random_model_write(path, o, &err) != 0)
        fail_msg("%s", err.text);
    return path;
}

static inline struct gguf *open_gguf(const char *path)
{
    struct gguf *g;
    struct skv_error err;
    if (gguf_open(path, &g, &err) != 0)
        fail_msg("%s", err.text);
    return g;
}

static inline void make_ids(uint32_t *ids, uint32_t n, uint32_t vocab)
{
    for (uint32_t i = 0; i < n; i++)
        ids[i] = (i * 2654435761u >> 7) % vocab;
}

static inline int set_up(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    struct skv_error err;
    snprintf(folder, sizeof folder, "%s/scoutkv-model-XXXXXX", tmp ? tmp : "/tmp");
    struct skv_tier_opts opts = {.ram = 256u << 20, .threads = 2};
    if (!mkdtemp(folder) || skv_tier_open(&opts, &tier, &err) != 0) {
        fprintf(stderr, "set-up: %s\n", err.text);
        return -1;
    }
    return 0;
}

static inline int tear_down(void **state)
{
    (void)state;
    skv_tier_close(tier);
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (e->d_name[0] != '.')
            unlink(file_named(e->d_name));
    if (dir)
        closedir(dir);
    return rmdir(folder);
}

#endif
