/* leases.h: who needs which block, until when. A lease is the pair (owner, block); taking it again only moves
 * its end. Owners are names (of manifests) within a namespace. A leased block is not dropped. */
#ifndef MEMNODE_LEASES_H
#define MEMNODE_LEASES_H

#include "memnode/store/store.h"

enum { LEASES_PER_BLOCK = 64 }; /* bounds memory; a block with so many owners refuses another */

struct leases;

struct leases *leases_new(struct memory *); /* NULL when out of memory */
void leases_free(struct leases *);          /* ends all of them; before store_close */

/* -ENOSPC when there is no memory, -EMLINK at LEASES_PER_BLOCK. */
int lease_take(struct leases *, const char *owner, struct block *, uint64_t until_ns);
bool lease_end(struct leases *, const char *owner, struct block *);      /* false: there was none */
uint64_t lease_end_all(struct leases *, uint64_t ns, const char *owner); /* how many there were */

/* An owner of a lease on this block that has not ended, or NULL; forgets the ended ones. */
const char *lease_owner(struct leases *, struct block *, uint64_t now_ns);
/* The leases on this block that have not ended: up to LEASES_PER_BLOCK names (valid until the next call) and
 * when they end; forgets the ended ones. */
unsigned leases_of(struct leases *, struct block *, uint64_t now_ns, const char **owners, uint64_t *until_ns);
/* Forgets what has ended. */
void leases_tick(struct leases *, uint64_t now_ns);

uint64_t leases_count(const struct leases *);

#endif
