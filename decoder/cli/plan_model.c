/* plan_model.c: see plan_model.h.
 *
 * How a time grows with the group follows from the kernels: a page's bytes are read once for all its query
 * heads, and each adds its products. Scanning has ROWS_SCAN, and attention ROWS_ATTEND, query heads' worth of
 * time for reading alone (bench kernels: groups of 1, 4, 8). */
#include "decoder/cli/plan_model.h"
#include "decoder/scout/reps.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double ROWS_SCAN = 2, ROWS_ATTEND = 6;
enum { PAGES_A_BLOCK = SKV_BLOCK / SKV_PAGE, MIN_CANDIDATES = 128 };

/* Of `scoutkv bench step --trace`, the table in tests/bench/RESULTS.md: 2 threads of an EPYC with AVX2 that
 * little else used, f16, three nodes on the same machine. Another machine has others: give its own. */
const struct plan_constants plan_measured = {.g = 4,
                                             .d = 128,
                                             .threads = 2,
                                             .scan_ns = 8.23,
                                             .candidate_ns = 580,
                                             .page_ns = 1030,
                                             .merge_ns = 153,
                                             .fetch_us = 760,
                                             .fetch_gbps = 2.13,
                                             .overlap = 0.11,
                                             .rest_us = 332};

const char *const plan_part_name[PLAN_PARTS] = {"scout", "attention", "merge", "fetch", "rest"};

/* ---- constants as JSON ---- */

static const struct {
    const char *name;
    size_t at;
    bool zero; /* may be 0 */
} fields[] = {
#define FIELD(name, zero)                                  \
    {                                                      \
#name, offsetof(struct plan_constants, name), zero \
    }
    FIELD(g, false),           FIELD(d, false),       FIELD(threads, false),  FIELD(scan_ns, false),
    FIELD(candidate_ns, true), FIELD(page_ns, false), FIELD(merge_ns, false), FIELD(fetch_us, true),
    FIELD(fetch_gbps, false),  FIELD(overlap, true),  FIELD(rest_us, true),
#undef FIELD
};
enum { FIELDS = sizeof fields / sizeof *fields };

json_t *plan_constants_json(const struct plan_constants *c)
{
    json_t *o = json_object();
    for (size_t i = 0; i < FIELDS; i++)
        json_object_set_new(o, fields[i].name, json_real(*(const double *)((const char *)c + fields[i].at)));
    return o;
}

int plan_constants_read(const json_t *o, struct plan_constants *out, struct skv_error *err)
{
    for (size_t i = 0; i < FIELDS; i++) {
        const json_t *n = json_object_get(o, fields[i].name);
        double x = json_number_value(n);
        if (!json_is_number(n) || !(x > 0 || (fields[i].zero && x >= 0)))
            return skv_fail(err, -EINVAL, "constants: \"%s\" must be a positive number", fields[i].name);
        *(double *)((char *)out + fields[i].at) = x;
    }
    return 0;
}

/* ---- a step ---- */

static double at_most(double a, double b)
{
    return a < b ? a : b;
}

static double at_least(double a, double b)
{
    return a > b ? a : b;
}

/* Bytes that a decoder keeps of a page of one KV head: representatives, norm, salience, checksum; its
 * block's. */
static double page_index_bytes(const struct plan *p)
{
    enum reps_kind kind = p->lean ? REPS_LEAN : REPS_PAGE;
    return (double)reps_group_bytes(kind, p->shape->d) / REPS_LANES +
           (double)reps_group_bytes(REPS_BLOCK, p->shape->d) / REPS_LANES / PAGES_A_BLOCK +
           2 * sizeof(float) + sizeof(uint64_t);
}

static void predict_memory(const struct plan *p, struct plan_cost *out)
{
    double token = (double)shape_token_bytes(p->shape), heads = p->shape->kv_heads / p->decoders;
    double room = p->node_ram * p->nodes;
    out->dense_bytes = p->tokens * token;
    out->kv_bytes = out->dense_bytes * p->replicas;
    out->node_bytes = out->kv_bytes / p->nodes;
    out->from_disk = at_least(0, 1 - room / out->kv_bytes);
    out->fits = out->from_disk <= 0 || p->disk_gbps > 0;
    out->rep_bytes = p->tokens / SKV_PAGE * page_index_bytes(p) * heads * p->shape->layers;
    out->window_bytes = (p->window + SKV_BLOCK) * token / p->decoders;
    out->cache_bytes = p->cache / p->decoders;
}

/* ms of a layer's fetch of so many bytes by one decoder. */
static double fetch_ms(const struct plan *p, const struct plan_constants *c, double bytes,
                       struct plan_cost *out)
{
    double cpu = bytes / c->fetch_gbps / 1e6,
           link = p->link_gbit > 0
                      ? at_least(bytes, bytes * p->decoders / p->nodes) / (p->link_gbit / 8) / 1e6
                      : 0,
           disk = out->from_disk > 0 && p->disk_gbps > 0
                      ? bytes * p->decoders * out->from_disk / (p->disk_gbps * p->nodes) / 1e6
                      : 0;
    out->disk_bound = disk > at_least(cpu, link);
    return bytes > 0 ? c->fetch_us / 1e3 + at_least(at_least(cpu, link), disk) : 0;
}

void plan_predict(const struct plan *p, const struct plan_constants *c, struct plan_cost *out)
{
    const struct model_shape *m = p->shape;
    double g = (double)m->heads / m->kv_heads, heads = m->kv_heads / p->decoders;
    double threads = c->threads / p->threads, dims = m->d / c->d;
    double scan = (ROWS_SCAN + g) / (ROWS_SCAN + c->g) * dims * threads;
    double attend = (ROWS_ATTEND + g) / (ROWS_ATTEND + c->g) * dims * threads;
    double selected = p->budget / SKV_PAGE, far = at_least(0, p->tokens - p->window) / SKV_BLOCK;
    double candidates = at_most(at_least(selected, MIN_CANDIDATES), far);
    double pages = selected + p->window / SKV_PAGE;
    double layer_bytes = selected * heads * (1 - p->hits) * SKV_PAGE * m->d * 2 * sizeof(uint16_t);
    memset(out, 0, sizeof *out);
    predict_memory(p, out);
    double *ms = out->part_ms;
    ms[PLAN_SCOUT] = heads * scan * (far * c->scan_ns + candidates * c->candidate_ns) / 1e6;
    ms[PLAN_ATTENTION] = heads * attend * pages * c->page_ns / 1e6;
    ms[PLAN_MERGE] = heads * pages * c->merge_ns * g / c->g * dims / 1e6;
    double fetch = fetch_ms(p, c, layer_bytes, out);
    ms[PLAN_FETCH] = fetch - c->overlap * at_most(fetch, ms[PLAN_ATTENTION]);
    ms[PLAN_REST] = c->rest_us / 1e3;
    for (unsigned i = 0; i < PLAN_PARTS; i++) {
        out->layer_ms += ms[i];
        if (ms[i] > ms[out->bottleneck])
            out->bottleneck = (enum plan_part)i;
    }
    out->step_ms = out->layer_ms * m->layers;
    out->fetch_bytes = layer_bytes * p->decoders * m->layers;
}

/* ---- what else could be ---- */

static int by_step(const void *a, const void *b)
{
    double x = ((const struct plan_change *)a)->cost.step_ms,
           y = ((const struct plan_change *)b)->cost.step_ms;
    return (x > y) - (x < y);
}

unsigned plan_changes(const struct plan *p, const struct plan_constants *c,
                      struct plan_change out[PLAN_CHANGES])
{
    unsigned n = 0;
    struct plan x = *p;
#define CHANGE(text, ...)     \
    do {                      \
        x = *p;               \
        __VA_ARGS__;          \
        out[n].name = (text); \
        out[n++].plan = x;    \
    } while (0)
    if (p->shape->kv_heads >= 2 * p->decoders)
        CHANGE("twice the decoders", x.decoders *= 2);
    CHANGE("twice the threads", x.threads *= 2);
    if (p->link_gbit > 0)
        CHANGE("twice the link", x.link_gbit *= 2);
    CHANGE("twice the nodes", x.nodes *= 2);
    CHANGE("half the budget", x.budget /= 2);
    CHANGE("half the misses", x.hits = (1 + x.hits) / 2);
    if (p->disk_gbps > 0)
        CHANGE("twice the disks' speed", x.disk_gbps *= 2);
    if (!p->lean)
        CHANGE("lean representatives", x.lean = true);
#undef CHANGE
    for (unsigned i = 0; i < n; i++)
        plan_predict(&out[i].plan, c, &out[i].cost);
    qsort(out, n, sizeof *out, by_step);
    return n;
}
