/* portable.c: the reference family, plain C for any CPU.
 *
 * Sums run in 8 lanes (element i into lane i % 8) that are added at the end in one fixed tree, as the vector
 * families do it: compilers vectorise these loops without being allowed to reorder floats. Inputs may lie at
 * any address: they are copied, never dereferenced as their type. */
#include "decoder/kernels/families.h"
#include "decoder/kernels/explog.h"

#include <assert.h>
#include <math.h>

enum { LANES = 8 };

static float lanes_sum(const float a[LANES])
{
    return ((a[0] + a[1]) + (a[2] + a[3])) + ((a[4] + a[5]) + (a[6] + a[7]));
}

/* ---- conversions ---- */

static float half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 0x3ff;
    if (exponent == 31) /* infinity; NaN becomes quiet */
        return float_from_bits(sign | 0x7f800000 | mantissa << 13 | (mantissa ? 0x400000 : 0));
    if (exponent == 0) /* zero and subnormals: mantissa·2^-24, exact */
        return float_from_bits(sign | float_bits((float)mantissa * 0x1p-24f));
    return float_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

static uint16_t half_from_float(float f)
{
    uint32_t u = float_bits(f), sign = u >> 16 & 0x8000, magnitude = u & 0x7fffffff;
    if (magnitude > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x1ff));
    if (magnitude >= 0x477ff000) /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000) { /* subnormal: let the adder round to units of 2^-24 */
        float units = float_from_bits(magnitude) + 0.5f;
        return (uint16_t)(sign | (float_bits(units) - float_bits(0.5f)));
    }
    uint32_t odd = magnitude >> 13 & 1;
    return (uint16_t)(sign | (magnitude - 0x38000000 + 0xfff + odd) >> 13);
}

static void silu(size_t n, float *gate, const float *up)
{
    for (size_t i = 0; i < n; i++)
        gate[i] = gate[i] / (1.0f + exp_portable(-gate[i])) * up[i];
}

static void f16_to_f32(size_t n, const uint16_t *in, float *out)
{
    const char *src = (const char *)in;
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, src + 2 * i, 2);
        float f = half_to_float(h);
        memcpy((char *)out + 4 * i, &f, 4);
    }
}

static void f32_to_f16(size_t n, const float *in, uint16_t *out)
{
    for (size_t i = 0; i < n; i++) {
        float f;
        memcpy(&f, (const char *)in + 4 * i, 4);
        uint16_t h = half_from_float(f);
        memcpy((char *)out + 2 * i, &h, 2);
    }
}

/* ---- attention ---- */

static float dot(size_t n, const float *a, const float *b)
{
    float acc[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        float x[LANES], y[LANES];
        memcpy(x, (const char *)a + 4 * i, sizeof x);
        memcpy(y, (const char *)b + 4 * i, sizeof y);
        for (unsigned j = 0; j < LANES; j++)
            acc[j] += x[j] * y[j];
    }
    if (i < n) {
        float x[LANES] = {0}, y[LANES] = {0};
        memcpy(x, (const char *)a + 4 * i, 4 * (n - i));
        memcpy(y, (const char *)b + 4 * i, 4 * (n - i));
        for (unsigned j = 0; j < LANES; j++)
            acc[j] += x[j] * y[j];
    }
    return lanes_sum(acc);
}

/* Where exp's argument is measured from: an all -inf row has no mass, not NaN. */
static float shift_of(float max)
{
    return max == -INFINITY ? 0.0f : max;
}

static float row_max(size_t n, const float *x)
{
    float max = -INFINITY;
    for (size_t i = 0; i < n; i++)
        max = x[i] > max ? x[i] : max;
    return max;
}

/* s (16) holds a row's n scores: becomes weights, 0 beyond n. */
static void page_weights(unsigned n, float s[PAGE_MAX_TOKENS], float *m, float *l)
{
    float max = row_max(n, s);
    float lanes[LANES] = {0};
    for (unsigned t = 0; t < PAGE_MAX_TOKENS; t++) {
        s[t] = t < n ? exp_portable(s[t] - shift_of(max)) : 0.0f;
        lanes[t % LANES] += s[t];
    }
    *m = max;
    *l = lanes_sum(lanes);
}

static void add_weighted(size_t n, float w, const float *v, float *o)
{
    for (size_t i = 0; i < n; i++)
        o[i] += w * v[i];
}

/* Fills a tile with n f32 from f16 or f32 at any address. */
typedef void tile_fn(size_t n, const void *in, float *tile);
static void tile_f16(size_t n, const void *in, float *tile)
{
    f16_to_f32(n, in, tile);
}
static void tile_f32(size_t n, const void *in, float *tile)
{
    memcpy(tile, in, n * sizeof *tile);
}

static void page(tile_fn *fill, unsigned g, unsigned n, unsigned d_k, unsigned d_v, const float *q,
                 const void *k, const void *v, float *m, float *l, float *o)
{
    assert(g <= GROUP_MAX_ROWS && n <= PAGE_MAX_TOKENS && d_k <= HEAD_MAX_DIMS && d_v <= HEAD_MAX_DIMS);
    float tile[PAGE_MAX_TOKENS * HEAD_MAX_DIMS]; /* (n, d_k), then (n, d_v) */
    float s[GROUP_MAX_ROWS][PAGE_MAX_TOKENS];
    fill((size_t)n * d_k, k, tile);
    for (unsigned r = 0; r < g; r++) {
        for (unsigned t = 0; t < n; t++)
            s[r][t] = dot(d_k, q + (size_t)r * d_k, tile + (size_t)t * d_k);
        page_weights(n, s[r], &m[r], &l[r]);
    }
    fill((size_t)n * d_v, v, tile);
    memset(o, 0, (size_t)g * d_v * sizeof *o);
    for (unsigned r = 0; r < g; r++)
        for (unsigned t = 0; t < n; t++)
            add_weighted(d_v, s[r][t], tile + (size_t)t * d_v, o + (size_t)r * d_v);
}

static void page_f16(unsigned g, unsigned n, unsigned d_k, unsigned d_v, const float *q, const uint16_t *k,
                     const uint16_t *v, const struct pages_ahead *ahead, float *m, float *l, float *o)
{
    (void)ahead;
    page(tile_f16, g, n, d_k, d_v, q, k, v, m, l, o);
}

static void page_f32(unsigned g, unsigned n, unsigned d_k, unsigned d_v, const float *q, const float *k,
                     const float *v, const struct pages_ahead *ahead, float *m, float *l, float *o)
{
    (void)ahead;
    page(tile_f32, g, n, d_k, d_v, q, k, v, m, l, o);
}

static void page_q8_0(unsigned g, unsigned n, unsigned d_k, unsigned d_v, const float *q,
                      const uint8_t *bytes, const struct pages_ahead *ahead, float *m, float *l, float *o)
{
    float k[PAGE_MAX_TOKENS * HEAD_MAX_DIMS], v[PAGE_MAX_TOKENS * HEAD_MAX_DIMS];
    (void)ahead;
    unpack_q8_0_portable(d_k, d_v, bytes, k, v);
    page(tile_f32, g, n, d_k, d_v, q, k, v, m, l, o);
}

static void merge(unsigned g, unsigned d_v, float *M, float *L, float *O, const float *m, const float *l,
                  const float *o)
{
    for (unsigned r = 0; r < g; r++, O += d_v, o += d_v) {
        if (m[r] == -INFINITY)
            continue; /* nothing was attended */
        float max = m[r] > M[r] ? m[r] : M[r];
        float a = exp_portable(M[r] - max), b = exp_portable(m[r] - max);
        M[r] = max;
        L[r] = L[r] * a + l[r] * b;
        for (unsigned i = 0; i < d_v; i++)
            O[i] = O[i] * a + o[i] * b;
    }
}

static double exp_sum(size_t n, float *x, float max)
{
    double acc[LANES] = {0};
    float shift = shift_of(max);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (unsigned j = 0; j < LANES; j++) {
            x[i + j] = exp_portable(x[i + j] - shift);
            acc[j] += (double)x[i + j];
        }
    for (unsigned j = 0; i < n; i++, j++) {
        x[i] = exp_portable(x[i] - shift);
        acc[j] += (double)x[i];
    }
    return ((acc[0] + acc[1]) + (acc[2] + acc[3])) + ((acc[4] + acc[5]) + (acc[6] + acc[7]));
}

static void softmax_tile(unsigned rows, unsigned ld, unsigned width, const uint32_t *cols, float *s, float *m,
                         float *l)
{
    for (unsigned r = 0; r < rows; r++, s += ld) {
        assert(cols[r] <= width && width <= ld);
        float max = row_max(cols[r], s);
        float lanes[LANES] = {0};
        for (unsigned c = 0; c < cols[r]; c++) {
            s[c] = exp_portable(s[c] - shift_of(max));
            lanes[c % LANES] += s[c];
        }
        memset(s + cols[r], 0, (width - cols[r]) * sizeof *s);
        m[r] = max;
        l[r] = lanes_sum(lanes);
    }
}

/* ---- scout ---- */

/* Σ code·q of one vector for eight pages: exact integers in every family. */
static void code_dots(unsigned d_k, const uint8_t *rows, const int8_t *q8, int32_t sum[SCOUT_LANES])
{
    memset(sum, 0, SCOUT_LANES * sizeof *sum);
    for (unsigned i = 0; i < d_k / 8; i++, rows += 32, q8 += 8)
        for (unsigned p = 0; p < SCOUT_LANES; p++)
            for (unsigned j = 0; j < 4; j++)
                sum[p] += (rows[4 * p + j] & 15) * q8[j] + (rows[4 * p + j] >> 4) * q8[4 + j];
}

/* log Σ exp of a page's terms, which come as multiples of ln 2; term 0 is the centre's, still without its
 * count and spread. */
static float log_mass(unsigned n_vec, float term[SCOUT_MAX_VECS], float variance, float lcount)
{
    if (lcount == -INFINITY)
        return -INFINITY;
    float gain = variance <= 2.0f * lcount ? 0.5f * variance : sqrtf(variance * (2.0f * lcount)) - lcount;
    term[0] += (gain + lcount) * EXP_LOG2E;
    float max = term[0];
    for (unsigned i = 1; i < n_vec; i++)
        max = term[i] > max ? term[i] : max;
    float sum = 0.0f;
    for (unsigned i = 0; i < n_vec; i++)
        sum += exp2_portable(term[i] - max);
    return max * LN_2 + log_portable(sum);
}

static void scout_group(unsigned g, unsigned d_k, unsigned n_vec, const uint8_t *group, const int8_t *q8,
                        const float *qscale, const int32_t *qsum, const float *qsq, float *out, size_t ld)
{
    assert(d_k % 8 == 0 && d_k <= HEAD_MAX_DIMS && n_vec >= 1 && n_vec <= SCOUT_MAX_VECS);
    const size_t vec_bytes = (size_t)d_k / 8 * 32;
    float scale[SCOUT_MAX_VECS][SCOUT_LANES], spread[SCOUT_LANES], lcount[SCOUT_LANES];
    const uint8_t *tail = group + n_vec * vec_bytes;
    memcpy(scale, tail, n_vec * sizeof scale[0]);
    memcpy(spread, tail + n_vec * sizeof scale[0], sizeof spread);
    memcpy(lcount, tail + (n_vec + 1) * sizeof scale[0], sizeof lcount);
    for (unsigned r = 0; r < g; r++, q8 += d_k, out += ld) {
        float term[SCOUT_LANES][SCOUT_MAX_VECS];
        for (unsigned i = 0; i < n_vec; i++) {
            int32_t sum[SCOUT_LANES];
            code_dots(d_k, group + i * vec_bytes, q8, sum);
            for (unsigned p = 0; p < SCOUT_LANES; p++)
                term[p][i] = (float)(sum[p] - 8 * qsum[r]) * (scale[i][p] * (qscale[r] * EXP_LOG2E));
        }
        for (unsigned p = 0; p < SCOUT_LANES; p++)
            out[p] = log_mass(n_vec, term[p], spread[p] * qsq[r], lcount[p]);
    }
}

static void scout_groups(const struct scout_scan *s, float *out, size_t ld)
{
    const size_t bytes = (size_t)s->n_vec * (s->d_k / 8 * 32 + 32) + 64;
    for (size_t i = 0; i < s->n_groups; i++, out += SCOUT_LANES) {
        size_t piece = i / s->per_piece;
        scout_group(s->g, s->d_k, s->n_vec, s->pieces[piece] + i % s->per_piece * bytes, s->q8, s->scale,
                    s->sum, s->square + piece * s->square_step, out, ld);
    }
}

static void scale_rows(unsigned rows, size_t n, size_t ld, float *x, const float *factor, float *sum)
{
    for (size_t i = 0; i < n; i++) {
        float s = 0.0f;
        for (unsigned r = 0; r < rows; r++)
            s += x[r * ld + i] *= factor[r];
        sum[i] = s;
    }
}

const struct kernels kernels_portable = {
    .name = "portable",
    .page_f16 = page_f16,
    .page_f32 = page_f32,
    .page_q8_0 = page_q8_0,
    .merge = merge,
    .scout_groups = scout_groups,
    .max = row_max,
    .exp_sum = exp_sum,
    .scale_rows = scale_rows,
    .softmax_tile = softmax_tile,
    .silu = silu,
    .f16_to_f32 = f16_to_f32,
    .f32_to_f16 = f32_to_f16,
    .dot = dot,
    .unpack_q8_0 = unpack_q8_0_portable,
    .unpack_q4 = unpack_q4_portable,
};
