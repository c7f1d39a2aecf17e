/* ask.h: questions to a model by decode steps, each step metered: what all evaluations share. */
#ifndef CLI_ASK_H
#define CLI_ASK_H

#include "decoder/cli/answer.h"
#include "decoder/cli/engine.h"
#include "decoder/cli/meter.h"

struct asker { /* zero it first */
    struct engine *engine;
    struct session *session; /* the caller opens it, asker_close closes it */
    float *logits;           /* (vocab) after the last step */
    uint32_t said;           /* what it said last, which no step has fed yet */
    uint64_t longest_ns;     /* the caller sets these to 0 when it begins to look: the longest step since, */
    uint64_t held_bytes;     /* and the most that a context held since: window, representatives, cache */
};

int asker_open(struct asker *, struct engine *, struct skv_error *);
void asker_close(struct asker *);

/* The context that the session uses: n decode steps. The meter may be NULL. -EINTR after Ctrl-C. */
int ask_feed(struct asker *, struct meter *, skv_context *, const uint32_t *ids, size_t n,
             struct skv_error *);
/* What the model says next, which no step has fed yet: also in asker.said. */
int ask_next(struct asker *, uint32_t *id, struct skv_error *);
/* What the model then says, by greedy steps. want: as in answer.h. */
int ask_answer(struct asker *, struct meter *, skv_context *, size_t want, struct answer *,
               struct skv_error *);

/* Tokens behind what is asked for that keep it far (sealed, and behind the window), whatever a question adds.
 */
uint64_t ask_far_behind(const struct kv_options *);

#endif
