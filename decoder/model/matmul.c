/* matmul.c: see matmul.h. */
#include "decoder/model/matmul.h"

#include <assert.h>
#include <cblas.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "decoder/model/matmul_many.h"
#include "decoder/model/quant.h"
#include "decoder/model/rounded.h"

enum {
    MAX_W = 3,  /* matrices of one call: q, k, v */
    PARTS = 32, /* of matmul_rows, if they have between LEAST and MOST weights: 10 to 40 µs */
    LEAST_WEIGHTS = 1 << 16,
    MOST_WEIGHTS = 1 << 18,
    MANY_WEIGHTS = 1 << 15,   /* of a part for several vectors, which asks for the next one */
    SERIAL_WEIGHTS = 1 << 19, /* below this, waking a thread costs more than it saves */
    SERIAL_FLOATS = 1 << 15,  /* of vectors that take another form: likewise */
    TILE_FLOATS = 1 << 18,    /* a tile of spread weights: 1 MiB, half of a usual L2 */
    TILE_TOKENS = 128,        /* where W is f32 already, tokens are split too */
    TILE_ROWS = 256,
};

void matrix_row(const struct matrix *w, uint32_t row, float *out)
{
    assert(row < w->rows);
    quant_ops(w->type)->to_f32(w->cols, w->data + row * w->row_bytes, out);
}

static int room_grow(struct matmul_room *room, unsigned n, size_t tile_floats)
{
    if (room->n >= n && room->tile_floats >= tile_floats)
        return 0;
    n = n > room->n ? n : room->n;
    tile_floats = tile_floats > room->tile_floats ? (tile_floats + 15) / 16 * 16 : room->tile_floats;
    matmul_room_free(room);
    room->tiles = aligned_alloc(64, n * tile_floats * sizeof *room->tiles);
    if (!room->tiles)
        return -ENOMEM;
    room->n = n;
    room->tile_floats = tile_floats;
    return 0;
}

void matmul_room_free(struct matmul_room *room)
{
    free(room->tiles);
    *room = (struct matmul_room){0};
}

/* ---- by rows ---- */

struct rows_job {
    const struct matmul *w;
    size_t n_w;
    uint32_t n;
    const float *x;
    uint8_t *rounded; /* x in 8 bits: (n, rounded_bytes), if a matrix is multiplied so */
    float *panels;    /* x as matmul_many takes it, if a matrix is multiplied so */
    bool add;
    const struct quant_ops *exact[MAX_W]; /* per matrix: looked up once, not for every few rows */
    rounded_dot *dot[MAX_W];              /* NULL: x is exact */
    uint32_t part_rows[MAX_W];
    unsigned first_part[MAX_W], parts, threads;
    atomic_uint next; /* part that nobody has taken */
};

/* Of matrix i, row r of every x, and rows r + stride … with it where there are n (1 or QUANT_SIDE). */
static void rows_times(const struct rows_job *job, size_t i, uint32_t r, uint32_t stride, unsigned n)
{
    const struct matrix *w = job->w[i].w;
    const uint8_t *row = w->data + r * w->row_bytes;
    for (uint32_t t = 0; t < job->n; t++) {
        const float *x = job->x + (size_t)t * w->cols;
        float y[QUANT_SIDE], *out = job->w[i].y + (size_t)t * w->rows + r;
        if (job->dot[i]) {
            struct rounded q = rounded_at(job->rounded + t * rounded_bytes(w->cols), w->cols);
            job->dot[i](n, w->cols, row, stride * w->row_bytes, &q, y);
        } else if (n == QUANT_SIDE)
            job->exact[i]->dot_side(w->cols, row, stride * w->row_bytes, x, y);
        else
            y[0] = job->exact[i]->dot(w->cols, row, x);
        for (unsigned k = 0; k < n; k++, out += stride)
            *out = job->add ? *out + y[k] : y[k];
    }
}

/* None behind the last. */
static struct matmul_part part_of(const struct rows_job *job, unsigned part)
{
    if (part >= job->parts)
        return (struct matmul_part){0};
    size_t i = job->n_w - 1;
    while (job->first_part[i] > part)
        i--;
    uint32_t from = (part - job->first_part[i]) * job->part_rows[i], rows = job->w[i].w->rows - from;
    return (struct matmul_part){job->w + i, from,
                                from + (rows < job->part_rows[i] ? rows : job->part_rows[i])};
}

static bool by_many(const struct rows_job *job, size_t i)
{
    return job->n >= MANY_LEAST && !job->dot[i];
}

/* A part's rows are taken four at a time, a quarter of the part from each other: four long streams. */
static void rows_part(const struct rows_job *job, struct matmul_part part, struct matmul_part then)
{
    size_t i = (size_t)(part.mul - job->w);
    if (by_many(job, i)) {
        matmul_many(part, then, job->n, job->panels, job->add);
        return;
    }
    uint32_t quarter = (part.to - part.from) / QUANT_SIDE;
    for (uint32_t r = 0; r < quarter; r++)
        rows_times(job, i, part.from + r, quarter, QUANT_SIDE);
    for (uint32_t r = part.from + QUANT_SIDE * quarter; r < part.to; r++)
        rows_times(job, i, r, 0, 1);
}

static struct matmul_part take_part(struct rows_job *job)
{
    return part_of(job, atomic_fetch_add(&job->next, 1));
}

/* A thread takes parts as they come. While enough are left for all, it takes one ahead, so that the part's
 * weights can be asked for. */
static void rows_thread(void *arg, unsigned thread)
{
    (void)thread;
    struct rows_job *job = arg;
    struct matmul_part part, then = take_part(job);
    while ((part = then).mul) {
        bool ahead =
            by_many(job, (size_t)(part.mul - job->w)) && atomic_load(&job->next) + job->threads <= job->parts;
        then = ahead ? take_part(job) : (struct matmul_part){0};
        rows_part(job, part, then);
        then = ahead ? then : take_part(job);
    }
}

/* Of matrix i, where all have so many weights. */
static uint32_t rows_a_part(const struct rows_job *job, size_t i, uint64_t weights)
{
    uint64_t a_part = weights / PARTS, least = LEAST_WEIGHTS / (job->n < 4 ? job->n : 4);
    a_part = a_part < least ? least : a_part > MOST_WEIGHTS ? MOST_WEIGHTS : a_part;
    bool many = by_many(job, i);
    uint32_t rows = (uint32_t)((many ? MANY_WEIGHTS : a_part) / job->w[i].w->cols);
    rows = rows ? rows : 1;
    return many ? (rows + MANY_ROWS - 1) / MANY_ROWS * MANY_ROWS : rows;
}

static void round_one(void *arg, unsigned t)
{
    const struct rows_job *job = arg;
    uint32_t cols = job->w->w->cols;
    struct rounded out = rounded_at(job->rounded + t * rounded_bytes(cols), cols);
    rounded_from_f32(cols, job->x + (size_t)t * cols, &out);
}

static void panel_one(void *arg, unsigned panel)
{
    const struct rows_job *job = arg;
    matmul_panel(job->n, job->w->w->cols, job->x, panel, job->panels);
}

/* Finds each matrix's products, and brings the vectors into the forms that these take. */
static int prepare(struct pool *pool, struct matmul_room *room, enum activations activations,
                   struct rows_job *job)
{
    uint32_t cols = job->w->w->cols;
    bool rounded = false, panels = false;
    for (size_t i = 0; i < job->n_w; i++) {
        uint32_t type = job->w[i].w->type;
        job->exact[i] = quant_ops(type);
        job->dot[i] = activations == ACTIVATIONS_INT8 ? rounded_dot_of(type) : NULL;
        rounded |= job->dot[i] != NULL;
        panels |= by_many(job, i);
    }
    size_t panels_floats = panels ? matmul_panels_floats(job->n, cols) : 0;
    size_t rounded_floats = rounded ? job->n * rounded_bytes(cols) / sizeof(float) : 0;
    if (panels_floats + rounded_floats == 0)
        return 0;
    if (room_grow(room, 1, panels_floats + rounded_floats))
        return -ENOMEM;
    job->rounded = (uint8_t *)room->tiles;
    job->panels = room->tiles + rounded_floats;
    if ((uint64_t)job->n * cols < SERIAL_FLOATS)
        pool = NULL;
    if (panels)
        pool_run(pool, matmul_panels(job->n), panel_one, job);
    if (rounded)
        pool_run(pool, job->n, round_one, job);
    return 0;
}

int matmul_rows(struct pool *pool, struct matmul_room *room, enum activations activations,
                const struct matmul *w, size_t n_w, uint32_t n, const float *x, bool add)
{
    assert(n_w >= 1 && n_w <= MAX_W);
    struct rows_job job = {.w = w, .n_w = n_w, .n = n, .x = x, .add = add};
    uint64_t weights = 0;
    for (size_t i = 0; i < n_w; i++)
        weights += (uint64_t)w[i].w->rows * w[i].w->cols;
    if (weights * n < SERIAL_WEIGHTS)
        pool = NULL;
    if (prepare(pool, room, activations, &job))
        return -ENOMEM;
    for (size_t i = 0; i < n_w; i++) {
        job.part_rows[i] = rows_a_part(&job, i, weights);
        job.first_part[i] = job.parts;
        job.parts += (w[i].w->rows + job.part_rows[i] - 1) / job.part_rows[i];
    }
    job.threads = pool_threads(pool);
    pool_run(pool, job.threads, rows_thread, &job);
    return 0;
}

/* ---- by tiles ---- */

struct tiles_job {
    const struct matmul *w;
    size_t n_w;
    uint32_t n;
    const float *x;
    bool add;
    uint32_t tile_rows[MAX_W], tile_tokens[MAX_W];
    unsigned first_tile[MAX_W], n_tiles;
    atomic_uint next;
    struct matmul_room *room;
};

static unsigned ceil_div(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}

static void one_tile(const struct tiles_job *job, unsigned tile, float *room)
{
    size_t i = job->n_w - 1;
    while (job->first_tile[i] > tile)
        i--;
    const struct matrix *w = job->w[i].w;
    unsigned across = ceil_div(w->rows, job->tile_rows[i]);
    uint32_t row = (tile - job->first_tile[i]) % across * job->tile_rows[i];
    uint32_t token = (tile - job->first_tile[i]) / across * job->tile_tokens[i];
    uint32_t rows = w->rows - row < job->tile_rows[i] ? w->rows - row : job->tile_rows[i];
    uint32_t tokens = job->n - token < job->tile_tokens[i] ? job->n - token : job->tile_tokens[i];
    const float *f32 = w->f32 ? w->f32 + (size_t)row * w->cols : room;
    if (!w->f32)
        for (uint32_t r = 0; r < rows; r++)
            matrix_row(w, row + r, room + (size_t)r * w->cols);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)tokens, (int)rows, (int)w->cols, 1.0f,
                job->x + (size_t)token * w->cols, (int)w->cols, f32, (int)w->cols, job->add ? 1.0f : 0.0f,
                job->w[i].y + (size_t)token * w->rows + row, (int)w->rows);
}

/* A part is a thread with a tile's room of its own; tiles are taken as they come. */
static void tiles_part(void *arg, unsigned part)
{
    struct tiles_job *job = arg;
    for (unsigned tile; (tile = atomic_fetch_add(&job->next, 1)) < job->n_tiles;)
        one_tile(job, tile, job->room->tiles + part * job->room->tile_floats);
}

int matmul_tiles(struct pool *pool, struct matmul_room *room, const struct matmul *w, size_t n_w, uint32_t n,
                 const float *x, bool add)
{
    assert(n_w >= 1 && n_w <= MAX_W);
    struct tiles_job job = {.w = w, .n_w = n_w, .n = n, .x = x, .add = add, .room = room};
    size_t largest = 1;
    for (size_t i = 0; i < n_w; i++) {
        const struct matrix *m = w[i].w;
        uint32_t fitting = TILE_FLOATS / m->cols;
        job.tile_rows[i] = m->f32 ? TILE_ROWS : fitting < 16 ? 16 : fitting > TILE_ROWS ? TILE_ROWS : fitting;
        job.tile_tokens[i] = m->f32 ? TILE_TOKENS : n;
        job.first_tile[i] = job.n_tiles;
        job.n_tiles += ceil_div(m->rows, job.tile_rows[i]) * ceil_div(n, job.tile_tokens[i]);
        if (!m->f32 && (size_t)job.tile_rows[i] * m->cols > largest)
            largest = (size_t)job.tile_rows[i] * m->cols;
    }
    unsigned threads = pool_threads(pool);
    int rc = room_grow(room, threads, largest);
    if (rc == 0)
        pool_run(pool, threads, tiles_part, &job);
    return rc;
}
