/* ram_store.c: see ram_store.h. A chained hash table that doubles when it has as many blocks as buckets. */
#include "memnode/ram_store.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_BUCKETS = 1024 };

struct ram_store {
    struct memory *memory;
    struct block **buckets;
    size_t n_buckets; /* a power of two */
    uint64_t n_blocks, n_bytes;
};

struct ram_store *store_new(struct memory *memory)
{
    struct ram_store *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->memory = memory;
    s->n_buckets = FIRST_BUCKETS;
    s->buckets = calloc(s->n_buckets, sizeof *s->buckets);
    if (!s->buckets || !memory_charge(memory, s->n_buckets * sizeof *s->buckets)) {
        free(s->buckets);
        free(s);
        return NULL;
    }
    return s;
}

void store_free(struct ram_store *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->n_buckets; i++)
        while (s->buckets[i])
            store_remove(s, s->buckets[i]);
    memory_uncharge(s->memory, s->n_buckets * sizeof *s->buckets);
    free(s->buckets);
    free(s);
}

/* Where the pointer to the entry of this key is, or would be. */
static struct block **find_slot(const struct ram_store *s, const struct block_key *key, uint64_t hash)
{
    struct block **at = &s->buckets[hash & (s->n_buckets - 1)];
    while (*at && !((*at)->hash == hash && key_equal(&(*at)->key, key)))
        at = &(*at)->next;
    return at;
}

struct block *store_find(const struct ram_store *s, const struct block_key *key)
{
    return *find_slot(s, key, key_hash(key));
}

/* Without memory for it, the table just stays as it is: slower, not wrong. */
static void grow(struct ram_store *s)
{
    size_t n = s->n_buckets * 2, more = s->n_buckets * sizeof *s->buckets;
    if (!memory_charge(s->memory, more))
        return;
    struct block **buckets = calloc(n, sizeof *buckets);
    if (!buckets) {
        memory_uncharge(s->memory, more);
        return;
    }
    for (size_t i = 0; i < s->n_buckets; i++)
        for (struct block *b = s->buckets[i], *next; b; b = next) {
            next = b->next;
            b->next = buckets[b->hash & (n - 1)];
            buckets[b->hash & (n - 1)] = b;
        }
    free(s->buckets);
    s->buckets = buckets;
    s->n_buckets = n;
}

static size_t entry_bytes(const struct block_layout *l)
{
    return sizeof(struct block) + layout_pages(l) * sizeof(uint64_t);
}

int store_put(struct ram_store *s, const struct block_key *key, const struct block_layout *layout,
              const void *payload, const uint64_t *checksums, struct block **out)
{
    size_t len = layout_block_bytes(layout), entry = entry_bytes(layout);
    if (s->n_blocks >= s->n_buckets)
        grow(s);
    if (!memory_charge(s->memory, entry))
        return -ENOSPC;
    struct buf *buf = memory_block(s->memory, len);
    struct block *b = buf ? malloc(entry) : NULL;
    if (!b) {
        buf_unref(buf);
        memory_uncharge(s->memory, entry);
        return -ENOSPC;
    }
    memcpy(buf->data, payload, len);
    *b = (struct block){.hash = key_hash(key), .key = *key, .layout = *layout, .buf = buf};
    memcpy(b->checksums, checksums, layout_pages(layout) * sizeof *checksums);
    struct block **at = find_slot(s, key, b->hash);
    assert(!*at);
    *at = b;
    s->n_blocks++;
    s->n_bytes += len;
    *out = b;
    return 0;
}

void store_remove(struct ram_store *s, struct block *b)
{
    assert(!b->leases);
    struct block **at = find_slot(s, &b->key, b->hash);
    assert(*at == b);
    *at = b->next;
    s->n_blocks--;
    s->n_bytes -= b->buf->len;
    memory_uncharge(s->memory, entry_bytes(&b->layout));
    buf_unref(b->buf);
    free(b);
}

uint64_t store_blocks(const struct ram_store *s)
{
    return s->n_blocks;
}

uint64_t store_bytes(const struct ram_store *s)
{
    return s->n_bytes;
}
