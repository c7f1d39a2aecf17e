/* verify_main.c: see verify_main.h. */
#include "memnode/verify_main.h"

#include "common/progress.h"
#include "common/size.h"
#include "memnode/store/io.h"
#include "memnode/store/store.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

struct watch {
    struct progress bar; /* in MiB */
    uint64_t done;       /* bytes read */
};

static void on_progress(void *arg, uint64_t done, uint64_t total)
{
    struct watch *w = arg;
    w->done = done;
    w->bar.total = total >> 20;
    progress_update(&w->bar, done >> 20);
}

static bool damaged(const struct verify_report *r)
{
    return r->bad_records || r->bad_pages || r->bad_segments;
}

static double gbps(const struct watch *w, double seconds)
{
    return seconds > 0 ? (double)w->done / seconds / 1e9 : 0;
}

static void count_line(const char *what, uint64_t n)
{
    char text[32];
    printf("%-18s %14s\n", what, count_format(text, sizeof text, n));
}

static void print_report(const char *dir, const struct verify_report *r, const struct watch *w,
                         double seconds)
{
    char size[32], read[32], time[32];
    printf("%s: %s\n\n", dir, damaged(r) ? "DAMAGED" : "all right");
    count_line("segments", r->segments);
    count_line("records", r->records);
    count_line("pages", r->pages);
    printf("%-18s %14s\n", "their bytes", size_format(size, sizeof size, r->bytes));
    if (r->bad_segments)
        count_line("damaged segments", r->bad_segments);
    if (r->bad_records)
        count_line("damaged records", r->bad_records);
    if (r->bad_pages)
        count_line("damaged pages", r->bad_pages);
    if (r->torn_records)
        count_line("torn records", r->torn_records);
    printf("\nread %s in %s, %.2f GB/s\n", size_format(read, sizeof read, w->done),
           duration_format(time, sizeof time, seconds), gbps(w, seconds));
    if (damaged(r))
        printf("A node does not serve what is damaged: it answers that it does not have it, and the next PUT "
               "of such "
               "a\nblock writes it anew. Disks that damage data should be replaced.\n");
    if (r->torn_records)
        printf("Torn records lie at the end of what a node wrote before it stopped, and nothing says that "
               "they had "
               "been\nstored: a crash leaves such, and nobody was told that they were there.\n");
}

static void print_json(const struct verify_report *r, const struct watch *w, double seconds)
{
    printf("{\"damaged\": %s, \"segments\": %" PRIu64 ", \"records\": %" PRIu64 ", \"pages\": %" PRIu64
           ", \"bytes\": %" PRIu64 ", \"bad_segments\": %" PRIu64 ", \"bad_records\": %" PRIu64
           ", \"bad_pages\": %" PRIu64 ", \"torn_records\": %" PRIu64 ", \"read_bytes\": %" PRIu64
           ", \"seconds\": %.3f, \"gbps\": %.3f}\n",
           damaged(r) ? "true" : "false", r->segments, r->records, r->pages, r->bytes, r->bad_segments,
           r->bad_records, r->bad_pages, r->torn_records, w->done, seconds, gbps(w, seconds));
}

/* Opening a directory makes it, and a lock in it: not what somebody wants who looked in the wrong place. */
static int check_dir(const char *dir, struct skv_error *err)
{
    struct stat st;
    char path[PATH_MAX];
    if (stat(dir, &st))
        return skv_fail(err, -errno, "cannot read %s: %s", dir, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return skv_fail(err, -ENOTDIR, "%s is no directory", dir);
    if (snprintf(path, sizeof path, "%s/store", dir) >= (int)sizeof path)
        return skv_fail(err, -ENAMETOOLONG, "%s: the name is too long", dir);
    if (stat(path, &st))
        return errno == ENOENT ? skv_fail(err, -ENOENT, "%s holds no store: it has no file 'store'", dir)
                               : skv_fail(err, -errno, "cannot read %s: %s", path, strerror(errno));
    return 0;
}

static int verify(const char *dir, struct verify_report *r, struct watch *w, struct skv_error *err)
{
    struct skv_error why;
    int rc = check_dir(dir, err);
    if (rc)
        return rc;
    struct io *io = io_new(&why, err);
    if (!io)
        return err->code;
    progress_begin(&w->bar, "verify", "MiB", 0);
    rc = store_verify(io, dir, r, on_progress, w, err);
    progress_end(&w->bar);
    io->ops->close(io);
    return rc;
}

int verify_run(const char *dir, bool json)
{
    struct verify_report r = {0};
    struct watch w = {.done = 0};
    struct skv_error err = {0};
    int rc = verify(dir, &r, &w, &err);
    if (rc) {
        fprintf(stderr, "scoutkv-memnode: --verify: %s\n", err.text);
        int code = skv_exit_code(rc);
        return code == 1 ? 2 : code; /* 1 says that damage was found */
    }
    double seconds = progress_seconds(&w.bar);
    if (json)
        print_json(&r, &w, seconds);
    else
        print_report(dir, &r, &w, seconds);
    if (fflush(stdout)) {
        fprintf(stderr, "scoutkv-memnode: --verify: cannot write the report: %s\n", strerror(errno));
        return 2;
    }
    return damaged(&r) ? 1 : 0;
}
