/* prefill.c: exact attention of a chunk of queries over tiles of pages, by GEMM.
 *
 * The chunk's queries are pooled into a few rows that choose far pages together. Tiles of TILE_PAGES pages
 * are converted to f32 once per block of rows; scores and P·V are GEMMs, folded tile by tile with a running
 * maximum (FlashAttention's online softmax, arXiv 2205.14135). Far tiles and local tiles are folded apart,
 * each by rising page, and then merged: so local work overlaps the fetch, and bits depend on the chunk and
 * its pages only. The split into parts is by shape, never by thread. */
#include "decoder/context/attend.h"
#include "decoder/scout/policy.h"

#include <cblas.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    TILE_PAGES = 16,
    TILE_TOKENS = TILE_PAGES * PAGE_TOKENS,
    PART_ROWS = 256,
    SECTION = 2048,
    POOLED = 4,
    OBSERVED = 8, /* the last tokens, whose attention history is told of page by page */
};

struct prefill;

/* A stretch of far pages of every head: bytes of page i of head h at data + (h·SECTION + i)·page_bytes. */
struct stretch {
    struct prefill *p;
    struct want_list wants;
    struct tier_fetch *fetch;
    uint8_t *data;
    bool *gone; /* by (head, page) as in data: lost, and attended without */
    size_t from;
};

struct prefill {
    struct item item;
    const struct skv_layer *y;
    unsigned g, n; /* query heads a KV head; queries */
    size_t rows;   /* n · g: rows of one KV head */
    size_t page_bytes;
    float *q;           /* (n_kv_heads, n, g, d_k) scaled */
    float *far, *local; /* per KV head: M (rows), L (rows), O (rows, d_v) */
    struct choice *choices;
    size_t n_far, far_pages, section_pages;
    struct stretch stretches[2];
    size_t started;
    unsigned part_tokens, parts_a_head;
    float **scratch; /* per part */
    const struct stretch *current;
    unsigned n_observed; /* tokens; 0: nobody wants history */
    float **seen;        /* per head: log masses (far pages, then local ones; n_observed, g) */
    struct gone gone;
};

/* M, L, O of one KV head in an accumulator. */
static float *acc_of(const struct prefill *p, float *acc, unsigned head)
{
    return acc + head * p->rows * (2 + p->y->d_v);
}

static size_t scratch_floats(const struct prefill *p)
{
    size_t rows = (size_t)p->part_tokens * p->g;
    return rows * TILE_TOKENS + (size_t)TILE_TOKENS * (p->y->d_k + p->y->d_v) + rows * (2 + p->y->d_v) + rows;
}

/* One tile: n_pages pages that begin at token `first`, of which row i of the part sees those up to its own
 * position. */
static void fold_tile(const struct prefill *p, unsigned head, unsigned part, float *acc,
                      const struct kv_page *pages, unsigned n_pages, uint64_t first, bool causal)
{
    const struct skv_layer *y = p->y;
    const struct kernels *k = p->item.c->tier->k;
    unsigned token0 = part * p->part_tokens;
    unsigned tokens = p->n - token0 < p->part_tokens ? p->n - token0 : p->part_tokens;
    unsigned rows = tokens * p->g, width = n_pages * PAGE_TOKENS;
    float *s = p->scratch[head * p->parts_a_head + part];
    float *kf = s + (size_t)p->part_tokens * p->g * TILE_TOKENS, *vf = kf + (size_t)TILE_TOKENS * y->d_k;
    float *m = vf + (size_t)TILE_TOKENS * y->d_v, *l = m + rows, *o = l + rows;
    uint32_t *cols = (uint32_t *)(o + (size_t)rows * y->d_v);
    for (unsigned i = 0; i < rows; i++) {
        uint64_t t = p->item.c->pass_from + token0 + i / p->g;
        uint64_t visible = !causal ? width : t + 1 > first ? t + 1 - first : 0;
        cols[i] = visible < width ? (uint32_t)visible : width;
    }
    if (cols[rows - 1] == 0)
        return;
    for (unsigned i = 0; i < n_pages; i++)
        page_spread(k, pages[i], kf + (size_t)i * PAGE_TOKENS * y->d_k,
                    vf + (size_t)i * PAGE_TOKENS * y->d_v);
    const float *q = p->q + (head * p->rows + (size_t)token0 * p->g) * y->d_k;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)width, (int)y->d_k, 1.0f, q,
                (int)y->d_k, kf, (int)y->d_k, 0.0f, s, TILE_TOKENS);
    k->softmax_tile(rows, TILE_TOKENS, width, cols, s, m, l);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, (int)y->d_v, (int)width, 1.0f, s,
                TILE_TOKENS, vf, (int)y->d_v, 0.0f, o, (int)y->d_v);
    float *M = acc_of(p, acc, head) + (size_t)token0 * p->g, *L = M + p->rows;
    float *O = acc_of(p, acc, head) + 2 * p->rows + (size_t)token0 * p->g * y->d_v;
    k->merge(rows, y->d_v, M, L, O, m, l, o);
}

/* As it is when the pass is over: full pages as they will be at rest, whatever part of them a query sees. */
static struct kv_page local_page(const struct prefill *p, unsigned head, uint64_t page)
{
    return context_local_page(p->item.c, p->item.layer, head, page, p->item.c->len - page * PAGE_TOKENS);
}

static void local_part(void *arg, unsigned index)
{
    struct prefill *p = arg;
    const struct skv_context *c = p->item.c;
    unsigned head = index / p->parts_a_head, part = index % p->parts_a_head;
    uint64_t first = context_sealed_pages(c), end = (c->len + PAGE_TOKENS - 1) / PAGE_TOKENS;
    for (uint64_t page = first; page < end; page += TILE_PAGES) {
        struct kv_page pages[TILE_PAGES];
        unsigned n = end - page < TILE_PAGES ? (unsigned)(end - page) : TILE_PAGES;
        for (unsigned i = 0; i < n; i++)
            pages[i] = local_page(p, head, page + i);
        fold_tile(p, head, part, p->local, pages, n, page * PAGE_TOKENS, true);
    }
}

static size_t stretch_pages(const struct prefill *p, const struct stretch *s, unsigned head)
{
    size_t n = p->choices[head].n > s->from ? p->choices[head].n - s->from : 0;
    return n < SECTION ? n : SECTION;
}

static struct kv_page far_page(const struct stretch *s, const uint8_t *bytes)
{
    return (struct kv_page){bytes, &s->p->item.c->shape->layouts[s->p->item.layer]};
}

static uint8_t *stretch_at(const struct stretch *s, unsigned head, size_t i)
{
    return s->data + (head * s->p->section_pages + i) * s->p->page_bytes;
}

static void far_part(void *arg, unsigned index)
{
    struct prefill *p = arg;
    const struct stretch *s = p->current;
    unsigned head = index / p->parts_a_head, part = index % p->parts_a_head;
    size_t n = stretch_pages(p, s, head);
    for (size_t at = 0; at < n; at += TILE_PAGES) {
        struct kv_page pages[TILE_PAGES];
        unsigned n_tile = n - at < TILE_PAGES ? (unsigned)(n - at) : TILE_PAGES;
        unsigned n_here = 0;
        for (unsigned i = 0; i < n_tile; i++)
            if (!s->gone[head * p->section_pages + at + i])
                pages[n_here++] = far_page(s, stretch_at(s, head, at + i));
        if (n_here)
            fold_tile(p, head, part, p->far, pages, n_here, 0, false);
    }
}

static void run_parts(struct prefill *p, void (*fn)(void *, unsigned))
{
    pool_run(p->item.c->tier->pool, p->y->n_kv_heads * p->parts_a_head, fn, p);
}

static void on_held(void *arg, unsigned head, size_t index, const uint8_t *bytes)
{
    struct stretch *s = arg;
    memcpy(stretch_at(s, head, index - s->from), bytes, s->p->page_bytes);
}

static void on_page(void *arg, size_t want, int rc, const uint8_t *bytes)
{
    struct stretch *s = arg;
    struct prefill *p = s->p;
    struct skv_context *c = p->item.c;
    unsigned head = s->wants.wants[want].head;
    size_t index = s->wants.at[want].index;
    if (rc) {
        gone_add(c, p->item.layer, &p->gone, head, p->choices[head].pages[index]);
        s->gone[head * p->section_pages + index - s->from] = true;
        return;
    }
    memcpy(stretch_at(s, head, index - s->from), bytes, p->page_bytes);
    keep_page(c, p->item.layer, head, p->choices[head].pages[index], bytes, p->far_pages);
    c->stats.pages_fetched++;
    c->stats.bytes_fetched += p->page_bytes;
}

static int start_stretch(struct prefill *p, struct skv_error *err)
{
    struct skv_context *c = p->item.c;
    struct stretch *s = &p->stretches[p->started % 2];
    s->p = p;
    size_t n = p->y->n_kv_heads * p->section_pages;
    if (!s->data && (!(s->data = malloc(n * p->page_bytes)) || !(s->gone = malloc(n * sizeof *s->gone))))
        return skv_fail(err, -ENOMEM, "out of memory");
    memset(s->gone, 0, n * sizeof *s->gone);
    s->from = p->started++ * SECTION;
    if (want_pages(c, p->item.layer, p->choices, s->from, s->from + SECTION, on_held, s, &s->wants))
        return skv_fail(err, -ENOMEM, "out of memory");
    if (s->wants.n == 0)
        return 0;
    return tier_fetch_begin(c->tier->tier, &c->shape->layouts[p->item.layer], s->wants.wants, s->wants.n,
                            on_page, s, &s->fetch, err);
}

static int end_stretch(struct prefill *p, struct stretch *s, struct skv_error *err)
{
    int rc = 0;
    if (s->fetch) {
        uint64_t t0 = clock_ns();
        rc = gone_end_fetch(p->item.c, s->fetch, &p->gone, err);
        s->fetch = NULL;
        p->item.c->stats.wait_ns += clock_ns() - t0;
    }
    want_list_free(&s->wants);
    return rc;
}

/* ---- history ---- */

static uint64_t first_local(const struct prefill *p)
{
    return context_sealed_pages(p->item.c);
}

static int observe_begin(struct prefill *p)
{
    const struct skv_context *c = p->item.c;
    size_t n_local = (c->len + PAGE_TOKENS - 1) / PAGE_TOKENS - first_local(p);
    p->n_observed = p->n < OBSERVED ? p->n : OBSERVED;
    p->seen = calloc(p->y->n_kv_heads, sizeof(float *));
    for (unsigned h = 0; h < p->y->n_kv_heads; h++)
        if (!p->seen ||
            !(p->seen[h] = malloc((p->choices[h].n + n_local) * p->n_observed * p->g * sizeof(float))))
            return -ENOMEM;
    return 0;
}

/* Log masses of one page for the rows of one observed token; n keys are visible. */
static void observe(const struct prefill *p, unsigned head, unsigned token, struct kv_page page, unsigned n,
                    float *out)
{
    const struct skv_layer *y = p->y;
    const float *q = p->q + (head * p->rows + (size_t)(p->n - p->n_observed + token) * p->g) * y->d_k;
    float m[64], l[64], o[64 * 1024];
    page_attend(p->item.c->tier->k, page, NULL, p->g, n, q, m, l, o);
    for (unsigned j = 0; j < p->g; j++)
        out[token * p->g + j] = m[j] + logf(l[j]);
}

static void observe_far(void *arg, unsigned head)
{
    struct prefill *p = arg;
    const struct stretch *s = p->current;
    for (size_t i = 0, n = stretch_pages(p, s, head); i < n; i++) {
        float *out = p->seen[head] + (s->from + i) * p->n_observed * p->g;
        for (unsigned t = 0; t < p->n_observed; t++)
            if (!s->gone[head * p->section_pages + i])
                observe(p, head, t, far_page(s, stretch_at(s, head, i)), PAGE_TOKENS, out);
        for (unsigned j = 0; s->gone[head * p->section_pages + i] && j < p->n_observed * p->g; j++)
            out[j] = -INFINITY;
    }
}

static void observe_local(void *arg, unsigned head)
{
    struct prefill *p = arg;
    const struct skv_context *c = p->item.c;
    uint64_t end = (c->len + PAGE_TOKENS - 1) / PAGE_TOKENS;
    float *out = p->seen[head] + p->choices[head].n * p->n_observed * p->g;
    for (uint64_t page = first_local(p); page < end; page++, out += p->n_observed * p->g)
        for (unsigned t = 0; t < p->n_observed; t++) {
            uint64_t at = c->pass_from + p->n - p->n_observed + t, first = page * PAGE_TOKENS;
            unsigned n = at < first                     ? 0
                         : at - first + 1 < PAGE_TOKENS ? (unsigned)(at - first + 1)
                                                        : PAGE_TOKENS;
            if (n)
                observe(p, head, t, local_page(p, head, page), n, out);
            for (unsigned j = 0; n == 0 && j < p->g; j++)
                out[t * p->g + j] = -INFINITY;
        }
}

/* What a page got of the observed tokens, as if all of the pass had been like them. far holds everything. */
static float share_seen(const struct prefill *p, unsigned head, const float *seen)
{
    const float *M = acc_of(p, p->far, head) + (size_t)(p->n - p->n_observed) * p->g, *L = M + p->rows;
    float sum = 0;
    for (unsigned r = 0; r < p->n_observed * p->g; r++)
        sum += expf(seen[r] - M[r]) / L[r];
    return sum * (float)p->n / (float)p->n_observed;
}

static int note_received(struct prefill *p)
{
    struct skv_context *c = p->item.c;
    unsigned layer = p->item.layer, a_page = p->n_observed * p->g;
    uint64_t n_pages = (c->len + PAGE_TOKENS - 1) / PAGE_TOKENS;
    size_t of_head = (size_t)p->g * p->y->d_k;
    float *q = malloc(p->y->n_kv_heads * of_head * sizeof *q);
    if (q) /* the last token's */
        for (unsigned h = 0; h < p->y->n_kv_heads; h++)
            memcpy(q + h * of_head, p->q + (h * p->rows + (size_t)(p->n - 1) * p->g) * p->y->d_k,
                   of_head * sizeof *q);
    int rc =
        q ? received_row(c->received, layer, n_pages, policy_half_life(context_select(c, layer)), p->n, q)
          : -ENOMEM;
    free(q);
    for (unsigned h = 0; h < p->y->n_kv_heads && rc == 0; h++) {
        const float *seen = p->seen[h];
        for (size_t i = 0; i < p->choices[h].n; i++, seen += a_page)
            received_add(c->received, layer, h, p->choices[h].pages[i], share_seen(p, h, seen));
        for (uint64_t page = first_local(p); page < n_pages; page++, seen += a_page)
            received_add(c->received, layer, h, page, share_seen(p, h, seen));
    }
    return rc;
}

/* ---- the steps ---- */

/* POOLED stretches of the chunk, each query head's mean: (POOLED · g, d_k). */
static void pool_queries(const struct prefill *p, unsigned head, unsigned n_pooled, float *out)
{
    unsigned d_k = p->y->d_k;
    memset(out, 0, (size_t)n_pooled * p->g * d_k * sizeof *out);
    for (unsigned s = 0; s < n_pooled; s++) {
        unsigned from = p->n * s / n_pooled, to = p->n * (s + 1) / n_pooled;
        for (unsigned j = 0; j < p->g; j++) {
            float *row = out + ((size_t)s * p->g + j) * d_k;
            for (unsigned i = from; i < to; i++) {
                const float *q = p->q + (head * p->rows + (size_t)i * p->g + j) * d_k;
                for (unsigned x = 0; x < d_k; x++)
                    row[x] += q[x];
            }
            for (unsigned x = 0; x < d_k; x++)
                row[x] /= (float)(to - from);
        }
    }
}

static int prefill_choose(struct item *it, struct skv_error *err)
{
    struct prefill *p = (struct prefill *)it;
    unsigned n_pooled = p->n < POOLED ? p->n : POOLED;
    size_t a_head = (size_t)n_pooled * p->g * p->y->d_k;
    float *pooled = malloc(p->y->n_kv_heads * a_head * sizeof *pooled);
    int rc = pooled ? 0 : -ENOMEM;
    for (unsigned h = 0; h < p->y->n_kv_heads && rc == 0; h++)
        pool_queries(p, h, n_pooled, pooled + h * a_head);
    if (rc == 0)
        rc = choose_pages(it->c, it->layer, &it->c->opts.prefill, n_pooled * p->g, pooled, it->c->pass_from,
                          NULL, p->choices, err);
    else
        skv_fail(err, rc, "out of memory");
    free(pooled);
    if (rc)
        return rc;
    for (unsigned h = 0; h < p->y->n_kv_heads; h++) {
        p->far_pages += p->choices[h].n;
        if (p->choices[h].n > p->n_far)
            p->n_far = p->choices[h].n;
    }
    p->section_pages = p->n_far < SECTION ? p->n_far : SECTION;
    return 0;
}

static int prefill_start(struct item *it, struct skv_error *err)
{
    struct prefill *p = (struct prefill *)it;
    return p->n_far ? start_stretch(p, err) : 0;
}

static int prefill_local(struct item *it, struct skv_error *err)
{
    struct prefill *p = (struct prefill *)it;
    run_parts(p, local_part);
    if (!it->c->received)
        return 0;
    if (observe_begin(p))
        return skv_fail(err, -ENOMEM, "out of memory");
    pool_run(it->c->tier->pool, p->y->n_kv_heads, observe_local, p);
    return 0;
}

/* Merges far and local, normalises and writes (n, n_heads, d_v). */
static void write_out(struct prefill *p)
{
    const struct skv_layer *y = p->y;
    for (unsigned h = 0; h < y->n_kv_heads; h++) {
        float *F = acc_of(p, p->far, h), *N = acc_of(p, p->local, h);
        p->item.c->tier->k->merge((unsigned)p->rows, y->d_v, F, F + p->rows, F + 2 * p->rows, N, N + p->rows,
                                  N + 2 * p->rows);
        const float *L = F + p->rows, *O = F + 2 * p->rows;
        for (size_t i = 0; i < p->rows; i++) {
            float *out = p->item.out + ((i / p->g) * y->n_heads + h * p->g + i % p->g) * y->d_v;
            for (unsigned j = 0; j < y->d_v; j++)
                out[j] = O[i * y->d_v + j] / L[i];
        }
    }
}

/* What the chunk's queries miss of pages that are lost; far holds everything attended by now. */
static int count_gone(struct prefill *p, struct skv_error *err)
{
    struct skv_context *c = p->item.c;
    double *gone = malloc(p->rows * sizeof *gone);
    int rc = gone ? 0 : -ENOMEM;
    for (unsigned h = 0; h < p->y->n_kv_heads && rc == 0; h++) {
        const float *M = acc_of(p, p->far, h), *L = M + p->rows;
        rc =
            gone_mass(c, p->item.layer, &p->gone, h, (unsigned)p->rows, p->q + h * p->rows * p->y->d_k, gone);
        for (size_t i = 0; i < p->rows && rc == 0; i++)
            gone_count(&c->stats, (double)M[i] + log((double)L[i]), 0, gone[i]);
    }
    free(gone);
    c->stats.pages_lost += p->gone.n;
    gone_mark(c);
    return rc ? skv_fail(err, rc, "out of memory") : 0;
}

static int prefill_finish(struct item *it, struct skv_error *err)
{
    struct prefill *p = (struct prefill *)it;
    size_t n_sections = (p->n_far + SECTION - 1) / SECTION;
    for (size_t i = 0; i < n_sections; i++) {
        int rc = i + 1 < n_sections ? start_stretch(p, err) : 0;
        if (rc == 0)
            rc = end_stretch(p, &p->stretches[i % 2], err);
        if (rc)
            return rc;
        uint64_t t0 = clock_ns();
        p->current = &p->stretches[i % 2];
        run_parts(p, far_part);
        if (p->seen)
            pool_run(it->c->tier->pool, p->y->n_kv_heads, observe_far, p);
        it->c->stats.attend_ns += clock_ns() - t0;
    }
    uint64_t t0 = clock_ns();
    write_out(p);
    int rc = p->gone.n ? count_gone(p, err) : 0;
    if (rc == 0 && p->seen && note_received(p))
        rc = skv_fail(err, -ENOMEM, "out of memory");
    it->c->stats.attend_ns += clock_ns() - t0;
    return rc;
}

static void prefill_free(struct item *it)
{
    struct prefill *p = (struct prefill *)it;
    for (int i = 0; i < 2; i++) {
        end_stretch(p, &p->stretches[i], NULL);
        free(p->stretches[i].data);
        free(p->stretches[i].gone);
    }
    for (unsigned h = 0; p->choices && h < p->y->n_kv_heads; h++)
        choice_free(&p->choices[h]);
    for (unsigned i = 0; p->scratch && i < p->y->n_kv_heads * p->parts_a_head; i++)
        free(p->scratch[i]);
    for (unsigned h = 0; p->seen && h < p->y->n_kv_heads; h++)
        free(p->seen[h]);
    free(p->seen);
    gone_free(&p->gone);
    free(p->choices);
    free(p->scratch);
    free(p->q);
    free(p->far);
    free(p->local);
    free(p);
}

static const struct item_ops prefill_ops = {prefill_choose, prefill_start,  prefill_local, NULL,
                                            NULL,           prefill_finish, prefill_free};

static float *acc_new(const struct prefill *p)
{
    size_t a_head = p->rows * (2 + p->y->d_v);
    float *acc = calloc(p->y->n_kv_heads * a_head, sizeof *acc);
    for (unsigned h = 0; acc && h < p->y->n_kv_heads; h++)
        for (size_t i = 0; i < p->rows; i++)
            acc[h * a_head + i] = -INFINITY;
    return acc;
}

struct item *prefill_item(struct skv_context *c, unsigned layer, const float *q, float *out)
{
    struct prefill *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    const struct skv_layer *y = &c->shape->layers[layer];
    p->item = (struct item){.ops = &prefill_ops, .c = c, .layer = layer, .q = q, .out = out};
    p->y = y;
    p->g = y->n_heads / y->n_kv_heads;
    p->n = c->pass_n;
    p->rows = (size_t)p->n * p->g;
    p->page_bytes = layout_page_bytes(&c->shape->layouts[layer]);
    p->part_tokens = PART_ROWS / p->g ? PART_ROWS / p->g : 1;
    p->parts_a_head = (p->n + p->part_tokens - 1) / p->part_tokens;
    p->q = malloc((size_t)p->n * y->n_heads * y->d_k * sizeof *p->q);
    p->choices = calloc(y->n_kv_heads, sizeof *p->choices);
    p->scratch = calloc(y->n_kv_heads * p->parts_a_head, sizeof *p->scratch);
    p->far = acc_new(p);
    p->local = acc_new(p);
    if (!p->q || !p->choices || !p->scratch || !p->far || !p->local)
        goto error;
    for (unsigned i = 0; i < y->n_kv_heads * p->parts_a_head; i++)
        if (!(p->scratch[i] = malloc(scratch_floats(p) * sizeof(float))))
            goto error;
    for (unsigned h = 0; h < y->n_kv_heads; h++)
        for (unsigned i = 0; i < p->n; i++) {
            const float *from = q + ((size_t)i * y->n_heads + h * p->g) * y->d_k;
            float *to = p->q + (h * p->rows + (size_t)i * p->g) * y->d_k;
            for (size_t x = 0; x < (size_t)p->g * y->d_k; x++)
                to[x] = from[x] * y->scale;
        }
    return &p->item;
error:
    prefill_free(&p->item);
    return NULL;
}
