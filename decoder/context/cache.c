/* cache.c: fetched pages, in slots of one size that are allocated as they fill.
 *
 * Hash chains over (layer, head, page) and one list in order of use; both by slot number. Pages are copied
 * in: at 4 KiB a copy costs less than keeping a network buffer of megabytes alive for one page of it, and
 * what is held is then exactly what is counted. Pinned (protected) pages are on no list. */
#include "decoder/context/internal.h"

#include <stdlib.h>
#include <string.h>

enum { NONE = UINT32_MAX, SLAB_SLOTS = 64 };

struct slot {
    uint64_t page;
    uint32_t layer, head;
    uint32_t chain;        /* next in the hash chain, or next free */
    uint32_t newer, older; /* neighbours in order of use; NONE at the ends */
    bool pinned, used;
};

struct cache {
    size_t page_bytes;
    uint32_t capacity; /* slots that may be filled, pinned ones apart */
    uint32_t n_slots, n_used, n_pinned;
    struct slot *slots;
    uint8_t **slabs; /* SLAB_SLOTS pages each */
    uint32_t *heads; /* hash table, power of two */
    uint32_t n_heads;
    uint32_t newest, oldest, free;
};

struct cache *cache_new(size_t page_bytes, uint64_t capacity_bytes)
{
    struct cache *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    uint64_t capacity = capacity_bytes / page_bytes;
    c->page_bytes = page_bytes;
    c->capacity = capacity < NONE / 2 ? (uint32_t)capacity : NONE / 2;
    c->newest = c->oldest = c->free = NONE;
    return c;
}

void cache_free(struct cache *c)
{
    if (!c)
        return;
    for (uint32_t i = 0; i < c->n_slots / SLAB_SLOTS; i++)
        free(c->slabs[i]);
    free(c->slabs);
    free(c->slots);
    free(c->heads);
    free(c);
}

static uint32_t hash(unsigned layer, unsigned head, uint64_t page)
{
    uint64_t x = page * 0x9E3779B97F4A7C15u ^ ((uint64_t)layer << 32 | head) * 0xC2B2AE3D27D4EB4Fu;
    return (uint32_t)(x >> 32 ^ x);
}

static uint8_t *slot_bytes(const struct cache *c, uint32_t i)
{
    return c->slabs[i / SLAB_SLOTS] + (size_t)(i % SLAB_SLOTS) * c->page_bytes;
}

static uint32_t find(const struct cache *c, unsigned layer, unsigned head, uint64_t page)
{
    if (c->n_heads == 0)
        return NONE;
    for (uint32_t i = c->heads[hash(layer, head, page) & (c->n_heads - 1)]; i != NONE; i = c->slots[i].chain)
        if (c->slots[i].page == page && c->slots[i].layer == layer && c->slots[i].head == head)
            return i;
    return NONE;
}

static void unlist(struct cache *c, uint32_t i)
{
    struct slot *s = &c->slots[i];
    *(s->newer == NONE ? &c->newest : &c->slots[s->newer].older) = s->older;
    *(s->older == NONE ? &c->oldest : &c->slots[s->older].newer) = s->newer;
}

static void list_newest(struct cache *c, uint32_t i)
{
    struct slot *s = &c->slots[i];
    s->newer = NONE;
    s->older = c->newest;
    *(c->newest == NONE ? &c->oldest : &c->slots[c->newest].newer) = i;
    c->newest = i;
}

const uint8_t *cache_get(struct cache *c, unsigned layer, unsigned head, uint64_t page)
{
    uint32_t i = find(c, layer, head, page);
    if (i == NONE)
        return NULL;
    if (!c->slots[i].pinned && c->newest != i) {
        unlist(c, i);
        list_newest(c, i);
    }
    return slot_bytes(c, i);
}

bool cache_holds(const struct cache *c, unsigned layer, unsigned head, uint64_t page)
{
    return find(c, layer, head, page) != NONE;
}

static void drop(struct cache *c, uint32_t i)
{
    struct slot *s = &c->slots[i];
    uint32_t *link = &c->heads[hash(s->layer, s->head, s->page) & (c->n_heads - 1)];
    while (*link != i)
        link = &c->slots[*link].chain;
    *link = s->chain;
    if (s->pinned)
        c->n_pinned--;
    else
        unlist(c, i);
    c->n_used--;
    s->used = false;
    s->chain = c->free;
    c->free = i;
}

/* Adds a slab of free slots and, when chains would grow long, rehashes. */
static bool grow(struct cache *c)
{
    uint32_t n = c->n_slots + SLAB_SLOTS, n_heads = c->n_heads ? c->n_heads : 64;
    while (n_heads < n)
        n_heads *= 2;
    struct slot *slots = realloc(c->slots, n * sizeof *slots);
    if (slots)
        c->slots = slots;
    uint8_t **slabs = realloc(c->slabs, n / SLAB_SLOTS * sizeof *slabs);
    if (slabs)
        c->slabs = slabs;
    if (!slots || !slabs)
        return false;
    if (n_heads != c->n_heads) {
        uint32_t *heads = malloc(n_heads * sizeof *heads);
        if (!heads)
            return false;
        memset(heads, 0xff, n_heads * sizeof *heads);
        for (uint32_t i = 0; i < c->n_slots; i++) {
            struct slot *s = &c->slots[i];
            if (!s->used)
                continue;
            uint32_t *at = &heads[hash(s->layer, s->head, s->page) & (n_heads - 1)];
            s->chain = *at;
            *at = i;
        }
        free(c->heads);
        c->heads = heads;
        c->n_heads = n_heads;
    }
    uint8_t *slab = malloc(SLAB_SLOTS * c->page_bytes);
    if (!slab)
        return false;
    c->slabs[c->n_slots / SLAB_SLOTS] = slab;
    for (uint32_t i = c->n_slots; i < n; i++) {
        c->slots[i] = (struct slot){.chain = c->free};
        c->free = i;
    }
    c->n_slots = n;
    return true;
}

void cache_put(struct cache *c, unsigned layer, unsigned head, uint64_t page, const uint8_t *bytes,
               size_t len, bool pinned)
{
    uint32_t i = find(c, layer, head, page);
    if (i != NONE)
        return; /* the same version: pages of a sealed block don't change */
    if (!pinned) {
        if (c->capacity == 0)
            return;
        if (c->n_used - c->n_pinned >= c->capacity)
            drop(c, c->oldest);
    }
    if (c->free == NONE && !grow(c))
        return;
    i = c->free;
    struct slot *s = &c->slots[i];
    c->free = s->chain;
    uint32_t *at = &c->heads[hash(layer, head, page) & (c->n_heads - 1)];
    *s = (struct slot){
        .page = page, .layer = layer, .head = head, .chain = *at, .pinned = pinned, .used = true};
    *at = i;
    c->n_used++;
    if (pinned)
        c->n_pinned++;
    else
        list_newest(c, i);
    memcpy(slot_bytes(c, i), bytes, len);
}

void cache_drop_from(struct cache *c, uint64_t page)
{
    for (uint32_t i = 0; i < c->n_slots; i++)
        if (c->slots[i].used && c->slots[i].page >= page)
            drop(c, i);
}

uint64_t cache_bytes(const struct cache *c)
{
    return (uint64_t)c->n_used * c->page_bytes;
}

uint64_t cache_room(const struct cache *c)
{
    return c->capacity;
}
