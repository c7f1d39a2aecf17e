/* saved.h: leases of saved contexts, shared by saved.c and snapshot.c. */
#ifndef CONTEXT_SAVED_H
#define CONTEXT_SAVED_H

#include "decoder/context/manifest.h"

int saved_check_ttl(uint64_t ttl_ms, struct skv_error *); /* 0: the default, is fine */
/* Leases all its blocks for its ttl_ms. chain: (head.indexed, CHAIN_BYTES). */
int saved_lease(struct skv_tier *, const struct manifest *, const char *name, const uint8_t *chain,
                struct skv_error *);

#endif
