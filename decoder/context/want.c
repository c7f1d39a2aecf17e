/* want.c: of the pages chosen, which are held here and which must be asked for, in the order of blocks. */
#include "decoder/context/attend.h"

#include <errno.h>
#include <stdlib.h>

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
