/* tier_internal.h: what the two parts of the shell share: tier.c (sockets, pumping, PUTs and fetches) and
 * calls.c (HAVE, HINT, DROP, PIN, objects, STATS, each waiting for its answers). */
#ifndef TIER_TIER_INTERNAL_H
#define TIER_TIER_INTERNAL_H

#include "decoder/tier/client.h"

/* Answers that a waiting call still expects, and the first failure among them. */
struct tier_wait {
    unsigned open;
    struct skv_error failure; /* code 0: none */
};

struct client *tier_client(struct tier *);
uint64_t tier_ns(const struct tier *);
/* Notes one answer. */
void tier_wait_answered(struct tier_wait *, int rc, const struct skv_error *);
/* Pumps until nothing is open: requests have deadlines, so this ends. Returns the failure. */
int tier_wait_all(struct tier *, struct tier_wait *, struct skv_error *);

#endif
