/* io.h: the one table of functions through which the store reaches disks.
 *
 * io_uring_new and io_threads_new are the real ones; tests bring a simulated one that tears, loses, reorders
 * and flips. The store knows no system call: it submits requests and gets their completions, all on one
 * thread. Opening is synchronous, as it happens at start only. */
#ifndef MEMNODE_STORE_IO_H
#define MEMNODE_STORE_IO_H

#include "common/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum {
    IO_ALIGN = 4096, /* of offsets, lengths and memory of every read and write */
    IO_MAX_IOV = 64, /* of one request */
};

enum io_op { IO_READ, IO_WRITE, IO_SYNC };

/* Belongs to the backend, with everything it points to, from submit until done is called. */
struct io_request {
    struct io_request *next; /* the backend's */
    enum io_op op;
    int file;
    uint64_t offset;
    const struct iovec *iov; /* NULL for IO_SYNC */
    unsigned n_iov;
    int result; /* 0 when all bytes were transferred (IO_SYNC: all that completed before it is on the medium),
                   else -errno; a read past the end is -EIO */
    void (*done)(struct io_request *);
    uint64_t opaque[2]; /* the backend's */
};

struct io;
struct io_ops {
    const char *name; /* for the log */
    /* Takes a directory: makes it if it is missing (not its parents), locks it against other processes, finds
     * out whether it does O_DIRECT. A number >= 0, or -errno and a sentence. It stays locked until close. */
    int (*mount)(struct io *, const char *dir, struct skv_error *err);
    /* Opens DIR/name with exactly `size` bytes. If it is missing (or shorter) it is made (extended) with that
     * space reserved, so that writing into it can't fail for want of it where the file system can promise
     * that; new space reads as zeros. *created says so. A file number >= 0, or -errno and a sentence.
     * With size 0 (store_verify) the file is opened as it is, however long, and never made: -ENOENT and a
     * sentence if it is missing. */
    int (*open)(struct io *, int dir, const char *name, uint64_t size, bool *created, struct skv_error *err);
    /* Queues. Completions come from reap only, never from within submit. Requests may complete in any order.
     */
    void (*submit)(struct io *, struct io_request *);
    /* Starts what was queued. */
    void (*flush)(struct io *);
    /* Calls done of what has completed; waits for at least one if `wait` and something is in flight. How many
     * there were. */
    unsigned (*reap)(struct io *, bool wait);
    /* Readable when reap has something to do; -1 if there is no such thing (the simulated disk). */
    int (*fd)(const struct io *);
    /* 0 while the directory's files still have a name; -ENOENT once somebody removed them: what is written
     * then is gone with this process. NULL: they always have. */
    int (*alive)(const struct io *, int dir);
    /* Bytes that the directory's files may come to: what is free on its file system, and what they take
     * already. NULL: nobody knows. */
    uint64_t (*room)(const struct io *, int dir);
    /* Waits for what is in flight without calling done, and frees everything. */
    void (*close)(struct io *);
};
struct io {
    const struct io_ops *ops;
};

/* Requests in flight that make sense at most; more wait in the store. */
enum { IO_DEPTH = 64 };

/* The real ones. NULL and err when the system refuses (io_uring: ENOSYS, EPERM, ENOMEM under a small
 * RLIMIT_MEMLOCK …). */
struct io *io_uring_new(struct skv_error *err);
struct io *io_threads_new(struct skv_error *err);
/* What a node takes: io_uring, else threads and in *why a sentence for the log. SCOUTKV_IO=threads in the
 * environment, for valgrind and tests, skips io_uring. */
struct io *io_new(struct skv_error *why, struct skv_error *err);

#endif
