/* exchange.h: the one place where the HTTP side's threads and the worker meet: a bounded queue of tickets,
 * and the memory that requests take. The first of the queue is taken when there is a slot and room for it;
 * nobody overtakes it, so that a large request has its turn. */
#ifndef SERVE_EXCHANGE_H
#define SERVE_EXCHANGE_H

#include "decoder/serve/ticket.h"

struct exchange {
    pthread_mutex_t lock;
    pthread_cond_t came;
    struct ticket *first, **last;
    unsigned n, room; /* tickets that wait, and how many may besides those that there is a slot for */
    bool closed;
    double mean_s;          /* of a request's time in the worker, over the latest; 0: not known */
    uint64_t memory, taken; /* bytes that requests may hold together; that those in the worker have */
    unsigned parallel;
    atomic_uint active;          /* in the worker; it says */
    atomic_uint nodes, nodes_up; /* as the worker last saw them */
};

int exchange_init(struct exchange *, unsigned room, unsigned parallel, uint64_t memory); /* 0 or -errno */
void exchange_destroy(struct exchange *); /* fails what still waits */

/* Queues it, with a reference for the worker. -EAGAIN fills *e, a 429 and after how many seconds it is worth
 * asking again; or a 503 when the server is stopping. */
int exchange_put(struct exchange *, struct ticket *, uint64_t *retry_after_s, struct api_error *e);
/* The one that waits longest, with its reference and its bytes taken, or NULL; waits for one that there is
 * room for up to timeout_ms. */
struct ticket *exchange_take(struct exchange *, unsigned timeout_ms);
/* Takes out those whose client is gone, and fails those accepted before `before_ns` with *e. */
void exchange_sweep(struct exchange *, uint64_t before_ns, const struct api_error *e);
/* From now on nothing is taken in, and those that wait are failed with *e. */
void exchange_close(struct exchange *, const struct api_error *e);
bool exchange_closed(struct exchange *);
unsigned exchange_waiting(struct exchange *);
/* More bytes for a request that was taken: whether there are so many. */
bool exchange_more(struct exchange *, uint64_t bytes);
void exchange_give(struct exchange *, uint64_t bytes); /* back */
uint64_t exchange_taken(struct exchange *);
void exchange_served(struct exchange *, double seconds); /* how long a request took in the worker */

/* How long until a place in the queue is likely to be free: one of `parallel` requests ends every mean_s ÷
 * parallel. At least a second, at most ten minutes. */
uint64_t exchange_retry_after(double mean_s, unsigned parallel);

#endif
