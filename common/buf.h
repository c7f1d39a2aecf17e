/* buf.h: reference-counted immutable bytes, shared between the store, the wire and the client.
 *
 * Whoever holds a reference may read; nobody writes once a second reference exists. References may be
 * dropped on any thread (zmq frees messages on its own). */
#ifndef COMMON_BUF_H
#define COMMON_BUF_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct buf {
    atomic_uint refs;
    size_t len;
    uint8_t *data;
    void (*release)(struct buf *); /* called with the last reference; frees data and the struct */
};

/* A part of a buf. owner may be NULL for bytes that somebody else keeps alive meanwhile. */
struct view {
    const uint8_t *data;
    size_t len;
    struct buf *owner;
};

struct buf *buf_new(size_t len);                    /* 64-byte aligned, not zeroed; NULL when out of memory */
struct buf *buf_copy(const void *data, size_t len); /* NULL when out of memory */
struct buf *buf_ref(struct buf *);                  /* returns its argument */
void buf_unref(struct buf *);                       /* NULL is allowed */

#endif
