/* received.c: the attention mass that pages have received, and the mean query: what policies that go by the
 * past know of it.
 *
 * A page's mass is the sum over query heads of the attention that it got, halved every half-life: instead of
 * fading all numbers at each step, what is added weighs more and more (weight), and all are scaled down now
 * and then, between passes. Prefill is seen through the last OBSERVED tokens of each pass, which stand for
 * all of it. Truncating within the last pass takes back exactly what its tokens added; truncating further
 * forgets the pages that go, and what their tokens added elsewhere stays. */
#include "decoder/context/attend.h"
#include "decoder/scout/policy.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_WEIGHT_LOG2 = 60 };

struct head {
    float *mass;
    size_t n;      /* pages noted; those behind have none */
    double *query; /* (g, d_k) sum of scaled queries */
};

struct change {
    uint32_t head, page;
    float was;
};

/* What one row of the last pass changed, oldest first. */
struct row_log {
    size_t first; /* of changes */
    float weight;
    double *query; /* (heads, g, d_k) before it */
};

struct layer {
    struct head *heads;
    unsigned n_heads, g, d_k;
    float weight;
    uint64_t n_queries;
    struct row_log *rows;
    size_t n_rows, rows_cap;
    struct change *changes;
    size_t n_changes, changes_cap;
};

struct received {
    uint64_t
        from; /* first token of the last pass, which made the rows below: a row a token, or one for all */
    bool one_row;
    unsigned n_layers;
    struct layer layers[];
};

void received_free(struct received *r)
{
    for (unsigned l = 0; r && l < r->n_layers; l++) {
        struct layer *y = &r->layers[l];
        for (unsigned h = 0; y->heads && h < y->n_heads; h++) {
            free(y->heads[h].mass);
            free(y->heads[h].query);
        }
        for (size_t i = 0; i < y->n_rows; i++)
            free(y->rows[i].query);
        free(y->heads);
        free(y->rows);
        free(y->changes);
    }
    free(r);
}

struct received *received_new(const struct shape *s)
{
    struct received *r = calloc(1, sizeof *r + s->n_layers * sizeof *r->layers);
    if (!r)
        return NULL;
    for (; r->n_layers < s->n_layers; r->n_layers++) {
        const struct skv_layer *sl = &s->layers[r->n_layers];
        struct layer *y = &r->layers[r->n_layers];
        *y = (struct layer){
            .n_heads = sl->n_kv_heads, .g = sl->n_heads / sl->n_kv_heads, .d_k = sl->d_k, .weight = 1};
        y->heads = calloc(y->n_heads, sizeof *y->heads);
        for (unsigned h = 0; y->heads && h < y->n_heads; h++)
            if (!(y->heads[h].query = calloc((size_t)y->g * y->d_k, sizeof *y->heads[h].query)))
                break;
        if (!y->heads || !y->heads[y->n_heads - 1].query) {
            r->n_layers++;
            received_free(r);
            return NULL;
        }
    }
    return r;
}

/* A copy of n bytes; *out is NULL when n is 0. */
static bool copy(void *out, const void *from, size_t n)
{
    void *to = n ? malloc(n) : NULL;
    if (to)
        memcpy(to, from, n);
    memcpy(out, &to, sizeof to);
    return to || n == 0;
}

static bool layer_copy(struct layer *y, const struct layer *x)
{
    size_t of_head = (size_t)x->g * x->d_k;
    bool ok = true;
    y->weight = x->weight;
    y->n_queries = x->n_queries;
    for (unsigned h = 0; h < x->n_heads && ok; h++) {
        memcpy(y->heads[h].query, x->heads[h].query, of_head * sizeof(double));
        ok = copy(&y->heads[h].mass, x->heads[h].mass, x->heads[h].n * sizeof(float));
        y->heads[h].n = ok ? x->heads[h].n : 0;
    }
    ok = ok && copy(&y->changes, x->changes, x->n_changes * sizeof *x->changes) &&
         copy(&y->rows, x->rows, x->n_rows * sizeof *x->rows);
    if (!ok)
        return false;
    y->n_changes = y->changes_cap = x->n_changes;
    y->rows_cap = x->n_rows;
    for (; y->n_rows < x->n_rows; y->n_rows++)
        if (!copy(&y->rows[y->n_rows].query, x->rows[y->n_rows].query, x->n_heads * of_head * sizeof(double)))
            return false;
    return true;
}

struct received *received_copy(const struct shape *s, const struct received *from)
{
    struct received *r = received_new(s);
    if (!r)
        return NULL;
    r->from = from->from;
    r->one_row = from->one_row;
    for (unsigned l = 0; l < r->n_layers; l++)
        if (!layer_copy(&r->layers[l], &from->layers[l])) {
            received_free(r);
            return NULL;
        }
    return r;
}

/* ---- passes ---- */

static void forget_log(struct layer *y)
{
    for (size_t i = 0; i < y->n_rows; i++)
        free(y->rows[i].query);
    y->n_rows = y->n_changes = 0;
}

void received_begin(struct received *r, uint64_t from, bool one_row)
{
    r->from = from;
    r->one_row = one_row;
    for (unsigned l = 0; l < r->n_layers; l++) {
        struct layer *y = &r->layers[l];
        forget_log(y);
        if (y->weight < exp2f(MOST_WEIGHT_LOG2)) /* powers of two: nothing is rounded */
            continue;
        for (unsigned h = 0; h < y->n_heads; h++)
            for (size_t p = 0; p < y->heads[h].n; p++)
                y->heads[h].mass[p] *= exp2f(-MOST_WEIGHT_LOG2);
        y->weight *= exp2f(-MOST_WEIGHT_LOG2);
    }
}

static int grow(struct head *h, size_t n)
{
    if (n <= h->n)
        return 0;
    size_t cap = n + n / 4 + 64;
    float *mass = realloc(h->mass, cap * sizeof *mass);
    if (!mass)
        return -ENOMEM;
    memset(mass + h->n, 0, (cap - h->n) * sizeof *mass);
    h->mass = mass;
    h->n = cap;
    return 0;
}

int received_row(struct received *r, unsigned layer, uint64_t n_pages, float half_life, uint64_t n_tokens,
                 const float *q)
{
    struct layer *y = &r->layers[layer];
    size_t of_head = (size_t)y->g * y->d_k;
    if (y->n_rows == y->rows_cap) {
        size_t cap = y->rows_cap * 2 + 8;
        struct row_log *rows = realloc(y->rows, cap * sizeof *rows);
        if (!rows)
            return -ENOMEM;
        y->rows = rows;
        y->rows_cap = cap;
    }
    struct row_log log = {y->n_changes, y->weight, malloc(y->n_heads * of_head * sizeof(double))};
    if (!log.query)
        return -ENOMEM;
    for (unsigned h = 0; h < y->n_heads; h++)
        memcpy(log.query + h * of_head, y->heads[h].query, of_head * sizeof(double));
    y->rows[y->n_rows++] = log;
    for (unsigned h = 0; h < y->n_heads; h++) {
        if (grow(&y->heads[h], n_pages))
            return -ENOMEM;
        for (size_t i = 0; i < of_head; i++)
            y->heads[h].query[i] += (double)q[h * of_head + i];
    }
    y->n_queries++;
    float halvings = half_life > 0.0f ? (float)n_tokens / half_life : INFINITY;
    if (halvings < (float)MOST_WEIGHT_LOG2) { /* twice that fits a float */
        y->weight = fminf(y->weight * exp2f(halvings), exp2f(2 * MOST_WEIGHT_LOG2));
        return 0;
    }
    for (unsigned h = 0; h < y->n_heads; h++) /* only this row counts */
        for (size_t p = 0; p < y->heads[h].n; p++)
            if (y->heads[h].mass[p] != 0.0f)
                received_add(r, layer, h, p, -1.0f);
    return 0;
}

void received_add(struct received *r, unsigned layer, unsigned head, uint64_t page, float share)
{
    struct layer *y = &r->layers[layer];
    float *mass = &y->heads[head].mass[page];
    if (y->n_changes == y->changes_cap) {
        size_t cap = y->changes_cap * 2 + 256;
        struct change *changes = realloc(y->changes, cap * sizeof *changes);
        if (!changes)
            return; /* history is a hint: what can't be taken back is not noted */
        y->changes = changes;
        y->changes_cap = cap;
    }
    y->changes[y->n_changes++] = (struct change){head, (uint32_t)page, *mass};
    *mass = share < 0.0f ? 0.0f : *mass + share * y->weight;
}

void received_truncate(struct received *r, uint64_t n)
{
    uint64_t rows_left = n <= r->from ? 0 : r->one_row ? 1 : n - r->from;
    uint64_t n_pages = (n + PAGE_TOKENS - 1) / PAGE_TOKENS;
    for (unsigned l = 0; l < r->n_layers; l++) {
        struct layer *y = &r->layers[l];
        size_t of_head = (size_t)y->g * y->d_k;
        while (y->n_rows > rows_left) {
            struct row_log *log = &y->rows[--y->n_rows];
            while (y->n_changes > log->first) {
                const struct change *ch = &y->changes[--y->n_changes];
                y->heads[ch->head].mass[ch->page] = ch->was;
            }
            y->weight = log->weight;
            y->n_queries--;
            for (unsigned h = 0; h < y->n_heads; h++)
                memcpy(y->heads[h].query, log->query + h * of_head, of_head * sizeof(double));
            free(log->query);
        }
        for (unsigned h = 0; h < y->n_heads; h++)
            for (uint64_t p = n_pages; p < y->heads[h].n; p++)
                y->heads[h].mass[p] = 0.0f;
    }
}

/* ---- for policies ---- */

const float *received_mass(const struct received *r, unsigned layer, unsigned head, uint64_t n_pages)
{
    const struct head *h = &r->layers[layer].heads[head];
    return h->n >= n_pages ? h->mass : NULL; /* fewer: nothing was attended to since the newest were sealed */
}

float received_weight(const struct received *r, unsigned layer)
{
    return r->layers[layer].weight;
}

bool received_mean_query(const struct received *r, unsigned layer, unsigned head, float *q)
{
    const struct layer *y = &r->layers[layer];
    for (size_t i = 0; i < (size_t)y->g * y->d_k; i++)
        q[i] = y->n_queries ? (float)(y->heads[head].query[i] / (double)y->n_queries) : 0.0f;
    return y->n_queries > 0;
}

uint64_t received_bytes(const struct received *r)
{
    uint64_t n = 0;
    for (unsigned l = 0; l < r->n_layers; l++) {
        const struct layer *y = &r->layers[l];
        for (unsigned h = 0; h < y->n_heads; h++)
            n += y->heads[h].n * sizeof(float) + (size_t)y->g * y->d_k * sizeof(double);
        n += y->changes_cap * sizeof *y->changes + y->n_rows * y->n_heads * y->g * y->d_k * sizeof(double);
    }
    return n;
}

/* ---- saved ---- */

/* One run of bytes, written, measured (at: NULL) or read by the same walk. */
struct walk {
    uint8_t *at;
    size_t n, left; /* gone through; when reading: behind */
    bool reading;
};

static bool walk(struct walk *w, void *bytes, size_t n)
{
    if (w->reading && n > w->left)
        return false;
    if (w->reading)
        memcpy(bytes, w->at, n);
    else if (w->at)
        memcpy(w->at, bytes, n);
    w->at = w->at ? w->at + n : NULL;
    w->left -= w->reading ? n : 0;
    w->n += n;
    return true;
}

/* A count and as many elements; when reading, at most `most`, in memory that is made for them. */
static bool walk_array(struct walk *w, void *array, size_t size, size_t *count, size_t most)
{
    uint64_t n = *count;
    void *at;
    if (!walk(w, &n, sizeof n) || (w->reading && (n > most || n > w->left / size)))
        return false;
    if (w->reading) {
        if (!(at = malloc(n * size + 1)))
            return false;
        memcpy(array, &at, sizeof at);
        *count = n;
    }
    memcpy(&at, array, sizeof at);
    return n == 0 || walk(w, at, n * size);
}

static bool walk_rows(struct walk *w, struct layer *y, size_t most)
{
    size_t queries = (size_t)y->n_heads * y->g * y->d_k, first = 0;
    uint64_t n = y->n_rows;
    if (!walk(w, &n, sizeof n) || n > most)
        return false;
    if (w->reading) {
        y->rows = calloc(n + 1, sizeof *y->rows);
        y->rows_cap = n + 1;
    }
    for (uint64_t i = 0; i < n && y->rows; i++) {
        struct row_log *row = &y->rows[i];
        uint64_t at = row->first;
        size_t count = queries;
        if (!walk(w, &at, sizeof at) || !walk(w, &row->weight, sizeof row->weight) ||
            !walk_array(w, &row->query, sizeof *row->query, &count, queries))
            return false;
        y->n_rows = w->reading ? i + 1 : y->n_rows;
        row->first = at;
        if (count != queries || at < first || at > y->n_changes)
            return false;
        first = at;
    }
    return y->rows || n == 0;
}

static bool walk_layer(struct walk *w, struct layer *y, size_t pages, size_t rows)
{
    bool ok = walk(w, &y->weight, sizeof y->weight) && walk(w, &y->n_queries, sizeof y->n_queries);
    for (unsigned h = 0; h < y->n_heads && ok; h++)
        ok = walk_array(w, &y->heads[h].mass, sizeof(float), &y->heads[h].n, 2 * pages + 128) &&
             walk(w, y->heads[h].query, (size_t)y->g * y->d_k * sizeof(double));
    ok = ok && walk_array(w, &y->changes, sizeof *y->changes, &y->n_changes, SIZE_MAX) &&
         walk_rows(w, y, rows);
    if (w->reading)
        y->changes_cap = y->n_changes;
    for (size_t i = 0; i < y->n_changes && ok && w->reading; i++)
        ok = y->changes[i].head < y->n_heads && y->changes[i].page < y->heads[y->changes[i].head].n;
    return ok && y->weight >= 1 && isfinite(y->weight);
}

static bool walk_all(struct walk *w, struct received *r, size_t pages, size_t rows)
{
    uint64_t one_row = r->one_row;
    bool ok = walk(w, &r->from, sizeof r->from) && walk(w, &one_row, sizeof one_row);
    r->one_row = one_row == 1;
    for (unsigned l = 0; l < r->n_layers && ok; l++)
        ok = walk_layer(w, &r->layers[l], pages, rows);
    return ok;
}

size_t received_save(const struct received *r, uint8_t *out)
{
    struct walk w = {.at = out};
    walk_all(&w, (struct received *)(uintptr_t)r, SIZE_MAX / 4, SIZE_MAX);
    return w.n;
}

struct received *received_load(const struct shape *s, uint64_t len, const uint8_t *bytes, size_t n)
{
    struct walk w = {.at = (uint8_t *)(uintptr_t)bytes, .left = n, .reading = true};
    struct received *r = received_new(s);
    if (r && walk_all(&w, r, len / PAGE_TOKENS + 1, len + 1) && w.left == 0)
        return r;
    received_free(r);
    return NULL;
}
