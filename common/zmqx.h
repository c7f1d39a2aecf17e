/* zmqx.h: the only place that touches raw zmq (but for decoder/cli/peer_zmq.c, which measures it bare).
 *
 * DESIGN. Two kinds of socket: a node's ROUTER (binds) and a client's DEALER (connects; one lane). A message
 * is one header frame and at most one payload frame; both travel without copies: sending hands zmq a
 * reference on a buf, and a received frame stays a zmq message behind a buf. Nothing here waits except
 * zmqx_poll: send and receive answer -EAGAIN.
 *
 * Memory is bounded by the protocol's byte credits, not by zmq's message counts. Only the ROUTER has (small)
 * high-water marks: towards a peer that does not read, zmqx_send answers -EAGAIN instead of queueing without
 * end.
 *
 * What libzmq drops by itself (bytes that are not ZMTP, frames beyond the limit, peers gone silent) never
 * reaches the program as a message; zmqx_events counts it through the socket's monitor.
 *
 * A socket belongs to one thread. bufs may be released on any (zmq frees messages on its own). */
#ifndef COMMON_ZMQX_H
#define COMMON_ZMQX_H

#include "common/buf.h"
#include "common/error.h"

#include <stdbool.h>

/* ---- context ---- */

/* A zmq context: sockets that talk over inproc:// must share one. NULL and err when it cannot be made. */
void *zmqx_ctx_new(unsigned io_threads, struct skv_error *err);
/* Makes every waiting or later call on the context's sockets answer -ESHUTDOWN; any thread may call it. */
void zmqx_ctx_shutdown(void *ctx);
/* Frees the context; all its sockets must have been closed. NULL is allowed. */
void zmqx_ctx_free(void *ctx);

/* ---- sockets ---- */

struct zmqx_socket;

enum { ZMQX_ENDPOINT = 256 }; /* bytes that hold any endpoint */

/* "host:port" -> "tcp://host:port"; what has a scheme already is copied. -EINVAL for what can't be an
 * address. */
int zmqx_endpoint_parse(const char *addr, char out[ZMQX_ENDPOINT], struct skv_error *err);

/* Binds. Peers that send a frame of more than max_frame bytes are disconnected. */
int zmqx_router(void *ctx, const char *endpoint, size_t max_frame, struct zmqx_socket **out,
                struct skv_error *err);
/* Starts connecting and returns at once. Nothing can be sent (-EAGAIN) until the connection stands; after a
 * lost one, libzmq reconnects by itself and the peer sees a newcomer. */
int zmqx_dealer(void *ctx, const char *endpoint, size_t max_frame, struct zmqx_socket **out,
                struct skv_error *err);
/* Drops what is unsent. NULL is allowed. */
void zmqx_close(struct zmqx_socket *);
/* The address that a ROUTER is really bound to (port 0 replaced), or the one that a DEALER was given. */
const char *zmqx_endpoint(const struct zmqx_socket *);

/* ---- messages ---- */

/* Who is at the other end of a ROUTER: zmq's routing id. Unused on a DEALER. */
struct zmqx_peer {
    uint8_t len;
    uint8_t id[255];
};

enum { ZMQX_PAYLOADS = 16 }; /* payload frames of a message, at most */

/* One received message. Both views own a reference each, to be dropped by zmqx_message_clear (or taken away
 * by setting owner to NULL). Bytes have no alignment. A small frame may keep an 8 KiB receive buffer of
 * libzmq alive: copy what is to be kept for long and is smaller than that. */
struct zmqx_message {
    struct zmqx_peer peer;
    struct view header;  /* frame 0 */
    struct view payload; /* frame 1; the others are its owner's rest. len 0 and owner NULL: there is none */
    unsigned n_frames;   /* at most 1 + ZMQX_PAYLOADS; more were received and thrown away */
};
void zmqx_message_clear(struct zmqx_message *);

/* 0, -EAGAIN when nothing has come, -ESHUTDOWN at shutdown, -ENOMEM (the message is lost). */
int zmqx_recv(struct zmqx_socket *, struct zmqx_message *out);

/* Sends a header and, unless payload is NULL or empty, a frame for each part of the payload. Takes references
 * of its own on header and payload->owner (a view without an owner is copied); they are dropped once the
 * bytes are on their way. peer is NULL on a DEALER. 0; -EAGAIN: not now, nothing was sent; -EHOSTUNREACH:
 * that peer is gone; -ESHUTDOWN at shutdown. */
int zmqx_send(struct zmqx_socket *, const struct zmqx_peer *peer, struct buf *header,
              const struct view *payload);

/* ---- waiting ---- */

struct zmqx_poll_item {
    struct zmqx_socket *socket; /* or NULL: then fd */
    int fd;
    bool want_write;  /* besides reading; a ROUTER is always writable, so this serves DEALERs */
    bool want_events; /* and what zmqx_events counts */
    bool readable, writable;
    bool told; /* zmqx_events has news */
};
/* Waits until one item is ready, for at most timeout_ms (-1: for ever). The number of ready items, 0 on
 * timeout or signal, -ESHUTDOWN at shutdown. Sockets that are not readable need not be asked: zmqx_recv would
 * say -EAGAIN, at the price of two system calls. */
int zmqx_poll(struct zmqx_poll_item *, unsigned n, int timeout_ms);

/* ---- what libzmq did by itself ---- */

struct zmqx_events {
    uint64_t accepted;  /* connections taken (ROUTER) */
    uint64_t connected; /* connections made (DEALER): more than 1 means that the peer sees a newcomer */
    uint64_t
        disconnected; /* connections ended: by the peer, by silence, or by libzmq over bytes it refuses */
    uint64_t handshake_failed; /* did not speak ZMTP, or not in time */
    uint64_t retried;          /* connection attempts that failed (DEALER) */
};
/* Totals since the socket was made. */
struct zmqx_events zmqx_events(struct zmqx_socket *);

#endif
