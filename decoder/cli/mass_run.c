/* mass_run.c: all policies on one trace.
 *
 * Each KV head of each layer is measured by itself: its pages are indexed as a context would, then the
 * queries go by in order. Of a marked one the truth is computed once, and every policy chooses at every
 * budget.
 *
 * Policies that go by the past have one of their own at each budget. Up to the first marked query everything
 * is attended to, as in a prefill; from there on a policy knows of what it has chosen, and nothing of the
 * rest. */
#include "decoder/cli/interrupt.h"
#include "decoder/cli/mass_eval.h"
#include "decoder/cli/mass_index.h"
#include "decoder/scout/scout.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MASS_ROWS = 256 }; /* query heads of a KV head, at most */

struct run {
    const struct mass_setup *setup;
    const struct kv_trace *trace;
    struct unit *heads; /* (n_layers, n_kv_heads) */
    uint32_t *units;    /* (n_budgets, n_layers, n_kv_heads): units that each head selects */
    uint32_t needs;
    uint64_t first_marked; /* token */
};

/* One KV head at work. */
struct unit {
    struct mass_cell *cells;      /* (mass_cells) */
    struct mass_samples *samples; /* (n_policies, n_budgets) */
    unsigned layer, head;
    struct mass_head kv;
    struct mass_index index;
    struct mass_truth truth;
    size_t n_pages, n_protected; /* of the query at hand: sealed, and of these always read */
    float **received;            /* (n_policies, n_budgets): (pages), NULL where nobody wants it */
    float *got;                  /* (rows, pages) of one query */
    double *query_sum;           /* (rows, d_k) scaled */
    float *mean_q, *q;           /* (rows, d_k) scaled */
    float *mean_rep, *q_rep;     /* (rows, d_rep) the same for representatives, if they are projected */
    float *score;                /* (n_tokens) */
    uint32_t *order;             /* (pages) of scout_top */
    float *lse, *share;          /* (rows) */
    float *tail;                 /* (rows, 2 + d_v) of a policy that attends to what it doesn't read */
    float *eligible_mass;        /* (rows, ld) log masses without those of protected pages */
    uint64_t *eligible;          /* bitmap */
    uint32_t *pages;             /* chosen */
    void *scratch;
    size_t scratch_bytes;
    int rc;
};

/* ---- one choice ---- */

static bool wants(const struct mass_setup *s, unsigned policy, uint32_t need)
{
    return policy_needs(&s->policy[policy], s->calib) & need;
}

static const struct skv_calibration_head *calibrated(const struct mass_setup *s, const struct unit *u)
{
    return s->calib ? calibration_head(s->calib, u->layer, u->head) : NULL;
}

static int scratch_for(struct unit *u, size_t bytes)
{
    if (bytes <= u->scratch_bytes)
        return 0;
    free(u->scratch);
    u->scratch_bytes = (bytes + 63) / 64 * 64;
    u->scratch = aligned_alloc(64, u->scratch_bytes);
    if (!u->scratch)
        u->scratch_bytes = 0;
    return u->scratch ? 0 : -ENOMEM;
}

static void view_of(const struct run *r, struct unit *u, uint64_t t, unsigned policy, unsigned budget,
                    struct far_view *v)
{
    const struct mass_setup *s = r->setup;
    memset(u->lse, 0, u->kv.rows * sizeof *u->lse);
    memset(u->share, 0, u->kv.rows * sizeof *u->share);
    *v = (struct far_view){
        .layer = u->layer,
        .head = u->head,
        .d_k = u->kv.d_k,
        .d_v = u->kv.d_v,
        .rows = u->kv.rows,
        .q = u->q,
        .position = t,
        .n_pages = u->n_pages,
        .n_blocks = u->n_pages / (SKV_BLOCK / SKV_PAGE),
        .pieces = u->index.pieces,
        .eligible = u->eligible,
        .received = u->received[policy * s->n_budgets + budget],
        .d_rep = s->calib ? s->calib->d_rep : 0,
        .q_rep = u->q_rep,
        .mean_q = !(t && wants(s, policy, NEEDS_MEAN_QUERY)) ? NULL
                  : s->calib && s->calib->d_rep              ? u->mean_rep
                                                             : u->mean_q,
        .k = r->units[((size_t)budget * r->trace->head.n_layers + u->layer) * r->trace->head.n_kv_heads +
                      u->head],
        .unit = s->unit / SKV_PAGE,
        .lse = u->lse,
        .share = u->share};
}

/* Pages of one policy for one query, into u->pages; the oracle needs u->truth. -ENOMEM. */
static int choose(const struct run *r, struct unit *u, uint64_t t, unsigned policy, unsigned budget,
                  struct far_view *v, size_t *n)
{
    const struct skv_select *s = &r->setup->policy[policy];
    const struct policy *p = policy_get(s->policy);
    float opt[SKV_POLICY_OPTS];
    *n = 0;
    view_of(r, u, t, policy, budget, v);
    if (s->policy == SKV_ORACLE) {
        mass_truth_score(&u->truth, u->score);
        *n = scout_top(v->n_pages, u->score, u->eligible, v->k, v->unit, 0, u->order, u->pages);
        return 0;
    }
    if (!p->score && !p->choose) { /* dense, and what reads nothing far */
        for (size_t i = u->n_protected; s->policy == SKV_DENSE && i < v->n_pages; i++)
            u->pages[(*n)++] = (uint32_t)i;
        return 0;
    }
    policy_opts(s, calibrated(r->setup, u), opt);
    v->opt = opt;
    v->mass = s->mass;
    if (p->always_tails) {
        v->tail_m = u->tail;
        v->tail_l = v->tail_m + v->rows;
        v->tail_o = v->tail_l + v->rows;
    }
    if (scratch_for(u, policy_room(p, v)))
        return -ENOMEM;
    v->scratch = u->scratch;
    for (unsigned slice = 0; slice < policy_slices(p, v); slice++)
        p->scan(v, slice);
    *n = policy_choose(p, v, u->pages);
    return 0;
}

static int keep_sample(struct mass_samples *s, const struct mass_sample *x)
{
    if (s->n == s->room) {
        size_t room = s->room ? 2 * s->room : 256;
        struct mass_sample *grown = realloc(s->at, room * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        s->at = grown;
        s->room = room;
    }
    s->at[s->n++] = *x;
    return 0;
}

/* What unread pages have at most. */
struct unread {
    double most[BOUNDS * MASS_ROWS]; /* (BOUNDS, rows) relative to each row's whole mass */
    double over[BOUNDS * MASS_ROWS]; /* sum over pages of bound - log mass */
    size_t n;                        /* pages */
};

static void bound_unread(const struct unit *u, const struct far_view *v, size_t n, struct unread *out)
{
    const struct mass_truth *m = &u->truth;
    double page[BOUNDS * MASS_ROWS];
    size_t i = 0;
    assert(v->rows <= MASS_ROWS);
    memset(out, 0, sizeof *out);
    for (size_t p = u->n_protected; p < u->n_pages; p++) {
        if (i < n && u->pages[i] == p) {
            i++;
            continue;
        }
        bound_page(v, p, page);
        out->n++;
        for (unsigned at = 0; at < BOUNDS * v->rows; at++) {
            unsigned row = at % v->rows;
            out->most[at] += exp(page[at] - m->lse[row]);
            out->over[at] += page[at] - (double)m->logmass[row * m->ld + p];
        }
    }
}

/* What `rest` is of everything. */
static float share_of_rest(double rest, double read)
{
    return rest > 0 ? (float)(isfinite(rest) ? rest / (read + rest) : 1) : 0;
}

/* What a step would say that it missed: it knows the mass that it attended to, and estimates, or bounds, the
 * rest. */
static int sample(struct unit *u, const struct far_view *v, size_t n, struct mass_samples *samples)
{
    const struct mass_truth *m = &u->truth;
    struct unread unread;
    int rc = 0;
    bound_unread(u, v, n, &unread);
    for (unsigned row = 0; row < m->rows && rc == 0; row++) {
        double held = 0;
        for (size_t i = 0; i < n; i++)
            held += m->far[row * m->n_pages + u->pages[i]];
        double read = m->near_mass[row] + held * m->far_mass[row];
        double rest = exp((double)v->lse[row] - m->lse[row]) * (1 - (double)v->share[row]);
        double missed = m->far_mass[row] * (1 - held);
        struct mass_sample x = {.estimated = share_of_rest(rest, read),
                                .missed = missed > 0 ? (float)missed : 0};
        for (unsigned b = 0; b < BOUNDS; b++) {
            x.bound[b] = share_of_rest(unread.most[b * m->rows + row], read);
            x.over[b] = unread.n ? (float)(unread.over[b * m->rows + row] / (double)unread.n) : 0;
        }
        rc = keep_sample(samples, &x);
    }
    return rc;
}

static int measure(const struct run *r, struct unit *u, uint64_t t, unsigned kind, unsigned policy,
                   unsigned budget)
{
    const struct mass_setup *s = r->setup;
    struct mass_cell *c = &u->cells[mass_cell_at(s, kind, policy, budget)];
    struct far_view v;
    size_t n;
    int rc = choose(r, u, t, policy, budget, &v, &n);
    if (rc)
        return rc;
    struct mass_tail tail = {v.tail_m, v.tail_l, v.tail_o};
    struct mass_outcome o = mass_outcome_of(&u->truth, u->pages, n, v.tail_l ? &tail : NULL);
    c->rows += o.rows;
    c->held_rows += o.held_rows;
    c->far += o.far;
    c->held += o.held;
    c->all_rows += u->kv.rows;
    c->error += o.error;
    c->choices += 1;
    c->tokens += (double)n * SKV_PAGE;
    c->far_tokens += (double)v.n_pages * SKV_PAGE;
    c->bytes += (double)v.bytes;
    return s->calibration && v.estimated ? sample(u, &v, n, &u->samples[policy * s->n_budgets + budget]) : 0;
}

/* ---- one query ---- */

/* What is far, and the query, scaled. */
static void take_query(const struct run *r, struct unit *u, uint64_t t)
{
    const float *q = u->kv.q + t * u->kv.q_step;
    u->n_pages = mass_sealed_blocks(t, r->setup->window) * (SKV_BLOCK / SKV_PAGE);
    u->n_protected = r->setup->protected_pages < u->n_pages ? r->setup->protected_pages : u->n_pages;
    memset(u->eligible, 0, (u->n_pages + 63) / 64 * sizeof *u->eligible);
    for (size_t p = u->n_protected; p < u->n_pages; p++)
        u->eligible[p / 64] |= UINT64_C(1) << (p % 64);
    for (size_t i = 0; i < (size_t)u->kv.rows * u->kv.d_k; i++) {
        u->q[i] = q[i] * u->kv.scale;
        u->mean_q[i] = t ? (float)(u->query_sum[i] / (double)t) : 0;
    }
    const struct skv_calibration *c = r->setup->calib;
    const float *p = calibration_projection(c, u->layer, u->head);
    if (p) {
        p += (size_t)c->d_rep * c->d_k;
        calibration_project(c->d_rep, c->d_k, p, u->kv.rows, u->q, u->q_rep);
        calibration_project(c->d_rep, c->d_k, p, u->kv.rows, u->mean_q, u->mean_rep);
    }
}

static int measure_query(const struct run *r, struct unit *u, uint64_t t, unsigned kind)
{
    const struct mass_setup *s = r->setup;
    int rc = mass_truth_at(&u->truth, &u->kv, t, s->window, s->protected_pages);
    if (rc)
        return rc;
    for (unsigned policy = 0; policy < s->n_policies && rc == 0; policy++)
        for (unsigned budget = 0; budget < s->n_budgets && rc == 0; budget++)
            rc = measure(r, u, t, kind, policy, budget);
    return rc;
}

/* ---- the past ---- */

/* Fades what was and adds what the read pages got: everything near, what is protected, and of the other far
 * ones the n chosen (all: NULL). A row's read pages share its attention. */
static void receive(struct unit *u, uint64_t t, float keep, const uint32_t *chosen, size_t n, float *received)
{
    size_t n_all = (size_t)t / SKV_PAGE + 1, first_near = u->n_pages;
    for (size_t p = 0; p < n_all; p++)
        received[p] *= keep;
    for (unsigned row = 0; row < u->kv.rows; row++) {
        const float *got = u->got + row * n_all;
        float read = 0;
        for (size_t p = chosen ? first_near : 0; p < n_all; p++)
            read += got[p];
        for (size_t p = 0; chosen && p < u->n_protected; p++)
            read += got[p];
        for (size_t i = 0; i < n; i++)
            read += got[chosen[i]];
        float share = read > 0 ? 1 / read : 0;
        for (size_t p = chosen ? first_near : 0; p < n_all; p++)
            received[p] += got[p] * share;
        for (size_t p = 0; chosen && p < u->n_protected; p++)
            received[p] += got[p] * share;
        for (size_t i = 0; i < n; i++)
            received[chosen[i]] += got[chosen[i]] * share;
    }
}

/* The query at position t becomes the past. */
static int goes_by(const struct run *r, struct unit *u, uint64_t t)
{
    const struct mass_setup *s = r->setup;
    struct far_view v;
    size_t n = 0;
    int rc = 0;
    if (r->needs & NEEDS_RECEIVED)
        mass_received(&u->kv, t, u->score, u->got);
    for (unsigned i = 0; i < s->n_policies * s->n_budgets && rc == 0; i++) {
        if (!u->received[i])
            continue;
        float half_life = policy_half_life(&s->policy[i / s->n_budgets]);
        bool all = t < r->first_marked;
        if (!all && u->n_pages > u->n_protected)
            rc = choose(r, u, t, i / s->n_budgets, i % s->n_budgets, &v, &n);
        if (rc == 0)
            receive(u, t, half_life > 0 ? exp2f(-1 / half_life) : 0, all ? NULL : u->pages, n,
                    u->received[i]);
    }
    for (size_t i = 0; i < (size_t)u->kv.rows * u->kv.d_k; i++)
        u->query_sum[i] += (double)u->q[i];
    return rc;
}

/* ---- one KV head ---- */

static void unit_end(struct unit *u)
{
    mass_index_free(&u->index);
    mass_truth_free(&u->truth);
    for (unsigned i = 0; u->received && i < MASS_POLICIES * MASS_BUDGETS; i++)
        free(u->received[i]);
    free(u->received);
    void *rest[] = {u->got, u->query_sum, u->mean_q, u->q_rep,    u->mean_rep, u->q,     u->score,
                    u->lse, u->share,     u->tail,   u->eligible, u->pages,    u->order, u->scratch};
    for (size_t i = 0; i < sizeof rest / sizeof *rest; i++)
        free(rest[i]);
    free(u->cells);
    for (unsigned i = 0; u->samples && i < MASS_POLICIES * MASS_BUDGETS; i++)
        free(u->samples[i].at);
    free(u->samples);
}

static int unit_begin(const struct run *r, struct unit *u)
{
    const struct kv_trace_head *h = &r->trace->head;
    const struct mass_setup *s = r->setup;
    size_t rows = h->n_heads / h->n_kv_heads, n_blocks = mass_sealed_blocks(h->n_tokens - 1, s->window),
           ld = (n_blocks * (SKV_BLOCK / SKV_PAGE) + 63) / 64 * 64 + 64,
           n_all = (h->n_tokens - 1) / SKV_PAGE + 1;
    u->kv = (struct mass_head){.q = kv_trace_q(r->trace, u->layer) + u->head * rows * h->d_k,
                               .k = kv_trace_k(r->trace, u->layer) + (size_t)u->head * h->d_k,
                               .v = kv_trace_v(r->trace, u->layer) + (size_t)u->head * h->d_v,
                               .q_step = (size_t)h->n_heads * h->d_k,
                               .k_step = (size_t)h->n_kv_heads * h->d_k,
                               .v_step = (size_t)h->n_kv_heads * h->d_v,
                               .rows = (uint32_t)rows,
                               .d_k = h->d_k,
                               .d_v = h->d_v,
                               .scale = h->scale};
    bool ok = (u->cells = calloc(mass_cells(s), sizeof *u->cells)) &&
              (u->samples = calloc(MASS_POLICIES * MASS_BUDGETS, sizeof *u->samples)) &&
              (u->got = malloc(rows * n_all * sizeof *u->got)) &&
              (u->received = calloc(MASS_POLICIES * MASS_BUDGETS, sizeof *u->received)) &&
              (u->query_sum = calloc(rows * h->d_k, sizeof *u->query_sum)) &&
              (u->mean_q = calloc(rows * h->d_k, sizeof *u->mean_q)) &&
              (u->q = calloc(rows * h->d_k, sizeof *u->q)) &&
              (u->q_rep = calloc(rows * h->d_k, sizeof *u->q_rep)) &&
              (u->mean_rep = calloc(rows * h->d_k, sizeof *u->mean_rep)) &&
              (u->score = malloc(h->n_tokens * sizeof *u->score)) &&
              (u->lse = calloc(rows, sizeof *u->lse)) && (u->share = calloc(rows, sizeof *u->share)) &&
              (u->tail = calloc(rows * (2 + h->d_v), sizeof *u->tail)) &&
              (u->eligible = calloc(ld / 64, sizeof *u->eligible)) &&
              (u->pages = malloc(ld * sizeof *u->pages)) && (u->order = malloc(ld * sizeof *u->order));
    for (unsigned i = 0; i < s->n_policies * s->n_budgets && ok; i++)
        if (wants(s, i / s->n_budgets, NEEDS_RECEIVED))
            ok = (u->received[i] = calloc(n_all, sizeof *u->received[i]));
    const struct skv_calibration_head *k = calibrated(s, u);
    struct mass_learned learned = {.gamma = {1, 1},
                                   .salience = calibration_salience(s->calib, u->layer, u->head),
                                   .d_rep = s->calib ? s->calib->d_rep : 0,
                                   .projection = calibration_projection(s->calib, u->layer, u->head)};
    if (k) {
        learned.gamma[REPS_PAGE] = k->gamma_page;
        learned.gamma[REPS_BLOCK] = k->gamma_block;
    }
    return ok ? mass_index_build(&u->index, &u->kv, n_blocks, r->needs, mass_pages(s), &learned) : -ENOMEM;
}

static void run_unit(void *arg, unsigned part)
{
    const struct run *r = arg;
    const struct kv_trace_head *h = &r->trace->head;
    struct unit *u = &r->heads[part];
    u->layer = part / h->n_kv_heads;
    u->head = part % h->n_kv_heads;
    u->rc = unit_begin(r, u);
    bool past = r->needs & (NEEDS_RECEIVED | NEEDS_MEAN_QUERY);
    for (uint64_t t = 0; t < h->n_tokens && u->rc == 0; t++) {
        if (!past && !r->trace->mark[t])
            continue;
        take_query(r, u, t);
        if (r->trace->mark[t] && u->n_pages > u->n_protected)
            u->rc = measure_query(r, u, t, r->trace->mark[t] - KV_TRACE_COPY);
        if (past && u->rc == 0)
            u->rc = goes_by(r, u, t);
        if (interrupted())
            u->rc = -EINTR;
    }
}

/* ---- one trace ---- */

static void add_cells(const struct mass_setup *s, const struct mass_cell *from, struct mass_cell *to)
{
    for (unsigned i = 0; i < mass_cells(s); i++) {
        const struct mass_cell *a = &from[i];
        struct mass_cell *b = &to[i];
        b->rows += a->rows;
        b->held_rows += a->held_rows;
        b->far += a->far;
        b->held += a->held;
        b->all_rows += a->all_rows;
        b->error += a->error;
        b->choices += a->choices;
        b->tokens += a->tokens;
        b->far_tokens += a->far_tokens;
        b->bytes += a->bytes;
    }
}

static int add_samples(const struct mass_setup *s, const struct mass_samples *from, struct mass_samples *to)
{
    int rc = 0;
    for (unsigned i = 0; i < s->n_policies * s->n_budgets; i++)
        for (size_t j = 0; j < from[i].n && rc == 0; j++)
            rc = keep_sample(&to[i], &from[i].at[j]);
    return rc;
}

static int say(const struct run *r, const struct unit *u, struct skv_error *err)
{
    switch (u->rc) {
    case -ENOMEM:
        return skv_fail(err, u->rc, "out of memory for layer %u of %s", u->layer, r->trace->path);
    case -ERANGE:
        return skv_fail(err, -EINVAL,
                        "%s: in layer %u some q·k is no finite number: no policy can be measured",
                        r->trace->path, u->layer);
    default:
        return skv_fail(err, u->rc, "interrupted");
    }
}

/* Every budget split over the trace's heads. */
static int split_budgets(struct run *r)
{
    const struct mass_setup *s = r->setup;
    const struct kv_trace_head *h = &r->trace->head;
    size_t n = (size_t)h->n_layers * h->n_kv_heads;
    struct schedule_head *heads = malloc((n + 1) * sizeof *heads);
    r->units = malloc(n * s->n_budgets * sizeof *r->units + 1);
    int rc = heads && r->units ? 0 : -ENOMEM;
    for (size_t i = 0; i < n && rc == 0; i++)
        heads[i] =
            (struct schedule_head){(unsigned)(i / h->n_kv_heads), s->calib ? &s->calib->heads[i] : NULL};
    for (unsigned b = 0; b < s->n_budgets && rc == 0; b++)
        rc = schedule_split(s->schedule, heads, n, h->n_layers, s->budget[b] / s->unit, s->unit,
                            r->units + b * n);
    free(heads);
    return rc;
}

int mass_run(const struct mass_setup *s, const struct kv_trace *trace, struct pool *pool,
             struct mass_trace *out, struct mass_samples *samples, struct skv_error *err)
{
    const struct kv_trace_head *h = &trace->head;
    unsigned n_units = h->n_layers * h->n_kv_heads;
    struct run r = {.setup = s, .trace = trace, .heads = calloc(n_units, sizeof *r.heads)};
    *out = (struct mass_trace){.file = trace->path,
                               .n_tokens = h->n_tokens,
                               .n_layers = h->n_layers,
                               .cells = calloc((size_t)h->n_layers * mass_cells(s), sizeof *out->cells)};
    int rc = r.heads && out->cells ? 0 : skv_fail(err, -ENOMEM, "out of memory");
    if (rc == 0 && split_budgets(&r))
        rc = skv_fail(err, -ENOMEM, "out of memory");
    for (unsigned p = 0; p < s->n_policies; p++)
        r.needs |= policy_needs(&s->policy[p], s->calib) | (s->calibration ? BOUND_NEEDS : 0);
    while (r.first_marked < h->n_tokens && !trace->mark[r.first_marked])
        r.first_marked++;
    for (uint64_t t = r.first_marked; t < h->n_tokens; t++)
        if (trace->mark[t])
            out->queries[trace->mark[t] - KV_TRACE_COPY]++;
    if (rc == 0)
        pool_run(pool, n_units, run_unit, &r);
    for (unsigned i = 0; i < n_units && r.heads && rc == 0; i++) {
        struct unit *u = &r.heads[i];
        rc = u->rc ? say(&r, u, err) : 0;
        if (rc)
            break;
        add_cells(s, u->cells, out->cells + (size_t)u->layer * mass_cells(s));
        if (add_samples(s, u->samples, samples))
            rc = skv_fail(err, -ENOMEM, "out of memory");
    }
    for (unsigned i = 0; r.heads && i < n_units; i++)
        unit_end(&r.heads[i]);
    free(r.heads);
    free(r.units);
    return rc;
}
