/* test_bits.c: a model's logits have the same bits whatever the road: nodes, threads, a tier that is filled
 * already, cut prefill, truncate, fork, and a snapshot that another process goes on with. */
#include "decoder/model/forward.h"
#include "decoder/model/random_model.h"
#include "tests/unit/nodes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

enum { PROMPT = 1900, CHUNK = 256, DECODED = 30 };

static struct nodes three, one;
static char model_file[] = "/tmp/scoutkv-test-bits-XXXXXX";

struct rig {
    struct model *model;
    skv_tier *tier;
    skv_context *ctx;
    struct session *session;
    float *logits;
};

static void check(int rc, const struct skv_error *err)
{
    if (rc)
        fail_msg("rc %d: %s", rc, err->text);
}

static struct skv_context_opts bits_opts(void)
{
    struct skv_context_opts o;
    skv_context_defaults(&o);
    o.window = 128;
    o.decode.budget = o.prefill.budget = 96;
    o.cache_bytes = 256 << 10;
    return o;
}

/* name: a snapshot to go on with, or NULL for an empty context. */
static void rig_open(struct rig *r, const char *file, const char *nodes, unsigned threads,
                     const struct skv_context_opts *o, const char *name)
{
    struct skv_error err = {0};
    struct skv_model shape;
    check(model_open(file, &r->model, &err), &err);
    model_shape(r->model, &shape);
    check(skv_tier_open(&(struct skv_tier_opts){.nodes = nodes, .threads = threads, .ram = 256 << 20},
                        &r->tier, &err),
          &err);
    if (name)
        check(skv_context_reopen(r->tier, &shape, o, name, &r->ctx, &err), &err);
    else
        check(skv_context_open(r->tier, &shape, o, &r->ctx, &err), &err);
    check(session_open(r->model, r->tier, r->ctx, threads, &r->session, &err), &err);
    r->logits = calloc(r->model->params.vocab, sizeof *r->logits);
}

static void rig_close(struct rig *r)
{
    session_close(r->session);
    skv_context_close(r->ctx);
    skv_tier_close(r->tier);
    model_close(r->model);
    free(r->logits);
}

static uint32_t id_of(uint64_t t)
{
    return (uint32_t)(3 + (t * t * 31 + t * 17 + t / 7) % 250);
}

static void feed(struct rig *r, uint64_t to)
{
    struct skv_error err = {0};
    uint32_t ids[PROMPT];
    uint64_t from = skv_length(session_context(r->session));
    for (uint64_t t = from; t < to; t++)
        ids[t - from] = id_of(t);
    check(session_prefill(r->session, ids, to - from, CHUNK, NULL, NULL, r->logits, &err), &err);
}

/* Decodes greedily n tokens after the logits at hand; the digest of all logits. */
static uint64_t decode(struct rig *r, unsigned n, uint32_t first)
{
    struct skv_error err = {0};
    uint64_t digest = 1;
    uint32_t id = first;
    for (unsigned i = 0; i < n; i++) {
        check(session_eval(r->session, SKV_DECODE, &id, 1, r->logits, false, &err), &err);
        for (uint32_t j = 0; j < r->model->params.vocab; j++) {
            uint32_t bits;
            memcpy(&bits, &r->logits[j], 4);
            digest = (digest ^ bits) * 0x100000001B3u;
            if (r->logits[j] > r->logits[id])
                id = j;
        }
    }
    return digest;
}

static uint64_t straight(const char *nodes, unsigned threads, const struct skv_context_opts *o)
{
    struct rig r;
    rig_open(&r, model_file, nodes, threads, o, NULL);
    feed(&r, PROMPT);
    uint64_t digest = decode(&r, DECODED, 5);
    rig_close(&r);
    return digest;
}

static void test_roads(void **s)
{
    (void)s;
    struct skv_context_opts o = bits_opts();
    uint64_t want = straight(NULL, 2, &o);
    assert_true(straight(one.list, 2, &o) == want);
    assert_true(straight(three.list, 2, &o) == want);
    assert_true(straight(three.list, 2, &o) == want); /* on the tier that the run before filled */
    assert_true(straight(three.list, 1, &o) == want);
    o.decode.budget = 48;
    assert_true(straight(NULL, 2, &o) != want); /* or nothing here could fail */
}

static void test_full_budget_is_dense(void **s)
{
    (void)s;
    struct skv_context_opts o = bits_opts();
    o.decode.budget = o.prefill.budget = 4096;
    uint64_t cascade = straight(three.list, 2, &o);
    o.decode.policy = o.prefill.policy = SKV_DENSE;
    assert_true(straight(NULL, 2, &o) == cascade);
}

static void test_cut_truncate_fork(void **s)
{
    (void)s;
    struct skv_context_opts o = bits_opts();
    struct skv_error err = {0};
    uint64_t want = straight(NULL, 2, &o);
    struct rig r;
    skv_context *f;
    rig_open(&r, model_file, three.list, 2, &o, NULL);
    feed(&r, 2 * CHUNK);
    feed(&r, 5 * CHUNK);
    feed(&r, PROMPT);
    check(skv_context_fork(r.ctx, &f, &err), &err);
    assert_true(decode(&r, DECODED, 5) == want);
    check(skv_truncate(r.ctx, PROMPT, &err), &err);
    assert_true(decode(&r, DECODED, 5) == want);
    check(skv_truncate(r.ctx, 3 * CHUNK, &err), &err);
    feed(&r, PROMPT);
    assert_true(decode(&r, DECODED, 5) == want);
    session_use(r.session, f);
    assert_true(decode(&r, DECODED, 5) == want);
    session_use(r.session, r.ctx);
    skv_context_close(f);
    rig_close(&r);
}

static int reopen_child(const char *file, const char *nodes)
{
    struct skv_context_opts o = bits_opts();
    struct rig r;
    rig_open(&r, file, nodes, 2, &o, "bits");
    printf("%llx\n", (unsigned long long)decode(&r, DECODED, 7));
    rig_close(&r);
    return 0;
}

static void test_snapshot_other_process(void **s)
{
    (void)s;
    struct skv_context_opts o = bits_opts();
    struct skv_error err = {0};
    struct rig r;
    rig_open(&r, model_file, three.list, 2, &o, NULL);
    feed(&r, PROMPT);
    decode(&r, DECODED, 5);
    check(skv_context_snapshot(r.ctx, "bits", NULL, &err), &err);
    uint64_t want = decode(&r, DECODED, 7);
    rig_close(&r);

    char cmd[8192], self[4096] = "";
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n > 0 ? n : 0] = 0;
    snprintf(cmd, sizeof cmd, "%s reopen %s %s", self, model_file, three.list);
    FILE *child = popen(cmd, "r");
    unsigned long long got = 0;
    assert_int_equal(fscanf(child, "%llx", &got), 1);
    assert_int_equal(pclose(child), 0);
    assert_true(got == want);
}

static int start(void **s)
{
    (void)s;
    struct random_model_opts o;
    struct skv_error err = {0};
    random_model_defaults(&o);
    o.context = 1 << 20;
    o.vocab = 300;
    o.seed = 11;
    int fd = mkstemp(model_file);
    if (fd < 0)
        return -1;
    close(fd);
    if (random_model_write(model_file, &o, &err)) {
        print_error("%s\n", err.text);
        return -1;
    }
    return nodes_start(&three, 3, "256MiB") || nodes_start(&one, 1, "256MiB");
}

static int stop(void **s)
{
    (void)s;
    nodes_stop(&three);
    nodes_stop(&one);
    unlink(model_file);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "reopen") == 0)
        return reopen_child(argv[2], argv[3]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_roads),
        cmocka_unit_test(test_full_budget_is_dense),
        cmocka_unit_test(test_cut_truncate_fork),
        cmocka_unit_test(test_snapshot_other_process),
    };
    return cmocka_run_group_tests_name("bits", tests, start, stop);
}
