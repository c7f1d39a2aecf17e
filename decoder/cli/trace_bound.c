/* trace_bound.c: see trace_bound.h. */
#include "decoder/cli/trace_bound.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

enum { FIRST_ROOM = 1024 }; /* rooms are powers of two */

/* ---- the set: open addressing, at most half full ---- */

static uint64_t *slot_of(const struct id_set *s, uint64_t id)
{
    size_t at = (size_t)((id * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & (s->room - 1);
    while (s->slot[at] && s->slot[at] != id + 1)
        at = (at + 1) & (s->room - 1);
    return &s->slot[at];
}

static bool grow(struct id_set *s)
{
    struct id_set larger = {.room = s->room ? 2 * s->room : FIRST_ROOM, .n = s->n};
    larger.slot = calloc(larger.room, sizeof *larger.slot);
    if (!larger.slot)
        return false;
    for (size_t i = 0; i < s->room; i++)
        if (s->slot[i])
            *slot_of(&larger, s->slot[i] - 1) = s->slot[i];
    free(s->slot);
    *s = larger;
    return true;
}

static bool set_has(const struct id_set *s, uint64_t id)
{
    return s->room && *slot_of(s, id);
}

static bool set_add(struct id_set *s, uint64_t id)
{
    if (2 * (s->n + 1) > s->room && !grow(s))
        return false;
    uint64_t *slot = slot_of(s, id);
    s->n += !*slot;
    *slot = id + 1;
    return true;
}

/* ---- the bound ---- */

int trace_bound_add(struct trace_bound *b, const struct trace_request *r, size_t *prefix,
                    struct skv_error *err)
{
    size_t hits = 0;
    while (hits < r->n && set_has(&b->seen, r->ids[hits]))
        hits++;
    for (size_t i = hits; i < r->n; i++)
        if (!set_add(&b->seen, r->ids[i]))
            return skv_fail(err, -ENOMEM, "out of memory");
    b->requests++;
    b->blocks += r->n;
    b->tokens += r->tokens;
    b->hit_blocks += hits;
    b->hit_tokens += trace_prefix_tokens(r, hits);
    *prefix = hits;
    return 0;
}

void trace_bound_free(struct trace_bound *b)
{
    free(b->seen.slot);
    *b = (struct trace_bound){0};
}
