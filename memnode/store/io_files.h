/* io_files.h: what both real backends share: directories and files, and how far a request has come.
 *
 * A backend begins with a struct io_files; its table takes io_files_mount and io_files_open as they are. */
#ifndef MEMNODE_STORE_IO_FILES_H
#define MEMNODE_STORE_IO_FILES_H

#include "memnode/store/io.h"

#include <assert.h>

struct io_dir {
    char *path;   /* for sentences only: all else goes through fd, so that a directory may be moved */
    int fd, lock; /* the lock is held as long as DIR/lock is open */
    bool direct;  /* it takes O_DIRECT */
};

struct io_files {
    struct io io;
    struct io_dir *dirs;
    int *fds; /* by file number */
    unsigned n_dirs, n_files;
};

/* See struct io_ops. */
int io_files_mount(struct io *, const char *path, struct skv_error *err);
int io_files_open(struct io *, int dir, const char *name, uint64_t size, bool *created,
                  struct skv_error *err);
int io_files_alive(const struct io *, int dir);
uint64_t io_files_room(const struct io *, int dir);
void io_files_close(struct io_files *);

/* For the log: how a mounted directory is read and written. Of a real backend only. Returns buf. */
char *io_files_describe(const struct io *, int dir, char *buf, size_t len);

/* ---- requests ----
 *
 * While a backend has a request, opaque[0] counts the bytes that were transferred, opaque[1] is the file
 * descriptor, and result counts the tries that moved nothing. */

/* Checks what the caller promises, and prepares those. */
void io_request_begin(const struct io_files *, struct io_request *);
/* What is left to be transferred: the caller's iovecs are not to be changed, so a rest is built in `room`
 * (IO_MAX_IOV of them). Returns what to hand to the system, *n of them. */
const struct iovec *io_request_rest(const struct io_request *, struct iovec *room, unsigned *n);
/* Takes what the system said: bytes, or -errno. True when the request has its result; else the rest is to be
 * submitted. */
bool io_request_advance(struct io_request *, int64_t said);

static inline int io_request_fd(const struct io_request *r)
{
    return (int)r->opaque[1];
}

/* First in, first out. Zeros are an empty one. */
struct io_queue {
    struct io_request *first, *last;
};

static inline void io_queue_add(struct io_queue *q, struct io_request *r)
{
    r->next = NULL;
    if (q->first)
        q->last->next = r;
    else
        q->first = r;
    q->last = r;
}

static inline void io_queue_put_back(struct io_queue *q, struct io_request *r)
{
    r->next = q->first;
    if (!q->first)
        q->last = r;
    q->first = r;
}

static inline struct io_request *io_queue_take(struct io_queue *q)
{
    struct io_request *r = q->first;
    if (r)
        q->first = r->next;
    return r;
}

/* All of `from`, behind what is there; `from` is empty then. */
static inline void io_queue_append(struct io_queue *q, struct io_queue *from)
{
    if (!from->first)
        return;
    if (q->first)
        q->last->next = from->first;
    else
        q->first = from->first;
    q->last = from->last;
    *from = (struct io_queue){0};
}

#endif
