/* bench_scout: how fast the scout scans representatives, beside plain memory reads in the same minute.
 *
 *   bench_scout [d_k [g [MiB]]]      defaults: 64 2 192
 *
 * Prints GB/s (10^9 bytes) with one thread and with one a core, best of a few passes each, and the time that
 * choosing takes. SKV_ISA picks the kernel family. */
#include "common/clock.h"
#include "decoder/kernels/kernels.h"
#include "decoder/kernels/probe.h"
#include "decoder/scout/reps.h"
#include "decoder/scout/scout.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PASSES = 5, PART_PAGES = 4096, MAX_ROWS = 64, MAX_DIMS = 1024 };

struct scan {
    unsigned d_k, g;
    size_t part_bytes;
    uint8_t *groups; /* parts of PART_PAGES pages */
    float *q;        /* (g, d_k) */
    float *out;      /* per part (g, PART_PAGES) */
};

static void scan_part(void *arg, unsigned part)
{
    struct scan *s = arg;
    const uint8_t *piece = s->groups + part * s->part_bytes;
    const struct scout_head head = {.groups = &piece, .pages_per_piece = PART_PAGES, .d_k = s->d_k};
    scout_score(&head, PART_PAGES, s->g, s->q, s->out + (size_t)part * s->g * PART_PAGES, PART_PAGES);
}

static float uniform(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (float)(*seed >> 40) / (float)(1 << 24) - 0.5f;
}

/* One part of real representatives, copied to the others. */
static void fill(struct scan *s, unsigned n_parts)
{
    uint64_t seed = 1;
    float keys[16 * MAX_DIMS];
    for (size_t page = 0; page < PART_PAGES; page++) {
        for (unsigned i = 0; i < 16 * s->d_k; i++)
            keys[i] = uniform(&seed) * 4;
        reps_build(REPS_PAGE, s->d_k, keys,
                   s->groups + page / REPS_LANES * reps_group_bytes(REPS_PAGE, s->d_k), page % REPS_LANES);
    }
    for (unsigned part = 1; part < n_parts; part++)
        memcpy(s->groups + part * s->part_bytes, s->groups, s->part_bytes);
    for (unsigned i = 0; i < s->g * s->d_k; i++)
        s->q[i] = uniform(&seed) / 2;
}

static void time_scan(struct scan *s, unsigned n_parts, unsigned threads)
{
    struct pool *pool = pool_new(threads);
    double best = 0, bytes = (double)n_parts * (double)s->part_bytes;
    for (unsigned pass = 0; pass < PASSES; pass++) {
        uint64_t start = clock_ns();
        pool_run(pool, n_parts, scan_part, s);
        double gbps = bytes / (double)(clock_ns() - start);
        best = gbps > best ? gbps : best;
    }
    double memory = probe_read_gbps(pool, (size_t)bytes);
    printf("%u thread%s: scout %.2f GB/s, memory %.2f GB/s, ratio %.2f\n", pool_threads(pool),
           pool_threads(pool) == 1 ? "" : "s", best, memory, best / memory);
    pool_free(pool);
}

/* Scores of all parts as if they were one head's pages. */
static int time_top(struct scan *s, size_t n_pages)
{
    float *score = malloc(n_pages * sizeof *score), lse[MAX_ROWS];
    uint32_t *scratch = malloc(n_pages * sizeof *scratch), *pages = malloc(n_pages * sizeof *pages);
    if (!score || !scratch || !pages)
        return 1;
    size_t ld = n_pages;
    uint64_t start = clock_ns();
    scout_aggregate(n_pages, s->g, s->out, ld, lse, score);
    uint64_t middle = clock_ns();
    size_t n = scout_top(n_pages, score, NULL, 256, 1, 0, scratch, pages);
    uint64_t end = clock_ns();
    printf("%zu pages: aggregate %.2f ms, top %zu %.2f ms\n", n_pages, (double)(middle - start) / 1e6, n,
           (double)(end - middle) / 1e6);
    free(score);
    free(scratch);
    free(pages);
    return 0;
}

int main(int argc, char **argv)
{
    struct scan s = {.d_k = argc > 1 ? (unsigned)atoi(argv[1]) : 64,
                     .g = argc > 2 ? (unsigned)atoi(argv[2]) : 2};
    size_t bytes = (size_t)(argc > 3 ? atoi(argv[3]) : 192) << 20;
    if (s.d_k == 0 || s.d_k % 8 || s.d_k > MAX_DIMS || s.g == 0 || s.g > MAX_ROWS) {
        fprintf(stderr, "bench_scout [d_k [g [MiB]]]: d_k a multiple of 8 up to %d, g 1 to %d\n", MAX_DIMS,
                MAX_ROWS);
        return 2;
    }
    s.part_bytes = PART_PAGES / REPS_LANES * reps_group_bytes(REPS_PAGE, s.d_k);
    unsigned n_parts = (unsigned)(bytes / s.part_bytes) + 1;
    s.groups = malloc(n_parts * s.part_bytes);
    s.q = malloc(s.g * s.d_k * sizeof *s.q);
    s.out = malloc((size_t)n_parts * s.g * PART_PAGES * sizeof *s.out);
    int rc = 1;
    if (s.groups && s.q && s.out) {
        fill(&s, n_parts);
        printf("%s, d_k %u, g %u, %.0f MB of representatives (%.1f bytes a token)\n", kernels_get()->name,
               s.d_k, s.g, (double)n_parts * (double)s.part_bytes / 1e6,
               (double)reps_group_bytes(REPS_PAGE, s.d_k) / (REPS_LANES * 16));
        time_scan(&s, n_parts, 1);
        time_scan(&s, n_parts, 0);
        rc = time_top(&s, (size_t)n_parts * PART_PAGES);
    }
    free(s.groups);
    free(s.q);
    free(s.out);
    return rc;
}
