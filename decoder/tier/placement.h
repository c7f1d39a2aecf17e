/* placement.h: which node holds what.
 *
 * Rendezvous (highest-random-weight) hashing: every node draws a score from (its id, the thing's hash) and
 * its weight, and the order of the scores is the order in which nodes are asked. Adding or removing a node
 * moves only what it gains or loses; a node of weight 2 holds twice what one of weight 1 holds. The id that a
 * node gives in HELLO enters, not its address or its place in the list, so that both may change. */
#ifndef TIER_PLACEMENT_H
#define TIER_PLACEMENT_H

#include "common/cluster_view.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PLACEMENT_MAX_NODES = CLUSTER_MAX_NODES };

/* Parses "[id@]host:port[*weight],…" ("[::1]:7401" for IPv6; weight 1 by default) into
 * out[PLACEMENT_MAX_NODES]. -EINVAL with a sentence when the text is no such list or names an address or id
 * twice. */
int node_list_parse(const char *text, struct cluster_node *out, size_t *n, struct skv_error *err);

/* The cluster map: nodes under numbers below PLACEMENT_MAX_NODES that the caller gives. */
struct cluster_map {
    uint64_t epoch; /* rises with every change of the map */
    unsigned n;
    uint64_t members; /* bit i: there is a node of number i */
    struct {
        uint64_t id_hash;
        double weight;
        uint8_t number;
        bool draining;
    } nodes[PLACEMENT_MAX_NODES];
};

/* There must be room, and the number unused. */
void cluster_map_add(struct cluster_map *, unsigned number, const char *id, double weight, bool draining);

/* The numbers of all nodes in rank order for a thing of this hash (key_hash, name_hash): order[map->n], first
 * in rank first. Nodes that are draining come behind all others. */
void placement_rank(const struct cluster_map *, uint64_t hash, uint8_t *order);

uint64_t name_hash(unsigned kind, const char *name); /* of an object, for placement */

#endif
