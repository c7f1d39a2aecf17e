/* server.h: the thin shell between a memory node's core, a zmq ROUTER and the disks. */
#ifndef MEMNODE_SERVER_H
#define MEMNODE_SERVER_H

#include "common/error.h"
#include "common/zmqx.h"
#include "memnode/node.h"

struct server;

/* ---- in this thread: what scoutkv-memnode does ---- */

/* Makes the node, and the io for its disks if it has any (opts->io is not looked at). listener comes from
 * zmqx_router with PROTO_MAX_PAYLOAD and stays the caller's. NULL and err on failure. */
struct server *server_new(struct zmqx_socket *listener, const struct node_opts *opts, struct skv_error *err);
/* Serves until stop_fd, an eventfd, becomes readable or the context is shut down; then writes what is not on
 * disk yet, for up to a minute, and says so in the log. What comes to stop_fd meanwhile is read, and answered
 * in the log. 0 when stopped. */
int server_run(struct server *, int stop_fd, struct skv_error *err);
void server_free(struct server *); /* NULL is allowed */

/* ---- in a thread of its own: the embedded node ---- */

/* Listens on endpoint ("inproc://…" of the same context, or tcp) and serves in a new thread. When it returns,
 * clients may connect. NULL and err on failure. */
struct server *server_start(void *zmq_ctx, const char *endpoint, const struct node_opts *,
                            struct skv_error *err);
/* Stops the thread, as server_run ends, and frees the node; bufs that clients still hold stay valid. NULL is
 * allowed. */
void server_stop(struct server *);
/* Where it listens (port 0 replaced). */
const char *server_endpoint(const struct server *);

#endif
