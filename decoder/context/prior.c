/* prior.c: what is expected of a layer's blocks before any query is known: one number a block, for whoever
 * has to choose without one.
 *
 * Of two estimates, mixed by alpha: salience, the share of an average query's attention that the block's
 * representative promises, and received, the share that the block has got in fact, older mass fading. Each is
 * a share of what all sealed blocks get of a KV head together; a layer's number is the mean of its heads. */
#include "decoder/context/internal.h"
#include "decoder/scout/policy.h"
#include "decoder/scout/scout.h"

#include <errno.h>
#include <math.h>
#include <string.h>

struct prior_job {
    const struct skv_context *c;
    unsigned layer, g, d_k;
    size_t n, ld; /* blocks; in whole groups */
    float alpha;
};

struct room {
    const uint8_t **groups; /* a span's */
    float *q, *mass, *lse;  /* (g, d_k), (g, ld), (g) */
    float *q_rep;           /* (g, dims of representatives) */
    float *prior, *share;   /* (ld): the result; what one of the two says */
};

/* Every array's place behind base; returns how much room all need. */
static size_t lay_out(const struct prior_job *j, struct room *r, char *base)
{
    size_t at = 0;
    r->groups = policy_take(base, &at, j->c->n_spans * sizeof *r->groups);
    r->q = policy_take(base, &at, (size_t)j->g * j->d_k * sizeof *r->q);
    r->q_rep = policy_take(base, &at, (size_t)j->g * j->d_k * sizeof *r->q_rep);
    r->mass = policy_take(base, &at, j->g * j->ld * sizeof *r->mass);
    r->lse = policy_take(base, &at, j->g * sizeof *r->lse);
    r->prior = policy_take(base, &at, j->ld * sizeof *r->prior);
    r->share = policy_take(base, &at, j->ld * sizeof *r->share);
    return at;
}

/* As a calibration has learned to predict it. */
static void learned(const struct prior_job *j, const struct room *r, unsigned head)
{
    const struct skv_context *c = j->c;
    float most = -INFINITY;
    for (size_t b = 0; b < j->n; b++) {
        const float *page = span_salience(c->shape, c->spans[b / SPAN_BLOCKS], j->layer, head) +
                            b % SPAN_BLOCKS * BLOCK_PAGES;
        r->share[b] = fmaxf(fmaxf(page[0], page[1]), fmaxf(page[2], page[3]));
        most = fmaxf(most, r->share[b]);
    }
    for (size_t b = 0; b < j->n; b++)
        r->share[b] = isfinite(most) ? expf(r->share[b] - most) : 0;
}

/* The share that each block is predicted to get, or would get of an average query; false while there was
 * none. */
static bool salience(const struct prior_job *j, const struct room *r, unsigned head)
{
    const struct skv_context *c = j->c;
    struct scout_head sh = {.kind = REPS_BLOCK,
                            .groups = r->groups,
                            .pages_per_piece = SPAN_BLOCKS,
                            .d_k = shape_rep_dims(c->shape, j->layer)};
    const float *q = r->q;
    if (plan_salience(c, j->layer, head)) {
        learned(j, r, head);
        return true;
    }
    if (!received_mean_query(c->received, j->layer, head, r->q))
        return false;
    if (c->shape->d_rep) {
        plan_project_queries(c, j->layer, head, j->g, r->q, r->q_rep);
        q = r->q_rep;
    }
    for (size_t i = 0; i < c->n_spans; i++)
        r->groups[i] = span_block_groups(c->shape, c->spans[i], j->layer, head);
    scout_score(&sh, j->n, j->g, q, r->mass, j->ld);
    scout_aggregate(j->n, j->g, r->mass, j->ld, r->lse, r->share);
    return true;
}

/* What each block has received; false while that is nothing. */
static bool received(const struct prior_job *j, const struct room *r, unsigned head)
{
    const float *mass = received_mass(j->c->received, j->layer, head, j->n * BLOCK_PAGES);
    float any = 0;
    for (size_t b = 0; mass && b < j->n; b++) {
        r->share[b] = mass[b * 4] + mass[b * 4 + 1] + mass[b * 4 + 2] + mass[b * 4 + 3];
        any += r->share[b];
    }
    return any > 0;
}

/* Adds what one estimate says, as multiples of the mean. */
static void add(const struct prior_job *j, const struct room *r, float weight)
{
    double sum = 0;
    for (size_t b = 0; b < j->n; b++)
        sum += (double)r->share[b];
    float scale = sum > 0 ? weight * (float)((double)j->n / sum) : 0;
    for (size_t b = 0; b < j->n; b++)
        r->prior[b] += r->share[b] * scale;
}

static void prior_head(void *arg, unsigned head)
{
    const struct prior_job *j = arg;
    struct room r;
    lay_out(j, &r, j->c->tier->scratch[head].bytes);
    memset(r.prior, 0, j->ld * sizeof *r.prior);
    bool got = received(j, &r, head);
    if (got)
        add(j, &r, 1 - j->alpha);
    if (salience(j, &r, head))
        add(j, &r, got ? j->alpha : 1);
}

int prior_of_blocks(struct skv_context *c, unsigned layer, float alpha, float *out)
{
    const struct skv_layer *y = &c->shape->layers[layer];
    struct prior_job j = {.c = c,
                          .layer = layer,
                          .g = y->n_heads / y->n_kv_heads,
                          .d_k = y->d_k,
                          .n = c->sealed,
                          .ld = (c->sealed + 63) / 64 * 64,
                          .alpha = alpha};
    struct room r;
    for (unsigned h = 0; h < y->n_kv_heads; h++)
        if (!scratch_take(&c->tier->scratch[h], lay_out(&j, &r, NULL)))
            return -ENOMEM;
    pool_run(c->tier->pool, y->n_kv_heads, prior_head, &j);
    memset(out, 0, j.n * sizeof *out);
    for (unsigned h = 0; h < y->n_kv_heads; h++) {
        lay_out(&j, &r, c->tier->scratch[h].bytes);
        for (size_t b = 0; b < j.n; b++)
            out[b] += r.prior[b] / (float)y->n_kv_heads;
    }
    return 0;
}
