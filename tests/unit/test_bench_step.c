/* What `scoutkv bench step` is made of: queries decide how many of a step's pages are new, in the real step;
 * dense attention from memory gives what a context's dense policy gives; a trace's hits are counted. */
#include "decoder/cli/step_dense.h"
#include "decoder/cli/step_hits.h"
#include "decoder/cli/step_keys.h"
#include "decoder/model/kv_trace.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

enum {
    TOKENS = 8192,
    SHORT = 4096,
    BUDGET = 128,
    PAGES = BUDGET / SKV_PAGE,
    HEADS = 8,
    KV_HEADS = 2,
    D = 64
};
static const struct model_shape small = {"small", 1, HEADS, KV_HEADS, D};

struct world {
    struct step_keys *keys;
    struct step_dense *dense;
    skv_tier *tier;
    skv_context *ctx;
    float *k, *v, q[HEADS * D], out[HEADS * D];
};

#define ok(call)                                 \
    do {                                         \
        if (call)                                \
            fail_msg("%s: %s", #call, err.text); \
    } while (0)

static void open_world(struct world *w, enum skv_policy policy)
{
    struct skv_error err;
    const struct step_keys_opts ko = {
        .shape = &small, .lengths = {SHORT, TOKENS}, .n_lengths = 2, .pages = PAGES, .seed = 5};
    const struct skv_layer layer = shape_layer(&small);
    const struct skv_model model = {.n_layers = 1, .layers = &layer};
    struct skv_tier_opts to = {.ram = 64 << 20, .threads = 2};
    struct skv_context_opts o;
    skv_context_defaults(&o);
    o.decode.policy = policy;
    o.decode.budget = BUDGET;
    o.window = 256;
    o.cache_bytes = 4ull * BUDGET * KV_HEADS * D * 4;
    *w = (struct world){0};
    ok(step_keys_new(&ko, &w->keys, &err));
    ok(step_dense_new(&small, TOKENS, &w->dense, &err));
    ok(skv_tier_open(&to, &w->tier, &err));
    ok(skv_context_open(w->tier, &model, &o, &w->ctx, &err));
    w->k = malloc(1024 * KV_HEADS * D * sizeof *w->k);
    w->v = malloc(1024 * KV_HEADS * D * sizeof *w->v);
    for (uint64_t at = 0; at < TOKENS; at += 1024) {
        uint32_t ids[1024] = {0};
        step_keys_make(w->keys, at, 1024, NULL, w->k, w->v);
        step_dense_put(w->dense, NULL, at, 1024, w->k, w->v);
        ok(skv_append(w->ctx, SKV_PREFILL, 1024, ids, NULL, &err));
        ok(skv_put(w->ctx, 0, w->k, w->v, &err));
    }
}

static void close_world(struct world *w)
{
    skv_context_close(w->ctx);
    skv_tier_close(w->tier);
    step_dense_free(w->dense);
    step_keys_free(w->keys);
    free(w->k);
    free(w->v);
}

static void step(struct world *w, const struct step_walk *walk, uint64_t *seed)
{
    struct skv_error err;
    struct skv_attend_item item = {.ctx = w->ctx, .q = w->q, .out = w->out};
    skv_attend *a;
    uint32_t id = 1;
    step_keys_query(w->keys, walk, w->q);
    step_keys_new_token(w->keys, seed, w->k, w->v);
    ok(skv_append(w->ctx, SKV_DECODE, 1, &id, NULL, &err));
    ok(skv_put(w->ctx, 0, w->k, w->v, &err));
    ok(skv_attend_begin(w->tier, 0, &item, 1, &a, &err));
    ok(skv_attend_finish(a, &err));
}

/* The share of pages that 24 steps found in the cache, the first that fill it apart. */
static double held(struct world *w, double hits)
{
    uint64_t seed = 3;
    struct step_walk walk = step_walk_begin(w->keys, 1, 4);
    struct skv_stats s;
    for (int i = 0; i < 32; i++) {
        if (i == 8)
            skv_context_stats_reset(w->ctx);
        step_walk_on(w->keys, &walk, 1 - hits);
        step(w, &walk, &seed);
    }
    skv_context_stats(w->ctx, &s);
    /* a page of sinks and PAGES others, all of each step, for each KV head */
    assert_int_equal(s.pages_wanted, 24 * KV_HEADS * (PAGES + 1));
    assert_int_equal(s.pages_fetched, s.pages_wanted - s.pages_held);
    assert_true(s.merge_ns > 0 && s.merge_ns < s.attend_ns);
    return (double)(s.pages_held - 24 * KV_HEADS) / (24.0 * KV_HEADS * PAGES);
}

static void queries_make_hits(void **state)
{
    (void)state;
    for (int series = 0; series < 2; series++) {
        struct world w;
        open_world(&w, SKV_CASCADE);
        skv_context_in_series(w.ctx, series);
        assert_in_range((int)(100 * held(&w, 0.75)), 60, 90);
        assert_in_range((int)(100 * held(&w, 1)), 100, 100);
        assert_in_range((int)(100 * held(&w, 0)), 0, 15);
        close_world(&w);
    }
}

/* Nearly all attention is on the pages of the query's place, which are the ones selected. */
static void the_place_is_what_is_attended(void **state)
{
    (void)state;
    struct world w;
    struct skv_error err;
    uint64_t seed = 3;
    float dense[HEADS * D];
    open_world(&w, SKV_CASCADE);
    struct step_walk walk = step_walk_begin(w.keys, 1, 9);
    step(&w, &walk, &seed);
    ok(step_dense_attend(w.dense, NULL, TOKENS, w.q, dense, &err));
    double apart = 0, size = 0;
    for (int i = 0; i < HEADS * D; i++) {
        apart += pow((double)(w.out[i] - dense[i]), 2);
        size += pow((double)dense[i], 2);
    }
    assert_true(sqrt(apart / size) < 0.2);
    close_world(&w);
}

static void dense_is_a_contexts_dense(void **state)
{
    (void)state;
    struct world w;
    struct skv_error err;
    uint64_t seed = 3;
    float dense[HEADS * D];
    open_world(&w, SKV_DENSE);
    struct step_walk walk = step_walk_begin(w.keys, 1, 9);
    step(&w, &walk, &seed); /* and a token that no query looks at */
    struct pool *pool = pool_new(2);
    ok(step_dense_attend(w.dense, pool, TOKENS, w.q, dense, &err));
    pool_free(pool);
    for (int i = 0; i < HEADS * D; i++)
        assert_true(fabsf(w.out[i] - dense[i]) < 1e-3f);
    ok(step_dense_attend(w.dense, NULL, SHORT, w.q, w.out, &err));
    float most = 0;
    for (int i = 0; i < HEADS * D; i++)
        most = fmaxf(most, fabsf(w.out[i] - dense[i]));
    assert_true(most > 1e-3f); /* half of them is something else */
    close_world(&w);
}

/* A trace whose queries look at one place all along, and one whose queries jump. */
static void traces_tell_hits(void **state)
{
    (void)state;
    struct skv_error err;
    struct world w;
    char path[] = "/tmp/step-hits-XXXXXX";
    close(mkstemp(path));
    open_world(&w, SKV_CASCADE);
    for (int jumps = 0; jumps < 2; jumps++) {
        struct kv_trace_head head = {.n_layers = 1,
                                     .n_heads = HEADS,
                                     .n_kv_heads = KV_HEADS,
                                     .d_k = D,
                                     .d_v = D,
                                     .n_tokens = TOKENS,
                                     .scale = shape_layer(&small).scale};
        struct kv_trace *t;
        struct step_hits hits;
        struct step_walk walk = step_walk_begin(w.keys, 0, 1);
        float *q = malloc(1024 * HEADS * D * sizeof *q);
        ok(kv_trace_create(path, &head, &t, &err));
        for (uint64_t at = 0; at < TOKENS; at += 1024) {
            step_keys_make(w.keys, at, 1024, NULL, w.k, w.v);
            for (int i = 0; i < 1024; i++) {
                step_walk_on(w.keys, &walk, jumps);
                step_keys_query(w.keys, &walk, q + (size_t)i * HEADS * D);
            }
            kv_trace_put(t, 0, at, 1024, q, w.k, w.v);
        }
        ok(kv_trace_commit(t, &err));
        kv_trace_close(t);
        ok(step_hits_read(path, BUDGET, 256, &hits, &err));
        assert_int_equal(hits.n, TOKENS / 2 - 8);
        assert_int_equal(hits.steps, hits.n);
        if (jumps)
            assert_true(hits.mean < 0.4);
        else
            assert_true(hits.mean > 0.97);
        step_hits_free(&hits);
        free(q);
    }
    struct step_hits hits;
    assert_int_equal(step_hits_read(path, TOKENS, 64, &hits, &err), -22);
    unlink(path);
    close_world(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(queries_make_hits),
        cmocka_unit_test(the_place_is_what_is_attended),
        cmocka_unit_test(dense_is_a_contexts_dense),
        cmocka_unit_test(traces_tell_hits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
