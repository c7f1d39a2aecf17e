/* page.c: see page.h. */
#include "decoder/context/page.h"
#include "decoder/kernels/families.h"
#include "decoder/kernels/kv_types.h"
#include "decoder/scoutkv.h"

#include <assert.h>
#include <string.h>

enum { TILE = PAGE_TOKENS * HEAD_MAX_DIMS };

const char *skv_dtype_name(enum skv_dtype dtype)
{
    static const char *const names[] = {
        [SKV_F16] = "f16", [SKV_F32] = "f32", [SKV_Q8_0] = "q8_0", [SKV_Q4] = "q4"};
    return dtype >= SKV_F16 && dtype <= SKV_Q4 ? names[dtype] : NULL;
}

void page_spread(const struct kernels *kn, struct kv_page p, float *k, float *v)
{
    const struct block_layout *y = p.layout;
    const size_t nk = (size_t)PAGE_TOKENS * y->d_k, nv = (size_t)PAGE_TOKENS * y->d_v;
    switch (y->dtype) {
    case SKV_F16:
        kn->f16_to_f32(nk, (const uint16_t *)p.bytes, k);
        kn->f16_to_f32(nv, (const uint16_t *)p.bytes + nk, v);
        break;
    case SKV_F32:
        memcpy(k, p.bytes, nk * sizeof *k);
        memcpy(v, (const float *)p.bytes + nk, nv * sizeof *v);
        break;
    case SKV_Q8_0:
        kn->unpack_q8_0(y->d_k, y->d_v, p.bytes, k, v);
        break;
    default:
        assert(y->dtype == SKV_Q4);
        kn->unpack_q4(y->d_k, y->d_v, p.bytes, k, v);
    }
}

static void attend_q4(const struct kernels *kn, struct kv_page p, unsigned g, unsigned n, const float *q,
                      float *m, float *l, float *o)
{
    float k[TILE], v[TILE];
    kn->unpack_q4(p.layout->d_k, p.layout->d_v, p.bytes, k, v);
    kn->page_f32(g, n, p.layout->d_k, p.layout->d_v, q, k, v, NULL, m, l, o);
}

void page_attend(const struct kernels *kn, struct kv_page p, const struct pages_ahead *ahead, unsigned g,
                 unsigned n, const float *q, float *m, float *l, float *o)
{
    const struct block_layout *y = p.layout;
    const size_t nk = (size_t)PAGE_TOKENS * y->d_k;
    switch (y->dtype) {
    case SKV_F16:
        kn->page_f16(g, n, y->d_k, y->d_v, q, (const uint16_t *)p.bytes, (const uint16_t *)p.bytes + nk,
                     ahead, m, l, o);
        break;
    case SKV_F32:
        kn->page_f32(g, n, y->d_k, y->d_v, q, (const float *)p.bytes, (const float *)p.bytes + nk, ahead, m,
                     l, o);
        break;
    case SKV_Q8_0:
        kn->page_q8_0(g, n, y->d_k, y->d_v, q, p.bytes, ahead, m, l, o);
        break;
    default:
        assert(y->dtype == SKV_Q4);
        attend_q4(kn, p, g, n, q, m, l, o);
    }
}

void page_pack(const struct kernels *kn, struct kv_page put, const struct block_layout *rest, uint8_t *bytes)
{
    float k[TILE], v[TILE];
    page_spread(kn, put, k, v);
    assert(rest->dtype == SKV_Q8_0 || rest->dtype == SKV_Q4);
    (rest->dtype == SKV_Q8_0 ? kv_pack_q8_0 : kv_pack_q4)(rest->d_k, rest->d_v, k, v, bytes);
}

void page_unpack(const struct kernels *kn, struct kv_page rest, const struct block_layout *put,
                 uint8_t *bytes)
{
    const size_t nk = (size_t)PAGE_TOKENS * put->d_k, nv = (size_t)PAGE_TOKENS * put->d_v;
    float k[TILE], v[TILE];
    page_spread(kn, rest, k, v);
    assert(put->dtype == SKV_F16);
    kn->f32_to_f16(nk, k, (uint16_t *)bytes);
    kn->f32_to_f16(nv, v, (uint16_t *)bytes + nk);
}
