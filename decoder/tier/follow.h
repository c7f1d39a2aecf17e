/* follow.h: the view of the cluster in etcd, followed by a thread: the client's own thread never waits for
 * etcd. While etcd does not answer the last view stays. */
#ifndef TIER_FOLLOW_H
#define TIER_FOLLOW_H

#include "common/cluster_view.h"

struct follow;

/* Gets the first view (waits for it) and follows it. NULL and err: etcd does not answer, or knows no view. */
struct follow *follow_start(const char *endpoints, const char *cluster, struct cluster_view *first,
                            struct skv_error *err);
void follow_stop(struct follow *); /* NULL is allowed */

/* A view that is newer than those before, malloc'd, or NULL. Costs next to nothing. */
struct cluster_view *follow_take(struct follow *);
/* How many times etcd stopped answering. */
uint64_t follow_losses(struct follow *);

#endif
