/* recipe.c: how a context selects, checked, and as a part of names: everything that decides the bits of K and
 * V goes into the root of a context's chain, or into the step of a block that holds a decoded token (seal.c).
 */
#include "decoder/context/internal.h"
#include "decoder/scout/policy.h"

#include <errno.h>
#include <string.h>

int recipe_check_select(const struct skv_select *s, const char *which, struct skv_error *err)
{
    if (s->unit != 16 && s->unit != 32 && s->unit != 64)
        return skv_fail(err, -EINVAL, "%s: selection of %u tokens: 16, 32 or 64 are supported", which,
                        s->unit);
    if (!(s->mass >= 0.0f && s->mass <= 1.0f))
        return skv_fail(err, -EINVAL, "%s: mass %g: a share from 0 to 1", which, (double)s->mass);
    if (!(s->refresh_turn >= 0.0f && s->refresh_turn <= 1.0f))
        return skv_fail(err, -EINVAL, "%s: a query turns at a cosine from 0 to 1, not %g", which,
                        (double)s->refresh_turn);
    if ((s->refresh || s->refresh_turn > 0.0f) && s->refresh_budget == 0)
        return skv_fail(err, -EINVAL, "%s: a refresh selects the budget at least once", which);
    struct skv_error why;
    int rc = policy_check(s, &why);
    return rc ? skv_fail(err, rc, "%s: %s", which, why.text) : 0;
}

void hash_policy_opts(struct identity *id, const struct skv_select *s)
{
    const struct policy *p = policy_get(s->policy);
    float opt[SKV_POLICY_OPTS];
    bool other = false;
    policy_opts(s, NULL, opt);
    for (unsigned i = 0; i < SKV_POLICY_OPTS; i++)
        other |= opt[i] != p->opts[i].value;
    if (other)
        identity_add(id, opt, sizeof opt);
    if (s->tail)
        identity_add(id, "tail", 4);
    if (s->refresh || s->refresh_turn > 0.0f) {
        identity_add(id, "refresh 2", 9); /* before, no policy learned from one */
        identity_add_u64(id, s->refresh);
        identity_add_u64(id, s->refresh_budget);
        identity_add(id, &s->refresh_turn, sizeof s->refresh_turn);
    }
}

static void hash_select(struct identity *id, const struct skv_select *s)
{
    uint32_t mass;
    memcpy(&mass, &s->mass, sizeof mass);
    identity_add_u64(id, s->policy);
    identity_add_u64(id, s->policy == SKV_DENSE || s->policy == SKV_WINDOW ? 0 : s->budget);
    identity_add_u64(id, s->policy == SKV_DENSE || s->policy == SKV_WINDOW ? 0 : s->unit);
    identity_add_u64(id, mass);
    hash_policy_opts(id, s);
}

const struct skv_select *context_select(const struct skv_context *c, unsigned layer)
{
    for (uint32_t i = c->opts.n_decode_layers; i-- > 0;)
        if (layer >= c->opts.decode_layers[i].from && layer < c->opts.decode_layers[i].to)
            return &c->opts.decode_layers[i].select;
    return &c->opts.decode;
}

int recipe_check_layers(const struct skv_context_opts *o, unsigned n_layers, struct skv_error *err)
{
    if (o->n_decode_layers > SKV_LAYER_RANGES)
        return skv_fail(err, -EINVAL, "%u ranges of layers select otherwise: at most %d", o->n_decode_layers,
                        SKV_LAYER_RANGES);
    for (uint32_t i = 0; i < o->n_decode_layers; i++) {
        const struct skv_layer_select *y = &o->decode_layers[i];
        if (y->from >= y->to || y->to > n_layers)
            return skv_fail(err, -EINVAL, "layers %u to %u: the model has layers 0 to %u", y->from,
                            y->to ? y->to - 1 : 0, n_layers - 1);
        int rc = recipe_check_select(&y->select, "decode", err);
        if (rc)
            return rc;
    }
    return 0;
}

void recipe_hash_root(struct skv_context *c)
{
    struct identity id;
    identity_begin(&id, "scoutkv root");
    identity_add(&id, c->shape->fingerprint, SKV_FINGERPRINT);
    identity_add_u64(&id, LAYOUT_VERSION);
    identity_add_u64(&id, BLOCK_TOKENS);
    identity_add_u64(&id, c->opts.dtype);
    identity_add(&id, c->tier->k->name, strlen(c->tier->k->name));
    for (unsigned l = 0; l < c->shape->n_layers; l++) {
        const struct skv_layer *y = &c->shape->layers[l];
        uint32_t scale;
        memcpy(&scale, &y->scale, sizeof scale);
        uint64_t fields[] = {y->d_k, y->d_v, y->n_heads, y->n_kv_heads, y->kv_head0, scale};
        identity_add(&id, fields, sizeof fields);
    }
    hash_select(&id, &c->opts.prefill);
    identity_add_u64(&id, c->opts.window);
    identity_add_u64(&id, c->opts.seal_lag);
    for (size_t i = 0; i < c->n_protect; i++) {
        identity_add_u64(&id, c->protect[i].from);
        identity_add_u64(&id, c->protect[i].to);
    }
    plan_hash_prefill(c, &id);
    identity_add(&id, c->opts.recipe ? c->opts.recipe : "", c->opts.recipe ? strlen(c->opts.recipe) : 0);
    identity_add(&id, c->opts.salt ? c->opts.salt : (const uint8_t *)"", c->opts.salt ? 32 : 0);
    identity_end(&id, c->root);
}
