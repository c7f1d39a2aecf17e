/* bench_disk.h: the store's engine in this process, driven as a node drives it, and timed. */
#ifndef CLI_BENCH_DISK_H
#define CLI_BENCH_DISK_H

#include "common/buf.h"
#include "common/error.h"
#include "common/identity.h"

#include <stdbool.h>

enum {
    BENCH_BLOCK = 1 << 20, /* bytes of a block; its pages have 8 KiB */
    BENCH_PAGE = 8 << 10,
    BENCH_HOT = 16,       /* blocks beyond the cycle */
    BENCH_DEPTH = 8,      /* reads in flight */
    BENCH_SYNC = 8 << 20, /* bytes that one sync makes durable, at most: the engine's groups have as many */
    BENCH_WINDOW = 24 << 20, /* bytes put and not yet durable: some are written while others are synced */
};

/* ---- blocks by number ---- */

/* What is put: a cycle of blocks, more than a disk holds, so that a number that comes again was evicted. */
struct bench_blocks {
    struct block_layout layout;
    uint32_t
        n; /* of the cycle; numbers n … n + BENCH_HOT - 1 exist too, and the engine's rows leave them alone */
    uint32_t n_payloads;
    struct buf **payloads; /* of block i: payloads[i % n_payloads] */
    uint64_t *checksums;   /* pages of block 0, of block 1, … */
};

int bench_blocks_make(struct bench_blocks *, uint64_t disk_size, struct skv_error *err);
void bench_blocks_free(struct bench_blocks *);
struct block_key bench_key(uint32_t number);
const uint64_t *bench_checksums(const struct bench_blocks *, uint32_t number);
struct buf *bench_payload(const struct bench_blocks *, uint32_t number); /* no reference is given */
uint64_t bench_random(uint64_t *state);

/* ---- the engine ---- */

struct bench_disk;

/* Opens a store of that size in dir with so much RAM, under the name "bench". */
int bench_disk_open(const struct bench_blocks *, const char *dir, uint64_t size, uint64_t ram,
                    struct bench_disk **out, struct skv_error *err);
void bench_disk_close(struct bench_disk *);           /* NULL is allowed */
const char *bench_disk_io(const struct bench_disk *); /* "io_uring" */

/* The number that would be put next; those before it are on the disk, as far back as it reaches. */
uint32_t bench_disk_next(const struct bench_disk *);

/* Puts until every segment was written and the first ones are written again: new space is slower. */
int bench_disk_fill(struct bench_disk *, void (*progress)(void *, uint64_t bytes), void *arg,
                    struct skv_error *err);

/* Each takes about so long, leaves nothing in flight, and tells GB/s (10^9 bytes). */
/* BENCH_DEPTH reads at a time of `pages` neighbouring pages of blocks that are only on disk, verified. */
int bench_disk_read(struct bench_disk *, uint32_t pages, double seconds, double *gbps, struct skv_error *err);
/* Blocks until they are on the medium, with BENCH_WINDOW of them on their way. */
int bench_disk_put(struct bench_disk *, double seconds, double *gbps, struct skv_error *err);

#endif
