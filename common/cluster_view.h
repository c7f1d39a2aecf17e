/* cluster_view.h: which memory nodes a cluster has, at one moment.
 *
 * A view has an epoch: the higher one is the newer, and everybody who sees two keeps that. Its text is what
 * people write, what travels and what etcd holds:
 *
 *     # the cluster "demo"
 *     epoch 7
 *     n1@10.0.0.1:7401
 *     n2@10.0.0.2:7401*2            # twice the share
 *     n3@10.0.0.3:7401 draining     # is read, and not written to
 *
 * Nodes go by their ids: addresses, and the order of the lines, may change. */
#ifndef COMMON_CLUSTER_VIEW_H
#define COMMON_CLUSTER_VIEW_H

#include "common/buf.h"
#include "common/error.h"

#include <stdbool.h>

enum {
    CLUSTER_MAX_NODES = 64,
    CLUSTER_VIEW_TEXT = 64 << 10, /* bytes of a view's text, at most */
};

struct cluster_node {
    char id[64];       /* in a view never empty; in --nodes it may be: the node will say */
    char address[264]; /* "host:port", for people and for zmq */
    double weight;     /* its share of the blocks, beside the others' */
    bool draining;
};

struct cluster_view {
    uint64_t epoch; /* 0: written by hand, older than any that a cluster made */
    size_t n;
    struct cluster_node node[CLUSTER_MAX_NODES];
};

/* One "[id@]host:port[*weight]" of len bytes. NULL, or what is wrong with it: the end of a sentence. */
const char *cluster_node_parse(const char *text, size_t len, struct cluster_node *out);

/* -EINVAL with the line and what is wrong with it; a view has at least one node, and no id or address twice.
 * out is undefined then. */
int cluster_view_parse(const char *text, size_t len, struct cluster_view *out, struct skv_error *err);
/* The same from a file; -errno of reading it. */
int cluster_view_load(const char *path, struct cluster_view *out, struct skv_error *err);
/* Text that parses to the same view: a new buf of one reference; NULL when out of memory. */
struct buf *cluster_view_format(const struct cluster_view *);

/* The same epoch and the same nodes, in whatever order. */
bool cluster_view_equal(const struct cluster_view *, const struct cluster_view *);
/* The node of this id, or NULL. */
const struct cluster_node *cluster_view_find(const struct cluster_view *, const char *id);

#endif
