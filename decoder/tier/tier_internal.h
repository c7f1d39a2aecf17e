/* tier_internal.h: what the parts of the shell share: tier.c (sockets, pumping, PUTs and fetches), calls.c
 * (HAVE, DROP, PIN, STATS, each waiting for its answers), hint.c and objects.c. */
#ifndef TIER_TIER_INTERNAL_H
#define TIER_TIER_INTERNAL_H

#include "decoder/tier/client.h"

/* Answers that a waiting call still expects, and the first failure among them. */
struct tier_wait {
    unsigned open;
    struct skv_error failure; /* code 0: none */
};

/* Hints on their way, and those that failed. */
struct tier_told {
    unsigned open;
    uint64_t failed;
};

struct client *tier_client(struct tier *);
struct tier_told *tier_told(struct tier *);
uint64_t tier_ns(const struct tier *);
/* Notes one answer. */
void tier_wait_answered(struct tier_wait *, int rc, const struct skv_error *);
/* Pumps until nothing is open: requests have deadlines, so this ends. Returns the failure. */
int tier_wait_all(struct tier *, struct tier_wait *, struct skv_error *);

/* -EINVAL when `name` is not one; what: whose it is, for the sentence. */
int tier_check_name(const char *what, const char *name, struct skv_error *err);

/* The nodes in the rank of an object's name: those that live first, then the suspects, which are asked only
 * when nothing else helps, then those that are down. */
struct tier_ranked {
    uint8_t order[PLACEMENT_MAX_NODES];
    unsigned live, up; /* the first so many are; up: with the suspects */
    unsigned n;        /* all, as the view was then */
};
struct tier_ranked tier_rank_nodes(struct tier *, enum tier_object, const char *name);

#endif
