/* select.c: which far pages a KV head reads: the policies behind one function, and the list of what is
 * missing. */
#include "decoder/context/attend.h"
#include "decoder/scout/scout.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

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

/* Scores all sealed pages; for cascade mass (rows, ld) is left with each page's share of its row's mass. */
static void score_pages(const struct skv_context *c, unsigned layer, unsigned head, enum skv_policy policy,
                        unsigned rows, const float *q, float *mass, size_t ld, float *score,
                        struct choice *ch, const void **pieces)
{
    size_t n_pages = context_sealed_pages(c);
    const uint8_t **groups = (const uint8_t **)pieces;
    const float **norms = (const float **)(pieces + c->n_spans);
    for (size_t i = 0; i < c->n_spans; i++) {
        groups[i] = span_groups(c->shape, c->spans[i], layer, head);
        norms[i] = span_norms(c->shape, c->spans[i], layer, head);
    }
    if (policy == SKV_NORM_ONLY) {
        for (size_t p = 0; p < n_pages; p++)
            score[p] = norms[p / SPAN_PAGES][p % SPAN_PAGES];
        return;
    }
    struct scout_head sh = {
        .groups = groups, .norms = norms, .pages_per_piece = SPAN_PAGES, .d_k = c->shape->layers[layer].d_k};
    scout_score(&sh, n_pages, rows, q, mass, ld);
    scout_aggregate(n_pages, rows, mass, ld, ch->lse, score);
    ch->estimated = true;
}

int choose_pages(const struct skv_context *c, unsigned layer, unsigned head, const struct skv_select *s,
                 unsigned rows, const float *q, struct choice *ch, uint64_t *bytes)
{
    size_t n_pages = context_sealed_pages(c);
    size_t n_protected = protected_pages(c, NULL);
    size_t units = s->budget / s->unit;
    bool all = s->policy == SKV_DENSE;
    bool scored = !all && s->policy != SKV_WINDOW && units > 0 && n_pages > n_protected;
    size_t cap = all ? n_pages : n_protected + (scored ? units * (s->unit / PAGE_TOKENS) : 0);
    *ch = (struct choice){0};
    ch->pages = malloc((cap + 1) * sizeof *ch->pages);
    ch->lse = calloc(rows, sizeof *ch->lse);
    ch->share = calloc(rows, sizeof *ch->share);
    if (!ch->pages || !ch->lse || !ch->share)
        return -ENOMEM;
    if (all) {
        for (size_t p = 0; p < n_pages; p++)
            ch->pages[p] = (uint32_t)p;
        ch->n = n_pages;
        ch->n_selected = n_pages - n_protected;
        return 0;
    }
    if (!scored) {
        ch->n = protected_pages(c, ch->pages);
        return 0;
    }
    size_t ld = (n_pages + 15) / 16 * 16, n_lists = cap + n_protected + 1;
    float *mass = scratch_take(&c->tier->scratch[head],
                               ((rows + 1) * ld + n_pages + n_lists) * 4 + 2 * c->n_spans * sizeof(void *));
    if (!mass)
        return -ENOMEM;
    const void **pieces = (const void **)(mass + (rows + 1) * ld); /* 64-byte aligned, as ld is */
    float *score = mass + rows * ld;
    uint32_t *order = (uint32_t *)(pieces + 2 * c->n_spans), *lists = order + n_pages;
    score_pages(c, layer, head, s->policy, rows, q, mass, ld, score, ch, pieces);
    ch->n_selected =
        scout_top(n_pages, score, c->eligible, units, s->unit / PAGE_TOKENS, s->mass, order, lists);
    size_t n_prot = protected_pages(c, lists + ch->n_selected);
    merge_sorted(ch->pages, lists, ch->n_selected, lists + ch->n_selected, n_prot);
    ch->n = ch->n_selected + n_prot;
    if (ch->estimated) {
        estimate_shares(ch, rows, mass, ld);
        *bytes += ld / REPS_LANES * reps_group_bytes(c->shape->layers[layer].d_k);
    }
    return 0;
}

void choice_free(struct choice *ch)
{
    free(ch->pages);
    free(ch->lse);
    free(ch->share);
}

void want_list_free(struct want_list *w)
{
    free(w->wants);
    free(w->keys);
    free(w->at);
    *w = (struct want_list){0};
}

int want_pages(struct skv_context *c, unsigned layer, const struct choice *heads, size_t from, size_t to,
               void (*on_held)(void *arg, unsigned head, size_t index, const uint8_t *bytes), void *arg,
               struct want_list *w)
{
    unsigned n_heads = c->shape->layouts[layer].n_heads;
    size_t n = 0;
    for (unsigned h = 0; h < n_heads; h++)
        n += heads[h].n > from ? (heads[h].n < to ? heads[h].n : to) - from : 0;
    *w = (struct want_list){0};
    size_t *next = malloc(n_heads * sizeof *next);
    w->wants = malloc((n + 1) * sizeof *w->wants);
    w->keys = malloc((n + 1) * sizeof *w->keys);
    w->at = malloc((n + 1) * sizeof *w->at);
    if (!next || !w->wants || !w->keys || !w->at) {
        free(next);
        want_list_free(w);
        return -ENOMEM;
    }
    size_t n_keys = 0;
    for (unsigned h = 0; h < n_heads; h++)
        next[h] = from;
    for (;;) {
        uint64_t block = UINT64_MAX; /* the lowest block that some head still has to visit */
        for (unsigned h = 0; h < n_heads; h++)
            if (next[h] < heads[h].n && next[h] < to && heads[h].pages[next[h]] / BLOCK_PAGES < block)
                block = heads[h].pages[next[h]] / BLOCK_PAGES;
        if (block == UINT64_MAX)
            break;
        struct block_key *key = NULL;
        for (unsigned h = 0; h < n_heads; h++) {
            for (; next[h] < heads[h].n && next[h] < to && heads[h].pages[next[h]] / BLOCK_PAGES == block;
                 next[h]++) {
                uint32_t page = heads[h].pages[next[h]];
                const uint8_t *bytes = cache_get(c->cache, layer, h, page);
                if (!bytes && c->pending)
                    bytes = context_held_page(c, layer, h, page);
                if (bytes) {
                    on_held(arg, h, next[h], bytes);
                    continue;
                }
                if (!key) {
                    key = &w->keys[n_keys++];
                    context_block_key(c, layer, block, key);
                }
                const uint64_t *sums = span_checksums(c->shape, context_span(c, block), layer, h);
                w->wants[w->n] = (struct tier_want){.key = key,
                                                    .head = (uint16_t)h,
                                                    .page = (uint8_t)(page % BLOCK_PAGES),
                                                    .checksum = sums[page % SPAN_PAGES]};
                w->at[w->n++].index = (uint32_t)next[h];
            }
        }
    }
    c->stats.pages_wanted += n;
    c->stats.pages_held += n - w->n;
    free(next);
    return 0;
}

void keep_page(struct skv_context *c, unsigned layer, unsigned head, uint32_t page, const uint8_t *bytes,
               size_t pass_pages)
{
    bool pinned = context_page_protected(c, page);
    if (pinned ||
        pass_pages <= cache_room(c->cache)) /* a larger pass would flush the cache before it is asked again */
        cache_put(c->cache, layer, head, page, bytes, layout_page_bytes(&c->shape->layouts[layer]), pinned);
}
