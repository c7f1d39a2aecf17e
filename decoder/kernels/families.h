/* families.h: the tables that kernels.c chooses from, and what their files share. */
#ifndef KERNELS_FAMILIES_H
#define KERNELS_FAMILIES_H

#include "decoder/kernels/kernels.h"

enum {
    PAGE_MAX_TOKENS = 16,
    GROUP_MAX_ROWS = 64, /* query heads that share one KV head */
    HEAD_MAX_DIMS = 1024,
    SCOUT_MAX_VECS = 9, /* centre and outliers */
};

extern const struct kernels kernels_portable;
void unpack_q8_0_portable(unsigned d_k, unsigned d_v, const uint8_t *page, float *k, float *v);
void unpack_q4_portable(unsigned d_k, unsigned d_v, const uint8_t *page, float *k, float *v);
#if defined(__x86_64__)
/* One family, two scouts: the sums are exact, so the bits are the same. */
extern const struct kernels kernels_avx2, kernels_avx2_vnni;
void page_f16_avx2(unsigned g, unsigned n, unsigned d_k, unsigned d_v, const float *q, const uint16_t *k,
                   const uint16_t *v, const struct pages_ahead *ahead, float *m, float *l, float *o);
void page_f32_avx2(unsigned g, unsigned n, unsigned d_k, unsigned d_v, const float *q, const float *k,
                   const float *v, const struct pages_ahead *ahead, float *m, float *l, float *o);
void page_q8_0_avx2(unsigned g, unsigned n, unsigned d_k, unsigned d_v, const float *q, const uint8_t *page,
                    const struct pages_ahead *ahead, float *m, float *l, float *o);
void merge_avx2(unsigned g, unsigned d_v, float *M, float *L, float *O, const float *m, const float *l,
                const float *o);
void scout_groups_avx2(const struct scout_scan *, float *out, size_t ld);
void scout_groups_vnni(const struct scout_scan *, float *out, size_t ld);
void unpack_q8_0_avx2(unsigned d_k, unsigned d_v, const uint8_t *page, float *k, float *v);
void unpack_q4_avx2(unsigned d_k, unsigned d_v, const uint8_t *page, float *k, float *v);
#endif

#endif
