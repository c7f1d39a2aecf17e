/* many.c: see many.h. */
#include "tests/store/many.h"
#include "common/options.h"
#include "common/progress.h"

#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_JOBS = 64 };

struct settings {
    uint64_t seed, count;
    uint32_t jobs;
    bool verbose, stop;
};

struct worker {
    pid_t pid; /* 0: none runs */
    _Atomic uint64_t seed;
    _Atomic uint64_t done, failed;
    uint64_t counts[MANY_COUNTS]; /* its own; read when it has ended */
};

/* Shared by all processes. */
struct shared {
    _Atomic uint64_t next; /* run to begin */
    atomic_bool stop;
    struct worker worker[MAX_JOBS];
};

static void work(const struct many *m, struct shared *x, struct worker *w, const struct settings *o)
{
    uint64_t i;
    while (!x->stop && (i = atomic_fetch_add(&x->next, 1)) < o->count) {
        w->seed = o->seed + i;
        alarm(m->seconds);
        bool ok = m->run(w->seed, o->verbose, w->counts);
        if (!ok) {
            w->failed++;
            if (o->stop)
                x->stop = true;
        }
        w->done++;
    }
}

static void start(const struct many *m, struct shared *x, struct worker *w, const struct settings *o)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0) {
        fprintf(stderr, "%s: ", m->name);
        perror("fork");
        exit(1);
    }
    if (pid == 0) {
        work(m, x, w, o);
        exit(0);
    }
    w->pid = pid; /* the parent's alone, though shared */
}

/* A worker has ended; another takes its place if it did not end well. */
static void ended(const struct many *m, struct shared *x, struct worker *w, int status,
                  const struct settings *o)
{
    w->pid = 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return;
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
        fprintf(stderr, "seed %" PRIu64 ": it takes more than %u s\n", w->seed, m->seconds);
    else if (WIFSIGNALED(status))
        fprintf(stderr, "seed %" PRIu64 ": ended by signal %d (%s)\n", w->seed, WTERMSIG(status),
                strsignal(WTERMSIG(status)));
    else
        fprintf(stderr, "seed %" PRIu64 ": ended with status %d\n", w->seed, WEXITSTATUS(status));
    fprintf(stderr, "  to repeat it: make %s SEED=%" PRIu64 " N=1\n", m->target, w->seed);
    w->failed++;
    w->done++;
    if (o->stop)
        x->stop = true;
    else
        start(m, x, w, o);
}

static uint64_t run_all(const struct many *m, struct shared *x, const struct settings *o)
{
    struct progress progress;
    uint32_t jobs = o->jobs ? o->jobs : (uint32_t)sysconf(_SC_NPROCESSORS_ONLN);
    jobs = jobs > MAX_JOBS ? MAX_JOBS : jobs > o->count ? (uint32_t)o->count : jobs;
    progress_begin(&progress, m->target, m->unit, o->count);
    for (uint32_t i = 0; i < jobs; i++)
        start(m, x, &x->worker[i], o);
    uint64_t done = 0;
    for (bool any = true; any;) {
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
        any = false;
        done = 0;
        for (uint32_t i = 0; i < jobs; i++) {
            struct worker *w = &x->worker[i];
            int status;
            if (w->pid && waitpid(w->pid, &status, WNOHANG) == w->pid)
                ended(m, x, w, status, o);
            any = any || w->pid;
            done += w->done;
        }
        progress_update(&progress, done);
    }
    progress_end(&progress);
    return done;
}

int many_main(const struct many *m, int argc, char **argv)
{
    struct settings o = {.seed = 1, .count = 500};
    char seed_help[100];
    snprintf(seed_help, sizeof seed_help, "of the first of the %s; the next has the next one", m->unit);
    const struct opt table[] = {
        {"seed", 's', OPT_U64, offsetof(struct settings, seed), "S", seed_help},
        {"count", 'n', OPT_U64, offsetof(struct settings, count), "N", m->unit, .min = 1, .max = 1e9},
        {"jobs", 'j', OPT_U32, offsetof(struct settings, jobs), "J", "processes; 0: one a core"},
        {"stop", 0, OPT_FLAG, offsetof(struct settings, stop), NULL, "end soon after the first failure"},
        {"verbose", 'v', OPT_FLAG, offsetof(struct settings, verbose), NULL,
         "tell all that happens on stderr"},
        {0},
    };
    const struct opt_group groups[] = {{"Options", table, &o}, {0}};
    const struct opt_command command = {m->name, "[--seed S] [--count N]", m->about, m->examples, groups};
    struct opt_memory memory = {0};
    int rc = options_start(&command, argc, argv, &memory);
    if (rc >= 0)
        return rc;
    struct shared *x = mmap(NULL, sizeof *x, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (x == MAP_FAILED) {
        fprintf(stderr, "%s: ", m->name);
        perror("mmap");
        return 1;
    }
    uint64_t done = run_all(m, x, &o), failed = 0, sum[MANY_COUNTS] = {0};
    for (int i = 0; i < MAX_JOBS; i++) {
        for (int j = 0; j < MANY_COUNTS; j++)
            sum[j] += x->worker[i].counts[j];
        failed += x->worker[i].failed;
    }
    for (int j = 0; j < MANY_COUNTS && m->counts[j].name; j++)
        printf("  %-14s %10" PRIu64 "  %s\n", m->counts[j].name, sum[j], m->counts[j].what);
    m->end(done, failed, sum);
    options_free(&memory);
    munmap(x, sizeof *x);
    return failed > 0;
}
