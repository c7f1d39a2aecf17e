/* identity.c: see identity.h. */
#include "common/identity.h"
#include "common/hash.h"

#define XXH_INLINE_ALL
#include <sodium.h>
#include <string.h>
#include <xxhash.h>

bool layout_valid(const struct block_layout *l)
{
    return l->dtype >= 1 && l->dtype <= 4 && l->d_k >= 1 && l->d_k <= 1024 && l->d_v >= 1 && l->d_v <= 1024 &&
           l->n_heads >= 1 && l->n_heads <= 1024;
}

bool layout_equal(const struct block_layout *a, const struct block_layout *b)
{
    return a->dtype == b->dtype && a->d_k == b->d_k && a->d_v == b->d_v && a->head0 == b->head0 &&
           a->n_heads == b->n_heads;
}

bool key_equal(const struct block_key *a, const struct block_key *b)
{
    return a->layer == b->layer && a->ns == b->ns && memcmp(a->chain, b->chain, CHAIN_BYTES) == 0;
}

/* Keys are hashed as packed little-endian bytes: struct padding must not enter. */
struct key_bytes {
    uint8_t b[8 + CHAIN_BYTES + 4 + 4 + 4];
};

static struct key_bytes pack_key(const struct block_key *k, uint32_t head, uint32_t page)
{
    struct key_bytes p;
    memcpy(p.b, &k->ns, 8);
    memcpy(p.b + 8, k->chain, CHAIN_BYTES);
    memcpy(p.b + 40, &k->layer, 4);
    memcpy(p.b + 44, &head, 4);
    memcpy(p.b + 48, &page, 4);
    return p;
}

uint64_t key_hash(const struct block_key *k)
{
    struct key_bytes p = pack_key(k, 0, 0);
    return XXH3_64bits(p.b, 44);
}

static uint64_t reverse_bits(uint64_t x)
{
    x = (x >> 1 & 0x5555555555555555u) | (x & 0x5555555555555555u) << 1;
    x = (x >> 2 & 0x3333333333333333u) | (x & 0x3333333333333333u) << 2;
    x = (x >> 4 & 0x0f0f0f0f0f0f0f0fu) | (x & 0x0f0f0f0f0f0f0f0fu) << 4;
    return __builtin_bswap64(x);
}

uint64_t key_position(const struct block_key *k)
{
    return reverse_bits(key_hash(k));
}

int key_compare(const struct block_key *a, const struct block_key *b)
{
    uint64_t at = key_position(a), other = key_position(b);
    int chain = memcmp(a->chain, b->chain, CHAIN_BYTES);
    if (at != other)
        return at < other ? -1 : 1;
    if (a->ns != b->ns)
        return a->ns < b->ns ? -1 : 1;
    return chain ? chain : (a->layer > b->layer) - (a->layer < b->layer);
}

uint64_t page_checksum(const struct block_key *k, uint32_t head, uint32_t page, const void *bytes, size_t len)
{
    struct key_bytes p = pack_key(k, head, page);
    return hash_seeded(bytes, len, XXH3_64bits(p.b, sizeof p.b));
}

uint64_t block_version(const struct block_layout *l, const uint64_t *checksums)
{
    uint64_t shape = (uint64_t)l->d_k << 48 | (uint64_t)l->d_v << 32 | (uint64_t)l->head0 << 16 | l->n_heads;
    return XXH3_64bits_withSeed(checksums, layout_pages(l) * sizeof *checksums, shape ^ l->dtype);
}

void block_checksums(const struct block_key *k, const struct block_layout *l, const void *payload,
                     uint64_t *out)
{
    const uint8_t *at = payload;
    size_t len = layout_page_bytes(l);
    for (uint32_t h = 0; h < l->n_heads; h++)
        for (uint32_t p = 0; p < BLOCK_PAGES; p++, at += len)
            *out++ = page_checksum(k, l->head0 + h, p, at, len);
}

static_assert(sizeof(crypto_generichash_state) <= sizeof(((struct identity *)0)->state),
              "room for the state");

void identity_begin(struct identity *id, const char *domain)
{
    crypto_generichash_init((crypto_generichash_state *)id->state, NULL, 0, CHAIN_BYTES);
    identity_add(id, domain, strlen(domain));
}

void identity_add(struct identity *id, const void *bytes, size_t len)
{
    uint64_t n = len;
    crypto_generichash_update((crypto_generichash_state *)id->state, (const uint8_t *)&n, sizeof n);
    crypto_generichash_update((crypto_generichash_state *)id->state, bytes, len);
}

void identity_add_u64(struct identity *id, uint64_t v)
{
    identity_add(id, &v, sizeof v);
}

void identity_end(struct identity *id, uint8_t out[CHAIN_BYTES])
{
    crypto_generichash_final((crypto_generichash_state *)id->state, out, CHAIN_BYTES);
}
