/* passes.c: which passes a context's tokens came in.
 *
 * A prefill pass chooses pages for all its tokens together, so the K/V of each depends on all of them, those
 * behind it too. A block's chain therefore names the passes that it lies in, by place, length and tokens:
 * texts that part within a pass share no block of it, and neither does one whose pass was cut short by its
 * end. Decode steps don't depend on each other's number; a run of them is one entry without a name.
 *
 * A pass that went on without lost pages is an entry of its own and has another name: its blocks, and all
 * behind them, are not what these tokens should give, and no other context may find them. So has one whose
 * last page was cut after it was rounded to few bits: a run to there would have had its tokens as put. */
#include "decoder/context/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool named(const struct pass_run *p)
{
    static const uint8_t none[CHAIN_BYTES];
    return memcmp(p->name, none, sizeof none) != 0;
}

static size_t find(const struct skv_context *c, uint64_t token)
{
    size_t lo = 0, hi = c->n_passes;
    assert(hi && c->passes[0].from <= token);
    while (hi - lo > 1) {
        size_t mid = (lo + hi) / 2;
        if (c->passes[mid].from <= token)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

int passes_reserve(struct skv_context *c, size_t n)
{
    if (n <= c->passes_cap)
        return 0;
    size_t cap = n + n / 2 + 16;
    struct pass_run *grown = realloc(c->passes, cap * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    c->passes = grown;
    c->passes_cap = cap;
    return 0;
}

void passes_add(struct skv_context *c, enum skv_mode mode, uint32_t n)
{
    const struct pass_run *last = c->n_passes ? &c->passes[c->n_passes - 1] : NULL;
    if (mode == SKV_DECODE && last && last->n == 0 && !named(last))
        return;
    assert(c->n_passes < c->passes_cap);
    struct pass_run *p = &c->passes[c->n_passes++];
    *p = (struct pass_run){.from = c->len};
    if (mode == SKV_DECODE)
        return;
    p->n = n;
    struct identity id;
    identity_begin(&id, "scoutkv pass");
    if (c->tags)
        identity_add(&id, c->tags + c->len * SKV_TAG, (size_t)n * SKV_TAG);
    else
        identity_add(&id, c->ids + c->len, n * sizeof *c->ids);
    identity_end(&id, p->name);
}

/* Gives the last run, or the part of it from `from` on if it is of decode steps, another name. */
static void rename_last(struct skv_context *c, uint64_t from, const char *why)
{
    struct pass_run *p = &c->passes[c->n_passes - 1];
    if (p->from < from && p->n == 0) {
        assert(c->n_passes < c->passes_cap);
        *++p = (struct pass_run){.from = from};
        c->n_passes++;
    }
    struct identity id;
    identity_begin(&id, why);
    identity_add(&id, p->name, sizeof p->name);
    identity_end(&id, p->name);
}

void passes_degrade(struct skv_context *c)
{
    assert(c->passes[c->n_passes - 1].from >= c->pass_from || c->passes[c->n_passes - 1].n == 0);
    rename_last(c, c->pass_from, "scoutkv degraded pass"); /* steps before it had all they wanted */
}

void passes_round(struct skv_context *c, uint64_t from)
{
    rename_last(c, from, "scoutkv rounded page");
}

void passes_truncate(struct skv_context *c, uint64_t n)
{
    while (c->n_passes && c->passes[c->n_passes - 1].from >= n)
        c->n_passes--;
}

bool passes_hash(const struct skv_context *c, struct identity *id, uint64_t from, uint64_t to)
{
    bool decoded = false;
    for (size_t i = find(c, from); i < c->n_passes && c->passes[i].from < to; i++) {
        const struct pass_run *p = &c->passes[i];
        uint64_t fields[] = {p->n || p->from > from ? p->from : from, p->n};
        identity_add(id, fields, sizeof fields);
        identity_add(id, p->name, sizeof p->name);
        decoded |= p->n == 0;
    }
    return decoded;
}

uint64_t passes_prefilled(const struct skv_context *c)
{
    for (size_t i = 0; i < c->n_passes; i++)
        if (c->passes[i].n == 0)
            return c->passes[i].from;
    return c->len;
}

bool pass_ends_within_span(const struct pass_run *p, uint64_t next, uint64_t blocks)
{
    return p->n && p->from + p->n == next && next % BLOCK_TOKENS == 0 && next % SPAN_TOKENS &&
           next / BLOCK_TOKENS <= blocks;
}

uint64_t skv_last_pass(const skv_context *c, enum skv_mode *mode)
{
    if (c->n_passes == 0)
        return 0;
    const struct pass_run *p = &c->passes[c->n_passes - 1];
    *mode = p->n ? SKV_PREFILL : SKV_DECODE;
    return p->n ? p->from : c->len - 1;
}

int skv_pass_of(const skv_context *c, uint64_t t, struct skv_pass *out, struct skv_error *err)
{
    if (t >= c->len)
        return skv_fail(err, -EINVAL, "token %llu is not in a context of %llu", (unsigned long long)t,
                        (unsigned long long)c->len);
    size_t i = find(c, t);
    const struct pass_run *p = &c->passes[i];
    uint64_t next = i + 1 < c->n_passes ? p[1].from : c->len;
    *out = p->n ? (struct skv_pass){p->from, next, SKV_PREFILL} : (struct skv_pass){t, t + 1, SKV_DECODE};
    return 0;
}

int skv_repeat_from(const skv_context *c, uint64_t t, struct skv_pass *out, struct skv_error *err)
{
    int rc = skv_pass_of(c, t, out, err);
    while (rc == 0 && c->shape->packed && out->from % PAGE_TOKENS) /* the first pass begins at 0 */
        rc = skv_pass_of(c, out->from - out->from % PAGE_TOKENS, out, err);
    return rc;
}
