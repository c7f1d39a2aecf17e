/* server.c: see server.h. One loop: receive a bounded batch, let the core act, give it its ticks, sleep until
 * a message comes or a disk is done with something. */
#include "memnode/server.h"
#include "common/clock.h"
#include "memnode/store/io_files.h"
#include "memnode/store/store.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
    BATCH = 64, /* messages received before anything else gets its turn */
    TICK_MS = 500,
    BLOCKED_MS = 1, /* a ROUTER can't be polled for room towards one peer */
    DISK_MS = 50,   /* small groups are written, and disks scrubbed, by the clock */
    FLUSH_S = 60,   /* at the end */
};

static_assert((int)PROTO_MAX_FRAMES <= (int)ZMQX_PAYLOADS, "a message that may be sent can be");

struct server {
    struct zmqx_socket *socket;
    struct node *node;
    struct io *io; /* NULL: no disks */
    const struct log *log;
    /* embedded: */
    int stop_fd;
    pthread_t thread;
};

/* ---- serving ---- */

static int send_answer(void *arg, const struct node_peer *p, struct buf *header, const struct view *payload)
{
    struct server *s = arg;
    struct zmqx_peer to = {.len = p->len};
    memcpy(to.id, p->id, p->len);
    return zmqx_send(s->socket, &to, header, payload);
}

static void note_transport(struct server *s)
{
    struct zmqx_events e = zmqx_events(s->socket);
    struct timespec cpu = {0};
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    node_set_transport(
        s->node, &(struct node_transport){.accepted = e.accepted,
                                          .disconnected = e.disconnected,
                                          .handshake_failed = e.handshake_failed,
                                          .cpu_ns = (uint64_t)cpu.tv_sec * NS_PER_S + (uint64_t)cpu.tv_nsec});
}

static void act(struct server *s, const struct zmqx_message *z, uint64_t now)
{
    struct node_peer from = {.len = z->peer.len};
    struct message m;
    struct skv_error why;
    uint64_t id;
    memcpy(from.id, z->peer.id, z->peer.len);
    int rc = message_parse(&m, z->header.data, z->header.len, z->n_frames, z->payload, &id, &why);
    if (rc) {
        node_malformed(s->node, &from, id, rc, why.text, now);
    } else {
        if (m.header->body_case == SCOUTKV__HEADER__BODY_STATS)
            note_transport(s); /* what is told is of now, not of the last tick */
        node_receive(s->node, &from, &m, now);
    }
    message_clear(&m);
}

/* Receives what is there, at most a batch. 0 or -ESHUTDOWN. */
static int drain(struct server *s)
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
        act(s, &z, clock_ns());
        zmqx_message_clear(&z);
    }
    return 0;
}

static void tick(struct server *s, uint64_t now)
{
    note_transport(s);
    node_tick(s->node, now);
}

/* How long the loop may sleep, in ms. */
static int nap(const struct server *s, enum node_work work, uint64_t left_ns)
{
    int left = (int)(left_ns / NS_PER_MS) + 1;
    if (work == NODE_BUSY)
        return 0;
    if (work == NODE_BLOCKED)
        return BLOCKED_MS;
    return s->io && left > DISK_MS ? DISK_MS : left;
}

/* Serves until stop_fd is readable (0) or the context is shut down (-ESHUTDOWN). */
static int serve(struct server *s, int stop_fd)
{
    uint64_t next_tick = 0;
    for (;;) {
        uint64_t now = clock_ns();
        if (now >= next_tick) {
            tick(s, now);
            next_tick = now + TICK_MS * NS_PER_MS;
        }
        enum node_work work = node_run(s->node, now);
        struct zmqx_poll_item items[] = {
            {.socket = s->socket}, {.fd = stop_fd}, {.fd = node_poll_fd(s->node)}};
        int rc = zmqx_poll(items, items[2].fd >= 0 ? 3 : 2, nap(s, work, next_tick - now));
        if (rc >= 0 && items[1].readable)
            return 0;
        if (rc > 0 && items[0].readable)
            rc = drain(s);
        if (rc < 0)
            return rc;
    }
}

/* ---- the end ---- */

static bool asked_again(int stop_fd)
{
    struct pollfd p = {.fd = stop_fd, .events = POLLIN};
    uint64_t count;
    return poll(&p, 1, 0) == 1 && read(stop_fd, &count, sizeof count) == sizeof count;
}

/* Nobody is served any more; what was acknowledged from RAM goes to the disks. */
static void flush(struct server *s, int stop_fd)
{
    uint64_t left, begin = clock_ns(), now = begin;
    if (node_flushed(s->node, &left))
        return;
    log_write(s->log, LOG_LEVEL_INFO, "flushing %.1f MiB to disk", (double)left / (1 << 20));
    asked_again(stop_fd); /* the first time */
    for (; now < begin + FLUSH_S * NS_PER_S; now = clock_ns()) {
        enum node_work work = node_run(s->node, now);
        if (node_flushed(s->node, &left))
            break;
        struct pollfd p[] = {{.fd = node_poll_fd(s->node), .events = POLLIN},
                             {.fd = stop_fd, .events = POLLIN}};
        (void)poll(p, 2, work == NODE_BUSY ? 0 : DISK_MS);
        if (asked_again(stop_fd))
            log_write(
                s->log, LOG_LEVEL_WARN,
                "still flushing: %.1f MiB are not on disk yet, and it may take %d s in all; SIGKILL would "
                "lose them",
                (double)left / (1 << 20), FLUSH_S);
    }
    double seconds = (double)(clock_ns() - begin) / 1e9;
    if (!node_flushed(s->node, &left))
        log_write(s->log, LOG_LEVEL_ERROR,
                  "gave up flushing after %.0f s: %.1f MiB are not on disk and are lost", seconds,
                  (double)left / (1 << 20));
    else if (*node_trouble(s->node))
        log_write(s->log, LOG_LEVEL_ERROR, "what could not be written is lost: %s", node_trouble(s->node));
    else
        log_write(s->log, LOG_LEVEL_INFO, "flushed in %.2f s", seconds);
}

/* ---- making and freeing ---- */

static int make_node(struct server *s, const struct node_opts *opts, struct skv_error *err)
{
    struct node_opts o = *opts;
    struct skv_error why = {0};
    char text[600];
    s->log = o.log;
    s->stop_fd = -1;
    o.start_ns = clock_ns();
    o.wall_offset = (int64_t)(clock_wall_ns() - o.start_ns);
    if (o.n_disks && !(s->io = io_new(&why, err)))
        return -EIO;
    if (why.text[0])
        log_write(s->log, why.code ? LOG_LEVEL_WARN : LOG_LEVEL_INFO, "%s", why.text);
    o.io = s->io;
    s->node = node_new(&o, send_answer, s, err);
    for (size_t i = 0; s->node && i < o.n_disks; i++)
        log_write(s->log, LOG_LEVEL_INFO, "%s", io_files_describe(s->io, (int)i, text, sizeof text));
    return s->node ? 0 : -EIO;
}

void server_free(struct server *s)
{
    if (!s)
        return;
    node_free(s->node);
    if (s->io)
        s->io->ops->close(s->io);
    free(s);
}

static struct server *server_make(const struct node_opts *opts, struct skv_error *err)
{
    struct server *s = calloc(1, sizeof *s);
    if (!s)
        skv_fail(err, -ENOMEM, "out of memory");
    if (s && make_node(s, opts, err)) {
        server_free(s);
        return NULL;
    }
    return s;
}

struct server *server_new(struct zmqx_socket *listener, const struct node_opts *opts, struct skv_error *err)
{
    struct server *s = server_make(opts, err);
    if (s)
        s->socket = listener;
    return s;
}

int server_run(struct server *s, int stop_fd, struct skv_error *err)
{
    int rc = serve(s, stop_fd);
    flush(s, stop_fd);
    return rc == -ESHUTDOWN ? 0
           : rc             ? skv_fail(err, rc, "the listening socket failed: %s", strerror(-rc))
                            : 0;
}

/* ---- embedded ---- */

static void *thread_main(void *arg)
{
    struct server *s = arg;
    (void)server_run(s, s->stop_fd, NULL); /* a shutdown of the context ends it as well */
    return NULL;
}

static void embedded_free(struct server *s)
{
    zmqx_close(s->socket);
    if (s->stop_fd >= 0)
        close(s->stop_fd);
    server_free(s);
}

struct server *server_start(void *zmq_ctx, const char *endpoint, const struct node_opts *opts,
                            struct skv_error *err)
{
    struct server *s = server_make(opts, err);
    if (!s)
        return NULL;
    s->stop_fd = eventfd(0, EFD_CLOEXEC);
    if (s->stop_fd < 0) {
        skv_fail(err, -errno, "cannot make an eventfd: %s", strerror(errno));
        goto error;
    }
    if (zmqx_router(zmq_ctx, endpoint, PROTO_MAX_PAYLOAD, &s->socket, err))
        goto error;
    int rc = pthread_create(&s->thread, NULL, thread_main, s);
    if (rc) {
        skv_fail(err, -rc, "cannot start a thread: %s", strerror(rc));
        goto error;
    }
    return s;
error:
    embedded_free(s);
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
    embedded_free(s);
}

const char *server_endpoint(const struct server *s)
{
    return zmqx_endpoint(s->socket);
}
