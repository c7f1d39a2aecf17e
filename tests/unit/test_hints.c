/* test_hints.c: a context's hints: told to nodes that have disks and to no others, paced, in bounded numbers,
 * only what has changed; and no bit of what is computed depends on them. */
#include "decoder/context/internal.h"
#include "tests/unit/context_engine.h"

#include <stdio.h>
#include <unistd.h>

enum { PREFILL = 2048, CHUNK = 256, STEPS = 192, PACE = 64 / LAYERS };

struct world {
    char dir[32], disk[64];
    skv_tier *tier;
    skv_context *ctx;
};

static void begin(struct world *w, bool disk, bool hints)
{
    struct skv_error err = {0};
    const char *disks[] = {w->disk};
    struct skv_context_opts o = small_opts();
    text.loud = 8;
    *w = (struct world){.dir = "/tmp/test_hints.XXXXXX"};
    assert_non_null(mkdtemp(w->dir));
    snprintf(w->disk, sizeof w->disk, "%s/d:64MiB", w->dir);
    struct skv_tier_opts t = {.threads = 1, .ram = 16 << 20, .disks = disks, .n_disks = disk};
    check(skv_tier_open(&t, &w->tier, &err), &err);
    o.hints = hints;
    check(skv_context_open(w->tier, &model, &o, &w->ctx, &err), &err);
}

static void end(struct world *w)
{
    char command[64];
    skv_context_close(w->ctx);
    skv_tier_close(w->tier);
    snprintf(command, sizeof command, "rm -rf %s", w->dir);
    assert_int_equal(system(command), 0);
}

static uint64_t fill(struct world *w)
{
    uint64_t digest = 0;
    struct skv_error err = {0};
    for (unsigned t = 0; t < PREFILL; t += CHUNK)
        must_pass(w->tier, w->ctx, SKV_PREFILL, t, CHUNK, &digest);
    check(skv_flush(w->ctx, &err), &err);
    return digest;
}

static uint64_t hinted(const skv_context *c)
{
    struct skv_stats s;
    skv_context_stats(c, &s);
    return s.blocks_hinted;
}

/* What the node has heard: messages. */
static uint64_t heard(struct world *w)
{
    struct tier_counter *all;
    struct skv_error err = {0};
    size_t n;
    uint64_t sum = 0;
    check(tier_stats(w->tier->tier, &all, &n, &err), &err);
    for (size_t i = 0; i < n; i++)
        sum += strcmp(all[i].name, "hints") ? 0 : all[i].value;
    free(all);
    return sum;
}

static void paced_and_bounded(void **state)
{
    (void)state;
    struct world w;
    unsigned turns = 0;
    uint64_t digest = 0;
    begin(&w, true, true);
    fill(&w);
    uint64_t before = hinted(w.ctx), messages = heard(&w);
    assert_true(before > 0);
    assert_true(messages > 0 && messages <= PREFILL / CHUNK);
    for (unsigned i = 0; i < STEPS; i++) {
        must_pass(w.tier, w.ctx, SKV_DECODE, PREFILL + i, 1, &digest);
        uint64_t now = hinted(w.ctx);
        assert_true(now - before <= TIER_HINT_KEYS);
        turns += now > before;
        before = now;
    }
    assert_true(turns > 0 && turns <= STEPS / PACE);
    assert_true(heard(&w) - messages <= turns);
    /* Blocks are told once unless something changes: each layer's at most once in a round. */
    assert_true(hinted(w.ctx) <= (uint64_t)LAYERS * (PREFILL / SKV_BLOCK) * (STEPS / 64 + PREFILL / CHUNK));
    end(&w);
}

static void nobody_is_told(void **state)
{
    (void)state;
    for (int disk = 0; disk < 2; disk++) {
        struct world w;
        begin(&w, disk, !disk); /* in RAM only; or with a disk, and not wanted */
        fill(&w);
        assert_int_equal(hinted(w.ctx), 0);
        assert_int_equal(heard(&w), 0);
        assert_null(w.ctx->received);
        end(&w);
    }
}

static void same_bits(void **state)
{
    (void)state;
    uint64_t digest[2];
    for (int hints = 0; hints < 2; hints++) {
        struct world w;
        begin(&w, true, hints);
        digest[hints] = fill(&w);
        for (unsigned i = 0; i < STEPS; i++)
            must_pass(w.tier, w.ctx, SKV_DECODE, PREFILL + i, 1, &digest[hints]);
        end(&w);
    }
    assert_int_equal(digest[0], digest[1]);
}

/* A fork knows what its parent told; a truncated context tells of its new blocks anew. */
static void forks_and_truncation(void **state)
{
    (void)state;
    struct world w;
    skv_context *f;
    struct skv_error err = {0};
    uint64_t digest = 0;
    begin(&w, true, true);
    fill(&w);
    for (unsigned i = 0; i < 3 * PACE; i++)
        must_pass(w.tier, w.ctx, SKV_DECODE, PREFILL + i, 1, &digest);
    check(skv_context_fork(w.ctx, &f, &err), &err);
    for (unsigned i = 3 * PACE; i < 5 * PACE; i++)
        must_pass(w.tier, f, SKV_DECODE, PREFILL + i, 1, &digest);
    assert_true(hinted(f) < hinted(w.ctx));
    check(skv_truncate(f, PREFILL / 2, &err), &err);
    for (unsigned t = PREFILL / 2; t < PREFILL; t += CHUNK)
        must_pass(w.tier, f, SKV_PREFILL, t, CHUNK, &digest);
    skv_context_close(f);
    end(&w);
}

static void priors(void **state)
{
    (void)state;
    struct world w;
    begin(&w, true, true);
    fill(&w);
    size_t n = w.ctx->sealed;
    float *out[3];
    for (int a = 0; a < 3; a++) {
        double sum = 0;
        out[a] = malloc(n * sizeof *out[a]);
        assert_int_equal(prior_of_blocks(w.ctx, 1, (float)a / 2, out[a]), 0);
        for (size_t b = 0; b < n; b++) {
            assert_true(out[a][b] >= 0);
            sum += (double)out[a][b];
        }
        assert_float_equal(sum / (double)n, 1, 1e-3); /* multiples of the mean */
    }
    for (size_t b = 0; b < n; b++) /* alpha mixes the two */
        assert_float_equal(out[1][b], (out[0][b] + out[2][b]) / 2, 1e-3f);
    /* Received mass is what the context noted: the block that got most of it comes first. */
    size_t most = 0;
    for (size_t b = 1; b < n; b++)
        most = out[0][b] > out[0][most] ? b : most;
    double best = 0, of_most = 0;
    for (size_t b = 0; b < n; b++) {
        double mass = 0;
        for (unsigned h = 0; h < 2; h++) {
            const float *m = received_mass(w.ctx->received, 1, h, n * BLOCK_PAGES);
            double all = 0, mine = 0;
            for (size_t p = 0; p < n * BLOCK_PAGES; p++) {
                all += (double)m[p];
                mine += p / BLOCK_PAGES == b ? (double)m[p] : 0;
            }
            mass += mine / all;
        }
        best = mass > best ? mass : best;
        of_most = b == most ? mass : of_most;
    }
    assert_float_equal((float)of_most, (float)best, 1e-4f);
    for (int a = 0; a < 3; a++)
        free(out[a]);
    end(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paced_and_bounded),    cmocka_unit_test(nobody_is_told), cmocka_unit_test(same_bits),
        cmocka_unit_test(forks_and_truncation), cmocka_unit_test(priors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
