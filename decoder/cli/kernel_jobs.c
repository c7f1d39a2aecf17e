/* kernel_jobs.c: see kernel_jobs.h. Shapes are those of an 8B model: heads of 128 dims, rows of 4,096
 * weights. A part of the data is made and the rest are copies: what values are is of no matter, as long as
 * they are ordinary. */
#include "decoder/cli/kernel_jobs.h"

#include "common/identity.h"
#include "decoder/kernels/families.h"
#include "decoder/kernels/kernels.h"
#include "decoder/kernels/kv_types.h"
#include "decoder/model/gguf.h"
#include "decoder/model/matmul.h"
#include "decoder/model/quant.h"
#include "decoder/scout/scan_probe.h"
#include "decoder/scoutkv.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    DIMS = 128,                       /* of a head, K and V */
    PAGE_FLOATS = PAGE_TOKENS * DIMS, /* of K, and of V */
    PART_PAGES = 128,                 /* a part of the work: 1 MiB of f16 */
    COLS = 4096,
    MADE_ROWS = 64,
    TOKENS = 256, /* of a prefill tile */
    MAX_ROWS = 8, /* of a group here */
};

static float uniform(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (float)(*seed >> 40) / (float)(1 << 24) - 0.5f;
}

/* Fills `len` bytes at `to` with copies of their first `made`. */
static void repeat(uint8_t *to, size_t made, size_t len)
{
    for (size_t at = made; at < len; at += made)
        memcpy(to + at, to, len - at < made ? len - at : made);
}

/* ---- pages: attention and checksums ---- */

struct pages {
    uint8_t *bytes;
    size_t page_bytes;
    enum skv_dtype type;
    unsigned n_parts;
    unsigned g;
    float q[MAX_ROWS * DIMS];
    float (*out)[MAX_ROWS * DIMS]; /* per part */
    uint64_t *sums;                /* per part */
};

static void pages_free(struct kernel_job *j)
{
    struct pages *p = j->self;
    if (!p)
        return;
    free(p->bytes);
    free(p->out);
    free(p->sums);
    free(p);
}

static void page_make(enum skv_dtype type, uint64_t *seed, uint8_t *page)
{
    float kv[2 * PAGE_FLOATS];
    uint16_t half[2 * PAGE_FLOATS];
    for (unsigned i = 0; i < 2 * PAGE_FLOATS; i++)
        kv[i] = uniform(seed);
    kernels_get()->f32_to_f16(2 * PAGE_FLOATS, kv, half);
    kernels_get()->f16_to_f32(2 * PAGE_FLOATS, half, kv);
    if (type == SKV_F16)
        memcpy(page, half, sizeof half);
    else
        (type == SKV_Q4 ? kv_pack_q4 : kv_pack_q8_0)(DIMS, DIMS, kv, kv + PAGE_FLOATS, page);
}

static int pages_make(struct kernel_job *j, size_t bytes)
{
    struct pages *p = j->self = calloc(1, sizeof *p);
    uint64_t seed = 1;
    if (!p)
        return -ENOMEM;
    p->g = j->g;
    p->type = j->type ? (enum skv_dtype)j->type : SKV_F16;
    p->page_bytes = layout_page_bytes(
        &(struct block_layout){.dtype = (uint8_t)p->type, .d_k = DIMS, .d_v = DIMS, .n_heads = 1});
    size_t part = PART_PAGES * p->page_bytes;
    p->n_parts = (unsigned)(bytes / part ? bytes / part : 1);
    p->bytes = malloc(p->n_parts * part);
    p->out = calloc(p->n_parts, sizeof *p->out);
    p->sums = calloc(p->n_parts, sizeof *p->sums);
    if (!p->bytes || !p->out || !p->sums)
        return -ENOMEM;
    for (unsigned i = 0; i < PART_PAGES; i++)
        page_make(p->type, &seed, p->bytes + i * p->page_bytes);
    repeat(p->bytes, part, p->n_parts * part);
    for (unsigned i = 0; i < MAX_ROWS * DIMS; i++)
        p->q[i] = uniform(&seed) * 0.2f;
    double n_pages = (double)p->n_parts * PART_PAGES;
    j->bytes = n_pages * (double)p->page_bytes;
    j->flops = n_pages * PAGE_TOKENS * 4.0 * DIMS * j->g; /* q·k, and weights by v */
    return 0;
}

static void attend_page(const struct pages *p, const struct kernels *k, const uint8_t *page,
                        const struct pages_ahead *ahead, float *m, float *l, float *o)
{
    float key[PAGE_FLOATS], value[PAGE_FLOATS];
    if (p->type == SKV_F16) {
        k->page_f16(p->g, PAGE_TOKENS, DIMS, DIMS, p->q, (const uint16_t *)page,
                    (const uint16_t *)page + PAGE_FLOATS, ahead, m, l, o);
        return;
    }
    if (p->type == SKV_Q8_0) {
        k->page_q8_0(p->g, PAGE_TOKENS, DIMS, DIMS, p->q, page, ahead, m, l, o);
        return;
    }
    k->unpack_q4(DIMS, DIMS, page, key, value);
    k->page_f32(p->g, PAGE_TOKENS, DIMS, DIMS, p->q, key, value, NULL, m, l, o);
}

/* As a step does: each page's partial, folded into the one before. */
static void attend_part(void *arg, unsigned part)
{
    struct pages *p = arg;
    const struct kernels *k = kernels_get();
    const uint8_t *page = p->bytes + (size_t)part * PART_PAGES * p->page_bytes;
    float M[MAX_ROWS], L[MAX_ROWS] = {0}, m[MAX_ROWS], l[MAX_ROWS], o[MAX_ROWS * DIMS], *O = p->out[part];
    for (unsigned r = 0; r < p->g; r++)
        M[r] = -INFINITY;
    memset(O, 0, sizeof *p->out);
    for (unsigned i = 0; i < PART_PAGES; i++, page += p->page_bytes) {
        struct pages_ahead ahead = {.turn = i};
        for (unsigned j = 0; j < 4; j++)
            ahead.page[j] = page + (i + 1 + j < PART_PAGES ? 1 + j : 0) * p->page_bytes;
        attend_page(p, k, page, &ahead, m, l, o);
        k->merge(p->g, DIMS, M, L, O, m, l, o);
    }
}

static void attend(struct kernel_job *j, struct pool *pool)
{
    struct pages *p = j->self;
    pool_run(pool, p->n_parts, attend_part, p);
}

static void sum_part(void *arg, unsigned part)
{
    struct pages *p = arg;
    const struct block_key key = {.layer = part};
    const uint8_t *page = p->bytes + (size_t)part * PART_PAGES * p->page_bytes;
    for (unsigned i = 0; i < PART_PAGES; i++)
        p->sums[part] += page_checksum(&key, i, 0, page + i * p->page_bytes, p->page_bytes);
}

static void sum(struct kernel_job *j, struct pool *pool)
{
    struct pages *p = j->self;
    pool_run(pool, p->n_parts, sum_part, p);
}

/* ---- the scout's scan ---- */

static int scan_make(struct kernel_job *j, size_t bytes)
{
    j->self = scan_probe_new((enum reps_kind)j->type, DIMS, j->g, bytes);
    j->bytes = j->self ? (double)scan_probe_bytes(j->self) : 0;
    return j->self ? 0 : -ENOMEM;
}

static void scan(struct kernel_job *j, struct pool *pool)
{
    scan_probe_pass(j->self, pool);
}

static void scan_free(struct kernel_job *j)
{
    scan_probe_free(j->self);
}

/* ---- weights: one vector, and a tile of tokens ---- */

struct weights {
    struct matrix w;
    uint8_t *data;
    float *x, *y; /* (tokens, COLS), (tokens, rows) */
    uint32_t tokens;
    enum activations activations;
    struct matmul_room room;
};

static void weights_free(struct kernel_job *j)
{
    struct weights *s = j->self;
    if (!s)
        return;
    matmul_room_free(&s->room);
    free(s->data);
    free(s->x);
    free(s->y);
    free(s);
}

static int weights_make(struct kernel_job *j, size_t bytes, uint32_t tokens)
{
    struct weights *s = j->self = calloc(1, sizeof *s);
    uint64_t seed = 2;
    size_t row_bytes = (size_t)ggml_row_bytes(j->type, COLS), rows = bytes / row_bytes;
    rows = rows < MADE_ROWS ? MADE_ROWS : rows;
    if (!s)
        return -ENOMEM;
    s->tokens = tokens;
    s->data = malloc(rows * row_bytes);
    s->x = malloc((size_t)tokens * COLS * sizeof *s->x);
    s->y = malloc(tokens * rows * sizeof *s->y);
    if (!s->data || !s->x || !s->y)
        return -ENOMEM;
    s->w = (struct matrix){
        .data = s->data, .row_bytes = row_bytes, .type = j->type, .rows = (uint32_t)rows, .cols = COLS};
    for (size_t r = 0; r < MADE_ROWS; r++) {
        for (unsigned i = 0; i < COLS; i++)
            s->x[i] = uniform(&seed);
        quant_from_f32(j->type, COLS, s->x, s->data + r * row_bytes);
    }
    repeat(s->data, MADE_ROWS * row_bytes, rows * row_bytes);
    for (size_t i = 0; i < (size_t)tokens * COLS; i++)
        s->x[i] = uniform(&seed);
    if (j->type == GGML_F32 && tokens > 1)
        s->w.f32 = (const float *)s->data;
    j->bytes = (double)rows * (double)row_bytes;
    j->flops = 2.0 * (double)rows * COLS * tokens;
    return 0;
}

static int gemv_make(struct kernel_job *j, size_t bytes)
{
    return weights_make(j, bytes, 1);
}

static void gemv(struct kernel_job *j, struct pool *pool)
{
    struct weights *s = j->self;
    struct matmul m = {&s->w, s->y};
    (void)matmul_rows(pool, &s->room, s->activations, &m, 1, s->tokens, s->x, false);
}

/* The same with activations rounded to 8 bits. */
static int gemv_int8_make(struct kernel_job *j, size_t bytes)
{
    int rc = weights_make(j, bytes, 1);
    if (!rc)
        ((struct weights *)j->self)->activations = ACTIVATIONS_INT8;
    j->flops = 0; /* integers */
    return rc;
}

/* Vectors of a batch, each with the bits of gemv. */
static int gemv16_make(struct kernel_job *j, size_t bytes)
{
    return weights_make(j, bytes / 4, 16);
}

/* So many weights that a pass takes as long as the others. */
static int gemm_make(struct kernel_job *j, size_t bytes)
{
    size_t most = (size_t)1024 * ggml_row_bytes(j->type, COLS);
    return weights_make(j, bytes < most ? bytes : most, TOKENS);
}

static void gemm(struct kernel_job *j, struct pool *pool)
{
    struct weights *s = j->self;
    struct matmul m = {&s->w, s->y};
    (void)matmul_tiles(pool, &s->room, &m, 1, s->tokens, s->x, false);
}

/* ---- the table ---- */

#define ATTENTION(n)                                                                                 \
    {                                                                                                \
        .name = "attention_g" #n, .about = "attention of pages of f16, " #n " query rows a KV head", \
        .make = pages_make, .pass = attend, .free = pages_free, .g = n                               \
    }
#define PACKED(type_name, number)                                                                   \
    {                                                                                               \
        .name = "attention_" type_name,                                                             \
        .about = "attention of pages of " type_name ", 4 query rows a KV head", .make = pages_make, \
        .pass = attend, .free = pages_free, .g = 4, .type = number                                  \
    }
#define SCAN(n, kind_name, kind)                                                              \
    {                                                                                         \
        .name = "scan_" kind_name "_g" #n,                                                    \
        .about = "scout's scan of " kind_name " representatives, int8 by 4 bit, " #n " rows", \
        .make = scan_make, .pass = scan, .free = scan_free, .g = n, .type = kind              \
    }
#define WEIGHTS(what, by, type_name, number, text)                                                         \
    {                                                                                                      \
        .name = #what "_" type_name, .about = text, .make = what##_make, .pass = by, .free = weights_free, \
        .type = number                                                                                     \
    }
#define GEMV(type_name, number) WEIGHTS(gemv, gemv, type_name, number, "one vector by weights")
#define GEMV_INT8(type_name, number) \
    WEIGHTS(gemv_int8, gemv, type_name, number, "one vector, rounded to 8 bits, by weights")
#define GEMV16(type_name, number) \
    WEIGHTS(gemv16, gemv, type_name, number, "16 vectors by weights, as one by one")
#define GEMM(type_name, number) WEIGHTS(gemm, gemm, type_name, number, "256 vectors by weights")

static int sums_make(struct kernel_job *j, size_t bytes)
{
    int rc = pages_make(j, bytes);
    j->flops = 0;
    return rc;
}

static const struct kernel_job jobs[] = {
    ATTENTION(1),
    ATTENTION(4),
    ATTENTION(8),
    PACKED("q8_0", SKV_Q8_0),
    PACKED("q4", SKV_Q4),
    SCAN(1, "block", REPS_BLOCK),
    SCAN(4, "block", REPS_BLOCK),
    SCAN(8, "block", REPS_BLOCK),
    SCAN(1, "page", REPS_PAGE),
    SCAN(4, "page", REPS_PAGE),
    SCAN(8, "page", REPS_PAGE),
    GEMV("f32", GGML_F32),
    GEMV("f16", GGML_F16),
    GEMV("bf16", GGML_BF16),
    GEMV("q8_0", GGML_Q8_0),
    GEMV("q6_k", GGML_Q6_K),
    GEMV("q4_k", GGML_Q4_K),
    GEMV("q4_0", GGML_Q4_0),
    GEMV_INT8("q8_0", GGML_Q8_0),
    GEMV_INT8("q6_k", GGML_Q6_K),
    GEMV_INT8("q4_k", GGML_Q4_K),
    GEMV_INT8("q4_0", GGML_Q4_0),
    GEMV16("f16", GGML_F16),
    GEMV16("q8_0", GGML_Q8_0),
    GEMM("f32", GGML_F32),
    GEMM("f16", GGML_F16),
    GEMM("q8_0", GGML_Q8_0),
    {.name = "checksum",
     .about = "checksums of pages of 8 KiB",
     .make = sums_make,
     .pass = sum,
     .free = pages_free},
    {0},
};
_Static_assert(sizeof jobs <= KERNEL_JOBS * sizeof jobs[0], "the caller's table is too small");

void kernel_jobs(struct kernel_job out[KERNEL_JOBS])
{
    memcpy(out, jobs, sizeof jobs);
}
