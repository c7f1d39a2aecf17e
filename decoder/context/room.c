/* room.c: what a context of a given length holds in this process at most, computed before there is one. */
#include "decoder/context/internal.h"
#include "decoder/scout/policy.h"

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint32_t needs_of(const struct skv_context_opts *o)
{
    uint32_t needs = policy_needs(&o->prefill, NULL) | policy_needs(&o->decode, o->calibration);
    for (uint32_t i = 0; i < o->n_decode_layers; i++)
        needs |= policy_needs(&o->decode_layers[i].select, o->calibration);
    return needs;
}

/* Masses of pages, mean queries, and the old values of what the last pass changed, in a list that doubles. */
static uint64_t history_bytes(const struct shape *s, uint64_t pages)
{
    enum { CHANGE = 12, FIRST_CHANGES = 256 };
    uint64_t n = 0;
    for (unsigned l = 0; l < s->n_layers; l++) {
        const struct skv_layer *y = &s->layers[l];
        n += y->n_kv_heads * pages * (sizeof(float) + 2 * CHANGE) + 2 * FIRST_CHANGES * CHANGE +
             (uint64_t)y->n_heads * y->d_k * 2 * sizeof(double);
    }
    return n;
}

static uint64_t index_bytes(const struct shape *s, const struct skv_context_opts *o, uint64_t tokens,
                            uint64_t sealed)
{
    uint32_t needs = needs_of(o);
    uint64_t of_span = sizeof(struct span) + s->span_bytes + s->shelf_bytes / SHELF_SPANS;
    for (unsigned part = 0; part < INDEX_PARTS; part++)
        of_span += needs >> part & 1 ? s->part_bytes[part] : 0;
    uint64_t bytes =
        (sealed + SPAN_BLOCKS - 1) / SPAN_BLOCKS * of_span + (tokens + tokens / 4) * sizeof(uint32_t);
    if (o->history || o->hints || needs & (NEEDS_RECEIVED | NEEDS_MEAN_QUERY))
        bytes += history_bytes(s, tokens / PAGE_TOKENS + 1);
    return bytes;
}

static uint64_t protected_tokens(const struct skv_context_opts *o, uint64_t sealed_tokens)
{
    uint64_t n = o->sinks + (uint64_t)PAGE_TOKENS;
    for (size_t i = 0; i < o->n_protect; i++)
        n += o->protect[i].to - o->protect[i].from + (uint64_t)2 * PAGE_TOKENS;
    return least(n, sealed_tokens);
}

int skv_context_room(const struct skv_model *m, const struct skv_context_opts *o, uint64_t tokens,
                     uint32_t pass, struct skv_room *out, struct skv_error *err)
{
    struct shape *s;
    int rc = shape_new(m, o, &s, err);
    if (rc)
        return rc;
    uint64_t lag = o->seal_lag ? o->seal_lag : o->window;
    uint64_t sealed = tokens > lag ? (tokens - lag) / BLOCK_TOKENS : 0;
    uint64_t blocks = (tokens + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
    /* Before a pass seals what the one before left, both are here; and what was sealed until it is
     * acknowledged. */
    uint64_t local = (lag + pass) / BLOCK_TOKENS + 2, pending = pass / BLOCK_TOKENS + 1;
    uint64_t far_bytes = sealed * BLOCK_TOKENS * s->token_bytes;
    *out = (struct skv_room){
        .window_bytes = least(local, blocks) * BLOCK_TOKENS * s->local_bytes +
                        least(pending, sealed) * BLOCK_TOKENS * s->token_bytes,
        .representative_bytes = index_bytes(s, o, tokens, sealed),
        .cache_bytes =
            least(o->cache_bytes + protected_tokens(o, sealed * BLOCK_TOKENS) * s->token_bytes, far_bytes),
    };
    shape_unref(s);
    return 0;
}
