/* prefix.c: a context that begins with what others have stored: "resume by tokens".
 *
 * Model, options, tokens and passes give the chain of every block, and the chain gives the names of the index
 * objects that a save has left (span_store.c): of every full span, and for every end of a pass where to find
 * the span around it. So the longest beginning is found by asking for names, and what is found is what is
 * needed. Spans are read in waves that double, so that a miss costs one round trip and a million tokens a
 * dozen.
 *
 * The beginning ends where a pass does: the rest's passes are then those of a prefill from 0. Its last
 * blocks, which such a prefill would not have sealed yet, come back from the tier as truncating brings them.
 */
#include "decoder/context/internal.h"
#include "decoder/context/span_store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_SPANS = 32 /* a wave */ };

struct search {
    struct skv_context *c; /* its passes are those of a prefill from 0 */
    uint8_t (*chain)[CHAIN_BYTES];
    uint64_t n_blocks; /* full ones of the prompt */
    uint64_t indexed;  /* blocks whose index was found */
    uint32_t chunk;
};

/* The passes of a prefill of n tokens, and the chain of its full blocks. */
static int prepare(struct search *f, const uint32_t *ids, uint64_t n, struct skv_error *err)
{
    struct skv_context *c = f->c;
    f->n_blocks = n / BLOCK_TOKENS;
    f->chain = malloc((f->n_blocks + 1) * sizeof *f->chain);
    if (!f->chain || context_grow_tokens(c, n + 1) || passes_reserve(c, n / f->chunk + 1))
        return skv_fail(err, -ENOMEM, "out of memory");
    if (n)
        memcpy(c->ids, ids, n * sizeof *ids);
    while (c->len < n) {
        uint64_t left = n - c->len;
        uint32_t take = left < f->chunk ? (uint32_t)left : f->chunk;
        passes_add(c, SKV_PREFILL, take);
        c->len += take;
    }
    for (uint64_t b = 0; b < f->n_blocks; b++)
        chain_block(c, b, b ? f->chain[b - 1] : c->root, f->chain[b]);
    return 0;
}

/* An empty span for blocks from `first` on, whose chain is known; c->spans has those before. */
static struct span *span_of(const struct search *f, uint64_t first, unsigned n_blocks)
{
    size_t i = first / SPAN_BLOCKS;
    struct span *sp = span_new(f->c->shape, i ? f->c->spans[i - 1] : NULL, i);
    if (sp) {
        sp->n_blocks = n_blocks;
        memcpy(sp->chain, f->chain[first], n_blocks * sizeof *sp->chain);
    }
    return sp;
}

/* Reads up to n full spans behind those that were found. *all: every one was there. */
static int read_wave(struct search *f, size_t n, bool *all, struct skv_error *err)
{
    struct skv_context *c = f->c;
    bool missing[MOST_SPANS];
    struct span **wave = c->spans + c->n_spans;
    int rc = 0;
    size_t made = 0, found = 0;
    for (; made < n; made++)
        if (!(wave[made] = span_of(f, f->indexed + made * SPAN_BLOCKS, SPAN_BLOCKS))) {
            rc = skv_fail(err, -ENOMEM, "out of memory");
            break;
        }
    if (rc == 0)
        rc = spans_get(c->tier, c->shape, wave, n, &c->index, missing, err);
    while (rc == 0 && found < n && !missing[found])
        found++;
    for (size_t i = found; i < made; i++)
        span_unref(wave[i]);
    c->n_spans += found;
    f->indexed += found * SPAN_BLOCKS;
    *all = rc == 0 && found == n;
    return rc;
}

static int read_full_spans(struct search *f, struct skv_error *err)
{
    size_t total = f->n_blocks / SPAN_BLOCKS, wave = 1;
    bool all = true;
    int rc = 0;
    f->c->spans = calloc(total + 1, sizeof(struct span *));
    if (!f->c->spans)
        return skv_fail(err, -ENOMEM, "out of memory");
    f->c->spans_cap = total + 1;
    while (rc == 0 && all && f->c->n_spans < total) {
        size_t left = total - f->c->n_spans;
        rc = read_wave(f, wave < left ? wave : left, &all, err);
        wave = 2 * wave < MOST_SPANS ? 2 * wave : MOST_SPANS;
    }
    return rc;
}

/* ---- the span in which the beginning ends ---- */

/* Ends of passes within the next span, the first one first. */
struct ends {
    const struct search *f;
    struct span_place place[SPAN_BLOCKS]; /* n_blocks 0: not found */
};

/* Blocks of the next span before the end of its i-th pass. */
static unsigned blocks_at(const struct search *f, size_t i)
{
    uint64_t per = f->chunk / BLOCK_TOKENS;
    return (unsigned)((f->indexed / per + 1 + i) * per - f->indexed);
}

static void name_end(void *arg, size_t i, char name[TIER_NAME_MAX + 1])
{
    const struct search *f = ((struct ends *)arg)->f;
    span_place_name(f->chain[f->indexed + blocks_at(f, i) - 1], &f->c->index, name);
}

static int on_end(void *arg, size_t i, int rc, const uint8_t *bytes, size_t len, struct skv_error *err)
{
    struct ends *e = arg;
    (void)err;
    if (rc == 0 && len == sizeof e->place[i]) {
        memcpy(&e->place[i], bytes, len);
        if (e->place[i].n_blocks > SPAN_BLOCKS || e->place[i].n_blocks < blocks_at(e->f, i))
            e->place[i].n_blocks = 0;
    }
    return rc == -ENOENT || rc == -EBADMSG || rc == -EHOSTUNREACH ? 0 : rc;
}

/* Reads the span of that place and keeps its first n_blocks. *found: it was there. */
static int read_end(struct search *f, const struct span_place *place, unsigned n_blocks, bool *found,
                    struct skv_error *err)
{
    struct skv_context *c = f->c;
    bool missing;
    struct span *sp = span_of(f, f->indexed, n_blocks);
    if (!sp)
        return skv_fail(err, -ENOMEM, "out of memory");
    sp->n_blocks = (unsigned)place->n_blocks;
    memcpy(sp->chain[sp->n_blocks - 1], place->chain, CHAIN_BYTES);
    int rc = spans_get(c->tier, c->shape, &sp, 1, &c->index, &missing, err);
    *found = rc == 0 && !missing;
    if (!*found) {
        span_unref(sp);
        return rc;
    }
    span_truncate(c->shape, sp, n_blocks);
    memcpy(sp->chain[n_blocks - 1], f->chain[f->indexed + n_blocks - 1], CHAIN_BYTES);
    c->spans[c->n_spans++] = sp;
    f->indexed += n_blocks;
    return 0;
}

/* The longest beginning that ends within the next span. */
static int read_tail(struct search *f, struct skv_error *err)
{
    struct ends e = {.f = f};
    size_t n = 0;
    while (blocks_at(f, n) < SPAN_BLOCKS && f->indexed + blocks_at(f, n) <= f->n_blocks)
        n++;
    bool found = false;
    int rc = tier_sidecars_get(f->c->tier->tier, n, name_end, on_end, &e, err);
    for (; rc == 0 && !found && n; n--)
        if (e.place[n - 1].n_blocks)
            rc = read_end(f, &e.place[n - 1], blocks_at(f, n - 1), &found, err);
    return rc;
}

static uint64_t usable(const struct search *f, uint64_t n_blocks)
{
    return n_blocks * BLOCK_TOKENS / f->chunk * f->chunk;
}

/* ---- what is still there ---- */

/* Of the blocks of the first `tokens`, those before the first that is gone. */
static int count_present(const struct search *f, uint64_t tokens, uint64_t *present, struct skv_error *err)
{
    const struct skv_context *c = f->c;
    unsigned n_layers = c->shape->n_layers;
    size_t n = tokens / BLOCK_TOKENS * n_layers, i = 0;
    struct block_key *keys = malloc((n + 1) * sizeof *keys);
    bool *there = malloc(n + 1);
    int rc = -ENOMEM;
    if (!keys || !there) {
        skv_fail(err, rc, "out of memory");
        goto done;
    }
    for (i = 0; i < n; i++) {
        keys[i] = (struct block_key){.ns = c->tier->ns, .layer = (uint32_t)(i % n_layers)};
        memcpy(keys[i].chain, f->chain[i / n_layers], CHAIN_BYTES);
    }
    rc = tier_have(c->tier->tier, keys, n, there, err);
    for (i = 0; rc == 0 && i < n && there[i];)
        i++;
    *present = i / n_layers;
done:
    free(keys);
    free(there);
    return rc;
}

/* Makes the context end at n tokens, all sealed, and brings back those that it would not have sealed. */
static int end_at(struct skv_context *c, uint64_t n, struct skv_error *err)
{
    uint64_t blocks = n / BLOCK_TOKENS;
    size_t n_spans = (blocks + SPAN_BLOCKS - 1) / SPAN_BLOCKS;
    while (c->n_spans > n_spans)
        span_unref(c->spans[--c->n_spans]);
    if (blocks % SPAN_BLOCKS && c->spans[n_spans - 1]->n_blocks > blocks % SPAN_BLOCKS)
        span_truncate(c->shape, c->spans[n_spans - 1], blocks % SPAN_BLOCKS);
    passes_truncate(c, n);
    c->len = c->pass_from = n;
    c->sealed = blocks;
    context_set_eligible(c);
    if (blocks && !c->eligible)
        return skv_fail(err, -ENOMEM, "out of memory");
    int rc = skv_truncate(c, n, err);
    return rc ? rc : parts_require(c, err);
}

static int find(struct search *f, const uint32_t *ids, uint64_t n, struct skv_error *err)
{
    uint64_t present, length = 0;
    int rc = prepare(f, ids, n, err);
    if (rc == 0)
        rc = read_full_spans(f, err);
    if (rc == 0)
        rc = read_tail(f, err);
    if (rc == 0)
        length = usable(f, f->indexed);
    if (length)
        rc = count_present(f, length, &present, err);
    if (rc == 0 && length)
        length = usable(f, present);
    return rc ? rc : end_at(f->c, length, err);
}

int skv_context_open_prefix(skv_tier *t, const struct skv_model *m, const struct skv_context_opts *o,
                            const uint32_t *ids, uint64_t n, uint32_t chunk, skv_context **out,
                            struct skv_error *err)
{
    if (chunk == 0 || chunk % BLOCK_TOKENS)
        return skv_fail(err, -EINVAL, "passes of %u tokens: a prefix needs a multiple of %d", chunk,
                        BLOCK_TOKENS);
    struct search f = {.chunk = chunk};
    int rc = skv_context_open(t, m, o, &f.c, err);
    if (rc)
        return rc;
    rc = find(&f, ids, n, err);
    free(f.chain);
    if (rc == -ENODATA || rc == -EBADMSG || rc == -EHOSTUNREACH) {
        /* Its end is gone though its index is there, or a node that would know is: it can be made again. */
        skv_context_close(f.c);
        return skv_context_open(t, m, o, out, err);
    }
    if (rc) {
        skv_context_close(f.c);
        return rc;
    }
    *out = f.c;
    return 0;
}
