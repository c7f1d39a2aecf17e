/* log.c: the way to the disks: groups of records, one sync, then their acknowledgements.
 *
 * DESIGN. A disk writes one group while the one before it syncs; groups commit in order, so that "everything
 * up to this sequence is on the medium" is one number. A group lies in one segment. A record that does not
 * fit any more makes the group end with the segment's summary; the next group begins in the next segment,
 * whose head was put on the medium beforehand. A write or sync that failed is never tried again: what a disk
 * did with it is unknown, so the disk takes no more writes, and what waited is told. */
#include "memnode/store/store_impl.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct write {
    struct io_request io;
    struct group *group;
    struct write *next;
    struct iovec iov[IO_MAX_IOV];
};

struct group {
    struct disk *disk;
    uint32_t segment;
    struct put *first, **end;
    struct write *writes, *unstarted; /* all; from here on, those that are still to be handed over */
    unsigned n_writes;                /* not completed */
    unsigned n_puts;
    uint64_t sequence; /* the last */
    uint64_t bytes;
    uint8_t *heads; /* payload_offset bytes a record */
    uint8_t *summary;
    int rc;
    struct io_request sync;
};

/* ---- puts ---- */

static void queue_add(struct put_queue *q, struct put *p)
{
    *q->end = p;
    q->end = &p->next;
    q->bytes += p->buf->len;
}

static struct put *queue_take(struct put_queue *q)
{
    struct put *p = q->first;
    if (!p)
        return NULL;
    q->first = p->next;
    if (!q->first)
        q->end = &q->first;
    q->bytes -= p->buf->len;
    p->next = NULL;
    return p;
}

bool put_start(struct store *s, struct block *b, struct buf *buf, struct disk *moving)
{
    struct put *p = malloc(sizeof *p);
    if (!p)
        return false;
    assert(!b->put);
    *p = (struct put){.block = b, .buf = buf_ref(buf), .moving = moving};
    b->put = p;
    s->stats.dirty_bytes += p->buf->len;
    queue_add(moving ? &moving->moves : &s->puts, p);
    return true;
}

void put_hurry(struct store *s, struct block *b, struct disk *d)
{
    struct put *old = b->put;
    if (old->moving || old->sequence)
        return;
    b->put = NULL;
    if (!put_start(s, b, old->buf, d)) {
        b->put = old;
        return;
    }
    old->block = NULL;
    b->put->waiters = old->waiters;
    if (old->waiters)
        old->waiters->at = &b->put->waiters;
    old->waiters = NULL;
}

static void waiters_end(struct put *p, int rc)
{
    while (p->waiters) {
        struct store_waiter *w = p->waiters;
        store_waiter_cancel(w);
        w->done(w, rc);
    }
}

/* Ends a put whose fate is known. Its block, if it is still there, is told by the caller. */
static void put_end(struct store *s, struct put *p, int rc)
{
    if (p->block)
        p->block->put = NULL;
    s->stats.dirty_bytes -= p->buf->len;
    waiters_end(p, rc);
    buf_unref(p->buf);
    free(p);
}

void put_abandon(struct block *b)
{
    struct put *p = b->put;
    if (!p)
        return;
    waiters_end(p, -ECANCELED);
    p->block = NULL; /* whoever holds it drops it */
    b->put = NULL;
}

bool store_when_durable(struct store *s, struct block *b, struct store_waiter *w)
{
    if (s->state == STORE_STARTING) { /* a later record, of another version, may still be found */
        *w = (struct store_waiter){.done = w->done};
        w->done(w, -EAGAIN);
        return true;
    }
    if (block_durable(b))
        return false;
    /* One whose disk failed tries another; one whose record is damaged is written from RAM, and what cleaning
     * moves of it does not count. */
    bool writable = false;
    for (uint32_t i = 0; i < s->n_disks; i++)
        writable = writable || !s->disks[i].failed;
    if (b->put && b->put->moving)
        put_abandon(b);
    if (!b->put && (!writable || !b->buf || !put_start(s, b, b->buf, NULL))) {
        *w = (struct store_waiter){.done = w->done};
        w->done(w, -EIO);
        return true;
    }
    struct put *p = b->put;
    s->urgent = true;
    w->next = p->waiters;
    w->at = &p->waiters;
    if (p->waiters)
        p->waiters->at = &w->next;
    p->waiters = w;
    return true;
}

void store_waiter_cancel(struct store_waiter *w)
{
    *w->at = w->next;
    if (w->next)
        w->next->at = w->at;
    w->next = NULL;
    w->at = NULL;
}

/* ---- segments that become writable ---- */

struct prepare {
    struct io_request write, sync;
    struct iovec iov;
    struct disk *disk;
    uint32_t segment;
    uint8_t *page;
};

static void prepare_end(struct prepare *p, int rc)
{
    struct disk *d = p->disk;
    struct segment *g = &d->segments[p->segment];
    if (rc) {
        g->state = SEGMENT_SEALED;
        disk_fail(d, "preparing a segment", rc);
    } else {
        g->state = SEGMENT_READY;
    }
    d->store->moved = true;
    free(p->page);
    free(p);
}

static void prepare_synced(struct io_request *r)
{
    struct prepare *p = (struct prepare *)((char *)r - offsetof(struct prepare, sync));
    io_ended(p->disk->store);
    prepare_end(p, r->result);
}

static void prepare_written(struct io_request *r)
{
    struct prepare *p = (struct prepare *)((char *)r - offsetof(struct prepare, write));
    io_ended(p->disk->store);
    if (r->result || p->disk->failed) {
        prepare_end(p, r->result ? r->result : -EIO);
        return;
    }
    p->sync = (struct io_request){.op = IO_SYNC, .file = r->file, .done = prepare_synced};
    io_start(p->disk->store, &p->sync);
}

/* fresh: a head with a new epoch makes all that lies in the segment stale. Otherwise records go on where a
 * crash left them, and the last page is cleared, in case that it holds a summary that would hide them. */
void segment_prepare(struct disk *d, uint32_t segment, bool fresh)
{
    struct segment *g = &d->segments[segment];
    struct prepare *p = calloc(1, sizeof *p);
    uint8_t *page = p ? aligned_alloc(DISK_PAGE, DISK_PAGE) : NULL;
    if (!page) {
        free(p);
        return; /* tried again */
    }
    memset(page, 0, DISK_PAGE);
    if (fresh) {
        struct segment_head head;
        uint64_t epoch = d->next_epoch++;
        segment_head_write(&head, d->store->node, segment, epoch, d->segment_bytes);
        memcpy(page, &head, sizeof head);
        g->epoch = epoch;
        g->used = 1;
        g->heads_bytes = 0;
        g->n_heads = 0;
    }
    g->state = SEGMENT_PREPARING;
    *p = (struct prepare){.disk = d, .segment = segment, .page = page, .iov = {page, DISK_PAGE}};
    p->write = (struct io_request){.op = IO_WRITE,
                                   .file = g->file,
                                   .offset = fresh ? 0 : d->segment_bytes - DISK_PAGE,
                                   .iov = &p->iov,
                                   .n_iov = 1,
                                   .done = prepare_written};
    d->store->stats.written_bytes += DISK_PAGE;
    io_start(d->store, &p->write);
}

/* ---- summaries ---- */

bool heads_add(struct segment *g, const void *head, size_t bytes)
{
    if (g->heads_bytes + bytes > g->heads_cap) {
        size_t cap = 2 * g->heads_cap + bytes + 4096;
        uint8_t *grown = realloc(g->heads, cap);
        if (!grown)
            return false;
        g->heads = grown;
        g->heads_cap = cap;
    }
    memcpy(g->heads + g->heads_bytes, head, bytes);
    g->heads_bytes += bytes;
    g->n_heads++;
    return true;
}

size_t summary_bytes(size_t heads_bytes)
{
    return (heads_bytes + sizeof(struct summary_tail) + DISK_PAGE - 1) / DISK_PAGE * DISK_PAGE;
}

/* ---- groups ---- */

/* Its segment is held until here: what it commits may empty the segment before it fills it. */
static void group_free(struct group *group)
{
    struct disk *d = group->disk;
    d->segments[group->segment].busy--;
    segment_settle(d, group->segment);
    while (group->writes) {
        struct write *w = group->writes;
        group->writes = w->next;
        free(w);
    }
    free(group->heads);
    free(group->summary);
    free(group);
}

/* Every put of a group that failed: its bytes stay in RAM, unacknowledged. */
static void group_fail(struct group *group, int rc)
{
    struct store *s = group->disk->store;
    disk_fail(group->disk, "writing", rc);
    while (group->first) {
        struct put *p = group->first;
        group->first = p->next;
        put_end(s, p, -EIO);
    }
    group_free(group);
    s->moved = true;
}

static void group_commit(struct group *group)
{
    struct disk *d = group->disk;
    struct store *s = d->store;
    d->durable = group->sequence;
    s->stats.groups++;
    while (group->first) {
        struct put *p = group->first;
        struct block *b = p->block;
        group->first = p->next;
        if (b) {
            block_place(s, b, d, group->segment, p->offset, p->sequence);
            b->damaged = p->rotten;
        }
        put_end(s, p, 0);
    }
    group_free(group);
    s->moved = true;
}

static void group_sync(struct disk *);

static void group_synced(struct io_request *r)
{
    struct group *group = (struct group *)((char *)r - offsetof(struct group, sync));
    struct disk *d = group->disk;
    io_ended(d->store);
    assert(d->syncing == group);
    d->syncing = NULL;
    d->store->stats.syncs++;
    int rc = r->result ? r->result : d->failed ? -EIO : disk_alive(d);
    if (rc)
        group_fail(group, rc);
    else
        group_commit(group);
    group_sync(d);
}

/* The group that is written goes on to its sync when the one before it is through. */
static void group_sync(struct disk *d)
{
    struct group *group = d->writing;
    if (!group || group->n_writes || d->syncing)
        return;
    d->writing = NULL;
    if (group->rc || d->failed) {
        group_fail(group, group->rc ? group->rc : -EIO);
        return;
    }
    d->syncing = group;
    group->sync =
        (struct io_request){.op = IO_SYNC, .file = d->segments[group->segment].file, .done = group_synced};
    io_start(d->store, &group->sync);
}

static void group_written(struct io_request *r)
{
    struct write *w = (struct write *)r;
    struct group *group = w->group;
    struct store *s = group->disk->store;
    io_ended(s);
    if (r->result && !group->rc)
        group->rc = r->result;
    group->n_writes--;
    s->moved = true;
    group_sync(group->disk);
}

/* The group's next request: `offset` in bytes. */
static struct write *add_write(struct group *group, uint64_t offset)
{
    struct write *w = calloc(1, sizeof *w);
    if (!w)
        return NULL;
    w->io = (struct io_request){.op = IO_WRITE,
                                .file = group->disk->segments[group->segment].file,
                                .offset = offset,
                                .iov = w->iov,
                                .done = group_written};
    w->group = group;
    w->next = group->writes;
    group->writes = w;
    return w;
}

static void add_iov(struct write *w, void *bytes, size_t len)
{
    w->iov[w->io.n_iov++] = (struct iovec){bytes, len};
}

/* Whether a record of this layout fits into the segment with a summary that names it. */
static bool fits(const struct disk *d, const struct segment *g, const struct block_layout *l)
{
    return (uint64_t)g->used * DISK_PAGE + record_bytes(l) +
               summary_bytes(g->heads_bytes + record_head_bytes(l)) <=
           d->segment_bytes;
}

static bool group_seal(struct group *group)
{
    struct disk *d = group->disk;
    struct segment *g = &d->segments[group->segment];
    size_t bytes = summary_bytes(g->heads_bytes);
    group->summary = aligned_alloc(DISK_PAGE, bytes);
    struct write *w = group->summary ? add_write(group, d->segment_bytes - bytes) : NULL;
    if (!w)
        return false; /* the next group tries again */
    memset(group->summary, 0, bytes);
    struct summary_tail tail;
    summary_write(&tail, d->store->node, group->segment, g->epoch, g->n_heads, g->heads, g->heads_bytes);
    memcpy(group->summary + bytes - sizeof tail, &tail, sizeof tail);
    memcpy(group->summary + bytes - sizeof tail - g->heads_bytes, g->heads, g->heads_bytes);
    add_iov(w, group->summary, bytes);
    group->bytes += bytes;
    g->state = SEGMENT_SEALED;
    free(g->heads);
    g->heads = NULL;
    g->heads_cap = g->heads_bytes = 0;
    d->open = NO_SEGMENT;
    return true;
}

/* The segment to write in, or NULL: none is ready, or only the last one, which is for what cleaning moves,
 * open or not, until the segment that is emptied is free. */
static struct segment *writable(struct disk *d, bool moving)
{
    if (!moving && d->open != NO_SEGMENT && d->victim != NO_SEGMENT && segments_free(d) == 0)
        return NULL;
    if (d->open == NO_SEGMENT) {
        if (d->next == NO_SEGMENT || d->segments[d->next].state != SEGMENT_READY ||
            (!moving && segments_free(d) < SPARE_SEGMENTS))
            return NULL;
        d->open = d->next;
        d->next = NO_SEGMENT;
        d->segments[d->open].state = SEGMENT_OPEN;
    }
    return &d->segments[d->open];
}

/* The queue to take from: what cleaning moves goes first, since it makes room. */
static struct put_queue *next_queue(struct disk *d)
{
    struct store *s = d->store;
    for (struct put_queue *q = &d->moves;; q = &s->puts) {
        while (q->first && !q->first->block)
            put_end(s, queue_take(q), -ECANCELED);
        if (q->first || q == &s->puts)
            return q->first ? q : NULL;
    }
}

static size_t heads_room(const struct put_queue *q)
{
    size_t heads = 0, bytes = 0;
    unsigned n = 0;
    for (const struct put *p = q->first; p && n < GROUP_PUTS && bytes < GROUP_BYTES; p = p->next, n++)
        if (p->block) {
            heads += record_payload_offset(&p->block->layout);
            bytes += record_bytes(&p->block->layout);
        }
    return heads;
}

static bool add_put(struct group *group, struct put *p, uint8_t *head, struct write **w)
{
    struct disk *d = group->disk;
    struct store *s = d->store;
    struct segment *g = &d->segments[group->segment];
    struct block *b = p->block;
    size_t payload_offset = record_payload_offset(&b->layout), bytes = record_bytes(&b->layout);
    struct record place = {.epoch = g->epoch,
                           .sequence = s->sequence,
                           .run = s->run,
                           .durable = d->durable,
                           .segment = group->segment,
                           .offset = g->used};
    memset(head, 0, payload_offset);
    record_write(head, s->node, &b->key, &b->layout, b->checksums, &place);
    if (!*w || (*w)->io.n_iov + 2 > IO_MAX_IOV ||
        (uint64_t)g->used * DISK_PAGE - (*w)->io.offset + bytes > WRITE_BYTES + DISK_PAGE)
        *w = add_write(group, (uint64_t)g->used * DISK_PAGE);
    if (!*w || !heads_add(g, head, record_head_bytes(&b->layout)))
        return false;
    add_iov(*w, head, payload_offset);
    add_iov(*w, p->buf->data, bytes - payload_offset);
    p->sequence = group->sequence = s->sequence++;
    p->offset = g->used;
    g->used += (uint32_t)(bytes / DISK_PAGE);
    group->bytes += bytes;
    if (p->moving)
        s->stats.moved_bytes += p->buf->len;
    return true;
}

/* Fills a group from the queues. */
static void group_fill(struct group *group)
{
    struct disk *d = group->disk;
    struct segment *g = &d->segments[group->segment];
    struct put_queue *q;
    struct write *w = NULL;
    uint8_t *head = NULL;
    size_t room = 0;
    bool moving = false;
    while (group->bytes < GROUP_BYTES && group->n_puts < GROUP_PUTS && (q = next_queue(d))) {
        struct put *p = q->first;
        if (!fits(d, g, &p->block->layout)) {
            group_seal(group);
            return;
        }
        size_t need = record_payload_offset(&p->block->layout);
        if (!head) { /* of one queue: what the other brings waits for the next group */
            moving = p->moving;
            room = heads_room(q);
            head = group->heads = aligned_alloc(DISK_PAGE, room);
            if (!head)
                return;
        }
        if (p->moving != moving || need > room || !add_put(group, p, head, &w))
            return;
        head += need;
        room -= need;
        queue_take(q);
        *group->end = p;
        group->end = &p->next;
        group->n_puts++;
    }
}

static void group_begin(struct disk *d)
{
    struct store *s = d->store;
    struct put_queue *q = next_queue(d);
    struct segment *g = q ? writable(d, q->first->moving) : NULL;
    if (!g)
        return;
    struct group *group = calloc(1, sizeof *group);
    if (!group)
        return;
    group->disk = d;
    group->segment = d->open;
    g->busy++;
    group->end = &group->first;
    group->sequence = s->sequence - 1;
    group_fill(group);
    for (struct write *w = group->writes; w; w = w->next)
        group->n_writes += w->io.n_iov > 0;
    if (group->n_writes == 0) { /* no memory for any: later */
        group_free(group);
        return;
    }
    group->unstarted = group->writes;
    d->writing = group;
    s->moved = true;
    s->stats.written_bytes += group->bytes;
}

/* One request at a time: the kernel pins every page of it, and hits in RAM wait meanwhile. */
static void group_push(struct disk *d)
{
    struct group *group = d->writing;
    while (group && group->unstarted) {
        struct write *w = group->unstarted;
        group->unstarted = w->next;
        if (!w->io.n_iov)
            continue;
        d->store->moved = true;
        if (!d->failed) {
            io_start(d->store, &w->io);
            return;
        }
        group->n_writes--;
        group->rc = -EIO;
    }
}

/* A disk that failed writes nothing: what only it could take is told so. */
static void fail_queue(struct store *s, struct put_queue *q, int rc)
{
    struct put *p;
    while ((p = queue_take(q)))
        put_end(s, p, rc);
}

/* ---- notes ---- */

struct note {
    struct io_request io;
    struct iovec iov;
    struct disk *disk;
    struct run run;
    void *page;
};

static void noted(struct io_request *r)
{
    struct note *n = (struct note *)r;
    struct disk *d = n->disk;
    io_ended(d->store);
    d->noting = false;
    d->noted = n->run; /* when it failed as well: it is not worth a second try */
    d->store->moved = true;
    free(n->page);
    free(n);
}

static bool noteworthy(const struct disk *d)
{
    return !d->failed && d->durable && (d->noted.run != d->store->run || d->noted.durable != d->durable);
}

/* Nothing more is to be written for now: no later record will tell what is on the medium. */
static void note_down(struct disk *d)
{
    struct note *n = malloc(sizeof *n);
    void *page = n ? aligned_alloc(DISK_PAGE, DISK_PAGE) : NULL;
    if (!page) {
        free(n);
        return;
    }
    struct disk_note note;
    note_write(&note, d->store->node, d->store->run, d->durable);
    memset(page, 0, DISK_PAGE);
    memcpy(page, &note, sizeof note);
    *n = (struct note){.disk = d, .run = {d->store->run, d->durable}, .page = page, .iov = {page, DISK_PAGE}};
    n->io = (struct io_request){.op = IO_WRITE,
                                .file = d->super_file,
                                .offset = DISK_PAGE,
                                .iov = &n->iov,
                                .n_iov = 1,
                                .done = noted};
    d->noting = true;
    io_start(d->store, &n->io);
}

/* A group begins when somebody waits for it, or when it is worth a sync, or has waited for a tick. */
void log_run(struct store *s)
{
    bool all_failed = true, begin = s->urgent || s->tick || s->puts.bytes >= GROUP_WORTH;
    for (uint32_t i = 0; i < s->n_disks; i++) {
        struct disk *d = &s->disks[i];
        group_push(d);
        group_sync(d);
        if (s->tick && !d->failed)
            disk_alive(d);
        if (d->failed) {
            fail_queue(s, &d->moves, -EIO);
            continue;
        }
        all_failed = false;
        if (d->next == NO_SEGMENT)
            for (uint32_t j = 0; j < d->n_segments && d->next == NO_SEGMENT; j++)
                if (d->segments[j].state == SEGMENT_FREE && !d->segments[j].busy)
                    d->next = j;
        if (d->next != NO_SEGMENT && d->segments[d->next].state == SEGMENT_FREE)
            segment_prepare(d, d->next, true);
        if (!d->writing && (begin || d->moves.first))
            group_begin(d);
        if (!d->writing && !d->syncing && !d->noting && !s->puts.first && !d->moves.first && noteworthy(d))
            note_down(d);
    }
    if (all_failed)
        fail_queue(s, &s->puts, -EIO);
    if (!s->puts.first)
        s->urgent = false;
}

void log_finish(struct store *s)
{
    for (uint32_t i = 0; i < s->n_disks; i++)
        while (s->disks[i].writing && s->disks[i].writing->unstarted)
            group_push(&s->disks[i]);
}

/* What was not begun is dropped; nobody waits for it any more. */
void log_close(struct store *s)
{
    fail_queue(s, &s->puts, -ECANCELED);
    for (uint32_t i = 0; i < s->n_disks; i++)
        fail_queue(s, &s->disks[i].moves, -ECANCELED);
}

bool log_idle(const struct store *s)
{
    if (s->puts.first)
        return false;
    for (uint32_t i = 0; i < s->n_disks; i++)
        if (s->disks[i].writing || s->disks[i].syncing || s->disks[i].moves.first || s->disks[i].noting ||
            noteworthy(&s->disks[i]))
            return false;
    return true;
}
