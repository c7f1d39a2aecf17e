/* stream.h: reading a file from front to back at the speed of the disk: large pieces, several in flight.
 *
 * For store_verify, which reads everything and waits. What can't be read is found out piece by piece and
 * reads as zeros, so that one bad sector costs one sector: the checksums tell. */
#ifndef MEMNODE_STORE_STREAM_H
#define MEMNODE_STORE_STREAM_H

#include "memnode/store/io.h"

enum { STREAM_MOST = 256 << 10 }; /* bytes that one call may ask for: more than any page and any head */

struct stream;
struct stream *stream_new(struct io *); /* NULL: out of memory */
void stream_free(struct stream *);      /* waits for what is in flight; NULL is allowed */

/* Reads [0, end) of another file; end is a multiple of IO_ALIGN. */
void stream_start(struct stream *, int file, uint64_t end);
/* The bytes [offset, offset + len), valid until the next call. Offsets must not fall. */
const uint8_t *stream_get(struct stream *, uint64_t offset, size_t len);
/* Only the IO_ALIGN bytes at offset of a file, valid until the next call; NULL if they can't be read. The
 * stream must be started anew. */
const uint8_t *stream_page(struct stream *, int file, uint64_t offset);

#endif
