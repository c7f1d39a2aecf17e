/* Recorded requests: reading them, and what a cache that never forgets would hit. */
#include "decoder/cli/trace_bound.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

/* A file with this text, opened as a trace; the file itself is gone already. */
static struct trace_file *open_text(const char *text, size_t len)
{
    char path[] = "/tmp/test_trace.XXXXXX";
    struct trace_file *t;
    struct skv_error err;
    int fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, text, len) == (ssize_t)len);
    assert_int_equal(trace_open(path, &t, &err), 0);
    close(fd);
    unlink(path);
    return t;
}

static void requests_are_read(void **state)
{
    (void)state;
    static const char text[] =
        "{\"timestamp\": 0, \"input_length\": 1025, \"output_length\": 5, \"hash_ids\": [7, 8, 9]}\n"
        "\n \t\r\n"
        "{\"hash_ids\": [9223372036854775807], \"model\": {\"name\": [\"x\"]}, \"timestamp\": 12.5,"
        " \"input_length\": 600}\r\n"
        "{\"timestamp\": 13, \"input_length\": 0, \"hash_ids\": []}"; /* and no newline at the end */
    struct trace_file *t = open_text(text, sizeof text - 1);
    struct skv_error err;
    for (int round = 0; round < 2; round++) {
        const struct trace_request *r;
        assert_int_equal(trace_next(t, &r, &err), 1);
        assert_int_equal(r->line, 1);
        assert_int_equal(r->tokens, 1025);
        assert_int_equal(r->n, 3);
        assert_true(r->ids[0] == 7 && r->ids[1] == 8 && r->ids[2] == 9 && r->at_ms == 0);
        assert_int_equal(trace_prefix_tokens(r, 2), 1024);
        assert_int_equal(trace_prefix_tokens(r, 3), 1025); /* the last block holds one token */
        assert_int_equal(trace_next(t, &r, &err), 1);
        assert_int_equal(r->line, 4);
        assert_true(r->at_ms == 12.5 && r->n == 1 && r->ids[0] == INT64_MAX);
        assert_int_equal(trace_next(t, &r, &err), 1);
        assert_true(r->n == 0 && r->tokens == 0);
        assert_int_equal(trace_next(t, &r, &err), 0);
        assert_int_equal(trace_rewind(t, &err), 0);
    }
    trace_close(t);
}

static void what_is_wrong_is_said(void **state)
{
    (void)state;
    static const char good[] = "{\"timestamp\": 0, \"input_length\": 512, \"hash_ids\": [1]}\n";
    static const struct {
        const char *line, *said;
    } bad[] = {
        {"{\"timestamp\": 0, ", "not JSON"},
        {"zebra", "not JSON"},
        {"[1, 2]", "expected an object"},
        {"17", "not JSON"}, /* a line is an object or a list */
        {"{\"timestamp\": 0} {}", "not JSON"},
        {"{\"input_length\": 512, \"hash_ids\": [1]}", "timestamp"},
        {"{\"timestamp\": \"0\", \"input_length\": 512, \"hash_ids\": [1]}", "timestamp"},
        {"{\"timestamp\": -1, \"input_length\": 512, \"hash_ids\": [1]}", "timestamp"},
        {"{\"timestamp\": 0, \"hash_ids\": [1]}", "input_length"},
        {"{\"timestamp\": 0, \"input_length\": 512.0, \"hash_ids\": [1]}", "input_length"},
        {"{\"timestamp\": 0, \"input_length\": -512, \"hash_ids\": [1]}", "input_length"},
        {"{\"timestamp\": 0, \"input_length\": 512}", "hash_ids must be a list"},
        {"{\"timestamp\": 0, \"input_length\": 512, \"hash_ids\": 1}", "hash_ids must be a list"},
        {"{\"timestamp\": 0, \"input_length\": 1024, \"hash_ids\": [1, \"2\"]}", "hash_ids[1]"},
        {"{\"timestamp\": 0, \"input_length\": 1024, \"hash_ids\": [-1, 2]}", "hash_ids[0]"},
        {"{\"timestamp\": 0, \"input_length\": 512, \"hash_ids\": [9223372036854775808]}", "not JSON"},
        {"{\"timestamp\": 0, \"input_length\": 1025, \"hash_ids\": [1]}", "1025 tokens are 3 blocks of 512"},
        {"{\"timestamp\": 0, \"input_length\": 512, \"hash_ids\": [1, 2]}", "another block size"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[400];
        struct skv_error err = {0};
        const struct trace_request *r;
        snprintf(text, sizeof text, "%s\n%s\n%s", good, bad[i].line, good);
        struct trace_file *t = open_text(text, strlen(text));
        assert_int_equal(trace_next(t, &r, &err), 1);
        int rc = trace_next(t, &r, &err);
        if (rc != -EINVAL || !strstr(err.text, bad[i].said) || !strstr(err.text, ":3: "))
            fail_msg("'%s' gave %d: %s", bad[i].line, rc, err.text);
        trace_close(t);
    }
    struct trace_file *t;
    struct skv_error err;
    assert_int_equal(trace_open("/tmp/no/such/trace", &t, &err), -ENOENT);
    assert_non_null(strstr(err.text, "/tmp/no/such/trace"));
    const struct trace_request *r;
    t = open_text("{}\0{}", 5); /* a NUL is neither an end nor a blank */
    assert_int_equal(trace_next(t, &r, &err), -EINVAL);
    trace_close(t);
}

/* Adds a request of n ids, the last one of 88 tokens; returns the prefix that hits. */
static size_t add(struct trace_bound *b, size_t n, ...)
{
    uint64_t ids[16];
    struct skv_error err;
    size_t hits;
    va_list ap;
    va_start(ap, n);
    for (size_t i = 0; i < n; i++)
        ids[i] = va_arg(ap, unsigned);
    va_end(ap);
    struct trace_request r = {.tokens = n ? (n - 1) * TRACE_BLOCK + 88 : 0, .ids = ids, .n = n};
    assert_int_equal(trace_bound_add(b, &r, &hits, &err), 0);
    return hits;
}

static void bound_counts_prefixes(void **state)
{
    (void)state;
    struct trace_bound b = {0};
    assert_int_equal(add(&b, 3, 0, 1, 2), 0);
    assert_int_equal(add(&b, 4, 0, 1, 3, 4), 2);
    assert_int_equal(add(&b, 0), 0);
    assert_int_equal(add(&b, 3, 5, 1, 2), 0); /* known, but behind an unknown one */
    assert_int_equal(add(&b, 2, 0, 1), 2);    /* the last block isn't full */
    assert_int_equal(add(&b, 4, 5, 1, 2, 6), 3);
    assert_int_equal(b.requests, 6);
    assert_int_equal(b.blocks, 16);
    assert_int_equal(b.tokens, 16 * TRACE_BLOCK - 5 * (TRACE_BLOCK - 88));
    assert_int_equal(b.hit_blocks, 7);
    assert_int_equal(b.hit_tokens, 7 * TRACE_BLOCK - (TRACE_BLOCK - 88));
    assert_int_equal(b.seen.n, 7);
    trace_bound_free(&b);
}

/* Against a table of all ids there are, while the set grows many times. */
static void bound_remembers_all(void **state)
{
    (void)state;
    enum { IDS = 100000, REQUESTS = 300000 };
    uint64_t random = 12345, hits = 0, distinct = 0;
    bool *seen = calloc(IDS, sizeof *seen);
    struct trace_bound b = {0};
    for (int i = 0; i < REQUESTS; i++) {
        random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
        uint64_t which = (random >> 33) % IDS, id = which << 44 | which; /* alike in their low bits, too */
        size_t hit;
        struct trace_request r = {.tokens = TRACE_BLOCK, .ids = &id, .n = 1};
        assert_int_equal(trace_bound_add(&b, &r, &hit, NULL), 0);
        if (hit != (size_t)seen[which])
            fail_msg("seed 12345, request %d, id %llu: %zu", i, (unsigned long long)id, hit);
        hits += hit;
        distinct += !seen[which];
        seen[which] = true;
    }
    assert_int_equal(b.hit_blocks, hits);
    assert_int_equal(b.seen.n, distinct);
    trace_bound_free(&b);
    free(seen);
}

static void published_trace(void **state)
{
    (void)state;
    const char *data = getenv("SCOUTKV_TEST_DATA");
    char path[4096];
    snprintf(path, sizeof path, "%s/traces/conversation_trace.jsonl", data ? data : "");
    if (!data || access(path, R_OK)) {
        puts("SKIPPED: no traces/conversation_trace.jsonl in SCOUTKV_TEST_DATA: the published trace");
        skip();
    }
    struct trace_file *t;
    struct trace_bound b = {0};
    struct skv_error err;
    const struct trace_request *r;
    size_t hits;
    int rc;
    assert_int_equal(trace_open(path, &t, &err), 0);
    while ((rc = trace_next(t, &r, &err)) > 0)
        assert_int_equal(trace_bound_add(&b, r, &hits, &err), 0);
    if (rc)
        fail_msg("%s", err.text);
    assert_int_equal(b.requests, 12031);
    assert_int_equal(b.blocks, 288500);
    assert_int_equal(b.seen.n, 182790);
    assert_int_equal(b.hit_blocks, 105710); /* 36.64 % */
    assert_int_equal(b.tokens, 144793823);
    trace_bound_free(&b);
    trace_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_are_read),     cmocka_unit_test(what_is_wrong_is_said),
        cmocka_unit_test(bound_counts_prefixes), cmocka_unit_test(bound_remembers_all),
        cmocka_unit_test(published_trace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
