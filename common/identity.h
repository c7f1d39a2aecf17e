/* identity.h: what a block is called, and what tells one version of its bytes from another.
 *
 * A key is a place, a checksum is a version. root = BLAKE2b(model, layout version, dtype, B, recipe, salt);
 * chain_i = BLAKE2b(chain_{i-1}, the ids or tags of block i, and the decode recipe if the block holds a
 * decoded token); key = (namespace, chain_i, layer). The same prefix under the same model and recipe gets
 * the same keys on every machine. */
#ifndef COMMON_IDENTITY_H
#define COMMON_IDENTITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    BLOCK_TOKENS = 64,
    PAGE_TOKENS = 16,
    BLOCK_PAGES = BLOCK_TOKENS / PAGE_TOKENS,
    CHAIN_BYTES = 32,
    LAYOUT_VERSION = 1,          /* of a block's bytes; part of the root */
    LAYER_RESERVED = 0x7fff0000, /* from here on: blocks that a memory node keeps for itself */
};

struct block_key {
    uint64_t ns;                /* namespace (tenant); 0 by default */
    uint8_t chain[CHAIN_BYTES]; /* names the tokens up to and including this block */
    uint32_t layer;
};

enum { KV_GROUP = 32 }; /* dims of a token that share a scale, where K and V have few bits */

/* The shape of a block's payload: n_heads slices in order; per slice 4 pages; per page the keys of 16 tokens,
 * then their values: K[16][d_k], V[16][d_v] in f16 and f32, and in few bits as kernels/kv_types.h has it. */
struct block_layout {
    uint8_t dtype; /* enum skv_dtype: 1 f16, 2 f32, 3 q8_0, 4 q4 */
    uint16_t d_k, d_v;
    uint16_t head0;   /* first KV head held here (tensor parallel) */
    uint16_t n_heads; /* KV heads held here */
};

static inline size_t kv_groups(size_t d) /* scales of d dims */
{
    return (d + KV_GROUP - 1) / KV_GROUP;
}
static inline size_t layout_page_bytes(const struct block_layout *l)
{
    const size_t k = l->d_k, v = l->d_v;
    switch (l->dtype) {
    case 4:
        return 4 * k + PAGE_TOKENS * ((k + 1) / 2 + 4 * kv_groups(v) + (v + 1) / 2);
    case 3:
        return PAGE_TOKENS * (k + 2 * kv_groups(k) + v + 2 * kv_groups(v));
    default:
        return PAGE_TOKENS * (k + v) * (l->dtype == 2 ? 4 : 2);
    }
}
static inline size_t layout_pages(const struct block_layout *l)
{
    return (size_t)l->n_heads * BLOCK_PAGES;
}
static inline size_t layout_block_bytes(const struct block_layout *l)
{
    return layout_pages(l) * layout_page_bytes(l);
}
/* False for shapes that no writer makes: unknown dtype, zero or absurd sizes. */
bool layout_valid(const struct block_layout *);
bool layout_equal(const struct block_layout *, const struct block_layout *); /* by field: it has padding */

bool key_equal(const struct block_key *, const struct block_key *);
uint64_t key_hash(const struct block_key *); /* XXH3 of namespace, chain and layer */

/* The order in which nodes list blocks: of the hash's bits from the lowest to the highest, so that it is the
 * order of a hash table's buckets however many there are; then of the keys' bytes. key_position is the first
 * of these. */
uint64_t key_position(const struct block_key *);
int key_compare(const struct block_key *, const struct block_key *); /* < 0, 0, > 0 */

/* The 8-byte checksum of one page: XXH3 seeded with key, head (absolute: head0 + slice) and page (0..3). */
uint64_t page_checksum(const struct block_key *, uint32_t head, uint32_t page, const void *bytes, size_t len);
/* Checksums of all pages of a block, in payload order: out[layout_pages(l)]. */
void block_checksums(const struct block_key *, const struct block_layout *l, const void *payload,
                     uint64_t *out);

/* One number for layout and checksums: differs between versions of a block. */
uint64_t block_version(const struct block_layout *, const uint64_t *checksums);

/* BLAKE2b-256 over tagged, length-prefixed fields, so that no two field lists collide. */
struct identity {
    _Alignas(64) uint8_t state[384]; /* crypto_generichash_state */
};
void identity_begin(struct identity *, const char *domain);
void identity_add(struct identity *, const void *bytes, size_t len);
void identity_add_u64(struct identity *, uint64_t);
void identity_end(struct identity *, uint8_t out[CHAIN_BYTES]);

#endif
