/* test_refresh.c: steps that look broader: when they come, and the same bits whatever the road. */
#include "decoder/context/internal.h"
#include "tests/unit/context_engine.h"
#include "tests/unit/three_nodes.h"

#include <math.h>

enum { PROMPT = 1500, STEPS = 24, HEADS_A_STEP = LAYERS * KV_HEADS };

static struct skv_context_opts opts_of(const char *policy, float turn)
{
    struct skv_context_opts o = small_opts();
    struct skv_error err = {0};
    o.decode.budget = 64;
    o.decode.refresh_turn = turn;
    check(skv_policy_parse(policy, &o.decode, &err), &err);
    return o;
}

/* Policies that look at the query, and that learn from a refresh what they never read. */
static const char *const policies[] = {"cascade", "heavy-hitter", "tova", "cascade:beta=0.7"};
enum { POLICIES = sizeof policies / sizeof *policies };

static uint64_t refreshes(const skv_context *c)
{
    struct skv_stats st;
    skv_context_stats(c, &st);
    return st.refreshes;
}

static uint64_t straight(const char *nodes, unsigned threads, const struct skv_context_opts *o, uint64_t *n)
{
    skv_tier *t = open_tier(nodes, threads);
    skv_context *c = open_context(t, o);
    uint64_t digest = 1;
    prefill(t, c, 0, PROMPT, 128, &digest);
    decode(t, c, PROMPT, PROMPT + STEPS, &digest);
    *n = refreshes(c);
    skv_context_close(c);
    skv_tier_close(t);
    return digest;
}

/* Every query has turned at 1, none at 0, and of noise some at a cosine between. */
static void some_queries_turn(void **state)
{
    (void)state;
    struct skv_context_opts o = opts_of("cascade", 0);
    uint64_t n, digest = straight(NULL, 2, &o, &n);
    assert_int_equal(n, 0);
    o.decode.refresh_turn = 1;
    assert_true(straight(NULL, 2, &o, &n) != digest);
    assert_int_equal(n, STEPS * HEADS_A_STEP);
    o.decode.refresh_turn = 0.01f;
    straight(NULL, 2, &o, &n);
    assert_in_range(n, STEPS * HEADS_A_STEP / 8, STEPS * HEADS_A_STEP * 7 / 8);
    o.decode.refresh_budget = 0;
    skv_tier *t = open_tier(NULL, 1);
    skv_context *c;
    struct skv_error err;
    assert_int_equal(skv_context_open(t, &model, &o, &c, &err), -22);
    o.decode.refresh_budget = 2;
    o.decode.refresh_turn = NAN;
    assert_int_equal(skv_context_open(t, &model, &o, &c, &err), -22);
    o.decode.refresh_turn = 0;
    o.prefill.refresh_turn = 0.5f;
    o.prefill.refresh_budget = 2;
    assert_int_equal(skv_context_open(t, &model, &o, &c, &err), -22);
    skv_tier_close(t);
}

static void nodes_and_threads_change_nothing(void **state)
{
    (void)state;
    for (size_t i = 0; i < POLICIES; i++) {
        struct skv_context_opts o = opts_of(policies[i], 0.01f);
        uint64_t n, m, want = straight(NULL, 1, &o, &n);
        assert_true(straight(three.list, 2, &o, &m) == want && n == m);
    }
}

/* Speculation that is taken back, passes of many, a fork, and a saved context end where a straight run does.
 */
static void every_road_turns_alike(void **state)
{
    (void)state;
    for (size_t i = 0; i < POLICIES; i++) {
        struct skv_context_opts o = opts_of(policies[i], 0.01f);
        struct skv_error err = {0};
        uint64_t n, want = straight(NULL, 2, &o, &n), digest = 1, waste = 1;
        skv_tier *t = open_tier(NULL, 2);
        skv_context *c = open_context(t, &o), *d;
        prefill(t, c, 0, PROMPT, 128, &digest);
        decode(t, c, PROMPT, PROMPT + 4, &digest);
        must_pass(t, c, SKV_DECODE, PROMPT + 4, 5, &waste);
        check(skv_truncate(c, PROMPT + 6, &err), &err); /* two of five stay */
        check(skv_truncate(c, PROMPT + 4, &err), &err);
        decode(t, c, PROMPT + 4, PROMPT + 8, &digest);
        must_pass(t, c, SKV_PREFILL, PROMPT + 8, 3, &waste);
        check(skv_truncate(c, PROMPT + 8, &err), &err);
        check(skv_context_fork(c, &d, &err), &err);
        must_pass(t, c, SKV_DECODE, PROMPT + 8, 3, &waste);
        skv_context_close(c);
        decode(t, d, PROMPT + 8, PROMPT + 12, &digest);
        check(skv_context_snapshot(d, "road", NULL, &err), &err);
        skv_context_close(d);
        uint64_t again = digest;
        check(skv_context_reopen(t, &model, NULL, "road", &c, &err), &err);
        decode(t, c, PROMPT + 12, PROMPT + STEPS, &digest);
        skv_context_close(c);
        /* the last step once more, as --resume does */
        check(skv_context_reopen(t, &model, NULL, "road", &c, &err), &err);
        check(skv_truncate(c, PROMPT + 11, &err), &err);
        must_pass(t, c, SKV_DECODE, PROMPT + 11, 1, &waste);
        decode(t, c, PROMPT + 12, PROMPT + STEPS, &again);
        if (digest != want || again != want)
            fail_msg("%s: other bits than straight", policies[i]);
        skv_context_close(c);
        skv_tier_close(t);
    }
}

static void a_pass_of_many_is_as_many_passes(void **state)
{
    (void)state;
    for (size_t i = 0; i < POLICIES; i++) {
        uint64_t last[2] = {1, 1}, turned[2], skip = 1;
        for (unsigned many = 0; many < 2; many++) {
            struct skv_context_opts o = opts_of(policies[i], 0.01f);
            skv_tier *t = open_tier(NULL, 2);
            skv_context *c = open_context(t, &o);
            prefill(t, c, 0, PROMPT, 128, &skip);
            for (unsigned k = 0; k < 6; k += many ? 6 : 1)
                must_pass(t, c, SKV_DECODE, PROMPT + k, many ? 6 : 1, &skip);
            must_pass(t, c, SKV_DECODE, PROMPT + 6, 1, &last[many]);
            turned[many] = refreshes(c);
            skv_context_close(c);
            skv_tier_close(t);
        }
        assert_true(last[0] == last[1] && turned[0] == turned[1]);
    }
}

/* Behind a prefill, and truncated further than the last pass, there is nothing to compare with. */
static void without_a_reference_it_has_turned(void **state)
{
    (void)state;
    struct skv_context_opts o = opts_of("cascade", 1e-6f);
    struct skv_error err = {0};
    skv_tier *t = open_tier(NULL, 2);
    skv_context *c = open_context(t, &o);
    uint64_t skip = 1, n;
    text.feedback = 0;
    prefill(t, c, 0, PROMPT, 128, &skip);
    assert_int_equal(refreshes(c), 0);
    decode(t, c, PROMPT, PROMPT + 1, &skip);
    assert_int_equal(refreshes(c), HEADS_A_STEP);
    decode(t, c, PROMPT + 1, PROMPT + 9, &skip);
    n = refreshes(c);
    check(skv_truncate(c, PROMPT + 5, &err), &err);
    decode(t, c, PROMPT + 5, PROMPT + 6, &skip);
    assert_int_equal(refreshes(c), n + HEADS_A_STEP);
    n = refreshes(c);
    must_pass(t, c, SKV_PREFILL, PROMPT + 6, 2, &skip);
    decode(t, c, PROMPT + 8, PROMPT + 9, &skip);
    assert_int_equal(refreshes(c), n + HEADS_A_STEP);
    skv_context_close(c);
    skv_tier_close(t);
}

/* A query that stays has not turned; the same with other lengths has not either; one across has. */
static void the_cosine_is_that_of_directions(void **state)
{
    (void)state;
    struct skv_error err = {0};
    struct shape *s;
    check(shape_new(&model, &(struct skv_context_opts){.dtype = SKV_F16}, &s, &err), &err);
    struct turn *t = turn_new(s), *loaded;
    float q[HEADS / KV_HEADS * D] = {1, 2}, across[HEADS / KV_HEADS * D] = {-2, 1},
                               longer[sizeof q / 4] = {3, 6};
    assert_int_equal(turn_begin(t, 10, 4, false), 0);
    assert_true(turn_step(t, 0, 1, 10, q) == -1.0f);
    assert_true(fabsf(turn_step(t, 0, 1, 11, longer) - 1.0f) < 1e-6f);
    assert_true(fabsf(turn_step(t, 0, 1, 12, across)) < 1e-6f);
    assert_true(fabsf(turn_step(t, 0, 1, 12, q) - 1.0f) < 1e-6f); /* asked again, of another query */
    assert_true(turn_step(t, 0, 0, 10, q) == -1.0f);              /* the other head has its own */
    size_t n = turn_save(t, NULL);
    uint8_t *bytes = malloc(n);
    turn_save(t, bytes);
    for (size_t cut = 0; cut < n; cut += cut < 64 ? 1 : 61) /* damaged bytes are refused */
        assert_null(turn_load(s, 14, bytes, cut));
    assert_null(turn_load(s, 13, bytes, n));
    assert_non_null(loaded = turn_load(s, 14, bytes, n));
    assert_true(turn_step(loaded, 0, 1, 13, across) == turn_step(t, 0, 1, 13, across));
    turn_free(loaded);
    turn_free(t);
    shape_unref(s);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(some_queries_turn),
        cmocka_unit_test(nodes_and_threads_change_nothing),
        cmocka_unit_test(every_road_turns_alike),
        cmocka_unit_test(a_pass_of_many_is_as_many_passes),
        cmocka_unit_test(without_a_reference_it_has_turned),
        cmocka_unit_test(the_cosine_is_that_of_directions),
    };
    return cmocka_run_group_tests_name("refresh", tests, start_three, stop_three);
}
