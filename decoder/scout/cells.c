/* cells.c: see cells.h. Plain C with a fixed order of additions, as in reps.c. */
#include "decoder/scout/cells.h"
#include "decoder/scout/reps.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { MAX_DIMS = 1024, MAX_VECS = 1 + REPS_MANY_OUTLIERS, ROUNDS = 4, SPREAD_SEEDS = 8 };

/* A stretch while its clusters form. */
struct clusters {
    unsigned d_k, n_vecs; /* of a page */
    enum reps_kind kind;
    const uint8_t *groups; /* of its pages */
    float centre[CELLS * MAX_DIMS], half_square[CELLS], sum[CELLS * MAX_DIMS];
    unsigned keys[CELLS]; /* that a cell's vectors speak for */
    uint8_t cell[CELLS_PAGES * MAX_VECS];
};

size_t cells_bytes(unsigned d_k)
{
    return CELLS_STRETCHES *
           (CELLS / REPS_LANES * reps_group_bytes(REPS_BLOCK, d_k) + CELLS * sizeof(uint64_t));
}

static const uint8_t *group_of(const struct clusters *c, unsigned page)
{
    return c->groups + page / REPS_LANES * reps_group_bytes(c->kind, c->d_k);
}

static void vec_of(const struct clusters *c, unsigned page, unsigned vec, float *x)
{
    reps_get_vec(c->kind, c->d_k, group_of(c, page), page % REPS_LANES, vec, x);
}

static unsigned keys_of(const struct clusters *c, unsigned vec)
{
    return vec ? 1 : REPS_PAGE_KEYS + 1 - c->n_vecs;
}

static float dot(unsigned n, const float *a, const float *b)
{
    float sum[8] = {0};
    for (unsigned i = 0; i < n; i += 8)
        for (unsigned j = 0; j < 8; j++)
            sum[j] += a[i + j] * b[i + j];
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

/* |x - c|² is smallest where x·c - |c|²/2 is largest; the first cell on a tie. */
static unsigned nearest(const struct clusters *c, const float *x)
{
    unsigned best = 0;
    float most = 0;
    for (unsigned i = 0; i < CELLS; i++) {
        float closeness = dot(c->d_k, x, c->centre + (size_t)i * c->d_k) - c->half_square[i];
        if (i == 0 || closeness > most) {
            most = closeness;
            best = i;
        }
    }
    return best;
}

/* Every vector goes to the nearest centre, where they are summed: all alike, for the sake of outliers. */
static void assign(struct clusters *c)
{
    unsigned n[CELLS] = {0};
    float x[MAX_DIMS];
    memset(c->sum, 0, (size_t)CELLS * c->d_k * sizeof *c->sum);
    memset(c->keys, 0, sizeof c->keys);
    for (unsigned i = 0; i < CELLS; i++)
        c->half_square[i] =
            0.5f * dot(c->d_k, c->centre + (size_t)i * c->d_k, c->centre + (size_t)i * c->d_k);
    for (unsigned page = 0; page < CELLS_PAGES; page++)
        for (unsigned vec = 0; vec < c->n_vecs; vec++) {
            vec_of(c, page, vec, x);
            unsigned cell = nearest(c, x);
            c->cell[page * c->n_vecs + vec] = (uint8_t)cell;
            c->keys[cell] += keys_of(c, vec);
            n[cell]++;
            for (unsigned i = 0; i < c->d_k; i++)
                c->sum[(size_t)cell * c->d_k + i] += x[i];
        }
    for (unsigned cell = 0; cell < CELLS; cell++)
        for (unsigned i = 0; n[cell] && i < c->d_k; i++)
            c->sum[(size_t)cell * c->d_k + i] /= (float)n[cell];
}

/* The first centres: vectors from all over the stretch, of pages' centres and of outliers; then, time and
 * again, the vector that is farthest from all of them, so that what stands apart gets a cell of its own. */
static void seed(struct clusters *c)
{
    float x[MAX_DIMS], distance[CELLS_PAGES * MAX_VECS];
    for (unsigned i = 0; i < CELLS_PAGES * c->n_vecs; i++)
        distance[i] = INFINITY;
    for (unsigned cell = 0, next = 0; cell < CELLS; cell++) {
        float *centre = c->centre + (size_t)cell * c->d_k;
        if (cell < SPREAD_SEEDS)
            next = cell * (CELLS_PAGES / SPREAD_SEEDS) * c->n_vecs + cell % c->n_vecs;
        vec_of(c, next / c->n_vecs, next % c->n_vecs, centre);
        next = 0;
        for (unsigned i = 0; i < CELLS_PAGES * c->n_vecs; i++) {
            vec_of(c, i / c->n_vecs, i % c->n_vecs, x);
            for (unsigned j = 0; j < c->d_k; j++)
                x[j] -= centre[j];
            float d = dot(c->d_k, x, x);
            distance[i] = d < distance[i] ? d : distance[i];
            next = distance[i] > distance[next] ? i : next;
        }
    }
}

static void settle(struct clusters *c)
{
    seed(c);
    assign(c);
    for (unsigned round = 1; round < ROUNDS; round++) {
        for (unsigned cell = 0; cell < CELLS; cell++)
            if (c->keys[cell])
                memcpy(c->centre + (size_t)cell * c->d_k, c->sum + (size_t)cell * c->d_k,
                       c->d_k * sizeof *c->centre);
        assign(c);
    }
}

/* Mean square per dim, over the keys, of the distance from their cell's mean. */
static void spread_of(const struct clusters *c, float *spread)
{
    float x[MAX_DIMS];
    memset(spread, 0, CELLS * sizeof *spread);
    for (unsigned page = 0; page < CELLS_PAGES; page++)
        for (unsigned vec = 0; vec < c->n_vecs; vec++) {
            unsigned cell = c->cell[page * c->n_vecs + vec];
            float inner = vec ? 0.0f : reps_get_spread(c->kind, c->d_k, group_of(c, page), page % REPS_LANES);
            vec_of(c, page, vec, x);
            for (unsigned i = 0; i < c->d_k; i++)
                x[i] -= c->sum[(size_t)cell * c->d_k + i];
            spread[cell] += (float)keys_of(c, vec) * (dot(c->d_k, x, x) / (float)c->d_k + inner);
        }
    for (unsigned cell = 0; cell < CELLS; cell++)
        spread[cell] = c->keys[cell] ? spread[cell] / (float)c->keys[cell] : 0.0f;
}

void cells_build(unsigned d_k, unsigned stretch, enum reps_kind kind, const uint8_t *page_groups, void *cells)
{
    assert(d_k <= MAX_DIMS && stretch < CELLS_STRETCHES && reps_vecs(kind) <= MAX_VECS);
    struct clusters c = {.d_k = d_k,
                         .n_vecs = reps_vecs(kind),
                         .kind = kind,
                         .groups = page_groups +
                                   stretch * (CELLS_PAGES / REPS_LANES) * reps_group_bytes(kind, d_k)};
    float spread[CELLS];
    uint8_t *groups = (uint8_t *)cells + stretch * (CELLS / REPS_LANES) * reps_group_bytes(REPS_BLOCK, d_k);
    uint64_t *lists = (uint64_t *)(uintptr_t)cells_lists(d_k, cells) + stretch * CELLS;
    settle(&c);
    spread_of(&c, spread);
    memset(lists, 0, CELLS * sizeof *lists);
    for (unsigned i = 0; i < CELLS_PAGES * c.n_vecs; i++)
        lists[c.cell[i]] |= UINT64_C(1) << (i / c.n_vecs);
    for (unsigned cell = 0; cell < CELLS; cell++) {
        uint8_t *group = groups + cell / REPS_LANES * reps_group_bytes(REPS_BLOCK, d_k);
        reps_lane_clear(REPS_BLOCK, d_k, group, cell % REPS_LANES);
        if (c.keys[cell])
            reps_put_summary(d_k, c.sum + (size_t)cell * d_k, spread[cell], c.keys[cell], group,
                             cell % REPS_LANES);
    }
}
