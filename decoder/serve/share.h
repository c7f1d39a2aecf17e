/* share.h: several ask the same document at once, and it is prefilled once.
 *
 * Whoever begins like a prompt that another sequence is prefilling waits until that one's whole chunks are on
 * the tier, if that is sooner than prefilling them itself, and then begins behind them. */
#ifndef SERVE_SHARE_H
#define SERVE_SHARE_H

#include "decoder/serve/sequence.h"

struct share {
    unsigned leader;          /* the slot of the one that prefills, */
    uint64_t leader_begun_ns; /* as long as it is still that one's */
};

/* Whether the sequence in `slot`, which has begun, had better wait for another one of the n (free slots are
 * zero): what they have in common beyond what was found is at least what the other has left to do before it
 * is kept.
 */
bool share_find(const struct sequence *, unsigned n, unsigned slot, uint32_t chunk, struct share *out);
/* Whether the leader is still at it. */
bool share_lasts(const struct sequence *, const struct share *);

#endif
