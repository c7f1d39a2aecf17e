#include "decoder/cli/eval_stats.h"

#include <math.h>
#include <stdlib.h>

double logits_lse(const float *logits, size_t n)
{
    double max = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++)
        if (!(logits[i] <= max)) /* a NaN becomes the maximum, and stays in the result */
            max = (double)logits[i];
    for (size_t i = 0; i < n; i++)
        sum += exp((double)logits[i] - max);
    return max + log(sum);
}

double logits_kl(const float *p, double p_lse, const float *q, double q_lse, size_t n)
{
    double kl = 0;
    for (size_t i = 0; i < n; i++) {
        double lp = (double)p[i] - p_lse;
        kl += exp(lp) * (lp - ((double)q[i] - q_lse));
    }
    return kl > 0 || isnan(kl) ? kl : 0;
}

size_t logits_argmax(const float *logits, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

struct estimate estimate_paired(const double *a, const double *b, size_t n)
{
    struct estimate e = {.se = NAN, .min = INFINITY, .max = -INFINITY, .n = n};
    double squares = 0;
    for (size_t i = 0; i < n; i++) {
        double x = b ? a[i] - b[i] : a[i];
        e.mean += x / (double)n;
        e.min = x < e.min ? x : e.min;
        e.max = x > e.max ? x : e.max;
    }
    for (size_t i = 0; i < n; i++) {
        double x = (b ? a[i] - b[i] : a[i]) - e.mean;
        squares += x * x;
    }
    if (n > 1)
        e.se = sqrt(squares / (double)(n - 1) / (double)n);
    return e;
}

struct estimate estimate_mean(const double *x, size_t n)
{
    return estimate_paired(x, NULL, n);
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

float values_quantile(float *x, size_t n, double q)
{
    if (n == 0)
        return 0;
    qsort(x, n, sizeof *x, by_value);
    double rank = ceil(q * (double)n);
    size_t at = rank < 1 ? 0 : (size_t)rank - 1;
    return x[at < n ? at : n - 1];
}
