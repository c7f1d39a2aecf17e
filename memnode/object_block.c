/* object_block.c: see object_block.h. */
#include "memnode/object_block.h"

#include <string.h>

enum { SLICE = BLOCK_PAGES * OBJECT_PAGE };
static const uint8_t magic[8] = "SKVOBJ01";

void object_block_key(struct block_key *key, uint64_t ns, unsigned kind, const char *name, unsigned slot)
{
    struct identity id;
    identity_begin(&id, "scoutkv object");
    identity_add_u64(&id, kind);
    identity_add(&id, name, strlen(name));
    *key = (struct block_key){.ns = ns, .layer = LAYER_RESERVED + slot};
    identity_end(&id, key->chain);
}

void object_block_layout(struct block_layout *l, size_t len)
{
    size_t slices = (OBJECT_HEAD + len + SLICE - 1) / SLICE;
    *l = (struct block_layout){.dtype = 1, .d_k = 64, .d_v = 64, .n_heads = (uint16_t)slices};
}

void object_block_fill(uint8_t *block, const struct object_head *h, const void *bytes)
{
    struct block_layout l;
    struct object_head head = *h;
    object_block_layout(&l, h->len);
    memcpy(head.magic, magic, sizeof magic);
    memset(block, 0, OBJECT_HEAD);
    memcpy(block, &head, sizeof head);
    if (h->len)
        memcpy(block + OBJECT_HEAD, bytes, h->len);
    memset(block + OBJECT_HEAD + h->len, 0, layout_block_bytes(&l) - OBJECT_HEAD - h->len);
}

bool object_block_head(const void *page, const struct block_key *key, struct object_head *h)
{
    struct block_key own;
    memcpy(h, page, sizeof *h);
    if (memcmp(h->magic, magic, sizeof magic) != 0 || h->name[OBJECT_NAME_MAX] || !h->name[0])
        return false;
    object_block_key(&own, key->ns, h->kind, h->name, object_block_slot(key));
    return key_equal(&own, key);
}
