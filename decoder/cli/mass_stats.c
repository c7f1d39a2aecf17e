/* mass_stats.c: from the sums of mass_run.c to figures. */
#include "decoder/cli/mass_eval.h"
#include "decoder/cli/mass_index.h"

#include <math.h>
#include <stdlib.h>

static const struct mass_cell *cell(const struct mass_result *r, const struct mass_trace *t, unsigned layer,
                                    unsigned kind, unsigned policy, unsigned budget)
{
    const struct mass_setup *s = r->setup;
    return &t->cells[(size_t)layer * mass_cells(s) + mass_cell_at(s, kind, policy, budget)];
}

double mass_share(const struct mass_result *r, const struct mass_trace *t, int layer, unsigned kind,
                  unsigned policy, unsigned budget)
{
    unsigned from = layer < 0 ? 0 : (unsigned)layer, to = layer < 0 ? t->n_layers : from + 1;
    double sum = 0;
    for (unsigned l = from; l < to; l++) {
        const struct mass_cell *c = cell(r, t, l, kind, policy, budget);
        if (c->rows == 0)
            return NAN; /* all layers have the same queries */
        sum += c->far > 0 ? c->held / c->far : 0;
    }
    return sum / (to - from);
}

/* A running mean and the sum of squares around it. */
struct spread {
    size_t n;
    double mean, squares;
};
static void spread_add(struct spread *s, double x)
{
    double d = x - s->mean;
    s->mean += d / (double)++s->n;
    s->squares += d * (x - s->mean);
}
static double spread_sd(const struct spread *s)
{
    return s->n > 1 ? sqrt(s->squares / (double)(s->n - 1)) : 0;
}

static void add_trace(const struct mass_result *r, const struct mass_trace *t, unsigned kind, unsigned policy,
                      unsigned budget, struct mass_cell *sum, struct spread *error)
{
    double wrong = 0, rows = 0;
    for (unsigned l = 0; l < t->n_layers; l++) {
        const struct mass_cell *c = cell(r, t, l, kind, policy, budget);
        wrong += c->error;
        rows += c->all_rows;
        sum->far += c->far;
        sum->held += c->held;
        sum->rows += c->rows;
        sum->held_rows += c->held_rows;
        sum->choices += c->choices;
        sum->tokens += c->tokens;
        sum->far_tokens += c->far_tokens;
        sum->bytes += c->bytes;
    }
    spread_add(error, wrong / rows);
}

static double mean_share(const struct mass_result *r, unsigned kind, unsigned policy, unsigned budget)
{
    struct spread s = {0};
    for (size_t i = 0; i < r->n_traces; i++) {
        double x = mass_share(r, &r->traces[i], -1, kind, policy, budget);
        if (!isnan(x))
            spread_add(&s, x);
    }
    return s.mean;
}

/* The first of the policies that is this one with its options as they are. */
static int find(const struct mass_setup *s, enum skv_policy policy)
{
    for (unsigned p = 0; p < s->n_policies; p++)
        if (s->policy[p].policy == policy && !s->policy[p].given)
            return (int)p;
    return -1;
}

static double gap_closed(const struct mass_result *r, unsigned kind, double share, unsigned budget)
{
    int quest = find(r->setup, SKV_QUEST), oracle = find(r->setup, SKV_ORACLE);
    if (quest < 0 || oracle < 0)
        return NAN;
    double from = mean_share(r, kind, (unsigned)quest, budget);
    double to = mean_share(r, kind, (unsigned)oracle, budget);
    return to > from ? (share - from) / (to - from) : NAN;
}

struct mass_figure mass_figure_of(const struct mass_result *r, unsigned kind, unsigned policy,
                                  unsigned budget)
{
    struct spread share = {0}, error = {0};
    struct mass_cell sum = {0};
    for (size_t i = 0; i < r->n_traces; i++) {
        double x = mass_share(r, &r->traces[i], -1, kind, policy, budget);
        if (isnan(x))
            continue;
        spread_add(&share, x);
        add_trace(r, &r->traces[i], kind, policy, budget, &sum, &error);
    }
    if (!share.n)
        return (struct mass_figure){0};
    return (struct mass_figure){
        .traces = share.n,
        .share = share.mean,
        .share_sd = spread_sd(&share),
        .share_all = sum.far > 0 ? sum.held / sum.far : 0,
        .share_rows = sum.held_rows / sum.rows,
        .error = error.mean,
        .error_sd = spread_sd(&error),
        .tokens = sum.tokens / sum.choices,
        .read_step = sum.bytes / sum.choices,
        .read_token = sum.bytes / sum.far_tokens,
        .kept_token = mass_bytes_kept(&r->setup->policy[policy], mass_pages(r->setup), r->setup->calib,
                                      r->head.d_k, r->head.d_v),
        .gap_closed = gap_closed(r, kind, share.mean, budget),
    };
}

/* ---- estimated against true ---- */

static int by_estimate(const void *a, const void *b)
{
    const struct mass_sample *x = a, *y = b;
    if (x->estimated != y->estimated)
        return x->estimated < y->estimated ? -1 : 1;
    return (x->missed > y->missed) - (x->missed < y->missed);
}

bool mass_calibration_of(struct mass_samples *s, struct mass_calibration *out)
{
    *out = (struct mass_calibration){.n = s->n};
    if (s->n < 10)
        return false;
    qsort(s->at, s->n, sizeof *s->at, by_estimate);
    for (size_t i = 0; i < s->n; i++) {
        struct mass_decile *d = &out->decile[i * 10 / s->n];
        d->n++;
        d->estimated += (double)s->at[i].estimated;
        d->missed += (double)s->at[i].missed;
        out->estimated += (double)s->at[i].estimated / (double)s->n;
        out->missed += (double)s->at[i].missed / (double)s->n;
        for (unsigned b = 0; b < BOUNDS; b++) {
            d->bound[b] += (double)s->at[i].bound[b];
            out->bound[b] += (double)s->at[i].bound[b] / (double)s->n;
            out->over[b] += (double)s->at[i].over[b] / (double)s->n;
        }
        out->broken += s->at[i].missed > s->at[i].bound[BOUND_LEAST] + 1e-6f;
    }
    for (unsigned i = 0; i < 10; i++) {
        out->decile[i].estimated /= (double)out->decile[i].n;
        out->decile[i].missed /= (double)out->decile[i].n;
        for (unsigned b = 0; b < BOUNDS; b++)
            out->decile[i].bound[b] /= (double)out->decile[i].n;
    }
    double xx = 0, yy = 0, xy = 0;
    for (size_t i = 0; i < s->n; i++) {
        double x = (double)s->at[i].estimated - out->estimated, y = (double)s->at[i].missed - out->missed;
        xx += x * x;
        yy += y * y;
        xy += x * y;
    }
    out->correlation = xx > 0 && yy > 0 ? xy / sqrt(xx * yy) : 0;
    return true;
}
