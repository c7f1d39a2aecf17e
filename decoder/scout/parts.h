/* parts.h: what some policies want kept of sealed blocks besides their representatives. A part is kept while
 * a context has a policy that needs it; it can be made at any time, from keys and values or from what else is
 * kept. */
#ifndef SCOUT_PARTS_H
#define SCOUT_PARTS_H

#include <stddef.h>
#include <stdint.h>

enum index_part {
    PART_BOX,    /* a page: smallest and largest value of each dim of its keys; f16 [256 pages][2][d_k] */
    PART_VALUE,  /* a block: the mean of its values; f16 [64 blocks][d_v] */
    PART_CELLS,  /* a stretch of 16 blocks: an inverted index (cells.h) */
    PART_COARSE, /* a stretch: summaries of eight blocks each (coarse.h); made from PART_VALUE too */
    PART_BALL,   /* a page: the two radii of bound.h; f32 [256 pages][2] */
    INDEX_PARTS
};
/* Blocks of a stretch: parts of stretches are made from what else is kept, once all of a stretch is there; of
 * one that is not full they say nothing. */
enum { PART_STRETCH = 16 };
static inline int part_of_stretch(enum index_part part)
{
    return part == PART_CELLS || part == PART_COARSE;
}

/* Bytes of a part for one KV head's 64 blocks. */
size_t part_bytes(enum index_part, unsigned d_k, unsigned d_v);
/* Adds block 0..63: k (64, d_k), v (64, d_v). Blocks come in order; one that comes again (after a truncate)
 * replaces itself and forgets all behind it. */
void part_add(enum index_part, unsigned d_k, unsigned d_v, unsigned block, const float *k, const float *v,
              void *part);
/* Makes what a part of stretches says of stretch 0..3, from the piece's representatives and other parts. */
struct far_piece;
void part_make(enum index_part, unsigned d_k, unsigned d_v, unsigned stretch, const struct far_piece *,
               void *part);

#endif
