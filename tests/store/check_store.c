/* check_store.c: many histories of the store on simulated disks, in as many
 * processes as there are cores. A process that dies (an assertion, a sanitizer)
 * is one history that failed; the others go on. */
#include "common/options.h"
#include "common/progress.h"
#include "tests/store/histories.h"

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

enum {
    MAX_JOBS = 64,
    HISTORY_SECONDS = 300 /* one takes less than one; a sanitizer is slow */
};

struct settings {
    uint64_t seed, count;
    uint32_t jobs;
    bool verbose, stop;
};

struct worker {
    pid_t pid; /* 0: none runs */
    _Atomic uint64_t seed;
    _Atomic uint64_t done, failed;
    struct history_counts counts; /* its own; read when it has ended */
};

/* Shared by all processes. */
struct shared {
    _Atomic uint64_t next; /* history to begin */
    atomic_bool stop;
    struct worker worker[MAX_JOBS];
};

static void work(struct shared *x, struct worker *w, const struct settings *o)
{
    uint64_t i;
    while (!x->stop && (i = atomic_fetch_add(&x->next, 1)) < o->count) {
        w->seed = o->seed + i;
        alarm(HISTORY_SECONDS);
        bool ok = history_run(w->seed, o->verbose, &w->counts);
        if (!ok) {
            w->failed++;
            if (o->stop)
                x->stop = true;
        }
        w->done++;
    }
}

static void start(struct shared *x, struct worker *w, const struct settings *o)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0) {
        perror("check_store: fork");
        exit(1);
    }
    if (pid == 0) {
        work(x, w, o);
        exit(0);
    }
    w->pid = pid; /* the parent's alone, though shared */
}

/* A worker has ended; another takes its place if it did not end well. */
static void ended(struct shared *x, struct worker *w, int status, const struct settings *o)
{
    w->pid = 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return;
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
        fprintf(stderr, "seed %" PRIu64 ": it takes more than %d s\n", w->seed, HISTORY_SECONDS);
    else if (WIFSIGNALED(status))
        fprintf(stderr, "seed %" PRIu64 ": ended by signal %d (%s)\n", w->seed, WTERMSIG(status),
                strsignal(WTERMSIG(status)));
    else
        fprintf(stderr, "seed %" PRIu64 ": ended with status %d\n", w->seed, WEXITSTATUS(status));
    fprintf(stderr, "  to repeat it: make check-store SEED=%" PRIu64 " N=1\n", w->seed);
    w->failed++;
    w->done++;
    if (o->stop)
        x->stop = true;
    else
        start(x, w, o);
}

static uint64_t run_all(struct shared *x, const struct settings *o)
{
    struct progress progress;
    uint32_t jobs = o->jobs ? o->jobs : (uint32_t)sysconf(_SC_NPROCESSORS_ONLN);
    jobs = jobs > MAX_JOBS ? MAX_JOBS : jobs > o->count ? (uint32_t)o->count : jobs;
    progress_begin(&progress, "check-store", "histories", o->count);
    for (uint32_t i = 0; i < jobs; i++)
        start(x, &x->worker[i], o);
    uint64_t done = 0;
    for (bool any = true; any;) {
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
        any = false;
        done = 0;
        for (uint32_t i = 0; i < jobs; i++) {
            struct worker *w = &x->worker[i];
            int status;
            if (w->pid && waitpid(w->pid, &status, WNOHANG) == w->pid)
                ended(x, w, status, o);
            any = any || w->pid;
            done += w->done;
        }
        progress_update(&progress, done);
    }
    progress_end(&progress);
    return done;
}

static void add(struct history_counts *sum, const struct history_counts *c)
{
#define ADD(name, what) sum->name += c->name;
    HISTORY_COUNTS(ADD)
#undef ADD
}

static void print_counts(const struct history_counts *c)
{
#define PRINT(name, what) printf("  %-14s %10" PRIu64 "  %s\n", #name, c->name, what);
    HISTORY_COUNTS(PRINT)
#undef PRINT
}

int main(int argc, char **argv)
{
    struct settings o = {.seed = 1, .count = 500};
    static const struct opt table[] = {
        {"seed", 's', OPT_U64, offsetof(struct settings, seed), "S",
         "of the first history; the next has the next one"},
        {"count", 'n', OPT_U64, offsetof(struct settings, count), "N", "histories", .min = 1, .max = 1e9},
        {"jobs", 'j', OPT_U32, offsetof(struct settings, jobs), "J", "processes; 0: one a core"},
        {"stop", 0, OPT_FLAG, offsetof(struct settings, stop), NULL, "end soon after the first failure"},
        {"verbose", 'v', OPT_FLAG, offsetof(struct settings, verbose), NULL, "tell each history on stderr"},
        {0},
    };
    const struct opt_group groups[] = {{"Options", table, &o}, {0}};
    const struct opt_command command = {
        "check_store", "[--seed S] [--count N]",
        "Runs the block store on simulated disks that tear, lose, reorder, "
        "misread and rot, with power "
        "losses and\n"
        "killed processes, against a model: nothing acknowledged as durable may "
        "be lost, and no other bytes "
        "may be\n"
        "returned. Each history follows from its seed, which every failure "
        "prints.",
        "  check_store --count 20000\n  check_store --seed 4711 --count 1 "
        "--verbose\n",
        groups};
    struct opt_memory memory = {0};
    int rc = options_start(&command, argc, argv, &memory);
    if (rc >= 0)
        return rc;
    struct shared *x = mmap(NULL, sizeof *x, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (x == MAP_FAILED) {
        perror("check_store: mmap");
        return 1;
    }
    uint64_t done = run_all(x, &o), failed = 0;
    struct history_counts sum = {0};
    for (int i = 0; i < MAX_JOBS; i++) {
        add(&sum, &x->worker[i].counts);
        failed += x->worker[i].failed;
    }
    print_counts(&sum);
    if (failed)
        printf("store: %" PRIu64 " of the histories failed; their seeds are above\n", failed);
    printf("store: %" PRIu64 " histories, %" PRIu64 " acks, %" PRIu64 " lost, %" PRIu64 " flips, %" PRIu64
           " wrong\n",
           done, sum.acks, sum.lost, sum.flips, sum.wrong);
    options_free(&memory);
    munmap(x, sizeof *x);
    return failed > 0;
}
