/* hints.c: tells the nodes which of the context's blocks will be asked for more often than others, so that
 * those with disks keep these in RAM and let the others go first.
 *
 * A layer at a time: its blocks' prior (prior.c) is computed anew, and those whose keep (keep_of) has changed
 * by a factor of two since the nodes heard of it last are told, at most TIER_HINT_KEYS, the next ones the
 * next time round. Each layer has its turn once in HINT_STEPS decode steps, and one has it after every
 * prefill pass. Nothing waits for an answer, and nothing that a step computes depends on any of it. */
#include "decoder/context/internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    HINT_STEPS = 64,
    AVERAGE = 16, /* what was told is kept as a half octave: this one is 1 */
    MOST = 2 * AVERAGE,
    WORTH_TELLING = 2, /* half octaves: a factor of 2 */
};
/* How much of the prior is salience; the rest is what blocks received. */
static const float hint_alpha = 0.5f;

struct told {
    uint8_t *blocks; /* half octave that the nodes were told of */
    size_t cap;
    size_t next; /* block to begin with */
};

struct hints {
    unsigned n_layers, layer; /* whose turn is next */
    uint64_t tokens;          /* since the last turn */
    uint64_t lost;            /* tier_hints_lost when all this was told */
    struct told layers[];
};

struct hints *hints_new(const struct skv_context *c)
{
    struct hints *h = calloc(1, sizeof *h + c->shape->n_layers * sizeof *h->layers);
    if (!h)
        return NULL;
    h->n_layers = c->shape->n_layers;
    h->lost = tier_hints_lost(c->tier->tier);
    return h;
}

void hints_free(struct hints *h)
{
    for (unsigned l = 0; h && l < h->n_layers; l++)
        free(h->layers[l].blocks);
    free(h);
}

static bool grow(struct told *t, size_t n)
{
    if (n <= t->cap)
        return true;
    size_t cap = n + n / 4 + 64;
    uint8_t *blocks = realloc(t->blocks, cap);
    if (!blocks)
        return false;
    memset(blocks + t->cap, AVERAGE, cap - t->cap);
    t->blocks = blocks;
    t->cap = cap;
    return true;
}

struct hints *hints_copy(const struct skv_context *to, const struct hints *from)
{
    struct hints *h = hints_new(to);
    for (unsigned l = 0; h && l < h->n_layers; l++) {
        if (!grow(&h->layers[l], from->layers[l].cap)) {
            hints_free(h);
            return NULL;
        }
        if (from->layers[l].cap)
            memcpy(h->layers[l].blocks, from->layers[l].blocks, from->layers[l].cap);
    }
    return h;
}

void hints_truncate(struct hints *h, uint64_t n_blocks)
{
    for (unsigned l = 0; l < h->n_layers; l++)
        for (size_t b = n_blocks; b < h->layers[l].cap; b++)
            h->layers[l].blocks[b] = AVERAGE;
}

/* Blocks differ less in how often they are asked for than in the attention that they get: what gets much of
 * it is soon in the cache here, and in layers that look near something far is chosen all the same. */
static float keep_of(float prior)
{
    return sqrtf(prior);
}

static uint8_t half_octave(float keep)
{
    float x = keep > 0 ? AVERAGE + 2 * log2f(keep) : 0;
    return x < 0 ? 0 : x > MOST ? MOST : (uint8_t)lrintf(x);
}

/* Those on the nodes: what is on its way to them yet would not be found there. */
static uint64_t acknowledged(const struct skv_context *c)
{
    return c->pending ? c->pending->block : c->sealed;
}

/* Fills keys and keep with what has changed; returns how many. block: which they are. */
static size_t changed(const struct skv_context *c, unsigned layer, const float *prior, struct told *t,
                      struct block_key *keys, float *keep, size_t *block)
{
    size_t n_blocks = acknowledged(c), n = 0, i = 0, first = t->next < n_blocks ? t->next : 0;
    for (; i < n_blocks && n < TIER_HINT_KEYS; i++) {
        size_t b = (first + i) % n_blocks;
        int now = half_octave(keep_of(prior[b]));
        if (abs(now - t->blocks[b]) < WORTH_TELLING)
            continue;
        context_block_key(c, layer, b, &keys[n]);
        keep[n] = exp2f((float)(now - AVERAGE) / 2);
        block[n++] = b;
    }
    t->next = n_blocks ? (first + i) % n_blocks : 0;
    return n;
}

static void tell_layer(struct skv_context *c, struct hints *h, unsigned layer)
{
    struct told *t = &h->layers[layer];
    struct block_key keys[TIER_HINT_KEYS];
    float keep[TIER_HINT_KEYS], *prior = malloc(c->sealed * sizeof *prior);
    size_t block[TIER_HINT_KEYS], n = 0;
    struct skv_error err;
    if (prior && grow(t, c->sealed) && prior_of_blocks(c, layer, hint_alpha, prior) == 0)
        n = changed(c, layer, prior, t, keys, keep, block);
    free(prior);
    if (n == 0 || tier_hint(c->tier->tier, keys, keep, n, &err))
        return; /* what was not told now is told at another turn */
    for (size_t i = 0; i < n; i++)
        t->blocks[block[i]] = half_octave(keep[i]);
    c->stats.blocks_hinted += n;
}

void hints_tell(struct skv_context *c, uint64_t n_tokens)
{
    struct hints *h = c->hints;
    uint64_t pause = HINT_STEPS / h->n_layers;
    h->tokens += n_tokens;
    if (h->tokens < (pause ? pause : 1) || c->sealed == 0)
        return;
    h->tokens = 0;
    if (h->lost != tier_hints_lost(c->tier->tier)) {
        h->lost = tier_hints_lost(c->tier->tier);
        hints_truncate(h, 0);
    }
    tell_layer(c, h, h->layer);
    h->layer = (h->layer + 1) % h->n_layers;
}
