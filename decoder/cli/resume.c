#include "decoder/cli/resume.h"
#include "common/size.h"
#include "decoder/model/utf8.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

/* ---- the sampler ---- */

int resume_pack_sampler(const struct sampler *s, char **out, struct skv_error *err)
{
    char state[24];
    snprintf(state, sizeof state, "%" PRIx64, s->state); /* JSON's numbers have a sign */
    json_t *o = json_pack("{s:{s:s, s:f, s:I, s:f, s:f}}", "sampler", "state", state, "temperature",
                          (double)s->opts.temperature, "top_k", (json_int_t)s->opts.top_k, "top_p",
                          (double)s->opts.top_p, "min_p", (double)s->opts.min_p);
    *out = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(o);
    return *out ? 0 : skv_fail(err, -ENOMEM, "out of memory");
}

int resume_unpack_sampler(const struct skv_saved *m, struct sampler *s, struct skv_error *err)
{
    const char *state;
    double temperature, top_p, min_p;
    json_int_t top_k;
    char end;
    json_t *o = json_loadb(m->engine, m->engine_bytes, 0, NULL);
    bool good = o &&
                !json_unpack(o, "{s:{s:s, s:F, s:I, s:F, s:F}}", "sampler", "state", &state, "temperature",
                             &temperature, "top_k", &top_k, "top_p", &top_p, "min_p", &min_p) &&
                top_k >= 0 && top_k <= UINT32_MAX && sscanf(state, "%" SCNx64 "%c", &s->state, &end) == 1;
    json_decref(o);
    if (!good)
        return skv_fail(err, -EBADMSG, "context \"%s\" was not saved by scoutkv run: it holds no sampler",
                        m->name);
    s->opts = (struct sample_opts){(float)temperature, (uint32_t)top_k, (float)top_p, (float)min_p};
    return sample_check(&s->opts, err);
}

/* ---- options ---- */

static bool typed(const struct resume_typed *t, const char *name)
{
    return options_typed(t->command, t->memory, name);
}

static int differs_text(const struct skv_saved *m, const struct resume_typed *t, const char *name,
                        const char *saved, const char **value, struct skv_error *err)
{
    if (typed(t, name) && strcmp(*value, saved) != 0)
        return skv_fail(err, -EINVAL, "context \"%s\" was saved with --%s %s, not %s: leave that out",
                        m->name, name, saved, *value);
    *value = saved;
    return 0;
}

static int differs_number(const struct skv_saved *m, const struct resume_typed *t, const char *name,
                          uint32_t saved, uint32_t *value, struct skv_error *err)
{
    if (typed(t, name) && *value != saved)
        return skv_fail(err, -EINVAL, "context \"%s\" was saved with --%s %u, not %u: leave that out",
                        m->name, name, saved, *value);
    *value = saved;
    return 0;
}

/* What decides the bits of K and V. */
static int take_fixed(const struct skv_saved *m, const struct resume_typed *t, struct kv_options *kv,
                      struct skv_error *err)
{
    const struct skv_context_opts *o = &m->opts;
    uint32_t chunk;
    const char *activations;
    if (!kv_recipe_read(o->recipe, &chunk, &activations))
        return skv_fail(
            err, -EINVAL,
            "context \"%s\" was not saved by this scoutkv, but by another engine or version (recipe: "
            "%s)",
            m->name, o->recipe ? o->recipe : "none");
    if (typed(t, "seal-lag") && kv->seal_lag == 0)
        kv->seal_lag = o->window;         /* what 0 means */
    static char prefill[SKV_POLICY_TEXT]; /* kv points there as long as the program runs */
    skv_policy_format(&o->prefill, prefill);
    int rc = differs_text(m, t, "prefill", prefill, &kv->prefill, err);
    if (rc == 0)
        rc = differs_text(m, t, "kv-type", skv_dtype_name(o->dtype), &kv->kv_type, err);
    if (rc == 0)
        rc = differs_text(m, t, "representatives", o->representatives == SKV_REPS_LEAN ? "lean" : "full",
                          &kv->representatives, err);
    if (rc == 0)
        rc = differs_number(m, t, "prefill-budget", o->prefill.budget, &kv->prefill_budget, err);
    if (rc == 0)
        rc = differs_number(m, t, "select", o->prefill.unit, &kv->select, err);
    if (rc == 0)
        rc = differs_number(m, t, "window", o->window, &kv->window, err);
    if (rc == 0)
        rc = differs_number(m, t, "seal-lag", o->seal_lag, &kv->seal_lag, err);
    if (rc == 0)
        rc = differs_number(m, t, "sinks", o->sinks, &kv->sinks, err);
    if (rc == 0)
        rc = differs_number(m, t, "chunk", chunk, &kv->chunk, err);
    if (rc == 0)
        rc = differs_text(m, t, "activations", activations, &kv->activations, err);
    return rc;
}

int resume_options(const struct skv_saved *m, const struct resume_typed *t, struct kv_options *kv,
                   struct skv_context_opts *opts, struct skv_error *err)
{
    int rc = take_fixed(m, t, kv, err);
    if (rc)
        return rc;
    *opts = m->opts;
    opts->on_loss = kv_on_loss(kv);
    opts->step_deadline_ms = kv->step_deadline_ms;
    opts->hints = !strcmp(kv->hints, "on");
    if (typed(t, "policy") || kv->alpha >= 0 || kv->beta >= 0)
        rc = kv_policy(kv, &opts->decode, err);
    if (typed(t, "tail"))
        opts->decode.tail = kv->tail;
    if (typed(t, "budget"))
        opts->decode.budget = kv->budget;
    if (typed(t, "refresh"))
        opts->decode.refresh = kv->refresh;
    if (typed(t, "refresh-turn"))
        opts->decode.refresh_turn = (float)kv->refresh_turn;
    if (typed(t, "refresh-budget") || opts->decode.refresh_budget == 0)
        opts->decode.refresh_budget = kv->refresh_budget;
    if (typed(t, "mass"))
        opts->decode.mass = (float)kv->mass;
    if (typed(t, "layer-policy")) {
        opts->n_decode_layers = 0;
        rc = rc ? rc : kv_layers(kv, opts, err);
    }
    if (typed(t, "schedule"))
        rc = rc ? rc : kv_schedule(kv, &opts->schedule, err);
    if (typed(t, "cache"))
        opts->cache_bytes = kv->cache;
    if (typed(t, "ack"))
        opts->durable = !strcmp(kv->ack, "durable");
    return rc;
}

/* ---- words ---- */

void resume_model_name(const struct model *m, char out[SKV_MODEL_NAME_MAX + 1])
{
    struct gguf_str name = {0};
    const char *path = gguf_path(m->gguf), *slash = strrchr(path, '/');
    if (!gguf_has(m->gguf, "general.name") || gguf_string(m->gguf, "general.name", GGUF_OPT, &name, NULL) ||
        !name.len)
        name = (struct gguf_str){.data = slash ? slash + 1 : path, .len = strlen(slash ? slash + 1 : path)};
    snprintf(out, SKV_MODEL_NAME_MAX + 1, "%.*s",
             (int)(name.len < SKV_MODEL_NAME_MAX ? name.len : SKV_MODEL_NAME_MAX), name.data);
    for (char *c = out; *c; c++)
        if ((unsigned char)*c < ' ' || (unsigned char)*c >= 0x7f)
            *c = '?';
}

int resume_ttl(const char *text, uint64_t *ms, struct skv_error *err)
{
    *ms = 0;
    if (!text)
        return 0;
    if (duration_parse(text, ms) || *ms < 1000 || *ms > SKV_TTL_MAX_MS)
        return skv_fail(err, -EINVAL, "ttl: expected a time such as 12h, 7d or 2w, from 1s to 49d, not '%s'",
                        text);
    return 0;
}
