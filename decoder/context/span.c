/* span.c: the index of 64 sealed blocks. Full spans never change, so forks share them; a sidecar object on
 * the tier holds one layer's part of one (snapshot.c). */
#include "decoder/context/internal.h"
#include "decoder/scout/policy.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HUGE_BYTES = 2 << 20 };

/* Groups are aligned: a row of one that lies in two lines costs the scan half as much again. A span of many
 * layers lies in huge pages where there are any: a step looks into a hundred places of it, each on another
 * page. */
static struct span *allocate(const struct shape *s, struct shelf *beside, unsigned place)
{
    const size_t bytes = sizeof(struct span) + s->span_bytes, align = bytes < HUGE_BYTES ? 64 : HUGE_BYTES;
    struct span *sp = aligned_alloc(align, (bytes + align - 1) / align * align);
    if (sp && align == HUGE_BYTES)
        (void)madvise(sp, bytes / align * align, MADV_HUGEPAGE); /* only the whole ones: none is wasted */
    struct shelf *shelf = shelf_take(s, beside, place);
    if (!sp || !shelf) {
        shelf_give(shelf, place);
        free(sp);
        return NULL;
    }
    memset(sp, 0, bytes);
    sp->refs = 1;
    sp->shelf = shelf;
    sp->place = place;
    return sp;
}

struct span *span_new(const struct shape *s, const struct span *before, size_t i)
{
    unsigned place = i % SHELF_SPANS;
    struct span *sp = allocate(s, before && place ? before->shelf : NULL, place);
    if (!sp)
        return NULL;
    for (unsigned l = 0; l < s->n_layers; l++) {
        unsigned dims = shape_rep_dims(s, l);
        for (unsigned h = 0; h < s->layers[l].n_kv_heads; h++) {
            for (unsigned g = 0; g < SPAN_GROUPS; g++)
                reps_group_clear(s->pages, dims,
                                 span_groups(s, sp, l, h) + g * reps_group_bytes(s->pages, dims));
            for (unsigned g = 0; g < SPAN_BLOCK_GROUPS; g++)
                reps_group_clear(REPS_BLOCK, dims,
                                 span_block_groups(s, sp, l, h) + g * reps_group_bytes(REPS_BLOCK, dims));
        }
    }
    return sp;
}

struct span *span_ref(struct span *sp)
{
    sp->refs++;
    return sp;
}

void span_unref(struct span *sp)
{
    if (!sp || --sp->refs)
        return;
    for (unsigned i = 0; i < INDEX_PARTS; i++)
        free(sp->part[i]);
    shelf_give(sp->shelf, sp->place);
    free(sp);
}

struct span *span_own(const struct shape *s, struct span *sp)
{
    if (sp->refs == 1)
        return sp;
    struct span *copy = allocate(s, NULL, sp->place);
    if (!copy)
        return NULL;
    copy->n_blocks = sp->n_blocks;
    copy->remade = sp->remade;
    memcpy(copy->chain, sp->chain, sizeof copy->chain);
    memcpy(copy->data, sp->data, s->span_bytes);
    for (unsigned l = 0; l < s->n_layers; l++)
        for (unsigned h = 0; h < s->layers[l].n_kv_heads; h++)
            memcpy(span_block_groups(s, copy, l, h), span_block_groups(s, sp, l, h), span_blocks_bytes(s, l));
    for (unsigned i = 0; i < INDEX_PARTS; i++) {
        if (!sp->part[i])
            continue;
        if (span_part_new(s, copy, i)) {
            span_unref(copy);
            return NULL;
        }
        memcpy(copy->part[i], sp->part[i], s->part_bytes[i]);
    }
    sp->refs--;
    return copy;
}

uint8_t *span_groups(const struct shape *s, const struct span *sp, unsigned layer, unsigned head)
{
    return (uint8_t *)sp->data + s->span_at[layer] + head * s->head_bytes[layer];
}

uint8_t *span_block_groups(const struct shape *s, const struct span *sp, unsigned layer, unsigned head)
{
    return shelf_groups(s, sp->shelf, sp->place, layer, head);
}

size_t span_groups_bytes(const struct shape *s, unsigned layer)
{
    return SPAN_GROUPS * reps_group_bytes(s->pages, shape_rep_dims(s, layer));
}

size_t span_blocks_bytes(const struct shape *s, unsigned layer)
{
    return SPAN_BLOCK_GROUPS * reps_group_bytes(REPS_BLOCK, shape_rep_dims(s, layer));
}

uint64_t *span_checksums(const struct shape *s, const struct span *sp, unsigned layer, unsigned head)
{
    return (uint64_t *)(span_groups(s, sp, layer, head) + span_groups_bytes(s, layer));
}

float *span_norms(const struct shape *s, const struct span *sp, unsigned layer, unsigned head)
{
    return (float *)(span_checksums(s, sp, layer, head) + SPAN_PAGES);
}

float *span_scatter(const struct shape *s, const struct span *sp, unsigned layer, unsigned head)
{
    return span_norms(s, sp, layer, head) + SPAN_PAGES;
}

float *span_salience(const struct shape *s, const struct span *sp, unsigned layer, unsigned head)
{
    return span_scatter(s, sp, layer, head) + shape_rep_dims(s, layer);
}

void span_truncate(const struct shape *s, struct span *sp, unsigned n)
{
    assert(sp->refs == 1 && n <= sp->n_blocks);
    for (unsigned l = 0; l < s->n_layers; l++) {
        unsigned dims = shape_rep_dims(s, l);
        for (unsigned h = 0; h < s->layers[l].n_kv_heads; h++) {
            for (unsigned p = n * BLOCK_PAGES; p < sp->n_blocks * BLOCK_PAGES; p++)
                reps_lane_clear(s->pages, dims,
                                span_groups(s, sp, l, h) + p / REPS_LANES * reps_group_bytes(s->pages, dims),
                                p % REPS_LANES);
            for (unsigned b = n; b < sp->n_blocks; b++)
                reps_lane_clear(REPS_BLOCK, dims,
                                span_block_groups(s, sp, l, h) +
                                    b / REPS_LANES * reps_group_bytes(REPS_BLOCK, dims),
                                b % REPS_LANES);
        }
    }
    sp->n_blocks = n;
}

void *span_part(const struct shape *s, const struct span *sp, enum index_part part, unsigned layer,
                unsigned head)
{
    size_t at = 0;
    if (!sp->part[part])
        return NULL;
    for (unsigned l = 0; l < layer; l++)
        at += s->layers[l].n_kv_heads * shape_part_bytes(s, part, l);
    return sp->part[part] + at + head * shape_part_bytes(s, part, layer);
}

void span_piece(const struct shape *s, const struct span *sp, unsigned layer, unsigned head,
                struct far_piece *out)
{
    out->page_groups = span_groups(s, sp, layer, head);
    out->block_groups = span_block_groups(s, sp, layer, head);
    out->norms = span_norms(s, sp, layer, head);
    out->scatter = span_scatter(s, sp, layer, head);
    out->page_kind = s->pages;
    out->salience = span_salience(s, sp, layer, head);
    for (unsigned part = 0; part < INDEX_PARTS; part++)
        out->part[part] = span_part(s, sp, part, layer, head);
}

void span_pieces(const struct shape *s, struct span *const *spans, size_t n, unsigned layer, unsigned head,
                 struct far_piece *out)
{
    if (n == 0)
        return;
    span_piece(s, spans[0], layer, head, &out[0]);
    for (size_t i = 1; i < n; i++) { /* everything lies as far from a span's beginning as in the first */
        const uint8_t *base = spans[i]->data, *first = spans[0]->data;
        out[i] = (struct far_piece){
            .page_groups = base + (out[0].page_groups - first),
            .block_groups = span_block_groups(s, spans[i], layer, head),
            .norms = (const float *)(base + ((const uint8_t *)out[0].norms - first)),
            .scatter = (const float *)(base + ((const uint8_t *)out[0].scatter - first)),
            .salience = (const float *)(base + ((const uint8_t *)out[0].salience - first)),
            .page_kind = s->pages,
        };
        for (unsigned part = 0; part < INDEX_PARTS; part++)
            if (spans[i]->part[part])
                out[i].part[part] = span_part(s, spans[i], part, layer, head);
    }
}

int span_part_new(const struct shape *s, struct span *sp, enum index_part part)
{
    assert(!sp->part[part]);
    sp->part[part] = calloc(1, s->part_bytes[part]);
    return sp->part[part] ? 0 : -ENOMEM;
}
