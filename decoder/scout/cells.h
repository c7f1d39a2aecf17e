/* cells.h: an inverted index over the keys of a stretch of blocks: what is alike lies in one cell, and a cell
 * lists the pages that have some of it.
 *
 * Its vectors are those of the pages' representatives: a page's centre speaks for its twelve inner keys, and
 * four outliers for themselves; so a page may be listed by up to five cells. Cells are k-means clusters. A
 * cell's centre is kept as a block's representative is (reps.h): the scout's kernel scores it, as the
 * estimated log mass of what is in it. */
#ifndef SCOUT_CELLS_H
#define SCOUT_CELLS_H

#include "decoder/scout/reps.h"

#include <stddef.h>
#include <stdint.h>

enum {
    CELLS = 16,         /* of a stretch */
    CELLS_BLOCKS = 16,  /* blocks of a stretch; */
    CELLS_PAGES = 64,   /* their pages */
    CELLS_STRETCHES = 4 /* of a piece of 64 blocks */
};

/* Of a piece: all stretches' centres, in groups of eight; then a list for each cell. */
size_t cells_bytes(unsigned d_k);
/* Page j of the stretch is listed if bit j is set. */
static inline const uint64_t *cells_lists(unsigned d_k, const void *cells)
{
    return (const uint64_t *)((const uint8_t *)cells + cells_bytes(d_k)) - CELLS_STRETCHES * CELLS;
}
/* Makes the cells of a stretch from all page representatives of the piece, or at least the stretch's. Bytes
 * are a function of those. */
void cells_build(unsigned d_k, unsigned stretch, enum reps_kind, const uint8_t *page_groups, void *cells);

#endif
