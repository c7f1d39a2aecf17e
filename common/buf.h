/* buf.h: reference-counted immutable bytes, shared between the store, the wire and the client.
 *
 * Whoever holds a reference may read; nobody writes once a second reference exists. References may be
 * dropped on any thread (zmq frees messages on its own). */
#ifndef COMMON_BUF_H
#define COMMON_BUF_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct view;

struct buf {
    atomic_uint refs;
    unsigned n_rest;
    size_t len;
    uint8_t *data;
    void (*release)(struct buf *); /* called with the last reference; frees data and the struct */
    const struct view *rest;       /* [n_rest]: further parts of a payload, behind a view of this buf */
};

/* A part of a buf. owner may be NULL for bytes that somebody else keeps alive meanwhile. */
struct view {
    const uint8_t *data;
    size_t len;
    struct buf *owner;
};

/* The payload of a message may lie in several parts: a view, and the rest of its owner. */
static inline unsigned view_parts(const struct view *v)
{
    return v->len == 0 ? 0 : v->owner ? 1 + v->owner->n_rest : 1;
}
static inline const struct view *view_part(const struct view *v, unsigned i)
{
    return i == 0 ? v : &v->owner->rest[i - 1];
}
size_t view_len(const struct view *); /* of all parts */
/* All parts in one buf; NULL when out of memory. */
struct buf *view_copy(const struct view *);

struct buf *buf_new(size_t len);                    /* 64-byte aligned, not zeroed; NULL when out of memory */
struct buf *buf_copy(const void *data, size_t len); /* NULL when out of memory */
struct buf *buf_ref(struct buf *);                  /* returns its argument */
void buf_unref(struct buf *);                       /* NULL is allowed */

#endif
