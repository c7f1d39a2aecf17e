/* read.c: pages of records, verified before anybody sees them.
 *
 * DESIGN. A read remembers which bytes it expects (key, place, checksums), not the entry: entries come and go
 * while it is on its way. Its segment is held, so what lies there can't be reused meanwhile. A page that does
 * not match is bad for this read only: the bytes are looked at again the next time, but the entry is marked,
 * so that the next PUT of the block writes it anew. What has arrived is verified some bytes at a time, since
 * hits in RAM wait meanwhile. */
#include "memnode/store/store_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { VERIFY_AT_ONCE = 128 << 10 };

struct read_op {
    struct io_request io;
    struct iovec iov;
    struct read_op *next;
    struct store *store;
    struct segment *segment;
    uint32_t disk, segment_index;
    struct block_key key;
    uint64_t sequence;
    size_t page_bytes;
    uint32_t head0, first, n;
    uint8_t *into;
    uint8_t *bounce; /* NULL: read in place */
    size_t skew;     /* where the first page begins in it */
    void (*done)(void *arg, uint64_t good);
    void *arg;
    uint64_t checksums[];
};

static void op_end(struct read_op *op, uint64_t good)
{
    struct store *s = op->store;
    op->segment->busy--;
    segment_settle(&s->disks[op->disk], op->segment_index);
    op->done(op->arg, good);
    free(op->bounce);
    free(op);
}

static void mark_damaged(struct store *s, const struct read_op *op)
{
    struct block *b = store_find(s, &op->key);
    if (b && b->sequence == op->sequence && block_on_disk(b))
        b->damaged = true;
}

static void op_add(struct read_queue *q, struct read_op *op)
{
    op->next = NULL;
    *(q->first ? &q->end->next : &q->first) = op;
    q->end = op;
}

static struct read_op *op_take(struct read_queue *q)
{
    struct read_op *op = q->first;
    q->first = op->next;
    return op;
}

static void op_arrived(struct io_request *r)
{
    struct read_op *op = (struct read_op *)r;
    io_ended(op->store);
    op_add(&op->store->arrived, op);
}

static void op_verify(struct read_op *op)
{
    struct store *s = op->store;
    uint64_t good = 0;
    if (op->io.result) {
        s->stats.read_errors++;
    } else {
        const uint8_t *from = op->bounce ? op->bounce + op->skew : op->into;
        for (uint32_t i = 0; i < op->n; i++) {
            uint32_t slot = op->first + i;
            const uint8_t *page = from + i * op->page_bytes;
            bool ok = page_checksum(&op->key, op->head0 + slot / BLOCK_PAGES, slot % BLOCK_PAGES, page,
                                    op->page_bytes) == op->checksums[i];
            good |= (uint64_t)ok << i;
            s->stats.bad_pages += !ok;
        }
        if (op->bounce)
            memcpy(op->into, from, op->n * op->page_bytes);
    }
    if (good != (op->n == 64 ? UINT64_MAX : (UINT64_C(1) << op->n) - 1))
        mark_damaged(s, op);
    op_end(op, good);
}

int read_pages(struct store *s, struct block *b, uint32_t first, uint32_t n, uint8_t *into,
               void (*done)(void *arg, uint64_t good), void *arg)
{
    size_t page = layout_page_bytes(&b->layout);
    struct disk *d = &s->disks[b->disk];
    uint64_t at =
        (uint64_t)b->offset * DISK_PAGE + record_payload_offset(&b->layout) + (uint64_t)first * page;
    uint64_t from = at / IO_ALIGN * IO_ALIGN;
    uint64_t to = (at + (uint64_t)n * page + IO_ALIGN - 1) / IO_ALIGN * IO_ALIGN;
    bool in_place = from == at && to == at + (uint64_t)n * page && (uintptr_t)into % IO_ALIGN == 0;
    struct read_op *op = malloc(sizeof *op + n * sizeof *op->checksums);
    uint8_t *bounce = op && !in_place ? aligned_alloc(IO_ALIGN, to - from) : NULL;
    if (!op || (!in_place && !bounce)) {
        free(op);
        return -ENOMEM;
    }
    *op = (struct read_op){.store = s,
                           .segment = &d->segments[b->segment],
                           .disk = b->disk,
                           .segment_index = b->segment,
                           .key = b->key,
                           .sequence = b->sequence,
                           .page_bytes = page,
                           .head0 = b->layout.head0,
                           .first = first,
                           .n = n,
                           .into = into,
                           .bounce = bounce,
                           .skew = at - from,
                           .done = done,
                           .arg = arg};
    memcpy(op->checksums, b->checksums + first, n * sizeof *op->checksums);
    op->iov = (struct iovec){bounce ? bounce : into, to - from};
    op->io = (struct io_request){.op = IO_READ,
                                 .file = op->segment->file,
                                 .offset = from,
                                 .iov = &op->iov,
                                 .n_iov = 1,
                                 .done = op_arrived};
    op->segment->busy++;
    s->stats.reads++;
    s->stats.read_bytes += to - from;
    op_add(&s->reads, op);
    return 0;
}

void read_run(struct store *s)
{
    for (size_t bytes = 0; s->arrived.first && bytes < VERIFY_AT_ONCE;) {
        struct read_op *op = op_take(&s->arrived);
        bytes += op->iov.iov_len;
        s->moved = true;
        op_verify(op);
    }
    while (s->reads.first && s->in_flight < IO_DEPTH) {
        io_start(s, &op_take(&s->reads)->io);
        s->moved = true;
    }
}

void reads_drop(struct store *s)
{
    while (s->arrived.first)
        op_verify(op_take(&s->arrived));
    while (s->reads.first)
        op_end(op_take(&s->reads), 0);
}

/* ---- the interface ---- */

static void read_done(void *arg, uint64_t good)
{
    struct store_read *r = arg;
    r->good = good;
    r->done(r);
}

int store_read(struct store *s, struct block *b, struct store_read *r)
{
    return read_pages(s, b, r->first, r->n, r->into, read_done, r);
}

/* ---- whole blocks ---- */

int store_load(struct store *s, struct block *b, void (*done)(void *arg, struct buf *, uint32_t n_bad),
               void *arg)
{
    return read_block(s, b, done, arg);
}

struct whole {
    struct buf *buf;
    uint32_t parts, pages, n_good;
    void (*done)(void *arg, struct buf *, uint32_t n_bad);
    void *arg;
};

static void whole_end(struct whole *w)
{
    if (w->n_good == 0) {
        buf_unref(w->buf);
        w->buf = NULL;
    }
    w->done(w->arg, w->buf, w->pages - w->n_good);
    free(w);
}

static void part_done(void *arg, uint64_t good)
{
    struct whole *w = arg;
    w->n_good += (uint32_t)__builtin_popcountll(good);
    if (--w->parts == 0)
        whole_end(w);
}

int read_block(struct store *s, struct block *b, void (*done)(void *arg, struct buf *, uint32_t n_bad),
               void *arg)
{
    size_t len = layout_block_bytes(&b->layout), page = layout_page_bytes(&b->layout);
    uint32_t pages = (uint32_t)layout_pages(&b->layout);
    struct buf *buf = ram_take(s, len);
    struct whole *w = buf ? malloc(sizeof *w) : NULL;
    if (!w) {
        buf_unref(buf);
        return -EAGAIN;
    }
    *w = (struct whole){.buf = buf, .pages = pages, .parts = 1, .done = done, .arg = arg};
    memset(buf->data + len, 0, -len % DISK_PAGE);
    for (uint32_t at = 0; at < pages; at += STORE_READ_PAGES) {
        uint32_t n = pages - at < STORE_READ_PAGES ? pages - at : STORE_READ_PAGES;
        w->parts++;
        if (read_pages(s, b, at, n, buf->data + at * page, part_done, w)) {
            memset(buf->data + at * page, 0, n * page); /* bad pages, to be looked at another time */
            w->parts--;
        }
    }
    if (--w->parts) /* at least one is on its way: done comes later */
        return 0;
    buf_unref(buf);
    free(w);
    return -EAGAIN;
}
