/* scan_probe.h: how fast the scout reads representatives when there are more of them than caches hold. */
#ifndef SCOUT_SCAN_PROBE_H
#define SCOUT_SCAN_PROBE_H

#include "common/pool.h"
#include "decoder/scout/reps.h"

/* Best of a few passes that score `bytes` of representatives for g query rows of d_k dims on all threads of
 * the pool (NULL: the caller's), in 10^9 bytes of representatives a second. 0 when out of memory. */
double scan_probe_gbps(struct pool *, enum reps_kind, unsigned d_k, unsigned g, size_t bytes);

#endif
