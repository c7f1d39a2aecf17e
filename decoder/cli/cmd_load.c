/* cmd_load.c: writes blocks made from a seed and logs each acknowledgement as it comes, so that `scoutkv
 * check` can later hold the nodes to their word. */
#include "common/progress.h"
#include "common/size.h"
#include "decoder/cli/cli.h"
#include "decoder/cli/interrupt.h"
#include "decoder/cli/load_blocks.h"
#include "decoder/tier/tier.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct load_args {
    const char *nodes, *cluster, *log, *ack;
    uint64_t ns, seed, count, size;
    uint32_t replicas, timeout_ms;
};

#define AT(member) offsetof(struct load_args, member)
static const struct opt table[] = {
    {"nodes", 0, OPT_STRING, AT(nodes), "LIST", "memory nodes: host:port[*weight],…", .required = true},
    {"log", 0, OPT_STRING, AT(log), "FILE", "gets one line per acknowledged block; written anew",
     .required = true},
    {"seed", 's', OPT_U64, AT(seed), "S", "what the blocks are made from"},
    {"count", 'n', OPT_U64, AT(count), "N", "blocks to write", .min = 1, .max = 1e12},
    {"size", 0, OPT_SIZE, AT(size), "BYTES", "bytes of each block", .min = 256, .max = 4 << 20},
    {"ack", 0, OPT_CHOICE, AT(ack), NULL, "when a block counts as written: in memory, or on disk",
     .choices = "ram|durable"},
    {"cluster", 0, OPT_STRING, AT(cluster), "NAME", "name that the nodes were started with"},
    {"namespace", 0, OPT_U64, AT(ns), "N", "tenant to write for"},
    {"replicas", 0, OPT_U32, AT(replicas), "R", "nodes that each block is written to", .min = 1, .max = 64},
    {"timeout-ms", 0, OPT_U32, AT(timeout_ms), "MS", "deadline of every request to a node", .min = 1,
     .max = 3600e3},
    {0},
};

/* Shared by the acknowledgements of one run. */
struct load {
    const struct load_args *args;
    FILE *log;
    uint64_t acked;
    struct progress progress;
    struct skv_error failure; /* the first; code 0: none */
};

/* One block on its way. */
struct load_put {
    struct load *load;
    uint64_t block;
};

static void on_ack(void *arg, const struct tier_put_result *r)
{
    struct load_put *p = arg;
    struct load *l = p->load;
    if (r->rc && !l->failure.code)
        l->failure = *r->err;
    if (r->stored && !l->failure.code)
        skv_fail(&l->failure, -EBADMSG, "block %" PRIu64 " is there with other bytes", p->block);
    if (r->rc == 0 && !r->stored) {
        fprintf(l->log, LOAD_ACK_FORMAT, p->block, l->args->seed, l->args->size, l->args->ack);
        if (fflush(l->log) && !l->failure.code)
            skv_fail(&l->failure, -errno, "cannot write %s: %s", l->args->log, strerror(errno));
        progress_update(&l->progress, ++l->acked);
    }
    free(p);
}

static int put_block(struct tier *t, struct load *l, const struct block_layout *layout, uint64_t i,
                     uint64_t *checksums, struct skv_error *err)
{
    struct block_key key;
    struct buf *payload = NULL;
    struct load_put *p = malloc(sizeof *p);
    if (!p || load_block(layout, l->args->ns, l->args->seed, i, &key, &payload, checksums)) {
        free(p);
        return skv_fail(err, -ENOMEM, "out of memory");
    }
    *p = (struct load_put){l, i};
    int rc = tier_put(t, &key, layout, payload, checksums,
                      strcmp(l->args->ack, "ram") ? TIER_ACK_DURABLE : TIER_ACK_RAM, on_ack, p, err);
    if (rc)
        free(p);
    buf_unref(payload);
    return rc;
}

static int load(const struct load_args *a, const struct block_layout *layout, struct load *l,
                struct skv_error *err)
{
    struct tier_opts opts = {.nodes = a->nodes,
                             .cluster = a->cluster,
                             .ns = a->ns,
                             .replicas = a->replicas,
                             .timeout_ms = a->timeout_ms};
    struct tier *t = NULL;
    uint64_t *checksums = NULL;
    int rc = tier_open(&opts, &t, err);
    if (rc)
        return rc;
    checksums = malloc(layout_pages(layout) * sizeof *checksums);
    l->log = fopen(a->log, "we");
    if (!l->log || !checksums) {
        rc = skv_fail(err, -errno, "cannot write %s: %s", a->log, strerror(errno));
        goto out;
    }
    progress_begin(&l->progress, "load", "blocks", a->count);
    for (uint64_t i = 0; i < a->count && rc == 0 && !l->failure.code && !interrupted(); i++)
        rc = put_block(t, l, layout, i, checksums, err);
    int flushed = tier_flush(t, rc ? NULL : err);
    rc = rc ? rc : flushed;
    progress_end(&l->progress);
    if (rc == 0 && l->failure.code) {
        *err = l->failure;
        rc = l->failure.code;
    }
out:
    if (l->log && fclose(l->log) && rc == 0)
        rc = skv_fail(err, -errno, "cannot write %s: %s", a->log, strerror(errno));
    free(checksums);
    tier_close(t);
    return rc;
}

int cmd_load(int argc, char **argv)
{
    struct load_args a = {
        .ack = "ram", .count = 1000, .size = 256 << 10, .replicas = 1, .timeout_ms = 5000, .seed = 1};
    struct load l = {.args = &a};
    struct opt_memory mem = {0};
    struct skv_error err = {0};
    const struct opt_group groups[] = {{"Options", table, &a}, {0}};
    const struct opt_command cmd = {
        "scoutkv load", "--nodes LIST --log FILE [options]",
        "Writes blocks of made-up bytes to memory nodes and logs each one as it is acknowledged: a line that "
        "stands in the\n"
        "log is a promise that a node has given. `scoutkv check` makes the same blocks again from the seed "
        "and tells which\n"
        "promises hold, after a restart or a crash for example. Blocks that were not acknowledged are not in "
        "the log.\n"
        "Running it again with the same seed finds the blocks present and logs them again.",
        "  scoutkv load --nodes 127.0.0.1:7401,127.0.0.1:7402 --seed 7 --count 1000 --size 256K --log acks\n"
        "  scoutkv check --nodes 127.0.0.1:7401,127.0.0.1:7402 --log acks",
        groups};
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    struct block_layout layout;
    if (load_layout(a.size, &layout, &err))
        return options_mistake(&cmd, "--size: %s", err.text);
    interrupt_catch();
    rc = load(&a, &layout, &l, &err);
    char bytes[32], rate[32];
    double seconds = l.progress.total ? progress_seconds(&l.progress) : 0;
    if (l.progress.total)
        fprintf(stderr, "%" PRIu64 " of %" PRIu64 " blocks acknowledged (%s), %.2f s, %s/s\n", l.acked,
                a.count, size_format(bytes, sizeof bytes, l.acked * a.size), seconds,
                size_format(rate, sizeof rate,
                            (uint64_t)((double)(l.acked * a.size) / (seconds > 0 ? seconds : 1))));
    options_free(&mem);
    if (rc)
        return cli_fail(cmd.name, &err);
    return interrupted() ? EXIT_INTERRUPTED : 0;
}
