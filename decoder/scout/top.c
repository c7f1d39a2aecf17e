/* top.c: the pages worth reading, out of a million, without sorting.
 *
 * DESIGN. Non-negative floats order like their bits, so a unit's key is its score's bits + 1 (0: may not be
 * chosen). Radix rounds over the keys find the one at which k, or the wanted share of mass, is reached; the
 * last pass takes, in page order, all above that key and the lowest pages at it. Every decision is by key and
 * page alone, hence deterministic.
 *
 * Where one page draws nearly all attention, most shares underflow: what is below the smallest normal float
 * counts as zero, so that the lowest digit holds equal keys only and ends the search at once. */
#include "decoder/scout/scout.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

enum { ZERO_KEY = 1, DIGITS = 1 << 12 };

struct units {
    const float *score;
    const uint64_t *eligible;
    size_t n_pages, n;
    unsigned unit; /* pages */
};

static inline bool page_eligible(const struct units *u, size_t page)
{
    return !u->eligible || (u->eligible[page / 64] >> (page % 64) & 1);
}

/* Whatever is no positive normal number (NaN included) counts as zero. */
static inline float unit_score(const struct units *u, size_t i, bool *may)
{
    size_t from = i * u->unit, to = from + u->unit < u->n_pages ? from + u->unit : u->n_pages;
    float sum = 0.0f;
    *may = false;
    for (size_t page = from; page < to; page++)
        if (page_eligible(u, page)) {
            *may = true;
            sum += u->score[page];
        }
    return sum >= FLT_MIN ? sum : 0.0f;
}

static inline uint32_t unit_key(const struct units *u, size_t i)
{
    bool may;
    float score = unit_score(u, i, &may);
    uint32_t bits;
    memcpy(&bits, &score, sizeof bits);
    return may ? bits + 1 : 0;
}

/* Score of a key that may be chosen. */
static inline double key_score(uint32_t key)
{
    float score;
    uint32_t bits = key - 1;
    memcpy(&score, &bits, sizeof score);
    return (double)score;
}

static void make_keys(const struct units *u, uint32_t *key)
{
    if (u->unit > 1) {
        for (size_t i = 0; i < u->n; i++)
            key[i] = unit_key(u, i);
        return;
    }
    for (size_t i = 0; i < u->n; i++) { /* the usual case, in a form that compilers vectorise */
        float score = u->score[i] >= FLT_MIN ? u->score[i] : 0.0f;
        uint32_t bits;
        memcpy(&bits, &score, sizeof bits);
        key[i] = bits + 1;
    }
    for (size_t w = 0; u->eligible && w * 64 < u->n; w++)
        if (u->eligible[w] != UINT64_MAX)
            for (size_t i = w * 64; i < (w + 1) * 64 && i < u->n; i++)
                if (!(u->eligible[w] >> (i % 64) & 1))
                    key[i] = 0;
}

/* Sum of all that may be chosen. */
static double total_score(size_t n, const uint32_t *key)
{
    double lanes[8] = {0};
    for (size_t i = 0; i < n; i++)
        lanes[i % 8] += key[i] ? key_score(key[i]) : 0.0;
    return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

/* What is chosen: keys above `key`, and the first `at_key` that equal it. */
struct cut {
    uint32_t key;
    size_t at_key;
};

/* Takes units in falling order of key until k are taken or their scores reach `enough` (INFINITY: never).
 * Each round fixes the next bits of the key where that happens; what lies above it is taken whole. */
static struct cut find_cut(size_t n, const uint32_t *key, size_t k, double enough)
{
    static const unsigned shifts[] = {19, 7, 0}, widths[] = {12, 12, 7}; /* 31 bits: scores have no sign */
    const bool weighed = isfinite(enough);
    uint32_t prefix = 0;
    size_t taken = 0, at_prefix = 0;
    double mass = 0;
    for (unsigned round = 0; round < 3; round++) {
        const unsigned shift = shifts[round], width = widths[round];
        const uint32_t mask = (UINT32_C(1) << width) - 1;
        uint32_t count[2][DIGITS] = {
            0}; /* two, so that runs of equal keys don't wait for each other's store */
        double sum[DIGITS];
        if (weighed)
            memset(sum, 0, sizeof sum);
        for (size_t i = 0; i < n; i++) {
            if (key[i] >> shift >> width != prefix)
                continue;
            uint32_t digit = key[i] >> shift & mask;
            count[i % 2][digit]++;
            if (weighed && key[i] >= ZERO_KEY)
                sum[digit] += key_score(key[i]);
        }
        uint32_t d = mask;
        for (; d > 0; d--) {
            size_t here = count[0][d] + count[1][d];
            if (taken + here >= k || (weighed && mass + sum[d] >= enough))
                break;
            taken += here;
            mass += weighed ? sum[d] : 0;
        }
        prefix = prefix << width | d;
        at_prefix = count[0][d] + count[1][d];
        if (prefix == 0) { /* zeros, and what may not be chosen: neither adds mass */
            prefix = ZERO_KEY;
            break;
        }
    }
    struct cut cut = {.key = prefix};
    while (cut.at_key < at_prefix && taken + cut.at_key < k && mass < enough) {
        cut.at_key++;
        mass += weighed ? key_score(prefix) : 0;
    }
    return cut;
}

size_t scout_top(size_t n_pages, const float *score, const uint64_t *eligible, size_t k, unsigned unit,
                 float mass, uint32_t *scratch, uint32_t *pages)
{
    assert(unit == 1 || unit == 2 || unit == 4);
    assert(n_pages < UINT32_MAX);
    const struct units u = {score, eligible, n_pages, (n_pages + unit - 1) / unit, unit};
    if (k == 0 || n_pages == 0)
        return 0;
    make_keys(&u, scratch);
    double enough = mass > 0.0f && mass < 1.0f ? (double)mass * total_score(u.n, scratch) : INFINITY;
    struct cut cut = find_cut(u.n, scratch, k, enough);
    size_t chosen = 0;
    for (size_t i = 0; i < u.n; i++) {
        if (scratch[i] < cut.key || (scratch[i] == cut.key && cut.at_key == 0))
            continue;
        cut.at_key -= scratch[i] == cut.key;
        for (size_t page = i * unit; page < (i + 1) * unit && page < n_pages; page++)
            if (page_eligible(&u, page))
                pages[chosen++] = (uint32_t)page;
    }
    return chosen;
}
