/* probe.h: how fast this machine reads memory, to judge the scout's scan against. */
#ifndef KERNELS_PROBE_H
#define KERNELS_PROBE_H

#include "common/pool.h"

#include <stddef.h>

/* Best of a few passes over a buffer of this size (several times the last-level cache) that all of the pool's
 * threads read together, in 10^9 bytes a second; pool may be NULL. 0 when out of memory. */
double probe_read_gbps(struct pool *, size_t bytes);

#endif
