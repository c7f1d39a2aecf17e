/* peer_zmq.c: the bare libzmq pair of peer.h: what libzmq can do at best for requests like ours, with nothing
 * around it. Therefore, unlike all else (common/zmqx.h), it calls libzmq itself. */
#include "decoder/cli/peer.h"
#include "decoder/cli/child.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

enum { ENDPOINT = 64, TIMEOUT_MS = 10000 };

struct bare {
    void *ctx, *socket;
    pid_t pid;
    uint32_t per_request, held; /* messages that the caller still reads */
    zmq_msg_t message[];        /* [per_request] */
};

/* ---- the other side, in a process of its own ---- */

static void nothing_to_free(void *data, void *hint)
{
    (void)data;
    (void)hint;
}

static bool answer(void *router, const struct peer_pieces *p, zmq_msg_t *numbers)
{
    size_t n = zmq_msg_size(numbers) / sizeof(uint32_t);
    for (size_t i = 0; i < n; i++) {
        uint32_t number;
        zmq_msg_t piece;
        memcpy(&number, (const char *)zmq_msg_data(numbers) + i * sizeof number, sizeof number);
        if (zmq_msg_init_data(&piece, p->data + number * p->bytes, p->bytes, nothing_to_free, NULL) ||
            zmq_msg_send(&piece, router, i + 1 < n ? ZMQ_SNDMORE : 0) < 0)
            return false;
    }
    return true;
}

__attribute__((noreturn)) static void serve(const struct peer_pieces *p, int tell)
{
    void *ctx = zmq_ctx_new(), *router = ctx ? zmq_socket(ctx, ZMQ_ROUTER) : NULL;
    char endpoint[ENDPOINT] = "";
    size_t len = sizeof endpoint;
    int no_limit = 0;
    if (!router || zmq_setsockopt(router, ZMQ_SNDHWM, &no_limit, sizeof no_limit) ||
        zmq_setsockopt(router, ZMQ_RCVHWM, &no_limit, sizeof no_limit) ||
        zmq_bind(router, "tcp://127.0.0.1:*") || zmq_getsockopt(router, ZMQ_LAST_ENDPOINT, endpoint, &len) ||
        write(tell, endpoint, ENDPOINT) != ENDPOINT)
        _exit(1);
    for (;;) {
        zmq_msg_t id, numbers;
        zmq_msg_init(&id);
        zmq_msg_init(&numbers);
        if (zmq_msg_recv(&id, router, 0) < 0 || zmq_msg_recv(&numbers, router, 0) < 0 ||
            zmq_msg_send(&id, router, ZMQ_SNDMORE) < 0 || !answer(router, p, &numbers))
            _exit(1);
        zmq_msg_close(&numbers);
    }
}

/* ---- our side ---- */

static int broke(struct skv_error *err)
{
    return skv_fail(err, -EIO, "the zmq pair broke: %s", zmq_strerror(zmq_errno()));
}

static int ask(void *self, const uint32_t *numbers, uint32_t n, struct skv_error *err)
{
    struct bare *b = self;
    return zmq_send(b->socket, numbers, n * sizeof *numbers, 0) < 0 ? broke(err) : 0;
}

static void let_go(struct bare *b)
{
    while (b->held)
        zmq_msg_close(&b->message[--b->held]);
}

static int take(void *self, const uint8_t **out, uint32_t n, struct skv_error *err)
{
    struct bare *b = self;
    let_go(b);
    for (uint32_t i = 0; i < n; i++) {
        zmq_msg_init(&b->message[i]);
        b->held++;
        if (zmq_msg_recv(&b->message[i], b->socket, 0) < 0)
            return broke(err);
        out[i] = zmq_msg_data(&b->message[i]);
    }
    return 0;
}

static void shut(void *self)
{
    struct bare *b = self;
    let_go(b);
    if (b->pid > 0)
        child_end(b->pid, SIGKILL);
    if (b->socket)
        zmq_close(b->socket);
    if (b->ctx)
        zmq_ctx_term(b->ctx);
    free(b);
}

static int start_server(struct bare *b, const struct peer_pieces *p, char endpoint[ENDPOINT],
                        struct skv_error *err)
{
    int ends[2];
    if (pipe(ends))
        return skv_fail(err, -errno, "cannot make a pipe: %s", strerror(errno));
    b->pid = child_fork(err);
    if (b->pid == 0)
        serve(p, ends[1]);
    close(ends[1]);
    ssize_t got = b->pid > 0 ? read(ends[0], endpoint, ENDPOINT) : 0;
    close(ends[0]);
    return b->pid < 0 ? (int)b->pid : got == ENDPOINT ? 0 : skv_fail(err, -EIO, "the zmq pair did not start");
}

int peer_zmq_open(struct peer *out, const struct peer_pieces *p, uint32_t per_request, struct skv_error *err)
{
    static const struct peer_ops ops = {ask, take, shut};
    struct bare *b = calloc(1, sizeof *b + per_request * sizeof b->message[0]);
    char endpoint[ENDPOINT];
    int no_limit = 0, no_wait = 0, timeout = TIMEOUT_MS;
    if (!b)
        return skv_fail(err, -ENOMEM, "out of memory");
    int rc = start_server(b, p, endpoint, err);
    if (!rc && (!(b->ctx = zmq_ctx_new()) || !(b->socket = zmq_socket(b->ctx, ZMQ_DEALER)) ||
                zmq_setsockopt(b->socket, ZMQ_SNDHWM, &no_limit, sizeof no_limit) ||
                zmq_setsockopt(b->socket, ZMQ_RCVHWM, &no_limit, sizeof no_limit) ||
                zmq_setsockopt(b->socket, ZMQ_LINGER, &no_wait, sizeof no_wait) ||
                zmq_setsockopt(b->socket, ZMQ_RCVTIMEO, &timeout, sizeof timeout) ||
                zmq_connect(b->socket, endpoint)))
        rc = broke(err);
    if (rc) {
        shut(b);
        return rc;
    }
    b->per_request = per_request;
    *out = (struct peer){.ops = &ops, .self = b, .pieces = p, .pids = &b->pid, .n_pids = 1};
    return 0;
}
