/* command.c: see command.h. */
#include "decoder/cli/command.h"

#include <errno.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { ARG_BYTES = 4200 };

void command_add(struct command *c, const char *fmt, ...)
{
    char text[ARG_BYTES];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (c->n < COMMAND_ARGS && (c->argv[c->n] = strdup(text)))
        c->n++;
}

void command_free(struct command *c)
{
    while (c->n)
        free(c->argv[--c->n]);
}

int command_run(struct command *c, char *out, size_t cap)
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
