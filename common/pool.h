/* pool.h: a fork-join thread pool for loops over independent parts.
 *
 * Parts are numbered and each is computed by exactly one thread, so results don't depend on scheduling;
 * what a part computes must not depend on the number of threads either, or bits would. The caller's
 * thread works too. Not re-entrant: a part must not call pool_run on the same pool. */
#ifndef COMMON_POOL_H
#define COMMON_POOL_H

struct pool;

/* n_threads >= 1, the caller's included; 0 = number of cores of this process. NULL when out of memory. */
struct pool *pool_new(unsigned n_threads);
void pool_free(struct pool *);
unsigned pool_threads(const struct pool *);

/* Calls fn(arg, part) once for every part in 0..n_parts-1 and returns when all are done. pool may be NULL
 * (then the caller does all). Work is handed out part by part, in rising order. */
void pool_run(struct pool *, unsigned n_parts, void (*fn)(void *arg, unsigned part), void *arg);

#endif
