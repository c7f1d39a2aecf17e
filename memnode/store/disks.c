/* disks.c: opening the directories, and what becomes of a disk that fails. */
#include "common/size.h"
#include "memnode/store/store_impl.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SEGMENTS_WISHED = 64 }; /* a disk has about so many, as far as their limits allow */

/* ---- requests ---- */

void io_start(struct store *s, struct io_request *r)
{
    s->in_flight++;
    s->io->ops->submit(s->io, r);
}

void io_ended(struct store *s)
{
    assert(s->in_flight > 0);
    s->in_flight--;
}

/* At start there is nothing to overlap with: one request, waited for. */
struct plain {
    struct io_request io;
    bool done;
};

static void plain_done(struct io_request *r)
{
    ((struct plain *)r)->done = true;
}

static int plain_io(struct store *s, enum io_op op, int file, uint64_t offset, void *page)
{
    struct iovec iov = {page, DISK_PAGE};
    struct plain p = {.io = {.op = op, .file = file, .offset = offset, .done = plain_done}};
    if (op != IO_SYNC) {
        p.io.iov = &iov;
        p.io.n_iov = 1;
    }
    s->io->ops->submit(s->io, &p.io);
    s->io->ops->flush(s->io);
    while (!p.done)
        s->io->ops->reap(s->io, true);
    return p.io.result;
}

/* ---- failure ---- */

void disk_fail(struct disk *d, const char *what, int rc)
{
    struct store *s = d->store;
    if (d->failed)
        return;
    d->failed = true;
    snprintf(s->trouble, sizeof s->trouble, "%s: %s failed: %s; what is on it is still served", d->dir, what,
             strerror(-rc));
    log_write(s->log, LOG_LEVEL_ERROR,
              "%s: %s failed (%s): this disk takes no more writes; replace it, or free "
              "space, and start the node again",
              d->dir, what, strerror(-rc));
}

int disk_alive(struct disk *d)
{
    const struct io *io = d->store->io;
    int rc = io->ops->alive ? io->ops->alive(io, d->dir_number) : 0;
    if (rc)
        disk_fail(d, "finding its files again", rc);
    return rc;
}

/* ---- opening ---- */

static uint64_t segment_size_for(uint64_t size)
{
    uint64_t bytes = SEGMENT_MIN;
    while (bytes * 2 <= size / SEGMENTS_WISHED && bytes < SEGMENT_MAX)
        bytes *= 2;
    return bytes;
}

/* Judges what the directory's head says. `super` is its head, *is_new whether there was none. */
static int judge_super(struct store *s, struct disk *d, const struct disk_super *super, uint64_t size,
                       bool *is_new, bool *identity_known, struct skv_error *err)
{
    int rc = super_check(super);
    *is_new = rc == -ENOENT;
    if (*is_new)
        return 0;
    if (rc == -EPROTONOSUPPORT)
        return skv_fail(
            err, rc,
            "%s was written by a store of version %u and this one reads version %d: use the release "
            "that wrote it, or another directory",
            d->dir, super->version, DISK_VERSION);
    if (rc)
        return skv_fail(
            err, rc,
            "%s: the file 'store' in it is damaged or is not a scoutkv store; restore it, or give "
            "an empty directory",
            d->dir);
    if (strcmp(super->name, s->name) != 0)
        return skv_fail(err, -EXDEV, "%s belongs to node '%s', not '%s': give --id %s, or another directory",
                        d->dir, super->name, s->name, super->name);
    if (*identity_known && memcmp(super->node, s->node, DISK_NODE) != 0)
        return skv_fail(err, -EXDEV,
                        "%s and another --disk were not made by the same node: they can't be used together",
                        d->dir);
    if (size / super->segment_bytes < super->n_segments)
        return skv_fail(err, -EINVAL,
                        "%s holds %" PRIu64 " segments of %" PRIu64
                        " MiB, and a store does not shrink: give it at "
                        "least %" PRIu64 "MiB, or an empty directory",
                        d->dir, super->n_segments, super->segment_bytes >> 20,
                        super->n_segments * (super->segment_bytes >> 20));
    memcpy(s->node, super->node, DISK_NODE);
    *identity_known = true;
    return 0;
}

static int open_segment(struct store *s, struct disk *d, uint32_t segment, bool *created,
                        struct skv_error *err)
{
    char name[32];
    snprintf(name, sizeof name, "%06u.seg", segment);
    return s->io->ops->open(s->io, d->dir_number, name, d->segment_bytes, created, err);
}

/* A directory without a head must not hold segments: somebody lost its head, and writing a new one would give
 * up what they hold. */
static int check_unused(struct store *s, struct disk *d, uint8_t *page, struct skv_error *err)
{
    struct segment_head head;
    bool created;
    int rc = d->first_file = open_segment(s, d, 0, &created, err);
    if (rc < 0 || created)
        return rc < 0 ? rc : 0;
    rc = plain_io(s, IO_READ, d->first_file, 0, page);
    memcpy(&head, page, sizeof head);
    if (rc || segment_head_check(&head, s->node, 0, d->segment_bytes) != -ENOENT)
        return skv_fail(
            err, -EBADMSG,
            "%s has segments but no file 'store' that says whose they are: restore it, or give an "
            "empty directory",
            d->dir);
    return 0;
}

/* Before anything is reserved: to fill up a file system and then fail would leave others without room. */
static int check_room(const struct store *s, const struct disk *d, struct skv_error *err)
{
    uint64_t want = d->n_segments * d->segment_bytes;
    uint64_t have = s->io->ops->room ? s->io->ops->room(s->io, d->dir_number) : UINT64_MAX;
    char want_text[32], have_text[32];
    if (want <= have)
        return 0;
    return skv_fail(
        err, -ENOSPC,
        "%s is to take %s, and its file system has room for %s: give it a smaller size, or make room", d->dir,
        size_format(want_text, sizeof want_text, want), size_format(have_text, sizeof have_text, have));
}

/* Reads the directory's head; when `making`, writes it where it is missing or its disk has grown. */
static int open_super(struct store *s, struct disk *d, const struct store_disk *o, bool making,
                      bool *identity_known, struct skv_error *err)
{
    struct disk_super super;
    bool created, is_new;
    int rc = 0;
    uint8_t *page = aligned_alloc(DISK_PAGE, DISK_PAGE);
    if (!page)
        return skv_fail(err, -ENOMEM, "out of memory");
    if (d->super_file < 0)
        rc = d->super_file = s->io->ops->open(s->io, d->dir_number, "store", 2 * DISK_PAGE, &created, err);
    if (rc < 0)
        goto done;
    memset(page, 0, DISK_PAGE);
    for (int try = 0; try < 2; try++) { /* a read may go wrong once, and much depends on this one */
        rc = plain_io(s, IO_READ, d->super_file, 0, page);
        memcpy(&super, page, sizeof super);
        if (rc == 0 && super_check(&super) == 0)
            break;
    }
    if (rc) {
        skv_fail(err, rc, "%s: cannot read its head: %s", d->dir, strerror(-rc));
        goto done;
    }
    rc = judge_super(s, d, &super, o->size, &is_new, identity_known, err);
    if (rc)
        goto done;
    d->segment_bytes = is_new ? segment_size_for(o->size) : super.segment_bytes;
    d->n_segments = (uint32_t)(o->size / d->segment_bytes);
    d->is_new = is_new;
    if (is_new || d->n_segments > super.n_segments)
        rc = check_room(s, d, err);
    if (rc)
        goto done;
    if (!making || (is_new && (rc = check_unused(s, d, page, err))))
        goto done;
    /* Written at every start: what is read may be what an earlier process could not bring to the medium. */
    super_write(&super, s->node, s->name, d->index, d->segment_bytes, d->n_segments);
    memset(page, 0, DISK_PAGE);
    memcpy(page, &super, sizeof super);
    rc = plain_io(s, IO_WRITE, d->super_file, 0, page);
    rc = rc ? rc : plain_io(s, IO_SYNC, d->super_file, 0, NULL);
    if (rc && is_new)
        skv_fail(err, rc, "%s: cannot write its head: %s", d->dir, strerror(-rc));
    else if (rc)
        disk_fail(d, "writing its head", rc);
    rc = is_new ? rc : 0;
    struct disk_note note;
    if (plain_io(s, IO_READ, d->super_file, DISK_PAGE, page) == 0) {
        memcpy(&note, page, sizeof note);
        if (note_check(&note, s->node))
            d->noted = (struct run){note.run, note.durable};
    }
done:
    free(page);
    return rc < 0 ? rc : 0;
}

static int open_segments(struct store *s, struct disk *d, struct skv_error *err)
{
    d->segments = calloc(d->n_segments, sizeof *d->segments);
    if (!d->segments)
        return skv_fail(err, -ENOMEM, "out of memory");
    for (uint32_t i = 0; i < d->n_segments; i++) {
        bool created;
        int rc = i == 0 && d->first_file >= 0 ? d->first_file : open_segment(s, d, i, &created, err);
        if (rc < 0)
            return rc;
        d->segments[i].file = rc;
        d->segments[i].state = d->is_new ? SEGMENT_FREE : SEGMENT_UNREAD;
    }
    return 0;
}

int disks_open(struct store *s, const struct store_opts *o, struct skv_error *err)
{
    bool identity_known = false;
    assert(o->n_disks <= STORE_MAX_DISKS && s->io);
    s->disks = calloc(o->n_disks, sizeof *s->disks);
    if (!s->disks)
        return skv_fail(err, -ENOMEM, "out of memory");
    /* All locks first, and all heads before any space is taken. Directories that hold something say whose
     * they are before those that are made join them. */
    for (; s->n_disks < o->n_disks; s->n_disks++) {
        struct disk *d = &s->disks[s->n_disks];
        *d = (struct disk){.store = s,
                           .index = s->n_disks,
                           .dir = o->disks[s->n_disks].dir,
                           .super_file = -1,
                           .first_file = -1,
                           .next_epoch = 1};
        d->open = d->next = d->victim = NO_SEGMENT;
        d->moves.end = &d->moves.first;
        d->dir_number = s->io->ops->mount(s->io, d->dir, err);
        if (d->dir_number < 0)
            return d->dir_number;
    }
    for (int making = 0; making < 2; making++)
        for (uint32_t i = 0; i < s->n_disks; i++) {
            int rc = open_super(s, &s->disks[i], &o->disks[i], making, &identity_known, err);
            if (rc)
                return rc;
        }
    for (uint32_t i = 0; i < s->n_disks; i++) {
        int rc = open_segments(s, &s->disks[i], err);
        if (rc)
            return rc;
    }
    return 0;
}

void disks_close(struct store *s)
{
    s->closing = true;
    log_finish(s);
    while (s->in_flight) {
        s->io->ops->flush(s->io);
        s->io->ops->reap(s->io, true);
    }
    reads_drop(s);
    log_close(s);
    scan_free(s);
    for (uint32_t i = 0; i < s->n_disks; i++)
        for (uint32_t j = 0; s->disks[i].segments && j < s->disks[i].n_segments; j++)
            free(s->disks[i].segments[j].heads);
}
