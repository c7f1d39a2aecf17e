/* truth.c: the true mass of every far page, for the policy that others are measured against. It reads
 * everything, like dense, and then the policy reads its choice as any other does. */
#include "decoder/context/attend.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

enum { SECTION = 1024 };

struct truth {
    struct skv_context *c;
    unsigned layer, rows;
    const float *q;     /* (n_kv_heads, rows, d_k) scaled */
    struct choice *all; /* per head: every page */
    const struct want_list *wants;
    size_t ld;
    float **out; /* per head (rows, ld) */
    float *o;    /* (rows, d_v) of the page kernel, which nobody wants */
};

static void note(struct truth *t, unsigned head, uint32_t page, const uint8_t *bytes)
{
    const struct skv_layer *y = &t->c->shape->layers[t->layer];
    const struct kernels *k = t->c->tier->k;
    float *m = t->o + (size_t)t->rows * y->d_v, *l = m + t->rows;
    const float *q = t->q + (size_t)head * t->rows * y->d_k;
    page_attend(k, (struct kv_page){bytes, &t->c->shape->layouts[t->layer]}, NULL, t->rows, PAGE_TOKENS, q, m,
                l, t->o);
    for (unsigned r = 0; r < t->rows; r++)
        t->out[head][r * t->ld + page] = m[r] + logf(l[r]);
}

static void on_held(void *arg, unsigned head, size_t index, const uint8_t *bytes)
{
    struct truth *t = arg;
    note(t, head, t->all[head].pages[index], bytes);
}

static void on_page(void *arg, size_t want, int rc, const uint8_t *bytes)
{
    struct truth *t = arg;
    unsigned head = t->wants->wants[want].head;
    uint32_t page = t->all[head].pages[t->wants->at[want].index];
    if (rc) {
        lost_add(t->c, page / BLOCK_PAGES, t->layer);
        for (unsigned r = 0; r < t->rows; r++)
            t->out[head][r * t->ld + page] = -INFINITY;
        return;
    }
    note(t, head, page, bytes);
    t->c->stats.pages_fetched++;
    t->c->stats.bytes_fetched += layout_page_bytes(&t->c->shape->layouts[t->layer]);
}

static int read_section(struct truth *t, size_t from, struct skv_error *err)
{
    struct want_list wants;
    struct tier_fetch *fetch;
    t->wants = &wants;
    if (want_pages(t->c, t->layer, t->all, from, from + SECTION, on_held, t, &wants))
        return skv_fail(err, -ENOMEM, "out of memory");
    int rc = 0;
    if (wants.n)
        rc = tier_fetch_begin(t->c->tier->tier, &t->c->shape->layouts[t->layer], wants.wants, wants.n,
                              on_page, t, &fetch, err);
    if (wants.n && rc == 0)
        rc = tier_fetch_end(t->c->tier->tier, fetch, err);
    want_list_free(&wants);
    return rc;
}

int true_masses(struct skv_context *c, unsigned layer, unsigned rows, const float *q, size_t ld, float **out,
                struct skv_error *err)
{
    const struct skv_layer *y = &c->shape->layers[layer];
    struct skv_select dense = {.policy = SKV_DENSE, .unit = PAGE_TOKENS};
    struct truth t = {.c = c, .layer = layer, .rows = rows, .q = q, .ld = ld, .out = out};
    size_t n_pages = context_sealed_pages(c);
    t.all = calloc(y->n_kv_heads, sizeof *t.all);
    t.o = malloc((size_t)rows * (y->d_v + 2) * sizeof *t.o);
    int rc = t.all && t.o ? choose_pages(c, layer, &dense, rows, q, 0, NULL, t.all, err)
                          : skv_fail(err, -ENOMEM, "out of memory");
    for (size_t from = 0; from < n_pages && rc == 0; from += SECTION)
        rc = read_section(&t, from, err);
    for (unsigned h = 0; t.all && h < y->n_kv_heads; h++)
        choice_free(&t.all[h]);
    free(t.all);
    free(t.o);
    return rc;
}
