/* test_loss.c: blocks that every node has lost: the context stays intact, goes on without them, or has them
 * computed again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "decoder/context/internal.h"
#include "decoder/model/recompute.h"
#include "tests/unit/model_run.h"

#include <errno.h>

enum {
    PROMPT = 1000,
    DECODED = 80,
    TOTAL = PROMPT + DECODED,
    MORE = 280,
    CHUNK = 256,
    VOCAB = 512,
    LAYERS = 2
};

static uint32_t ids[TOTAL + MORE + 64];
static const char *path;
static enum skv_dtype kv_type = SKV_F16; /* of the contexts that a test opens */

static void check(int rc, const struct skv_error *err)
{
    if (rc)
        fail_msg("rc %d: %s", rc, err->text);
}

/* ---- contexts of the random model ---- */

static struct skv_context_opts options(enum skv_policy policy, enum skv_on_loss on_loss, uint8_t salt)
{
    static uint8_t salts[32]; /* tests must not find each other's blocks */
    struct skv_context_opts o = run_options(kv_type);
    o.decode = o.prefill = (struct skv_select){.policy = policy, .budget = 128, .unit = 16};
    o.cache_bytes = 0; /* everything far is asked for at every step */
    o.on_loss = on_loss;
    salts[0] = salt;
    o.salt = salts;
    return o;
}

static void open_with(struct run *r, const struct skv_context_opts *o)
{
    struct skv_error err = {0};
    struct skv_model shape;
    *r = (struct run){.model = open_model(path)};
    model_shape(r->model, &shape);
    check(skv_context_open(tier, &shape, o, &r->ctx, &err), &err);
    check(session_open(r->model, tier, r->ctx, 2, &r->session, &err), &err);
}

/* Prompt and decoded tokens; logits of the last one. */
static void fill(struct run *r, float *logits)
{
    struct skv_error err = {0};
    prefill(r, ids, PROMPT, CHUNK, NULL);
    for (uint32_t t = PROMPT; t < TOTAL; t++)
        eval(r, SKV_DECODE, ids + t, 1, logits);
    check(skv_flush(r->ctx, &err), &err);
}

static void start(struct run *r, enum skv_policy policy, enum skv_on_loss on_loss, uint8_t salt)
{
    struct skv_context_opts o = options(policy, on_loss, salt);
    open_with(r, &o);
    fill(r, (float[VOCAB]){0});
}

/* Destroys every replica of blocks [from, to), all layers or one. */
static void destroy(skv_context *c, uint64_t from, uint64_t to, int layer)
{
    struct skv_error err = {0};
    check(skv_flush(c, &err), &err);
    for (uint64_t b = from; b < to; b++)
        for (unsigned l = 0; l < LAYERS; l++) {
            struct block_key key;
            context_block_key(c, l, b, &key);
            if (layer < 0 || layer == (int)l)
                check(tier_drop(c->tier->tier, &key, 1, &err), &err);
        }
}

static int next(struct run *r, enum skv_mode mode, uint32_t at, uint32_t n, float *logits,
                struct skv_error *err)
{
    return session_eval(r->session, mode, ids + at, n, logits, false, err);
}

/* Checksums of everything sealed. */
static uint64_t index_digest(const skv_context *c)
{
    uint64_t d = c->sealed;
    for (uint64_t b = 0; b < c->sealed; b++)
        for (unsigned l = 0; l < LAYERS; l++)
            for (unsigned h = 0; h < c->shape->layers[l].n_kv_heads; h++)
                for (unsigned p = 0; p < BLOCK_PAGES; p++)
                    d = (d ^ span_checksums(c->shape, context_span(c, b), l,
                                            h)[b % SPAN_BLOCKS * BLOCK_PAGES + p]) *
                        0x100000001B3u;
    return d;
}

static uint64_t representative_digest(const skv_context *c)
{
    uint64_t d = 1;
    for (unsigned l = 0; l < LAYERS; l++)
        for (unsigned h = 0; h < c->shape->layers[l].n_kv_heads; h++) {
            const uint8_t *groups = span_groups(c->shape, c->spans[0], l, h);
            for (size_t i = 0; i < SPAN_GROUPS * reps_group_bytes(REPS_PAGE, c->shape->layers[l].d_k); i++)
                d = (d ^ groups[i]) * 0x100000001B3u;
        }
    return d;
}

/* ---- fail ---- */

static void lose_and_put_again(enum skv_mode mode, uint32_t n, uint8_t salt)
{
    struct run r, other;
    struct skv_error err = {0};
    struct skv_range lost[4];
    static float want[VOCAB], got[VOCAB];
    start(&r, SKV_DENSE, SKV_LOSS_FAIL, salt);
    check(next(&r, mode, TOTAL, n, want, &err), &err);
    check(skv_truncate(r.ctx, TOTAL, &err), &err);
    assert_int_equal(skv_lost(r.ctx, lost, 4), 0);

    destroy(r.ctx, 2, 4, 1);
    destroy(r.ctx, 9, 10, 1);
    int rc = next(&r, mode, TOTAL, n, got, &err);
    assert_int_equal(rc, -ENODATA);
    assert_int_equal(skv_exit_code(rc), 3);
    assert_non_null(strstr(err.text, "lost"));
    assert_int_equal(skv_length(r.ctx), TOTAL);
    assert_int_equal(skv_lost(r.ctx, lost, 4), 2);
    assert_true(lost[0].from == 2 * 64 && lost[0].to == 4 * 64);
    assert_true(lost[1].from == 9 * 64 && lost[1].to == 10 * 64);
    assert_int_equal(skv_lost(r.ctx, lost, 1), 2);
    struct skv_stats st;
    skv_context_stats(r.ctx, &st);
    assert_true(st.pages_lost == 0 && st.lost_mass == 0); /* nothing was attended without them */

    /* Still lost; and whole again when another context of the same tokens has stored them. */
    assert_int_equal(next(&r, mode, TOTAL, n, got, &err), -ENODATA);
    start(&other, SKV_DENSE, SKV_LOSS_FAIL, salt);
    check(next(&r, mode, TOTAL, n, got, &err), &err);
    assert_memory_equal(got, want, sizeof got);
    assert_int_equal(skv_lost(r.ctx, lost, 4), 0);
    run_end(&other);
    run_end(&r);
}

static void test_fail_leaves_it_intact(void **state)
{
    (void)state;
    lose_and_put_again(SKV_DECODE, 1, 1);
    lose_and_put_again(SKV_DECODE, 3, 2);
    lose_and_put_again(SKV_PREFILL, 24, 3);
}

/* A truncate that needs lost blocks fails, says which, and changes nothing. */
static void test_truncate_of_lost(void **state)
{
    (void)state;
    struct run r;
    struct skv_error err = {0};
    struct skv_range lost;
    static float want[VOCAB], got[VOCAB];
    start(&r, SKV_DENSE, SKV_LOSS_FAIL, 4);
    check(next(&r, SKV_DECODE, TOTAL, 1, want, &err), &err);
    check(skv_truncate(r.ctx, TOTAL, &err), &err);
    destroy(r.ctx, 8, 9, 0);
    assert_int_equal(skv_truncate(r.ctx, 9 * 64 + 40, &err), -ENODATA);
    assert_int_equal(skv_length(r.ctx), TOTAL);
    assert_int_equal(skv_lost(r.ctx, &lost, 1), 1);
    assert_true(lost.from == 8 * 64 && lost.to == 9 * 64);

    struct recompute re = {0};
    session_on_loss(r.session, recompute_lost, &re);
    check(next(&r, SKV_DECODE, TOTAL, 1, got, &err), &err);
    assert_memory_equal(got, want, sizeof got);
    destroy(r.ctx, 8, 9, 0);
    check(session_truncate(r.session, 9 * 64 + 40, &err), &err);
    assert_int_equal(skv_length(r.ctx), 9 * 64 + 40);
    assert_int_equal(re.restored.blocks, 2);
    assert_int_equal(re.restored.changed, 0);
    run_end(&r);
}

/* ---- degrade ---- */

/* With every far block gone, dense attends to what `window` does: to the same bits. */
static void test_degraded_dense_is_window(void **state)
{
    (void)state;
    const struct {
        enum skv_mode mode;
        uint32_t n;
    } passes[] = {{SKV_DECODE, 1}, {SKV_DECODE, 3}, {SKV_PREFILL, 50}};
    for (size_t i = 0; i < sizeof passes / sizeof *passes; i++) {
        struct run r;
        struct skv_error err = {0};
        struct skv_stats st;
        static float want[VOCAB], got[VOCAB];
        /* `window` from the fork's point on only: what is stored is the same for both */
        struct skv_context_opts o = options(SKV_DENSE, SKV_LOSS_DEGRADE, 10);
        o.prefill.policy = SKV_WINDOW;
        open_with(&r, &o);
        fill(&r, want);
        const struct skv_select window = {.policy = SKV_WINDOW, .budget = 128, .unit = 16};
        const struct skv_select dense = {.policy = SKV_DENSE, .budget = 128, .unit = 16};
        check(skv_context_configure(r.ctx, &window, 0, &err), &err);
        check(next(&r, passes[i].mode, TOTAL, passes[i].n, want, &err), &err);
        check(skv_truncate(r.ctx, TOTAL, &err), &err);
        skv_context_stats(r.ctx, &st);
        assert_true(st.pages_lost == 0 && st.passes_lost == 0 && st.lost_n == 0);

        check(skv_context_configure(r.ctx, &dense, 0, &err), &err);
        uint64_t sealed = r.ctx->sealed;
        if (passes[i].mode == SKV_PREFILL)
            r.ctx->opts.prefill = dense; /* not for engines: the recipe would be another */
        destroy(r.ctx, 0, sealed, -1);
        skv_context_stats_reset(r.ctx);
        check(next(&r, passes[i].mode, TOTAL, passes[i].n, got, &err), &err);
        assert_memory_equal(got, want, sizeof got);
        skv_context_stats(r.ctx, &st);
        /* without logits of every row all layers attend: pages of 2 KV heads */
        unsigned rows = passes[i].mode == SKV_DECODE ? passes[i].n : 1;
        assert_int_equal(st.passes_lost, LAYERS);
        assert_int_equal(st.pages_lost, (uint64_t)LAYERS * 2 * rows * sealed * BLOCK_PAGES);
        assert_true(st.lost_n == (double)LAYERS * 8 * passes[i].n);
        double mean = st.lost_mass / st.lost_n;
        assert_true(mean > 0.05 && mean < 1 && st.lost_worst >= mean && st.lost_worst <= 1);
        run_end(&r);
    }
}

static void test_undisturbed_degrade_loses_nothing(void **state)
{
    (void)state;
    static float fail[VOCAB], degrade[VOCAB];
    struct skv_stats st;
    struct run a, b;
    struct skv_context_opts o = options(SKV_CASCADE, SKV_LOSS_FAIL, 11);
    open_with(&a, &o);
    fill(&a, fail);
    o.on_loss = SKV_LOSS_DEGRADE;
    open_with(&b, &o);
    fill(&b, degrade);
    assert_memory_equal(fail, degrade, sizeof fail);
    skv_context_stats(b.ctx, &st);
    assert_true(st.pages_lost == 0 && st.passes_lost == 0 && st.lost_mass == 0 && st.lost_worst == 0);
    assert_true(st.missed_n > 0);
    assert_memory_equal(context_chain(a.ctx, a.ctx->sealed - 1), context_chain(b.ctx, b.ctx->sealed - 1),
                        CHAIN_BYTES);
    run_end(&a);
    run_end(&b);
}

/* Blocks made without lost pages must not be found by a context that has all of its own. */
static void test_degraded_blocks_have_other_names(void **state)
{
    (void)state;
    struct skv_error err = {0};
    struct skv_stats st;
    struct run a, b;
    struct skv_context_opts o = options(SKV_CASCADE, SKV_LOSS_DEGRADE, 12);
    open_with(&a, &o);
    open_with(&b, &o);
    prefill(&a, ids, PROMPT, CHUNK, NULL);
    prefill(&b, ids, PROMPT / CHUNK * CHUNK, CHUNK, NULL);
    uint64_t before = b.ctx->sealed;
    destroy(b.ctx, 1, before, -1);
    prefill(&b, ids + PROMPT / CHUNK * CHUNK, PROMPT % CHUNK, CHUNK, NULL);
    skv_context_stats(b.ctx, &st);
    assert_true(st.pages_lost > 0);
    for (uint32_t t = PROMPT; t < TOTAL; t++) {
        eval(&a, SKV_DECODE, ids + t, 1, (float[VOCAB]){0});
        eval(&b, SKV_DECODE, ids + t, 1, (float[VOCAB]){0});
    }
    skv_context_stats(b.ctx, &st);
    assert_true(st.lost_mass > 0 && st.missed_mass >= 0);
    uint64_t first = PROMPT / CHUNK * CHUNK / 64; /* of the degraded pass */
    assert_true(b.ctx->sealed > first);
    assert_memory_equal(context_chain(a.ctx, first - 1), context_chain(b.ctx, first - 1), CHAIN_BYTES);
    assert_memory_not_equal(context_chain(a.ctx, first), context_chain(b.ctx, first), CHAIN_BYTES);

    /* What made it can't be fetched for a truncate: that is no place to go on without. */
    assert_int_equal(skv_truncate(b.ctx, 300, &err), -ENODATA);
    run_end(&a);
    run_end(&b);
}

/* The estimate against the truth: one head, keys that are alike within a page, some pages lost; with
 * representatives of the keys, and of projected ones (here to other scales, which the query undoes). */
static void test_estimate_is_near_the_truth(void **state)
{
    const bool *projected = *state;
    enum { D = 64, N = 1280 };
    static const struct skv_calibration_head head = {.gamma_page = 1, .gamma_block = 1};
    static float salience[D + 2], projection[2][D][D];
    for (unsigned i = 0; i < D; i++) {
        projection[0][i][i] = i % 2 ? 2.0f : 0.5f;
        projection[1][i][i] = 1 / projection[0][i][i];
    }
    const struct skv_calibration calibration = {.fingerprint = "one head",
                                                .n_layers = 1,
                                                .n_kv_heads = 1,
                                                .heads = &head,
                                                .d_k = D,
                                                .salience = salience,
                                                .d_rep = D,
                                                .projection = projection[0][0]};
    static const struct skv_layer layer = {
        .d_k = D, .d_v = D, .n_heads = 1, .n_kv_heads = 1, .scale = 0.125f};
    const struct skv_model model = {.n_layers = 1, .layers = &layer, .fingerprint = "one head"};
    static float k[N + 1][D], v[N + 1][D], q[D], out[D];
    static uint32_t token[N + 1];
    struct skv_error err = {0};
    struct skv_stats st;
    uint64_t x = 12345; /* the seed */
    for (unsigned t = 0; t <= N; t++)
        for (unsigned i = 0; i < D; i++) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            float noise = (float)(x >> 40) / (1 << 24) - 0.5f;
            v[t][i] = noise;
            k[t][i] = (t % 16 ? 0.9f * k[t - 1][i] : 0) + noise;
        }
    memcpy(q, k[200], sizeof q);
    for (unsigned i = 0; i < D; i++)
        q[i] *= 4;
    struct skv_context_opts o = run_options(SKV_F32);
    o.on_loss = SKV_LOSS_DEGRADE;
    o.cache_bytes = 0;
    o.calibration = *projected ? &calibration : NULL;
    skv_context *c;
    check(skv_context_open(tier, &model, &o, &c, &err), &err);
    check(skv_append(c, SKV_PREFILL, N, token, NULL, &err), &err);
    check(skv_put(c, 0, k[0], v[0], &err), &err);
    check(skv_append(c, SKV_DECODE, 1, token, NULL, &err), &err);
    check(skv_put(c, 0, k[N], v[N], &err), &err);
    check(skv_flush(c, &err), &err);
    struct block_key key;
    for (unsigned b = 2; b < 5; b++) {
        context_block_key(c, 0, b, &key);
        check(tier_drop(c->tier->tier, &key, 1, &err), &err);
    }
    skv_attend *a;
    check(skv_attend_begin(tier, 0, &(struct skv_attend_item){c, q, out}, 1, &a, &err), &err);
    check(skv_attend_finish(a, &err), &err);
    double all = 0, lost = 0, expected[D] = {0};
    for (unsigned t = 0; t <= N; t++) {
        double s = 0;
        for (unsigned i = 0; i < D; i++)
            s += (double)q[i] * (double)k[t][i] / 8;
        bool gone = t >= 2 * 64 && t < 5 * 64;
        all += exp(s);
        lost += gone ? exp(s) : 0;
        for (unsigned i = 0; i < D; i++)
            expected[i] += gone ? 0 : exp(s) * (double)v[t][i];
    }
    for (unsigned i = 0; i < D; i++)
        assert_true(fabs(expected[i] / (all - lost) - (double)out[i]) < 1e-4);
    skv_context_stats(c, &st);
    assert_int_equal(st.pages_lost, 3 * BLOCK_PAGES);
    assert_true(st.lost_n == 1 && st.lost_worst == st.lost_mass);
    assert_true(lost / all > 0.1); /* or it would be no test */
    if (fabs(st.lost_mass - lost / all) > 0.05)
        fail_msg("the lost pages have %.3f of the mass, estimated %.3f", lost / all, st.lost_mass);
    skv_context_close(c);
}

/* ---- recompute ---- */

struct told {
    size_t calls, first_done, total, last_done;
};

static int on_told(void *arg, size_t done, size_t total)
{
    struct told *t = arg;
    t->first_done = t->calls++ ? t->first_done : done;
    t->total = total;
    t->last_done = done;
    return 0;
}

static void lose_and_remake(enum skv_policy policy, uint64_t from, uint64_t to, int layer, uint8_t salt)
{
    struct run r;
    struct skv_error err = {0};
    struct told told = {0};
    struct recompute re = {.progress = on_told, .arg = &told};
    static float want[8][VOCAB], got[VOCAB];
    start(&r, policy, SKV_LOSS_FAIL, salt);
    skv_context *whole = r.ctx, *c;
    check(skv_context_fork(whole, &c, &err), &err);
    for (uint32_t i = 0; i < 8; i++)
        check(next(&r, SKV_DECODE, TOTAL + i, 1, want[i], &err), &err);
    check(skv_truncate(whole, TOTAL, &err), &err);
    uint64_t digest = index_digest(c);

    session_use(r.session, c);
    session_on_loss(r.session, recompute_lost, &re);
    destroy(c, from, to, layer);
    destroy(c, from + 3, from + 4, -1); /* and one of all layers */
    for (uint32_t i = 0; i < 8; i++) {
        check(next(&r, SKV_DECODE, TOTAL + i, 1, got, &err), &err);
        assert_memory_equal(got, want[i], sizeof got);
        if (i == 3)
            destroy(c, from, from + 1, layer); /* again, between two steps */
    }
    if (policy == SKV_DENSE) {
        assert_int_equal(re.losses, 2);
        assert_int_equal(re.restored.blocks, to - from + (from + 3 >= to) + 1);
        assert_int_equal(told.first_done, 0);
    }
    assert_true(re.losses > 0 && told.total > 0);
    assert_int_equal(re.restored.changed, 0);
    assert_true(index_digest(c) == digest);
    struct skv_range lost;
    check(skv_find_lost(c, &err), &err);
    if (policy == SKV_DENSE)
        assert_int_equal(skv_lost(c, &lost, 1), 0);
    skv_context_close(c);
    session_use(r.session, whole);
    run_end(&r);
}

static void test_recompute_same_bits(void **state)
{
    kv_type = *(const enum skv_dtype *)*state;
    lose_and_remake(SKV_DENSE, 5, 6, 1, 20);   /* one block, one layer, of the prompt */
    lose_and_remake(SKV_DENSE, 2, 11, -1, 21); /* more than a window in a row */
    lose_and_remake(SKV_DENSE, 0, 14, -1, 22); /* everything that is sealed */
    lose_and_remake(SKV_CASCADE, 0, 14, -1, 23);
    kv_type = SKV_F16;
}

/* Only passes that made lost blocks are repeated, each once. */
static void test_recompute_repeats_what_it_must(void **state)
{
    (void)state;
    struct run r;
    struct skv_error err = {0};
    struct recompute re = {0};
    static float logits[VOCAB];
    start(&r, SKV_DENSE, SKV_LOSS_FAIL, 25);
    session_on_loss(r.session, recompute_lost, &re);
    destroy(r.ctx, 1, 2, 0); /* of the first pass */
    destroy(r.ctx, 3, 4, 1);
    destroy(r.ctx, 5, 6, 0);   /* of the second */
    destroy(r.ctx, 13, 14, 0); /* of the fourth and last */
    check(next(&r, SKV_DECODE, TOTAL, 1, logits, &err), &err);
    assert_int_equal(re.losses, 1);
    assert_int_equal(re.restored.blocks, 4);
    assert_int_equal(re.tokens, 2 * CHUNK + PROMPT - 3 * CHUNK);
    run_end(&r);
}

/* Blocks of decoded tokens, by dense decode: the last sealed ones. */
static void test_recompute_decoded(void **state)
{
    kv_type = *(const enum skv_dtype *)*state;
    struct run r;
    struct skv_error err = {0};
    struct recompute re = {0};
    static float want[VOCAB], got[VOCAB];
    struct skv_context_opts o = options(SKV_DENSE, SKV_LOSS_FAIL, 30);
    open_with(&r, &o);
    /* passes of two kinds in one block: a prompt, decoded one by one and in threes, prompts, decoded */
    prefill(&r, ids, 300, CHUNK, NULL);
    for (uint32_t t = 300; t < 340; t++)
        eval(&r, SKV_DECODE, ids + t, 1, want);
    for (uint32_t t = 340; t < 370; t += 3)
        check(next(&r, SKV_DECODE, t, 3, want, &err), &err);
    prefill(&r, ids + 370, 100, CHUNK, NULL);
    prefill(&r, ids + 470, 80, CHUNK, NULL); /* a pass of its own, though no chunk begins there */
    for (uint32_t t = 550; t < TOTAL - 100; t++)
        eval(&r, SKV_DECODE, ids + t, 1, want);
    check(next(&r, SKV_DECODE, TOTAL - 100, 1, want, &err), &err);
    check(skv_truncate(r.ctx, TOTAL - 100, &err), &err);
    uint64_t sealed = r.ctx->sealed, digest = index_digest(r.ctx);
    session_on_loss(r.session, recompute_lost, &re);
    destroy(r.ctx, 4, sealed, -1);
    check(next(&r, SKV_DECODE, TOTAL - 100, 1, got, &err), &err);
    assert_memory_equal(got, want, sizeof got);
    assert_int_equal(re.restored.blocks, sealed - 4);
    assert_int_equal(re.restored.changed, 0);
    assert_true(index_digest(r.ctx) == digest);

    /* One whose pass begins within a page, which may have been rounded since. */
    check(skv_truncate(r.ctx, TOTAL - 100, &err), &err);
    destroy(r.ctx, 7, 8, -1);
    check(next(&r, SKV_DECODE, TOTAL - 100, 1, got, &err), &err);
    assert_memory_equal(got, want, sizeof got);
    assert_int_equal(re.restored.blocks, sealed - 4 + 1);
    assert_int_equal(re.restored.changed, 0);
    assert_true(index_digest(r.ctx) == digest);
    run_end(&r);
    kv_type = SKV_F16;
}

/* Cascade decode under another budget than when the blocks were made: other bits, which the context takes. */
static void test_recompute_other_bits(void **state)
{
    (void)state;
    struct run r;
    struct skv_error err = {0};
    struct recompute re = {0};
    static float logits[VOCAB], again[VOCAB];
    start(&r, SKV_CASCADE, SKV_LOSS_FAIL, 40);
    for (uint32_t t = TOTAL; t < TOTAL + MORE; t++)
        eval(&r, SKV_DECODE, ids + t, 1, logits);
    const struct skv_select other = {.policy = SKV_CASCADE, .budget = 32, .unit = 16};
    const struct skv_select dense = {.policy = SKV_DENSE, .budget = 0, .unit = 16};
    check(skv_context_configure(r.ctx, &other, 0, &err), &err);
    uint64_t first = PROMPT / 64 + 1, sealed = r.ctx->sealed, digest = index_digest(r.ctx),
             reps = representative_digest(r.ctx);
    assert_true(sealed > first);
    skv_context *fork;
    check(skv_context_fork(r.ctx, &fork, &err), &err);
    destroy(r.ctx, 3, 4, 1);
    destroy(r.ctx, first, sealed, 1);
    session_on_loss(r.session, recompute_lost, &re);
    check(skv_context_configure(r.ctx, &dense, 1 << 20, &err), &err); /* reads them all, and keeps them */
    check(next(&r, SKV_DECODE, TOTAL + MORE, 1, logits, &err), &err);
    assert_int_equal(re.restored.blocks, sealed - first + 1);
    assert_int_equal(re.restored.changed, sealed - first);
    assert_true(index_digest(r.ctx) != digest);
    assert_true(representative_digest(r.ctx) != reps);

    /* The new version is one: a fork from before, nodes and cache agree on it. */
    assert_true(index_digest(fork) == index_digest(r.ctx));
    session_on_loss(r.session, NULL, NULL);
    check(skv_truncate(r.ctx, TOTAL + MORE, &err), &err);
    check(next(&r, SKV_DECODE, TOTAL + MORE, 1, again, &err), &err);
    assert_memory_equal(logits, again, sizeof logits);
    check(skv_context_configure(fork, &dense, 0, &err), &err);
    session_use(r.session, fork);
    check(next(&r, SKV_DECODE, TOTAL + MORE, 1, again, &err), &err);
    assert_memory_equal(logits, again, sizeof logits);
    session_use(r.session, r.ctx);
    skv_context_close(fork);
    run_end(&r);
}

static void on_put(void *arg, const struct tier_put_result *r)
{
    check(r->rc, r->err);
    ++*(int *)arg;
}

/* One layer of a block is gone, and another writer's version is in its place. */
static void replace(skv_context *c, uint64_t block, unsigned layer, uint64_t *sums)
{
    struct skv_error err = {0};
    const struct block_layout *lay = &c->shape->layouts[layer];
    size_t n = layout_pages(lay), len = layout_page_bytes(lay);
    struct buf *other = buf_new(n * len);
    struct block_key key;
    int answers = 0;
    context_block_key(c, layer, block, &key);
    memset(other->data, 0, other->len);
    for (size_t i = 0; i < n; i++)
        sums[i] = page_checksum(&key, lay->head0 + (unsigned)(i / BLOCK_PAGES), (unsigned)(i % BLOCK_PAGES),
                                other->data + i * len, len);
    destroy(c, block, block + 1, (int)layer);
    check(tier_put(c->tier->tier, &key, lay, other, sums, TIER_ACK_RAM, on_put, &answers, &err), &err);
    check(tier_flush(c->tier->tier, &err), &err);
    assert_int_equal(answers, 1);
    buf_unref(other);
}

static void names(const skv_context *c, uint64_t block, unsigned layer, const uint64_t *sums)
{
    for (unsigned h = 0; h < c->shape->layers[layer].n_kv_heads; h++)
        assert_memory_equal(span_checksums(c->shape, context_span(c, block), layer, h) + block * BLOCK_PAGES,
                            sums + (size_t)h * BLOCK_PAGES, BLOCK_PAGES * sizeof *sums);
}

/* HAVE finds nothing wrong then, and ours cannot be stored: the context takes theirs. */
static void test_recompute_meets_another_version(void **state)
{
    (void)state;
    struct run r;
    struct skv_error err = {0};
    struct recompute re = {0};
    static float logits[VOCAB];
    uint64_t sums[2 * BLOCK_PAGES];
    start(&r, SKV_DENSE, SKV_LOSS_FAIL, 45);
    replace(r.ctx, 7, 1, sums);
    assert_int_equal(next(&r, SKV_DECODE, TOTAL, 1, logits, &err), -ENODATA);
    session_on_loss(r.session, recompute_lost, &re);
    check(next(&r, SKV_DECODE, TOTAL, 1, logits, &err), &err);
    assert_int_equal(re.losses, 1);
    assert_int_equal(re.restored.blocks, 1);
    assert_int_equal(re.restored.changed, 1);
    names(r.ctx, 7, 1, sums);

    /* Met by a pass that is repeated for another block: that block's turn comes first. */
    check(skv_truncate(r.ctx, TOTAL, &err), &err);
    replace(r.ctx, 2, 0, sums);
    destroy(r.ctx, 9, 10, 0);
    check(skv_mark_lost(r.ctx, (struct skv_range){9 * 64, 10 * 64}, &err), &err);
    session_on_loss(r.session, NULL, NULL);
    re = (struct recompute){0};
    check(recompute_lost(&re, r.session, &err), &err);
    assert_int_equal(re.restored.blocks, 2);
    assert_int_equal(re.restored.changed, 1);
    names(r.ctx, 2, 0, sums);
    check(next(&r, SKV_DECODE, TOTAL, 1, logits, &err), &err);
    run_end(&r);
}

static int stop_at_once(void *arg, size_t done, size_t total)
{
    (void)arg, (void)done, (void)total;
    return -EINTR;
}

static void test_recompute_refusals(void **state)
{
    (void)state;
    struct run r;
    struct skv_error err = {0};
    struct recompute re = {.progress = stop_at_once};
    struct skv_pass pass;
    static float logits[VOCAB];
    start(&r, SKV_DENSE, SKV_LOSS_FAIL, 50);
    destroy(r.ctx, 5, 6, -1);
    session_on_loss(r.session, recompute_lost, &re);
    assert_int_equal(next(&r, SKV_DECODE, TOTAL, 1, logits, &err), -EINTR);
    assert_int_equal(skv_length(r.ctx), TOTAL);

    check(skv_pass_of(r.ctx, 5 * 64, &pass, &err), &err);
    assert_true(pass.from == CHUNK && pass.to == 2 * CHUNK && pass.mode == SKV_PREFILL);
    check(skv_pass_of(r.ctx, TOTAL - 1, &pass, &err), &err);
    assert_true(pass.from == TOTAL - 1 && pass.to == TOTAL && pass.mode == SKV_DECODE);
    assert_int_equal(skv_pass_of(r.ctx, TOTAL, &pass, &err), -EINVAL);
    assert_int_equal(skv_mark_lost(r.ctx, (struct skv_range){0, TOTAL + 1}, &err), -EINVAL);

    /* Another context's blocks are not this one's. */
    struct run other;
    struct skv_restored sum = {0};
    struct skv_context_opts o = options(SKV_DENSE, SKV_LOSS_FAIL, 51);
    open_with(&other, &o);
    prefill(&other, ids + 1, 200, CHUNK, NULL);
    assert_int_equal(skv_restore(r.ctx, other.ctx, &sum, &err), -EINVAL);
    run_end(&other);
    run_end(&r);
}

static int set_up_model(void **state)
{
    struct random_model_opts o;
    int rc = set_up(state);
    random_model_defaults(&o);
    o.dim = o.ff = 128; /* with 8 query and 2 KV heads of 16 dims */
    make_ids(ids, TOTAL + MORE + 64, VOCAB);
    if (rc == 0)
        path = strdup(write_random("loss.gguf", &o));
    return rc;
}

static int tear_down_model(void **state)
{
    free((char *)path);
    return tear_down(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fail_leaves_it_intact),
        cmocka_unit_test(test_truncate_of_lost),
        cmocka_unit_test(test_degraded_dense_is_window),
        cmocka_unit_test(test_undisturbed_degrade_loses_nothing),
        cmocka_unit_test(test_degraded_blocks_have_other_names),
        cmocka_unit_test_prestate(test_estimate_is_near_the_truth, &(bool){false}),
        cmocka_unit_test_prestate(test_estimate_is_near_the_truth, &(bool){true}),
        cmocka_unit_test_prestate(test_recompute_same_bits, &(enum skv_dtype){SKV_F16}),
        cmocka_unit_test_prestate(test_recompute_same_bits, &(enum skv_dtype){SKV_Q4}),
        cmocka_unit_test(test_recompute_repeats_what_it_must),
        cmocka_unit_test_prestate(test_recompute_decoded, &(enum skv_dtype){SKV_F16}),
        cmocka_unit_test_prestate(test_recompute_decoded, &(enum skv_dtype){SKV_Q8_0}),
        cmocka_unit_test_prestate(test_recompute_decoded, &(enum skv_dtype){SKV_Q4}),
        cmocka_unit_test(test_recompute_other_bits),
        cmocka_unit_test(test_recompute_meets_another_version),
        cmocka_unit_test(test_recompute_refusals),
    };
    return cmocka_run_group_tests_name("loss", tests, set_up_model, tear_down_model);
}
