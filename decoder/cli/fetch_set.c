/* fetch_set.c: see fetch_set.h. */
#include "decoder/cli/fetch_set.h"
#include "common/clock.h"
#include "common/progress.h"
#include "decoder/cli/interrupt.h"
#include "decoder/cli/load_blocks.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

enum { MOST_ABSENT = 4096 };

static void on_put(void *arg, const struct tier_put_result *r)
{
    struct skv_error *failure = arg;
    if (!r->rc || failure->code)
        return;
    if (r->rc == -ENOSPC)
        skv_fail(failure, r->rc,
                 "the memory nodes have no room for the set: give a smaller --set, or nodes with more --ram "
                 "(%.300s)",
                 r->err->text);
    else
        *failure = *r->err;
}

static int reserve(struct fetch_set *s, struct skv_error *err)
{
    s->keys = malloc(((size_t)s->n + s->n_absent) * sizeof *s->keys);
    s->checksums = malloc((size_t)s->n * s->pages * sizeof *s->checksums);
    return s->keys && s->checksums ? 0 : skv_fail(err, -ENOMEM, "out of memory");
}

static int put_all(struct fetch_set *s, struct tier *t, uint64_t ns, uint64_t seed, bool durable,
                   struct skv_error *failure, struct skv_error *err)
{
    struct progress bar;
    int rc = 0;
    progress_begin(&bar, "store", "blocks", s->n);
    for (uint32_t i = 0; i < s->n && !rc && !failure->code; i++) {
        struct buf *payload = NULL;
        uint64_t *sums = s->checksums + i * s->pages;
        rc = load_block(&s->layout, ns, seed, i, &s->keys[i], &payload, sums);
        rc = rc ? skv_fail(err, rc, "out of memory")
                : tier_put(t, &s->keys[i], &s->layout, payload, sums,
                           durable ? TIER_ACK_DURABLE : TIER_ACK_RAM, on_put, failure, err);
        buf_unref(payload);
        if (!rc && interrupted())
            rc = skv_fail(err, -EINTR, "interrupted");
        progress_update(&bar, i);
    }
    progress_end(&bar);
    return rc;
}

int fetch_set_put(struct fetch_set *s, struct tier *t, const struct block_layout *l, uint64_t ns,
                  uint64_t bytes, uint32_t least, bool durable, struct skv_error *err)
{
    struct skv_error failure = {0};
    uint64_t n = bytes / layout_block_bytes(l), seed = clock_wall_ns() * 4194304 + (uint64_t)getpid();
    *s = (struct fetch_set){.layout = *l, .pages = layout_pages(l)};
    s->n = n < least ? least : n < UINT32_MAX / 2 ? (uint32_t)n : UINT32_MAX / 2;
    s->n_absent = s->n < MOST_ABSENT ? s->n : MOST_ABSENT;
    int rc = reserve(s, err);
    if (rc)
        return rc;
    for (uint32_t i = s->n; i < s->n + s->n_absent; i++)
        load_key(l, ns, seed, i, &s->keys[i]);
    rc = put_all(s, t, ns, seed, durable, &failure, err);
    int flushed = tier_flush(t, rc ? NULL : err);
    if (!rc && failure.code) {
        *err = failure;
        return failure.code;
    }
    return rc ? rc : flushed;
}

int fetch_set_drop(struct fetch_set *s, struct tier *t, struct skv_error *err)
{
    enum { AT_ONCE = 1024 };
    int rc = 0;
    for (uint32_t i = 0; i < s->n && !rc; i += AT_ONCE)
        rc = tier_drop(t, s->keys + i, s->n - i < AT_ONCE ? s->n - i : AT_ONCE, err);
    return rc;
}

void fetch_set_free(struct fetch_set *s)
{
    free(s->keys);
    free(s->checksums);
    *s = (struct fetch_set){0};
}
