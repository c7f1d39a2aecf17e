/* hist.h: a histogram of durations (or any counts) with a fixed relative error and a fixed size.
 *
 * Buckets are log-linear: every power of two is cut into 128 equal parts, so a quantile is right to 1/128
 * whatever the range, and adding is a few instructions. 58 KiB each. */
#ifndef COMMON_HIST_H
#define COMMON_HIST_H

#include <stdint.h>

enum { HIST_BITS = 7, HIST_PARTS = 1 << HIST_BITS, HIST_BUCKETS = (64 - HIST_BITS + 1) * HIST_PARTS };

struct hist { /* all zero is empty */
    uint64_t count, sum, min, max;
    uint64_t bucket[HIST_BUCKETS];
};

void hist_add(struct hist *, uint64_t value);
void hist_merge(struct hist *into, const struct hist *);
double hist_mean(const struct hist *); /* 0 when empty */
/* The value below or at which a share q (0..1) of the added values lies; the bucket's middle, within [min,
 * max]. 0 when empty. */
uint64_t hist_quantile(const struct hist *, double q);

#endif
