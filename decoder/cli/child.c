/* child.c: see child.h. */
#include "decoder/cli/child.h"
#include "common/clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

pid_t child_fork(struct skv_error *err)
{
    pid_t parent = getpid(), pid = fork();
    if (pid < 0)
        return skv_fail(err, -errno, "cannot start a process: %s", strerror(errno));
    if (pid == 0) {
        (void)setpgid(0, 0);
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(127);
    }
    return pid;
}

pid_t child_start(char *const argv[], int out, struct skv_error *err)
{
    int nowhere = open("/dev/null", O_RDWR | O_CLOEXEC);
    pid_t pid =
        nowhere < 0 ? skv_fail(err, -errno, "cannot open /dev/null: %s", strerror(errno)) : child_fork(err);
    if (pid == 0) {
        if (dup2(nowhere, 0) < 0 || dup2(out >= 0 ? out : nowhere, 1) < 0 ||
            (out < 0 && dup2(nowhere, 2) < 0))
            _exit(127);
        execvp(argv[0], argv);
        _exit(127);
    }
    if (nowhere >= 0)
        close(nowhere);
    return pid;
}

void child_end(pid_t pid, int sig)
{
    kill(pid, sig);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

double child_cpu_s(pid_t pid)
{
    clockid_t clock;
    struct timespec t;
    if (clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &t))
        return 0;
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

bool child_found(const char *program)
{
    char *path = strdup(getenv("PATH") ? getenv("PATH") : "/usr/bin:/bin"), *rest = NULL, file[PATH_MAX];
    bool found = false;
    for (char *dir = path ? strtok_r(path, ":", &rest) : NULL; dir && !found;
         dir = strtok_r(NULL, ":", &rest)) {
        snprintf(file, sizeof file, "%s/%s", dir, program);
        found = access(file, X_OK) == 0;
    }
    free(path);
    return found;
}

/* ---- loopback ---- */

int loopback_listen(unsigned *port, struct skv_error *err)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 1) ||
        getsockname(fd, (struct sockaddr *)&at, &len)) {
        int code = -errno;
        if (fd >= 0)
            close(fd);
        return skv_fail(err, code, "cannot listen on loopback: %s", strerror(-code));
    }
    *port = ntohs(at.sin_port);
    return fd;
}

int loopback_port(struct skv_error *err)
{
    unsigned port;
    int fd = loopback_listen(&port, err);
    if (fd < 0)
        return fd;
    close(fd);
    return (int)port;
}

int loopback_connect(unsigned port, unsigned for_ms, struct skv_error *err)
{
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)port)};
    uint64_t until = clock_ns() + for_ms * NS_PER_MS;
    for (;;) {
        int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd >= 0 && !connect(fd, (struct sockaddr *)&at, sizeof at) &&
            !setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on))
            return fd;
        int code = -errno;
        if (fd >= 0)
            close(fd);
        if (fd < 0 || clock_ns() >= until)
            return skv_fail(err, code, "cannot connect to port %u: %s", port, strerror(-code));
        nanosleep(&(struct timespec){.tv_nsec = 10 * (long)NS_PER_MS}, NULL);
    }
}
