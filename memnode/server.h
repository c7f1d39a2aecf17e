/* server.h: the thin shell between a memory node's core and a zmq ROUTER. */
#ifndef MEMNODE_SERVER_H
#define MEMNODE_SERVER_H

#include "common/error.h"
#include "common/zmqx.h"
#include "memnode/node.h"

/* ---- in this thread: what scoutkv-memnode does ---- */

/* Serves until stop_fd becomes readable (an eventfd or signalfd; it is not read) or the context is shut down.
 * listener comes from zmqx_router with PROTO_MAX_PAYLOAD. 0 when stopped. */
int server_run(struct zmqx_socket *listener, const struct node_opts *, int stop_fd, struct skv_error *err);

/* ---- in a thread of its own: the embedded node ---- */

struct server;
/* Listens on endpoint ("inproc://…" of the same context, or tcp) and serves in a new thread. When it returns,
 * clients may connect. NULL and err on failure. */
struct server *server_start(void *zmq_ctx, const char *endpoint, const struct node_opts *,
                            struct skv_error *err);
/* Stops the thread and frees the node; bufs that clients still hold stay valid. NULL is allowed. */
void server_stop(struct server *);
/* Where it listens (port 0 replaced). */
const char *server_endpoint(const struct server *);

#endif
