/* eval_stats.h: how far one next-token distribution lies from another, and what means over texts are worth.
 *
 * Pure. Distributions come as logits; logarithms are natural. */
#ifndef CLI_EVAL_STATS_H
#define CLI_EVAL_STATS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* log Σ exp(logits[i]) in double; NaN or infinite if a logit is. */
double logits_lse(const float *logits, size_t n);
/* KL(p ‖ q) in nats of the softmaxes of two rows of logits, whose lse's are given. Exactly 0 for equal rows;
 * rounding never makes it negative. */
double logits_kl(const float *p, double p_lse, const float *q, double q_lse, size_t n);
size_t logits_argmax(const float *logits, size_t n); /* the first of equals */

struct estimate {
    double mean, se; /* se: standard error of the mean; NaN for fewer than two values */
    double min, max;
    size_t n;
};
/* Of independent values. */
struct estimate estimate_mean(const double *x, size_t n);
/* Of the differences a[i] - b[i]: what pairs have in common (here: how hard a text is) drops out. */
struct estimate estimate_paired(const double *a, const double *b, size_t n);

/* The smallest value that at least a share q (0…1) of all are not above; sorts x. 0 when empty. */
float values_quantile(float *x, size_t n, double q);

#endif
