/* serve.h: a model behind HTTP, as OpenAI's clients speak it. What the command line needs; the rest of the
 * folder is its own. */
#ifndef SERVE_SERVE_H
#define SERVE_SERVE_H

#include "common/log.h"
#include "decoder/model/model.h"
#include "decoder/model/tokenizer.h"
#include "decoder/serve/chat_template.h"
#include "decoder/serve/scheduler.h"

struct serve_opts { /* what it points at stays the caller's, as long as the server runs */
    const struct model *model;
    const struct tokenizer *tok;
    skv_tier *tier; /* the server's thread uses it, and nobody else may, until serve_close */
    const struct skv_model *shape;
    const struct skv_context_opts *context;
    uint32_t chunk;
    unsigned threads;
    bool recompute;                          /* blocks that are lost are computed again */
    const char *saved_model;                 /* what lists of saved contexts call the model */
    const char *model_id;                    /* what clients call it */
    const enum chat_template *chat_template; /* NULL: chat is refused, with the sentence no_chat */
    const char *no_chat;

    const char *host;     /* a name or an address */
    uint16_t port;        /* 0: a free one */
    const char *api_keys; /* a file, or NULL: any key is accepted */

    uint32_t parallel;      /* requests worked on at once, up to SCHEDULER_SLOTS */
    uint64_t memory;        /* bytes that their contexts may hold together */
    uint32_t queue;         /* requests that may wait besides */
    uint64_t limit;         /* tokens of a context */
    uint64_t max_tokens;    /* of an answer; 0: what the context holds */
    uint64_t max_body;      /* bytes of a request */
    uint64_t time_limit_ms; /* of a request; 0: none */
    uint64_t ping_ms;       /* silence after which a stream gets a comment */
    uint64_t drain_ms;      /* how long requests may go on when the server stops */
    uint64_t ttl_ms;        /* how long a prompt's beginning stays after its last use */
    const struct log *log;
    bool (*stop)(void);          /* asked ten times a second */
    void (*between)(skv_tier *); /* called between steps, at least once a second; may be NULL */
};

struct serve;

/* Listens when it returns 0. -EINVAL: what was asked for cannot be. */
int serve_open(const struct serve_opts *, struct serve **out, struct skv_error *);
/* "http://127.0.0.1:8080" */
const char *serve_url(const struct serve *);
void serve_run(struct serve *);   /* until stop() */
void serve_close(struct serve *); /* lets requests end, up to drain_ms */

#endif
