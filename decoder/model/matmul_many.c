/* matmul_many.c: see matmul_many.h. A tile of weights stays in a core's caches while all panels go by, and
 * the next one is asked for meanwhile. Types that have no products of their own are spread to f32 first. */
#include "decoder/model/matmul_many.h"

#include <string.h>

#include "decoder/model/dots.h"
#include "decoder/model/gguf.h"
#include "decoder/model/quant.h"

enum {
    WIDE = 1024,     /* columns of a tile of weights as they lie */
    TILE_COLS = 512, /* of one that is spread */
    MOST_X = 64,     /* vectors that have sums at a time: whole panels */
    LINE = 64,
};

/* What a call is given. */
struct many {
    struct matmul_part part, then;
    uint32_t n; /* vectors */
    const float *panels;
    bool add;
};

struct tile {
    const struct quant_ops *quant;
    const struct dots_ops *dots;
    dots_add *straight;                            /* NULL: they are spread first, */
    _Alignas(LINE) float w[MANY_ROWS * TILE_COLS]; /* to here: a load across two lines costs twice */
    float sums[MOST_X][MANY_ROWS * QUANT_LANES];
};

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint32_t padded(uint32_t cols)
{
    return (cols + QUANT_LANES - 1) / QUANT_LANES * QUANT_LANES;
}

uint32_t matmul_panels(uint32_t n)
{
    return (n + DOTS_VECTORS - 1) / DOTS_VECTORS;
}

size_t matmul_panels_floats(uint32_t n, uint32_t cols)
{
    return (size_t)n * padded(cols);
}

void matmul_panel(uint32_t n, uint32_t cols, const float *x, uint32_t panel, float *out)
{
    uint32_t first = panel * DOTS_VECTORS, vectors = least(n - first, DOTS_VECTORS);
    uint32_t whole = cols / QUANT_LANES * QUANT_LANES;
    out += (size_t)first * padded(cols);
    x += (size_t)first * cols;
    for (uint32_t i = 0; i < whole; i += QUANT_LANES) /* of a fixed size, a copy is moves, not a call */
        for (uint32_t t = 0; t < vectors; t++, out += QUANT_LANES)
            memcpy(out, x + (size_t)t * cols + i, QUANT_LANES * sizeof *x);
    for (uint32_t t = 0; whole < cols && t < vectors; t++, out += QUANT_LANES) {
        memset(out, 0, QUANT_LANES * sizeof *out);
        memcpy(out, x + (size_t)t * cols + whole, (cols - whole) * sizeof *x);
    }
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

/* The tile behind one: of further columns, else of the next rows. */
struct behind {
    struct dots_ahead row;
    size_t row_bytes;
    unsigned rows; /* 0: there is none */
};

static size_t row_bytes(const struct matrix *m)
{
    return m->f32 ? m->cols * sizeof(float) : m->row_bytes;
}

static struct behind behind(const struct many *all, uint32_t row, uint32_t next_col)
{
    struct matmul_part next = {all->part.mul, row, all->part.to};
    uint32_t col = next_col;
    if (next_col >= next.mul->w->cols) {
        col = 0;
        next.from += MANY_ROWS;
        next = next.from < next.to ? next : all->then;
    }
    if (!next.mul)
        return (struct behind){.row = {weights_at(all->part.mul->w, row, 0), 0}};
    const struct matrix *m = next.mul->w;
    size_t bytes = row_bytes(m);
    return (struct behind){.row = {weights_at(m, next.from, col), bytes * DOTS_STRIDE / m->cols},
                           .row_bytes = bytes,
                           .rows = least(next.to - next.from, MANY_ROWS)};
}

/* One row after the other; after the last, the same one again. */
static struct dots_ahead take_row(struct behind *b)
{
    struct dots_ahead row = b->row;
    if (b->rows > 1) {
        b->rows--;
        b->row.at += b->row_bytes;
    }
    return row;
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

/* A tile by vectors [first, first + n). */
static void add_tile(struct tile *t, const struct many *all, uint32_t row, unsigned rows, uint32_t col,
                     uint32_t cols, uint32_t first, unsigned n)
{
    const struct matrix *m = all->part.mul->w;
    const float *panel = all->panels + (size_t)first * padded(m->cols);
    const uint8_t *w = weights_at(m, row, col);
    size_t w_bytes = row_bytes(m);
    dots_add *add = t->straight;
    if (!add || cols < QUANT_LANES) {
        spread(t, m, row, rows, col, cols);
        w = (const uint8_t *)t->w;
        w_bytes = TILE_COLS * sizeof *t->w;
        add = t->dots->f32;
    }
    struct behind next = behind(all, row, col + cols);
    for (unsigned i = 0; i < n; i += DOTS_VECTORS) {
        unsigned vectors = least(n - i, DOTS_VECTORS), together = DOTS_PRODUCTS / vectors;
        for (unsigned r = 0; r < rows; r += together)
            add(col == 0, least(rows - r, together), vectors, padded(cols), w + r * w_bytes, w_bytes,
                panel + (size_t)col * vectors, t->sums[i] + r * QUANT_LANES, MANY_ROWS * QUANT_LANES,
                take_row(&next));
        panel += (size_t)vectors * padded(m->cols);
    }
}

static void some_rows(struct tile *t, const struct many *all, uint32_t row, uint32_t first, unsigned n)
{
    const struct matrix *m = all->part.mul->w;
    unsigned rows = least(all->part.to - row, MANY_ROWS);
    for (uint32_t col = 0, cols; col < m->cols; col += cols) {
        cols = tile_cols(t, m->cols - col);
        add_tile(t, all, row, rows, col, cols, first, n);
    }
    for (unsigned i = 0; i < n; i++) {
        float out[MANY_ROWS], *y = all->part.mul->y + (size_t)(first + i) * m->rows + row;
        t->dots->sum(rows, t->sums[i], all->add ? out : y);
        for (unsigned r = 0; all->add && r < rows; r++)
            y[r] += out[r];
    }
}

void matmul_many(struct matmul_part part, struct matmul_part then, uint32_t n, const float *panels, bool add)
{
    struct tile t; /* some 48 KiB of the stack */
    const struct many all = {part, then, n, panels, add};
    uint32_t type = part.mul->w->f32 ? (uint32_t)GGML_F32 : part.mul->w->type;
    t.quant = quant_ops(type);
    t.dots = dots_ops();
    t.straight = dots_of_type(t.dots, type);
    for (uint32_t row = part.from; row < part.to; row += MANY_ROWS)
        for (uint32_t first = 0; first < n; first += MOST_X)
            some_rows(&t, &all, row, first, least(n - first, MOST_X));
}
