/* local.c: a block that has not left: as it was put, and where K and V are kept in few bits also as it will
 * be at rest. */
#include "decoder/context/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void bufs_free(unsigned n, struct buf **bufs)
{
    for (unsigned l = 0; bufs && l < n; l++)
        buf_unref(bufs[l]);
    free(bufs);
}

void local_block_free(const struct shape *s, struct local_block *b)
{
    if (b->rest != b->put)
        bufs_free(s->n_layers, b->rest);
    bufs_free(s->n_layers, b->put);
    *b = (struct local_block){0};
}

struct buf **local_block_seal(const struct shape *s, struct local_block *b)
{
    struct buf **rest = b->rest;
    if (rest != b->put)
        bufs_free(s->n_layers, b->put);
    *b = (struct local_block){0};
    return rest;
}

static struct buf **bufs_new(const struct shape *s, const struct block_layout *layouts)
{
    struct buf **bufs = calloc(s->n_layers, sizeof(struct buf *));
    for (unsigned l = 0; bufs && l < s->n_layers; l++) {
        bufs[l] = buf_new(layout_block_bytes(&layouts[l]));
        if (!bufs[l]) {
            bufs_free(l, bufs);
            return NULL;
        }
        memset(bufs[l]->data, 0, bufs[l]->len);
    }
    return bufs;
}

int local_block_new(const struct shape *s, struct local_block *b)
{
    b->put = bufs_new(s, s->put);
    b->rest = s->packed ? bufs_new(s, s->layouts) : b->put;
    if (b->put && b->rest)
        return 0;
    local_block_free(s, b);
    return -ENOMEM;
}

static struct buf **bufs_share(const struct shape *s, struct buf *const *from)
{
    struct buf **bufs = calloc(s->n_layers, sizeof(struct buf *));
    for (unsigned l = 0; bufs && l < s->n_layers; l++)
        bufs[l] = buf_ref(from[l]);
    return bufs;
}

int local_block_share(const struct shape *s, const struct local_block *from, struct local_block *b)
{
    b->put = bufs_share(s, from->put);
    b->rest = s->packed ? bufs_share(s, from->rest) : b->put;
    if (b->put && b->rest)
        return 0;
    local_block_free(s, b);
    return -ENOMEM;
}
