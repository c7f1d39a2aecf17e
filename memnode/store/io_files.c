/* io_files.c: see io_files.h. */
#include "memnode/store/io_files.h"
#include "common/size.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum {
    OTHER_FDS = 64,    /* left below the soft limit for the sockets that come after our files */
    MAX_TRIES = 10000, /* that move nothing, before a request fails for it */
};

/* ---- sentences ---- */

/* Of the file or directory that is in the way: the one named, or, if it can't be seen, the one it lies in. */
static bool find_owner(const char *path, char where[300], struct stat *st)
{
    snprintf(where, 300, "%s", path);
    if (lstat(where, st) == 0)
        return true;
    char *slash = strrchr(where, '/');
    if (slash)
        slash[slash == where] = 0;
    else
        strcpy(where, ".");
    return stat(where, st) == 0;
}

static int no_permission(struct skv_error *err, int rc, const char *doing, const char *path)
{
    char where[300];
    struct stat st;
    if (!find_owner(path, where, &st))
        return skv_fail(err, rc, "cannot %s %s: no permission; this process runs as user %u", doing, path,
                        geteuid());
    return skv_fail(
        err, rc,
        "cannot %s %s: no permission; %s belongs to user %u (mode %04o) and this process runs as user %u; "
        "chown or chmod it, or run as its owner",
        doing, path, where, st.st_uid, st.st_mode & 07777, geteuid());
}

/* Says why "cannot DOING PATH"; returns rc. */
static int refused(struct skv_error *err, int rc, const char *doing, const char *path)
{
    struct rlimit files = {0};
    switch (-rc) {
    case EACCES:
    case EPERM:
        return no_permission(err, rc, doing, path);
    case EROFS:
        return skv_fail(err, rc,
                        "cannot %s %s: its file system is read-only; remount it for writing, or take another "
                        "directory",
                        doing, path);
    case EMFILE:
        getrlimit(RLIMIT_NOFILE, &files);
        return skv_fail(err, rc,
                        "cannot %s %s: this process may have %llu files open, and has; raise RLIMIT_NOFILE "
                        "(ulimit -n, or LimitNOFILE= in a systemd unit)",
                        doing, path, (unsigned long long)files.rlim_cur);
    case ENFILE:
        return skv_fail(err, rc,
                        "cannot %s %s: the whole system has too many files open; raise it with sysctl "
                        "fs.file-max",
                        doing, path);
    case ENOSPC:
    case EDQUOT:
        return skv_fail(err, rc,
                        "cannot %s %s: the file system is full (%s); make room, or take another "
                        "directory",
                        doing, path, rc == -EDQUOT ? "quota" : "blocks or inodes");
    case ELOOP:
        return skv_fail(err, rc, "cannot %s %s: it is a symbolic link, which is not followed", doing, path);
    default:
        return skv_fail(err, rc, "cannot %s %s: %s", doing, path, strerror(-rc));
    }
}

static int no_memory(struct skv_error *err)
{
    return skv_fail(err, -ENOMEM, "out of memory");
}

/* ---- descriptors ---- */

/* The soft limit is often 1024 for the sake of programs that use select; what an operator means is the hard
 * one. */
static void raise_limit(int fds_in_use)
{
    struct rlimit l;
    if (getrlimit(RLIMIT_NOFILE, &l) || l.rlim_cur == l.rlim_max ||
        (rlim_t)fds_in_use + OTHER_FDS < l.rlim_cur)
        return;
    l.rlim_cur = l.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &l); /* if not, opening will tell */
}

/* openat, EMFILE only if it must be. A descriptor or -errno. */
static int open_at(int dir, const char *name, int flags)
{
    for (bool again = false;; again = true) {
        int fd = openat(dir, name, flags | O_CLOEXEC, 0600);
        if (fd >= 0) {
            raise_limit(fd);
            return fd;
        }
        if (errno == EINTR)
            continue;
        if (errno != EMFILE || again)
            return -errno;
        raise_limit(INT_MAX); /* others have taken what was below the limit */
    }
}

/* Makes names in a directory survive a crash. Some network file systems can't, and need not. */
static int sync_dir(int fd)
{
    return fsync(fd) && errno != EINVAL && errno != EROFS ? -errno : 0;
}

/* ---- directories ---- */

static int make_dir(const char *path, struct skv_error *err)
{
    if (mkdir(path, 0700) == 0 || errno == EEXIST) /* what the blocks say is nobody else's business */
        return 0;
    if (errno == ENOENT)
        return skv_fail(err, -ENOENT,
                        "cannot make %s: the directory that it should lie in does not exist; make that first",
                        path);
    return refused(err, -errno, "make", path);
}

/* The name of a directory just made. Without permission to read its parent that can't be done. */
static int sync_parent(const struct io_dir *d, struct skv_error *err)
{
    int fd = open_at(d->fd, "..", O_RDONLY | O_DIRECTORY);
    if (fd == -EACCES)
        return 0;
    int rc = fd < 0 ? fd : sync_dir(fd);
    if (fd >= 0)
        close(fd);
    return rc ? refused(err, rc, "make", d->path) : 0;
}

static int open_dir(struct io_dir *d, struct skv_error *err)
{
    bool made = false;
    d->fd = open_at(AT_FDCWD, d->path, O_RDONLY | O_DIRECTORY);
    if (d->fd == -ENOENT) {
        int rc = make_dir(d->path, err);
        if (rc)
            return rc;
        made = true;
        d->fd = open_at(AT_FDCWD, d->path, O_RDONLY | O_DIRECTORY);
    }
    if (d->fd == -ENOTDIR)
        return skv_fail(err, -ENOTDIR, "%s is not a directory, or lies in something that is none", d->path);
    if (d->fd < 0)
        return refused(err, d->fd, "open", d->path);
    return made ? sync_parent(d, err) : 0;
}

static int in_use(const struct io_dir *d, struct skv_error *err)
{
    char text[32] = "";
    ssize_t n = pread(d->lock, text, sizeof text - 1, 0);
    int pid = n > 0 ? atoi(text) : 0;
    if (pid == getpid())
        return skv_fail(err, -EBUSY,
                        "%s is in use by this process already; give every disk its own directory", d->path);
    if (pid <= 0) /* it has not written it yet */
        return skv_fail(err, -EBUSY, "%s is in use by another process", d->path);
    return skv_fail(err, -EBUSY, "%s is in use by another process (pid %d)", d->path, pid);
}

/* DIR/lock is never removed: whoever opened it a moment earlier would lock another file than the next. */
static int lock_dir(struct io_dir *d, struct skv_error *err)
{
    char path[400], text[32];
    snprintf(path, sizeof path, "%s/lock", d->path);
    d->lock = open_at(d->fd, "lock", O_RDWR | O_CREAT | O_NOFOLLOW);
    if (d->lock < 0)
        return refused(err, d->lock, "open", path);
    if (flock(d->lock, LOCK_EX | LOCK_NB))
        return errno == EWOULDBLOCK ? in_use(d, err) : refused(err, -errno, "lock", path);
    int len = snprintf(text, sizeof text, "%d\n", (int)getpid());
    if (ftruncate(d->lock, 0) || pwrite(d->lock, text, (size_t)len, 0) != len)
        (void)0; /* a full disk: the number is only for people, the lock is as good without it */
    return 0;
}

/* Some file systems refuse O_DIRECT when opening, others when reading with an alignment that is too small for
 * them. */
static int probe_direct(struct io_dir *d, struct skv_error *err)
{
    _Alignas(IO_ALIGN) char page[IO_ALIGN];
    int fd = open_at(d->fd, "lock", O_RDONLY | O_DIRECT | O_NOFOLLOW);
    int rc = fd < 0 ? fd : pread(fd, page, sizeof page, 0) < 0 ? -errno : 0;
    if (fd >= 0)
        close(fd);
    d->direct = rc == 0;
    return rc == 0 || rc == -EINVAL ? 0 : refused(err, rc, "read what lies in", d->path);
}

static void close_dir(struct io_dir *d)
{
    if (d->fd >= 0)
        close(d->fd);
    if (d->lock >= 0)
        close(d->lock);
    free(d->path);
}

int io_files_mount(struct io *io, const char *path, struct skv_error *err)
{
    struct io_files *f = (struct io_files *)io;
    struct io_dir *dirs = realloc(f->dirs, (f->n_dirs + 1) * sizeof *dirs);
    if (!dirs)
        return no_memory(err);
    f->dirs = dirs;
    struct io_dir d = {.path = strdup(path), .fd = -1, .lock = -1};
    int rc = d.path ? open_dir(&d, err) : no_memory(err);
    if (rc == 0)
        rc = lock_dir(&d, err);
    if (rc == 0)
        rc = probe_direct(&d, err);
    if (rc == 0 && (rc = sync_dir(d.fd))) /* also names that an earlier run had no time for */
        refused(err, rc, "sync", path);
    if (rc) {
        close_dir(&d);
        return rc;
    }
    f->dirs[f->n_dirs] = d;
    return (int)f->n_dirs++;
}

/* The lock goes with the rest. A directory that was only moved still has it. */
int io_files_alive(const struct io *io, int dir)
{
    const struct io_files *f = (const struct io_files *)io;
    struct stat st;
    assert(dir >= 0 && (unsigned)dir < f->n_dirs);
    if (fstat(f->dirs[dir].lock, &st))
        return -errno;
    return st.st_nlink > 0 ? 0 : -ENOENT;
}

uint64_t io_files_room(const struct io *io, int dir)
{
    const struct io_files *f = (const struct io_files *)io;
    assert(dir >= 0 && (unsigned)dir < f->n_dirs);
    struct statvfs fs;
    struct stat st;
    if (fstatvfs(f->dirs[dir].fd, &fs))
        return UINT64_MAX;
    uint64_t bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    DIR *d = opendir(f->dirs[dir].path);
    for (struct dirent *e; d && (e = readdir(d));)
        if (fstatat(f->dirs[dir].fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
            bytes += (uint64_t)st.st_blocks * 512;
    if (d)
        closedir(d);
    return bytes;
}

char *io_files_describe(const struct io *io, int dir, char *buf, size_t len)
{
    const struct io_files *f = (const struct io_files *)io;
    assert(dir >= 0 && (unsigned)dir < f->n_dirs);
    const struct io_dir *d = &f->dirs[dir];
    if (d->direct)
        snprintf(buf, len, "%s: %s, O_DIRECT", d->path, io->ops->name);
    else
        snprintf(buf, len,
                 "%s: %s, buffered: its file system does not take O_DIRECT, so blocks also take up "
                 "the page cache",
                 d->path, io->ops->name);
    return buf;
}

/* ---- files ---- */

/* A file that is being opened. */
struct opening {
    const struct io_dir *dir;
    const char *name;
    char path[400]; /* for sentences */
    uint64_t size;  /* wanted; 0: as it is */
    struct stat was;
    int fd;
    bool made;
};

static int no_space(const struct opening *o, int rc, struct skv_error *err)
{
    char want[32], have[32];
    struct statvfs fs = {0};
    size_format(want, sizeof want, o->size);
    if (rc == -EFBIG)
        return skv_fail(err, rc,
                        "cannot reserve %s for %s: no file may be as large; raise the limit of this process "
                        "(ulimit -f), or take another file system",
                        want, o->path);
    if (rc == -EDQUOT || fstatvfs(o->dir->fd, &fs))
        return skv_fail(err, rc,
                        "cannot reserve %s for %s: %s; give this directory a smaller size, or make room",
                        want, o->path, strerror(-rc));
    size_format(have, sizeof have, (uint64_t)fs.f_bavail * fs.f_frsize);
    return skv_fail(err, rc,
                    "cannot reserve %s for %s: its file system has %s free; give this directory a smaller "
                    "size, or make room",
                    want, o->path, have);
}

static int fallocate_all(int fd, uint64_t size)
{
    while (fallocate(fd, 0, 0, (off_t)size))
        if (errno != EINTR)
            return -errno;
    return 0;
}

/* Makes the file as long as wanted, with all its blocks. */
static int reserve(const struct opening *o)
{
    int rc = fallocate_all(o->fd, o->size);
    if (rc != -EOPNOTSUPP && rc != -ENOSYS)
        return rc;
    if ((uint64_t)o->was.st_size == o->size)
        return 0;
    return ftruncate(o->fd, (off_t)o->size) ? -errno : 0;
}

/* Leaves behind what was found. */
static void undo(const struct opening *o)
{
    int rc = o->made ? unlinkat(o->dir->fd, o->name, 0) : ftruncate(o->fd, o->was.st_size);
    (void)rc; /* a file that is too long will be refused at the next start, with a sentence */
}

static int set_size(const struct opening *o, bool *created, struct skv_error *err)
{
    uint64_t size = (uint64_t)o->was.st_size;
    if (!S_ISREG(o->was.st_mode))
        return skv_fail(err, -EINVAL, "%s is not a regular file", o->path);
    if (o->size == 0)
        return 0;
    if (size > o->size)
        return skv_fail(err, -EINVAL, "%s has %llu bytes, not %llu: it was made with another size", o->path,
                        (unsigned long long)size, (unsigned long long)o->size);
    *created = size < o->size;
    if (!*created && (uint64_t)o->was.st_blocks * 512 >= size)
        return 0; /* not so for a copy that left holes */
    int rc = reserve(o);
    if (rc == 0 && fsync(o->fd))
        rc = -errno;
    if (rc == 0 && o->made)
        rc = sync_dir(o->dir->fd);
    if (rc == 0)
        return 0;
    undo(o);
    if (rc == -ENOSPC || rc == -EDQUOT || rc == -EFBIG)
        return no_space(o, rc, err);
    return refused(err, rc, "extend", o->path);
}

static int find_or_make(struct opening *o, struct skv_error *err)
{
    int flags = O_RDWR | O_NOFOLLOW | (o->dir->direct ? O_DIRECT : 0);
    o->fd = open_at(o->dir->fd, o->name, flags);
    if (o->fd == -ENOENT && o->size > 0) {
        o->made = true;
        o->fd = open_at(o->dir->fd, o->name, flags | O_CREAT | O_EXCL);
    }
    if (o->fd < 0)
        return refused(err, o->fd, o->made ? "make" : "open", o->path);
    return fstat(o->fd, &o->was) ? refused(err, -errno, "open", o->path) : 0;
}

int io_files_open(struct io *io, int dir, const char *name, uint64_t size, bool *created,
                  struct skv_error *err)
{
    struct io_files *f = (struct io_files *)io;
    assert(dir >= 0 && (unsigned)dir < f->n_dirs && size <= INT64_MAX);
    struct opening o = {.dir = &f->dirs[dir], .name = name, .size = size, .fd = -1};
    snprintf(o.path, sizeof o.path, "%s/%s", o.dir->path, name);
    int *fds = realloc(f->fds, (f->n_files + 1) * sizeof *fds);
    if (!fds)
        return no_memory(err);
    f->fds = fds;
    bool extended = false;
    int rc = find_or_make(&o, err);
    if (rc == 0)
        rc = set_size(&o, &extended, err);
    if (rc) {
        if (o.fd >= 0)
            close(o.fd);
        return rc;
    }
    if (created)
        *created = extended;
    f->fds[f->n_files] = o.fd;
    return (int)f->n_files++;
}

void io_files_close(struct io_files *f)
{
    for (unsigned i = 0; i < f->n_files; i++)
        close(f->fds[i]);
    for (unsigned i = 0; i < f->n_dirs; i++)
        close_dir(&f->dirs[i]); /* last, as its lock speaks for the files */
    free(f->fds);
    free(f->dirs);
}

/* ---- requests ---- */

void io_request_begin(const struct io_files *f, struct io_request *r)
{
    assert(r->file >= 0 && (unsigned)r->file < f->n_files && r->done);
    assert(r->op == IO_SYNC || (r->n_iov >= 1 && r->n_iov <= IO_MAX_IOV && r->offset % IO_ALIGN == 0));
    for (unsigned i = 0; r->op != IO_SYNC && i < r->n_iov;
         i++) /* also where it would not matter: tests see it */
        assert((uintptr_t)r->iov[i].iov_base % IO_ALIGN == 0 && r->iov[i].iov_len % IO_ALIGN == 0);
    r->opaque[0] = 0;
    r->opaque[1] = (uint64_t)f->fds[r->file];
    r->result = 0;
}

const struct iovec *io_request_rest(const struct io_request *r, struct iovec *room, unsigned *n)
{
    uint64_t skip = r->opaque[0];
    *n = r->n_iov;
    if (skip == 0)
        return r->iov;
    *n = 0;
    for (unsigned i = 0; i < r->n_iov; i++) {
        const struct iovec *v = &r->iov[i];
        if (skip < v->iov_len)
            room[(*n)++] = (struct iovec){(char *)v->iov_base + skip, v->iov_len - skip};
        skip -= skip < v->iov_len ? skip : v->iov_len;
    }
    return room;
}

bool io_request_advance(struct io_request *r, int64_t said)
{
    /* ECANCELED: io_uring drops what has not begun when the thread that submitted it ends. */
    bool again = said == -EINTR || said == -EAGAIN || said == -ECANCELED;
    if (again && ++r->result < MAX_TRIES)
        return false;
    uint64_t length = 0;
    for (unsigned i = 0; said > 0 && i < r->n_iov; i++)
        length += r->iov[i].iov_len;
    if (said < 0)
        /* After a short transfer the rest may be too little aligned for O_DIRECT: it was the end of a file.
         */
        r->result = said == -EINVAL && r->opaque[0] % IO_ALIGN != 0 ? -EIO : (int)said;
    else if (r->op == IO_SYNC)
        r->result = 0;
    else if (said == 0) /* the end of the file; for a write, nothing that the system explains */
        r->result = -EIO;
    else {
        r->opaque[0] += (uint64_t)said;
        r->result = 0;
        return r->opaque[0] >= length;
    }
    return true;
}
