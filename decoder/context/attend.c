/* attend.c: the batch, split into begin and finish. Order matters: all items choose and ask first, then what
 * is held is computed while replies travel. */
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

int skv_attend_begin(skv_tier *t, uint32_t layer, const struct skv_attend_item *items, size_t n,
                     skv_attend **out, struct skv_error *err)
{
    struct skv_attend *a = calloc(1, sizeof *a + n * sizeof(struct item *));
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
    }
    for (size_t i = 0; i < n && rc == 0; i++) {
        uint64_t t0 = clock_ns();
        rc = a->items[i]->ops->local(a->items[i], err);
        items[i].ctx->stats.attend_ns += clock_ns() - t0;
    }
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
