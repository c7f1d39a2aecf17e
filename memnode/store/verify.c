/* verify.c: store_verify: reads a directory from end to end and compares every page with its checksum.
 *
 * DESIGN. Where a segment has its summary, that says which records there are; the pages of a record whose own
 * head was hit are then checked against the summary's copy of it. Elsewhere a walk looks for heads of the
 * segment's epoch, one at every multiple of 4096 that no record covers; what it finds nothing in is free
 * space, or older epochs, or a gap between records where a head was hit. Records that newer ones of their key
 * replaced are checked like all others.
 *
 * What is not right is a doubt at first, for a crash tears the groups that were on their way, and nobody was
 * told that those were there. It is damage if a record of the same run says that it had been on the medium.
 */
#include "memnode/store/io.h"
#include "memnode/store/store.h"
#include "memnode/store/stream.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { HEAD_MOST = STREAM_MOST, PROGRESS_BYTES = 4 << 20 };

struct doubt {
    uint64_t run, sequence;
    uint32_t bad_records, bad_pages;
};
struct run_end {
    uint64_t run, durable;
};

struct verify {
    struct io *io;
    struct disk_super super;
    struct stream *stream;
    struct verify_report *report;
    int *files;          /* of the segments; -1: missing */
    uint32_t n_segments; /* up to the last file there is */
    uint8_t *head;       /* of the record at hand; HEAD_MOST bytes */
    uint8_t *summary;    /* of the segment at hand, NULL: it has none */
    size_t summary_bytes;
    struct doubt *doubts;
    size_t n_doubts, cap_doubts;
    struct run_end *runs; /* one a start of the node, as far as its records are still there */
    size_t n_runs, cap_runs;
    void (*progress)(void *, uint64_t done, uint64_t total);
    void *arg;
    uint64_t shown;
};

static void show_progress(struct verify *v, uint32_t segment, uint64_t at)
{
    uint64_t done = segment * v->super.segment_bytes + at;
    if (!v->progress || (done < v->shown + PROGRESS_BYTES && at < v->super.segment_bytes))
        return;
    v->shown = done;
    v->progress(v->arg, done, v->n_segments * v->super.segment_bytes);
}

/* ---- doubts ---- */

/* Room for one more of `size` bytes behind the n that *list holds. */
static int grow(void *list, size_t *cap, size_t n, size_t size)
{
    if (n < *cap)
        return 0;
    size_t more = n ? 2 * n : 64;
    void *bytes = realloc(*(void **)list, more * size);
    if (!bytes)
        return -ENOMEM;
    *(void **)list = bytes;
    *cap = more;
    return 0;
}

static int add_doubt(struct verify *v, struct doubt d)
{
    if (d.bad_records == 0 && d.bad_pages == 0)
        return 0;
    int rc = grow(&v->doubts, &v->cap_doubts, v->n_doubts, sizeof d);
    if (!rc)
        v->doubts[v->n_doubts++] = d;
    return rc;
}

static int hear(struct verify *v, const struct record *r)
{
    size_t i = 0;
    while (i < v->n_runs && v->runs[i].run != r->run)
        i++;
    if (i == v->n_runs) {
        if (grow(&v->runs, &v->cap_runs, v->n_runs, sizeof *v->runs))
            return -ENOMEM;
        v->runs[v->n_runs++] = (struct run_end){.run = r->run};
    }
    if (v->runs[i].durable < r->durable)
        v->runs[i].durable = r->durable;
    return 0;
}

static void judge(struct verify *v)
{
    for (size_t i = 0; i < v->n_doubts; i++) {
        const struct doubt *d = &v->doubts[i];
        size_t run = 0;
        while (run < v->n_runs && v->runs[run].run != d->run)
            run++;
        if (run < v->n_runs && d->sequence <= v->runs[run].durable) {
            v->report->bad_records += d->bad_records;
            v->report->bad_pages += d->bad_pages;
        } else {
            v->report->torn_records++;
        }
    }
}

/* ---- one record ---- */

/* Whether a whole record of this segment begins at `at`; its head is then in v->head. */
static bool read_head(struct verify *v, uint32_t segment, uint64_t at, struct record *r)
{
    size_t need;
    uint64_t left = v->super.segment_bytes - at;
    const uint8_t *bytes = stream_get(v->stream, at, DISK_PAGE);
    int rc = record_read(bytes, DISK_PAGE, v->super.node, r, &need);
    if (rc == -ENODATA && need <= left && need <= HEAD_MOST) {
        bytes = stream_get(v->stream, at, need);
        rc = record_read(bytes, need, v->super.node, r, &need);
    }
    if (rc || r->segment != segment || (uint64_t)r->offset * DISK_PAGE != at || r->bytes > left)
        return false;
    memcpy(v->head, bytes, r->head_bytes);
    r->pages = (const struct record_page *)(v->head + sizeof(struct record_head));
    return true;
}

/* Its pages; head_bad: its own head does not verify. */
static int check_record(struct verify *v, const struct record *r, bool head_bad)
{
    struct doubt d = {.run = r->run, .sequence = r->sequence, .bad_records = head_bad};
    size_t len = layout_page_bytes(&r->layout);
    uint64_t at = (uint64_t)r->offset * DISK_PAGE + r->payload_offset;
    for (uint32_t i = 0; i < layout_pages(&r->layout); i++, at += len) {
        uint64_t sum = page_checksum(&r->key, r->layout.head0 + i / BLOCK_PAGES, i % BLOCK_PAGES,
                                     stream_get(v->stream, at, len), len);
        if (sum == r->pages[i].checksum) {
            v->report->pages++;
            v->report->bytes += len;
        } else {
            d.bad_pages++;
        }
    }
    v->report->records += !head_bad;
    int rc = add_doubt(v, d);
    return rc ? rc : hear(v, r);
}

/* ---- a segment with a summary ---- */

/* Takes the head at *at of the summary and goes on to the next. False: this is no head of a record that may
 * lie at `from` or behind. */
static bool next_in_summary(const struct verify *v, uint32_t segment, uint64_t epoch, size_t *at,
                            uint64_t from, struct record *r)
{
    size_t need;
    if (record_read(v->summary + *at, v->summary_bytes - *at, v->super.node, r, &need) ||
        r->segment != segment || r->epoch != epoch || (uint64_t)r->offset * DISK_PAGE < from ||
        (uint64_t)r->offset * DISK_PAGE + r->bytes > v->super.segment_bytes)
        return false;
    *at += r->head_bytes;
    return true;
}

/* Loads the summary of this epoch into v->summary if there is a whole one that makes sense. */
static int load_summary(struct verify *v, uint32_t segment, uint64_t epoch)
{
    struct summary_tail tail;
    uint64_t end = v->super.segment_bytes;
    v->summary_bytes = 0;
    const uint8_t *last = stream_page(v->stream, v->files[segment], end - DISK_PAGE);
    if (!last)
        return 0;
    memcpy(&tail, last + DISK_PAGE - sizeof tail, sizeof tail);
    if (summary_check(&tail, v->super.node, segment, epoch, end, NULL) || tail.n_records == 0)
        return 0;
    v->summary = malloc(tail.bytes ? tail.bytes : 1);
    if (!v->summary)
        return -ENOMEM;
    stream_start(v->stream, v->files[segment], end);
    uint64_t begin = end - sizeof tail - tail.bytes;
    for (size_t at = 0, n; at < tail.bytes; at += n) {
        n = tail.bytes - at < STREAM_MOST ? (size_t)tail.bytes - at : STREAM_MOST;
        memcpy(v->summary + at, stream_get(v->stream, begin + at, n), n);
    }
    v->summary_bytes = tail.bytes;
    bool good = summary_check(&tail, v->super.node, segment, epoch, end, v->summary) == 0;
    uint64_t from = DISK_PAGE;
    size_t at = 0;
    for (uint32_t i = 0; i < tail.n_records && good; i++) {
        struct record r;
        good = next_in_summary(v, segment, epoch, &at, from, &r);
        from = good ? (uint64_t)r.offset * DISK_PAGE + r.bytes : 0;
    }
    if (!good || at != v->summary_bytes) {
        free(v->summary);
        v->summary = NULL;
    }
    return 0;
}

static int check_summary(struct verify *v, uint32_t segment, uint64_t epoch)
{
    struct record listed, found;
    int rc = 0;
    for (size_t at = 0; at < v->summary_bytes && !rc;) {
        next_in_summary(v, segment, epoch, &at, 0, &listed);
        uint64_t place = (uint64_t)listed.offset * DISK_PAGE;
        bool good =
            read_head(v, segment, place, &found) && found.epoch == epoch && found.sequence == listed.sequence;
        rc = check_record(v, &listed, !good);
        show_progress(v, segment, place);
    }
    return rc;
}

/* ---- a segment without ---- */

/* *newest: the highest epoch of which a record was seen. */
static int walk(struct verify *v, uint32_t segment, uint64_t epoch, uint64_t *newest)
{
    uint64_t at = DISK_PAGE, expected = DISK_PAGE,
             last = 0; /* expected: the next record, behind the last one */
    struct record r;
    int rc = 0;
    stream_start(v->stream, v->files[segment], v->super.segment_bytes);
    for (; at + DISK_PAGE <= v->super.segment_bytes && !rc; show_progress(v, segment, at)) {
        bool found = read_head(v, segment, at, &r);
        if (found && r.epoch > *newest)
            *newest = r.epoch;
        if (!found || r.epoch != epoch) {
            at += DISK_PAGE; /* older epochs' records lie under newer ones: their lengths mean nothing */
            continue;
        }
        /* A record older than the one before it is a remnant, behind what was written after a crash. */
        if (at > expected && r.sequence > last)
            rc = add_doubt(v, (struct doubt){.run = r.run, .sequence = r.sequence, .bad_records = 1});
        if (!rc)
            rc = check_record(v, &r, false);
        last = r.sequence;
        at = expected = at + r.bytes;
    }
    return rc;
}

/* ---- a segment ---- */

static int check_epoch(struct verify *v, uint32_t segment, uint64_t epoch, uint64_t *newest)
{
    *newest = epoch;
    int rc = epoch ? load_summary(v, segment, epoch) : 0;
    if (!rc && v->summary) {
        stream_start(v->stream, v->files[segment], v->super.segment_bytes);
        rc = check_summary(v, segment, epoch);
    } else if (!rc) {
        rc = walk(v, segment, epoch, newest);
    }
    free(v->summary);
    v->summary = NULL;
    return rc;
}

static int check_segment(struct verify *v, uint32_t segment, struct skv_error *err)
{
    struct segment_head h;
    int state = -EBADMSG;
    const uint8_t *first = stream_page(v->stream, v->files[segment], 0);
    if (first) {
        memcpy(&h, first, sizeof h);
        state = segment_head_check(&h, v->super.node, segment, v->super.segment_bytes);
    }
    if (state == -EPROTONOSUPPORT)
        return skv_fail(err, state, "segment %06" PRIu32 " was written by another version of scoutkv",
                        segment);

    uint64_t epoch = state ? 0 : h.epoch, newest;
    struct verify_report before = *v->report;
    size_t doubts_before = v->n_doubts;
    int rc = check_epoch(v, segment, epoch, &newest);
    if (!rc && newest > epoch) { /* a head is on the medium before its records: this one was hit, or lost */
        *v->report = before;
        v->n_doubts = doubts_before;
        state = -EBADMSG;
        rc = check_epoch(v, segment, newest, &newest);
    }
    if (state && state != -ENOENT)
        v->report->bad_segments++;
    else
        v->report->segments++;
    show_progress(v, segment, v->super.segment_bytes);
    return rc ? skv_fail(err, rc, "out of memory") : 0;
}

/* ---- the directory ---- */

static int open_super(struct verify *v, int dir, const char *path, struct skv_error *err)
{
    bool created;
    int file = v->io->ops->open(v->io, dir, "store", 0, &created, err);
    if (file == -ENOENT)
        return skv_fail(err, file, "%s holds no store: it has no file 'store'", path);
    if (file < 0)
        return file;
    const uint8_t *page = stream_page(v->stream, file, 0);
    if (!page)
        return skv_fail(err, -EIO, "%s/store can't be read", path);
    memcpy(&v->super, page, sizeof v->super);
    int rc = super_check(&v->super);
    if (rc == -ENOENT)
        return skv_fail(err, rc, "%s holds no store yet: its file 'store' is empty", path);
    if (rc == -EPROTONOSUPPORT)
        return skv_fail(err, rc, "%s was written by another version of scoutkv", path);
    return rc ? skv_fail(err, rc, "%s/store is damaged, or is no file of scoutkv", path) : 0;
}

/* The super block is written before the files are made, in order: behind the last one there may be fewer than
 * it says, but none is missing before it. */
static int open_segments(struct verify *v, int dir, struct skv_error *err)
{
    v->files = malloc((v->super.n_segments ? v->super.n_segments : 1) * sizeof *v->files);
    if (!v->files)
        return skv_fail(err, -ENOMEM, "out of memory");
    for (uint32_t i = 0; i < v->super.n_segments; i++) {
        char name[16];
        bool created;
        struct skv_error why = {0};
        snprintf(name, sizeof name, "%06" PRIu32 ".seg", i);
        v->files[i] = v->io->ops->open(v->io, dir, name, 0, &created, &why);
        if (v->files[i] >= 0)
            v->n_segments = i + 1;
        else if (v->files[i] != -ENOENT)
            return skv_fail(err, v->files[i], "%s", why.text);
    }
    return 0;
}

int store_verify(struct io *io, const char *path, struct verify_report *report,
                 void (*progress)(void *, uint64_t done, uint64_t total), void *arg, struct skv_error *err)
{
    struct verify v = {.io = io, .report = report, .progress = progress, .arg = arg};
    *report = (struct verify_report){0};
    int rc = 0, dir = io->ops->mount(io, path, err);
    if (dir < 0)
        return dir;
    v.stream = stream_new(io);
    v.head = malloc(HEAD_MOST);
    if (!v.stream || !v.head)
        rc = skv_fail(err, -ENOMEM, "out of memory");
    if (!rc)
        rc = open_super(&v, dir, path, err);
    if (!rc)
        rc = open_segments(&v, dir, err);
    for (uint32_t i = 0; i < v.n_segments && !rc; i++) {
        if (v.files[i] >= 0)
            rc = check_segment(&v, i, err);
        else
            report->bad_segments++;
    }
    judge(&v);
    stream_free(v.stream);
    free(v.head);
    free(v.files);
    free(v.doubts);
    free(v.runs);
    return rc;
}
