/* test_scout: representatives against the log mass they stand for, and the choice of pages against a full
 * sort. */
#include "decoder/scout/reps.h"
#include "decoder/scout/scout.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { D = 64, MAX_D = 128, MAX_G = 20 };

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
/* Roughly normal, variance 1. */
static float normal(void)
{
    float sum = 0;
    for (unsigned i = 0; i < 12; i++)
        sum += uniform(0.5f);
    return sum;
}
/* A multiple of `step` that 4 bits hold when the vector's extreme is -8 or 7 steps. */
static float on_grid(float step)
{
    return step * (float)((int)(next_random() % 15) - 7);
}

static double dot(unsigned d, const float *a, const float *b)
{
    double sum = 0;
    for (unsigned i = 0; i < d; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}
static double true_log_mass(unsigned d, const float *q, const float *k)
{
    double s[16], max = -INFINITY, sum = 0;
    for (unsigned t = 0; t < 16; t++) {
        s[t] = dot(d, q, k + t * d);
        max = s[t] > max ? s[t] : max;
    }
    for (unsigned t = 0; t < 16; t++)
        sum += exp(s[t] - max);
    return max + log(sum);
}

/* Scores of the eight pages of one group for one query. */
static void score_kind(enum reps_kind kind, unsigned d, const uint8_t *group, const float *q, float out[8])
{
    const struct scout_head head = {.kind = kind, .groups = &group, .pages_per_piece = 8, .d_k = d};
    scout_score(&head, 8, 1, q, out, 8);
}

static void score_group(unsigned d, const uint8_t *group, const float *q, float out[8])
{
    score_kind(REPS_PAGE, d, group, q, out);
}

/* ---- representatives ---- */

static void test_equal_keys(void **state)
{
    (void)state;
    uint8_t group[4096];
    float k[16 * D], q[D], out[8];
    reps_group_clear(REPS_PAGE, D, group);
    for (unsigned i = 0; i < D; i++)
        k[i] = on_grid(0.125f);
    k[5] = 7 * 0.125f;
    for (unsigned t = 1; t < 16; t++)
        memcpy(k + t * D, k, D * sizeof *k);
    for (unsigned i = 0; i < D; i++)
        q[i] = (float)((int)(next_random() % 255) - 127) / 256;
    q[9] = 127.0f / 256; /* int8 holds q exactly */
    reps_build(REPS_PAGE, D, k, group, 6);
    score_group(D, group, q, out);
    assert_float_equal(out[6], (float)true_log_mass(D, q, k), 1e-3f);
    for (unsigned lane = 0; lane < 8; lane++)
        if (lane != 6)
            assert_true(out[lane] == -INFINITY);
    memset(k, 0, sizeof k);
    reps_build(REPS_PAGE, D, k, group, 6);
    score_group(D, group, q, out);
    assert_float_equal(out[6], logf(16), 1e-6f);
}

/* Eleven alike and five apart: nothing is lost. A query along one outlier finds it. */
static void test_outliers(void **state)
{
    (void)state;
    uint8_t group[4096];
    float k[16 * D], q[D], out[8];
    for (unsigned round = 0; round < 50; round++) {
        reps_group_clear(REPS_PAGE, D, group);
        for (unsigned i = 0; i < D; i++)
            k[i] = 0.25f * on_grid(0.0625f);
        k[0] = 0.25f * 7 * 0.0625f;
        for (unsigned t = 1; t < 16; t++)
            memcpy(k + t * D, k, D * sizeof *k);
        unsigned lone = (unsigned)next_random() % 16;
        for (unsigned j = 0; j < REPS_PAGE_OUTLIERS; j++) {
            float *o = k + (lone + 5 * j) % 16 * D;
            for (unsigned i = 0; i < D; i++)
                o[i] = on_grid(0.25f);
            o[1] = 7 * 0.25f;
        }
        for (unsigned i = 0; i < D; i++)
            q[i] = rintf(k[lone * D + i] * 64) / 128;
        q[2] = 127.0f / 128;
        reps_build(REPS_PAGE, D, k, group, round % 8);
        score_group(D, group, q, out);
        assert_float_equal(out[round % 8], (float)true_log_mass(D, q, k), 2e-3f);
        assert_true(out[round % 8] > 20.0f);
    }
}

/* With scattered keys the estimate is right on average; the centre alone would miss what scatter adds. */
static void test_spread(void **state)
{
    const enum reps_kind *kind = *state;
    enum { PAGES = 400 };
    const double most_bias = *kind == REPS_LEAN ? 0.15 : 0.12;
    static const float sizes[] = {0.3f, 1.0f, 1.6f}; /* standard deviation of q·k within a page */
    for (unsigned s = 0; s < 3; s++) {
        double bias = 0, error = 0, gap = 0;
        for (unsigned page = 0; page < PAGES; page++) {
            uint8_t group[4096];
            float k[16 * D], q[D], centre[D], out[8];
            reps_group_clear(*kind, D, group);
            for (unsigned i = 0; i < D; i++) {
                centre[i] = normal();
                q[i] = normal() * sizes[s] / sqrtf(D);
                for (unsigned t = 0; t < 16; t++)
                    k[t * D + i] = centre[i] + normal();
            }
            reps_build(*kind, D, k, group, 0);
            score_kind(*kind, D, group, q, out);
            double truth = true_log_mass(D, q, k);
            bias += (double)out[0] - truth;
            error += fabs((double)out[0] - truth);
            gap += truth - (dot(D, q, centre) + log(16));
        }
        if (fabs(bias) / PAGES > most_bias || error / PAGES > 0.2 + 0.3 * (double)sizes[s])
            fail_msg("scatter %.1f: bias %.3f, mean error %.3f (what scatter adds: %.3f)", (double)sizes[s],
                     bias / PAGES, error / PAGES, gap / PAGES);
    }
}

static void test_lanes_are_independent(void **state)
{
    (void)state;
    static const unsigned dims[] = {8, 64, 128};
    for (unsigned i = 0; i < 3; i++) {
        unsigned d = dims[i];
        static uint8_t all[8192], again[8192], empty[8192];
        static float k[8][16 * MAX_D];
        assert_true(reps_group_bytes(REPS_PAGE, d) <= sizeof all);
        reps_group_clear(REPS_PAGE, d, all);
        reps_group_clear(REPS_PAGE, d, again);
        reps_group_clear(REPS_PAGE, d, empty);
        for (unsigned lane = 0; lane < 8; lane++) {
            for (unsigned j = 0; j < 16 * d; j++)
                k[lane][j] = normal();
            reps_build(REPS_PAGE, d, k[lane], all, lane);
        }
        for (unsigned lane = 8; lane-- > 0;) { /* another order, over other content */
            reps_build(REPS_PAGE, d, k[(lane + 1) % 8], again, lane);
            reps_build(REPS_PAGE, d, k[lane], again, lane);
        }
        assert_memory_equal(all, again, reps_group_bytes(REPS_PAGE, d));
        for (unsigned lane = 0; lane < 8; lane++)
            reps_lane_clear(REPS_PAGE, d, all, lane);
        assert_memory_equal(all, empty, reps_group_bytes(REPS_PAGE, d));
    }
}

static float decode(unsigned d, const uint8_t *group, unsigned vec, unsigned lane, unsigned i)
{
    uint8_t byte = group[(size_t)vec * d * 4 + i / 8 * 32 + 4 * lane + i % 4];
    float scale;
    memcpy(&scale, group + (size_t)(1 + REPS_PAGE_OUTLIERS) * d * 4 + (vec * 8 + lane) * 4, sizeof scale);
    return (float)((i % 8 < 4 ? byte & 15 : byte >> 4) - 8) * scale;
}

/* Sixteen keys equally far from their mean: the first ones are the outliers. */
static void test_outlier_ties(void **state)
{
    (void)state;
    uint8_t group[4096];
    float k[16 * 16] = {0};
    for (unsigned t = 0; t < 16; t++)
        k[t * 16 + t] = 1.0f;
    reps_group_clear(REPS_PAGE, 16, group);
    reps_build(REPS_PAGE, 16, k, group, 2);
    for (unsigned vec = 1; vec < (1 + REPS_PAGE_OUTLIERS); vec++)
        for (unsigned i = 0; i < 16; i++)
            assert_float_equal(decode(16, group, vec, 2, i), i == vec - 1 ? 1.0f : 0.0f, 1e-6f);
    for (unsigned i = 0; i < 16; i++) /* the centre of the others */
        assert_float_equal(decode(16, group, 0, 2, i),
                           i < REPS_PAGE_OUTLIERS ? 0.0f : 1.0f / (16 - REPS_PAGE_OUTLIERS), 1e-6f);
}

/* Keys that scatter in some dims far more than in others: a query along the quiet ones must not be told of
 * the others' scatter, and one along the loud ones of all of it. */
static void test_scatter(void **state)
{
    (void)state;
    enum { PAGES = 64 };
    uint8_t group[4096];
    const uint8_t *at = group;
    float k[64 * D], w[D], q[D], with[8], without[8];
    double off[2] = {0}, off_even[2] = {0}, sum = 0;
    for (unsigned page = 0; page < PAGES; page++) {
        for (unsigned i = 0; i < 64 * D; i++)
            k[i] = normal() * (i % D < D / 4 ? 1.0f : 0.2f);
        reps_group_clear(REPS_PAGE, D, group);
        reps_build(REPS_PAGE, D, k, group, 0);
        reps_scatter(D, k, w);
        const float *scatter = w;
        const struct scout_head head = {.groups = &at, .scatter = &scatter, .pages_per_piece = 8, .d_k = D};
        for (unsigned loud = 0; loud < 2; loud++) {
            for (unsigned i = 0; i < D; i++)
                q[i] = (i < D / 4) == loud ? normal() * (loud ? 0.3f : 0.8f) : 0.0f;
            scout_score(&head, 8, 1, q, with, 8);
            score_group(D, group, q, without);
            double truth = true_log_mass(D, q, k);
            off[loud] += fabs((double)with[0] - truth) / PAGES;
            off_even[loud] += fabs((double)without[0] - truth) / PAGES;
        }
    }
    for (unsigned i = 0; i < D; i++)
        sum += (double)w[i];
    assert_float_equal((float)sum, (float)D, 1e-2f);
    for (unsigned loud = 0; loud < 2; loud++)
        if (off[loud] > 0.7 * off_even[loud])
            fail_msg("queries along %s dims: off by %.3f with scatter, by %.3f without",
                     loud ? "loud" : "quiet", off[loud], off_even[loud]);
    memset(k, 0, sizeof k);
    reps_scatter(D, k, w); /* nothing scatters: all dims are alike */
    for (unsigned i = 0; i < D; i++)
        assert_true(w[i] == 1.0f);
    k[3] = NAN;
    reps_scatter(D, k, w);
    assert_true(w[0] == 1.0f && w[3] == 1.0f);
}

static void test_quantisation_error(void **state)
{
    (void)state;
    double error = 0, size = 0;
    for (unsigned round = 0; round < 200; round++) {
        uint8_t group[4096];
        float k[16 * D];
        for (unsigned i = 0; i < D; i++)
            k[i] = normal();
        for (unsigned t = 1; t < 16; t++)
            memcpy(k + t * D, k, D * sizeof *k);
        reps_group_clear(REPS_PAGE, D, group);
        reps_build(REPS_PAGE, D, k, group, 0);
        for (unsigned i = 0; i < D; i++) {
            double e = (double)(decode(D, group, 0, 0, i) - k[i]);
            error += e * e;
            size += (double)(k[i] * k[i]);
        }
    }
    if (sqrt(error / size) > 0.11)
        fail_msg("4-bit vectors of 64 normal numbers are %.3f off (relative), should be about 0.1",
                 sqrt(error / size));
}

static void test_broken_keys(void **state)
{
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY, 3e38f, 1e-44f};
    for (unsigned b = 0; b < 5; b++) {
        uint8_t group[4096];
        float k[16 * D], q[D], before[8], out[8];
        reps_group_clear(REPS_PAGE, D, group);
        for (unsigned i = 0; i < 16 * D; i++)
            k[i] = normal();
        for (unsigned i = 0; i < D; i++)
            q[i] = normal();
        for (unsigned lane = 0; lane < 8; lane++)
            reps_build(REPS_PAGE, D, k, group, lane);
        score_group(D, group, q, before);
        for (unsigned i = 0; i < 16 * D; i += 1 + i % 7)
            k[i] = bad[b];
        reps_build(REPS_PAGE, D, k, group, 3);
        score_group(D, group, q, out);
        for (unsigned lane = 0; lane < 8; lane++)
            assert_true(lane == 3 || out[lane] == before[lane]);
        assert_true(isfinite(out[3]) || b == 3);
        for (unsigned i = 0; i < D; i++)
            q[i] = bad[b];
        score_group(D, group, q, out); /* a query without a size finds all alike, but finds */
        assert_true(isfinite(out[0]));
    }
}

/* ---- scoring ---- */

static void test_score_pieces(void **state)
{
    (void)state;
    enum { PER_PIECE = 24, PIECES = 4, LD = PER_PIECE * PIECES };
    static uint8_t data[PIECES][PER_PIECE / 8 * 4096];
    static float q[MAX_G * MAX_D], out[MAX_G * LD], alone[LD];
    static const unsigned dims[] = {8, 64, 120};
    const uint8_t *pieces[PIECES];
    for (unsigned i = 0; i < 3; i++) {
        unsigned d = dims[i];
        for (unsigned p = 0; p < PIECES; p++) {
            pieces[p] = data[p];
            for (unsigned page = 0; page < PER_PIECE; page++) {
                float k[16 * MAX_D];
                for (unsigned j = 0; j < 16 * d; j++)
                    k[j] = normal();
                reps_build(REPS_PAGE, d, k, data[p] + page / 8 * reps_group_bytes(REPS_PAGE, d), page % 8);
            }
        }
        for (unsigned j = 0; j < MAX_G * d; j++)
            q[j] = normal() / 4;
        const struct scout_head head = {.groups = pieces, .pages_per_piece = PER_PIECE, .d_k = d};
        static const size_t counts[] = {1, 7, 8, 24, 25, 71, 96};
        for (unsigned c = 0; c < 7; c++) {
            size_t n = counts[c], padded = (n + 7) / 8 * 8;
            scout_score(&head, n, MAX_G, q, out, LD);
            for (unsigned r = 0; r < MAX_G; r++) {
                scout_score(&head, n, 1, q + r * d, alone, LD);
                assert_memory_equal(alone, out + r * LD, padded * sizeof *alone);
                for (size_t page = 0; page < n; page++) {
                    float lanes[8];
                    const uint8_t *group =
                        data[page / PER_PIECE] + page % PER_PIECE / 8 * reps_group_bytes(REPS_PAGE, d);
                    score_group(d, group, q + r * d, lanes);
                    assert_true(out[r * LD + page] == lanes[page % 8] && isfinite(lanes[page % 8]));
                }
                for (size_t page = n; page < padded; page++)
                    assert_true(out[r * LD + page] == -INFINITY);
            }
        }
    }
}

static void test_aggregate(void **state)
{
    (void)state;
    enum { N = 1003, LD = 1008, G = 5 };
    static float logmass[G * LD], copy[G * LD], score[N];
    float lse[G];
    for (unsigned i = 0; i < G * LD; i++)
        logmass[i] = next_random() % 50 ? uniform(12.0f) : -INFINITY;
    for (unsigned i = 0; i < LD; i++)
        logmass[3 * LD + i] = -INFINITY; /* a row that sees nothing */
    memcpy(copy, logmass, sizeof copy);
    scout_aggregate(N, G, logmass, LD, lse, score);
    double want[N] = {0}, total = 0;
    for (unsigned r = 0; r < G; r++) {
        double sum = 0;
        for (unsigned i = 0; i < N; i++)
            sum += exp((double)copy[r * LD + i]);
        if (r == 3) {
            assert_true(lse[r] == -INFINITY);
            continue;
        }
        assert_float_equal(lse[r], (float)log(sum), 1e-4f);
        for (unsigned i = 0; i < N; i++) {
            want[i] += exp((double)copy[r * LD + i]) / sum;
            double share = exp((double)copy[r * LD + i]) / sum;
            assert_true(fabs((double)logmass[r * LD + i] - share) <= 1e-5 * share);
        }
    }
    for (unsigned i = 0; i < N; i++) {
        assert_true(fabs((double)score[i] - want[i]) <= 1e-5 * want[i]);
        total += (double)score[i];
    }
    assert_float_equal((float)total, G - 1, 1e-4f);
}

/* ---- choosing ---- */

enum { MAX_PAGES = 3000, MANY_PAGES = 20000 };

struct ranked {
    float score;
    uint32_t unit;
};
static int by_score(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->unit < y->unit ? -1 : 1;
}

/* The definition: sort all, take from the top. */
static size_t sorted_top(size_t n_pages, const float *score, const uint64_t *eligible, size_t k,
                         unsigned unit, float mass, bool *chosen)
{
    static struct ranked list[MANY_PAGES];
    size_t n = 0, n_chosen = 0;
    double total = 0, sum = 0;
    memset(chosen, 0, n_pages * sizeof *chosen);
    for (size_t u = 0; u * unit < n_pages; u++) {
        float s = 0;
        bool may = false;
        for (size_t p = u * unit; p < (u + 1) * unit && p < n_pages; p++)
            if (!eligible || (eligible[p / 64] >> (p % 64) & 1)) {
                s += score[p];
                may = true;
            }
        s = s >= FLT_MIN ? s : 0; /* what underflows counts as nothing */
        if (may)
            list[n++] = (struct ranked){s, (uint32_t)u};
        total += may ? (double)s : 0;
    }
    qsort(list, n, sizeof list[0], by_score);
    for (size_t i = 0; i < n && i < k; i++) {
        if (mass > 0 && mass < 1 && sum >= (double)mass * total)
            break;
        sum += (double)list[i].score;
        for (size_t p = (size_t)list[i].unit * unit; p < (size_t)(list[i].unit + 1) * unit && p < n_pages;
             p++)
            if (!eligible || (eligible[p / 64] >> (p % 64) & 1)) {
                chosen[p] = true;
                n_chosen++;
            }
    }
    return n_chosen;
}

static void check_top(size_t n_pages, const float *score, const uint64_t *eligible, size_t k, unsigned unit,
                      float mass)
{
    static bool want[MANY_PAGES];
    static uint32_t scratch[MANY_PAGES], pages[MANY_PAGES];
    size_t n_want = sorted_top(n_pages, score, eligible, k, unit, mass, want);
    size_t n = scout_top(n_pages, score, eligible, k, unit, mass, scratch, pages);
    if (n != n_want)
        fail_msg("%zu pages, k %zu, unit %u, mass %g: %zu chosen instead of %zu", n_pages, k, unit,
                 (double)mass, n, n_want);
    for (size_t i = 0; i < n; i++) {
        assert_true(i == 0 || pages[i] > pages[i - 1]);
        if (pages[i] >= n_pages || !want[pages[i]])
            fail_msg("%zu pages, k %zu, unit %u, mass %g: page %u must not be chosen", n_pages, k, unit,
                     (double)mass, pages[i]);
    }
}

/* How scores are spread decides which step of the selection has work to do. Quarters and small multiples
 * make sums exact, so that the order of additions can't matter. */
static float some_score(unsigned kind)
{
    switch (kind) {
    case 0:
        return (float)(next_random() % 4) / 4; /* many ties, many zeros */
    case 1:
        return 0.0f;
    case 2:
        return 1.0f;
    case 3:
        return 1.0f + (float)(next_random() % 64) / (1 << 20); /* differ in low bits only */
    case 4:
        return exp2f((float)(next_random() % 20)); /* spread over exponents */
    case 5:
        return (float)(next_random() % 1000); /* norms */
    default:
        return (float)(next_random() % 3) * 1e-44f; /* subnormal */
    }
}

static void test_top_against_sort(void **state)
{
    (void)state;
    static float score[MAX_PAGES];
    static uint64_t eligible[MAX_PAGES / 64 + 1];
    static const unsigned units[] = {1, 2, 4};
    static const float masses[] = {0.0f, 0.25f, 0.5f, 0.9f, 0.99f, 1.0f};
    for (unsigned round = 0; round < 3000; round++) {
        size_t n = 1 + next_random() % (round % 10 ? 200 : MAX_PAGES);
        unsigned kind = round % 7;
        for (size_t i = 0; i < n; i++)
            score[i] = some_score(kind);
        for (size_t w = 0; w <= n / 64; w++)
            eligible[w] = next_random() % 3 ? ~UINT64_C(0) : next_random() & next_random();
        size_t k = next_random() % 4 ? next_random() % (n + 3) : 1 + next_random() % 5;
        check_top(n, score, next_random() % 2 ? eligible : NULL, k, units[next_random() % 3],
                  masses[next_random() % 6]);
    }
}

/* Few of many: most are put aside, unless too many are alike. */
static void test_top_few_of_many(void **state)
{
    (void)state;
    static float score[MANY_PAGES];
    static uint64_t eligible[MANY_PAGES / 64 + 1];
    for (unsigned round = 0; round < 60; round++) {
        size_t n = MANY_PAGES - next_random() % 4000, k = 1 + next_random() % 600;
        for (size_t i = 0; i < n;
             i++) /* eighths of small numbers: sums are exact; rising ones lie side by side */
            score[i] = round % 3 == 0   ? (float)(next_random() % 100000) / 8
                       : round % 3 == 1 ? some_score(round % 7)
                                        : (float)i / 8;
        for (size_t w = 0; w <= n / 64; w++)
            eligible[w] = round % 5 ? next_random() : 0;
        eligible[n / 80] = 9;
        check_top(n, score, round % 2 ? eligible : NULL, k, 1 + round / 7 % 2, 0);
    }
}

static void test_top_edges(void **state)
{
    (void)state;
    float score[70] = {0};
    uint32_t scratch[70], pages[70];
    const uint64_t none[2] = {0, ~UINT64_C(0) << 6}; /* only beyond the end */
    score[69] = 3.0f;
    score[64] = 2.0f;
    assert_int_equal(scout_top(0, score, NULL, 5, 1, 0, scratch, pages), 0);
    assert_int_equal(scout_top(70, score, NULL, 0, 1, 0, scratch, pages), 0);
    assert_int_equal(scout_top(70, score, none, 5, 1, 0, scratch, pages), 0);
    assert_int_equal(scout_top(70, score, none, 5, 4, 0.5f, scratch, pages), 0);
    assert_int_equal(scout_top(70, score, NULL, SIZE_MAX, 4, 0, scratch, pages), 70);
    assert_int_equal(scout_top(70, score, NULL, 2, 4, 0, scratch, pages),
                     6); /* 64…67 and the short unit 68, 69 */
    assert_int_equal(pages[0], 64);
    assert_int_equal(pages[5], 69);
    assert_int_equal(scout_top(70, score, NULL, 3, 1, 0, scratch, pages), 3); /* of the zeros the lowest */
    assert_int_equal(pages[0], 0);
    assert_int_equal(scout_top(70, score, NULL, 70, 1, 0.7f, scratch, pages), 2);
    score[1] = NAN; /* no score: no better than zero */
    score[2] = -5.0f;
    assert_int_equal(scout_top(70, score, NULL, 2, 1, 0, scratch, pages), 2);
    assert_int_equal(pages[0], 64);
    score[7] = INFINITY;
    assert_int_equal(scout_top(70, score, NULL, 1, 1, 0, scratch, pages), 1);
    assert_int_equal(pages[0], 7);
}

static int setup(void **state)
{
    (void)state;
    seed = 0x9e3779b97f4a7c15u;
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_equal_keys, setup),
        cmocka_unit_test_setup(test_outliers, setup),
        cmocka_unit_test_prestate_setup_teardown(test_spread, setup, NULL, &(enum reps_kind){REPS_PAGE}),
        cmocka_unit_test_prestate_setup_teardown(test_spread, setup, NULL, &(enum reps_kind){REPS_LEAN}),
        cmocka_unit_test_setup(test_lanes_are_independent, setup),
        cmocka_unit_test_setup(test_outlier_ties, setup),
        cmocka_unit_test_setup(test_scatter, setup),
        cmocka_unit_test_setup(test_quantisation_error, setup),
        cmocka_unit_test_setup(test_broken_keys, setup),
        cmocka_unit_test_setup(test_score_pieces, setup),
        cmocka_unit_test_setup(test_aggregate, setup),
        cmocka_unit_test_setup(test_top_against_sort, setup),
        cmocka_unit_test_setup(test_top_few_of_many, setup),
        cmocka_unit_test_setup(test_top_edges, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
