/* matmul_many.c: see matmul_many.h. A tile of weights stays in a core's caches while all vectors go by. Where
 * it is used as it lies, it is wide, and the processor foresees the next one. Where it is spread to f32
 * first, it must leave room for that, and the next one is asked for meanwhile. */
#include "decoder/model/matmul_many.h"

#include <string.h>

#include "decoder/model/dots.h"
#include "decoder/model/gguf.h"
#include "decoder/model/quant.h"

enum {
    WIDE = 2048,      /* columns of a tile of weights as they lie; so far apart are vectors */
    TILE_COLS = 512,  /* of one that is spread */
    MOST_X = 64,      /* vectors that have sums at a time */
    BEGINNING = 1024, /* bytes */
    LINE = 64,
};

/* What all parts have in common. */
struct many {
    const struct matmul *mul;
    uint32_t to, n; /* rows end at; vectors */
    const float *x;
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
    dots_add *straight;                            /* NULL: they are spread first, */
    _Alignas(LINE) float w[MANY_ROWS * TILE_COLS]; /* to here: a load across two lines costs twice */
    float sums[MOST_X][MANY_ROWS * QUANT_LANES], last[MOST_X][QUANT_LANES];
};

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static const uint8_t *weights_at(const struct matrix *m, uint32_t row, uint32_t col)
{
    return m->f32 ? (const uint8_t *)(m->f32 + (size_t)row * m->cols + col)
                  : m->data + row * m->row_bytes + ggml_row_bytes(m->type, col);
}

/* Columns of the tile that begins at one: all lanes of them, but for the last few. */
static uint32_t tile_cols(const struct tile *t, uint32_t left)
{
    uint32_t whole = least(left, t->straight ? WIDE : TILE_COLS) / QUANT_LANES * QUANT_LANES;
    return whole ? whole : left;
}

/* What to ask for of the tile behind this one (further columns, else the next rows): all of it if it will be
 * spread, else where its rows begin, since from there on the processor foresees them. Nothing behind the
 * last. */
static struct ahead next_tile(const struct tile *t, const struct many *all, uint32_t row, uint32_t col)
{
    const struct matrix *m = all->mul->w;
    if (col >= m->cols) {
        col = 0;
        row += least(all->to - row, MANY_ROWS);
    }
    unsigned rows = least(all->to - row, MANY_ROWS);
    size_t bytes = ggml_row_bytes(m->f32 ? GGML_F32 : m->type, tile_cols(t, m->cols - col));
    if (t->straight && bytes > BEGINNING)
        bytes = BEGINNING;
    return (struct ahead){.row = weights_at(m, row, col),
                          .row_bytes = m->f32 ? m->cols * sizeof(float) : m->row_bytes,
                          .bytes = bytes,
                          .rows = rows,
                          .lines = rows * (unsigned)((bytes + LINE - 1) / LINE)};
}

/* Asks for the next so many lines. */
static void look_ahead(struct ahead *a, size_t lines)
{
    while (lines && a->rows) {
        size_t left = (a->bytes - a->at + LINE - 1) / LINE, now = lines < left ? lines : left;
        for (const uint8_t *p = a->row + a->at, *end = p + now * LINE; p < end; p += LINE)
            __builtin_prefetch(p, 0, 2);
        lines -= now;
        a->at += now * LINE;
        if (now == left) {
            a->at = 0;
            a->row += a->row_bytes;
            a->rows--;
        }
    }
}

/* Columns [col, col + cols) of some rows as f32, zeros behind the last few. */
static void spread(struct tile *t, const struct matrix *m, uint32_t row, unsigned rows, uint32_t col,
                   uint32_t cols)
{
    for (unsigned r = 0; r < rows; r++) {
        float *w = t->w + r * TILE_COLS;
        t->quant->to_f32(cols, weights_at(m, row + r, col), w);
        for (uint32_t i = cols; i < QUANT_LANES; i++)
            w[i] = 0;
    }
}

/* The last few columns of n vectors from x on, `stride` apart; zeros behind them. */
static void copy_last(struct tile *t, const float *x, size_t stride, uint32_t cols, unsigned n)
{
    memset(t->last, 0, sizeof t->last);
    for (unsigned i = 0; i < n; i++, x += stride)
        memcpy(t->last[i], x, cols * sizeof *x);
}

/* A tile by vectors [first, first + n). */
static void add_tile(struct tile *t, const struct many *all, uint32_t row, unsigned rows, uint32_t col,
                     uint32_t cols, uint32_t first, unsigned n)
{
    const struct matrix *m = all->mul->w;
    const float *x = all->x + (size_t)first * m->cols + col;
    const uint8_t *w = weights_at(m, row, col);
    size_t x_stride = m->cols, w_bytes = m->f32 ? m->cols * sizeof(float) : m->row_bytes;
    dots_add *add = t->straight;
    if (!add || cols < QUANT_LANES) {
        spread(t, m, row, rows, col, cols);
        w = (const uint8_t *)t->w;
        w_bytes = TILE_COLS * sizeof *t->w;
        add = t->dots->f32;
    }
    struct ahead ahead = next_tile(t, all, row, col + cols);
    if (cols < QUANT_LANES) {
        copy_last(t, x, x_stride, cols, n);
        x = t->last[0];
        x_stride = cols = QUANT_LANES;
    }
    unsigned lines = ahead.lines / (1 + rows * n / DOTS_PRODUCTS) + 1; /* a few at a time can be under way */
    for (unsigned i = 0; i < n; i += DOTS_VECTORS) {
        unsigned vectors = least(n - i, DOTS_VECTORS), together = DOTS_PRODUCTS / vectors;
        for (unsigned r = 0; r < rows; r += together) {
            look_ahead(&ahead, lines);
            add(col == 0, least(rows - r, together), vectors, cols, w + r * w_bytes, w_bytes,
                x + i * x_stride, x_stride, t->sums[i] + r * QUANT_LANES, MANY_ROWS * QUANT_LANES);
        }
    }
}

static void some_rows(struct tile *t, const struct many *all, uint32_t row, uint32_t first, unsigned n)
{
    const struct matrix *m = all->mul->w;
    unsigned rows = least(all->to - row, MANY_ROWS);
    for (uint32_t col = 0, cols; col < m->cols; col += cols) {
        cols = tile_cols(t, m->cols - col);
        add_tile(t, all, row, rows, col, cols, first, n);
    }
    for (unsigned i = 0; i < n; i++) {
        float out[MANY_ROWS], *y = all->mul->y + (size_t)(first + i) * m->rows + row;
        t->dots->sum(rows, t->sums[i], all->add ? out : y);
        for (unsigned r = 0; all->add && r < rows; r++)
            y[r] += out[r];
    }
}

void matmul_many(const struct matmul *mul, uint32_t from, uint32_t to, uint32_t n, const float *x, bool add)
{
    struct tile t; /* some 25 KiB of the stack */
    const struct many all = {mul, to, n, x, add};
    uint32_t type = mul->w->f32 ? (uint32_t)GGML_F32 : mul->w->type;
    t.quant = quant_ops(type);
    t.dots = dots_ops();
    t.straight = dots_of_type(t.dots, type);
    for (uint32_t row = from; row < to; row += MANY_ROWS)
        for (uint32_t first = 0; first < n; first += MOST_X)
            some_rows(&t, &all, row, first, least(n - first, MOST_X));
}
