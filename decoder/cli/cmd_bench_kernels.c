/* cmd_bench_kernels.c: `scoutkv bench kernels`: how near the kernels come to what this machine can do.
 *
 * DESIGN. A kernel can be no faster than memory gives its bytes, and no faster than the arithmetic units do
 * its operations: the lower of the two is its limit. Both are probed in turn with it, on as many threads, a
 * few times a round; the best of a round counts, because whoever else uses the machine only ever makes things
 * slower; told is the median of rounds. */
#include "common/clock.h"
#include "common/progress.h"
#include "decoder/cli/cli.h"
#include "decoder/cli/interrupt.h"
#include "decoder/cli/kernel_jobs.h"
#include "decoder/cli/series.h"
#include "decoder/kernels/kernels.h"
#include "decoder/kernels/probe.h"
#include "decoder/scoutkv.h"
#include "decoder/cli/json_out.h"

#include <cblas.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TRIES = 3, MAX_THREADS = 8, MAX_ROWS = KERNEL_JOBS * MAX_THREADS };

struct args {
    const char *threads, *only;
    uint64_t size;
    uint32_t rounds;
    bool json;
};

#define AT(member) offsetof(struct args, member)
static const struct opt table[] = {
    {"only", 0, OPT_STRING, AT(only), "NAME", "only kernels whose names begin so: attention, gemv_q8_0"},
    {"threads", 't', OPT_STRING, AT(threads), "N[,…]", "on how many threads each is measured"},
    {"size", 0, OPT_SIZE, AT(size), "SIZE", "bytes that a pass reads: several times the last-level cache",
     .min = 1 << 20, .max = 1e12},
    {"rounds", 0, OPT_U32, AT(rounds), "N", "how often each is measured", .min = 1, .max = SERIES_MAX},
    {"json", 0, OPT_FLAG, AT(json), NULL, "print one object instead of the table"},
    {0},
};

struct row {
    const struct kernel_job *job;
    unsigned threads;
    struct series gbps, gflops, read, peak, share;
};

struct bench {
    const struct args *args;
    unsigned threads[MAX_THREADS], n_threads;
    struct kernel_job jobs[KERNEL_JOBS];
    struct pool *pools[MAX_THREADS];
    struct probe *probe;
    struct row *rows;
    size_t n;
    struct progress bar;
};

/* ---- measuring ---- */

static double best(double a, double b)
{
    return a > b ? a : b;
}

static void measure_round(struct bench *b, struct kernel_job *job, struct pool *pool, struct row *row)
{
    double read = 0, peak = 0, passes = 0;
    for (int i = 0; i < TRIES; i++) {
        read = best(read, probe_read(b->probe, pool));
        uint64_t start = clock_ns();
        job->pass(job, pool);
        passes = best(passes, 1 / (double)(clock_ns() - start)); /* a ns */
        peak = best(peak, probe_gflops(pool));
    }
    double limit = read / job->bytes; /* passes a ns */
    if (job->flops > 0 && peak / job->flops < limit)
        limit = peak / job->flops;
    series_note(&row->gbps, job->bytes * passes);
    series_note(&row->gflops, job->flops * passes);
    series_note(&row->read, read);
    series_note(&row->peak, peak);
    series_note(&row->share, passes / limit);
}

/* One kernel on every number of threads, round by round. */
static int measure_job(struct bench *b, struct kernel_job *job, struct skv_error *err)
{
    int rc = job->make(job, b->args->size);
    if (rc)
        return skv_fail(err, rc, "out of memory: give a smaller --size");
    struct row *rows = b->rows + b->n;
    for (unsigned t = 0; t < b->n_threads; t++) {
        rows[t] = (struct row){.job = job, .threads = b->threads[t]};
        job->pass(job, b->pools[t]); /* warms up */
    }
    for (uint32_t round = 0; round < b->args->rounds && !rc; round++)
        for (unsigned t = 0; t < b->n_threads && !rc; t++) {
            measure_round(b, job, b->pools[t], &rows[t]);
            rc = interrupted() ? skv_fail(err, -EINTR, "interrupted") : 0;
        }
    b->n += b->n_threads;
    return rc;
}

static bool wanted(const struct bench *b, const struct kernel_job *job)
{
    return !b->args->only || !strncmp(job->name, b->args->only, strlen(b->args->only));
}

static int measure(struct bench *b, struct skv_error *err)
{
    uint64_t n = 0, done = 0;
    int rc = 0;
    b->rows = calloc(MAX_ROWS, sizeof *b->rows);
    b->probe = probe_new(b->args->size);
    for (unsigned t = 0; t < b->n_threads; t++)
        if (!(b->pools[t] = pool_new(b->threads[t])))
            return skv_fail(err, -ENOMEM, "out of memory");
    if (!b->rows || !b->probe)
        return skv_fail(err, -ENOMEM, "out of memory: give a smaller --size");
    openblas_set_num_threads(1); /* our threads share its work out */
    for (struct kernel_job *j = b->jobs; j->name; j++)
        n += wanted(b, j);
    progress_begin(&b->bar, "measure", "kernels", n);
    for (struct kernel_job *j = b->jobs; j->name && !rc; j++) {
        if (!wanted(b, j))
            continue;
        rc = measure_job(b, j, err);
        j->free(j);
        j->self = NULL;
        progress_update(&b->bar, ++done);
    }
    progress_end(&b->bar);
    return rc;
}

/* ---- telling ---- */

static const char *bound(const struct row *r)
{
    double memory = series_middle(&r->read).median / r->job->bytes,
           peak = series_middle(&r->peak).median / r->job->flops;
    return r->job->flops > 0 && peak < memory ? "arithmetic" : "memory";
}

static void print_table(const struct bench *b)
{
    printf("kernels (isa %s) over %" PRIu64
           " MiB beside reads of memory and multiplications of registers, in turns;\n"
           "median (lowest … highest) of %" PRIu32 " rounds, the best of %d in each\n\n",
           skv_isa(), b->args->size >> 20, b->args->rounds, TRIES);
    printf("%-16s %7s %8s %8s %10s %10s  %-10s  %s\n", "kernel", "threads", "GB/s", "GFLOP/s", "read GB/s",
           "peak GF/s", "limited by", "share of the limit");
    for (size_t i = 0; i < b->n; i++) {
        const struct row *r = &b->rows[i];
        struct middle s = series_middle(&r->share);
        char flops[32] = "-";
        if (r->job->flops > 0)
            snprintf(flops, sizeof flops, "%.1f", series_middle(&r->gflops).median);
        printf("%-16s %7u %8.2f %8s %10.2f %10.1f  %-10s  %.2f (%.2f … %.2f)\n", r->job->name, r->threads,
               series_middle(&r->gbps).median, flops, series_middle(&r->read).median,
               series_middle(&r->peak).median, bound(r), s.median, s.low, s.high);
    }
}

static int print_json(const struct bench *b, struct skv_error *err)
{
    json_t *list = json_array();
    for (size_t i = 0; i < b->n; i++) {
        const struct row *r = &b->rows[i];
        json_t *o = json_pack("{s:s, s:s, s:I, s:s}", "name", r->job->name, "about", r->job->about, "threads",
                              (json_int_t)r->threads, "limited_by", bound(r));
        series_set(o, "gbps", series_middle(&r->gbps));
        series_set(o, "gflops",
                   r->job->flops > 0 ? series_middle(&r->gflops) : (struct middle){NAN, NAN, NAN});
        series_set(o, "read_gbps", series_middle(&r->read));
        series_set(o, "peak_gflops", series_middle(&r->peak));
        series_set(o, "share", series_middle(&r->share));
        json_array_append_new(list, o);
    }
    json_t *o = json_pack("{s:s, s:I, s:I, s:o}", "isa", skv_isa(), "rounds", (json_int_t)b->args->rounds,
                          "bytes", (json_int_t)b->args->size, "kernels", list);
    return json_out(o, err);
}

/* ---- the command ---- */

static int parse(struct bench *b, struct skv_error *err)
{
    const char *at = b->args->threads;
    for (bool more = true; more;) {
        char *end;
        unsigned long n = strtoul(at, &end, 10);
        if (end == at || n < 1 || n > 1024 || (*end && *end != ',') || b->n_threads == MAX_THREADS)
            return skv_fail(err, -EINVAL, "threads: expected up to %d numbers from 1 to 1024, not '%s'",
                            MAX_THREADS, b->args->threads);
        b->threads[b->n_threads++] = (unsigned)n;
        more = *end == ',';
        at = end + 1;
    }
    for (const struct kernel_job *j = b->jobs; j->name; j++)
        if (wanted(b, j))
            return 0;
    return skv_fail(err, -EINVAL, "only: no kernel's name begins with '%s'", b->args->only);
}

static int bench(struct bench *b, struct skv_error *err)
{
    int rc = kernels_check(err);
    if (!rc)
        rc = measure(b, err);
    if (rc)
        return rc;
    if (b->args->json)
        return print_json(b, err);
    print_table(b);
    return fflush(stdout) ? skv_fail(err, -errno, "cannot write: %s", strerror(errno)) : 0;
}

static void close_bench(struct bench *b)
{
    for (unsigned t = 0; t < b->n_threads; t++)
        if (b->pools[t])
            pool_free(b->pools[t]);
    probe_free(b->probe);
    free(b->rows);
    free(b);
}

static const char about[] =
    "Times the kernels that a step spends its time in, over more bytes than caches hold, and tells how near "
    "each comes to its\n"
    "limit: the lower of what memory gives (its bytes, read by a plain loop) and what the units do (its "
    "operations, multiplied\n"
    "and added in registers), probed in turns with it on as many threads. Kernels:\n"
    "  attention_gN   attention of f16 pages of 128 dims with N query rows a KV head, partials merged\n"
    "  attention_T    the same of pages of type T (see --kv-type of scoutkv run), with 4 query rows\n"
    "  scan_block_gN, scan_page_gN\n"
    "                 the scout's scores of representatives; integers, so only memory is a limit that is "
    "told\n"
    "  gemv_TYPE      one vector by 4,096-column weights of that type (decode)\n"
    "  gemv_int8_TYPE the same with activations rounded to 8 bits (--activations int8 of scoutkv run)\n"
    "  gemv16_TYPE    16 vectors by such weights, each with the bits of gemv (16 streams decoded at once)\n"
    "  gemm_TYPE      256 vectors by 1,024 such rows (prefill)\n"
    "  checksum       of pages of 8 KiB";

int cmd_bench_kernels(int argc, char **argv)
{
    struct args a = {.threads = "1,2", .size = 256 << 20, .rounds = 7};
    struct opt_memory mem = {0};
    struct skv_error err = {0};
    const struct opt_group groups[] = {{"Options", table, &a}, {0}};
    const struct opt_command cmd = {"scoutkv bench kernels", "[options]", about,
                                    "  scoutkv bench kernels\n"
                                    "  scoutkv bench kernels --only attention --threads 1,2,4\n"
                                    "  SKV_ISA=portable scoutkv bench kernels --json",
                                    groups};
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    struct bench *b = calloc(1, sizeof *b);
    if (!b)
        return 1;
    b->args = &a;
    kernel_jobs(b->jobs);
    if (parse(b, &err)) {
        rc = options_mistake(&cmd, "%s", err.text);
    } else {
        interrupt_catch();
        rc = bench(b, &err);
        rc = interrupted() ? EXIT_INTERRUPTED : rc ? cli_fail(cmd.name, &err) : 0;
    }
    close_bench(b);
    options_free(&mem);
    return rc;
}
