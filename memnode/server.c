/* server.c: see server.h. One loop: receive a bounded batch, let the core act, give it its ticks, sleep. */
#include "memnode/server.h"
#include "common/clock.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
    BATCH = 64, /* messages received before anything else gets its turn */
    TICK_MS = 500,
    BLOCKED_MS = 1, /* a ROUTER can't be polled for room towards one peer */
};

struct shell {
    struct zmqx_socket *socket;
    struct node *node;
};

static int send_answer(void *arg, const struct node_peer *p, struct buf *header, const struct view *payload)
{
    struct shell *s = arg;
    struct zmqx_peer to = {.len = p->len};
    memcpy(to.id, p->id, p->len);
    return zmqx_send(s->socket, &to, header, payload);
}

static void act(struct node *n, const struct zmqx_message *z, uint64_t now)
{
    struct node_peer from = {.len = z->peer.len};
    struct message m;
    struct skv_error why;
    uint64_t id;
    memcpy(from.id, z->peer.id, z->peer.len);
    int rc = message_parse(&m, z->header.data, z->header.len, z->n_frames, z->payload, &id, &why);
    if (rc)
        node_malformed(n, &from, id, rc, why.text, now);
    else
        node_receive(n, &from, &m, now);
    message_clear(&m);
}

/* Receives what is there, at most a batch. 0 or -ESHUTDOWN. */
static int drain(struct shell *s)
{
    for (int i = 0; i < BATCH; i++) {
        struct zmqx_message z;
        int rc = zmqx_recv(s->socket, &z);
        if (rc == -EAGAIN)
            return 0;
        if (rc == -ENOMEM) /* that message is lost; its sender's deadline will tell */
            continue;
        if (rc)
            return rc;
        act(s->node, &z, clock_ns());
        zmqx_message_clear(&z);
    }
    return 0;
}

static void tick(struct shell *s, uint64_t now)
{
    struct zmqx_events e = zmqx_events(s->socket);
    node_set_transport(s->node, &(struct node_transport){.accepted = e.accepted,
                                                         .disconnected = e.disconnected,
                                                         .handshake_failed = e.handshake_failed});
    node_tick(s->node, now);
}

/* Serves until stop_fd is readable (0) or the context is shut down (-ESHUTDOWN). */
static int serve(struct shell *s, int stop_fd)
{
    uint64_t next_tick = 0;
    for (;;) {
        uint64_t now = clock_ns();
        if (now >= next_tick) {
            tick(s, now);
            next_tick = now + TICK_MS * NS_PER_MS;
        }
        enum node_work work = node_run(s->node, now);
        int wait = work == NODE_BUSY      ? 0
                   : work == NODE_BLOCKED ? BLOCKED_MS
                                          : (int)((next_tick - now) / NS_PER_MS) + 1;
        struct zmqx_poll_item items[] = {{.socket = s->socket}, {.fd = stop_fd}};
        int rc = zmqx_poll(items, 2, wait);
        if (rc >= 0 && items[1].readable)
            return 0;
        if (rc > 0 && items[0].readable)
            rc = drain(s);
        if (rc < 0)
            return rc;
    }
}

int server_run(struct zmqx_socket *listener, const struct node_opts *opts, int stop_fd, struct skv_error *err)
{
    struct shell s = {.socket = listener};
    s.node = node_new(opts, send_answer, &s, err);
    if (!s.node)
        return err ? err->code : -ENOMEM;
    int rc = serve(&s, stop_fd);
    node_free(s.node);
    return rc == -ESHUTDOWN ? 0
           : rc             ? skv_fail(err, rc, "the listening socket failed: %s", strerror(-rc))
                            : 0;
}

/* ---- embedded ---- */

struct server {
    struct shell shell;
    int stop_fd;
    pthread_t thread;
};

static void *thread_main(void *arg)
{
    struct server *s = arg;
    (void)serve(&s->shell, s->stop_fd); /* a shutdown of the context ends it as well */
    return NULL;
}

static void server_free(struct server *s)
{
    zmqx_close(s->shell.socket);
    node_free(s->shell.node);
    if (s->stop_fd >= 0)
        close(s->stop_fd);
    free(s);
}

struct server *server_start(void *zmq_ctx, const char *endpoint, const struct node_opts *opts,
                            struct skv_error *err)
{
    struct server *s = calloc(1, sizeof *s);
    if (!s) {
        skv_fail(err, -ENOMEM, "out of memory");
        return NULL;
    }
    s->stop_fd = eventfd(0, EFD_CLOEXEC);
    if (s->stop_fd < 0) {
        skv_fail(err, -errno, "cannot make an eventfd: %s", strerror(errno));
        goto error;
    }
    s->shell.node = node_new(opts, send_answer, &s->shell, err);
    if (!s->shell.node || zmqx_router(zmq_ctx, endpoint, PROTO_MAX_PAYLOAD, &s->shell.socket, err))
        goto error;
    int rc = pthread_create(&s->thread, NULL, thread_main, s);
    if (rc) {
        skv_fail(err, -rc, "cannot start a thread: %s", strerror(rc));
        goto error;
    }
    return s;
error:
    server_free(s);
    return NULL;
}

void server_stop(struct server *s)
{
    if (!s)
        return;
    uint64_t one = 1;
    ssize_t written = write(s->stop_fd, &one, sizeof one); /* can't fail: the counter is far from its limit */
    (void)written;
    pthread_join(s->thread, NULL);
    server_free(s);
}

const char *server_endpoint(const struct server *s)
{
    return zmqx_endpoint(s->shell.socket);
}
