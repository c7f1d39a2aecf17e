/* object_block.h: how an object lies in a block of the store: which key, which layout, which bytes.
 *
 * A head with everything that is known about it, then its bytes, then zeros, as one slice after another of
 * f16 pages of 4 KiB: one page tells what a block is. Two keys belong to a name, its slots: a new version
 * goes into the one that the current version is not in, and the current one goes when the new one is on the
 * medium. */
#ifndef MEMNODE_OBJECT_BLOCK_H
#define MEMNODE_OBJECT_BLOCK_H

#include "common/identity.h"

enum {
    OBJECT_NAME_MAX = 255,
    OBJECT_HEAD = 512,   /* the bytes begin here */
    OBJECT_PAGE = 4096,  /* of the store */
    OBJECT_PAGES = 1040, /* of a block, at most: for an object of 1 MiB */
};

/* What the first page begins with. */
struct object_head {
    uint8_t magic[8];
    uint64_t revision;
    uint64_t serial;   /* of two versions with one revision (its end was moved) the later counts */
    uint64_t checksum; /* object_checksum() of the bytes */
    uint64_t end_wall; /* nanoseconds since 1970; 0: for ever */
    uint32_t kind;     /* Scoutkv__ObjectKind */
    uint32_t len;
    uint32_t dropped; /* 0 or 1: only the mark of a drop */
    uint32_t reserved;
    char name[OBJECT_NAME_MAX + 1];
};
_Static_assert(sizeof(struct object_head) == 312 && sizeof(struct object_head) <= OBJECT_HEAD, "on disk");

void object_block_key(struct block_key *, uint64_t ns, unsigned kind, const char *name, unsigned slot);
static inline unsigned object_block_slot(const struct block_key *k)
{
    return k->layer - LAYER_RESERVED;
}
void object_block_layout(struct block_layout *, size_t len);
/* Fills a block (layout_block_bytes) with head and bytes. */
void object_block_fill(uint8_t *block, const struct object_head *, const void *bytes);
/* False when this is not the head of an object that belongs under this key. */
bool object_block_head(const void *page, const struct block_key *, struct object_head *);

#endif
