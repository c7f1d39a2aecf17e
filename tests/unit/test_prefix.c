/* test_prefix.c: a context that begins with what others have stored: how much is found, and the same bits as
 * those of a run from 0. */
#include "tests/unit/saved_asserts.h"

/* Opens with the longest beginning of n tokens, and says how long it is. */
static skv_context *begin_with(skv_tier *t, const struct skv_context_opts *o, uint64_t n, uint32_t chunk)
{
    struct skv_error err = {0};
    skv_context *c = NULL;
    uint32_t *ids = malloc((n + 1) * sizeof *ids);
    for (uint64_t i = 0; i < n; i++)
        ids[i] = id_of(i);
    check(skv_context_open_prefix(t, &model, o, ids, n, chunk, &c, &err), &err);
    free(ids);
    return c;
}

/* The rest of n tokens and 20 decoded ones: the same bits as those of a run from 0. */
static void same_as_from_zero(const struct skv_context_opts *o, uint64_t n, uint64_t found)
{
    skv_tier *t = open_tier(three.list, 2), *alone = open_tier(NULL, 2);
    skv_context *b = begin_with(t, o, n - 1, CHUNK), *a = open_context(alone, o);
    if (skv_length(b) != found)
        fail_msg("%llu tokens: %llu were found, not %llu", (unsigned long long)n,
                 (unsigned long long)skv_length(b), (unsigned long long)found);
    uint64_t skip = 1, want = 1, got = 1;
    prefill(alone, a, 0, found, CHUNK, &skip);
    prefill(alone, a, found, n, CHUNK, &want);
    decode(alone, a, n, n + 20, &want);
    prefill(t, b, found, n, CHUNK, &got);
    decode(t, b, n, n + 20, &got);
    if (got != want)
        fail_msg("%llu tokens, %llu found: other bits", (unsigned long long)n, (unsigned long long)found);
    skv_context_close(a);
    skv_context_close(b);
    skv_tier_close(alone);
    skv_tier_close(t);
}

static void test_prefix_is_found(void **s)
{
    (void)s;
    struct skv_context_opts o = own_opts("chunk=128 prefix");
    text.feedback = 0.5f;
    uint64_t skip = 1, n = 9000; /* 70 whole passes, 140 blocks: two spans and 12 blocks */
    skv_tier *t = open_tier(three.list, 2);
    skv_context *c = prefilled(t, &o, n, &skip);
    same_as_from_zero(&o, 1000, 0); /* nothing is found before it is saved */
    save(c, "long");
    const uint64_t lengths[] = {1, 128, 129, 300, 4096, 4097, 4225, 8193, 8321, 8961, 9300};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        uint64_t whole = (lengths[i] - 1) / CHUNK * CHUNK;
        same_as_from_zero(&o, lengths[i], whole < 8960 ? whole : 8960);
    }
    /* Texts that part from it: the last whole pass before. */
    text.other = 1;
    const uint64_t parts[] = {0, 127, 128, 1000, 4095, 6000, 8191, 8990};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        text.part_at = parts[i];
        same_as_from_zero(&o, 9100, parts[i] / CHUNK * CHUNK);
    }
    text.other = 0;
    /* Decoded tokens are no prefill: their beginning is found up to them, whatever was decoded. */
    decode(t, c, n, n + 300, &skip);
    save(c, "long");
    same_as_from_zero(&o, 9250, 8960);
    skv_context_close(c);
    drop(t, "long");
    same_as_from_zero(&o, 9000, 8960); /* while its blocks last */
    text.feedback = 0;
    skv_tier_close(t);
}

static void test_prefix_of_a_cut_pass(void **s)
{
    (void)s;
    struct skv_context_opts o = own_opts("chunk=128 cut");
    text.feedback = 0.5f;
    skv_tier *t = open_tier(three.list, 2);
    uint64_t skip = 1;
    /* A's second pass ends at 200 and C's is truncated there: blocks 2 and 3 have other bits than those of a
     * whole pass, and other names. */
    skv_context *a = prefilled(t, &o, 200, &skip), *c = prefilled(t, &o, 256, &skip);
    struct skv_error err = {0};
    decode(t, a, 200, 600, &skip);
    save(a, "short");
    check(skv_truncate(c, 200, &err), &err);
    prefill(t, c, 200, 700, CHUNK, &skip);
    save(c, "cut");
    same_as_from_zero(&o, 700, 128);
    /* Other options, or passes of another length, share nothing. */
    struct skv_context_opts other = o;
    other.window = 192;
    same_as_from_zero(&other, 700, 0);
    skv_context *b = begin_with(t, &o, 700, 64);
    assert_int_equal(skv_length(b), 0);
    skv_context_close(b);
    assert_int_equal(skv_context_open_prefix(t, &model, &o, NULL, 0, 100, &b, &err), -EINVAL);
    check(skv_context_open_prefix(t, &model, &o, NULL, 0, 128, &b, &err), &err);
    assert_int_equal(skv_length(b), 0);
    skv_context_close(b);
    text.feedback = 0;
    drop(t, "short");
    drop(t, "cut");
    skv_context_close(a);
    skv_context_close(c);
    skv_tier_close(t);
}

static void test_prefix_with_gaps(void **s)
{
    (void)s;
    struct skv_context_opts o = own_opts("chunk=128 gaps");
    skv_tier *t = open_tier(three.list, 2);
    uint64_t skip = 1;
    skv_context *c = prefilled(t, &o, 9000, &skip);
    save(c, "gaps");
    drop(t, "gaps");
    /* The blocks of one pass are gone: what is before them can be used. */
    struct tier *raw;
    struct skv_error err = {0};
    check(tier_open(&(struct tier_opts){.nodes = three.list}, &raw, &err), &err);

    struct block_key key = {.layer = 1};
    memcpy(key.chain, context_chain(c, 5000 / 64), CHAIN_BYTES);
    check(tier_drop(raw, &key, 1, &err), &err);
    tier_close(raw);
    same_as_from_zero(&o, 9000, 4992 / CHUNK * CHUNK);
    /* So are all names of places: full spans are still found. */
    save(c, "gaps");
    assert_true(lose_objects("at2/") > 0);
    same_as_from_zero(&o, 9000, 8192);
    assert_true(lose_objects("index4/") > 0);
    same_as_from_zero(&o, 9000, 0);
    drop(t, "gaps");
    skv_context_close(c);
    skv_tier_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prefix_is_found),
        cmocka_unit_test(test_prefix_of_a_cut_pass),
        cmocka_unit_test(test_prefix_with_gaps),
    };
    return cmocka_run_group_tests_name("prefix", tests, start_three_one_text, stop_three);
}
