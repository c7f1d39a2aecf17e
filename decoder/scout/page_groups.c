/* page_groups.c: see page_groups.h. */
#include "decoder/scout/page_groups.h"
#include "decoder/scout/scout.h"

#include <math.h>
#include <string.h>

enum { GROUP = REPS_LANES };

void page_groups_lay_out(const struct far_view *v, struct page_groups *g, char *base, size_t *at)
{
    g->n_all = (v->n_pages + GROUP - 1) / GROUP;
    g->ld = (v->n_pages + 63) / 64 * 64;
    g->marked = policy_take(base, at, g->n_all * sizeof *g->marked);
    g->groups = policy_take(base, at, g->n_all * sizeof *g->groups);
    g->scatter = policy_take(base, at, g->n_all * sizeof *g->scatter);
    g->at = policy_take(base, at, g->n_all * sizeof *g->at);
    g->eligible = policy_take(base, at, (g->ld / 64 + 1) * sizeof *g->eligible);
    g->mass = policy_take(base, at, v->rows * g->ld * sizeof *g->mass);
    g->score = policy_take(base, at, g->ld * sizeof *g->score);
    g->order = policy_take(base, at, g->ld * sizeof *g->order);
}

uint8_t page_groups_eligible(const struct far_view *v, size_t group)
{
    size_t page = group * GROUP, left = v->n_pages - page;
    unsigned mask = left < GROUP ? (1u << left) - 1 : 0xff;
    return (uint8_t)(v->eligible[page / 64] >> (page % 64) & mask);
}

static void gather(struct far_view *v, struct page_groups *g)
{
    size_t bytes = reps_group_bytes(view_pages(v), view_dims(v));
    g->n = 0;
    memset(g->eligible, 0, (g->ld / 64 + 1) * sizeof *g->eligible);
    for (size_t i = 0; i < g->n_all; i++) {
        if (!g->marked[i])
            continue;
        size_t page = i * GROUP, lane = g->n * GROUP;
        g->scatter[g->n] = v->pieces[page / PIECE_PAGES].scatter;
        g->groups[g->n] = v->pieces[page / PIECE_PAGES].page_groups + page % PIECE_PAGES / GROUP * bytes;
        g->at[g->n++] = (uint32_t)i;
        g->eligible[lane / 64] |= (uint64_t)page_groups_eligible(v, i) << (lane % 64);
    }
    v->bytes += g->n * bytes;
}

void page_groups_score(struct far_view *v, struct page_groups *g)
{
    gather(v, g);
    struct scout_head sh = {.kind = view_pages(v),
                            .groups = g->groups,
                            .scatter = g->scatter,
                            .pages_per_piece = GROUP,
                            .d_k = view_dims(v)};
    scout_score(&sh, g->n * GROUP, v->rows, view_q(v), g->mass, g->ld);
    for (size_t page = v->n_pages; page % GROUP && g->marked[g->n_all - 1]; page++)
        for (unsigned r = 0; r < v->rows; r++) /* what lies there is not far yet */
            g->mass[r * g->ld + (g->n - 1) * GROUP + page % GROUP] = -INFINITY;
    scout_aggregate(g->n * GROUP, v->rows, g->mass, g->ld, v->lse, g->score);
}

size_t page_groups_top(const struct far_view *v, const struct page_groups *g, uint32_t *lanes)
{
    return scout_top(g->n * GROUP, g->score, g->eligible, v->k, v->unit, v->mass, g->order, lanes);
}

void page_groups_pages(const struct page_groups *g, size_t n, uint32_t *lanes)
{
    for (size_t i = 0; i < n; i++)
        lanes[i] = g->at[lanes[i] / GROUP] * GROUP + lanes[i] % GROUP;
}
