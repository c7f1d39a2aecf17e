/* check_store.c: many histories of the store on simulated disks. */
#include "tests/store/histories.h"
#include "tests/store/many.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

_Static_assert(sizeof(struct history_counts) <= MANY_COUNTS * sizeof(uint64_t), "MANY_COUNTS is too small");

static bool run(uint64_t seed, bool verbose, uint64_t *counts)
{
    return history_run(seed, verbose, (struct history_counts *)counts);
}

static void end(uint64_t done, uint64_t failed, const uint64_t *counts)
{
    const struct history_counts *sum = (const struct history_counts *)counts;
    if (failed)
        printf("store: %" PRIu64 " of the histories failed; their seeds are above\n", failed);
    printf("store: %" PRIu64 " histories, %" PRIu64 " acks, %" PRIu64 " lost, %" PRIu64 " flips, %" PRIu64
           " wrong\n",
           done, sum->acks, sum->lost, sum->flips, sum->wrong);
}

int main(int argc, char **argv)
{
    static const struct many many = {
        .name = "check_store",
        .target = "check-store",
        .unit = "histories",
        .about =
            "Runs the block store on simulated disks that tear, lose, reorder, misread and rot, with power\n"
            "losses and killed processes, against a model: nothing acknowledged as durable may be lost, and\n"
            "no other bytes may be returned. Each history follows from its seed, which every failure prints.",
        .examples = "  check_store --count 20000\n  check_store --seed 4711 --count 1 --verbose\n",
        .seconds = 300,
#define COUNT(name, what) {#name, what},
        .counts = {HISTORY_COUNTS(COUNT)},
#undef COUNT
        .run = run,
        .end = end,
    };
    return many_main(&many, argc, argv);
}
