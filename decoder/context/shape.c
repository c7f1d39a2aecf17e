/* shape.c: checks the engine's description of its model once, and derives sizes from it. */
#include "decoder/context/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int check_layer(const struct skv_layer *l, unsigned i, struct skv_error *err)
{
    if (l->d_k == 0 || l->d_k % 8 || l->d_k > 1024 || l->d_v == 0 || l->d_v > 1024)
        return skv_fail(err, -EINVAL,
                        "layer %u: d_k %u, d_v %u: d_k must be a multiple of 8, both at most 1024", i, l->d_k,
                        l->d_v);
    if (l->n_kv_heads == 0 || l->n_kv_heads > MAX_HEADS || l->kv_head0 > MAX_HEADS)
        return skv_fail(err, -EINVAL, "layer %u: %u KV heads from %u on: 1 to %d are supported", i,
                        l->n_kv_heads, l->kv_head0, MAX_HEADS);
    if (l->n_heads == 0 || l->n_heads % l->n_kv_heads || l->n_heads / l->n_kv_heads > 64)
        return skv_fail(err, -EINVAL,
                        "layer %u: %u query heads over %u KV heads: must divide, at most 64 each", i,
                        l->n_heads, l->n_kv_heads);
    if (!(l->scale > 0.0f) || l->scale > 1e6f)
        return skv_fail(err, -EINVAL, "layer %u: scale %g: must be positive, usually 1/sqrt(d_k)", i,
                        (double)l->scale);
    return 0;
}

size_t shape_part_bytes(const struct shape *s, enum index_part part, unsigned layer)
{
    const struct skv_layer *l = &s->layers[layer];
    return part_bytes(part, part_of_stretch(part) ? shape_rep_dims(s, layer) : l->d_k, l->d_v);
}

int shape_new(const struct skv_model *m, const struct skv_context_opts *o, struct shape **out,
              struct skv_error *err)
{
    if (m->n_layers == 0 || m->n_layers > MAX_LAYERS)
        return skv_fail(err, -EINVAL, "%u layers: 1 to %d are supported", m->n_layers, MAX_LAYERS);
    if (!skv_dtype_name(o->dtype))
        return skv_fail(err, -EINVAL, "KV dtype %d is unknown: f16, f32, q8_0 or q4", (int)o->dtype);
    for (unsigned i = 0; i < m->n_layers; i++) {
        int rc = check_layer(&m->layers[i], i, err);
        if (rc)
            return rc;
    }
    struct shape *s = calloc(1, sizeof *s);
    if (!s)
        return skv_fail(err, -ENOMEM, "out of memory");
    s->refs = 1;
    s->d_rep = o->calibration ? o->calibration->d_rep : 0;
    s->pages = o->representatives == SKV_REPS_LEAN ? REPS_LEAN : s->d_rep ? REPS_MANY : REPS_PAGE;
    s->n_layers = m->n_layers;
    s->layers = calloc(m->n_layers, sizeof *s->layers);
    s->layouts = calloc(m->n_layers, sizeof *s->layouts);
    s->put = calloc(m->n_layers, sizeof *s->put);
    s->packed = o->dtype == SKV_Q8_0 || o->dtype == SKV_Q4;
    s->span_at = calloc(m->n_layers, sizeof *s->span_at);
    s->head_bytes = calloc(m->n_layers, sizeof *s->head_bytes);
    s->shelf_at = calloc(m->n_layers, sizeof *s->shelf_at);
    if (!s->layers || !s->layouts || !s->put || !s->span_at || !s->head_bytes || !s->shelf_at) {
        shape_unref(s);
        return skv_fail(err, -ENOMEM, "out of memory");
    }
    memcpy(s->layers, m->layers, m->n_layers * sizeof *s->layers);
    memcpy(s->fingerprint, m->fingerprint, sizeof s->fingerprint);
    for (unsigned i = 0; i < s->n_layers; i++) {
        const struct skv_layer *l = &s->layers[i];
        s->layouts[i] = (struct block_layout){.dtype = (uint8_t)o->dtype,
                                              .d_k = (uint16_t)l->d_k,
                                              .d_v = (uint16_t)l->d_v,
                                              .head0 = (uint16_t)l->kv_head0,
                                              .n_heads = (uint16_t)l->n_kv_heads};
        s->put[i] = s->layouts[i];
        if (s->packed)
            s->put[i].dtype = SKV_F16;
        size_t page = layout_page_bytes(&s->layouts[i]), put = s->packed ? layout_page_bytes(&s->put[i]) : 0;
        s->head_bytes[i] = span_groups_bytes(s, i) + SPAN_PAGES * (2 * sizeof(float) + sizeof(uint64_t)) +
                           shape_rep_dims(s, i) * sizeof(float);
        s->span_at[i] = s->span_bytes;
        s->span_bytes += l->n_kv_heads * s->head_bytes[i];
        s->token_bytes += l->n_kv_heads * page / PAGE_TOKENS;
        s->local_bytes += l->n_kv_heads * (page + put) / PAGE_TOKENS;
        s->shelf_at[i] = s->shelf_bytes;
        s->shelf_bytes += (size_t)l->n_kv_heads * SHELF_SPANS * span_blocks_bytes(s, i);
        s->page_index_bytes += l->n_kv_heads * (s->head_bytes[i] + span_blocks_bytes(s, i)) / SPAN_PAGES;
        for (unsigned p = 0; p < INDEX_PARTS; p++)
            s->part_bytes[p] += l->n_kv_heads * shape_part_bytes(s, p, i);
        if (page > s->max_page_bytes)
            s->max_page_bytes = page;
    }
    *out = s;
    return 0;
}

struct shape *shape_ref(struct shape *s)
{
    s->refs++;
    return s;
}

void shape_unref(struct shape *s)
{
    if (!s || --s->refs)
        return;
    free(s->layers);
    free(s->layouts);
    free(s->put);
    free(s->span_at);
    free(s->head_bytes);
    free(s->shelf_at);
    free(s);
}
