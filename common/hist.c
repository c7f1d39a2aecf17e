#include "common/hist.h"

#include <assert.h>
#include <math.h>

/* Values below 128 have a bucket each; above, the exponent picks a row of 128 and the next 7 bits the column.
 */
static unsigned bucket_of(uint64_t value)
{
    if (value < HIST_PARTS)
        return (unsigned)value;
    unsigned shift = 63 - (unsigned)__builtin_clzll(value) - HIST_BITS;
    unsigned bucket = (shift << HIST_BITS) + (unsigned)(value >> shift);
    assert(bucket < HIST_BUCKETS);
    return bucket;
}

static uint64_t bucket_middle(unsigned bucket)
{
    if (bucket < 2 * HIST_PARTS)
        return bucket;
    unsigned shift = (bucket >> HIST_BITS) - 1;
    uint64_t low = (uint64_t)((bucket & (HIST_PARTS - 1)) + HIST_PARTS) << shift;
    return low + (1ull << shift) / 2;
}

void hist_add(struct hist *h, uint64_t value)
{
    if (!h->count || value < h->min)
        h->min = value;
    if (value > h->max)
        h->max = value;
    h->count++;
    h->sum += value;
    h->bucket[bucket_of(value)]++;
}

void hist_merge(struct hist *into, const struct hist *from)
{
    if (!from->count)
        return;
    if (!into->count || from->min < into->min)
        into->min = from->min;
    if (from->max > into->max)
        into->max = from->max;
    into->count += from->count;
    into->sum += from->sum;
    for (unsigned b = 0; b < HIST_BUCKETS; b++)
        into->bucket[b] += from->bucket[b];
}

double hist_mean(const struct hist *h)
{
    return h->count ? (double)h->sum / (double)h->count : 0;
}

uint64_t hist_quantile(const struct hist *h, double q)
{
    if (!h->count)
        return 0;
    uint64_t rank = q <= 0 ? 1 : (uint64_t)ceil(q * (double)h->count);
    if (rank >= h->count)
        return h->max;
    uint64_t seen = 0;
    unsigned b = 0;
    while ((seen += h->bucket[b]) < rank)
        b++;
    uint64_t value = bucket_middle(b);
    return value < h->min ? h->min : value > h->max ? h->max : value;
}
