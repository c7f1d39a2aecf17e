/* mass_index.h: what a context would keep of one KV head of a trace, for policies to choose from. */
#ifndef CLI_MASS_INDEX_H
#define CLI_MASS_INDEX_H

#include "decoder/cli/mass_truth.h"
#include "decoder/scout/policy.h"

struct mass_index {
    struct far_piece *pieces;
    size_t n_pieces;
};

/* What a calibration says of the head. */
struct mass_learned {
    float gamma[2];        /* of pages, of blocks */
    const float *salience; /* weights (d_k + 2), or NULL */
    unsigned d_rep;
    const float *projection; /* (2, d_rep, d_k) of keys and of queries, or NULL */
};

/* Of the first n_blocks blocks; needs: of all policies together (policy_needs). -ENOMEM: nothing stays. */
int mass_index_build(struct mass_index *, const struct mass_head *, size_t n_blocks, uint32_t needs,
                     enum reps_kind pages, const struct mass_learned *);
void mass_index_free(struct mass_index *);

/* What a policy has to keep of far tokens, in bytes a token and KV head: a page's checksum and what the
 * policy doesn't look at are not counted. */
double mass_bytes_kept(const struct skv_select *, enum reps_kind pages, const struct skv_calibration *,
                       unsigned d_k, unsigned d_v);

#endif
