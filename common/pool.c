/* pool.c: see pool.h. Whoever waits looks on for some microseconds, since runs follow each other closely
 * while a step computes and waking a thread takes longer; then it sleeps on a condition variable: with two
 * cores shared with memory nodes and zmq's own threads, spinning would take time from those that work. */
#include "common/pool.h"

#include "common/clock.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

enum { LOOK_ON_NS = 20000 };

struct pool {
    pthread_mutex_t lock;
    pthread_cond_t start, done;
    void (*fn)(void *, unsigned);
    void *arg;
    unsigned n_parts;
    atomic_uint next;       /* next part to hand out */
    atomic_uint generation; /* counts pool_run calls: a worker that sees a new one joins in */
    atomic_uint busy;       /* workers inside the current run */
    bool quit;
    unsigned n_workers;
    pthread_t workers[];
};

static void work(struct pool *p, void (*fn)(void *, unsigned), void *arg, unsigned n_parts)
{
    for (unsigned part; (part = atomic_fetch_add(&p->next, 1)) < n_parts;)
        fn(arg, part);
}

/* Until *what equals `value`, or no longer does, but not for longer than LOOK_ON_NS. */
static void look_on(const atomic_uint *what, unsigned value, bool equal)
{
    uint64_t end = clock_ns() + LOOK_ON_NS;
    while ((atomic_load_explicit(what, memory_order_relaxed) == value) != equal && clock_ns() < end)
        sched_yield(); /* to whoever has work */
}

static void *worker(void *arg)
{
    struct pool *p = arg;
    unsigned seen = 0;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (!p->quit && p->generation == seen)
            pthread_cond_wait(&p->start, &p->lock);
        if (p->quit)
            break;
        seen = p->generation;
        if (!p->fn)
            continue; /* the run ended before this worker woke */
        p->busy++;
        void (*fn)(void *, unsigned) = p->fn;
        void *fn_arg = p->arg;
        unsigned n = p->n_parts;
        pthread_mutex_unlock(&p->lock);
        work(p, fn, fn_arg, n);
        pthread_mutex_lock(&p->lock);
        if (--p->busy == 0)
            pthread_cond_signal(&p->done);
        pthread_mutex_unlock(&p->lock);
        look_on(&p->generation, seen, false);
        pthread_mutex_lock(&p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

struct pool *pool_new(unsigned n_threads)
{
    if (n_threads == 0) {
        cpu_set_t set;
        n_threads = sched_getaffinity(0, sizeof set, &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1;
    }
    unsigned n_workers = n_threads > 0 ? n_threads - 1 : 0;
    struct pool *p = calloc(1, sizeof *p + n_workers * sizeof p->workers[0]);
    if (!p)
        return NULL;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->start, NULL);
    pthread_cond_init(&p->done, NULL);
    for (; p->n_workers < n_workers; p->n_workers++)
        if (pthread_create(&p->workers[p->n_workers], NULL, worker, p) != 0)
            break; /* fewer threads: slower, not wrong */
    return p;
}

void pool_free(struct pool *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->quit = true;
    pthread_cond_broadcast(&p->start);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->n_workers; i++)
        pthread_join(p->workers[i], NULL);
    pthread_cond_destroy(&p->start);
    pthread_cond_destroy(&p->done);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

unsigned pool_threads(const struct pool *p)
{
    return p ? p->n_workers + 1 : 1;
}

void pool_run(struct pool *p, unsigned n_parts, void (*fn)(void *, unsigned), void *arg)
{
    if (!p || p->n_workers == 0 || n_parts <= 1) {
        for (unsigned part = 0; part < n_parts; part++)
            fn(arg, part);
        return;
    }
    pthread_mutex_lock(&p->lock);
    p->fn = fn;
    p->arg = arg;
    p->n_parts = n_parts;
    atomic_store(&p->next, 0);
    p->generation++;
    pthread_cond_broadcast(&p->start);
    pthread_mutex_unlock(&p->lock);
    work(p, fn, arg, n_parts);
    look_on(&p->busy, 0, true);
    pthread_mutex_lock(&p->lock);
    p->fn = NULL;
    while (p->busy > 0)
        pthread_cond_wait(&p->done, &p->lock);
    pthread_mutex_unlock(&p->lock);
}
