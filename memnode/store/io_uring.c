/* io_uring.c: reads and writes through an io_uring. See io.h.
 *
 * A request travels: queued (submitted) -> waiting (flushed) -> a slot, while the kernel has it -> done. What
 * was transferred only in part goes back to the head of those waiting.
 *
 * Plain flags, on purpose: SINGLE_ISSUER would bind the ring to the thread that makes it, but a node is made
 * on one thread and runs on another; COOP_TASKRUN would delay the ring's readiness until somebody enters the
 * kernel, and the owner sleeps in poll. What they save is within the noise of a disk. */
#include "memnode/store/io_files.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum {
    RETRY_MS = 10, /* when the kernel had no memory to take a request */
    TRIAL_MS = 1000,
};

/* What the kernel may have in its hands. */
struct slot {
    struct io_request *request; /* NULL: free */
    struct slot *next;          /* of those free */
    unsigned number;            /* of its submission entry, from 0, with wrap-around */
    struct iovec rest[IO_MAX_IOV];
};

struct ring {
    struct io_files files; /* first */
    struct io_uring ring;
    struct io_queue queued, waiting;
    struct io_queue failed; /* have their result without the kernel: see give_up */
    struct slot *free;
    unsigned n_busy, n_entries; /* slots in use; submission entries made so far */
    int broken;                 /* -errno: the kernel takes no more */
    struct slot slots[IO_DEPTH];
};

/* ---- slots ---- */

static struct slot *slot_take(struct ring *r, struct io_request *q)
{
    struct slot *s = r->free;
    r->free = s->next;
    r->n_busy++;
    s->request = q;
    return s;
}

static struct io_request *slot_free(struct ring *r, struct slot *s)
{
    struct io_request *q = s->request;
    s->request = NULL;
    s->next = r->free;
    r->free = s;
    r->n_busy--;
    return q;
}

/* ---- to the kernel ---- */

static void prepare(struct ring *r, struct io_request *q)
{
    struct slot *s = slot_take(r, q);
    struct io_uring_sqe *e = io_uring_get_sqe(&r->ring);
    assert(e); /* there are as many entries as slots */
    unsigned n;
    const struct iovec *iov = io_request_rest(q, s->rest, &n);
    uint64_t at = q->offset + q->opaque[0];
    if (q->op == IO_READ)
        io_uring_prep_readv(e, io_request_fd(q), iov, n, at);
    else if (q->op == IO_WRITE)
        io_uring_prep_writev(e, io_request_fd(q), iov, n, at);
    else
        io_uring_prep_fsync(e, io_request_fd(q), IORING_FSYNC_DATASYNC);
    io_uring_sqe_set_data(e, s);
    s->number = r->n_entries++;
}

static void fail(struct ring *r, struct io_request *q)
{
    q->result = r->broken;
    io_queue_add(&r->failed, q);
}

/* The kernel refuses to be entered, which it never should: a seccomp filter installed since, say. What it has
 * not taken fails; what it has will still complete. The ring does not become readable for those: the owner's
 * next look at it finds them. */
static void give_up(struct ring *r)
{
    unsigned n_left = io_uring_sq_ready(&r->ring);
    for (unsigned i = 0; i < IO_DEPTH; i++) {
        struct slot *s = &r->slots[i];
        if (s->request && r->n_entries - s->number <= n_left)
            fail(r, slot_free(r, s));
    }
    for (struct io_request *q; (q = io_queue_take(&r->waiting));)
        fail(r, q);
}

/* Hands over what there is room for. */
static void start(struct ring *r)
{
    while (!r->broken && r->free && r->waiting.first)
        prepare(r, io_queue_take(&r->waiting));
    while (!r->broken && io_uring_sq_ready(&r->ring) > 0) {
        int rc = io_uring_submit(&r->ring);
        if (rc == 0 || rc == -EAGAIN || rc == -EBUSY || rc == -ENOMEM)
            break; /* no memory just now; the next call tries again */
        if (rc < 0 && rc != -EINTR)
            r->broken = rc;
    }
    if (r->broken)
        give_up(r);
}

static void ring_submit(struct io *io, struct io_request *q)
{
    struct ring *r = (struct ring *)io;
    io_request_begin(&r->files, q);
    io_queue_add(&r->queued, q);
}

static void ring_flush(struct io *io)
{
    struct ring *r = (struct ring *)io;
    io_queue_append(&r->waiting, &r->queued);
    start(r);
}

/* ---- and back ---- */

/* Those that are there now: what callbacks start may complete at once, and so without end. How many were
 * done. */
static unsigned complete(struct ring *r)
{
    unsigned n = 0;
    struct io_queue failed = r->failed;
    struct io_uring_cqe *e;
    r->failed = (struct io_queue){0};
    for (struct io_request *q; (q = io_queue_take(&failed)); n++)
        q->done(q);
    for (unsigned left = io_uring_cq_ready(&r->ring); left > 0 && io_uring_peek_cqe(&r->ring, &e) == 0;
         left--) {
        int said = e->res;
        struct io_request *q = slot_free(r, io_uring_cqe_get_data(e));
        io_uring_cqe_seen(&r->ring, e);
        if (!io_request_advance(q, said)) {
            io_queue_put_back(&r->waiting, q);
            continue;
        }
        q->done(q); /* it may be submitted again, or be gone */
        n++;
    }
    return n;
}

/* Not io_uring_wait_cqe: polling goes on working when the kernel can't be entered. */
static void wait_readable(const struct ring *r)
{
    struct pollfd p = {.fd = r->ring.ring_fd, .events = POLLIN};
    bool retry = !r->broken && io_uring_sq_ready(&r->ring) > 0;
    (void)poll(&p, 1, retry ? RETRY_MS : -1);
}

static unsigned ring_reap(struct io *io, bool wait)
{
    struct ring *r = (struct ring *)io;
    unsigned n;
    if (wait)
        io_queue_append(&r->waiting, &r->queued);
    for (;;) {
        start(r);
        n = complete(r);
        if (n > 0 || !wait || (r->n_busy == 0 && !r->waiting.first && !r->failed.first))
            break;
        if (!r->free || !r->waiting.first) /* else a rest can be started right away */
            wait_readable(r);
    }
    start(r); /* there is room now */
    return n;
}

static int ring_fd(const struct io *io)
{
    return ((const struct ring *)io)->ring.ring_fd;
}

/* ---- beginning and end ---- */

static void ring_free(struct ring *r)
{
    io_uring_queue_exit(&r->ring);
    io_files_close(&r->files);
    free(r);
}

static void ring_close(struct io *io)
{
    struct ring *r = (struct ring *)io;
    struct io_uring_cqe *e;
    while (r->n_busy > (r->broken ? 0 : io_uring_sq_ready(&r->ring))) {
        wait_readable(r);
        while (io_uring_peek_cqe(&r->ring, &e) == 0) {
            slot_free(r, io_uring_cqe_get_data(e));
            io_uring_cqe_seen(&r->ring, e);
        }
    }
    ring_free(r);
}

static const struct io_ops ring_ops = {
    .name = "io_uring",
    .mount = io_files_mount,
    .open = io_files_open,
    .submit = ring_submit,
    .flush = ring_flush,
    .reap = ring_reap,
    .fd = ring_fd,
    .alive = io_files_alive,
    .room = io_files_room,
    .close = ring_close,
};

static void say_refused(struct skv_error *err, int rc)
{
    struct rlimit l = {0};
    switch (-rc) {
    case ENOSYS:
        skv_fail(err, rc, "this kernel has no io_uring");
        break;
    case EPERM:
    case EACCES:
        skv_fail(err, rc,
                 "io_uring is forbidden here, by a container's seccomp profile or by sysctl "
                 "kernel.io_uring_disabled");
        break;
    case ENOMEM:
        getrlimit(RLIMIT_MEMLOCK, &l);
        skv_fail(err, rc, "there is no memory for an io_uring; RLIMIT_MEMLOCK (ulimit -l) is %llu KiB",
                 (unsigned long long)l.rlim_cur / 1024);
        break;
    case EOPNOTSUPP:
        skv_fail(err, rc, "the io_uring of this kernel is too old");
        break;
    default:
        skv_fail(err, rc, "io_uring does not work here: %s", strerror(-rc));
    }
}

/* Some containers let a ring be made but not entered, and the owner relies on being woken by it. */
static int trial(struct ring *r)
{
    struct pollfd p = {.fd = r->ring.ring_fd, .events = POLLIN};
    struct io_uring_cqe *e;
    io_uring_prep_nop(io_uring_get_sqe(&r->ring));
    int rc;
    while ((rc = io_uring_submit(&r->ring)) == -EINTR)
        ;
    if (rc < 0)
        return rc;
    int n;
    while ((n = poll(&p, 1, TRIAL_MS)) < 0 && errno == EINTR)
        ;
    rc = n < 0 ? -errno : n == 0 ? -ETIME : io_uring_peek_cqe(&r->ring, &e);
    if (rc == 0)
        io_uring_cqe_seen(&r->ring, e);
    return rc;
}

struct io *io_uring_new(struct skv_error *err)
{
    /* Linux 5.5: without these, iovecs would have to stay as they are and completions might be dropped. */
    const unsigned needed = IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_NODROP;
    struct io_uring_params params = {0};
    struct ring *r = calloc(1, sizeof *r);
    if (!r) {
        skv_fail(err, -ENOMEM, "out of memory");
        return NULL;
    }
    r->files.io.ops = &ring_ops;
    for (unsigned i = 0; i < IO_DEPTH; i++)
        r->slots[i].next = i + 1 < IO_DEPTH ? &r->slots[i + 1] : NULL;
    r->free = r->slots;
    int rc = io_uring_queue_init_params(IO_DEPTH, &r->ring, &params);
    if (rc) {
        say_refused(err, rc);
        free(r);
        return NULL;
    }
    rc = (params.features & needed) == needed ? trial(r) : -EOPNOTSUPP;
    if (rc) {
        say_refused(err, rc);
        ring_free(r);
        return NULL;
    }
    return &r->files.io;
}
