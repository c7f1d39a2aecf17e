/* test_quant.c: weight formats (hand-made blocks, both kernel families, quantisers) and the products on top
 * of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decoder/model/dots.h"
#include "decoder/model/gguf.h"
#include "decoder/model/matmul.h"
#include "decoder/model/matmul_many.h"
#include "decoder/model/quant.h"
#include "decoder/model/rounded.h"

static const uint32_t all_types[] = {GGML_F32,  GGML_F16,  GGML_BF16, GGML_Q8_0,
                                     GGML_Q4_0, GGML_Q4_K, GGML_Q6_K};
enum { N_TYPES = sizeof all_types / sizeof *all_types };

static uint64_t seed = 7;
static uint32_t random_u32(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 32);
}
static float random_float(void) /* -1 … 1 */
{
    return (float)((double)random_u32() / 2147483648.0 - 1);
}

/* Checks to_f32 of each family against hand-computed weights: expected (n). */
static void check_block(uint32_t type, size_t n, const void *block, const float *expected)
{
    const char *const families[] = {"portable", "avx2"};
    for (unsigned f = 0; f < 2; f++) {
        const struct quant_ops *ops = quant_ops_named(families[f], type);
        if (!ops)
            continue;
        float out[QK_N];
        ops->to_f32(n, block, out);
        for (size_t i = 0; i < n; i++)
            if (out[i] != expected[i])
                fail_msg("%s %s: weight %zu is %g, expected %g", families[f], ggml_type_name(type), i,
                         (double)out[i], (double)expected[i]);
    }
}

static void test_plain_numbers(void **state)
{
    (void)state;
    const uint16_t f16[] = {0x0000, 0x3c00, 0xc000, 0x3555, 0x0001, 0x83ff, 0x7bff, 0x0400};
    const float f16_values[] = {0, 1, -2, 0.333251953125f, 0x1p-24f, -1023 * 0x1p-24f, 65504, 0x1p-14f};
    check_block(GGML_F16, 8, f16, f16_values);
    const uint16_t bf16[] = {0x3f80, 0xc000, 0x3eab, 0x7f7f, 0x0001};
    const float bf16_values[] = {1, -2, 0.333984375f, 0x1.fep127f, 0x1p-133f};
    check_block(GGML_BF16, 5, bf16, bf16_values);
    const float f32[] = {1, -2, 3e-39f, 7};
    check_block(GGML_F32, 4, f32, f32);
}

static void test_f16_is_exact_for_every_number(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        uint16_t bits = (uint16_t)h;
        int exponent = h >> 10 & 31, mantissa = h & 1023;
        if (exponent == 31)
            continue;
        double value = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
        assert_true((double)quant_f16(&bits) == (h & 0x8000 ? -value : value));
    }
    assert_true(isinf(quant_f16(&(uint16_t){0xfc00})));
    assert_true(isnan(quant_f16(&(uint16_t){0x7e00})));
}

static void test_blocks_of_32(void **state)
{
    (void)state;
    uint8_t q8[Q8_0_BYTES] = {0x00, 0xb8}, q4[Q4_0_BYTES] = {0x00, 0x40}; /* d = -0.5 and 2 */
    float w8[32], w4[32];
    for (int j = 0; j < 32; j++) {
        q8[2 + j] = (uint8_t)(int8_t)(8 * j - 128);
        w8[j] = -0.5f * (float)(8 * j - 128);
        int code = j * 5 % 16;
        q4[2 + j % 16] |= (uint8_t)(j < 16 ? code : code << 4);
        w4[j] = 2.0f * (float)(code - 8);
    }
    check_block(GGML_Q8_0, 32, q8, w8);
    check_block(GGML_Q4_0, 32, q4, w4);
}

/* d = 0.5, dmin = 0.25; sub-block s has scale 7s + 3 and minimum 63 - 8s, both of which use the split high
 * bits. */
static void test_q4_k_block(void **state)
{
    (void)state;
    uint8_t b[Q4_K_BYTES] = {0x00, 0x38, 0x00, 0x34};
    float w[QK_N];
    for (unsigned s = 0; s < 8; s++) {
        unsigned scale = 7 * s + 3, min = 63 - 8 * s;
        if (s < 4) {
            b[4 + s] |= (uint8_t)scale;
            b[8 + s] |= (uint8_t)min;
        } else {
            b[8 + s] |= (uint8_t)((scale & 15) | (min & 15) << 4);
            b[s] |= (uint8_t)(scale >> 4 << 6);
            b[4 + s] |= (uint8_t)(min >> 4 << 6);
        }
        for (unsigned j = 0; j < 32; j++) {
            unsigned code = (j + 3 * s) % 16;
            b[16 + 32 * (s / 2) + j] |= (uint8_t)(s % 2 ? code << 4 : code);
            w[32 * s + j] = 0.5f * (float)scale * (float)code - 0.25f * (float)min;
        }
    }
    check_block(GGML_Q4_K, QK_N, b, w);
}

/* d = 0.125; 16 weights share a scale of 9i - 70; codes run through all of 0…63. */
static void test_q6_k_block(void **state)
{
    (void)state;
    uint8_t b[Q6_K_BYTES] = {0};
    float w[QK_N];
    b[209] = 0x30;
    for (unsigned i = 0; i < QK_N; i++) {
        int scale = 9 * (int)(i / 16) - 70, code = (int)(i * 7 % 64);
        b[192 + i / 16] = (uint8_t)(int8_t)scale;
        /* position in the half of 128: four runs of 32; runs 0, 1 are low nibbles, 2, 3 high ones of the same
         * bytes */
        unsigned half = i / 128, run = i % 128 / 32, j = i % 32;
        b[half * 64 + (run == 1 || run == 3 ? 32 : 0) + j] |=
            (uint8_t)(run >= 2 ? (code & 15) << 4 : code & 15);
        b[128 + half * 32 + j] |= (uint8_t)((code >> 4) << (2 * run));
        w[i] = 0.125f * (float)scale * (float)(code - 32);
    }
    check_block(GGML_Q6_K, QK_N, b, w);
}

/* A row of random bytes with sane scales: every code occurs, also those that our quantisers never write. */
static void random_row(uint32_t type, size_t n, uint8_t *row)
{
    uint32_t elements, bytes = (uint32_t)ggml_type_block(type, &elements);
    static const struct {
        uint32_t type, at[2], n;
    } halves[] = {{GGML_Q8_0, {0}, 1}, {GGML_Q4_0, {0}, 1}, {GGML_Q4_K, {0, 2}, 2}, {GGML_Q6_K, {208}, 1}};
    for (size_t i = 0; i < n / elements; i++, row += bytes) {
        for (uint32_t j = 0; j < bytes; j++)
            row[j] = (uint8_t)random_u32();
        for (size_t h = 0; h < sizeof halves / sizeof *halves; h++)
            for (uint32_t k = 0; halves[h].type == type && k < halves[h].n; k++)
                row[halves[h].at[k] + 1] = (uint8_t)(0x20 + random_u32() % 16); /* about 0.01 … 0.5 */
        float x = random_float();
        if (elements == 1)
            quant_from_f32(type, 1, &x, row);
    }
}

static void test_families_agree(void **state)
{
    (void)state;
    static const size_t lengths[] = {8, 31, 32, 200, 256, 1000, 2048};
    static uint8_t row[2048 * 4];
    static float a[2048], b[2048], x[2048];
    for (unsigned t = 0; t < N_TYPES; t++)
        for (unsigned l = 0; l < sizeof lengths / sizeof *lengths; l++) {
            size_t n = lengths[l];
            const struct quant_ops *portable = quant_ops_named("portable", all_types[t]);
            const struct quant_ops *fast = quant_ops_named("avx2", all_types[t]);
            if (!ggml_row_bytes(all_types[t], n))
                continue;
            if (!fast) {
                print_message("this CPU has no AVX2: only the portable family is tested\n");
                return;
            }
            random_row(all_types[t], n, row);
            double exact = 0, scale = 0;
            portable->to_f32(n, row, a);
            fast->to_f32(n, row, b);
            assert_memory_equal(a, b, n * sizeof *a);
            for (size_t i = 0; i < n; i++) {
                x[i] = random_float();
                exact += (double)a[i] * (double)x[i];
                scale += fabs((double)a[i] * (double)x[i]);
            }
            float dots[] = {portable->dot(n, row, x), fast->dot(n, row, x)};
            for (unsigned f = 0; f < 2; f++)
                if (fabs((double)dots[f] - exact) > 1e-6 * scale)
                    fail_msg("%s of %zu: dot %g, exact %g", ggml_type_name(all_types[t]), n, (double)dots[f],
                             exact);
            assert_true(portable->dot(n, row, x) == quant_ops_named("portable", GGML_F32)->dot(n, a, x));
            assert_true(fast->dot(n, row, x) == quant_ops_named("avx2", GGML_F32)->dot(n, a, x));
        }
}

/* Four rows side by side have the bits of one at a time. Rows end where their memory ends. */
static void test_rows_side_by_side(void **state)
{
    (void)state;
    static const size_t lengths[] = {8, 31, 32, 96, 136, 256, 320, 1000, 1024};
    const char *const families[] = {"portable", "avx2"};
    static float x[1024];
    for (unsigned i = 0; i < 1024; i++)
        x[i] = random_float();
    for (unsigned f = 0; f < 2; f++)
        for (unsigned t = 0; t < N_TYPES; t++)
            for (unsigned l = 0; l < sizeof lengths / sizeof *lengths; l++) {
                const struct quant_ops *ops = quant_ops_named(families[f], all_types[t]);
                size_t n = lengths[l], bytes = ggml_row_bytes(all_types[t], n), apart = bytes + 5;
                if (!ops || !bytes)
                    continue;
                uint8_t *rows = malloc((QUANT_SIDE - 1) * apart + bytes);
                float y[QUANT_SIDE];
                for (unsigned r = 0; r < QUANT_SIDE; r++)
                    random_row(all_types[t], n, rows + r * apart);
                ops->dot_side(n, rows, apart, x, y);
                for (unsigned r = 0; r < QUANT_SIDE; r++)
                    if (y[r] != ops->dot(n, rows + r * apart, x))
                        fail_msg("%s %s of %zu: row %u has other bits among four", families[f],
                                 ggml_type_name(all_types[t]), n, r);
                free(rows);
            }
}

/* Activations in 8 bits: a half of a step each, no more; families agree; four rows side by side have the bits
 * of one. */
static void test_rounded_activations(void **state)
{
    (void)state;
    enum { N = 1024, APART = 5 };
    const char *const families[] = {"portable", "avx2"};
    static float x[N], w[N];
    static uint8_t memory[N * 2];
    struct rounded q = rounded_at(memory, N);
    assert_true(rounded_bytes(N) <= sizeof memory && rounded_bytes(N) % 64 == 0);
    for (unsigned i = 0; i < N; i++)
        x[i] = i / 32 == 3 ? 0 : random_float() * (float)(i / 32 + 1);
    rounded_from_f32(N, x, &q);
    for (unsigned i = 0; i < N; i++)
        assert_true(fabsf(x[i] - q.d[i / 32] * q.q[i]) <= 0.501f * q.d[i / 32]);
    for (unsigned t = 0; t < N_TYPES; t++)
        for (unsigned f = 0; f < 2; f++) {
            rounded_dot *dot = rounded_dot_named(families[f], all_types[t]);
            size_t bytes = ggml_row_bytes(all_types[t], N), apart = bytes + APART;
            if (!dot)
                continue;
            uint8_t *rows = malloc((QUANT_SIDE - 1) * apart + bytes);
            float y[QUANT_SIDE], one;
            for (unsigned r = 0; r < QUANT_SIDE; r++)
                random_row(all_types[t], N, rows + r * apart);
            dot(QUANT_SIDE, N, rows, apart, &q, y);
            for (unsigned r = 0; r < QUANT_SIDE; r++) {
                double of_codes = 0, scale = 0;
                quant_ops(all_types[t])->to_f32(N, rows + r * apart, w);
                for (unsigned i = 0; i < N; i++) {
                    double term = (double)w[i] * (double)q.d[i / 32] * q.q[i];
                    of_codes += term;
                    scale += fabs(term);
                }
                if (fabs((double)y[r] - of_codes) > 4e-6 * scale)
                    fail_msg("%s %s: dot %g, exact %g", families[f], ggml_type_name(all_types[t]),
                             (double)y[r], of_codes);
                dot(1, N, rows + r * apart, 0, &q, &one);
                assert_true(one == y[r]);
            }
            free(rows);
        }
    assert_null(rounded_dot_of(GGML_F16));
    x[40] = INFINITY;
    rounded_from_f32(N, x, &q);
    assert_true(isnan(q.d[1]) && q.q[40] == 0 && isnan(q.sum[1]) && !isnan(q.d[0]));
}

static void test_quantisers_are_near(void **state)
{
    (void)state;
    /* Largest error a weight of -1…1 may have: half a step of the coarsest scale that the format can choose.
     */
    static const double bounds[] = {
        0, 0x1p-11, 0x1p-8, 0.5 / 127 + 1e-3, 1.0 / 8 + 1e-3, 0.5 * 2 / 15 + 0.02, 0.5 / 31 + 2e-3};
    float x[QK_N], back[QK_N];
    uint8_t row[QK_N * 4];
    for (unsigned t = 0; t < N_TYPES; t++)
        for (unsigned round = 0; round < 50; round++) {
            float size = round == 0 ? 0 : ldexpf(1, -(int)(round % 6));
            for (unsigned i = 0; i < QK_N; i++)
                x[i] = size * random_float();
            quant_from_f32(all_types[t], QK_N, x, row);
            quant_ops(all_types[t])->to_f32(QK_N, row, back);
            for (unsigned i = 0; i < QK_N; i++)
                if (!(fabs((double)x[i] - (double)back[i]) <= bounds[t] * (double)size))
                    fail_msg("%s: %g became %g (size %g)", ggml_type_name(all_types[t]), (double)x[i],
                             (double)back[i], (double)size);
        }
}

/* ---- products ---- */

enum { ROWS = 700, COLS = 256, TOKENS = 150 };

static struct matrix make_matrix(uint32_t type, uint8_t *data)
{
    size_t row_bytes = ggml_row_bytes(type, COLS);
    for (uint32_t r = 0; r < ROWS; r++)
        random_row(type, COLS, data + r * row_bytes);
    return (struct matrix){.data = data, .row_bytes = row_bytes, .type = type, .rows = ROWS, .cols = COLS};
}

static void check_product(const struct matrix *w, const float *x, const float *y, double start,
                          const char *what)
{
    float row[COLS];
    for (uint32_t r = 0; r < ROWS; r += 7) {
        matrix_row(w, r, row);
        for (uint32_t t = 0; t < TOKENS; t++) {
            double exact = start, scale = 1e-3;
            for (uint32_t i = 0; i < COLS; i++) {
                exact += (double)row[i] * (double)x[t * COLS + i];
                scale += fabs((double)row[i] * (double)x[t * COLS + i]);
            }
            if (fabs((double)y[t * ROWS + r] - exact) > 2e-6 * scale)
                fail_msg("%s %s: y[%u][%u] is %g, exact %g", what, ggml_type_name(w->type), t, r,
                         (double)y[t * ROWS + r], exact);
        }
    }
}

static void test_products(void **state)
{
    (void)state;
    uint8_t *data = malloc(ROWS * COLS * 4);
    float *spread = malloc(ROWS * COLS * sizeof *spread), *x = malloc(TOKENS * COLS * sizeof *x);
    float *y[3];
    struct pool *pools[] = {NULL, pool_new(2), pool_new(3)};
    struct matmul_room vectors = {0};
    for (unsigned i = 0; i < 3; i++)
        y[i] = malloc(TOKENS * ROWS * sizeof *y[i]);
    for (unsigned i = 0; i < TOKENS * COLS; i++)
        x[i] = random_float();
    for (unsigned t = 0; t < N_TYPES; t++) {
        struct matrix w = make_matrix(all_types[t], data);
        for (unsigned p = 0; p < 3; p++)
            assert_int_equal(matmul_rows(pools[p], &vectors, ACTIVATIONS_EXACT, &(struct matmul){&w, y[p]}, 1,
                                         TOKENS, x, false),
                             0);
        check_product(&w, x, y[0], 0, "rows");
        assert_memory_equal(y[0], y[1], TOKENS * ROWS * sizeof *y[0]); /* bits don't depend on threads */
        assert_memory_equal(y[0], y[2], TOKENS * ROWS * sizeof *y[0]);
        /* nor on neighbours */
        matmul_rows(pools[1], NULL, ACTIVATIONS_EXACT, &(struct matmul){&w, y[1]}, 1, 1, x + 3 * COLS, false);
        assert_memory_equal(y[0] + 3 * ROWS, y[1], ROWS * sizeof *y[0]);

        for (unsigned at_hand = 0; at_hand < 2; at_hand++) {
            struct matmul_room room = {0};
            for (uint32_t r = 0; r < ROWS; r++)
                matrix_row(&w, r, spread + r * COLS);
            w.f32 = at_hand ? spread : NULL;
            for (unsigned p = 0; p < 3; p++)
                assert_int_equal(
                    matmul_tiles(pools[p], &room, &(struct matmul){&w, y[p]}, 1, TOKENS, x, false), 0);
            check_product(&w, x, y[0], 0, "tiles");
            assert_memory_equal(y[0], y[1], TOKENS * ROWS * sizeof *y[0]);
            assert_memory_equal(y[0], y[2], TOKENS * ROWS * sizeof *y[0]);
            matmul_room_free(&room);
        }
        for (unsigned p = 0; p < 2; p++) {
            struct matmul_room room = {0};
            for (unsigned i = 0; i < TOKENS * ROWS; i++)
                y[p][i] = 5;
            if (p == 0)
                matmul_rows(pools[1], &vectors, ACTIVATIONS_EXACT, &(struct matmul){&w, y[p]}, 1, TOKENS, x,
                            true);
            else
                assert_int_equal(
                    matmul_tiles(pools[1], &room, &(struct matmul){&w, y[p]}, 1, TOKENS, x, true), 0);
            check_product(&w, x, y[p], 5, "adding");
            matmul_room_free(&room);
        }
    }
    for (unsigned i = 0; i < 3; i++) {
        free(y[i]);
        pool_free(pools[i]);
    }
    matmul_room_free(&vectors);
    free(data);
    free(spread);
    free(x);
}

/* Each of several vectors gets the bits that it gets alone, whatever its number and its neighbours; also
 * where rows end inside a tile or a group of lanes. */
static void check_many(uint32_t type, uint32_t rows, uint32_t cols, uint32_t n, bool at_hand)
{
    size_t row_bytes = ggml_row_bytes(type, cols);
    uint8_t *data = malloc(rows * row_bytes);
    float *spread = malloc(rows * cols * sizeof *spread), *x = malloc(n * cols * sizeof *x);
    float *many = malloc(n * rows * sizeof *many), *one = malloc(n * rows * sizeof *one);
    struct matmul_room room = {0};
    struct matrix w = {.data = data, .row_bytes = row_bytes, .type = type, .rows = rows, .cols = cols};
    for (uint32_t r = 0; r < rows; r++) {
        random_row(type, cols, data + r * row_bytes);
        matrix_row(&w, r, spread + (size_t)r * cols);
    }
    w.f32 = at_hand ? spread : NULL;
    for (size_t i = 0; i < (size_t)n * cols; i++)
        x[i] = random_float();
    for (size_t i = 0; i < (size_t)n * rows; i++)
        many[i] = one[i] = (float)i;
    assert_int_equal(matmul_rows(NULL, &room, ACTIVATIONS_EXACT, &(struct matmul){&w, many}, 1, n, x, n % 2),
                     0);
    for (uint32_t t = 0; t < n; t++)
        matmul_rows(NULL, NULL, ACTIVATIONS_EXACT, &(struct matmul){&w, one + (size_t)t * rows}, 1, 1,
                    x + (size_t)t * cols, n % 2);
    if (memcmp(many, one, n * rows * sizeof *one))
        fail_msg("%s %u×%u: %u vectors at once have other bits than one by one", ggml_type_name(type), rows,
                 cols, n);
    matmul_room_free(&room);
    free(data);
    free(spread);
    free(x);
    free(many);
    free(one);
}

static void test_many_have_the_bits_of_one(void **state)
{
    (void)state;
    for (unsigned t = 0; t < N_TYPES; t++) {
        for (uint32_t n = 1; n <= 9; n++)
            check_many(all_types[t], 12 + n, 256, n, n % 3 == 0);
        check_many(all_types[t], 100, 1024, 16, false);
        check_many(all_types[t], 25, 2304, 70, false);
        check_many(all_types[t], 25, 2304, 64, true);
    }
    for (uint32_t cols = 8; cols < 1200; cols += 131)
        check_many(GGML_F16, 30, cols, 5, cols % 2);
    for (uint32_t cols = 1021; cols < 1036; cols += 2) /* what is left behind a wide tile */
        check_many(GGML_BF16, 7, cols, 4, false);
}

/* The same of both families, whichever is in use, in two stretches of columns. */
static void test_dots_of_families(void **state)
{
    (void)state;
    enum { MOST = 64, R = 13 };
    static const uint32_t types[] = {GGML_F32, GGML_F16, GGML_BF16};
    static uint8_t w[R][MOST * 4 + 3];
    static float x[DOTS_VECTORS][MOST], panel[DOTS_VECTORS * MOST];
    const char *const families[] = {"portable", "avx2"};
    for (unsigned f = 0; f < 2; f++)
        for (unsigned t = 0; t < 3; t++) {
            const struct dots_ops *dots = dots_ops_named(families[f]);
            for (unsigned n = 1; dots && n <= DOTS_VECTORS; n++) {
                dots_add *add = dots_of_type(dots, types[t]);
                float sums[DOTS_VECTORS][R * QUANT_LANES], y[R];
                size_t first = ggml_row_bytes(types[t], 40);
                for (unsigned r = 0; r < R; r++)
                    random_row(types[t], MOST, w[r]);
                for (unsigned i = 0; i < n; i++)
                    random_row(GGML_F32, MOST, (uint8_t *)x[i]);
                matmul_panel(n, MOST, x[0], 0, panel);
                struct dots_ahead ahead = {w[0], sizeof *w}; /* asked for, whatever it is */
                add(true, R, n, 40, w, sizeof *w, panel, sums[0], R * QUANT_LANES, ahead);
                add(false, R, n, 24, w[0] + first, sizeof *w, panel + 40 * n, sums[0], R * QUANT_LANES,
                    ahead);
                for (unsigned i = 0; i < n; i++) {
                    dots->sum(R, sums[i], y);
                    for (unsigned r = 0; r < R; r++)
                        assert_true(y[r] == quant_ops_named(families[f], types[t])->dot(MOST, w[r], x[i]));
                }
            }
        }
    assert_null(dots_of_type(dots_ops(), GGML_Q8_0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_numbers),     cmocka_unit_test(test_f16_is_exact_for_every_number),
        cmocka_unit_test(test_blocks_of_32),      cmocka_unit_test(test_q4_k_block),
        cmocka_unit_test(test_q6_k_block),        cmocka_unit_test(test_families_agree),
        cmocka_unit_test(test_rows_side_by_side), cmocka_unit_test(test_quantisers_are_near),
        cmocka_unit_test(test_products),          cmocka_unit_test(test_many_have_the_bits_of_one),
        cmocka_unit_test(test_dots_of_families),  cmocka_unit_test(test_rounded_activations),
    };
    return cmocka_run_group_tests_name("quant", tests, NULL, NULL);
}
