/* test_context.c: scoutkv.h with synthetic q, k, v: right against a float64 loop, and the same bits whatever
 * the road. */
#include "tests/unit/context_engine.h"
#include "tests/unit/three_nodes.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

struct run {
    skv_tier *tier;
    skv_context *ctx;
    uint64_t digest; /* of every output */
    float *last;     /* outputs of the last pass: layer after layer (n, n_heads, d_v) */
};

static uint64_t straight(const char *nodes, unsigned threads, const struct skv_context_opts *o, uint64_t n,
                         uint64_t m)
{
    skv_tier *t = open_tier(nodes, threads);
    skv_context *c = open_context(t, o);
    uint64_t digest = 1;
    prefill(t, c, 0, n, 128, &digest);
    decode(t, c, n, n + m, &digest);
    skv_context_close(c);
    skv_tier_close(t);
    return digest;
}

/* Plain attention in float64 over all tokens; keys and values rounded like the context's. */
static void reference(unsigned l, uint64_t t, double *out)
{
    const struct skv_layer *y = &layers[l];
    unsigned g = y->n_heads / y->n_kv_heads;
    double *s = malloc((t + 1) * sizeof *s);
    for (unsigned h = 0; h < y->n_heads; h++) {
        double max = -1e300, sum = 0;
        for (uint64_t u = 0; u <= t; u++) {
            s[u] = 0;
            for (unsigned i = 0; i < y->d_k; i++)
                s[u] += (double)q_of(l, t, h * y->d_k + i) * (double)k_of(l, u, h / g * y->d_k + i);
            s[u] *= (double)y->scale;
            max = fmax(max, s[u]);
        }
        for (unsigned i = 0; i < y->d_v; i++)
            out[h * y->d_v + i] = 0;
        for (uint64_t u = 0; u <= t; u++) {
            double p = exp(s[u] - max);
            sum += p;
            for (unsigned i = 0; i < y->d_v; i++)
                out[h * y->d_v + i] += p * (double)v_of(l, u, h / g * y->d_v + i);
        }
        for (unsigned i = 0; i < y->d_v; i++)
            out[h * y->d_v + i] /= sum;
    }
    free(s);
}

static void against_reference(enum skv_mode mode, enum skv_dtype dtype, unsigned n_pass, double tolerance)
{
    struct skv_context_opts o = small_opts();
    o.decode.policy = o.prefill.policy = SKV_DENSE;
    o.dtype = dtype;
    skv_tier *t = open_tier(NULL, 2);
    skv_context *c = open_context(t, &o);
    uint64_t digest = 1, at = 777;
    struct skv_error err = {0};
    prefill(t, c, 0, at, 128, &digest);
    float *out[LAYERS];
    for (unsigned l = 0; l < LAYERS; l++)
        out[l] = malloc(n_pass * layers[l].n_heads * layers[l].d_v * sizeof(float));
    check(pass(t, c, mode, at, n_pass, &digest, out, &err), &err);
    double worst = 0;
    for (unsigned l = 0; l < LAYERS; l++) {
        unsigned no = layers[l].n_heads * layers[l].d_v;
        double *ref = malloc(no * sizeof *ref);
        for (unsigned i = 0; i<n_pass; i += n_pass> 1 ? n_pass - 1 : 1) {
            reference(l, at + i, ref);
            for (unsigned j = 0; j < no; j++)
                worst = fmax(worst, fabs(ref[j] - (double)out[l][i * no + j]));
        }
        free(ref);
        free(out[l]);
    }
    if (worst > tolerance)
        fail_msg("off by %g, allowed %g", worst, tolerance);
    skv_context_close(c);
    skv_tier_close(t);
}

static void test_decode_reference(void **s)
{
    (void)s;
    against_reference(SKV_DECODE, SKV_F32, 1, 2e-5);
    against_reference(SKV_DECODE, SKV_F16, 1, 5e-3);
    against_reference(SKV_DECODE, SKV_F32, 3, 2e-5);
}

static void test_prefill_reference(void **s)
{
    (void)s;
    against_reference(SKV_PREFILL, SKV_F32, 119, 2e-5);
    against_reference(SKV_PREFILL, SKV_F16, 119, 5e-3);
}

static void test_full_budget_is_dense(void **s)
{
    (void)s;
    struct skv_context_opts o = small_opts();
    o.decode.policy = o.prefill.policy = SKV_DENSE;
    uint64_t dense = straight(NULL, 2, &o, 1500, 20);
    for (unsigned unit = 16; unit <= 64; unit *= 2) {
        o.decode = o.prefill = (struct skv_select){.policy = SKV_CASCADE, .budget = 4096, .unit = unit};
        assert_true(straight(NULL, 2, &o, 1500, 20) == dense);
    }
    for (int policy = 0; policy < SKV_POLICIES; policy++) {
        if (policy == SKV_WINDOW) /* spends no budget */
            continue;
        o.decode = o.prefill = (struct skv_select){.policy = policy, .budget = 4096, .unit = 16};
        if (straight(NULL, 2, &o, 1500, 20) != dense)
            fail_msg("%s with all pages is not dense", skv_policy_name(policy));
    }
    o.prefill = (struct skv_select){.policy = SKV_DENSE, .unit = 16};
    o.decode = (struct skv_select){.policy = SKV_CASCADE, .budget = 4096, .unit = 16, .tail = true};
    assert_true(straight(NULL, 2, &o, 1500, 20) == dense);
    o.decode = (struct skv_select){.policy = SKV_CASCADE, .budget = 64, .unit = 16};
    assert_true(straight(NULL, 2, &o, 1500, 20) != dense); /* or the test could not fail */
}

static void test_nodes_and_threads_same_bits(void **s)
{
    (void)s;
    struct skv_context_opts o = small_opts();
    uint64_t embedded = straight(NULL, 2, &o, 3000, 40);
    struct nodes one;
    assert_int_equal(nodes_start(&one, 1, "256MiB"), 0);
    assert_true(straight(one.list, 2, &o, 3000, 40) == embedded);
    nodes_stop(&one);
    assert_true(straight(three.list, 2, &o, 3000, 40) == embedded);
    assert_true(straight(three.list, 2, &o, 3000, 40) == embedded); /* the tier that the first run filled */
    assert_true(straight(three.list, 1, &o, 3000, 40) == embedded);
    o.cache_bytes = 0;
    assert_true(straight(three.list, 2, &o, 3000, 40) == embedded);
    o.decode.policy = o.prefill.policy = SKV_DENSE;
    uint64_t dense = straight(NULL, 2, &o, 3000, 5);
    assert_true(straight(three.list, 2, &o, 3000, 5) == dense);
}

static void test_truncate_fork_reappend(void **s)
{
    (void)s;
    struct skv_context_opts o = small_opts();
    struct skv_error err = {0};
    skv_tier *t = open_tier(three.list, 2);
    skv_context *c = open_context(t, &o), *f;
    uint64_t skip = 1, want = 1, digest = 1;
    prefill(t, c, 0, 1280, 128, &skip);
    decode(t, c, 1280, 1300, &skip);
    decode(t, c, 1300, 1400, &want);

    check(skv_context_fork(c, &f, &err), &err);
    check(skv_truncate(f, 1300, &err), &err);
    assert_int_equal(skv_length(f), 1300);
    decode(t, f, 1300, 1400, &digest);
    assert_true(digest == want);

    /* Deep into what was sealed, and over what prefill wrote: the fork goes back, the first one is untouched.
     */
    check(skv_truncate(f, 640, &err), &err);
    digest = 1;
    prefill(t, f, 640, 1280, 128, &skip);
    decode(t, f, 1280, 1300, &skip);
    decode(t, f, 1300, 1400, &digest);
    assert_true(digest == want);
    check(skv_truncate(c, 1300, &err), &err);
    digest = 1;
    decode(t, c, 1300, 1400, &digest);
    assert_true(digest == want);

    check(skv_truncate(c, 0, &err), &err);
    digest = 1;
    prefill(t, c, 0, 1280, 128, &skip);
    decode(t, c, 1280, 1300, &skip);
    decode(t, c, 1300, 1400, &digest);
    assert_true(digest == want);
    assert_int_equal(skv_truncate(c, 5000, &err), -22);
    skv_context_close(f);
    skv_context_close(c);
    skv_tier_close(t);
}

static int reopen_child(const char *nodes, const char *name)
{
    struct skv_context_opts o = small_opts();
    struct skv_error err = {0};
    skv_tier *t;
    skv_context *c;
    uint64_t digest = 1;
    if (skv_tier_open(&(struct skv_tier_opts){.nodes = nodes, .threads = 2}, &t, &err) ||
        skv_context_reopen(t, &model, &o, name, &c, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    for (uint64_t at = skv_length(c), i = 0; i < 100; i++)
        if (pass(t, c, SKV_DECODE, at + i, 1, &digest, NULL, &err)) {
            fprintf(stderr, "%s\n", err.text);
            return 1;
        }
    printf("%llx\n", (unsigned long long)digest);
    skv_context_close(c);
    skv_tier_close(t);
    return 0;
}

static void test_snapshot_reopen(void **s)
{
    (void)s;
    struct skv_context_opts o = small_opts();
    struct skv_error err = {0};
    skv_tier *t = open_tier(three.list, 2);
    skv_context *c = open_context(t, &o), *r;
    uint64_t skip = 1, want = 1, digest = 0;
    prefill(t, c, 0, 5000, 128, &skip); /* more than one span */
    decode(t, c, 5000, 5010, &skip);
    check(skv_context_snapshot(c, "story", NULL, &err), &err);
    decode(t, c, 5010, 5110, &want);

    char cmd[8192], self[4096] = "";
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n > 0 ? n : 0] = 0;
    snprintf(cmd, sizeof cmd, "%s reopen %s story", self, three.list);
    FILE *child = popen(cmd, "r");
    unsigned long long got = 0;
    assert_int_equal(fscanf(child, "%llx", &got), 1);
    assert_int_equal(pclose(child), 0);
    digest = got;
    assert_true(digest == want);

    assert_int_equal(skv_context_reopen(t, &model, &o, "no such story", &r, &err), -2);
    o.window = 192;
    assert_int_equal(skv_context_reopen(t, &model, &o, "story", &r, &err), -22);
    assert_non_null(strstr(err.text, "other options"));
    skv_context_close(c);
    skv_tier_close(t);
}

static void test_prefill_cut_at_chunks(void **s)
{
    (void)s;
    struct skv_context_opts o = small_opts();
    skv_tier *t = open_tier(NULL, 2);
    skv_context *a = open_context(t, &o), *b = open_context(t, &o);
    uint64_t skip = 1, da = 1, db = 1;
    prefill(t, a, 0, 2048, 256, &skip);
    prefill(t, b, 0, 768, 256, &skip);
    prefill(t, b, 768, 1536, 256, &skip);
    prefill(t, b, 1536, 2048, 256, &skip);
    decode(t, a, 2048, 2068, &da);
    decode(t, b, 2048, 2068, &db);
    assert_true(da == db);
    skv_context_close(a);
    skv_context_close(b);
    skv_tier_close(t);
}

static void test_batch_equals_alone(void **s)
{
    (void)s;
    struct skv_context_opts o = small_opts();
    struct skv_error err = {0};
    skv_tier *t = open_tier(three.list, 2);
    skv_context *c[3];
    uint64_t skip = 1;
    static float q[3][HEADS * D], out[3][HEADS * D_V], alone[HEADS * D_V];
    struct skv_attend_item items[3];
    static float k[KV_HEADS * D], v[KV_HEADS * D_V];
    for (unsigned i = 0; i < 3; i++) {
        c[i] = open_context(t, &o);
        prefill(t, c[i], 0, 512 + 300 * i, 128, &skip);
        uint64_t at = skv_length(c[i]);
        uint32_t id = id_of(at);
        check(skv_append(c[i], SKV_DECODE, 1, &id, NULL, &err), &err);
        for (unsigned j = 0; j < KV_HEADS * D; j++)
            k[j] = k_of(0, at, j);
        for (unsigned j = 0; j < KV_HEADS * D_V; j++)
            v[j] = v_of(0, at, j);
        for (unsigned j = 0; j < HEADS * D; j++)
            q[i][j] = q_of(0, at, j);
        check(skv_put(c[i], 0, k, v, &err), &err);
        items[i] = (struct skv_attend_item){c[i], q[i], out[i]};
    }
    skv_attend *a;
    check(skv_attend_begin(t, 0, items, 3, &a, &err), &err);
    check(skv_attend_finish(a, &err), &err);
    for (unsigned i = 0; i < 3; i++) {
        check(skv_attend_begin(t, 0, &(struct skv_attend_item){c[i], q[i], alone}, 1, &a, &err), &err);
        check(skv_attend_finish(a, &err), &err);
        assert_memory_equal(alone, out[i], sizeof alone);
    }
    items[1].ctx = c[0];
    assert_int_equal(skv_attend_begin(t, 0, items, 2, &a, &err), -22);
    for (unsigned i = 0; i < 3; i++)
        skv_context_close(c[i]);
    skv_tier_close(t);
}

static void test_refresh_selects_more(void **s)
{
    (void)s;
    struct skv_context_opts o = small_opts();
    struct skv_error err = {0};
    skv_tier *t = open_tier(three.list, 2);
    o.decode.refresh = 5;
    o.decode.refresh_budget = 3;
    o.decode_layers[0] = (struct skv_layer_select){1, 2, o.decode};
    o.decode_layers[0].select.refresh = 2;
    o.n_decode_layers = 1;
    skv_context *c = open_context(t, &o), *f, *r;
    uint64_t skip = 1, want = 1, digest = 1;
    struct skv_stats st;
    prefill(t, c, 0, 4096, 256, &skip);
    skv_context_stats_reset(c);
    decode(t, c, 4096, 4106, &skip);
    skv_context_stats(c, &st);
    assert_int_equal(st.refreshes, KV_HEADS * (2 + 5)); /* at 4100 and 4105; in layer 1 at even positions */
    assert_int_equal(st.pages_wanted, KV_HEADS * ((8 + 5) * 9 + (2 + 5) * 25));

    /* Every road to 4107 refreshes next at 4110, in layer 1 at 4108. */
    decode(t, c, 4106, 4107, &skip);
    check(skv_context_snapshot(c, "refreshing", NULL, &err), &err);
    check(skv_context_fork(c, &f, &err), &err);
    decode(t, c, 4107, 4120, &want);
    decode(t, f, 4107, 4120, &digest);
    assert_true(digest == want);
    check(skv_truncate(f, 4107, &err), &err);
    digest = 1;
    decode(t, f, 4107, 4120, &digest);
    assert_true(digest == want);
    check(skv_context_reopen(t, &model, NULL, "refreshing", &r, &err), &err);
    digest = 1;
    decode(t, r, 4107, 4120, &digest);
    assert_true(digest == want);
    skv_context_stats(r, &st);
    assert_int_equal(st.refreshes, KV_HEADS * (2 + 6));
    skv_context_close(r);
    skv_context_close(f);
    skv_context_close(c);

    uint64_t refreshed = straight(NULL, 1, &o, 4096, 20);
    assert_true(straight(three.list, 2, &o, 4096, 20) == refreshed);
    o.decode.refresh = 0;
    assert_true(straight(NULL, 1, &o, 4096, 20) != refreshed);

    /* A schedule splits a refresh's budget too: the same sum, other pages. */
    uint64_t uniform = 0, wanted[2];
    o.n_decode_layers = 0;
    o.decode.refresh = 1;
    for (unsigned i = 0; i < 2; i++) {
        o.schedule = i ? SKV_NARROW_LOW : SKV_UNIFORM;
        c = open_context(t, &o);
        prefill(t, c, 0, 4096, 256, &skip);
        skv_context_stats_reset(c);
        digest = 1;
        decode(t, c, 4096, 4100, &digest);
        skv_context_stats(c, &st);
        wanted[i] = st.pages_wanted;
        assert_true(i == 0 || digest != uniform);
        uniform = digest;
        skv_context_close(c);
    }
    assert_int_equal(wanted[0], wanted[1]);
    o.schedule = SKV_UNIFORM;
    o.prefill.refresh = 5;
    o.prefill.refresh_budget = 3;
    assert_int_equal(skv_context_open(t, &model, &o, &c, &err), -22);
    skv_tier_close(t);
}

static void test_figures(void **s)
{
    (void)s;
    struct skv_context_opts o = small_opts();
    struct skv_error err = {0};
    o.cache_bytes = 64 << 10;
    skv_tier *t = open_tier(three.list, 2);
    skv_context *c = open_context(t, &o);
    uint64_t skip = 1;
    struct skv_stats st;
    prefill(t, c, 0, 4096, 256, &skip);
    check(skv_flush(c, &err), &err); /* unacknowledged blocks are read from here */
    skv_context_stats_reset(c);
    decode(t, c, 4096, 4106, &skip);
    skv_context_stats(c, &st);
    assert_int_equal(st.tokens, 10);
    assert_int_equal(st.passes, 10 * LAYERS);
    assert_true(st.pages_fetched > 0 && st.pages_fetched == st.pages_wanted - st.pages_held);
    /* 8 pages of the budget and one of sinks, per KV head, layer and step */
    assert_int_equal(st.pages_wanted, 10 * LAYERS * KV_HEADS * 9);
    assert_true(st.cache_bytes <= (64 << 10) + 16 * 4096);
    assert_int_equal(st.context_bytes, 4106 * 2 * (KV_HEADS * (D + D_V) + 2 * (32 + 48)));
    assert_true(st.missed_n > 0 && st.missed_mass / st.missed_n > 0 && st.missed_mass / st.missed_n < 1);
    skv_context_close(c);

    o.decode.policy = SKV_WINDOW;
    c = open_context(t, &o);
    prefill(t, c, 0, 1024, 256, &skip);
    skv_context_stats_reset(c);
    decode(t, c, 1024, 1030, &skip);
    skv_context_stats(c, &st);
    assert_int_equal(st.pages_wanted, 6 * LAYERS * KV_HEADS); /* the sinks */
    assert_int_equal(st.pages_fetched, 0);                    /* which never left */
    skv_context_close(c);
    skv_tier_close(t);
}

static void test_full_node_says_so(void **s)
{
    (void)s;
    struct nodes tiny;
    assert_int_equal(nodes_start(&tiny, 1, "8MiB"), 0);
    struct skv_context_opts o = small_opts();
    struct skv_error err = {0};
    skv_tier *t = open_tier(tiny.list, 2);
    skv_context *c = open_context(t, &o);
    uint64_t digest = 1;
    int rc = 0;
    for (uint64_t at = 0; at < 40960 && rc == 0; at += 1024)
        rc = pass(t, c, SKV_PREFILL, at, 1024, &digest, NULL, &err);
    if (rc == 0)
        rc = skv_flush(c, &err);
    assert_true(rc < 0);
    assert_non_null(strstr(err.text, "full"));
    skv_context_close(c);
    skv_tier_close(t);
    nodes_stop(&tiny);
}

static void test_node_dies(void **s)
{
    (void)s;
    struct nodes two;
    assert_int_equal(nodes_start(&two, 2, "64MiB"), 0);
    struct skv_context_opts o = small_opts();
    struct skv_error err = {0};
    skv_tier *t;
    check(skv_tier_open(&(struct skv_tier_opts){.nodes = two.list, .timeout_ms = 700}, &t, &err), &err);
    o.cache_bytes = 0;
    skv_context *c = open_context(t, &o);
    uint64_t digest = 1;
    prefill(t, c, 0, 2048, 256, &digest);
    check(skv_flush(c, &err), &err);
    kill(two.pid[0], SIGKILL);
    waitpid(two.pid[0], NULL, 0);
    two.pid[0] = 0;
    int rc = 0;
    for (uint64_t at = 2048; at < 2100 && rc == 0; at++)
        rc = pass(t, c, SKV_DECODE, at, 1, &digest, NULL, &err);
    assert_int_equal(skv_exit_code(rc), 4);
    assert_true(strlen(err.text) > 10);
    assert_true(skv_length(c) > 2048); /* intact: the pass can be taken back */
    assert_int_equal(skv_truncate(c, skv_length(c) - 1, &err), 0);
    skv_context_close(c);
    skv_tier_close(t);
    nodes_stop(&two);
    assert_int_equal(skv_exit_code(skv_tier_open(
                         &(struct skv_tier_opts){.nodes = "127.0.0.1:9", .timeout_ms = 300}, &t, &err)),
                     4);
    assert_non_null(strstr(err.text, "127.0.0.1:9"));
}

static void test_bad_calls(void **s)
{
    (void)s;
    struct skv_error err = {0};
    skv_tier *t = open_tier(NULL, 1);
    skv_context *c = NULL;
    struct skv_context_opts o = small_opts();
    struct skv_layer odd = {.d_k = 12, .d_v = 8, .n_heads = 1, .n_kv_heads = 1, .scale = 1};
    assert_int_equal(skv_context_open(t, &(struct skv_model){1, &odd, "x"}, &o, &c, &err), -22);
    o.decode.unit = 24;
    assert_int_equal(skv_context_open(t, &model, &o, &c, &err), -22);
    o = small_opts();
    o.seal_lag = 64;
    assert_int_equal(skv_context_open(t, &model, &o, &c, &err), -22);
    o = small_opts();
    c = open_context(t, &o);
    uint32_t id = 1;
    skv_attend *a;
    float x[1024] = {0};
    assert_int_equal(skv_append(c, SKV_DECODE, 0, &id, NULL, &err), -22);
    assert_int_equal(skv_append(c, SKV_DECODE, 1, &id, NULL, &err), 0);
    assert_int_equal(skv_attend_begin(t, 0, &(struct skv_attend_item){c, x, x}, 1, &a, &err), -22);
    assert_int_equal(skv_append(c, SKV_DECODE, 1, &id, NULL, &err), -22); /* no K/V yet */
    assert_int_equal(skv_put(c, 9, x, x, &err), -22);
    skv_context_close(c);
    skv_tier_close(t);
}

static void test_tags_name_blocks(void **s)
{
    (void)s;
    struct skv_context_opts o = small_opts();
    struct skv_error err = {0};
    skv_tier *t = open_tier(NULL, 1);
    skv_context *c = open_context(t, &o);
    static uint8_t tags[512][SKV_TAG];
    static float k[512 * 2 * 64], v[512 * 2 * 64];
    for (unsigned i = 0; i < 512; i++)
        memcpy(tags[i], &i, sizeof i);
    for (size_t i = 0; i < 512 * 2 * 64; i++)
        k[i] = v[i] = noise(i, 1, 1);
    check(skv_append(c, SKV_PREFILL, 512, NULL, tags[0], &err), &err);
    for (unsigned l = 0; l < LAYERS; l++)
        check(skv_put(c, l, k, v, &err), &err);
    uint32_t id = 1;
    assert_int_equal(skv_append(c, SKV_DECODE, 1, &id, NULL, &err), -22);
    check(skv_append(c, SKV_DECODE, 1, NULL, tags[0], &err), &err);
    struct skv_stats st;
    skv_context_stats(c, &st);
    assert_int_equal(st.blocks_sealed, (512 - 128) / 64);
    skv_context_close(c);
    skv_tier_close(t);
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "reopen") == 0)
        return reopen_child(argv[2], argv[3]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode_reference),
        cmocka_unit_test(test_prefill_reference),
        cmocka_unit_test(test_full_budget_is_dense),
        cmocka_unit_test(test_nodes_and_threads_same_bits),
        cmocka_unit_test(test_truncate_fork_reappend),
        cmocka_unit_test(test_snapshot_reopen),
        cmocka_unit_test(test_prefill_cut_at_chunks),
        cmocka_unit_test(test_batch_equals_alone),
        cmocka_unit_test(test_refresh_selects_more),
        cmocka_unit_test(test_figures),
        cmocka_unit_test(test_full_node_says_so),
        cmocka_unit_test(test_node_dies),
        cmocka_unit_test(test_bad_calls),
        cmocka_unit_test(test_tags_name_blocks),
    };
    return cmocka_run_group_tests_name("context", tests, start_three, stop_three);
}
