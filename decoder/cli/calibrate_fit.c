/* calibrate_fit.c: see calibrate_fit.h.
 *
 * A page's gamma is that whose order of pages misses the least far mass, over budgets that double: what
 * counts is the choice. A block's is that whose estimated shares diverge the least from the true ones: blocks
 * only name candidates, and tell how much is left out. The order is cascade's: the sum over the group's query
 * heads of the estimated share. */
#include "decoder/cli/calibrate_fit.h"

#include "decoder/cli/interrupt.h"
#include "decoder/cli/mass_index.h"
#include "decoder/cli/mass_truth.h"
#include "decoder/scout/scout.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = SKV_BLOCK / SKV_PAGE };

struct ranked {
    double score;
    uint32_t page;
};

/* One KV head at work. */
struct unit {
    struct fit_head *sums;
    struct mass_head kv;
    unsigned layer;
    struct mass_index index[FIT_GAMMAS];
    struct mass_truth truth;
    float *q;       /* (rows, d_k) scaled */
    float *logmass; /* (rows, ld) estimated */
    double *far;    /* (rows, pages) true far mass, of 1 */
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
    size_t n = kind == REPS_PAGE ? u->n_pages : u->n_pages / BLOCK, ld = (n + 63) / 64 * 64;
    unsigned per = kind == REPS_PAGE ? PIECE_PAGES : PIECE_BLOCKS;
    for (size_t at = 0; at < n; at += per) {
        const struct far_piece *piece = &x->pieces[at / per];
        struct scout_head sh = {.kind = kind,
                                .groups = kind == REPS_PAGE ? &piece->page_groups : &piece->block_groups,
                                .pages_per_piece = per,
                                .d_k = u->kv.d_k};
        scout_score(&sh, n - at < per ? n - at : per, u->kv.rows, u->q, u->logmass + at, ld);
    }
    return ld;
}

/* ---- one query and one gamma ---- */

static void add_held(struct unit *u, const struct mass_index *x, double held[SKV_KNOTS])
{
    size_t ld = scan(u, x, REPS_PAGE), n = u->n_pages - u->first;
    for (size_t i = 0; i < n; i++)
        u->order[i] = (struct ranked){0, (uint32_t)(u->first + i)};
    for (unsigned r = 0; r < u->kv.rows; r++) {
        const float *row = u->logmass + r * ld + u->first;
        double lse = log_sum(row, n);
        for (size_t i = 0; i < n; i++)
            u->order[i].score += exp((double)row[i] - lse);
    }
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

/* ---- one KV head ---- */

static int one_query(struct unit *u, const struct fit *f, uint64_t t, struct fit_sums *s)
{
    const struct mass_truth *m = &u->truth;
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
        s->far += m->far_mass[r];
    }
    s->rows += m->rows;
    for (unsigned g = 0; g < FIT_GAMMAS; g++) {
        add_held(u, &u->index[g], s->held[g]);
        s->divergence[g] += divergence(u, &u->index[g]);
    }
    return 0;
}

static int unit_begin(const struct run *r, struct unit *u, unsigned part)
{
    const struct kv_trace_head *h = &r->trace->head;
    unsigned head = part % h->n_kv_heads;
    size_t rows = h->n_heads / h->n_kv_heads, n_blocks = mass_sealed_blocks(h->n_tokens - 1, r->fit->window),
           ld = (n_blocks * BLOCK + 63) / 64 * 64 + 64;
    u->layer = part / h->n_kv_heads;
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
    u->order = malloc(ld * sizeof *u->order);
    if (!u->q || !u->logmass || !u->far || !u->order)
        return -ENOMEM;
    int rc = 0;
    for (unsigned g = 0; g < FIT_GAMMAS && rc == 0; g++)
        rc = mass_index_build(&u->index[g], &u->kv, n_blocks, 0, (float[2]){gamma_at(g), gamma_at(g)});
    return rc;
}

static void unit_end(struct unit *u)
{
    for (unsigned g = 0; g < FIT_GAMMAS; g++)
        mass_index_free(&u->index[g]);
    mass_truth_free(&u->truth);
    free(u->q);
    free(u->logmass);
    free(u->far);
    free(u->order);
}

static void run_unit(void *arg, unsigned part)
{
    const struct run *r = arg;
    struct unit *u = &r->units[part];
    u->rc = unit_begin(r, u, part);
    for (uint64_t t = 0; t < r->trace->head.n_tokens && u->rc == 0; t++)
        if (r->trace->mark[t])
            u->rc = interrupted() ? -EINTR
                                  : one_query(u, r->fit, t, &u->sums->of[r->trace->mark[t] - KV_TRACE_COPY]);
    unit_end(u);
}

/* ---- traces ---- */

static int begin(struct fit *f, const struct kv_trace *t, struct skv_error *err)
{
    const struct kv_trace_head *h = &t->head;
    if (h->d_k % 8)
        return skv_fail(err, -EINVAL, "keys of %u dims: the scout wants a multiple of 8", h->d_k);
    if (!f->heads) {
        f->n_layers = h->n_layers;
        f->n_kv_heads = h->n_kv_heads;
        memcpy(f->fingerprint, h->fingerprint, sizeof f->fingerprint);
        f->heads = calloc((size_t)h->n_layers * h->n_kv_heads, sizeof *f->heads);
        if (!f->heads)
            return skv_fail(err, -ENOMEM, "out of memory");
    }
    if (memcmp(f->fingerprint, h->fingerprint, sizeof f->fingerprint) || f->n_layers != h->n_layers ||
        f->n_kv_heads != h->n_kv_heads)
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

/* ---- what fits best ---- */

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

static float share(double x)
{
    return x < 0 ? 0 : x > 1 ? 1 : (float)x;
}

int fit_calibration(const struct fit *f, struct skv_calibration **out, struct skv_error *err)
{
    struct skv_calibration c = {.n_layers = f->n_layers, .n_kv_heads = f->n_kv_heads};
    struct skv_calibration_head *heads = calloc(calibration_n(&c) + 1, sizeof *heads);
    double rows = 0;
    if (!heads)
        return skv_fail(err, -ENOMEM, "out of memory");
    memcpy(c.fingerprint, f->fingerprint, sizeof c.fingerprint);
    c.heads = heads;
    for (size_t i = 0; i < calibration_n(&c); i++) {
        const struct fit_head *h = &f->heads[i];
        unsigned page = best_gamma(h, missed_of);
        heads[i] = (struct skv_calibration_head){.gamma_page = gamma_at(page),
                                                 .gamma_block = gamma_at(best_gamma(h, divergence_of)),
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
    free(f->heads);
    *f = (struct fit){0};
}
