/* snapshot.c: a context as objects on the tier, and back.
 *
 *   manifest NAME          struct manifest, then the BLAKE2b of each part
 *   sidecar part/HASH      a piece of at most 1 MiB of the state: ids, decode marks, tags, chain, unsealed
 * K/V sidecar index1/CHAIN/LAYER/HEAD representatives, norms and checksums of one span, some KV heads of one
 * layer; named by the chain of its last block, so that contexts with the same prefix share it
 *
 * The manifest goes last: a snapshot is there whole or not at all. Every part is named by its hash, which is
 * checked on the way back; the node and client check the objects' own checksums. All numbers little-endian.
 */
#include "decoder/context/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PART_BYTES = 1 << 20, MANIFEST_VERSION = 1, MAX_NAME = 200 };
#define MANIFEST_MAGIC "SKVMANI"

struct manifest {
    char magic[8];
    uint32_t version, n_parts;
    uint8_t root[CHAIN_BYTES];
    uint64_t len, sealed, state_bytes;
    uint32_t has_tags, reserved;
};
static_assert(sizeof(struct manifest) == 80, "stored as it is");

struct name {
    char text[160];
};

static void hex(char *out, const uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        snprintf(out + 2 * i, 3, "%02x", bytes[i]);
}

static struct name part_name(const uint8_t hash[CHAIN_BYTES])
{
    struct name n = {"part/"};
    hex(n.text + 5, hash, CHAIN_BYTES);
    return n;
}

static struct name index_name(const struct span *sp, unsigned layer, unsigned head)
{
    struct name n = {"index1/"};
    hex(n.text + 7, sp->chain[sp->n_blocks - 1], CHAIN_BYTES);
    snprintf(n.text + 7 + 2 * CHAIN_BYTES, sizeof n.text - 7 - 2 * CHAIN_BYTES, "/%u/%u", layer, head);
    return n;
}

static void hash_part(const uint8_t *bytes, size_t len, uint8_t out[CHAIN_BYTES])
{
    struct identity id;
    identity_begin(&id, "scoutkv part");
    identity_add(&id, bytes, len);
    identity_end(&id, out);
}

static unsigned heads_an_object(const struct shape *s, unsigned layer)
{
    size_t n = PART_BYTES / s->head_bytes[layer];
    return n ? (unsigned)n : 1;
}

static int put_span(struct skv_context *c, const struct span *sp, struct skv_error *err)
{
    const struct shape *s = c->shape;
    for (unsigned l = 0; l < s->n_layers; l++) {
        unsigned step = heads_an_object(s, l), n_heads = s->layers[l].n_kv_heads;
        for (unsigned h = 0; h < n_heads; h += step) {
            unsigned n = n_heads - h < step ? n_heads - h : step;
            struct name name = index_name(sp, l, h);
            int rc = tier_object_put(c->tier->tier, TIER_SIDECAR, name.text, span_groups(s, sp, l, h),
                                     n * s->head_bytes[l], NULL, err);
            if (rc)
                return rc;
        }
    }
    return 0;
}

static int get_span(struct skv_context *c, struct span *sp, struct skv_error *err)
{
    const struct shape *s = c->shape;
    for (unsigned l = 0; l < s->n_layers; l++) {
        unsigned step = heads_an_object(s, l), n_heads = s->layers[l].n_kv_heads;
        for (unsigned h = 0; h < n_heads; h += step) {
            unsigned n = n_heads - h < step ? n_heads - h : step;
            struct name name = index_name(sp, l, h);
            struct buf *b;
            int rc = tier_object_get(c->tier->tier, TIER_SIDECAR, name.text, &b, NULL, err);
            if (rc == -ENOENT)
                return skv_fail(err, -ENODATA,
                                "the snapshot's index %.40s… is on no node: the context is lost", name.text);
            if (rc)
                return rc;
            bool fits = b->len == n * s->head_bytes[l];
            if (fits)
                memcpy(span_groups(s, sp, l, h), b->data, b->len);
            buf_unref(b);
            if (!fits)
                return skv_fail(err, -EBADMSG,
                                "the snapshot's index %.40s… has another size than this model's", name.text);
        }
    }
    return 0;
}

/* The state is one run of bytes, written and read by the same walk. */
struct walk {
    uint8_t *at;
    size_t left;
    bool reading;
};

static bool walk_bytes(struct walk *w, void *bytes, size_t n)
{
    if (n > w->left)
        return false;
    if (w->reading)
        memcpy(bytes, w->at, n);
    else
        memcpy(w->at, bytes, n);
    w->at += n;
    w->left -= n;
    return true;
}

static size_t state_bytes(const struct skv_context *c)
{
    return c->len * (sizeof *c->ids + 1 + (c->tags ? SKV_TAG : 0)) + c->sealed * CHAIN_BYTES +
           c->n_local * BLOCK_TOKENS * c->shape->token_bytes;
}

static bool walk_state(struct skv_context *c, struct walk *w)
{
    bool ok = walk_bytes(w, c->ids, c->len * sizeof *c->ids) && walk_bytes(w, c->decoded, c->len);
    if (ok && c->tags)
        ok = walk_bytes(w, c->tags, c->len * SKV_TAG);
    for (uint64_t b = 0; ok && b < c->sealed; b++)
        ok = walk_bytes(w, context_span(c, b)->chain[b % SPAN_BLOCKS], CHAIN_BYTES);
    for (size_t i = 0; ok && i < c->n_local; i++)
        for (unsigned l = 0; ok && l < c->shape->n_layers; l++)
            ok = walk_bytes(w, c->local[i].kv[l]->data, c->local[i].kv[l]->len);
    return ok;
}

static int check_name(const char *name, struct skv_error *err)
{
    size_t n = strlen(name);
    if (n == 0 || n > MAX_NAME)
        return skv_fail(err, -EINVAL, "a snapshot's name has 1 to %d bytes, this one %zu", MAX_NAME, n);
    return 0;
}

int skv_context_snapshot(skv_context *c, const char *name, struct skv_error *err)
{
    int rc = check_name(name, err);
    if (rc == 0)
        rc = seal_flush(c, err);
    for (size_t i = 0; rc == 0 && i < c->n_spans; i++)
        rc = put_span(c, c->spans[i], err);
    if (rc)
        return rc;
    size_t total = state_bytes(c), n_parts = (total + PART_BYTES - 1) / PART_BYTES;
    size_t manifest_bytes = sizeof(struct manifest) + n_parts * CHAIN_BYTES;
    uint8_t *state = malloc(total + 1), *bytes = calloc(1, manifest_bytes);
    if (!state || !bytes) {
        rc = skv_fail(err, -ENOMEM, "out of memory");
        goto done;
    }
    if (manifest_bytes > PART_BYTES) {
        rc = skv_fail(err, -EFBIG, "the unsealed tail is too large for a snapshot: %zu MiB", total >> 20);
        goto done;
    }
    struct walk w = {.at = state, .left = total};
    bool ok = walk_state(c, &w);
    assert(ok && w.left == 0);
    (void)ok;
    struct manifest *m = (struct manifest *)bytes;
    *m = (struct manifest){.magic = MANIFEST_MAGIC,
                           .version = MANIFEST_VERSION,
                           .n_parts = (uint32_t)n_parts,
                           .len = c->len,
                           .sealed = c->sealed,
                           .state_bytes = total,
                           .has_tags = c->tags != NULL};
    memcpy(m->root, c->root, sizeof m->root);
    for (size_t i = 0; i < n_parts && rc == 0; i++) {
        size_t n = total - i * PART_BYTES < PART_BYTES ? total - i * PART_BYTES : PART_BYTES;
        uint8_t *hash = bytes + sizeof *m + i * CHAIN_BYTES;
        hash_part(state + i * PART_BYTES, n, hash);
        rc = tier_object_put(c->tier->tier, TIER_SIDECAR, part_name(hash).text, state + i * PART_BYTES, n,
                             NULL, err);
    }
    if (rc == 0)
        rc = tier_object_put(c->tier->tier, TIER_MANIFEST, name, bytes, manifest_bytes, NULL, err);
done:
    free(state);
    free(bytes);
    return rc;
}

static int check_manifest(const struct skv_context *c, const struct buf *b, const char *name,
                          struct manifest *m, struct skv_error *err)
{
    if (b->len < sizeof *m)
        return skv_fail(err, -EBADMSG, "snapshot \"%s\" is cut: %zu bytes", name, b->len);
    memcpy(m, b->data, sizeof *m);
    if (memcmp(m->magic, MANIFEST_MAGIC, sizeof m->magic) != 0)
        return skv_fail(err, -EBADMSG, "\"%s\" is not a snapshot", name);
    if (m->version != MANIFEST_VERSION)
        return skv_fail(err, -EPROTONOSUPPORT, "snapshot \"%s\" has version %u, this program reads %d", name,
                        m->version, MANIFEST_VERSION);
    if (memcmp(m->root, c->root, sizeof m->root) != 0)
        return skv_fail(err, -EINVAL,
                        "snapshot \"%s\" was made with another model or other options (model, KV dtype, "
                        "prefill policy, budget and "
                        "chunk, window, seal lag, protected ranges, kernel family, salt): use the same",
                        name);
    uint64_t n_local = (m->len + BLOCK_TOKENS - 1) / BLOCK_TOKENS - m->sealed;
    if (m->len > 1ull << 32 || m->sealed * BLOCK_TOKENS > m->len ||
        m->state_bytes != m->len * (4 + 1 + (m->has_tags ? SKV_TAG : 0)) + m->sealed * CHAIN_BYTES +
                              n_local * BLOCK_TOKENS * c->shape->token_bytes ||
        m->n_parts != (m->state_bytes + PART_BYTES - 1) / PART_BYTES ||
        b->len != sizeof *m + (size_t)m->n_parts * CHAIN_BYTES)
        return skv_fail(err, -EBADMSG, "snapshot \"%s\" is damaged: its sizes disagree", name);
    return 0;
}

static int get_state(struct skv_context *c, const struct manifest *m, const uint8_t *hashes, uint8_t *state,
                     struct skv_error *err)
{
    for (size_t i = 0; i < m->n_parts; i++) {
        size_t n =
            m->state_bytes - i * PART_BYTES < PART_BYTES ? m->state_bytes - i * PART_BYTES : PART_BYTES;
        struct buf *b;
        int rc = tier_object_get(c->tier->tier, TIER_SIDECAR, part_name(hashes + i * CHAIN_BYTES).text, &b,
                                 NULL, err);
        if (rc)
            return rc == -ENOENT ? skv_fail(err, -ENODATA,
                                            "part %zu of the snapshot is on no node: the context is lost", i)
                                 : rc;
        uint8_t hash[CHAIN_BYTES];
        hash_part(b->data, b->len, hash);
        bool good = b->len == n && memcmp(hash, hashes + i * CHAIN_BYTES, CHAIN_BYTES) == 0;
        if (good)
            memcpy(state + i * PART_BYTES, b->data, n);
        buf_unref(b);
        if (!good)
            return skv_fail(err, -EBADMSG, "part %zu of the snapshot does not match its hash", i);
    }
    return 0;
}

/* Gives an empty context room for what the state holds. */
static int make_room(struct skv_context *c, const struct manifest *m)
{
    if (context_grow_tokens(c, m->len + 1))
        return -ENOMEM;
    if (m->has_tags && !(c->tags = malloc(c->tokens_cap * SKV_TAG)))
        return -ENOMEM;
    size_t n_spans = (m->sealed + SPAN_BLOCKS - 1) / SPAN_BLOCKS;
    c->spans = calloc(n_spans + 1, sizeof(struct span *));
    if (!c->spans)
        return -ENOMEM;
    c->spans_cap = n_spans + 1;
    for (; c->n_spans < n_spans; c->n_spans++) {
        struct span *sp = span_new(c->shape);
        if (!sp)
            return -ENOMEM;
        uint64_t left = m->sealed - c->n_spans * SPAN_BLOCKS;
        sp->n_blocks = left < SPAN_BLOCKS ? (unsigned)left : SPAN_BLOCKS;
        c->spans[c->n_spans] = sp;
    }
    c->len = m->len;
    c->sealed = m->sealed;
    while ((c->sealed + c->n_local) * BLOCK_TOKENS < c->len)
        if (context_grow_local(c))
            return -ENOMEM;
    context_set_eligible(c);
    return c->eligible ? 0 : -ENOMEM;
}

static int restore(struct skv_context *c, const char *name, struct skv_error *err)
{
    struct buf *b = NULL;
    uint8_t *state = NULL;
    struct manifest m;
    int rc = tier_object_get(c->tier->tier, TIER_MANIFEST, name, &b, NULL, err);
    if (rc == -ENOENT)
        return skv_fail(err, rc, "no snapshot \"%s\" on these nodes", name);
    if (rc)
        return rc;
    rc = check_manifest(c, b, name, &m, err);
    if (rc)
        goto done;
    state = malloc(m.state_bytes + 1);
    if (!state || make_room(c, &m)) {
        rc = skv_fail(err, -ENOMEM, "out of memory");
        goto done;
    }
    rc = get_state(c, &m, b->data + sizeof m, state, err);
    if (rc)
        goto done;
    struct walk w = {.at = state, .left = m.state_bytes, .reading = true};
    if (!walk_state(c, &w) || w.left) {
        rc = skv_fail(err, -EBADMSG, "snapshot \"%s\" is damaged: its state ends early", name);
        goto done;
    }
    for (size_t i = 0; i < c->n_spans && rc == 0; i++)
        rc = get_span(c, c->spans[i], err);
    c->pass_from = c->len;
done:
    free(state);
    buf_unref(b);
    return rc;
}

int skv_context_reopen(skv_tier *t, const struct skv_model *model, const struct skv_context_opts *o,
                       const char *name, skv_context **out, struct skv_error *err)
{
    struct shape *shape = NULL;
    struct skv_context *c = NULL;
    int rc = check_name(name, err);
    if (rc == 0)
        rc = shape_new(model, o->dtype, &shape, err);
    if (rc)
        return rc;
    rc = context_new(t, shape, o, &c, err);
    shape_unref(shape);
    if (rc)
        return rc;
    rc = restore(c, name, err);
    if (rc) {
        skv_context_close(c);
        return rc;
    }
    *out = c;
    return 0;
}
