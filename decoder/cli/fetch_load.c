/* fetch_load.c: see fetch_load.h. */
#include "decoder/cli/fetch_load.h"
#include "common/clock.h"
#include "decoder/cli/interrupt.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { SLICE_MS = 20 };

double process_cpu_s(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

struct request {
    struct load *load;
    struct tier_fetch *fetch;
    struct tier_want *wants; /* [batch * pages] */
    uint32_t left;           /* pages still to come */
    uint64_t due;
    struct request *next; /* among the free, or the done */
};

struct load {
    struct tier *tier;
    const struct fetch_set *set;
    struct fetch_load_opts o;
    uint32_t per_block, n_wants; /* pages of a block that are fetched; of a request */
    struct request *requests, *free, *done;
    struct tier_want *wants;
    uint64_t random, open, page_bytes;
    uint64_t begin, from, until; /* times: of all, of what is measured */
    uint64_t begun;              /* requests */
    bool measuring, ended;
    int timer;
    struct skv_error failure;
    struct fetch_result *out;
};

/* ---- a request ---- */

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint32_t below(struct load *l, uint32_t n)
{
    return (uint32_t)((next_random(&l->random) >> 32) * n >> 32);
}

static bool measured(const struct load *l, const struct request *q)
{
    return l->o.rate > 0 ? q->due >= l->from && q->due < l->until : l->measuring && !l->ended;
}

static void request_done(struct load *l, struct request *q)
{
    if (measured(l, q))
        hist_add(&l->out->latency, clock_ns() - q->due);
    l->out->requests += l->measuring && !l->ended;
    q->next = l->done;
    l->done = q;
}

static void on_page(void *arg, size_t want, int rc, const uint8_t *bytes)
{
    struct request *q = arg;
    struct load *l = q->load;
    (void)bytes; /* that the tier hands them out means that they are what was asked for */
    bool absent = q->wants[want].key >= l->set->keys + l->set->n, counted = l->measuring && !l->ended;
    if (rc == 0) {
        l->out->moved_bytes += l->page_bytes;
        l->out->bytes += counted ? l->page_bytes : 0;
        l->out->found += counted;
    } else if (rc == -ENODATA && absent) {
        l->out->missed += counted;
    } else if (!l->failure.code) {
        skv_fail(&l->failure, rc,
                 rc == -ENODATA
                     ? "a block that was stored is not there any more: the nodes have too little room for "
                       "the set (give a smaller --set)"
                 : rc == -EBADMSG ? "pages came with bytes other than those that were stored"
                                  : "a memory node was lost during a fetch: see `scoutkv stats`");
    }
    if (--q->left == 0)
        request_done(l, q);
}

/* Some of a block's pages, rising, one in each of per_block equal parts. */
static void want_block(struct load *l, struct tier_want *w)
{
    const struct fetch_set *s = l->set;
    bool absent = l->o.misses > 0 && (double)(next_random(&l->random) >> 11) * 0x1p-53 < l->o.misses;
    uint32_t block = absent ? s->n + below(l, s->n_absent) : below(l, s->n);
    for (uint32_t i = 0; i < l->per_block; i++) {
        size_t first = i * s->pages / l->per_block, end = (i + 1) * s->pages / l->per_block;
        size_t page = first + below(l, (uint32_t)(end - first));
        w[i] =
            (struct tier_want){&s->keys[block], (uint16_t)(page / BLOCK_PAGES), (uint8_t)(page % BLOCK_PAGES),
                               absent ? 0 : s->checksums[block * s->pages + page]};
    }
}

static int begin_one(struct load *l, uint64_t due, uint64_t now, struct skv_error *err)
{
    struct request *q = l->free;
    q->due = due;
    q->left = l->n_wants;
    for (uint32_t i = 0; i < l->o.batch; i++)
        want_block(l, q->wants + (size_t)i * l->per_block);
    if (l->o.rate > 0 && measured(l, q))
        hist_add(&l->out->late, now - due);
    int rc = tier_fetch_begin(l->tier, &l->set->layout, q->wants, l->n_wants, on_page, q, &q->fetch, err);
    if (rc)
        return rc;
    l->free = q->next;
    l->begun++;
    l->open++;
    return 0;
}

static void collect(struct load *l)
{
    while (l->done) {
        struct request *q = l->done;
        l->done = q->next;
        (void)tier_fetch_end(l->tier, q->fetch, NULL); /* on_page has seen what failed */
        q->next = l->free;
        l->free = q;
        l->open--;
    }
}

/* ---- the run ---- */

static uint64_t due_at(const struct load *l, uint64_t i)
{
    return l->begin + (uint64_t)((double)i * 1e9 / l->o.rate);
}

static int begin_due(struct load *l, uint64_t now, struct skv_error *err)
{
    int rc = 0;
    while (l->free && !rc) {
        uint64_t due = l->o.rate > 0 ? due_at(l, l->begun) : now;
        if (due > now || (l->o.rate > 0 ? due >= l->until : l->ended))
            break;
        rc = begin_one(l, due, now, err);
    }
    return rc;
}

/* Waits for answers, or until the next request is due. */
static int wait_for(struct load *l, struct skv_error *err)
{
    uint64_t due = l->o.rate > 0 && l->free ? due_at(l, l->begun) : UINT64_MAX;
    if (due >= l->until) /* only answers are waited for */
        return tier_pump(l->tier, SLICE_MS, err);
    struct itimerspec at = {
        .it_value = {.tv_sec = (time_t)(due / NS_PER_S), .tv_nsec = (long)(due % NS_PER_S)}};
    if (timerfd_settime(l->timer, TFD_TIMER_ABSTIME, &at, NULL))
        return skv_fail(err, -errno, "cannot set a timer: %s", strerror(errno));
    return tier_pump_or(l->tier, l->timer, SLICE_MS, err);
}

static void look_at_clock(struct load *l, uint64_t now)
{
    if (!l->measuring && now >= l->from) {
        l->measuring = true;
        l->from = l->o.rate > 0 ? l->from : now;
    }
    bool enough = l->o.count && l->out->requests >= l->o.count;
    if (l->measuring && !l->ended && (now >= l->until || enough)) {
        l->ended = true;
        l->until = now < l->until ? now : l->until;
        l->out->seconds = (double)(now - l->from) / 1e9;
    }
}

/* With a rate, what was due must be done; but not for ever, if the rate is more than there can be. */
static bool over(const struct load *l, uint64_t now)
{
    if (!l->ended)
        return false;
    if (l->o.rate <= 0)
        return l->open == 0;
    uint64_t patience = l->until + (l->until - l->from);
    return (l->open == 0 && due_at(l, l->begun) >= l->until) || now >= patience;
}

static void count_unfinished(struct load *l, uint64_t now)
{
    for (uint64_t due; l->o.rate > 0 && (due = due_at(l, l->begun)) < l->until; l->begun++) {
        if (due < l->from)
            continue;
        l->out->unfinished++;
        hist_add(&l->out->latency, now - due);
        hist_add(&l->out->late, now - due);
    }
    for (uint32_t i = 0; l->o.rate > 0 && i < l->o.window; i++) {
        struct request *q = &l->requests[i];
        if (q->left && measured(l, q)) {
            l->out->unfinished++;
            hist_add(&l->out->latency, now - q->due);
            q->due = UINT64_MAX; /* its end does not count any more */
        }
    }
}

static int run(struct load *l, struct skv_error *err)
{
    int rc = 0;
    uint64_t now = l->begin;
    while (!rc && !over(l, now)) {
        if ((rc = begin_due(l, now, err)) || (rc = wait_for(l, err)))
            break;
        collect(l);
        now = clock_ns();
        look_at_clock(l, now);
        if (l->failure.code) {
            *err = l->failure;
            rc = l->failure.code;
        } else if (interrupted()) {
            rc = skv_fail(err, -EINTR, "interrupted");
        }
    }
    count_unfinished(l, now);
    while (l->open) { /* each has a deadline of its own */
        tier_pump(l->tier, SLICE_MS, NULL);
        collect(l);
    }
    return rc;
}

static int prepare(struct load *l, struct skv_error *err)
{
    l->per_block = l->o.pages ? l->o.pages : (uint32_t)l->set->pages;
    l->n_wants = l->o.batch * l->per_block;
    l->page_bytes = layout_page_bytes(&l->set->layout);
    l->requests = calloc(l->o.window, sizeof *l->requests);
    l->wants = calloc((size_t)l->o.window * l->n_wants, sizeof *l->wants);
    l->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (!l->requests || !l->wants)
        return skv_fail(err, -ENOMEM, "out of memory");
    if (l->timer < 0)
        return skv_fail(err, -errno, "cannot make a timer: %s", strerror(errno));
    for (uint32_t i = 0; i < l->o.window; i++) {
        l->requests[i] =
            (struct request){.load = l, .wants = l->wants + (size_t)i * l->n_wants, .next = l->free};
        l->free = &l->requests[i];
    }
    l->begin = clock_ns();
    l->from = l->begin + (uint64_t)(l->o.warm_up * 1e9);
    l->until = l->from + (uint64_t)(l->o.seconds * 1e9);
    return 0;
}

int fetch_load_run(struct tier *t, const struct fetch_set *s, const struct fetch_load_opts *o,
                   struct fetch_result *out, struct skv_error *err)
{
    struct load l = {.tier = t, .set = s, .o = *o, .random = o->seed, .timer = -1, .out = out};
    double cpu = process_cpu_s();
    memset(out, 0, sizeof *out);
    int rc = prepare(&l, err);
    if (!rc)
        rc = run(&l, err);
    out->cpu_s = process_cpu_s() - cpu;
    if (l.timer >= 0)
        close(l.timer);
    free(l.requests);
    free(l.wants);
    return rc;
}
