/* kv_types.c: packs pages, and unpacks them on any CPU. */
#include "decoder/kernels/kv_types.h"
#include "common/identity.h"
#include "decoder/kernels/families.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { TOKENS = PAGE_TOKENS, GROUP = KV_GROUP, NOT_A_NUMBER = 0x7e00 };
static_assert((int)TOKENS == (int)PAGE_MAX_TOKENS, "one geometry");

static float load_half(const uint8_t *at)
{
    uint16_t h;
    float f;
    memcpy(&h, at, sizeof h);
    kernels_portable.f16_to_f32(1, &h, &f);
    return f;
}

/* Rounds to nearest even: adding 1.5 · 2^23 leaves no bits behind the point. */
static float nearest(float x)
{
    return (x + 0x1.8p23f) - 0x1.8p23f;
}

/* The least f16 that is not below x >= 0; x is far from the largest. Its value. */
static float half_above(float x, uint8_t *at)
{
    uint16_t h;
    float f;
    kernels_portable.f32_to_f16(1, &x, &h);
    kernels_portable.f16_to_f32(1, &h, &f);
    if (f < x)
        h++;
    memcpy(at, &h, sizeof h);
    return load_half(at);
}

/* ---- q8_0 ---- */

static void pack_group_q8_0(unsigned n, const float *x, uint8_t *codes, uint8_t *scale)
{
    float most = 0.0f;
    bool finite = true;
    for (unsigned i = 0; i < n; i++) {
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
        finite &= isfinite(x[i]) != 0;
    }
    if (!finite) {
        memcpy(scale, &(uint16_t){NOT_A_NUMBER}, 2);
        memset(codes, 0, n);
        return;
    }
    float s = half_above(most / 127.0f, scale);
    for (unsigned i = 0; i < n; i++)
        codes[i] = (uint8_t)(s > 0 ? (int8_t)nearest(x[i] / s) : 0);
}

static uint8_t *pack_rows_q8_0(unsigned d, const float *x, uint8_t *at)
{
    uint8_t *scales = at + (size_t)TOKENS * d;
    for (unsigned t = 0; t < TOKENS; t++)
        for (unsigned i = 0; i < d; i += GROUP, scales += 2)
            pack_group_q8_0(d - i < GROUP ? d - i : GROUP, x + (size_t)t * d + i, at + (size_t)t * d + i,
                            scales);
    return scales;
}

void kv_pack_q8_0(unsigned d_k, unsigned d_v, const float *k, const float *v, uint8_t *page)
{
    pack_rows_q8_0(d_v, v, pack_rows_q8_0(d_k, k, page));
}

static const uint8_t *unpack_rows_q8_0(unsigned d, const uint8_t *at, float *x)
{
    const uint8_t *scales = at + (size_t)TOKENS * d;
    for (unsigned t = 0; t < TOKENS; t++)
        for (unsigned i = 0; i < d; i += GROUP, scales += 2) {
            float s = load_half(scales);
            for (unsigned j = i; j < d && j < i + GROUP; j++)
                *x++ = s * (float)(int8_t)*at++;
        }
    return scales;
}

void unpack_q8_0_portable(unsigned d_k, unsigned d_v, const uint8_t *page, float *k, float *v)
{
    unpack_rows_q8_0(d_v, unpack_rows_q8_0(d_k, page, k), v);
}

/* ---- q4 ---- */

/* What numbers share: filled number by number, then closed. */
struct range {
    float least, most, step;
    bool finite;
};

static void range_add(struct range *r, float x)
{
    r->least = x < r->least ? x : r->least;
    r->most = x > r->most ? x : r->most;
    r->finite &= isfinite(x) != 0;
}

static const struct range no_range = {.least = INFINITY, .most = -INFINITY, .finite = true};

static void range_close(struct range *r, uint8_t *least, uint8_t *step)
{
    uint16_t h = NOT_A_NUMBER;
    if (r->finite) {
        kernels_portable.f32_to_f16(1, &r->least, &h);
        memcpy(least, &h, sizeof h);
        r->step = half_above((r->most - r->least) / 15.0f, step);
    } else {
        memcpy(least, &h, sizeof h);
        memcpy(step, &h, sizeof h);
        r->step = 0;
    }
}

static void put_code(uint8_t *row, unsigned i, const struct range *r, float x)
{
    unsigned code = r->step > 0 ? (unsigned)nearest((x - r->least) / r->step) : 0;
    row[i / 2] = (uint8_t)(i % 2 ? row[i / 2] | code << 4 : code);
}

static float value_of(const uint8_t *row, unsigned i, float least, float step)
{
    return least + step * (float)(row[i / 2] >> (i % 2 ? 4 : 0) & 15);
}

static uint8_t *pack_keys_q4(unsigned d, const float *x, uint8_t *at)
{
    struct range r[HEAD_MAX_DIMS];
    uint8_t *codes = at + (size_t)4 * d;
    for (unsigned i = 0; i < d; i++)
        r[i] = no_range;
    for (unsigned t = 0; t < TOKENS; t++)
        for (unsigned i = 0; i < d; i++)
            range_add(&r[i], x[(size_t)t * d + i]);
    for (unsigned i = 0; i < d; i++)
        range_close(&r[i], at + 2 * (size_t)i, at + 2 * ((size_t)d + i));
    for (unsigned t = 0; t < TOKENS; t++, codes += (d + 1) / 2)
        for (unsigned i = 0; i < d; i++)
            put_code(codes, i, &r[i], x[(size_t)t * d + i]);
    return codes;
}

static void pack_values_q4(unsigned d, const float *x, uint8_t *at)
{
    const size_t n_groups = (size_t)TOKENS * kv_groups(d);
    uint8_t *least = at, *step = at + 2 * n_groups, *codes = at + 4 * n_groups;
    for (unsigned t = 0; t < TOKENS; t++, x += d, codes += (d + 1) / 2)
        for (unsigned i = 0; i < d; i += GROUP, least += 2, step += 2) {
            struct range r = no_range;
            unsigned end = d - i < GROUP ? d : i + GROUP;
            for (unsigned j = i; j < end; j++)
                range_add(&r, x[j]);
            range_close(&r, least, step);
            for (unsigned j = i; j < end; j++)
                put_code(codes, j, &r, x[j]);
        }
}

void kv_pack_q4(unsigned d_k, unsigned d_v, const float *k, const float *v, uint8_t *page)
{
    pack_values_q4(d_v, v, pack_keys_q4(d_k, k, page));
}

static const uint8_t *unpack_keys_q4(unsigned d, const uint8_t *at, float *x)
{
    float least[HEAD_MAX_DIMS], step[HEAD_MAX_DIMS];
    for (unsigned i = 0; i < d; i++) {
        least[i] = load_half(at + 2 * (size_t)i);
        step[i] = load_half(at + 2 * ((size_t)d + i));
    }
    at += (size_t)4 * d;
    for (unsigned t = 0; t < TOKENS; t++, at += (d + 1) / 2)
        for (unsigned i = 0; i < d; i++)
            *x++ = value_of(at, i, least[i], step[i]);
    return at;
}

static void unpack_values_q4(unsigned d, const uint8_t *at, float *x)
{
    const size_t n_groups = (size_t)TOKENS * kv_groups(d);
    const uint8_t *least = at, *step = at + 2 * n_groups, *codes = at + 4 * n_groups;
    for (unsigned t = 0; t < TOKENS; t++, codes += (d + 1) / 2)
        for (unsigned i = 0; i < d; i += GROUP, least += 2, step += 2) {
            float a = load_half(least), b = load_half(step);
            for (unsigned j = i; j < d && j < i + GROUP; j++)
                *x++ = value_of(codes, j, a, b);
        }
}

void unpack_q4_portable(unsigned d_k, unsigned d_v, const uint8_t *page, float *k, float *v)
{
    unpack_values_q4(d_v, unpack_keys_q4(d_k, page, k), v);
}
