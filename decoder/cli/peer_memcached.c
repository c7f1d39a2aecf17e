/* peer_memcached.c: memcached as a peer, from PATH, over TCP and its text protocol. Keys have one length and
 * pieces another, so a reply's length is known beforehand, and it is received where it stays. */
#include "decoder/cli/peer.h"
#include "decoder/cli/child.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static const char SERVER[] = "memcached", END[] = "END\r\n", STORED[] = "STORED\r\n";
enum { KEY_LEN = 10, LINE = 64, START_MS = 10000, MIB = 1 << 20 };

struct memcached {
    pid_t pid;
    int fd;
    uint32_t per_request;
    size_t bytes, line; /* line: of "VALUE key flags bytes\r\n" */
    uint8_t *reply;
    char *command; /* "get", keys, "\r\n" */
};

static int broke(const char *what, struct skv_error *err)
{
    return skv_fail(err, -EIO, "memcached: %s", what);
}

static bool send_all(int fd, const void *from, size_t len)
{
    for (const uint8_t *at = from; len;) {
        ssize_t n = send(fd, at, len, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR)
            return false;
        at += n > 0 ? n : 0;
        len -= n > 0 ? (size_t)n : 0;
    }
    return true;
}

static bool receive_all(int fd, void *to, size_t len)
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

static int ask(void *self, const uint32_t *numbers, uint32_t n, struct skv_error *err)
{
    struct memcached *m = self;
    size_t len = (size_t)sprintf(m->command, "get");
    for (uint32_t i = 0; i < n; i++)
        len += (size_t)sprintf(m->command + len, " k%09u", numbers[i]);
    len += (size_t)sprintf(m->command + len, "\r\n");
    return send_all(m->fd, m->command, len) ? 0 : broke(strerror(errno), err);
}

static int take(void *self, const uint8_t **out, uint32_t n, struct skv_error *err)
{
    struct memcached *m = self;
    size_t one = m->line + m->bytes + 2, len = n * one + strlen(END);
    if (!receive_all(m->fd, m->reply, len))
        return broke("less came than was stored, within 10 s", err);
    for (uint32_t i = 0; i < n; i++) {
        if (memcmp(m->reply + i * one, "VALUE ", 6))
            return broke("an answer of another kind", err);
        out[i] = m->reply + i * one + m->line;
    }
    return memcmp(m->reply + n * one, END, strlen(END)) ? broke("an answer of another kind", err) : 0;
}

static void shut(void *self)
{
    struct memcached *m = self;
    if (m->fd >= 0)
        close(m->fd);
    if (m->pid > 0)
        child_end(m->pid, SIGKILL);
    free(m->reply);
    free(m->command);
    free(m);
}

static int start(struct memcached *m, const struct peer_pieces *p, struct skv_error *err)
{
    char number[16], memory[32], item[32];
    int port = loopback_port(err);
    if (port < 0)
        return port;
    snprintf(number, sizeof number, "%d", port);
    snprintf(memory, sizeof memory, "%zu", 4 * p->n * p->bytes / MIB + 256);
    snprintf(item, sizeof item, "%zu", (p->bytes / MIB + 2) * MIB); /* it takes multiples only */
    char *argv[] = {(char *)SERVER,
                    "-l",
                    "127.0.0.1",
                    "-p",
                    number,
                    "-U",
                    "0",
                    "-m",
                    memory,
                    "-I",
                    item,
                    "-M",
                    geteuid() == 0 ? "-u" : NULL,
                    "root",
                    NULL};
    if ((m->pid = child_start(argv, -1, err)) < 0)
        return (int)m->pid;
    if ((m->fd = loopback_connect((unsigned)port, START_MS, err)) < 0)
        return m->fd;
    struct timeval wait = {.tv_sec = START_MS / 1000};
    return setsockopt(m->fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait) ? broke(strerror(errno), err) : 0;
}

static int fill(struct memcached *m, const struct peer_pieces *p, struct skv_error *err)
{
    char line[LINE];
    for (uint32_t i = 0; i < p->n; i++) {
        int len = snprintf(line, sizeof line, "set k%09u 0 0 %zu\r\n", i, p->bytes);
        if (!send_all(m->fd, line, (size_t)len) || !send_all(m->fd, p->data + i * p->bytes, p->bytes) ||
            !send_all(m->fd, "\r\n", 2) || !receive_all(m->fd, line, strlen(STORED)) ||
            memcmp(line, STORED, strlen(STORED)))
            return broke("it did not store a piece", err);
    }
    return 0;
}

int peer_memcached_open(struct peer *out, const struct peer_pieces *p, uint32_t per_request,
                        const char **missing, struct skv_error *err)
{
    static const struct peer_ops ops = {ask, take, shut};
    struct memcached *m = calloc(1, sizeof *m);
    char line[LINE];
    if (!m)
        return skv_fail(err, -ENOMEM, "out of memory");
    *missing = child_found(SERVER) ? NULL : SERVER;
    m->fd = -1;
    m->per_request = per_request;
    m->bytes = p->bytes;
    m->line = (size_t)snprintf(line, sizeof line, "VALUE k%09u 0 %zu\r\n", 0u, p->bytes);
    m->reply = malloc(per_request * (m->line + p->bytes + 2) + sizeof END);
    m->command = malloc(LINE + (size_t)per_request * (KEY_LEN + 1));
    int rc = m->reply && m->command ? 0 : skv_fail(err, -ENOMEM, "out of memory");
    if (!rc && !*missing)
        rc = start(m, p, err);
    if (!rc && !*missing)
        rc = fill(m, p, err);
    if (rc || *missing) {
        shut(m);
        return rc;
    }
    *out = (struct peer){.ops = &ops, .self = m, .pieces = p, .pids = &m->pid, .n_pids = 1};
    return 0;
}
