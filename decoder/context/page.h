/* page.h: a page's bytes as numbers. A page is stored as its layout says (f16, f32, q8_0 or q4), and local
 * pages that are not full as they were put. */
#ifndef CONTEXT_PAGE_H
#define CONTEXT_PAGE_H

#include "common/identity.h"
#include "decoder/kernels/kernels.h"

struct kv_page {
    const uint8_t *bytes;
    const struct block_layout *layout;
};

/* Partial attention of g query rows over the first n tokens of a page: as page_f16 of kernels.h. */
void page_attend(const struct kernels *, struct kv_page, const struct pages_ahead *, unsigned g, unsigned n,
                 const float *q, float *m, float *l, float *o);
/* All of it as f32: k (16, d_k), v (16, d_v). */
void page_spread(const struct kernels *, struct kv_page, float *k, float *v);
/* A full page as it was put, as it is at rest: bytes of layout `rest`. */
void page_pack(const struct kernels *, struct kv_page put, const struct block_layout *rest, uint8_t *bytes);
/* The same back, rounded: bytes of layout `put`, an f16 one. */
void page_unpack(const struct kernels *, struct kv_page rest, const struct block_layout *put, uint8_t *bytes);

#endif
