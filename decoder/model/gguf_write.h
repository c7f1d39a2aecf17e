/* gguf_write.h: a writer of GGUF files (version 3, alignment 32).
 *
 * Put metadata and tensors in any order, then save. The first mistake (out of memory, a duplicate name, a bad
 * shape) is kept and reported by gguf_writer_save, so the puts need no checks. Metadata is copied; tensor
 * data is not: it is read, or produced by a callback, while saving. */
#ifndef DECODER_MODEL_GGUF_WRITE_H
#define DECODER_MODEL_GGUF_WRITE_H

#include "decoder/model/gguf.h"

struct gguf_writer;

struct gguf_writer *gguf_writer_new(void); /* NULL when out of memory */
void gguf_writer_free(struct gguf_writer *);

void gguf_put_u8(struct gguf_writer *, const char *key, uint8_t);
void gguf_put_i8(struct gguf_writer *, const char *key, int8_t);
void gguf_put_u16(struct gguf_writer *, const char *key, uint16_t);
void gguf_put_i16(struct gguf_writer *, const char *key, int16_t);
void gguf_put_u32(struct gguf_writer *, const char *key, uint32_t);
void gguf_put_i32(struct gguf_writer *, const char *key, int32_t);
void gguf_put_u64(struct gguf_writer *, const char *key, uint64_t);
void gguf_put_i64(struct gguf_writer *, const char *key, int64_t);
void gguf_put_f32(struct gguf_writer *, const char *key, float);
void gguf_put_f64(struct gguf_writer *, const char *key, double);
void gguf_put_bool(struct gguf_writer *, const char *key, bool);
void gguf_put_string(struct gguf_writer *, const char *key, const char *);
void gguf_put_array(struct gguf_writer *, const char *key, enum gguf_value_type scalar, uint64_t n,
                    const void *);
void gguf_put_string_array(struct gguf_writer *, const char *key, uint64_t n, const struct gguf_str *);

/* ne[0] is the fastest dimension and a multiple of the type's block. data is nbytes of the type's own format.
 */
void gguf_put_tensor(struct gguf_writer *, const char *name, uint32_t n_dims, const uint64_t *ne,
                     uint32_t type, const void *data);
/* The same for data too large to hold: fill writes rows [row, row + n_rows) to out and is called with rising
 * rows while saving. It returns 0, or -errno with err filled, which ends the saving. */
typedef int gguf_fill_fn(void *arg, uint64_t row, uint64_t n_rows, void *out, struct skv_error *err);
void gguf_put_tensor_rows(struct gguf_writer *, const char *name, uint32_t n_dims, const uint64_t *ne,
                          uint32_t type, gguf_fill_fn *fill, void *arg);

/* Writes path.tmp-PID and renames it, so that path is the old file or the whole new one. */
int gguf_writer_save(struct gguf_writer *, const char *path, struct skv_error *err);

#endif
