/* shelf.h: where the block representatives of neighbouring spans lie, so that a scan reads those of one KV
 * head in a row: 78 KB at 128 dims, where spans lie megabytes apart. Memory that no span uses is not there
 * yet. */
#ifndef CONTEXT_SHELF_H
#define CONTEXT_SHELF_H

#include <stddef.h>
#include <stdint.h>

enum { SHELF_SPANS = 16 };

struct shape;
struct shelf {
    unsigned refs;  /* spans that have a place here */
    unsigned taken; /* bit a place */
    size_t bytes;
    _Alignas(64) uint8_t data[]; /* per layer and KV head: groups of blocks [SHELF_SPANS][8] */
};

/* That place of a shelf, if it is free there, or of a new one; NULL: no memory. beside may be NULL. */
struct shelf *shelf_take(const struct shape *, struct shelf *beside, unsigned place);
void shelf_give(struct shelf *, unsigned place);
/* The groups of one place, layer and KV head. */
uint8_t *shelf_groups(const struct shape *, struct shelf *, unsigned place, unsigned layer, unsigned head);

#endif
