/* gguf.h: a reader of GGUF files (versions 2 and 3, little-endian), by mmap.
 *
 * A GGUF file holds typed metadata (key → value) and tensors. Everything is checked when the file is opened
 * (counts, lengths, overflow, alignment, duplicates, offsets against the size of the file), so that what the
 * getters hand out lies inside the file. Metadata is not aligned in the file: read arrays with the accessors.
 * All pointers given out are views into the mapping and die with gguf_close. A struct gguf is immutable after
 * gguf_open, and may be read by many threads. */
#ifndef DECODER_MODEL_GGUF_H
#define DECODER_MODEL_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/error.h"

struct gguf;

enum gguf_value_type { /* numbers as in the file */
                       GGUF_U8,
                       GGUF_I8,
                       GGUF_U16,
                       GGUF_I16,
                       GGUF_U32,
                       GGUF_I32,
                       GGUF_F32,
                       GGUF_BOOL,
                       GGUF_STRING,
                       GGUF_ARRAY,
                       GGUF_U64,
                       GGUF_I64,
                       GGUF_F64,
                       GGUF_N_VALUE_TYPES,
};

enum ggml_type { /* numbers as in the file; the types whose weights this engine computes with */
                 GGML_F32 = 0,
                 GGML_F16 = 1,
                 GGML_Q4_0 = 2,
                 GGML_Q8_0 = 8,
                 GGML_Q4_K = 12,
                 GGML_Q6_K = 14,
                 GGML_BF16 = 30,
};

struct gguf_str { /* not NUL-terminated */
    const char *data;
    size_t len;
};

struct gguf_array {
    enum gguf_value_type type; /* of the elements */
    uint64_t n;
    const void *raw;                /* elements as in the file, unaligned; NULL for strings */
    const struct gguf_str *strings; /* [n] for strings, else NULL */
};

struct gguf_tensor {
    struct gguf_str name;
    uint32_t n_dims;    /* 1..4 */
    uint64_t ne[4];     /* elements per dimension, ne[0] fastest; 1 beyond n_dims */
    uint32_t type;      /* enum ggml_type, or another type of ggml_type_name's table */
    uint64_t row_bytes; /* bytes of ne[0] elements */
    uint64_t nbytes;    /* row_bytes * ne[1] * ne[2] * ne[3] */
    const void *data;   /* aligned to general.alignment (32 by default, at least 8) */
};

/* Opens and checks a file. A file with metadata only (a vocabulary) is fine. */
int gguf_open(const char *path, struct gguf **out, struct skv_error *err);
/* The same on bytes that the caller keeps alive until gguf_close; name is used in messages. */
int gguf_open_memory(const void *bytes, size_t size, const char *name, struct gguf **out,
                     struct skv_error *err);
void gguf_close(struct gguf *); /* NULL is allowed */

/* Where the file lies in memory: all of it, and the offset at which tensor data begins (== size if there is
 * none). Either pointer may be NULL. */
const char *gguf_path(const struct gguf *);
const void *gguf_bytes(const struct gguf *, size_t *size, size_t *data_offset);

/* Typed getters. GGUF_NEED: an absent key is an error (-ENOENT). GGUF_OPT: an absent key leaves *value as it
 * is (set it to the default before). A value of the wrong type or out of range is an error either way
 * (-EINVAL). Integers of any width are accepted where they fit; f32 accepts f64 too. */
enum gguf_want { GGUF_OPT, GGUF_NEED };
bool gguf_has(const struct gguf *, const char *key);
int gguf_u32(const struct gguf *, const char *key, enum gguf_want, uint32_t *value, struct skv_error *err);
int gguf_u64(const struct gguf *, const char *key, enum gguf_want, uint64_t *value, struct skv_error *err);
int gguf_f32(const struct gguf *, const char *key, enum gguf_want, float *value, struct skv_error *err);
int gguf_bool(const struct gguf *, const char *key, enum gguf_want, bool *value, struct skv_error *err);
int gguf_string(const struct gguf *, const char *key, enum gguf_want, struct gguf_str *value,
                struct skv_error *err);
/* An array whose elements have exactly this type (GGUF_I32 also takes a U32 array). */
int gguf_array(const struct gguf *, const char *key, enum gguf_want, enum gguf_value_type type,
               struct gguf_array *value, struct skv_error *err);

/* Elements of F32 and of I32 arrays; i < a->n. */
static inline float gguf_array_f32(const struct gguf_array *a, uint64_t i)
{
    float v;
    memcpy(&v, (const char *)a->raw + i * sizeof v, sizeof v);
    return v;
}
static inline int32_t gguf_array_i32(const struct gguf_array *a, uint64_t i)
{
    int32_t v;
    memcpy(&v, (const char *)a->raw + i * sizeof v, sizeof v);
    return v;
}
static inline bool gguf_str_is(struct gguf_str s, const char *text)
{
    return s.len == strlen(text) && memcmp(s.data, text, s.len) == 0;
}

/* Tensors, in file order or by name (NULL if absent). */
size_t gguf_n_tensors(const struct gguf *);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *, size_t i);
const struct gguf_tensor *gguf_tensor_find(const struct gguf *, const char *name);
/* The same for loading weights: a tensor that is absent, or of a type this engine does not compute with, is
 * an error that names it. */
int gguf_tensor_need(const struct gguf *, const char *name, const struct gguf_tensor **out,
                     struct skv_error *err);

/* Bytes of a scalar metadata value; 0 for strings, arrays and unknown types. */
size_t gguf_scalar_bytes(uint32_t type);

/* Facts of tensor types, for every type that ggml has published (also those we can't compute with). */
const char *ggml_type_name(uint32_t type);               /* "Q4_K"; NULL if unknown */
bool ggml_type_supported(uint32_t type);                 /* in enum ggml_type */
int ggml_type_by_name(const char *name, uint32_t *type); /* supported types only, any case; 0 or -EINVAL */
uint64_t ggml_type_block(uint32_t type,
                         uint32_t *n_elements); /* bytes per block and elements in it; 0 if unknown */
/* Bytes of a row of n elements; 0 if the type is unknown, n is no multiple of its block, or it overflows. */
uint64_t ggml_row_bytes(uint32_t type, uint64_t n);
#define GGML_SUPPORTED "F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q6_K" /* for messages */

#endif
