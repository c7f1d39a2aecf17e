/* test_model.c: whole models through the session API, against a plain float64 loop, and against golden logits
 * where the test data is at hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "decoder/model/sample.h"
#include "tests/unit/model_reference.h"
#include "tests/unit/model_run.h"

/* ---- random models ---- */

static void test_random_models(void **state)
{
    (void)state;
    static const uint32_t types[] = {GGML_F32,  GGML_F16,  GGML_BF16, GGML_Q8_0,
                                     GGML_Q4_0, GGML_Q4_K, GGML_Q6_K};
    enum { N = 21 };
    uint32_t ids[N];
    struct random_model_opts o;
    random_model_defaults(&o);
    o.vocab = 300;
    make_ids(ids, N, o.vocab);
    for (unsigned i = 0; i < 14; i++) {
        char what[60];
        o.arch = i % 2 ? MODEL_QWEN2 : MODEL_LLAMA;
        o.type = types[i / 2];
        o.tied = i % 3 == 1;
        o.ff = o.type == GGML_Q4_K || o.type == GGML_Q6_K ? 512 : 352;
        o.seed = i + 1;
        const char *path = write_random("random.gguf", &o);
        struct gguf *g = open_gguf(path);
        struct reference r = {.o = o, .gguf = g, .n = N, .n_rot = o.dim / o.n_heads, .factor = 1};
        float *expected = reference_logits(&r, ids);
        snprintf(what, sizeof what, "%s %s", model_arch_name(o.arch), ggml_type_name(o.type));
        check_passes(what, path, ids, N, expected, SKV_F32, 1e-4);
        free(expected);
        gguf_close(g);
    }
}

static void test_random_model_mistakes(void **state)
{
    (void)state;
    struct random_model_opts good, o;
    struct skv_error err;
    random_model_defaults(&good);
    const char *path = file_named("never.gguf");
#define REFUSED(change, word)                                          \
    do {                                                               \
        o = good;                                                      \
        change;                                                        \
        assert_int_equal(random_model_write(path, &o, &err), -EINVAL); \
        assert_non_null(strstr(err.text, word));                       \
    } while (0)
    REFUSED(o.vocab = 258, "vocabulary");
    REFUSED(o.n_heads = 3, "heads");
    REFUSED(o.n_heads = 64, "heads");
    REFUSED((o.type = GGML_Q6_K, o.ff = 300), "multiples");
    REFUSED(o.n_layers = 0, "layers");
    assert_int_equal(access(path, F_OK), -1);
}

static void test_same_seed_same_file(void **state)
{
    (void)state;
    struct random_model_opts o;
    random_model_defaults(&o);
    struct model *a = open_model(write_random("a.gguf", &o)), *b = open_model(write_random("b.gguf", &o));
    o.seed++;
    struct model *c = open_model(write_random("c.gguf", &o));
    o.seed--;
    o.rope_base++;
    struct model *d = open_model(write_random("d.gguf", &o));
    assert_memory_equal(model_fingerprint(a), model_fingerprint(b), SKV_FINGERPRINT);
    assert_memory_not_equal(model_fingerprint(a), model_fingerprint(c), SKV_FINGERPRINT);
    assert_memory_not_equal(model_fingerprint(a), model_fingerprint(d), SKV_FINGERPRINT);
    model_close(a);
    model_close(b);
    model_close(c);
    model_close(d);
}

/* ---- bits ---- */

static void test_bits(void **state)
{
    (void)state;
    enum { N = 400, CHUNK = 48, AFTER = 5, VOCAB = 512 };
    uint32_t ids[N + AFTER];
    static float first[AFTER + 1][VOCAB], other[AFTER + 1][VOCAB];
    struct random_model_opts o;
    random_model_defaults(&o);
    o.type = GGML_Q8_0;
    make_ids(ids, N + AFTER, VOCAB);
    const char *path = write_random("bits.gguf", &o);
    struct run r = run_start(path, SKV_F16, 1);
    prefill(&r, ids, N, CHUNK, first[0]);
    for (uint32_t i = 0; i < AFTER; i++)
        eval(&r, SKV_DECODE, ids + N + i, 1, first[i + 1]);
    struct session_times times = session_times(r.session);
    assert_int_equal(times.tokens, N + AFTER);
    assert_true(times.attention_ns > 0 && times.attention_ns < times.total_ns);

    /* Prefill in two calls cut at a multiple of the chunk, then a pass of five decoded tokens. */
    run_restart(&r, SKV_F16);
    prefill(&r, ids, 2 * CHUNK, CHUNK, NULL);
    prefill(&r, ids + 2 * CHUNK, N - 2 * CHUNK, CHUNK, other[0]);
    eval(&r, SKV_DECODE, ids + N, AFTER, other[1]);
    assert_memory_equal(first, other, sizeof first);
    run_end(&r);

    r = run_start(path, SKV_F16, 2);
    prefill(&r, ids, N, CHUNK, other[0]);
    eval(&r, SKV_DECODE, ids + N, AFTER, other[1]);
    assert_memory_equal(first, other, sizeof first);

    /* Taking back what was decoded, and decoding it again. */
    struct skv_error err;
    if (skv_truncate(r.ctx, N + 1, &err) != 0)
        fail_msg("%s", err.text);
    eval(&r, SKV_DECODE, ids + N + 1, AFTER - 1, other[2]);
    assert_memory_equal(first, other, sizeof first);

    /* A fork of the prompt; what a snapshot of the fork gives back; the same with the scout choosing among
     * all pages. */
    skv_context *straight = r.ctx, *fork = NULL, *reopened = NULL;
    struct skv_context_opts opts = run_options(SKV_F16);
    struct skv_model shape;
    model_shape(r.model, &shape);
    if (skv_truncate(straight, N, &err) != 0 || skv_context_fork(straight, &fork, &err) != 0 ||
        skv_context_snapshot(fork, "bits", NULL, &err) != 0 ||
        skv_context_reopen(tier, &shape, &opts, "bits", &reopened, &err) != 0)
        fail_msg("%s", err.text);
    const struct skv_select all = {.policy = SKV_CASCADE, .budget = 2 * N, .unit = 16};
    skv_context *const contexts[] = {fork, reopened, straight};
    for (unsigned i = 0; i < 3; i++) {
        if (contexts[i] == straight && skv_context_configure(straight, &all, 1 << 20, &err) != 0)
            fail_msg("%s", err.text);
        session_use(r.session, contexts[i]);
        memset(other[1], 0, AFTER * sizeof other[1]);
        for (uint32_t t = 0; t < AFTER; t++)
            eval(&r, SKV_DECODE, ids + N + t, 1, other[t + 1]);
        assert_memory_equal(first, other, sizeof first);
    }
    skv_context_close(fork);
    skv_context_close(reopened);
    run_end(&r);
}

static int stop_at_second(void *arg, size_t done, size_t total)
{
    assert_int_equal(total, 50);
    assert_true(done <= total);
    return ++*(int *)arg == 2 ? -ECANCELED : 0;
}

static void test_session_mistakes(void **state)
{
    (void)state;
    struct random_model_opts o;
    random_model_defaults(&o);
    uint32_t ids[50];
    static float logits[512];
    struct skv_error err;
    make_ids(ids, 50, 512);
    struct run r = run_start(write_random("mistakes.gguf", &o), SKV_F16, 1);
    assert_int_equal(session_eval(r.session, SKV_DECODE, &(uint32_t){512}, 1, logits, false, &err), -EINVAL);
    assert_non_null(strstr(err.text, "512"));
    assert_int_equal(skv_length(r.ctx), 0);
    int calls = 0;
    assert_int_equal(session_prefill(r.session, ids, 50, 16, stop_at_second, &calls, logits, &err),
                     -ECANCELED);
    assert_int_equal(skv_length(r.ctx), 32);
    run_end(&r);
}

/* ---- batches ---- */

enum { SEQUENCES = 21, STEPS = 80, BATCH_VOCAB = 512 };

/* Contexts of 1 to some hundred tokens, of which the longer ones have pages on the node; a policy that
 * selects, one that reads all. */
static void open_sequences(struct run *r, skv_context *ctx[SEQUENCES], skv_context *alone[SEQUENCES])
{
    uint32_t ids[500];
    make_ids(ids, 500, BATCH_VOCAB);
    for (unsigned i = 0; i < SEQUENCES; i++) {
        const struct skv_select some = {.policy = SKV_CASCADE, .budget = 64, .unit = 16};
        struct skv_error err = {0};
        run_context(r, SKV_F16);
        session_use(r->session, r->ctx);
        prefill(r, ids + i, 1 + 23 * i, 64, NULL);
        if ((i % 2 && skv_context_configure(r->ctx, &some, 1 << 16, &err)) ||
            skv_context_fork(r->ctx, &alone[i], &err))
            fail_msg("%s", err.text);
        ctx[i] = r->ctx;
    }
}

/* Every sequence of a batch gets the bits that it gets alone, over steps in which blocks are sealed; one that
 * fails harms nobody, and goes on as if nothing had been. */
static void test_batches(void **state)
{
    (void)state;
    static float together[SEQUENCES][BATCH_VOCAB], one[BATCH_VOCAB];
    skv_context *ctx[SEQUENCES], *alone[SEQUENCES];
    struct skv_error errs[SEQUENCES];
    struct random_model_opts o;
    random_model_defaults(&o);
    struct run r = run_start(write_random("batches.gguf", &o), SKV_F16, 2);
    skv_context *first = r.ctx;
    open_sequences(&r, ctx, alone);
    for (unsigned step = 0; step < STEPS; step++) {
        struct session_step steps[SEQUENCES];
        unsigned n = step % 5 ? SEQUENCES : 2 + step % 7, bad = step % 7 == 3 ? step % n : SEQUENCES;
        for (unsigned i = 0; i < n; i++)
            steps[i] = (struct session_step){.ctx = ctx[i],
                                             .id = i == bad ? BATCH_VOCAB : (step * 31 + i * 7) % BATCH_VOCAB,
                                             .err = &errs[i]};
        session_eval_batch(r.session, steps, n, together[0]);
        for (unsigned i = 0; i < n; i++) {
            assert_int_equal(steps[i].rc, i == bad ? -EINVAL : 0);
            if (i != bad) {
                session_use(r.session, alone[i]);
                eval(&r, SKV_DECODE, &steps[i].id, 1, one);
                if (memcmp(one, together[i], sizeof one))
                    fail_msg("step %u: sequence %u of %u has other bits than alone", step, i, n);
            }
            assert_int_equal(skv_length(ctx[i]), skv_length(alone[i]));
        }
    }
    for (unsigned i = 0; i < SEQUENCES; i++) {
        skv_context_close(ctx[i]);
        skv_context_close(alone[i]);
    }
    r.ctx = first;
    run_end(&r);
}

static void test_angles_far_out(void **state)
{
    (void)state;
    enum { PAIRS = 32 };
    double freq[PAIRS];
    float table[3][PAIRS][2];
    for (unsigned i = 0; i < PAIRS; i++)
        freq[i] = pow(10000, -(double)i / PAIRS);
    rope_table(NULL, 1048573, 3, PAIRS, freq, &table[0][0][0]);
    for (unsigned t = 0; t < 3; t++)
        for (unsigned i = 0; i < PAIRS; i++) {
            long double angle = (1048573.0L + t) * powl(10000, -(long double)i / PAIRS);
            assert_true(fabsl((long double)table[t][i][0] - cosl(angle)) < 1e-7L);
            assert_true(fabsl((long double)table[t][i][1] - sinl(angle)) < 1e-7L);
        }
}

/* ---- the test data ---- */

static const char *data_file(const char *name)
{
    static char path[600];
    const char *root = getenv("SCOUTKV_TEST_DATA");
    if (!root) {
        print_message("SKIPPED: SCOUTKV_TEST_DATA is not set, so golden files are not compared\n");
        return NULL;
    }
    snprintf(path, sizeof path, "%s/%s", root, name);
    return path;
}

static size_t read_ids(const char *name, uint32_t *ids, size_t max)
{
    FILE *f = fopen(data_file(name), "r");
    size_t n = 0;
    if (!f)
        fail_msg("%s: %s", name, strerror(errno));
    while (n < max && fscanf(f, "%u", &ids[n]) == 1)
        n++;
    fclose(f);
    return n;
}

static void test_golden_logits(void **state)
{
    (void)state;
    static const char *const names[] = {"rand-llama-F16",    "rand-llama-Q8_0", "rand-llama-Q4_0",
                                        "rand-llama-Q4_K_M", "rand-llama-Q6_K", "rand-qwen2-Q8_0",
                                        "stories260K"};
    enum { MAX = 512, VOCAB = 512 };
    static uint32_t ids[MAX];
    static float expected[MAX * VOCAB];
    if (!data_file(""))
        skip();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char name[100];
        snprintf(name, sizeof name, "golden/%s.tokens.txt", names[i]);
        size_t n = read_ids(name, ids, MAX);
        snprintf(name, sizeof name, "golden/%s.logits.f32", names[i]);
        FILE *f = fopen(data_file(name), "rb");
        assert_non_null(f);
        assert_int_equal(fread(expected, sizeof *expected * VOCAB, n, f), n);
        fclose(f);
        char path[600];
        snprintf(name, sizeof name, "%s.gguf", names[i]);
        assert_true(snprintf(path, sizeof path, "%s/%s", getenv("SCOUTKV_TEST_DATA"), name) > 0);
        check_passes(names[i], path, ids, (uint32_t)n, expected, SKV_F32, 1e-4);
        check_passes(names[i], path, ids, (uint32_t)n, expected, SKV_F16, 5e-3);
        if (strstr(names[i], "-Q"))
            check_rounded(names[i], path, ids, (uint32_t)n, expected, 5e-2);
    }
}

static void test_golden_greedy(void **state)
{
    (void)state;
    enum { MAX = 512, NEW = 64 };
    static uint32_t ids[MAX], expected[NEW];
    static float logits[512];
    if (!data_file(""))
        skip();
    size_t n = read_ids("golden/stories260K.tokens.txt", ids, MAX);
    assert_int_equal(read_ids("golden/stories260K.greedy.txt", expected, NEW), NEW);
    struct run r = run_start(data_file("stories260K.gguf"), SKV_F32, 2);
    struct sampler greedy = {{.temperature = 0}, 1};
    struct skv_error err;
    assert_int_equal(r.model->params.vocab, 512);
    prefill(&r, ids, n, 128, logits);
    for (unsigned i = 0; i < NEW; i++) {
        uint32_t id;
        assert_int_equal(sample_next(&greedy, logits, 512, &id, &err), 0);
        if (id != expected[i])
            fail_msg("token %u is %u, golden is %u", i, id, expected[i]);
        eval(&r, SKV_DECODE, &id, 1, logits);
    }
    run_end(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_models),       cmocka_unit_test(test_random_model_mistakes),
        cmocka_unit_test(test_same_seed_same_file), cmocka_unit_test(test_bits),
        cmocka_unit_test(test_session_mistakes),    cmocka_unit_test(test_batches),
        cmocka_unit_test(test_angles_far_out),      cmocka_unit_test(test_golden_logits),
        cmocka_unit_test(test_golden_greedy),
    };
    return cmocka_run_group_tests_name("model", tests, set_up, tear_down);
}
