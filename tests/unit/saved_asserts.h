/* saved_asserts.h: what the tests of saved contexts share. Header-only: each test is one program. */
#ifndef TESTS_SAVED_ASSERTS_H
#define TESTS_SAVED_ASSERTS_H

#include "decoder/context/internal.h"
#include "tests/unit/context_engine.h"
#include "tests/unit/three_nodes.h"

#include <errno.h>

enum { CHUNK = 128 };

/* Sum of a counter over the nodes. */
static inline uint64_t counter(const char *name)
{
    struct skv_error err = {0};
    struct tier *t;
    struct tier_counter *c;
    size_t n;
    uint64_t sum = 0;
    check(tier_open(&(struct tier_opts){.nodes = three.list}, &t, &err), &err);
    check(tier_stats(t, &c, &n, &err), &err);
    for (size_t i = 0; i < n; i++)
        sum += strcmp(c[i].name, name) == 0 ? c[i].value : 0;
    free(c);
    tier_close(t);
    return sum;
}

/* Options of a context that no other test shares blocks with. */
static inline struct skv_context_opts own_opts(const char *recipe)
{
    struct skv_context_opts o = small_opts();
    o.recipe = recipe;
    return o;
}

static inline skv_context *prefilled(skv_tier *t, const struct skv_context_opts *o, uint64_t n,
                                     uint64_t *digest)
{
    skv_context *c = open_context(t, o);
    prefill(t, c, 0, n, CHUNK, digest);
    return c;
}

static inline void save(skv_context *c, const char *name)
{
    struct skv_error err = {0};
    check(skv_context_snapshot(c, name, NULL, &err), &err);
}

static inline skv_context *resume(skv_tier *t, const char *name)
{
    struct skv_error err = {0};
    skv_context *c = NULL;
    check(skv_context_reopen(t, &model, NULL, name, &c, &err), &err);
    return c;
}

static inline void drop(skv_tier *t, const char *name)
{
    struct skv_error err = {0};
    check(skv_saved_remove(t, name, &err), &err);
}

/* Every object of a kind whose name begins so is taken off, as a node that lost it would have. */
struct dropping {
    struct tier *t;
    unsigned n;
};

static inline void drop_object(void *arg, const char *name)
{
    struct dropping *d = arg;
    struct skv_error err = {0};
    check(tier_object_drop(d->t, TIER_SIDECAR, name, &err), &err);
    d->n++;
}

static inline unsigned lose_objects(const char *prefix)
{
    struct skv_error err = {0};
    struct dropping d = {0};
    check(tier_open(&(struct tier_opts){.nodes = three.list}, &d.t, &err), &err);
    check(tier_object_list(d.t, TIER_SIDECAR, prefix, drop_object, &d, &err), &err);
    tier_close(d.t);
    return d.n;
}

static inline int start_three_one_text(void **s)
{
    text.part_at = UINT64_MAX;
    return start_three(s);
}

#endif
