/* context.c: a context's life: open, fork, append, put, truncate, close. */
#include "decoder/context/internal.h"
#include "decoder/scout/policy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PASS = 1 << 20 };
#define MAX_TOKENS (1ull << 32)

void skv_context_defaults(struct skv_context_opts *o)
{
    *o = (struct skv_context_opts){
        .decode = {.policy = SKV_CASCADE, .budget = 2048, .unit = 16, .refresh_budget = 4},
        .prefill = {.policy = SKV_CASCADE, .budget = 2048, .unit = 16},
        .window = 1024,
        .sinks = 16,
        .cache_bytes = 64 << 20,
        .dtype = SKV_F16,
        .hints = true,
    };
}

/* What the policies need, and history where it is wanted. */
static int set_needs(struct skv_context *c, struct skv_error *err)
{
    c->needs = policy_needs(&c->opts.prefill, NULL);
    bool turns = false;
    for (unsigned l = 0; l < c->shape->n_layers; l++) {
        c->needs |= policy_needs(context_select(c, l), c->calibration);
        turns |= context_select(c, l)->refresh_turn > 0.0f;
    }
    bool history = c->opts.history || c->hints || c->needs & (NEEDS_RECEIVED | NEEDS_MEAN_QUERY);
    if ((history && !c->received && !(c->received = received_new(c->shape))) ||
        (turns && !c->turn && !(c->turn = turn_new(c->shape))))
        return skv_fail(err, -ENOMEM, "out of memory");
    return parts_require(c, err);
}

static int by_from(const void *a, const void *b)
{
    const struct skv_range *x = a, *y = b;
    return (x->from > y->from) - (x->from < y->from);
}

/* Sinks and ranges, widened to pages, sorted and joined. */
static int set_protect(struct skv_context *c, const struct skv_context_opts *o, struct skv_error *err)
{
    c->protect = calloc(o->n_protect + 1, sizeof *c->protect);
    if (!c->protect)
        return skv_fail(err, -ENOMEM, "out of memory");
    struct skv_range *r = c->protect;
    size_t n = 0;
    if (o->sinks)
        r[n++] = (struct skv_range){0, (o->sinks + PAGE_TOKENS - 1) / PAGE_TOKENS};
    for (size_t i = 0; i < o->n_protect; i++) {
        const struct skv_range *p = &o->protect[i];
        if (p->from >= p->to || p->to > MAX_TOKENS)
            return skv_fail(err, -EINVAL, "protected range %llu:%llu: must be from:to with from < to",
                            (unsigned long long)p->from, (unsigned long long)p->to);
        r[n++] = (struct skv_range){p->from / PAGE_TOKENS, (p->to + PAGE_TOKENS - 1) / PAGE_TOKENS};
    }
    qsort(r, n, sizeof *r, by_from);
    for (size_t i = 0; i < n; i++) {
        if (c->n_protect && r[i].from <= r[c->n_protect - 1].to) {
            if (r[i].to > r[c->n_protect - 1].to)
                r[c->n_protect - 1].to = r[i].to;
        } else {
            r[c->n_protect++] = r[i];
        }
    }
    return 0;
}

int context_new(struct skv_tier *t, struct shape *shape, const struct skv_context_opts *o,
                struct skv_context **out, struct skv_error *err)
{
    int rc = recipe_check_select(&o->decode, "decode", err);
    if (rc == 0)
        rc = recipe_check_select(&o->prefill, "prefill", err);
    if (rc == 0)
        rc = recipe_check_layers(o, shape->n_layers, err);
    if (rc == 0 && o->prefill.tail)
        rc = skv_fail(err, -EINVAL, "prefill: only decode steps attend to an estimated tail");
    if (rc == 0 && (o->prefill.refresh || o->prefill.refresh_turn > 0.0f))
        rc = skv_fail(err, -EINVAL, "prefill: only decode steps refresh");
    if (rc)
        return rc;
    uint32_t lag = o->seal_lag ? o->seal_lag : o->window;
    if (lag < o->window)
        return skv_fail(err, -EINVAL,
                        "seal lag %u is less than the window of %u tokens, which must stay local", lag,
                        o->window);
    struct skv_context *c = calloc(1, sizeof *c);
    if (!c)
        return skv_fail(err, -ENOMEM, "out of memory");
    c->tier = t;
    c->shape = shape_ref(shape);
    c->opts = *o;
    c->opts.seal_lag = lag;
    rc = set_protect(c, o, err);
    if (rc == 0)
        rc = plan_calibration(c, o, err);
    if (rc == 0)
        rc = plan_budget(c, err);
    if (rc)
        goto error;
    recipe_hash_root(c);
    c->salted = o->salt != NULL;
    if (o->recipe && !(c->recipe = strdup(o->recipe))) {
        rc = skv_fail(err, -ENOMEM, "out of memory");
        goto error;
    }
    c->opts.salt = NULL;
    c->opts.recipe = NULL;
    c->opts.protect = NULL;
    c->cache = cache_new(shape->max_page_bytes, o->cache_bytes);
    c->layer_put = calloc(shape->n_layers, 1);
    bool hints = o->hints && tier_takes_hints(t->tier);
    c->hints = hints ? hints_new(c) : NULL;
    if (!c->cache || !c->layer_put || (hints && !c->hints)) {
        rc = skv_fail(err, -ENOMEM, "out of memory");
        goto error;
    }
    rc = set_needs(c, err);
    if (rc)
        goto error;
    *out = c;
    return 0;
error:
    skv_context_close(c);
    return rc;
}

int skv_context_open(skv_tier *t, const struct skv_model *m, const struct skv_context_opts *o,
                     skv_context **out, struct skv_error *err)
{
    struct shape *shape;
    int rc = shape_new(m, o, &shape, err);
    if (rc)
        return rc;
    rc = context_new(t, shape, o, out, err);
    shape_unref(shape);
    return rc;
}

static void local_clear(struct skv_context *c, size_t from)
{
    for (size_t i = from; i < c->n_local; i++)
        local_block_free(c->shape, &c->local[i]);
    c->n_local = from;
}

void skv_context_close(skv_context *c)
{
    if (!c)
        return;
    if (c->pending) /* their answers still name this context; a dead node ends them by its deadline */
        tier_flush(c->tier->tier, NULL);
    seal_forget_pending(c);
    local_clear(c, 0);
    free(c->local);
    for (size_t i = 0; i < c->n_spans; i++)
        span_unref(c->spans[i]);
    free(c->spans);
    cache_free(c->cache);
    free(c->ids);
    free(c->passes);
    free(c->recipe);
    free(c->calibration);
    free(c->head_units);
    free(c->saved_as);
    free(c->tags);
    free(c->protect);
    free(c->eligible);
    free(c->layer_put);
    free(c->lost.at);
    received_free(c->received);
    turn_free(c->turn);
    hints_free(c->hints);
    shape_unref(c->shape);
    free(c);
}

int context_grow_tokens(struct skv_context *c, uint64_t n)
{
    if (n <= c->tokens_cap)
        return 0;
    uint64_t cap = c->tokens_cap + c->tokens_cap / 4 + 4096;
    if (cap < n)
        cap = n;
    uint32_t *ids = realloc(c->ids, cap * sizeof *ids);
    if (ids)
        c->ids = ids;
    uint8_t *tags = c->tags ? realloc(c->tags, cap * SKV_TAG) : NULL;
    if (tags)
        c->tags = tags;
    if (!ids || (c->tags && !tags))
        return -ENOMEM;
    c->tokens_cap = cap;
    return 0;
}

int context_grow_local(struct skv_context *c)
{
    if (c->n_local == c->local_cap) {
        size_t cap = c->local_cap ? c->local_cap * 2 : 32;
        struct local_block *local = realloc(c->local, cap * sizeof *local);
        if (!local)
            return -ENOMEM;
        c->local = local;
        c->local_cap = cap;
    }
    int rc = local_block_new(c->shape, &c->local[c->n_local]);
    c->n_local += rc == 0;
    return rc;
}

int context_make_spans(struct skv_context *c, uint64_t n_blocks)
{
    size_t n = (n_blocks + SPAN_BLOCKS - 1) / SPAN_BLOCKS;
    assert(!c->spans);
    c->spans = calloc(n + 1, sizeof(struct span *));
    if (!c->spans)
        return -ENOMEM;
    c->spans_cap = n + 1;
    for (; c->n_spans < n; c->n_spans++) {
        struct span *sp = span_new(c->shape, c->n_spans ? c->spans[c->n_spans - 1] : NULL, c->n_spans);
        if (!sp)
            return -ENOMEM;
        uint64_t left = n_blocks - c->n_spans * SPAN_BLOCKS;
        sp->n_blocks = left < SPAN_BLOCKS ? (unsigned)left : SPAN_BLOCKS;
        c->spans[c->n_spans] = sp;
    }
    return 0;
}

int skv_context_fork(skv_context *c, skv_context **out, struct skv_error *err)
{
    /* What is unacknowledged is known to one context only. */
    int rc = seal_flush(c, err);
    if (rc)
        return rc;
    struct skv_context *f = calloc(1, sizeof *f);
    if (!f)
        return skv_fail(err, -ENOMEM, "out of memory");
    f->tier = c->tier;
    f->shape = shape_ref(c->shape);
    f->opts = c->opts;
    rc = plan_calibration(f, &c->opts, err);
    if (rc == 0)
        rc = plan_budget(f, err);
    if (rc) {
        skv_context_close(f);
        return rc;
    }
    f->needs = c->needs;
    f->received = c->received ? received_copy(c->shape, c->received) : NULL;
    f->turn = c->turn ? turn_copy(c->shape, c->turn) : NULL;
    f->hints = c->hints ? hints_copy(f, c->hints) : NULL;
    f->salted = c->salted;
    f->recipe = c->recipe ? strdup(c->recipe) : NULL;
    f->saved_as = c->saved_as ? strdup(c->saved_as) : NULL; /* it needs the leases as much */
    f->renew_at = c->renew_at;
    f->renew_every_ns = c->renew_every_ns;
    memcpy(f->root, c->root, sizeof f->root);
    f->cache = cache_new(c->shape->max_page_bytes, c->opts.cache_bytes);
    f->layer_put = calloc(c->shape->n_layers, 1);
    f->protect = calloc(c->n_protect + 1, sizeof *f->protect);
    f->spans = calloc(c->n_spans + 1, sizeof *f->spans);
    f->local = calloc(c->n_local + 1, sizeof *f->local);
    f->tags = c->tags ? malloc(1) : NULL; /* says that this context has tags */
    if ((c->received && !f->received) || (c->turn && !f->turn) || (c->hints && !f->hints) ||
        (c->recipe && !f->recipe) || (c->saved_as && !f->saved_as) || !f->cache || !f->layer_put ||
        !f->protect || !f->spans || !f->local || context_grow_tokens(f, c->len + 1) ||
        passes_reserve(f, c->n_passes))
        goto no_memory;
    memcpy(f->protect, c->protect, c->n_protect * sizeof *f->protect);
    f->n_protect = c->n_protect;
    memcpy(f->ids, c->ids, c->len * sizeof *f->ids);
    if (c->n_passes)
        memcpy(f->passes, c->passes, c->n_passes * sizeof *f->passes);
    f->n_passes = c->n_passes;
    if (c->tags)
        memcpy(f->tags, c->tags, c->len * SKV_TAG);
    f->local_cap = c->n_local + 1;
    f->spans_cap = c->n_spans + 1;
    for (; f->n_spans < c->n_spans; f->n_spans++)
        f->spans[f->n_spans] = span_ref(c->spans[f->n_spans]);
    for (; f->n_local < c->n_local; f->n_local++)
        if (local_block_share(c->shape, &c->local[f->n_local], &f->local[f->n_local]))
            goto no_memory;
    f->rounded_to = c->rounded_to;
    f->len = c->len;
    f->sealed = c->sealed;
    f->pass_from = c->len;
    context_set_eligible(f);
    if (f->sealed && !f->eligible)
        goto no_memory;
    *out = f;
    return 0;
no_memory:
    skv_context_close(f);
    return skv_fail(err, -ENOMEM, "out of memory");
}

int skv_context_configure(skv_context *c, const struct skv_select *decode, uint64_t bytes,
                          struct skv_error *err)
{
    int rc = recipe_check_select(decode, "decode", err);
    if (rc)
        return rc;
    struct cache *cache = cache_new(c->shape->max_page_bytes, bytes);
    if (!cache)
        return skv_fail(err, -ENOMEM, "out of memory");
    cache_free(c->cache);
    c->cache = cache;
    c->opts.decode = *decode;
    c->opts.cache_bytes = bytes;
    rc = plan_budget(c, err);
    return rc ? rc : set_needs(c, err);
}

bool context_page_protected(const struct skv_context *c, uint64_t page)
{
    size_t lo = 0, hi = c->n_protect;
    while (lo < hi) { /* the first range that ends behind page */
        size_t mid = (lo + hi) / 2;
        if (c->protect[mid].to > page)
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo < c->n_protect && c->protect[lo].from <= page;
}

void context_set_eligible(struct skv_context *c)
{
    uint64_t n = context_sealed_pages(c);
    size_t words = n / 64 + 1;
    if (words > c->eligible_words) {
        size_t cap = words + words / 4 + 64;
        uint64_t *e = realloc(c->eligible, cap * sizeof *e);
        if (!e) { /* the caller sees it as NULL; without it nothing can be selected */
            free(c->eligible);
            c->eligible = NULL;
            c->eligible_words = 0;
            return;
        }
        c->eligible = e;
        c->eligible_words = cap;
    }
    memset(c->eligible, 0xff, words * sizeof *c->eligible);
    for (size_t i = 0; i < c->n_protect; i++)
        for (uint64_t p = c->protect[i].from; p < c->protect[i].to && p < words * 64; p++)
            c->eligible[p / 64] &= ~(1ull << (p % 64));
}

static const uint8_t *page_in(const struct block_layout *lay, const struct buf *kv, unsigned head,
                              uint64_t page)
{
    return kv->data + (head * BLOCK_PAGES + page % BLOCK_PAGES) * layout_page_bytes(lay);
}

const uint8_t *context_held_page(const struct skv_context *c, unsigned layer, unsigned head, uint64_t page)
{
    uint64_t block = page / BLOCK_PAGES;
    const struct buf *kv = NULL;
    if (block >= c->sealed) {
        kv = c->local[block - c->sealed].rest[layer];
    } else {
        for (struct pending_block *p = c->pending; p && !kv; p = p->next)
            if (p->block == block)
                kv = p->kv[layer];
        if (!kv)
            return NULL;
    }
    return page_in(&c->shape->layouts[layer], kv, head, page);
}

struct kv_page context_local_page(const struct skv_context *c, unsigned layer, unsigned head, uint64_t page,
                                  uint64_t n)
{
    const struct local_block *b = &c->local[page / BLOCK_PAGES - c->sealed];
    const struct block_layout *put = &c->shape->put[layer], *rest = &c->shape->layouts[layer];
    return n < PAGE_TOKENS ? (struct kv_page){page_in(put, b->put[layer], head, page), put}
                           : (struct kv_page){page_in(rest, b->rest[layer], head, page), rest};
}

void context_block_key(const struct skv_context *c, unsigned layer, uint64_t block, struct block_key *out)
{
    out->ns = c->tier->ns;
    memcpy(out->chain, context_chain(c, block), CHAIN_BYTES);
    out->layer = layer;
}

int context_pass_complete(const struct skv_context *c, struct skv_error *err)
{
    for (unsigned l = 0; c->pass_n && l < c->shape->n_layers; l++)
        if (!c->layer_put[l])
            return skv_fail(
                err, -EINVAL,
                "layer %u got no K/V for tokens %llu to %llu: put every layer, or truncate to %llu", l,
                (unsigned long long)c->pass_from, (unsigned long long)(c->pass_from + c->pass_n - 1),
                (unsigned long long)c->pass_from);
    return 0;
}

int skv_append(skv_context *c, enum skv_mode mode, uint32_t n, const uint32_t *ids, const uint8_t *tags,
               struct skv_error *err)
{
    if (n == 0 || n > MAX_PASS || (!ids && !tags))
        return skv_fail(err, -EINVAL, "append: %u tokens: 1 to %d, with ids or tags", n, MAX_PASS);
    if (c->len + n > MAX_TOKENS)
        return skv_fail(err, -EINVAL, "append: the context would pass %llu tokens", MAX_TOKENS);
    int rc = context_pass_complete(c, err);
    if (rc)
        return rc;
    rc = seal_behind_head(c, err);
    if (rc)
        return rc;
    saved_keep(c);
    if (c->hints)
        hints_tell(c, n);
    if (tags && !c->tags) {
        if (c->len)
            return skv_fail(err, -EINVAL, "append: this context began with ids: tags can't follow");
        c->tags = malloc((c->tokens_cap + 1) * SKV_TAG);
        if (!c->tags)
            return skv_fail(err, -ENOMEM, "out of memory");
    }
    if (c->tags && !tags)
        return skv_fail(err, -EINVAL, "append: this context began with tags: ids alone can't follow");
    if (context_grow_tokens(c, c->len + n) ||
        passes_reserve(c, c->n_passes + 2)) /* and one if the pass degrades */
        return skv_fail(err, -ENOMEM, "out of memory");
    while ((c->sealed + c->n_local) * BLOCK_TOKENS < c->len + n)
        if (context_grow_local(c))
            return skv_fail(err, -ENOMEM, "out of memory");
    if (c->turn && turn_begin(c->turn, c->len, n, mode == SKV_PREFILL))
        return skv_fail(err, -ENOMEM, "out of memory");
    for (uint32_t i = 0; i < n; i++)
        c->ids[c->len + i] = ids ? ids[i] : 0;
    if (tags)
        memcpy(c->tags + c->len * SKV_TAG, tags, (size_t)n * SKV_TAG);
    passes_add(c, mode, n);
    if (c->received)
        received_begin(c->received, c->len, mode == SKV_PREFILL);
    c->pass_from = c->len;
    c->pass_ns = c->opts.step_deadline_ms ? clock_ns() : 0;
    c->pass_n = n;
    c->mode = mode;
    memset(c->layer_put, 0, c->shape->n_layers);
    c->len += n;
    c->stats.tokens += n;
    return 0;
}

/* Writes one token's K and V of one head into its page. */
static void store_row(const struct kernels *k, unsigned dtype, uint8_t *at, unsigned d, const float *x)
{
    if (dtype == SKV_F16)
        k->f32_to_f16(d, x, (uint16_t *)at);
    else
        memcpy(at, x, d * sizeof *x);
}

/* Makes it ours alone: it may be shared with a fork or the queue of PUTs. -ENOMEM. */
static int own_buf(struct buf **b)
{
    if (atomic_load(&(*b)->refs) == 1)
        return 0;
    struct buf *own = buf_copy((*b)->data, (*b)->len);
    if (!own)
        return -ENOMEM;
    buf_unref(*b);
    *b = own;
    return 0;
}

struct packing {
    const struct skv_context *c;
    unsigned layer;
    uint64_t from; /* page */
};

static void pack_one(void *arg, unsigned part)
{
    const struct packing *p = arg;
    const struct skv_context *c = p->c;
    const struct block_layout *lay = &c->shape->layouts[p->layer];
    uint64_t page = p->from + part / lay->n_heads;
    unsigned head = part % lay->n_heads;
    uint8_t *rest = c->local[page / BLOCK_PAGES - c->sealed].rest[p->layer]->data;
    page_pack(c->tier->k, context_local_page(c, p->layer, head, page, 0), lay,
              rest + (head * BLOCK_PAGES + page % BLOCK_PAGES) * layout_page_bytes(lay));
}

/* Pages that this pass has filled: as they will be at rest, and are attended to from now on. */
static int pack_filled(struct skv_context *c, uint32_t layer)
{
    struct packing p = {.c = c, .layer = layer, .from = c->pass_from / PAGE_TOKENS};
    uint64_t end = c->len / PAGE_TOKENS;
    for (uint64_t page = p.from; page < end; page++)
        if (own_buf(&c->local[page / BLOCK_PAGES - c->sealed].rest[layer]))
            return -ENOMEM;
    if (end > p.from)
        pool_run(c->tier->pool, (unsigned)(end - p.from) * c->shape->layouts[layer].n_heads, pack_one, &p);
    return 0;
}

int skv_put(skv_context *c, uint32_t layer, const float *k, const float *v, struct skv_error *err)
{
    if (layer >= c->shape->n_layers || c->pass_n == 0)
        return skv_fail(err, -EINVAL, "put: layer %u of %u, pass of %u tokens", layer, c->shape->n_layers,
                        c->pass_n);
    const struct skv_layer *y = &c->shape->layers[layer];
    const struct block_layout *lay = &c->shape->put[layer];
    size_t page_bytes = layout_page_bytes(lay), es = lay->dtype == SKV_F32 ? 4 : 2;
    for (uint32_t i = 0; i < c->pass_n; i++) {
        uint64_t t = c->pass_from + i;
        struct buf **put = &c->local[t / BLOCK_TOKENS - c->sealed].put[layer];
        if (own_buf(put))
            return skv_fail(err, -ENOMEM, "out of memory");
        unsigned in_block = t % BLOCK_TOKENS, row = in_block % PAGE_TOKENS;
        for (unsigned h = 0; h < y->n_kv_heads; h++) {
            uint8_t *page = (*put)->data + (h * BLOCK_PAGES + in_block / PAGE_TOKENS) * page_bytes;
            store_row(c->tier->k, lay->dtype, page + row * y->d_k * es, y->d_k,
                      k + ((size_t)i * y->n_kv_heads + h) * y->d_k);
            store_row(c->tier->k, lay->dtype, page + (PAGE_TOKENS * y->d_k + row * y->d_v) * es, y->d_v,
                      v + ((size_t)i * y->n_kv_heads + h) * y->d_v);
        }
    }
    if (c->shape->packed && pack_filled(c, layer))
        return skv_fail(err, -ENOMEM, "out of memory");
    c->layer_put[layer] = 1;
    return 0;
}

/* Brings sealed blocks [from, to) back as local ones: their bytes come from the tier. */
struct unseal {
    struct skv_context *c;
    struct local_block *blocks;
    uint64_t from;
    unsigned layer;
    const struct tier_want *wants;
    const uint32_t *want_block;
};

static void on_unseal_page(void *arg, size_t want, int rc, const uint8_t *bytes)
{
    struct unseal *u = arg;
    const struct tier_want *w = &u->wants[want];
    if (rc) {
        lost_add(u->c, u->from + u->want_block[want], u->layer);
        return;
    }
    size_t len = layout_page_bytes(&u->c->shape->layouts[u->layer]);
    struct local_block *b = &u->blocks[u->want_block[want]];
    uint64_t at = w->head * BLOCK_PAGES + w->page;
    memcpy(b->rest[u->layer]->data + at * len, bytes, len);
    const struct block_layout *put = &u->c->shape->put[u->layer], *rest = &u->c->shape->layouts[u->layer];
    if (u->c->shape->packed)
        page_unpack(u->c->tier->k, (struct kv_page){bytes, rest}, put,
                    b->put[u->layer]->data + at * layout_page_bytes(put));
}

static int unseal_layer(struct unseal *u, uint64_t n_blocks, struct skv_error *err)
{
    struct skv_context *c = u->c;
    unsigned n_heads = c->shape->layouts[u->layer].n_heads;
    size_t n = n_blocks * n_heads * BLOCK_PAGES, at = 0;
    struct block_key *keys = calloc(n_blocks, sizeof *keys);
    struct tier_want *wants = calloc(n, sizeof *wants);
    uint32_t *want_block = calloc(n, sizeof *want_block);
    int rc = -ENOMEM;
    if (!keys || !wants || !want_block) {
        skv_fail(err, rc, "out of memory");
        goto done;
    }
    for (uint64_t b = 0; b < n_blocks; b++) {
        context_block_key(c, u->layer, u->from + b, &keys[b]);
        for (unsigned h = 0; h < n_heads; h++) {
            const uint64_t *sums = span_checksums(c->shape, context_span(c, u->from + b), u->layer, h);
            for (unsigned p = 0; p < BLOCK_PAGES; p++, at++) {
                wants[at] =
                    (struct tier_want){.key = &keys[b],
                                       .head = (uint16_t)h,
                                       .page = (uint8_t)p,
                                       .checksum = sums[(u->from + b) % SPAN_BLOCKS * BLOCK_PAGES + p]};
                want_block[at] = (uint32_t)b;
            }
        }
    }
    u->wants = wants;
    u->want_block = want_block;
    struct tier_fetch *fetch;
    rc = tier_fetch_begin(c->tier->tier, &c->shape->layouts[u->layer], wants, n, on_unseal_page, u, &fetch,
                          err);
    if (rc == 0)
        rc = tier_fetch_end(c->tier->tier, fetch, err);
done:
    free(keys);
    free(wants);
    free(want_block);
    return rc;
}

/* The local blocks [target, sealed) that a straight run to length n would still hold. */
static int unseal(struct skv_context *c, uint64_t target, uint64_t n, struct skv_error *err)
{
    int rc = seal_flush(c, err);
    if (rc)
        return rc;
    c->lost.n = 0;
    uint64_t to = (n + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
    if (to > c->sealed)
        to = c->sealed;
    uint64_t n_back = to > target ? to - target : 0;
    /* Built apart, and swapped in when complete: a failure leaves the context as it was. */
    struct skv_context fresh = {.shape = c->shape};
    for (uint64_t i = 0; i < n_back; i++)
        if (context_grow_local(&fresh)) {
            rc = skv_fail(err, -ENOMEM, "out of memory");
            goto error;
        }
    size_t cap = n_back + c->n_local + 1;
    struct local_block *local = realloc(fresh.local, cap * sizeof *local);
    if (!local) {
        rc = skv_fail(err, -ENOMEM, "out of memory");
        goto error;
    }
    fresh.local = local;
    fresh.local_cap = cap;
    struct unseal u = {.c = c, .blocks = fresh.local, .from = target};
    for (u.layer = 0; n_back && u.layer < c->shape->n_layers; u.layer++) {
        rc = unseal_layer(&u, n_back, err);
        if (rc)
            goto error;
    }
    size_t n_spans = (target + SPAN_BLOCKS - 1) / SPAN_BLOCKS;
    if (target % SPAN_BLOCKS) {
        struct span *own = span_own(c->shape, c->spans[n_spans - 1]);
        if (!own) {
            rc = skv_fail(err, -ENOMEM, "out of memory");
            goto error;
        }
        c->spans[n_spans - 1] = own;
        if (target % SPAN_BLOCKS < own->n_blocks)
            span_truncate(c->shape, own, target % SPAN_BLOCKS);
    }
    while (c->n_spans > n_spans)
        span_unref(c->spans[--c->n_spans]);
    /* Local blocks that stay follow those that came back. */
    if (c->n_local)
        memcpy(fresh.local + n_back, c->local, c->n_local * sizeof *c->local);
    fresh.n_local += c->n_local;
    free(c->local);
    c->local = fresh.local;
    c->n_local = fresh.n_local;
    c->local_cap = fresh.local_cap;
    if (c->shape->packed && c->rounded_to < to * BLOCK_TOKENS)
        c->rounded_to = to * BLOCK_TOKENS;
    c->sealed = target;
    cache_drop_from(c->cache, context_sealed_pages(c));
    if (c->hints)
        hints_truncate(c->hints, c->sealed);
    context_set_eligible(c);
    return 0;
error:
    local_clear(&fresh, 0);
    free(fresh.local);
    return rc;
}

int skv_truncate(skv_context *c, uint64_t n, struct skv_error *err)
{
    if (n > c->len)
        return skv_fail(err, -EINVAL, "truncate to %llu: the context holds %llu tokens",
                        (unsigned long long)n, (unsigned long long)c->len);
    /* The straight run sealed at its last append, which was of one token at least: at length n it may not
     * have sealed yet what n allows, and will at its next append, as this context will. */
    uint64_t target = seal_target(c, n);
    if (passes_reserve(c, c->n_passes + 1))
        return skv_fail(err, -ENOMEM, "out of memory");
    if (target < c->sealed) {
        int rc = unseal(c, target, n, err);
        if (rc)
            return rc;
    }
    uint64_t n_local = (n + BLOCK_TOKENS - 1) / BLOCK_TOKENS - c->sealed;
    if (n_local < c->n_local)
        local_clear(c, n_local);
    passes_truncate(c, n);
    if (n % PAGE_TOKENS && n < c->rounded_to)
        passes_round(c, n - n % PAGE_TOKENS);
    if (c->rounded_to > n)
        c->rounded_to = n;
    if (c->received)
        received_truncate(c->received, n);
    if (c->turn)
        turn_truncate(c->turn, n);
    c->len = n;
    c->pass_from = n;
    c->pass_n = 0;
    return 0;
}

uint64_t skv_length(const skv_context *c)
{
    return c->len;
}

int skv_tokens(const skv_context *c, uint64_t from, size_t n, uint32_t *ids)
{
    if (from > c->len || n > c->len - from)
        return -EINVAL;
    memcpy(ids, c->ids + from, n * sizeof *ids);
    return 0;
}

int skv_flush(skv_context *c, struct skv_error *err)
{
    return seal_flush(c, err);
}

void skv_context_stats(const skv_context *c, struct skv_stats *out)
{
    *out = c->stats;
    uint64_t pages = context_sealed_pages(c);
    uint64_t n_pending = 0;
    for (const struct pending_block *p = c->pending; p; p = p->next)
        n_pending++;
    out->window_bytes =
        (c->n_local * c->shape->local_bytes + n_pending * c->shape->token_bytes) * BLOCK_TOKENS;
    out->representative_bytes = pages * c->shape->page_index_bytes + c->sealed * CHAIN_BYTES;
    if (c->received)
        out->representative_bytes += received_bytes(c->received);
    for (unsigned i = 0; i < INDEX_PARTS; i++)
        if (c->needs >> i & 1)
            out->representative_bytes += c->n_spans * c->shape->part_bytes[i];
    out->cache_bytes = cache_bytes(c->cache);
    out->context_bytes = c->len * c->shape->token_bytes;
}

void skv_context_in_series(skv_context *c, bool in_series)
{
    c->in_series = in_series;
}

void skv_context_stats_reset(skv_context *c)
{
    uint64_t sealed = c->stats.blocks_sealed, adopted = c->stats.blocks_adopted;
    uint64_t hinted = c->stats.blocks_hinted;
    c->stats =
        (struct skv_stats){.blocks_sealed = sealed, .blocks_adopted = adopted, .blocks_hinted = hinted};
}
