/* policy_retrieval.c: an approximate nearest-neighbour search. Keys are clustered as blocks seal (cells.h); a
 * query scores the centres, opens the lists of the best, and of what those name, the pages.
 *
 * Pages are kept in groups of eight, and a group is read whole: the seven neighbours of a listed page are
 * scored for nothing, and may be chosen as well. The newest pages, of which no cells are made yet, are always
 * scored. Where the lists name fewer pages than the budget has, the newest of the others join them. */
#include "decoder/scout/cells.h"
#include "decoder/scout/page_groups.h"
#include "decoder/scout/scout.h"

#include <string.h>

enum { OPT_PROBES, MIN_PROBES = 16, GROUP = REPS_LANES };

_Static_assert((int)CELLS_PAGES == 64, "a stretch's pages are a word of the bitmap");

struct retrieval {
    size_t n_stretches, n_cells, n_probes, ld; /* stretches: full ones */
    float *mass, *score, *lse;                 /* of cells: (rows, ld), (ld), (rows) */
    uint32_t *probed;
    struct page_groups pages;
};

/* Sizes, and every array's place behind base; returns how much room all need. */
static size_t lay_out(const struct far_view *v, struct retrieval *c, char *base)
{
    size_t at = 0, budget = v->k * v->unit, probes = (size_t)v->opt[OPT_PROBES];
    c->n_stretches = v->n_pages / CELLS_PAGES;
    c->n_cells = c->n_stretches * CELLS;
    if (probes == 0)
        probes = budget > MIN_PROBES ? budget : MIN_PROBES;
    c->n_probes = probes < c->n_cells ? probes : c->n_cells;
    c->ld = (c->n_cells + 63) / 64 * 64;
    c->mass = policy_take(base, &at, v->rows * c->ld * sizeof *c->mass);
    c->score = policy_take(base, &at, c->ld * sizeof *c->score);
    c->lse = policy_take(base, &at, v->rows * sizeof *c->lse);
    c->probed = policy_take(base, &at, c->n_probes * sizeof *c->probed);
    page_groups_lay_out(v, &c->pages, base, &at);
    return at;
}

static size_t room(const struct far_view *v)
{
    struct retrieval c;
    return lay_out(v, &c, NULL);
}

/* A slice lays out the scratch for itself: all write the same values. */
static void scan(struct far_view *v, unsigned slice)
{
    struct retrieval c;
    lay_out(v, &c, v->scratch);
    const size_t of_piece = (size_t)CELLS_STRETCHES * CELLS, from = slice * SLICE_PIECES * of_piece;
    size_t end = from + SLICE_PIECES * of_piece;
    end = end < c.n_cells ? end : c.n_cells;
    if (from >= end)
        return;
    const uint8_t *centres[SLICE_PIECES];
    for (size_t at = from; at < end; at += of_piece)
        centres[(at - from) / of_piece] = v->pieces[at / of_piece].part[PART_CELLS];
    struct scout_head sh = {
        .kind = REPS_BLOCK, .groups = centres, .pages_per_piece = (unsigned)of_piece, .d_k = view_dims(v)};
    scout_score(&sh, end - from, v->rows, view_q(v), c.mass + from, c.ld);
}

/* Marks the groups that have a page of the best cells. */
static void probe(struct far_view *v, struct retrieval *c)
{
    scout_aggregate(c->n_cells, v->rows, c->mass, c->ld, c->lse, c->score);
    size_t n = scout_top(c->n_cells, c->score, NULL, c->n_probes, 1, 0, c->pages.order, c->probed);
    for (size_t i = 0; i < n; i++) {
        size_t stretch = c->probed[i] / CELLS;
        uint64_t list = cells_lists(
            view_dims(v), v->pieces[stretch / CELLS_STRETCHES]
                              .part[PART_CELLS])[stretch % CELLS_STRETCHES * CELLS + c->probed[i] % CELLS];
        for (unsigned g = 0; g < CELLS_PAGES / GROUP; g++)
            c->pages.marked[stretch * (CELLS_PAGES / GROUP) + g] |= (list >> (g * GROUP) & 0xff) != 0;
    }
    v->bytes += c->n_cells / REPS_LANES * reps_group_bytes(REPS_BLOCK, view_dims(v)) + n * sizeof(uint64_t);
}

/* Pages that are too new for cells, and then, as long as the budget has room, the newest. */
static void mark_newest(const struct far_view *v, struct page_groups *g, size_t n_stretches)
{
    size_t n = 0, budget = v->k * v->unit;
    for (size_t i = n_stretches * (CELLS_PAGES / GROUP); i < g->n_all; i++)
        g->marked[i] = true;
    for (size_t i = 0; i < g->n_all; i++)
        n += g->marked[i] ? (size_t)__builtin_popcount(page_groups_eligible(v, i)) : 0;
    for (size_t i = g->n_all; i-- > 0 && n < budget;)
        if (!g->marked[i]) {
            g->marked[i] = true;
            n += (size_t)__builtin_popcount(page_groups_eligible(v, i));
        }
}

static size_t choose(struct far_view *v, uint32_t *pages)
{
    struct retrieval c;
    lay_out(v, &c, v->scratch);
    memset(c.pages.marked, 0, c.pages.n_all);
    if (c.n_cells)
        probe(v, &c);
    mark_newest(v, &c.pages, c.n_stretches);
    page_groups_score(v, &c.pages);
    size_t n = page_groups_top(v, &c.pages, pages);
    page_groups_pages(&c.pages, n, pages);
    return n;
}

const struct policy policy_retrieval = {
    .name = "retrieval",
    .about =
        "the best of the pages that an inverted index finds: keys are clustered as blocks seal, and only "
        "the lists of the clusters nearest to the query are opened",
    .source = "inverted file with probes, Sivic and Zisserman 2003; for attention RetrievalAttention, Liu et "
              "al. 2024, and RetroInfer, Chen et al. 2025",
    .opts = {{"probes", 0, 0, 1 << 24,
              "lists that are opened; 0: one for each page of the budget, at least 16"}},
    .needs = 1u << PART_CELLS,
    .room = room,
    .scan = scan,
    .choose = choose,
};
