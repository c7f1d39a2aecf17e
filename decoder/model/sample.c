/* sample.c: see sample.h. */
#include "decoder/model/sample.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

struct candidate {
    float logit;
    uint32_t id;
};

/* SplitMix64 (Steele, Lea, Flood 2014): a counter through a mixing function. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static bool before(struct candidate a, struct candidate b)
{
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

static int compare(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    return before(*x, *y) ? -1 : before(*y, *x);
}

/* Puts an element of a heap, whose root is the last in order, where it belongs. */
static void sift_down(struct candidate *heap, uint32_t n, uint32_t i)
{
    for (;;) {
        uint32_t last = i;
        for (uint32_t child = 2 * i + 1; child <= 2 * i + 2 && child < n; child++)
            if (before(heap[last], heap[child]))
                last = child;
        if (last == i)
            return;
        struct candidate t = heap[i];
        heap[i] = heap[last];
        heap[last] = t;
        i = last;
    }
}

/* The k first of n logits (k at most n) to c, in no order; returns how many: those that are no number are
 * left out. Most logits cost one comparison: later ones of a tie come after it. */
static uint32_t first_of(const float *logits, uint32_t n, uint32_t k, struct candidate *c)
{
    uint32_t i = 0, n_c = 0;
    for (; i < n && n_c < k; i++)
        if (!isnan(logits[i]))
            c[n_c++] = (struct candidate){logits[i], i};
    if (i == n)
        return n_c;
    for (uint32_t j = k / 2; j-- > 0;)
        sift_down(c, k, j);
    for (; i < n; i++)
        if (logits[i] > c[0].logit) {
            c[0] = (struct candidate){logits[i], i};
            sift_down(c, k, 0);
        }
    return k;
}

/* How many of n sorted candidates pass top_p and min_p. Both keep a beginning of the order, at least one. */
static uint32_t cut(const struct sample_opts *o, const struct candidate *c, uint32_t n)
{
    double total = 0, sum = 0, first = (double)c[0].logit;
    for (uint32_t i = 0; i < n; i++)
        total += exp((double)c[i].logit - first);
    uint32_t kept = 0;
    while (kept < n) {
        double p = exp((double)c[kept].logit - first); /* relative to the first one's */
        if (kept > 0 && (p < (double)o->min_p || (o->top_p < 1 && sum >= (double)o->top_p * total)))
            break;
        sum += p;
        kept++;
    }
    return kept;
}

static uint32_t draw(struct sampler *s, const struct candidate *c, uint32_t n)
{
    double temperature = (double)s->opts.temperature, first = (double)c[0].logit, total = 0;
    for (uint32_t i = 0; i < n; i++)
        total += exp(((double)c[i].logit - first) / temperature);
    double u = (double)(next_random(&s->state) >> 11) * 0x1p-53 * total;
    for (uint32_t i = 0; i + 1 < n; i++) {
        u -= exp(((double)c[i].logit - first) / temperature);
        if (u < 0)
            return c[i].id;
    }
    return c[n - 1].id;
}

int sample_check(const struct sample_opts *o, struct skv_error *err)
{
    if (!isfinite(o->temperature))
        return skv_fail(err, -EINVAL, "the temperature must be a number");
    if (!(o->top_p > 0 && o->top_p <= 1))
        return skv_fail(err, -EINVAL, "top-p is %g; it must lie above 0 and up to 1", (double)o->top_p);
    if (!(o->min_p >= 0 && o->min_p <= 1))
        return skv_fail(err, -EINVAL, "min-p is %g; it must lie between 0 and 1", (double)o->min_p);
    return 0;
}

int sample_next(struct sampler *s, const float *logits, uint32_t n, uint32_t *id, struct skv_error *err)
{
    float best = -INFINITY;
    *id = 0;
    for (uint32_t i = 0; i < n; i++)
        if (logits[i] > best) {
            best = logits[i];
            *id = i;
        }
    if (!isfinite(best))
        return skv_fail(err, -EDOM, "the model gave no finite logit: its weights or its context are damaged");
    if (s->opts.temperature <= 0)
        return 0;

    uint32_t k = s->opts.top_k > 0 && s->opts.top_k < n ? s->opts.top_k : n;
    struct candidate *c = malloc(k * sizeof *c);
    if (!c)
        return skv_fail(err, -ENOMEM, "out of memory for %u candidates", k);
    k = first_of(logits, n, k, c);
    qsort(c, k, sizeof *c, compare);
    *id = draw(s, c, cut(&s->opts, c, k));
    free(c);
    return 0;
}
