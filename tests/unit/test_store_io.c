/* test_store_io.c: the two real backends of memnode/store/io.h, and what they say when the system refuses.
 * Every test runs with both. What needs another user, other limits or mounts happens in a child. */
#include "memnode/store/io_files.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sched.h>
#include <unistd.h>

#include <cmocka.h>

enum {
    PAGE = IO_ALIGN,
    MIB = 1 << 20,
    NOBODY = 65534,
    CHILD_SKIPS = 77, /* exit status */
};

struct world {
    struct io *(*make)(struct skv_error *);
    char tmp[200], dir[220]; /* dir lies in tmp, and is not made */
    struct io *io;
    int mount;
};

static _Alignas(PAGE) uint8_t area[2][MIB];
static const char *uring_refusal; /* why io_uring is skipped, or NULL */

/* ---- worlds ---- */

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    const char *tmp = getenv("TMPDIR");
    w->make = (struct io * (*)(struct skv_error *)) * state;
    w->mount = -1;
    snprintf(w->tmp, sizeof w->tmp, "%s/skv-io-XXXXXX", tmp ? tmp : "/tmp");
    *state = w;
    if (!mkdtemp(w->tmp))
        return -1;
    snprintf(w->dir, sizeof w->dir, "%s/disk", w->tmp);
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int what, struct FTW *ftw)
{
    (void)st, (void)what, (void)ftw;
    return remove(path);
}

static int teardown(void **state)
{
    struct world *w = *state;
    if (w->io)
        w->io->ops->close(w->io);
    int rc = nftw(w->tmp, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(w);
    return rc;
}

static struct world *begin(void **state)
{
    struct world *w = *state;
    if (w->make == io_uring_new && uring_refusal)
        skip(); /* main has said why */
    return w;
}

/* Makes the backend and takes w->dir. False, and it has said why, if that fails. */
static bool start(struct world *w)
{
    struct skv_error err = {0};
    w->io = w->make(&err);
    w->mount = w->io ? w->io->ops->mount(w->io, w->dir, &err) : -1;
    if (w->mount < 0)
        print_error("%s\n", err.text);
    return w->mount >= 0;
}

static void stop(struct world *w)
{
    w->io->ops->close(w->io);
    w->io = NULL;
}

static int open_file(struct world *w, const char *name, uint64_t size, bool *created)
{
    struct skv_error err = {0};
    int file = w->io->ops->open(w->io, w->mount, name, size, created, &err);
    if (file < 0)
        print_error("%s\n", err.text);
    return file;
}

/* Whether it failed like this, with these words in its sentence. */
static bool said(int rc, int code, const struct skv_error *err, const char *words)
{
    if (rc == code && err->code == code && strstr(err->text, words))
        return true;
    print_error("wanted %d with \"%s\", got %d with \"%s\"\n", code, words, rc, err->text);
    return false;
}

/* ---- children ---- */

/* cmocka's assertions jump, and in a child there is nowhere to jump to. */
#define CHECK(x) ((x) ? (void)0 : child_failed(__LINE__, #x))

static void child_failed(int line, const char *what)
{
    fprintf(stderr, "child, line %d: %s is not so\n", line, what);
    _exit(1);
}

static void child_skips(const char *why)
{
    printf("SKIPPED: %s\n", why);
    fflush(stdout);
    _exit(CHILD_SKIPS);
}

/* Lets a child do it. */
static void in_child(struct world *w, void (*what)(struct world *))
{
    int status;
    assert_null(w->io); /* threads would not be there in the child */
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        alarm(20);
        what(w);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == CHILD_SKIPS)
        skip();
    if (status != 0)
        fail_msg("the child's status is %x", status);
}

/* In a child: becomes a user to whom permissions apply. */
static void be_nobody(void)
{
    if (geteuid() == 0)
        CHECK(setgroups(0, NULL) == 0 && setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
}

static bool write_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    return f && fputs(text, f) >= 0 && fclose(f) == 0;
}

/* In a child: gets mounts of its own, if it must as root of a user namespace. */
static bool own_namespace(void)
{
    char uid[40], gid[40];
    if (unshare(CLONE_NEWNS) == 0)
        return true;
    snprintf(uid, sizeof uid, "0 %u 1", geteuid());
    snprintf(gid, sizeof gid, "0 %u 1", getegid());
    return unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0 && write_text("/proc/self/setgroups", "deny") &&
           write_text("/proc/self/uid_map", uid) && write_text("/proc/self/gid_map", gid);
}

/* In a child: mounts something on w->dir that nobody else sees. */
static void own_mount(struct world *w, const char *type, unsigned long flags, const char *options)
{
    CHECK(mkdir(w->dir, 0755) == 0);
    if (!own_namespace())
        child_skips("no mounts of one's own are allowed here");
    if (mount("none", "/", "none", MS_REC | MS_PRIVATE, "") || mount("none", w->dir, type, flags, options))
        child_skips("this file system can't be mounted here");
}

/* In a child: this system call fails with EPERM from now on. */
static void forbid(unsigned number)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof code / sizeof code[0], .filter = code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        child_skips("no seccomp filter can be installed here");
}

/* ---- requests ---- */

static pthread_t owner;
static bool may_complete; /* only within reap */
static unsigned n_done, n_wrong;

static void count_done(struct io_request *r)
{
    (void)r;
    n_done++;
    n_wrong += !may_complete || !pthread_equal(owner, pthread_self());
}

static unsigned reap(struct io *io, bool wait)
{
    owner = pthread_self();
    may_complete = true;
    unsigned n = io->ops->reap(io, wait);
    may_complete = false;
    return n;
}

/* One request, start to end. Its result. */
static int run(struct io *io, enum io_op op, int file, uint64_t offset, const struct iovec *iov,
               unsigned n_iov)
{
    struct io_request r = {.op = op,
                           .file = file,
                           .offset = offset,
                           .iov = iov,
                           .n_iov = n_iov,
                           .done = count_done,
                           .result = 1};
    n_done = n_wrong = 0;
    io->ops->submit(io, &r);
    io->ops->flush(io);
    return n_done == 0 && reap(io, true) == 1 && n_done == 1 && n_wrong == 0 ? r.result : -EPROTO;
}

static int run_plain(struct io *io, enum io_op op, int file, uint64_t offset, void *bytes, size_t len)
{
    return run(io, op, file, offset, &(struct iovec){bytes, len}, 1);
}

static void fill(void *at, size_t len, unsigned seed)
{
    uint8_t *bytes = at;
    for (size_t i = 0; i < len; i++)
        bytes[i] = (uint8_t)((i / PAGE * 31 + i + seed) * 2654435761u >> 24);
}

/* Writes, syncs and reads back in pieces of other sizes. 0, or the first result that is not. */
static int write_and_read(struct io *io, int file)
{
    uint8_t *out = area[0], *in = area[1];
    const struct iovec written[] = {{out, PAGE}, {out + PAGE, 3 * PAGE}, {out + 4 * PAGE, 2 * PAGE}};
    const struct iovec read[] = {{in, 2 * PAGE}, {in + 2 * PAGE, 4 * PAGE}};
    fill(out, 6 * PAGE, 7);
    memset(in, 0, 6 * PAGE);
    int rc = run(io, IO_WRITE, file, 2 * PAGE, written, 3);
    if (rc == 0)
        rc = run(io, IO_SYNC, file, 0, NULL, 0);
    if (rc == 0)
        rc = run(io, IO_READ, file, 2 * PAGE, read, 2);
    return rc ? rc : memcmp(in, out, 6 * PAGE) ? -EBADMSG : 0;
}

static void round_trip(void **state)
{
    struct world *w = begin(state);
    char path[300], sentence[500];
    assert_true(start(w));
    int file = open_file(w, "a", MIB, NULL);
    assert_int_equal(write_and_read(w->io, file), 0);
    assert_int_equal(run_plain(w->io, IO_READ, file, 0, area[1], PAGE), 0);
    for (size_t i = 0; i < PAGE; i++)
        assert_int_equal(area[1][i], 0); /* new space */
    io_files_describe(w->io, w->mount, sentence, sizeof sentence);
    print_message("%s\n", sentence);
    assert_non_null(strstr(sentence, w->io->ops->name));
    snprintf(path, sizeof path, "%s/a", w->dir);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fread(area[1], 1, MIB, f), MIB);
    fclose(f);
    assert_memory_equal(area[1] + 2 * PAGE, area[0], 6 * PAGE);
}

static void more_than_fit(void **state)
{
    enum { N = 200 };
    struct world *w = begin(state);
    static struct io_request r[N];
    static struct iovec iov[N];
    assert_true(start(w));
    int file = open_file(w, "a", MIB, NULL);
    struct pollfd p = {.fd = w->io->ops->fd(w->io), .events = POLLIN};
    for (int pass = 0; pass < 2; pass++) {
        n_done = n_wrong = 0;
        fill(area[0], (size_t)N * PAGE, 1);
        for (unsigned i = 0; i < N; i++) {
            iov[i] = (struct iovec){area[pass] + i * PAGE, PAGE};
            r[i] = (struct io_request){.op = pass ? IO_READ : IO_WRITE, .file = file, .offset = i * PAGE};
            r[i].iov = &iov[i], r[i].n_iov = 1, r[i].done = count_done, r[i].result = 1;
            w->io->ops->submit(w->io, &r[i]);
        }
        w->io->ops->flush(w->io);
        assert_int_equal(n_done, 0);
        for (unsigned n = 0;
             n < N;) { /* once by waiting, once by polling: what waits for room goes on by itself */
            assert_true(pass == 0 || poll(&p, 1, 5000) == 1);
            unsigned got = reap(w->io, pass == 0);
            assert_true(got > 0);
            n += got;
            assert_int_equal(n_done, n);
        }
        assert_int_equal(n_wrong, 0);
        assert_int_equal(reap(w->io, true), 0); /* nothing in flight: does not wait */
        for (unsigned i = 0; i < N; i++)
            assert_int_equal(r[i].result, 0);
    }
    assert_memory_equal(area[0], area[1], (size_t)N * PAGE);
}

static void readable(void **state)
{
    struct world *w = begin(state);
    assert_true(start(w));
    int file = open_file(w, "a", MIB, NULL);
    struct pollfd p = {.fd = w->io->ops->fd(w->io), .events = POLLIN};
    struct iovec iov = {area[0], PAGE};
    for (int i = 0; i < 20; i++) {
        struct io_request r = {.op = i % 3 == 2 ? IO_SYNC : i % 3 ? IO_READ : IO_WRITE, .file = file};
        r.iov = &iov, r.n_iov = 1, r.done = count_done;
        n_done = 0;
        w->io->ops->submit(w->io, &r);
        assert_int_equal(poll(&p, 1, 0), 0);
        assert_int_equal(reap(w->io, false), 0); /* not started, and nobody waits */
        w->io->ops->flush(w->io);
        assert_int_equal(poll(&p, 1, 5000), 1);
        assert_int_equal(reap(w->io, false), 1);
        assert_int_equal(r.result, 0);
        assert_int_equal(n_done, 1);
        assert_int_equal(poll(&p, 1, 0), 0);
    }
}

static struct io *again_io;
static unsigned again_left;

static void submit_again(struct io_request *r)
{
    if (again_left == 0)
        return;
    again_left--;
    again_io->ops->submit(again_io, r);
    again_io->ops->flush(again_io);
}

/* What a callback starts may be done before it returns; others want their turn too: whether every call of
 * reap does one. */
static bool one_at_a_time(struct io *io, int file)
{
    struct iovec iov = {area[0], PAGE};
    struct io_request r = {.op = IO_READ, .file = file, .iov = &iov, .n_iov = 1, .done = submit_again};
    bool ok = true;
    again_io = io;
    again_left = 100;
    io->ops->submit(io, &r);
    for (unsigned n = 0; n <= 100; n++)
        ok = reap(io, true) == 1 && ok;
    return ok && again_left == 0 && reap(io, true) == 0;
}

static void again_and_again(void **state)
{
    struct world *w = begin(state);
    assert_true(start(w));
    assert_true(one_at_a_time(w->io, open_file(w, "a", MIB, NULL)));
}

static void past_the_end(void **state)
{
    struct world *w = begin(state);
    char path[300];
    assert_true(start(w));
    int file = open_file(w, "a", 4 * PAGE, NULL);
    assert_int_equal(run_plain(w->io, IO_READ, file, 3 * PAGE, area[0], PAGE), 0);
    assert_int_equal(run_plain(w->io, IO_READ, file, 4 * PAGE, area[0], PAGE), -EIO);
    assert_int_equal(run_plain(w->io, IO_READ, file, 64 * PAGE, area[0], PAGE), -EIO);
    assert_int_equal(run_plain(w->io, IO_READ, file, 3 * PAGE, area[0], 2 * PAGE), -EIO);
    snprintf(path, sizeof path, "%s/cut", w->dir); /* in the middle of a sector */
    assert_true(write_text(path, "x") && truncate(path, PAGE + 1000) == 0);
    int cut = open_file(w, "cut", 0, NULL);
    assert_int_equal(run_plain(w->io, IO_READ, cut, 0, area[0], PAGE), 0);
    assert_int_equal(run_plain(w->io, IO_READ, cut, PAGE, area[0], PAGE), -EIO);
    assert_int_equal(run_plain(w->io, IO_READ, cut, 0, area[0], 4 * PAGE), -EIO);
}

/* ---- opening ---- */

static void sizes(void **state)
{
    struct world *w = begin(state);
    struct skv_error err = {0};
    struct stat st;
    char path[300];
    bool created = false;
    assert_true(start(w));
    assert_true(open_file(w, "a", MIB, &created) >= 0 && created);
    assert_true(open_file(w, "a", MIB, &created) >= 0 && !created);
    snprintf(path, sizeof path, "%s/a", w->dir);
    assert_true(stat(path, &st) == 0 && st.st_size == MIB);
    assert_int_equal(st.st_mode & 0777, 0600);
    bool reserves = st.st_blocks * 512 >= MIB;
    if (!reserves)
        print_message("SKIPPED: whether space is reserved, as the file system here can't\n");

    /* Longer; shorter; as it is. */
    fill(area[0], PAGE, 3);
    int a = open_file(w, "a", MIB, NULL);
    assert_int_equal(run_plain(w->io, IO_WRITE, a, 0, area[0], PAGE), 0);
    assert_true(
        said(w->io->ops->open(w->io, w->mount, "a", MIB / 2, &created, &err), -EINVAL, &err, "1048576"));
    assert_true(stat(path, &st) == 0 && st.st_size == MIB);
    a = open_file(w, "a", 2 * MIB, &created);
    assert_true(a >= 0 && created);
    assert_int_equal(run_plain(w->io, IO_READ, a, 0, area[1], PAGE), 0);
    assert_memory_equal(area[0], area[1], PAGE);
    assert_int_equal(run_plain(w->io, IO_READ, a, 2 * MIB - PAGE, area[1], PAGE), 0);
    assert_true(open_file(w, "a", 0, &created) >= 0 && !created);
    assert_true(stat(path, &st) == 0 && st.st_size == 2 * MIB);

    /* A copy with holes gets its blocks back. */
    assert_true(truncate(path, 0) == 0 && truncate(path, 2 * MIB) == 0);
    assert_true(open_file(w, "a", 2 * MIB, &created) >= 0 && !created);
    assert_true(stat(path, &st) == 0 && (!reserves || st.st_blocks * 512 >= 2 * MIB));

    assert_true(
        said(w->io->ops->open(w->io, w->mount, "none", 0, &created, &err), -ENOENT, &err, "disk/none"));
    snprintf(path, sizeof path, "%s/none", w->dir);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(symlink("a", path), 0);
    assert_true(
        said(w->io->ops->open(w->io, w->mount, "none", MIB, &created, &err), -ELOOP, &err, "symbolic"));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_true(
        said(w->io->ops->open(w->io, w->mount, "none", MIB, &created, &err), -EISDIR, &err, "directory"));
}

static void bad_places(void **state)
{
    struct world *w = begin(state);
    struct skv_error err = {0};
    struct stat st;
    char path[300];
    assert_true(start(w));
    assert_true(stat(w->dir, &st) == 0 && (st.st_mode & 0777) == 0700);
    snprintf(path, sizeof path, "%s/no/disk", w->tmp);
    assert_true(said(w->io->ops->mount(w->io, path, &err), -ENOENT, &err, "does not exist"));
    snprintf(path, sizeof path, "%s/file", w->tmp);
    assert_true(write_text(path, "here"));
    assert_true(said(w->io->ops->mount(w->io, path, &err), -ENOTDIR, &err, "not a directory"));
    snprintf(path, sizeof path, "%s/file/disk", w->tmp);
    assert_true(said(w->io->ops->mount(w->io, path, &err), -ENOTDIR, &err, "not a directory"));
    assert_true(said(w->io->ops->mount(w->io, w->dir, &err), -EBUSY, &err, "this process already"));
    assert_true(said(w->io->ops->mount(w->io, w->dir, NULL), -EBUSY, &err, "this process already"));

    /* A second one, and the first goes on under another name. */
    snprintf(path, sizeof path, "%s/second", w->tmp);
    assert_int_equal(w->io->ops->mount(w->io, path, &err), 1);
    snprintf(path, sizeof path, "%s/moved", w->tmp);
    assert_int_equal(rename(w->dir, path), 0);
    int file = open_file(w, "a", MIB, NULL);
    assert_true(file >= 0);
    assert_int_equal(run_plain(w->io, IO_WRITE, file, 0, area[0], PAGE), 0);
    snprintf(path, sizeof path, "%s/moved/a", w->tmp);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(access(w->dir, F_OK), -1);
}

static void held_elsewhere(void **state)
{
    struct world *w = begin(state);
    struct skv_error err = {0};
    int ready[2], over[2], status;
    char byte = 0, pid_text[20];
    assert_true(pipe(ready) == 0 && pipe(over) == 0);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        close(over[1]);
        CHECK(start(w));
        CHECK(write(ready[1], &byte, 1) == 1);
        _exit(read(over[0], &byte, 1) != 0); /* without closing: the lock goes with the process */
    }
    close(over[0]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    w->io = w->make(&err);
    assert_non_null(w->io);
    snprintf(pid_text, sizeof pid_text, "(pid %d)", (int)pid);
    assert_true(said(w->io->ops->mount(w->io, w->dir, &err), -EBUSY, &err, pid_text));
    close(over[1]);
    assert_true(waitpid(pid, &status, 0) == pid && status == 0);
    assert_int_equal(w->io->ops->mount(w->io, w->dir, &err), 0);
    close(ready[0]);
    close(ready[1]);
}

static void as_nobody(struct world *w)
{
    struct skv_error err = {0};
    struct stat st;
    char owner_text[40], path[300];
    be_nobody();
    if (stat(w->dir, &st))
        child_skips("the folder of temporary files is not open to everybody");
    snprintf(owner_text, sizeof owner_text, "belongs to user %u", st.st_uid);
    struct io *io = w->make(&err);
    CHECK(io);
    CHECK(said(io->ops->mount(io, w->dir, &err), -EACCES, &err, owner_text));
    snprintf(path, sizeof path, "%s/another", w->tmp);
    CHECK(said(io->ops->mount(io, path, &err), -EACCES, &err, owner_text));
    io->ops->close(io);
}

static void no_permission(void **state)
{
    struct world *w = begin(state);
    assert_true(mkdir(w->dir, 0555) == 0 && chmod(w->tmp, 0555) == 0);
    in_child(w, as_nobody);
    assert_int_equal(chmod(w->tmp, 0700), 0);
}

static void on_read_only(struct world *w)
{
    struct skv_error err = {0};
    own_mount(w, "tmpfs", MS_RDONLY, "size=1m");
    struct io *io = w->make(&err);
    CHECK(said(io->ops->mount(io, w->dir, &err), -EROFS, &err, "read-only"));
    io->ops->close(io);
}

static void read_only(void **state)
{
    in_child(begin(state), on_read_only);
}

/* ---- scarcity ---- */

static void on_small(struct world *w)
{
    struct skv_error err = {0};
    char path[300];
    own_mount(w, "tmpfs", 0, "size=1m,mode=0700");
    CHECK(start(w));
    int a = open_file(w, "a", MIB / 2, NULL);
    CHECK(a >= 0 && write_and_read(w->io, a) == 0);
    CHECK(one_at_a_time(w->io, a)); /* here at once, as it is memory */
    CHECK(said(w->io->ops->open(w->io, 0, "b", 8 * MIB, NULL, &err), -ENOSPC, &err, "8.0 MiB"));
    CHECK(strstr(err.text, "KiB free"));
    snprintf(path, sizeof path, "%s/b", w->dir);
    CHECK(access(path, F_OK)); /* nothing is left of it */
    CHECK(said(w->io->ops->open(w->io, 0, "a", 8 * MIB, NULL, &err), -ENOSPC, &err, "make room"));
    CHECK(open_file(w, "a", MIB / 2, NULL) >= 0);
    stop(w);
}

static void full(void **state)
{
    in_child(begin(state), on_small);
}

/* A file system that knows neither O_DIRECT nor how to reserve (tmpfs knows both, since Linux 6.6). */
static void on_simple(struct world *w)
{
    struct skv_error err = {0};
    char sentence[500];
    own_mount(w, "ramfs", 0, "mode=0700");
    CHECK(start(w));
    io_files_describe(w->io, w->mount, sentence, sizeof sentence);
    CHECK(strstr(sentence, "buffered"));
    bool created = false;
    int a = open_file(w, "a", MIB, &created);
    CHECK(a >= 0 && created && write_and_read(w->io, a) == 0);
    CHECK(run_plain(w->io, IO_READ, a, MIB - PAGE, area[0], 2 * PAGE) == -EIO);
    CHECK(open_file(w, "a", MIB, &created) >= 0 && !created);
    snprintf(sentence, sizeof sentence, "%s/fifo", w->dir);
    CHECK(mkfifo(sentence, 0600) == 0);
    CHECK(said(w->io->ops->open(w->io, 0, "fifo", MIB, &created, &err), -EINVAL, &err, "regular"));
    stop(w);
}

static void buffered(void **state)
{
    in_child(begin(state), on_simple);
}

/* From the number returned on, none is in use: what was inherited lies below. */
static rlim_t next_fd(void)
{
    int fd;
    while ((fd = dup(2)) < 100)
        CHECK(fd >= 0);
    close(fd);
    return (rlim_t)fd;
}

static void with_few_descriptors(struct world *w)
{
    struct skv_error err = {0};
    struct rlimit l;
    char name[20], limit_text[40];
    CHECK(start(w));
    rlim_t next = next_fd();
    l = (struct rlimit){next + 3, next + 6};
    CHECK(setrlimit(RLIMIT_NOFILE, &l) == 0);
    for (int i = 0; i < 6; i++) { /* three of them beyond the soft limit */
        snprintf(name, sizeof name, "%d", i);
        CHECK(open_file(w, name, PAGE, NULL) >= 0);
    }
    CHECK(getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur == next + 6);
    snprintf(limit_text, sizeof limit_text, "may have %d files", (int)next + 6);
    CHECK(said(w->io->ops->open(w->io, 0, "more", PAGE, NULL, &err), -EMFILE, &err, limit_text));
    CHECK(strstr(err.text, "ulimit -n"));
    stop(w);
    CHECK(start(w));
    stop(w);
}

static void few_descriptors(void **state)
{
    in_child(begin(state), with_few_descriptors);
}

static void with_little_locked_memory(struct world *w)
{
    struct rlimit l = {64 << 10, 64 << 10};
    CHECK(chmod(w->tmp, 0777) == 0);
    CHECK(setrlimit(RLIMIT_MEMLOCK, &l) == 0);
    be_nobody(); /* root has no such limit */
    if (access(w->tmp, W_OK))
        child_skips("the folder of temporary files is not open to everybody");
    CHECK(start(w));
    CHECK(write_and_read(w->io, open_file(w, "a", MIB, NULL)) == 0);
    stop(w);
}

static void little_locked_memory(void **state)
{
    in_child(begin(state), with_little_locked_memory);
}

static void with_small_files(struct world *w)
{
    struct skv_error err = {0};
    struct rlimit l = {64 << 10, 64 << 10};
    signal(SIGXFSZ, SIG_IGN);
    CHECK(start(w));
    int a = open_file(w, "a", MIB, NULL);
    CHECK(setrlimit(RLIMIT_FSIZE, &l) == 0);
    CHECK(run_plain(w->io, IO_WRITE, a, 60 << 10, area[0], PAGE) == 0);
    CHECK(run_plain(w->io, IO_WRITE, a, 64 << 10, area[0], PAGE) == -EFBIG);
    CHECK(run_plain(w->io, IO_WRITE, a, 56 << 10, area[0], 4 * PAGE) == -EFBIG); /* the first half goes */
    CHECK(run_plain(w->io, IO_READ, a, 56 << 10, area[0], 4 * PAGE) == 0);
    CHECK(said(w->io->ops->open(w->io, 0, "b", MIB, NULL, &err), -EFBIG, &err, "ulimit -f"));
    stop(w);
}

static void small_files(void **state)
{
    in_child(begin(state), with_small_files);
}

/* ---- threads and ends ---- */

static void close_in_flight(void **state)
{
    enum { N = 128, PIECE = MIB / N };
    struct world *w = begin(state);
    static struct io_request r[N];
    static struct iovec iov[N];
    assert_true(start(w));
    int file = open_file(w, "a", MIB, NULL);
    fill(area[0], MIB, 1);
    assert_int_equal(run_plain(w->io, IO_WRITE, file, 0, area[0], MIB), 0);
    n_done = 0;
    for (unsigned i = 0; i < N; i++) {
        iov[i] = (struct iovec){area[0] + i * PIECE, PIECE};
        r[i] = (struct io_request){.op = i % 8 ? IO_READ : IO_SYNC, .file = file, .offset = i * PIECE};
        r[i].iov = &iov[i], r[i].n_iov = 1, r[i].done = count_done;
        w->io->ops->submit(w->io, &r[i]);
        if (i == N - 10) /* the last ones are never flushed */
            w->io->ops->flush(w->io);
    }
    stop(w);
    assert_int_equal(n_done, 0);
    memset(area[0], 0, MIB); /* the memory is ours again: no read that was in flight writes to it */
    memset(area[1], 0, MIB);
    usleep(50000);
    assert_memory_equal(area[0], area[1], MIB);
    assert_true(start(w)); /* the lock is free */
}

static void *submit_and_leave(void *arg)
{
    struct world *w = arg;
    w->io->ops->flush(w->io);
    return NULL;
}

/* A node is made on one thread, runs on another, and ends on the first. */
static void another_thread(void **state)
{
    struct world *w = begin(state);
    enum { N = 200 };
    static struct io_request r[N];
    struct iovec iov = {area[0], 16 * PAGE};
    pthread_t thread;
    assert_true(start(w));
    int file = open_file(w, "a", MIB, NULL);
    n_done = n_wrong = 0;
    for (unsigned i = 0; i < N; i++) {
        r[i] = (struct io_request){.op = i % 4 ? IO_SYNC : IO_WRITE, .file = file, .offset = i * PAGE};
        r[i].iov = &iov, r[i].n_iov = 1, r[i].done = count_done, r[i].result = 1;
        w->io->ops->submit(w->io, &r[i]);
    }
    assert_int_equal(pthread_create(&thread, NULL, submit_and_leave, w), 0);
    pthread_join(thread, NULL);
    while (n_done < N)
        assert_true(reap(w->io, true) > 0);
    assert_int_equal(n_wrong, 0);
    for (unsigned i = 0; i < N; i++)
        assert_int_equal(r[i].result, 0);
}

static void not_entered(struct world *w)
{
    enum { N = 100, N_TAKEN = 20 };
    static struct io_request r[N];
    struct iovec iov = {area[0], MIB};
    CHECK(start(w));
    int file = open_file(w, "a", MIB, NULL);
    CHECK(run_plain(w->io, IO_WRITE, file, 0, area[0], PAGE) == 0);
    n_done = 0;
    for (unsigned i = 0; i < N; i++) {
        r[i] = (struct io_request){.op = IO_READ, .file = file, .iov = &iov, .n_iov = 1, .done = count_done};
        w->io->ops->submit(w->io, &r[i]);
        if (i == N_TAKEN - 1) {
            w->io->ops->flush(w->io);
            forbid(__NR_io_uring_enter);
        } else if (i == N - 10)
            w->io->ops->flush(w->io);
    }
    while (n_done < N)
        CHECK(reap(w->io, true) > 0);
    for (unsigned i = 0; i < N; i++)
        CHECK(r[i].result == (i < N_TAKEN ? 0 : -EPERM));
    CHECK(reap(w->io, true) == 0);
    stop(w);
}

/* A ring that the kernel refuses to serve any more fails what it is given; nobody waits forever. */
static void broken_ring(void **state)
{
    in_child(begin(state), not_entered);
}

/* ---- without a disk ---- */

/* Wherever a transfer is cut, the next one takes up there. */
static void rests(void **state)
{
    (void)state;
    enum { LENGTH = 6 * PAGE };
    const struct iovec iov[] = {{area[0], PAGE}, {area[0] + PAGE, 3 * PAGE}, {area[0] + 4 * PAGE, 2 * PAGE}};
    struct iovec room[IO_MAX_IOV];
    unsigned n;
    for (unsigned cut = 1; cut < LENGTH; cut += 511) {
        struct io_request r = {.op = IO_READ, .iov = iov, .n_iov = 3};
        assert_ptr_equal(io_request_rest(&r, room, &n), iov);
        assert_false(io_request_advance(&r, -EINTR));
        assert_false(io_request_advance(&r, cut));
        assert_false(io_request_advance(&r, -EAGAIN));
        assert_false(io_request_advance(&r, -ECANCELED));
        const struct iovec *rest = io_request_rest(&r, room, &n);
        size_t left = 0;
        for (unsigned i = 0; i < n; i++) {
            assert_ptr_equal(rest[i].iov_base, area[0] + cut + left);
            assert_true(rest[i].iov_len > 0);
            left += rest[i].iov_len;
        }
        assert_int_equal(left, LENGTH - cut);
        assert_true(io_request_advance(&r, (int64_t)left));
        assert_int_equal(r.result, 0);
    }
    struct io_request r = {.op = IO_WRITE, .iov = iov, .n_iov = 3};
    assert_true(io_request_advance(&r, -ENOSPC));
    assert_int_equal(r.result, -ENOSPC);
    r.result = 0;
    assert_true(io_request_advance(&r, -EINVAL));
    assert_int_equal(r.result, -EINVAL);
    r.result = 0;
    assert_false(io_request_advance(&r, PAGE + 1000)); /* O_DIRECT does not take it up there */
    assert_true(io_request_advance(&r, -EINVAL));
    assert_int_equal(r.result, -EIO);
    r.result = 0;
    for (int i = 0; !io_request_advance(&r, -EAGAIN); i++) /* not forever */
        assert_true(i < 1000000);
    assert_int_equal(r.result, -EAGAIN);
}

static void without_uring(struct world *w)
{
    struct skv_error why, err;
    (void)w;
    forbid(__NR_io_uring_setup);
    unsetenv("SCOUTKV_IO");
    CHECK(!io_uring_new(&err) && said(err.code, -EPERM, &err, "forbidden"));
    CHECK(!io_uring_new(NULL));
    struct io *io = io_new(&why, &err);
    CHECK(io && strcmp(io->ops->name, "threads") == 0);
    CHECK(why.code == -EPERM && strstr(why.text, "forbidden") && strstr(why.text, "threads"));
    io->ops->close(io);
    setenv("SCOUTKV_IO", "uring", 1);
    CHECK(!io_new(&why, &err) && said(err.code, -EPERM, &err, "forbidden"));
}

static void choice(void **state)
{
    struct world *w = *state;
    struct skv_error why, err;
    in_child(w, without_uring);
    setenv("SCOUTKV_IO", "threads", 1);
    w->io = io_new(&why, &err);
    assert_string_equal(w->io->ops->name, "threads");
    assert_non_null(strstr(why.text, "SCOUTKV_IO"));
    stop(w);
    setenv("SCOUTKV_IO", "disk", 1);
    assert_null(io_new(&why, &err));
    assert_true(said(err.code, -EINVAL, &err, "\"disk\""));
    unsetenv("SCOUTKV_IO");
    w->io = io_new(&why, &err);
    assert_string_equal(w->io->ops->name, uring_refusal ? "threads" : "io_uring");
    assert_true(!uring_refusal == !why.text[0]);
}

#define WITH(test, how)                                            \
    {                                                              \
#test " (" #how ")", test, setup, teardown, io_##how##_new \
    }
#define BOTH(test) WITH(test, uring), WITH(test, threads)

int main(void)
{
    static struct skv_error err;
    struct io *io = io_uring_new(&err);
    if (io)
        io->ops->close(io);
    else {
        uring_refusal = err.text;
        printf("SKIPPED: tests with io_uring: %s\n", err.text);
    }
    const struct CMUnitTest tests[] = {
        BOTH(round_trip),
        BOTH(more_than_fit),
        BOTH(readable),
        BOTH(again_and_again),
        BOTH(past_the_end),
        BOTH(sizes),
        BOTH(bad_places),
        BOTH(held_elsewhere),
        BOTH(no_permission),
        BOTH(read_only),
        BOTH(full),
        BOTH(buffered),
        BOTH(few_descriptors),
        BOTH(little_locked_memory),
        BOTH(small_files),
        BOTH(close_in_flight),
        BOTH(another_thread),
        WITH(broken_ring, uring),
        cmocka_unit_test(rests),
        WITH(choice, threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
