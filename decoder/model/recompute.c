/* recompute.c: see recompute.h.
 *
 * DESIGN. First the nodes are asked for all blocks, so that each pass is repeated once, whatever layers are
 * missing. Then range by range, lowest first: what a range's passes attend to lies before it and is whole by
 * then. Should a repeated pass still miss something (a version that nobody has, a node that died meanwhile),
 * that is marked too and its turn comes first. */
#include "decoder/model/recompute.h"

#include <errno.h>
#include <stdlib.h>

#include "common/clock.h"

enum { MAX_SETBACKS = 64 }; /* passes on the fork that miss something themselves */

struct work {
    struct recompute *r;
    struct session *session;
    skv_context *ctx;
    uint64_t done, total; /* tokens of lost blocks */
    bool setback;         /* the last failure was a loss: ctx knows of it */
};

static int tell(const struct work *w)
{
    return w->r->progress ? w->r->progress(w->r->arg, w->done < w->total ? w->done : w->total, w->total) : 0;
}

static uint64_t lost_tokens(skv_context *c, struct skv_error *err, int *rc)
{
    size_t n = skv_lost(c, NULL, 0);
    struct skv_range *ranges = malloc((n + 1) * sizeof *ranges);
    uint64_t tokens = 0;
    *rc = ranges ? 0 : skv_fail(err, -ENOMEM, "out of memory");
    if (ranges)
        skv_lost(c, ranges, n);
    for (size_t i = 0; ranges && i < n; i++)
        tokens += ranges[i].to - ranges[i].from;
    free(ranges);
    return tokens;
}

/* One pass again, on the fork. */
static int repeat(struct work *w, skv_context *fork, const struct skv_pass *pass, struct skv_error *err)
{
    uint32_t n = (uint32_t)(pass->to - pass->from), *ids = malloc(n * sizeof *ids);
    if (!ids)
        return skv_fail(err, -ENOMEM, "out of memory");
    int rc = skv_tokens(w->ctx, pass->from, n, ids);
    if (rc == 0)
        rc = session_eval(w->session, pass->mode, ids, n, NULL, false, err);
    if (rc == 0) {
        w->r->tokens += n;
        rc = skv_restore(w->ctx, fork, &w->r->restored, err);
    }
    free(ids);
    return rc;
}

/* Whether the next lost range is made by the pass behind this one: then the same fork goes on with it. */
static bool goes_on(struct work *w, uint64_t end, struct skv_range *range)
{
    struct skv_range next;
    struct skv_pass pass;
    w->done += range->to - range->from;
    if (!skv_lost(w->ctx, &next, 1) || next.from < end || skv_pass_of(w->ctx, next.from, &pass, NULL) ||
        pass.from != end)
        return false;
    *range = next;
    return true;
}

/* The passes that made these tokens, from `pass` on. */
static int repeat_range(struct work *w, skv_context *fork, struct skv_pass pass, struct skv_range range,
                        struct skv_error *err)
{
    int rc = skv_truncate(fork, pass.from, err);
    session_use(w->session, fork);
    while (rc == 0) {
        rc = repeat(w, fork, &pass, err);
        if (rc == 0 && pass.to >= range.to && !goes_on(w, pass.to, &range))
            break;
        if (rc == 0)
            rc = skv_pass_of(w->ctx, pass.to, &pass, err);
        if (rc == 0 && (rc = tell(w)) != 0)
            skv_fail(err, rc, "computing lost blocks again was ended");
    }
    session_use(w->session, w->ctx);
    return rc;
}

/* What the fork misses is missing here too. */
static int take_over_losses(struct work *w, skv_context *fork, struct skv_error *err)
{
    struct skv_range range[16];
    size_t n = skv_lost(fork, range, sizeof range / sizeof *range);
    w->setback = n > 0;
    for (size_t i = 0; i < n && i < sizeof range / sizeof *range; i++) {
        int rc = skv_mark_lost(w->ctx, range[i], err);
        if (rc)
            return rc;
    }
    return 0;
}

static int remake(struct work *w, struct skv_range range, struct skv_error *err)
{
    struct skv_pass pass;
    skv_context *fork;
    int rc = skv_repeat_from(w->ctx, range.from, &pass, err);
    if (rc == 0)
        rc = skv_context_fork(w->ctx, &fork, err);
    if (rc)
        return rc;
    rc = repeat_range(w, fork, pass, range, err);
    if (rc) {
        int marked = take_over_losses(w, fork, err);
        rc = marked ? marked : rc;
    }
    skv_context_close(fork);
    return rc;
}

int recompute_lost(void *arg, struct session *s, struct skv_error *err)
{
    struct recompute *r = arg;
    struct work w = {.r = r, .session = s, .ctx = session_context(s)};
    struct skv_range range;
    uint64_t begin = clock_ns();
    unsigned setbacks = 0;
    int rc = skv_find_lost(w.ctx, err);
    if (rc == 0)
        w.total = lost_tokens(w.ctx, err, &rc);
    if (rc == 0 && (rc = tell(&w)) != 0)
        skv_fail(err, rc, "computing lost blocks again was ended");
    while (rc == 0 && skv_lost(w.ctx, &range, 1)) {
        w.setback = false;
        rc = remake(&w, range, err);
        struct skv_range left;
        if (rc == 0 && skv_lost(w.ctx, &left, 1) && left.from <= range.from)
            rc = skv_fail(err, -ENODATA, "the block at token %llu was computed again and is lost again",
                          (unsigned long long)left.from);
        else if (w.setback && ++setbacks < MAX_SETBACKS)
            rc = 0;
    }
    r->losses += rc == 0;
    r->seconds += (double)(clock_ns() - begin) * 1e-9;
    return rc;
}
