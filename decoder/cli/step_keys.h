/* step_keys.h: keys and values of a long context, such that a query decides which pages a step selects.
 *
 * One page in every block of a KV head lies on a line, in an order of its own: neighbours on the line are far
 * apart in the text, and a step selects no two pages of a block, which is as scattered as it can be. A key
 * says where its page lies by the cosines and sines of random frequencies; a query that has those of a place
 * is near the keys of the pages around it, and the nearer the closer they lie. So the pages selected are a
 * stretch of the line, and how far the place moves from one step to the next is how many of them are new:
 * that is how a hit rate is made, while the step does all it ever does. Values, and what makes the keys of a
 * page differ, are random. */
#ifndef CLI_STEP_KEYS_H
#define CLI_STEP_KEYS_H

#include "common/pool.h"
#include "decoder/cli/shapes.h"

enum { STEP_LENGTHS = 4 };

struct step_keys_opts {
    const struct model_shape *shape;
    uint64_t lengths[STEP_LENGTHS]; /* rising, multiples of 1024: each shorter context has a part of the line
                                     * to itself, as dense as the whole */
    unsigned n_lengths;
    unsigned pages; /* that a step selects per KV head; a context has 8 times as many blocks at least */
    uint64_t seed;
};

struct step_keys;
int step_keys_new(const struct step_keys_opts *, struct step_keys **out, struct skv_error *);
void step_keys_free(struct step_keys *); /* NULL is allowed */

/* k and v (n, kv_heads, d) of tokens [from, from + n), multiples of 64 within the longest context. */
void step_keys_make(const struct step_keys *, uint64_t from, uint32_t n, struct pool *, float *k, float *v);
/* Of one token behind them, which is near no place. */
void step_keys_new_token(const struct step_keys *, uint64_t *seed, float *k, float *v);

/* Where a context's queries look; it begins at a place from the seed. */
struct step_walk {
    double place, from, to;
};
struct step_walk step_walk_begin(const struct step_keys *, unsigned length, uint64_t seed);
/* Moves on so that this share of the selected pages is new, back to the beginning at the line's end. */
void step_walk_on(const struct step_keys *, struct step_walk *, double share);
/* q (heads, d), not scaled. */
void step_keys_query(const struct step_keys *, const struct step_walk *, float *q);

#endif
