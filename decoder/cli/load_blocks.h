/* load_blocks.h: blocks made from a seed, for `scoutkv load`, `scoutkv check` and `scoutkv bench trace`: who
 * checks makes them again and so knows every byte without having kept any. */
#ifndef CLI_LOAD_BLOCKS_H
#define CLI_LOAD_BLOCKS_H

#include "common/buf.h"
#include "common/error.h"
#include "common/identity.h"

#include <stdbool.h>

/* A layout whose blocks have `size` bytes. -EINVAL where there is none. */
int load_layout(uint64_t size, struct block_layout *out, struct skv_error *);

/* The key of block number i. */
void load_key(const struct block_layout *, uint64_t ns, uint64_t seed, uint64_t i, struct block_key *);
/* Key, bytes (one reference) and checksums (layout_pages) of block number i. -ENOMEM. */
int load_block(const struct block_layout *, uint64_t ns, uint64_t seed, uint64_t i, struct block_key *key,
               struct buf **payload, uint64_t *checksums);

/* One acknowledged block, as a line of the log: "block I seed S size BYTES ack ram|durable". */
struct load_ack {
    uint64_t block, seed, size;
    bool durable;
};
/* Reads one line (with its newline: one without was cut short and acknowledges nothing). */
bool load_ack_parse(const char *line, struct load_ack *);
#define LOAD_ACK_FORMAT "block %" PRIu64 " seed %" PRIu64 " size %" PRIu64 " ack %s\n"

#endif
