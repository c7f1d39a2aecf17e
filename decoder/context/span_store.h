/* span_store.h: the index of spans as sidecar objects. */
#ifndef CONTEXT_SPAN_STORE_H
#define CONTEXT_SPAN_STORE_H

#include "decoder/context/internal.h"

size_t span_objects(const struct shape *); /* a span is in so many objects */
/* Name of the i-th object of the span whose last block has this chain. */
void span_object_name(const struct shape *, const uint8_t *chain, size_t i, const struct index_kind *,
                      char name[TIER_NAME_MAX + 1]);
int span_put(struct skv_tier *, const struct shape *, const struct span *, const struct index_kind *,
             const struct tier_object_opts *, struct skv_error *);

/* Where the index up to some block is. */
struct span_place {
    uint8_t chain[CHAIN_BYTES]; /* of the span's last block */
    uint64_t n_blocks;          /* of the span */
};
static_assert(sizeof(struct span_place) == 40, "stored as it is");
void span_place_name(const uint8_t *chain, const struct index_kind *, char name[TIER_NAME_MAX + 1]);
/* Says that the index up to this block of the span is there. */
int span_place_put(struct skv_tier *, const struct span *, unsigned block, const struct index_kind *,
                   const struct tier_object_opts *, struct skv_error *);

/* Fills n spans whose chain and n_blocks are set and which nobody shares. missing[n]: those that cannot be
 * had (their contents are then undefined); without it, the first such one fails the call. */
int spans_get(struct skv_tier *, const struct shape *, struct span *const *, size_t n,
              const struct index_kind *, bool *missing, struct skv_error *);

#endif
