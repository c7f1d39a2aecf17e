/* bench_scout: how fast the scout scans representatives, beside plain memory reads in the same minute, and
 * how long choosing takes.
 *
 *   bench_scout [d_k [g [MiB]]]      defaults: 64 2 192
 *
 * Prints GB/s (10^9 bytes) with one thread and with one a core, best of a few passes each. SKV_ISA picks the
 * kernel family. */
#include "common/clock.h"
#include "decoder/kernels/kernels.h"
#include "decoder/kernels/probe.h"
#include "decoder/scout/scan_probe.h"
#include "decoder/scout/scout.h"

#include <stdio.h>
#include <stdlib.h>

enum { MAX_ROWS = 64, MAX_DIMS = 1024, CHOICES = 1 << 20 };

static void time_scan(enum reps_kind kind, unsigned d_k, unsigned g, size_t bytes, unsigned threads)
{
    struct pool *pool = pool_new(threads);
    double scan = scan_probe_gbps(pool, kind, d_k, g, bytes), memory = probe_read_gbps(pool, bytes);
    printf("%s of %u dims, %u query heads, %u thread%s: scout %.2f GB/s, memory %.2f GB/s, ratio %.2f\n",
           kind == REPS_PAGE ? "pages" : "blocks", d_k, g, pool_threads(pool),
           pool_threads(pool) == 1 ? "" : "s", scan, memory, scan / memory);
    pool_free(pool);
}

/* Choosing among a million scores, most of them alike, as they are in running text. */
static int time_choice(unsigned g)
{
    float *mass = malloc((size_t)CHOICES * g * sizeof *mass), *score = malloc(CHOICES * sizeof *score);
    uint32_t *scratch = malloc(CHOICES * sizeof *scratch), *pages = malloc(CHOICES * sizeof *pages);
    float lse[MAX_ROWS];
    if (!mass || !score || !scratch || !pages)
        return 1;
    for (size_t i = 0; i < (size_t)CHOICES * g; i++)
        mass[i] = (float)(i * 2654435761u % 1000) * 1e-3f + (i % 512 == 0 ? 5.0f : 0.0f);
    uint64_t start = clock_ns();
    scout_aggregate(CHOICES, g, mass, CHOICES, lse, score);
    uint64_t middle = clock_ns();
    size_t n = scout_top(CHOICES, score, NULL, 256, 1, 0, scratch, pages);
    uint64_t end = clock_ns();
    printf("%d scores: aggregate %.2f ms, best %zu %.2f ms\n", CHOICES, (double)(middle - start) / 1e6, n,
           (double)(end - middle) / 1e6);
    free(mass);
    free(score);
    free(scratch);
    free(pages);
    return 0;
}

int main(int argc, char **argv)
{
    unsigned d_k = argc > 1 ? (unsigned)atoi(argv[1]) : 64, g = argc > 2 ? (unsigned)atoi(argv[2]) : 2;
    size_t bytes = (size_t)(argc > 3 ? atoi(argv[3]) : 192) << 20;
    if (d_k == 0 || d_k % 8 || d_k > MAX_DIMS || g == 0 || g > MAX_ROWS) {
        fprintf(stderr, "bench_scout [d_k [g [MiB]]]: d_k a multiple of 8 up to %d, g 1 to %d\n", MAX_DIMS,
                MAX_ROWS);
        return 2;
    }
    printf("kernels: %s\n", kernels_get()->name);
    for (enum reps_kind kind = REPS_PAGE; kind <= REPS_BLOCK; kind++)
        for (unsigned all = 0; all < 2; all++)
            time_scan(kind, d_k, g, bytes, all ? 0 : 1);
    return time_choice(g);
}
