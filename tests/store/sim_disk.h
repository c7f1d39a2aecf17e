/* sim_disk.h: disks in memory behind the store's struct io, as bad as disks may
 * be and no worse.
 *
 * DESIGN. A request is in flight until a reap picks it; which, in which order
 * and how many at a time the seed decides. A write that has completed is seen
 * by reads, but lies on the medium only once an IO_SYNC of its file that was
 * *submitted after* it completed has succeeded. Until then, and while it is in
 * flight, a power loss leaves an arbitrary part of its sectors. A sync that
 * failed is never made good by a later one. After a power loss (or the death of
 * the process) the simulator is dead: whatever is in flight or submitted later
 * ends with -EIO, so that the store can be closed; ops->close then makes it
 * ready for the next life.
 *
 * The simulator also watches its client: requests that are misaligned, out of
 * range or too many, and memory that changes while it is being written, end the
 * program with a sentence.
 *
 * What injected faults touched is remembered by sector until the sector is
 * written again, so that a test can tell a block that the store lost from one
 * that the medium lost. */
#ifndef TESTS_STORE_SIM_DISK_H
#define TESTS_STORE_SIM_DISK_H

#include "memnode/store/io.h"

enum { SIM_SECTOR = 512 };

/* Each in requests of a million; of the reads, writes, syncs and opens that
 * they concern. */
struct sim_faults {
    uint32_t read_error;       /* -EIO */
    uint32_t read_misdirected; /* 0, with bytes of another place */
    uint32_t read_stale;       /* 0, with some sectors as they were before they were
                                  last written */
    uint32_t write_error;      /* -EIO; some sectors were written */
    uint32_t write_no_space;   /* -ENOSPC; likewise */
    uint32_t sync_error;       /* -EIO */
    uint32_t open_error;       /* -ENOSPC */
};

/* Since the simulator began. */
struct sim_counts {
    uint64_t reads, writes, syncs;
    uint64_t read_faults, write_faults, sync_faults, open_faults, flips;
};

struct sim;

struct sim *sim_new(uint64_t seed);
void sim_free(struct sim *);
struct io *sim_io(struct sim *); /* always the same one; ops->close ends a life,
                                    not the disks */

void sim_set_faults(struct sim *, const struct sim_faults *);
/* How many of the requests in flight a reap without `wait` completes: between
 * none and this part of them. */
void sim_set_pace(struct sim *, unsigned percent);
/* Whether to keep what stale reads return (costs a copy of every write). Before
 * the first write. */
void sim_keep_stale(struct sim *);
const struct sim_counts *sim_counts(const struct sim *);

/* The power goes: all that is not on the medium survives sector by sector, or
 * doesn't. */
void sim_power_loss(struct sim *);
/* The process dies and the machine lives: what completed stays readable and
 * stays unsynced. */
void sim_kill(struct sim *);
/* The same, once `completions` more requests have completed: within a reap. */
void sim_power_loss_after(struct sim *, uint64_t completions);
void sim_kill_after(struct sim *, uint64_t completions);
bool sim_dead(const struct sim *);
unsigned sim_in_flight(const struct sim *);

/* What faults did to sectors since they were last written. */
enum {
    SIM_FLIPPED = 1, /* a bit of the medium changed */
    SIM_MISREAD = 2, /* a read of it failed or brought other bytes */
};
/* Of all sectors of the range; 0 for a file that is not there. */
unsigned sim_touched(const struct sim *, const char *dir, const char *name, uint64_t offset, uint64_t len);

/* Changes a bit on the medium; false if nothing was ever written there. */
bool sim_flip(struct sim *, const char *dir, const char *name, uint64_t offset, unsigned bit);
/* What a read would see, without its faults; false if there is no such file or
 * range. */
bool sim_peek(const struct sim *, const char *dir, const char *name, uint64_t offset, void *out, size_t len);
/* An offset of a multiple of 4096 at which something was written, by the seed;
 * false if there is none. */
bool sim_written_page(struct sim *, const char *dir, const char *name, uint64_t *offset);
/* The i-th file. NULL: there are no more. */
const char *sim_file(const struct sim *, unsigned i, const char **dir, uint64_t *size);

#endif
