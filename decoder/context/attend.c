/* attend.c: the batch, split into begin and finish. Order matters: all items choose and ask first, then what
 * is held is computed while replies travel, on all threads: of many contexts each may have too little to
 * share out. */
#include "decoder/context/attend.h"

#include <errno.h>
#include <stdlib.h>

struct skv_attend {
    size_t n;
    struct item *items[];
};

static void attend_free(struct skv_attend *a)
{
    for (size_t i = 0; i < a->n; i++)
        if (a->items[i])
            a->items[i]->ops->free(a->items[i]);
    free(a);
}

static int check_item(const skv_tier *t, uint32_t layer, const struct skv_attend_item *items, size_t i,
                      struct skv_error *err)
{
    const struct skv_context *c = items[i].ctx;
    if (c->tier != t)
        return skv_fail(err, -EINVAL, "attend: item %zu belongs to another tier", i);
    if (layer >= c->shape->n_layers || c->pass_n == 0 || !c->layer_put[layer])
        return skv_fail(err, -EINVAL,
                        "attend: item %zu has no K/V of layer %u in this pass: append and put come first", i,
                        layer);
    for (size_t j = 0; j < i; j++)
        if (items[j].ctx == c)
            return skv_fail(err, -EINVAL, "attend: items %zu and %zu are the same context", j, i);
    return 0;
}

struct parts {
    struct skv_attend *a;
    unsigned *first; /* (n + 1), behind a's items: an item's first part; last, how many there are */
};

static void one_part(void *arg, unsigned part)
{
    const struct parts *p = arg;
    size_t lo = 0, hi = p->a->n; /* the last item whose first part is not behind this one */
    while (hi - lo > 1) {
        size_t mid = (lo + hi) / 2;
        if (p->first[mid] <= part)
            lo = mid;
        else
            hi = mid;
    }
    p->a->items[lo]->ops->part(p->a->items[lo], part - p->first[lo]);
}

static int compute_held(skv_tier *t, struct skv_attend *a, struct skv_error *err)
{
    struct parts p = {a, (unsigned *)(void *)(a->items + a->n)};
    int rc = 0;
    p.first[0] = 0;
    for (size_t i = 0; i < a->n && rc == 0; i++) {
        const struct item_ops *ops = a->items[i]->ops;
        uint64_t t0 = clock_ns();
        rc = ops->local(a->items[i], err);
        p.first[i + 1] = p.first[i] + (rc == 0 && ops->parts ? ops->parts(a->items[i]) : 0);
        a->items[i]->c->stats.attend_ns += clock_ns() - t0;
    }
    if (rc == 0) {
        uint64_t t0 = clock_ns();
        pool_run(t->pool, p.first[a->n], one_part, &p);
        uint64_t spent = clock_ns() - t0, parts = p.first[a->n] ? p.first[a->n] : 1;
        for (size_t i = 0; i < a->n; i++) /* each its share of all parts */
            a->items[i]->c->stats.attend_ns += spent * (p.first[i + 1] - p.first[i]) / parts;
    }
    return rc;
}

int skv_attend_begin(skv_tier *t, uint32_t layer, const struct skv_attend_item *items, size_t n,
                     skv_attend **out, struct skv_error *err)
{
    struct skv_attend *a = calloc(1, sizeof *a + n * sizeof(struct item *) + (n + 1) * sizeof(unsigned));
    if (!a)
        return skv_fail(err, -ENOMEM, "out of memory");
    int rc = 0;
    a->n = n;
    for (size_t i = 0; i < n && rc == 0; i++) {
        rc = check_item(t, layer, items, i, err);
        if (rc)
            break;
        struct skv_context *c = items[i].ctx;
        c->lost.n = 0;
        a->items[i] =
            (c->mode == SKV_DECODE ? decode_item : prefill_item)(c, layer, items[i].q, items[i].out);
        if (!a->items[i])
            rc = skv_fail(err, -ENOMEM, "out of memory");
    }
    for (size_t i = 0; i < n && rc == 0; i++) {
        struct skv_context *c = items[i].ctx;
        uint64_t t0 = clock_ns();
        rc = a->items[i]->ops->choose(a->items[i], err);
        c->stats.scout_ns += clock_ns() - t0;
        c->stats.passes++;
        if (rc == 0)
            rc = a->items[i]->ops->start(a->items[i], err);
        tier_send(c->tier->tier); /* its pages are on their way while the next item chooses */
    }
    if (rc == 0)
        rc = compute_held(t, a, err);
    if (rc) {
        attend_free(a);
        return rc;
    }
    *out = a;
    return 0;
}

int skv_attend_finish(skv_attend *a, struct skv_error *err)
{
    int rc = 0;
    for (size_t i = 0; i < a->n && rc == 0; i++)
        rc = a->items[i]->ops->finish(a->items[i], err);
    attend_free(a);
    return rc;
}
