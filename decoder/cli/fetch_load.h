/* fetch_load.h: requests for blocks of a set, several at a time, and how long each takes.
 *
 * Without a rate the load is closed: one request ends and another begins, `window` of them on their way. With
 * a rate it is open: requests are due at even distances, whatever became of those before. One that cannot
 * begin because `window` are under way waits, and its time counts from when it was due: a stall counts for
 * every request that it held up. */
#ifndef CLI_FETCH_LOAD_H
#define CLI_FETCH_LOAD_H

#include "common/hist.h"
#include "decoder/cli/fetch_set.h"

struct fetch_load_opts {
    uint32_t batch, window; /* blocks of a request; requests on their way */
    uint32_t pages;         /* fetched of each block, spread over it; 0: all */
    double misses;          /* share of blocks asked for that are not there */
    double rate;            /* requests a second; 0: as fast as they end */
    double warm_up, seconds;
    uint64_t count; /* ends when so many requests were measured, if that is earlier; 0: does not */
    uint64_t seed;
};

/* Of what ended after the warm-up and before the end; with a rate, latency and late of what was due
 * meanwhile. */
struct fetch_result {
    uint64_t requests, bytes, found, missed; /* found, missed: pages */
    double seconds;
    uint64_t unfinished;  /* with a rate: not done a whole measurement after its end; counted with the time
                             until then */
    uint64_t moved_bytes; /* from the beginning of the warm-up until the last one was done */
    double cpu_s;         /* that this process took meanwhile, of all threads */
    struct hist latency, late; /* ns; late: by how much a request began after it was due */
};

/* -ENODATA (data lost) if a block of the set is not there. Ctrl-C ends it with -EINTR. */
int fetch_load_run(struct tier *, const struct fetch_set *, const struct fetch_load_opts *,
                   struct fetch_result *out, struct skv_error *);

/* Processor time of this process, all threads, in seconds. */
double process_cpu_s(void);

#endif
