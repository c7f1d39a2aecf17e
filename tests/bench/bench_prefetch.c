/* bench_prefetch: what fetching ahead could bring: of the pages that a decode step has to fetch, how many
 * could have been named before the layer's query was known.
 *
 *   bench_prefetch TRACE [BUDGET [WINDOW]]      a trace of `scoutkv trace`; defaults: 256 128
 *
 * The first half of the trace is a prefill, the rest decode steps with the trace's own queries, by the
 * cascade and with a cache of four budgets, as in `scoutkv bench step`. Guesses are what the same layer
 * selected in the last step, and what the layer below selected in this one, for the same KV head; pages that
 * are held are not guessed. Prints the share of the missing pages that a guess names, and how many it names
 * for nothing for each of those. */
#include "decoder/context/attend.h"
#include "decoder/model/kv_trace.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 1024, WARM_UP = 8, CACHED_BUDGETS = 4 };

struct guess {
    const char *what;
    uint64_t right, wrong;
};

struct bench {
    struct kv_trace *trace;
    skv_tier *tier;
    skv_context *ctx;
    struct skv_layer *layers;
    float *q, *out;
    struct choice *now, *last; /* (layers, heads): of this step, and of the one before */
    uint8_t *missing;          /* (heads, pages) of the layer that is attended to */
    uint64_t n_pages, selected, missed;
    struct guess step, below;
};

static struct choice *at(const struct bench *b, struct choice *of, unsigned layer, unsigned head)
{
    return &of[layer * b->trace->head.n_kv_heads + head];
}

static void on_fetched(void *arg, uint32_t layer, uint32_t head, uint64_t page)
{
    struct bench *b = arg;
    (void)layer;
    b->missing[head * b->n_pages + page] = 1;
}

static bool has(const struct choice *c, uint32_t page)
{
    size_t lo = 0, hi = c->n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (c->pages[mid] < page)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < c->n && c->pages[lo] == page;
}

/* held: by head and page of this layer, before it was attended to. */
static void count(struct guess *g, const struct choice *guessed, const struct choice *chosen,
                  const bool *held, const uint8_t *missing)
{
    for (size_t i = 0; i < guessed->n; i++) {
        uint32_t page = guessed->pages[i];
        g->right += missing[page];
        g->wrong += !missing[page] && !held[page] && !has(chosen, page);
    }
}

static int open_context(struct bench *b, uint32_t budget, uint32_t window, struct skv_error *err)
{
    const struct kv_trace_head *h = &b->trace->head;
    struct skv_model m = {.n_layers = h->n_layers};
    struct skv_context_opts o;
    b->layers = calloc(h->n_layers, sizeof *b->layers);
    for (uint32_t i = 0; b->layers && i < h->n_layers; i++)
        b->layers[i] = (struct skv_layer){h->d_k, h->d_v, h->n_heads, h->n_kv_heads, 0, h->scale};
    m.layers = b->layers;
    memcpy(m.fingerprint, h->fingerprint, sizeof m.fingerprint);
    skv_context_defaults(&o);
    o.decode.budget = budget;
    o.window = window;
    o.hints = false;
    o.fetched = on_fetched;
    o.fetched_arg = b;
    o.cache_bytes = (uint64_t)CACHED_BUDGETS * budget * h->n_layers * h->n_kv_heads * (h->d_k + h->d_v) * 2;
    int rc = skv_tier_open(&(struct skv_tier_opts){.ram = 2 * b->trace->bytes + (64 << 20)}, &b->tier, err);
    return rc ? rc : skv_context_open(b->tier, &m, &o, &b->ctx, err);
}

static int put(struct bench *b, enum skv_mode mode, uint64_t from, uint32_t n, struct skv_error *err)
{
    const struct kv_trace_head *h = &b->trace->head;
    int rc = skv_append(b->ctx, mode, n, b->trace->ids + from, NULL, err);
    for (uint32_t l = 0; l < h->n_layers && !rc; l++)
        rc = skv_put(b->ctx, l, kv_trace_k(b->trace, l) + from * h->n_kv_heads * h->d_k,
                     kv_trace_v(b->trace, l) + from * h->n_kv_heads * h->d_v, err);
    return rc;
}

static int attend(struct bench *b, unsigned layer, const float *q, struct skv_error *err)
{
    skv_attend *a;
    struct skv_attend_item item = {.ctx = b->ctx, .q = q, .out = b->out};
    int rc = skv_attend_begin(b->tier, layer, &item, 1, &a, err);
    return rc ? rc : skv_attend_finish(a, err);
}

/* One layer of a step: chosen as the step itself will, then attended to. */
static int layer_step(struct bench *b, unsigned layer, uint64_t token, bool counts, struct skv_error *err)
{
    const struct kv_trace_head *h = &b->trace->head;
    const float *q = kv_trace_q(b->trace, layer) + token * h->n_heads * h->d_k;
    struct choice *now = at(b, b->now, layer, 0);
    bool *held = malloc(h->n_kv_heads * b->n_pages);
    for (uint32_t i = 0; i < h->n_heads * h->d_k; i++)
        b->q[i] = q[i] * h->scale;
    int rc = held ? choose_pages(b->ctx, layer, &b->ctx->opts.decode, h->n_heads / h->n_kv_heads, b->q, token,
                                 NULL, now, err)
                  : skv_fail(err, -12, "out of memory");
    for (uint32_t i = 0; i < h->n_kv_heads && !rc; i++)
        for (uint64_t p = 0; p < context_sealed_pages(b->ctx); p++)
            held[i * b->n_pages + p] =
                cache_holds(b->ctx->cache, layer, i, p) || context_held_page(b->ctx, layer, i, p);
    memset(b->missing, 0, h->n_kv_heads * b->n_pages);
    rc = rc ? rc : attend(b, layer, q, err);
    for (uint32_t i = 0; i < h->n_kv_heads && !rc && counts; i++) {
        const uint8_t *missing = b->missing + i * b->n_pages;
        b->selected += now[i].n;
        for (size_t j = 0; j < now[i].n; j++)
            b->missed += missing[now[i].pages[j]];
        count(&b->step, at(b, b->last, layer, i), &now[i], held + i * b->n_pages, missing);
        if (layer)
            count(&b->below, at(b, b->now, layer - 1, i), &now[i], held + i * b->n_pages, missing);
    }
    free(held);
    return rc;
}

static int run(struct bench *b, struct skv_error *err)
{
    const struct kv_trace_head *h = &b->trace->head;
    size_t n = (size_t)h->n_layers * h->n_kv_heads;
    uint64_t first = h->n_tokens / 2;
    int rc = 0;
    for (uint64_t t = 0; t < first && !rc; t += CHUNK)
        rc = put(b, SKV_PREFILL, t, (uint32_t)(first - t < CHUNK ? first - t : CHUNK), err);
    for (uint64_t t = first; t < h->n_tokens && !rc; t++) {
        rc = put(b, SKV_DECODE, t, 1, err);
        for (unsigned l = 0; l < h->n_layers && !rc; l++)
            rc = layer_step(b, l, t, t >= first + WARM_UP, err);
        for (size_t i = 0; i < n; i++)
            choice_free(&b->last[i]);
        memcpy(b->last, b->now, n * sizeof *b->now);
        memset(b->now, 0, n * sizeof *b->now);
    }
    for (size_t i = 0; i < n; i++)
        choice_free(&b->last[i]);
    return rc;
}

static void tell(const struct bench *b, const struct guess *g)
{
    printf("%-52s %5.1f %%, and %.2f others for each\n", g->what,
           100.0 * (double)g->right / (double)b->missed, g->right ? (double)g->wrong / (double)g->right : 0);
}

int main(int argc, char **argv)
{
    struct bench b = {.step = {.what = "named by what the layer selected in the last step:"},
                      .below = {.what = "named by what the layer below selected in this step:"}};
    struct skv_error err = {0};
    uint32_t budget = argc > 2 ? (uint32_t)atoi(argv[2]) : 256,
             window = argc > 3 ? (uint32_t)atoi(argv[3]) : 128;
    if (argc < 2 || budget < 16 || window < 64) {
        fputs("usage: bench_prefetch TRACE [BUDGET [WINDOW]]\n", stderr);
        return 2;
    }
    int rc = kv_trace_open(argv[1], &b.trace, &err);
    if (!rc) {
        const struct kv_trace_head *h = &b.trace->head;
        size_t n = (size_t)h->n_layers * h->n_kv_heads;
        b.n_pages = h->n_tokens / PAGE_TOKENS + 1;
        b.q = malloc((size_t)h->n_heads * h->d_k * sizeof *b.q);
        b.out = malloc((size_t)h->n_heads * h->d_v * sizeof *b.out);
        b.now = calloc(n, sizeof *b.now);
        b.last = calloc(n, sizeof *b.last);
        b.missing = calloc(h->n_kv_heads, b.n_pages);
        rc = b.q && b.out && b.now && b.last && b.missing ? open_context(&b, budget, window, &err)
                                                          : skv_fail(&err, -12, "out of memory");
    }
    rc = rc ? rc : run(&b, &err);
    if (rc) {
        fprintf(stderr, "bench_prefetch: %s\n", err.text);
    } else {
        printf("%" PRIu64 " pages selected, %" PRIu64 " (%.1f %%) missing. Of those\n", b.selected, b.missed,
               100.0 * (double)b.missed / (double)b.selected);
        tell(&b, &b.step);
        tell(&b, &b.below);
    }
    if (b.ctx)
        skv_context_close(b.ctx);
    if (b.tier)
        skv_tier_close(b.tier);
    kv_trace_close(b.trace);
    free(b.layers);
    free(b.q);
    free(b.out);
    free(b.now);
    free(b.last);
    free(b.missing);
    return rc ? 1 : 0;
}
