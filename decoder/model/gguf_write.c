/* gguf_write.c: see gguf_write.h.
 *
 * DESIGN. Metadata and tensor headers are serialised as they are put, into two growing buffers; a set of
 * names is not kept: before the rename the finished file is opened by our own reader, so the writer can't
 * produce what the reader refuses (duplicates included). */
#include "decoder/model/gguf_write.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define ALIGNMENT 32u
#define FILL_BYTES (4u << 20) /* how much of a produced tensor is held at a time */

struct bytes {
    uint8_t *p;
    size_t n, cap;
};

struct out_tensor {
    uint64_t rows, row_bytes, nbytes, offset;
    const void *data;
    gguf_fill_fn *fill;
    void *arg;
};

struct gguf_writer {
    struct bytes kv, headers; /* serialised metadata, serialised tensor headers */
    uint64_t n_kv, n_tensors, cap_tensors, data_bytes;
    struct out_tensor *tensors;
    int failed; /* the first -errno, with its sentence in why */
    struct skv_error why;
};

struct gguf_writer *gguf_writer_new(void)
{
    return calloc(1, sizeof(struct gguf_writer));
}

void gguf_writer_free(struct gguf_writer *w)
{
    if (!w)
        return;
    free(w->kv.p);
    free(w->headers.p);
    free(w->tensors);
    free(w);
}

static void fail(struct gguf_writer *w, int code, const char *what, const char *name)
{
    if (!w->failed)
        w->failed = skv_fail(&w->why, code, "cannot write \"%s\": %s", name, what);
}

static void put(struct gguf_writer *w, struct bytes *b, const void *src, size_t n)
{
    if (w->failed || n == 0)
        return;
    if (n > b->cap - b->n) {
        size_t cap = b->cap ? b->cap : 4096;
        while (cap - b->n < n)
            cap *= 2;
        uint8_t *p = realloc(b->p, cap);
        if (!p) {
            fail(w, -ENOMEM, "out of memory", "metadata");
            return;
        }
        b->p = p;
        b->cap = cap;
    }
    memcpy(b->p + b->n, src, n);
    b->n += n;
}

static void put_u32(struct gguf_writer *w, struct bytes *b, uint32_t v)
{
    put(w, b, &v, sizeof v);
}

static void put_u64(struct gguf_writer *w, struct bytes *b, uint64_t v)
{
    put(w, b, &v, sizeof v);
}

static void put_text(struct gguf_writer *w, struct bytes *b, const char *s, size_t n)
{
    put_u64(w, b, n);
    put(w, b, s, n);
}

/* ---- metadata ---- */

static void begin_kv(struct gguf_writer *w, const char *key, enum gguf_value_type type)
{
    put_text(w, &w->kv, key, strlen(key));
    put_u32(w, &w->kv, type);
    w->n_kv++;
}

#define PUT_SCALAR(suffix, c_type, tag)                                      \
    void gguf_put_##suffix(struct gguf_writer *w, const char *key, c_type v) \
    {                                                                        \
        begin_kv(w, key, tag);                                               \
        put(w, &w->kv, &v, sizeof v);                                        \
    }
PUT_SCALAR(u8, uint8_t, GGUF_U8)
PUT_SCALAR(i8, int8_t, GGUF_I8)
PUT_SCALAR(u16, uint16_t, GGUF_U16)
PUT_SCALAR(i16, int16_t, GGUF_I16)
PUT_SCALAR(u32, uint32_t, GGUF_U32)
PUT_SCALAR(i32, int32_t, GGUF_I32)
PUT_SCALAR(u64, uint64_t, GGUF_U64)
PUT_SCALAR(i64, int64_t, GGUF_I64)
PUT_SCALAR(f32, float, GGUF_F32)
PUT_SCALAR(f64, double, GGUF_F64)
PUT_SCALAR(bool, bool, GGUF_BOOL)
_Static_assert(sizeof(bool) == 1, "a GGUF bool is one byte");

void gguf_put_string(struct gguf_writer *w, const char *key, const char *s)
{
    begin_kv(w, key, GGUF_STRING);
    put_text(w, &w->kv, s, strlen(s));
}

void gguf_put_array(struct gguf_writer *w, const char *key, enum gguf_value_type scalar, uint64_t n,
                    const void *data)
{
    size_t each = gguf_scalar_bytes(scalar);
    if (!each) {
        fail(w, -EINVAL, "the elements of an array put so are scalars", key);
        return;
    }
    begin_kv(w, key, GGUF_ARRAY);
    put_u32(w, &w->kv, scalar);
    put_u64(w, &w->kv, n);
    put(w, &w->kv, data, (size_t)n * each);
}

void gguf_put_string_array(struct gguf_writer *w, const char *key, uint64_t n, const struct gguf_str *s)
{
    begin_kv(w, key, GGUF_ARRAY);
    put_u32(w, &w->kv, GGUF_STRING);
    put_u64(w, &w->kv, n);
    for (uint64_t i = 0; i < n; i++)
        put_text(w, &w->kv, s[i].data, s[i].len);
}

/* ---- tensors ---- */

static void add_tensor(struct gguf_writer *w, const char *name, uint32_t n_dims, const uint64_t *ne,
                       uint32_t type, struct out_tensor t)
{
    t.rows = 1;
    t.row_bytes = n_dims >= 1 && n_dims <= 4 ? ggml_row_bytes(type, ne[0]) : 0;
    bool fits = t.row_bytes > 0;
    for (uint32_t d = 1; fits && d < n_dims; d++)
        fits = ne[d] > 0 && !__builtin_mul_overflow(t.rows, ne[d], &t.rows);
    if (!fits || __builtin_mul_overflow(t.rows, t.row_bytes, &t.nbytes)) {
        fail(w, -EINVAL, "its type cannot have this shape", name);
        return;
    }
    if (w->n_tensors == w->cap_tensors) {
        uint64_t cap = w->cap_tensors ? 2 * w->cap_tensors : 64;
        struct out_tensor *grown = realloc(w->tensors, cap * sizeof *grown);
        if (!grown) {
            fail(w, -ENOMEM, "out of memory", name);
            return;
        }
        w->tensors = grown;
        w->cap_tensors = cap;
    }
    t.offset = (w->data_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    w->data_bytes = t.offset + t.nbytes;
    w->tensors[w->n_tensors++] = t;
    put_text(w, &w->headers, name, strlen(name));
    put_u32(w, &w->headers, n_dims);
    for (uint32_t d = 0; d < n_dims; d++)
        put_u64(w, &w->headers, ne[d]);
    put_u32(w, &w->headers, type);
    put_u64(w, &w->headers, t.offset);
}

void gguf_put_tensor(struct gguf_writer *w, const char *name, uint32_t n_dims, const uint64_t *ne,
                     uint32_t type, const void *data)
{
    add_tensor(w, name, n_dims, ne, type, (struct out_tensor){.data = data});
}

void gguf_put_tensor_rows(struct gguf_writer *w, const char *name, uint32_t n_dims, const uint64_t *ne,
                          uint32_t type, gguf_fill_fn *fill, void *arg)
{
    add_tensor(w, name, n_dims, ne, type, (struct out_tensor){.fill = fill, .arg = arg});
}

/* ---- saving ---- */

struct sink {
    FILE *f;
    const char *path;
    uint64_t pos;
    struct skv_error *err;
};

static int emit(struct sink *s, const void *p, size_t n)
{
    s->pos += n;
    if (n == 0 || fwrite(p, 1, n, s->f) == n)
        return 0;
    return skv_fail(s->err, errno ? -errno : -EIO, "cannot write %s: %s", s->path,
                    strerror(errno ? errno : EIO));
}

static int emit_padding(struct sink *s)
{
    static const uint8_t zero[ALIGNMENT];
    return emit(s, zero, (size_t)(-s->pos & (ALIGNMENT - 1)));
}

static int emit_header(struct gguf_writer *w, struct sink *s)
{
    uint32_t version = 3;
    int r = emit(s, "GGUF", 4);
    if (r || (r = emit(s, &version, sizeof version)) || (r = emit(s, &w->n_tensors, sizeof w->n_tensors)) ||
        (r = emit(s, &w->n_kv, sizeof w->n_kv)) || (r = emit(s, w->kv.p, w->kv.n)) ||
        (r = emit(s, w->headers.p, w->headers.n)))
        return r;
    return emit_padding(s);
}

static int emit_tensor(const struct out_tensor *t, struct sink *s)
{
    if (t->data)
        return emit(s, t->data, (size_t)t->nbytes);
    uint64_t at_once = t->row_bytes < FILL_BYTES ? FILL_BYTES / t->row_bytes : 1;
    if (at_once > t->rows)
        at_once = t->rows;
    uint8_t *buf = malloc((size_t)(at_once * t->row_bytes));
    if (!buf)
        return skv_fail(s->err, -ENOMEM, "out of memory while writing %s", s->path);
    int r = 0;
    for (uint64_t row = 0; r == 0 && row < t->rows; row += at_once) {
        uint64_t n = t->rows - row < at_once ? t->rows - row : at_once;
        r = t->fill(t->arg, row, n, buf, s->err);
        if (r == 0)
            r = emit(s, buf, (size_t)(n * t->row_bytes));
    }
    free(buf);
    return r;
}

static int emit_all(struct gguf_writer *w, struct sink *s)
{
    int r = emit_header(w, s);
    for (uint64_t i = 0; r == 0 && i < w->n_tensors; i++)
        if ((r = emit_padding(s)) == 0)
            r = emit_tensor(&w->tensors[i], s);
    if (r == 0)
        r = emit_padding(s);
    if (r == 0 && fflush(s->f) != 0)
        r = skv_fail(s->err, -errno, "cannot write %s: %s", s->path, strerror(errno));
    return r;
}

int gguf_writer_save(struct gguf_writer *w, const char *path, struct skv_error *err)
{
    if (w->failed) {
        if (err)
            *err = w->why;
        return w->failed;
    }
    char *tmp = NULL;
    struct gguf *readback = NULL;
    if (asprintf(&tmp, "%s.tmp-%ld", path, (long)getpid()) < 0)
        return skv_fail(err, -ENOMEM, "out of memory while writing %s", path);
    struct sink s = {.f = fopen(tmp, "wb"), .path = path, .err = err};
    int r = s.f ? emit_all(w, &s) : skv_fail(err, -errno, "cannot create %s: %s", tmp, strerror(errno));
    if (s.f && fclose(s.f) != 0 && r == 0)
        r = skv_fail(err, -errno, "cannot write %s: %s", path, strerror(errno));
    if (s.f && r == 0 && (r = gguf_open(tmp, &readback, err)) == 0 && rename(tmp, path) != 0)
        r = skv_fail(err, -errno, "cannot rename %s to %s: %s", tmp, path, strerror(errno));
    gguf_close(readback);
    if (s.f && r)
        unlink(tmp);
    free(tmp);
    return r;
}
