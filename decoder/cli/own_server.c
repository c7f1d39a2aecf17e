#include "decoder/cli/own_server.h"
#include "decoder/cli/child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { START_MS = 60000, LINE = 256, MOST_ARGS = 64 };
static const char SAYS[] = "listening on ";

struct own_server {
    pid_t pid;
    int out; /* its stdout; kept open so that it may write there */
    char line[LINE];
};

/* Waits for the line that tells where it listens. */
static int await(struct own_server *s, struct skv_error *err)
{
    size_t len = 0;
    while (!strchr(s->line, '\n')) {
        struct pollfd p = {.fd = s->out, .events = POLLIN};
        int rc = poll(&p, 1, START_MS);
        if (rc < 0 && errno == EINTR)
            return skv_fail(err, -EINTR, "interrupted");
        ssize_t got = rc > 0 ? read(s->out, s->line + len, sizeof s->line - 1 - len) : 0;
        if (got <= 0)
            return skv_fail(err, -EHOSTUNREACH,
                            rc == 0 ? "the server that was started did not listen in time"
                                    : "the server could not be started: what it said is above");
        len += (size_t)got;
        s->line[len] = 0;
    }
    s->line[strcspn(s->line, "\n")] = 0;
    return strncmp(s->line, SAYS, strlen(SAYS))
               ? skv_fail(err, -EHOSTUNREACH,
                          "the server that was started said '%.100s', not where it listens", s->line)
               : 0;
}

int own_server_start(char *const args[], struct own_server **out, struct skv_error *err)
{
    char *argv[MOST_ARGS + 5] = {"/proc/self/exe", "serve", "--port", "0"};
    int ends[2];
    for (unsigned i = 0; args[i]; i++) {
        if (i == MOST_ARGS)
            return skv_fail(err, -E2BIG, "more options than a server's start has room for");
        argv[4 + i] = args[i];
    }
    struct own_server *s = calloc(1, sizeof *s);
    if (!s)
        return skv_fail(err, -ENOMEM, "out of memory");
    if (pipe2(ends, O_CLOEXEC)) {
        free(s);
        return skv_fail(err, -errno, "cannot make a pipe: %s", strerror(errno));
    }
    s->pid = child_start(argv, ends[1], err);
    close(ends[1]);
    s->out = ends[0];
    int rc = s->pid < 0 ? (int)s->pid : await(s, err);
    if (rc) {
        own_server_stop(s);
        return rc;
    }
    *out = s;
    return 0;
}

const char *own_server_url(const struct own_server *s)
{
    return s->line + strlen(SAYS);
}

void own_server_stop(struct own_server *s)
{
    if (!s)
        return;
    if (s->pid > 0)
        child_end(s->pid, SIGTERM);
    close(s->out);
    free(s);
}
