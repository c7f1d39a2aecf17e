#include "decoder/cli/engine.h"
#include "common/identity.h"
#include "common/progress.h"
#include "decoder/cli/interrupt.h"
#include "decoder/cli/reload.h"
#include "decoder/model/calibration_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

int engine_open(struct engine *e, const char *path, const struct kv_options *kv, struct skv_error *err)
{
    e->kv = kv;
    int rc = model_open(path, &e->model, err);
    if (!rc) {
        e->model->activations = kv_activations(kv);
        rc = tokenizer_from_gguf(e->model->gguf, &e->tok, err);
    }
    if (!rc)
        model_shape(e->model, &e->shape);
    if (!rc && kv->calib)
        rc = calibration_load(kv->calib, e->shape.fingerprint, &e->calibration, err);
    return rc;
}

int engine_connect(struct engine *e, struct skv_error *err)
{
    struct skv_tier_opts opts;
    kv_tier_opts(e->kv, &opts);
    reload_catch(opts.nodes);
    return skv_tier_open(&opts, &e->tier, err);
}

void engine_close(struct engine *e)
{
    if (e->tier)
        skv_tier_close(e->tier);
    tokenizer_free(e->tok);
    model_close(e->model);
    free(e->calibration);
    free(e->ranges.range);
    *e = (struct engine){0};
}

int engine_context_opts(struct engine *e, struct skv_context_opts *opts, struct skv_error *err)
{
    int rc = kv_context_opts(e->kv, &e->ranges, e->recipe, opts, err);
    opts->calibration = e->calibration;
    if (rc == 0)
        kv_say_salience(&opts->decode, e->calibration);
    return rc;
}

int engine_context(struct engine *e, const struct skv_context_opts *opts, skv_context **ctx,
                   struct session **session, struct skv_error *err)
{
    int rc = skv_context_open(e->tier, &e->shape, opts, ctx, err);
    if (rc)
        return rc;
    rc = engine_session(e, *ctx, session, err);
    if (rc) {
        skv_context_close(*ctx);
        *ctx = NULL;
    }
    return rc;
}

int engine_session(struct engine *e, skv_context *ctx, struct session **session, struct skv_error *err)
{
    e->model->activations = kv_activations(e->kv); /* a resumed context says itself */
    int rc = session_open(e->model, e->tier, ctx, e->kv->threads, session, err);
    if (rc == 0)
        on_loss_watch(&e->loss, e->kv, *session);
    return rc;
}

struct prefill {
    struct progress bar;
    skv_tier *tier;
};

static int on_progress(void *arg, size_t done, size_t total)
{
    struct prefill *p = arg;
    (void)total;
    progress_update(&p->bar, done);
    reload_nodes(p->tier);
    return interrupted() ? -EINTR : 0;
}

int engine_prefill(const struct engine *e, struct session *s, const char *label, const uint32_t *ids,
                   size_t n, float *logits, double *seconds, struct skv_error *err)
{
    struct prefill p = {.tier = e->tier};
    progress_begin(&p.bar, label, "tokens", n);
    int rc = session_prefill(s, ids, n, e->kv->chunk, on_progress, &p, logits, err);
    if (seconds)
        *seconds = progress_seconds(&p.bar);
    progress_end(&p.bar);
    if (rc == -EINTR)
        skv_fail(err, rc, "interrupted");
    return rc;
}

uint64_t kv_bytes_per_token(const struct model_params *p, enum skv_dtype type)
{
    const struct block_layout l = {.dtype = (uint8_t)type, .d_k = (uint16_t)p->d_k, .d_v = (uint16_t)p->d_v};
    return layout_page_bytes(&l) * p->n_layers * p->n_kv_heads / PAGE_TOKENS;
}

uint64_t kv_local_bytes_per_token(const struct model_params *p, enum skv_dtype type)
{
    bool packed = type == SKV_Q8_0 || type == SKV_Q4; /* and then as it was put besides */
    return kv_bytes_per_token(p, type) + (packed ? kv_bytes_per_token(p, SKV_F16) : 0);
}

uint64_t peak_rss(void)
{
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return (uint64_t)use.ru_maxrss * 1024;
}
