/* own_nodes.c: see own_nodes.h. */
#include "decoder/cli/own_nodes.h"
#include "decoder/cli/child.h"
#include "decoder/cli/scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { START_MS = 30000, LINE = 256 };
static const char PROGRAM[] = "scoutkv-memnode", SAYS[] = "listening on tcp://";

struct own_node {
    pid_t pid;
    int out; /* its stdout; kept open so that it may write there */
};

struct own_nodes {
    struct own_nodes_opts o;
    char dir[PATH_MAX]; /* of their disks; "": none */
    char program[PATH_MAX];
    unsigned n; /* started */
    struct own_node node[OWN_NODES_MAX];
    char list[OWN_NODES_MAX * LINE];
};

static void find_program(struct own_nodes *s)
{
    char self[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
    self[len > 0 ? len : 0] = 0;
    self[strrchr(self, '/') ? strrchr(self, '/') - self : 0] = 0;
    if (snprintf(s->program, sizeof s->program, "%s/%s", self, PROGRAM) >= (int)sizeof s->program ||
        access(s->program, X_OK))
        snprintf(s->program, sizeof s->program, "%s", PROGRAM);
}

static int start(struct own_nodes *s, struct skv_error *err)
{
    char id[16], ram[32], disk[PATH_MAX + 64];
    struct own_node *node = &s->node[s->n];
    int ends[2];
    snprintf(id, sizeof id, "n%u", s->n + 1);
    snprintf(ram, sizeof ram, "%" PRIu64, s->o.ram);
    snprintf(disk, sizeof disk, "%s/%s:%" PRIu64, s->dir, id, s->o.disk_size);
    char *argv[] = {
        s->program, "--listen",  "127.0.0.1:0",        "--id",        id,     "--ram",
        ram,        "--cluster", (char *)s->o.cluster, "--log-level", "warn", s->o.disk ? "--disk" : NULL,
        disk,       NULL};
    if (pipe2(ends, O_CLOEXEC))
        return skv_fail(err, -errno, "cannot make a pipe: %s", strerror(errno));
    node->pid = child_start(argv, ends[1], err);
    close(ends[1]);
    node->out = ends[0];
    if (node->pid < 0) {
        close(ends[0]);
        return (int)node->pid;
    }
    s->n++;
    return 0;
}

/* Waits for the line that tells its address, and adds that to the list. */
static int await(struct own_nodes *s, struct own_node *node, struct skv_error *err)
{
    char line[LINE] = "";
    size_t len = 0;
    while (!strchr(line, '\n')) {
        struct pollfd p = {.fd = node->out, .events = POLLIN};
        int rc = poll(&p, 1, START_MS);
        if (rc < 0 && errno == EINTR)
            return skv_fail(err, -EINTR, "interrupted");
        ssize_t got = rc > 0 ? read(node->out, line + len, sizeof line - 1 - len) : 0;
        if (rc == 0)
            return skv_fail(err, -EHOSTUNREACH, "a memory node that was started did not listen within %d s",
                            START_MS / 1000);
        if (got <= 0)
            return skv_fail(err, -EHOSTUNREACH,
                            "a memory node could not be started (is %s beside scoutkv, or in PATH?)",
                            PROGRAM);
        len += (size_t)got;
        line[len] = 0;
    }
    line[strcspn(line, "\n")] = 0;
    if (strncmp(line, SAYS, strlen(SAYS)))
        return skv_fail(err, -EHOSTUNREACH,
                        "a memory node that was started said '%.200s', not where it listens", line);
    size_t at = strlen(s->list);
    snprintf(s->list + at, sizeof s->list - at, "%s%s", at ? "," : "", line + strlen(SAYS));
    return 0;
}

int own_nodes_start(const struct own_nodes_opts *o, struct own_nodes **out, struct skv_error *err)
{
    struct own_nodes *s = calloc(1, sizeof *s);
    if (!s)
        return skv_fail(err, -ENOMEM, "out of memory");
    s->o = *o;
    find_program(s);
    int rc = o->disk ? scratch_make(o->disk, s->dir, err) : 0;
    for (unsigned i = 0; i < o->n && !rc; i++)
        rc = start(s, err);
    for (unsigned i = 0; i < o->n && !rc; i++)
        rc = await(s, &s->node[i], err);
    if (rc) {
        own_nodes_stop(s);
        return rc;
    }
    *out = s;
    return 0;
}

const char *own_nodes_list(const struct own_nodes *s)
{
    return s->list;
}

double own_nodes_cpu_s(const struct own_nodes *s)
{
    double sum = 0;
    for (unsigned i = 0; i < s->n; i++)
        sum += child_cpu_s(s->node[i].pid);
    return sum;
}

void own_nodes_stop(struct own_nodes *s)
{
    if (!s)
        return;
    for (unsigned i = 0; i < s->n;
         i++) /* what is not on a disk yet would be written first, to be removed below */
        kill(s->node[i].pid, s->o.disk ? SIGKILL : SIGTERM);
    for (unsigned i = 0; i < s->n; i++) {
        child_end(s->node[i].pid, 0);
        close(s->node[i].out);
    }
    scratch_remove(s->dir);
    free(s);
}
