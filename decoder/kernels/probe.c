/* probe.c: see probe.h. Reading sums 64-bit words, in several streams, two lines of each in turn: one alone
 * does not keep enough lines on their way, and reads at nine tenths of the speed; registers of 32 bytes leave
 * room for more of them than those of 16. Multiplying keeps more independent chains going than the units have
 * stages. */
#include "decoder/kernels/probe.h"
#include "common/clock.h"
#include "decoder/kernels/probe_wide.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { PASSES = 4, PART_BYTES = 1 << 20, PART_WORDS = PART_BYTES / 8, PEAK_STEPS = 1 << 21 };

struct probe {
    uint64_t *words;
    uint64_t *sums; /* per part: stored, so that the reads aren't optimised away */
    unsigned n_parts;
    uint64_t (*sum)(const uint64_t *words, size_t n);
};

/* ---- memory ---- */

static uint64_t sum_portable(const uint64_t *words, size_t n)
{
    uint64_t sum[PROBE_TURN_WORDS] = {0};
    size_t stream = n / PROBE_STREAMS;
    for (size_t i = 0; i < stream; i += PROBE_TURN_WORDS)
        for (unsigned s = 0; s < PROBE_STREAMS; s++)
            for (unsigned j = 0; j < PROBE_TURN_WORDS; j++)
                sum[j] += words[s * stream + i + j];
    for (unsigned j = 1; j < PROBE_TURN_WORDS; j++)
        sum[0] += sum[j];
    return sum[0];
}

static bool has_avx2(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return false;
#endif
}

struct probe *probe_new(size_t bytes)
{
    struct probe *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->n_parts = (unsigned)((bytes + PART_BYTES - 1) / PART_BYTES);
    p->words = malloc((size_t)p->n_parts * PART_BYTES);
    p->sums = malloc(p->n_parts * sizeof *p->sums);
    if (!p->words || !p->sums || !p->n_parts) {
        probe_free(p);
        return NULL;
    }
    memset(p->words, 1, (size_t)p->n_parts * PART_BYTES);
    p->sum = sum_portable;
#if defined(__x86_64__)
    if (has_avx2())
        p->sum = probe_sum_avx2;
#endif
    return p;
}

void probe_free(struct probe *p)
{
    if (!p)
        return;
    free(p->words);
    free(p->sums);
    free(p);
}

static void read_part(void *arg, unsigned part)
{
    struct probe *p = arg;
    p->sums[part] = p->sum(p->words + (size_t)part * PART_WORDS, PART_WORDS);
}

double probe_read(struct probe *p, struct pool *pool)
{
    uint64_t start = clock_ns();
    pool_run(pool, p->n_parts, read_part, p);
    return (double)p->n_parts * PART_BYTES / (double)(clock_ns() - start);
}

double probe_read_gbps(struct pool *pool, size_t bytes)
{
    struct probe *p = probe_new(bytes);
    double best = 0;
    for (unsigned pass = 0; p && pass < PASSES; pass++) {
        double gbps = probe_read(p, pool);
        best = gbps > best ? gbps : best;
    }
    probe_free(p);
    return best;
}

/* ---- arithmetic ---- */

/* a <- a·m + c in 64 chains, rounded twice where there is no fused one. */
static double peak_portable(uint64_t steps, float *out)
{
    float a[64];
    for (unsigned i = 0; i < 64; i++)
        a[i] = (float)i;
    for (uint64_t s = 0; s < steps; s++)
        for (unsigned i = 0; i < 64; i++)
            a[i] = a[i] * 0.5f + 1.0f;
    for (unsigned i = 1; i < 64; i++)
        a[0] += a[i];
    *out = a[0];
    return 64 * 2 * (double)steps;
}

struct peak {
    double (*run)(uint64_t steps, float *out);
    float out[1024]; /* per part */
    double flops;    /* of part 0: all are alike */
};

static void peak_part(void *arg, unsigned part)
{
    struct peak *p = arg;
    double flops = p->run(PEAK_STEPS, &p->out[part]);
    if (part == 0)
        p->flops = flops;
}

double probe_gflops(struct pool *pool)
{
    struct peak p = {.run = peak_portable};
    unsigned threads = pool_threads(pool), n = threads < 1024 ? threads : 1024;
#if defined(__x86_64__)
    if (has_avx2())
        p.run = probe_peak_avx2;
    if (__builtin_cpu_supports("avx512f"))
        p.run = probe_peak_avx512;
#endif
    uint64_t start = clock_ns();
    pool_run(pool, n, peak_part, &p);
    return p.flops * n / (double)(clock_ns() - start);
}
