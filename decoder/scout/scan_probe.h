/* scan_probe.h: how fast the scout reads representatives when there are more of them than caches hold. */
#ifndef SCOUT_SCAN_PROBE_H
#define SCOUT_SCAN_PROBE_H

#include "common/pool.h"
#include "decoder/scout/reps.h"

/* At least `bytes` of representatives, to be scored for g query rows of d_k dims. NULL when out of memory. */
struct scan_probe *scan_probe_new(enum reps_kind, unsigned d_k, unsigned g, size_t bytes);
void scan_probe_free(struct scan_probe *); /* NULL is allowed */
size_t scan_probe_bytes(const struct scan_probe *);
/* Scores them all, on all threads of the pool (NULL: the caller's). */
void scan_probe_pass(struct scan_probe *, struct pool *);

/* Best of a few passes, in 10^9 bytes of representatives a second. 0 when out of memory. */
double scan_probe_gbps(struct pool *, enum reps_kind, unsigned d_k, unsigned g, size_t bytes);

#endif
