/* fetch_set.h: blocks on memory nodes, to be fetched in any order, and keys of blocks that are not there.
 *
 * They are made from a number that no other run has, so that they meet nobody else's blocks, and dropped at
 * the end. */
#ifndef CLI_FETCH_SET_H
#define CLI_FETCH_SET_H

#include "common/identity.h"
#include "decoder/tier/tier.h"

struct fetch_set {
    struct block_layout layout;
    size_t pages;           /* of a block */
    uint32_t n, n_absent;   /* blocks that are stored; keys behind them of blocks that are not */
    struct block_key *keys; /* [n + n_absent] */
    uint64_t *checksums;    /* [n][pages] */
};

/* About `bytes` of blocks of that layout, at least `least` of them, are put on the nodes. durable: until they
 * are on their disks. */
int fetch_set_put(struct fetch_set *, struct tier *, const struct block_layout *, uint64_t ns, uint64_t bytes,
                  uint32_t least, bool durable, struct skv_error *);
/* Takes them off the nodes. */
int fetch_set_drop(struct fetch_set *, struct tier *, struct skv_error *);
void fetch_set_free(struct fetch_set *);

#endif
