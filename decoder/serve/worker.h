/* worker.h: the thread that owns tier, contexts and session. It takes tickets from the exchange and answers
 * them; nobody else touches what it owns, so there are no locks in it. */
#ifndef SERVE_WORKER_H
#define SERVE_WORKER_H

#include "decoder/model/recompute.h"
#include "decoder/serve/exchange.h"
#include "decoder/serve/scheduler.h"
#include "decoder/serve/sequence.h"
#include "decoder/serve/share.h"

struct worker {             /* zero it, fill the first part */
    struct serving serving; /* but for the session */
    struct exchange *exchange;
    unsigned parallel; /* sequences at once */
    unsigned threads;
    uint64_t time_limit_ns;      /* of a request, from when it was accepted; 0: none */
    uint64_t drain_ns;           /* how long requests may go on when the server stops */
    bool recompute;              /* what is lost is computed again */
    void (*between)(skv_tier *); /* called between steps, at least once a second; may be NULL */

    pthread_t thread;
    struct scheduler scheduler;
    struct sequence *sequences; /* [parallel], by slot */
    struct share *shares;       /* [parallel]: behind whom they wait */
    struct recompute recomputed;
};

int worker_start(struct worker *, struct skv_error *);
/* Closes the exchange, lets what it works on end in time, and waits for the thread. */
void worker_stop(struct worker *);

#endif
