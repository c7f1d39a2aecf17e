/* select.c: which far pages each KV head reads: the policies behind one function.
 *
 * Scores of all heads are computed first, in slices of SLICE_SPANS spans, so that threads share the work
 * evenly whatever the number of heads; then each head combines its scores and takes the best. A page's score
 * doesn't depend on the slice it is in. */
#include "decoder/context/attend.h"
#include "decoder/scout/scout.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

enum { SLICE_SPANS = 16 };

/* One head on its way to its choice. */
struct chooser {
    const struct skv_context *c;
    const struct skv_select *s;
    unsigned layer, rows;
    const float *q; /* (rows, d_k) scaled */
    struct choice *out;
    bool scored; /* else out is complete already */
    size_t n_pages, ld;
    const uint8_t **groups;  /* per span */
    float *mass, *score;     /* (rows, ld), (n_pages) */
    uint32_t *order, *lists; /* of scout_top, and what it chose followed by protected pages */
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

/* Each row's estimated share of the far mass that lies in the chosen pages. */
static void estimate_shares(const struct choice *ch, unsigned rows, const float *shares, size_t ld)
{
    for (unsigned r = 0; r < rows; r++, shares += ld) {
        double chosen = 0;
        for (size_t i = 0; i < ch->n; i++)
            chosen += (double)shares[ch->pages[i]];
        ch->share[r] = isfinite(ch->lse[r]) && chosen < 1 ? (float)chosen : 1.0f;
    }
}

/* Whatever needs no scores is chosen here; otherwise memory is laid out for them. */
static int chooser_begin(struct chooser *h, unsigned head)
{
    const struct skv_context *c = h->c;
    const struct skv_select *s = h->s;
    struct choice *ch = h->out;
    size_t n_protected = protected_pages(c, NULL), units = s->budget / s->unit;
    bool all = s->policy == SKV_DENSE;
    h->n_pages = context_sealed_pages(c);
    h->scored = !all && s->policy != SKV_WINDOW && units > 0 && h->n_pages > n_protected;
    size_t cap = all ? h->n_pages : n_protected + (h->scored ? units * (s->unit / PAGE_TOKENS) : 0);
    *ch = (struct choice){0};
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
    h->ld = (h->n_pages + 15) / 16 * 16;
    size_t floats = (h->rows + 1) * h->ld, lists = h->n_pages + cap + n_protected + 1;
    h->mass = scratch_take(&c->tier->scratch[head],
                           (floats + lists) * sizeof(float) + c->n_spans * sizeof *h->groups);
    if (!h->mass)
        return -ENOMEM;
    h->score = h->mass + h->rows * h->ld;
    h->groups = (const uint8_t **)(h->mass + floats); /* aligned, as ld is */
    h->order = (uint32_t *)(h->groups + c->n_spans);
    h->lists = h->order + h->n_pages;
    for (size_t i = 0; i < c->n_spans; i++)
        h->groups[i] = span_groups(c->shape, c->spans[i], h->layer, head);
    ch->estimated = s->policy == SKV_CASCADE;
    return 0;
}

static void score_slice(void *arg, unsigned part)
{
    const struct choosers *all = arg;
    unsigned head = part / all->n_slices, slice = part % all->n_slices;
    const struct chooser *h = &all->heads[head];
    size_t first = (size_t)slice * SLICE_SPANS, from = first * SPAN_PAGES;
    if (!h->scored || from >= h->n_pages)
        return;
    size_t n = h->n_pages - from < SLICE_SPANS * SPAN_PAGES ? h->n_pages - from : SLICE_SPANS * SPAN_PAGES;
    if (h->s->policy == SKV_NORM_ONLY) {
        for (size_t p = from; p < from + n; p++)
            h->score[p] =
                span_norms(h->c->shape, h->c->spans[p / SPAN_PAGES], h->layer, head)[p % SPAN_PAGES];
        return;
    }
    struct scout_head sh = {
        .groups = h->groups + first, .pages_per_piece = SPAN_PAGES, .d_k = h->c->shape->layers[h->layer].d_k};
    scout_score(&sh, n, h->rows, h->q, h->mass + from, h->ld);
}

static void take_best(void *arg, unsigned head)
{
    const struct chooser *h = &((struct choosers *)arg)->heads[head];
    struct choice *ch = h->out;
    const struct skv_select *s = h->s;
    if (!h->scored)
        return;
    if (ch->estimated)
        scout_aggregate(h->n_pages, h->rows, h->mass, h->ld, ch->lse, h->score);
    size_t n = scout_top(h->n_pages, h->score, h->c->eligible, s->budget / s->unit, s->unit / PAGE_TOKENS,
                         s->mass, h->order, h->lists);
    size_t n_protected = protected_pages(h->c, h->lists + n);
    merge_sorted(ch->pages, h->lists, n, h->lists + n, n_protected);
    ch->n = n + n_protected;
    if (ch->estimated)
        estimate_shares(ch, h->rows, h->mass, h->ld);
}

int choose_pages(struct skv_context *c, unsigned layer, const struct skv_select *s, unsigned rows,
                 const float *q, struct choice *out)
{
    unsigned n_heads = c->shape->layouts[layer].n_heads, d_k = c->shape->layers[layer].d_k;
    struct choosers all = {.heads = calloc(n_heads, sizeof *all.heads),
                           .n_slices = (unsigned)((c->n_spans + SLICE_SPANS - 1) / SLICE_SPANS)};
    int rc = all.heads ? 0 : -ENOMEM;
    bool scored = false;
    for (unsigned h = 0; h < n_heads && rc == 0; h++) {
        all.heads[h] = (struct chooser){
            .c = c, .s = s, .layer = layer, .rows = rows, .q = q + (size_t)h * rows * d_k, .out = &out[h]};
        rc = chooser_begin(&all.heads[h], h);
        scored |= all.heads[h].scored;
        if (out[h].estimated)
            c->stats.scout_bytes += all.heads[h].n_pages / REPS_LANES * reps_group_bytes(d_k);
    }
    if (rc == 0 && scored) {
        pool_run(c->tier->pool, n_heads * all.n_slices, score_slice, &all);
        pool_run(c->tier->pool, n_heads, take_best, &all);
    }
    free(all.heads);
    return rc;
}

void choice_free(struct choice *ch)
{
    free(ch->pages);
    free(ch->lse);
    free(ch->share);
}
