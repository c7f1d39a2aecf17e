/* nodes.h: starts real memory nodes for a test and stops them. Header-only: each test is one program. */
#ifndef TESTS_NODES_H
#define TESTS_NODES_H

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

struct nodes {
    int n;
    pid_t pid[8];
    char list[512]; /* for --nodes */
};

/* The program beside the tests: build/tests/test_x -> build/scoutkv-memnode. */
static inline const char *memnode_path(void)
{
    static char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 32);
    path[n > 0 ? n : 0] = 0;
    char *slash = strrchr(path, '/');
    if (slash)
        strcpy(slash, "/../scoutkv-memnode");
    return path;
}

static inline void nodes_stop(struct nodes *ns)
{
    for (int i = 0; i < ns->n; i++)
        if (ns->pid[i] > 0) {
            kill(ns->pid[i], SIGTERM);
            waitpid(ns->pid[i], NULL, 0);
        }
    ns->n = 0;
}

/* n nodes on free loopback ports with this much RAM each; their ids are a, b, c … 0 or -1. */
static inline int nodes_start(struct nodes *ns, int n, const char *ram)
{
    *ns = (struct nodes){0};
    for (int i = 0; i < n; i++) {
        int out[2];
        if (pipe(out))
            return -1;
        pid_t pid = fork();
        if (pid == 0) {
            char id[2] = {(char)('a' + i), 0};
            prctl(PR_SET_PDEATHSIG, SIGKILL); /* a crashed test leaves nothing running */
            dup2(out[1], 1);
            close(out[0]);
            close(out[1]);
            execl(memnode_path(), "scoutkv-memnode", "--listen", "127.0.0.1:0", "--ram", ram, "--id", id,
                  (char *)NULL);
            _exit(127);
        }
        close(out[1]);
        ns->pid[ns->n++] = pid;
        char line[256] = "";
        FILE *f = fdopen(out[0], "r");
        char *at = NULL;
        while (f && fgets(line, sizeof line, f) && !(at = strstr(line, "tcp://")))
            ;
        if (!at) {
            fprintf(stderr, "node %d did not say where it listens\n", i);
            nodes_stop(ns);
            return -1;
        }
        at[strcspn(at, " \n")] = 0;
        snprintf(ns->list + strlen(ns->list), sizeof ns->list - strlen(ns->list), "%s%s", i ? "," : "",
                 at + 6);
        fclose(f);
    }
    return 0;
}

#endif
