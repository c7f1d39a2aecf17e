/* select.c: which far pages each KV head reads: the policies behind one function.
 *
 * Cascade works in two stages. First the representatives of all blocks are scored, which is all that grows
 * with the context; the best of them, many more than the budget needs, are candidates. Then their pages are
 * scored by the finer representatives, and the best of those are read. Blocks are scored in slices of
 * SLICE_SPANS spans, so that threads share the work evenly whatever the number of heads; a score doesn't
 * depend on the slice it is in. */
#include "decoder/context/attend.h"
#include "decoder/scout/scout.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* As many candidate blocks as the budget has pages (four times its tokens), but not fewer than this: where
 * the budget is small, looking closer at a few more costs next to nothing. */
enum { SLICE_SPANS = 16, MIN_CANDIDATES = 128 };

/* One head on its way to its choice. Arrays lie in the head's scratch. */
struct chooser {
    const struct skv_context *c;
    const struct skv_select *s;
    unsigned layer, head, rows;
    const float *q; /* (rows, d_k) scaled */
    struct choice *out;
    bool scored, cascade; /* not scored: out is complete already */
    size_t n_pages, n_blocks, n_candidates;
    uint64_t bytes; /* of representatives read */

    /* blocks; unused where all are candidates */
    size_t block_ld;
    const uint8_t **block_groups;   /* per span */
    float *block_mass;              /* (rows, block_ld) */
    float *block_score, *block_lse; /* (n_blocks), (rows) */
    uint32_t *candidates;           /* block numbers, rising */

    /* pages of the candidates, in whole groups of 8: lane i of group g is page 8·group_at[g] + i */
    size_t n_groups, ld;
    const uint8_t **groups;
    uint32_t *group_at;
    uint64_t *eligible;  /* bitmap of lanes that may be chosen */
    float *mass, *score; /* (rows, ld), (ld) */

    uint32_t *order, *chosen; /* of scout_top; chosen is followed by protected pages */
};

struct choosers {
    struct chooser *heads;
    unsigned n_slices;
};

/* Protected sealed pages as a rising list appended to pages[]; returns how many. */
static size_t protected_pages(const struct skv_context *c, uint32_t *pages)
{
    uint64_t n_pages = context_sealed_pages(c);
    size_t n = 0;
    for (size_t i = 0; i < c->n_protect; i++)
        for (uint64_t p = c->protect[i].from; p < c->protect[i].to && p < n_pages; p++) {
            if (pages)
                pages[n] = (uint32_t)p;
            n++;
        }
    return n;
}

static void merge_sorted(uint32_t *out, const uint32_t *a, size_t na, const uint32_t *b, size_t nb)
{
    size_t i = 0, j = 0;
    while (i < na || j < nb)
        *out++ = j == nb || (i < na && a[i] < b[j]) ? a[i++] : b[j++];
}

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* Gives every array its place behind base, or with base NULL only returns how much room all need. */
static size_t lay_out(struct chooser *h, size_t n_chosen, char *base)
{
    size_t at = 0;
    size_t n_order = h->n_pages > h->n_blocks ? h->n_pages : h->n_blocks;
#define TAKE(array, n)                                \
    do {                                              \
        h->array = base ? (void *)(base + at) : NULL; \
        at += round_up((n) * sizeof *h->array, 64);   \
    } while (0)
    TAKE(block_groups, h->c->n_spans);
    TAKE(block_mass, h->rows * h->block_ld);
    TAKE(block_score, h->block_ld);
    TAKE(block_lse, h->rows);
    TAKE(candidates, h->n_candidates);
    TAKE(groups, h->ld / REPS_LANES);
    TAKE(group_at, h->ld / REPS_LANES);
    TAKE(eligible, h->ld / 64 + 1);
    TAKE(mass, h->rows * h->ld);
    TAKE(score, h->ld);
    TAKE(order, n_order);
    TAKE(chosen, n_chosen);
#undef TAKE
    return at;
}

static bool two_stages(const struct chooser *h)
{
    return h->cascade && h->n_candidates < h->n_blocks;
}

/* Whatever needs no scores is chosen here; otherwise memory is laid out for them. */
static int chooser_begin(struct chooser *h)
{
    const struct skv_context *c = h->c;
    const struct skv_select *s = h->s;
    struct choice *ch = h->out;
    size_t n_protected = protected_pages(c, NULL),
           budget_pages = s->budget / s->unit * (s->unit / PAGE_TOKENS);
    bool all = s->policy == SKV_DENSE;
    h->n_pages = context_sealed_pages(c);
    h->n_blocks = c->sealed;
    h->scored = !all && s->policy != SKV_WINDOW && budget_pages > 0 && h->n_pages > n_protected;
    h->cascade = h->scored && s->policy == SKV_CASCADE;
    size_t cap = all ? h->n_pages : n_protected + (h->scored ? budget_pages : 0);
    *ch = (struct choice){.estimated = h->cascade};
    ch->pages = malloc((cap + 1) * sizeof *ch->pages);
    ch->lse = calloc(h->rows, sizeof *ch->lse);
    ch->share = calloc(h->rows, sizeof *ch->share);
    if (!ch->pages || !ch->lse || !ch->share)
        return -ENOMEM;
    if (!h->scored) {
        ch->n = all ? h->n_pages : protected_pages(c, ch->pages);
        for (size_t p = 0; all && p < h->n_pages; p++)
            ch->pages[p] = (uint32_t)p;
        return 0;
    }
    size_t enough = budget_pages > MIN_CANDIDATES ? budget_pages : MIN_CANDIDATES;
    h->n_candidates = enough < h->n_blocks ? enough : h->n_blocks;
    h->block_ld = two_stages(h) ? round_up(h->n_blocks, 16) : 0;
    /* candidates may share a group of two blocks, or have one each; all blocks fill all groups */
    size_t lanes = two_stages(h) ? h->n_candidates * REPS_LANES : h->n_pages;
    h->ld = round_up(lanes < h->n_pages ? lanes : h->n_pages, 64);
    char *base = scratch_take(&c->tier->scratch[h->head], lay_out(h, cap + n_protected + 1, NULL));
    if (!base)
        return -ENOMEM;
    lay_out(h, cap + n_protected + 1, base);
    for (size_t i = 0; two_stages(h) && i < c->n_spans; i++)
        h->block_groups[i] = span_block_groups(c->shape, c->spans[i], h->layer, h->head);
    return 0;
}

/* ---- first stage: blocks ---- */

static void score_slice(void *arg, unsigned part)
{
    const struct choosers *all = arg;
    const struct chooser *h = &all->heads[part / all->n_slices];
    size_t first = (size_t)(part % all->n_slices) * SLICE_SPANS, from = first * SPAN_BLOCKS;
    if (!two_stages(h) || from >= h->n_blocks)
        return;
    size_t n =
        h->n_blocks - from < SLICE_SPANS * SPAN_BLOCKS ? h->n_blocks - from : SLICE_SPANS * SPAN_BLOCKS;
    struct scout_head sh = {.kind = REPS_BLOCK,
                            .groups = h->block_groups + first,
                            .pages_per_piece = SPAN_BLOCKS,
                            .d_k = h->c->shape->layers[h->layer].d_k};
    scout_score(&sh, n, h->rows, h->q, h->block_mass + from, h->block_ld);
}

static void pick_candidates(struct chooser *h)
{
    if (!two_stages(h)) {
        for (size_t i = 0; i < h->n_candidates; i++)
            h->candidates[i] = (uint32_t)i;
        return;
    }
    scout_aggregate(h->n_blocks, h->rows, h->block_mass, h->block_ld, h->block_lse, h->block_score);
    size_t n = scout_top(h->n_blocks, h->block_score, NULL, h->n_candidates, 1, 0, h->order, h->candidates);
    assert(n == h->n_candidates);
    (void)n;
    h->bytes += round_up(h->n_blocks, REPS_LANES) / REPS_LANES *
                reps_group_bytes(REPS_BLOCK, h->c->shape->layers[h->layer].d_k);
}

/* ---- second stage: the candidates' pages ---- */

static void gather_groups(struct chooser *h)
{
    const struct skv_context *c = h->c;
    size_t group_bytes = reps_group_bytes(REPS_PAGE, c->shape->layers[h->layer].d_k);
    h->n_groups = 0;
    memset(h->eligible, 0, (h->ld / 64 + 1) * sizeof *h->eligible);
    for (size_t i = 0; i < h->n_candidates; i++) {
        uint64_t page = (uint64_t)h->candidates[i] * BLOCK_PAGES;
        uint32_t at = (uint32_t)(page / REPS_LANES);
        if (h->n_groups == 0 || h->group_at[h->n_groups - 1] != at) {
            const struct span *sp = c->spans[page / SPAN_PAGES];
            h->groups[h->n_groups] =
                span_groups(c->shape, sp, h->layer, h->head) + page % SPAN_PAGES / REPS_LANES * group_bytes;
            h->group_at[h->n_groups++] = at;
        }
        size_t lane = (h->n_groups - 1) * REPS_LANES + page % REPS_LANES;
        uint64_t four = c->eligible[page / 64] >> (page % 64) & 15;
        h->eligible[lane / 64] |= four << (lane % 64);
    }
    h->bytes += h->n_groups * group_bytes;
}

/* The other half of a group whose one block is no candidate counts as empty. */
static void blank_others(struct chooser *h)
{
    size_t i = 0;
    for (size_t half = 0; half < h->n_groups * 2; half++) {
        uint32_t block = h->group_at[half / 2] * 2 + (uint32_t)(half % 2);
        if (i < h->n_candidates && h->candidates[i] == block) {
            i++;
            continue;
        }
        for (unsigned r = 0; r < h->rows; r++)
            for (unsigned j = 0; j < BLOCK_PAGES; j++)
                h->mass[r * h->ld + half * BLOCK_PAGES + j] = -INFINITY;
    }
}

/* Each row's log mass of everything far, and the share of it that is read: what is chosen, and what of the
 * candidates is protected. mass holds the shares among candidates. */
static void estimate(struct chooser *h, size_t n_chosen)
{
    struct choice *ch = h->out;
    for (unsigned r = 0; r < h->rows; r++) {
        const float *share = h->mass + r * h->ld;
        double read = 0, others = 0;
        for (size_t i = 0; i < n_chosen; i++)
            read += (double)share[h->chosen[i]];
        for (size_t i = 0; i < h->n_groups * REPS_LANES; i++)
            if (!(h->eligible[i / 64] >> (i % 64) & 1))
                read += (double)share[i];
        if (two_stages(h)) {
            double candidates = 0;
            for (size_t i = 0; i < h->n_candidates; i++)
                candidates += (double)h->block_mass[r * h->block_ld + h->candidates[i]];
            others =
                candidates < 1 ? exp((double)h->block_lse[r] - (double)ch->lse[r]) * (1 - candidates) : 0;
        }
        if (!isfinite(ch->lse[r]) || !isfinite(others)) {
            ch->share[r] = 1.0f;
            continue;
        }
        ch->share[r] = (float)((read < 1 ? read : 1) / (1 + others));
        ch->lse[r] += (float)log1p(others);
    }
}

static size_t choose_candidates_pages(struct chooser *h)
{
    struct scout_head sh = {.kind = REPS_PAGE,
                            .groups = h->groups,
                            .pages_per_piece = REPS_LANES,
                            .d_k = h->c->shape->layers[h->layer].d_k};
    gather_groups(h);
    size_t n_lanes = h->n_groups * REPS_LANES;
    scout_score(&sh, n_lanes, h->rows, h->q, h->mass, h->ld);
    blank_others(h);
    scout_aggregate(n_lanes, h->rows, h->mass, h->ld, h->out->lse, h->score);
    const struct skv_select *s = h->s;
    size_t n = scout_top(n_lanes, h->score, h->eligible, s->budget / s->unit, s->unit / PAGE_TOKENS, s->mass,
                         h->order, h->chosen);
    estimate(h, n);
    for (size_t i = 0; i < n; i++)
        h->chosen[i] = h->group_at[h->chosen[i] / REPS_LANES] * REPS_LANES + h->chosen[i] % REPS_LANES;
    return n;
}

/* norm-only: pages by their largest key, whatever the query. */
static size_t choose_by_norm(struct chooser *h)
{
    const struct skv_context *c = h->c;
    const struct skv_select *s = h->s;
    for (size_t p = 0; p < h->n_pages; p++)
        h->score[p] = span_norms(c->shape, c->spans[p / SPAN_PAGES], h->layer, h->head)[p % SPAN_PAGES];
    return scout_top(h->n_pages, h->score, c->eligible, s->budget / s->unit, s->unit / PAGE_TOKENS, s->mass,
                     h->order, h->chosen);
}

static void take_best(void *arg, unsigned head)
{
    struct chooser *h = &((struct choosers *)arg)->heads[head];
    size_t n;
    if (!h->scored)
        return;
    if (h->cascade) {
        pick_candidates(h);
        n = choose_candidates_pages(h);
    } else {
        n = choose_by_norm(h);
    }
    size_t n_protected = protected_pages(h->c, h->chosen + n);
    merge_sorted(h->out->pages, h->chosen, n, h->chosen + n, n_protected);
    h->out->n = n + n_protected;
}

int choose_pages(struct skv_context *c, unsigned layer, const struct skv_select *s, unsigned rows,
                 const float *q, struct choice *out)
{
    unsigned n_heads = c->shape->layouts[layer].n_heads, d_k = c->shape->layers[layer].d_k;
    struct choosers all = {.heads = calloc(n_heads, sizeof *all.heads),
                           .n_slices = (unsigned)((c->n_spans + SLICE_SPANS - 1) / SLICE_SPANS)};
    int rc = all.heads ? 0 : -ENOMEM;
    bool scored = false, two = false;
    for (unsigned h = 0; h < n_heads && rc == 0; h++) {
        all.heads[h] = (struct chooser){.c = c,
                                        .s = s,
                                        .layer = layer,
                                        .head = h,
                                        .rows = rows,
                                        .q = q + (size_t)h * rows * d_k,
                                        .out = &out[h]};
        rc = chooser_begin(&all.heads[h]);
        scored |= all.heads[h].scored;
        two |= two_stages(&all.heads[h]);
    }
    if (rc == 0 && two)
        pool_run(c->tier->pool, n_heads * all.n_slices, score_slice, &all);
    if (rc == 0 && scored)
        pool_run(c->tier->pool, n_heads, take_best, &all);
    for (unsigned h = 0; h < n_heads && rc == 0; h++)
        c->stats.scout_bytes += all.heads[h].bytes;
    free(all.heads);
    return rc;
}

void choice_free(struct choice *ch)
{
    free(ch->pages);
    free(ch->lse);
    free(ch->share);
}
