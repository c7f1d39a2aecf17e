/* step_keys.c: see step_keys.h. With n frequencies of deviation σ the scores of places x apart differ as
 * exp(-(xσ)²/2), up to 1/sqrt(2n) of noise; σ is such that the last selected page has EDGE of the best one's
 * score. */
#include "decoder/cli/step_keys.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PAGES = SKV_BLOCK / SKV_PAGE, NOISE_ROWS = 4096 };
static const double EDGE = 0.8;
static const float NOISE = 0.3f, /* of a key's dims, which are 1 at most */
    PEAK = 16;                   /* logit of the best page: it and its like get nearly all attention */

struct step_keys {
    struct step_keys_opts o;
    uint32_t *place; /* (kv_heads, blocks) of the longest context: of the block's page on the line */
    float *freq;     /* (d / 2) */
    float *noise;    /* (NOISE_ROWS, d) */
};

/* SplitMix64. */
static uint64_t next(uint64_t *seed)
{
    uint64_t x = *seed += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

/* Normal by twelve uniforms: no tail matters here. */
static double normal(uint64_t *seed)
{
    double sum = -6;
    for (unsigned i = 0; i < 12; i++)
        sum += (double)(next(seed) >> 11) * 0x1p-53;
    return sum;
}

/* ---- places ---- */

/* Blocks [from, to) in a random order on the places of the same numbers. */
static void shuffle(uint64_t *seed, uint64_t from, uint64_t to, uint32_t *place)
{
    for (uint64_t i = from; i < to; i++)
        place[i] = (uint32_t)i;
    for (uint64_t i = to; i > from + 1; i--) {
        uint64_t j = from + next(seed) % (i - from);
        uint32_t x = place[i - 1];
        place[i - 1] = place[j];
        place[j] = x;
    }
}

static int make_places(struct step_keys *s, uint64_t *seed)
{
    const struct step_keys_opts *o = &s->o;
    uint64_t blocks = o->lengths[o->n_lengths - 1] / SKV_BLOCK;
    s->place = malloc(o->shape->kv_heads * blocks * sizeof *s->place);
    if (!s->place)
        return -ENOMEM;
    for (unsigned h = 0; h < o->shape->kv_heads; h++)
        for (unsigned i = 0; i < o->n_lengths; i++)
            shuffle(seed, i ? o->lengths[i - 1] / SKV_BLOCK : 0, o->lengths[i] / SKV_BLOCK,
                    s->place + h * blocks);
    return 0;
}

int step_keys_new(const struct step_keys_opts *o, struct step_keys **out, struct skv_error *err)
{
    unsigned d = o->shape->d;
    uint64_t seed = o->seed;
    struct step_keys *s = calloc(1, sizeof *s);
    if (s) {
        s->o = *o;
        s->freq = malloc(d / 2 * sizeof *s->freq);
        s->noise = malloc((size_t)NOISE_ROWS * d * sizeof *s->noise);
    }
    if (!s || !s->freq || !s->noise || make_places(s, &seed)) {
        step_keys_free(s);
        return skv_fail(err, -ENOMEM, "out of memory");
    }
    double deviation = sqrt(-2 * log(EDGE)) / (o->pages / 2.0);
    for (unsigned i = 0; i < d / 2; i++)
        s->freq[i] = (float)(normal(&seed) * deviation);
    for (size_t i = 0; i < (size_t)NOISE_ROWS * d; i++)
        s->noise[i] = (float)normal(&seed);
    *out = s;
    return 0;
}

void step_keys_free(struct step_keys *s)
{
    if (!s)
        return;
    free(s->place);
    free(s->freq);
    free(s->noise);
    free(s);
}

/* ---- keys and values ---- */

static void code(const struct step_keys *s, double place, float *out)
{
    unsigned n = s->o.shape->d / 2;
    for (unsigned i = 0; i < n; i++) {
        float angle = (float)fmod(place * (double)s->freq[i], 2 * M_PI);
        out[i] = cosf(angle);
        out[n + i] = sinf(angle);
    }
}

static const float *noise_row(const struct step_keys *s, uint64_t *seed)
{
    return s->noise + (next(seed) % NOISE_ROWS) * s->o.shape->d;
}

struct making {
    const struct step_keys *s;
    uint64_t from;
    uint32_t n;
    float *k, *v;
};

/* The block's page that lies on the line; the keys of the others are near no place. */
static unsigned page_on_line(const struct step_keys *s, unsigned head, uint64_t block)
{
    uint64_t seed = s->o.seed + (block << 8 | head);
    return next(&seed) % PAGES;
}

static void make_head(void *arg, unsigned head)
{
    const struct making *m = arg;
    const struct step_keys *s = m->s;
    unsigned d = s->o.shape->d, heads = s->o.shape->kv_heads;
    uint64_t blocks = s->o.lengths[s->o.n_lengths - 1] / SKV_BLOCK;
    uint64_t seed = s->o.seed ^ (m->from * heads + head) * 0xD1342543DE82EF95u;
    float base[512];
    assert(d <= 512);
    for (uint32_t i = 0; i < m->n; i++) {
        uint64_t token = m->from + i, block = token / SKV_BLOCK;
        size_t at = ((size_t)i * heads + head) * d;
        const float *noise = noise_row(s, &seed);
        if (token % SKV_PAGE == 0) {
            memset(base, 0, sizeof base);
            if (token % SKV_BLOCK / SKV_PAGE == page_on_line(s, head, block))
                code(s, s->place[head * blocks + block], base);
        }
        for (unsigned j = 0; j < d; j++)
            m->k[at + j] = base[j] + NOISE * noise[j];
        memcpy(m->v + at, noise_row(s, &seed), d * sizeof *m->v);
    }
}

void step_keys_make(const struct step_keys *s, uint64_t from, uint32_t n, struct pool *pool, float *k,
                    float *v)
{
    assert(from % SKV_BLOCK == 0 && n % SKV_BLOCK == 0 && from + n <= s->o.lengths[s->o.n_lengths - 1]);
    pool_run(pool, s->o.shape->kv_heads, make_head, &(struct making){s, from, n, k, v});
}

void step_keys_new_token(const struct step_keys *s, uint64_t *seed, float *k, float *v)
{
    unsigned d = s->o.shape->d;
    for (unsigned h = 0; h < s->o.shape->kv_heads; h++) {
        memcpy(k + h * d, noise_row(s, seed), d * sizeof *k);
        memcpy(v + h * d, noise_row(s, seed), d * sizeof *v);
    }
}

/* ---- queries ---- */

struct step_walk step_walk_begin(const struct step_keys *s, unsigned length, uint64_t seed)
{
    struct step_walk w = {.from = s->o.pages, .to = (double)(s->o.lengths[length] / SKV_BLOCK) - s->o.pages};
    w.place = w.from + (w.to - w.from) * (double)(next(&seed) >> 11) * 0x1p-53;
    return w;
}

void step_walk_on(const struct step_keys *s, struct step_walk *w, double share)
{
    w->place += share * s->o.pages;
    if (w->place > w->to)
        w->place = w->from;
}

void step_keys_query(const struct step_keys *s, const struct step_walk *w, float *q)
{
    const struct model_shape *m = s->o.shape;
    float scale = PEAK * sqrtf((float)m->d) / (float)(m->d / 2); /* |code|² is d / 2 */
    code(s, w->place, q);
    for (unsigned i = 0; i < m->d; i++)
        q[i] *= scale;
    /* the heads of a group look almost alike, so that their pages are the stretch that they share */
    for (unsigned h = m->heads; h-- > 0;)
        for (unsigned i = 0; i < m->d; i++)
            q[(size_t)h * m->d + i] = q[i] * (1 - 0.01f * (float)(h % (m->heads / m->kv_heads)));
}
