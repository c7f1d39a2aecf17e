/* buf.c: see buf.h. Struct and data are one allocation. */
#include "common/buf.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64 };

static void release_own(struct buf *b)
{
    free(b);
}

struct buf *buf_new(size_t len)
{
    static_assert(sizeof(struct buf) <= ALIGN, "the header takes one aligned unit");
    if (len > SIZE_MAX - 2 * ALIGN)
        return NULL;
    struct buf *b = aligned_alloc(ALIGN, (ALIGN + len + ALIGN - 1) / ALIGN * ALIGN);
    if (!b)
        return NULL;
    atomic_init(&b->refs, 1);
    b->n_rest = 0;
    b->rest = NULL;
    b->len = len;
    b->data = (uint8_t *)b + ALIGN;
    b->release = release_own;
    return b;
}

struct buf *buf_copy(const void *data, size_t len)
{
    struct buf *b = buf_new(len);
    if (b && len)
        memcpy(b->data, data, len);
    return b;
}

size_t view_len(const struct view *v)
{
    size_t len = 0;
    for (unsigned i = 0; i < view_parts(v); i++)
        len += view_part(v, i)->len;
    return len;
}

struct buf *view_copy(const struct view *v)
{
    struct buf *b = buf_new(view_len(v));
    size_t at = 0;
    for (unsigned i = 0; b && i < view_parts(v); i++) {
        memcpy(b->data + at, view_part(v, i)->data, view_part(v, i)->len);
        at += view_part(v, i)->len;
    }
    return b;
}

struct buf *buf_ref(struct buf *b)
{
    unsigned before = atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
    assert(before > 0);
    (void)before;
    return b;
}

void buf_unref(struct buf *b)
{
    if (b && atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel) == 1)
        b->release(b);
}
