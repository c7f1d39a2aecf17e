/* dots.c: the portable family and the choice of one; see dots.h. */
#include "decoder/model/dots.h"

#include <string.h>

#include "decoder/kernels/kernels.h"

static void lay_out(size_t cols, const float *row, float *out, size_t stride)
{
    for (size_t i = 0; i < cols / 32; i++)
        for (unsigned j = 0; j < DOTS_OCTETS; j++)
            memcpy(out + j * stride + 8 * i, row + 32 * i + 8 * j, 8 * sizeof *out);
    for (size_t i = cols / 32 * 32; i < (cols + 31) / 32 * 32; i++)
        out[i / 8 % 4 * stride + i / 32 * 8 + i % 8] = i < cols ? row[i] : 0;
}

static void add(unsigned rows, unsigned n, size_t len, const float *w, const float *x, size_t stride,
                float *sums, size_t sums_stride)
{
    for (unsigned r = 0; r < rows; r++)
        for (unsigned t = 0; t < n; t++) {
            float *sum = sums + r * sums_stride + t * 8;
            for (size_t i = 0; i < len; i += 8)
                for (unsigned j = 0; j < 8; j++)
                    sum[j] += w[r * stride + i + j] * x[t * stride + i + j];
        }
}

/* The tree of quant.c's dot. */
static void sum(size_t n, const float *sums, float *out)
{
    for (size_t i = 0; i < n; i++, sums += 8) {
        float v[8];
        for (unsigned j = 0; j < 8; j++)
            v[j] = (sums[j] + sums[8 * n + j]) + (sums[16 * n + j] + sums[24 * n + j]);
        for (unsigned j = 0; j < 4; j++)
            v[j] += v[4 + j];
        out[i] = (v[0] + v[2]) + (v[1] + v[3]);
    }
}

const struct dots_ops dots_portable = {lay_out, add, sum};

static const struct dots_ops *of_family(const struct kernels *kernels)
{
    return strcmp(kernels->name, "portable") == 0 ? &dots_portable : &dots_avx2;
}

const struct dots_ops *dots_ops_named(const char *family)
{
    const struct kernels *kernels = kernels_named(family);
    return kernels ? of_family(kernels) : NULL;
}

const struct dots_ops *dots_ops(void)
{
    return of_family(kernels_get());
}
