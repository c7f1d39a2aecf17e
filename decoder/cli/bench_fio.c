/* bench_fio.c: see bench_fio.h. */
#include "decoder/cli/bench_fio.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { MAX_ARGS = 24, ARG_BYTES = 4200, OUTPUT_BYTES = 1 << 20 };

struct command {
    char *argv[MAX_ARGS + 1];
    unsigned n;
};

__attribute__((format(printf, 2, 3))) static void add(struct command *c, const char *fmt, ...)
{
    char text[ARG_BYTES];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (c->n < MAX_ARGS && (c->argv[c->n] = strdup(text)))
        c->n++;
}

static void command_free(struct command *c)
{
    while (c->n)
        free(c->argv[--c->n]);
}

/* What the program writes to its stdout, and its exit status; -errno if it could not be run. Its stderr is
 * ours, for it says there what is wrong with a disk. */
static int run(struct command *c, char *out, size_t cap)
{
    posix_spawn_file_actions_t files;
    int ends[2], status = 0;
    size_t len = 0;
    pid_t pid;
    if (pipe(ends))
        return -errno;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_adddup2(&files, ends[1], 1);
    posix_spawn_file_actions_addclose(&files, ends[0]);
    posix_spawn_file_actions_addclose(&files, ends[1]);
    int rc = -posix_spawnp(&pid, c->argv[0], &files, NULL, c->argv, environ);
    posix_spawn_file_actions_destroy(&files);
    close(ends[1]);
    while (!rc && len + 1 < cap) {
        ssize_t n = read(ends[0], out + len, cap - 1 - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        len += (size_t)n;
    }
    out[len] = 0;
    close(ends[0]);
    while (!rc && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return rc ? rc : WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

bool fio_version(char *out, uint32_t len)
{
    struct command c = {.n = 0};
    add(&c, "fio");
    add(&c, "--version");
    int rc = run(&c, out, len);
    command_free(&c);
    out[strcspn(out, "\n")] = 0;
    if (rc)
        out[0] = 0;
    return rc == 0;
}

/* Of the one job: what it read or wrote. Notes may stand before the object. */
static int parse(const char *out, const char *side, double *gbps)
{
    const char *begin = strchr(out, '{');
    json_t *root = begin ? json_loads(begin, JSON_DISABLE_EOF_CHECK, NULL) : NULL;
    json_t *job = json_array_get(json_object_get(root, "jobs"), 0);
    json_t *bytes = json_object_get(json_object_get(job, side), "bw_bytes");
    int rc = json_is_number(bytes) && json_integer_value(json_object_get(job, "error")) == 0 ? 0 : -EIO;
    if (!rc)
        *gbps = json_number_value(bytes) / 1e9;
    json_decref(root);
    return rc;
}

int fio_run(const struct fio_job *j, double *gbps, struct skv_error *err)
{
    struct command c = {.n = 0};
    char *out = malloc(OUTPUT_BYTES);
    if (!out)
        return skv_fail(err, -ENOMEM, "out of memory");
    add(&c, "fio");
    add(&c, "--name=peer");
    add(&c, "--filename=%s", j->file);
    add(&c, "--rw=%s", j->rw);
    add(&c, "--bs=%" PRIu64, j->block);
    add(&c, "--size=%" PRIu64, j->size);
    add(&c, "--iodepth=%" PRIu32, j->depth);
    add(&c, "--ioengine=io_uring");
    add(&c, "--direct=1");
    add(&c, "--randrepeat=0"); /* other places in every round, as ours */
    add(&c, "--output-format=json");
    if (j->align)
        add(&c, "--blockalign=%" PRIu64, j->align);
    if (j->sync_every)
        add(&c, "--fdatasync=%" PRIu32, j->sync_every);
    if (j->seconds) {
        add(&c, "--time_based");
        add(&c, "--runtime=%" PRIu32, j->seconds);
    }
    int rc = run(&c, out, OUTPUT_BYTES);
    if (rc < 0)
        skv_fail(err, rc, "cannot run fio: %s", strerror(-rc));
    else if (rc > 0 || parse(out, strstr(j->rw, "read") ? "read" : "write", gbps))
        rc = skv_fail(err, -EIO, "fio --rw=%s failed (exit code %d)", j->rw, rc);
    command_free(&c);
    free(out);
    return rc;
}
