/* policy.c: the table of policies, their options, and choosing by scores. */
#include "decoder/scout/policy.h"
#include "common/error.h"
#include "decoder/kernels/kernels.h"
#include "decoder/scout/calibration.h"
#include "decoder/scout/scout.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct policy dense = {
    .name = "dense",
    .about = "every page: exact attention",
    .source = "Vaswani et al. 2017",
};
static const struct policy window = {
    .name = "window",
    .about = "nothing far: the window and the protected tokens only",
    .source = "sliding window, Beltagy et al. 2020 (Longformer)",
};

static const struct policy *const policies[] = {
    [SKV_CASCADE] = &policy_cascade,
    [SKV_DENSE] = &dense,
    [SKV_WINDOW] = &window,
    [SKV_NORM_ONLY] = &policy_norm_only,
    [SKV_ORACLE] = &policy_oracle,
    [SKV_RANDOM] = &policy_random,
    [SKV_SINKS] = &policy_sinks,
    [SKV_STRIDED] = &policy_strided,
    [SKV_BIGBIRD] = &policy_bigbird,
    [SKV_BLOCK_SPARSE] = &policy_block_sparse,
    [SKV_HEAVY_HITTER] = &policy_heavy_hitter,
    [SKV_TOVA] = &policy_tova,
    [SKV_SALIENCE] = &policy_salience,
    [SKV_QUEST] = &policy_quest,
    [SKV_RETRIEVAL] = &policy_retrieval,
    [SKV_HIERARCHICAL] = &policy_hierarchical,
};
enum { POLICIES = sizeof policies / sizeof *policies, HALF_LIFE = 512 };
_Static_assert((int)POLICIES == (int)SKV_POLICIES, "a number for each");

const struct policy *policy_get(enum skv_policy p)
{
    return (unsigned)p < POLICIES ? policies[p] : NULL;
}

/* ---- options ---- */

void policy_opts(const struct skv_select *s, const struct skv_calibration_head *h, float opt[SKV_POLICY_OPTS])
{
    const struct policy *p = policy_get(s->policy);
    for (unsigned i = 0; i < SKV_POLICY_OPTS; i++)
        opt[i] = s->given >> i & 1 ? s->opt[i] : p->opts[i].value;
    if (h && s->policy == SKV_CASCADE)
        cascade_calibrated(s, h, opt);
}

const char *skv_policy_name(enum skv_policy p)
{
    return policy_get(p) ? policy_get(p)->name : "unknown";
}

int skv_policy_describe(enum skv_policy number, struct skv_policy_info *out)
{
    const struct policy *p = policy_get(number);
    if (!p)
        return -ENOENT;
    *out = (struct skv_policy_info){.name = p->name, .about = p->about, .source = p->source};
    for (; out->n_opts < SKV_POLICY_OPTS && p->opts[out->n_opts].name; out->n_opts++) {
        const struct policy_opt *o = &p->opts[out->n_opts];
        out->opts[out->n_opts] = (struct skv_policy_opt){o->name, o->about, o->value, o->min, o->max};
    }
    return 0;
}

int policy_check(const struct skv_select *s, struct skv_error *err)
{
    const struct policy *p = policy_get(s->policy);
    if (!p)
        return skv_fail(err, -EINVAL, "policy number %d is unknown", (int)s->policy);
    for (unsigned i = 0; i < SKV_POLICY_OPTS; i++) {
        const struct policy_opt *o = &p->opts[i];
        if (!(s->given >> i & 1))
            continue;
        if (!o->name)
            return skv_fail(err, -EINVAL, "policy %s has no option number %u", p->name, i);
        if (!(s->opt[i] >= o->min && s->opt[i] <= o->max))
            return skv_fail(err, -EINVAL, "policy %s: %s=%g: must be from %g to %g", p->name, o->name,
                            (double)s->opt[i], (double)o->min, (double)o->max);
    }
    if (s->tail && !p->tails)
        return skv_fail(err, -EINVAL,
                        "policy %s estimates no mass of what it leaves out: the tail is cascade's", p->name);
    if (s->given >> SKV_POLICY_OPTS)
        return skv_fail(err, -EINVAL, "policy %s has no option number %d", p->name, SKV_POLICY_OPTS);
    return 0;
}

static int unknown_policy(const char *name, size_t len, struct skv_error *err)
{
    char names[400] = "";
    for (unsigned i = 0; i < POLICIES; i++)
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", i ? ", " : "",
                 policies[i]->name);
    return skv_fail(err, -EINVAL, "policy \"%.*s\" is unknown: %s", (int)(len < 60 ? len : 60), name, names);
}

static int unknown_opt(const struct policy *p, const char *name, size_t len, struct skv_error *err)
{
    char names[200] = "";
    for (unsigned i = 0; i < SKV_POLICY_OPTS && p->opts[i].name; i++)
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", i ? ", " : "", p->opts[i].name);
    return skv_fail(err, -EINVAL, "policy %s has no option \"%.*s\"%s%s", p->name, (int)(len < 60 ? len : 60),
                    name, names[0] ? ": it has " : "; it has none", names);
}

/* One "name=value" of n bytes. */
static int parse_opt(const struct policy *p, const char *text, size_t n, struct skv_select *s,
                     struct skv_error *err)
{
    size_t name = strcspn(text, "=:");
    char value[32], *end = value;
    unsigned i = 0;
    while (i < SKV_POLICY_OPTS && p->opts[i].name &&
           (strlen(p->opts[i].name) != name || strncmp(p->opts[i].name, text, name)))
        i++;
    if (name > n || text[name] != '=')
        name = n; /* without a value */
    if (i == SKV_POLICY_OPTS || !p->opts[i].name)
        return unknown_opt(p, text, name, err);
    if (name < n && n - name - 1 < sizeof value) {
        memcpy(value, text + name + 1, n - name - 1);
        value[n - name - 1] = 0;
        s->opt[i] = strtof(value, &end);
    }
    if (end == value || *end)
        return skv_fail(err, -EINVAL, "policy %s: \"%.*s\": expected %s=NUMBER", p->name,
                        (int)(n < 60 ? n : 60), text, p->opts[i].name);
    s->given |= 1u << i;
    return 0;
}

int skv_policy_parse(const char *spec, struct skv_select *out, struct skv_error *err)
{
    size_t len = strcspn(spec, ":");
    unsigned number = 0;
    while (number < POLICIES &&
           (strlen(policies[number]->name) != len || strncmp(spec, policies[number]->name, len)))
        number++;
    if (number == POLICIES)
        return unknown_policy(spec, len, err);
    struct skv_select s = *out;
    s.policy = (enum skv_policy)number;
    s.given = 0;
    memset(s.opt, 0, sizeof s.opt);
    for (const char *at = spec + len; *at == ':';) {
        size_t n = strcspn(++at, ":");
        int rc = parse_opt(policies[number], at, n, &s, err);
        if (rc)
            return rc;
        at += n;
    }
    int rc = policy_check(&s, err);
    if (rc == 0)
        *out = s;
    return rc;
}

void skv_policy_format(const struct skv_select *s, char out[SKV_POLICY_TEXT])
{
    const struct policy *p = policy_get(s->policy);
    size_t n = (size_t)snprintf(out, SKV_POLICY_TEXT, "%s", skv_policy_name(s->policy));
    for (unsigned i = 0; p && i < SKV_POLICY_OPTS && n < SKV_POLICY_TEXT; i++)
        if (s->given >> i & 1 && p->opts[i].name)
            n += (size_t)snprintf(out + n, SKV_POLICY_TEXT - n, ":%s=%g", p->opts[i].name, (double)s->opt[i]);
}

uint32_t policy_needs(const struct skv_select *s, const struct skv_calibration *c)
{
    float opt[SKV_POLICY_OPTS];
    uint32_t needs = policy_get(s->policy)->needs;
    for (size_t i = 0; s->policy == SKV_CASCADE && i < (c ? calibration_n(c) : 1); i++) {
        policy_opts(s, c ? &c->heads[i] : NULL, opt);
        needs |= cascade_needs(opt);
    }
    if (needs & NEEDS_SALIENCE && !(c && c->d_k))
        needs ^= NEEDS_SALIENCE | NEEDS_MEAN_QUERY;
    return needs | (s->tail ? 1u << PART_VALUE : 0);
}

bool policy_reads_representatives(enum skv_policy p)
{
    return p == SKV_CASCADE || p == SKV_SALIENCE || p == SKV_RETRIEVAL || p == SKV_HIERARCHICAL;
}

bool skv_policy_history(const struct skv_select *s, const struct skv_calibration *c)
{
    return policy_needs(s, c) & (NEEDS_RECEIVED | NEEDS_MEAN_QUERY);
}

float policy_half_life(const struct skv_select *s)
{
    const struct policy *p = policy_get(s->policy);
    float opt[SKV_POLICY_OPTS], steps = HALF_LIFE;
    policy_opts(s, NULL, opt);
    for (unsigned i = 0; i < SKV_POLICY_OPTS && p->opts[i].name; i++)
        steps = strcmp(p->opts[i].name, "half-life") ? steps : opt[i];
    return steps;
}

/* ---- choosing by scores ---- */

size_t policy_room(const struct policy *p, const struct far_view *v)
{
    if (p->room)
        return p->room(v);
    /* scores (n_pages), order (n_pages), and rows of log masses for those that want them */
    size_t ld = (v->n_pages + 63) / 64 * 64;
    return ld * (sizeof(float) + sizeof(uint32_t)) + ld * v->rows * sizeof(float);
}

float *policy_rows(const struct far_view *v, size_t *ld)
{
    *ld = (v->n_pages + 63) / 64 * 64;
    return (float *)v->scratch + 2 * *ld; /* behind scores and order */
}

size_t policy_choose(const struct policy *p, struct far_view *v, uint32_t *pages)
{
    if (p->choose)
        return p->choose(v, pages);
    size_t ld = (v->n_pages + 63) / 64 * 64;
    float *score = v->scratch;
    uint32_t *order = (uint32_t *)(score + ld);
    p->score(v, score);
    return scout_top(v->n_pages, score, v->eligible, v->k, v->unit, v->mass, order, pages);
}

void policy_sum_shares(struct far_view *v, float *logmass, size_t ld, float *score)
{
    scout_aggregate(v->n_pages, v->rows, logmass, ld, v->lse, score);
}

uint64_t policy_scan_pages(const struct far_view *v, const float *q, float *logmass, size_t ld)
{
    const uint8_t *groups[SLICE_PIECES];
    const float *scatter[SLICE_PIECES];
    for (size_t p = 0, n; p < v->n_pages; p += n) {
        n = v->n_pages - p < SLICE_PIECES * PIECE_PAGES ? v->n_pages - p : SLICE_PIECES * PIECE_PAGES;
        for (size_t i = 0; i * PIECE_PAGES < n; i++) {
            groups[i] = v->pieces[p / PIECE_PAGES + i].page_groups;
            scatter[i] = v->pieces[p / PIECE_PAGES + i].scatter;
        }
        struct scout_head sh = {.kind = view_pages(v),
                                .groups = groups,
                                .scatter = scatter,
                                .pages_per_piece = PIECE_PAGES,
                                .d_k = view_dims(v)};
        scout_score(&sh, n, v->rows, q, logmass + p, ld);
    }
    return (v->n_pages + REPS_LANES - 1) / REPS_LANES * reps_group_bytes(view_pages(v), view_dims(v)) +
           (v->n_pages + PIECE_PAGES - 1) / PIECE_PAGES * view_dims(v) * sizeof(float);
}

/* ---- the tail ---- */

/* Below this share of the far mass something is left out of the tail: it would cost reading its value. */
static const float tail_enough = 1e-6f;

void policy_tail_begin(struct far_view *v)
{
    for (unsigned r = 0; r < v->rows; r++) {
        v->tail_m[r] = v->lse[r];
        v->tail_l[r] = 0;
    }
    memset(v->tail_o, 0, (size_t)v->rows * v->d_v * sizeof *v->tail_o);
}

void policy_tail_add(struct far_view *v, const float *share, const uint16_t *mean)
{
    float value[1024], sum = 0;
    for (unsigned r = 0; r < v->rows; r++)
        sum += share[r];
    if (!(sum >= tail_enough))
        return;
    kernels_get()->f16_to_f32(v->d_v, mean, value);
    v->bytes += v->d_v * sizeof(uint16_t);
    for (unsigned r = 0; r < v->rows; r++) {
        v->tail_l[r] += share[r];
        for (unsigned i = 0; i < v->d_v; i++)
            v->tail_o[(size_t)r * v->d_v + i] += share[r] * value[i];
    }
}
