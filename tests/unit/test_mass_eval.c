/* Offline measurement: policies on a trace whose attention is known, what those that go by the past know, and
 * figures from sums. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "decoder/cli/mass_eval.h"

enum { TOKENS = 1024, D = 8, WINDOW = 64, KEY = 300 };

static char path[300];

/* One layer, two KV heads of one query row each. All keys are small noise but that of token KEY (page 18).
 * Head 0 asks for it in every query. Head 1 asks for it only in queries at multiples of 100. */
static struct kv_trace *make_trace(uint64_t first_marked)
{
    struct kv_trace_head h = {
        .n_layers = 1, .n_heads = 2, .n_kv_heads = 2, .d_k = D, .d_v = D, .n_tokens = TOKENS, .scale = 1};
    struct kv_trace *t;
    struct skv_error err;
    const char *tmp = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/scoutkv-mass-%ld", tmp ? tmp : "/tmp", (long)getpid());
    if (kv_trace_create(path, &h, &t, &err))
        fail_msg("%s", err.text);
    uint64_t lots = 1; /* the seed of the noise */
    for (uint64_t i = 0; i < TOKENS; i++) {
        float q[2][D] = {{0}}, k[2][D] = {{0}}, v[2][D] = {{0}};
        for (unsigned head = 0; head < 2; head++) {
            for (unsigned d = 1; d < D; d++) {
                lots = lots * 6364136223846793005u + 1442695040888963407u;
                k[head][d] = (float)(lots >> 40) / (1 << 24) - 0.5f;
            }
            k[head][0] = i == KEY ? 1.0f : 0.0f;
            q[head][0] = head == 0 || i % 100 == 0 ? 12.0f : 0.0f;
            v[head][0] = i == KEY ? 5.0f : 1.0f;
        }
        kv_trace_put(t, 0, i, 1, q[0], k[0], v[0]);
        t->mark[i] = i >= first_marked ? KV_TRACE_ORDINARY : KV_TRACE_OTHER;
    }
    return t;
}

static struct mass_setup setup_of(const char *const *policies, unsigned n)
{
    struct mass_setup s = {
        .n_policies = n, .budget = {16}, .n_budgets = 1, .window = WINDOW, .protected_pages = 1, .unit = 16};
    struct skv_error err;
    for (unsigned i = 0; i < n; i++) {
        s.policy[i].unit = 16;
        if (skv_policy_parse(policies[i], &s.policy[i], &err))
            fail_msg("%s", err.text);
    }
    return s;
}

static struct mass_trace run(const struct mass_setup *s, const struct kv_trace *t, unsigned threads,
                             struct mass_samples *samples)
{
    struct mass_trace out;
    struct skv_error err;
    struct pool *pool = pool_new(threads);
    if (mass_run(s, t, pool, &out, samples, &err))
        fail_msg("%s", err.text);
    pool_free(pool);
    return out;
}

static void check(double got, double low, double high, const char *what)
{
    if (!(got >= low && got <= high))
        fail_msg("%s is %g, not in [%g, %g]", what, got, low, high);
}

/* The page of the key holds e^12 of what else is about 900 far tokens of weight 1; head 1's other queries
 * give every page the same. */
static void test_policies_on_known_attention(void **state)
{
    (void)state;
    static const char *const policies[] = {"oracle", "cascade", "quest", "random", "window", "dense"};
    enum { N = 6 };
    struct kv_trace *t = make_trace(950);
    struct mass_setup s = setup_of(policies, N);
    struct mass_samples samples[N] = {{0}};
    s.calibration = true;
    struct mass_trace got = run(&s, t, 2, samples);
    struct mass_result r = {.setup = &s, .head = t->head, .traces = &got, .n_traces = 1};
    assert_int_equal(got.queries[1], TOKENS - 950);
    assert_int_equal(got.queries[0], 0);
    assert_true(isnan(mass_share(&r, &got, -1, 0, 0, 0)));
    double of[N];
    for (unsigned p = 0; p < N; p++)
        of[p] = mass_share(&r, &got, -1, 1, p, 0);
    /* head 0: all of it; head 1: a page of 55 in 73 of 74 queries, and its far mass is nearly as large */
    check(of[0], 0.5, 0.55, "the oracle's share");
    for (unsigned p = 1; p < 3; p++)
        check(of[p], 0.99 * of[0] - 0.02, of[0] + 1e-9, policies[p]);
    check(of[3], 0, 0.15, "what lots hold");
    check(of[4], 0, 0, "what a window holds of what is far");
    check(of[5], 1 - 1e-9, 1 + 1e-9, "what dense holds");
    struct mass_figure f = mass_figure_of(&r, 1, 5, 0);
    check(f.error, 0, 1e-9, "the error of dense");
    check(f.tokens, 16 * 50, 16 * 60, "tokens that dense reads");
    f = mass_figure_of(&r, 1, 1, 0);
    check(f.tokens, 16, 16, "tokens that cascade reads");
    check(f.read_step, 1, 1e6, "bytes that cascade reads");
    struct mass_calibration c;
    assert_true(mass_calibration_of(&samples[1], &c));
    assert_false(mass_calibration_of(&samples[2], &c)); /* quest estimates nothing */
    assert_int_equal(samples[1].n, 2 * (TOKENS - 950));
    assert_true(mass_calibration_of(&samples[1], &c));
    check(c.correlation, 0.99, 1, "correlation of estimated and true");
    check(c.missed, 0.35, 0.5, "what is missed"); /* nothing, and 0.8 to 0.9 */
    check(c.estimated, c.missed - 0.15, c.missed + 0.15, "its estimate");
    assert_int_equal(c.broken, 0);
    for (unsigned b = 0; b < BOUNDS; b++)
        check(c.bound[b], c.missed, 1, "the worst case");
    check(c.over[BOUND_LEAST], 0, fmin(c.over[BOUND_BALL], c.over[BOUND_BOX]) + 1e-6, "the least bound");
    free(samples[1].at);
    free(got.cells);
    kv_trace_close(t);
}

/* Head 1 alone. tova sees in a prefill's last query (900 or 901) what the key gets. From the first marked
 * query on it knows only of what it reads. */
static double tova_share(uint64_t first_marked)
{
    static const char *const policies[] = {"tova"};
    struct kv_trace *t = make_trace(first_marked);
    struct mass_setup s = setup_of(policies, 1);
    struct mass_samples samples[1] = {{0}};
    memset(t->mark + first_marked + 1, 0, TOKENS - first_marked - 1);
    t->mark[1000] = KV_TRACE_COPY; /* asks for the key again */
    struct mass_trace got = run(&s, t, 1, samples);
    struct mass_result r = {.setup = &s, .head = t->head, .traces = &got, .n_traces = 1};
    double share = mass_share(&r, &got, -1, 0, 0, 0);
    free(got.cells);
    kv_trace_close(t);
    return share;
}

static void test_the_past_is_what_was_read(void **state)
{
    (void)state;
    /* 901 is the first marked one: the last that is all seen, 900, asks for the key, and its page is kept
     * from then on, since it is the only page that is read. */
    double kept = tova_share(901);
    /* 990: the last all seen, 989, gives all pages of head 1 alike, and the key is not known at 1000. */
    double lost = tova_share(990);
    check(kept, 0.99, 1, "the share of a page that was read all the time");
    check(lost, 0.4, 0.6, "the share when one of two heads never saw it"); /* head 0 always knows it */
}

static void test_threads_do_not_matter(void **state)
{
    (void)state;
    static const char *const policies[] = {"cascade:beta=0.5", "heavy-hitter", "salience", "bigbird"};
    struct kv_trace *t = make_trace(960);
    struct mass_setup s = setup_of(policies, 4);
    struct mass_samples samples[4] = {{0}};
    struct mass_trace a = run(&s, t, 1, samples), b = run(&s, t, 2, samples);
    assert_memory_equal(a.cells, b.cells, mass_cells(&s) * sizeof *a.cells);
    free(a.cells);
    free(b.cells);
    kv_trace_close(t);
}

static void test_broken_trace(void **state)
{
    (void)state;
    static const char *const policies[] = {"quest"};
    struct kv_trace *t = make_trace(960);
    struct mass_setup s = setup_of(policies, 1);
    struct mass_samples samples[1] = {{0}};
    struct mass_trace got;
    struct skv_error err;
    float q[2 * D] = {NAN}, x[2 * D] = {0};
    kv_trace_put(t, 0, 1000, 1, q, x, x);
    assert_int_not_equal(mass_run(&s, t, NULL, &got, samples, &err), 0);
    assert_non_null(strstr(err.text, "layer 0"));
    free(got.cells);
    kv_trace_close(t);
}

/* ---- figures ---- */

static void test_figures_from_sums(void **state)
{
    (void)state;
    static const char *const policies[] = {"quest", "cascade", "oracle"};
    struct mass_setup s = setup_of(policies, 3);
    enum { CELLS = MASS_KINDS * 3 };
    struct mass_cell cells[2][2][CELLS] = {{{{0}}}}; /* traces, layers */
    struct mass_trace traces[2];
    /* shares of layers: quest 0.1 and 0.3, cascade 0.2 and 0.5, oracle 0.3 and 0.5; the second trace: 0.1
     * more */
    static const double shares[3][2] = {{0.1, 0.3}, {0.2, 0.5}, {0.3, 0.5}};
    for (unsigned i = 0; i < 2; i++) {
        for (unsigned layer = 0; layer < 2; layer++)
            for (unsigned p = 0; p < 3; p++)
                cells[i][layer][mass_cell_at(&s, 1, p, 0)] =
                    (struct mass_cell){.far = 8,
                                       .held = 8 * (shares[p][layer] + 0.1 * i),
                                       .rows = 20,
                                       .held_rows = 5,
                                       .all_rows = 20,
                                       .error = 4 + 2 * i,
                                       .choices = 10,
                                       .tokens = 160,
                                       .far_tokens = 10000,
                                       .bytes = 2000};
        traces[i] = (struct mass_trace){.file = "t", .queries = {0, 5}, .n_layers = 2, .cells = cells[i][0]};
    }
    struct mass_result r = {.setup = &s, .head = {.d_k = 64, .d_v = 64}, .traces = traces, .n_traces = 2};
    struct mass_figure f = mass_figure_of(&r, 1, 1, 0);
    assert_int_equal(f.traces, 2);
    check(f.share, 0.4 - 1e-12, 0.4 + 1e-12, "share");
    check(f.share_sd, sqrt(0.005) - 1e-12, sqrt(0.005) + 1e-12, "its spread");
    check(f.gap_closed, 0.75 - 1e-9, 0.75 + 1e-9, "gap closed");
    check(f.share_rows, 0.25, 0.25, "share of rows");
    check(f.error, 0.25 - 1e-12, 0.25 + 1e-12, "error");
    check(f.tokens, 16, 16, "tokens");
    check(f.read_token, 0.2 - 1e-12, 0.2 + 1e-12, "bytes read a token");
    check(f.read_step, 200, 200, "bytes read a step");
    check(mass_figure_of(&r, 1, 0, 0).kept_token, 16, 16, "what quest keeps a token");
    check(mass_share(&r, &traces[1], 0, 1, 2, 0), 0.4 - 1e-12, 0.4 + 1e-12, "a layer's share");
    assert_int_equal(mass_figure_of(&r, 0, 1, 0).traces, 0);
    s.policy[2].policy = SKV_DENSE; /* no oracle */
    assert_true(isnan(mass_figure_of(&r, 1, 1, 0).gap_closed));
}

static void test_calibration(void **state)
{
    (void)state;
    struct mass_sample at[40];
    struct mass_samples s = {.at = at};
    struct mass_calibration c;
    for (size_t i = 0; i < 40; i++) {
        float estimated = (float)((i * 7) % 40) / 40;
        at[i] = (struct mass_sample){.estimated = estimated, .missed = 0.5f * estimated + 0.25f};
    }
    s.n = 9;
    assert_false(mass_calibration_of(&s, &c));
    s.n = 40;
    assert_true(mass_calibration_of(&s, &c));
    check(c.correlation, 1 - 1e-9, 1 + 1e-9, "correlation of a straight line");
    assert_int_equal(c.decile[9].n, 4);
    check(c.decile[0].estimated, 0.0375 - 1e-6, 0.0375 + 1e-6, "the lowest estimates"); /* 0, 1, 2, 3 of 40 */
    check(c.decile[9].missed, 0.71875 - 1e-6, 0.71875 + 1e-6, "what the highest missed");
    for (size_t i = 0; i < 40; i++)
        at[i].missed = -at[i].missed;
    assert_true(mass_calibration_of(&s, &c));
    check(c.correlation, -1 - 1e-9, -1 + 1e-9, "correlation of a falling line");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_policies_on_known_attention), cmocka_unit_test(test_the_past_is_what_was_read),
        cmocka_unit_test(test_threads_do_not_matter),       cmocka_unit_test(test_broken_trace),
        cmocka_unit_test(test_figures_from_sums),           cmocka_unit_test(test_calibration),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
