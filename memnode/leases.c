/* leases.c: see leases.h. Every lease is in two lists: its block's (short) and its owner's. */
#include "memnode/leases.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { BUCKETS = 1024 };

struct lease {
    struct lease *next_of_block;
    struct lease *prev, *next; /* of the owner */
    struct owner *owner;
    struct block *block;
    uint64_t until;
};

struct owner {
    struct owner *next; /* of the bucket */
    struct lease *leases;
    uint64_t ns;
    uint64_t earliest; /* no lease of this owner ends before */
    size_t bucket;
    char name[];
};

struct leases {
    struct memory *memory;
    uint64_t n;
    struct owner *buckets[BUCKETS];
};

struct leases *leases_new(struct memory *memory)
{
    struct leases *l = calloc(1, sizeof *l);
    if (l)
        l->memory = memory;
    return l;
}

static size_t bucket_of(uint64_t ns, const char *name)
{
    return XXH3_64bits_withSeed(name, strlen(name), ns) % BUCKETS;
}

static size_t owner_bytes(const struct owner *o)
{
    return sizeof *o + strlen(o->name) + 1;
}

static struct owner *find_owner(const struct leases *l, uint64_t ns, const char *name)
{
    struct owner *o = l->buckets[bucket_of(ns, name)];
    while (o && !(o->ns == ns && strcmp(o->name, name) == 0))
        o = o->next;
    return o;
}

static struct owner *make_owner(struct leases *l, uint64_t ns, const char *name)
{
    size_t len = strlen(name) + 1, bytes = sizeof(struct owner) + len;
    if (!memory_charge(l->memory, bytes))
        return NULL;
    struct owner *o = malloc(bytes);
    if (!o) {
        memory_uncharge(l->memory, bytes);
        return NULL;
    }
    *o = (struct owner){.ns = ns, .earliest = UINT64_MAX, .bucket = bucket_of(ns, name)};
    memcpy(o->name, name, len);
    o->next = l->buckets[o->bucket];
    l->buckets[o->bucket] = o;
    return o;
}

static void drop_owner_if_idle(struct leases *l, struct owner *o)
{
    if (o->leases)
        return;
    struct owner **at = &l->buckets[o->bucket];
    while (*at != o)
        at = &(*at)->next;
    *at = o->next;
    memory_uncharge(l->memory, owner_bytes(o));
    free(o);
}

/* Takes a lease out of both lists. The owner stays, for callers who walk its list. */
static void end(struct leases *l, struct lease *e)
{
    struct lease **at = &e->block->leases;
    while (*at != e)
        at = &(*at)->next_of_block;
    *at = e->next_of_block;
    if (e->prev)
        e->prev->next = e->next;
    else
        e->owner->leases = e->next;
    if (e->next)
        e->next->prev = e->prev;
    memory_uncharge(l->memory, sizeof *e);
    assert(l->n > 0);
    l->n--;
    free(e);
}

void leases_free(struct leases *l)
{
    if (!l)
        return;
    leases_tick(l, UINT64_MAX);
    assert(l->n == 0);
    free(l);
}

int lease_take(struct leases *l, const char *name, struct block *b, uint64_t until)
{
    unsigned n = 0;
    for (struct lease *e = b->leases; e; e = e->next_of_block, n++)
        if (strcmp(e->owner->name, name) == 0) { /* a block has one namespace, and so have its owners */
            e->until = until;
            if (until < e->owner->earliest)
                e->owner->earliest = until;
            return 0;
        }
    if (n >= LEASES_PER_BLOCK)
        return -EMLINK;
    struct owner *o = find_owner(l, b->key.ns, name);
    if (!o && !(o = make_owner(l, b->key.ns, name)))
        return -ENOSPC;
    struct lease *e = memory_charge(l->memory, sizeof *e) ? malloc(sizeof *e) : NULL;
    if (!e) {
        drop_owner_if_idle(l, o);
        return -ENOSPC;
    }
    *e =
        (struct lease){.next_of_block = b->leases, .next = o->leases, .owner = o, .block = b, .until = until};
    if (o->leases)
        o->leases->prev = e;
    o->leases = e;
    b->leases = e;
    if (until < o->earliest)
        o->earliest = until;
    l->n++;
    return 0;
}

bool lease_end(struct leases *l, const char *name, struct block *b)
{
    for (struct lease *e = b->leases; e; e = e->next_of_block)
        if (strcmp(e->owner->name, name) == 0) {
            struct owner *o = e->owner;
            end(l, e);
            drop_owner_if_idle(l, o);
            return true;
        }
    return false;
}

uint64_t lease_end_all(struct leases *l, uint64_t ns, const char *name)
{
    uint64_t n = 0;
    struct owner *o = find_owner(l, ns, name);
    if (!o)
        return 0;
    for (; o->leases; n++)
        end(l, o->leases);
    drop_owner_if_idle(l, o);
    return n;
}

const char *lease_owner(struct leases *l, struct block *b, uint64_t now)
{
    while (b->leases && b->leases->until <= now) {
        struct owner *o = b->leases->owner;
        end(l, b->leases);
        drop_owner_if_idle(l, o);
    }
    return b->leases ? b->leases->owner->name : NULL;
}

unsigned leases_of(struct leases *l, struct block *b, uint64_t now, const char **owners, uint64_t *until)
{
    unsigned n = 0;
    for (struct lease *e = b->leases, *next; e; e = next) {
        next = e->next_of_block;
        if (e->until > now) {
            owners[n] = e->owner->name;
            until[n++] = e->until;
            continue;
        }
        struct owner *o = e->owner;
        end(l, e);
        drop_owner_if_idle(l, o);
    }
    return n;
}

/* Ends the owner's ended leases and learns when the next one ends. */
static void expire(struct leases *l, struct owner *o, uint64_t now)
{
    o->earliest = UINT64_MAX;
    for (struct lease *e = o->leases, *next; e; e = next) {
        next = e->next;
        if (e->until <= now)
            end(l, e);
        else if (e->until < o->earliest)
            o->earliest = e->until;
    }
}

void leases_tick(struct leases *l, uint64_t now)
{
    for (size_t i = 0; i < BUCKETS; i++)
        for (struct owner *o = l->buckets[i], *next; o; o = next) {
            next = o->next;
            if (o->earliest <= now) {
                expire(l, o, now);
                drop_owner_if_idle(l, o);
            }
        }
}

uint64_t leases_count(const struct leases *l)
{
    return l->n;
}
