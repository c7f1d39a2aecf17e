/* zmqx.c: see zmqx.h. */
#include "common/zmqx.h"
#include "common/clock.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <zmq.h>

enum {
    HANDSHAKE_MS = 5000,
    CONNECT_MS = 3000,
    HEARTBEAT_MS = 3000, /* answered by libzmq's I/O thread: finds dead hosts, not stuck programs */
    HEARTBEAT_TIMEOUT_MS = 10000,
    RECONNECT_MS = 50,
    RECONNECT_MAX_MS = 1000,
    ROUTER_SNDHWM = 32, /* messages (of about 1 MiB at most) queued towards one peer */
    ROUTER_RCVHWM = 64, /* messages queued from one peer: then TCP pushes back on that peer alone */
    BACKLOG = 256,
    MAX_POLL = 257, /* a client's lanes, and what else it waits for */
};

/* DESIGN of waiting. Whatever asks libzmq whether there is something costs two system calls a socket, and
 * there would be several such questions a message. But libzmq's I/O thread makes a descriptor readable when
 * it has put something where this thread has not looked yet. So one poll(2) asks for all sockets, and libzmq
 * is asked only about those whose descriptor is readable, or which were used since they last had nothing:
 * sending may take notice of what has come, too. */
struct zmqx_socket {
    void *zmq;
    void *monitor; /* PAIR that libzmq reports to */
    int fd, monitor_fd;
    bool unsure; /* something may be there to receive though fd is not readable */
    bool router;
    struct zmqx_events events;
    char endpoint[ZMQX_ENDPOINT];
};

static int zmq_rc(void)
{
    return errno == ETERM ? -ESHUTDOWN : -errno;
}

/* ---- context ---- */

void *zmqx_ctx_new(unsigned io_threads, struct skv_error *err)
{
    void *ctx = zmq_ctx_new();
    if (!ctx || zmq_ctx_set(ctx, ZMQ_IO_THREADS, (int)io_threads) || zmq_ctx_set(ctx, ZMQ_BLOCKY, 0)) {
        skv_fail(err, -errno, "cannot set up zmq: %s", zmq_strerror(errno));
        zmqx_ctx_free(ctx);
        return NULL;
    }
    return ctx;
}

void zmqx_ctx_shutdown(void *ctx)
{
    zmq_ctx_shutdown(ctx);
}

void zmqx_ctx_free(void *ctx)
{
    while (ctx && zmq_ctx_term(ctx) == -1 && errno == EINTR)
        ;
}

/* ---- sockets ---- */

int zmqx_endpoint_parse(const char *addr, char out[ZMQX_ENDPOINT], struct skv_error *err)
{
    bool scheme = strstr(addr, "://") != NULL;
    int n = snprintf(out, ZMQX_ENDPOINT, "%s%s", scheme ? "" : "tcp://", addr);
    if (n < 0 || n >= ZMQX_ENDPOINT)
        return skv_fail(err, -EINVAL, "the address is longer than %d characters", ZMQX_ENDPOINT - 1);
    if (strncmp(out, "tcp://", 6) != 0)
        return scheme ? 0 : skv_fail(err, -EINVAL, "'%s' is not an address; write host:port", addr);
    const char *host = out + 6, *colon = strrchr(host, ':');
    char *end;
    errno = 0;
    unsigned long port = colon && colon[1] >= '0' && colon[1] <= '9' ? strtoul(colon + 1, &end, 10) : ~0ul;
    if (!colon || colon == host || port > 65535 || *end)
        return skv_fail(err, -EINVAL, "'%s' is not an address; write host:port, for example 127.0.0.1:7071",
                        addr);
    return 0;
}

static int set_int(void *zmq, int option, int value)
{
    return zmq_setsockopt(zmq, option, &value, sizeof value);
}

static int set_options(struct zmqx_socket *s, size_t max_frame, const char *endpoint)
{
    int64_t max = (int64_t)max_frame;
    int rc = zmq_setsockopt(s->zmq, ZMQ_MAXMSGSIZE, &max, sizeof max);
    rc |= set_int(s->zmq, ZMQ_LINGER, 0);
    rc |= set_int(s->zmq, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS);
    rc |= set_int(s->zmq, ZMQ_HEARTBEAT_IVL, HEARTBEAT_MS);
    rc |= set_int(s->zmq, ZMQ_HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS);
    rc |= set_int(s->zmq, ZMQ_HEARTBEAT_TTL, HEARTBEAT_TIMEOUT_MS);
    rc |= set_int(s->zmq, ZMQ_IPV6,
                  strchr(endpoint, '[') != NULL); /* on always, it would turn localhost into ::1 */
    rc |= set_int(s->zmq, ZMQ_SNDHWM, s->router ? ROUTER_SNDHWM : 0);
    rc |= set_int(s->zmq, ZMQ_RCVHWM, s->router ? ROUTER_RCVHWM : 0);
    if (s->router) {
        rc |= set_int(s->zmq, ZMQ_ROUTER_MANDATORY, 1);
        rc |= set_int(s->zmq, ZMQ_BACKLOG, BACKLOG);
    } else {
        rc |= set_int(s->zmq, ZMQ_IMMEDIATE, 1);
        rc |= set_int(s->zmq, ZMQ_CONNECT_TIMEOUT, CONNECT_MS);
        rc |= set_int(s->zmq, ZMQ_RECONNECT_IVL, RECONNECT_MS);
        rc |= set_int(s->zmq, ZMQ_RECONNECT_IVL_MAX, RECONNECT_MAX_MS);
    }
    return rc;
}

static int monitor_start(void *ctx, struct zmqx_socket *s)
{
    /* A name is free only some time after its socket was closed, so none is used twice. */
    static _Atomic unsigned long n_monitors;
    char name[64];
    snprintf(name, sizeof name, "inproc://zmqx-monitor-%lu", n_monitors++);
    if (zmq_socket_monitor(s->zmq, name,
                           ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_CONNECTED | ZMQ_EVENT_DISCONNECTED |
                               ZMQ_EVENT_CONNECT_RETRIED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                               ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH))
        return -1;
    s->monitor = zmq_socket(ctx, ZMQ_PAIR);
    if (!s->monitor || set_int(s->monitor, ZMQ_LINGER, 0) || zmq_connect(s->monitor, name))
        return -1;
    size_t len = sizeof s->monitor_fd;
    return zmq_getsockopt(s->monitor, ZMQ_FD, &s->monitor_fd, &len);
}

/* The ports that the kernel gives to outgoing connections begin here. */
static unsigned first_outgoing_port(void)
{
    unsigned from = 32768;
    FILE *f = fopen("/proc/sys/net/ipv4/ip_local_port_range", "r");
    if (f && fscanf(f, "%u", &from) != 1)
        from = 32768;
    if (f)
        fclose(f);
    return from;
}

/* Binds; port 0 is any free one. The kernel would pick it among those of outgoing connections, and while a
 * program that restarts is away, one of those may take it: even the one by which a client tries to reach it.
 */
static int bind_socket(void *zmq, const char *endpoint)
{
    enum { LOWEST = 10000, TRIES = 64 };
    size_t n = strlen(endpoint);
    unsigned end = first_outgoing_port(), lot;
    char at[ZMQX_ENDPOINT];
    if (n < 2 || n - 1 >= sizeof at - 6 || strcmp(endpoint + n - 2, ":0") || end <= LOWEST + TRIES)
        return zmq_bind(zmq, endpoint);
    for (int i = 0; i < TRIES; i++) {
        if (getrandom(&lot, sizeof lot, 0) != sizeof lot)
            break;
        snprintf(at, sizeof at, "%.*s%u", (int)(n - 1), endpoint, LOWEST + lot % (end - LOWEST));
        if (zmq_bind(zmq, at) == 0)
            return 0;
        if (errno != EADDRINUSE)
            return -1;
    }
    return zmq_bind(zmq, endpoint);
}

static int open_socket(void *ctx, bool router, const char *endpoint, size_t max_frame,
                       struct zmqx_socket **out, struct skv_error *err)
{
    int rc = 0;
    struct zmqx_socket *s = calloc(1, sizeof *s);
    if (!s)
        return skv_fail(err, -ENOMEM, "out of memory");
    s->router = router;
    s->unsure = true;
    s->zmq = zmq_socket(ctx, router ? ZMQ_ROUTER : ZMQ_DEALER);
    size_t len = sizeof s->fd;
    if (!s->zmq || zmq_getsockopt(s->zmq, ZMQ_FD, &s->fd, &len) || set_options(s, max_frame, endpoint) ||
        monitor_start(ctx, s)) {
        rc = skv_fail(err, -errno, "cannot make a socket: %s", zmq_strerror(errno));
        goto error;
    }
    /* zmq binds to addresses and devices, not to names; this one name everybody writes. */
    static const char localhost[] = "tcp://localhost:";
    char address[ZMQX_ENDPOINT + 16];
    if (router && strncmp(endpoint, localhost, sizeof localhost - 1) == 0) {
        snprintf(address, sizeof address, "tcp://127.0.0.1:%s", endpoint + sizeof localhost - 1);
        endpoint = address;
    }
    if (router ? bind_socket(s->zmq, endpoint) : zmq_connect(s->zmq, endpoint)) {
        int e = errno;
        const char *hint = e == EADDRINUSE ? "another program listens there; choose another port"
                           : e == EADDRNOTAVAIL || e == ENODEV
                               ? "that address is not one of this machine's; give its IP address"
                               : "check the address";
        rc = skv_fail(err, -e, "cannot %s %s: %s (%s)", router ? "listen on" : "connect to", endpoint,
                      zmq_strerror(e), hint);
        goto error;
    }
    len = sizeof s->endpoint;
    if (!router || zmq_getsockopt(s->zmq, ZMQ_LAST_ENDPOINT, s->endpoint, &len))
        snprintf(s->endpoint, sizeof s->endpoint, "%.255s", endpoint);
    *out = s;
    return 0;
error:
    zmqx_close(s);
    return rc;
}

int zmqx_router(void *ctx, const char *endpoint, size_t max_frame, struct zmqx_socket **out,
                struct skv_error *err)
{
    return open_socket(ctx, true, endpoint, max_frame, out, err);
}

int zmqx_dealer(void *ctx, const char *endpoint, size_t max_frame, struct zmqx_socket **out,
                struct skv_error *err)
{
    return open_socket(ctx, false, endpoint, max_frame, out, err);
}

void zmqx_close(struct zmqx_socket *s)
{
    if (!s)
        return;
    if (s->zmq)
        zmq_socket_monitor(s->zmq, NULL, 0);
    if (s->monitor)
        zmq_close(s->monitor);
    if (s->zmq)
        zmq_close(s->zmq);
    free(s);
}

const char *zmqx_endpoint(const struct zmqx_socket *s)
{
    return s->endpoint;
}

/* ---- receiving ---- */

/* A buf whose bytes are a zmq message. The first of several payload frames has the others. */
struct frame_buf {
    struct buf buf;
    zmq_msg_t msg;
    struct view *rest;
};

static void release_frame(struct buf *b)
{
    struct frame_buf *f = (struct frame_buf *)b;
    for (unsigned i = 0; i < b->n_rest; i++)
        buf_unref(f->rest[i].owner);
    free(f->rest);
    zmq_msg_close(&f->msg);
    free(f);
}

/* Moves a frame into a view of one reference; closes it when out of memory. */
static int wrap_frame(zmq_msg_t *msg, struct view *out)
{
    struct frame_buf *f = calloc(1, sizeof *f);
    if (!f) {
        zmq_msg_close(msg);
        return -ENOMEM;
    }
    zmq_msg_init(&f->msg);
    zmq_msg_move(&f->msg, msg);
    zmq_msg_close(msg);
    atomic_init(&f->buf.refs, 1);
    f->buf.len = zmq_msg_size(&f->msg);
    f->buf.data = zmq_msg_data(&f->msg);
    f->buf.release = release_frame;
    *out = (struct view){f->buf.data, f->buf.len, &f->buf};
    return 0;
}

/* The same for a payload frame behind the first one. */
static int wrap_another(zmq_msg_t *msg, struct view *payload)
{
    struct frame_buf *first = (struct frame_buf *)payload->owner;
    if (!first->rest && !(first->rest = malloc((ZMQX_PAYLOADS - 1) * sizeof *first->rest))) {
        zmq_msg_close(msg);
        return -ENOMEM;
    }
    int rc = wrap_frame(msg, &first->rest[first->buf.n_rest]);
    first->buf.rest = first->rest;
    first->buf.n_rest += rc == 0;
    return rc;
}

static int recv_frame(struct zmqx_socket *s, zmq_msg_t *msg)
{
    zmq_msg_init(msg);
    while (zmq_msg_recv(msg, s->zmq, ZMQ_DONTWAIT) == -1)
        if (errno != EINTR) {
            int rc = zmq_rc();
            zmq_msg_close(msg);
            return rc;
        }
    return 0;
}

void zmqx_message_clear(struct zmqx_message *m)
{
    buf_unref(m->header.owner);
    buf_unref(m->payload.owner);
    m->header = m->payload = (struct view){0};
}

int zmqx_recv(struct zmqx_socket *s, struct zmqx_message *out)
{
    zmq_msg_t msg;
    int rc = recv_frame(s, &msg);
    if (rc) {
        s->unsure = rc != -EAGAIN;
        return rc;
    }
    s->unsure = true;
    out->peer.len = 0;
    out->header = out->payload = (struct view){0};
    out->n_frames = 0;
    bool more = zmq_msg_more(&msg);
    if (s->router) {
        assert(zmq_msg_size(&msg) <= sizeof out->peer.id);
        out->peer.len = (uint8_t)zmq_msg_size(&msg);
        memcpy(out->peer.id, zmq_msg_data(&msg), out->peer.len);
        zmq_msg_close(&msg);
        if (!more) /* a routing id alone: no message at all, answered as a malformed one */
            return 0;
        if ((rc = recv_frame(s, &msg)))
            return rc;
        more = zmq_msg_more(&msg);
    }
    /* The rest of a multipart message is here already: libzmq shows only complete ones. */
    for (;; more = zmq_msg_more(&msg)) {
        unsigned at = out->n_frames++;
        if (rc || at > ZMQX_PAYLOADS)
            zmq_msg_close(&msg);
        else
            rc = at > 1 ? wrap_another(&msg, &out->payload)
                        : wrap_frame(&msg, at == 0 ? &out->header : &out->payload);
        if (!more)
            break;
        int next = recv_frame(s, &msg);
        if (next) {
            rc = next;
            break;
        }
    }
    if (rc)
        zmqx_message_clear(out);
    return rc;
}

/* ---- sending ---- */

static void free_frame(void *data, void *hint)
{
    (void)data;
    buf_unref(hint);
}

static int make_frame(zmq_msg_t *msg, const struct view *v)
{
    if (!v->owner) {
        if (zmq_msg_init_size(msg, v->len))
            return -ENOMEM;
        if (v->len)
            memcpy(zmq_msg_data(msg), v->data, v->len);
        return 0;
    }
    if (zmq_msg_init_data(msg, (void *)(uintptr_t)v->data, v->len, free_frame, v->owner))
        return -ENOMEM;
    buf_ref(v->owner); /* the caller holds a reference meanwhile, and nobody else sees the message yet */
    return 0;
}

/* Takes the frame: it is sent, or closed. */
static int send_frame(struct zmqx_socket *s, zmq_msg_t *msg, bool more)
{
    while (zmq_msg_send(msg, s->zmq, ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0)) == -1)
        if (errno != EINTR) {
            int rc = zmq_rc();
            zmq_msg_close(msg);
            return rc;
        }
    return 0;
}

int zmqx_send(struct zmqx_socket *s, const struct zmqx_peer *peer, struct buf *header,
              const struct view *payload)
{
    assert(s->router == (peer != NULL));
    struct view parts[2 + ZMQX_PAYLOADS];
    zmq_msg_t frames[2 + ZMQX_PAYLOADS];
    unsigned n = 0, made = 0, sent = 0;
    int rc = 0;
    s->unsure = true;
    /* The routing id comes first: there a ROUTER decides whether the peer is known and has room; if not,
     * nothing is sent. */
    if (peer)
        parts[n++] = (struct view){peer->id, peer->len, NULL};
    parts[n++] = (struct view){header->data, header->len, header};
    assert(!payload || view_parts(payload) <= ZMQX_PAYLOADS);
    for (unsigned i = 0; payload && i < view_parts(payload); i++)
        parts[n++] = *view_part(payload, i);
    /* All are made before one is sent: a message can't be left half-way for want of memory. */
    while (rc == 0 && made < n)
        if ((rc = make_frame(&frames[made], &parts[made])) == 0)
            made++;
    while (rc == 0 && sent < n) {
        rc = send_frame(s, &frames[sent],
                        sent + 1 < n); /* a DEALER whose pipe just died takes the header back */
        sent++;
    }
    while (sent < made)
        zmq_msg_close(&frames[sent++]);
    return rc;
}

/* ---- waiting ---- */

/* Asks libzmq. 1 if the item is ready, 0 or -ESHUTDOWN. */
static int look(struct zmqx_poll_item *item)
{
    int events;
    size_t len = sizeof events;
    if (zmq_getsockopt(item->socket->zmq, ZMQ_EVENTS, &events, &len))
        return zmq_rc();
    item->readable = events & ZMQ_POLLIN;
    item->writable = item->want_write && events & ZMQ_POLLOUT;
    item->socket->unsure = item->readable;
    return item->readable || item->writable;
}

/* Of all items, whatever their descriptors say: how many are ready, or -ESHUTDOWN. */
static int look_at_unsure(struct zmqx_poll_item *items, unsigned n)
{
    int ready = 0;
    for (unsigned i = 0; i < n; i++) {
        struct zmqx_poll_item *item = &items[i];
        item->readable = item->writable = item->told = false;
        int rc = item->socket && (item->socket->unsure || item->want_write) ? look(item) : 0;
        if (rc < 0)
            return rc;
        ready += rc;
    }
    return ready;
}

/* One poll(2): how many more items are ready, or -errno. */
static int poll_once(struct zmqx_poll_item *items, unsigned n, int timeout_ms)
{
    struct pollfd p[2 * MAX_POLL];
    for (unsigned i = 0; i < n; i++) {
        const struct zmqx_socket *s = items[i].socket;
        p[2 * i] = (struct pollfd){.fd = s ? s->fd : items[i].fd, .events = POLLIN};
        p[2 * i + 1] =
            (struct pollfd){.fd = s && items[i].want_events ? s->monitor_fd : -1, .events = POLLIN};
    }
    int rc = poll(p, 2 * n, timeout_ms), ready = 0;
    if (rc <= 0)
        return rc < 0 ? -errno : 0;
    for (unsigned i = 0; i < n; i++) {
        struct zmqx_poll_item *item = &items[i];
        bool before = item->readable || item->writable, signalled = p[2 * i].revents;
        item->told = p[2 * i + 1].revents;
        if (!item->socket)
            item->readable = signalled;
        else if (signalled && (rc = look(item)) < 0)
            return rc;
        ready += !before && (item->readable || item->writable || item->told);
    }
    return ready;
}

int zmqx_poll(struct zmqx_poll_item *items, unsigned n, int timeout_ms)
{
    uint64_t end = timeout_ms > 0 ? clock_ns() + (uint64_t)timeout_ms * NS_PER_MS : 0;
    assert(n <= MAX_POLL);
    int ready = look_at_unsure(items, n);
    if (ready < 0)
        return ready;
    int more = poll_once(items, n, ready ? 0 : timeout_ms);
    /* libzmq also tells of what concerns itself alone. */
    for (uint64_t now; !ready && !more && timeout_ms && (timeout_ms < 0 || (now = clock_ns()) < end);)
        more = poll_once(items, n, timeout_ms < 0 ? -1 : (int)((end - now + NS_PER_MS - 1) / NS_PER_MS));
    return more == -EINTR ? ready : more < 0 ? more : ready + more;
}

/* ---- monitor ---- */

/* An event is two frames: its number (u16) and value (u32), then the endpoint. */
struct zmqx_events zmqx_events(struct zmqx_socket *s)
{
    zmq_msg_t msg;
    for (;;) {
        zmq_msg_init(&msg);
        if (zmq_msg_recv(&msg, s->monitor, ZMQ_DONTWAIT) == -1)
            break;
        uint16_t event = 0;
        if (zmq_msg_more(&msg) && zmq_msg_size(&msg) >= sizeof event)
            memcpy(&event, zmq_msg_data(&msg), sizeof event);
        zmq_msg_close(&msg);
        switch (event) {
        case ZMQ_EVENT_ACCEPTED:
            s->events.accepted++;
            break;
        case ZMQ_EVENT_CONNECTED:
            s->events.connected++;
            break;
        case ZMQ_EVENT_DISCONNECTED:
            s->events.disconnected++;
            break;
        case ZMQ_EVENT_CONNECT_RETRIED:
            s->events.retried++;
            break;
        case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
        case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH:
            s->events.handshake_failed++;
            break;
        }
    }
    zmq_msg_close(&msg);
    return s->events;
}
