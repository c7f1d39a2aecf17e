/* test_kernels: every family against float64 loops and against the portable one, over many shapes. */
#include "decoder/kernels/explog.h"
#include "decoder/kernels/families.h"
#include "decoder/kernels/kernels.h"
#include "decoder/kernels/kv_types.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

enum { MAX_D = 256, MAX_G = 16, MAX_N = 16, MAX_VECS = 9 };

enum { MAX_FAMILIES = 3 };
static const struct kernels
    *families[MAX_FAMILIES]; /* portable first; those of one name must give the same bits */
static unsigned n_families;

static uint64_t seed;
static uint64_t next_random(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}
static float uniform(float range)
{
    return ((float)(next_random() >> 40) / (float)(1 << 23) - 1.0f) * range;
}
static void fill(size_t n, float *x, float range)
{
    for (size_t i = 0; i < n; i++)
        x[i] = uniform(range);
}

static void assert_near(double got, double want, double tolerance, const char *family, const char *what,
                        unsigned i)
{
    if (got == want || fabs(got - want) <= tolerance)
        return;
    fail_msg("%s: %s[%u] is %.9g, should be %.9g within %.3g", family, what, i, got, want, tolerance);
}

/* ---- choice of a family ---- */

static void test_choice(void **state)
{
    (void)state;
    const char *old = getenv("SKV_ISA");
    char *saved = old ? strdup(old) : NULL;
    struct skv_error err = {0};
    assert_non_null(kernels_get());
    assert_string_equal(kernels_named("portable")->name, "portable");
    assert_null(kernels_named("sse9"));
    assert_int_equal(setenv("SKV_ISA", "sse9", 1), 0);
    assert_int_equal(kernels_check(&err), -EINVAL);
    assert_non_null(strstr(err.text, "sse9"));
    assert_non_null(strstr(err.text, "portable"));
    setenv("SKV_ISA", "portable", 1);
    assert_int_equal(kernels_check(&err), 0);
    unsetenv("SKV_ISA");
    assert_int_equal(kernels_check(&err), 0);
    if (saved)
        setenv("SKV_ISA", saved, 1);
    free(saved);
}

/* ---- exp and log ---- */

static void test_exp_log(void **state)
{
    (void)state;
    assert_true(exp_portable(0.0f) == 1.0f);
    assert_true(exp2_portable(0.0f) == 1.0f);
    assert_true(exp_portable(-INFINITY) == 0.0f);
    assert_true(exp_portable(-200.0f) == 0.0f);
    assert_true(isnan(exp_portable(NAN)));
    assert_true(log_portable(1.0f) == 0.0f);
    for (float x = -87.0f; x < 88.0f; x += 0.0037f)
        assert_near(exp_portable(x) / exp((double)x), 1.0, 3e-7, "portable", "exp", 0);
    for (float x = -124.0f; x <= 0.0f; x += 0.0037f)
        assert_near(exp2_portable(x) / exp2((double)x), 1.0, 5e-7, "portable", "exp2", 0);
    for (float x = 1e-6f; x < 1e6f; x *= 1.0007f)
        assert_near(log_portable(x), log((double)x), 1e-7 + 2e-7 * fabs(log((double)x)), "portable", "log",
                    0);
}

/* ---- conversions ---- */

static double half_value(uint16_t h)
{
    int exponent = h >> 10 & 31, mantissa = h & 0x3ff;
    double v = exponent == 31  ? (mantissa ? (double)NAN : (double)INFINITY)
               : exponent == 0 ? ldexp(mantissa, -24)
                               : ldexp(1024 + mantissa, exponent - 25);
    return h & 0x8000 ? -v : v;
}

static void test_f16_to_f32(void **state)
{
    (void)state;
    for (unsigned f = 0; f < n_families; f++)
        for (unsigned h = 0; h < 65536; h++) {
            uint16_t in = (uint16_t)h;
            float out;
            families[f]->f16_to_f32(1, &in, &out);
            double want = half_value(in);
            if (isnan(want) ? !isnan(out) : (double)out != want)
                fail_msg("%s: half %04x became %.9g, not %.9g", families[f]->name, h, (double)out, want);
            uint16_t back;
            families[f]->f32_to_f16(1, &out, &back);
            if (back != in && !(isnan(want) && back == (in | 0x200)))
                fail_msg("%s: half %04x came back as %04x", families[f]->name, h, back);
        }
}

/* Halfway between neighbours goes to the even one, a hair to either side to the near one. */
static void test_f32_to_f16_rounds_to_even(void **state)
{
    (void)state;
    for (unsigned f = 0; f < n_families; f++)
        for (unsigned h = 0; h < 0x7bff; h++) {
            float middle = (float)((half_value((uint16_t)h) + half_value((uint16_t)(h + 1))) / 2);
            float in[3] = {nextafterf(middle, 0.0f), middle, nextafterf(middle, INFINITY)};
            uint16_t out[3];
            families[f]->f32_to_f16(3, in, out);
            unsigned even = h & 1 ? h + 1 : h;
            if (out[0] != h || out[1] != even || out[2] != h + 1)
                fail_msg("%s: around the middle of %04x and its successor: %04x %04x %04x", families[f]->name,
                         h, out[0], out[1], out[2]);
        }
    for (unsigned f = 0; f < n_families; f++) {
        const float in[] = {65519.9f, 65520.0f, -65520.0f, 1e30f, -INFINITY, 1e-30f, -1e-30f};
        const uint16_t want[] = {0x7bff, 0x7c00, 0xfc00, 0x7c00, 0xfc00, 0, 0x8000};
        uint16_t out[7];
        families[f]->f32_to_f16(7, in, out);
        assert_memory_equal(out, want, sizeof want);
    }
}

static void test_conversions_agree(void **state)
{
    (void)state;
    uint32_t bits[64];
    uint16_t half[MAX_FAMILIES][64 + 1];
    float wide[MAX_FAMILIES][64 + 1];
    for (unsigned round = 0; round < 5000; round++) {
        size_t n = next_random() % 65;
        for (unsigned i = 0; i < 64; i++)
            bits[i] = (uint32_t)next_random();
        for (unsigned f = 0; f < n_families; f++) {
            half[f][n] = 0x1234; /* one past the end stays */
            wide[f][n] = 42.0f;
            families[f]->f32_to_f16(n, (const float *)(const void *)bits, half[f]);
            families[f]->f16_to_f32(n, half[f], wide[f]);
            assert_int_equal(half[f][n], 0x1234);
            assert_true(wide[f][n] == 42.0f);
            assert_memory_equal(half[f], half[0], n * sizeof half[f][0]);
            assert_memory_equal(wide[f], wide[0], n * sizeof wide[f][0]);
        }
    }
}

/* ---- attention over a page ---- */

struct page_case {
    unsigned g, n, d_k, d_v;
    float q[MAX_G * MAX_D];
    float k[MAX_N * MAX_D], v[MAX_N * MAX_D];                                 /* what f16 holds exactly */
    uint8_t k_bytes[MAX_N * MAX_D * 4 + 64], v_bytes[MAX_N * MAX_D * 4 + 64]; /* room to shift */
    float m[MAX_G], l[MAX_G], o[MAX_G * MAX_D];
};

static void round_to_half(size_t n, float *x)
{
    uint16_t h[MAX_N * MAX_D];
    families[0]->f32_to_f16(n, x, h);
    families[0]->f16_to_f32(n, h, x);
}

static void make_page(struct page_case *c, unsigned g, unsigned n, unsigned d_k, unsigned d_v, float range)
{
    c->g = g, c->n = n, c->d_k = d_k, c->d_v = d_v;
    fill((size_t)g * d_k, c->q, range);
    fill((size_t)n * d_k, c->k, 1.0f);
    fill((size_t)n * d_v, c->v, 1.0f);
    round_to_half((size_t)n * d_k, c->k);
    round_to_half((size_t)n * d_v, c->v);
}

/* Runs a family on bytes that lie `shift` off any alignment. */
static void run_page(struct page_case *c, const struct kernels *k, bool f16, unsigned shift)
{
    uint8_t *kb = c->k_bytes + shift, *vb = c->v_bytes + shift;
    const struct pages_ahead next = {{kb, vb, kb, vb}, shift}, *ahead = shift % 2 ? &next : NULL;
    if (f16) {
        uint16_t h[MAX_N * MAX_D];
        k->f32_to_f16((size_t)c->n * c->d_k, c->k, h);
        memcpy(kb, h, (size_t)c->n * c->d_k * 2);
        k->f32_to_f16((size_t)c->n * c->d_v, c->v, h);
        memcpy(vb, h, (size_t)c->n * c->d_v * 2);
        k->page_f16(c->g, c->n, c->d_k, c->d_v, c->q, (const void *)kb, (const void *)vb, ahead, c->m, c->l,
                    c->o);
    } else {
        memcpy(kb, c->k, (size_t)c->n * c->d_k * 4);
        memcpy(vb, c->v, (size_t)c->n * c->d_v * 4);
        k->page_f32(c->g, c->n, c->d_k, c->d_v, c->q, (const void *)kb, (const void *)vb, ahead, c->m, c->l,
                    c->o);
    }
}

static void check_page(const struct page_case *c, const char *family)
{
    for (unsigned r = 0; r < c->g; r++) {
        double s[MAX_N], max = -INFINITY, l = 0, magnitude = 1;
        for (unsigned t = 0; t < c->n; t++) {
            double size = 0;
            s[t] = 0;
            for (unsigned i = 0; i < c->d_k; i++) {
                double x = (double)c->q[r * c->d_k + i] * (double)c->k[t * c->d_k + i];
                s[t] += x;
                size += fabs(x);
            }
            max = s[t] > max ? s[t] : max;
            magnitude = size > magnitude ? size : magnitude;
        }
        double tolerance = 4e-7 * magnitude; /* of a score; an exp's relative one */
        assert_near((double)c->m[r], max, tolerance, family, "m", r);
        for (unsigned t = 0; t < c->n; t++)
            l += s[t] = exp(s[t] - max);
        assert_near((double)c->l[r], l, (tolerance * 2 + 1e-6) * l, family, "l", r);
        for (unsigned i = 0; i < c->d_v; i++) {
            double o = 0;
            for (unsigned t = 0; t < c->n; t++)
                o += s[t] * (double)c->v[t * c->d_v + i];
            assert_near((double)c->o[r * c->d_v + i], o, (tolerance * 2 + 1e-6) * l, family, "o",
                        r * c->d_v + i);
        }
    }
}

static void test_page_shapes(void **state)
{
    (void)state;
    static const unsigned dims[][2] = {{8, 8},   {16, 1},    {24, 13},  {64, 64},
                                       {80, 96}, {128, 128}, {128, 37}, {256, 256}};
    static struct page_case c;
    for (unsigned i = 0; i < sizeof dims / sizeof dims[0]; i++)
        for (unsigned g = 1; g <= MAX_G; g += g < 5 ? 1 : 11)
            for (unsigned n = 0; n <= MAX_N; n++)
                for (unsigned f = 0; f < n_families; f++)
                    for (unsigned f16 = 0; f16 < 2; f16++) {
                        make_page(&c, g, n, dims[i][0], dims[i][1], 1.0f);
                        run_page(&c, families[f], f16, (g + n) % 5);
                        check_page(&c, families[f]->name);
                    }
}

/* A row alone, at another address, gives the bits that it gave among others. */
static void test_page_rows_are_independent(void **state)
{
    (void)state;
    static struct page_case all, one;
    static const unsigned dims[][2] = {{8, 5}, {64, 64}, {128, 136}, {256, 256}};
    for (unsigned f = 0; f < n_families; f++)
        for (unsigned round = 0; round < 48; round++) {
            unsigned g = 2 + round % 15, n = 1 + round % 16, d_k = dims[round % 4][0],
                     d_v = dims[round % 4][1];
            make_page(&all, g, n, d_k, d_v, 2.0f);
            run_page(&all, families[f], round & 1, 0);
            for (unsigned r = 0; r < g; r++) {
                one = all;
                one.g = 1;
                memcpy(one.q, all.q + (size_t)r * d_k, d_k * sizeof one.q[0]);
                run_page(&one, families[f], round & 1, 1 + r % 4);
                assert_memory_equal(one.m, all.m + r, sizeof one.m[0]);
                assert_memory_equal(one.l, all.l + r, sizeof one.l[0]);
                assert_memory_equal(one.o, all.o + (size_t)r * d_v, d_v * sizeof one.o[0]);
            }
        }
}

static void test_page_extremes(void **state)
{
    (void)state;
    static struct page_case c;
    for (unsigned f = 0; f < n_families; f++)
        for (unsigned round = 0; round < 40; round++) {
            make_page(&c, 3, 1 + round % 16, 16, 16, 80.0f * (float)(round + 1));
            run_page(&c, families[f], true, 0);
            for (unsigned r = 0; r < 3; r++) {
                assert_true(isfinite(c.m[r]));
                assert_true(c.l[r] >= 1.0f && c.l[r] <= 16.0f);
                for (unsigned i = 0; i < 16; i++)
                    assert_true(isfinite(c.o[r * 16 + i]));
            }
        }
}

/* Pages of q8_0 as they lie, at an odd address, have the bits of such that were unpacked. */
static void test_page_q8_0(void **state)
{
    (void)state;
    static const unsigned dims[][2] = {{8, 8},    {24, 13}, {64, 64},  {128, 128},
                                       {128, 37}, {40, 77}, {256, 255}};
    static struct page_case c;
    static uint8_t bytes[1 + 2 * MAX_N * (MAX_D + MAX_D / 16)];
    static float k[MAX_N * MAX_D], v[MAX_N * MAX_D];
    for (unsigned i = 0; i < sizeof dims / sizeof dims[0]; i++)
        for (unsigned g = 1; g <= MAX_G; g += g < 9 ? 1 : 7)
            for (unsigned n = 0; n <= MAX_N; n += 1 + n % 3)
                for (unsigned f = 0; f < n_families; f++) {
                    const unsigned d_k = dims[i][0], d_v = dims[i][1];
                    float m[MAX_G], l[MAX_G];
                    static float o[MAX_G * MAX_D];
                    const struct pages_ahead next = {{bytes, bytes, bytes, bytes}, g},
                                             *ahead = g % 2 ? &next : NULL;
                    make_page(&c, g, MAX_N, d_k, d_v, 1.0f);
                    kv_pack_q8_0(d_k, d_v, c.k, c.v, bytes + 1);
                    families[f]->unpack_q8_0(d_k, d_v, bytes + 1, k, v);
                    families[f]->page_f32(g, n, d_k, d_v, c.q, k, v, NULL, m, l, o);
                    families[f]->page_q8_0(g, n, d_k, d_v, c.q, bytes + 1, ahead, c.m, c.l, c.o);
                    assert_memory_equal(c.m, m, g * sizeof *m);
                    assert_memory_equal(c.l, l, g * sizeof *l);
                    assert_memory_equal(c.o, o, (size_t)g * d_v * sizeof *o);
                }
}

/* Weights of scores that lie x apart, told by a page's values; below 2^-126 they are 0. */
static void test_page_weights(void **state)
{
    (void)state;
    static struct page_case c;
    for (unsigned f = 0; f < n_families; f++)
        for (unsigned g = 1; g <= 9; g++)
            for (float x = 0.0f; x < 120.0f; x += 0.37f) {
                make_page(&c, g, 2, 8, 8, 0.0f);
                memset(c.k, 0, sizeof c.k);
                memset(c.v, 0, sizeof c.v);
                for (unsigned r = 0; r < g; r++)
                    c.q[r * 8] = x;
                c.k[8] = -1.0f;         /* token 1's score is -x, token 0's is 0 */
                c.v[8] = c.v[1] = 1.0f; /* dim 0 shows the former's weight, dim 1 the latter's */
                run_page(&c, families[f], true, 0);
                for (unsigned r = 0; r < g; r++) {
                    const float *o = c.o + r * 8;
                    double w = exp(-(double)x);
                    assert_near((double)o[0], x > 87.34f ? 0 : w, (5e-7 + 1.3e-7 * (double)x) * w,
                                families[f]->name, "weight", r);
                    assert_true(o[1] == 1.0f);
                    assert_true(c.l[r] == 1.0f + o[0]);
                }
            }
}

/* ---- merging ---- */

enum { PAGES = 12, MD = 40 };

static void merge_in(const struct kernels *k, float *M, float *L, float *O, unsigned from, unsigned to,
                     const float *m, const float *l, const float *o)
{
    for (unsigned p = from; p < to; p++)
        k->merge(2, MD, M, L, O, m + 2 * p, l + 2 * p, o + 2 * MD * p);
}

static void start_merge(float *M, float *L, float *O)
{
    M[0] = M[1] = -INFINITY;
    L[0] = L[1] = 0.0f;
    memset(O, 0, 2 * MD * sizeof *O);
}

static void test_merge(void **state)
{
    (void)state;
    static struct page_case c;
    for (unsigned f = 0; f < n_families; f++) {
        const struct kernels *k = families[f];
        float m[2 * PAGES], l[2 * PAGES], o[2 * MD * PAGES], q[2 * 16];
        double s[2][PAGES * 16], max[2] = {-INFINITY, -INFINITY}, sum[2] = {0}, want[2][MD] = {{0}};
        static float values[PAGES * 16][MD];
        fill(32, q, 8.0f);
        for (unsigned p = 0; p < PAGES; p++) {
            make_page(&c, 2, 16, 16, MD, 1.0f);
            memcpy(c.q, q, sizeof q);
            run_page(&c, k, true, 0);
            memcpy(m + 2 * p, c.m, 2 * sizeof *m);
            memcpy(l + 2 * p, c.l, 2 * sizeof *l);
            memcpy(o + 2 * MD * p, c.o, 2 * MD * sizeof *o);
            memcpy(values[16 * p], c.v, 16 * MD * sizeof(float));
            for (unsigned r = 0; r < 2; r++)
                for (unsigned t = 0; t < 16; t++) {
                    double *x = &s[r][16 * p + t];
                    *x = 0;
                    for (unsigned i = 0; i < 16; i++)
                        *x += (double)q[16 * r + i] * (double)c.k[16 * t + i];
                    max[r] = *x > max[r] ? *x : max[r];
                }
        }
        for (unsigned r = 0; r < 2; r++)
            for (unsigned t = 0; t < PAGES * 16; t++) {
                double w = exp(s[r][t] - max[r]);
                sum[r] += w;
                for (unsigned i = 0; i < MD; i++)
                    want[r][i] += w * (double)values[t][i];
            }
        float M[2], L[2], O[2 * MD], M2[2], L2[2], O2[2 * MD];
        start_merge(M, L, O);
        merge_in(k, M, L, O, 0, PAGES, m, l, o);
        /* ((first half) + (second half)) instead of one after the other */
        start_merge(M2, L2, O2);
        merge_in(k, M2, L2, O2, PAGES / 2, PAGES, m, l, o);
        float M1[2], L1[2], O1[2 * MD];
        start_merge(M1, L1, O1);
        merge_in(k, M1, L1, O1, 0, PAGES / 2, m, l, o);
        k->merge(2, MD, M1, L1, O1, M2, L2, O2);
        for (unsigned r = 0; r < 2; r++) {
            assert_near((double)L[r], sum[r], 2e-5 * sum[r], k->name, "L", r);
            assert_near((double)L1[r], sum[r], 2e-5 * sum[r], k->name, "L in halves", r);
            for (unsigned i = 0; i < MD; i++) {
                double exact = want[r][i] / sum[r];
                assert_near((double)(O[r * MD + i] / L[r]), exact, 1e-5, k->name, "O", i);
                assert_near((double)(O1[r * MD + i] / L1[r]), exact, 1e-5, k->name, "O in halves", i);
            }
        }
    }
}

static void test_merge_empty(void **state)
{
    (void)state;
    for (unsigned f = 0; f < n_families; f++) {
        const struct kernels *k = families[f];
        float M[2], L[2], O[2 * MD], o[2 * MD], none[2 * MD] = {0};
        const float m[2] = {-75.0f, 80.0f}, l[2] = {3.0f, 1.0f}, empty[2] = {-INFINITY, -INFINITY},
                    zero[2] = {0};
        fill(2 * MD, o, 1.0f);
        start_merge(M, L, O);
        k->merge(2, MD, M, L, O, empty, zero, none); /* nothing into nothing */
        assert_true(M[0] == -INFINITY && L[0] == 0.0f && O[0] == 0.0f);
        k->merge(2, MD, M, L, O, m, l, o); /* the first partial is taken bit for bit */
        assert_memory_equal(M, m, sizeof M);
        assert_memory_equal(L, l, sizeof L);
        assert_memory_equal(O, o, sizeof O);
        k->merge(2, MD, M, L, O, empty, zero, none); /* an empty one changes nothing */
        assert_memory_equal(M, m, sizeof M);
        assert_memory_equal(O, o, sizeof O);
        const float far[2] = {90.0f, -90.0f};
        k->merge(2, MD, M, L, O, far, l, o); /* 165 apart: the smaller one vanishes */
        assert_true(M[0] == 90.0f && L[0] == 3.0f);
        assert_true(M[1] == 80.0f && L[1] == 1.0f);
        assert_memory_equal(O, o, sizeof O);
    }
}

/* ---- long rows ---- */

static void test_exp_sum(void **state)
{
    (void)state;
    static float x[MAX_FAMILIES][1100], in[1100];
    for (unsigned f = 0; f < n_families; f++)
        for (size_t n = 0; n < 1100; n += n < 40 ? 1 : 53) {
            fill(1100, in, 40.0f);
            if (n > 3)
                in[2] = -INFINITY;
            memcpy(x[f], in, sizeof in);
            float max = -INFINITY;
            for (size_t i = 0; i < n; i++)
                max = in[i] > max ? in[i] : max;
            assert_true(families[f]->max(n, in) == max);
            double got = families[f]->exp_sum(n, x[f], max), want = 0;
            for (size_t i = 0; i < n; i++) {
                double e = exp((double)(in[i] - max)); /* the difference is rounded, as it is there */
                want += e;
                assert_near((double)x[f][i], e, 2e-6 * e + 1e-37, families[f]->name, "exp", (unsigned)i);
            }
            assert_near(got, want, 1e-6 * want, families[f]->name, "sum", (unsigned)n);
            assert_memory_equal(x[f] + n, in + n, (1100 - n) * sizeof in[0]);
        }
    for (unsigned f = 0; f < n_families; f++) {
        float none[9];
        for (unsigned i = 0; i < 9; i++)
            none[i] = -INFINITY;
        assert_true(families[f]->exp_sum(9, none, -INFINITY) == 0.0);
        assert_true(none[0] == 0.0f && none[8] == 0.0f);
    }
}

/* A number's bits depend on it alone: not on where it stands, nor on how many there are. */
static void test_silu(void **state)
{
    (void)state;
    enum { N = 75 };
    float gate[N], up[N], out[N];
    for (unsigned i = 0; i < N; i++) {
        gate[i] = i == 0 ? 0 : i == 1 ? -200 : i == 2 ? 200 : (float)(i % 40) - 20.3f;
        up[i] = 0.1f * (float)(i % 7) - 0.25f;
    }
    for (unsigned f = 0; f < n_families; f++)
        for (unsigned n = 1; n <= N; n += 37) {
            memcpy(out, gate, sizeof out);
            families[f]->silu(n, out, up);
            assert_memory_equal(out + n, gate + n, (N - n) * sizeof *out);
            for (unsigned i = 0; i < n; i++) {
                double exact = (double)gate[i] / (1 + exp(-(double)gate[i])) * (double)up[i];
                if (!(fabs((double)out[i] - exact) <= 4e-7 * fabs(exact) + 1e-35))
                    fail_msg("%s: silu of %g is %g, exact %g", families[f]->name, (double)gate[i],
                             (double)out[i], exact);
                float one = gate[i];
                families[f]->silu(1, &one, &up[i]);
                assert_memory_equal(&one, &out[i], sizeof one);
            }
        }
}

static void test_scale_rows(void **state)
{
    (void)state;
    enum { ROWS = 5, LD = 70 };
    float in[ROWS * LD], x[ROWS * LD], factor[ROWS], sum[LD + 1];
    for (size_t n = 0; n <= LD; n++)
        for (unsigned f = 0; f < n_families; f++) { /* products and sums in order: the same bits everywhere */
            unsigned rows = 1 + (unsigned)n % ROWS;
            fill(ROWS * LD, in, 3.0f);
            fill(ROWS, factor, 2.0f);
            memcpy(x, in, sizeof in);
            sum[n] = 7.0f;
            families[f]->scale_rows(rows, n, LD, x, factor, sum);
            assert_true(sum[n] == 7.0f);
            for (size_t i = 0; i < LD; i++) {
                float want = 0;
                for (unsigned r = 0; r < ROWS; r++) {
                    float y = r < rows && i < n ? in[r * LD + i] * factor[r] : in[r * LD + i];
                    assert_true(x[r * LD + i] == y);
                    want += r < rows ? y : 0;
                }
                assert_true(i >= n || sum[i] == want);
            }
        }
}

static void test_softmax_tile(void **state)
{
    (void)state;
    enum { ROWS = 20, LD = 77, WIDTH = 70 };
    static float in[ROWS * LD], s[ROWS * LD], alone[LD];
    for (unsigned f = 0; f < n_families; f++) {
        uint32_t cols[ROWS];
        float m[ROWS], l[ROWS], m1, l1;
        for (unsigned r = 0; r < ROWS; r++)
            cols[r] = r < 18 ? r : r == 18 ? 64 : WIDTH;
        fill(ROWS * LD, in, 20.0f);
        memcpy(s, in, sizeof in);
        families[f]->softmax_tile(ROWS, LD, WIDTH, cols, s, m, l);
        for (unsigned r = 0; r < ROWS; r++) {
            double max = -INFINITY, sum = 0;
            for (unsigned c = 0; c < cols[r]; c++)
                max = (double)in[r * LD + c] > max ? (double)in[r * LD + c] : max;
            assert_near((double)m[r], max, 0, families[f]->name, "m", r);
            for (unsigned c = 0; c < LD; c++) {
                double want = c >= WIDTH    ? (double)in[r * LD + c]
                              : c < cols[r] ? exp((double)(in[r * LD + c] - (float)max))
                                            : 0;
                assert_near((double)s[r * LD + c], want, c < cols[r] ? 2e-6 * want : 0, families[f]->name,
                            "s", c);
                sum += c < cols[r] ? want : 0;
            }
            assert_near((double)l[r], sum, 2e-6 * sum, families[f]->name, "l", r);
            memcpy(alone, in + r * LD, sizeof alone); /* by itself, and no wider than it needs */
            families[f]->softmax_tile(1, LD, cols[r], &cols[r], alone, &m1, &l1);
            assert_memory_equal(&l1, &l[r], sizeof l1);
            assert_memory_equal(alone, s + r * LD, cols[r] * sizeof alone[0]);
        }
    }
}

static void test_dot(void **state)
{
    (void)state;
    static float a[301], b[301];
    for (unsigned f = 0; f < n_families; f++)
        for (unsigned n = 0; n <= 300; n++) {
            double want = 0, size = 0;
            fill(301, a, 1.0f);
            fill(301, b, 1.0f);
            for (unsigned i = 0; i < n; i++) {
                want += (double)a[i + 1] * (double)b[i];
                size += fabs((double)a[i + 1] * (double)b[i]);
            }
            float got = families[f]->dot(n, a + 1, b);
            assert_near((double)got, want, 2e-6 * size, families[f]->name, "dot", n);
        }
}

/* ---- scout ---- */

struct group_case {
    unsigned g, d, n_vec;
    uint8_t bytes[1 + MAX_VECS * MAX_D * 4 + (MAX_VECS + 2) * 32];
    int8_t q8[MAX_G * MAX_D];
    float qscale[MAX_G], qsq[MAX_G];
    int32_t qsum[MAX_G];
    float out[MAX_G * 8];
};

static float tail_float(const struct group_case *c, unsigned row, unsigned lane)
{
    float x;
    memcpy(&x, c->bytes + 1 + (size_t)c->n_vec * c->d * 4 + (row * 8 + lane) * 4, sizeof x);
    return x;
}
static void put_tail_float(struct group_case *c, unsigned row, unsigned lane, float x)
{
    memcpy(c->bytes + 1 + (size_t)c->n_vec * c->d * 4 + (row * 8 + lane) * 4, &x, sizeof x);
}

/* extreme: the largest codes against the largest queries, for the 16-bit sums. */
static void make_group(struct group_case *c, unsigned g, unsigned d, unsigned n_vec, bool extreme)
{
    c->g = g, c->d = d, c->n_vec = n_vec;
    for (size_t i = 0; i < (size_t)n_vec * d * 4; i++)
        c->bytes[1 + i] = extreme ? 0xff : (uint8_t)next_random();
    for (unsigned lane = 0; lane < 8; lane++) {
        for (unsigned v = 0; v < n_vec; v++)
            put_tail_float(c, v, lane, uniform(0.3f));
        put_tail_float(c, n_vec, lane, fabsf(uniform(2.0f)));
        unsigned count = (unsigned)next_random() % 14; /* 0: no page */
        put_tail_float(c, n_vec + 1, lane, count ? logf((float)count) : -INFINITY);
    }
    for (unsigned r = 0; r < g; r++) {
        c->qsum[r] = 0;
        for (unsigned i = 0; i < d; i++) {
            int q = extreme ? (r & 1 ? -127 : 127) : (int)(next_random() % 255) - 127;
            c->q8[r * d + i] = (int8_t)q;
            c->qsum[r] += q;
        }
        c->qscale[r] = fabsf(uniform(0.01f)) + 1e-4f;
        c->qsq[r] = fabsf(uniform(6.0f));
    }
}

static double group_score(const struct group_case *c, unsigned r, unsigned page, double *size)
{
    double term[MAX_VECS], lcount = (double)tail_float(c, c->n_vec + 1, page);
    *size = 1;
    for (unsigned v = 0; v < c->n_vec; v++) {
        int sum = 0;
        for (unsigned i = 0; i < c->d; i++) {
            uint8_t b = c->bytes[1 + (size_t)v * c->d * 4 + i / 8 * 32 + 4 * page + i % 4];
            sum += ((i % 8 < 4 ? b & 15 : b >> 4) - 8) * c->q8[r * c->d + i];
        }
        term[v] = sum * (double)tail_float(c, v, page) * (double)c->qscale[r];
    }
    double variance = (double)tail_float(c, c->n_vec, page) * (double)c->qsq[r];
    term[0] += lcount + (variance <= 2 * lcount ? variance / 2 : sqrt(2 * variance * lcount) - lcount);
    if (isfinite(lcount)) /* what the gain was made of may cancel */
        *size = 1 + lcount + variance;
    double sum = 0;
    for (unsigned v = 0; v < c->n_vec; v++) {
        sum += exp(term[v]);
        *size = fabs(term[v]) > *size ? fabs(term[v]) : *size;
    }
    return lcount == -(double)INFINITY ? lcount : log(sum);
}

/* Rows [first, first + g) of the case against groups that lie in pieces; square (pieces, c->g). */
static void scan_case(const struct kernels *k, const struct group_case *c, unsigned first, unsigned g,
                      const uint8_t *const *pieces, unsigned per_piece, size_t n_groups, const float *square,
                      float *out, size_t ld)
{
    const struct scout_scan s = {.pieces = pieces,
                                 .n_groups = n_groups,
                                 .per_piece = per_piece,
                                 .n_vec = c->n_vec,
                                 .d_k = c->d,
                                 .g = g,
                                 .q8 = c->q8 + (size_t)first * c->d,
                                 .scale = c->qscale + first,
                                 .sum = c->qsum + first,
                                 .square = square + first,
                                 .square_step = n_groups > per_piece ? c->g : 0};
    k->scout_groups(&s, out, ld);
}

static void test_scout_group(void **state)
{
    (void)state;
    static struct group_case c, one;
    for (unsigned d = 8; d <= MAX_D; d += d < 64 ? 8 : 32)
        for (unsigned g = 1; g <= MAX_G; g += g < 8 ? 1 : 3)
            for (unsigned round = 0; round < 3; round++) {
                unsigned n_vec = d % 64 == 0 ? (round % 3 == 0   ? 1
                                                : round % 3 == 1 ? 6
                                                                 : 9)
                                             : 1 + (d / 8 + round) % MAX_VECS;
                make_group(&c, g, d, n_vec, round == 2);
                float first[MAX_G * 8], last[MAX_G * 8];
                const uint8_t *group = c.bytes + 1;
                for (unsigned f = 0; f < n_families; f++) {
                    const struct kernels *k = families[f];
                    scan_case(k, &c, 0, g, &group, 1, 1, c.qsq, c.out, 8);
                    for (unsigned r = 0; r < g; r++)
                        for (unsigned page = 0; page < 8; page++) {
                            double size, want = group_score(&c, r, page, &size),
                                         got = (double)c.out[8 * r + page];
                            assert_near(got, want, 1e-6 * size, k->name, "log mass", page);
                            if (f > 0)
                                assert_near(got, (double)first[8 * r + page], 1e-6 * size, k->name,
                                            "portable's", page);
                        }
                    for (unsigned r = 0; r < g; r++) { /* a row alone gives the same bits */
                        one = c;
                        scan_case(k, &c, r, 1, &group, 1, 1, c.qsq, one.out, 8);
                        assert_memory_equal(one.out, c.out + 8 * r, 8 * sizeof one.out[0]);
                    }
                    if (f == 0)
                        memcpy(first, c.out, sizeof first);
                    else if (strcmp(k->name, families[f - 1]->name) == 0)
                        assert_memory_equal(last, c.out, g * 8 * sizeof last[0]);
                    memcpy(last, c.out, sizeof last);
                }
            }
}

/* Groups among others have the scores of groups alone, whatever pieces they lie in: each with its squares. */
static void test_scout_groups(void **state)
{
    (void)state;
    enum { GROUPS = 13 };
    static const unsigned shapes[][3] = {{8, 1, 2},   {64, 2, 1},  {128, 4, 1},
                                         {128, 8, 1}, {128, 5, 6}, {136, 3, 9}};
    static struct group_case c;
    const size_t room = sizeof c.bytes;
    uint8_t *bytes = malloc((GROUPS + 5) * room);
    float square[GROUPS * MAX_G], out[MAX_G * GROUPS * 8];
    for (unsigned i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (unsigned n = 1; n <= GROUPS; n++) {
            const unsigned d = shapes[i][0], g = shapes[i][1], n_vec = shapes[i][2], per = 1 + n * 7 % 5;
            const size_t group_bytes = (size_t)n_vec * (d * 4 + 32) + 64;
            const uint8_t *pieces[GROUPS], *groups[GROUPS];
            for (unsigned k = 0; k < n; k++) { /* pieces from the far end on, each a byte further off */
                make_group(&c, g, d, n_vec, k % 4 == 3);
                uint8_t *piece = bytes + (size_t)((n - 1) / per - k / per) * per * room + k / per;
                pieces[k / per] = k % per ? pieces[k / per] : piece;
                groups[k] = pieces[k / per] + k % per * group_bytes;
                memcpy((uint8_t *)(uintptr_t)groups[k], c.bytes + 1, group_bytes);
                for (unsigned r = 0; r < g; r++)
                    square[k / per * g + r] = fabsf(uniform(6.0f));
            }
            for (unsigned f = 0; f < n_families; f++) {
                scan_case(families[f], &c, 0, g, pieces, per, n, square, out, GROUPS * 8);
                for (unsigned k = 0; k < n; k++) {
                    scan_case(families[f], &c, 0, g, &groups[k], 1, 1, square + (size_t)(k / per) * g, c.out,
                              8);
                    for (unsigned r = 0; r < g; r++)
                        assert_memory_equal(out + ((size_t)r * GROUPS + k) * 8, c.out + 8 * r,
                                            8 * sizeof *out);
                }
            }
        }
    free(bytes);
}

static int setup(void **state)
{
    (void)state;
    seed = 0x9e3779b97f4a7c15u;
    return 0;
}

int main(void)
{
    static const char *const names[] = {"portable", "avx2"};
    for (unsigned i = 0; i < 2; i++) {
        const struct kernels *k = kernels_named(names[i]);
        if (k)
            families[n_families++] = k;
#if defined(__x86_64__)
        if (k == &kernels_avx2_vnni)
            families[n_families++] = &kernels_avx2;
#endif
        if (!k)
            fprintf(stderr, "SKIPPED: the %s kernels can't run on this CPU and are not tested\n", names[i]);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_choice, setup),
        cmocka_unit_test_setup(test_exp_log, setup),
        cmocka_unit_test_setup(test_f16_to_f32, setup),
        cmocka_unit_test_setup(test_f32_to_f16_rounds_to_even, setup),
        cmocka_unit_test_setup(test_conversions_agree, setup),
        cmocka_unit_test_setup(test_page_shapes, setup),
        cmocka_unit_test_setup(test_page_rows_are_independent, setup),
        cmocka_unit_test_setup(test_page_extremes, setup),
        cmocka_unit_test_setup(test_page_weights, setup),
        cmocka_unit_test_setup(test_page_q8_0, setup),
        cmocka_unit_test_setup(test_merge, setup),
        cmocka_unit_test_setup(test_merge_empty, setup),
        cmocka_unit_test_setup(test_exp_sum, setup),
        cmocka_unit_test_setup(test_silu, setup),
        cmocka_unit_test_setup(test_scale_rows, setup),
        cmocka_unit_test_setup(test_softmax_tile, setup),
        cmocka_unit_test_setup(test_dot, setup),
        cmocka_unit_test_setup(test_scout_group, setup),
        cmocka_unit_test_setup(test_scout_groups, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
