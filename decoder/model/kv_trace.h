/* kv_trace.h: captured queries, keys and values of a whole text, in a file, so that ways of selecting can be
 * compared offline in seconds.
 *
 * One file is one text under one model with dense attention. Little-endian:
 *
 *     head (128 bytes, struct kv_trace_head)
 *     uint32_t ids[n_tokens]; uint8_t mark[n_tokens]          together padded to 64 bytes with zeros
 *     per layer, each array padded to 64 bytes with zeros:
 *         float q[n_tokens][n_heads][d_k]                     RoPE applied, not scaled
 *         float k[n_tokens][n_kv_heads][d_k], v[n_tokens][n_kv_heads][d_v]      rounded to f16
 *
 * The file is mapped, so a trace may be larger than memory. */
#ifndef DECODER_MODEL_KV_TRACE_H
#define DECODER_MODEL_KV_TRACE_H

#include "common/error.h"

#include <stddef.h>
#include <stdint.h>

enum { KV_TRACE_VERSION = 1 };

enum kv_trace_mark {
    KV_TRACE_OTHER,   /* no query to measure at */
    KV_TRACE_COPY,    /* this query copies an answer: the next token is one of its digits */
    KV_TRACE_ORDINARY /* another query to measure at */
};

struct kv_trace_head {
    char magic[8]; /* "SKVTRACE" */
    uint32_t version;
    uint32_t n_layers, n_heads, n_kv_heads, d_k, d_v; /* of every layer */
    uint64_t n_tokens;
    float scale; /* of q·k */
    uint32_t reserved;
    uint8_t fingerprint[32]; /* of the model */
    uint64_t checksum;       /* XXH3 of everything behind the head */
    uint8_t zero[40];
};
_Static_assert(sizeof(struct kv_trace_head) == 128, "as it lies in the file");

struct kv_trace {
    struct kv_trace_head head;
    uint32_t *ids; /* (n_tokens); this and what follows lies in the mapping */
    uint8_t *mark; /* (n_tokens), enum kv_trace_mark */
    uint8_t *map;
    size_t bytes;
    char *path, *temporary; /* temporary: while it is written */
};

/* Maps a trace for reading; nothing of it may be written. Size, head, marks and checksum are checked first:
 * -EINVAL it is no trace, or damaged where a writer would not have written; -EPROTONOSUPPORT another version;
 * -EBADMSG truncated, or the checksum fails. */
int kv_trace_open(const char *path, struct kv_trace **out, struct skv_error *err);

/* Begins a trace of head's shape, scale and fingerprint (the rest of the head is filled in). It takes its
 * name with kv_trace_commit, until then PATH.tmp-PID grows to its whole size at once. ids and mark are the
 * caller's to fill. */
int kv_trace_create(const char *path, const struct kv_trace_head *, struct kv_trace **out,
                    struct skv_error *err);
/* q, k and v of n tokens from position `from` on, of one layer; k and v are rounded here. */
void kv_trace_put(struct kv_trace *, uint32_t layer, uint64_t from, uint32_t n, const float *q,
                  const float *k, const float *v);
int kv_trace_commit(struct kv_trace *, struct skv_error *err);

/* NULL is allowed. What was created and not committed is removed. */
void kv_trace_close(struct kv_trace *);

const float *kv_trace_q(const struct kv_trace *, uint32_t layer); /* (n_tokens, n_heads, d_k) */
const float *kv_trace_k(const struct kv_trace *, uint32_t layer); /* (n_tokens, n_kv_heads, d_k) */
const float *kv_trace_v(const struct kv_trace *, uint32_t layer); /* (n_tokens, n_kv_heads, d_v) */

#endif
