/* turn.c: has a KV head's query turned away from where the last decode steps looked?
 *
 * The reference is the sum of the unit queries of the decode steps since the last prefill, each step counting
 * half as much half_life steps later; a step's query is that of all query heads that share the KV head. On
 * traces of a trained model a half-life of 16 tells best which steps find little in pages that were read
 * before: the last query alone says less, and RoPE turns longer means away by itself. Heads that go by
 * position, as in a first layer, turn at every step.
 *
 * A step changes the reference by its query alone, so it is a function of the tokens. What it was before
 * each token of the last pass is kept: truncating within that pass, or to where it began, takes back exactly
 * what its tokens did. Truncated further, as behind a prefill, there is no reference, and whatever comes next
 * has turned. */
#include "decoder/context/internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double half_life = 16; /* steps */

struct turn_layer {
    size_t width; /* floats of a query of one KV head: (g, d_k) */
    unsigned n_heads;
    float *at; /* (rows + 1, n_heads, width): before each row of the last pass, and behind it; 0: none */
};

struct turn {
    uint64_t from, rows; /* of the last pass: its first token; tokens, or 1 for a prefill, */
    uint64_t prefill;    /* which is 1 then */
    unsigned n_layers;
    struct turn_layer layers[];
};

void turn_free(struct turn *t)
{
    for (unsigned l = 0; t && l < t->n_layers; l++)
        free(t->layers[l].at);
    free(t);
}

static size_t row_floats(const struct turn_layer *y)
{
    return y->n_heads * y->width;
}

static struct turn *new_rows(const struct shape *s, uint64_t rows)
{
    struct turn *t = calloc(1, sizeof *t + s->n_layers * sizeof *t->layers);
    bool ok = t;
    for (unsigned l = 0; ok && l < s->n_layers; l++) {
        const struct skv_layer *sl = &s->layers[l];
        struct turn_layer *y = &t->layers[t->n_layers++];
        y->n_heads = sl->n_kv_heads;
        y->width = (size_t)sl->n_heads / sl->n_kv_heads * sl->d_k;
        ok = (y->at = calloc((rows + 1) * row_floats(y), sizeof *y->at));
    }
    if (!ok) {
        turn_free(t);
        return NULL;
    }
    t->rows = rows;
    return t;
}

struct turn *turn_new(const struct shape *s)
{
    return new_rows(s, 0);
}

struct turn *turn_copy(const struct shape *s, const struct turn *from)
{
    struct turn *t = new_rows(s, from->rows);
    if (!t)
        return NULL;
    t->from = from->from;
    t->prefill = from->prefill;
    for (unsigned l = 0; l < t->n_layers; l++)
        memcpy(t->layers[l].at, from->layers[l].at,
               (t->rows + 1) * row_floats(&t->layers[l]) * sizeof(float));
    return t;
}

int turn_begin(struct turn *t, uint64_t from, uint32_t n, bool prefill)
{
    uint64_t rows = prefill ? 1 : n;
    for (unsigned l = 0; l < t->n_layers; l++) {
        struct turn_layer *y = &t->layers[l];
        size_t row = row_floats(y), most = rows > t->rows ? rows : t->rows;
        float *grown = realloc(y->at, (most + 1) * row * sizeof *grown);
        if (!grown)
            return -ENOMEM; /* what is larger than it need be does no harm */
        y->at = grown;
    }
    for (unsigned l = 0; l < t->n_layers; l++) {
        size_t row = row_floats(&t->layers[l]);
        float *at = t->layers[l].at;
        memmove(at, at + t->rows * row, row * sizeof *at);
        memset(at + row, 0, rows * row * sizeof *at);
    }
    t->from = from;
    t->rows = rows;
    t->prefill = prefill;
    return 0;
}

void turn_truncate(struct turn *t, uint64_t n)
{
    if (n < t->from) {
        for (unsigned l = 0; l < t->n_layers; l++)
            memset(t->layers[l].at, 0, row_floats(&t->layers[l]) * sizeof(float));
        t->from = n;
        t->rows = 0;
    } else if (n == t->from) {
        t->rows = 0;
    } else if (!t->prefill && n - t->from < t->rows) {
        t->rows = n - t->from;
    }
}

float turn_step(struct turn *t, unsigned layer, unsigned head, uint64_t token, const float *q)
{
    const struct turn_layer *y = &t->layers[layer];
    const float *was = y->at + (token - t->from) * row_floats(y) + head * y->width;
    float *next = y->at + (token - t->from + 1) * row_floats(y) + head * y->width;
    double qq = 0, rr = 0, qr = 0;
    for (size_t i = 0; i < y->width; i++) {
        qq += (double)q[i] * (double)q[i];
        rr += (double)was[i] * (double)was[i];
        qr += (double)q[i] * (double)was[i];
    }
    double keep = exp2(-1 / half_life), unit = qq > 0 && isfinite(qq) ? 1 / sqrt(qq) : 0;
    for (size_t i = 0; i < y->width; i++)
        next[i] = (float)(keep * (double)was[i] + (unit > 0 ? unit * (double)q[i] : 0));
    return rr > 0 && unit > 0 ? (float)(qr * unit / sqrt(rr)) : -1.0f;
}

/* ---- saved ---- */

size_t turn_save(const struct turn *t, uint8_t *out)
{
    uint64_t head[] = {t->from, t->rows, t->prefill};
    size_t n = sizeof head;
    if (out)
        memcpy(out, head, sizeof head);
    for (unsigned l = 0; l < t->n_layers; l++) {
        size_t bytes = (t->rows + 1) * row_floats(&t->layers[l]) * sizeof(float);
        if (out)
            memcpy(out + n, t->layers[l].at, bytes);
        n += bytes;
    }
    return n;
}

struct turn *turn_load(const struct shape *s, uint64_t len, const uint8_t *bytes, size_t n)
{
    uint64_t head[3], row = 0;
    for (unsigned l = 0; l < s->n_layers; l++)
        row += (uint64_t)s->layers[l].n_heads * s->layers[l].d_k * sizeof(float);
    if (n < sizeof head)
        return NULL;
    memcpy(head, bytes, sizeof head);
    if (head[2] > 1 || head[0] > len || head[1] > (head[2] ? 1 : len - head[0]) || head[1] > n ||
        n - sizeof head != (head[1] + 1) * row)
        return NULL;
    struct turn *t = new_rows(s, head[1]);
    if (!t)
        return NULL;
    t->from = head[0];
    t->prefill = head[2];
    bytes += sizeof head;
    for (unsigned l = 0; l < t->n_layers; l++) {
        size_t bytes_here = (t->rows + 1) * row_floats(&t->layers[l]) * sizeof(float);
        memcpy(t->layers[l].at, bytes, bytes_here);
        bytes += bytes_here;
    }
    return t;
}
