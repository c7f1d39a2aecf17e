/* kv_trace.c: see kv_trace.h.
 *
 * DESIGN. Every array's place follows from the head alone, so the writer fills a mapping of the whole file in
 * any order and the reader computes pointers instead of parsing. Space is allocated before it is mapped: a
 * full disk is an error of kv_trace_create, not a SIGBUS later. */
#include "decoder/model/kv_trace.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "decoder/kernels/kernels.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the file is mapped as it lies");

static const char magic[8] = {'S', 'K', 'V', 'T', 'R', 'A', 'C', 'E'};
/* Small enough that no product below overflows. */
enum { MOST_LAYERS = 1 << 10, MOST_HEADS = 1 << 10, MOST_DIMS = 1 << 10, MOST_TOKENS = 1 << 28 };

/* ---- where things lie ---- */

static uint64_t padded(uint64_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

enum part { PART_Q, PART_K, PART_V, PARTS };

static uint64_t row_floats(const struct kv_trace_head *h, enum part part)
{
    return part == PART_Q ? (uint64_t)h->n_heads * h->d_k
                          : (uint64_t)h->n_kv_heads * (part == PART_K ? h->d_k : h->d_v);
}

static uint64_t part_bytes(const struct kv_trace_head *h, enum part part)
{
    return padded(h->n_tokens * row_floats(h, part) * sizeof(float));
}

/* Byte at which a part of a layer begins; of layer n_layers: where the file ends. */
static uint64_t part_offset(const struct kv_trace_head *h, uint32_t layer, enum part part)
{
    uint64_t one = 0, before = 0;
    for (int p = 0; p < PARTS; p++) {
        before += p < (int)part ? part_bytes(h, (enum part)p) : 0;
        one += part_bytes(h, (enum part)p);
    }
    return sizeof *h + padded(h->n_tokens * (sizeof(uint32_t) + 1)) + layer * one + before;
}

static float *part_at(const struct kv_trace *t, uint32_t layer, enum part part)
{
    return (float *)(void *)(t->map + part_offset(&t->head, layer, part));
}

const float *kv_trace_q(const struct kv_trace *t, uint32_t layer)
{
    return part_at(t, layer, PART_Q);
}
const float *kv_trace_k(const struct kv_trace *t, uint32_t layer)
{
    return part_at(t, layer, PART_K);
}
const float *kv_trace_v(const struct kv_trace *t, uint32_t layer)
{
    return part_at(t, layer, PART_V);
}

/* ---- checks ---- */

static bool shape_possible(const struct kv_trace_head *h)
{
    return h->n_layers >= 1 && h->n_layers <= MOST_LAYERS && h->n_kv_heads >= 1 && h->n_heads >= 1 &&
           h->n_heads <= MOST_HEADS && h->n_heads % h->n_kv_heads == 0 && h->d_k >= 1 &&
           h->d_k <= MOST_DIMS && h->d_v >= 1 && h->d_v <= MOST_DIMS && h->n_tokens >= 1 &&
           h->n_tokens <= MOST_TOKENS && isfinite(h->scale) && h->scale > 0;
}

static bool all_zero(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i])
            return false;
    return true;
}

static int check_head(const char *path, const struct kv_trace_head *h, struct skv_error *err)
{
    if (memcmp(h->magic, magic, sizeof magic))
        return skv_fail(err, -EINVAL,
                        "%s is no trace of queries, keys and values: make one with scoutkv trace", path);
    if (h->version != KV_TRACE_VERSION)
        return skv_fail(err, -EPROTONOSUPPORT,
                        "%s is a trace of version %u, and this program reads version %d: make it again with "
                        "scoutkv trace",
                        path, h->version, KV_TRACE_VERSION);
    if (!shape_possible(h) || h->reserved || !all_zero(h->zero, sizeof h->zero))
        return skv_fail(err, -EINVAL,
                        "%s: the head says %u layers, %u query and %u KV heads of %u and %u dims, %" PRIu64
                        " tokens, scale %g: no trace can be like that",
                        path, h->n_layers, h->n_heads, h->n_kv_heads, h->d_k, h->d_v, h->n_tokens,
                        (double)h->scale);
    return 0;
}

static int check_content(const struct kv_trace *t, struct skv_error *err)
{
    const struct kv_trace_head *h = &t->head;
    uint64_t wanted = part_offset(h, h->n_layers, PART_Q);
    if (t->bytes != wanted)
        return skv_fail(err, -EBADMSG, "%s has %zu bytes, its head promises %" PRIu64 ": it is %s", t->path,
                        t->bytes, wanted, t->bytes < wanted ? "truncated" : "damaged");
    if (XXH3_64bits(t->map + sizeof *h, t->bytes - sizeof *h) != h->checksum)
        return skv_fail(err, -EBADMSG, "%s is damaged: its content fails the checksum", t->path);
    for (uint64_t i = 0; i < h->n_tokens; i++)
        if (t->mark[i] > KV_TRACE_ORDINARY)
            return skv_fail(err, -EINVAL, "%s: token %" PRIu64 " has mark %u, which means nothing", t->path,
                            i, t->mark[i]);
    return 0;
}

/* ---- files ---- */

static void place(struct kv_trace *t)
{
    t->ids = (uint32_t *)(void *)(t->map + sizeof t->head);
    t->mark = (uint8_t *)(t->ids + t->head.n_tokens);
}

static int map_file(struct kv_trace *t, int fd, const char *name, int protection, struct skv_error *err)
{
    void *map = mmap(NULL, t->bytes, protection, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return skv_fail(err, -errno, "cannot map %s: %s", name, strerror(errno));
    t->map = map;
    return 0;
}

static int read_trace(struct kv_trace *t, int fd, struct skv_error *err)
{
    struct stat st;
    if (fstat(fd, &st))
        return skv_fail(err, -errno, "cannot read %s: %s", t->path, strerror(errno));
    ssize_t got = pread(fd, &t->head, sizeof t->head, 0);
    if (got < 0)
        return skv_fail(err, -errno, "cannot read %s: %s", t->path, strerror(errno));
    size_t seen = (size_t)got < sizeof magic ? (size_t)got : sizeof magic;
    if ((size_t)got < sizeof t->head && seen && !memcmp(t->head.magic, magic, seen))
        return skv_fail(err, -EBADMSG, "%s is truncated: it ends within its head", t->path);
    int rc = check_head(t->path, &t->head, err);
    t->bytes = (size_t)st.st_size;
    if (rc == 0)
        rc = map_file(t, fd, t->path, PROT_READ, err);
    if (rc == 0) {
        place(t);
        rc = check_content(t, err);
    }
    return rc;
}

static struct kv_trace *new_trace(const char *path)
{
    struct kv_trace *t = calloc(1, sizeof *t);
    if (t && !(t->path = strdup(path))) {
        free(t);
        t = NULL;
    }
    return t;
}

int kv_trace_open(const char *path, struct kv_trace **out, struct skv_error *err)
{
    struct kv_trace *t = new_trace(path);
    if (!t)
        return skv_fail(err, -ENOMEM, "out of memory");
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc = fd < 0 ? skv_fail(err, -errno, "cannot read %s: %s", path, strerror(errno)) : 0;
    if (rc == 0)
        rc = read_trace(t, fd, err);
    if (fd >= 0)
        close(fd);
    if (rc)
        kv_trace_close(t);
    else
        *out = t;
    return rc;
}

static int write_trace(struct kv_trace *t, struct skv_error *err)
{
    if (asprintf(&t->temporary, "%s.tmp-%ld", t->path, (long)getpid()) < 0) {
        t->temporary = NULL;
        return skv_fail(err, -ENOMEM, "out of memory");
    }
    int fd = open(t->temporary, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return skv_fail(err, -errno, "cannot create %s: %s", t->temporary, strerror(errno));
    int rc = posix_fallocate(fd, 0, (off_t)t->bytes);
    if (rc)
        rc = skv_fail(err, -rc, "no room for %s (%zu MiB): %s", t->path, t->bytes >> 20, strerror(rc));
    else
        rc = map_file(t, fd, t->temporary, PROT_READ | PROT_WRITE, err);
    close(fd);
    return rc;
}

int kv_trace_create(const char *path, const struct kv_trace_head *head, struct kv_trace **out,
                    struct skv_error *err)
{
    struct kv_trace_head h = *head;
    memcpy(h.magic, magic, sizeof magic);
    h.version = KV_TRACE_VERSION;
    h.reserved = 0;
    h.checksum = 0;
    memset(h.zero, 0, sizeof h.zero);
    int rc = check_head(path, &h, err);
    if (rc)
        return rc;
    struct kv_trace *t = new_trace(path);
    if (!t)
        return skv_fail(err, -ENOMEM, "out of memory");
    t->head = h;
    t->bytes = (size_t)part_offset(&h, h.n_layers, PART_Q);
    rc = write_trace(t, err);
    if (rc) {
        kv_trace_close(t);
        return rc;
    }
    place(t);
    *out = t;
    return 0;
}

static void put_rounded(const struct kv_trace *t, uint32_t layer, enum part part, uint64_t from, uint32_t n,
                        const float *x)
{
    enum { AT_ONCE = 1024 };
    const struct kernels *kernels = kernels_get();
    size_t row = row_floats(&t->head, part), left = n * row;
    float *to = part_at(t, layer, part) + from * row;
    uint16_t half[AT_ONCE];
    while (left) {
        size_t take = left < AT_ONCE ? left : AT_ONCE;
        kernels->f32_to_f16(take, x, half);
        kernels->f16_to_f32(take, half, to);
        x += take;
        to += take;
        left -= take;
    }
}

void kv_trace_put(struct kv_trace *t, uint32_t layer, uint64_t from, uint32_t n, const float *q,
                  const float *k, const float *v)
{
    size_t row = row_floats(&t->head, PART_Q);
    memcpy(part_at(t, layer, PART_Q) + from * row, q, n * row * sizeof *q);
    put_rounded(t, layer, PART_K, from, n, k);
    put_rounded(t, layer, PART_V, from, n, v);
}

int kv_trace_commit(struct kv_trace *t, struct skv_error *err)
{
    t->head.checksum = XXH3_64bits(t->map + sizeof t->head, t->bytes - sizeof t->head);
    memcpy(t->map, &t->head, sizeof t->head);
    if (msync(t->map, t->bytes, MS_SYNC) || rename(t->temporary, t->path))
        return skv_fail(err, -errno, "cannot write %s: %s", t->path, strerror(errno));
    free(t->temporary);
    t->temporary = NULL;
    return 0;
}

void kv_trace_close(struct kv_trace *t)
{
    if (!t)
        return;
    if (t->map)
        munmap(t->map, t->bytes);
    if (t->temporary)
        unlink(t->temporary);
    free(t->temporary);
    free(t->path);
    free(t);
}
