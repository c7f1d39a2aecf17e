/* parts.c: see parts.h. */
#include "decoder/scout/parts.h"
#include "decoder/kernels/kernels.h"
#include "decoder/scout/bound.h"
#include "decoder/scout/cells.h"
#include "decoder/scout/coarse.h"
#include "decoder/scout/policy.h"
#include "decoder/scout/reps.h"

#include <assert.h>

enum { MAX_DIMS = 1024 };

_Static_assert((int)CELLS_BLOCKS == (int)PART_STRETCH, "cells are a part of stretches");

static void box_add(unsigned d_k, unsigned block, const float *k, uint16_t *boxes)
{
    for (unsigned p = 0; p < REPS_BLOCK_KEYS / REPS_PAGE_KEYS; p++, k += (size_t)REPS_PAGE_KEYS * d_k) {
        float low[MAX_DIMS], high[MAX_DIMS];
        for (unsigned i = 0; i < d_k; i++)
            low[i] = high[i] = k[i];
        for (unsigned t = 1; t < REPS_PAGE_KEYS; t++)
            for (unsigned i = 0; i < d_k; i++) {
                float x = k[(size_t)t * d_k + i];
                low[i] = x < low[i] ? x : low[i];
                high[i] = x > high[i] ? x : high[i];
            }
        uint16_t *box = boxes + ((size_t)block * 4 + p) * 2 * d_k;
        kernels_get()->f32_to_f16(d_k, low, box);
        kernels_get()->f32_to_f16(d_k, high, box + d_k);
    }
}

static void value_add(unsigned d_v, unsigned block, const float *v, uint16_t *means)
{
    float mean[MAX_DIMS] = {0};
    for (unsigned t = 0; t < REPS_BLOCK_KEYS; t++)
        for (unsigned i = 0; i < d_v; i++)
            mean[i] += v[(size_t)t * d_v + i];
    for (unsigned i = 0; i < d_v; i++)
        mean[i] /= (float)REPS_BLOCK_KEYS;
    kernels_get()->f32_to_f16(d_v, mean, means + (size_t)block * d_v);
}

size_t part_bytes(enum index_part part, unsigned d_k, unsigned d_v)
{
    switch (part) {
    case PART_BOX:
        return (size_t)PIECE_PAGES * 2 * d_k * sizeof(uint16_t);
    case PART_VALUE:
        return (size_t)PIECE_BLOCKS * d_v * sizeof(uint16_t);
    case PART_CELLS:
        return cells_bytes(d_k);
    case PART_COARSE:
        return coarse_bytes(d_k, d_v);
    case PART_BALL:
        return PIECE_PAGES * 2 * sizeof(float);
    default:
        return 0;
    }
}

void part_add(enum index_part part, unsigned d_k, unsigned d_v, unsigned block, const float *k,
              const float *v, void *out)
{
    assert(block < PIECE_BLOCKS && d_k <= MAX_DIMS && d_v <= MAX_DIMS);
    if (part == PART_BOX)
        box_add(d_k, block, k, out);
    else if (part == PART_VALUE)
        value_add(d_v, block, v, out);
    else if (part == PART_BALL)
        bound_radii(d_k, k, (float *)out + (size_t)block * REPS_BLOCK_KEYS / REPS_PAGE_KEYS * 2);
}

static void coarse_make(unsigned d_k, unsigned d_v, unsigned stretch, const struct far_piece *piece,
                        void *out)
{
    const uint16_t *values = piece->part[PART_VALUE];
    const unsigned n = PART_STRETCH / COARSE_BLOCKS;
    assert(values);
    for (unsigned i = stretch * n; i < (stretch + 1) * n; i++)
        coarse_build(d_k, d_v, i, piece->block_groups + i * reps_group_bytes(REPS_BLOCK, d_k),
                     values + (size_t)i * COARSE_BLOCKS * d_v, out);
}

void part_make(enum index_part part, unsigned d_k, unsigned d_v, unsigned stretch,
               const struct far_piece *piece, void *out)
{
    assert(stretch < PIECE_BLOCKS / PART_STRETCH);
    if (part == PART_CELLS)
        cells_build(d_k, stretch, piece->page_kind, piece->page_groups, out);
    else if (part == PART_COARSE)
        coarse_make(d_k, d_v, stretch, piece, out);
}
