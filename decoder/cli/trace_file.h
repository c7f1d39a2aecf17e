/* trace_file.h: recorded requests in the format that Mooncake publishes: JSON lines, one request each,
 *
 *     {"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, …]}
 *
 * in which timestamp is the arrival in milliseconds, and hash_ids has one id per 512 tokens of the prompt:
 * equal ids mean that the prompts are equal up to the end of that block. The last block, if it isn't full,
 * may have an id or not. Other fields are ignored. */
#ifndef CLI_TRACE_FILE_H
#define CLI_TRACE_FILE_H

#include "common/error.h"

#include <stddef.h>
#include <stdint.h>

enum { TRACE_BLOCK = 512 }; /* tokens */

struct trace_request {
    uint64_t line;   /* of the file, from 1 */
    double at_ms;    /* when it arrived */
    uint64_t tokens; /* of its prompt */
    const uint64_t *ids;
    size_t n;
};

/* Tokens in its first n blocks. */
uint64_t trace_prefix_tokens(const struct trace_request *, size_t n);

/* A file that is read line by line. */
struct trace_file;
int trace_open(const char *path, struct trace_file **out, struct skv_error *);
/* 1: *out is the next request, valid until the next call; 0: there is none; -errno: err names the line and
 * what is wrong with it. */
int trace_next(struct trace_file *, const struct trace_request **out, struct skv_error *);
/* Back to the first request. */
int trace_rewind(struct trace_file *, struct skv_error *);
void trace_close(struct trace_file *); /* NULL is allowed */

#endif
