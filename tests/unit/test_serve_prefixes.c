/* Beginnings that a server keeps: found by tokens, leased anew when that is due, named by all that decides
 * bits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "common/clock.h"
#include "decoder/serve/prefixes.h"
#include "tests/unit/model_run.h"

enum { CHUNK = 64, N = 3 * CHUNK, TTL_MS = 60000 };

static uint32_t ids[N + 1];
static struct skv_model shape;
static struct prefixes prefixes;

static struct run start(void)
{
    struct random_model_opts o;
    random_model_defaults(&o);
    struct run r = run_start(write_random("prefixes.gguf", &o), SKV_F16, 2);
    struct skv_context_opts opts = run_options(SKV_F16);
    model_shape(r.model, &shape);
    prefixes_init(&prefixes, tier, &shape, &opts, "", "test", TTL_MS);
    make_ids(ids, N + 1, o.vocab);
    return r;
}

/* How many tokens of the first n are found; the context is left to the caller. */
static uint64_t found(uint64_t n, skv_context **out)
{
    struct skv_context_opts opts = run_options(SKV_F16);
    struct skv_error err;
    if (skv_context_open_prefix(tier, &shape, &opts, ids, n, CHUNK, out, &err) != 0)
        fail_msg("%s", err.text);
    return skv_length(*out);
}

static uint64_t renewed_ms(const char *name)
{
    struct skv_saved *s;
    struct skv_error err;
    if (skv_saved_read(tier, name, &s, &err) != 0)
        fail_msg("%s: %s", name, err.text);
    uint64_t ms = s->renewed_ms;
    assert_int_equal(s->tokens, N);
    assert_int_equal(s->ttl_ms, TTL_MS);
    assert_true(s->pinned);
    skv_saved_free(s);
    return ms;
}

static void what_was_kept_is_found_and_leased_anew(void **state)
{
    (void)state;
    struct run r = start();
    struct skv_error err;
    skv_context *c;
    char name[PREFIX_NAME];
    assert_int_equal(found(N, &c), 0);
    skv_context_close(c);
    prefill(&r, ids, N, CHUNK, NULL);
    uint64_t now = clock_ns();
    assert_int_equal(prefixes_keep(&prefixes, r.ctx, ids, N, now, &err), 0);
    prefixes_name(&prefixes, ids, N, name);
    uint64_t first = renewed_ms(name);

    assert_int_equal(found(N, &c), N);
    usleep(5000);
    assert_int_equal(prefixes_found(&prefixes, c, ids, N, now + 1, &err), 0); /* not due */
    assert_int_equal(renewed_ms(name), first);
    assert_int_equal(prefixes_found(&prefixes, c, ids, N, now + TTL_MS * NS_PER_MS, &err), 0);
    assert_true(renewed_ms(name) > first);

    /* A server that is new does not know what is leased; one that finds no such name saves it. */
    struct skv_context_opts opts = run_options(SKV_F16);
    prefixes_init(&prefixes, tier, &shape, &opts, "", "test", TTL_MS);
    first = renewed_ms(name);
    usleep(5000);
    assert_int_equal(prefixes_found(&prefixes, c, ids, N, now, &err), 0);
    assert_true(renewed_ms(name) > first);
    prefixes_init(&prefixes, tier, &shape, &opts, "", "test", TTL_MS);
    assert_int_equal(skv_saved_remove(tier, name, &err), 0);
    assert_int_equal(prefixes_found(&prefixes, c, ids, N, now, &err), 0);
    renewed_ms(name);
    skv_context_close(c);
    run_end(&r);
}

static void names_tell_bits_apart(void **state)
{
    (void)state;
    struct run r = start();
    struct skv_context_opts opts = run_options(SKV_F16);
    char name[PREFIX_NAME], other[PREFIX_NAME];
    prefixes_name(&prefixes, ids, N, name);
    assert_int_equal(strlen(name), strlen("serve/") + 2 * PREFIX_HASH);
    prefixes_name(&prefixes, ids, N - CHUNK, other);
    assert_string_not_equal(name, other);
    prefixes_init(&prefixes, tier, &shape, &opts, "", "another name", 2 * TTL_MS);
    prefixes_name(&prefixes, ids, N, other);
    assert_string_equal(name, other);
    opts.window = opts.seal_lag = 256;
    prefixes_init(&prefixes, tier, &shape, &opts, "", "test", TTL_MS);
    prefixes_name(&prefixes, ids, N, other);
    assert_string_not_equal(name, other);
    static const uint8_t salt[TENANT_SALT] = {1};
    static const char longest[] = "a-tenant-whose-name-has-forty-characters";
    opts = run_options(SKV_F16);
    opts.salt = salt;
    prefixes_init(&prefixes, tier, &shape, &opts, longest, "test", TTL_MS);
    prefixes_name(&prefixes, ids, N, other);
    assert_int_equal(strncmp(other, "serve/a-tenant-whose-name-has-forty-characters/", 47), 0);
    assert_int_equal(strlen(other), PREFIX_NAME - 1);
    assert_string_not_equal(other + 47, name + 6);
    opts = run_options(SKV_F16);
    opts.recipe = "chunk=128";
    prefixes_init(&prefixes, tier, &shape, &opts, "", "test", TTL_MS);
    prefixes_name(&prefixes, ids, N, other);
    assert_string_not_equal(name, other);
    run_end(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_kept_is_found_and_leased_anew),
        cmocka_unit_test(names_tell_bits_apart),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
