/* parts.c: what policies want kept of sealed blocks besides their representatives. New blocks add themselves
 * at sealing; when a policy comes later, or a context was opened from what others stored, the blocks are read
 * from the tier once, a span and layer at a time, but for parts that are made of what the index has. Forks
 * share spans, and with them their parts. */
#include "decoder/context/internal.h"
#include "decoder/scout/policy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void make_stretch(const struct shape *s, const struct span *sp, enum index_part i, unsigned layer,
                         unsigned head, unsigned stretch)
{
    struct far_piece piece;
    span_piece(s, sp, layer, head, &piece);
    part_make(i, shape_rep_dims(s, layer), s->layers[layer].d_v, stretch, &piece,
              span_part(s, sp, i, layer, head));
}

void parts_add(const struct shape *s, const struct span *sp, unsigned layer, unsigned head, unsigned in_span,
               const float *k, const float *v)
{
    const struct skv_layer *y = &s->layers[layer];
    unsigned stretch = in_span / PART_STRETCH, end = (stretch + 1) * PART_STRETCH;
    bool full = in_span == end - 1 || sp->n_blocks >= end; /* now, or already and one of it is another */
    for (unsigned i = 0; i < INDEX_PARTS; i++)
        if (sp->part[i] && !part_of_stretch(i))
            part_add(i, y->d_k, y->d_v, in_span, k, v, span_part(s, sp, i, layer, head));
    for (unsigned i = 0; i < INDEX_PARTS && full; i++)
        if (sp->part[i] && part_of_stretch(i))
            make_stretch(s, sp, i, layer, head, stretch);
}

/* All pages of one layer of a span. */
struct reading {
    struct skv_context *c;
    uint64_t first; /* block */
    unsigned layer, n_blocks;
    size_t page_bytes;
    struct tier_want *wants; /* (blocks, heads, pages) */
    uint8_t *bytes;          /* likewise */
};

static void on_page(void *arg, size_t want, int rc, const uint8_t *bytes)
{
    struct reading *r = arg;
    if (rc)
        lost_add(r->c, r->first + want / (r->c->shape->layouts[r->layer].n_heads * BLOCK_PAGES), r->layer);
    else
        memcpy(r->bytes + want * r->page_bytes, bytes, r->page_bytes);
}

static int fetch_layer(struct reading *r, struct block_key *keys, struct skv_error *err)
{
    struct skv_context *c = r->c;
    unsigned n_heads = c->shape->layouts[r->layer].n_heads;
    size_t n = 0;
    for (unsigned b = 0; b < r->n_blocks; b++) {
        context_block_key(c, r->layer, r->first + b, &keys[b]);
        for (unsigned h = 0; h < n_heads; h++) {
            const uint64_t *sums = span_checksums(c->shape, context_span(c, r->first), r->layer, h);
            for (unsigned p = 0; p < BLOCK_PAGES; p++)
                r->wants[n++] = (struct tier_want){.key = &keys[b],
                                                   .head = (uint16_t)h,
                                                   .page = (uint8_t)p,
                                                   .checksum = sums[b * BLOCK_PAGES + p]};
        }
    }
    struct tier_fetch *fetch;
    int rc =
        tier_fetch_begin(c->tier->tier, &c->shape->layouts[r->layer], r->wants, n, on_page, r, &fetch, err);
    return rc ? rc : tier_fetch_end(c->tier->tier, fetch, err);
}

/* One head's keys and values of a block, as f32. */
static void spread(const struct reading *r, unsigned block, unsigned head, float *k, float *v)
{
    const struct block_layout *lay = &r->c->shape->layouts[r->layer];
    const struct kernels *kn = r->c->tier->k;
    size_t nk = (size_t)PAGE_TOKENS * lay->d_k, nv = (size_t)PAGE_TOKENS * lay->d_v;
    const uint8_t *page = r->bytes + ((size_t)block * lay->n_heads + head) * BLOCK_PAGES * r->page_bytes;
    for (unsigned p = 0; p < BLOCK_PAGES; p++, page += r->page_bytes, k += nk, v += nv)
        page_spread(kn, (struct kv_page){page, lay}, k, v);
}

static int make_layer(struct reading *r, const bool *missing, struct block_key *keys, float *k,
                      struct skv_error *err)
{
    const struct shape *s = r->c->shape;
    const struct skv_layer *y = &s->layers[r->layer];
    const struct span *sp = context_span(r->c, r->first);
    int rc = fetch_layer(r, keys, err);
    for (unsigned b = 0; b < r->n_blocks && rc == 0; b++)
        for (unsigned h = 0; h < y->n_kv_heads; h++) {
            float *v = k + (size_t)BLOCK_TOKENS * y->d_k;
            spread(r, b, h, k, v);
            for (unsigned i = 0; i < INDEX_PARTS; i++)
                if (missing[i] && !part_of_stretch(i))
                    part_add(i, y->d_k, y->d_v, b, k, v, span_part(s, sp, i, r->layer, h));
        }
    return rc;
}

static int make_from_keys(struct skv_context *c, size_t i, const bool *missing, struct skv_error *err)
{
    struct span *sp = c->spans[i];
    struct reading r = {.c = c, .first = i * SPAN_BLOCKS, .n_blocks = sp->n_blocks};
    int rc = 0;
    for (; r.layer < c->shape->n_layers && rc == 0; r.layer++) {
        const struct block_layout *lay = &c->shape->layouts[r.layer];
        size_t n = (size_t)r.n_blocks * lay->n_heads * BLOCK_PAGES;
        struct block_key keys[SPAN_BLOCKS];
        r.page_bytes = layout_page_bytes(lay);
        r.wants = malloc(n * sizeof *r.wants + 1);
        r.bytes = malloc(n * r.page_bytes + 1);
        float *k = malloc((size_t)BLOCK_TOKENS * (lay->d_k + lay->d_v) * sizeof *k);
        rc = r.wants && r.bytes && k ? make_layer(&r, missing, keys, k, err)
                                     : skv_fail(err, -ENOMEM, "out of memory");
        free(r.wants);
        free(r.bytes);
        free(k);
    }
    return rc;
}

/* Of all that is full: needs nothing but what is here. */
static void make_stretches(const struct shape *s, const struct span *sp, enum index_part i)
{
    for (unsigned l = 0; l < s->n_layers; l++)
        for (unsigned h = 0; h < s->layers[l].n_kv_heads; h++)
            for (unsigned stretch = 0; stretch < sp->n_blocks / PART_STRETCH; stretch++)
                make_stretch(s, sp, i, l, h, stretch);
}

int parts_require(struct skv_context *c, struct skv_error *err)
{
    int rc = 0;
    for (size_t i = 0; i < c->n_spans && rc == 0; i++) {
        struct span *sp = c->spans[i];
        bool missing[INDEX_PARTS] = {0}, any = false;
        for (unsigned p = 0; p < INDEX_PARTS && rc == 0; p++) {
            missing[p] = c->needs >> p & 1 && !sp->part[p];
            any |= missing[p] && !part_of_stretch(p);
            if (missing[p] && span_part_new(c->shape, sp, p))
                rc = skv_fail(err, -ENOMEM, "out of memory");
        }
        if (rc == 0 && any)
            rc = seal_flush(c, err);
        if (rc == 0 && any)
            rc = make_from_keys(c, i, missing, err);
        for (unsigned p = 0; p < INDEX_PARTS && rc == 0; p++)
            if (missing[p] && part_of_stretch(p))
                make_stretches(c->shape, sp, p);
        for (unsigned p = 0; p < INDEX_PARTS && rc; p++)
            if (missing[p]) {
                free(sp->part[p]);
                sp->part[p] = NULL;
            }
    }
    return rc;
}
