/* matmul_scaled.c: several vectors by rows of Q8_0 or Q4_0; see matmul_many.h. Some rows and a few vectors,
 * of as many columns as fit a core's first cache, are multiplied at a time. */
#include "decoder/model/matmul_many.h"

#include <string.h>

#include "decoder/model/gguf.h"
#include "decoder/model/quant.h"

enum { ROWS = 16, COLS = 512, MOST_X = 64 };

bool scaled_take(const struct matrix *m, uint32_t n)
{
    return n >= QUANT_VECTORS && quant_ops(m->type)->lanes_add;
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* sums (rows, n, 8) */
static void add_columns(const struct matrix *m, uint32_t row, unsigned rows, uint32_t col, unsigned n,
                        const float *x, float *sums)
{
    const struct quant_ops *ops = quant_ops(m->type);
    const uint8_t *at = m->data + row * m->row_bytes + ggml_row_bytes(m->type, col);
    uint32_t cols = least(m->cols - col, COLS);
    for (unsigned i = 0; i < n; i += QUANT_VECTORS)
        for (unsigned r = 0; r < rows; r++)
            ops->lanes_add(cols, at + r * m->row_bytes, least(n - i, QUANT_VECTORS),
                           x + (size_t)i * m->cols + col, m->cols, sums + ((size_t)r * n + i) * 8);
}

static void some_rows(const struct matmul *mul, uint32_t row, unsigned rows, uint32_t first, unsigned n,
                      const float *x, bool add)
{
    const struct matrix *m = mul->w;
    float sums[ROWS * MOST_X * 8], out[MOST_X];
    memset(sums, 0, (size_t)rows * n * 8 * sizeof *sums);
    for (uint32_t col = 0; col < m->cols; col += COLS)
        add_columns(m, row, rows, col, n, x + (size_t)first * m->cols, sums);
    for (unsigned r = 0; r < rows; r++) {
        quant_ops(m->type)->lanes_sum(n, sums + (size_t)r * n * 8, out);
        for (unsigned i = 0; i < n; i++) {
            float *y = &mul->y[(size_t)(first + i) * m->rows + row + r];
            *y = add ? *y + out[i] : out[i];
        }
    }
}

void matmul_scaled(const struct matmul *mul, uint32_t from, uint32_t to, uint32_t n, const float *x, bool add)
{
    for (uint32_t row = from; row < to; row += ROWS)
        for (uint32_t first = 0; first < n; first += MOST_X)
            some_rows(mul, row, least(to - row, ROWS), first, least(n - first, MOST_X), x, add);
}
