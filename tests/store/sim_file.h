/* sim_file.h: a file of the simulated disks: what is on its medium, and which writes wait for a sync. Sparse:
 * what was never written takes no memory and reads as zeros. */
#ifndef TESTS_STORE_SIM_FILE_H
#define TESTS_STORE_SIM_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SIM_CHUNK = 64 << 10, /* made by the first write into it */
    SIM_NAME = 32,
};

/* A write that has completed and is not known to be on the medium. */
struct pending {
    struct pending *next; /* by order */
    uint64_t order;       /* of completion */
    uint64_t offset;
    size_t len;
    bool doomed;   /* a sync of it failed: no later one makes it durable */
    uint8_t *gone; /* a byte a sector: it never came, or was overwritten since; NULL: all are there */
    uint8_t bytes[];
};

struct sim_file {
    int dir;
    char name[SIM_NAME];
    uint64_t size;
    uint8_t **medium, **before; /* chunks or NULL; before: what each sector held until it was last written */
    bool keep_before;
    uint8_t *touched; /* a byte a sector: SIM_FLIPPED, SIM_MISREAD; 0 once it is written again */
    struct pending *first, **end;
};

void *sim_must(void *memory); /* ends the program without memory */

struct sim_file *sim_file_new(int dir, const char *name, bool keep_before);
void sim_file_free(struct sim_file *);
/* What lay beyond a smaller size is gone. */
void sim_file_resize(struct sim_file *, uint64_t size);
size_t sim_file_chunks(const struct sim_file *);

struct pending *pending_new(uint64_t order, uint64_t offset,
                            size_t len); /* the bytes are the caller's to fill */
void pending_free(struct pending *);
/* Which sectors of len bytes survive, decided by the seed: all, none, a beginning, or some. */
uint8_t *sectors_that_survive(uint64_t *rng, size_t len);
/* Keeps only those of `keep`, which it takes. */
void pending_tear(struct pending *, uint8_t *keep);
/* Lays its sectors over what was read of [offset, offset + len). */
void pending_overlay(const struct pending *, uint64_t offset, uint8_t *out, size_t len);

void sim_file_add(struct sim_file *, struct pending *); /* takes it; it is the latest */
void sim_file_read(const struct sim_file *, uint64_t offset, uint8_t *out, size_t len); /* with what waits */
void sim_file_read_medium(const struct sim_file *, uint64_t offset, uint8_t *out, size_t len);
void sim_file_read_before(const struct sim_file *, uint64_t offset, uint8_t *out, size_t len);
void sim_file_touch(struct sim_file *, uint64_t offset, size_t len, uint8_t how);

/* A sync of the writes up to this order succeeded. */
void sim_file_synced(struct sim_file *, uint64_t upto);
/* It failed. Either part of them is lost at once, or all looks well until the power goes. */
void sim_file_sync_failed(struct sim_file *, uint64_t upto, uint64_t *rng);
/* The power goes: of what waits, part survives. */
void sim_file_power_loss(struct sim_file *, uint64_t *rng);

#endif
