/* What a context will hold, computed before it exists, beside what contexts do hold: never less, and not much
 * more. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "tests/unit/model_run.h"

enum { PASS = 256 };

static void note_most(const skv_context *c, struct skv_room *most)
{
    struct skv_stats s;
    skv_context_stats(c, &s);
    most->window_bytes = most->window_bytes > s.window_bytes ? most->window_bytes : s.window_bytes;
    most->representative_bytes = most->representative_bytes > s.representative_bytes
                                     ? most->representative_bytes
                                     : s.representative_bytes;
    most->cache_bytes = most->cache_bytes > s.cache_bytes ? most->cache_bytes : s.cache_bytes;
}

/* A context of so many tokens, the last ones decoded, with what it held after every pass. */
static void hold(struct run *r, const struct skv_context_opts *o, uint32_t tokens, struct skv_room *most)
{
    enum { DECODED = 40 };
    static float logits[512];
    struct skv_model shape;
    struct skv_error err;
    *most = (struct skv_room){0};
    model_shape(r->model, &shape);
    skv_context_close(r->ctx);
    if (skv_context_open(tier, &shape, o, &r->ctx, &err))
        fail_msg("%s", err.text);
    session_use(r->session, r->ctx);
    for (uint32_t done = 0; done < tokens;) {
        uint32_t ids[PASS], prompt = tokens > DECODED ? tokens - DECODED : 0;
        uint32_t n = done >= prompt ? 1 : prompt - done < PASS ? prompt - done : PASS;
        for (uint32_t i = 0; i < n; i++)
            ids[i] = (done + i) * 7919 % 512;
        eval(r, done >= prompt ? SKV_DECODE : SKV_PREFILL, ids, n, done >= prompt ? logits : NULL);
        done += n;
        note_most(r->ctx, most);
    }
}

static void check(const char *what, uint64_t room, uint64_t held, uint64_t slack)
{
    if (room < held)
        fail_msg("%s: %llu bytes were held, and %llu computed", what, (unsigned long long)held,
                 (unsigned long long)room);
    if (room > 2 * held + slack)
        fail_msg("%s: %llu bytes were computed, and no more than %llu held", what, (unsigned long long)room,
                 (unsigned long long)held);
}

static void test_room(void **state)
{
    (void)state;
    struct random_model_opts m;
    random_model_defaults(&m);
    struct run r;
    const char *path = file_named("room.gguf");
    struct skv_error err;
    if (random_model_write(path, &m, &err))
        fail_msg("%s", err.text);
    r = run_start(path, SKV_F16, 2);
    struct skv_model shape;
    model_shape(r.model, &shape);
    for (unsigned variant = 0; variant < 4; variant++) {
        struct skv_context_opts o = run_options(variant == 1 ? SKV_F32 : variant == 3 ? SKV_Q8_0 : SKV_F16);
        o.decode = (struct skv_select){.policy = SKV_CASCADE, .budget = 128, .unit = 16};
        o.sinks = 16;
        o.cache_bytes = 128 << 10;
        o.history = variant == 2;
        uint64_t token = (uint64_t)2 * 2 * 32 * 2 * (variant == 1 ? 4 : 2); /* layers, heads, dims, K and V */
        for (uint32_t tokens = 1; tokens < 5000; tokens = tokens * 4 + 60) {
            struct skv_room room, held;
            assert_int_equal(skv_context_room(&shape, &o, tokens, PASS, &room, &err), 0);
            hold(&r, &o, tokens, &held);
            check("window", room.window_bytes, held.window_bytes, (PASS + 128) * token);
            check("representatives", room.representative_bytes, held.representative_bytes,
                  3 * 64 * 64 * token / 4);
            check("cache", room.cache_bytes, held.cache_bytes, (128 << 10) + 32 * token);
        }
    }
    run_end(&r);
}

/* More tokens, a longer window, a larger cache: never less. What a shape can't be is said. */
static void test_growth(void **state)
{
    (void)state;
    const struct skv_layer layer = {.d_k = 128, .d_v = 128, .n_heads = 32, .n_kv_heads = 8, .scale = 0.1f};
    const struct skv_layer layers[] = {layer, layer, layer, layer};
    struct skv_model shape = {.n_layers = 4, .layers = layers};
    struct skv_context_opts o;
    struct skv_room a, b;
    struct skv_error err;
    skv_context_defaults(&o);
    uint64_t before = 0;
    for (uint64_t tokens = 1; tokens < 1 << 24; tokens *= 3) {
        assert_int_equal(skv_context_room(&shape, &o, tokens, 512, &a, &err), 0);
        uint64_t all = a.window_bytes + a.representative_bytes + a.cache_bytes;
        assert_true(all >= before);
        before = all;
    }
    o.window = 2048;
    assert_int_equal(skv_context_room(&shape, &o, 1 << 20, 512, &b, &err), 0);
    assert_true(b.window_bytes > a.window_bytes);
    /* A window of 2,048 tokens and two passes of 512, K and V of 4 layers at f16. */
    assert_true(b.window_bytes >= (uint64_t)(2048 + 1024) * 4 * 8 * 256 * 2);
    assert_true(b.cache_bytes >= o.cache_bytes && b.cache_bytes < o.cache_bytes + (1 << 20));
    shape.n_layers = 0;
    assert_int_equal(skv_context_room(&shape, &o, 1, 1, &a, &err), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_room),
        cmocka_unit_test(test_growth),
    };
    return cmocka_run_group_tests_name("room", tests, set_up, tear_down);
}
