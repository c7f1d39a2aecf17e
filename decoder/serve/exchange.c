#include "decoder/serve/exchange.h"
#include "common/clock.h"

#include <errno.h>
#include <math.h>

int exchange_init(struct exchange *x, unsigned room, unsigned parallel, uint64_t memory)
{
    pthread_condattr_t monotonic;
    *x = (struct exchange){.room = room, .parallel = parallel, .memory = memory};
    x->last = &x->first;
    if (pthread_condattr_init(&monotonic))
        return -ENOMEM;
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&x->lock, NULL);
    pthread_cond_init(&x->came, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return 0;
}

void exchange_destroy(struct exchange *x)
{
    struct api_error e;
    api_error(&e, 503, "shutting_down", NULL, "the server is stopping");
    exchange_close(x, &e);
    pthread_cond_destroy(&x->came);
    pthread_mutex_destroy(&x->lock);
}

uint64_t exchange_retry_after(double mean_s, unsigned parallel)
{
    double s = ceil(mean_s / parallel);
    return s < 1 ? 1 : s > 600 ? 600 : (uint64_t)s;
}

/* How many would wait, with one more of so many bytes behind them: those that the worker has a slot and room
 * for, and will take after its step, don't. */
static unsigned waiting_with(const struct exchange *x, uint64_t bytes)
{
    unsigned active = atomic_load(&x->active), slots = active < x->parallel ? x->parallel - active : 0, n = 0;
    uint64_t left = x->memory - x->taken;
    const struct ticket *t = x->first;
    for (; t && slots && t->bytes <= left; t = t->next, slots--, n++)
        left -= t->bytes;
    return t || !slots || bytes > left ? x->n + 1 - n : 0;
}

/* How many go on at once, for a guess at when there is room. */
static unsigned at_once(const struct exchange *x)
{
    unsigned active = atomic_load(&x->active);
    return active ? active : x->parallel;
}

int exchange_put(struct exchange *x, struct ticket *t, uint64_t *retry_after_s, struct api_error *e)
{
    int rc = 0;
    *retry_after_s = 0;
    pthread_mutex_lock(&x->lock);
    if (x->closed) {
        api_error(e, 503, "shutting_down", NULL, "the server is stopping");
        rc = -EAGAIN;
    } else if (waiting_with(x, t->bytes) > x->room) {
        *retry_after_s = exchange_retry_after(x->mean_s, at_once(x));
        api_error(e, 429, "queue_full", NULL, "%u requests are waiting already: try again in %llu s", x->n,
                  (unsigned long long)*retry_after_s);
        rc = -EAGAIN;
    } else {
        ticket_hold(t);
        *x->last = t;
        x->last = &t->next;
        x->n++;
        pthread_cond_signal(&x->came);
    }
    pthread_mutex_unlock(&x->lock);
    return rc;
}

/* With the lock held. */
static struct ticket *unlink_at(struct exchange *x, struct ticket **at)
{
    struct ticket *t = *at;
    *at = t->next;
    if (x->last == &t->next)
        x->last = at;
    t->next = NULL;
    x->n--;
    return t;
}

/* With the lock held: there is somebody, with room for all that was asked for. */
static bool fits(const struct exchange *x)
{
    return x->first && x->first->bytes <= x->memory - x->taken;
}

struct ticket *exchange_take(struct exchange *x, unsigned timeout_ms)
{
    uint64_t until = clock_ns() + timeout_ms * NS_PER_MS;
    struct timespec end = {.tv_sec = (time_t)(until / NS_PER_S), .tv_nsec = (long)(until % NS_PER_S)};
    int rc = timeout_ms ? 0 : ETIMEDOUT;
    pthread_mutex_lock(&x->lock);
    while (!fits(x) && !x->closed && rc == 0)
        rc = pthread_cond_timedwait(&x->came, &x->lock, &end);
    struct ticket *t = fits(x) ? unlink_at(x, &x->first) : NULL;
    if (t)
        x->taken += t->bytes;
    pthread_mutex_unlock(&x->lock);
    return t;
}

bool exchange_more(struct exchange *x, uint64_t bytes)
{
    pthread_mutex_lock(&x->lock);
    bool enough = bytes <= x->memory - x->taken;
    x->taken += enough ? bytes : 0;
    pthread_mutex_unlock(&x->lock);
    return enough;
}

void exchange_give(struct exchange *x, uint64_t bytes)
{
    pthread_mutex_lock(&x->lock);
    x->taken -= bytes;
    pthread_mutex_unlock(&x->lock);
}

uint64_t exchange_taken(struct exchange *x)
{
    pthread_mutex_lock(&x->lock);
    uint64_t taken = x->taken;
    pthread_mutex_unlock(&x->lock);
    return taken;
}

void exchange_sweep(struct exchange *x, uint64_t before_ns, const struct api_error *e)
{
    pthread_mutex_lock(&x->lock);
    for (struct ticket **at = &x->first; *at;) {
        bool gone = atomic_load(&(*at)->gone);
        if (!gone && (*at)->accepted_ns >= before_ns) {
            at = &(*at)->next;
            continue;
        }
        struct ticket *t = unlink_at(x, at);
        if (!gone)
            ticket_fail(t, e);
        ticket_release(t);
    }
    pthread_mutex_unlock(&x->lock);
}

void exchange_close(struct exchange *x, const struct api_error *e)
{
    exchange_sweep(x, UINT64_MAX, e);
    pthread_mutex_lock(&x->lock);
    x->closed = true;
    pthread_cond_broadcast(&x->came);
    pthread_mutex_unlock(&x->lock);
    exchange_sweep(x, UINT64_MAX, e); /* what came in between */
}

bool exchange_closed(struct exchange *x)
{
    pthread_mutex_lock(&x->lock);
    bool closed = x->closed;
    pthread_mutex_unlock(&x->lock);
    return closed;
}

unsigned exchange_waiting(struct exchange *x)
{
    pthread_mutex_lock(&x->lock);
    unsigned n = x->n;
    pthread_mutex_unlock(&x->lock);
    return n;
}

void exchange_served(struct exchange *x, double seconds)
{
    pthread_mutex_lock(&x->lock);
    x->mean_s = x->mean_s > 0 ? 0.8 * x->mean_s + 0.2 * seconds : seconds;
    pthread_mutex_unlock(&x->lock);
}
