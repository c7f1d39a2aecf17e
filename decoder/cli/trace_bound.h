/* trace_bound.h: what a cache that never forgets would hit: no cache can hit more on the same requests.
 *
 * A block is a hit when it and all blocks before it in its prompt were in an earlier request: keys and values
 * of a block are of use only to a prompt that is equal up to there. */
#ifndef CLI_TRACE_BOUND_H
#define CLI_TRACE_BOUND_H

#include "decoder/cli/trace_file.h"

/* A growing set of ids. */
struct id_set {
    uint64_t *slot; /* id + 1, 0: free */
    size_t n, room;
};

struct trace_bound { /* all zero: nothing was seen */
    uint64_t requests, blocks, tokens;
    uint64_t hit_blocks, hit_tokens;
    struct id_set seen; /* seen.n: distinct blocks */
};

/* Counts one more request; *prefix: how many of its first blocks are hits. -ENOMEM. */
int trace_bound_add(struct trace_bound *, const struct trace_request *, size_t *prefix, struct skv_error *);
void trace_bound_free(struct trace_bound *);

#endif
