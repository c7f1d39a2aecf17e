/* scan_probe.c: see scan_probe.h. Representatives of random keys, a part of them built and the rest copies.
 */
#include "decoder/scout/scan_probe.h"

#include "common/clock.h"
#include "decoder/scout/scout.h"

#include <stdlib.h>
#include <string.h>

enum { PASSES = 5, PART_LANES = 2048 };

struct scan_probe {
    enum reps_kind kind;
    unsigned d_k, g, n_parts;
    size_t part_bytes;
    uint8_t *groups; /* parts of PART_LANES pages or blocks */
    float *q;        /* (g, d_k) */
    float *out;      /* per part (g, PART_LANES) */
};

static void scan_part(void *arg, unsigned part)
{
    struct scan_probe *s = arg;
    const uint8_t *piece = s->groups + part * s->part_bytes;
    struct scout_head head = {
        .kind = s->kind, .groups = &piece, .pages_per_piece = PART_LANES, .d_k = s->d_k};
    scout_score(&head, PART_LANES, s->g, s->q, s->out + (size_t)part * s->g * PART_LANES, PART_LANES);
}

static float uniform(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (float)(*seed >> 40) / (float)(1 << 24) - 0.5f;
}

static void fill(struct scan_probe *s, float *keys)
{
    uint64_t seed = 1;
    for (unsigned lane = 0; lane < PART_LANES; lane++) {
        for (unsigned i = 0; i < reps_keys(s->kind) * s->d_k; i++)
            keys[i] = uniform(&seed) * 4;
        reps_build(s->kind, s->d_k, keys, s->groups + lane / REPS_LANES * reps_group_bytes(s->kind, s->d_k),
                   lane % REPS_LANES);
    }
    for (unsigned part = 1; part < s->n_parts; part++)
        memcpy(s->groups + part * s->part_bytes, s->groups, s->part_bytes);
    for (unsigned i = 0; i < s->g * s->d_k; i++)
        s->q[i] = uniform(&seed) / 2;
}

void scan_probe_free(struct scan_probe *s)
{
    if (!s)
        return;
    free(s->groups);
    free(s->q);
    free(s->out);
    free(s);
}

struct scan_probe *scan_probe_new(enum reps_kind kind, unsigned d_k, unsigned g, size_t bytes)
{
    struct scan_probe *s = calloc(1, sizeof *s);
    float *keys = malloc((size_t)REPS_BLOCK_KEYS * d_k * sizeof *keys);
    if (s && keys) {
        s->kind = kind;
        s->d_k = d_k;
        s->g = g;
        s->part_bytes = PART_LANES / REPS_LANES * reps_group_bytes(kind, d_k);
        s->n_parts = (unsigned)(bytes / s->part_bytes) + 1;
        s->groups = aligned_alloc(64, (s->n_parts * s->part_bytes + 63) / 64 * 64); /* as a context's are */
        s->q = malloc((size_t)g * d_k * sizeof *s->q);
        s->out = malloc((size_t)s->n_parts * g * PART_LANES * sizeof *s->out);
    }
    if (s && keys && s->groups && s->q && s->out) {
        fill(s, keys);
    } else {
        scan_probe_free(s);
        s = NULL;
    }
    free(keys);
    return s;
}

size_t scan_probe_bytes(const struct scan_probe *s)
{
    return s->n_parts * s->part_bytes;
}

void scan_probe_pass(struct scan_probe *s, struct pool *pool)
{
    pool_run(pool, s->n_parts, scan_part, s);
}

double scan_probe_gbps(struct pool *pool, enum reps_kind kind, unsigned d_k, unsigned g, size_t bytes)
{
    struct scan_probe *s = scan_probe_new(kind, d_k, g, bytes);
    double best = 0;
    for (unsigned pass = 0; s && pass < PASSES; pass++) {
        uint64_t start = clock_ns();
        scan_probe_pass(s, pool);
        double gbps = (double)scan_probe_bytes(s) / (double)(clock_ns() - start);
        best = gbps > best ? gbps : best;
    }
    scan_probe_free(s);
    return best;
}
