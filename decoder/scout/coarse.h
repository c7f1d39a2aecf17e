/* coarse.h: what is kept of eight blocks together: a centre and a spread, as of a block (reps.h), and the
 * mean value. Made from those of the blocks. A coarse summary stands for the blocks of one group of block
 * representatives: who opens it reads that group. */
#ifndef SCOUT_COARSE_H
#define SCOUT_COARSE_H

#include <stddef.h>
#include <stdint.h>

enum { COARSE_BLOCKS = 8, COARSE_PIECE = 8 /* summaries of a piece */ };

/* Of a piece: one group of eight representatives; then their values. */
size_t coarse_bytes(unsigned d_k, unsigned d_v);
/* f16 [8][d_v] */
const uint16_t *coarse_values(unsigned d_k, const void *coarse);
/* Summary 0..7, from a group of eight block representatives and the blocks' mean values f16 [8][d_v]. */
void coarse_build(unsigned d_k, unsigned d_v, unsigned summary, const uint8_t *block_group,
                  const uint16_t *values, void *coarse);

#endif
