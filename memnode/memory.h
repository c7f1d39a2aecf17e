/* memory.h: every byte that a memory node may use, behind one budget (--ram).
 *
 * DESIGN. The budget has two parts. Replies on their way (gathered pages that zmq still references) get an
 * eighth, at most 256 MiB, so that a store that is full can still be read; blocks, objects and what is kept
 * about them get the rest. Bytes count until their last reference is dropped, which may happen on any thread
 * and even after memory_free.
 *
 * Blocks lie in spans: mappings cut into equal slots, one slot size each. Blocks of one deployment have few
 * different sizes, so little is wasted, and a span that empties makes room for blocks of any size: dropping
 * a context of one model makes room for one of another. A few mappings are kept for the next span, and given
 * up when anything else needs their bytes; the rest goes back to the system. A block larger than an eighth of
 * a span is a mapping of its own. What is counted are the mapped bytes, so peak RSS stays below the budget.
 */
#ifndef MEMNODE_MEMORY_H
#define MEMNODE_MEMORY_H

#include "common/buf.h"

#include <stdbool.h>

struct memory;

enum memory_use { MEMORY_STORE, MEMORY_REPLIES };

struct memory *memory_new(uint64_t ram); /* NULL when out of memory */
void memory_free(struct memory *);       /* NULL is allowed; lives on until the last buf is released */

/* All answer NULL or false when the budget (or the machine) has no room. */
struct buf *memory_block(struct memory *, size_t len); /* for MEMORY_STORE; 4096-byte aligned, and padded */
struct buf *memory_buf(struct memory *, enum memory_use, size_t len); /* from the heap */
struct buf *memory_pages(struct memory *, size_t len); /* for MEMORY_REPLIES; 4096-byte aligned: for disks */
bool memory_charge(struct memory *, size_t len);       /* what is kept about blocks */
void memory_uncharge(struct memory *, size_t len);

/* Copies past the processor's caches: for bytes that go on to a disk, and would drive out what is looked at.
 */
void memory_stream(void *to, const void *from, size_t len);

uint64_t memory_used(struct memory *, enum memory_use);
uint64_t memory_limit(const struct memory *, enum memory_use);

#endif
