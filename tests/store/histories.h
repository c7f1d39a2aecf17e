/* histories.h: one life story of a store, from a seed: puts, gets, removals,
 * leases, hints, time that passes, power losses, killed processes, orderly
 * ends, and disks that err; held against a model of what must be. */
#ifndef TESTS_STORE_HISTORIES_H
#define TESTS_STORE_HISTORIES_H

#include <stdbool.h>
#include <stdint.h>

/* The table of what is counted; sums over histories mean something. */
#define HISTORY_COUNTS(X)                                             \
    X(acks, "durable acks given")                                     \
    X(lost, "of those, without a fault of the medium, not returned")  \
    X(wrong, "other bytes returned as good")                          \
    X(broken, "other promises of store.h that were broken")           \
    X(flips, "bits flipped")                                          \
    X(puts, "blocks put")                                             \
    X(gets, "pages compared")                                         \
    X(lives, "opens")                                                 \
    X(power_losses, "")                                               \
    X(kills, "processes killed")                                      \
    X(ends, "orderly ends")                                           \
    X(gone, "histories that ended because a super block was damaged") \
    X(excused, "acknowledged blocks that faults of the medium took")  \
    X(read_faults, "")                                                \
    X(write_faults, "")                                               \
    X(sync_faults, "")                                                \
    X(promoted, "blocks brought back into RAM")                       \
    X(evicted_ram, "blocks")                                          \
    X(evicted_disk, "blocks")                                         \
    X(moved, "MiB moved by cleaning")                                 \
    X(recycled, "segments used again")                                \
    X(put_again, "damaged blocks written anew")                       \
    X(scrubbed, "bad pages found by the scrub")                       \
    X(again, "removed or evicted blocks that came back")

struct history_counts {
#define FIELD(name, what) uint64_t name;
    HISTORY_COUNTS(FIELD)
#undef FIELD
};

/* Adds to the counts. Prints what was lost, wrong or broken to stderr, each
 * line with the seed; everything that happens if verbose. False if something
 * was. */
bool history_run(uint64_t seed, bool verbose, struct history_counts *);

#endif
