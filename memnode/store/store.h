/* store.h: sealed blocks by key: in RAM, on disks, or both.
 *
 * DESIGN. Every block has an entry in memory; what is asked about a block (is it there, which checksums,
 * whose lease) is answered from its entry, at once. Its bytes are in ->buf, or on a disk, or both. RAM is a
 * write-back cache: a put block lies in RAM, is written with others as a group, and then may leave RAM.
 * Without disks it stays there.
 *
 * Like its neighbours the store is sans-I/O: it submits requests to a struct io and goes on when they
 * complete. All calls are made on one thread; none of them blocks but store_open. After any call that may
 * have started something, call store_run soon. Callbacks come from store_run, and those of what is given up
 * from store_remove and store_close. */
#ifndef MEMNODE_STORE_STORE_H
#define MEMNODE_STORE_STORE_H

#include "common/error.h"
#include "common/identity.h"
#include "common/log.h"
#include "memnode/memory.h"
#include "memnode/store/format.h"

#include <string.h>

struct io;
struct lease;

/* An entry; owned by the store, valid until store_remove or the next store_run. */
struct block {
    struct block *next; /* of the hash bucket */
    uint64_t hash;
    struct block_key key;
    struct block_layout layout;
    float keep;      /* the latest HINT: uses expected of it, as a multiple of the average block's; else 1 */
    float heat;      /* uses, older ones fading, when it was last used */
    struct buf *buf; /* the payload; take a reference to use it beyond this call. NULL: on disk only, or (no
                        record either) nowhere any more: every page is a miss */
    struct lease *leases;          /* leases.c's; a block that has one is never evicted */
    uint64_t used;                 /* when it was last used, in uses of all blocks */
    struct block *colder, *hotter; /* of those with a buf and worth about as much when last used, by use */
    struct block *prev_in_segment, *next_in_segment;
    struct put *put; /* its way to a disk, while it lasts */
    uint32_t disk, segment,
        offset;           /* where its record lies; segment NO_SEGMENT: not on disk. Offset in 4096s */
    bool damaged;         /* a page of the record did not verify: the next PUT writes it anew */
    bool unproven;        /* its record may not outlive a loss of power; it is being written again */
    bool spared;          /* its segment is being emptied, and it is moved */
    bool loading;         /* its payload is being read into RAM */
    uint64_t sequence;    /* of its record */
    uint64_t checksums[]; /* one a page, in payload order */
};
enum { NO_SEGMENT = UINT32_MAX };

/* The node's own ones, which are never evicted: objects. */
static inline bool block_reserved(const struct block *b)
{
    return b->key.layer >= LAYER_RESERVED;
}

/* Whether its record is on the medium, and was right when last looked at. */
static inline bool block_durable(const struct block *b)
{
    return b->segment != NO_SEGMENT && !b->damaged && !b->unproven;
}

/* Whether every page of it can be served, as far as is known. */
static inline bool block_whole(const struct block *b)
{
    return b->buf || (b->segment != NO_SEGMENT && !b->damaged);
}

/* Whether a block of this layout and these checksums would be the same block. */
static inline bool block_has(const struct block *b, const struct block_layout *l, const uint64_t *checksums)
{
    return layout_equal(&b->layout, l) &&
           memcmp(b->checksums, checksums, layout_pages(l) * sizeof *checksums) == 0;
}

struct store_disk {
    const char *dir;
    uint64_t size; /* bytes of the segments; at least STORE_DISK_MIN */
};
enum { STORE_DISK_MIN = 8 * SEGMENT_MIN, STORE_MAX_DISKS = 16 };

struct store_opts {
    struct memory *memory; /* the caller's */
    struct io *io;         /* the caller's; NULL: no disks */
    const struct store_disk *disks;
    size_t n_disks;
    const char *name;    /* of the node: another name's directory is refused */
    const uint8_t *node; /* identity for directories that are made; NULL: random */
    uint64_t scrub_rate; /* bytes a second that the background scrub reads; 0: none */
    const struct log *log;
};

struct store;

/* Opens the directories and begins to read what they hold; see store_state. NULL and err when one can't be
 * used: damaged, another version's, another node's, in use, no space, no permission. Without disks this only
 * fails for want of memory. */
struct store *store_open(const struct store_opts *, struct skv_error *err);
/* Drops what has not been written (see store_flush). Leases must be gone. NULL is allowed. */
void store_close(struct store *);
/* The identity that the directories hold; without disks, random or the one given. */
const uint8_t *store_node(const struct store *);

/* Where a walk over all blocks of a namespace stands, in the order of key_compare. */
struct store_cursor {
    uint64_t ns;
    uint64_t from;          /* position; 0: the beginning */
    bool behind;            /* or behind this block: */
    struct block_key after; /* which may be gone by now */
};
/* Some namespaces that other blocks on the way belong to. */
enum { STORE_OTHERS = 16 };
struct store_others {
    uint64_t ns[STORE_OTHERS];
    size_t n;
};
/* The next blocks, up to max (at least 1), in order: out[n]. It looks at a bounded part of the table, so n
 * may be anything; *more says whether to go on from the cursor, which moves. Blocks that are there all the
 * while are met once, whatever comes and goes between calls. */
size_t store_list(const struct store *, struct store_cursor *, struct block **out, size_t max, bool *more,
                  struct store_others *);

struct block *store_find(struct store *,
                         const struct block_key *); /* NULL: not here, or not yet (STARTING) */
/* A GET names this block: it becomes the most recently used; one that is only on disk may be brought back
 * into RAM, later, if it earns the place of another. */
void store_touch(struct store *, struct block *);
/* How often the block will be used, as a multiple of the average block; 1 if nobody ever says. */
void store_hint(struct store *, struct block *, float keep);

/* Room in RAM for the bytes of a block, which the caller fills in (it belongs to the caller) and gives to
 * store_put. 0; -EAGAIN: too much waits for the disks, try again after store_run moved; -ENOSPC: full;
 * -EROFS: no disk takes writes any more. err has the sentence. */
int store_room(struct store *, size_t len, struct buf **out, struct skv_error *err);
/* Makes it a block, and queues it for a disk; takes a reference of its own. The key must not be there, except
 * that a block whose record is damaged (same layout and checksums) is put again. 0, -EAGAIN, -ENOSPC. */
int store_put(struct store *, const struct block_key *, const struct block_layout *, struct buf *,
              const uint64_t *checksums, struct block **out, struct skv_error *err);
/* It must have no leases. Not while STARTING: an older copy that was not read yet would come back. */
void store_remove(struct store *, struct block *);
/* Lets RAM copies of cold blocks go until `len` bytes more can be charged to the memory: for what others keep
 * in it. False: there are not enough that could go. */
bool store_make_room(struct store *, size_t len);

/* Blocks that go on waiting for their disk begin their way to it now, as if somebody waited. */
void store_hurry(struct store *);
/* Whether no disk has more than the room that its cleaner needs: what is put waits for something to go. */
bool store_tight(const struct store *);
/* While on, nothing is evicted from disks: the caller does not know yet what is leased. */
void store_hold(struct store *, bool on);
/* Calls each with the reserved blocks (block_reserved) of the next buckets of the table; *at begins with 0.
 * False: that was all. Nothing may be put meanwhile. */
bool store_walk_reserved(struct store *, size_t *at, void (*each)(void *arg, struct block *), void *arg);

/* Calls done once the block is on the medium (0), or can't get there (-EIO: its disk failed;
 * -ECANCELED: it was removed before; -EAGAIN: STARTING, it is not known yet). When that is known, at once.
 * False, and done is never called: it is there already. The waiter is the caller's and must live until then,
 * or be taken back. */
struct store_waiter {
    struct store_waiter *next, **at;
    void (*done)(struct store_waiter *, int rc);
};
bool store_when_durable(struct store *, struct block *, struct store_waiter *);
void store_waiter_cancel(struct store_waiter *); /* before done was called */

/* Reads pages [first, first + n) of a block that is only on disk, and verifies them. The block must have a
 * record (segment != NO_SEGMENT). `into` takes n pages; if it and the page size are multiples of 4096, they
 * are read in place. done tells by `good` which pages are right (bit i: page first + i); the others are
 * misses. Belongs to the store until done. */
enum { STORE_READ_PAGES = 64 };
struct store_read {
    uint8_t *into;
    uint32_t first, n;
    uint64_t good;
    void (*done)(struct store_read *);
    void *arg; /* the caller's */
};
/* -ENOMEM: nothing was started. */
int store_read(struct store *, struct block *, struct store_read *);

/* Reads all of a block that is only on disk into memory of MEMORY_STORE, and verifies it. done(arg, buf,
 * n_bad): the buf is done's, NULL when not one page of it could be read; n_bad pages are not right. -EAGAIN:
 * no memory now, and nothing was started. */
int store_load(struct store *, struct block *, void (*done)(void *arg, struct buf *, uint32_t n_bad),
               void *arg);

/* Takes completions, goes on with everything, starts new requests. True if something moved. */
bool store_run(struct store *, uint64_t now_ns);
/* To poll for reading: store_run has something to do then. -1 without disks. */
int store_fd(const struct store *);
/* Whether store_run will go on by itself, without an event: to be called again at once. */
bool store_busy(const struct store *);
/* True when nothing waits to be written or synced. For an orderly end: store_run until then. */
bool store_flushed(const struct store *);

enum store_state {
    STORE_SERVING,
    STORE_STARTING, /* what lies on the disks is still being read: a key that is not found may yet be */
};
enum store_state store_state(const struct store *, double *progress); /* 0…1; may be NULL */

/* Numbers since the start, and gauges, for STATS. */
struct store_stats {
    uint64_t blocks, bytes;         /* all entries, their payload */
    uint64_t own_blocks, own_bytes; /* the reserved ones among them */
    uint64_t ram_blocks, ram_bytes; /* of those with a buf */
    uint64_t dirty_bytes;           /* in RAM and not yet on the medium */
    uint64_t disk_segments, disk_free_segments, disk_bytes,
        disk_live_bytes;                            /* bytes of all records, of entries' */
    uint64_t disk_readonly;                         /* disks that take no more writes */
    uint64_t written_bytes, put_bytes, moved_bytes; /* write amplification is written ÷ put */
    uint64_t groups, syncs;
    uint64_t reads, read_bytes, read_errors, bad_pages; /* bad: the checksum did not match */
    uint64_t promoted, evicted_ram, evicted_disk;       /* blocks */
    uint64_t scrub_passes, scrub_bytes, scrub_bad_pages;
    uint64_t restart_records, restart_bytes, restart_ns, restart_bad; /* bytes: read to rebuild the index */
};
void store_stats(const struct store *, struct store_stats *);
/* Why writes are refused, or "" while they are not. */
const char *store_trouble(const struct store *);

/* ---- offline: scoutkv-memnode --verify ---- */

struct verify_report {
    uint64_t segments, records, pages, bytes; /* found and right */
    uint64_t bad_records, bad_pages;          /* heads between good ones that are damaged, pages that are */
    uint64_t bad_segments;                    /* segment heads that are damaged, files that are missing */
    uint64_t torn_records; /* of these nothing shows that they ever were on the medium: what a crash leaves */
};
/* Reads everything in DIR. 0 when it could be read, whatever was found; else -errno and err. */
int store_verify(struct io *, const char *dir, struct verify_report *,
                 void (*progress)(void *, uint64_t done, uint64_t total), void *arg, struct skv_error *err);

#endif
