/* recompute.h: blocks that no memory node has any more are computed again from their tokens, and stored.
 *
 * On a fork of the context the passes that made them are repeated: same tokens, same borders, same policy. So
 * what prefill or dense decode made comes out bit for bit; where cascade decode chose its pages under other
 * circumstances it may not, and the context then names the new version. */
#ifndef MODEL_RECOMPUTE_H
#define MODEL_RECOMPUTE_H

#include "decoder/model/forward.h"

struct recompute { /* zero it; figures of everything so far */
    struct skv_restored restored;
    uint64_t losses; /* passes that failed and were repeated */
    uint64_t tokens; /* computed again */
    double seconds;
    /* Told before the first pass (done 0) and after each, in tokens; what it returns, if not 0, ends the work
     * and is returned. May be NULL. */
    session_progress *progress;
    void *arg;
};

/* A session_loss: session_on_loss(s, recompute_lost, &r). */
int recompute_lost(void *recompute, struct session *, struct skv_error *);

#endif
