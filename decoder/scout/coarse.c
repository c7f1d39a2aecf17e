/* coarse.c: see coarse.h. Plain C with a fixed order of additions, as in reps.c. */
#include "decoder/scout/coarse.h"
#include "decoder/kernels/kernels.h"
#include "decoder/scout/reps.h"

#include <assert.h>

enum { MAX_DIMS = 1024 };

_Static_assert((int)COARSE_BLOCKS == (int)REPS_LANES, "a summary's blocks are a group");

size_t coarse_bytes(unsigned d_k, unsigned d_v)
{
    return reps_group_bytes(REPS_BLOCK, d_k) + (size_t)COARSE_PIECE * d_v * sizeof(uint16_t);
}

const uint16_t *coarse_values(unsigned d_k, const void *coarse)
{
    return (const uint16_t *)((const uint8_t *)coarse + reps_group_bytes(REPS_BLOCK, d_k));
}

/* The mean of the blocks' centres; the spread is what blocks scatter within, and their centres around it. */
static void summarise_keys(unsigned d_k, unsigned summary, const uint8_t *block_group, uint8_t *group)
{
    float mean[MAX_DIMS] = {0}, x[MAX_DIMS], spread = 0;
    for (unsigned b = 0; b < COARSE_BLOCKS; b++) {
        reps_get_vec(REPS_BLOCK, d_k, block_group, b, 0, x);
        for (unsigned i = 0; i < d_k; i++)
            mean[i] += x[i] / (float)COARSE_BLOCKS;
    }
    for (unsigned b = 0; b < COARSE_BLOCKS; b++) {
        float apart = 0;
        reps_get_vec(REPS_BLOCK, d_k, block_group, b, 0, x);
        for (unsigned i = 0; i < d_k; i++)
            apart += (x[i] - mean[i]) * (x[i] - mean[i]);
        spread +=
            (apart / (float)d_k + reps_get_spread(REPS_BLOCK, d_k, block_group, b)) / (float)COARSE_BLOCKS;
    }
    reps_put_summary(d_k, mean, spread, COARSE_BLOCKS * REPS_BLOCK_KEYS, group, summary);
}

void coarse_build(unsigned d_k, unsigned d_v, unsigned summary, const uint8_t *block_group,
                  const uint16_t *values, void *coarse)
{
    assert(d_k <= MAX_DIMS && d_v <= MAX_DIMS && summary < COARSE_PIECE);
    float mean[MAX_DIMS] = {0}, x[MAX_DIMS];
    summarise_keys(d_k, summary, block_group, coarse);
    for (unsigned b = 0; b < COARSE_BLOCKS; b++) {
        kernels_get()->f16_to_f32(d_v, values + (size_t)b * d_v, x);
        for (unsigned i = 0; i < d_v; i++)
            mean[i] += x[i] / (float)COARSE_BLOCKS;
    }
    kernels_get()->f32_to_f16(d_v, mean,
                              (uint16_t *)(uintptr_t)coarse_values(d_k, coarse) + (size_t)summary * d_v);
}
