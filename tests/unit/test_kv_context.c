/* test_kv_context.c: contexts whose K and V are kept in few bits: near the exact result, and the same bits
 * whatever the road, as those of other types (test_context.c). */
#include "tests/unit/saved_asserts.h"

#include <math.h>

static const enum skv_dtype types[] = {SKV_Q8_0, SKV_Q4};
enum { N_TYPES = sizeof types / sizeof *types };

static struct skv_context_opts opts_of(enum skv_dtype type, const char *test)
{
    struct skv_context_opts o = own_opts(test); /* no test shares blocks with another */
    o.dtype = type;
    return o;
}

/* ---- what attention sees ---- */

/* The result with exact keys and values, of one decode step. */
static void outputs(enum skv_dtype type, uint64_t n, float *out[LAYERS])
{
    struct skv_context_opts o = opts_of(type, "near");
    struct skv_error err = {0};
    o.decode.policy = o.prefill.policy = SKV_DENSE;
    skv_tier *t = open_tier(NULL, 2);
    skv_context *c = open_context(t, &o);
    uint64_t digest = 1;
    prefill(t, c, 0, n, CHUNK, &digest);
    check(pass(t, c, SKV_DECODE, n, 1, &digest, out, &err), &err);
    skv_context_close(c);
    skv_tier_close(t);
}

/* Near it: nearer with more bits, and not the same. */
static void test_near_the_exact_result(void **s)
{
    (void)s;
    static float exact[LAYERS][6 * 48], got[LAYERS][6 * 48];
    double off[N_TYPES];
    outputs(SKV_F32, 777, (float *[]){exact[0], exact[1]});
    for (unsigned i = 0; i < N_TYPES; i++) {
        double sum = 0, all = 0;
        outputs(types[i], 777, (float *[]){got[0], got[1]});
        for (unsigned l = 0; l < LAYERS; l++)
            for (unsigned j = 0; j < layers[l].n_heads * layers[l].d_v; j++) {
                double d = (double)got[l][j] - (double)exact[l][j];
                sum += d * d;
                all += (double)exact[l][j] * (double)exact[l][j];
            }
        off[i] = sqrt(sum / all);
    }
    if (!(off[0] > 1e-5 && off[0] < 0.03 && off[1] > off[0] && off[1] < 0.4))
        fail_msg("off by %g with q8_0, by %g with q4", off[0], off[1]);
}

/* ---- the same bits ---- */

static uint64_t straight(const char *nodes, unsigned threads, const struct skv_context_opts *o)
{
    skv_tier *t = open_tier(nodes, threads);
    skv_context *c = open_context(t, o);
    uint64_t digest = 1;
    prefill(t, c, 0, 1400, CHUNK, &digest);
    decode(t, c, 1400, 1440, &digest);
    skv_context_close(c);
    skv_tier_close(t);
    return digest;
}

static void test_nodes_threads_budget(void **s)
{
    (void)s;
    uint64_t digests[N_TYPES];
    for (unsigned i = 0; i < N_TYPES; i++) {
        struct skv_context_opts o = opts_of(types[i], "nodes_threads_budget");
        uint64_t want = digests[i] = straight(NULL, 1, &o);
        assert_true(straight(three.list, 2, &o) == want);
        o.cache_bytes = 0;
        assert_true(straight(three.list, 1, &o) == want); /* what the first run stored */
        o.decode.policy = o.prefill.policy = SKV_DENSE;
        want = straight(three.list, 2, &o);
        assert_true(want != digests[i]); /* or what follows could not fail */
        o.decode = o.prefill = (struct skv_select){.policy = SKV_CASCADE, .budget = 4096, .unit = 16};
        assert_true(straight(three.list, 2, &o) == want);
    }
    assert_true(digests[0] != digests[1]);
}

/* A step's bits don't depend on how many came in its pass, where pages fill between them too. */
static void test_several_at_once(void **s)
{
    (void)s;
    for (unsigned i = 0; i < N_TYPES; i++) {
        struct skv_context_opts o = opts_of(types[i], "several_at_once");
        struct skv_error err = {0};
        skv_tier *t = open_tier(three.list, 2);
        skv_context *c = open_context(t, &o), *f;
        static float one[LAYERS][6 * 48], all[LAYERS][5 * 6 * 48];
        uint64_t skip = 1, at = 1294; /* a page ends behind the second of five */
        prefill(t, c, 0, 1280, CHUNK, &skip);
        decode(t, c, 1280, at, &skip);
        check(skv_context_fork(c, &f, &err), &err);
        check(pass(t, f, SKV_DECODE, at, 5, &skip, (float *[]){all[0], all[1]}, &err), &err);
        for (unsigned j = 0; j < 5; j++) {
            check(pass(t, c, SKV_DECODE, at + j, 1, &skip, (float *[]){one[0], one[1]}, &err), &err);
            for (unsigned l = 0; l < LAYERS; l++) {
                size_t n = layers[l].n_heads * layers[l].d_v;
                assert_memory_equal(all[l] + j * n, one[l], n * sizeof(float));
            }
        }
        skv_context_close(f);
        skv_context_close(c);
        skv_tier_close(t);
    }
}

/* Taken back within what is local to any token, and further to whole pages: as if it had stopped there. */
static void test_truncate_and_resume(void **s)
{
    (void)s;
    text.feedback = 0.5f;
    for (unsigned i = 0; i < N_TYPES; i++) {
        struct skv_context_opts o = opts_of(types[i], "truncate_and_resume");
        struct skv_error err = {0};
        skv_tier *t = open_tier(three.list, 2);
        skv_context *c = open_context(t, &o), *f, *r;
        const char *name = skv_dtype_name(types[i]);
        uint64_t skip = 1, want = 1, got = 1;
        prefill(t, c, 0, 1280, CHUNK, &skip);
        decode(t, c, 1280, 1333, &skip);
        check(skv_context_fork(c, &f, &err), &err);
        decode(t, c, 1333, 1400, &want);

        decode(t, f, 1333, 1350, &skip);
        check(skv_truncate(f, 1333, &err), &err);
        decode(t, f, 1333, 1400, &got);
        assert_true(got == want);

        check(skv_truncate(f, 640, &err), &err); /* what has left comes back */
        save(f, name);
        skv_context_close(f);
        check(skv_context_reopen(t, &model, &o, name, &r, &err), &err);
        prefill(t, r, 640, 1280, CHUNK, &skip);
        decode(t, r, 1280, 1340, &skip);
        save(r, name);
        skv_context_close(r);
        check(skv_context_reopen(t, &model, NULL, name, &r, &err), &err);
        check(skv_truncate(r, 1333, &err), &err); /* into a page that was full when it was saved */
        got = 1;
        decode(t, r, 1333, 1400, &got);
        assert_true(got == want);

        skv_context_close(r);
        o.dtype = SKV_F16;
        assert_int_equal(skv_context_reopen(t, &model, &o, name, &r, &err), -EINVAL);
        assert_non_null(strstr(err.text, "KV dtype, q"));
        skv_context_close(c);
        drop(t, name);
        skv_tier_close(t);
    }
    text.feedback = 0;
}

/* Where a page that has left is cut, its tokens are rounded, and what follows has other names: nobody who has
 * the same tokens finds, or is found to hold, blocks with other bits. */
static void test_cut_page(void **s)
{
    (void)s;
    text.feedback = 0.5f;
    for (unsigned i = 0; i < N_TYPES; i++) {
        struct skv_context_opts o = opts_of(types[i], "cut_page");
        struct skv_error err = {0};
        struct skv_stats st;
        skv_tier *t = open_tier(three.list, 2);
        skv_context *c = open_context(t, &o), *cut, *r;
        const char *name = skv_dtype_name(types[i]);
        uint64_t skip = 1, want = 1, got = 1;
        prefill(t, c, 0, 640, CHUNK, &skip);
        decode(t, c, 640, 1000, &skip);
        check(skv_context_fork(c, &cut, &err), &err);
        check(skv_truncate(cut, 707, &err), &err);
        decode(t, cut, 707, 1100, &skip);
        check(skv_flush(cut, &err), &err);
        skv_context_stats(cut, &st);
        assert_true(st.blocks_sealed > 0 && st.blocks_adopted == 0);
        check(skv_truncate(cut, 720, &err), &err);
        check(skv_truncate(cut, 700, &err), &err); /* again, deeper: of what came back */
        save(cut, name);
        decode(t, cut, 700, 900, &want);
        check(skv_context_reopen(t, &model, &o, name, &r, &err), &err);
        decode(t, r, 700, 900, &got);
        assert_true(got == want);
        drop(t, name);
        skv_context_close(r);
        skv_context_close(cut);
        skv_context_close(c);
        skv_tier_close(t);
    }
    text.feedback = 0;
}

/* By its tokens: with the same type, and with it only. */
static void test_found_by_tokens(void **s)
{
    (void)s;
    text.feedback = 0.5f;
    uint32_t ids[1500];
    for (uint64_t i = 0; i < 1500; i++)
        ids[i] = id_of(i);
    for (unsigned i = 0; i < N_TYPES; i++) {
        struct skv_context_opts o = opts_of(types[i], "found_by_tokens");
        struct skv_error err = {0};
        skv_tier *t = open_tier(three.list, 2);
        skv_context *c = open_context(t, &o), *b;
        uint64_t skip = 1, want = 1, got = 1;
        prefill(t, c, 0, 1280, CHUNK, &skip);
        save(c, "by tokens");
        prefill(t, c, 1280, 1500, CHUNK, &want);
        decode(t, c, 1500, 1520, &want);
        check(skv_context_open_prefix(t, &model, &o, ids, 1499, CHUNK, &b, &err), &err);
        assert_int_equal(skv_length(b), 1280);
        prefill(t, b, 1280, 1500, CHUNK, &got);
        decode(t, b, 1500, 1520, &got);
        assert_true(got == want);
        skv_context_close(b);
        for (enum skv_dtype other = SKV_F16; skv_dtype_name(other); other++) {
            if (other >= SKV_Q8_0 && other <= o.dtype) /* it, and those that were stored before it */
                continue;
            struct skv_context_opts p = o;
            p.dtype = other;
            check(skv_context_open_prefix(t, &model, &p, ids, 1499, CHUNK, &b, &err), &err);
            assert_int_equal(skv_length(b), 0);
            skv_context_close(b);
        }
        drop(t, "by tokens");
        skv_context_close(c);
        skv_tier_close(t);
    }
    text.feedback = 0;
}

/* ---- what is kept ---- */

static void test_bytes(void **s)
{
    (void)s;
    const double share[] = {17.0 / 32, 0}; /* q8_0: 34 bytes where f16 has 64; q4 by its own sum */
    struct skv_stats f16, few;
    for (unsigned i = 0; i <= N_TYPES; i++) {
        struct skv_context_opts o = opts_of(i ? types[i - 1] : SKV_F16, "bytes");
        skv_tier *t = open_tier(NULL, 1);
        skv_context *c = open_context(t, &o);
        uint64_t skip = 1;
        prefill(t, c, 0, 640, CHUNK, &skip);
        skv_context_stats(c, i ? &few : &f16);
        if (i == 1) /* 48 dims take two scales, as 64 do */
            assert_true((double)few.context_bytes <= share[0] * (double)f16.context_bytes * 1.01);
        if (i == 2)
            assert_true((double)few.context_bytes < 0.4 * (double)f16.context_bytes);
        skv_context_close(c);
        skv_tier_close(t);
    }
    assert_null(skv_dtype_name((enum skv_dtype)5));
    struct skv_error err = {0};
    struct skv_context_opts o = opts_of((enum skv_dtype)5, "bytes");
    skv_context *c;
    skv_tier *t = open_tier(NULL, 1);
    assert_int_equal(skv_context_open(t, &model, &o, &c, &err), -EINVAL);
    assert_non_null(strstr(err.text, "q8_0 or q4"));
    skv_tier_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_near_the_exact_result),
        cmocka_unit_test(test_nodes_threads_budget),
        cmocka_unit_test(test_several_at_once),
        cmocka_unit_test(test_truncate_and_resume),
        cmocka_unit_test(test_cut_page),
        cmocka_unit_test(test_found_by_tokens),
        cmocka_unit_test(test_bytes),
    };
    return cmocka_run_group_tests_name("kv_context", tests, start_three, stop_three);
}
