/* Traces of queries, keys and values: what is written is read again, and what is damaged is refused with a
 * sentence that says how. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <stdbool.h>

#include "decoder/model/kv_trace.h"
#include "tests/unit/model_run.h"

enum { LAYERS = 2, HEADS = 4, KV_HEADS = 2, D_K = 8, D_V = 5, TOKENS = 19 };

static const struct kv_trace_head shape = {.n_layers = LAYERS,
                                           .n_heads = HEADS,
                                           .n_kv_heads = KV_HEADS,
                                           .d_k = D_K,
                                           .d_v = D_V,
                                           .n_tokens = TOKENS,
                                           .scale = 0.25f,
                                           .fingerprint = "a model"};

/* A value for every place; those of k and v that f16 holds exactly are steps of 1/8. */
static float value(unsigned layer, unsigned part, size_t i)
{
    return (float)((layer * 37 + part * 11 + i * 7) % 251) / 8;
}

static void write_rows(struct kv_trace *t, uint64_t from, uint32_t n)
{
    const size_t rows[] = {HEADS * D_K, KV_HEADS * D_K, KV_HEADS * D_V};
    float x[3][TOKENS * HEADS * D_K];
    for (unsigned layer = 0; layer < LAYERS; layer++) {
        for (unsigned part = 0; part < 3; part++)
            for (size_t i = 0; i < n * rows[part]; i++)
                x[part][i] = value(layer, part, from * rows[part] + i);
        kv_trace_put(t, layer, from, n, x[0], x[1], x[2]);
    }
}

static void write_sample(const char *path)
{
    struct kv_trace *t;
    struct skv_error err;
    if (kv_trace_create(path, &shape, &t, &err))
        fail_msg("%s", err.text);
    for (uint32_t i = 0; i < TOKENS; i++)
        t->ids[i] = 1000 + i;
    t->mark[TOKENS - 1] = KV_TRACE_COPY;
    t->mark[TOKENS - 3] = KV_TRACE_ORDINARY;
    write_rows(t, 7, TOKENS - 7); /* in any order */
    write_rows(t, 0, 7);
    assert_int_equal(kv_trace_commit(t, &err), 0);
    kv_trace_close(t);
}

static void check_rows(unsigned layer, unsigned part, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (x[i] != value(layer, part, i))
            fail_msg("layer %u, part %u, number %zu is %g", layer, part, i, (double)x[i]);
}

static void test_round_trip(void **state)
{
    (void)state;
    struct kv_trace *t;
    struct skv_error err;
    const char *path = file_named("sample");
    write_sample(path);
    if (kv_trace_open(path, &t, &err))
        fail_msg("%s", err.text);
    assert_int_equal(t->head.n_tokens, TOKENS);
    assert_string_equal((const char *)t->head.fingerprint, "a model");
    assert_true(t->head.scale == 0.25f);
    assert_int_equal(t->ids[18], 1018);
    assert_int_equal(t->mark[TOKENS - 1], KV_TRACE_COPY);
    assert_int_equal(t->mark[TOKENS - 2], KV_TRACE_OTHER);
    for (unsigned layer = 0; layer < LAYERS; layer++) {
        check_rows(layer, 0, kv_trace_q(t, layer), TOKENS * HEADS * D_K);
        check_rows(layer, 1, kv_trace_k(t, layer), TOKENS * KV_HEADS * D_K);
        check_rows(layer, 2, kv_trace_v(t, layer), TOKENS * KV_HEADS * D_V);
        assert_int_equal((uintptr_t)kv_trace_v(t, layer) % 64, 0);
    }
    kv_trace_close(t);
}

static void test_keys_are_rounded(void **state)
{
    (void)state;
    struct kv_trace_head h = shape;
    h.n_layers = h.n_heads = h.n_kv_heads = 1;
    h.n_tokens = 2;
    struct kv_trace *t;
    float x[2 * D_K];
    for (unsigned i = 0; i < 2 * D_K; i++)
        x[i] = 1.0f + 0.0001f * (float)i;
    assert_int_equal(kv_trace_create(file_named("rounded"), &h, &t, NULL), 0);
    kv_trace_put(t, 0, 0, 2, x, x, x);
    assert_true(kv_trace_q(t, 0)[4] == x[4]);
    assert_true(kv_trace_k(t, 0)[4] == 1.0f); /* steps of f16 above 1 are 1/1024 */
    assert_true(kv_trace_v(t, 0)[9] == 1.0009765625f);
    kv_trace_close(t);
    assert_int_not_equal(access(file_named("rounded"), F_OK), 0); /* not committed: nothing stays */
}

/* ---- damage ---- */

static size_t read_file(const char *path, uint8_t *to, size_t room)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    size_t n = fread(to, 1, room, f);
    fclose(f);
    return n;
}

static void refused(const uint8_t *bytes, size_t n, int code, const char *says)
{
    char path[700];
    snprintf(path, sizeof path, "%s", file_named("damaged"));
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
    struct kv_trace *t;
    struct skv_error err = {0};
    assert_int_equal(kv_trace_open(path, &t, &err), code);
    if (!strstr(err.text, says) || !strstr(err.text, "damaged"))
        fail_msg("'%s' does not say '%s' of the file", err.text, says);
}

static void test_damage_is_refused(void **state)
{
    (void)state;
    static uint8_t good[1 << 16], bad[1 << 16];
    char path[700];
    snprintf(path, sizeof path, "%s", file_named("good"));
    write_sample(path);
    size_t n = read_file(path, good, sizeof good - 1);
    static const struct {
        size_t at; /* offset of a byte of the head */
        uint8_t to;
        int code;
        const char *says;
    } heads[] = {
        {0, 'X', -EINVAL, "no trace"},           {8, 2, -EPROTONOSUPPORT, "version 2"},
        {12, 0, -EINVAL, "no trace can be"},     {15, 1, -EINVAL, "no trace can be"},
        {16, 3, -EINVAL, "no trace can be"},     {20, 0, -EINVAL, "no trace can be"},
        {24, 0, -EINVAL, "no trace can be"},     {31, 0xFF, -EINVAL, "no trace can be"},
        {39, 0xFF, -EINVAL, "no trace can be"},  {43, 0xFF, -EINVAL, "no trace can be"},
        {44, 1, -EINVAL, "no trace can be"},     {127, 1, -EINVAL, "no trace can be"},
        {32, TOKENS + 1, -EBADMSG, "truncated"}, {12, 1, -EBADMSG, "promises"},
    };
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        memcpy(bad, good, n);
        bad[heads[i].at] = heads[i].to;
        refused(bad, n, heads[i].code, heads[i].says);
    }
    refused(good, 0, -EINVAL, "no trace");
    static const size_t cuts[] = {5, 64, 127, 128, 200};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++)
        refused(good, cuts[i], -EBADMSG, "truncated");
    refused(good, n - 1, -EBADMSG, "truncated");
    good[n] = 0;
    refused(good, n + 1, -EBADMSG, "promises");
    for (size_t at = 80; at < n; at = at * 5 / 4) { /* the checksum itself, and bits behind the head */
        memcpy(bad, good, n);
        bad[at < 88 ? at : at + 128] ^= 0x10;
        refused(bad, n, -EBADMSG, "checksum");
    }
}

static void test_absent_and_unwritable(void **state)
{
    (void)state;
    struct kv_trace *t;
    struct skv_error err;
    assert_int_equal(kv_trace_open(file_named("absent"), &t, &err), -ENOENT);
    assert_non_null(strstr(err.text, "absent"));
    assert_int_equal(kv_trace_create(file_named("absent/trace"), &shape, &t, &err), -ENOENT);
    struct kv_trace_head none = shape;
    none.n_tokens = 0;
    assert_int_equal(kv_trace_create(file_named("empty"), &none, &t, &err), -EINVAL);
}

static void test_marks_are_known(void **state)
{
    (void)state;
    struct kv_trace *t;
    struct skv_error err;
    char path[700];
    snprintf(path, sizeof path, "%s", file_named("marks"));
    assert_int_equal(kv_trace_create(path, &shape, &t, &err), 0);
    t->mark[3] = 9;
    assert_int_equal(kv_trace_commit(t, &err), 0);
    kv_trace_close(t);
    assert_int_equal(kv_trace_open(path, &t, &err), -EINVAL);
    assert_non_null(strstr(err.text, "token 3 has mark 9"));
}

/* ---- the session's watcher ---- */

struct watching {
    struct kv_trace *t;
    struct run *r;
};

static void watch(void *arg, uint32_t layer, uint32_t n, const float *q, const float *k, const float *v)
{
    struct watching *w = arg;
    kv_trace_put(w->t, layer, skv_length(w->r->ctx) - n, n, q, k, v);
}

enum { N = 50, WATCHED_LAYERS = 3 };

static struct kv_trace *watched(struct run *r, const char *name, enum skv_mode mode, const uint32_t *ids)
{
    const struct model_params *p = &r->model->params;
    const struct kv_trace_head head = {.n_layers = WATCHED_LAYERS,
                                       .n_heads = p->n_heads,
                                       .n_kv_heads = p->n_kv_heads,
                                       .d_k = p->d_k,
                                       .d_v = p->d_v,
                                       .n_tokens = N,
                                       .scale = 1.0f};
    struct skv_error err;
    struct watching to = {.r = r};
    if (kv_trace_create(file_named(name), &head, &to.t, &err))
        fail_msg("%s", err.text);
    session_watch(r->session, watch, &to);
    if (mode == SKV_PREFILL)
        prefill(r, ids, N, 16, NULL);
    for (uint32_t i = 0; mode == SKV_DECODE && i < N; i++)
        if (session_eval(r->session, SKV_DECODE, ids + i, 1, NULL, false, &err))
            fail_msg("%s", err.text);
    session_watch(r->session, NULL, NULL);
    run_restart(r, SKV_F16);
    return to.t;
}

/* Prefill in pieces and decode show the same to a watcher, up to rounding; the last layer too, although a
 * pass without logits stops there. */
static void test_watcher_sees_every_layer(void **state)
{
    (void)state;
    struct random_model_opts opts;
    random_model_defaults(&opts);
    opts.n_layers = WATCHED_LAYERS;
    opts.dim = opts.ff = 64;
    opts.n_heads = 4;
    opts.n_kv_heads = 2;
    struct run r = run_start(write_random("model", &opts), SKV_F16, 2);
    uint32_t ids[N];
    make_ids(ids, N, r.model->params.vocab);
    struct kv_trace *a = watched(&r, "prefilled", SKV_PREFILL, ids);
    struct kv_trace *b = watched(&r, "decoded", SKV_DECODE, ids);
    for (uint32_t layer = 0; layer < WATCHED_LAYERS; layer++) {
        double worst = 0, largest = 0;
        for (size_t i = 0; i < (size_t)N * a->head.n_heads * a->head.d_k; i++) {
            worst = fmax(worst, fabs((double)kv_trace_q(a, layer)[i] - (double)kv_trace_q(b, layer)[i]));
            largest = fmax(largest, fabs((double)kv_trace_q(a, layer)[i]));
        }
        assert_true(largest > 0);
        if (!(worst <= 1e-3 * largest))
            fail_msg("layer %u: queries of prefill and decode are %g apart, the largest is %g", layer, worst,
                     largest);
    }
    kv_trace_close(a);
    kv_trace_close(b);
    run_end(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),        cmocka_unit_test(test_keys_are_rounded),
        cmocka_unit_test(test_damage_is_refused), cmocka_unit_test(test_absent_and_unwritable),
        cmocka_unit_test(test_marks_are_known),   cmocka_unit_test(test_watcher_sees_every_layer),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
