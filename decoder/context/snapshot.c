/* snapshot.c: a context becomes objects on the tier, and a context again.
 *
 *   manifest NAME        what it is (manifest.h)
 *   sidecars part/ID/I   its state in pieces of at most 1 MiB: chain, passes, ids, tags, unsealed K/V,
 * history sidecars index4/…    the index of its sealed blocks (span_store.c), shared by contexts with its
 * prefix
 *
 * The manifest goes last: a saved context is there whole or not at all. Parts are named by a random number
 * and belong to one save; their hashes, in the manifest, are checked on the way back.
 *
 * A save also stores and indexes the full blocks of the unsealed tail, as far as they came from prefill: the
 * context itself gets its tail back from the parts, but others can begin with all of its text (prefix.c). */
#include "decoder/context/saved.h"
#include "decoder/context/span_store.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SAVE_TRIES = 8 }; /* while others save under the same name */

/* ---- the state: one run of bytes, written and read by the same walk ---- */

struct walk {
    uint8_t *at;
    size_t left;
    bool reading;
};

static bool walk_bytes(struct walk *w, void *bytes, size_t n)
{
    if (n > w->left)
        return false;
    if (n == 0)
        return true;
    if (w->reading)
        memcpy(bytes, w->at, n);
    else
        memcpy(w->at, bytes, n);
    w->at += n;
    w->left -= n;
    return true;
}

/* indexed: has the index of all blocks that the chain is kept of: c, or the fork that sealed more. */
static bool walk_state(struct skv_context *c, struct skv_context *indexed, struct walk *w)
{
    bool ok = true;
    for (uint64_t b = 0; ok && b < indexed->sealed; b++)
        ok = walk_bytes(w, context_span(indexed, b)->chain[b % SPAN_BLOCKS], CHAIN_BYTES);
    ok = ok && walk_bytes(w, c->passes, c->n_passes * sizeof *c->passes) &&
         walk_bytes(w, c->ids, c->len * sizeof *c->ids);
    if (ok && c->tags)
        ok = walk_bytes(w, c->tags, c->len * SKV_TAG);
    for (size_t i = 0; ok && i < c->n_local; i++)
        for (unsigned l = 0; ok && l < c->shape->n_layers; l++) {
            const struct buf *put = c->local[i].put[l], *rest = c->local[i].rest[l];
            ok = walk_bytes(w, (void *)put->data, put->len) &&
                 (!c->shape->packed || walk_bytes(w, (void *)rest->data, rest->len));
        }
    return ok;
}

/* ---- saving ---- */

/* A fork that has sealed every full block of prefill's: *out, to be closed; c itself when there are no more.
 */
static int seal_more(struct skv_context *c, struct skv_context **out, struct skv_error *err)
{
    uint64_t full = passes_prefilled(c) / BLOCK_TOKENS;
    *out = c;
    if (full <= c->sealed)
        return 0;
    int rc = skv_context_fork(c, out, err);
    if (rc) {
        *out = c;
        return rc;
    }
    rc = seal_to(*out, full, err);
    return rc ? rc : seal_flush(*out, err);
}

static int describe(const struct skv_context *c, const struct skv_context *indexed,
                    const struct skv_save_opts *so, struct manifest *m, struct skv_error *err)
{
    const struct shape *s = c->shape;
    *m = (struct manifest){.opts = c->opts, .n_layers = s->n_layers, .engine_bytes = so->engine_bytes};
    struct manifest_head *h = &m->head;
    h->flags = (c->tags ? MANIFEST_TAGS : 0) | (c->salted ? MANIFEST_SALTED : 0) | MANIFEST_PINNED;
    memcpy(h->root, c->root, sizeof h->root);
    memcpy(h->fingerprint, s->fingerprint, sizeof h->fingerprint);
    randombytes_buf(h->part_id, sizeof h->part_id);
    h->len = c->len;
    h->sealed = c->sealed;
    h->indexed = indexed->sealed;
    h->n_passes = c->n_passes;
    h->token_bytes = s->token_bytes;
    m->turn_bytes = c->turn ? turn_save(c->turn, NULL) : 0;
    h->received_bytes = (c->received ? received_save(c->received, NULL) : 0) + m->turn_bytes;
    m->local_bytes = s->local_bytes;
    m->rounded_to = c->rounded_to;
    h->state_bytes = manifest_state_bytes(m);
    h->ttl_ms = so->ttl_ms ? so->ttl_ms : SKV_TTL_MS;
    snprintf(m->isa, sizeof m->isa, "%s", c->tier->k->name);
    snprintf(m->model, sizeof m->model, "%s", so->model ? so->model : "");
    m->recipe = c->recipe ? strdup(c->recipe) : NULL;
    m->layers = malloc(s->n_layers * sizeof *m->layers);
    m->protect = calloc(c->n_protect + 1, sizeof *m->protect);
    m->engine = malloc(so->engine_bytes + 1);
    if ((c->recipe && !m->recipe) || !m->layers || !m->protect || !m->engine)
        return skv_fail(err, -ENOMEM, "out of memory");
    memcpy(m->layers, s->layers, s->n_layers * sizeof *m->layers);
    if (so->engine_bytes)
        memcpy(m->engine, so->engine, so->engine_bytes);
    for (size_t i = 0; i < c->n_protect; i++)
        m->protect[i] = (struct skv_range){c->protect[i].from * PAGE_TOKENS, c->protect[i].to * PAGE_TOKENS};
    m->opts.n_protect = c->n_protect;
    return 0;
}

static int put_index(struct skv_context *indexed, const struct tier_object_opts *o, struct skv_error *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < indexed->n_spans; i++)
        rc = span_put(indexed->tier, indexed->shape, indexed->spans[i], &indexed->index, o, err);
    for (size_t i = 0; rc == 0 && i < indexed->n_passes && indexed->passes[i].n; i++) {
        uint64_t next = i + 1 < indexed->n_passes ? indexed->passes[i + 1].from : indexed->len;
        if (!pass_ends_within_span(&indexed->passes[i], next, indexed->sealed))
            continue;
        uint64_t last = next / BLOCK_TOKENS - 1;
        rc = span_place_put(indexed->tier, context_span(indexed, last), last % SPAN_BLOCKS, &indexed->index,
                            o, err);
    }
    return rc;
}

/* Everything but the manifest. */
static int store_all(struct skv_context *c, struct skv_context *indexed, struct manifest *m, const char *name,
                     struct skv_error *err)
{
    struct tier_object_opts o = {.ttl_ms = sidecar_ttl(m->head.ttl_ms), .durable = m->opts.durable};
    m->head.renewed_ms = wall_ms();
    m->head.sidecars_until_ms = m->head.renewed_ms + o.ttl_ms;
    uint8_t *state = malloc(m->head.state_bytes + 1);
    if (!state)
        return skv_fail(err, -ENOMEM, "out of memory");
    struct walk w = {.at = state, .left = m->head.state_bytes};
    bool ok = walk_state(c, indexed, &w);
    assert(ok && w.left == m->head.received_bytes);
    (void)ok;
    if (c->received)
        received_save(c->received, w.at);
    if (c->turn)
        turn_save(c->turn, w.at + w.left - m->turn_bytes);
    int rc = manifest_write_state(c->tier, m, state, err);
    if (rc == 0)
        rc = put_index(indexed, &o, err);
    if (rc == 0)
        rc = saved_lease(c->tier, m, name, state, err); /* begins with the chain */
    free(state);
    return rc;
}

/* Puts the manifest in place of the one that is there now, and drops what only that one needed. */
static int replace(struct skv_tier *t, const char *name, struct manifest *m, struct skv_error *err)
{
    int rc = -EEXIST;
    for (int tries = 0; rc == -EEXIST && tries < SAVE_TRIES; tries++) {
        struct manifest old;
        rc = manifest_read(t, name, &old, err);
        /* One that can't be read is replaced like any other; what it needed ends by itself. */
        bool readable = rc == 0;
        if (readable || rc == -ENOENT || rc == -EBADMSG || rc == -EPROTONOSUPPORT) {
            m->revision = old.revision;
            m->head.updated_ms = wall_ms();
            m->head.created_ms = readable ? old.head.created_ms : m->head.updated_ms;
            rc = manifest_write(t, name, m, err);
            if (rc == 0 && readable)
                manifest_drop_state(t, &old, name);
        }
        manifest_free(&old);
    }
    return rc;
}

static int check_save(const char *name, const struct skv_save_opts *o, struct skv_error *err)
{
    int rc = manifest_check_name(name, err);
    if (rc)
        return rc;
    if (o->engine_bytes > SKV_ENGINE_MAX)
        return skv_fail(err, -EINVAL, "the engine's state has %zu bytes; at most %d are saved",
                        o->engine_bytes, SKV_ENGINE_MAX);
    if (o->model && strlen(o->model) > SKV_MODEL_NAME_MAX)
        return skv_fail(err, -EINVAL, "the model's name has %zu bytes; at most %d are saved",
                        strlen(o->model), SKV_MODEL_NAME_MAX);
    return saved_check_ttl(o->ttl_ms, err);
}

int skv_context_snapshot(skv_context *c, const char *name, const struct skv_save_opts *o,
                         struct skv_error *err)
{
    static const struct skv_save_opts defaults;
    struct skv_context *indexed = c;
    struct manifest m = {0};
    int rc = check_save(name, o ? o : &defaults, err);
    if (rc == 0)
        rc = context_pass_complete(c, err);
    if (rc == 0)
        rc = seal_flush(c, err);
    if (rc)
        return rc;
    rc = seal_more(c, &indexed, err);
    if (rc == 0)
        rc = describe(c, indexed, o ? o : &defaults, &m, err);
    if (rc == 0) {
        rc = store_all(c, indexed, &m, name, err);
        if (rc == 0)
            rc = replace(c->tier, name, &m, err);
        if (rc == 0)
            rc = saved_adopt(c, name, m.head.ttl_ms);
        else
            manifest_drop_state(c->tier, &m, name);
    }
    manifest_free(&m);
    if (indexed != c)
        skv_context_close(indexed);
    return rc;
}

/* ---- resuming ---- */

/* Gives an empty context room for what the state holds. */
static int make_room(struct skv_context *c, const struct manifest_head *m)
{
    if (context_grow_tokens(c, m->len + 1) || passes_reserve(c, m->n_passes))
        return -ENOMEM;
    if (m->flags & MANIFEST_TAGS && !(c->tags = malloc(c->tokens_cap * SKV_TAG)))
        return -ENOMEM;
    int rc = context_make_spans(c, m->indexed);
    if (rc)
        return rc;
    c->n_passes = m->n_passes;
    c->len = m->len;
    c->sealed = m->sealed;
    while ((c->sealed + c->n_local) * BLOCK_TOKENS < c->len)
        if (context_grow_local(c))
            return -ENOMEM;
    return 0;
}

static bool passes_make_sense(const struct skv_context *c)
{
    if (c->n_passes == 0 || c->passes[0].from != 0)
        return c->len == 0 && c->n_passes == 0;
    for (size_t i = 1; i < c->n_passes; i++)
        if (c->passes[i].from <= c->passes[i - 1].from)
            return false;
    return c->passes[c->n_passes - 1].from < c->len;
}

/* The index of blocks from `sealed` on, which others may begin with, is not this context's. */
static int forget_spans_behind(struct skv_context *c)
{
    size_t n = (c->sealed + SPAN_BLOCKS - 1) / SPAN_BLOCKS;
    while (c->n_spans > n)
        span_unref(c->spans[--c->n_spans]);
    if (c->sealed % SPAN_BLOCKS)
        span_truncate(c->shape, c->spans[n - 1], c->sealed % SPAN_BLOCKS);
    context_set_eligible(c);
    return c->sealed && !c->eligible ? -ENOMEM : 0;
}

/* What pages received, and behind it where queries looked; false: it makes no sense. */
static bool load_history(struct skv_context *c, const struct manifest *m, const uint8_t *at)
{
    size_t received = m->head.received_bytes - m->turn_bytes;
    if (received) {
        received_free(c->received);
        if (!(c->received = received_load(c->shape, c->len, at, received)))
            return false;
    }
    if (m->turn_bytes) {
        turn_free(c->turn);
        if (!(c->turn = turn_load(c->shape, c->len, at + received, m->turn_bytes)))
            return false;
    }
    return true;
}

static int restore(struct skv_context *c, const struct manifest *m, const char *name, struct skv_error *err)
{
    const struct manifest_head *h = &m->head;
    if (h->token_bytes != c->shape->token_bytes || m->local_bytes != c->shape->local_bytes)
        return skv_fail(err, -EBADMSG, "saved context \"%s\" is damaged: its sizes disagree", name);
    uint8_t *state = malloc(h->state_bytes + 1);
    if (!state || make_room(c, h)) {
        free(state);
        return skv_fail(err, -ENOMEM, "out of memory");
    }
    int rc = manifest_read_state(c->tier, m, h->state_bytes, state, err);
    if (rc == 0) {
        struct walk w = {.at = state, .left = h->state_bytes, .reading = true};
        uint64_t sealed = c->sealed;
        c->sealed = h->indexed; /* the chain is that of all */
        bool ok = walk_state(c, c, &w) && w.left == h->received_bytes;
        c->sealed = sealed;
        ok = ok && load_history(c, m, w.at);
        if (!ok || !passes_make_sense(c))
            rc = skv_fail(err, -EBADMSG, "saved context \"%s\" is damaged: its state makes no sense", name);
    }
    free(state);
    struct index_kind kind = index_kind_of(&m->opts);
    if (rc == 0)
        rc = spans_get(c->tier, c->shape, c->spans, c->n_spans, &kind, NULL, err);
    if (rc == 0 && forget_spans_behind(c))
        rc = skv_fail(err, -ENOMEM, "out of memory");
    if (rc == 0)
        rc = parts_require(c, err);
    c->pass_from = c->len;
    c->rounded_to = m->rounded_to;
    return rc;
}

static const char *select_difference(const struct skv_select *a, const struct skv_select *b)
{
    return a->policy != b->policy                                          ? "prefill policy"
           : a->budget != b->budget                                        ? "prefill budget"
           : a->unit != b->unit                                            ? "selection unit"
           : a->mass != b->mass                                            ? "prefill mass"
           : a->given != b->given || memcmp(a->opt, b->opt, sizeof a->opt) ? "prefill policy's options"
                                                                           : NULL;
}

/* Says what the caller's options would have made different. */
static int other_options(const struct skv_context *c, const struct skv_context_opts *o,
                         const struct manifest *m, const char *name, struct skv_error *err)
{
    const struct skv_context_opts *was = &m->opts;
    const char *what = select_difference(&was->prefill, &o->prefill);
    char text[120] = "";
    if (memcmp(m->head.fingerprint, c->shape->fingerprint, SKV_FINGERPRINT) != 0)
        return skv_fail(err, -EINVAL, "context \"%s\" was saved with another model%s%s", name,
                        m->model[0] ? ": " : "", m->model);
    if (strcmp(m->isa, c->tier->k->name) != 0)
        return skv_fail(err, -EINVAL,
                        "context \"%s\" was saved with kernels \"%s\", and here \"%s\" run: pin them with "
                        "SKV_ISA, or pick a machine that has them",
                        name, m->isa, c->tier->k->name);
    if (was->dtype != o->dtype) {
        what = NULL;
        snprintf(text, sizeof text, "KV dtype, %s and not %s", skv_dtype_name(was->dtype),
                 skv_dtype_name(o->dtype));
    } else if (was->window != o->window)
        snprintf(text, sizeof text, "window, %u tokens and not %u", was->window, o->window);
    else if (was->seal_lag != c->opts.seal_lag)
        snprintf(text, sizeof text, "seal lag, %u tokens and not %u", was->seal_lag, c->opts.seal_lag);
    else if (!what && strcmp(m->recipe ? m->recipe : "", c->recipe ? c->recipe : "") != 0)
        snprintf(text, sizeof text, "recipe, \"%.40s\" and not \"%.40s\"", m->recipe ? m->recipe : "",
                 c->recipe ? c->recipe : "");
    else if (!what)
        what = m->head.flags & MANIFEST_SALTED || c->salted ? "salt, or its protected ranges"
                                                            : "protected ranges, or the model's shape";
    return skv_fail(err, -EINVAL, "context \"%s\" was saved with other options: its %s. Leave them out", name,
                    what ? what : text);
}

int skv_context_reopen(skv_tier *t, const struct skv_model *model, const struct skv_context_opts *o,
                       const char *name, skv_context **out, struct skv_error *err)
{
    struct shape *shape = NULL;
    struct skv_context *c = NULL;
    struct manifest m;
    int rc = manifest_read(t, name, &m, err);
    if (rc == 0 && !o && m.head.flags & MANIFEST_SALTED)
        rc = skv_fail(err, -EINVAL, "context \"%s\" was saved with a salt: give its options, and the salt",
                      name);
    if (rc == 0)
        rc = shape_new(model, o ? o : &m.opts, &shape, err);
    if (rc == 0)
        rc = context_new(t, shape, o ? o : &m.opts, &c, err);
    shape_unref(shape);
    if (rc == 0 && memcmp(m.head.root, c->root, sizeof c->root) != 0)
        rc = other_options(c, o ? o : &m.opts, &m, name, err);
    if (rc == 0 && strcmp(index_kind_of(&m.opts).tag, c->index.tag) != 0)
        rc = skv_fail(err, -EINVAL,
                      "context \"%s\" was saved with another calibration or other representatives, which its "
                      "index depends on: leave them out",
                      name);
    if (rc == 0 && o && o->durable && !m.opts.durable)
        rc =
            skv_fail(err, -EINVAL,
                     "context \"%s\" was saved without durable blocks: some may be in RAM only, and can't be "
                     "told from those that are on disk",
                     name);
    if (rc == 0)
        rc = restore(c, &m, name, err);
    if (rc == 0 && m.head.flags & MANIFEST_PINNED && saved_adopt(c, name, m.head.ttl_ms))
        rc = skv_fail(err, -ENOMEM, "out of memory");
    manifest_free(&m);
    if (rc) {
        skv_context_close(c);
        return rc;
    }
    *out = c;
    return 0;
}
