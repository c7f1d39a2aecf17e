/* gguf.c: see gguf.h.
 *
 * DESIGN. One pass over the header with a cursor that never leaves the file; every count is bounded by the
 * bytes that remain before anything is allocated for it, so a damaged count can't ask for more memory than a
 * small multiple of the file's size. String arrays get a table of views (random access to a vocabulary), all
 * other values stay where they are. Names are found through an open-addressing hash table, which also refuses
 * duplicates. Layout of the file:
 *
 *   "GGUF" u32 version, u64 n_tensors, u64 n_kv
 *   n_kv      × { string key, u32 type, value }       string = u64 length, bytes
 *   n_tensors × { string name, u32 n_dims, u64 ne[n_dims], u32 type, u64 offset }
 *   padding to general.alignment; tensor data, offsets counted from here */
#include "decoder/model/gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define MAX_KV (1u << 16)
#define MAX_TENSORS (1u << 20)
#define MAX_STRINGS (1u << 26)
#define MAX_NAME 65535u
#define MAX_ARRAY_DEPTH 4

struct gguf_kv {
    struct gguf_str key;
    uint32_t type;            /* enum gguf_value_type */
    const uint8_t *raw;       /* a scalar's bytes */
    struct gguf_str string;   /* if GGUF_STRING */
    struct gguf_array array;  /* if GGUF_ARRAY; raw is NULL for arrays of arrays (nobody reads those) */
    struct gguf_str *strings; /* owned: what array.strings points to */
};

struct name_index {
    uint32_t *slot; /* [mask + 1], 1 + position, 0 = free */
    uint32_t mask;
};

struct gguf {
    char *path;
    const uint8_t *bytes;
    size_t size;
    bool mapped; /* bytes are ours to unmap */
    size_t data_offset;
    uint32_t n_kv, n_tensors;
    struct gguf_kv *kv;
    struct gguf_tensor *tensors;
    struct name_index kv_index, tensor_index;
};

/* ---- name index ---- */

static int index_init(struct name_index *x, uint32_t n)
{
    uint32_t slots = 8;
    while (slots < 2 * n)
        slots *= 2;
    x->slot = calloc(slots, sizeof *x->slot);
    x->mask = slots - 1;
    return x->slot ? 0 : -ENOMEM;
}

/* The slot that holds name, or the free one where it belongs. base points at the name of entry 0 in an array
 * of entries of stride bytes. */
static uint32_t *index_slot(const struct name_index *x, const void *base, size_t stride, struct gguf_str name)
{
    for (uint32_t h = (uint32_t)XXH3_64bits(name.data, name.len);; h++) {
        uint32_t *slot = &x->slot[h & x->mask];
        if (!*slot)
            return slot;
        const struct gguf_str *held = (const void *)((const char *)base + (*slot - 1) * stride);
        if (held->len == name.len && memcmp(held->data, name.data, name.len) == 0)
            return slot;
    }
}

static const struct gguf_kv *kv_find(const struct gguf *g, const char *key)
{
    struct gguf_str s = {key, strlen(key)};
    uint32_t at = *index_slot(&g->kv_index, &g->kv->key, sizeof *g->kv, s);
    return at ? &g->kv[at - 1] : NULL;
}

/* ---- cursor ---- */

struct cursor {
    const struct gguf *g;
    size_t pos;
    const char *where; /* the kind of thing being read, for messages */
    struct gguf_str name;
    struct skv_error *err;
};

static int cut(const struct cursor *c)
{
    return skv_fail(c->err, -EINVAL,
                    "%s: the file ends at byte %zu inside %s; it was cut or is damaged, fetch it again",
                    c->g->path, c->g->size, c->where);
}

static int bad(const struct cursor *c, const char *what)
{
    return skv_fail(c->err, -EINVAL, "%s: %s \"%.*s\" at byte %zu %s; the file is damaged", c->g->path,
                    c->where, (int)(c->name.len > 128 ? 128 : c->name.len), c->name.data ? c->name.data : "",
                    c->pos, what);
}

/* The next n bytes, or NULL after filling err. */
static const uint8_t *take(struct cursor *c, size_t n)
{
    if (n > c->g->size - c->pos) {
        cut(c);
        return NULL;
    }
    c->pos += n;
    return c->g->bytes + c->pos - n;
}

static int take_u32(struct cursor *c, uint32_t *v)
{
    const uint8_t *p = take(c, sizeof *v);
    if (!p)
        return -EINVAL;
    memcpy(v, p, sizeof *v);
    return 0;
}

static int take_u64(struct cursor *c, uint64_t *v)
{
    const uint8_t *p = take(c, sizeof *v);
    if (!p)
        return -EINVAL;
    memcpy(v, p, sizeof *v);
    return 0;
}

static int take_string(struct cursor *c, struct gguf_str *s)
{
    uint64_t n;
    int r = take_u64(c, &n);
    if (r)
        return r;
    s->data = (const char *)take(c, n);
    s->len = n;
    return s->data ? 0 : -EINVAL;
}

/* Keys and tensor names: printable, since they go into messages. */
static int take_name(struct cursor *c, struct gguf_str *s)
{
    c->name = (struct gguf_str){0};
    int r = take_string(c, s);
    if (r)
        return r;
    if (s->len == 0 || s->len > MAX_NAME)
        return bad(c, "has an empty or oversized name");
    for (size_t i = 0; i < s->len; i++)
        if ((unsigned char)s->data[i] < 0x20 || s->data[i] == 0x7f)
            return bad(c, "has control characters in its name");
    c->name = *s;
    return 0;
}

/* ---- metadata ---- */

/* Reads an array's header and elements. strings: receives the owned table of views (top level only). */
static int parse_array(struct cursor *c, int depth, struct gguf_array *a, struct gguf_str **strings)
{
    uint32_t type;
    uint64_t n;
    int r = take_u32(c, &type);
    if (r == 0)
        r = take_u64(c, &n);
    if (r)
        return r;
    if (type >= GGUF_N_VALUE_TYPES)
        return bad(c, "is an array of an unknown type");
    *a = (struct gguf_array){.type = type, .n = n};
    size_t left = c->g->size - c->pos, each = gguf_scalar_bytes(type);
    if (each) {
        if (n > left / each)
            return cut(c);
        a->raw = take(c, n * each);
        return a->raw ? 0 : -EINVAL;
    }
    if (n > left / 8 || n > MAX_STRINGS) /* a string or an inner array takes at least 8 bytes */
        return cut(c);
    if (type == GGUF_ARRAY) {
        if (depth >= MAX_ARRAY_DEPTH)
            return bad(c, "nests arrays too deeply");
        struct gguf_array inner;
        for (uint64_t i = 0; r == 0 && i < n; i++)
            r = parse_array(c, depth + 1, &inner, NULL);
        return r;
    }
    if (strings && n) {
        *strings = malloc((size_t)n * sizeof **strings);
        if (!*strings)
            return skv_fail(c->err, -ENOMEM, "%s: out of memory for %" PRIu64 " strings", c->g->path, n);
        a->strings = *strings;
    }
    struct gguf_str s;
    for (uint64_t i = 0; r == 0 && i < n; i++) {
        r = take_string(c, &s);
        if (strings && r == 0)
            (*strings)[i] = s;
    }
    return r;
}

static int parse_kv(struct cursor *c, struct gguf_kv *kv)
{
    int r = take_name(c, &kv->key);
    if (r == 0)
        r = take_u32(c, &kv->type);
    if (r)
        return r;
    if (kv->type == GGUF_STRING)
        return take_string(c, &kv->string);
    if (kv->type == GGUF_ARRAY)
        return parse_array(c, 1, &kv->array, &kv->strings);
    size_t n = gguf_scalar_bytes(kv->type);
    if (!n)
        return bad(c, "has an unknown type");
    kv->raw = take(c, n);
    if (!kv->raw)
        return -EINVAL;
    if (kv->type == GGUF_BOOL && *kv->raw > 1)
        return bad(c, "is a bool that is neither 0 nor 1");
    return 0;
}

static int parse_metadata(struct gguf *g, struct cursor *c)
{
    if (index_init(&g->kv_index, g->n_kv) || !(g->kv = calloc(g->n_kv + 1, sizeof *g->kv)))
        return skv_fail(c->err, -ENOMEM, "%s: out of memory for the metadata", g->path);
    c->where = "metadata key";
    for (uint32_t i = 0; i < g->n_kv; i++) {
        int r = parse_kv(c, &g->kv[i]);
        if (r)
            return r;
        uint32_t *slot = index_slot(&g->kv_index, &g->kv->key, sizeof *g->kv, g->kv[i].key);
        if (*slot)
            return bad(c, "occurs twice");
        *slot = i + 1;
    }
    return 0;
}

/* ---- tensors ---- */

static int parse_tensor(struct cursor *c, struct gguf_tensor *t, uint64_t *offset)
{
    int r = take_name(c, &t->name);
    if (r == 0)
        r = take_u32(c, &t->n_dims);
    if (r)
        return r;
    if (t->n_dims < 1 || t->n_dims > 4)
        return bad(c, "has not between 1 and 4 dimensions");
    for (uint32_t d = 0; d < 4; d++) {
        t->ne[d] = 1;
        if (d < t->n_dims && (r = take_u64(c, &t->ne[d])))
            return r;
        if (t->ne[d] == 0)
            return bad(c, "has an empty dimension");
    }
    if ((r = take_u32(c, &t->type)) || (r = take_u64(c, offset)))
        return r;
    if (!ggml_type_name(t->type))
        return skv_fail(c->err, -ENOTSUP,
                        "%s: tensor \"%.*s\" has the unknown type %" PRIu32 "; supported: " GGML_SUPPORTED,
                        c->g->path, (int)(t->name.len > 128 ? 128 : t->name.len), t->name.data, t->type);
    t->row_bytes = ggml_row_bytes(t->type, t->ne[0]);
    t->nbytes = t->row_bytes;
    if (!t->row_bytes || __builtin_mul_overflow(t->nbytes, t->ne[1], &t->nbytes) ||
        __builtin_mul_overflow(t->nbytes, t->ne[2], &t->nbytes) ||
        __builtin_mul_overflow(t->nbytes, t->ne[3], &t->nbytes))
        return bad(c, "has a shape that its type cannot have");
    return 0;
}

/* Where tensor data begins, once the cursor has passed the last header entry. A file without tensors may end
 * right there. */
static int place_data(struct gguf *g, struct cursor *c, uint64_t *alignment)
{
    *alignment = 32;
    int r = gguf_u64(g, "general.alignment", GGUF_OPT, alignment, c->err);
    if (r)
        return r;
    if (*alignment < 8 || *alignment > (1u << 30) || (*alignment & (*alignment - 1)))
        return skv_fail(c->err, -EINVAL, "%s: general.alignment is %" PRIu64 ", not a power of two from 8 up",
                        g->path, *alignment);
    size_t pad = (size_t)(-c->pos & (*alignment - 1));
    if (g->n_tensors && pad > g->size - c->pos)
        return cut(c);
    g->data_offset = pad > g->size - c->pos ? g->size : c->pos + pad;
    return 0;
}

static int parse_tensors(struct gguf *g, struct cursor *c)
{
    uint64_t *offset = calloc(g->n_tensors + 1, sizeof *offset), alignment;
    int r = -ENOMEM;
    if (!offset || index_init(&g->tensor_index, g->n_tensors) ||
        !(g->tensors = calloc(g->n_tensors + 1, sizeof *g->tensors))) {
        skv_fail(c->err, r, "%s: out of memory for %" PRIu32 " tensors", g->path, g->n_tensors);
        goto out;
    }
    c->where = "tensor";
    for (uint32_t i = 0; i < g->n_tensors; i++) {
        struct gguf_tensor *t = &g->tensors[i];
        if ((r = parse_tensor(c, t, &offset[i])))
            goto out;
        uint32_t *slot = index_slot(&g->tensor_index, &g->tensors->name, sizeof *t, t->name);
        if (*slot) {
            r = bad(c, "occurs twice");
            goto out;
        }
        *slot = i + 1;
    }
    if ((r = place_data(g, c, &alignment)))
        goto out;
    for (uint32_t i = 0; i < g->n_tensors; i++) {
        struct gguf_tensor *t = &g->tensors[i];
        c->name = t->name;
        uint64_t room = g->size - g->data_offset;
        if (offset[i] & (alignment - 1)) {
            r = bad(c, "is not aligned to general.alignment");
            goto out;
        }
        if (offset[i] > room || t->nbytes > room - offset[i]) {
            r = bad(c, "has data beyond the end of the file, which was cut or");
            goto out;
        }
        t->data = g->bytes + g->data_offset + offset[i];
    }
out:
    free(offset);
    return r;
}

static int parse(struct gguf *g, struct skv_error *err)
{
    struct cursor c = {.g = g, .where = "the header", .err = err};
    uint32_t version;
    uint64_t n_tensors, n_kv;
    if (g->size < 4 || memcmp(g->bytes, "GGUF", 4) != 0)
        return skv_fail(err, -EINVAL, "%s is not a GGUF file (it does not begin with \"GGUF\")", g->path);
    c.pos = 4;
    int r = take_u32(&c, &version);
    if (r)
        return r;
    if (version == __builtin_bswap32(2) || version == __builtin_bswap32(3))
        return skv_fail(err, -ENOTSUP, "%s is a big-endian GGUF file; convert it to little-endian first",
                        g->path);
    if (version != 2 && version != 3)
        return skv_fail(err, -ENOTSUP, "%s is GGUF version %" PRIu32 "; supported: 2, 3", g->path, version);
    if ((r = take_u64(&c, &n_tensors)) || (r = take_u64(&c, &n_kv)))
        return r;
    size_t left = g->size - c.pos; /* an entry takes at least 13 (key) or 33 (tensor) bytes */
    if (n_kv > MAX_KV || n_kv > left / 13 || n_tensors > MAX_TENSORS || n_tensors > left / 33)
        return skv_fail(err, -EINVAL,
                        "%s says it has %" PRIu64 " keys and %" PRIu64
                        " tensors, too many for its size; it was cut or is damaged, fetch it again",
                        g->path, n_kv, n_tensors);
    g->n_kv = (uint32_t)n_kv;
    g->n_tensors = (uint32_t)n_tensors;
    if ((r = parse_metadata(g, &c)))
        return r;
    return parse_tensors(g, &c);
}

/* ---- open and close ---- */

int gguf_open_memory(const void *bytes, size_t size, const char *name, struct gguf **out,
                     struct skv_error *err)
{
    *out = NULL;
    struct gguf *g = calloc(1, sizeof *g);
    if (!g || !(g->path = strdup(name))) {
        free(g);
        return skv_fail(err, -ENOMEM, "%s: out of memory", name);
    }
    g->bytes = bytes;
    g->size = size;
    int r = parse(g, err);
    if (r)
        gguf_close(g);
    else
        *out = g;
    return r;
}

int gguf_open(const char *path, struct gguf **out, struct skv_error *err)
{
    *out = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return skv_fail(err, -errno, "cannot open %s: %s", path, strerror(errno));
    struct stat st;
    void *bytes = MAP_FAILED;
    int r = 0;
    if (fstat(fd, &st) < 0)
        r = skv_fail(err, -errno, "cannot look at %s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        r = skv_fail(err, -EINVAL, "%s is not a regular file; give a .gguf file", path);
    else if (st.st_size == 0)
        r = skv_fail(err, -EINVAL, "%s is empty; give a .gguf file", path);
    else if ((bytes = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0)) == MAP_FAILED)
        r = skv_fail(err, -errno, "cannot map %s: %s", path, strerror(errno));
    close(fd);
    if (r)
        return r;
    r = gguf_open_memory(bytes, (size_t)st.st_size, path, out, err);
    if (r)
        munmap(bytes, (size_t)st.st_size);
    else
        (*out)->mapped = true;
    return r;
}

void gguf_close(struct gguf *g)
{
    if (!g)
        return;
    for (uint32_t i = 0; g->kv && i < g->n_kv; i++)
        free(g->kv[i].strings);
    free(g->kv);
    free(g->tensors);
    free(g->kv_index.slot);
    free(g->tensor_index.slot);
    if (g->mapped)
        munmap((void *)(uintptr_t)g->bytes, g->size);
    free(g->path);
    free(g);
}

const char *gguf_path(const struct gguf *g)
{
    return g->path;
}

const void *gguf_bytes(const struct gguf *g, size_t *size, size_t *data_offset)
{
    if (size)
        *size = g->size;
    if (data_offset)
        *data_offset = g->data_offset;
    return g->bytes;
}

/* ---- getters ---- */

bool gguf_has(const struct gguf *g, const char *key)
{
    return kv_find(g, key) != NULL;
}

/* 1: found; 0: absent and optional; else an error. */
static int want_kv(const struct gguf *g, const char *key, enum gguf_want want, const struct gguf_kv **kv,
                   struct skv_error *err)
{
    *kv = kv_find(g, key);
    if (*kv)
        return 1;
    if (want == GGUF_OPT)
        return 0;
    return skv_fail(err, -ENOENT, "%s has no metadata key \"%s\"; it is not a complete model file", g->path,
                    key);
}

static int wrong_type(const struct gguf *g, const char *key, const char *wanted, struct skv_error *err)
{
    return skv_fail(err, -EINVAL, "%s: metadata key \"%s\" is not %s; the file is damaged or not a model",
                    g->path, key, wanted);
}

/* The value of an integer of any width; false if it is no integer or negative. */
static bool kv_unsigned(const struct gguf_kv *kv, uint64_t *v)
{
    int64_t s = 0;
    uint64_t u = 0;
    switch (kv->type) {
    case GGUF_U8:
    case GGUF_U16:
    case GGUF_U32:
    case GGUF_U64:
        memcpy(&u, kv->raw, gguf_scalar_bytes(kv->type)); /* little-endian host, as the file */
        *v = u;
        return true;
    case GGUF_I8:
        s = (int8_t)*kv->raw;
        break;
    case GGUF_I16: {
        int16_t w;
        memcpy(&w, kv->raw, sizeof w);
        s = w;
        break;
    }
    case GGUF_I32: {
        int32_t w;
        memcpy(&w, kv->raw, sizeof w);
        s = w;
        break;
    }
    case GGUF_I64:
        memcpy(&s, kv->raw, sizeof s);
        break;
    default:
        return false;
    }
    *v = (uint64_t)s;
    return s >= 0;
}
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "gguf.c reads little-endian files on little-endian hosts");

int gguf_u64(const struct gguf *g, const char *key, enum gguf_want want, uint64_t *value,
             struct skv_error *err)
{
    const struct gguf_kv *kv;
    int r = want_kv(g, key, want, &kv, err);
    if (r <= 0)
        return r;
    uint64_t v;
    if (!kv_unsigned(kv, &v))
        return wrong_type(g, key, "a non-negative integer", err);
    *value = v;
    return 0;
}

int gguf_u32(const struct gguf *g, const char *key, enum gguf_want want, uint32_t *value,
             struct skv_error *err)
{
    uint64_t v = *value;
    int r = gguf_u64(g, key, want, &v, err);
    if (r)
        return r;
    if (v > UINT32_MAX)
        return wrong_type(g, key, "an integer below 2^32", err);
    *value = (uint32_t)v;
    return 0;
}

int gguf_f32(const struct gguf *g, const char *key, enum gguf_want want, float *value, struct skv_error *err)
{
    const struct gguf_kv *kv;
    int r = want_kv(g, key, want, &kv, err);
    if (r <= 0)
        return r;
    float v;
    double d;
    if (kv->type == GGUF_F32) {
        memcpy(&v, kv->raw, sizeof v);
    } else if (kv->type == GGUF_F64) {
        memcpy(&d, kv->raw, sizeof d);
        v = (float)d;
    } else {
        return wrong_type(g, key, "a float", err);
    }
    if (!isfinite(v))
        return wrong_type(g, key, "a finite float", err);
    *value = v;
    return 0;
}

int gguf_bool(const struct gguf *g, const char *key, enum gguf_want want, bool *value, struct skv_error *err)
{
    const struct gguf_kv *kv;
    int r = want_kv(g, key, want, &kv, err);
    if (r <= 0)
        return r;
    if (kv->type != GGUF_BOOL)
        return wrong_type(g, key, "a bool", err);
    *value = *kv->raw == 1;
    return 0;
}

int gguf_string(const struct gguf *g, const char *key, enum gguf_want want, struct gguf_str *value,
                struct skv_error *err)
{
    const struct gguf_kv *kv;
    int r = want_kv(g, key, want, &kv, err);
    if (r <= 0)
        return r;
    if (kv->type != GGUF_STRING)
        return wrong_type(g, key, "a string", err);
    *value = kv->string;
    return 0;
}

int gguf_array(const struct gguf *g, const char *key, enum gguf_want want, enum gguf_value_type type,
               struct gguf_array *value, struct skv_error *err)
{
    const struct gguf_kv *kv;
    int r = want_kv(g, key, want, &kv, err);
    if (r <= 0)
        return r;
    bool same = kv->array.type == type || (type == GGUF_I32 && kv->array.type == GGUF_U32);
    if (kv->type != GGUF_ARRAY || !same)
        return wrong_type(g, key, "an array of the right type", err);
    *value = kv->array;
    return 0;
}

size_t gguf_n_tensors(const struct gguf *g)
{
    return g->n_tensors;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t i)
{
    return i < g->n_tensors ? &g->tensors[i] : NULL;
}

const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name)
{
    struct gguf_str s = {name, strlen(name)};
    uint32_t at = *index_slot(&g->tensor_index, &g->tensors->name, sizeof *g->tensors, s);
    return at ? &g->tensors[at - 1] : NULL;
}

int gguf_tensor_need(const struct gguf *g, const char *name, const struct gguf_tensor **out,
                     struct skv_error *err)
{
    const struct gguf_tensor *t = *out = gguf_tensor_find(g, name);
    if (!t) {
        uint32_t parts = 1;
        gguf_u32(g, "split.count", GGUF_OPT, &parts, NULL);
        if (parts > 1)
            return skv_fail(err, -ENOENT,
                            "%s has no tensor \"%s\": it is one of %" PRIu32 " parts; merge them first",
                            g->path, name, parts);
        return skv_fail(err, -ENOENT, "%s has no tensor \"%s\"; it is not a complete model file", g->path,
                        name);
    }
    if (!ggml_type_supported(t->type))
        return skv_fail(err, -ENOTSUP,
                        "%s: tensor \"%s\" has type %s, which is not supported; supported: " GGML_SUPPORTED,
                        g->path, name, ggml_type_name(t->type));
    return 0;
}
