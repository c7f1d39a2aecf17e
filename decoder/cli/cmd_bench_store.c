/* cmd_bench_store.c: `scoutkv bench store`: what a memory node's disk engine makes of a disk.
 *
 * DESIGN. A disk is as fast as the minute allows, so nothing here is compared with a figure from another run:
 * fio reads and writes a file beside the store, with the same sizes, depth and time, in turn with the engine,
 * round by round; the ratio of a round is of two neighbouring seconds, and the result is the median over the
 * rounds. Both sides write only space that was written before: the store recycles its segments, fio its file.
 */
#include "common/progress.h"
#include "common/size.h"
#include "decoder/cli/bench_disk.h"
#include "decoder/cli/bench_fio.h"
#include "memnode/store/io.h"
#include "decoder/cli/bench_hits.h"
#include "decoder/cli/cli.h"
#include "decoder/cli/interrupt.h"
#include "decoder/cli/scratch.h"
#include "decoder/cli/series.h"
#include "decoder/cli/json_out.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum {
    RAM = 256 << 20,   /* of the engine: little, so that nearly all lies on the disk only */
    SPARE = 256 << 20, /* bytes that must stay free */
};

struct args {
    const char *dir;
    uint64_t size;
    uint32_t seconds, rounds;
    bool json;
};

#define AT(member) offsetof(struct args, member)
static const struct opt table[] = {
    {"dir", 0, OPT_STRING, AT(dir), "DIR", "a directory on the disk to measure", .required = true},
    {"size", 0, OPT_SIZE, AT(size), "SIZE", "of the store, and of fio's file beside it", .min = 512 << 20},
    {"seconds", 0, OPT_U32, AT(seconds), "S", "how long each measurement takes", .min = 1, .max = 600},
    {"rounds", 0, OPT_U32, AT(rounds), "N", "how often each is taken", .min = 1, .max = SERIES_MAX},
    {"json", 0, OPT_FLAG, AT(json), NULL, "print one object instead of the table"},
    {0},
};

/* ---- what is measured ---- */

enum row_kind { READ_32K, READ_256K, PUT_1M, ROWS };
static const struct {
    const char *key, *text;
    uint32_t pages; /* of a read; 0: a put */
} rows[ROWS] = {
    {"read_32k", "cold reads of 32 KiB", (32 << 10) / BENCH_PAGE},
    {"read_256k", "cold reads of 256 KiB", (256 << 10) / BENCH_PAGE},
    {"put_1m", "durable PUTs of 1 MiB", 0},
};

struct bench {
    const struct args *args;
    char dir[PATH_MAX], store[PATH_MAX + 16], peer[PATH_MAX + 16]; /* dir: ours, made here */
    char fio[64];                                                  /* its version; "": there is none */
    char io[32];
    struct bench_blocks blocks;
    struct bench_disk *disk;
    struct bench_hits *hits;
    struct series ours[ROWS], theirs[ROWS];
    struct series idle_p50, idle_p99, loaded_p50, loaded_p99, load_read, load_put;
    struct progress bar;
    uint64_t n_measured;
};

/* ---- the place ---- */

/* Measuring through the page cache would measure memory. */
static int check_direct(const struct bench *b, struct skv_error *err)
{
    int fd = open(b->peer, O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
    if (fd < 0)
        return skv_fail(err, -errno,
                        errno == EINVAL
                            ? "%s is on a file system that has no O_DIRECT (is it in memory?); give a "
                              "directory on a disk"
                            : "cannot make files in %s",
                        b->args->dir);
    close(fd);
    return 0;
}

static int make_place(struct bench *b, struct skv_error *err)
{
    struct statvfs fs;
    char need[32], have[32];
    if (statvfs(b->args->dir, &fs))
        return skv_fail(err, -errno, "--dir %s: %s", b->args->dir, strerror(errno));
    uint64_t wanted = b->args->size * (b->fio[0] ? 2 : 1) + SPARE,
             available = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (available < wanted)
        return skv_fail(
            err, -ENOSPC, "%s has %s free and this takes %s: give a smaller --size, or another directory",
            b->args->dir, size_format(have, sizeof have, available), size_format(need, sizeof need, wanted));
    int rc = scratch_make(b->args->dir, b->dir, err);
    if (rc)
        return rc;
    snprintf(b->store, sizeof b->store, "%s/store", b->dir);
    snprintf(b->peer, sizeof b->peer, "%s/fio", b->dir);
    return check_direct(b, err);
}

/* ---- measuring ---- */

static void on_fill(void *arg, uint64_t bytes)
{
    struct bench *b = arg;
    progress_update(&b->bar, bytes >> 20);
}

static int fill(struct bench *b, struct skv_error *err)
{
    int rc = bench_blocks_make(&b->blocks, b->args->size, err);
    if (!rc)
        rc = bench_disk_open(&b->blocks, b->store, b->args->size, RAM, &b->disk, err);
    if (rc)
        return rc;
    snprintf(b->io, sizeof b->io, "%s", bench_disk_io(b->disk));
    progress_begin(&b->bar, "fill", "MiB", (b->args->size + b->args->size / 8) >> 20);
    rc = bench_disk_fill(b->disk, on_fill, b, err);
    if (!rc && b->fio[0]) {
        double gbps;
        struct fio_job lay = {.file = b->peer,
                              .rw = "write",
                              .block = BENCH_BLOCK,
                              .size = b->args->size,
                              .depth = BENCH_DEPTH};
        rc = fio_run(&lay, &gbps, err);
    }
    progress_end(&b->bar);
    return rc;
}

static void measured(struct bench *b)
{
    progress_update(&b->bar, ++b->n_measured);
}

static int measure_ours(struct bench *b, enum row_kind k, struct skv_error *err)
{
    double gbps = 0;
    int rc = rows[k].pages ? bench_disk_read(b->disk, rows[k].pages, b->args->seconds, &gbps, err)
                           : bench_disk_put(b->disk, b->args->seconds, &gbps, err);
    series_note(&b->ours[k], gbps);
    measured(b);
    return rc;
}

static int measure_peer(struct bench *b, enum row_kind k, struct skv_error *err)
{
    double gbps = 0;
    struct fio_job job = {.file = b->peer,
                          .rw = rows[k].pages ? "randread" : "write",
                          .block = rows[k].pages ? (uint64_t)rows[k].pages * BENCH_PAGE : BENCH_BLOCK,
                          .size = b->args->size,
                          .depth = BENCH_DEPTH,
                          .align = rows[k].pages ? IO_ALIGN : 0, /* runs of pages begin anywhere */
                          .sync_every = rows[k].pages ? 0 : BENCH_SYNC / BENCH_BLOCK,
                          .seconds = b->args->seconds};
    int rc = b->fio[0] ? fio_run(&job, &gbps, err) : 0;
    if (b->fio[0])
        series_note(&b->theirs[k], gbps);
    measured(b);
    return rc ? rc : interrupted() ? skv_fail(err, -EINTR, "interrupted") : 0;
}

static int measure_disk(struct bench *b, struct skv_error *err)
{
    int rc = 0;
    for (uint32_t round = 0; round < b->args->rounds; round++)
        for (enum row_kind k = 0; k < ROWS && !rc; k++) { /* who begins takes turns as well */
            rc = round % 2 ? measure_peer(b, k, err) : measure_ours(b, k, err);
            if (!rc)
                rc = round % 2 ? measure_ours(b, k, err) : measure_peer(b, k, err);
        }
    return rc;
}

static int measure_hits(struct bench *b, struct skv_error *err)
{
    uint32_t next = bench_disk_next(b->disk);
    bench_disk_close(b->disk);
    b->disk = NULL;
    int rc = bench_hits_open(&b->blocks, b->store, b->args->size, RAM, next, &b->hits, err);
    for (uint32_t i = 0; i < 2 * b->args->rounds && !rc; i++) {
        struct hit_times t;
        bool loaded = i % 2;
        rc = bench_hits_run(b->hits, loaded, b->args->seconds, &t, err);
        if (rc)
            break;
        series_note(loaded ? &b->loaded_p50 : &b->idle_p50, t.p50_us);
        series_note(loaded ? &b->loaded_p99 : &b->idle_p99, t.p99_us);
        if (loaded) {
            series_note(&b->load_read, t.read_gbps);
            series_note(&b->load_put, t.put_gbps);
        }
        measured(b);
    }
    return rc;
}

/* ---- telling ---- */

static void print_row(const char *text, const struct series *ours, const struct series *theirs)
{
    struct middle a = series_middle(ours), b = series_middle(theirs), r = series_ratio(ours, theirs);
    printf("%-24s %6.3f (%.3f … %.3f)", text, a.median, a.low, a.high);
    if (theirs->n)
        printf("   %6.3f (%.3f … %.3f)   %6.3f (%.3f … %.3f)", b.median, b.low, b.high, r.median, r.low,
               r.high);
    putchar('\n');
}

static void print_table(const struct bench *b)
{
    char size[32];
    struct middle hits = series_ratio(&b->loaded_p99, &b->idle_p99);
    printf("disk engine in %s: %s, %s, depth %d, PUTs in groups of %d MiB a sync;\n%s; median (lowest … "
           "highest) of "
           "%" PRIu32 " rounds of %" PRIu32 " s, GB/s\n\n",
           b->args->dir, size_format(size, sizeof size, b->args->size), b->io, BENCH_DEPTH, BENCH_SYNC >> 20,
           b->fio[0] ? b->fio : "fio is not installed, so there is nothing to compare with", b->args->rounds,
           b->args->seconds);
    printf("%-24s %-24s %s\n", "", "  ours", b->fio[0] ? "   fio                       ours / fio" : "");
    for (enum row_kind k = 0; k < ROWS; k++)
        print_row(rows[k].text, &b->ours[k], &b->theirs[k]);
    printf(
        "\nhits of 32 KiB in RAM, through a node, µs: disk idle p50 %.0f, p99 %.0f; disk saturated p50 %.0f, "
        "p99 "
        "%.0f\n(by %.2f GB/s of cold reads and %.2f GB/s of durable PUTs); p99 saturated / idle %.2f (%.2f … "
        "%.2f)\n",
        series_middle(&b->idle_p50).median, series_middle(&b->idle_p99).median,
        series_middle(&b->loaded_p50).median, series_middle(&b->loaded_p99).median,
        series_middle(&b->load_read).median, series_middle(&b->load_put).median, hits.median, hits.low,
        hits.high);
}

static int print_json(const struct bench *b, struct skv_error *err)
{
    json_t *ratios = json_object(), *list = json_object(), *hits = json_object();
    for (enum row_kind k = 0; k < ROWS; k++) {
        json_t *row = json_object();
        struct middle ratio = series_ratio(&b->ours[k], &b->theirs[k]);
        series_set(row, "ours_gbps", series_middle(&b->ours[k]));
        series_set(row, "peer_gbps", series_middle(&b->theirs[k]));
        series_set(row, "ratio", ratio);
        json_object_set_new(list, rows[k].key, row);
        json_object_set_new(ratios, rows[k].key, series_number(ratio.median));
    }
    struct middle ratio = series_ratio(&b->loaded_p99, &b->idle_p99);
    series_set(hits, "idle_p50_us", series_middle(&b->idle_p50));
    series_set(hits, "idle_p99_us", series_middle(&b->idle_p99));
    series_set(hits, "loaded_p50_us", series_middle(&b->loaded_p50));
    series_set(hits, "loaded_p99_us", series_middle(&b->loaded_p99));
    series_set(hits, "load_read_gbps", series_middle(&b->load_read));
    series_set(hits, "load_put_gbps", series_middle(&b->load_put));
    series_set(hits, "ratio", ratio);
    json_object_set_new(ratios, "hit_p99", series_number(ratio.median));
    json_t *o = json_pack("{s:o, s:I, s:I, s:I, s:s, s:I, s:o, s:o, s:o}", "ratios", ratios, "rounds",
                          (json_int_t)b->args->rounds, "seconds", (json_int_t)b->args->seconds, "disk_bytes",
                          (json_int_t)b->args->size, "io", b->io, "depth", (json_int_t)BENCH_DEPTH, "peer",
                          b->fio[0] ? json_string(b->fio) : json_null(), "rows", list, "hits", hits);
    return json_out(o, err);
}

/* ---- the command ---- */

static int bench(struct bench *b, struct skv_error *err)
{
    int rc = make_place(b, err);
    if (!rc)
        rc = fill(b, err);
    if (rc)
        return rc;
    progress_begin(&b->bar, "measure", "measurements", b->args->rounds * (2 * ROWS + 2));
    rc = measure_disk(b, err);
    if (!rc)
        rc = measure_hits(b, err);
    progress_end(&b->bar);
    if (rc)
        return rc;
    if (b->args->json)
        return print_json(b, err);
    print_table(b);
    return 0;
}

static const char about[] =
    "Measures what a memory node's disk engine makes of a disk, beside fio in the same run:\n"
    "- reads of neighbouring pages of blocks that are only on disk, checksums verified, 8 at a time;\n"
    "  fio: randread with io_uring, O_DIRECT and depth 8 over a file of the same size, at multiples of 4 KiB "
    "as ours;\n"
    "- PUTs of 1 MiB blocks that count once they are on the medium: 8 MiB are written while 8 MiB are "
    "synced;\n"
    "  fio: write with io_uring, O_DIRECT and depth 8, and an fdatasync every 8 MiB, beside which it goes "
    "on.\n"
    "Both take turns, so that a busy minute slows both. Then a node on a processor of its own serves hits "
    "from RAM\n"
    "while its disk is idle, and while it is saturated.\n"
    "It takes twice --size of free space for a while, and cleans up. Without fio (Debian: apt-get install "
    "fio) only\n"
    "our own figures are told.";

int cmd_bench_store(int argc, char **argv)
{
    struct args a = {.size = UINT64_C(4) << 30, .seconds = 1, .rounds = 15};
    struct opt_memory mem = {0};
    struct skv_error err = {0};
    const struct opt_group groups[] = {{"Options", table, &a}, {0}};
    const struct opt_command cmd = {
        "scoutkv bench store", "--dir DIR [options]", about,
        "  scoutkv bench store --dir /mnt/nvme\n"
        "  scoutkv bench store --dir /mnt/nvme --size 32GiB --seconds 10 --rounds 9 --json",
        groups};
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    struct bench *b = calloc(1, sizeof *b);
    if (!b)
        return 1;
    b->args = &a;
    interrupt_catch();
    if (!fio_version(b->fio, sizeof b->fio))
        fprintf(stderr,
                "scoutkv bench store: fio is not installed (Debian: apt-get install fio): there will be no "
                "ratios\n");
    rc = bench(b, &err) ? cli_fail(cmd.name, &err) : 0;
    if (interrupted())
        rc = EXIT_INTERRUPTED;
    bench_disk_close(b->disk);
    bench_hits_close(b->hits);
    bench_blocks_free(&b->blocks);
    scratch_remove(b->dir);
    free(b);
    options_free(&mem);
    return rc;
}
