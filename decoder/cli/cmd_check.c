/* cmd_check.c: holds memory nodes to what they acknowledged: every block in the log of `scoutkv load` must be
 * there, byte for byte. */
#include "common/progress.h"
#include "decoder/cli/cli.h"
#include "decoder/cli/interrupt.h"
#include "decoder/cli/load_blocks.h"
#include "decoder/tier/tier.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct check_args {
    const char *nodes, *cluster, *log;
    uint64_t ns;
    uint32_t replicas, timeout_ms;
    bool json;
};

#define AT(member) offsetof(struct check_args, member)
static const struct opt table[] = {
    {"nodes", 0, OPT_STRING, AT(nodes), "LIST", "memory nodes: host:port[*weight],…", .required = true},
    {"log", 0, OPT_STRING, AT(log), "FILE", "what `scoutkv load` wrote", .required = true},
    {"json", 0, OPT_FLAG, AT(json), NULL, "print {\"present\":…,\"missing\":…,\"wrong\":…}"},
    {"cluster", 0, OPT_STRING, AT(cluster), "NAME", "name that the nodes were started with"},
    {"namespace", 0, OPT_U64, AT(ns), "N", "tenant that was written for"},
    {"replicas", 0, OPT_U32, AT(replicas), "R", "nodes that each block is written to", .min = 1, .max = 64},
    {"timeout-ms", 0, OPT_U32, AT(timeout_ms), "MS", "deadline of every request to a node", .min = 1,
     .max = 3600e3},
    {0},
};

/* ---- the log ---- */

static int read_log(const char *path, struct load_ack **out, size_t *n, struct skv_error *err)
{
    char line[160];
    size_t room = 0, line_no = 0;
    FILE *f = fopen(path, "re");
    int rc = 0;
    *out = NULL;
    *n = 0;
    if (!f)
        return skv_fail(err, -errno, "cannot read %s: %s", path, strerror(errno));
    while (rc == 0 && fgets(line, sizeof line, f)) {
        line_no++;
        if (*n == room) {
            room = room ? 2 * room : 1024;
            struct load_ack *grown = realloc(*out, room * sizeof *grown);
            if (!grown) {
                rc = skv_fail(err, -ENOMEM, "out of memory");
                break;
            }
            *out = grown;
        }
        struct block_layout layout;
        struct load_ack *a = &(*out)[*n];
        if (load_ack_parse(line, a) && load_layout(a->size, &layout, NULL) == 0)
            ++*n;
        else if (strchr(line, '\n') || !feof(f)) /* a last line that was cut short acknowledges nothing */
            rc = skv_fail(err, -EINVAL, "line %zu of %s is not one of `scoutkv load`", line_no, path);
    }
    if (rc == 0 && ferror(f))
        rc = skv_fail(err, -EIO, "cannot read %s", path);
    fclose(f);
    if (rc) {
        free(*out);
        *out = NULL;
    }
    return rc;
}

/* ---- a batch of blocks ---- */

enum { BATCH = 64, BATCH_BYTES = 16 << 20 };

enum verdict { PRESENT, MISSING, WRONG, VERDICTS };

/* Blocks of one size, made anew and asked for together. */
struct batch {
    struct block_layout layout;
    size_t n, pages; /* blocks, and pages of each */
    struct block_key keys[BATCH];
    struct buf *payload[BATCH];
    enum verdict verdict[BATCH];
    uint64_t *checksums;     /* [n][pages] */
    struct tier_want *wants; /* [n][pages] */
    int failure;             /* -EHOSTUNREACH: no verdict is possible */
};

static void batch_free(struct batch *b)
{
    for (size_t i = 0; i < b->n; i++)
        buf_unref(b->payload[i]);
    free(b->checksums);
    free(b->wants);
}

static int batch_make(struct batch *b, uint64_t ns, const struct load_ack *acks, size_t n,
                      struct skv_error *err)
{
    *b = (struct batch){0};
    int rc = load_layout(acks[0].size, &b->layout, err);
    if (rc)
        return rc;
    b->pages = layout_pages(&b->layout);
    b->checksums = malloc(n * b->pages * sizeof *b->checksums);
    b->wants = malloc(n * b->pages * sizeof *b->wants);
    if (!b->checksums || !b->wants)
        return skv_fail(err, -ENOMEM, "out of memory");
    for (; b->n < n; b->n++) {
        size_t i = b->n;
        uint64_t *sums = b->checksums + i * b->pages;
        if (load_block(&b->layout, ns, acks[i].seed, acks[i].block, &b->keys[i], &b->payload[i], sums))
            return skv_fail(err, -ENOMEM, "out of memory");
        for (size_t p = 0; p < b->pages; p++)
            b->wants[i * b->pages + p] = (struct tier_want){&b->keys[i], (uint16_t)(p / BLOCK_PAGES),
                                                            (uint8_t)(p % BLOCK_PAGES), sums[p]};
    }
    return 0;
}

static void on_page(void *arg, size_t want, int rc, const uint8_t *bytes)
{
    struct batch *b = arg;
    size_t block = want / b->pages, len = layout_page_bytes(&b->layout);
    if (rc == 0 && memcmp(bytes, b->payload[block]->data + want % b->pages * len, len) == 0)
        return;
    if (rc == -EHOSTUNREACH)
        b->failure = rc;
    else if (rc != -ENODATA)
        b->verdict[block] = WRONG;
    else if (b->verdict[block] == PRESENT)
        b->verdict[block] = MISSING;
}

/* Fetches all of it. A block of which pages are missing though some node has the key holds other bytes:
 * wrong. */
static int batch_check(struct tier *t, struct batch *b, struct skv_error *err)
{
    struct tier_fetch *f;
    bool there[BATCH];
    int rc = tier_fetch_begin(t, &b->layout, b->wants, b->n * b->pages, on_page, b, &f, err);
    if (rc)
        return rc;
    rc = tier_fetch_end(t, f, err);
    if (rc && rc != -ENODATA && rc != -EBADMSG)
        return rc;
    if (b->failure)
        return skv_fail(err, b->failure, "a memory node was lost during the check: see `scoutkv stats`");
    rc = tier_have(t, b->keys, b->n, there, err);
    for (size_t i = 0; i < b->n && rc == 0; i++)
        if (b->verdict[i] == MISSING && there[i])
            b->verdict[i] = WRONG;
    return rc;
}

static int check(const struct check_args *a, uint64_t count[VERDICTS], struct skv_error *err)
{
    struct tier_opts opts = {.nodes = a->nodes,
                             .cluster = a->cluster,
                             .ns = a->ns,
                             .replicas = a->replicas,
                             .timeout_ms = a->timeout_ms};
    struct tier *t = NULL;
    struct load_ack *acks = NULL;
    struct progress progress;
    size_t n;
    int rc = read_log(a->log, &acks, &n, err);
    if (rc || (rc = tier_open(&opts, &t, err))) {
        free(acks);
        return rc;
    }
    progress_begin(&progress, "check", "blocks", n);
    for (size_t at = 0, part; at < n && rc == 0; at += part) {
        struct batch b;
        for (part = 1; part < BATCH && at + part < n && acks[at + part].size == acks[at].size &&
                       (part + 1) * acks[at].size <= BATCH_BYTES;)
            part++;
        rc = batch_make(&b, a->ns, acks + at, part, err);
        if (rc == 0)
            rc = batch_check(t, &b, err);
        for (size_t i = 0; i < b.n && rc == 0; i++)
            count[b.verdict[i]]++;
        batch_free(&b);
        progress_update(&progress, at + part);
        if (rc == 0 && interrupted())
            rc = skv_fail(err, -EINTR, "interrupted");
    }
    progress_end(&progress);
    free(acks);
    tier_close(t);
    return rc;
}

int cmd_check(int argc, char **argv)
{
    struct check_args a = {.replicas = 1, .timeout_ms = 5000};
    uint64_t count[VERDICTS] = {0};
    struct opt_memory mem = {0};
    struct skv_error err = {0};
    const struct opt_group groups[] = {{"Options", table, &a}, {0}};
    const struct opt_command cmd = {"scoutkv check", "--nodes LIST --log FILE [--json]",
                                    "Reads the log of `scoutkv load`, makes each acknowledged block again "
                                    "from its seed, fetches it and compares every\n"
                                    "byte. A block is missing when no node has it, wrong when a node has its "
                                    "key with other bytes or only with bytes\n"
                                    "that fail their checksums. Exit code 0: all are present; 3: some are "
                                    "missing or wrong; 4: a node cannot be reached.",
                                    "  scoutkv check --nodes 127.0.0.1:7401,127.0.0.1:7402 --log acks --json",
                                    groups};
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    interrupt_catch();
    rc = check(&a, count, &err);
    options_free(&mem);
    if (rc == -EINTR)
        return EXIT_INTERRUPTED;
    if (rc)
        return cli_fail(cmd.name, &err);
    printf(a.json ? "{\"present\":%" PRIu64 ",\"missing\":%" PRIu64 ",\"wrong\":%" PRIu64 "}\n"
                  : "present %" PRIu64 "\nmissing %" PRIu64 "\nwrong   %" PRIu64 "\n",
           count[PRESENT], count[MISSING], count[WRONG]);
    if (fflush(stdout)) {
        skv_fail(&err, -errno, "cannot write: %s", strerror(errno));
        return cli_fail(cmd.name, &err);
    }
    return count[MISSING] || count[WRONG] ? 3 : 0;
}
