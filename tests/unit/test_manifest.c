/* test_manifest.c: a manifest's bytes: there and back, and nothing bad from bytes that are none. */
#include "decoder/context/manifest.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static struct skv_layer layers[3] = {{.d_k = 64, .d_v = 32, .n_heads = 4, .n_kv_heads = 2, .scale = 0.125f}};
static struct skv_range ranges[2] = {{0, 16}, {160, 320}};
static struct skv_calibration_head measured[6] = {
    {.gamma_page = 0.5f, .far = 0.25f, .held = {[9] = 0.25f}, .alpha = 0.5f, .beta = 0.25f}};
static const float salience[6 * (16 + 2)] = {0.5f, [107] = -1.5f};
static const float projection[6 * 2 * 8 * 16] = {0.25f, [1535] = 4};
static const struct skv_calibration calibration = {.fingerprint = "measured",
                                                   .n_layers = 3,
                                                   .n_kv_heads = 2,
                                                   .heads = measured,
                                                   .d_k = 16,
                                                   .salience = salience,
                                                   .d_rep = 8,
                                                   .projection = projection};
static uint8_t parts[2][CHAIN_BYTES] = {{1, 2, 3}, {4, 5, 6}};

static struct manifest example(void)
{
    struct manifest m = {.head = {.flags = MANIFEST_PINNED | MANIFEST_TAGS,
                                  .len = 10000,
                                  .sealed = 100,
                                  .indexed = 140,
                                  .n_passes = 3,
                                  .token_bytes = 200,
                                  .created_ms = 1,
                                  .updated_ms = 2,
                                  .ttl_ms = 3,
                                  .renewed_ms = 4},
                         .model = "a model",
                         .isa = "portable",
                         .recipe = "chunk=512",
                         .layers = layers,
                         .n_layers = 3,
                         .protect = ranges,
                         .engine = "\0state",
                         .engine_bytes = 6,
                         .parts = parts,
                         .n_parts = 2};
    skv_context_defaults(&m.opts);
    m.opts.n_protect = 2;
    m.opts.decode.mass = 0.75f;
    m.opts.decode.refresh_turn = 0.5f;
    m.head.received_bytes = 100;
    m.turn_bytes = 40;
    m.opts.schedule = SKV_CALIBRATED;
    m.opts.calibration = &calibration;
    m.opts.representatives = SKV_REPS_LEAN;
    m.opts.dtype = SKV_Q4;
    m.local_bytes = 290;
    m.rounded_to = 9000;
    m.head.state_bytes = manifest_state_bytes(&m);
    assert_int_equal((m.head.state_bytes + PART_BYTES - 1) / PART_BYTES, 2);
    return m;
}

static size_t packed(uint8_t **bytes)
{
    struct manifest m = example();
    struct skv_error err = {0};
    size_t n = 0;
    assert_int_equal(manifest_pack(&m, "x", bytes, &n, &err), 0);
    return n;
}

static int unpack(const uint8_t *bytes, size_t n, struct skv_error *err)
{
    struct manifest m;
    int rc = manifest_unpack(&m, "x", bytes, n, err);
    manifest_free(&m);
    return rc;
}

static void test_there_and_back(void **s)
{
    (void)s;
    struct manifest want = example(), m;
    struct skv_error err = {0};
    uint8_t *bytes;
    size_t n = packed(&bytes);
    assert_int_equal(manifest_unpack(&m, "x", bytes, n, &err), 0);
    assert_int_equal(m.head.state_bytes, want.head.state_bytes);
    assert_int_equal(m.head.renewed_ms, 4);
    assert_string_equal(m.model, "a model");
    assert_string_equal(m.isa, "portable");
    assert_string_equal(m.opts.recipe, "chunk=512");
    assert_int_equal(m.n_layers, 3);
    assert_memory_equal(m.layers, layers, sizeof layers);
    assert_int_equal(m.opts.n_protect, 2);
    assert_memory_equal(m.opts.protect, ranges, sizeof ranges);
    assert_int_equal(m.opts.schedule, SKV_CALIBRATED);
    assert_memory_equal(m.opts.calibration->fingerprint, calibration.fingerprint, SKV_FINGERPRINT);
    assert_memory_equal(m.opts.calibration->heads, measured, sizeof measured);
    assert_int_equal(m.opts.representatives, SKV_REPS_LEAN);
    assert_int_equal(m.opts.calibration->d_k, 16);
    assert_int_equal(m.opts.calibration->d_rep, 8);
    assert_memory_equal(m.opts.calibration->projection, projection, sizeof projection);
    assert_memory_equal(m.opts.calibration->salience, salience, sizeof salience);
    char tag[INDEX_TAG];
    memcpy(tag, index_kind_of(&m.opts).tag, sizeof tag);
    assert_true(strncmp(tag, "-lean-", 6) == 0 && strlen(tag) == 22);
    assert_int_equal(m.engine_bytes, 6);
    assert_memory_equal(m.engine, "\0state", 6);
    assert_memory_equal(m.parts, parts, sizeof parts);
    assert_true(m.opts.decode.refresh_turn == 0.5f && m.opts.decode.refresh_budget == 4);
    assert_int_equal(m.turn_bytes, 40);
    assert_true(m.opts.dtype == SKV_Q4 && m.local_bytes == 290 && m.rounded_to == 9000);
    assert_true(m.opts.decode.mass == 0.75f && m.opts.window == want.opts.window);
    manifest_free(&m);
    free(bytes);
}

static void test_cut_anywhere(void **s)
{
    (void)s;
    struct skv_error err = {0};
    uint8_t *bytes;
    size_t n = packed(&bytes);
    for (size_t cut = 0; cut < n; cut++) {
        uint8_t *copy = malloc(cut + 1); /* so that reading beyond it is noticed */
        memcpy(copy, bytes, cut);
        if (unpack(copy, cut, &err) != -EBADMSG)
            fail_msg("cut to %zu of %zu bytes: \"%s\"", cut, n, err.text);
        free(copy);
    }
    free(bytes);
}

/* Any byte may be another: it is refused, or what comes out holds the limits that later code relies on. */
static void test_any_byte_changed(void **s)
{
    (void)s;
    struct skv_error err = {0};
    uint8_t *bytes;
    size_t n = packed(&bytes), refused = 0;
    for (size_t i = 0; i < n; i++)
        for (unsigned bit = 0; bit < 8; bit++) {
            struct manifest m;
            bytes[i] ^= (uint8_t)(1u << bit);
            int rc = manifest_unpack(&m, "x", bytes, n, &err);
            bytes[i] ^= (uint8_t)(1u << bit);
            refused += rc != 0;
            if (rc == 0) {
                assert_true(m.head.sealed <= m.head.indexed && m.head.indexed * BLOCK_TOKENS <= m.head.len);
                assert_int_equal(m.head.state_bytes, manifest_state_bytes(&m));
                assert_int_equal(m.n_parts, 2);
                assert_true(m.turn_bytes <= m.head.received_bytes && m.rounded_to <= m.head.len);
                assert_true(m.n_layers == 3 && m.opts.n_protect <= 2);
            }
            manifest_free(&m);
        }
    assert_true(refused > 500);
    free(bytes);
}

static void test_sections_of_later_versions(void **s)
{
    (void)s;
    struct skv_error err = {0};
    uint8_t *bytes;
    size_t n = packed(&bytes);
    uint8_t *longer = malloc(n + 12);
    memcpy(longer, bytes, n);
    memcpy(longer + n, (uint32_t[]){0x8123, 4, 7}, 12);
    assert_int_equal(unpack(longer, n + 12, &err), 0);
    memcpy(longer + n, (uint32_t[]){0x123, 4, 7}, 12);
    assert_int_equal(unpack(longer, n + 12, &err), -EPROTONOSUPPORT);
    assert_non_null(strstr(err.text, "newer"));
    memcpy(longer + n, (uint32_t[]){1, 4, 7}, 12); /* one that was there before */
    assert_int_equal(unpack(longer, n + 12, &err), -EBADMSG);
    longer[8]++; /* the version */
    assert_int_equal(unpack(longer, n, &err), -EPROTONOSUPPORT);
    assert_non_null(strstr(err.text, "save it again"));
    free(longer);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_and_back),
        cmocka_unit_test(test_cut_anywhere),
        cmocka_unit_test(test_any_byte_changed),
        cmocka_unit_test(test_sections_of_later_versions),
    };
    return cmocka_run_group_tests_name("manifest", tests, NULL, NULL);
}
