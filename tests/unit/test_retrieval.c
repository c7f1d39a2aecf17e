/* test_retrieval.c: the inverted index, what retrieval finds with it, and how little it reads. */
#include "decoder/scout/cells.h"
#include "decoder/scout/policy.h"
#include "decoder/scout/reps.h"
#include "decoder/scout/scout.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

enum { DIM = 16, PIECES = 32, PAGES = PIECES * PIECE_PAGES - 20, GROUPS = PIECE_PAGES / REPS_LANES };

struct world {
    uint8_t *groups[PIECES], *cells[PIECES];
    struct far_piece pieces[PIECES];
    uint64_t eligible[PIECES * PIECE_PAGES / 64];
    float q[DIM], lse, share;
};

static float lot(uint64_t *lots)
{
    *lots = *lots * 6364136223846793005u + 1442695040888963407u;
    return (float)(*lots >> 40) / (1 << 24) - 0.5f;
}

/* Keys of forty kinds, in runs, with noise; token 5 of page `loud` has one along the query. */
static void world_make(struct world *w, unsigned loud)
{
    uint64_t lots = 7;
    float kind[40][DIM], k[REPS_PAGE_KEYS * DIM];
    *w = (struct world){0};
    for (unsigned i = 0; i < 40 * DIM; i++)
        kind[i / DIM][i % DIM] = i % DIM == 3 ? 0.0f : 3.0f * lot(&lots);
    for (unsigned i = 0; i < DIM; i++)
        w->q[i] = i == 3 ? 6.0f : 0.1f;
    for (unsigned page = 0; page < PIECES * PIECE_PAGES; page++) {
        unsigned piece = page / PIECE_PAGES, at = page % PIECE_PAGES;
        if (at == 0) {
            w->groups[piece] = malloc(GROUPS * reps_group_bytes(REPS_PAGE, DIM));
            w->cells[piece] = calloc(1, part_bytes(PART_CELLS, DIM, DIM));
            w->pieces[piece] = (struct far_piece){.page_groups = w->groups[piece]};
            w->pieces[piece].part[PART_CELLS] = w->cells[piece];
        }
        for (unsigned i = 0; i < REPS_PAGE_KEYS * DIM; i++)
            k[i] = kind[(page * 16 + i / DIM) / 7 % 40][i % DIM] + 0.3f * lot(&lots);
        for (unsigned i = 0; page == loud && i < DIM; i++)
            k[5 * DIM + i] = i == 3 ? 5.0f : 0.0f;
        reps_build(REPS_PAGE, DIM, k, w->groups[piece] + at / 8 * reps_group_bytes(REPS_PAGE, DIM), at % 8);
        if (at % CELLS_PAGES == CELLS_PAGES - 1)
            part_make(PART_CELLS, DIM, DIM, at / CELLS_PAGES, &w->pieces[piece], w->cells[piece]);
    }
    memset(w->eligible, 0xff, sizeof w->eligible);
}

static void world_free(struct world *w)
{
    for (unsigned p = 0; p < PIECES; p++) {
        free(w->groups[p]);
        free(w->cells[p]);
    }
}

static size_t choose(struct world *w, float probes, size_t k, uint32_t *pages, uint64_t *bytes)
{
    const struct policy *p = policy_get(SKV_RETRIEVAL);
    float opt[SKV_POLICY_OPTS] = {probes};
    struct far_view v = {.d_k = DIM,
                         .d_v = DIM,
                         .rows = 1,
                         .q = w->q,
                         .n_pages = PAGES,
                         .n_blocks = PAGES / 4,
                         .pieces = w->pieces,
                         .eligible = w->eligible,
                         .k = k,
                         .unit = 1,
                         .opt = opt,
                         .lse = &w->lse,
                         .share = &w->share};
    v.scratch = aligned_alloc(64, (policy_room(p, &v) + 63) / 64 * 64);
    for (unsigned i = 0; i < policy_slices(p, &v); i++)
        p->scan(&v, i);
    size_t n = policy_choose(p, &v, pages);
    free(v.scratch);
    *bytes = v.bytes;
    return n;
}

static bool has(const uint32_t *pages, size_t n, uint32_t page)
{
    for (size_t i = 0; i < n; i++)
        if (pages[i] == page)
            return true;
    return false;
}

static void cells_list_every_page(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, 333);
    size_t bytes = cells_bytes(DIM);
    uint8_t *again = malloc(bytes);
    for (unsigned s = 0; s < CELLS_STRETCHES; s++) {
        const uint64_t *lists = cells_lists(DIM, w.cells[1]) + (size_t)s * CELLS;
        uint64_t all = 0;
        unsigned listed = 0;
        for (unsigned i = 0; i < CELLS; i++) {
            all |= lists[i];
            listed += (unsigned)__builtin_popcountll(lists[i]);
        }
        assert_true(all == UINT64_MAX);
        assert_true(listed > CELLS_PAGES && listed <= CELLS_PAGES * (1 + REPS_PAGE_OUTLIERS));
    }
    memset(again, 0x5a, bytes); /* every byte is made, and the order of stretches is nobody's business */
    for (unsigned s = CELLS_STRETCHES; s-- > 0;)
        cells_build(DIM, s, REPS_PAGE, w.groups[1], again);
    assert_memory_equal(again, w.cells[1], bytes);
    free(again);
    world_free(&w);
}

/* Under a quarter of what a scan of all pages' representatives reads, wherever the key lies: in a stretch,
 * and among the newest pages, of which there are no cells. */
static void a_planted_key_is_found_at_little_cost(void **state)
{
    (void)state;
    static const unsigned at[] = {0, 63, 64, 2500, 8127, PAGES - 1};
    uint64_t scan = (PAGES + 7) / 8 * reps_group_bytes(REPS_PAGE, DIM), bytes;
    uint32_t pages[64];
    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        struct world w;
        world_make(&w, at[i]);
        size_t n = choose(&w, 0, 4, pages, &bytes);
        assert_int_equal(n, 4);
        if (!has(pages, n, at[i]))
            fail_msg("page %u is not found", at[i]);
        if (bytes * 4 > scan)
            fail_msg("page %u: %llu bytes are read of %llu", at[i], (unsigned long long)bytes,
                     (unsigned long long)scan);
        w.eligible[at[i] / 64] &= ~(UINT64_C(1) << (at[i] % 64));
        assert_false(has(pages, choose(&w, 0, 4, pages, &bytes), at[i]));
        world_free(&w);
    }
}

/* With all lists open it chooses what a scan of all pages would; more lists read more. */
static void all_probes_are_a_full_scan(void **state)
{
    (void)state;
    struct world w;
    uint32_t pages[100], want[PAGES], order[PAGES];
    float mass[PAGES + 63], score[PAGES];
    uint64_t few, more, all;
    world_make(&w, 1234);
    choose(&w, 1, 100, pages, &few);
    choose(&w, 50, 100, pages, &more);
    size_t n = choose(&w, 1 << 20, 100, pages, &all);
    assert_true(few < more && more < all);
    struct far_view v = {.d_k = DIM, .rows = 1, .n_pages = PAGES, .pieces = w.pieces, .lse = &w.lse};
    policy_scan_pages(&v, w.q, mass, PAGES + 63);
    policy_sum_shares(&v, mass, PAGES + 63, score);
    assert_int_equal(scout_top(PAGES, score, w.eligible, 100, 1, 0, order, want), n);
    assert_memory_equal(pages, want, n * sizeof *pages);
    world_free(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cells_list_every_page),
        cmocka_unit_test(a_planted_key_is_found_at_little_cost),
        cmocka_unit_test(all_probes_are_a_full_scan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
