/* rope.h: rotary positions.
 *
 * Pair i of a head turns by position · freq[i]. Angles are made in double: at position 10⁶ a float angle
 * would be off by 0.06 rad. The table of a pass holds cos and sin as f32, shared by all its layers and heads.
 */
#ifndef DECODER_MODEL_ROPE_H
#define DECODER_MODEL_ROPE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/pool.h"

/* Where the two dims of pair i of n_pairs lie. */
enum rope_order {
    ROPE_NEIGHBOURS, /* 2i and 2i+1: llama */
    ROPE_HALVES,     /* i and i + n_pairs: qwen2 ("NEOX") */
};

/* table (n, n_pairs, 2): cos and sin of (position + t) · freq[i]. */
void rope_table(struct pool *, uint64_t position, uint32_t n, uint32_t n_pairs, const double *freq,
                float *table);

/* Turns the first 2·n_pairs dims of each of n_heads heads of one token: x (n_heads, d). angles (n_pairs, 2).
 */
void rope_apply(enum rope_order, uint32_t n_heads, uint32_t d, uint32_t n_pairs, const float *angles,
                float *x);

#endif
