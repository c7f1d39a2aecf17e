/* restore.c: lost blocks: which they are, and storing them again.
 *
 * The bytes come from a fork whose passes were repeated. A layer of a block that some node still holds in the
 * version we know is left alone; for the others the fork's bytes are stored under the context's key. If their
 * checksums are the ones we know, nothing else happens. If not, and no other version stands in the way, the
 * index follows the new bytes: in place, because forks that share it have lost the old ones too. */
#include "decoder/context/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

size_t skv_lost(skv_context *c, struct skv_range *out, size_t max)
{
    size_t n = 0;
    uint64_t end = 0; /* the block behind the range so far */
    lost_sort(&c->lost);
    for (size_t i = 0; i < c->lost.n; i++) {
        uint64_t block = c->lost.at[i].block;
        if (n == 0 || block > end) {
            n++;
            if (n <= max)
                out[n - 1].from = block * BLOCK_TOKENS;
        }
        end = block + 1;
        if (n <= max)
            out[n - 1].to = end * BLOCK_TOKENS;
    }
    return n;
}

int skv_mark_lost(skv_context *c, struct skv_range r, struct skv_error *err)
{
    if (r.from >= r.to || r.to > c->len)
        return skv_fail(err, -EINVAL, "tokens %llu to %llu are not all in a context of %llu",
                        (unsigned long long)r.from, (unsigned long long)r.to, (unsigned long long)c->len);
    for (uint64_t b = r.from / BLOCK_TOKENS; b * BLOCK_TOKENS < r.to && b < c->sealed; b++)
        for (unsigned l = 0; l < c->shape->n_layers; l++)
            lost_add(c, b, l);
    return 0;
}

/* Keys of blocks [from, from + n), all layers of one after the other. */
static int find_span(struct skv_context *c, uint64_t from, unsigned n, struct block_key *keys, bool *present,
                     struct skv_error *err)
{
    unsigned n_layers = c->shape->n_layers;
    for (unsigned b = 0; b < n; b++)
        for (unsigned l = 0; l < n_layers; l++)
            context_block_key(c, l, from + b, &keys[b * n_layers + l]);
    int rc = tier_have(c->tier->tier, keys, (size_t)n * n_layers, present, err);
    if (rc ==
        -EHOSTUNREACH) /* known to be gone by now: the others can be asked, and what is there alone counts */
        rc = tier_have(c->tier->tier, keys, (size_t)n * n_layers, present, err);
    if (rc && rc != -EHOSTUNREACH)
        return rc;
    for (size_t i = 0; i < (size_t)n * n_layers; i++)
        if (!present[i])
            lost_add(c, from + i / n_layers, (unsigned)(i % n_layers));
    return 0;
}

int skv_find_lost(skv_context *c, struct skv_error *err)
{
    int rc = seal_flush(c, err); /* what is on its way is not lost */
    if (rc)
        return rc;
    size_t most = (size_t)SPAN_BLOCKS * c->shape->n_layers;
    struct block_key *keys = malloc(most * sizeof *keys);
    bool *present = malloc(most * sizeof *present);
    if (!keys || !present)
        rc = skv_fail(err, -ENOMEM, "out of memory");
    for (uint64_t b = 0; rc == 0 && b < c->sealed; b += SPAN_BLOCKS)
        rc = find_span(c, b, c->sealed - b < SPAN_BLOCKS ? (unsigned)(c->sealed - b) : SPAN_BLOCKS, keys,
                       present, err);
    free(keys);
    free(present);
    return rc;
}

/* ---- storing again ---- */

struct restore {
    struct skv_context *c;
    const struct skv_context *made;
    struct skv_error failure;
};
struct restore_put {
    struct restore *r;
    struct lost_block lost;
    uint64_t *sums; /* of the bytes that are stored */
    bool stored, changed;
};

static struct buf *const *made_bytes(const struct restore *r, uint64_t block)
{
    return r->made->local[block - r->made->sealed].rest;
}

/* The index takes these checksums, if they are others. */
static bool take_sums(struct skv_context *c, const struct lost_block *b, const uint64_t *sums)
{
    bool changed = false;
    for (unsigned h = 0; h < c->shape->layouts[b->layer].n_heads; h++) {
        uint64_t *known = span_checksums(c->shape, context_span(c, b->block), b->layer, h) +
                          b->block % SPAN_BLOCKS * BLOCK_PAGES;
        changed |= memcmp(known, sums + (size_t)h * BLOCK_PAGES, BLOCK_PAGES * sizeof *sums) != 0;
        memcpy(known, sums + (size_t)h * BLOCK_PAGES, BLOCK_PAGES * sizeof *sums);
    }
    return changed;
}

static void on_restored(void *arg, const struct tier_put_result *answer)
{
    struct restore_put *p = arg;
    struct skv_context *c = p->r->c;
    struct skv_error *failure = &p->r->failure;
    if (answer->rc) {
        if (failure->code == 0)
            *failure = *answer->err;
        return;
    }
    if (answer->stored && answer->n_pages != layout_pages(&c->shape->layouts[p->lost.layer])) {
        skv_fail(failure, -EPROTO, "a memory node holds a block of another shape under our name");
        return;
    }
    p->stored = true;
    p->changed = take_sums(c, &p->lost, answer->stored ? answer->stored : p->sums);
    if (p->changed)
        context_span(c, p->lost.block)->remade = true;
    if (p->changed && !answer->stored &&
        seal_index(c, p->lost.block, p->lost.layer, made_bytes(p->r, p->lost.block)))
        skv_fail(failure, -ENOMEM, "out of memory");
}

static int put_again(struct restore_put *p, struct skv_error *err)
{
    struct skv_context *c = p->r->c;
    const struct block_layout *lay = &c->shape->layouts[p->lost.layer];
    struct buf *kv = made_bytes(p->r, p->lost.block)[p->lost.layer];
    size_t page_bytes = layout_page_bytes(lay);
    struct block_key key;
    context_block_key(c, p->lost.layer, p->lost.block, &key);
    p->sums = malloc(layout_pages(lay) * sizeof *p->sums);
    if (!p->sums)
        return skv_fail(err, -ENOMEM, "out of memory");
    for (size_t i = 0; i < layout_pages(lay); i++)
        p->sums[i] = page_checksum(&key, lay->head0 + (unsigned)(i / BLOCK_PAGES),
                                   (unsigned)(i % BLOCK_PAGES), kv->data + i * page_bytes, page_bytes);
    return tier_put(c->tier->tier, &key, lay, kv, p->sums, c->opts.durable ? TIER_ACK_DURABLE : TIER_ACK_RAM,
                    on_restored, p, err);
}

static bool restorable(const struct skv_context *made, const struct lost_block *b)
{
    return b->block >= made->sealed && (b->block + 1) * BLOCK_TOKENS <= made->len;
}

static int check_made(const struct skv_context *c, const struct skv_context *made, struct skv_error *err)
{
    uint64_t n = made->len < c->len ? made->len : c->len;
    if (made->tier == c->tier && made->shape == c->shape && !made->tags == !c->tags &&
        memcmp(made->ids, c->ids, n * sizeof *c->ids) == 0 &&
        (!c->tags || memcmp(made->tags, c->tags, n * SKV_TAG) == 0))
        return 0;
    return skv_fail(err, -EINVAL, "blocks can only be restored from a fork of the context, with its tokens");
}

/* Takes what was stored from the list and counts it, by block. */
static void settle(struct skv_context *c, const struct restore_put *puts, size_t n, struct skv_restored *sum)
{
    size_t left = 0, p = 0;
    for (size_t i = 0; i < c->lost.n; i++) {
        bool tried =
            p < n && puts[p].lost.block == c->lost.at[i].block && puts[p].lost.layer == c->lost.at[i].layer;
        if (!tried || !puts[p].stored)
            c->lost.at[left++] = c->lost.at[i];
        p += tried;
    }
    c->lost.n = left;
    uint64_t drop = UINT64_MAX;
    for (size_t i = 0, j; i < n; i = j) {
        bool stored = false, changed = false;
        for (j = i; j < n && puts[j].lost.block == puts[i].lost.block; j++) {
            stored |= puts[j].stored;
            changed |= puts[j].changed;
        }
        sum->blocks += stored;
        sum->changed += changed;
        if (changed && drop == UINT64_MAX)
            drop = puts[i].lost.block;
    }
    if (drop != UINT64_MAX) /* pages of the old version may be held still: one version for all from now on */
        cache_drop_from(c->cache, drop * BLOCK_PAGES);
}

int skv_restore(skv_context *c, const skv_context *made, struct skv_restored *sum, struct skv_error *err)
{
    struct restore r = {.c = c, .made = made};
    size_t n = 0, most = 0;
    int rc = check_made(c, made, err);
    if (rc)
        return rc;
    lost_sort(&c->lost);
    for (size_t i = 0; i < c->lost.n; i++)
        most += restorable(made, &c->lost.at[i]);
    struct restore_put *puts = calloc(most + 1, sizeof *puts);
    if (!puts)
        return skv_fail(err, -ENOMEM, "out of memory");
    for (size_t i = 0; i < c->lost.n && rc == 0; i++)
        if (restorable(made, &c->lost.at[i])) {
            puts[n] = (struct restore_put){.r = &r, .lost = c->lost.at[i]};
            rc = put_again(&puts[n++], err);
        }
    tier_flush(c->tier->tier, NULL); /* our own answers tell what failed */
    if (rc == 0 && r.failure.code)
        rc = skv_fail(err, r.failure.code, "%s", r.failure.text);
    settle(c, puts, n, sum);
    for (size_t i = 0; i < n; i++)
        free(puts[i].sums);
    free(puts);
    return rc;
}
