/* trace_replay.h: does to memory nodes what an engine with a prefix cache would do for a recorded request.
 *
 * Each 512-token prefix block is one stored block, made from its id and a seed. A request asks which of its
 * blocks are there (one HAVE), fetches the longest prefix of which all are (every page, checksums verified
 * against blocks made anew), and PUTs the others, as prefill would. It is over when these are acknowledged:
 * the next one finds them. */
#ifndef CLI_TRACE_REPLAY_H
#define CLI_TRACE_REPLAY_H

#include "common/hist.h"
#include "common/identity.h"
#include "decoder/cli/trace_file.h"

struct pool;
struct tier;

struct replay_opts {
    struct tier *tier; /* both are the caller's */
    struct pool *pool; /* makes blocks */
    struct block_layout layout;
    uint64_t ns, seed;
};

struct replay_counts {
    uint64_t requests;
    uint64_t hit_blocks, hit_tokens; /* found and fetched, with all before them in the request */
    uint64_t gone_blocks;            /* said to be there, and were not when they were fetched: misses */
    uint64_t stranded_blocks;        /* there, but behind one that is not, and so of no use: misses */
    uint64_t put_blocks, put_bytes;  /* sent, whatever became of them */
    uint64_t full_blocks;            /* of these, refused because a node had no room */
    uint64_t fetched_bytes;
    struct hist lookup, fetch, put; /* ns per request that had something to do */
};

struct replay;
struct replay *replay_new(const struct replay_opts *); /* NULL when out of memory */
void replay_free(struct replay *);                     /* NULL is allowed */
/* *hits: how many of its first blocks were hits. No room is counted, a block that was evicted is a miss;
 * neither is an error. -EBADMSG: a node gave or has other bytes; -EHOSTUNREACH: a node was lost; … */
int replay_request(struct replay *, const struct trace_request *, size_t *hits, struct skv_error *);
const struct replay_counts *replay_counts(const struct replay *);

#endif
