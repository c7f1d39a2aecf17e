/* loss.c: what no node could give: which blocks, and what a pass that goes on without them misses.
 *
 * Lost pages have representatives like all others, so the mass they would have had is estimated as the scout
 * does it; it is told as a share of everything: attended, chosen but lost, and not chosen. */
#include "decoder/context/attend.h"
#include "decoder/scout/scout.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

/* ---- blocks ---- */

void lost_add(struct skv_context *c, uint64_t block, unsigned layer)
{
    struct lost *l = &c->lost;
    if (l->n && l->at[l->n - 1].block == block && l->at[l->n - 1].layer == layer)
        return;
    if (l->n == l->cap) {
        size_t cap = l->cap * 2 + 16;
        struct lost_block *grown = realloc(l->at, cap * sizeof *grown);
        if (!grown)
            return; /* the next attempt finds it again */
        l->at = grown;
        l->cap = cap;
    }
    l->at[l->n++] = (struct lost_block){block, layer};
}

static int by_block(const void *a, const void *b)
{
    const struct lost_block *x = a, *y = b;
    if (x->block != y->block)
        return x->block < y->block ? -1 : 1;
    return (x->layer > y->layer) - (x->layer < y->layer);
}

void lost_sort(struct lost *l)
{
    size_t n = 0;
    if (l->n)
        qsort(l->at, l->n, sizeof *l->at, by_block);
    for (size_t i = 0; i < l->n; i++)
        if (n == 0 || by_block(&l->at[n - 1], &l->at[i]) != 0)
            l->at[n++] = l->at[i];
    l->n = n;
}

/* ---- pages of one query ---- */

void gone_add(struct skv_context *c, unsigned layer, struct gone *g, unsigned head, uint32_t page)
{
    lost_add(c, page / BLOCK_PAGES, layer);
    if (c->opts.on_loss != SKV_LOSS_DEGRADE)
        return;
    if (g->n == g->cap) {
        size_t cap = g->cap * 2 + 64;
        struct gone_page *grown = realloc(g->at, cap * sizeof *grown);
        if (!grown) {
            g->no_memory = true;
            return;
        }
        g->at = grown;
        g->cap = cap;
    }
    g->at[g->n++] = (struct gone_page){head, page};
}

void gone_free(struct gone *g)
{
    free(g->at);
    *g = (struct gone){0};
}

/* A step that has used up its time still grants each layer what a node that is well needs to answer. */
static uint64_t deadline(const struct skv_context *c)
{
    uint64_t time = c->opts.step_deadline_ms * NS_PER_MS, now = clock_ns(), least = now + time / 8;
    if (!time || c->mode != SKV_DECODE)
        return UINT64_MAX;
    return c->pass_ns + time > least ? c->pass_ns + time : least;
}

int gone_end_fetch(struct skv_context *c, struct tier_fetch *f, const struct gone *g, struct skv_error *err)
{
    struct skv_error why = {0};
    int rc = tier_fetch_end_by(c->tier->tier, f, deadline(c), &why);
    bool lost = rc == -ENODATA || rc == -EBADMSG || rc == -EHOSTUNREACH;
    if (rc == 0 || (lost && c->opts.on_loss == SKV_LOSS_DEGRADE && !g->no_memory))
        return 0;
    return skv_fail(err, rc, "%s", why.text);
}

/* Folds the estimates of one batch: page i lies in group i, at lane[i]. */
static void add_mass(unsigned rows, const float *score, size_t ld, const unsigned *lane, unsigned n,
                     double *lse)
{
    for (unsigned r = 0; r < rows; r++)
        for (unsigned i = 0; i < n; i++) {
            double x = (double)score[r * ld + i * REPS_LANES + lane[i]], max = fmax(lse[r], x);
            if (isfinite(max))
                lse[r] = max + log(exp(lse[r] - max) + exp(x - max));
        }
}

int gone_mass(const struct skv_context *c, unsigned layer, const struct gone *g, unsigned head, unsigned rows,
              const float *q, double *lse)
{
    enum { BATCH = 16, LD = BATCH * REPS_LANES };
    unsigned d_k = shape_rep_dims(c->shape, layer), n = 0, lane[BATCH];
    float *projected = NULL;
    const uint8_t *groups[BATCH];
    const float *scatter[BATCH];
    struct scout_head sh = {.kind = c->shape->pages,
                            .groups = groups,
                            .scatter = scatter,
                            .pages_per_piece = REPS_LANES,
                            .d_k = d_k};
    float *score = NULL;
    for (unsigned r = 0; r < rows; r++)
        lse[r] = -INFINITY;
    for (size_t i = 0; i < g->n; i++) {
        if (g->at[i].head == head) {
            uint32_t page = g->at[i].page;
            scatter[n] = span_scatter(c->shape, c->spans[page / SPAN_PAGES], layer, head);
            groups[n] = span_groups(c->shape, c->spans[page / SPAN_PAGES], layer, head) +
                        page % SPAN_PAGES / REPS_LANES * reps_group_bytes(c->shape->pages, d_k);
            lane[n++] = page % REPS_LANES;
        }
        if (n == 0 || (n < BATCH && i + 1 < g->n))
            continue;
        if (!score && !(score = malloc((size_t)rows * (LD + d_k) * sizeof *score)))
            return -ENOMEM;
        if (c->shape->d_rep && !projected) {
            projected = score + (size_t)rows * LD;
            plan_project_queries(c, layer, head, rows, q, projected);
        }
        scout_score(&sh, (size_t)n * REPS_LANES, rows, projected ? projected : q, score, LD);
        add_mass(rows, score, LD, lane, n, lse);
        n = 0;
    }
    free(score);
    return 0;
}

double gone_count(struct skv_stats *st, double attended, double missed, double gone)
{
    double lost = exp(gone - attended), whole = 1 + missed + lost;
    if (gone > -INFINITY) {
        double share = isfinite(whole) ? lost / whole : 1;
        st->lost_mass += share;
        st->lost_n += 1;
        st->lost_worst = fmax(st->lost_worst, share);
    }
    return isfinite(whole) ? (missed + lost) / whole : 1;
}

void gone_mark(struct skv_context *c)
{
    c->stats.passes_lost++;
    passes_degrade(c);
}
