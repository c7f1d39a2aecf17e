/* test_policy.c: policies by name, what they choose, and that those which go by the past give the same bits
 * whatever the road. */
#include "decoder/scout/policy.h"
#include "decoder/scout/reps.h"
#include "tests/unit/context_engine.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <cmocka.h>

/* ---- names and options ---- */

static void specs_are_read(void **state)
{
    (void)state;
    struct skv_select s = {.budget = 77, .unit = 32};
    struct skv_error err;
    char said[SKV_POLICY_TEXT];
    assert_int_equal(skv_policy_parse("cascade:beta=0.5:alpha=0.25", &s, &err), 0);
    assert_int_equal(s.policy, SKV_CASCADE);
    assert_int_equal(s.budget, 77);
    skv_policy_format(&s, said);
    assert_string_equal(said, "cascade:alpha=0.25:beta=0.5");
    assert_int_equal(skv_policy_parse("strided", &s, &err), 0);
    assert_int_equal(s.given, 0);
    for (int i = 0; i < SKV_POLICIES; i++) {
        struct skv_policy_info info;
        assert_int_equal(skv_policy_describe((enum skv_policy)i, &info), 0);
        assert_int_equal(skv_policy_parse(info.name, &s, &err), 0);
        assert_int_equal(s.policy, i);
        assert_true(info.about[0] && info.source[0]);
    }
    assert_int_equal(skv_policy_describe(SKV_POLICIES, NULL), -ENOENT);
}

static void bad_specs_are_refused(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"", "unknown"},
        {"cascad", "unknown: cascade"},
        {"cascade:gamma=1", "it has alpha, beta"},
        {"cascade:beta", "beta"},
        {"cascade:beta=", "beta=NUMBER"},
        {"cascade:beta=1x", "beta=NUMBER"},
        {"cascade:beta=9", "4"},
        {"cascade:beta=nan", "beta"},
        {"dense:x=1", "it has none"},
        {"cascade:", "no option"},
        {"tova:half-life=3", "must be"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct skv_select s = {.policy = SKV_WINDOW, .budget = 5};
        struct skv_error err = {0};
        assert_int_equal(skv_policy_parse(bad[i][0], &s, &err), -EINVAL);
        if (!strstr(err.text, bad[i][1]))
            fail_msg("'%s': '%s' does not say '%s'", bad[i][0], err.text, bad[i][1]);
        assert_int_equal(s.policy, SKV_WINDOW);
    }
}

/* ---- choosing ---- */

enum {
    DIM = 16,
    PAGES = 700,
    BLOCKS = PAGES / 4,
    PIECES = (BLOCKS + PIECE_BLOCKS - 1) / PIECE_BLOCKS,
    ROWS = 2
};

struct world {
    uint8_t *groups[PIECES], *blocks[PIECES];
    float norms[PIECES][PIECE_PAGES], q[ROWS * DIM], lse[ROWS], share[ROWS];
    void *part[PIECES][INDEX_PARTS];
    float tail[ROWS * (2 + DIM)];
    struct far_piece pieces[PIECES];
    uint64_t eligible[PAGES / 64 + 1];
    float received[PAGES], truth[ROWS * 704];
    float opt[SKV_POLICY_OPTS];
    float salience[PIECES][PIECE_PAGES], alpha, candidates;
    bool prior;
    uint64_t read;
};

/* Small keys everywhere; page `loud` has one along the query. */
static void world_make_of(struct world *w, unsigned loud, enum reps_kind kind)
{
    *w = (struct world){0};
    for (unsigned i = 0; i < ROWS * DIM; i++)
        w->q[i] = i % DIM == 3 ? 4.0f : 0.1f;
    for (unsigned p = 0; p < PIECES; p++) {
        w->groups[p] = malloc(PIECE_PAGES / 8 * reps_group_bytes(kind, DIM));
        w->blocks[p] = malloc(PIECE_BLOCKS / 8 * reps_group_bytes(REPS_BLOCK, DIM));
        for (unsigned g = 0; g < PIECE_PAGES / 8; g++)
            reps_group_clear(kind, DIM, w->groups[p] + g * reps_group_bytes(kind, DIM));
        for (unsigned g = 0; g < PIECE_BLOCKS / 8; g++)
            reps_group_clear(REPS_BLOCK, DIM, w->blocks[p] + g * reps_group_bytes(REPS_BLOCK, DIM));
        w->pieces[p] = (struct far_piece){.page_groups = w->groups[p],
                                          .block_groups = w->blocks[p],
                                          .norms = w->norms[p],
                                          .page_kind = kind};
        for (enum index_part i = 0; i < INDEX_PARTS; i++)
            w->pieces[p].part[i] = w->part[p][i] = calloc(1, part_bytes(i, DIM, DIM));
    }
    for (unsigned b = 0; b < BLOCKS; b++) {
        float k[64 * DIM], v[64 * DIM];
        unsigned piece = b / PIECE_BLOCKS, in = b % PIECE_BLOCKS;
        for (unsigned i = 0; i < 64 * DIM; i++)
            k[i] = 0.1f * sinf((float)(b * 977 + i));
        for (unsigned i = 0; i < 64 * DIM; i++)
            v[i] = (float)(i % DIM);
        if (loud / 4 == b)
            k[(loud % 4 * 16 + 5) * DIM + 3] = 3.0f;
        for (unsigned p = 0; p < 4; p++) {
            unsigned at = in * 4 + p;
            reps_build(kind, DIM, k + p * 16 * DIM, w->groups[piece] + at / 8 * reps_group_bytes(kind, DIM),
                       at % 8);
            w->norms[piece][at] = b * 4 + p == loud ? 3.0f : 0.5f;
        }
        reps_build(REPS_BLOCK, DIM, k, w->blocks[piece] + in / 8 * reps_group_bytes(REPS_BLOCK, DIM), in % 8);
        for (enum index_part i = 0; i < INDEX_PARTS; i++)
            if (!part_of_stretch(i))
                part_add(i, DIM, DIM, in, k, v, w->part[piece][i]);
        for (enum index_part i = 0; i < INDEX_PARTS; i++)
            if (part_of_stretch(i) && (in + 1) % PART_STRETCH == 0)
                part_make(i, DIM, DIM, in / PART_STRETCH, &w->pieces[piece], w->part[piece][i]);
    }
    memset(w->eligible, 0xff, sizeof w->eligible);
    w->received[loud] = 1.0f;
    for (unsigned r = 0; r < ROWS; r++)
        w->truth[r * 704 + loud] = 9.0f;
}

static void world_make(struct world *w, unsigned loud)
{
    world_make_of(w, loud, REPS_PAGE);
}

static void world_free(struct world *w)
{
    for (unsigned p = 0; p < PIECES; p++) {
        free(w->groups[p]);
        free(w->blocks[p]);
        for (unsigned i = 0; i < INDEX_PARTS; i++)
            free(w->part[p][i]);
    }
}

static size_t choose(struct world *w, enum skv_policy policy, size_t k, unsigned unit, uint32_t *pages)
{
    const struct policy *p = policy_get(policy);
    struct skv_select s = {
        .policy = policy, .opt = {[3] = w->candidates}, .given = w->candidates != 0 ? 8 : 0};
    struct far_view v = {.d_k = DIM,
                         .d_v = DIM,
                         .rows = ROWS,
                         .q = w->q,
                         .position = 12345,
                         .n_pages = PAGES,
                         .n_blocks = BLOCKS,
                         .pieces = w->pieces,
                         .eligible = w->eligible,
                         .received = w->received,
                         .mean_q = w->q,
                         .truth = w->truth,
                         .truth_ld = 704,
                         .k = k,
                         .unit = unit,
                         .opt = w->opt,
                         .lse = w->lse,
                         .share = w->share,
                         .tail_m = w->tail,
                         .tail_l = p->tails && w->candidates == 0 ? w->tail + ROWS : NULL,
                         .tail_o = w->tail + 2 * ROWS};
    policy_opts(&s, w->prior ? &(struct skv_calibration_head){.alpha = w->alpha, .beta = 4} : NULL, w->opt);
    struct far_view empty = v; /* a context asks for room before it fills the view */
    empty.pieces = NULL;
    empty.received = empty.mean_q = empty.truth = NULL;
    v.scratch = aligned_alloc(64, (policy_room(p, &empty) + 63) / 64 * 64);
    for (unsigned i = 0; i < policy_slices(p, &v); i++)
        p->scan(&v, i);
    size_t n = policy_choose(p, &v, pages);
    w->read = v.bytes;
    free(v.scratch);
    return n;
}

static bool chosen(const uint32_t *pages, size_t n, uint32_t page)
{
    for (size_t i = 0; i < n; i++)
        if (pages[i] == page)
            return true;
    return false;
}

/* Rising, eligible, and as many as the budget. */
static void choices_are_sane(void **state)
{
    struct world w;
    const enum reps_kind *kind = *state;
    uint32_t pages[PAGES + 4];
    world_make_of(&w, 333, *kind);
    w.eligible[1] = 0xffff0000ffff0000;
    for (int policy = 0; policy < SKV_POLICIES; policy++) {
        if (!policy_get(policy)->score && !policy_get(policy)->choose)
            continue;
        for (unsigned unit = 1; unit <= 4; unit *= 2)
            for (size_t k = 1; k < 40; k += 13) {
                size_t n = choose(&w, policy, k, unit, pages);
                if (n > k * unit || n < k * unit / 4)
                    fail_msg("%s: %zu pages for %zu units of %u", policy_get(policy)->name, n, k, unit);
                for (size_t i = 0; i < n; i++) {
                    assert_true(pages[i] < PAGES && (i == 0 || pages[i - 1] < pages[i]));
                    assert_true(w.eligible[pages[i] / 64] >> (pages[i] % 64) & 1);
                }
            }
    }
    world_free(&w);
}

/* Which dims scatter is said span by span. Two spans say that theirs scatter along the query, the third,
 * which holds the loud page, that its don't: blocks must compare all the same, or what names candidates loses
 * it. */
static void spans_that_scatter_otherwise_compare(void **state)
{
    (void)state;
    static const enum skv_policy finds[] = {SKV_CASCADE, SKV_RETRIEVAL, SKV_HIERARCHICAL};
    const unsigned loud = 2 * PIECE_PAGES + 133;
    struct world w;
    float along[DIM], across[DIM];
    uint32_t pages[PAGES + 4];
    world_make(&w, loud);
    for (unsigned i = 0; i < DIM; i++) {
        along[i] = i == 3 ? 0.2f + 0.8f * DIM : 0.2f;
        across[i] = i == 3 ? 0.2f : 0.2f + 0.8f * DIM / (DIM - 1);
    }
    for (unsigned p = 0; p < PIECES; p++)
        w.pieces[p].scatter = p < 2 ? along : across;
    for (unsigned i = 0; i < sizeof finds / sizeof *finds; i++) {
        size_t n = choose(&w, finds[i], 4, 1, pages);
        if (!chosen(pages, n, loud))
            fail_msg("%s: the loud page is not among %zu", policy_get(finds[i])->name, n);
    }
    world_free(&w);
}

/* The loud page is what the query wants; page 42 is what is always wanted, or has been: `salience` goes by
 * that, learned or not, and cascade where a calibration gives the prior weight. */
static void a_prior_counts_as_calibrated(void **state)
{
    (void)state;
    enum { LOUD = 333, DEAR = 42 };
    struct world w;
    uint32_t pages[PAGES + 4];
    world_make(&w, LOUD);
    w.received[LOUD] = 0;
    w.received[DEAR] = 1;
    for (unsigned p = 0; p < PIECES; p++)
        for (unsigned i = 0; i < PIECE_PAGES; i++)
            w.salience[p][i] = p * PIECE_PAGES + i == DEAR ? -2.0f : -9.0f - (float)(i % 3);
    assert_true(chosen(pages, choose(&w, SKV_SALIENCE, 1, 1, pages), LOUD)); /* the mean query's */
    w.prior = true;
    for (w.alpha = 0; w.alpha <= 1; w.alpha += 1) { /* what was received, or the mean query */
        size_t n = choose(&w, SKV_CASCADE, 1, 1, pages);
        assert_true(chosen(pages, n, w.alpha < 1 ? DEAR : LOUD));
    }
    for (unsigned p = 0; p < PIECES; p++)
        w.pieces[p].salience = w.salience[p];
    assert_true(chosen(pages, choose(&w, SKV_SALIENCE, 1, 1, pages), DEAR));
    for (w.alpha = 0; w.alpha <= 1; w.alpha += 0.5f)
        assert_true(chosen(pages, choose(&w, SKV_CASCADE, 1, 1, pages), DEAR));
    w.prior = false; /* what is learned counts for nothing by itself */
    assert_true(chosen(pages, choose(&w, SKV_CASCADE, 1, 1, pages), LOUD));
    world_free(&w);
}

/* One stage looks at every page, two at those of the candidates: what they read says so. */
static void candidates_are_what_is_looked_at(void **state)
{
    (void)state;
    const size_t pages_in_all = PAGES / 8 * reps_group_bytes(REPS_PAGE, DIM),
                 blocks_in_all = (BLOCKS + 7) / 8 * reps_group_bytes(REPS_BLOCK, DIM);
    struct world w;
    uint32_t pages[PAGES + 4];
    world_make(&w, 333);
    w.candidates = -1;
    assert_true(chosen(pages, choose(&w, SKV_CASCADE, 2, 1, pages), 333));
    assert_true(w.read >= pages_in_all && w.read < pages_in_all + blocks_in_all);
    w.candidates = 5;
    assert_true(chosen(pages, choose(&w, SKV_CASCADE, 2, 1, pages), 333));
    assert_true(w.read >= blocks_in_all + 3 * reps_group_bytes(REPS_PAGE, DIM) &&
                w.read <=
                    blocks_in_all + 5 * reps_group_bytes(REPS_PAGE, DIM) + PIECES * DIM * sizeof(float));
    assert_int_equal(choose(&w, SKV_CASCADE, 30, 1, pages), 20); /* all that the candidates have */
    world_free(&w);
}

/* Options that are given win over a calibration; what a policy needs follows from both. */
static void needs_follow_options_and_calibration(void **state)
{
    (void)state;
    struct skv_calibration_head heads[2] = {{.alpha = 0}, {.alpha = 1, .beta = 0.5f}};
    const float weights[2 * (DIM + 2)] = {0};
    struct skv_calibration c = {.n_layers = 1, .n_kv_heads = 2, .heads = heads}, learned = c;
    struct skv_select s = {.policy = SKV_CASCADE};
    struct skv_error err;
    float opt[SKV_POLICY_OPTS];
    learned.d_k = DIM;
    learned.salience = weights;
    assert_int_equal(policy_needs(&s, NULL), 0);
    assert_int_equal(policy_needs(&s, &c), NEEDS_MEAN_QUERY);
    assert_int_equal(policy_needs(&s, &learned), NEEDS_SALIENCE);
    assert_true(skv_policy_history(&s, &c) && !skv_policy_history(&s, &learned));
    assert_int_equal(skv_policy_parse("cascade:alpha=0.5", &s, &err), 0);
    assert_int_equal(policy_needs(&s, &learned), NEEDS_SALIENCE | NEEDS_RECEIVED);
    policy_opts(&s, &heads[1], opt);
    assert_true(opt[0] == 0.5f && opt[1] == 0.5f);
    assert_int_equal(skv_policy_parse("cascade:beta=0", &s, &err), 0);
    assert_int_equal(policy_needs(&s, &learned), 0);
    assert_int_equal(skv_policy_parse("salience", &s, &err), 0);
    assert_int_equal(policy_needs(&s, NULL), NEEDS_MEAN_QUERY);
    assert_int_equal(policy_needs(&s, &learned), NEEDS_SALIENCE);
}

static void who_can_find_the_loud_page_does(void **state)
{
    const enum reps_kind *kind = *state;
    static const enum skv_policy finds[] = {SKV_CASCADE,   SKV_RETRIEVAL, SKV_QUEST,        SKV_ORACLE,
                                            SKV_NORM_ONLY, SKV_TOVA,      SKV_HEAVY_HITTER, SKV_SALIENCE};
    static const enum skv_policy blind[] = {SKV_SINKS, SKV_STRIDED, SKV_RANDOM, SKV_BIGBIRD,
                                            SKV_BLOCK_SPARSE};
    struct world w;
    uint32_t pages[PAGES + 4];
    for (unsigned loud = 101; loud < 600; loud += 166) {
        world_make_of(&w, loud, *kind);
        for (size_t i = 0; i < sizeof finds / sizeof *finds; i++)
            if (!(*kind == REPS_LEAN && finds[i] == SKV_RETRIEVAL) && /* its clusters know centres only */
                !chosen(pages, choose(&w, finds[i], 2, 1, pages), loud))
                fail_msg("%s does not choose page %u", policy_get(finds[i])->name, loud);
        for (size_t i = 0; i < sizeof blind / sizeof *blind; i++)
            if (chosen(pages, choose(&w, blind[i], 2, 1, pages), loud))
                fail_msg("%s chooses page %u", policy_get(blind[i])->name, loud);
        world_free(&w);
    }
}

/* Chosen and tail together are all that is far, and values that are everywhere the same stay so. */
static void the_tail_is_what_is_left(void **state)
{
    (void)state;
    struct world w;
    uint32_t pages[PAGES + 4];
    for (size_t k = 1; k <= 3 * PAGES; k = k * 3 + 1) { /* one stage and two */
        world_make(&w, 333);
        size_t n = choose(&w, SKV_CASCADE, k < 700 ? k : PAGES, 1, pages);
        for (unsigned r = 0; r < ROWS; r++) {
            const float l = w.tail[ROWS + r], *o = w.tail + 2 * ROWS + r * DIM;
            assert_true(fabsf(w.share[r] + l - 1.0f) < 1e-3f);
            assert_true(fabsf(w.tail[r] - w.lse[r]) < 1e-6f);
            for (unsigned i = 0; i < DIM; i++)
                assert_true(fabsf(o[i] - l * (float)i) < 1e-4f * (1.0f + (float)i));
        }
        assert_true(n < PAGES || w.tail[ROWS] == 0.0f);
        world_free(&w);
    }
}

/* Every fourth key of every block stands apart. The first stage sees a mean and a spread, and puts a block's
 * mass nats too low; what the tail counts is right all the same. */
static void the_tail_weighs_what_nobody_looked_into(void **state)
{
    (void)state;
    struct world w;
    uint32_t pages[PAGES + 4];
    double mass = 0;
    world_make(&w, 333);
    for (unsigned b = 0; b < BLOCKS; b++) {
        float k[64 * DIM] = {0};
        uint8_t *groups = w.groups[b / PIECE_BLOCKS], *blocks = w.blocks[b / PIECE_BLOCKS];
        unsigned in = b % PIECE_BLOCKS;
        for (unsigned t = 0; t < 64; t++) {
            k[t * DIM + 3] = t % 4 ? 0 : 3;
            mass += exp((double)w.q[3] * (double)k[t * DIM + 3]);
        }
        for (unsigned p = 0; p < 4; p++) {
            unsigned at = in * 4 + p;
            reps_build(REPS_PAGE, DIM, k + p * 16 * DIM, groups + at / 8 * reps_group_bytes(REPS_PAGE, DIM),
                       at % 8);
        }
        reps_build(REPS_BLOCK, DIM, k, blocks + in / 8 * reps_group_bytes(REPS_BLOCK, DIM), in % 8);
    }
    choose(&w, SKV_CASCADE, 4, 1, pages);
    for (unsigned r = 0; r < ROWS; r++) {
        printf("log mass %.2f, estimated %.2f\n", log(mass), (double)w.lse[r]);
        assert_true(fabs((double)w.lse[r] - log(mass)) < 0.2);
        assert_true(fabsf(w.share[r] + w.tail[ROWS + r] - 1.0f) < 1e-3f);
        assert_true(fabsf(w.tail[ROWS + r] - (1 - 4.0f / PAGES)) < 0.01f);
    }
    world_free(&w);
}

/* ---- the past ---- */

static struct skv_context_opts history_opts(const char *spec)
{
    struct skv_context_opts o = small_opts();
    struct skv_error err;
    o.decode.budget = 64;
    o.decode.unit = 16;
    assert_int_equal(skv_policy_parse(spec, &o.decode, &err), 0);
    return o;
}

static const char *const with_history[] = {
    "heavy-hitter", "heavy-hitter:half-life=3", "tova",
    "salience",     "cascade:beta=0.7",         "cascade:beta=0.7:alpha=0.5"};
enum { WITH_HISTORY = sizeof with_history / sizeof *with_history, PROMPT = 1500, STEPS = 24 };

static uint64_t straight(const struct skv_context_opts *o)
{
    skv_tier *t = open_tier(NULL, 2);
    skv_context *c = open_context(t, o);
    uint64_t digest = 1;
    prefill(t, c, 0, PROMPT, 128, &digest);
    decode(t, c, PROMPT, PROMPT + STEPS, &digest);
    skv_context_close(c);
    skv_tier_close(t);
    return digest;
}

static void steps(skv_tier *t, skv_context *c, uint64_t from, unsigned n, uint64_t *digest)
{
    struct skv_error err = {0};
    check(pass(t, c, SKV_DECODE, from, n, digest, NULL, &err), &err);
}

/* Speculation that is taken back, a fork, and a saved context end where a straight run does. */
static void the_past_is_the_same_on_every_road(void **state)
{
    (void)state;
    for (size_t i = 0; i < WITH_HISTORY; i++) {
        struct skv_context_opts o = history_opts(with_history[i]);
        o.representatives = i % 2 ? SKV_REPS_LEAN : SKV_REPS_FULL;
        struct skv_error err = {0};
        uint64_t want = straight(&o), digest = 1, waste = 1;
        skv_tier *t = open_tier(NULL, 2);
        skv_context *c = open_context(t, &o), *d;
        prefill(t, c, 0, PROMPT, 128, &digest);
        decode(t, c, PROMPT, PROMPT + 4, &digest);
        steps(t, c, PROMPT + 4, 5, &waste);
        check(skv_truncate(c, PROMPT + 4, &err), &err);
        decode(t, c, PROMPT + 4, PROMPT + 8, &digest);
        check(skv_context_fork(c, &d, &err), &err);
        steps(t, c, PROMPT + 8, 3, &waste);
        skv_context_close(c);
        decode(t, d, PROMPT + 8, PROMPT + 12, &digest);
        check(skv_context_snapshot(d, "road", NULL, &err), &err);
        skv_context_close(d);
        check(skv_context_reopen(t, &model, NULL, "road", &c, &err), &err);
        uint64_t again = digest;
        decode(t, c, PROMPT + 12, PROMPT + STEPS, &digest);
        if (digest != want)
            fail_msg("%s: other bits than straight", with_history[i]);
        skv_context_close(c);
        /* the last step once more, as --resume does */
        check(skv_context_reopen(t, &model, NULL, "road", &c, &err), &err);
        check(skv_truncate(c, PROMPT + 11, &err), &err);
        steps(t, c, PROMPT + 11, 1, &waste);
        decode(t, c, PROMPT + 12, PROMPT + STEPS, &again);
        assert_true(again == want);
        skv_context_close(c);
        skv_tier_close(t);
    }
}

/* Rows of one pass see what the rows before them received. */
static void a_pass_of_many_is_as_many_passes(void **state)
{
    (void)state;
    for (size_t i = 0; i < WITH_HISTORY; i++) {
        struct skv_context_opts o = history_opts(with_history[i]);
        float *one[LAYERS], *many[LAYERS];
        struct skv_error err = {0};
        uint64_t digest = 1;
        for (unsigned road = 0; road < 2; road++) {
            skv_tier *t = open_tier(NULL, 2);
            skv_context *c = open_context(t, &o);
            float **out = road ? many : one;
            prefill(t, c, 0, PROMPT, 128, &digest);
            for (unsigned l = 0; l < LAYERS; l++)
                out[l] = calloc(4 * layers[l].n_heads * layers[l].d_v, sizeof(float));
            if (road == 0)
                steps(t, c, PROMPT, 3, &digest);
            for (unsigned k = 0; road && k < 3; k++)
                steps(t, c, PROMPT + k, 1, &digest);
            check(pass(t, c, SKV_DECODE, PROMPT + 3, 1, &digest, out, &err), &err);
            skv_context_close(c);
            skv_tier_close(t);
        }
        for (unsigned l = 0; l < LAYERS; l++) {
            assert_memory_equal(one[l], many[l], layers[l].n_heads * layers[l].d_v * sizeof(float));
            free(one[l]);
            free(many[l]);
        }
    }
}

/* ---- parts ---- */

static uint64_t steps_of(skv_tier *t, skv_context *c, uint64_t at)
{
    uint64_t digest = 1;
    decode(t, c, at, at + STEPS, &digest);
    return digest;
}

/* Made at sealing; when the policy comes later; after truncating into a stretch; on a fork; when reopened. */
static void parts_are_the_same_on_every_road(void **state)
{
    (void)state;
    static const char *const specs[] = {"quest", "retrieval:probes=2", "hierarchical:near=0:far=1"};
    enum { LONG = 3000 };
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        struct skv_context_opts o = history_opts(specs[i]), window = history_opts("window");
        struct skv_error err = {0};
        uint64_t skip = 1;
        skv_tier *t = open_tier(NULL, 2);
        skv_context *c = open_context(t, &o), *f;
        prefill(t, c, 0, LONG, 128, &skip);
        uint64_t want = steps_of(t, c, LONG);
        skv_context_close(c);
        c = open_context(t, &window);
        prefill(t, c, 0, LONG, 128, &skip);
        check(skv_context_fork(c, &f, &err), &err);
        assert_true(steps_of(t, c, LONG) != want); /* or the test could not fail */
        skv_context_close(c);
        check(skv_context_configure(f, &o.decode, o.cache_bytes, &err), &err);
        if (steps_of(t, f, LONG) != want)
            fail_msg("%s: other bits when it comes later", specs[i]);
        check(skv_truncate(f, 1280, &err), &err);
        prefill(t, f, 1280, LONG, 128, &skip);
        if (steps_of(t, f, LONG) != want)
            fail_msg("%s: other bits after truncating", specs[i]);
        check(skv_truncate(f, LONG, &err), &err);
        check(skv_context_snapshot(f, "parts", NULL, &err), &err);
        skv_context_close(f);
        check(skv_context_reopen(t, &model, NULL, "parts", &c, &err), &err);
        if (steps_of(t, c, LONG) != want)
            fail_msg("%s: other bits when reopened", specs[i]);
        skv_context_close(c);
        skv_tier_close(t);
    }
}

/* ---- layers ---- */

/* One step's outputs after a prompt, by what `o` selects; by way of a fork and a saved context. */
static void one_step(const struct skv_context_opts *o, float *out[LAYERS])
{
    skv_tier *t = open_tier(NULL, 2);
    skv_context *c = open_context(t, o), *f;
    struct skv_error err = {0};
    uint64_t digest = 1;
    prefill(t, c, 0, PROMPT, 128, &digest);
    check(skv_context_fork(c, &f, &err), &err);
    skv_context_close(c);
    check(skv_context_snapshot(f, "layers", NULL, &err), &err);
    skv_context_close(f);
    check(skv_context_reopen(t, &model, NULL, "layers", &c, &err), &err);
    for (unsigned l = 0; l < LAYERS; l++)
        out[l] = calloc(layers[l].n_heads * layers[l].d_v, sizeof(float));
    check(pass(t, c, SKV_DECODE, PROMPT, 1, &digest, out, &err), &err);
    skv_context_close(c);
    skv_tier_close(t);
}

static void a_layer_follows_its_own_policy(void **state)
{
    (void)state;
    struct skv_context_opts o = small_opts();
    float *dense[LAYERS], *window[LAYERS], *mixed[LAYERS];
    o.decode.policy = SKV_DENSE;
    one_step(&o, dense);
    o.decode.policy = SKV_WINDOW;
    one_step(&o, window);
    o.n_decode_layers = 2;
    o.decode_layers[0] = (struct skv_layer_select){0, LAYERS, {.policy = SKV_DENSE, .unit = 16}};
    o.decode_layers[1] = (struct skv_layer_select){0, 1, {.policy = SKV_WINDOW, .unit = 16}};
    one_step(&o, mixed);
    for (unsigned l = 0; l < LAYERS; l++) {
        size_t n = layers[l].n_heads * layers[l].d_v * sizeof(float);
        assert_memory_equal(mixed[l], l ? dense[l] : window[l], n);
        assert_memory_not_equal(dense[l], window[l], n);
        free(dense[l]);
        free(window[l]);
        free(mixed[l]);
    }
    skv_tier *t = open_tier(NULL, 1);
    skv_context *c;
    struct skv_error err = {0};
    o.decode_layers[1].to = LAYERS + 1;
    assert_int_equal(skv_context_open(t, &model, &o, &c, &err), -EINVAL);
    assert_non_null(strstr(err.text, "layers 0 to 2: the model has layers 0 to 1"));
    skv_tier_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(specs_are_read),
        cmocka_unit_test(bad_specs_are_refused),
        cmocka_unit_test_prestate(choices_are_sane, &(enum reps_kind){REPS_PAGE}),
        cmocka_unit_test_prestate(choices_are_sane, &(enum reps_kind){REPS_LEAN}),
        cmocka_unit_test(spans_that_scatter_otherwise_compare),
        cmocka_unit_test(a_prior_counts_as_calibrated),
        cmocka_unit_test(candidates_are_what_is_looked_at),
        cmocka_unit_test(needs_follow_options_and_calibration),
        cmocka_unit_test_prestate(who_can_find_the_loud_page_does, &(enum reps_kind){REPS_PAGE}),
        cmocka_unit_test_prestate(who_can_find_the_loud_page_does, &(enum reps_kind){REPS_LEAN}),
        cmocka_unit_test(the_tail_is_what_is_left),
        cmocka_unit_test(the_tail_weighs_what_nobody_looked_into),
        cmocka_unit_test(the_past_is_the_same_on_every_road),
        cmocka_unit_test(a_pass_of_many_is_as_many_passes),
        cmocka_unit_test(parts_are_the_same_on_every_road),
        cmocka_unit_test(a_layer_follows_its_own_policy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
