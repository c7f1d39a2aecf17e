/* seal.c: full blocks leave for the tier, and their index stays.
 *
 * Chain, checksums and representatives are computed from the bytes at rest (after rounding to the KV dtype),
 * which attention sees too: so that a block that comes back and is sealed again gets the same ones. A block's
 * bytes stay here until every PUT of it is acknowledged: a step may select its pages before the node has
 * them, and a PUT that failed can be repeated. */
#include "decoder/context/internal.h"
#include "decoder/scout/salience.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

uint64_t seal_target(const struct skv_context *c, uint64_t len)
{
    return len > c->opts.seal_lag ? (len - c->opts.seal_lag) / BLOCK_TOKENS : 0;
}

static void pending_free(const struct shape *s, struct pending_block *p)
{
    for (unsigned l = 0; l < s->n_layers; l++)
        buf_unref(p->kv[l]);
    free(p->kv);
    free(p->puts);
    free(p);
}

void seal_forget_pending(struct skv_context *c)
{
    while (c->pending) {
        struct pending_block *next = c->pending->next;
        pending_free(c->shape, c->pending);
        c->pending = next;
    }
}

static void on_put(void *arg, const struct tier_put_result *r)
{
    struct pending_put *put = arg;
    struct pending_block *p = put->block;
    struct skv_context *c = p->ctx;
    p->unanswered--;
    if (r->rc) {
        p->failed = true;
        if (c->put_error.code == 0)
            c->put_error = *r->err;
    } else if (r->stored) {
        /* Another writer was first: its version stays, and is the one we ask for from now on. Forks that
         * share the span must ask for it too, so it's written in place. */
        struct span *sp = context_span(c, p->block);
        unsigned n_heads = c->shape->layouts[put->layer].n_heads;
        if (r->n_pages == (size_t)n_heads * BLOCK_PAGES)
            for (unsigned h = 0; h < n_heads; h++)
                memcpy(span_checksums(c->shape, sp, put->layer, h) + p->block % SPAN_BLOCKS * BLOCK_PAGES,
                       r->stored + h * BLOCK_PAGES, BLOCK_PAGES * sizeof *r->stored);
        c->stats.blocks_adopted++;
    }
    if (p->unanswered || p->failed)
        return;
    struct pending_block **at = &c->pending;
    while (*at != p)
        at = &(*at)->next;
    *at = p->next;
    pending_free(c->shape, p);
}

static int put_layer(struct skv_context *c, struct pending_block *p, unsigned layer, struct skv_error *err)
{
    const struct block_layout *lay = &c->shape->layouts[layer];
    uint64_t checksums[MAX_HEADS * BLOCK_PAGES];
    for (unsigned h = 0; h < lay->n_heads; h++)
        memcpy(checksums + h * BLOCK_PAGES,
               span_checksums(c->shape, context_span(c, p->block), layer, h) +
                   p->block % SPAN_BLOCKS * BLOCK_PAGES,
               BLOCK_PAGES * sizeof *checksums);
    struct block_key key;
    context_block_key(c, layer, p->block, &key);
    p->unanswered++;
    int rc = tier_put(c->tier->tier, &key, lay, p->kv[layer], checksums,
                      c->opts.durable ? TIER_ACK_DURABLE : TIER_ACK_RAM, on_put, &p->puts[layer], err);
    if (rc) {
        p->unanswered--;
        p->failed = true;
    }
    return rc;
}

/* PUTs every layer. The block may be acknowledged, and freed, before this returns: hold it until the last is
 * queued. */
static int put_block(struct skv_context *c, struct pending_block *p, struct skv_error *err)
{
    int rc = 0;
    p->failed = false;
    p->unanswered++; /* ours */
    for (unsigned l = 0; l < c->shape->n_layers && rc == 0; l++)
        rc = put_layer(c, p, l, err);
    if (--p->unanswered == 0 && !p->failed) {
        p->unanswered = 1;
        on_put(&p->puts[0], &(struct tier_put_result){0});
    }
    return rc;
}

/* ---- index of one block ---- */

struct index_job {
    const struct skv_context *c;
    struct span *span;
    uint64_t block;
    struct buf *const *kv;
};

static void hash_decode(struct identity *id, const struct skv_select *s, uint32_t window)
{
    uint32_t mass;
    memcpy(&mass, &s->mass, sizeof mass);
    uint64_t fields[] = {s->policy, s->budget, s->unit, mass, window};
    identity_add(id, fields, sizeof fields);
    hash_policy_opts(id, s);
}

/* chain_i = BLAKE2b(chain_{i-1}, ids or tags, passes, decode recipe if a token was decoded) */
void chain_block(const struct skv_context *c, uint64_t block, const uint8_t *prev, uint8_t *out)
{
    uint64_t t0 = block * BLOCK_TOKENS;
    struct identity id;
    identity_begin(&id, "scoutkv block");
    identity_add(&id, prev, CHAIN_BYTES);
    if (c->tags)
        identity_add(&id, c->tags + t0 * SKV_TAG, BLOCK_TOKENS * SKV_TAG);
    else
        identity_add(&id, c->ids + t0, BLOCK_TOKENS * sizeof *c->ids);
    if (passes_hash(c, &id, t0, t0 + BLOCK_TOKENS)) {
        hash_decode(&id, &c->opts.decode, c->opts.window);
        for (uint32_t i = 0; i < c->opts.n_decode_layers; i++) {
            const struct skv_layer_select *y = &c->opts.decode_layers[i];
            identity_add_u64(&id, (uint64_t)y->from << 32 | y->to);
            hash_decode(&id, &y->select, c->opts.window);
        }
        plan_hash_decode(c, &id);
    }
    identity_end(&id, out);
}

static void index_layer(void *arg, unsigned layer)
{
    const struct index_job *j = arg;
    const struct skv_context *c = j->c;
    const struct kernels *k = c->tier->k;
    const struct block_layout *lay = &c->shape->layouts[layer];
    size_t page_bytes = layout_page_bytes(lay), page_floats = (size_t)PAGE_TOKENS * lay->d_k;
    size_t value_floats = (size_t)PAGE_TOKENS * lay->d_v;
    unsigned d_k = lay->d_k, in_span = (unsigned)(j->block % SPAN_BLOCKS);
    struct block_key key;
    context_block_key(c, layer, j->block, &key);
    float *keys = c->tier->scratch[layer].bytes; /* (64, d_k), then values (64, d_v) */
    float *values = keys + BLOCK_PAGES * page_floats, *projected = values + BLOCK_PAGES * value_floats;
    unsigned dims = shape_rep_dims(c->shape, layer); /* of what is summarised */
    for (unsigned h = 0; h < lay->n_heads; h++) {
        const float *learned = plan_salience(c, layer, h);
        for (unsigned p = 0; p < BLOCK_PAGES; p++) {
            const uint8_t *page = j->kv[layer]->data + (h * BLOCK_PAGES + p) * page_bytes;
            float *page_keys = keys + p * page_floats;
            unsigned at = in_span * BLOCK_PAGES + p;
            page_spread(k, (struct kv_page){page, lay}, page_keys, values + p * value_floats);
            span_checksums(c->shape, j->span, layer, h)[at] =
                page_checksum(&key, lay->head0 + h, p, page, page_bytes);
            float norm = 0.0f;
            for (unsigned i = 0; i < PAGE_TOKENS; i++)
                norm = fmaxf(norm, k->dot(d_k, page_keys + i * d_k, page_keys + i * d_k));
            span_norms(c->shape, j->span, layer, h)[at] = sqrtf(norm);
            span_salience(c->shape, j->span, layer, h)[at] =
                learned ? salience_page(k, d_k, learned, page_keys) : 0.0f;
        }
        const float *projection = plan_projection(c, layer, h), *summed = projection ? projected : keys;
        if (projection)
            calibration_project(dims, d_k, projection, BLOCK_TOKENS, keys, projected);
        for (unsigned p = 0; p < BLOCK_PAGES; p++) {
            unsigned at = in_span * BLOCK_PAGES + p;
            reps_build_gamma(c->shape->pages, dims, summed + (size_t)p * PAGE_TOKENS * dims,
                             plan_gamma(c, c->shape->pages, layer, h),
                             span_groups(c->shape, j->span, layer, h) +
                                 at / REPS_LANES * reps_group_bytes(c->shape->pages, dims),
                             at % REPS_LANES);
        }
        reps_build_gamma(REPS_BLOCK, dims, summed, plan_gamma(c, REPS_BLOCK, layer, h),
                         span_block_groups(c->shape, j->span, layer, h) +
                             in_span / REPS_LANES * reps_group_bytes(REPS_BLOCK, dims),
                         in_span % REPS_LANES);
        if (in_span == 0)
            reps_scatter(dims, summed, span_scatter(c->shape, j->span, layer, h));
        parts_add(c->shape, j->span, layer, h, in_span, keys, values);
    }
}

/* Room for a block's keys and values of one head in f32. */
static bool index_room(struct skv_context *c, unsigned layer)
{
    const struct block_layout *lay = &c->shape->layouts[layer];
    return scratch_take(&c->tier->scratch[layer],
                        (size_t)BLOCK_TOKENS * (2 * lay->d_k + lay->d_v) * sizeof(float));
}

int seal_index(struct skv_context *c, uint64_t block, unsigned layer, struct buf *const *kv)
{
    if (!index_room(c, layer))
        return -ENOMEM;
    index_layer(&(struct index_job){.c = c, .span = context_span(c, block), .block = block, .kv = kv}, layer);
    return 0;
}

/* The span that takes the next sealed block, with one holder. */
static struct span *open_span(struct skv_context *c)
{
    size_t i = c->sealed / SPAN_BLOCKS;
    if (i < c->n_spans) {
        struct span *own = span_own(c->shape, c->spans[i]);
        if (own)
            c->spans[i] = own;
        return own;
    }
    if (c->n_spans == c->spans_cap) {
        size_t cap = c->spans_cap * 2 + 16;
        struct span **spans = realloc(c->spans, cap * sizeof(struct span *));
        if (!spans)
            return NULL;
        c->spans = spans;
        c->spans_cap = cap;
    }
    struct span *sp = span_new(c->shape, i ? c->spans[i - 1] : NULL, i);
    for (unsigned part = 0; sp && part < INDEX_PARTS; part++)
        if (c->needs >> part & 1 && span_part_new(c->shape, sp, part)) {
            span_unref(sp);
            return NULL;
        }
    if (sp)
        c->spans[c->n_spans++] = sp;
    return sp;
}

static void pin_protected(struct skv_context *c, uint64_t block, struct buf *const *kv)
{
    for (unsigned p = 0; p < BLOCK_PAGES; p++) {
        if (!context_page_protected(c, block * BLOCK_PAGES + p))
            continue;
        for (unsigned l = 0; l < c->shape->n_layers; l++) {
            size_t len = layout_page_bytes(&c->shape->layouts[l]);
            for (unsigned h = 0; h < c->shape->layouts[l].n_heads; h++)
                cache_put(c->cache, l, h, block * BLOCK_PAGES + p, kv[l]->data + (h * BLOCK_PAGES + p) * len,
                          len, true);
        }
    }
}

static int seal_one(struct skv_context *c, struct skv_error *err)
{
    struct pending_block *p = calloc(1, sizeof *p);
    struct pending_put *puts = calloc(c->shape->n_layers, sizeof *puts);
    struct span *sp = open_span(c);
    bool room = true; /* for each layer's keys in f32 */
    for (unsigned l = 0; l < c->shape->n_layers; l++)
        room = index_room(c, l) && room;
    if (!p || !puts || !sp || !room) {
        free(p);
        free(puts);
        return skv_fail(err, -ENOMEM, "out of memory");
    }
    unsigned in_span = c->sealed % SPAN_BLOCKS;
    const uint8_t *prev = c->sealed ? context_chain(c, c->sealed - 1) : c->root;
    chain_block(c, c->sealed, prev, sp->chain[in_span]);
    struct index_job job = {.c = c, .span = sp, .block = c->sealed, .kv = c->local[0].rest};
    pool_run(c->tier->pool, c->shape->n_layers, index_layer, &job);
    pin_protected(c, c->sealed, c->local[0].rest);

    *p = (struct pending_block){
        .ctx = c, .block = c->sealed, .kv = local_block_seal(c->shape, &c->local[0]), .puts = puts};
    for (unsigned l = 0; l < c->shape->n_layers; l++)
        puts[l] = (struct pending_put){.block = p, .layer = l};
    struct pending_block **at = &c->pending;
    while (*at)
        at = &(*at)->next;
    *at = p;
    sp->n_blocks = in_span + 1;
    c->sealed++;
    c->n_local--;
    memmove(c->local, c->local + 1, c->n_local * sizeof *c->local);
    c->stats.blocks_sealed++;
    return put_block(c, p, err);
}

static int put_failed(struct skv_context *c, struct skv_error *err)
{
    if (c->put_error.code == 0)
        return 0;
    return skv_fail(err, c->put_error.code, "%s", c->put_error.text);
}

int seal_behind_head(struct skv_context *c, struct skv_error *err)
{
    int rc = c->pending ? tier_pump(c->tier->tier, 0, err) : 0; /* lets go of what was acknowledged */
    if (rc == 0)
        rc = put_failed(c, err);
    return rc ? rc : seal_to(c, seal_target(c, c->len), err);
}

int seal_to(struct skv_context *c, uint64_t target, struct skv_error *err)
{
    int rc = 0;
    bool sealed = c->sealed < target;
    while (rc == 0 && c->sealed < target)
        rc = seal_one(c, err);
    if (sealed) {
        context_set_eligible(c);
        if (!c->eligible && rc == 0)
            rc = skv_fail(err, -ENOMEM, "out of memory");
    }
    return rc;
}

int seal_flush(struct skv_context *c, struct skv_error *err)
{
    int rc = tier_flush(c->tier->tier, NULL); /* our own answers tell what failed */
    for (struct pending_block *p = c->pending, *next; p; p = next) {
        next = p->next;
        if (p->failed && p->unanswered == 0) {
            c->put_error.code = 0;
            rc = put_block(c, p, err);
            if (rc)
                return rc;
        }
    }
    if (c->pending) {
        rc = tier_flush(c->tier->tier, err);
        if (c->put_error.code)
            return put_failed(c, err);
        return rc;
    }
    c->put_error.code = 0;
    return 0;
}
