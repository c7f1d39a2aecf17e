/* policy_hierarchical.c: the further, the coarser. Nearest is the window, exact. Of what is far, eight blocks
 * together have one summary (coarse.h), and every step scores all of these. It opens those of the nearest
 * blocks and the strongest others, and scores their blocks; and of the best blocks, the pages. The best pages
 * are read. Everything else is attended too, at the finest resolution that was looked at, as a weighted
 * centroid: a mean value with the estimated mass of its keys. */
#include "decoder/scout/coarse.h"
#include "decoder/scout/page_groups.h"
#include "decoder/scout/scout.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { OPT_NEAR, OPT_FAR, BLOCK = 4, UNIT = COARSE_BLOCKS, MIN_OPEN = 32, MIN_BLOCKS = 32, MAX_ROWS = 256 };

/* A unit: the eight blocks of a summary; the newest ones have none yet. */
struct hierarchy {
    size_t n_units, n_coarse, coarse_ld;
    float *coarse_mass, *coarse_score, *coarse_lse; /* (rows, coarse_ld), (coarse_ld), (rows) */
    uint8_t *open;                                  /* (n_units) */
    size_t n_open, block_ld;
    /* Of summaries; then of open units: lane i of the j-th is block 8·open_at[j] + i. */
    const uint8_t **groups;
    uint32_t *open_at;
    float *block_mass, *block_score, *block_lse; /* (rows, block_ld), (block_ld), (rows) */
    uint64_t *may;                               /* bitmap of lanes with a page that may be chosen */
    uint32_t *best;                              /* summaries, then lanes of blocks */
    struct page_groups pages;
};

/* Blocks whose pages are looked at, as far as there are as many: enough to fill the budget. */
static size_t wanted_blocks(const struct far_view *v)
{
    return v->k * v->unit > MIN_BLOCKS ? v->k * v->unit : MIN_BLOCKS;
}

static size_t lay_out(const struct far_view *v, struct hierarchy *h, char *base)
{
    size_t at = 0;
    h->n_units = (v->n_blocks + UNIT - 1) / UNIT;
    h->n_coarse = v->n_blocks / PART_STRETCH * (PART_STRETCH / UNIT);
    h->coarse_ld = (h->n_coarse + 63) / 64 * 64;
    h->block_ld = (h->n_units * UNIT + 63) / 64 * 64;
    h->coarse_mass = policy_take(base, &at, v->rows * h->coarse_ld * sizeof *h->coarse_mass);
    h->coarse_score = policy_take(base, &at, h->coarse_ld * sizeof *h->coarse_score);
    h->coarse_lse = policy_take(base, &at, v->rows * sizeof *h->coarse_lse);
    h->open = policy_take(base, &at, h->n_units * sizeof *h->open);
    h->groups = policy_take(base, &at, h->n_units * sizeof *h->groups);
    h->open_at = policy_take(base, &at, h->n_units * sizeof *h->open_at);
    h->block_mass = policy_take(base, &at, v->rows * h->block_ld * sizeof *h->block_mass);
    h->block_score = policy_take(base, &at, h->block_ld * sizeof *h->block_score);
    h->block_lse = policy_take(base, &at, v->rows * sizeof *h->block_lse);
    h->may = policy_take(base, &at, (h->block_ld / 64 + 1) * sizeof *h->may);
    h->best = policy_take(base, &at, h->block_ld * sizeof *h->best);
    page_groups_lay_out(v, &h->pages, base, &at);
    return at;
}

static size_t room(const struct far_view *v)
{
    struct hierarchy h;
    return lay_out(v, &h, NULL);
}

/* The block's pages that may be chosen, as four bits. */
static unsigned eligible_of(const struct far_view *v, size_t block)
{
    return block < v->n_blocks ? page_groups_eligible(v, block / 2) >> (block % 2 * BLOCK) & 15 : 0;
}

/* ---- coarse ---- */

static void score_coarse(struct far_view *v, struct hierarchy *h)
{
    size_t n_pieces = 0;
    for (; n_pieces * COARSE_PIECE < h->n_coarse; n_pieces++)
        h->groups[n_pieces] = v->pieces[n_pieces].part[PART_COARSE];
    struct scout_head sh = {
        .kind = REPS_BLOCK, .groups = h->groups, .pages_per_piece = COARSE_PIECE, .d_k = view_dims(v)};
    scout_score(&sh, h->n_coarse, v->rows, view_q(v), h->coarse_mass, h->coarse_ld);
    v->bytes += n_pieces * reps_group_bytes(REPS_BLOCK, view_dims(v));
    scout_aggregate(h->n_coarse, v->rows, h->coarse_mass, h->coarse_ld, h->coarse_lse, h->coarse_score);
}

/* What has no summary, what is near, the strongest; and more of the newest until there are enough blocks. */
static void open_units(const struct far_view *v, struct hierarchy *h)
{
    size_t near = (size_t)v->opt[OPT_NEAR] / (UNIT * SKV_BLOCK), far = (size_t)v->opt[OPT_FAR], n = 0;
    if (far == 0)
        far = 2 * v->k * v->unit > MIN_OPEN ? 2 * v->k * v->unit : MIN_OPEN;
    for (size_t u = 0; u < h->n_units; u++)
        h->open[u] = u >= h->n_coarse || u + near >= h->n_units;
    n = scout_top(h->n_coarse, h->coarse_score, NULL, far, 1, 0, h->pages.order, h->best);
    for (size_t i = 0; i < n; i++)
        h->open[h->best[i]] = true;
    n = 0;
    for (size_t b = 0; b < v->n_blocks; b++)
        n += h->open[b / UNIT] && eligible_of(v, b);
    for (size_t u = h->n_units; u-- > 0 && n < wanted_blocks(v);)
        if (!h->open[u]) {
            h->open[u] = true;
            for (size_t b = u * UNIT; b < (u + 1) * UNIT; b++)
                n += eligible_of(v, b) != 0;
        }
}

/* ---- blocks ---- */

/* Scores the blocks of open units, and marks the pages of the best. */
static void score_blocks(struct far_view *v, struct hierarchy *h)
{
    size_t bytes = reps_group_bytes(REPS_BLOCK, view_dims(v));
    h->n_open = 0;
    memset(h->may, 0, (h->block_ld / 64 + 1) * sizeof *h->may);
    for (size_t u = 0; u < h->n_units; u++) {
        if (!h->open[u])
            continue;
        for (unsigned i = 0; i < UNIT; i++)
            if (eligible_of(v, u * UNIT + i))
                h->may[(h->n_open * UNIT + i) / 64] |= UINT64_C(1) << ((h->n_open * UNIT + i) % 64);
        h->groups[h->n_open] =
            v->pieces[u * UNIT / PIECE_BLOCKS].block_groups + u * UNIT % PIECE_BLOCKS / UNIT * bytes;
        h->open_at[h->n_open++] = (uint32_t)u;
    }
    v->bytes += h->n_open * bytes;
    struct scout_head sh = {
        .kind = REPS_BLOCK, .groups = h->groups, .pages_per_piece = UNIT, .d_k = view_dims(v)};
    size_t n = h->n_open * UNIT;
    scout_score(&sh, n, v->rows, view_q(v), h->block_mass, h->block_ld);
    scout_aggregate(n, v->rows, h->block_mass, h->block_ld, h->block_lse, h->block_score);
    memset(h->pages.marked, 0, h->pages.n_all);
    n = scout_top(n, h->block_score, h->may, wanted_blocks(v), 1, 0, h->pages.order, h->best);
    for (size_t i = 0; i < n; i++)
        h->pages.marked[(h->open_at[h->best[i] / UNIT] * UNIT + h->best[i] % UNIT) / 2] = true;
}

/* ---- what is not read ---- */

/* What a row's shares at each resolution are of all its far mass. */
struct factors {
    float coarse[MAX_ROWS], block[MAX_ROWS], page[MAX_ROWS];
};

/* Each row's log mass of everything far: pages where they were looked at, else blocks, else summaries. */
static void weigh(struct far_view *v, const struct hierarchy *h, struct factors *f)
{
    for (unsigned r = 0; r < v->rows; r++) {
        const float *coarse = h->coarse_mass + r * h->coarse_ld, *block = h->block_mass + r * h->block_ld;
        double max = fmax(fmax((double)h->coarse_lse[r], (double)h->block_lse[r]), (double)v->lse[r]);
        double c = exp((double)h->coarse_lse[r] - max), b = exp((double)h->block_lse[r] - max),
               p = exp((double)v->lse[r] - max), closed = 0, unmarked = 0;
        for (size_t u = 0; u < h->n_coarse; u++)
            closed += h->open[u] ? 0 : (double)coarse[u];
        for (size_t i = 0; i < h->n_open * UNIT; i++) {
            size_t at = (size_t)h->open_at[i / UNIT] * UNIT + i % UNIT;
            unmarked += at < v->n_blocks && !h->pages.marked[at / 2] ? (double)block[i] : 0;
        }
        double all = c * closed + b * unmarked + p;
        f->coarse[r] = (float)(c / all);
        f->block[r] = (float)(b / all);
        f->page[r] = (float)(p / all);
        v->lse[r] = (float)(max + log(all));
    }
}

/* Shares (rows) of what is not read, with its mean value. share[r] of v loses it. */
static void leave(struct far_view *v, const float *share, const uint16_t *value)
{
    for (unsigned r = 0; r < v->rows; r++)
        v->share[r] -= share[r];
    if (v->tail_l)
        policy_tail_add(v, share, value);
}

static void leave_closed(struct far_view *v, const struct hierarchy *h, const struct factors *f, size_t u)
{
    float share[MAX_ROWS];
    unsigned n = 0;
    for (size_t b = u * UNIT; b < (u + 1) * UNIT; b++)
        n += (unsigned)__builtin_popcount(eligible_of(v, b));
    for (unsigned r = 0; r < v->rows; r++)
        share[r] = h->coarse_mass[r * h->coarse_ld + u] * f->coarse[r] * (float)n / (UNIT * BLOCK);
    leave(v, share,
          coarse_values(view_dims(v), v->pieces[u / COARSE_PIECE].part[PART_COARSE]) +
              u % COARSE_PIECE * v->d_v);
}

/* lane: of its first page, if the block's pages were looked at; eligible lanes there are those not chosen. */
static void leave_block(struct far_view *v, const struct hierarchy *h, const struct factors *f, size_t block,
                        size_t block_lane, size_t lane)
{
    float share[MAX_ROWS];
    unsigned left =
        h->pages.marked[block / 2] ? h->pages.eligible[lane / 64] >> (lane % 64) & 15 : eligible_of(v, block);
    for (unsigned r = 0; r < v->rows; r++) {
        share[r] = 0;
        if (!h->pages.marked[block / 2])
            share[r] = h->block_mass[r * h->block_ld + block_lane] * f->block[r] *
                       (float)__builtin_popcount(left) / BLOCK;
        else
            for (unsigned j = 0; j < BLOCK; j++)
                share[r] += left >> j & 1 ? h->pages.mass[r * h->pages.ld + lane + j] * f->page[r] : 0;
    }
    const uint16_t *values = v->pieces[block / PIECE_BLOCKS].part[PART_VALUE];
    leave(v, share, values + block % PIECE_BLOCKS * v->d_v);
}

/* Everything but the chosen lanes is left, and lanes lose their eligibility as they are chosen. */
static void leave_rest(struct far_view *v, struct hierarchy *h, const uint32_t *lanes, size_t n)
{
    struct factors f;
    weigh(v, h, &f);
    v->estimated = true;
    for (unsigned r = 0; r < v->rows; r++)
        v->share[r] = 1;
    if (v->tail_l)
        policy_tail_begin(v);
    for (size_t i = 0; i < n; i++)
        h->pages.eligible[lanes[i] / 64] &= ~(UINT64_C(1) << (lanes[i] % 64));
    size_t opened = 0, marked = 0;
    for (size_t u = 0; u < h->n_units; u++) {
        if (!h->open[u]) {
            leave_closed(v, h, &f, u);
            continue;
        }
        for (size_t b = u * UNIT; b < (u + 1) * UNIT && b < v->n_blocks; b++) {
            leave_block(v, h, &f, b, opened * UNIT + b % UNIT, marked * REPS_LANES + b % 2 * BLOCK);
            marked += h->pages.marked[b / 2] && (b % 2 || b + 1 == v->n_blocks);
        }
        opened++;
    }
    for (unsigned r = 0; r < v->rows; r++) /* a broken estimate must not break the result */
        if (!isfinite(v->lse[r]) || !isfinite(v->share[r])) {
            v->share[r] = 1;
            if (v->tail_l)
                v->tail_l[r] = 0;
        } else if (v->share[r] < 0) {
            v->share[r] = 0;
        }
}

static size_t choose(struct far_view *v, uint32_t *pages)
{
    struct hierarchy h;
    assert(v->rows <= MAX_ROWS);
    lay_out(v, &h, v->scratch);
    score_coarse(v, &h);
    open_units(v, &h);
    score_blocks(v, &h);
    page_groups_score(v, &h.pages);
    size_t n = page_groups_top(v, &h.pages, pages);
    leave_rest(v, &h, pages, n);
    page_groups_pages(&h.pages, n, pages);
    return n;
}

const struct policy policy_hierarchical = {
    .name = "hierarchical",
    .about = "the further, the coarser: the best pages are read, and all else is attended as weighted "
             "centroids, of blocks where near or strong, of eight blocks beyond",
    .source = "resolutions by distance: H-Transformer-1D, Zhu and Soricut 2021; choosing by coarse levels "
              "first is this project's",
    .opts = {{"near", 4096, 0, 1 << 24, "newest far tokens whose blocks are always looked at"},
             {"far", 0, 0, 1 << 24,
              "summaries opened besides; 0: two for each page of the budget, at least 32"}},
    .needs = 1u << PART_VALUE | 1u << PART_COARSE,
    .tails = true,
    .always_tails = true,
    .room = room,
    .choose = choose,
};
