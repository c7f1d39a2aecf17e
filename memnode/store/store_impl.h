/* store_impl.h: what the files of the store share: store.c (entries and RAM), disks.c (opening), log.c
 * (writing), read.c, scan.c (restart), clean.c (eviction from disks), scrub.c. */
#ifndef MEMNODE_STORE_STORE_IMPL_H
#define MEMNODE_STORE_STORE_IMPL_H

#include "memnode/store/io.h"
#include "memnode/store/store.h"

enum {
    GROUP_BYTES = 8 << 20, /* of records that one sync makes durable, at most */
    GROUP_PUTS = 1024,
    GROUP_WORTH = 1 << 20, /* nobody waits: a group is begun with so much, or at the next tick */
    WRITE_BYTES = 1 << 20, /* of one request, about */
    BACKGROUND_READS = 8,  /* blocks that cleaning, or promotion, reads at once */
    SCANS_AT_ONCE = 8,     /* segments of a disk */
    RAM_LISTS = 64,
    SPARE_SEGMENTS = 2, /* cleaning begins when fewer are free; the last one is for what cleaning moves */
};

/* ---- on the way to a disk: log.c ---- */

struct put {
    struct put *next;    /* of a queue or a group */
    struct block *block; /* NULL: removed meanwhile */
    struct buf *buf;
    struct store_waiter *waiters;
    bool moving; /* out of a segment that is being emptied: it goes before the others */
    bool rotten; /* as it is: some of its pages don't match their checksums */
    /* given when it joins a group: */
    uint64_t sequence;
    uint32_t offset;
};

struct put_queue {
    struct put *first, **end;
    uint64_t bytes; /* of records */
};

struct read_queue {
    struct read_op *first, *end; /* end: valid unless it is empty */
};

enum segment_state {
    SEGMENT_UNREAD,
    SEGMENT_FREE,      /* nothing in it is needed */
    SEGMENT_PREPARING, /* its new head, or the end of what a crash left, is on its way to the medium */
    SEGMENT_READY,     /* to be written from `used` on */
    SEGMENT_OPEN,
    SEGMENT_SEALED,
};

struct segment {
    enum segment_state state;
    bool cleaning; /* it takes part in no choice any more: its blocks leave */
    int file;
    uint32_t used;   /* where the next record goes, in units of 4096 */
    uint32_t busy;   /* requests in flight that rely on what lies in it */
    uint32_t n_live; /* blocks whose record lies here */
    uint64_t epoch, live_bytes;
    struct block *live;
    /* of those that are not sealed: the heads of the live records, for the summary */
    uint8_t *heads;
    size_t heads_bytes, heads_cap;
    uint32_t n_heads;
};

/* What a run of an earlier process had on the medium; see scan.c. */
struct run {
    uint64_t run, durable;
};

struct group;
struct disk {
    struct store *store;
    uint32_t index;
    const char *dir;
    int dir_number, super_file, first_file;
    bool is_new;
    struct segment *segments;
    uint32_t n_segments;
    uint64_t segment_bytes;
    uint64_t next_epoch;
    uint32_t open, next; /* NO_SEGMENT, or the segment being written, and the one after it */
    struct group *writing, *syncing;
    uint64_t durable; /* of this run; see struct record_head */
    struct run noted; /* in the file `store`; see struct disk_note */
    bool noting;
    struct put_queue moves;
    bool failed; /* a write or a sync did: it takes none any more */
    /* scan.c */
    uint32_t scan_next, scans; /* segments begun; being read */
    /* clean.c */
    uint32_t victim; /* NO_SEGMENT, or the segment being emptied */
    unsigned moving; /* blocks on their way out of it */
    bool stuck;      /* nothing can go; looked at again at every tick */
};

struct store {
    struct memory *memory;
    struct io *io;
    const struct log *log;
    char name[DISK_NAME];
    uint8_t node[DISK_NODE];
    struct block **buckets;
    size_t n_buckets; /* a power of two */
    uint64_t uses;    /* clock of block->used */
    struct ram_list {
        struct block *coldest, *hottest;
    } ram[RAM_LISTS]; /* of those with a buf: see ram_list_of */
    bool ram_full;    /* the last block that was taken had to take the place of another */
    uint64_t spare;   /* bytes of memory charged and not used, for entries */
    uint64_t now;
    bool moved;   /* since store_run began */
    bool closing; /* what completes starts nothing new */
    bool urgent;  /* somebody waits for dirty bytes to go */
    bool held;    /* nothing is evicted from disks */

    struct disk *disks;
    uint32_t n_disks;
    struct put_queue puts;
    uint64_t sequence, run; /* the next one; the first of this process */
    uint64_t last_tick;
    bool tick;                        /* this store_run is the first after a while */
    unsigned in_flight;               /* requests at the io */
    struct read_queue reads, arrived; /* wait for their turn; were read, and wait to be verified */
    unsigned loads;                   /* blocks being promoted */

    enum store_state state;
    struct scan *scan; /* NULL when done */

    uint64_t scrub_rate, scrub_at; /* not before */
    size_t scrub_bucket;
    uint64_t scrub_after; /* sequence within the bucket: blocks up to it were seen */
    bool scrubbing;

    char trouble[256];
    struct store_stats stats;
};

/* ---- store.c ---- */

struct block *block_new(struct store *, const struct block_key *, const struct block_layout *,
                        const uint64_t *checksums); /* an entry without bytes; NULL: no memory */
void block_free(struct store *, struct block *);    /* drops the entry, wherever its bytes are */
void block_place(struct store *, struct block *, struct disk *, uint32_t segment, uint32_t offset,
                 uint64_t sequence);
void block_unplace(struct store *, struct block *); /* its record is not needed any more */
static inline bool block_on_disk(const struct block *b)
{
    return b->segment != NO_SEGMENT;
}
/* Whether it may not be evicted. */
static inline bool block_held(const struct block *b)
{
    return b->leases || block_reserved(b);
}

/* ---- ram.c ---- */

/* The payload's memory, with RAM copies of colder blocks making room. NULL: not now. */
struct buf *ram_take(struct store *, size_t len);
void ram_attach(struct store *, struct block *, struct buf *); /* takes the reference */
void ram_detach(struct store *, struct block *);
/* Takes one block's bytes out of RAM. 0: there is none that could go; else how many bytes. */
size_t ram_evict_one(struct store *);
/* What it is worth to keep: how often it has been used lately, and is expected to be by its HINT. In any
 * unit, the same for all blocks. */
double block_value(const struct store *, const struct block *);

/* ---- disks.c ---- */

int disks_open(struct store *, const struct store_opts *, struct skv_error *err);
void disks_close(struct store *);
void io_start(struct store *, struct io_request *); /* submit, counted */
void io_ended(struct store *);                      /* to be called by every done */
void disk_fail(struct disk *, const char *what, int rc);
int disk_alive(struct disk *); /* 0; fails the disk when its directory was removed */

/* ---- log.c ---- */

/* Queues a block's bytes for a disk: for any, or, moved by cleaning, for this one. False: no memory. */
bool put_start(struct store *, struct block *, struct buf *, struct disk *moving);
void put_hurry(struct store *, struct block *,
               struct disk *);    /* one that waits in the queue becomes `moving` */
void put_abandon(struct block *); /* its block goes away */
void log_run(struct store *);
void log_close(struct store *);
void log_finish(struct store *); /* hands over what is left of a group that was begun */
bool log_idle(const struct store *);
bool heads_add(struct segment *, const void *head, size_t bytes); /* false: no memory */
size_t summary_bytes(size_t heads_bytes);                         /* on disk: a multiple of 4096 */
void segment_prepare(struct disk *, uint32_t segment, bool fresh);

/* ---- read.c ---- */

/* Reads pages [first, first+n) (n <= STORE_READ_PAGES) of the block's record into `into` and verifies them.
 * done(arg, good). Counts what is bad. -ENOMEM: nothing was started. */
int read_pages(struct store *, struct block *, uint32_t first, uint32_t n, uint8_t *into,
               void (*done)(void *arg, uint64_t good), void *arg);
/* Reads a whole payload into RAM. done(arg, buf, n_bad): the buf is done's; NULL when nothing could be read.
 * -EAGAIN: no memory now. */
int read_block(struct store *, struct block *, void (*done)(void *arg, struct buf *, uint32_t n_bad),
               void *arg);
void read_run(struct store *);
void reads_drop(struct store *); /* those that were not started: nothing is good */

/* ---- scan.c, clean.c, scrub.c ---- */

int scan_start(struct store *, struct skv_error *err);
void scan_run(struct store *);
void scan_free(struct store *);
double scan_progress(const struct store *);

void clean_run(struct disk *);
/* Segments that nothing is needed of become free. */
void segment_settle(struct disk *, uint32_t segment);
uint32_t segments_free(const struct disk *);

void scrub_run(struct store *);

#endif
