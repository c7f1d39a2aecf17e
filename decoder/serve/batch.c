#include "decoder/serve/batch.h"

#include "decoder/serve/scheduler.h"

#include <assert.h>

static_assert((int)SCHEDULER_SLOTS <= (int)SESSION_BATCH, "a step takes all that decode");

void batch_step(struct serving *w, struct sequence *const *s, unsigned n)
{
    struct session_step steps[SESSION_BATCH];
    for (unsigned i = 0; i < n; i++)
        steps[i] = (struct session_step){.ctx = s[i]->ctx, .id = s[i]->next, .err = &s[i]->error};
    session_eval_batch(w->session, steps, n, w->logits);
    for (unsigned i = 0; i < n; i++) {
        if (steps[i].rc)
            continue;
        s[i]->error.code = 0; /* a loss that was made good leaves its reason there */
        sequence_draw(w, s[i], w->logits + (size_t)i * w->model->params.vocab);
    }
}
