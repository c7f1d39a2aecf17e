/* ram_store.h: sealed blocks by key, in memory.
 *
 * Everything the node asks of a store goes through these calls, and answers at once. What is asked about a
 * block (is it there, which checksums, whose lease) is answered from its entry; only ->buf is bytes. A disk
 * store keeps the same entries and fills ->buf later: see README.md, "Where the disk store goes". */
#ifndef MEMNODE_RAM_STORE_H
#define MEMNODE_RAM_STORE_H

#include "common/identity.h"
#include "memnode/memory.h"

struct lease;

/* An entry; owned by the store, valid until store_remove. */
struct block {
    struct block *next; /* of the hash bucket */
    uint64_t hash;
    struct block_key key;
    struct block_layout layout;
    float keep;           /* the latest HINT; higher is to be kept longer */
    struct buf *buf;      /* the payload; take a reference to use it beyond this call */
    struct lease *leases; /* leases.c's */
    uint64_t checksums[]; /* one a page, in payload order */
};

struct ram_store;

struct ram_store *store_new(struct memory *); /* NULL when out of memory; the memory is the caller's */
void store_free(struct ram_store *);          /* NULL is allowed. Leases must be gone. */

struct block *store_find(const struct ram_store *, const struct block_key *); /* NULL: not here */
/* Copies a block in. The key must not be there. -ENOSPC when the budget has no room. */
int store_put(struct ram_store *, const struct block_key *, const struct block_layout *, const void *payload,
              const uint64_t *checksums, struct block **out);
void store_remove(struct ram_store *, struct block *); /* must have no leases */

uint64_t store_blocks(const struct ram_store *);
uint64_t store_bytes(const struct ram_store *); /* of payload */

#endif
