/* span.c: the index of 64 sealed blocks. Full spans never change, so forks share them; a sidecar object on
 * the tier holds one layer's part of one (snapshot.c). */
#include "decoder/context/internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct span *span_new(const struct shape *s)
{
    struct span *sp = calloc(1, sizeof *sp + s->span_bytes);
    if (!sp)
        return NULL;
    sp->refs = 1;
    for (unsigned l = 0; l < s->n_layers; l++) {
        unsigned d_k = s->layers[l].d_k;
        for (unsigned h = 0; h < s->layers[l].n_kv_heads; h++) {
            for (unsigned g = 0; g < SPAN_GROUPS; g++)
                reps_group_clear(REPS_PAGE, d_k,
                                 span_groups(s, sp, l, h) + g * reps_group_bytes(REPS_PAGE, d_k));
            for (unsigned g = 0; g < SPAN_BLOCK_GROUPS; g++)
                reps_group_clear(REPS_BLOCK, d_k,
                                 span_block_groups(s, sp, l, h) + g * reps_group_bytes(REPS_BLOCK, d_k));
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
    if (sp && --sp->refs == 0)
        free(sp);
}

struct span *span_own(const struct shape *s, struct span *sp)
{
    if (sp->refs == 1)
        return sp;
    struct span *copy = malloc(sizeof *copy + s->span_bytes);
    if (!copy)
        return NULL;
    memcpy(copy, sp, sizeof *sp + s->span_bytes);
    copy->refs = 1;
    sp->refs--;
    return copy;
}

uint8_t *span_groups(const struct shape *s, const struct span *sp, unsigned layer, unsigned head)
{
    return (uint8_t *)sp->data + s->span_at[layer] + head * s->head_bytes[layer];
}

uint8_t *span_block_groups(const struct shape *s, const struct span *sp, unsigned layer, unsigned head)
{
    return span_groups(s, sp, layer, head) + SPAN_GROUPS * reps_group_bytes(REPS_PAGE, s->layers[layer].d_k);
}

uint64_t *span_checksums(const struct shape *s, const struct span *sp, unsigned layer, unsigned head)
{
    return (uint64_t *)(span_block_groups(s, sp, layer, head) +
                        SPAN_BLOCK_GROUPS * reps_group_bytes(REPS_BLOCK, s->layers[layer].d_k));
}

float *span_norms(const struct shape *s, const struct span *sp, unsigned layer, unsigned head)
{
    return (float *)(span_checksums(s, sp, layer, head) + SPAN_PAGES);
}

void span_truncate(const struct shape *s, struct span *sp, unsigned n)
{
    assert(sp->refs == 1 && n <= sp->n_blocks);
    for (unsigned l = 0; l < s->n_layers; l++) {
        unsigned d_k = s->layers[l].d_k;
        for (unsigned h = 0; h < s->layers[l].n_kv_heads; h++) {
            for (unsigned p = n * BLOCK_PAGES; p < sp->n_blocks * BLOCK_PAGES; p++)
                reps_lane_clear(REPS_PAGE, d_k,
                                span_groups(s, sp, l, h) + p / REPS_LANES * reps_group_bytes(REPS_PAGE, d_k),
                                p % REPS_LANES);
            for (unsigned b = n; b < sp->n_blocks; b++)
                reps_lane_clear(REPS_BLOCK, d_k,
                                span_block_groups(s, sp, l, h) +
                                    b / REPS_LANES * reps_group_bytes(REPS_BLOCK, d_k),
                                b % REPS_LANES);
        }
    }
    sp->n_blocks = n;
}
