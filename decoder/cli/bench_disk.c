/* bench_disk.c: see bench_disk.h. */
#include "decoder/cli/bench_disk.h"

#include "common/clock.h"
#include "decoder/cli/interrupt.h"
#include "memnode/memory.h"
#include "memnode/store/io.h"
#include "memnode/store/store.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

enum {
    PAYLOADS = 64, /* together more than a cache holds, as what comes from a network */
    HEADS = BENCH_BLOCK / BENCH_PAGE / BLOCK_PAGES,
    DIMS = BENCH_PAGE / PAGE_TOKENS / 2 / 2, /* of K and V, f16 */
    READ_MOST = 256 << 10,
    TRIES = 10000, /* to find a block that is only on disk */
    NAP_MS = 5,    /* the engine's own ticks go on while it waits */
};
static_assert(HEADS * BLOCK_PAGES * BENCH_PAGE == BENCH_BLOCK && DIMS * 64 == BENCH_PAGE, "whole pages");

/* ---- blocks by number ---- */

uint64_t bench_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

struct block_key bench_key(uint32_t number)
{
    struct block_key k = {.layer = 0};
    uint64_t state = number;
    for (size_t i = 0; i < CHAIN_BYTES; i += sizeof state) {
        uint64_t word = bench_random(&state);
        memcpy(k.chain + i, &word, sizeof word);
    }
    return k;
}

const uint64_t *bench_checksums(const struct bench_blocks *b, uint32_t number)
{
    return b->checksums + number * layout_pages(&b->layout);
}

struct buf *bench_payload(const struct bench_blocks *b, uint32_t number)
{
    return b->payloads[number % b->n_payloads];
}

int bench_blocks_make(struct bench_blocks *b, uint64_t disk_size, struct skv_error *err)
{
    *b = (struct bench_blocks){.layout = {.dtype = 1, .d_k = DIMS, .d_v = DIMS, .n_heads = HEADS},
                               .n = (uint32_t)(disk_size / BENCH_BLOCK * 5 / 4 + 2 * PAYLOADS)};
    size_t pages = layout_pages(&b->layout);
    uint64_t seed = 1;
    b->checksums = malloc((b->n + BENCH_HOT) * pages * sizeof *b->checksums);
    b->payloads = calloc(PAYLOADS, sizeof(struct buf *));
    if (!b->checksums || !b->payloads)
        return skv_fail(err, -ENOMEM, "out of memory");
    for (; b->n_payloads < PAYLOADS; b->n_payloads++) {
        struct buf *buf = buf_new(BENCH_BLOCK);
        if (!buf)
            return skv_fail(err, -ENOMEM, "out of memory");
        for (size_t at = 0; at < BENCH_BLOCK; at += sizeof seed) {
            uint64_t word = bench_random(&seed);
            memcpy(buf->data + at, &word, sizeof word);
        }
        b->payloads[b->n_payloads] = buf;
    }
    for (uint32_t i = 0; i < b->n + BENCH_HOT; i++) {
        struct block_key key = bench_key(i);
        block_checksums(&key, &b->layout, bench_payload(b, i)->data, b->checksums + i * pages);
    }
    return 0;
}

void bench_blocks_free(struct bench_blocks *b)
{
    for (uint32_t i = 0; i < b->n_payloads; i++)
        buf_unref(b->payloads[i]);
    free(b->payloads);
    free(b->checksums);
}

/* ---- the engine ---- */

struct reading {
    struct store_read read;
    struct bench_disk *disk;
};

struct putting {
    struct store_waiter waiter; /* first: done gets it back */
    struct bench_disk *disk;
    bool busy;
};

struct bench_disk {
    const struct bench_blocks *blocks;
    struct io *io;
    struct memory *memory;
    struct store *store;
    uint64_t size, seed;
    uint32_t next; /* the next number to be put */
    uint8_t *buffers;
    struct reading reads[BENCH_DEPTH];
    struct putting puts[BENCH_WINDOW / BENCH_BLOCK];
    uint32_t pages; /* of the reads that follow each other; 0: none follows */
    uint64_t done_bytes, bad;
    unsigned in_flight;
    int failed; /* what a put came to */
};

/* One turn of the loop around the engine; what a node's does with its sockets is not in it. False: nothing
 * came for as long as a nap. */
static bool turn(struct bench_disk *d)
{
    if (store_run(d->store, clock_ns()) || store_busy(d->store))
        return true;
    struct pollfd p = {.fd = store_fd(d->store), .events = POLLIN};
    return poll(&p, 1, NAP_MS) != 0;
}

/* Nothing of ours is to disturb what is measured next. */
static void settle(struct bench_disk *d)
{
    while (turn(d) || d->in_flight || !store_flushed(d->store))
        ;
}

static bool failed(const struct bench_disk *d, struct skv_error *err)
{
    if (interrupted())
        return skv_fail(err, -EINTR, "interrupted");
    if (d->failed)
        return skv_fail(err, d->failed, "a block could not be written, or none read: %s; %s",
                        strerror(-d->failed), store_trouble(d->store));
    return d->bad && skv_fail(err, -EBADMSG, "pages that were read are not what was written");
}

int bench_disk_open(const struct bench_blocks *blocks, const char *dir, uint64_t size, uint64_t ram,
                    struct bench_disk **out, struct skv_error *err)
{
    struct skv_error why;
    struct store_disk where = {dir, size};
    struct bench_disk *d = calloc(1, sizeof *d);
    *out = d;
    if (!d || !(d->buffers = aligned_alloc(IO_ALIGN, (size_t)BENCH_DEPTH * READ_MOST)) ||
        !(d->memory = memory_new(ram)))
        return skv_fail(err, -ENOMEM, "out of memory");
    memset(d->buffers, 0, (size_t)BENCH_DEPTH * READ_MOST);
    d->blocks = blocks;
    d->size = size;
    d->seed = clock_ns();
    for (unsigned i = 0; i < BENCH_DEPTH; i++) {
        d->reads[i].disk = d;
        d->reads[i].read.into = d->buffers + (size_t)i * READ_MOST;
    }
    for (unsigned i = 0; i < BENCH_WINDOW / BENCH_BLOCK; i++)
        d->puts[i].disk = d;
    if (!(d->io = io_new(&why, err)))
        return err->code;
    struct store_opts opts = {
        .memory = d->memory, .io = d->io, .disks = &where, .n_disks = 1, .name = "bench"};
    if (!(d->store = store_open(&opts, err)))
        return err->code;
    while (store_state(d->store, NULL) != STORE_SERVING)
        turn(d);
    return 0;
}

void bench_disk_close(struct bench_disk *d)
{
    if (!d)
        return;
    store_close(d->store); /* gives up what is in flight, and says so */
    if (d->io)
        d->io->ops->close(d->io);
    if (d->memory)
        memory_free(d->memory);
    free(d->buffers);
    free(d);
}

const char *bench_disk_io(const struct bench_disk *d)
{
    return d->io->ops->name;
}

uint32_t bench_disk_next(const struct bench_disk *d)
{
    return d->next;
}

/* ---- reading ---- */

static struct block *find_cold(struct bench_disk *d)
{
    for (unsigned i = 0; i < TRIES; i++) {
        struct block_key key = bench_key((uint32_t)(bench_random(&d->seed) % d->blocks->n));
        struct block *b = store_find(d->store, &key);
        if (b && !b->buf && b->segment != NO_SEGMENT)
            return b;
    }
    return NULL;
}

static void on_read(struct store_read *);

static int begin_read(struct bench_disk *d, struct reading *r, struct skv_error *err)
{
    struct block *b = find_cold(d);
    if (!b)
        return skv_fail(err, -ENOENT, "there are no blocks that are only on disk");
    r->read = (struct store_read){.into = r->read.into, .n = d->pages, .done = on_read, .arg = r};
    r->read.first = (uint32_t)(bench_random(&d->seed) % (layout_pages(&b->layout) - d->pages + 1));
    if (store_read(d->store, b, &r->read))
        return skv_fail(err, -ENOMEM, "out of memory");
    d->in_flight++;
    return 0;
}

/* The next one takes its place at once. */
static void on_read(struct store_read *read)
{
    struct reading *r = read->arg;
    struct bench_disk *d = r->disk;
    d->in_flight--;
    d->done_bytes += (uint64_t)read->n * BENCH_PAGE;
    d->bad += read->good != (read->n == 64 ? UINT64_MAX : (UINT64_C(1) << read->n) - 1);
    if (d->pages && !d->failed)
        d->failed = begin_read(d, r, NULL);
}

int bench_disk_read(struct bench_disk *d, uint32_t pages, double seconds, double *gbps, struct skv_error *err)
{
    int rc = 0;
    uint64_t begin = clock_ns(), end = begin + (uint64_t)(seconds * 1e9);
    assert(pages <= STORE_READ_PAGES && pages * BENCH_PAGE <= READ_MOST);
    d->done_bytes = 0;
    d->pages = pages;
    for (unsigned i = 0; i < BENCH_DEPTH && !rc; i++)
        rc = begin_read(d, &d->reads[i], err);
    while (!rc && clock_ns() < end) {
        turn(d);
        if (failed(d, err))
            rc = err->code;
    }
    *gbps = (double)d->done_bytes / (double)(clock_ns() - begin);
    d->pages = 0;
    settle(d);
    return rc;
}

/* ---- putting ---- */

static void on_durable(struct store_waiter *w, int rc)
{
    struct putting *p = (struct putting *)w;
    struct bench_disk *d = p->disk;
    p->busy = false;
    d->in_flight--;
    d->done_bytes += BENCH_BLOCK;
    if (rc && rc != -ECANCELED)
        d->failed = rc;
}

/* The next block. -EAGAIN: not now. */
static int begin_put(struct bench_disk *d, struct putting *p, struct skv_error *err)
{
    const struct bench_blocks *blocks = d->blocks;
    struct block_key key = bench_key(d->next);
    struct block *b = store_find(d->store, &key);
    if (b)
        store_remove(d->store, b);
    struct buf *buf = NULL;
    int rc = store_room(d->store, BENCH_BLOCK, &buf, err);
    if (!rc) {
        memory_stream(buf->data, bench_payload(blocks, d->next)->data, BENCH_BLOCK);
        rc = store_put(d->store, &key, &blocks->layout, buf, bench_checksums(blocks, d->next), &b, err);
    }
    buf_unref(buf);
    if (rc)
        return rc;
    d->next = (d->next + 1) % blocks->n;
    p->busy = true;
    d->in_flight++;
    p->waiter = (struct store_waiter){.done = on_durable};
    if (!store_when_durable(d->store, b, &p->waiter))
        on_durable(&p->waiter, 0);
    return 0;
}

/* Until `end` or until so many bytes are durable. */
static int put_until(struct bench_disk *d, uint64_t end, uint64_t bytes, void (*progress)(void *, uint64_t),
                     void *arg, struct skv_error *err)
{
    int rc = 0;
    for (d->done_bytes = 0; !rc && d->done_bytes < bytes && clock_ns() < end;) {
        struct putting *p = d->puts;
        while (p < d->puts + BENCH_WINDOW / BENCH_BLOCK && p->busy)
            p++;
        if (p < d->puts + BENCH_WINDOW / BENCH_BLOCK) /* one a turn: copying takes long for the rest */
            rc = begin_put(d, p, err);
        if (rc == -EAGAIN)
            rc = 0;
        turn(d);
        if (!rc && failed(d, err))
            rc = err->code;
        if (progress)
            progress(arg, d->done_bytes);
    }
    return rc;
}

int bench_disk_put(struct bench_disk *d, double seconds, double *gbps, struct skv_error *err)
{
    uint64_t begin = clock_ns();
    int rc = put_until(d, begin + (uint64_t)(seconds * 1e9), UINT64_MAX, NULL, NULL, err);
    *gbps = (double)d->done_bytes / (double)(clock_ns() - begin);
    settle(d);
    return rc;
}

int bench_disk_fill(struct bench_disk *d, void (*progress)(void *, uint64_t), void *arg,
                    struct skv_error *err)
{
    int rc = put_until(d, UINT64_MAX, d->size + d->size / 8, progress, arg, err);
    settle(d);
    return rc;
}
