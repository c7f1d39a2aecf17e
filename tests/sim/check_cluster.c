/* check_cluster.c: many histories of a simulated cluster. */
#include "tests/sim/history.h"
#include "tests/store/many.h"

#include <inttypes.h>
#include <stdio.h>

_Static_assert(sizeof(struct cluster_counts) <= MANY_COUNTS * sizeof(uint64_t), "MANY_COUNTS is too small");

static bool run(uint64_t seed, bool verbose, uint64_t *counts)
{
    return cluster_run(seed, verbose, (struct cluster_counts *)counts);
}

static void end(uint64_t done, uint64_t failed, const uint64_t *counts)
{
    const struct cluster_counts *sum = (const struct cluster_counts *)counts;
    if (failed)
        printf("cluster: %" PRIu64 " seeds failed (%" PRIu64 " lost, %" PRIu64 " wrong, %" PRIu64
               " broken); they are above\n",
               failed, sum->lost, sum->wrong, sum->broken);
    printf("cluster: %" PRIu64 " seeds clean, %" PRIu64 " faults\n", done - failed, sum->faults);
}

int main(int argc, char **argv)
{
    static const struct many many = {
        .name = "check_cluster",
        .target = "check-cluster",
        .unit = "seeds",
        .about =
            "Runs memory nodes and their clients under a simulated network, clocks and disks: delays,\n"
            "partitions, broken connections, killed, frozen and emptied nodes, torn disks, messages lost\n"
            "and doubled. What was acknowledged must be readable while a holder lives, no other bytes may\n"
            "be returned, every request ends, nothing leaks. All follows from the seed, which every\n"
            "failure prints.",
        .examples = "  check_cluster --count 20000\n  check_cluster --seed 4711 --count 1 --verbose\n",
        .seconds = 300,
#define COUNT(name, what) {#name, what},
        .counts = {CLUSTER_COUNTS(COUNT)},
#undef COUNT
        .run = run,
        .end = end,
    };
    return many_main(&many, argc, argv);
}
