/* span_store.c: the index of spans as sidecar objects, written at a save and read by whoever opens a context
 * with the same beginning.
 *
 *   index4/CHAIN/LAYER/HEAD   representatives, norms and checksums of one span: KV heads of one layer from
 *                             HEAD on, as many as fit 1 MiB
 *
 *   at2/CHAIN                 where the index up to this block is: chain of the last block of such a span,
 * and its number of blocks; for ends of passes within the span
 *
 * CHAIN is that of the span's last block. It names model, options, tokens and passes up to there, so contexts
 * with the same prefix share its spans, whoever wrote them. Two texts that part within a span share its
 * beginning through at2: the reader takes the other's span and truncates it.
 *
 * Where blocks were acknowledged from disk, names begin with index4d and at2d: who wants durable blocks must
 * not begin with others, which a node may still have in RAM only. Behind that the calibration's tag follows,
 * if it changes representatives: those of two calibrations never meet. */
#include "decoder/context/span_store.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of one KV head: its pages' groups, its blocks' (which lie on a shelf here), and what follows them. */
static size_t stored_head_bytes(const struct shape *s, unsigned layer)
{
    return s->head_bytes[layer] + span_blocks_bytes(s, layer);
}

static unsigned heads_an_object(const struct shape *s, unsigned layer)
{
    size_t n = TIER_OBJECT_MAX / stored_head_bytes(s, layer);
    return n ? (unsigned)n : 1;
}

size_t span_objects(const struct shape *s)
{
    size_t n = 0;
    for (unsigned l = 0; l < s->n_layers; l++)
        n += (s->layers[l].n_kv_heads + heads_an_object(s, l) - 1) / heads_an_object(s, l);
    return n;
}

/* What the i-th object of a span holds. */
struct piece {
    unsigned layer, head, n_heads;
};

static struct piece piece_at(const struct shape *s, size_t i)
{
    struct piece p = {0};
    for (;; p.layer++) {
        unsigned most = heads_an_object(s, p.layer), n = s->layers[p.layer].n_kv_heads;
        size_t objects = (n + most - 1) / most;
        if (i < objects) {
            p.head = (unsigned)i * most;
            p.n_heads = n - p.head < most ? n - p.head : most;
            return p;
        }
        i -= objects;
    }
}

void span_object_name(const struct shape *s, const uint8_t *chain, size_t i, const struct index_kind *kind,
                      char name[TIER_NAME_MAX + 1])
{
    char hex[2 * CHAIN_BYTES + 1];
    struct piece p = piece_at(s, i);
    sodium_bin2hex(hex, sizeof hex, chain, CHAIN_BYTES);
    snprintf(name, TIER_NAME_MAX + 1, "index4%s%s/%s/%u/%u", kind->durable ? "d" : "", kind->tag, hex,
             p.layer, p.head);
}

/* Where the stored bytes of one KV head are here, one behind the other. */
struct run {
    uint8_t *at;
    size_t n;
};
enum { RUNS = 3 };
static void head_runs(const struct shape *s, const struct span *sp, unsigned layer, unsigned head,
                      struct run run[RUNS])
{
    size_t pages = span_groups_bytes(s, layer);
    uint8_t *at = span_groups(s, sp, layer, head);
    run[0] = (struct run){at, pages};
    run[1] = (struct run){span_block_groups(s, sp, layer, head), span_blocks_bytes(s, layer)};
    run[2] = (struct run){at + pages, s->head_bytes[layer] - pages};
}

static void gather(const struct shape *s, const struct span *sp, struct piece p, uint8_t *bytes)
{
    struct run run[RUNS];
    for (unsigned h = p.head; h < p.head + p.n_heads; h++) {
        head_runs(s, sp, p.layer, h, run);
        for (unsigned i = 0; i < RUNS; bytes += run[i++].n)
            memcpy(bytes, run[i].at, run[i].n);
    }
}

static void scatter(const struct shape *s, const struct span *sp, struct piece p, const uint8_t *bytes)
{
    struct run run[RUNS];
    for (unsigned h = p.head; h < p.head + p.n_heads; h++) {
        head_runs(s, sp, p.layer, h, run);
        for (unsigned i = 0; i < RUNS; bytes += run[i++].n)
            memcpy(run[i].at, bytes, run[i].n);
    }
}

static int put_piece(struct skv_tier *t, const struct span *sp, const char *name, const uint8_t *bytes,
                     size_t len, const struct tier_object_opts *o, struct skv_error *err)
{
    int rc = tier_object_put(t->tier, TIER_SIDECAR, name, bytes, len, o, err);
    if (rc == -ESTALE && sp->remade) { /* names bytes that no node has: of no use to anyone */
        rc = tier_object_drop(t->tier, TIER_SIDECAR, name, err);
        if (rc == 0 || rc == -ENOENT)
            rc = tier_object_put(t->tier, TIER_SIDECAR, name, bytes, len, o, err);
    }
    /* Another writer of the same prefix was first, with other bits: its version is the one whose blocks are
     * stored, and stays. */
    return rc == -ESTALE ? 0 : rc;
}

int span_put(struct skv_tier *t, const struct shape *s, const struct span *sp, const struct index_kind *kind,
             const struct tier_object_opts *o, struct skv_error *err)
{
    char name[TIER_NAME_MAX + 1];
    uint8_t *bytes = NULL;
    int rc = 0;
    for (size_t i = 0, n = span_objects(s); i < n && rc == 0; i++) {
        struct piece p = piece_at(s, i);
        size_t len = p.n_heads * stored_head_bytes(s, p.layer);
        uint8_t *room = realloc(bytes, len);
        if (!room) {
            rc = skv_fail(err, -ENOMEM, "out of memory");
            break;
        }
        bytes = room;
        gather(s, sp, p, bytes);
        span_object_name(s, sp->chain[sp->n_blocks - 1], i, kind, name);
        rc = put_piece(t, sp, name, bytes, len, o, err);
    }
    free(bytes);
    return rc;
}

/* ---- at2 ---- */

void span_place_name(const uint8_t *chain, const struct index_kind *kind, char name[TIER_NAME_MAX + 1])
{
    char hex[2 * CHAIN_BYTES + 1];
    sodium_bin2hex(hex, sizeof hex, chain, CHAIN_BYTES);
    snprintf(name, TIER_NAME_MAX + 1, "at2%s%s/%s", kind->durable ? "d" : "", kind->tag, hex);
}

int span_place_put(struct skv_tier *t, const struct span *sp, unsigned block, const struct index_kind *kind,
                   const struct tier_object_opts *o, struct skv_error *err)
{
    struct span_place place = {.n_blocks = sp->n_blocks};
    char name[TIER_NAME_MAX + 1];
    memcpy(place.chain, sp->chain[sp->n_blocks - 1], CHAIN_BYTES);
    span_place_name(sp->chain[block], kind, name);
    int rc = tier_object_put(t->tier, TIER_SIDECAR, name, &place, sizeof place, o, err);
    return rc == -ESTALE ? 0 : rc; /* somebody else's span is as good */
}

/* ---- reading spans ---- */

struct spans_read {
    const struct shape *shape;
    struct span *const *spans;
    size_t objects; /* a span */
    const struct index_kind *kind;
    bool *missing; /* per span; NULL: none may be */
};

static void name_object(void *arg, size_t i, char name[TIER_NAME_MAX + 1])
{
    const struct spans_read *r = arg;
    const struct span *sp = r->spans[i / r->objects];
    span_object_name(r->shape, sp->chain[sp->n_blocks - 1], i % r->objects, r->kind, name);
}

static int on_object(void *arg, size_t i, int rc, const uint8_t *bytes, size_t len, struct skv_error *err)
{
    const struct spans_read *r = arg;
    struct piece p = piece_at(r->shape, i % r->objects);
    if (rc == 0 && len != p.n_heads * stored_head_bytes(r->shape, p.layer))
        rc = skv_fail(err, -EBADMSG,
                      "the saved index of span %zu, layer %u has another size than this model's",
                      i / r->objects, p.layer);
    if (rc == 0) {
        scatter(r->shape, r->spans[i / r->objects], p, bytes);
    } else if (r->missing && (rc == -ENOENT || rc == -EBADMSG || rc == -EHOSTUNREACH)) {
        r->missing[i / r->objects] = true;
        rc = 0;
    } else if (rc == -ENOENT) {
        rc = skv_fail(err, -ENODATA,
                      "the saved index of span %zu, layer %u is on no node: the context is lost",
                      i / r->objects, p.layer);
    }
    return rc;
}

int spans_get(struct skv_tier *t, const struct shape *s, struct span *const *spans, size_t n,
              const struct index_kind *kind, bool *missing, struct skv_error *err)
{
    struct spans_read r = {s, spans, span_objects(s), kind, missing};
    if (missing)
        memset(missing, 0, n * sizeof *missing);
    return tier_sidecars_get(t->tier, n * r.objects, name_object, on_object, &r, err);
}
