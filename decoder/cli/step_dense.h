/* step_dense.h: dense attention over one layer's keys and values in this machine's memory, as fast as the
 * same kernels do it: what a step over memory nodes is compared with. */
#ifndef CLI_STEP_DENSE_H
#define CLI_STEP_DENSE_H

#include "common/pool.h"
#include "decoder/cli/shapes.h"

struct step_dense;
int step_dense_new(const struct model_shape *, uint64_t tokens, struct step_dense **out, struct skv_error *);
void step_dense_free(struct step_dense *); /* NULL is allowed */

/* k and v (n, kv_heads, d) of tokens [from, from + n), multiples of 16: rounded to f16 and kept. */
void step_dense_put(struct step_dense *, struct pool *, uint64_t from, uint32_t n, const float *k,
                    const float *v);
/* The first `tokens` of them, a multiple of 16, attended to by q (heads, d), not scaled; out (heads, d).
 * Reads tokens · kv_heads · d · 4 bytes. */
int step_dense_attend(struct step_dense *, struct pool *, uint64_t tokens, const float *q, float *out,
                      struct skv_error *);

#endif
