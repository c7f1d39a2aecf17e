/* registration.c: see registration.h. */
#include "memnode/registration.h"
#include "common/etcd.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TTL_S = 10, BEAT_MS = 3000, RETRY_MS = 1000, JOIN_TRIES = 100 };

struct registration {
    struct etcd *etcd;
    struct cluster_node node;
    const struct log *log;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stop;
    /* the thread's */
    int64_t lease; /* 0: none */
    bool joined, away;
    struct cluster_view view;
};

/* Puts the node into the view. -ESTALE: others changed it all the time. */
static int join(struct registration *r, struct skv_error *err)
{
    int rc = -ESTALE;
    for (int i = 0; i < JOIN_TRIES && rc == -ESTALE; i++) {
        rc = etcd_view_get(r->etcd, &r->view, err);
        if (rc == -ENOENT)
            r->view = (struct cluster_view){0};
        else if (rc)
            return rc;
        struct cluster_node *as = (struct cluster_node *)cluster_view_find(&r->view, r->node.id);
        if (as && strcmp(as->address, r->node.address) == 0)
            return 0;
        if (!as && r->view.n == CLUSTER_MAX_NODES)
            return skv_fail(err, -E2BIG, "the cluster has %d nodes already, which is the limit",
                            CLUSTER_MAX_NODES);
        if (as)
            strcpy(as->address, r->node.address);
        else
            r->view.node[r->view.n++] = r->node;
        rc = etcd_view_put(r->etcd, &r->view, err);
        if (rc == 0)
            log_write(r->log, LOG_LEVEL_INFO,
                      "%s the cluster's view in etcd, now of epoch %" PRIu64 " and %zu nodes",
                      as ? "corrected its address in" : "joined", r->view.epoch, r->view.n);
    }
    return rc;
}

/* One round. */
static int beat(struct registration *r, struct skv_error *err)
{
    int rc = r->lease ? etcd_keep_alive(r->etcd, r->lease, err) : -ENOENT;
    if (rc == -ENOENT)
        rc = etcd_register(r->etcd, &r->node, TTL_S, &r->lease, err);
    if (rc == 0 && !r->joined) {
        rc = join(r, err);
        r->joined = rc == 0;
    }
    return rc;
}

/* False: to stop. */
static bool rest(struct registration *r, unsigned ms)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += ms % 1000 * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&r->lock);
    int rc = 0;
    while (!r->stop && rc != ETIMEDOUT)
        rc = pthread_cond_timedwait(&r->wake, &r->lock, &until);
    bool go = !r->stop;
    pthread_mutex_unlock(&r->lock);
    return go;
}

static void *run(void *arg)
{
    struct registration *r = arg;
    struct skv_error err;
    int rc;
    do {
        rc = beat(r, &err);
        if (rc && !r->away)
            log_write(r->log, LOG_LEVEL_WARN, "not in etcd%s: %s; serving on, and trying again",
                      r->joined ? " any more" : " yet", err.text);
        else if (!rc && r->away)
            log_write(r->log, LOG_LEVEL_INFO, "in etcd again");
        r->away = rc != 0;
    } while (rest(r, rc ? RETRY_MS : BEAT_MS));
    if (r->lease && !r->away)
        etcd_unregister(r->etcd, r->lease, NULL);
    return NULL;
}

struct registration *registration_start(const char *endpoints, const char *cluster,
                                        const struct cluster_node *node, const struct log *log,
                                        struct skv_error *err)
{
    struct registration *r = calloc(1, sizeof *r);
    if (!r) {
        skv_fail(err, -ENOMEM, "out of memory");
        return NULL;
    }
    r->node = *node;
    r->log = log;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->wake, NULL);
    r->etcd = etcd_open(endpoints, cluster, err);
    int rc = r->etcd ? pthread_create(&r->thread, NULL, run, r) : 0;
    if (r->etcd && rc == 0)
        return r;
    if (rc)
        skv_fail(err, -rc, "cannot start a thread: %s", strerror(rc));
    etcd_close(r->etcd);
    free(r);
    return NULL;
}

void registration_stop(struct registration *r)
{
    if (!r)
        return;
    pthread_mutex_lock(&r->lock);
    r->stop = true;
    pthread_cond_signal(&r->wake);
    pthread_mutex_unlock(&r->lock);
    pthread_join(r->thread, NULL);
    etcd_close(r->etcd);
    pthread_cond_destroy(&r->wake);
    pthread_mutex_destroy(&r->lock);
    free(r);
}
