/* reps.c: see reps.h. Plain C with a fixed order of additions and no fused operations: the same keys give the
 * same bytes on every machine, whatever kernel family scores them. */
#include "decoder/scout/reps.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

enum { MAX_KEYS = REPS_BLOCK_KEYS, MAX_DIMS = 1024, ROW_BYTES = 32 };

/* ln 11, ln 64, ln 16 and ln 8, of the keys that are no outliers: numbers, because libm's may differ in the
 * last bit */
static const float log_centre_keys[] = {[REPS_PAGE] = 2.39789527f,
                                        [REPS_BLOCK] = 4.15888308f,
                                        [REPS_LEAN] = 2.77258872f,
                                        [REPS_MANY] = 2.07944154f};

/* ---- where things lie in a group ---- */

static size_t vec_bytes(unsigned d_k)
{
    return (size_t)d_k / 8 * ROW_BYTES;
}

/* Row `index` of the eight-float rows behind the codes: scales, then spread, then lcount. */
static void put_float(enum reps_kind kind, unsigned d_k, uint8_t *group, unsigned index, unsigned lane,
                      float value)
{
    uint8_t *rows = group + reps_vecs(kind) * vec_bytes(d_k);
    memcpy(rows + ((size_t)index * REPS_LANES + lane) * sizeof value, &value, sizeof value);
}
static unsigned spread_row(enum reps_kind kind)
{
    return reps_vecs(kind);
}
static unsigned lcount_row(enum reps_kind kind)
{
    return reps_vecs(kind) + 1;
}

void reps_lane_clear(enum reps_kind kind, unsigned d_k, uint8_t *group, unsigned lane)
{
    assert(lane < REPS_LANES);
    for (unsigned vec = 0; vec < reps_vecs(kind); vec++) {
        uint8_t *rows = group + vec * vec_bytes(d_k);
        for (unsigned i = 0; i < d_k / 8; i++)
            memset(rows + (size_t)i * ROW_BYTES + 4 * lane, 0, 4);
        put_float(kind, d_k, group, vec, lane, 0.0f);
    }
    put_float(kind, d_k, group, spread_row(kind), lane, 0.0f);
    put_float(kind, d_k, group, lcount_row(kind), lane, -INFINITY);
}

void reps_group_clear(enum reps_kind kind, unsigned d_k, uint8_t *group)
{
    for (unsigned lane = 0; lane < REPS_LANES; lane++)
        reps_lane_clear(kind, d_k, group, lane);
}

/* ---- 4 bit ---- */

/* The code of x: rounded by adding 1.5·2^23, which leaves the integer in the low bits of the sum. Unlike a
 * cast this is defined for NaN too (15), and without branches. */
static inline int code_of(float x, float inverse)
{
    const float round_to_int = 12582912.0f;
    float sum = x * inverse + round_to_int, zero = round_to_int - 8.0f;
    uint32_t bits, zero_bits;
    memcpy(&bits, &sum, sizeof bits);
    memcpy(&zero_bits, &zero, sizeof zero_bits);
    int code = (int)(bits - zero_bits);
    code = code > 0 ? code : 0;
    return code < 15 ? code : 15;
}

static float quantisation_error(unsigned d_k, const float *x, float scale)
{
    float inverse = 1.0f / scale, square[MAX_DIMS], sum[8] = {0};
    for (unsigned i = 0; i < d_k; i++) { /* apart from the sum, so that compilers vectorise it */
        float e = x[i] - (float)(code_of(x[i], inverse) - 8) * scale;
        square[i] = e * e;
    }
    for (unsigned i = 0; i < d_k; i += 8)
        for (unsigned j = 0; j < 8; j++)
            sum[j] += square[i + j];
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

/* The scale of least squared error among a few that place the largest element between -8.5 and -6 or between
 * 6 and 7.5 steps: clipping the extreme a little may pay for finer steps. Codes reach further down than up,
 * so the scale takes the sign that maps the largest element down. */
static float best_scale(unsigned d_k, const float *x)
{
    static const float steps[] = {-8.0f, -8.5f, -7.5f, -7.0f, -6.5f, -6.0f, 7.0f, 7.5f, 6.5f, 6.0f};
    float largest = 0.0f;
    for (unsigned i = 0; i < d_k; i++)
        if (fabsf(x[i]) > fabsf(largest))
            largest = x[i];
    float best = 0.0f, best_error = INFINITY;
    for (unsigned i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        float scale = largest / steps[i];
        if (!isnormal(scale) || !isnormal(1.0f / scale))
            return 0.0f; /* nothing to represent, or nothing that 4 bits can */
        float error = quantisation_error(d_k, x, scale);
        if (error < best_error) {
            best_error = error;
            best = scale;
        }
    }
    return best;
}

static void put_vec(enum reps_kind kind, unsigned d_k, const float *x, uint8_t *group, unsigned vec,
                    unsigned lane)
{
    float scale = best_scale(d_k, x), inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
    uint8_t *rows = group + vec * vec_bytes(d_k) + 4 * (size_t)lane;
    for (unsigned i = 0; i < d_k; i += 8, rows += ROW_BYTES)
        for (unsigned j = 0; j < 4; j++)
            rows[j] = (uint8_t)(code_of(x[i + j], inverse) | code_of(x[i + 4 + j], inverse) << 4);
    put_float(kind, d_k, group, vec, lane, scale);
}

/* ---- one representative ---- */

/* Mean of the keys that `in` names. */
static void mean_of(unsigned n_keys, unsigned d_k, const float *k, const bool *in, unsigned n, float *mean)
{
    memset(mean, 0, d_k * sizeof *mean);
    for (unsigned t = 0; t < n_keys; t++)
        for (unsigned i = 0; in[t] && i < d_k; i++)
            mean[i] += k[(size_t)t * d_k + i];
    for (unsigned i = 0; i < d_k; i++)
        mean[i] /= (float)n;
}

static float squared_distance(unsigned d_k, const float *a, const float *b)
{
    float lanes[8] = {0};
    for (unsigned i = 0; i < d_k; i += 8)
        for (unsigned j = 0; j < 8; j++) {
            float e = a[i + j] - b[i + j];
            lanes[j] += e * e;
        }
    return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

/* The farthest key that is still in; the lower index on a tie. */
static unsigned farthest(unsigned n_keys, const float *distance, const bool *in)
{
    unsigned best = n_keys;
    for (unsigned t = 0; t < n_keys; t++)
        if (in[t] && (best == n_keys || distance[t] > distance[best]))
            best = t;
    return best;
}

void reps_build_gamma(enum reps_kind kind, unsigned d_k, const float *k, float gamma, uint8_t *group,
                      unsigned lane)
{
    assert(d_k % 8 == 0 && d_k <= MAX_DIMS && lane < REPS_LANES);
    const unsigned n_keys = reps_keys(kind), n_vecs = reps_vecs(kind), n_centre = n_keys - (n_vecs - 1);
    float mean[MAX_DIMS], distance[MAX_KEYS];
    bool in[MAX_KEYS];
    memset(in, true, sizeof in);
    mean_of(n_keys, d_k, k, in, n_keys, mean);
    for (unsigned t = 0; t < n_keys; t++)
        distance[t] = squared_distance(d_k, k + (size_t)t * d_k, mean);
    for (unsigned vec = 1; vec < n_vecs; vec++) {
        unsigned t = farthest(n_keys, distance, in);
        in[t] = false;
        put_vec(kind, d_k, k + (size_t)t * d_k, group, vec, lane);
    }
    mean_of(n_keys, d_k, k, in, n_centre, mean);
    put_vec(kind, d_k, mean, group, 0, lane);

    float scatter = 0.0f;
    for (unsigned t = 0; t < n_keys; t++)
        if (in[t])
            scatter += squared_distance(d_k, k + (size_t)t * d_k, mean);
    float spread = gamma * (scatter / (float)(n_centre * d_k));
    put_float(kind, d_k, group, spread_row(kind), lane, isfinite(spread) ? spread : 0.0f);
    put_float(kind, d_k, group, lcount_row(kind), lane, log_centre_keys[kind]);
}

void reps_scatter(unsigned d_k, const float *k, float *w)
{
    const bool all[REPS_PAGE_KEYS] = {true, true, true, true, true, true, true, true,
                                      true, true, true, true, true, true, true, true};
    const float even = 0.2f;
    float mean[MAX_DIMS], sum = 0.0f;
    assert(d_k % 8 == 0 && d_k <= MAX_DIMS);
    memset(w, 0, d_k * sizeof *w);
    for (unsigned page = 0; page < REPS_BLOCK_KEYS / REPS_PAGE_KEYS; page++, k += REPS_PAGE_KEYS * d_k) {
        mean_of(REPS_PAGE_KEYS, d_k, k, all, REPS_PAGE_KEYS, mean);
        for (unsigned t = 0; t < REPS_PAGE_KEYS; t++)
            for (unsigned i = 0; i < d_k; i++) {
                float e = k[(size_t)t * d_k + i] - mean[i];
                w[i] += e * e;
            }
    }
    for (unsigned i = 0; i < d_k; i++)
        sum += w[i];
    bool usable = isnormal(sum) && isfinite((float)d_k / sum);
    for (unsigned i = 0; i < d_k; i++)
        w[i] = usable ? (1.0f - even) * ((float)d_k * w[i] / sum) + even : 1.0f;
}

/* ---- representatives of representatives ---- */

static float get_float(enum reps_kind kind, unsigned d_k, const uint8_t *group, unsigned index, unsigned lane)
{
    float value;
    memcpy(&value,
           group + reps_vecs(kind) * vec_bytes(d_k) + ((size_t)index * REPS_LANES + lane) * sizeof value,
           sizeof value);
    return value;
}

void reps_get_vec(enum reps_kind kind, unsigned d_k, const uint8_t *group, unsigned lane, unsigned vec,
                  float *out)
{
    assert(lane < REPS_LANES && vec < reps_vecs(kind));
    const uint8_t *row = group + vec * vec_bytes(d_k) + 4 * (size_t)lane;
    float scale = get_float(kind, d_k, group, vec, lane);
    for (unsigned i = 0; i < d_k; i += 8, row += ROW_BYTES)
        for (unsigned j = 0; j < 4; j++) {
            out[i + j] = (float)((row[j] & 15) - 8) * scale;
            out[i + 4 + j] = (float)((row[j] >> 4) - 8) * scale;
        }
}

float reps_get_spread(enum reps_kind kind, unsigned d_k, const uint8_t *group, unsigned lane)
{
    return get_float(kind, d_k, group, spread_row(kind), lane);
}

void reps_put_summary(unsigned d_k, const float *centre, float spread, unsigned n_keys, uint8_t *group,
                      unsigned lane)
{
    assert(d_k % 8 == 0 && d_k <= MAX_DIMS && lane < REPS_LANES && n_keys > 0);
    put_vec(REPS_BLOCK, d_k, centre, group, 0, lane);
    put_float(REPS_BLOCK, d_k, group, spread_row(REPS_BLOCK), lane, isfinite(spread) ? spread : 0.0f);
    put_float(REPS_BLOCK, d_k, group, lcount_row(REPS_BLOCK), lane, logf((float)n_keys));
}
