/* test_hierarchical.c: summaries of eight blocks, and that what hierarchical doesn't read is attended to as
 * weighted centroids. */
#include "decoder/kernels/kernels.h"
#include "decoder/scout/coarse.h"
#include "decoder/scout/policy.h"
#include "decoder/scout/reps.h"
#include "decoder/scout/scout.h"
#include "tests/unit/context_engine.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

enum { DIM = 16, PIECES = 8, BLOCKS = PIECES * PIECE_BLOCKS - 5, PAGES = BLOCKS * 4, ROWS = 2 };
enum { PAGE_GROUPS = PIECE_PAGES / REPS_LANES, BLOCK_GROUPS = PIECE_BLOCKS / REPS_LANES };

struct world {
    uint8_t *groups[PIECES], *blocks[PIECES];
    void *part[PIECES][INDEX_PARTS];
    struct far_piece pieces[PIECES];
    uint64_t eligible[PIECES * PIECE_PAGES / 64];
    float q[ROWS * DIM], lse[ROWS], share[ROWS], tail[ROWS * (2 + DIM)];
    uint64_t bytes;
};

/* All keys are zero, but those of block `strong` along the query, 4 of log mass; a block's values are its
 * number. */
static void world_make(struct world *w, unsigned strong)
{
    *w = (struct world){0};
    for (unsigned r = 0; r < ROWS; r++)
        w->q[r * DIM + 3] = 4.0f;
    for (unsigned b = 0; b < PIECES * PIECE_BLOCKS; b++) {
        unsigned piece = b / PIECE_BLOCKS, in = b % PIECE_BLOCKS;
        struct far_piece *p = &w->pieces[piece];
        float k[64 * DIM] = {0}, v[64 * DIM];
        if (in == 0) {
            p->page_groups = w->groups[piece] = calloc(PAGE_GROUPS, reps_group_bytes(REPS_PAGE, DIM));
            p->block_groups = w->blocks[piece] = calloc(BLOCK_GROUPS, reps_group_bytes(REPS_BLOCK, DIM));
            for (enum index_part i = 0; i < INDEX_PARTS; i++)
                p->part[i] = w->part[piece][i] = calloc(1, part_bytes(i, DIM, DIM));
        }
        for (unsigned i = 0; i < 64 * DIM; i++) {
            k[i] = b == strong && i % DIM == 3 ? 1.0f : 0.0f;
            v[i] = (float)b;
        }
        for (unsigned page = in * 4; page < in * 4 + 4; page++)
            reps_build(REPS_PAGE, DIM, k, w->groups[piece] + page / 8 * reps_group_bytes(REPS_PAGE, DIM),
                       page % 8);
        reps_build(REPS_BLOCK, DIM, k, w->blocks[piece] + in / 8 * reps_group_bytes(REPS_BLOCK, DIM), in % 8);
        part_add(PART_VALUE, DIM, DIM, in, k, v, w->part[piece][PART_VALUE]);
        if ((in + 1) % PART_STRETCH == 0)
            part_make(PART_COARSE, DIM, DIM, in / PART_STRETCH, p, w->part[piece][PART_COARSE]);
    }
    memset(w->eligible, 0xff, sizeof w->eligible);
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

static size_t choose(struct world *w, float near, float far, size_t k, uint32_t *pages)
{
    const struct policy *p = policy_get(SKV_HIERARCHICAL);
    float opt[SKV_POLICY_OPTS] = {near, far};
    struct far_view v = {.d_k = DIM,
                         .d_v = DIM,
                         .rows = ROWS,
                         .q = w->q,
                         .n_pages = PAGES,
                         .n_blocks = BLOCKS,
                         .pieces = w->pieces,
                         .eligible = w->eligible,
                         .k = k,
                         .unit = 1,
                         .opt = opt,
                         .lse = w->lse,
                         .share = w->share,
                         .tail_m = w->tail,
                         .tail_l = w->tail + ROWS,
                         .tail_o = w->tail + 2 * ROWS};
    v.scratch = aligned_alloc(64, (policy_room(p, &v) + 63) / 64 * 64);
    size_t n = policy_choose(p, &v, pages);
    free(v.scratch);
    assert_true(v.estimated);
    w->bytes = v.bytes;
    return n;
}

static void close_to(double got, double want, double by, const char *what)
{
    if (!(fabs(got - want) <= by))
        fail_msg("%s is %g, not %g", what, got, want);
}

static void a_summary_is_of_eight_blocks(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, 10);
    const uint8_t *group = w.part[0][PART_COARSE];
    struct scout_head h = {.kind = REPS_BLOCK, .groups = &group, .pages_per_piece = 8, .d_k = DIM};
    float mass[8], value[DIM];
    scout_score(&h, 8, 1, w.q, mass, 8);
    close_to((double)mass[0], log(512), 1e-5, "log mass of 512 keys at 0");
    /* one block of eight along the query: by the centre 4/8, and what blocks scatter around it adds the rest
     */
    assert_true((double)mass[1] > log(512) + 0.5 && (double)mass[1] < log(64) + 4.0);
    for (unsigned i = 0; i < COARSE_PIECE; i++) {
        kernels_get()->f16_to_f32(DIM, coarse_values(DIM, group) + (size_t)i * DIM, value);
        close_to((double)value[5], i * 8 + 3.5, 1e-6, "mean value");
    }
    world_free(&w);
}

/* Where all keys weigh the same, what is left weighs as much as its pages, and its value is their mean, at
 * whatever resolution; also next to what is protected, and where the newest blocks have no summary. */
static void the_tail_is_the_weighted_centroid(void **state)
{
    (void)state;
    static const float levels[][2] = {{0, 1}, {1024, 3}, {1 << 20, 1}};
    uint32_t pages[300];
    for (size_t i = 0; i < 3; i++)
        for (size_t k = 1; k < 300; k += 149) {
            struct world w;
            world_make(&w, UINT32_MAX);
            w.eligible[0] = ~UINT64_C(0x3f); /* block 0 and half of block 1 are protected */
            double sum = 0, left = PAGES - 6;
            size_t n = choose(&w, levels[i][0], levels[i][1], k, pages);
            assert_int_equal(n, k);
            for (unsigned p = 6; p < PAGES; p++)
                sum += p / 4;
            for (size_t j = 0; j < n; j++, left--)
                sum -= pages[j] / 4;
            for (unsigned r = 0; r < ROWS; r++) {
                double l = (double)w.tail[ROWS + r];
                close_to((double)w.tail[r], log(16.0 * PAGES), 1e-4, "log mass of all that is far");
                close_to(l, left / PAGES, 1e-4, "the tail's share");
                close_to((double)w.share[r], 1 - left / PAGES, 1e-4, "the share that is read");
                close_to((double)w.tail[2 * ROWS + r * DIM + 7] / l, sum / left, 0.01, "the tail's value");
            }
            world_free(&w);
        }
}

/* A strong block far away is found through its summary, and four of its pages are read. */
static void what_is_strong_is_opened(void **state)
{
    (void)state;
    uint32_t pages[8];
    uint64_t scan = PAGES / 8 * reps_group_bytes(REPS_PAGE, DIM);
    for (unsigned strong = 3; strong < BLOCKS; strong += 99) {
        struct world w;
        world_make(&w, strong);
        assert_int_equal(choose(&w, 512, 0, 4, pages), 4);
        for (unsigned j = 0; j < 4; j++)
            assert_int_equal(pages[j], strong * 4 + j);
        double of_strong = 64 * exp(4), rest = 64.0 * (BLOCKS - 1);
        close_to((double)w.share[0], of_strong / (of_strong + rest), 0.01, "its share");
        assert_true(w.bytes * 4 < scan);
        world_free(&w);
    }
}

/* ---- in a context ---- */

enum { PROMPT = 3000 };

static void one_step(const char *policy, float *out[LAYERS])
{
    struct skv_context_opts o = small_opts();
    struct skv_error err = {0};
    uint64_t digest = 1;
    o.prefill.policy = SKV_DENSE;
    o.decode.budget = 64;
    o.decode.unit = 16;
    assert_int_equal(skv_policy_parse(policy, &o.decode, &err), 0);
    skv_tier *t = open_tier(NULL, 2);
    skv_context *c = open_context(t, &o);
    prefill(t, c, 0, PROMPT, 120, &digest);
    for (unsigned l = 0; l < LAYERS; l++)
        out[l] = calloc(layers[l].n_heads * layers[l].d_v, sizeof(float));
    check(pass(t, c, SKV_DECODE, PROMPT, 1, &digest, out, &err), &err);
    skv_context_close(c);
    skv_tier_close(t);
}

static double distance(float *const a[LAYERS], float *const b[LAYERS])
{
    double sum = 0;
    for (unsigned l = 0; l < LAYERS; l++)
        for (unsigned i = 0; i < layers[l].n_heads * layers[l].d_v; i++)
            sum += pow((double)a[l][i] - (double)b[l][i], 2);
    return sqrt(sum);
}

static void outputs_are_nearer_to_dense(void **state)
{
    (void)state;
    static const char *const names[] = {"dense", "hierarchical:near=0:far=1", "window", "cascade"};
    float *out[4][LAYERS];
    for (unsigned i = 0; i < 4; i++)
        one_step(names[i], out[i]);
    double tailed = distance(out[1], out[0]);
    if (!(tailed < 0.7 * distance(out[2], out[0]) && tailed < distance(out[3], out[0])))
        fail_msg("%g from dense; window %g, cascade without a tail %g", tailed, distance(out[2], out[0]),
                 distance(out[3], out[0]));
    for (unsigned i = 0; i < 4; i++)
        for (unsigned l = 0; l < LAYERS; l++)
            free(out[i][l]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_summary_is_of_eight_blocks),
        cmocka_unit_test(the_tail_is_the_weighted_centroid),
        cmocka_unit_test(what_is_strong_is_opened),
        cmocka_unit_test(outputs_are_nearer_to_dense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
