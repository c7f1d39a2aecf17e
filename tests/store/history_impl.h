/* history_impl.h: what histories.c (the plan), ops.c (what is done) and watch.c
 * (what must hold) share. */
#ifndef TESTS_STORE_HISTORY_IMPL_H
#define TESTS_STORE_HISTORY_IMPL_H

#include "common/clock.h"
#include "tests/store/histories.h"
#include "tests/store/model.h"
#include "tests/store/random.h"

enum {
    STUCK = 20000, /* runs of the store after which something that should have
                      happened never will */
    MAX_HELD = 4,
    MAX_SEGMENTS = 16, /* of a disk */
};

/* Somebody waits for a block to be durable. */
struct ack {
    struct store_waiter waiter; /* first */
    struct ack *next;
    struct history *h;
    unsigned key;
    uint64_t instance;
    bool finished;
};

/* A read of pages on its way. */
struct reading {
    struct store_read read; /* first */
    struct reading *next;
    struct history *h;
    unsigned key;
    int version;
    uint64_t instance, faults; /* read faults before it */
    uint8_t *memory;           /* what `into` lies in */
    bool must_be_good, finished;
    unsigned touched; /* what had happened to the block when it was put again meanwhile */
};

/* A buf that outlives its block's stay in RAM, as zmq's references do. */
struct held {
    struct buf *buf;
    unsigned key;
    int version;
};

struct history {
    uint64_t seed, rng;
    bool verbose;
    struct history_counts *counts;
    bool failed;
    /* the plan */
    unsigned n_disks, n_lives, steps, burst;
    struct store_disk disks[MODEL_DISKS];
    char dirs[MODEL_DISKS][16];
    uint64_t ram, scrub_rate;
    struct sim_faults faults;
    unsigned flips; /* still to come */
    uint8_t node[DISK_NODE];
    /* the world */
    struct model model;
    struct sim *sim;
    struct memory *memory;
    struct store *store; /* NULL between lives */
    uint64_t now;
    struct ack *acks;
    struct reading *readings;
    struct held held[MAX_HELD];
    struct sim_counts at_open;                  /* of this life */
    struct sim_counts looked;                   /* when touched sectors were last looked for */
    uint64_t evicted;                           /* of store_stats, seen so far in this life */
    uint64_t epochs[MODEL_DISKS][MAX_SEGMENTS]; /* of the segments, at the last life's end */
    bool serving;                               /* it was, and what it must hold was checked */
    bool closing;
    bool full; /* puts were refused for want of space since something was freed */
};

/* ---- watch.c ---- */

void say(struct history *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* What went wrong, with the seed. The counter says which kind. */
void blame(struct history *, uint64_t *counter, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
#define LOST(h, ...) blame(h, &(h)->counts->lost, "lost: " __VA_ARGS__)
#define WRONG(h, ...) blame(h, &(h)->counts->wrong, "wrong: " __VA_ARGS__)
#define BROKEN(h, ...) blame(h, &(h)->counts->broken, "broken: " __VA_ARGS__)

/* Faults of this life that a store may answer with -EIO or -EROFS. */
bool writes_failed(const struct history *);
/* True while the life goes on: neither dead nor failed. */
bool alive(const struct history *);
/* Lets time pass and the store run; checks everything that can be checked. */
void run(struct history *);
/* The entries against the model, after anything that may have changed them. */
void look(struct history *);
struct block *find(struct history *, unsigned key);
/* An acknowledgement: from now on the block must be there. */
void oblige(struct history *, unsigned key);
void ask_durable(struct history *, unsigned key, struct block *);
/* GETs pages; from RAM at once, else by a read. must: the block is readable as
 * far as the model knows. */
void get(struct history *, unsigned key, struct block *, uint32_t first, uint32_t n);
/* GETs all of everything, and waits. */
void get_all(struct history *);
bool wait_serving(struct history *);
/* Until all is on the disks (or can't get there). */
void wait_flushed(struct history *);
void drop_held(struct history *, unsigned i);
/* Ends what is on its way in a life that ends; the memory of readings stays
 * until after store_close. */
void forget_acks(struct history *);
void free_finished(struct history *);
void touched_now(struct history *, struct model_key *);

/* A PUT of this block, which is held, brings its bytes once more. */
static inline bool wants_put(const struct block *b)
{
    return b->damaged;
}

/* ---- ops.c ---- */

void any_op(struct history *);
void flip_some(struct history *);

#endif
