/* probe.c: see probe.h. Sums 64-bit words: a loop that waits for nothing but memory. */
#include "decoder/kernels/probe.h"
#include "common/clock.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { PASSES = 4, PART_BYTES = 1 << 20, PART_WORDS = PART_BYTES / 8 };

struct probe {
    const uint64_t *words;
    uint64_t *sums; /* per part: stored, so that the reads aren't optimised away */
};

static void read_part(void *arg, unsigned part)
{
    struct probe *p = arg;
    const uint64_t *w = p->words + (size_t)part * PART_WORDS;
    uint64_t s[8] = {0};
    for (size_t i = 0; i < PART_WORDS; i += 8)
        for (unsigned j = 0; j < 8; j++)
            s[j] += w[i + j];
    p->sums[part] = s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7];
}

double probe_read_gbps(struct pool *pool, size_t bytes)
{
    unsigned n_parts = (unsigned)((bytes + PART_BYTES - 1) / PART_BYTES);
    uint64_t *words = malloc((size_t)n_parts * PART_BYTES);
    struct probe p = {.words = words, .sums = malloc(n_parts * sizeof *p.sums)};
    double best = 0;
    if (words && p.sums && n_parts) {
        memset(words, 1, (size_t)n_parts * PART_BYTES);
        for (unsigned pass = 0; pass < PASSES; pass++) {
            uint64_t start = clock_ns();
            pool_run(pool, n_parts, read_part, &p);
            double gbps = (double)n_parts * PART_BYTES / (double)(clock_ns() - start);
            best = gbps > best ? gbps : best;
        }
    }
    free(p.sums);
    free(words);
    return best;
}
