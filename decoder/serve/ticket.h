/* ticket.h: one request between the two sides: the HTTP side, which made it and sends what comes out, and the
 * worker, which answers it. Each side holds a reference. What is to be sent lies here, under a lock of the
 * ticket's own; nothing else is shared.
 *
 * The worker never waits for a client: it appends, and wakes a connection that sleeps. The HTTP side never
 * waits for the worker: it takes what there is, or lets its connection sleep. */
#ifndef SERVE_TICKET_H
#define SERVE_TICKET_H

#include "decoder/serve/api_reply.h"
#include "decoder/serve/api_request.h"

#include <pthread.h>
#include <stdatomic.h>

struct ticket {
    /* Set before it is queued, and never changed. */
    struct api_request request;
    struct api_answer answer;
    size_t tenant;
    uint32_t *ids; /* the prompt's tokens */
    size_t n_ids;
    const char *stop[API_STOPS + 1]; /* the request's, and the chat template's */
    size_t n_stop;
    uint64_t max_tokens; /* to generate */
    /* Tokens that it has room for, and what these take (room.h); the worker's from when it is taken. */
    uint64_t tokens, bytes;
    uint64_t accepted_ns; /* clock_ns() */

    struct ticket *next; /* in the queue; the exchange's */

    atomic_int references;
    atomic_bool gone; /* the client is: nobody will read the answer */
    atomic_uint_fast64_t prefilled;

    pthread_mutex_t lock; /* of what follows */
    char *out;            /* bytes to send; malloc'd */
    size_t len, sent, room;
    int status; /* of the answer, 0: nothing was decided yet */
    bool event_stream, done;
    uint64_t retry_after_s;         /* 0: none */
    uint64_t written_ns;            /* when something was last appended */
    void (*wake)(void *connection); /* set while the connection sleeps */
    void *connection;
};

/* One reference; request is taken over. NULL: out of memory, and request is left alone. */
struct ticket *ticket_new(struct api_request *);
void ticket_hold(struct ticket *);
void ticket_release(struct ticket *); /* NULL is allowed */

/* ---- the worker's side (and the exchange's) ---- */

/* Appends to the stream of events; the first one decides that the answer is a 200. text is freed; NULL (out
 * of memory) ends the answer. */
void ticket_event(struct ticket *, char *text);
/* The whole answer, a 200; body is freed. */
void ticket_body(struct ticket *, char *body);
/* The answer is this error: as its own status, or as an event where a stream has begun. */
void ticket_fail(struct ticket *, const struct api_error *);
void ticket_end(struct ticket *);       /* of the stream */
size_t ticket_backlog(struct ticket *); /* bytes that the client has not taken yet */
/* A comment in the stream if nothing was written since before_ns, so that nobody on the way gives up; begins
 * the stream. Not for answers that are no stream. */
void ticket_ping(struct ticket *, uint64_t before_ns);

/* ---- the HTTP side ---- */

/* Whether the answer's status and kind are known; if not, sleep(connection) is called and wake(connection)
 * will be, once. */
bool ticket_answered(struct ticket *, void (*sleep)(void *), void (*wake)(void *), void *connection);
/* Takes up to max bytes. 0: none now, and it sleeps as above; -1: the answer is over. */
long ticket_take(struct ticket *, char *to, size_t max, void (*sleep)(void *), void (*wake)(void *),
                 void *connection);

#endif
