/* calibrate_fit.c: see calibrate_fit.h.
 *
 * Traces come one after the other, and what is learned of those before is tried on the next: the salience,
 * and with it the prior, is judged on keys and queries that it has not seen.
 *
 * A page's gamma is that whose order of pages misses the least far mass, over budgets that double: what
 * counts is the choice. A block's is that whose estimated shares diverge the least from the true ones: blocks
 * only name candidates, and tell how much is left out. The order is cascade's: the sum over the group's query
 * heads of the estimated share. */
#include "decoder/cli/calibrate_fit.h"

#include "decoder/cli/interrupt.h"
#include "decoder/cli/mass_index.h"
#include "decoder/cli/mass_truth.h"
#include "decoder/kernels/kernels.h"
#include "decoder/scout/salience.h"
#include "decoder/scout/scout.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = SKV_BLOCK / SKV_PAGE, PROJECTION_STEP = 4 };

struct ranked {
    double score;
    uint32_t page;
};

/* One KV head at work. */
struct unit {
    struct fit_head *sums;
    struct mass_head kv;
    unsigned layer;
    struct mass_index index[FIT_GAMMAS], projected;
    unsigned d_rep;
    float *projection, *q_rep;  /* (2, d_rep, d_k) as learned so far, NULL: not; (rows, d_rep) */
    unsigned gamma;             /* the best so far */
    float *w;                   /* (d_k + 2) salience learned so far; NULL: nothing yet */
    float *salience, *history;  /* (pages) log mass predicted; and received before the first marked query */
    double mean_history;        /* of sealed pages, at the query at hand */
    double *got[FIT_KINDS];     /* (tokens) Σ over marked queries of the attention received while far, */
    uint32_t *times[FIT_KINDS]; /* and of how many queries */
    struct mass_truth truth;
    float *q;       /* (rows, d_k) scaled */
    float *logmass; /* (rows, ld) estimated */
    double *far;    /* (rows, pages) true far mass, of 1 */
    double *share;  /* (pages) estimated share, Σ over rows */
    struct ranked *order;
    size_t first, n_pages; /* of the query at hand: far pages are [first, n_pages) */
    int rc;
};
struct run {
    struct fit *fit;
    const struct kv_trace *trace;
    struct unit *units;
};

static float gamma_at(unsigned g)
{
    return (float)g / (FIT_GAMMAS - 1);
}

static int by_score(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return (x->page > y->page) - (x->page < y->page);
}

/* log Σ exp of n numbers. */
static double log_sum(const float *x, size_t n)
{
    double most = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++)
        most = (double)x[i] > most ? (double)x[i] : most;
    for (size_t i = 0; i < n; i++)
        sum += exp((double)x[i] - most);
    return most + log(sum);
}

static size_t scan(struct unit *u, const struct mass_index *x, enum reps_kind kind)
{
    size_t n = kind == REPS_BLOCK ? u->n_pages / BLOCK : u->n_pages, ld = (n + 63) / 64 * 64;
    unsigned per = kind == REPS_BLOCK ? PIECE_BLOCKS : PIECE_PAGES, dims = u->kv.d_k;
    const float *q = u->q;
    if (kind == REPS_MANY) {
        dims = u->d_rep;
        q = u->q_rep;
    }
    for (size_t at = 0; at < n; at += per) {
        const struct far_piece *piece = &x->pieces[at / per];
        struct scout_head sh = {.kind = kind,
                                .groups = kind == REPS_BLOCK ? &piece->block_groups : &piece->page_groups,
                                .scatter = kind == REPS_MANY ? &piece->scatter : NULL,
                                .pages_per_piece = per,
                                .d_k = dims};
        scout_score(&sh, n - at < per ? n - at : per, u->kv.rows, q, u->logmass + at, ld);
    }
    return ld;
}

/* ---- one query and one gamma ---- */

/* u->share of far pages by one index. */
static void estimate(struct unit *u, const struct mass_index *x)
{
    size_t ld = scan(u, x, x == &u->projected ? REPS_MANY : REPS_PAGE), n = u->n_pages - u->first;
    memset(u->share, 0, u->n_pages * sizeof *u->share);
    for (unsigned r = 0; r < u->kv.rows; r++) {
        const float *row = u->logmass + r * ld + u->first;
        double lse = log_sum(row, n);
        for (size_t i = 0; i < n; i++)
            u->share[u->first + i] += exp((double)row[i] - lse);
    }
}

/* Adds what the pages of the largest u->order[].score hold, by knots. */
static void add_held(struct unit *u, double held[SKV_KNOTS])
{
    size_t n = u->n_pages - u->first;
    qsort(u->order, n, sizeof *u->order, by_score);
    double sum = 0;
    size_t i = 0;
    for (unsigned knot = 0; knot < SKV_KNOTS; knot++) {
        for (; i < n && i < (size_t)1 << knot; i++)
            for (unsigned r = 0; r < u->kv.rows; r++)
                sum += u->far[r * u->n_pages + u->order[i].page];
        held[knot] += sum;
    }
}

static void add_gamma(struct unit *u, const struct mass_index *x, double held[SKV_KNOTS])
{
    estimate(u, x);
    for (size_t p = u->first; p < u->n_pages; p++)
        u->order[p - u->first] = (struct ranked){u->share[p], (uint32_t)p};
    add_held(u, held);
}

/* ---- one query and all priors ---- */

static double alpha_at(unsigned prior)
{
    return prior ? (double)((prior - 1) % FIT_ALPHAS) / (FIT_ALPHAS - 1) : 0;
}
static double beta_at(unsigned prior)
{
    return prior ? exp2(-1.0 - (prior - 1) / FIT_ALPHAS) : 0; /* 1/2, 1/4, 1/8 */
}

/* As cascade weighs a page (scout/policy_cascade.c). */
static double log_weight(const struct unit *u, unsigned prior, size_t page)
{
    double salience = u->w ? (double)u->salience[page] : 0;
    double history = log(((double)u->history[page] + 0.1 * u->mean_history) / (1.1 * u->mean_history));
    return beta_at(prior) * (alpha_at(prior) * salience + (1 - alpha_at(prior)) * history);
}

static void add_priors(struct unit *u, struct fit_sums *s, double far)
{
    u->mean_history = 0;
    for (size_t p = 0; p < u->n_pages; p++)
        u->mean_history += (double)u->history[p] / (double)u->n_pages;
    if (!u->w || !(u->mean_history > 0))
        return;
    estimate(u, &u->index[u->gamma]);
    for (unsigned prior = 0; prior < FIT_PRIORS; prior++) {
        double held[SKV_KNOTS] = {0};
        for (size_t p = u->first; p < u->n_pages; p++)
            u->order[p - u->first] = (struct ranked){log(u->share[p]) + log_weight(u, prior, p), (uint32_t)p};
        add_held(u, held);
        for (unsigned knot = 0; knot < SKV_KNOTS; knot++)
            s->prior_missed[prior] += far - held[knot];
    }
    s->prior_rows += u->kv.rows;
    if (u->projection) {
        double held[SKV_KNOTS] = {0};
        calibration_project(u->d_rep, u->kv.d_k, u->projection + (size_t)u->d_rep * u->kv.d_k, u->kv.rows,
                            u->q, u->q_rep);
        add_gamma(u, &u->projected, held);
        for (unsigned knot = 0; knot < SKV_KNOTS; knot++)
            s->projected_missed += far - held[knot];
    }
}

static double block_mass(const struct unit *u, unsigned row, size_t block)
{
    const double *far = u->far + row * u->n_pages + block * BLOCK;
    return far[0] + far[1] + far[2] + far[3];
}

/* Far mass times the divergence of the blocks' estimated shares from the true ones, in nats. */
static double divergence(struct unit *u, const struct mass_index *x)
{
    size_t ld = scan(u, x, REPS_BLOCK), first = (u->first + BLOCK - 1) / BLOCK, n = u->n_pages / BLOCK;
    double sum = 0;
    for (unsigned r = 0; r < u->kv.rows && n > first; r++) {
        const float *row = u->logmass + r * ld;
        double lse = log_sum(row + first, n - first), all = 0;
        for (size_t b = first; b < n; b++)
            all += block_mass(u, r, b);
        for (size_t b = first; b < n; b++) {
            double is = block_mass(u, r, b);
            sum += is > 0 ? is * (log(is / all) - ((double)row[b] - lse)) : 0;
        }
    }
    return sum;
}

/* ---- what fits best so far ---- */

/* Both kinds of queries weigh the same. */
static double mean_of_kinds(const struct fit_head *h,
                            double of_kind(const struct fit_sums *, unsigned, unsigned), unsigned a,
                            unsigned b)
{
    double sum = 0, n = 0;
    for (unsigned kind = 0; kind < FIT_KINDS; kind++)
        if (h->of[kind].rows > 0) {
            sum += of_kind(&h->of[kind], a, b) / h->of[kind].rows;
            n++;
        }
    return n > 0 ? sum / n : 0;
}

static double far_of(const struct fit_sums *s, unsigned a, unsigned b)
{
    (void)a;
    (void)b;
    return s->far;
}
static double held_of(const struct fit_sums *s, unsigned gamma, unsigned knot)
{
    return s->held[gamma][knot];
}
static double missed_of(const struct fit_sums *s, unsigned gamma, unsigned b)
{
    double sum = 0;
    (void)b;
    for (unsigned knot = 0; knot < SKV_KNOTS; knot++)
        sum += s->far - s->held[gamma][knot];
    return sum;
}
static double divergence_of(const struct fit_sums *s, unsigned gamma, unsigned b)
{
    (void)b;
    return s->divergence[gamma];
}

/* The gamma of the least loss. 1 stays if no other is better by more than queries differ by chance. */
static unsigned best_gamma(const struct fit_head *h, double loss(const struct fit_sums *, unsigned, unsigned))
{
    const double enough = 0.99, one = mean_of_kinds(h, loss, FIT_GAMMAS - 1, 0);
    unsigned best = FIT_GAMMAS - 1;
    for (unsigned g = FIT_GAMMAS - 1; g-- > 0;)
        if (mean_of_kinds(h, loss, g, 0) < mean_of_kinds(h, loss, best, 0))
            best = g;
    return mean_of_kinds(h, loss, best, 0) < enough * one ? best : FIT_GAMMAS - 1;
}

/* ---- one KV head ---- */

/* What each far token receives. */
static void receive(struct unit *u, uint64_t t, unsigned kind)
{
    const struct mass_truth *m = &u->truth;
    for (size_t j = u->first * SKV_PAGE; j < u->n_pages * SKV_PAGE; j++) {
        for (unsigned r = 0; r < m->rows; r++)
            u->got[kind][j] += exp(m->score[r * (size_t)(t + 1) + j] - m->lse[r]);
        u->times[kind][j]++;
    }
}

static int one_query(struct unit *u, const struct fit *f, uint64_t t, unsigned kind)
{
    struct fit_sums *s = &u->sums->of[kind];
    const struct mass_truth *m = &u->truth;
    double far = 0;
    int rc = mass_truth_at(&u->truth, &u->kv, t, f->window, f->protected_pages);
    if (rc || m->n_pages == m->n_protected)
        return rc;
    u->n_pages = m->n_pages;
    u->first = m->n_protected;
    const float *q = u->kv.q + t * u->kv.q_step;
    for (size_t i = 0; i < (size_t)u->kv.rows * u->kv.d_k; i++)
        u->q[i] = q[i] * u->kv.scale;
    for (unsigned r = 0; r < m->rows; r++) {
        for (size_t p = 0; p < m->n_pages; p++)
            u->far[r * m->n_pages + p] = m->far[r * m->n_pages + p] * m->far_mass[r];
        far += m->far_mass[r];
    }
    s->far += far;
    s->rows += m->rows;
    receive(u, t, kind);
    add_priors(u, s, far);
    for (unsigned g = 0; g < FIT_GAMMAS; g++) {
        add_gamma(u, &u->index[g], s->held[g]);
        s->divergence[g] += divergence(u, &u->index[g]);
    }
    return 0;
}

/* Before this trace: the best gamma, and the salience of its pages. */
static int learned_so_far(struct unit *u, size_t n_blocks)
{
    unsigned d_k = u->kv.d_k;
    float page[SKV_PAGE * CALIBRATION_DIMS];
    u->gamma = best_gamma(u->sums, missed_of);
    u->w = malloc((d_k + 2) * sizeof *u->w);
    if (!u->w)
        return -ENOMEM;
    if (!salience_fit_solve(&u->sums->salience, u->w)) {
        free(u->w);
        u->w = NULL;
    }
    if (u->w && u->d_rep) {
        u->projection = malloc(2 * (size_t)u->d_rep * d_k * sizeof *u->projection);
        u->q_rep = malloc((size_t)u->kv.rows * u->d_rep * sizeof *u->q_rep);
        if (!u->projection || !u->q_rep)
            return -ENOMEM;
        if (!projection_fit_solve(&u->sums->projection, u->d_rep, u->projection)) {
            free(u->projection);
            u->projection = NULL;
        }
    }
    if (u->projection && mass_index_build(&u->projected, &u->kv, n_blocks, 0, REPS_MANY,
                                          &(struct mass_learned){.gamma = {gamma_at(u->gamma), 1},
                                                                 .d_rep = u->d_rep,
                                                                 .projection = u->projection}))
        return -ENOMEM;
    for (size_t p = 0; u->w && p < n_blocks * BLOCK; p++) {
        for (size_t i = 0; i < SKV_PAGE; i++)
            memcpy(page + i * d_k, u->kv.k + (p * SKV_PAGE + i) * u->kv.k_step, d_k * sizeof *page);
        u->salience[p] = salience_page(kernels_get(), d_k, u->w, page);
    }
    return 0;
}

/* Every HISTORY_STEP-th query up to the first marked one, older ones fading as cascade's do. Contexts see a
 * sample of a prefill's queries too. */
static int look_back(struct unit *u, uint64_t first_marked)
{
    enum { HISTORY_STEP = 8, HALF_LIFE = 512 };
    size_t n_pages = (size_t)first_marked / SKV_PAGE + 1;
    float *score = malloc((first_marked + 1) * sizeof *score);
    float *got = malloc(u->kv.rows * n_pages * sizeof *got);
    for (uint64_t t = 0; t < first_marked && score && got; t += HISTORY_STEP) {
        mass_received(&u->kv, t, score, got);
        size_t n = (size_t)t / SKV_PAGE + 1;
        for (size_t p = 0; p < n; p++) {
            u->history[p] *= exp2f(-(float)HISTORY_STEP / HALF_LIFE);
            for (unsigned r = 0; r < u->kv.rows; r++)
                u->history[p] += got[r * n + p];
        }
    }
    int rc = score && got ? 0 : -ENOMEM;
    free(score);
    free(got);
    return rc;
}

/* Kinds of queries count alike. */
static void learn(struct unit *u, uint64_t n_tokens)
{
    for (size_t j = 0; j < n_tokens; j++) {
        double mass = 0, kinds = 0;
        for (unsigned kind = 0; kind < FIT_KINDS; kind++)
            if (u->times[kind][j]) {
                mass += u->got[kind][j] / u->times[kind][j];
                kinds++;
            }
        if (kinds > 0)
            salience_fit_add(&u->sums->salience, u->kv.k + j * u->kv.k_step, mass / kinds);
    }
    for (size_t j = 0; j < n_tokens && u->d_rep; j += PROJECTION_STEP) {
        projection_fit_key(&u->sums->projection, u->kv.k + j * u->kv.k_step);
        for (unsigned r = 0; r < u->kv.rows; r++)
            projection_fit_query(&u->sums->projection, u->kv.q + j * u->kv.q_step + (size_t)r * u->kv.d_k);
    }
}

static int unit_begin(const struct run *r, struct unit *u, unsigned part)
{
    const struct kv_trace_head *h = &r->trace->head;
    unsigned head = part % h->n_kv_heads;
    size_t rows = h->n_heads / h->n_kv_heads, n_blocks = mass_sealed_blocks(h->n_tokens - 1, r->fit->window),
           ld = (n_blocks * BLOCK + 63) / 64 * 64 + 64;
    u->layer = part / h->n_kv_heads;
    u->d_rep = r->fit->d_rep;
    u->sums = &r->fit->heads[part];
    u->kv = (struct mass_head){.q = kv_trace_q(r->trace, u->layer) + head * rows * h->d_k,
                               .k = kv_trace_k(r->trace, u->layer) + (size_t)head * h->d_k,
                               .v = kv_trace_v(r->trace, u->layer) + (size_t)head * h->d_v,
                               .q_step = (size_t)h->n_heads * h->d_k,
                               .k_step = (size_t)h->n_kv_heads * h->d_k,
                               .v_step = (size_t)h->n_kv_heads * h->d_v,
                               .rows = (uint32_t)rows,
                               .d_k = h->d_k,
                               .d_v = h->d_v,
                               .scale = h->scale};
    u->q = malloc(rows * h->d_k * sizeof *u->q);
    u->logmass = malloc(rows * ld * sizeof *u->logmass);
    u->far = malloc(rows * ld * sizeof *u->far);
    u->share = malloc(ld * sizeof *u->share);
    u->order = malloc(ld * sizeof *u->order);
    u->salience = calloc(ld, sizeof *u->salience);
    u->history = calloc(h->n_tokens / SKV_PAGE + 1, sizeof *u->history);
    bool ok = u->q && u->logmass && u->far && u->share && u->order && u->salience && u->history;
    for (unsigned kind = 0; kind < FIT_KINDS && ok; kind++)
        ok = (u->got[kind] = calloc(h->n_tokens, sizeof *u->got[kind])) &&
             (u->times[kind] = calloc(h->n_tokens, sizeof *u->times[kind]));
    int rc = ok ? learned_so_far(u, n_blocks) : -ENOMEM;
    for (unsigned g = 0; g < FIT_GAMMAS && rc == 0; g++)
        rc = mass_index_build(&u->index[g], &u->kv, n_blocks, 0, REPS_PAGE,
                              &(struct mass_learned){.gamma = {gamma_at(g), gamma_at(g)}});
    return rc;
}

static void unit_end(struct unit *u)
{
    for (unsigned g = 0; g < FIT_GAMMAS; g++)
        mass_index_free(&u->index[g]);
    mass_index_free(&u->projected);
    mass_truth_free(&u->truth);
    free(u->projection);
    free(u->q_rep);
    free(u->q);
    free(u->logmass);
    free(u->far);
    free(u->share);
    free(u->order);
    free(u->w);
    free(u->salience);
    free(u->history);
    for (unsigned kind = 0; kind < FIT_KINDS; kind++) {
        free(u->got[kind]);
        free(u->times[kind]);
    }
}

static void run_unit(void *arg, unsigned part)
{
    const struct run *r = arg;
    struct unit *u = &r->units[part];
    uint64_t n = r->trace->head.n_tokens, first = 0;
    while (first < n && !r->trace->mark[first])
        first++;
    u->rc = unit_begin(r, u, part);
    if (u->rc == 0 && u->w)
        u->rc = look_back(u, first);
    for (uint64_t t = first; t < n && u->rc == 0; t++)
        if (r->trace->mark[t])
            u->rc = interrupted() ? -EINTR : one_query(u, r->fit, t, r->trace->mark[t] - KV_TRACE_COPY);
    if (u->rc == 0)
        learn(u, n);
    unit_end(u);
}

/* ---- traces ---- */

static int begin(struct fit *f, const struct kv_trace *t, struct skv_error *err)
{
    const struct kv_trace_head *h = &t->head;
    if (h->d_k % 8 || h->d_k > CALIBRATION_DIMS)
        return skv_fail(err, -EINVAL, "keys of %u dims: the scout wants a multiple of 8, at most %d", h->d_k,
                        CALIBRATION_DIMS);
    if (!f->heads) {
        f->n_layers = h->n_layers;
        f->n_kv_heads = h->n_kv_heads;
        f->d_k = h->d_k;
        memcpy(f->fingerprint, h->fingerprint, sizeof f->fingerprint);
        f->heads = calloc((size_t)h->n_layers * h->n_kv_heads, sizeof *f->heads);
        bool ok = f->heads;
        for (size_t i = 0; ok && i < (size_t)h->n_layers * h->n_kv_heads; i++)
            ok = salience_fit_new(&f->heads[i].salience, h->d_k) == 0 &&
                 projection_fit_new(&f->heads[i].projection, h->d_k) == 0;
        if (!ok)
            return skv_fail(err, -ENOMEM, "out of memory");
    }
    if (memcmp(f->fingerprint, h->fingerprint, sizeof f->fingerprint) || f->d_k != h->d_k ||
        f->n_layers != h->n_layers || f->n_kv_heads != h->n_kv_heads)
        return skv_fail(err, -EINVAL, "%s is of another model than the traces before", t->path);
    for (uint64_t i = 0; i < h->n_tokens; i++)
        if (t->mark[i])
            f->queries[t->mark[i] - KV_TRACE_COPY]++;
    return 0;
}

int fit_add(struct fit *f, const struct kv_trace *t, struct pool *pool, struct skv_error *err)
{
    int rc = begin(f, t, err);
    if (rc)
        return rc;
    unsigned n = f->n_layers * f->n_kv_heads;
    struct run r = {.fit = f, .trace = t, .units = calloc(n, sizeof *r.units)};
    if (!r.units)
        return skv_fail(err, -ENOMEM, "out of memory");
    pool_run(pool, n, run_unit, &r);
    for (unsigned i = 0; i < n && rc == 0; i++) {
        const struct unit *u = &r.units[i];
        rc = u->rc == -ENOMEM   ? skv_fail(err, u->rc, "out of memory")
             : u->rc == -ERANGE ? skv_fail(err, -EDOM, "in layer %u some q·k is no finite number", u->layer)
             : u->rc            ? skv_fail(err, u->rc, "interrupted")
                                : 0;
    }
    free(r.units);
    return rc;
}

/* ---- the calibration ---- */

static float share(double x)
{
    return x < 0 ? 0 : x > 1 ? 1 : (float)x;
}

/* The prior that misses the least over a layer's heads; none stays if no other is better by more than queries
 * differ by chance. */
static unsigned best_prior(const struct fit_head *heads, unsigned n_heads)
{
    const double enough = 0.99;
    double missed[FIT_PRIORS] = {0};
    unsigned best = 0;
    for (unsigned h = 0; h < n_heads; h++)
        for (unsigned kind = 0; kind < FIT_KINDS; kind++)
            for (unsigned p = 0; p < FIT_PRIORS && heads[h].of[kind].prior_rows > 0; p++)
                missed[p] += heads[h].of[kind].prior_missed[p] / heads[h].of[kind].prior_rows;
    for (unsigned p = 1; p < FIT_PRIORS; p++)
        if (missed[p] < missed[best])
            best = p;
    return missed[best] < enough * missed[0] ? best : 0;
}

/* Do all heads together miss less with projected keys? They have one kind of representatives. */
static bool projecting_pays(const struct fit *f)
{
    const double enough = 0.99;
    double with = 0, without = 0;
    for (size_t i = 0; i < (size_t)f->n_layers * f->n_kv_heads && f->d_rep; i++)
        for (unsigned kind = 0; kind < FIT_KINDS; kind++) {
            const struct fit_sums *s = &f->heads[i].of[kind];
            with += s->prior_rows > 0 ? s->projected_missed / s->prior_rows : 0;
            without += s->prior_rows > 0 ? s->prior_missed[0] / s->prior_rows : 0;
        }
    return with < enough * without;
}

/* (n_layers, n_kv_heads, 2, d_rep, d_k); NULL: no projection, of which *rc tells whether memory was the
 * reason. */
static float *fit_projection(const struct fit *f, int *rc)
{
    size_t n = (size_t)f->n_layers * f->n_kv_heads, a_head = 2 * (size_t)f->d_rep * f->d_k;
    bool ok = projecting_pays(f);
    float *p = ok ? malloc(n * a_head * sizeof *p) : NULL;
    *rc = ok && !p ? -ENOMEM : 0;
    for (size_t i = 0; i < n && p && ok; i++)
        ok = projection_fit_solve(&f->heads[i].projection, f->d_rep, p + i * a_head);
    if (ok)
        return p;
    free(p);
    return NULL;
}

int fit_calibration(const struct fit *f, struct skv_calibration **out, struct skv_error *err)
{
    struct skv_calibration c = {.n_layers = f->n_layers, .n_kv_heads = f->n_kv_heads, .d_k = f->d_k};
    struct skv_calibration_head *heads = calloc(calibration_n(&c) + 1, sizeof *heads);
    float *salience = calloc(calibration_salience_floats(&c) + 1, sizeof *salience);
    double rows = 0;
    int rc = 0;
    float *projection = heads && salience ? fit_projection(f, &rc) : NULL;
    if (!heads || !salience || rc) {
        free(heads);
        free(salience);
        return skv_fail(err, -ENOMEM, "out of memory");
    }
    memcpy(c.fingerprint, f->fingerprint, sizeof c.fingerprint);
    c.heads = heads;
    c.salience = salience;
    c.d_rep = projection ? f->d_rep : 0;
    c.projection = projection;
    for (size_t i = 0; i < calibration_n(&c); i++) {
        const struct fit_head *h = &f->heads[i];
        unsigned page = best_gamma(h, missed_of), prior = best_prior(h - i % f->n_kv_heads, f->n_kv_heads);
        salience_fit_solve(&h->salience, salience + i * (f->d_k + 2)); /* zeros where nothing can be told */
        heads[i] = (struct skv_calibration_head){.gamma_page = gamma_at(page),
                                                 .gamma_block = gamma_at(best_gamma(h, divergence_of)),
                                                 .alpha = (float)alpha_at(prior),
                                                 .beta = (float)beta_at(prior),
                                                 .far = share(mean_of_kinds(h, far_of, 0, 0))};
        for (unsigned k = 0; k < SKV_KNOTS; k++) {
            heads[i].held[k] = share(mean_of_kinds(h, held_of, page, k));
            if (k && heads[i].held[k] < heads[i].held[k - 1])
                heads[i].held[k] = heads[i].held[k - 1]; /* rounding */
        }
        rows += h->of[0].rows + h->of[1].rows;
    }
    *out = rows > 0 ? calibration_copy(&c) : NULL;
    free(heads);
    free(salience);
    free(projection);
    if (rows == 0)
        return skv_fail(
            err, -EINVAL,
            "no measured query has anything behind a window of %u: use a smaller --window, or more "
            "--tokens",
            f->window);
    return *out ? 0 : skv_fail(err, -ENOMEM, "out of memory");
}

void fit_free(struct fit *f)
{
    for (size_t i = 0; f->heads && i < (size_t)f->n_layers * f->n_kv_heads; i++) {
        salience_fit_free(&f->heads[i].salience);
        projection_fit_free(&f->heads[i].projection);
    }
    free(f->heads);
    *f = (struct fit){0};
}
