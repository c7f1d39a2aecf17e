/* peer_tcp.c: the plain TCP pair of peer.h: what a fetch could be at most over this machine's loopback. A
 * request is its piece numbers, a reply their bytes; both know how many. */
#include "decoder/cli/peer.h"
#include "decoder/cli/child.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { MAX_LANES = 256, IOVECS = 512 };

struct tcp {
    struct peer_pieces pieces;
    unsigned lanes; /* opened */
    uint32_t per_request;
    int fd[MAX_LANES];
    pid_t pid[MAX_LANES];
    unsigned ask, take; /* whose turn it is */
    uint8_t *reply;
};

/* ---- the other side, in a process of its own ---- */

static bool read_all(int fd, void *to, size_t len)
{
    for (uint8_t *at = to; len;) {
        ssize_t n = recv(fd, at, len, MSG_WAITALL);
        if (n == 0 || (n < 0 && errno != EINTR))
            return false;
        at += n > 0 ? n : 0;
        len -= n > 0 ? (size_t)n : 0;
    }
    return true;
}

static bool write_pieces(int fd, struct iovec *v, int n)
{
    while (n) {
        ssize_t sent = writev(fd, v, n);
        if (sent < 0)
            return false;
        for (; n && (size_t)sent >= v->iov_len; v++, n--)
            sent -= (ssize_t)v->iov_len;
        if (n) {
            v->iov_base = (uint8_t *)v->iov_base + sent;
            v->iov_len -= (size_t)sent;
        }
    }
    return true;
}

__attribute__((noreturn)) static void serve(const struct tcp *t, int fd)
{
    struct iovec v[IOVECS];
    uint32_t numbers[IOVECS];
    for (uint32_t left = 0;; left -= left < IOVECS ? left : IOVECS) {
        left = left ? left : t->per_request;
        uint32_t n = left < IOVECS ? left : IOVECS;
        if (!read_all(fd, numbers, n * sizeof *numbers))
            _exit(0);
        for (uint32_t i = 0; i < n; i++)
            v[i] = (struct iovec){t->pieces.data + numbers[i] * t->pieces.bytes, t->pieces.bytes};
        if (!write_pieces(fd, v, (int)n))
            _exit(0);
    }
}

/* ---- our side ---- */

static int ask(void *self, const uint32_t *numbers, uint32_t n, struct skv_error *err)
{
    struct tcp *t = self;
    size_t len = n * sizeof *numbers;
    if (send(t->fd[t->ask], numbers, len, MSG_NOSIGNAL) != (ssize_t)len)
        return skv_fail(err, -EIO, "the TCP pair broke: %s", strerror(errno));
    t->ask = (t->ask + 1) % t->lanes;
    return 0;
}

static int take(void *self, const uint8_t **out, uint32_t n, struct skv_error *err)
{
    struct tcp *t = self;
    if (!read_all(t->fd[t->take], t->reply, n * t->pieces.bytes))
        return skv_fail(err, -EIO, "the TCP pair broke: %s", strerror(errno));
    for (uint32_t i = 0; i < n; i++)
        out[i] = t->reply + i * t->pieces.bytes;
    t->take = (t->take + 1) % t->lanes;
    return 0;
}

static void shut(void *self)
{
    struct tcp *t = self;
    for (unsigned i = 0; i < t->lanes; i++) {
        child_end(t->pid[i], SIGKILL);
        close(t->fd[i]);
    }
    free(t->reply);
    free(t);
}

static int open_lane(struct tcp *t, struct skv_error *err)
{
    unsigned port;
    int on = 1, listener = loopback_listen(&port, err);
    if (listener < 0)
        return listener;
    pid_t pid = child_fork(err);
    if (pid == 0) {
        int peer = accept(listener, NULL, NULL);
        if (peer < 0)
            _exit(1);
        (void)setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        serve(t, peer);
    }
    int fd = pid < 0 ? (int)pid : loopback_connect(port, 0, err);
    close(listener);
    if (fd < 0 && pid > 0)
        child_end(pid, SIGKILL);
    if (fd < 0)
        return fd;
    t->fd[t->lanes] = fd;
    t->pid[t->lanes++] = pid;
    return 0;
}

int peer_tcp_open(struct peer *p, const struct peer_pieces *pieces, unsigned lanes, uint32_t per_request,
                  struct skv_error *err)
{
    static const struct peer_ops ops = {ask, take, shut};
    struct tcp *t = calloc(1, sizeof *t);
    if (!t || !(t->reply = malloc(per_request * pieces->bytes))) {
        free(t);
        return skv_fail(err, -ENOMEM, "out of memory");
    }
    t->pieces = *pieces;
    t->per_request = per_request;
    int rc = 0;
    for (unsigned i = 0; i < lanes && i < MAX_LANES && !rc; i++)
        rc = open_lane(t, err);
    if (rc) {
        shut(t);
        return rc;
    }
    *p = (struct peer){.ops = &ops, .self = t, .pieces = pieces, .pids = t->pid, .n_pids = t->lanes};
    return 0;
}
