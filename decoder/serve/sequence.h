/* sequence.h: one request while the worker answers it: its context, its sampler, its text so far. */
#ifndef SERVE_SEQUENCE_H
#define SERVE_SEQUENCE_H

#include "decoder/model/forward.h"
#include "decoder/model/sample.h"
#include "decoder/model/stop_text.h"
#include "decoder/model/tokenizer.h"
#include "decoder/serve/api_keys.h"
#include "decoder/serve/exchange.h"
#include "decoder/serve/prefixes.h"
#include "decoder/serve/ticket.h"

#include "common/log.h"

/* What all sequences use. */
struct serving {
    const struct model *model;
    const struct tokenizer *tok;
    skv_tier *tier;
    const struct skv_model *shape;
    const struct skv_context_opts *context; /* but for the tenant's salt */
    uint32_t chunk;
    uint64_t limit;            /* tokens that a context may hold */
    struct exchange *exchange; /* has more room for answers that get long */
    struct session *session;
    float *logits;               /* (sequences at once, vocab), of the step that was done last */
    const struct api_keys *keys; /* which know the tenants */
    struct prefixes *prefixes;   /* [api_keys_tenants] */
    const struct log *log;
};

struct sequence {
    struct ticket *ticket; /* its reference is the sequence's */
    skv_context *ctx;      /* NULL: it waits for what another one prefills (share.h) */
    struct sampler sampler;
    struct stop_text text;
    size_t shown, chars; /* bytes of the text that were sent; characters of all of it */

    uint64_t found; /* tokens of the prompt that were on the tier */
    size_t done;    /* that are in the context */
    size_t keep_at; /* where its last whole pass ends, if it is to be saved there; else 0 */
    uint32_t next;  /* the token drawn last: the next step's */
    uint64_t n_generated;
    const char *finish;             /* as OpenAI says it; NULL: it goes on */
    uint64_t degraded, lost_before; /* passes without some pages; what the context had counted by then */

    struct token_logprobs *logprobs; /* (n_logprobs), if asked for */
    size_t n_logprobs, logprobs_room, logprobs_sent;

    uint64_t begun_ns, first_ns; /* taken up; first token */
    struct skv_error error;      /* of the last step; code 0: none */
};

/* All return 0 or -errno, with seq->error filled. open takes the ticket's reference over, on failure too. */
int sequence_open(struct serving *, struct ticket *, struct sequence *);
/* Its context begins with what of the prompt is on the tier. */
int sequence_begin(struct serving *, struct sequence *);
void sequence_wait(struct sequence *); /* gives its context up, until it begins again */
/* One chunk; the last one's logits are w->logits. */
int sequence_prefill(struct serving *w, struct sequence *);
static inline bool sequence_prefilled(const struct sequence *s)
{
    return s->done == s->ticket->n_ids;
}
/* Draws the next token from what follows the last token of its context (vocab), and sends what text is sure;
 * sets finish when it is the last one. */
int sequence_draw(struct serving *, struct sequence *, float *logits);
/* Sends the end. */
int sequence_finish(struct serving *, struct sequence *);
void sequence_close(struct sequence *);

#endif
