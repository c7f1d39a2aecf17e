/* rope.c: see rope.h. */
#include "decoder/model/rope.h"

#include <assert.h>
#include <math.h>
#include <stddef.h>

struct table_job {
    uint64_t position;
    uint32_t n, n_pairs;
    const double *freq;
    float *table;
};

enum { TABLE_TOKENS = 64 };

static void table_part(void *arg, unsigned part)
{
    const struct table_job *job = arg;
    uint32_t from = part * TABLE_TOKENS, to = from + TABLE_TOKENS < job->n ? from + TABLE_TOKENS : job->n;
    for (uint32_t t = from; t < to; t++)
        for (uint32_t i = 0; i < job->n_pairs; i++) {
            double turn = (double)(job->position + t) * job->freq[i]; /* cos and sin reduce it exactly */
            float *cs = job->table + 2 * ((size_t)t * job->n_pairs + i);
            cs[0] = (float)cos(turn);
            cs[1] = (float)sin(turn);
        }
}

void rope_table(struct pool *pool, uint64_t position, uint32_t n, uint32_t n_pairs, const double *freq,
                float *table)
{
    struct table_job job = {position, n, n_pairs, freq, table};
    pool_run(n > TABLE_TOKENS ? pool : NULL, (n + TABLE_TOKENS - 1) / TABLE_TOKENS, table_part, &job);
}

void rope_apply(enum rope_order order, uint32_t n_heads, uint32_t d, uint32_t n_pairs, const float *angles,
                float *x)
{
    assert(2 * n_pairs <= d);
    uint32_t step = order == ROPE_NEIGHBOURS ? 2 : 1, apart = order == ROPE_NEIGHBOURS ? 1 : n_pairs;
    for (uint32_t h = 0; h < n_heads; h++, x += d)
        for (uint32_t i = 0; i < n_pairs; i++) {
            float *a = x + step * i, *b = a + apart, c = angles[2 * i], s = angles[2 * i + 1];
            float turned = *a * c - *b * s;
            *b = *a * s + *b * c;
            *a = turned;
        }
}
