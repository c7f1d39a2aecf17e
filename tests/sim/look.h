/* look.h: looks inside the cores. Two files, as the cores' own headers don't go together. */
#ifndef TESTS_SIM_LOOK_H
#define TESTS_SIM_LOOK_H

#include <stdbool.h>
#include <stdint.h>

struct block_key;
struct client;
struct node;

/* ---- look_node.c ---- */

/* The checksums of the block that the node holds under this key, or NULL. */
const uint64_t *look_block(struct node *, const struct block_key *);
uint64_t look_leases(struct node *);
uint64_t look_refused(struct node *); /* requests, since it began */
uint64_t look_evicted(struct node *); /* blocks, from its disks */
uint64_t look_epoch(struct node *);   /* of the view that it knows */
bool look_starting(struct node *);
/* What is still on its way inside, as a sentence; NULL: nothing is. */
const char *look_node_busy(struct node *);

/* ---- look_client.c ---- */

/* Credit, asked bytes or requests that are still taken, as a sentence; NULL: none are. */
const char *look_client_busy(struct client *);

#endif
