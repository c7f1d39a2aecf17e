/* step_dense.c: see step_dense.h. Each KV head's pages lie behind each other; a part of the work is
 * PART_PAGES of them, folded as they are read, and the parts are folded at the end. */
#include "decoder/cli/step_dense.h"
#include "decoder/kernels/kernels.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PART_PAGES = 512 };

struct step_dense {
    const struct model_shape *shape;
    uint64_t pages;
    size_t page_bytes, bytes;
    uint8_t *kv; /* (kv_heads, pages, page_bytes) */
};

int step_dense_new(const struct model_shape *m, uint64_t tokens, struct step_dense **out,
                   struct skv_error *err)
{
    struct step_dense *s = calloc(1, sizeof *s);
    if (!s)
        return skv_fail(err, -ENOMEM, "out of memory");
    s->shape = m;
    s->pages = tokens / SKV_PAGE;
    s->page_bytes = (size_t)SKV_PAGE * m->d * 2 * sizeof(uint16_t);
    s->bytes = m->kv_heads * s->pages * s->page_bytes;
    s->kv = mmap(NULL, s->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (s->kv == MAP_FAILED) {
        int rc = skv_fail(err, -errno, "no memory for %zu MiB of keys and values: %s", s->bytes >> 20,
                          strerror(errno));
        free(s);
        return rc;
    }
    madvise(s->kv, s->bytes, MADV_HUGEPAGE); /* streaming through 4 KiB pages costs a tenth */
    *out = s;
    return 0;
}

void step_dense_free(struct step_dense *s)
{
    if (!s)
        return;
    munmap(s->kv, s->bytes);
    free(s);
}

struct putting {
    struct step_dense *s;
    uint64_t from;
    uint32_t n;
    const float *k, *v;
};

static void put_head(void *arg, unsigned head)
{
    const struct putting *p = arg;
    const struct model_shape *m = p->s->shape;
    for (uint32_t i = 0; i < p->n; i++) {
        uint64_t page = head * p->s->pages + (p->from + i) / SKV_PAGE;
        uint16_t *k = (uint16_t *)(p->s->kv + page * p->s->page_bytes) + (size_t)(i % SKV_PAGE) * m->d;
        size_t at = ((size_t)i * m->kv_heads + head) * m->d;
        kernels_get()->f32_to_f16(m->d, p->k + at, k);
        kernels_get()->f32_to_f16(m->d, p->v + at, k + (size_t)SKV_PAGE * m->d);
    }
}

void step_dense_put(struct step_dense *s, struct pool *pool, uint64_t from, uint32_t n, const float *k,
                    const float *v)
{
    pool_run(pool, s->shape->kv_heads, put_head, &(struct putting){s, from, n, k, v});
}

/* ---- attention ---- */

struct attending {
    const struct step_dense *s;
    uint64_t pages;
    unsigned g, parts; /* parts: of a head */
    const float *q;    /* (heads, d) scaled */
    float *sums;       /* (kv_heads, parts): M (g), L (g), O (g, d) */
    size_t a_sum;
};

static void empty(const struct attending *a, float *sum)
{
    for (unsigned r = 0; r < a->g; r++)
        sum[r] = -INFINITY;
    memset(sum + a->g, 0, (a->a_sum - a->g) * sizeof *sum);
}

static void attend_part(void *arg, unsigned part)
{
    const struct attending *a = arg;
    const struct kernels *k = kernels_get();
    unsigned g = a->g, d = a->s->shape->d, head = part / a->parts;
    uint64_t first = (uint64_t)(part % a->parts) * PART_PAGES, left = a->pages - first;
    const uint8_t *page = a->s->kv + (head * a->s->pages + first) * a->s->page_bytes;
    float *M = a->sums + part * a->a_sum, m[64], l[64], o[64 * 128];
    empty(a, M);
    const uint64_t n = left < PART_PAGES ? left : PART_PAGES;
    for (uint64_t i = 0; i < n; i++, page += a->s->page_bytes) {
        const uint16_t *key = (const uint16_t *)page, *value = key + (size_t)SKV_PAGE * d;
        struct pages_ahead ahead = {.turn = (unsigned)i};
        for (unsigned j = 0; j < 4; j++)
            ahead.page[j] = page + (i + 1 + j < n ? 1 + j : 0) * a->s->page_bytes;
        k->page_f16(g, SKV_PAGE, d, d, a->q + (size_t)head * g * d, key, value, &ahead, m, l, o);
        k->merge(g, d, M, M + g, M + 2 * g, m, l, o);
    }
}

int step_dense_attend(struct step_dense *s, struct pool *pool, uint64_t tokens, const float *q, float *out,
                      struct skv_error *err)
{
    const struct model_shape *m = s->shape;
    struct attending a = {.s = s, .pages = tokens / SKV_PAGE, .g = m->heads / m->kv_heads};
    a.parts = (unsigned)((a.pages + PART_PAGES - 1) / PART_PAGES);
    a.a_sum = (size_t)a.g * (2 + m->d);
    size_t n_parts = (size_t)m->kv_heads * a.parts, n_q = (size_t)m->heads * m->d;
    float *scaled = malloc(n_q * sizeof *scaled), *whole = malloc(a.a_sum * sizeof *whole);
    a.sums = malloc(n_parts * a.a_sum * sizeof *a.sums);
    int rc = scaled && whole && a.sums ? 0 : skv_fail(err, -ENOMEM, "out of memory");
    if (rc == 0) {
        for (size_t i = 0; i < n_q; i++)
            scaled[i] = q[i] / sqrtf((float)m->d);
        a.q = scaled;
        pool_run(pool, (unsigned)n_parts, attend_part, &a);
    }
    for (unsigned h = 0; h < m->kv_heads && rc == 0; h++) {
        empty(&a, whole);
        for (unsigned p = 0; p < a.parts; p++) {
            const float *sum = a.sums + ((size_t)h * a.parts + p) * a.a_sum;
            kernels_get()->merge(a.g, m->d, whole, whole + a.g, whole + 2 * a.g, sum, sum + a.g,
                                 sum + 2 * a.g);
        }
        for (size_t i = 0; i < (size_t)a.g * m->d; i++)
            out[(size_t)h * a.g * m->d + i] = whole[2 * a.g + i] / whole[a.g + i / m->d];
    }
    free(scaled);
    free(whole);
    free(a.sums);
    return rc;
}
