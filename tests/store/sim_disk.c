/* sim_disk.c: see sim_disk.h. */
#include "tests/store/sim_disk.h"
#include "tests/store/random.h"
#include "tests/store/sim_file.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

enum {
    MAX_DIRS = 16,
    MAX_FILES = 512,
};

struct dir {
    char *path;
    bool mounted;
};

enum death { NOT_YET, POWER_LOSS, KILL };

struct sim {
    struct io io;
    uint64_t rng;
    struct dir dirs[MAX_DIRS];
    int n_dirs;
    struct sim_file *files[MAX_FILES];
    int n_files;
    struct io_request *flight[4 * IO_DEPTH]; /* [0, n_started) may complete, the rest waits for flush */
    unsigned n_flight, n_started;
    unsigned pace;
    uint64_t order; /* of the last completed write */
    enum death next_death;
    uint64_t fuse; /* completions until then */
    bool dead, keep_stale;
    struct sim_faults faults;
    struct sim_counts counts;
};

/* The store broke a rule of io.h. */
static void __attribute__((format(printf, 1, 2), noreturn)) broken(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fputs("sim_disk: the store ", stderr);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
    abort();
}

/* ---- requests ---- */

static size_t request_bytes(const struct io_request *r)
{
    size_t len = 0;
    for (unsigned i = 0; i < r->n_iov; i++)
        len += r->iov[i].iov_len;
    return len;
}

/* The bytes of a write as they are now. */
static struct pending *pending_of(struct sim *s, const struct io_request *r)
{
    struct pending *p = pending_new(++s->order, r->offset, request_bytes(r));
    size_t at = 0;
    for (unsigned i = 0; i < r->n_iov; at += r->iov[i++].iov_len)
        memcpy(p->bytes + at, r->iov[i].iov_base, r->iov[i].iov_len);
    return p;
}

/* ---- reads ---- */

/* Reads beside a write that is in flight see some of its sectors. */
static void read_in_flight(struct sim *s, int file, uint64_t offset, uint8_t *out, size_t len)
{
    for (unsigned i = 0; i < s->n_started; i++) {
        const struct io_request *r = s->flight[i];
        if (r->op != IO_WRITE || r->file != file || r->offset >= offset + len ||
            r->offset + request_bytes(r) <= offset)
            continue;
        struct pending *p = pending_of(s, r);
        pending_tear(p, sectors_that_survive(&s->rng, p->len));
        pending_overlay(p, offset, out, len);
        pending_free(p);
    }
}

/* The part of a read that a fault concerns: all of it, or a page. */
static void fault_range(struct sim *s, size_t total, size_t *at, size_t *len)
{
    *at = 0, *len = total;
    if (total > IO_ALIGN && random_percent(&s->rng, 50)) {
        *at = random_below(&s->rng, total / IO_ALIGN) * IO_ALIGN;
        *len = IO_ALIGN;
    }
}

static void read_misdirected(struct sim *s, struct sim_file *f, uint64_t offset, uint8_t *out, size_t total)
{
    size_t at, len;
    fault_range(s, total, &at, &len);
    const struct sim_file *from = f;
    if (random_percent(&s->rng, 50)) {
        from = s->files[random_below(&s->rng, (uint64_t)s->n_files)];
        if (from->dir != f->dir) /* a disk of its own */
            from = f;
    }
    uint64_t where = offset + at;
    if (from == f || where + len > from->size) {
        if (from->size < len)
            return;
        where = random_below(&s->rng, (from->size - len) / IO_ALIGN + 1) * IO_ALIGN;
    }
    s->counts.read_faults++;
    sim_file_read(from, where, out + at, len);
    sim_file_touch(f, offset + at, len, SIM_MISREAD);
}

static void read_stale(struct sim *s, struct sim_file *f, uint64_t offset, uint8_t *out, size_t total)
{
    size_t at, len;
    fault_range(s, total, &at, &len);
    bool all = random_percent(&s->rng, 50);
    s->counts.read_faults++;
    for (size_t i = at; i < at + len; i += SIM_SECTOR) {
        if (!all && random_percent(&s->rng, 50))
            continue;
        uint8_t now[SIM_SECTOR];
        sim_file_read_medium(f, offset + i, now, SIM_SECTOR);
        if (memcmp(now, out + i, SIM_SECTOR) != 0) /* a write waits: the medium has what was before */
            memcpy(out + i, now, SIM_SECTOR);
        else if (f->before[(offset + i) / SIM_CHUNK])
            sim_file_read_before(f, offset + i, out + i, SIM_SECTOR);
        sim_file_touch(f, offset + i, SIM_SECTOR, SIM_MISREAD);
    }
}

static void scatter(const struct io_request *r, const uint8_t *bytes)
{
    for (unsigned i = 0; i < r->n_iov; bytes += r->iov[i++].iov_len)
        memcpy(r->iov[i].iov_base, bytes, r->iov[i].iov_len);
}

static int complete_read(struct sim *s, struct io_request *r)
{
    struct sim_file *f = s->files[r->file];
    size_t len = request_bytes(r);
    s->counts.reads++;
    if (r->offset + len > f->size)
        return -EIO;
    if (random_chance(&s->rng, s->faults.read_error)) {
        s->counts.read_faults++;
        sim_file_touch(f, r->offset, len, SIM_MISREAD);
        return -EIO;
    }
    uint8_t *bytes = r->n_iov == 1 ? r->iov[0].iov_base : sim_must(malloc(len));
    sim_file_read(f, r->offset, bytes, len);
    read_in_flight(s, r->file, r->offset, bytes, len);
    if (random_chance(&s->rng, s->faults.read_misdirected))
        read_misdirected(s, f, r->offset, bytes, len);
    else if (s->keep_stale && random_chance(&s->rng, s->faults.read_stale))
        read_stale(s, f, r->offset, bytes, len);
    if (r->n_iov != 1) {
        scatter(r, bytes);
        free(bytes);
    }
    return 0;
}

/* ---- writes and syncs ---- */

static uint64_t request_sum(const struct io_request *r)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < r->n_iov; i++)
        sum = XXH3_64bits_withSeed(r->iov[i].iov_base, r->iov[i].iov_len, sum);
    return sum;
}

static int complete_write(struct sim *s, struct io_request *r)
{
    struct sim_file *f = s->files[r->file];
    s->counts.writes++;
    if (r->opaque[1] != request_sum(r))
        broken("changed the memory of a write that was in flight (%s, offset %llu)", f->name,
               (unsigned long long)r->offset);
    struct pending *p = pending_of(s, r);
    int rc = random_chance(&s->rng, s->faults.write_error)      ? -EIO
             : random_chance(&s->rng, s->faults.write_no_space) ? -ENOSPC
                                                                : 0;
    if (rc) {
        s->counts.write_faults++;
        pending_tear(p, sectors_that_survive(&s->rng, p->len));
    }
    sim_file_add(f, p);
    return rc;
}

static int complete_sync(struct sim *s, struct io_request *r)
{
    struct sim_file *f = s->files[r->file];
    s->counts.syncs++;
    if (random_chance(&s->rng, s->faults.sync_error)) {
        s->counts.sync_faults++;
        sim_file_sync_failed(f, r->opaque[0], &s->rng);
        return -EIO;
    }
    sim_file_synced(f, r->opaque[0]);
    return 0;
}

/* ---- death ---- */

void sim_kill(struct sim *s)
{
    for (unsigned i = 0; i < s->n_started; i++) {
        const struct io_request *r = s->flight[i];
        if (r->op != IO_WRITE)
            continue;
        struct pending *p = pending_of(s, r);
        pending_tear(p, sectors_that_survive(&s->rng, p->len));
        sim_file_add(s->files[r->file], p);
    }
    s->dead = true;
    s->next_death = NOT_YET;
}

void sim_power_loss(struct sim *s)
{
    sim_kill(s); /* what was in flight is one more thing that may survive in part */
    for (int i = 0; i < s->n_files; i++)
        sim_file_power_loss(s->files[i], &s->rng);
}

static void die_after(struct sim *s, enum death death, uint64_t completions)
{
    s->next_death = death;
    s->fuse = completions;
}

void sim_power_loss_after(struct sim *s, uint64_t completions)
{
    die_after(s, POWER_LOSS, completions);
}

void sim_kill_after(struct sim *s, uint64_t completions)
{
    die_after(s, KILL, completions);
}

bool sim_dead(const struct sim *s)
{
    return s->dead;
}

unsigned sim_in_flight(const struct sim *s)
{
    return s->n_flight;
}

/* ---- struct io_ops ---- */

static struct sim *sim_of(struct io *io)
{
    return (struct sim *)io;
}

static int find_dir(const struct sim *s, const char *path)
{
    for (int i = 0; i < s->n_dirs; i++)
        if (strcmp(s->dirs[i].path, path) == 0)
            return i;
    return -1;
}

static int op_mount(struct io *io, const char *path, struct skv_error *err)
{
    struct sim *s = sim_of(io);
    int i = find_dir(s, path);
    if (i < 0) {
        assert(s->n_dirs < MAX_DIRS);
        i = s->n_dirs++;
        s->dirs[i] = (struct dir){.path = sim_must(strdup(path))};
    }
    if (s->dirs[i].mounted)
        return skv_fail(err, -EBUSY, "'%s' is in use", path);
    s->dirs[i].mounted = true;
    return i;
}

static struct sim_file *find_file(const struct sim *s, int dir, const char *name, int *number)
{
    for (int i = 0; i < s->n_files; i++)
        if (s->files[i]->dir == dir && strcmp(s->files[i]->name, name) == 0) {
            *number = i;
            return s->files[i];
        }
    return NULL;
}

static int op_open(struct io *io, int dir, const char *name, uint64_t size, bool *created,
                   struct skv_error *err)
{
    struct sim *s = sim_of(io);
    int number;
    if (dir < 0 || dir >= s->n_dirs || !s->dirs[dir].mounted || strlen(name) >= SIM_NAME || size % IO_ALIGN)
        broken("opened '%s' in directory %d with %llu bytes", name, dir, (unsigned long long)size);
    *created = false;
    if (s->dead)
        return skv_fail(err, -EIO, "the machine is dead");
    struct sim_file *f = find_file(s, dir, name, &number);
    if (!f && !size)
        return skv_fail(err, -ENOENT, "there is no '%s' in '%s'", name, s->dirs[dir].path);
    if (f && (!size || f->size == size))
        return number;
    if (random_chance(&s->rng, s->faults.open_error)) {
        s->counts.open_faults++;
        return skv_fail(err, -ENOSPC, "there is no space for '%s' in '%s'", name, s->dirs[dir].path);
    }
    *created = true;
    if (!f) {
        assert(s->n_files < MAX_FILES);
        number = s->n_files;
        f = s->files[s->n_files++] = sim_file_new(dir, name, s->keep_stale);
    }
    sim_file_resize(f, size);
    return number;
}

static void check_request(struct sim *s, const struct io_request *r)
{
    if (r->file < 0 || r->file >= s->n_files || !s->dirs[s->files[r->file]->dir].mounted)
        broken("submitted a request for file %d, which is not open", r->file);
    if (r->op == IO_SYNC)
        return;
    if (!r->n_iov || r->n_iov > IO_MAX_IOV || r->offset % IO_ALIGN)
        broken("submitted a request of %u parts at offset %llu", r->n_iov, (unsigned long long)r->offset);
    for (unsigned i = 0; i < r->n_iov; i++)
        if (!r->iov[i].iov_len || r->iov[i].iov_len % IO_ALIGN || (uintptr_t)r->iov[i].iov_base % IO_ALIGN)
            broken("submitted a misaligned request: part %u has %zu bytes at %p", i, r->iov[i].iov_len,
                   r->iov[i].iov_base);
    if (r->op == IO_WRITE && r->offset + request_bytes(r) > s->files[r->file]->size)
        broken("writes past the end of %s", s->files[r->file]->name);
}

static void op_submit(struct io *io, struct io_request *r)
{
    struct sim *s = sim_of(io);
    check_request(s, r);
    if (s->n_flight == sizeof s->flight / sizeof *s->flight)
        broken("has %u requests in flight, where io.h says %d", s->n_flight, IO_DEPTH);
    r->opaque[0] = s->order;
    if (r->op == IO_WRITE)
        r->opaque[1] = request_sum(r);
    else if (r->op == IO_READ) /* whoever looks too early finds nonsense */
        for (unsigned i = 0; i < r->n_iov; i++)
            memset(r->iov[i].iov_base, 0xa5, r->iov[i].iov_len);
    s->flight[s->n_flight++] = r;
}

static void op_flush(struct io *io)
{
    struct sim *s = sim_of(io);
    s->n_started = s->n_flight;
}

static struct io_request *take(struct sim *s, unsigned i)
{
    struct io_request *r = s->flight[i];
    if (i < s->n_started) { /* its place goes to the last that was started, whose
                               place goes to the last */
        s->flight[i] = s->flight[--s->n_started];
        i = s->n_started;
    }
    s->flight[i] = s->flight[--s->n_flight];
    return r;
}

static unsigned reap_dead(struct sim *s)
{
    unsigned n = s->n_flight;
    for (unsigned i = 0; i < n; i++) {
        struct io_request *r = take(s, 0);
        r->result = -EIO;
        r->done(r);
    }
    return n;
}

static unsigned op_reap(struct io *io, bool wait)
{
    struct sim *s = sim_of(io);
    unsigned most = (s->n_started * s->pace + 99) / 100, done = 0;
    unsigned n = (unsigned)random_below(&s->rng, most + 1);
    if (wait && !n)
        n = s->n_started ? 1 : 0;
    for (; done < n && !s->dead && s->n_started; done++) {
        unsigned i = (unsigned)random_below(&s->rng, s->n_started);
        if (s->next_death && s->fuse-- == 0) {
            if (s->next_death == POWER_LOSS)
                sim_power_loss(s);
            else
                sim_kill(s);
            break;
        }
        struct io_request *r = take(s, i);
        r->result = r->op == IO_READ    ? complete_read(s, r)
                    : r->op == IO_WRITE ? complete_write(s, r)
                                        : complete_sync(s, r);
        r->done(r);
    }
    return s->dead ? done + reap_dead(s) : done;
}

static int op_fd(const struct io *io)
{
    (void)io;
    return -1;
}

static void op_close(struct io *io)
{
    struct sim *s = sim_of(io);
    if (s->n_flight)
        broken("was closed with %u requests in flight", s->n_flight);
    for (int i = 0; i < s->n_dirs; i++)
        s->dirs[i].mounted = false;
    s->dead = false;
    s->next_death = NOT_YET;
    s->n_started = 0;
}

static const struct io_ops ops = {.name = "simulated",
                                  .mount = op_mount,
                                  .open = op_open,
                                  .submit = op_submit,
                                  .flush = op_flush,
                                  .reap = op_reap,
                                  .fd = op_fd,
                                  .close = op_close};

/* ---- the simulator ---- */

struct sim *sim_new(uint64_t seed)
{
    struct sim *s = sim_must(calloc(1, sizeof *s));
    s->io.ops = &ops;
    s->rng = seed;
    s->pace = 100;
    return s;
}

void sim_free(struct sim *s)
{
    for (int i = 0; i < s->n_files; i++)
        sim_file_free(s->files[i]);
    for (int i = 0; i < s->n_dirs; i++)
        free(s->dirs[i].path);
    free(s);
}

struct io *sim_io(struct sim *s)
{
    return &s->io;
}

void sim_set_faults(struct sim *s, const struct sim_faults *faults)
{
    s->faults = *faults;
}

void sim_set_pace(struct sim *s, unsigned percent)
{
    s->pace = percent;
}

void sim_keep_stale(struct sim *s)
{
    s->keep_stale = true;
}

const struct sim_counts *sim_counts(const struct sim *s)
{
    return &s->counts;
}

/* NULL unless [offset, offset + len) lies in it. */
static struct sim_file *file_with(const struct sim *s, const char *dir, const char *name, uint64_t offset,
                                  uint64_t len)
{
    int number, d = find_dir(s, dir);
    struct sim_file *f = d < 0 ? NULL : find_file(s, d, name, &number);
    return f && offset <= f->size && len <= f->size - offset ? f : NULL;
}

unsigned sim_touched(const struct sim *s, const char *dir, const char *name, uint64_t offset, uint64_t len)
{
    const struct sim_file *f = file_with(s, dir, name, offset, len);
    unsigned how = 0;
    for (uint64_t i = offset / SIM_SECTOR; f && i * SIM_SECTOR < offset + len; i++)
        how |= f->touched[i];
    return how;
}

bool sim_flip(struct sim *s, const char *dir, const char *name, uint64_t offset, unsigned bit)
{
    struct sim_file *f = file_with(s, dir, name, offset, 1);
    uint8_t *chunk = f ? f->medium[offset / SIM_CHUNK] : NULL;
    if (!chunk)
        return false;
    chunk[offset % SIM_CHUNK] ^= (uint8_t)(1u << bit);
    f->touched[offset / SIM_SECTOR] |= SIM_FLIPPED;
    s->counts.flips++;
    return true;
}

bool sim_peek(const struct sim *s, const char *dir, const char *name, uint64_t offset, void *out, size_t len)
{
    const struct sim_file *f = file_with(s, dir, name, offset, len);
    if (f)
        sim_file_read(f, offset, out, len);
    return f;
}

bool sim_written_page(struct sim *s, const char *dir, const char *name, uint64_t *offset)
{
    const struct sim_file *f = file_with(s, dir, name, 0, 0);
    size_t n = 0, want;
    for (size_t i = 0; f && i < sim_file_chunks(f); i++)
        n += f->medium[i] != NULL;
    if (!n)
        return false;
    want = random_below(&s->rng, n);
    for (size_t i = 0;; i++)
        if (f->medium[i] && want-- == 0) {
            *offset = i * SIM_CHUNK + random_below(&s->rng, SIM_CHUNK / IO_ALIGN) * IO_ALIGN;
            return *offset < f->size;
        }
}

const char *sim_file(const struct sim *s, unsigned i, const char **dir, uint64_t *size)
{
    if (i >= (unsigned)s->n_files)
        return NULL;
    *dir = s->dirs[s->files[i]->dir].path;
    *size = s->files[i]->size;
    return s->files[i]->name;
}
