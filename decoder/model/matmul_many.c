/* matmul_many.c: see matmul_many.h. A tile of weights is spread to f32 once, and stays in a core's caches
 * while all vectors go by; the next one is on its way from memory meanwhile. */
#include "decoder/model/matmul_many.h"

#include <string.h>

#include "decoder/model/dots.h"
#include "decoder/model/gguf.h"
#include "decoder/model/quant.h"

enum {
    TILE_COLS = 1024,
    OCTET = TILE_COLS / DOTS_OCTETS, /* floats of an octet of a row's lanes; rows lie so far apart */
    MOST_X = 64,                     /* vectors that have sums at a time */
    LINE = 64,
};

/* What all parts have in common. */
struct many {
    const struct matmul *mul;
    uint32_t to, n; /* rows end at; vectors */
    const float *x; /* laid out */
    bool add;
};

/* Memory that will be read next: so many bytes of each of several rows. */
struct ahead {
    const uint8_t *row;
    size_t row_bytes, bytes, at; /* at: of the row; asked for */
    unsigned rows, lines;        /* that are left; of all of them */
};

struct tile {
    const struct quant_ops *quant;
    const struct dots_ops *dots;
    _Alignas(LINE) float row[TILE_COLS]; /* a load across two lines costs twice */
    float w[DOTS_OCTETS * MANY_ROWS * OCTET];
    float sums[DOTS_OCTETS * MANY_ROWS * MOST_X * 8];
};

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* ---- vectors: (columns in tiles, octets, n, OCTET) ---- */

struct layout {
    uint32_t n, cols;
    const float *x;
    float *out;
};

size_t many_floats(uint32_t n, uint32_t cols)
{
    return (size_t)n * ((cols + TILE_COLS - 1) / TILE_COLS * TILE_COLS);
}

static void lay_out_one(void *arg, unsigned t)
{
    const struct layout *l = arg;
    for (uint32_t col = 0; col < l->cols; col += TILE_COLS)
        dots_ops()->lay_out(least(l->cols - col, TILE_COLS), l->x + (size_t)t * l->cols + col,
                            l->out + (size_t)l->n * col + (size_t)t * OCTET, (size_t)l->n * OCTET);
}

void many_lay_out(struct pool *pool, uint32_t n, uint32_t cols, const float *x, float *out)
{
    struct layout l = {n, cols, x, out};
    pool_run(pool, n, lay_out_one, &l);
}

/* ---- rows ---- */

static const uint8_t *weights_at(const struct matrix *m, uint32_t row, uint32_t col)
{
    return m->f32 ? (const uint8_t *)(m->f32 + (size_t)row * m->cols + col)
                  : m->data + row * m->row_bytes + ggml_row_bytes(m->type, col);
}

/* The tile behind this one: further columns, else the next rows; nothing behind the last. */
static struct ahead next_tile(const struct many *all, uint32_t row, uint32_t col)
{
    const struct matrix *m = all->mul->w;
    col += TILE_COLS;
    if (col >= m->cols) {
        col = 0;
        row += least(all->to - row, MANY_ROWS);
    }
    size_t bytes = ggml_row_bytes(m->f32 ? GGML_F32 : m->type, least(m->cols - col, TILE_COLS));
    unsigned rows = least(all->to - row, MANY_ROWS);
    return (struct ahead){.row = weights_at(m, row, col),
                          .row_bytes = m->f32 ? m->cols * sizeof(float) : m->row_bytes,
                          .bytes = bytes,
                          .rows = rows,
                          .lines = rows * (unsigned)((bytes + LINE - 1) / LINE)};
}

/* Asks for the next so many lines. */
static void look_ahead(struct ahead *a, unsigned lines)
{
    for (; lines && a->rows; lines--) {
        __builtin_prefetch(a->row + a->at, 0, 2);
        a->at += LINE;
        if (a->at >= a->bytes) {
            a->at = 0;
            a->row += a->row_bytes;
            a->rows--;
        }
    }
}

static void spread(struct tile *t, const struct matrix *m, uint32_t row, unsigned rows, uint32_t col,
                   uint32_t cols)
{
    for (unsigned r = 0; r < rows; r++) {
        const void *at = weights_at(m, row + r, col);
        if (!m->f32)
            t->quant->to_f32(cols, at, t->row);
        t->dots->lay_out(cols, m->f32 ? at : t->row, t->w + r * OCTET, MANY_ROWS * OCTET);
    }
}

/* Columns [col, col + TILE_COLS) of some rows; vectors [first, first + n). */
static void add_tile(struct tile *t, const struct many *all, uint32_t row, unsigned rows, uint32_t col,
                     uint32_t first, unsigned n)
{
    const struct matrix *m = all->mul->w;
    const float *x = all->x + (size_t)all->n * col + (size_t)first * OCTET;
    uint32_t cols = least(m->cols - col, TILE_COLS);
    size_t len = (cols + 31) / 32 * 8;
    unsigned turns = DOTS_OCTETS * ((n + DOTS_VECTORS - 1) / DOTS_VECTORS);
    struct ahead ahead = next_tile(all, row, col);
    unsigned lines = (ahead.lines + turns - 1) / turns; /* a turn: a few at a time can be under way */
    spread(t, m, row, rows, col, cols);
    for (unsigned octet = 0; octet < DOTS_OCTETS; octet++)
        for (unsigned i = 0; i < n; i += DOTS_VECTORS) {
            look_ahead(&ahead, lines);
            t->dots->add(rows, least(n - i, DOTS_VECTORS), len, t->w + octet * MANY_ROWS * OCTET,
                         x + (size_t)octet * all->n * OCTET + i * OCTET, OCTET,
                         t->sums + ((size_t)octet * rows * n + i) * 8, (size_t)n * 8);
        }
}

static void some_rows(struct tile *t, const struct many *all, uint32_t row, uint32_t first, unsigned n)
{
    const struct matrix *m = all->mul->w;
    unsigned rows = least(all->to - row, MANY_ROWS);
    float out[MANY_ROWS * MOST_X];
    memset(t->sums, 0, (size_t)DOTS_OCTETS * rows * n * 8 * sizeof *t->sums);
    for (uint32_t col = 0; col < m->cols; col += TILE_COLS)
        add_tile(t, all, row, rows, col, first, n);
    t->dots->sum((size_t)rows * n, t->sums, out);
    for (unsigned i = 0; i < n; i++)
        for (unsigned r = 0; r < rows; r++) {
            float *at = &all->mul->y[(size_t)(first + i) * m->rows + row + r], v = out[r * n + i];
            *at = all->add ? *at + v : v;
        }
}

void matmul_many(const struct matmul *mul, uint32_t from, uint32_t to, uint32_t n, const float *x, bool add)
{
    struct tile t; /* some 150 KiB of the stack */
    const struct many all = {mul, to, n, x, add};
    t.quant = quant_ops(mul->w->type);
    t.dots = dots_ops();
    for (uint32_t row = from; row < to; row += MANY_ROWS)
        for (uint32_t first = 0; first < n; first += MOST_X)
            some_rows(&t, &all, row, first, least(n - first, MOST_X));
}
