/* load_blocks.c: see load_blocks.h. */
#include "decoder/cli/load_blocks.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    BYTES_PER_DIM = BLOCK_TOKENS * 2 * 2, /* K and V of one dimension, f16 */
    MOST_DIMS = 128,                      /* then pages have 8 KiB */
    MOST_HEADS = 1024,
};

int load_layout(uint64_t size, struct block_layout *out, struct skv_error *err)
{
    uint64_t dims = size / BYTES_PER_DIM, d = MOST_DIMS;
    if (size % BYTES_PER_DIM || dims == 0 || dims > MOST_DIMS * MOST_HEADS)
        return skv_fail(err, -EINVAL, "blocks have a multiple of %d bytes, not %" PRIu64, BYTES_PER_DIM,
                        size);
    while (dims % d)
        d--;
    if (dims / d > MOST_HEADS)
        return skv_fail(err, -EINVAL, "no block has exactly %" PRIu64 " bytes; try a power of two", size);
    *out = (struct block_layout){
        .dtype = 1, .d_k = (uint16_t)d, .d_v = (uint16_t)d, .n_heads = (uint16_t)(dims / d)};
    return 0;
}

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void load_key(const struct block_layout *l, uint64_t ns, uint64_t seed, uint64_t i, struct block_key *key)
{
    struct identity id;
    *key = (struct block_key){.ns = ns};
    identity_begin(&id, "scoutkv load");
    identity_add_u64(&id, seed);
    identity_add_u64(&id, i);
    identity_add_u64(&id, layout_block_bytes(l));
    identity_end(&id, key->chain);
}

int load_block(const struct block_layout *l, uint64_t ns, uint64_t seed, uint64_t i, struct block_key *key,
               struct buf **payload, uint64_t *checksums)
{
    size_t len = layout_block_bytes(l);
    if (!(*payload = buf_new(len)))
        return -ENOMEM;
    load_key(l, ns, seed, i, key);
    uint64_t state;
    memcpy(&state, key->chain, sizeof state);
    for (size_t at = 0; at < len; at += sizeof state) { /* blocks are multiples of 256 bytes */
        uint64_t word = next_random(&state);
        memcpy((*payload)->data + at, &word, sizeof word);
    }
    block_checksums(key, l, (*payload)->data, checksums);
    return 0;
}

bool load_ack_parse(const char *line, struct load_ack *a)
{
    char ack[8];
    int end = 0;
    *a = (struct load_ack){0};
    if (sscanf(line, "block %" SCNu64 " seed %" SCNu64 " size %" SCNu64 " ack %7[a-z]%n", &a->block, &a->seed,
               &a->size, ack, &end) != 4 ||
        strcmp(line + end, "\n") != 0)
        return false;
    a->durable = strcmp(ack, "durable") == 0;
    return a->durable || strcmp(ack, "ram") == 0;
}
