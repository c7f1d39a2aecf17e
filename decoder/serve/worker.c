#include "decoder/serve/worker.h"
#include "common/clock.h"
#include "decoder/serve/batch.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    BACKLOG = 256 << 10, /* bytes that a client may leave unread before its sequence is held */
    IDLE_MS = 1000,
    HELD_MS = 20, /* between looks at clients that read slowly */
};

/* ---- ends ---- */

static void leave(struct worker *w, unsigned slot)
{
    exchange_served(w->exchange, (double)(clock_ns() - w->sequences[slot].begun_ns) * 1e-9);
    uint64_t bytes = w->sequences[slot].ticket->bytes;
    sequence_close(&w->sequences[slot]);
    scheduler_remove(&w->scheduler, slot);
    atomic_store(&w->exchange->active, w->scheduler.n_used);
    exchange_give(w->exchange, bytes);
}

static void fail(struct worker *w, unsigned slot, const struct api_error *e)
{
    struct sequence *s = &w->sequences[slot];
    log_write(w->serving.log, LOG_LEVEL_WARN, "%s: failed with %d after %llu tokens: %s",
              s->ticket->answer.id, e->status, (unsigned long long)s->n_generated, e->message);
    ticket_fail(s->ticket, e);
    leave(w, slot);
}

/* What a step did to a sequence: it failed, it ended, or it goes on. */
static void look_after(struct worker *w, unsigned slot)
{
    struct sequence *s = &w->sequences[slot];
    struct api_error e;
    if (!s->error.code && s->finish && sequence_finish(&w->serving, s) == 0) {
        leave(w, slot);
    } else if (s->error.code) {
        api_error_of(&e, &s->error);
        fail(w, slot, &e);
    }
}

/* ---- between steps ---- */

/* Has it wait if somebody is prefilling what it begins with; it has a context. */
static void share_or_go_on(struct worker *w, unsigned slot)
{
    if (w->sequences[slot].error.code ||
        !share_find(w->sequences, w->parallel, slot, w->serving.chunk, &w->shares[slot]))
        return;
    sequence_wait(&w->sequences[slot]);
    scheduler_hold(&w->scheduler, slot, true);
}

/* What it waited for is on the tier, or nobody makes it any more. */
static void begin_again(struct worker *w, unsigned slot)
{
    sequence_begin(&w->serving, &w->sequences[slot]);
    scheduler_hold(&w->scheduler, slot, false);
    share_or_go_on(w, slot);
    look_after(w, slot);
}

/* Fills free slots. Waits if there is nothing else to do, for somebody if there is a slot. */
static void admit(struct worker *w, unsigned wait_ms)
{
    struct ticket *t;
    if (wait_ms && w->scheduler.n_used == w->scheduler.n_slots)
        usleep(wait_ms * 1000);
    while (w->scheduler.n_used < w->scheduler.n_slots && (t = exchange_take(w->exchange, wait_ms))) {
        unsigned slot = (unsigned)scheduler_add(&w->scheduler);
        wait_ms = 0;
        atomic_store(&w->exchange->active, w->scheduler.n_used);
        if (sequence_open(&w->serving, t, &w->sequences[slot]) == 0)
            share_or_go_on(w, slot);
        look_after(w, slot);
    }
}

static bool in_time(const struct worker *w, const struct sequence *s, uint64_t now)
{
    return !w->time_limit_ns || now - s->ticket->accepted_ns < w->time_limit_ns;
}

static void out_of_time(struct api_error *e)
{
    api_error(e, 503, "timeout", NULL, "the request's time was over before its first token came");
}

/* Those whose client is gone, and those whose time is over: what they have is their answer. */
static void sweep_active(struct worker *w, uint64_t now)
{
    struct api_error e;
    for (unsigned slot = 0; slot < w->scheduler.n_slots; slot++) {
        struct sequence *s = &w->sequences[slot];
        if (w->scheduler.slot[slot].phase == SLOT_FREE)
            continue;
        if (atomic_load(&s->ticket->gone)) {
            log_write(w->serving.log, LOG_LEVEL_INFO, "%s: the client went after %llu tokens",
                      s->ticket->answer.id, (unsigned long long)s->n_generated);
            leave(w, slot);
        } else if (in_time(w, s, now) && !s->ctx) {
            if (!share_lasts(w->sequences, &w->shares[slot]))
                begin_again(w, slot);
        } else if (in_time(w, s, now)) {
            scheduler_hold(&w->scheduler, slot, ticket_backlog(s->ticket) > BACKLOG);
        } else if (s->n_generated) {
            s->finish = "length";
            look_after(w, slot);
        } else {
            out_of_time(&e);
            fail(w, slot, &e);
        }
    }
}

static void tell_nodes(struct worker *w)
{
    struct skv_tier_stats stats;
    skv_tier_stats(w->serving.tier, &stats);
    atomic_store(&w->exchange->nodes, stats.nodes);
    atomic_store(&w->exchange->nodes_up, stats.nodes_up);
}

static void sweep(struct worker *w)
{
    struct api_error e;
    uint64_t now = clock_ns();
    out_of_time(&e);
    exchange_sweep(w->exchange, w->time_limit_ns && now > w->time_limit_ns ? now - w->time_limit_ns : 0, &e);
    sweep_active(w, now);
    tell_nodes(w);
    if (w->between)
        w->between(w->serving.tier);
}

/* ---- steps ---- */

static void run_prefill(struct worker *w, unsigned slot)
{
    struct sequence *s = &w->sequences[slot];
    if (sequence_prefill(&w->serving, s) == 0 && sequence_prefilled(s)) {
        scheduler_decode(&w->scheduler, slot);
        if (!s->finish)
            sequence_draw(&w->serving, s, w->serving.logits);
    }
}

static void run_step(struct worker *w, const struct scheduler_step *step)
{
    struct sequence *batch[SCHEDULER_SLOTS];
    uint64_t begin = clock_ns();
    if (step->kind == STEP_PREFILL) {
        run_prefill(w, step->slot[0]);
    } else {
        for (unsigned i = 0; i < step->n; i++)
            batch[i] = &w->sequences[step->slot[i]];
        batch_step(&w->serving, batch, step->n);
    }
    scheduler_ran(&w->scheduler, step, clock_ns() - begin);
    for (unsigned i = 0; i < step->n; i++)
        look_after(w, step->slot[i]);
}

static void stop_all(struct worker *w)
{
    struct api_error e;
    api_error(&e, 503, "shutting_down", NULL, "the server is stopping");
    for (unsigned slot = 0; slot < w->scheduler.n_slots; slot++)
        if (w->scheduler.slot[slot].phase != SLOT_FREE)
            fail(w, slot, &e);
}

static void *work(void *arg)
{
    struct worker *w = arg;
    struct scheduler_step step = {0};
    uint64_t stop_ns = 0;
    for (;;) {
        bool idle = w->scheduler.n_used == 0;
        admit(w, idle ? IDLE_MS : step.kind == STEP_NONE ? HELD_MS : 0);
        sweep(w);
        if (exchange_closed(w->exchange)) {
            stop_ns = stop_ns ? stop_ns : clock_ns() + w->drain_ns;
            if (w->scheduler.n_used == 0 || clock_ns() >= stop_ns)
                break;
        }
        scheduler_next(&w->scheduler, &step);
        if (step.kind != STEP_NONE)
            run_step(w, &step);
    }
    stop_all(w);
    return NULL;
}

/* ---- the thread ---- */

int worker_start(struct worker *w, struct skv_error *err)
{
    sigset_t all, before;
    scheduler_init(&w->scheduler, w->parallel);
    w->sequences = calloc(w->parallel, sizeof *w->sequences);
    w->shares = calloc(w->parallel, sizeof *w->shares);
    w->serving.logits = calloc(w->parallel, w->serving.model->params.vocab * sizeof *w->serving.logits);
    if (!w->sequences || !w->shares || !w->serving.logits)
        return skv_fail(err, -ENOMEM, "out of memory");
    int rc = session_open(w->serving.model, w->serving.tier, NULL, w->threads, &w->serving.session, err);
    if (rc)
        return rc;
    if (w->recompute)
        session_on_loss(w->serving.session, recompute_lost, &w->recomputed);
    tell_nodes(w);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the main thread's */
    rc = pthread_create(&w->thread, NULL, work, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc) {
        session_close(w->serving.session);
        w->serving.session = NULL;
        return skv_fail(err, -rc, "cannot start a thread: %s", strerror(rc));
    }
    return 0;
}

void worker_stop(struct worker *w)
{
    struct api_error e;
    if (w->serving.session) {
        api_error(&e, 503, "shutting_down", NULL, "the server is stopping");
        exchange_close(w->exchange, &e);
        pthread_join(w->thread, NULL);
        session_close(w->serving.session);
        w->serving.session = NULL;
    }
    free(w->sequences);
    free(w->shares);
    free(w->serving.logits);
    w->serving.logits = NULL;
    w->sequences = NULL;
    w->shares = NULL;
}
