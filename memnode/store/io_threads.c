/* io_threads.c: plain blocking reads and writes on a few threads, for kernels and containers without io_uring
 * and for tools that can't see through it. See io.h.
 *
 * The owner's thread queues without a lock, hands over in flush, and takes back in reap; an eventfd is
 * readable exactly while something waits to be taken back. */
#include "memnode/store/io_files.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
    N_WORKERS = 4
}; /* they sleep in the kernel: enough to keep a disk busy, few enough to start anywhere */

struct threads {
    struct io_files files;  /* first */
    struct io_queue queued; /* submitted, not flushed: the owner's */
    unsigned in_flight;     /* flushed, not reaped: the owner's */
    int event;
    unsigned n_workers;
    pthread_t workers[N_WORKERS];

    pthread_mutex_t lock; /* of all below */
    pthread_cond_t work;
    struct io_queue todo, completed;
    bool quit;
};

static int64_t transfer(const struct io_request *r)
{
    struct iovec room[IO_MAX_IOV];
    unsigned n;
    int fd = io_request_fd(r);
    if (r->op == IO_SYNC)
        return fdatasync(fd) ? -errno : 0;
    const struct iovec *iov = io_request_rest(r, room, &n);
    off_t at = (off_t)(r->offset + r->opaque[0]);
    ssize_t got = r->op == IO_READ ? preadv(fd, iov, (int)n, at) : pwritev(fd, iov, (int)n, at);
    return got < 0 ? -errno : got;
}

static void *worker(void *arg)
{
    struct threads *t = arg;
    static const uint64_t one = 1;
    pthread_mutex_lock(&t->lock);
    for (;;) {
        struct io_request *r = NULL;
        while (!t->quit && !(r = io_queue_take(&t->todo)))
            pthread_cond_wait(&t->work, &t->lock);
        if (!r)
            break;
        pthread_mutex_unlock(&t->lock);
        while (!io_request_advance(r, transfer(r)))
            ;
        pthread_mutex_lock(&t->lock);
        bool first = !t->completed.first;
        io_queue_add(&t->completed, r);
        if (first) {
            ssize_t written = write(t->event, &one, sizeof one); /* can't fail: the counter is 0 */
            (void)written;
        }
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

static void threads_submit(struct io *io, struct io_request *r)
{
    struct threads *t = (struct threads *)io;
    io_request_begin(&t->files, r);
    io_queue_add(&t->queued, r);
}

static void threads_flush(struct io *io)
{
    struct threads *t = (struct threads *)io;
    unsigned n = 0;
    for (const struct io_request *r = t->queued.first; r; r = r->next)
        n++;
    if (n == 0)
        return;
    t->in_flight += n;
    pthread_mutex_lock(&t->lock);
    io_queue_append(&t->todo, &t->queued);
    pthread_mutex_unlock(&t->lock);
    if (n == 1)
        pthread_cond_signal(&t->work);
    else
        pthread_cond_broadcast(&t->work);
}

static struct io_queue take_completed(struct threads *t)
{
    uint64_t count;
    pthread_mutex_lock(&t->lock);
    struct io_queue q = t->completed;
    t->completed = (struct io_queue){0};
    if (q.first) {
        ssize_t got = read(t->event, &count, sizeof count); /* resets it */
        (void)got;
    }
    pthread_mutex_unlock(&t->lock);
    return q;
}

static unsigned threads_reap(struct io *io, bool wait)
{
    struct threads *t = (struct threads *)io;
    if (wait) {
        struct pollfd p = {.fd = t->event, .events = POLLIN};
        threads_flush(io);
        while (t->in_flight > 0 && poll(&p, 1, -1) < 0) /* EINTR */
            ;
    }
    struct io_queue q = take_completed(t);
    unsigned n = 0;
    for (struct io_request *r; (r = io_queue_take(&q)); n++) {
        t->in_flight--;
        r->done(r); /* it may be submitted again, or be gone */
    }
    return n;
}

static int threads_fd(const struct io *io)
{
    return ((const struct threads *)io)->event;
}

static void threads_close(struct io *io)
{
    struct threads *t = (struct threads *)io;
    pthread_mutex_lock(&t->lock);
    t->quit = true;
    pthread_cond_broadcast(&t->work);
    pthread_mutex_unlock(&t->lock);
    for (unsigned i = 0; i < t->n_workers; i++)
        pthread_join(t->workers[i], NULL);
    pthread_cond_destroy(&t->work);
    pthread_mutex_destroy(&t->lock);
    if (t->event >= 0)
        close(t->event);
    io_files_close(&t->files);
    free(t);
}

static const struct io_ops threads_ops = {
    .name = "threads",
    .mount = io_files_mount,
    .open = io_files_open,
    .submit = threads_submit,
    .flush = threads_flush,
    .reap = threads_reap,
    .fd = threads_fd,
    .alive = io_files_alive,
    .room = io_files_room,
    .close = threads_close,
};

/* Signals are the program's: a worker must not be the thread that gets them. 0 or -errno. */
static int start_workers(struct threads *t)
{
    sigset_t all, before;
    int rc = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (; t->n_workers < N_WORKERS && rc == 0; t->n_workers += rc == 0)
        rc = -pthread_create(&t->workers[t->n_workers], NULL, worker, t);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return t->n_workers > 0 ? 0 : rc; /* fewer: slower, not wrong */
}

struct io *io_threads_new(struct skv_error *err)
{
    struct threads *t = calloc(1, sizeof *t);
    if (!t) {
        skv_fail(err, -ENOMEM, "out of memory");
        return NULL;
    }
    t->files.io.ops = &threads_ops;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->work, NULL);
    t->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int rc = t->event < 0 ? -errno : start_workers(t);
    if (rc == 0)
        return &t->files.io;
    skv_fail(err, rc, "cannot start the threads that read and write disks: %s", strerror(-rc));
    threads_close(&t->files.io);
    return NULL;
}
