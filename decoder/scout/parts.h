/* parts.h: what some policies want kept of sealed blocks besides their representatives. A part is kept while
 * a context has a policy that needs it; it can be made from keys and values at any time. */
#ifndef SCOUT_PARTS_H
#define SCOUT_PARTS_H

#include <stddef.h>
#include <stdint.h>

enum index_part {
    PART_BOX,   /* a page: smallest and largest value of each dim of its keys; f16 [256 pages][2][d_k] */
    PART_VALUE, /* a block: the mean of its values; f16 [64 blocks][d_v] */
    INDEX_PARTS
};

/* Bytes of a part for one KV head's 64 blocks. */
size_t part_bytes(enum index_part, unsigned d_k, unsigned d_v);
/* Adds block 0..63: k (64, d_k), v (64, d_v). Blocks come in order; one that comes again (after a truncate)
 * replaces itself and forgets all behind it. */
void part_add(enum index_part, unsigned d_k, unsigned d_v, unsigned block, const float *k, const float *v,
              void *part);

#endif
