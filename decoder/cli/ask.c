#include "decoder/cli/ask.h"
#include "common/clock.h"
#include "decoder/cli/interrupt.h"
#include "decoder/cli/reload.h"
#include "decoder/model/sample.h"

#include <errno.h>
#include <stdlib.h>

int asker_open(struct asker *a, struct engine *e, struct skv_error *err)
{
    a->engine = e;
    a->logits = malloc(e->model->params.vocab * sizeof *a->logits);
    return a->logits ? 0 : skv_fail(err, -ENOMEM, "out of memory");
}

void asker_close(struct asker *a)
{
    session_close(a->session);
    free(a->logits);
    *a = (struct asker){0};
}

static int step(struct asker *a, struct meter *m, skv_context *ctx, uint32_t id, struct skv_error *err)
{
    struct skv_stats s;
    reload_nodes(a->engine->tier);
    uint64_t start = clock_ns();
    if (m)
        meter_begin(m, ctx);
    int rc = session_eval(a->session, SKV_DECODE, &id, 1, a->logits, false, err);
    if (rc)
        return rc;
    if (m)
        meter_end(m, ctx);
    uint64_t took = clock_ns() - start;
    if (took > a->longest_ns)
        a->longest_ns = took;
    skv_context_stats(ctx, &s);
    uint64_t held = s.window_bytes + s.representative_bytes + s.cache_bytes;
    if (held > a->held_bytes)
        a->held_bytes = held;
    return interrupted() ? skv_fail(err, -EINTR, "interrupted") : 0;
}

int ask_feed(struct asker *a, struct meter *m, skv_context *ctx, const uint32_t *ids, size_t n,
             struct skv_error *err)
{
    int rc = 0;
    for (size_t i = 0; i < n && !rc; i++)
        rc = step(a, m, ctx, ids[i], err);
    return rc;
}

int ask_next(struct asker *a, uint32_t *id, struct skv_error *err)
{
    struct sampler greedy = {0};
    int rc = sample_next(&greedy, a->logits, a->engine->model->params.vocab, id, err);
    if (!rc)
        a->said = *id;
    return rc;
}

int ask_answer(struct asker *a, struct meter *m, skv_context *ctx, size_t want, struct answer *said,
               struct skv_error *err)
{
    const struct engine *e = a->engine;
    for (;;) {
        uint32_t id;
        int rc = ask_next(a, &id, err);
        if (rc)
            return rc;
        answer_add(said, tokenizer_piece(e->tok, id, false), tokenizer_is_eog(e->tok, id), want);
        if (said->over)
            return 0;
        rc = step(a, m, ctx, id, err);
        if (rc)
            return rc;
    }
}

uint64_t ask_far_behind(const struct kv_options *kv)
{
    uint64_t lag = kv->seal_lag > kv->window ? kv->seal_lag : kv->window;
    return lag + 3 * SKV_BLOCK;
}
