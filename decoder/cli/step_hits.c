/* step_hits.c: see step_hits.h. */
#include "decoder/cli/step_hits.h"
#include "common/progress.h"
#include "decoder/cli/interrupt.h"
#include "decoder/model/kv_trace.h"
#include "decoder/scoutkv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { WARM_UP = 8, CHUNK = 1024, CACHED_BUDGETS = 4 };

/* The blocks that pages fetched in the first step lie in, when all that it selects are: one a page, by layer
 * and KV head. */
struct spread {
    uint64_t *block;
    size_t n, room;
};

struct replay {
    const struct kv_trace *trace;
    struct step_hits *out;
    skv_tier *tier;
    skv_context *ctx;
    struct skv_layer *layers;
    float *attended;
    struct spread spread;
};

static void on_fetched(void *arg, uint32_t layer, uint32_t head, uint64_t page)
{
    struct spread *s = arg;
    if (s->n < s->room)
        s->block[s->n++] = ((uint64_t)layer << 16 | head) << 32 | page / (SKV_BLOCK / SKV_PAGE);
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static double pages_per_block(struct spread *s)
{
    size_t blocks = 0;
    qsort(s->block, s->n, sizeof *s->block, by_number);
    for (size_t i = 0; i < s->n; i++)
        blocks += i == 0 || s->block[i] != s->block[i - 1];
    return blocks ? (double)s->n / (double)blocks : 0;
}

static int open_context(struct replay *r, struct skv_error *err)
{
    const struct kv_trace_head *h = &r->trace->head;
    struct skv_model m = {.n_layers = h->n_layers};
    struct skv_context_opts o;
    struct skv_tier_opts t = {.ram = 2 * r->trace->bytes + (64 << 20)};
    r->layers = calloc(h->n_layers, sizeof *r->layers);
    r->attended = malloc((size_t)h->n_heads * h->d_v * sizeof *r->attended);
    r->spread.room = (size_t)h->n_layers * h->n_kv_heads * (r->out->budget / SKV_PAGE + 1);
    r->spread.block = malloc(r->spread.room * sizeof *r->spread.block);
    if (!r->layers || !r->attended || !r->spread.block)
        return skv_fail(err, -ENOMEM, "out of memory");
    for (uint32_t i = 0; i < h->n_layers; i++)
        r->layers[i] = (struct skv_layer){.d_k = h->d_k,
                                          .d_v = h->d_v,
                                          .n_heads = h->n_heads,
                                          .n_kv_heads = h->n_kv_heads,
                                          .scale = h->scale};
    m.layers = r->layers;
    memcpy(m.fingerprint, h->fingerprint, sizeof m.fingerprint);
    skv_context_defaults(&o);
    o.decode.budget = r->out->budget;
    o.window = r->out->window;
    o.seal_lag = 0;
    o.hints = false;
    o.fetched = on_fetched;
    o.fetched_arg = &r->spread;
    o.cache_bytes = (uint64_t)CACHED_BUDGETS * r->out->budget * h->n_layers * h->n_kv_heads *
                    (h->d_k + h->d_v) * sizeof(uint16_t);
    int rc = skv_tier_open(&t, &r->tier, err);
    return rc ? rc : skv_context_open(r->tier, &m, &o, &r->ctx, err);
}

static int put(struct replay *r, enum skv_mode mode, uint64_t from, uint32_t n, struct skv_error *err)
{
    const struct kv_trace_head *h = &r->trace->head;
    int rc = skv_append(r->ctx, mode, n, r->trace->ids + from, NULL, err);
    for (uint32_t l = 0; l < h->n_layers && !rc; l++)
        rc = skv_put(r->ctx, l, kv_trace_k(r->trace, l) + from * h->n_kv_heads * h->d_k,
                     kv_trace_v(r->trace, l) + from * h->n_kv_heads * h->d_v, err);
    return rc;
}

/* One decode step; share[layer]: of its pages, those that were held. */
static int step(struct replay *r, uint64_t token, float *share, struct skv_error *err)
{
    const struct kv_trace_head *h = &r->trace->head;
    int rc = put(r, SKV_DECODE, token, 1, err);
    for (uint32_t l = 0; l < h->n_layers && !rc; l++) {
        struct skv_attend_item item = {
            .ctx = r->ctx, .q = kv_trace_q(r->trace, l) + token * h->n_heads * h->d_k, .out = r->attended};
        struct skv_stats before, after;
        skv_attend *a;
        skv_context_stats(r->ctx, &before);
        rc = skv_attend_begin(r->tier, l, &item, 1, &a, err);
        if (!rc)
            rc = skv_attend_finish(a, err);
        skv_context_stats(r->ctx, &after);
        uint64_t wanted = after.pages_wanted - before.pages_wanted;
        share[l] = wanted ? (float)(after.pages_held - before.pages_held) / (float)wanted : 1;
    }
    return rc;
}

static int replay(struct replay *r, struct skv_error *err)
{
    struct step_hits *out = r->out;
    uint64_t first = out->tokens / 2, at = 0;
    float *scratch = malloc(out->layers * sizeof *scratch);
    int rc = scratch ? 0 : skv_fail(err, -ENOMEM, "out of memory");
    struct progress bar;
    progress_begin(&bar, "trace", "tokens", out->tokens);
    for (; at < first && !rc; at += CHUNK)
        rc = put(r, SKV_PREFILL, at, (uint32_t)(first - at < CHUNK ? first - at : CHUNK), err);
    if (!rc)
        rc = skv_flush(r->ctx, err); /* what is on its way to the node would count as held */
    for (at = first; at < out->tokens && !rc; at++) {
        uint64_t i = at - first;
        rc = step(r, at, i < WARM_UP ? scratch : out->share + (i - WARM_UP) * out->layers, err);
        if (i == 0) {
            out->per_block = pages_per_block(&r->spread);
            r->spread.n = r->spread.room; /* no more */
        }
        if (!rc && interrupted())
            rc = skv_fail(err, -EINTR, "interrupted");
        progress_update(&bar, at);
    }
    progress_end(&bar);
    free(scratch);
    return rc;
}

int step_hits_read(const char *path, uint32_t budget, uint32_t window, struct step_hits *out,
                   struct skv_error *err)
{
    struct kv_trace *trace = NULL;
    int rc = kv_trace_open(path, &trace, err);
    if (rc)
        return rc;
    *out = (struct step_hits){
        .tokens = trace->head.n_tokens, .layers = trace->head.n_layers, .budget = budget, .window = window};
    struct replay r = {.trace = trace, .out = out};
    if (out->tokens / 2 < WARM_UP + 1 || out->tokens / 2 < 2 * (uint64_t)(budget + window))
        rc = skv_fail(err, -EINVAL,
                      "%s: %" PRIu64 " tokens: half of them must be twice as many as the %u that its steps "
                      "select and the %u of the window",
                      path, out->tokens, budget, window);
    if (!rc) {
        out->steps = out->tokens - out->tokens / 2 - WARM_UP;
        out->n = out->steps * out->layers;
        out->share = malloc(out->n * sizeof *out->share);
        rc = out->share ? open_context(&r, err) : skv_fail(err, -ENOMEM, "out of memory");
    }
    if (!rc)
        rc = replay(&r, err);
    for (size_t i = 0; i < out->n && !rc; i++)
        out->mean += (double)out->share[i] / (double)out->n;
    if (r.ctx)
        skv_context_close(r.ctx);
    if (r.tier)
        skv_tier_close(r.tier);
    free(r.layers);
    free(r.attended);
    free(r.spread.block);
    kv_trace_close(trace);
    if (rc)
        step_hits_free(out);
    return rc;
}

void step_hits_free(struct step_hits *h)
{
    free(h->share);
    *h = (struct step_hits){0};
}
