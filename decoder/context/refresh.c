/* refresh.c: which KV heads of a decode step look broader than their budget, and what that teaches.
 *
 * By position all heads of a layer do, by a turn of the query (turn.c) those whose own query has turned. Both
 * are functions of tokens and options, so forks, truncated and reopened contexts do as a straight run does.
 *
 * What pages received is known only of pages that were read, so a policy that goes by it alone reads what it
 * has read. At a refresh the representatives of all pages are scored, and what they are estimated to get
 * counts like what was read: for the choice of this very step, unless the policy looks at the query anyway,
 * and, where a page stays unread, for later ones. */
#include "decoder/context/attend.h"
#include "decoder/scout/policy.h"
#include "decoder/scout/scout.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void refresh_heads(struct skv_context *c, unsigned layer, uint64_t t, const float *q, bool *out)
{
    const struct skv_select *s = context_select(c, layer);
    const struct skv_layer *y = &c->shape->layers[layer];
    size_t of_head = (size_t)(y->n_heads / y->n_kv_heads) * y->d_k;
    bool all = s->refresh && t % s->refresh == 0, far = s->policy != SKV_DENSE && s->policy != SKV_WINDOW;
    for (unsigned h = 0; h < y->n_kv_heads; h++) {
        bool turned =
            s->refresh_turn > 0.0f && turn_step(c->turn, layer, h, t, q + h * of_head) < s->refresh_turn;
        out[h] = far && (all || turned);
        c->stats.refreshes += out[h];
    }
}

struct skv_select refresh_select(const struct skv_context *c, const struct skv_select *s)
{
    struct skv_select broad = *s;
    uint64_t budget = (uint64_t)s->budget * s->refresh_budget, all = context_sealed_pages(c) * PAGE_TOKENS;
    if (budget > all) /* no room for what isn't there */
        budget = all;
    if (budget > s->budget)
        broad.budget = (uint32_t)budget;
    return broad;
}

/* ---- estimates ---- */

struct reestimate *reestimate_new(size_t n_pages, unsigned rows)
{
    size_t ld = (n_pages + 63) / 64 * 64, n = (rows + 1) * ld + rows;
    struct reestimate *r = malloc(sizeof *r + n * sizeof(float));
    if (!r)
        return NULL;
    r->ld = ld;
    r->share = r->memory;
    r->received = r->share + rows * ld;
    r->lse = r->received + ld;
    return r;
}

void reestimate_pages(struct reestimate *r, struct far_view *v, bool looks, float weight)
{
    v->bytes += policy_scan_pages(v, view_q(v), r->share, r->ld);
    scout_aggregate(v->n_pages, v->rows, r->share, r->ld, r->lse, r->received);
    for (size_t p = 0; p < v->n_pages; p++)
        r->received[p] = weight * r->received[p] + (v->received ? v->received[p] : 0.0f);
    if (!looks)
        v->received = r->received;
}

void reestimate_total(const struct reestimate *r, unsigned rows, size_t n_pages, const uint32_t *pages,
                      size_t n, const float *M, float *L)
{
    for (unsigned j = 0; j < rows; j++) {
        const float *share = r->share + j * r->ld;
        double unread = 0;
        size_t i = 0;
        for (size_t p = 0; p < n_pages; p++)
            if (i < n && pages[i] == p)
                i++;
            else
                unread += (double)share[p];
        double more = unread * exp((double)r->lse[j] - (double)M[j]);
        if (more > 0) /* a broken estimate teaches nothing */
            L[j] += (float)fmin(more, 1e30);
    }
}

float reestimate_share(const struct reestimate *r, unsigned rows, size_t page, const float *M, const float *L)
{
    double sum = 0;
    for (unsigned j = 0; j < rows; j++) {
        double share = (double)r->share[j * r->ld + page] * exp((double)r->lse[j] - (double)M[j]);
        sum += share > 0 ? fmin(share / (double)L[j], 1) : 0;
    }
    return (float)sum;
}
