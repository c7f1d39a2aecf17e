/* Calibrations: in a file and back and nothing from a damaged one; schedules that keep their sum; a fit that
 * finds what was planted; contexts that follow one, and are as ever without. */
#define ENGINE_D2 64 /* what is learned of keys takes layers of the same dims */
#include "decoder/cli/calibrate_fit.h"
#include "decoder/context/internal.h"
#include "decoder/model/calibration_file.h"
#include "decoder/scout/salience.h"
#include "tests/unit/context_engine.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <unistd.h>

enum { CHUNK = 128 };

static char path[300], other[310];

static void make_paths(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/scoutkv-calib-%ld", tmp ? tmp : "/tmp", (long)getpid());
    snprintf(other, sizeof other, "%s-2", path);
}

/* Of the model of context_engine.h: gammas other than 1, and head 1 of layer 1 reads afar. */
static struct skv_calibration example(struct skv_calibration_head heads[LAYERS * KV_HEADS], float gamma)
{
    struct skv_calibration c = {.n_layers = LAYERS, .n_kv_heads = KV_HEADS, .heads = heads};
    memcpy(c.fingerprint, model.fingerprint, sizeof c.fingerprint);
    for (unsigned i = 0; i < LAYERS * KV_HEADS; i++) {
        heads[i] = (struct skv_calibration_head){.gamma_page = gamma, .gamma_block = gamma, .far = 0.1f};
        for (unsigned k = 0; k < SKV_KNOTS; k++)
            heads[i].held[k] = (float)(k + 1) / SKV_KNOTS * (i == 3 ? 0.8f : 0.1f);
    }
    heads[3].far = 0.8f;
    return c;
}

/* The same with weights of salience for keys of D dims. */
static struct skv_calibration learned(struct skv_calibration_head heads[LAYERS * KV_HEADS])
{
    static float weights[LAYERS * KV_HEADS * (D + 2)];
    struct skv_calibration c = example(heads, 0.25f);
    for (unsigned i = 0; i < LAYERS * KV_HEADS * (D + 2); i++)
        weights[i] = noise(i, 5, 5);
    c.d_k = D;
    c.salience = weights;
    heads[2].alpha = 0.5f;
    heads[2].beta = 0.25f;
    return c;
}

/* The same, and keys that are projected to 40 dims: queries by one matrix and keys by another. */
static struct skv_calibration projecting(struct skv_calibration_head heads[LAYERS * KV_HEADS])
{
    enum { DIMS = 40, A_HEAD = 2 * DIMS * D };
    static float projection[LAYERS * KV_HEADS * A_HEAD];
    struct skv_calibration c = learned(heads);
    for (unsigned h = 0; h < LAYERS * KV_HEADS; h++)
        for (unsigned i = 0; i < DIMS; i++) {
            projection[h * A_HEAD + i * D + i] = 2.0f;
            projection[h * A_HEAD + (DIMS + i) * D + i] = 0.5f;
            projection[h * A_HEAD + i * D + (i + 1) % D] = 0.1f * noise(h, 8, i);
        }
    c.d_rep = DIMS;
    c.projection = projection;
    return c;
}

/* ---- the file ---- */

static void write_bytes(const uint8_t *bytes, size_t n)
{
    FILE *f = fopen(other, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
}

static uint8_t *saved(size_t *n)
{
    struct skv_calibration_head heads[LAYERS * KV_HEADS];
    struct skv_calibration c = learned(heads);
    struct skv_error err = {0};
    uint8_t *bytes = malloc(1 << 16);
    check(calibration_save(&c, path, &err), &err);
    FILE *f = fopen(path, "rb");
    *n = fread(bytes, 1, 1 << 16, f);
    fclose(f);
    return bytes;
}

static void test_there_and_back(void **s)
{
    (void)s;
    struct skv_calibration_head heads[LAYERS * KV_HEADS];
    struct skv_calibration want = learned(heads), *got = NULL;
    struct skv_error err = {0};
    size_t n;
    free(saved(&n));
    check(calibration_load(path, model.fingerprint, &got, &err), &err);
    assert_int_equal(got->n_layers, LAYERS);
    assert_int_equal(got->n_kv_heads, KV_HEADS);
    assert_memory_equal(got->fingerprint, want.fingerprint, SKV_FINGERPRINT);
    assert_memory_equal(got->heads, want.heads, sizeof heads);
    assert_int_equal(got->d_k, D);
    assert_memory_equal(got->salience, want.salience, calibration_salience_floats(&want) * sizeof(float));
    free(got);
    struct skv_calibration projects = projecting(heads);
    check(calibration_save(&projects, path, &err), &err);
    check(calibration_load(path, model.fingerprint, &got, &err), &err);
    assert_int_equal(got->d_rep, 40);
    assert_memory_equal(got->projection, projects.projection,
                        calibration_projection_floats(&projects) * sizeof(float));
    assert_memory_equal(got->salience, projects.salience,
                        calibration_salience_floats(&projects) * sizeof(float));
    free(got);
    projects.d_rep = 36; /* not a multiple of 8 */
    check(calibration_save(&projects, path, &err), &err);
    assert_int_equal(calibration_load(path, NULL, &got, &err), -EINVAL);
    check(calibration_save(&want, path, &err), &err);
    uint8_t another[SKV_FINGERPRINT] = "another";
    assert_int_equal(calibration_load(path, another, &got, &err), -EINVAL);
    assert_non_null(strstr(err.text, "another model"));
    heads[1].gamma_page = 1.5f; /* what must not be is not read either */
    check(calibration_save(&want, path, &err), &err);
    assert_int_equal(calibration_load(path, NULL, &got, &err), -EINVAL);
    assert_non_null(strstr(err.text, "layer 0, KV head 1"));
    struct skv_calibration plain = example(heads, 1.0f); /* one without salience is one, too */
    check(calibration_save(&plain, path, &err), &err);
    check(calibration_load(path, NULL, &got, &err), &err);
    assert_true(got->d_k == 0 && !got->salience);
    free(got);
}

/* Damaged: refused, or what is read is what was written. */
static void test_damage(void **s)
{
    (void)s;
    struct skv_calibration_head heads[LAYERS * KV_HEADS];
    struct skv_calibration want = learned(heads), *got;
    struct skv_error err = {0};
    size_t n, refused = 0;
    uint8_t *bytes = saved(&n);
    for (size_t i = 0; i < n; i++) {
        bytes[i] ^= 0x41;
        write_bytes(bytes, n);
        bytes[i] ^= 0x41;
        if (calibration_load(other, model.fingerprint, &got, &err)) {
            refused++;
            continue;
        }
        assert_memory_equal(got->heads, want.heads, sizeof heads);
        assert_memory_equal(got->salience, want.salience, calibration_salience_floats(&want) * sizeof(float));
        assert_memory_equal(got->fingerprint, want.fingerprint, SKV_FINGERPRINT);
        free(got);
    }
    assert_true(refused > n * 3 / 4); /* the rest is padding */
    for (size_t cut = 0; cut < n; cut++) {
        write_bytes(bytes, cut);
        if (calibration_load(other, model.fingerprint, &got, &err) == 0) {
            assert_memory_equal(got->heads, want.heads, sizeof heads); /* only padding is gone */
            free(got);
        }
    }
    write_bytes((const uint8_t *)"no file of that kind", 20);
    assert_true(calibration_load(other, NULL, &got, &err) < 0);
    free(bytes);
    unlink(other);
    unlink(path);
}

/* ---- schedules ---- */

static void test_schedules_keep_their_sum(void **s)
{
    (void)s;
    enum { N = 12 };
    struct skv_calibration_head heads[N];
    struct schedule_head in[N];
    uint32_t out[N];
    for (uint64_t seed = 1; seed <= 200; seed++)
        for (unsigned schedule = 0; schedule < SKV_SCHEDULES; schedule++) {
            uint32_t k = (uint32_t)(seed * seed % 300), unit = 16u << seed % 3;
            for (unsigned i = 0; i < N; i++) {
                float most = fabsf(noise(seed, i, 99)) / 2, at = 0;
                heads[i] = (struct skv_calibration_head){.far = most};
                for (unsigned j = 0; j < SKV_KNOTS; j++) {
                    at += (most - at) * fabsf(noise(seed, i, j)) / 2;
                    heads[i].held[j] = seed % 7 ? at : 0;
                }
                in[i] = (struct schedule_head){i / 2, &heads[i]};
            }
            assert_int_equal(schedule_split((enum skv_schedule)schedule, in, N, N / 2, k, unit, out), 0);
            uint64_t sum = 0;
            for (unsigned i = 0; i < N; i++) {
                sum += out[i];
                assert_true(out[i] >= (k > 0));
                if (schedule == SKV_UNIFORM)
                    assert_int_equal(out[i], k);
            }
            assert_int_equal(sum, (uint64_t)N * k);
            if (schedule == SKV_NARROW_LOW && k >= 8)
                assert_true(out[0] * 3 < out[N - 1] && out[0] == out[1]);
        }
}

/* Head 0 holds all it ever can with 32 tokens, head 1 gains with each up to 512, head 2 never gains. */
static void test_calibrated_goes_where_it_holds_most(void **s)
{
    (void)s;
    struct skv_calibration_head heads[3] = {{.far = 0.5f}, {.far = 0.5f}, {.far = 0}};
    struct schedule_head in[3];
    uint32_t out[3];
    for (unsigned i = 0; i < 3; i++)
        in[i] = (struct schedule_head){0, &heads[i]};
    for (unsigned j = 0; j < SKV_KNOTS; j++) {
        heads[0].held[j] = j ? 0.5f : 0.3f;
        heads[1].held[j] = (float)(16u << j) / 1024 < 0.5f ? (float)(16u << j) / 1024 : 0.5f;
    }
    assert_int_equal(schedule_split(SKV_CALIBRATED, in, 3, 1, 8, 16, out), 0);
    assert_true(out[0] == 2 && out[1] == 21 && out[2] == 1);
    assert_int_equal(schedule_split(SKV_CALIBRATED, in, 3, 1, 1, 16, out), 0);
    assert_true(out[0] == 1 && out[1] == 1 && out[2] == 1);
    /* what nobody gains by is for all: 3·100 units, of which 2 + 32 hold everything */
    assert_int_equal(schedule_split(SKV_CALIBRATED, in, 3, 1, 100, 16, out), 0);
    assert_true(out[0] + out[1] + out[2] == 300 && out[2] > 85 && out[1] > out[0]);
}

/* ---- the fit ---- */

enum { TOKENS = 2048, DIM = 32 };

/* A page's keys scatter around its centre in the first half of the dims, each page by as much as it likes.
 * Spread is per dim of all dims, so it says half of it; a query of which the share f lies in that half sees f
 * of it: 2·f is the gamma that is right. */
static struct kv_trace *planted(float f)
{
    struct kv_trace_head h = {
        .n_layers = 1, .n_heads = 1, .n_kv_heads = 1, .d_k = DIM, .d_v = DIM, .n_tokens = TOKENS, .scale = 1};
    struct kv_trace *t;
    struct skv_error err = {0};
    check(kv_trace_create(path, &h, &t, &err), &err);
    for (uint64_t i = 0; i < TOKENS; i++) {
        float q[DIM], k[DIM], v[DIM] = {1};
        float scatter = 0.4f * fabsf(noise(i / 64, 1, 77));
        for (unsigned d = 0; d < DIM; d++) {
            bool first = d < DIM / 2;
            k[d] = 0.2f * noise(i / 64, 2, d) + (first ? scatter * noise(i, 3, d) : 0);
            q[d] = 1.0f * sqrtf(first ? f : 1 - f) * noise(i, 4, d);
        }
        kv_trace_put(t, 0, i, 1, q, k, v);
        t->mark[i] = i >= TOKENS / 2 && i % 4 == 0 ? KV_TRACE_ORDINARY : KV_TRACE_OTHER;
    }
    return t;
}

static struct skv_calibration_head fitted(float f)
{
    struct skv_error err = {0};
    struct fit fit = {.window = 128, .protected_pages = 4};
    struct skv_calibration *c;
    struct kv_trace *t = planted(f);
    check(fit_add(&fit, t, NULL, &err), &err);
    check(fit_calibration(&fit, &c, &err), &err);
    struct skv_calibration_head h = c->heads[0];
    assert_int_equal(fit.queries[1], TOKENS / 8);
    free(c);
    fit_free(&fit);
    kv_trace_close(t);
    return h;
}

static void test_fit_finds_what_was_planted(void **s)
{
    (void)s;
    struct skv_calibration_head none = fitted(0.0f), half = fitted(0.25f), all = fitted(0.5f);
    if (!(none.gamma_block <= 0.125f && none.gamma_page <= 0.25f))
        fail_msg("gamma 0 is taken for %g, of pages %g", (double)none.gamma_block, (double)none.gamma_page);
    if (!(half.gamma_block >= 0.375f && half.gamma_block <= 0.625f))
        fail_msg("gamma 0.5 is taken for %g", (double)half.gamma_block);
    if (!(all.gamma_block >= 0.875f))
        fail_msg("gamma 1 is taken for %g", (double)all.gamma_block);
    assert_true(all.far > 0.5f && all.far < 1 && all.held[SKV_KNOTS - 1] > all.far - 1e-5f);
    assert_true(all.held[0] > 16.0f / TOKENS * all.far && all.held[0] < all.held[3]);
    struct fit empty = {.window = 4096};
    struct kv_trace *t = planted(0.5f);
    struct skv_calibration *c;
    struct skv_error err = {0};
    check(fit_add(&empty, t, NULL, &err), &err);
    assert_int_equal(fit_calibration(&empty, &c, &err), -EINVAL);
    assert_non_null(strstr(err.text, "smaller --window"));
    fit_free(&empty);
    kv_trace_close(t);
}

/* A page's salience: half the log of its tokens' squared masses. */
static void test_salience_of_a_page(void **s)
{
    (void)s;
    float w[DIM + 2] = {[0] = 2, [3] = -1, [DIM] = 0.5f, [DIM + 1] = -7}, k[SKV_PAGE * DIM] = {0};
    for (unsigned i = 0; i < SKV_PAGE; i++)
        k[i * DIM + 1] = 4; /* |k| = 4: a token of log mass -5 */
    float even = salience_page(kernels_get(), DIM, w, k);
    assert_true(fabsf(even - (-5 + 0.5f * logf(SKV_PAGE))) < 1e-5f);
    k[5 * DIM] = 3; /* |k| = 5: -7 + 6 + 2.5 */
    float one = salience_page(kernels_get(), DIM, w, k);
    assert_true(fabsf(one - 1.5f) < 1e-4f);
    for (unsigned i = 0; i < SKV_PAGE; i++) /* the same sum of masses, spread evenly, is worth less */
        k[i * DIM + 1] = 3 + 0.5f * logf(1.0f / SKV_PAGE), k[i * DIM] = i == 5 ? 0 : k[i * DIM];
    assert_true(salience_page(kernels_get(), DIM, w, k) < one);
    k[7] = NAN;
    assert_true(salience_page(kernels_get(), DIM, w, k) == -INFINITY);
}

/* Log masses that are a linear function of keys, their norm and noise: the fit finds the function. */
static void test_regression(void **s)
{
    (void)s;
    struct salience_fit fit;
    float w[DIM + 2], k[DIM];
    assert_int_equal(salience_fit_new(&fit, DIM), 0);
    assert_false(salience_fit_solve(&fit, w));
    assert_true(w[0] == 0 && w[DIM + 1] == 0);
    for (uint64_t i = 0; i < 4000; i++) {
        double norm = 0;
        for (unsigned d = 0; d < DIM; d++) {
            k[d] = noise(i, 6, d) * (1 + (float)(i % 3));
            norm += (double)k[d] * (double)k[d];
        }
        salience_fit_add(&fit, k,
                         exp(-6 + 0.3 * (double)k[2] - 0.2 * (double)k[9] + 0.1 * sqrt(norm) +
                             0.3 * (double)noise(i, 7, 0)));
    }
    assert_true(salience_fit_solve(&fit, w));
    for (unsigned d = 0; d < DIM; d++)
        assert_true(fabsf(w[d] - (d == 2 ? 0.3f : d == 9 ? -0.2f : 0)) < 0.02f);
    assert_true(fabsf(w[DIM] - 0.1f) < 0.02f && fabsf(w[DIM + 1] + 6) < 0.3f);
    salience_fit_free(&fit);
}

/* All queries lean towards one dim, whatever else they want: who has keys along it receives the most. */
static struct kv_trace *read_again(uint64_t seed)
{
    struct kv_trace_head h = {
        .n_layers = 1, .n_heads = 1, .n_kv_heads = 1, .d_k = DIM, .d_v = DIM, .n_tokens = TOKENS, .scale = 1};
    struct kv_trace *t;
    struct skv_error err = {0};
    check(kv_trace_create(path, &h, &t, &err), &err);
    for (uint64_t i = 0; i < TOKENS; i++) {
        float q[DIM], k[DIM], v[DIM] = {1};
        for (unsigned d = 0; d < DIM; d++) {
            k[d] = noise(i + seed, 3, d);
            q[d] = 0.3f * noise(i + seed, 4, d) + (d == 1 ? 1.0f : 0);
        }
        kv_trace_put(t, 0, i, 1, q, k, v);
        t->mark[i] = i >= TOKENS / 2 && i % 32 == 0 ? KV_TRACE_ORDINARY : KV_TRACE_OTHER;
    }
    return t;
}

static void test_fit_learns_salience(void **s)
{
    (void)s;
    struct fit fit = {.window = 128, .protected_pages = 4};
    struct skv_calibration *c;
    struct skv_error err = {0};
    for (uint64_t seed = 0; seed < 3; seed++) {
        struct kv_trace *t = read_again(seed * TOKENS);
        check(fit_add(&fit, t, NULL, &err), &err);
        kv_trace_close(t);
    }
    check(fit_calibration(&fit, &c, &err), &err);
    assert_int_equal(c->d_k, DIM);
    for (unsigned d = 0; d < DIM; d++)
        if (d != 1)
            assert_true(fabsf(c->salience[d]) < 0.15f && c->salience[1] > 0.8f);
    fit_free(&fit);
    free(c);
    unlink(path);
}

/* ---- contexts ---- */

struct bits {
    uint64_t prefilled, decoded;
    uint8_t chain[2][CHAIN_BYTES]; /* of a prefilled block, and of the last sealed one */
    uint64_t wanted;
};

static struct bits run(skv_tier *t, const struct skv_context_opts *o)
{
    struct bits b = {1, 1, {{0}}, 0};
    struct skv_stats stats;
    skv_context *c = open_context(t, o);
    prefill(t, c, 0, 1000, CHUNK, &b.prefilled);
    skv_context_stats_reset(c);
    decode(t, c, 1000, 1200, &b.decoded);
    skv_context_stats(c, &stats);
    b.wanted = stats.pages_wanted;
    memcpy(b.chain[0], context_chain(c, 2), CHAIN_BYTES);
    memcpy(b.chain[1], context_chain(c, c->sealed - 1), CHAIN_BYTES);
    skv_context_close(c);
    return b;
}

static bool same(const void *a, const void *b)
{
    return memcmp(a, b, CHAIN_BYTES) == 0;
}

static void test_context_follows(void **s)
{
    (void)s;
    struct skv_calibration_head heads[LAYERS * KV_HEADS];
    struct skv_calibration one = example(heads, 1.0f);
    struct skv_context_opts o = small_opts();
    o.prefill.policy = SKV_DENSE;
    skv_tier *t = open_tier(NULL, 2);
    struct bits plain = run(t, &o);
    o.calibration = &one;
    struct bits ones = run(t, &o); /* gamma 1 and the uniform schedule: nothing is different */
    assert_memory_equal(&ones, &plain, sizeof plain);

    o.schedule = SKV_CALIBRATED;
    struct bits split = run(t, &o);
    assert_true(split.prefilled == plain.prefilled && same(split.chain[0], plain.chain[0]));
    assert_true(split.decoded != plain.decoded && !same(split.chain[1], plain.chain[1]));
    assert_int_equal(split.wanted, plain.wanted); /* as many pages */

    struct skv_calibration_head tempered[LAYERS * KV_HEADS];
    struct skv_calibration quarter = example(tempered, 0.25f);
    o.schedule = SKV_UNIFORM;
    o.calibration = &quarter;
    struct bits gamma = run(t, &o);
    assert_true(gamma.prefilled == plain.prefilled && same(gamma.chain[0], plain.chain[0]));
    assert_true(gamma.decoded != plain.decoded && !same(gamma.chain[1], plain.chain[1]));
    o.prefill.policy = SKV_CASCADE; /* then what is prefilled depends on it too */
    struct bits scouted = run(t, &o);
    o.calibration = NULL;
    struct bits unscouted = run(t, &o);
    assert_false(same(scouted.chain[0], unscouted.chain[0]));

    o.calibration = &quarter;
    skv_context *c = NULL;
    struct skv_error err = {0};
    quarter.fingerprint[0]++;
    assert_int_equal(skv_context_open(t, &model, &o, &c, &err), -EINVAL);
    assert_non_null(strstr(err.text, "another model"));
    quarter = example(tempered, 0.25f);
    quarter.n_kv_heads = 1;
    assert_int_equal(skv_context_open(t, &model, &o, &c, &err), -EINVAL);
    assert_non_null(strstr(err.text, "another shape"));
    quarter = learned(tempered);
    quarter.d_k = 32;
    assert_int_equal(skv_context_open(t, &model, &o, &c, &err), -EINVAL);
    assert_non_null(strstr(err.text, "keys of 32 dims, and layer 0 has 64"));
    o.calibration = NULL;
    o.schedule = SKV_CALIBRATED;
    assert_int_equal(skv_context_open(t, &model, &o, &c, &err), -EINVAL);
    assert_non_null(strstr(err.text, "needs a calibration"));
    skv_tier_close(t);
}

/* What is saved has its calibration with it, and indexes of two calibrations don't meet. */
static void test_saved_with_its_calibration(void **s)
{
    (void)s;
    struct skv_calibration_head heads[LAYERS * KV_HEADS];
    struct skv_calibration c = example(heads, 0.25f);
    struct skv_context_opts o = small_opts(), plain;
    struct skv_error err = {0};
    o.prefill.policy = SKV_DENSE;
    plain = o;
    o.calibration = &c;
    o.schedule = SKV_CALIBRATED;
    skv_tier *t = open_tier(NULL, 2);
    uint64_t skip = 1, want = 1, got = 1, forked = 1, without = 1;
    skv_context *first = open_context(t, &plain), *ctx, *again, *fork;
    prefill(t, first, 0, 1000, CHUNK, &skip); /* the same blocks, whose index is another */
    check(skv_context_snapshot(first, "plain", NULL, &err), &err);
    decode(t, first, 1000, 1100, &without);
    skv_context_close(first);
    ctx = open_context(t, &o);
    prefill(t, ctx, 0, 1000, CHUNK, &skip);
    check(skv_context_snapshot(ctx, "calibrated", NULL, &err), &err);
    check(skv_context_fork(ctx, &fork, &err), &err);
    decode(t, ctx, 1000, 1100, &want);
    decode(t, fork, 1000, 1100, &forked);
    assert_true(forked == want && want != without);
    check(skv_context_reopen(t, &model, NULL, "calibrated", &again, &err), &err);
    decode(t, again, 1000, 1100, &got);
    assert_true(got == want);
    skv_context_close(again);

    assert_int_equal(skv_context_reopen(t, &model, &plain, "calibrated", &again, &err), -EINVAL);
    assert_non_null(strstr(err.text, "another calibration"));
    struct skv_context_opts lean = o; /* its index is other bytes, too */
    lean.representatives = SKV_REPS_LEAN;
    assert_int_equal(skv_context_reopen(t, &model, &lean, "calibrated", &again, &err), -EINVAL);
    assert_non_null(strstr(err.text, "other representatives"));
    uint32_t ids[1000];
    for (unsigned i = 0; i < 1000; i++)
        ids[i] = id_of(i);
    check(skv_context_open_prefix(t, &model, &plain, ids, 1000, CHUNK, &again, &err), &err);
    assert_int_equal(skv_length(again), 896);
    got = 1;
    prefill(t, again, 896, 1000, CHUNK, &skip);
    decode(t, again, 1000, 1100, &got);
    assert_true(got == without);
    skv_context_close(again);
    heads[0].gamma_page = 0.5f; /* nobody stored an index with this one */
    check(skv_context_open_prefix(t, &model, &o, ids, 1000, CHUNK, &again, &err), &err);
    assert_int_equal(skv_length(again), 0);
    skv_context_close(again);
    skv_context_close(ctx);
    skv_context_close(fork);
    skv_tier_close(t);
}

/* Projected: other representatives, so other choices and names for what is decoded; everything is still dense
 * where the budget is; saved and found again, it goes on as if it had never stopped. */
static void test_context_projects(void **s)
{
    (void)s;
    struct skv_calibration_head heads[LAYERS * KV_HEADS];
    struct skv_calibration c = projecting(heads), unprojected = learned(heads);
    struct skv_context_opts o = small_opts(), plain;
    struct skv_error err = {0};
    o.prefill.policy = SKV_DENSE;
    plain = o;
    plain.calibration = &unprojected;
    o.calibration = &c;
    for (unsigned lean = 0; lean < 2; lean++) {
        skv_tier *t = open_tier(NULL, 2);
        o.representatives = plain.representatives = lean ? SKV_REPS_LEAN : SKV_REPS_FULL;
        struct bits without = run(t, &plain), with = run(t, &o);
        for (unsigned i = 0; i < 3; i++) { /* whoever reads representatives does */
            struct skv_context_opts third = o;
            third.decode.policy = (enum skv_policy[]){SKV_RETRIEVAL, SKV_HIERARCHICAL, SKV_SALIENCE}[i];
            assert_true(run(t, &third).decoded != with.decoded);
        }
        assert_true(with.prefilled == without.prefilled && same(with.chain[0], without.chain[0]));
        assert_true(with.decoded != without.decoded && !same(with.chain[1], without.chain[1]));
        assert_int_equal(with.wanted, without.wanted);

        struct skv_context_opts all = o, dense = o;
        all.decode.budget = 4096;
        dense.decode.policy = SKV_DENSE;
        assert_true(run(t, &all).decoded == run(t, &dense).decoded);

        uint64_t skip = 1, want = 1, got = 1;
        uint32_t ids[1000];
        skv_context *ctx = open_context(t, &o), *again;
        prefill(t, ctx, 0, 1000, CHUNK, &skip);
        check(skv_context_snapshot(ctx, "projected", NULL, &err), &err);
        decode(t, ctx, 1000, 1100, &want);
        check(skv_context_reopen(t, &model, NULL, "projected", &again, &err), &err);
        decode(t, again, 1000, 1100, &got);
        assert_true(got == want);
        skv_context_close(again);
        for (unsigned i = 0; i < 1000; i++)
            ids[i] = id_of(i);
        check(skv_context_open_prefix(t, &model, &plain, ids, 1000, CHUNK, &again, &err), &err);
        assert_int_equal(skv_length(again), 0); /* nobody stored an index of that kind */
        skv_context_close(again);
        check(skv_context_open_prefix(t, &model, &o, ids, 1000, CHUNK, &again, &err), &err);
        assert_int_equal(skv_length(again), 896);
        skv_context_close(again);
        skv_context_close(ctx);
        skv_tier_close(t);
    }
}

/* Queries and keys that meet in few of their dims: these are found, whatever else either has. */
static void test_projection_keeps_the_scores(void **s)
{
    (void)s;
    enum { KEPT = 8, MEET = 6 };
    struct projection_fit f;
    float p[2 * KEPT * DIM], k[DIM], q[DIM], pk[KEPT], rq[KEPT];
    assert_int_equal(projection_fit_new(&f, DIM), 0);
    assert_false(projection_fit_solve(&f, KEPT, p));
    for (uint64_t i = 0; i < 2000;
         i++) { /* keys scatter most where no query looks, and the other way round */
        for (unsigned d = 0; d < DIM; d++) {
            k[d] = noise(i, 11, d) * (d < MEET ? 1.0f : d % 2 ? 5.0f : 0.01f);
            q[d] = noise(i, 12, d) * (d < MEET ? 1.0f : d % 2 ? 0.01f : 5.0f);
        }
        projection_fit_key(&f, k);
        projection_fit_query(&f, q);
    }
    assert_true(projection_fit_solve(&f, KEPT, p));
    double error = 0, size = 0;
    for (uint64_t i = 5000; i < 5200; i++) {
        double is = 0, score = 0;
        for (unsigned d = 0; d < DIM; d++) {
            k[d] = noise(i, 11, d) * (d < MEET ? 1.0f : d % 2 ? 5.0f : 0.01f);
            q[d] = noise(i, 12, d) * (d < MEET ? 1.0f : d % 2 ? 0.01f : 5.0f);
            is += (double)q[d] * (double)k[d];
        }
        calibration_project(KEPT, DIM, p, 1, k, pk);
        calibration_project(KEPT, DIM, p + KEPT * DIM, 1, q, rq);
        for (unsigned d = 0; d < KEPT; d++)
            score += (double)pk[d] * (double)rq[d];
        error += (score - is) * (score - is);
        size += is * is;
    }
    if (!(error < 0.1 * size))
        fail_msg("of the scores' variance %.3f is lost", error / size);
    projection_fit_free(&f);
}

int main(void)
{
    make_paths();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_and_back),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_schedules_keep_their_sum),
        cmocka_unit_test(test_calibrated_goes_where_it_holds_most),
        cmocka_unit_test(test_fit_finds_what_was_planted),
        cmocka_unit_test(test_salience_of_a_page),
        cmocka_unit_test(test_regression),
        cmocka_unit_test(test_fit_learns_salience),
        cmocka_unit_test(test_context_follows),
        cmocka_unit_test(test_saved_with_its_calibration),
        cmocka_unit_test(test_context_projects),
        cmocka_unit_test(test_projection_keeps_the_scores),
    };
    return cmocka_run_group_tests_name("calibration", tests, NULL, NULL);
}
