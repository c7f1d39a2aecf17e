/* etcd.h: the view of a cluster in etcd, through its HTTP/JSON gateway (v3).
 *
 * Under /scoutkv/CLUSTER/ lie `view`, the text of cluster_view.h, and `nodes/ID`, one line a node that runs,
 * which goes with the node's lease. The epoch of the view is the revision at which its key was last changed.
 * Who is alive changes nothing in the view: only who adds, drains or removes a node does.
 *
 * Every call waits, for at most ETCD_TIMEOUT_MS an endpoint: so none is made by a thread that serves or
 * decodes. A handle belongs to one thread. */
#ifndef COMMON_ETCD_H
#define COMMON_ETCD_H

#include "common/cluster_view.h"

enum { ETCD_TIMEOUT_MS = 2000 };

struct etcd;

/* endpoints: "host:port,host:port…", each perhaps with http:// or https:// before it; the first that answers
 * is asked. NULL and err: they are none, or out of memory. */
struct etcd *etcd_open(const char *endpoints, const char *cluster, struct skv_error *err);
void etcd_close(struct etcd *); /* NULL is allowed */

/* -ENOENT: there is no view yet; -EHOSTUNREACH: no endpoint answers; -EPROTO: not as etcd does. */
int etcd_view_get(struct etcd *, struct cluster_view *out, struct skv_error *err);
/* Replaces the view of v->epoch (0: there is none) by v, and sets v->epoch to its new one. -ESTALE: somebody
 * else has changed it. */
int etcd_view_put(struct etcd *, struct cluster_view *v, struct skv_error *err);

/* A lease of ttl_s seconds, and the node's line with it. */
int etcd_register(struct etcd *, const struct cluster_node *, unsigned ttl_s, int64_t *lease,
                  struct skv_error *err);
/* -ENOENT: it has ended. */
int etcd_keep_alive(struct etcd *, int64_t lease, struct skv_error *err);
int etcd_unregister(struct etcd *, int64_t lease, struct skv_error *err);

#endif
