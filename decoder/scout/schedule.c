/* schedule.c: how a budget is split over layers and KV heads.
 *
 * A schedule is a weight a head; whole units follow from the weights by largest remainders, so that the sum
 * stays exact. The calibrated weights are those of the largest held mass: the concave hull of a head's curve
 * is a list of segments whose slopes fall, and the steepest segments of all heads are taken first. */
#include "decoder/scout/calibration.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

const char *skv_schedule_name(enum skv_schedule s)
{
    static const char *const names[] = {"uniform", "narrow-low", "calibrated"};
    return (unsigned)s < SKV_SCHEDULES ? names[s] : "unknown";
}

/* ---- the calibrated weights ---- */

struct segment {
    size_t head;
    double slope, tokens;
};

static double knot_tokens(unsigned i) /* 0, 16, 32, … */
{
    return i ? (double)(8u << i) : 0;
}
static double knot_held(const struct skv_calibration_head *h, unsigned i)
{
    return i ? (double)h->held[i - 1] : 0;
}

/* The hull's segments from 0 on; returns how many. */
static size_t hull(const struct skv_calibration_head *h, size_t head, struct segment *out)
{
    size_t n = 0;
    for (unsigned at = 0; at < SKV_KNOTS;) {
        unsigned best = at + 1;
        double slope = -1;
        for (unsigned i = at + 1; i <= SKV_KNOTS; i++) { /* the farthest of those that are as steep */
            double s = (knot_held(h, i) - knot_held(h, at)) / (knot_tokens(i) - knot_tokens(at));
            if (s >= slope) {
                slope = s;
                best = i;
            }
        }
        out[n++] = (struct segment){head, slope, knot_tokens(best) - knot_tokens(at)};
        at = best;
    }
    return n;
}

static int steeper(const void *a, const void *b)
{
    const struct segment *x = a, *y = b;
    if (x->slope != y->slope)
        return x->slope > y->slope ? -1 : 1;
    return (x->head > y->head) - (x->head < y->head);
}

/* What is left when no head gains any more is for all alike. */
static int calibrated_weights(const struct schedule_head *heads, size_t n, double tokens, double *weight)
{
    struct segment *all = malloc((n * SKV_KNOTS + 1) * sizeof *all);
    size_t n_all = 0, i = 0;
    if (!all)
        return -ENOMEM;
    for (size_t h = 0; h < n; h++) {
        weight[h] = 0;
        n_all += hull(heads[h].calibrated, h, all + n_all);
    }
    qsort(all, n_all, sizeof *all, steeper);
    while (i < n_all && tokens > 0 && all[i].slope > 0) {
        size_t same = i;
        double wanted = 0;
        while (same < n_all && all[same].slope == all[i].slope) /* heads that are alike share what is left */
            wanted += all[same++].tokens;
        double part = wanted > tokens ? tokens / wanted : 1;
        tokens -= wanted * part;
        for (; i < same; i++)
            weight[all[i].head] += all[i].tokens * part;
    }
    for (size_t h = 0; h < n; h++)
        weight[h] += tokens / (double)n;
    free(all);
    return 0;
}

/* ---- whole units ---- */

struct remainder {
    size_t head;
    double rest;
};

static int larger(const void *a, const void *b)
{
    const struct remainder *x = a, *y = b;
    if (x->rest != y->rest)
        return x->rest > y->rest ? -1 : 1;
    return (x->head > y->head) - (x->head < y->head);
}

/* One unit each, and the rest of `units` by weight. */
static int round_units(const double *weight, size_t n, uint64_t units, uint32_t *out)
{
    struct remainder *r = malloc(n * sizeof *r);
    double sum = 0;
    uint64_t left = units - n;
    if (!r)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++)
        sum += weight[i];
    const double each = sum > 0 ? (double)units / sum : 0;
    double above = 0; /* what the weights give beyond the one that all have */
    for (size_t i = 0; i < n; i++)
        above += weight[i] * each > 1 ? weight[i] * each - 1 : 0;
    uint64_t total = left;
    for (size_t i = 0; i < n; i++) {
        double ideal = above > 0 && weight[i] * each > 1 ? (weight[i] * each - 1) / above * (double)total : 0;
        uint64_t whole = (uint64_t)ideal < left ? (uint64_t)ideal : left;
        out[i] = 1 + (uint32_t)whole;
        left -= whole;
        r[i] = (struct remainder){i, ideal - (double)whole};
    }
    qsort(r, n, sizeof *r, larger);
    for (size_t i = 0; left > 0; i++, left--)
        out[r[i % n].head]++;
    free(r);
    return 0;
}

int schedule_split(enum skv_schedule s, const struct schedule_head *heads, size_t n, unsigned n_layers,
                   uint32_t k, uint32_t unit_tokens, uint32_t *out)
{
    if (s == SKV_UNIFORM || k == 0) {
        for (size_t i = 0; i < n; i++)
            out[i] = k;
        return 0;
    }
    double *weight = malloc((n + 1) * sizeof *weight);
    int rc = weight ? 0 : -ENOMEM;
    if (rc == 0 && s == SKV_CALIBRATED)
        rc = calibrated_weights(heads, n, (double)n * k * unit_tokens, weight);
    for (size_t i = 0; s == SKV_NARROW_LOW && rc == 0 && i < n; i++)
        weight[i] = heads[i].layer < n_layers / 2 ? 0.25 : 1;
    if (rc == 0 && n)
        rc = round_units(weight, n, (uint64_t)n * k, out);
    free(weight);
    return rc;
}
