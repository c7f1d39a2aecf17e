/* probe.h: how fast this machine reads memory and multiplies, to judge kernels against. */
#ifndef KERNELS_PROBE_H
#define KERNELS_PROBE_H

#include "common/pool.h"

#include <stddef.h>

/* A buffer to read, several times the size of the last-level cache. NULL when out of memory. */
struct probe *probe_new(size_t bytes);
void probe_free(struct probe *); /* NULL is allowed */
/* One pass over it by all threads of the pool (NULL: the caller's): 10^9 bytes a second. */
double probe_read(struct probe *, struct pool *);

/* Best of a few passes over a buffer of this size. 0 when out of memory. */
double probe_read_gbps(struct pool *, size_t bytes);

/* The most f32 multiplications and additions that all threads of the pool do together, by the widest
 * instructions that this CPU has, in 10^9 a second; takes some milliseconds. */
double probe_gflops(struct pool *);

#endif
