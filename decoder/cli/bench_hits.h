/* bench_hits.h: how long a GET of pages that lie in RAM takes while the node's disk is idle, and while it is
 * as busy as it gets.
 *
 * A memory node runs in a thread of this process, with its disk, behind inproc://; one client asks for hits
 * at a steady pace, another one saturates the disk with cold reads and durable PUTs. Bytes pass between the
 * threads without copies, so what is measured is the node, not a network. The node has a processor to itself,
 * as far as this program goes, and the clients another one: else a client that is woken would wait for a time
 * slice, which is not the node's doing. */
#ifndef CLI_BENCH_HITS_H
#define CLI_BENCH_HITS_H

#include "decoder/cli/bench_disk.h"

struct bench_hits;

/* Starts the node over a directory that bench_disk has filled; next: its bench_disk_next. */
int bench_hits_open(const struct bench_blocks *, const char *dir, uint64_t size, uint64_t ram, uint32_t next,
                    struct bench_hits **out, struct skv_error *err);
void bench_hits_close(struct bench_hits *); /* NULL is allowed */

struct hit_times {
    uint64_t n;
    double p50_us, p99_us;
    double read_gbps, put_gbps; /* what the load came to */
};
int bench_hits_run(struct bench_hits *, bool loaded, double seconds, struct hit_times *,
                   struct skv_error *err);

#endif
