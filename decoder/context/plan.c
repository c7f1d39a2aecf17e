/* plan.c: what a calibration and a schedule mean for a context: how much of the spread counts in each head's
 * representatives, and how much of the budget each head has. */
#include "decoder/context/internal.h"
#include "decoder/scout/policy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int check_model(const struct skv_context *c, const struct skv_calibration *k, struct skv_error *err)
{
    const struct shape *s = c->shape;
    if (memcmp(k->fingerprint, s->fingerprint, SKV_FINGERPRINT) != 0)
        return skv_fail(err, -EINVAL,
                        "the calibration was made for another model: run `scoutkv calibrate` with this one");
    for (unsigned l = 0; l < s->n_layers; l++)
        if (k->d_k && k->d_k != s->layers[l].d_k)
            return skv_fail(err, -EINVAL, "the calibration is of keys of %u dims, and layer %u has %u",
                            k->d_k, l, s->layers[l].d_k);
    for (unsigned l = 0; l < s->n_layers; l++)
        if (k->n_layers != s->n_layers || s->layers[l].kv_head0 + s->layers[l].n_kv_heads > k->n_kv_heads)
            return skv_fail(
                err, -EINVAL,
                "the calibration is of %u layers with %u KV heads, and the model has another shape",
                k->n_layers, k->n_kv_heads);
    return calibration_check(k, err);
}

struct index_kind index_kind_of(const struct skv_context_opts *o)
{
    struct index_kind kind = {.durable = o->durable};
    char tag[CALIBRATION_TAG];
    calibration_tag(o->calibration, tag);
    snprintf(kind.tag, sizeof kind.tag, "%s%s", o->representatives == SKV_REPS_LEAN ? "-lean" : "", tag);
    return kind;
}

int plan_calibration(struct skv_context *c, const struct skv_context_opts *o, struct skv_error *err)
{
    if ((unsigned)o->schedule >= SKV_SCHEDULES)
        return skv_fail(err, -EINVAL, "schedule number %d is unknown", (int)o->schedule);
    if (o->schedule == SKV_CALIBRATED && !o->calibration)
        return skv_fail(err, -EINVAL, "schedule calibrated: it needs a calibration");
    if ((unsigned)o->representatives >= SKV_REPRESENTATIVES)
        return skv_fail(err, -EINVAL, "representatives number %d are unknown", (int)o->representatives);
    c->index = index_kind_of(o);
    c->opts.calibration = NULL;
    if (!o->calibration)
        return 0;
    int rc = check_model(c, o->calibration, err);
    if (rc)
        return rc;
    c->opts.calibration = c->calibration = calibration_copy(o->calibration);
    return c->calibration ? 0 : skv_fail(err, -ENOMEM, "out of memory");
}

static size_t heads_before(const struct shape *s, unsigned layer)
{
    size_t n = 0;
    for (unsigned l = 0; l < layer; l++)
        n += s->layers[l].n_kv_heads;
    return n;
}

static const struct skv_calibration_head *calibrated(const struct skv_context *c, unsigned layer,
                                                     unsigned head)
{
    return calibration_head(c->calibration, layer, c->shape->layers[layer].kv_head0 + head);
}

int plan_budget(struct skv_context *c, struct skv_error *err)
{
    const struct shape *s = c->shape;
    const struct skv_select *d = &c->opts.decode;
    free(c->head_units);
    c->head_units = NULL;
    if (c->opts.schedule == SKV_UNIFORM)
        return 0;
    size_t n = heads_before(s, s->n_layers), n_in = 0;
    struct schedule_head *in = malloc(n * sizeof *in);
    uint32_t *units = malloc(n * sizeof *units);
    c->head_units = calloc(n, sizeof *c->head_units);
    int rc = in && units && c->head_units ? 0 : -ENOMEM;
    for (unsigned l = 0; l < s->n_layers && rc == 0; l++)
        for (unsigned h = 0; h < s->layers[l].n_kv_heads && context_select(c, l) == d; h++)
            in[n_in++] = (struct schedule_head){l, c->calibration ? calibrated(c, l, h) : NULL};
    if (rc == 0)
        rc = schedule_split(c->opts.schedule, in, n_in, s->n_layers, d->budget / d->unit, d->unit, units);
    for (size_t l = 0, i = 0; l < s->n_layers && rc == 0; l++)
        for (unsigned h = 0; h < s->layers[l].n_kv_heads && context_select(c, (unsigned)l) == d; h++)
            c->head_units[heads_before(s, (unsigned)l) + h] = units[i++];
    free(in);
    free(units);
    return rc ? skv_fail(err, rc, "out of memory") : 0;
}

uint32_t plan_units(const struct skv_context *c, const struct skv_select *s, unsigned layer, unsigned head)
{
    const struct skv_select *d = &c->opts.decode;
    if (s == &c->opts.prefill || context_select(c, layer) != d || !c->head_units || d->budget == 0)
        return s->budget / s->unit;
    /* a refresh's larger budget is split like any other */
    return (uint32_t)((uint64_t)c->head_units[heads_before(c->shape, layer) + head] * s->budget / d->budget);
}

float plan_gamma(const struct skv_context *c, enum reps_kind kind, unsigned layer, unsigned head)
{
    if (!c->calibration)
        return 1.0f;
    const struct skv_calibration_head *h = calibrated(c, layer, head);
    return kind == REPS_BLOCK ? h->gamma_block : h->gamma_page;
}

const float *plan_projection(const struct skv_context *c, unsigned layer, unsigned head)
{
    return calibration_projection(c->calibration, layer, c->shape->layers[layer].kv_head0 + head);
}

void plan_project_queries(const struct skv_context *c, unsigned layer, unsigned head, size_t rows,
                          const float *q, float *out)
{
    unsigned d_rep = c->shape->d_rep, d_k = c->shape->layers[layer].d_k;
    calibration_project(d_rep, d_k, plan_projection(c, layer, head) + (size_t)d_rep * d_k, rows, q, out);
}

const float *plan_salience(const struct skv_context *c, unsigned layer, unsigned head)
{
    return calibration_salience(c->calibration, layer, c->shape->layers[layer].kv_head0 + head);
}

void plan_opts(const struct skv_context *c, const struct skv_select *s, unsigned layer, unsigned head,
               float opt[SKV_POLICY_OPTS])
{
    bool follows = c->calibration && s != &c->opts.prefill;
    policy_opts(s, follows ? calibrated(c, layer, head) : NULL, opt);
}

/* ---- identity ---- */

void plan_hash_prefill(const struct skv_context *c, struct identity *id)
{
    if (c->index.tag[0] && policy_reads_representatives(c->opts.prefill.policy))
        identity_add(id, c->index.tag, strlen(c->index.tag));
}

void plan_hash_decode(const struct skv_context *c, struct identity *id)
{
    uint8_t hash[CHAIN_BYTES];
    bool whole = c->opts.schedule == SKV_CALIBRATED;
    if (c->index.tag[0])
        identity_add(id, c->index.tag, strlen(c->index.tag));
    if (c->opts.schedule != SKV_UNIFORM) {
        identity_add(id, "schedule", 8);
        identity_add_u64(id, c->opts.schedule);
    }
    for (size_t i = 0; c->calibration && i < calibration_n(c->calibration); i++)
        whole |= c->calibration->heads[i].beta > 0.0f;
    if (!whole)
        return;
    calibration_hash(c->calibration, hash);
    identity_add(id, hash, sizeof hash);
}
