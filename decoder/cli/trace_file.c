/* trace_file.c: see trace_file.h. Only one line is in memory at a time. */
#include "decoder/cli/trace_file.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_LINE = 64 << 20 }; /* a prompt of a billion tokens */

struct trace_file {
    FILE *file;
    char *path, *text; /* text: one line */
    size_t len, room;
    uint64_t *ids;
    size_t ids_room;
    struct trace_request request;
};

uint64_t trace_prefix_tokens(const struct trace_request *r, size_t n)
{
    uint64_t tokens = (uint64_t)n * TRACE_BLOCK;
    return tokens < r->tokens ? tokens : r->tokens; /* the last block need not be full */
}

/* ---- lines ---- */

static bool push(struct trace_file *t, char c)
{
    if (t->len == t->room) {
        size_t room = t->room ? 2 * t->room : 4096;
        char *grown = realloc(t->text, room);
        if (!grown)
            return false;
        t->text = grown;
        t->room = room;
    }
    t->text[t->len++] = c;
    return true;
}

/* 1: a line is in text, without its end; 0: there is none. */
static int read_line(struct trace_file *t, struct skv_error *err)
{
    int c;
    t->len = 0;
    t->request.line++;
    while ((c = getc_unlocked(t->file)) != EOF && c != '\n') {
        if (t->len == MOST_LINE)
            return skv_fail(err, -EINVAL, "%s:%" PRIu64 ": the line is longer than %d MiB: is this a trace?",
                            t->path, t->request.line, MOST_LINE >> 20);
        if (!push(t, (char)c))
            return skv_fail(err, -ENOMEM, "out of memory");
    }
    if (ferror(t->file))
        return skv_fail(err, -errno, "cannot read %s: %s", t->path, strerror(errno));
    return c == '\n' || t->len > 0;
}

static bool is_blank(const struct trace_file *t)
{
    for (size_t i = 0; i < t->len; i++)
        if (!strchr(" \t\r", t->text[i]) || !t->text[i])
            return false;
    return true;
}

/* ---- one request ---- */

/* Says what is wrong with the line; returns -EINVAL. */
#define WRONG(t, err, fmt, ...) \
    skv_fail(err, -EINVAL, "%s:%" PRIu64 ": " fmt, (t)->path, (t)->request.line __VA_OPT__(, ) __VA_ARGS__)

static int take_ids(struct trace_file *t, const json_t *list, struct skv_error *err)
{
    struct trace_request *r = &t->request;
    if (!json_is_array(list))
        return WRONG(t, err, "hash_ids must be a list of ids");
    r->n = json_array_size(list);
    if (r->n > t->ids_room) {
        uint64_t *grown = realloc(t->ids, r->n * sizeof *grown);
        if (!grown)
            return skv_fail(err, -ENOMEM, "out of memory");
        t->ids = grown;
        t->ids_room = r->n;
    }
    for (size_t i = 0; i < r->n; i++) {
        const json_t *id = json_array_get(list, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0)
            return WRONG(t, err, "hash_ids[%zu] must be a whole number, not negative", i);
        t->ids[i] = (uint64_t)json_integer_value(id);
    }
    r->ids = t->ids;
    return 0;
}

static int take_request(struct trace_file *t, const json_t *o, struct skv_error *err)
{
    struct trace_request *r = &t->request;
    const json_t *at = json_object_get(o, "timestamp"), *tokens = json_object_get(o, "input_length");
    if (!json_is_object(o))
        return WRONG(t, err, "expected an object with timestamp, input_length and hash_ids");
    if (!json_is_number(at) || json_number_value(at) < 0)
        return WRONG(t, err, "timestamp must be a number of milliseconds, not negative");
    if (!json_is_integer(tokens) || json_integer_value(tokens) < 0)
        return WRONG(t, err, "input_length must be a whole number of tokens, not negative");
    r->at_ms = json_number_value(at);
    r->tokens = (uint64_t)json_integer_value(tokens);
    int rc = take_ids(t, json_object_get(o, "hash_ids"), err);
    uint64_t full = r->tokens / TRACE_BLOCK, all = full + (r->tokens % TRACE_BLOCK != 0);
    if (rc == 0 && r->n != full && r->n != all)
        rc = WRONG(t, err,
                   "%" PRIu64 " tokens are %" PRIu64 " blocks of %d, but hash_ids has %zu: does this trace "
                   "have another block size?",
                   r->tokens, all, TRACE_BLOCK, r->n);
    return rc;
}

int trace_next(struct trace_file *t, const struct trace_request **out, struct skv_error *err)
{
    int rc;
    do {
        if ((rc = read_line(t, err)) <= 0)
            return rc;
    } while (is_blank(t));
    json_error_t why;
    json_t *o = json_loadb(t->text, t->len, 0, &why);
    if (!o)
        return WRONG(t, err, "not JSON: %s (column %d)", why.text, why.column);
    rc = take_request(t, o, err);
    json_decref(o);
    *out = &t->request;
    return rc ? rc : 1;
}

/* ---- the file ---- */

int trace_open(const char *path, struct trace_file **out, struct skv_error *err)
{
    struct trace_file *t = calloc(1, sizeof *t);
    int rc = 0;
    if (!t || !(t->path = strdup(path)))
        rc = skv_fail(err, -ENOMEM, "out of memory");
    else if (!(t->file = fopen(path, "re")))
        rc = skv_fail(err, -errno, "cannot read %s: %s", path, strerror(errno));
    if (rc) {
        trace_close(t);
        return rc;
    }
    *out = t;
    return 0;
}

int trace_rewind(struct trace_file *t, struct skv_error *err)
{
    if (fseeko(t->file, 0, SEEK_SET))
        return skv_fail(err, -errno, "%s must be a file, since it is read twice: %s", t->path,
                        strerror(errno));
    t->request.line = 0;
    return 0;
}

void trace_close(struct trace_file *t)
{
    if (!t)
        return;
    if (t->file)
        fclose(t->file);
    free(t->path);
    free(t->text);
    free(t->ids);
    free(t);
}
