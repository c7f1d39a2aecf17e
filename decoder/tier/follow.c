/* follow.c: see follow.h. It asks twice a second, rather than watch: a poll needs no state that a restart of
 * etcd could break, and whoever writes by an older view meanwhile is corrected by the nodes. */
#include "decoder/tier/follow.h"
#include "common/etcd.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { POLL_MS = 500 };

struct follow {
    struct etcd *etcd;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stop;
    uint64_t epoch; /* the thread's: of the newest view */
    _Atomic(struct cluster_view *) next;
    atomic_uint_fast64_t losses;
};

static bool rest(struct follow *f)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += POLL_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&f->lock);
    int rc = 0;
    while (!f->stop && rc != ETIMEDOUT)
        rc = pthread_cond_timedwait(&f->wake, &f->lock, &until);
    bool go = !f->stop;
    pthread_mutex_unlock(&f->lock);
    return go;
}

static void *run(void *arg)
{
    struct follow *f = arg;
    bool away = false;
    while (rest(f)) {
        struct cluster_view *v = malloc(sizeof *v);
        int rc = v ? etcd_view_get(f->etcd, v, NULL) : -ENOMEM;
        if (rc == -EHOSTUNREACH && !away)
            f->losses++;
        away = rc == -EHOSTUNREACH;
        if (rc || v->epoch <= f->epoch) {
            free(v);
            continue;
        }
        f->epoch = v->epoch;
        free(atomic_exchange(&f->next, v));
    }
    return NULL;
}

struct follow *follow_start(const char *endpoints, const char *cluster, struct cluster_view *first,
                            struct skv_error *err)
{
    struct follow *f = calloc(1, sizeof *f);
    if (!f) {
        skv_fail(err, -ENOMEM, "out of memory");
        return NULL;
    }
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->wake, NULL);
    if (!(f->etcd = etcd_open(endpoints, cluster, err)) || etcd_view_get(f->etcd, first, err))
        goto error;
    f->epoch = first->epoch;
    int rc = pthread_create(&f->thread, NULL, run, f);
    if (rc == 0)
        return f;
    skv_fail(err, -rc, "cannot start a thread: %s", strerror(rc));
error:
    etcd_close(f->etcd);
    free(f);
    return NULL;
}

void follow_stop(struct follow *f)
{
    if (!f)
        return;
    pthread_mutex_lock(&f->lock);
    f->stop = true;
    pthread_cond_signal(&f->wake);
    pthread_mutex_unlock(&f->lock);
    pthread_join(f->thread, NULL);
    etcd_close(f->etcd);
    free(atomic_load(&f->next));
    pthread_cond_destroy(&f->wake);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

struct cluster_view *follow_take(struct follow *f)
{
    if (!atomic_load_explicit(&f->next, memory_order_relaxed))
        return NULL;
    return atomic_exchange(&f->next, NULL);
}

uint64_t follow_losses(struct follow *f)
{
    return f->losses;
}
