/* registration.h: a memory node tells etcd that it is there.
 *
 * In a thread of its own, so that nothing which serves ever waits for etcd. When the node starts it joins the
 * cluster's view if it is not in it (or corrects its address there); after that only `scoutkv cluster`
 * changes the view. A lease says that it lives. While etcd does not answer the node serves on, and says so
 * once. */
#ifndef MEMNODE_REGISTRATION_H
#define MEMNODE_REGISTRATION_H

#include "common/cluster_view.h"
#include "common/log.h"

struct registration;

/* Strings and log are kept by the caller. NULL and err: endpoints are none, or out of memory. etcd itself may
 * be away. */
struct registration *registration_start(const char *endpoints, const char *cluster,
                                        const struct cluster_node *, const struct log *,
                                        struct skv_error *err);
void registration_stop(struct registration *); /* gives the lease back; NULL is allowed */

#endif
