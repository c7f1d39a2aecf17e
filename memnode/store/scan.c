/* scan.c: restart. Rebuilds the entries from what lies on the disks while the node already serves.
 *
 * DESIGN. Of a sealed segment the summary is enough: one run of bytes. One without a summary (it was open
 * when the process ended, or its summary is damaged) is walked from record to record. What may be trusted
 * without reading its payload: a record is on the medium for sure if a later record of the same disk and run
 * says so (`durable`). The others, those of the last groups before an end, are read and verified; pages that
 * are torn make their block `damaged`: readers miss them, and the next PUT writes the block anew instead of
 * saying that it is there. Runs keep this true over many crashes: what was torn once is never covered by the
 * promise of a later process. Segments whose head does not verify (a fault of the medium; a head is on the
 * medium before any record of its epoch is written) are walked for the highest epoch that is in them, and
 * everything is verified. */
#include "memnode/store/store_impl.h"
#include "common/clock.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 1 << 20, TAIL = 64 << 10 };

/* A record that is not in the index yet. */
struct unsure {
    struct unsure *next;
    struct disk *disk;
    struct record record; /* its pages are gone */
    bool verify;          /* whatever the watermark says */
    uint64_t checksums[];
};

struct scan {
    uint64_t begun;
    uint32_t segments, segments_done;
    uint64_t sequence; /* the highest seen */
    struct run *runs[STORE_MAX_DISKS];
    size_t n_runs[STORE_MAX_DISKS];
    struct unsure *unsure, *late; /* to be looked at when all is read; to be verified */
    unsigned verifying;
    bool no_memory;
};

enum phase { HEAD, LAST_PAGES, SUMMARY, WALK };

struct job {
    struct io_request io;
    struct iovec iov;
    struct disk *disk;
    uint32_t segment;
    enum phase phase;
    bool again;   /* this is the second try */
    bool trusted; /* the segment's head is right */
    bool walked;
    bool gap; /* a page could not be read */
    uint64_t epoch;
    uint8_t *bytes;
    size_t room;
    uint64_t at;        /* of the walk: where the next record is looked for */
    uint64_t confirmed; /* up to here, what is no record was read twice */
    size_t piece;       /* it reads at once */
};

/* ---- runs ---- */

static struct run *run_of(struct scan *x, uint32_t disk, uint64_t run)
{
    for (size_t i = x->n_runs[disk]; i-- > 0;)
        if (x->runs[disk][i].run == run)
            return &x->runs[disk][i];
    struct run *grown = realloc(x->runs[disk], (x->n_runs[disk] + 1) * sizeof *grown);
    if (!grown)
        return NULL;
    x->runs[disk] = grown;
    grown[x->n_runs[disk]] = (struct run){.run = run};
    return &grown[x->n_runs[disk]++];
}

/* ---- into the index ---- */

enum trust { PROVEN, UNPROVEN, TORN };

static void index_add(struct disk *d, const struct record *r, const uint64_t *checksums, enum trust trust)
{
    struct store *s = d->store;
    struct block *b = store_find(s, &r->key);
    bool same = b && block_has(b, &r->layout, checksums);
    /* Whole before torn; then the later; of one version, what is proven stays. A lease holds its version. */
    bool better =
        !b || (trust != TORN && (b->damaged || (r->sequence > b->sequence && !(same && trust == UNPROVEN))));
    if (!better || (b && !same && b->leases))
        return;
    if (b && !same) {
        block_free(s, b);
        b = NULL;
    }
    if (!b) {
        b = block_new(s, &r->key, &r->layout, checksums);
        if (!b) {
            s->scan->no_memory = true;
            return;
        }
        s->stats.restart_records++;
    }
    block_place(s, b, d, r->segment, r->offset, r->sequence);
    b->damaged = trust != PROVEN;
}

static void record_found(struct job *j, const void *head, const struct record *r)
{
    struct disk *d = j->disk;
    struct store *s = d->store;
    struct scan *x = s->scan;
    struct segment *g = &d->segments[j->segment];
    uint32_t end = r->offset + (uint32_t)(r->bytes / DISK_PAGE);
    if (j->walked && !heads_add(g, head, r->head_bytes))
        j->trusted = false; /* no summary can be written for it: it is not continued */
    if (end > g->used)
        g->used = end;
    if (r->sequence > x->sequence)
        x->sequence = r->sequence;
    struct run *run = run_of(x, d->index, r->run);
    if (run && r->durable > run->durable)
        run->durable = r->durable;
    size_t n = layout_pages(&r->layout);
    struct unsure *u = malloc(sizeof *u + n * sizeof *u->checksums);
    if (!u || !run) {
        free(u);
        x->no_memory = true;
        return;
    }
    *u = (struct unsure){.disk = d, .record = *r, .verify = !j->trusted};
    for (size_t i = 0; i < n; i++)
        u->checksums[i] = r->pages[i].checksum;
    if (j->trusted && r->sequence <= run->durable) {
        index_add(d, r, u->checksums, PROVEN);
        free(u);
    } else {
        u->next = x->unsure;
        x->unsure = u;
    }
}

/* Whether the record belongs where it was found. */
static bool in_place(const struct job *j, const struct record *r, uint64_t at)
{
    return r->segment == j->segment && (uint64_t)r->offset * DISK_PAGE == at &&
           at + r->bytes <= j->disk->segment_bytes;
}

/* ---- a segment ---- */

static void job_done(struct io_request *);

static void job_read(struct job *j, uint64_t offset, size_t len)
{
    struct store *s = j->disk->store;
    j->iov = (struct iovec){j->bytes, len};
    j->io = (struct io_request){.op = IO_READ,
                                .file = j->disk->segments[j->segment].file,
                                .offset = offset,
                                .iov = &j->iov,
                                .n_iov = 1,
                                .done = job_done};
    s->stats.restart_bytes += len;
    io_start(s, &j->io);
}

static void job_end(struct job *j, bool known)
{
    struct disk *d = j->disk;
    struct store *s = d->store;
    struct segment *g = &d->segments[j->segment];
    if (!known)
        g->busy++; /* for good: what can't be read is not written over */
    if (j->epoch >= d->next_epoch)
        d->next_epoch = j->epoch + 1;
    g->epoch = j->epoch;
    g->state = SEGMENT_SEALED;
    if (!j->walked || !j->trusted) {
        free(g->heads);
        g->heads = NULL;
        g->heads_bytes = g->heads_cap = 0;
        g->n_heads = 0;
    }
    d->scans--;
    s->scan->segments_done++;
    s->moved = true;
    free(j->bytes);
    free(j);
}

static size_t chunk_at(const struct job *j)
{
    uint64_t left = j->disk->segment_bytes - j->at;
    return left < j->piece ? (size_t)left : j->piece;
}

static void walk_on(struct job *j)
{
    j->phase = WALK;
    if (j->at + DISK_PAGE > j->disk->segment_bytes)
        job_end(j, !j->gap);
    else
        job_read(j, j->at, chunk_at(j));
}

static void walk_begin(struct job *j)
{
    j->walked = true;
    j->at = DISK_PAGE;
    j->piece = CHUNK;
    walk_on(j);
}

/* It could not be read, twice: smaller pieces tell which page it is, and that one is left out. */
static void walk_around(struct job *j)
{
    size_t pages = j->iov.iov_len / DISK_PAGE;
    if (pages > 1) {
        j->piece = pages / 2 * DISK_PAGE;
    } else {
        j->disk->store->stats.restart_bad++;
        j->gap = true;
        j->at += DISK_PAGE;
        j->piece = CHUNK;
    }
    walk_on(j);
}

/* Looks at a chunk. Leaves j->at where the next one begins. */
static void walk(struct job *j)
{
    struct disk *d = j->disk;
    struct store *s = d->store;
    uint64_t from = j->io.offset, end = from + j->iov.iov_len;
    while (j->at + DISK_PAGE <= end) {
        struct record r;
        size_t need, have = (size_t)(end - j->at);
        const uint8_t *head = j->bytes + (j->at - from);
        int rc = record_read(head, have, s->node, &r, &need);
        if (rc == -ENODATA && j->at > from && end < d->segment_bytes)
            return; /* the head goes on in the next chunk, which begins with it */
        bool newer = rc == 0 && r.epoch > j->epoch;
        if (rc || !in_place(j, &r, j->at) || r.epoch < j->epoch) {
            if (j->at >= j->confirmed) { /* nothing is there, or the read went wrong: a second one tells */
                j->confirmed = end;
                return;
            }
            j->at += DISK_PAGE;
            continue;
        }
        if (newer) {
            /* Its head lied: what was found so far is of an older epoch. It stays a candidate, verified. */
            j->epoch = r.epoch;
            j->trusted = false;
        }
        record_found(j, head, &r);
        j->at += r.bytes;
    }
}

/* The summary's heads. False when one of them is not what it should be: nothing was taken then. */
static bool summary_take(struct job *j, const uint8_t *heads, const struct summary_tail *tail)
{
    struct store *s = j->disk->store;
    for (int pass = 0; pass < 2; pass++) {
        size_t at = 0, need;
        for (uint32_t i = 0; i < tail->n_records; i++) {
            struct record r;
            if (record_read(heads + at, tail->bytes - at, s->node, &r, &need) || r.epoch != j->epoch ||
                !in_place(j, &r, (uint64_t)r.offset * DISK_PAGE))
                return false;
            if (pass)
                record_found(j, heads + at, &r);
            at += r.head_bytes;
        }
        if (at != tail->bytes)
            return false;
    }
    return true;
}

static void last_pages(struct job *j)
{
    struct disk *d = j->disk;
    struct summary_tail tail;
    size_t len = j->iov.iov_len;
    memcpy(&tail, j->bytes + len - sizeof tail, sizeof tail);
    if (summary_check(&tail, d->store->node, j->segment, j->epoch, d->segment_bytes, NULL)) {
        walk_begin(j);
        return;
    }
    size_t whole = summary_bytes(tail.bytes);
    if (whole > len) {
        if (whole > j->room) {
            free(j->bytes);
            j->bytes = aligned_alloc(IO_ALIGN, whole);
            j->room = whole;
            if (!j->bytes) {
                d->store->scan->no_memory = true;
                job_end(j, false);
                return;
            }
        }
        j->phase = SUMMARY;
        job_read(j, d->segment_bytes - whole, whole);
        return;
    }
    const uint8_t *heads = j->bytes + len - sizeof tail - tail.bytes;
    if (summary_check(&tail, d->store->node, j->segment, j->epoch, d->segment_bytes, heads) ||
        !summary_take(j, heads, &tail))
        walk_begin(j);
    else
        job_end(j, true);
}

/* 0, or what is wrong with the segment's head. */
static int head_of(struct job *j)
{
    struct disk *d = j->disk;
    struct segment_head head;
    memcpy(&head, j->bytes, sizeof head);
    int rc = segment_head_check(&head, d->store->node, j->segment, d->segment_bytes);
    if (rc == 0)
        j->epoch = head.epoch;
    return rc;
}

static void job_done(struct io_request *r)
{
    struct job *j = (struct job *)r;
    struct disk *d = j->disk;
    struct store *s = d->store;
    io_ended(s);
    s->moved = true;
    if (s->closing) {
        job_end(j, false);
        return;
    }
    int rc = r->result;
    if (rc == 0 && j->phase == HEAD)
        rc = head_of(j);
    if (rc && (r->result || j->phase == HEAD) && !j->again) {
        j->again = true; /* a read may fail once; a head decides about everything that follows */
        job_read(j, r->offset, j->iov.iov_len);
        return;
    }
    j->again = false;
    switch (j->phase) {
    case HEAD:
        if (rc == -ENOENT) {
            job_end(j, true); /* never used */
            return;
        }
        j->trusted = rc == 0;
        if (rc) {
            s->stats.restart_bad++;
            walk_begin(j);
            return;
        }
        j->phase = LAST_PAGES;
        job_read(j, d->segment_bytes - TAIL, TAIL);
        return;
    case LAST_PAGES:
    case SUMMARY:
        if (rc)
            walk_begin(j);
        else
            last_pages(j);
        return;
    case WALK:
        if (rc) {
            walk_around(j);
            return;
        }
        j->piece = CHUNK;
        walk(j);
        walk_on(j);
        return;
    }
}

static void job_begin(struct disk *d, uint32_t segment)
{
    struct job *j = calloc(1, sizeof *j);
    uint8_t *bytes = j ? aligned_alloc(IO_ALIGN, CHUNK) : NULL;
    if (!bytes) {
        free(j);
        return; /* tried again */
    }
    *j = (struct job){.disk = d, .segment = segment, .bytes = bytes, .room = CHUNK};
    d->scan_next = segment + 1;
    d->scans++;
    d->segments[segment].used = 1;
    job_read(j, 0, DISK_PAGE);
}

/* ---- what has to be verified ---- */

struct check {
    struct io_request io;
    struct iovec iov;
    struct unsure *u;
    struct buf *buf; /* NULL: no memory, `bytes` then */
    void *bytes;
};

/* That a record can be read does not mean that it outlives a loss of power: its sync may never have been
 * asked for, or have failed. So it is written once more; without memory for that it counts as damaged. */
static void check_take(const struct check *k, bool whole)
{
    const struct unsure *u = k->u;
    struct store *s = u->disk->store;
    index_add(u->disk, &u->record, u->checksums, whole ? UNPROVEN : TORN);
    struct block *b = store_find(s, &u->record.key);
    if (!b || b->sequence != u->record.sequence || !whole)
        return;
    if (!b->buf && k->buf)
        ram_attach(s, b, buf_ref(k->buf));
    if (b->buf && (b->put || put_start(s, b, b->buf, NULL))) {
        b->damaged = false;
        b->unproven = true;
    }
}

static void check_done(struct io_request *r)
{
    struct check *k = (struct check *)r;
    struct unsure *u = k->u;
    const struct record *e = &u->record;
    struct store *s = u->disk->store;
    size_t page = layout_page_bytes(&e->layout), n = layout_pages(&e->layout), n_good = 0;
    io_ended(s);
    s->moved = true;
    for (size_t i = 0; i < n && !r->result; i++)
        n_good += page_checksum(&e->key, e->layout.head0 + (uint32_t)(i / BLOCK_PAGES), i % BLOCK_PAGES,
                                (uint8_t *)k->iov.iov_base + i * page, page) == u->checksums[i];
    if (n_good && !s->closing)
        check_take(k, n_good == n);
    s->stats.restart_bad += n_good < n;
    s->scan->verifying--;
    buf_unref(k->buf);
    free(k->bytes);
    free(k);
    free(u);
}

static bool check_begin(struct store *s, struct unsure *u)
{
    const struct record *e = &u->record;
    size_t len = (e->payload_bytes + IO_ALIGN - 1) / IO_ALIGN * IO_ALIGN;
    struct check *k = malloc(sizeof *k);
    struct buf *buf = k ? ram_take(s, e->payload_bytes) : NULL;
    void *bytes = k && !buf ? aligned_alloc(IO_ALIGN, len) : NULL;
    if (!buf && !bytes) {
        free(k);
        return false;
    }
    *k = (struct check){.u = u, .buf = buf, .bytes = bytes, .iov = {buf ? buf->data : bytes, len}};
    k->io = (struct io_request){.op = IO_READ,
                                .file = u->disk->segments[e->segment].file,
                                .offset = (uint64_t)e->offset * DISK_PAGE + e->payload_offset,
                                .iov = &k->iov,
                                .n_iov = 1,
                                .done = check_done};
    s->scan->verifying++;
    s->stats.restart_bytes += len;
    io_start(s, &k->io);
    return true;
}

/* All is read: the watermarks are known. */
static void sort_unsure(struct store *s)
{
    struct scan *x = s->scan;
    while (x->unsure) {
        struct unsure *u = x->unsure;
        x->unsure = u->next;
        struct run *run = run_of(x, u->disk->index, u->record.run);
        if (!u->verify && run && u->record.sequence <= run->durable) {
            index_add(u->disk, &u->record, u->checksums, PROVEN);
            free(u);
        } else {
            u->next = x->late;
            x->late = u;
        }
    }
}

/* ---- the end ---- */

/* Writing goes on where the last process stopped, so that many short lives don't use up many segments. */
static void go_on_writing(struct disk *d)
{
    uint32_t best = NO_SEGMENT;
    for (uint32_t i = 0; i < d->n_segments; i++) {
        const struct segment *g = &d->segments[i];
        if (g->state == SEGMENT_SEALED && g->heads && g->n_live && !g->busy &&
            (best == NO_SEGMENT || g->used < d->segments[best].used))
            best = i;
    }
    for (uint32_t i = 0; i < d->n_segments; i++)
        if (i != best && d->segments[i].heads) {
            free(d->segments[i].heads);
            d->segments[i].heads = NULL;
            d->segments[i].heads_bytes = d->segments[i].heads_cap = 0;
        }
    if (best == NO_SEGMENT ||
        (uint64_t)d->segments[best].used * DISK_PAGE + summary_bytes(d->segments[best].heads_bytes) >=
            d->segment_bytes)
        return;
    segment_prepare(d, best, false);
    if (d->segments[best].state == SEGMENT_PREPARING)
        d->next = best;
}

static void finish(struct store *s)
{
    struct scan *x = s->scan;
    s->sequence = s->run = x->sequence + 1;
    s->state = STORE_SERVING;
    s->stats.restart_ns = s->now - x->begun;
    for (uint32_t i = 0; i < s->n_disks; i++) {
        struct disk *d = &s->disks[i];
        if (x->no_memory) {
            disk_fail(d, "reading the index (it needs a larger --ram)", -ENOMEM);
            continue;
        }
        go_on_writing(d);
        for (uint32_t j = 0; j < d->n_segments; j++)
            segment_settle(d, j);
    }
    scan_free(s);
}

void scan_free(struct store *s)
{
    struct scan *x = s->scan;
    if (!x)
        return;
    struct unsure *lists[] = {x->unsure, x->late};
    for (int i = 0; i < 2; i++)
        for (struct unsure *u = lists[i], *next; u; u = next) {
            next = u->next;
            free(u);
        }
    for (uint32_t i = 0; i < STORE_MAX_DISKS; i++)
        free(x->runs[i]);
    free(x);
    s->scan = NULL;
}

int scan_start(struct store *s, struct skv_error *err)
{
    s->scan = calloc(1, sizeof *s->scan);
    if (!s->scan)
        return skv_fail(err, -ENOMEM, "out of memory");
    for (uint32_t i = 0; i < s->n_disks; i++)
        for (uint32_t j = 0; j < s->disks[i].n_segments; j++)
            s->scan->segments += s->disks[i].segments[j].state == SEGMENT_UNREAD;
    for (uint32_t i = 0; i < s->n_disks; i++) {
        struct run *run = s->disks[i].noted.run ? run_of(s->scan, i, s->disks[i].noted.run) : NULL;
        if (run)
            run->durable = s->disks[i].noted.durable;
    }
    s->state = s->scan->segments ? STORE_STARTING : STORE_SERVING;
    if (s->state == STORE_SERVING)
        scan_free(s);
    return 0;
}

void scan_run(struct store *s)
{
    struct scan *x = s->scan;
    if (!x)
        return;
    if (!x->begun)
        x->begun = s->now;
    for (uint32_t i = 0; i < s->n_disks; i++) {
        struct disk *d = &s->disks[i];
        while (d->scans < SCANS_AT_ONCE && d->scan_next < d->n_segments) {
            uint32_t next = d->scan_next;
            if (d->segments[next].state != SEGMENT_UNREAD)
                d->scan_next++;
            else
                job_begin(d, next);
            if (d->scan_next == next)
                break;
        }
    }
    if (x->segments_done < x->segments)
        return;
    sort_unsure(s);
    while (x->late && x->verifying < SCANS_AT_ONCE) {
        struct unsure *u = x->late;
        x->late = u->next;
        if (!check_begin(s, u)) {
            u->next = x->late;
            x->late = u;
            break;
        }
    }
    if (!x->late && !x->verifying)
        finish(s);
}

double scan_progress(const struct store *s)
{
    return s->scan && s->scan->segments ? (double)s->scan->segments_done / (double)s->scan->segments : 1.0;
}
