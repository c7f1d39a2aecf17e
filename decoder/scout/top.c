/* top.c: the pages worth reading, out of a million, without sorting.
 *
 * DESIGN. Non-negative floats order like their bits, so a unit's key is its score's bits + 1 (0: may not be
 * chosen). One pass counts keys by their top bits and finds the bucket that holds the k-th largest; a second
 * keeps only units from that bucket up, a few more than k. Radix steps over these few find the exact key at
 * which k, or the wanted share of mass, is reached. The last pass takes them in page order: above that key
 * all, at it the lowest pages. Every decision is by key and page alone, hence deterministic.
 *
 * Where one page draws nearly all attention, most shares underflow: what is below the smallest normal float
 * counts as zero, so that the lowest bucket holds equal keys only and its lowest pages can be taken at once.
 */
#include "decoder/scout/scout.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

enum {
    ZERO_KEY = 1,
    BUCKET_BITS = 12,
    BUCKETS = 1 << BUCKET_BITS,
    TOP_SHIFT = 31 - BUCKET_BITS,
    DIGIT_BITS = 8,
    DIGITS = 1 << DIGIT_BITS
};

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

/* Lowest key of the bucket in which the k-th largest key lies; ZERO_KEY if fewer than k are above zero (their
 * number is then *n_above). */
static uint32_t lower_bound(size_t n, const uint32_t *key, size_t k, size_t *n_above)
{
    uint32_t count[2][BUCKETS] = {0}; /* two, so that runs of equal keys don't wait for each other's store */
    size_t i = 0;
    for (; i + 2 <= n; i += 2) {
        count[0][key[i] >> TOP_SHIFT]++;
        count[1][key[i + 1] >> TOP_SHIFT]++;
    }
    if (i < n)
        count[0][key[i] >> TOP_SHIFT]++;
    size_t seen = 0;
    for (unsigned b = BUCKETS - 1; b > 0; b--) {
        seen += count[0][b] + count[1][b];
        if (seen >= k)
            return (uint32_t)b << TOP_SHIFT;
    }
    *n_above = seen;
    return ZERO_KEY;
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

/* Takes units in falling order of key until k are taken or their scores reach `enough`. Each round fixes the
 * next bits of the key where that happens; what lies above it is taken whole. */
static struct cut find_cut(const struct units *u, size_t n, const uint32_t *candidate, size_t k,
                           double enough)
{
    uint32_t prefix = 0, known = 0; /* bits of the cut's key, and which of them are fixed */
    size_t taken = 0, at_prefix = 0;
    double mass = 0;
    for (int shift = 32 - DIGIT_BITS; shift >= 0; shift -= DIGIT_BITS) {
        uint32_t count[DIGITS] = {0};
        double sum[DIGITS] = {0};
        for (size_t i = 0; i < n; i++) {
            uint32_t key = unit_key(u, candidate[i]);
            if ((key & known) == prefix) {
                unsigned b = (key & ~known) >> shift;
                count[b]++;
                sum[b] += key_score(key);
            }
        }
        unsigned b = DIGITS - 1;
        while (b > 0 && taken + count[b] < k && mass + sum[b] < enough) {
            taken += count[b];
            mass += sum[b];
            b--;
        }
        prefix |= (uint32_t)b << shift;
        known = UINT32_MAX << shift;
        at_prefix = count[b];
    }
    struct cut cut = {.key = prefix};
    while (cut.at_key < at_prefix && taken + cut.at_key < k && mass < enough) {
        cut.at_key++;
        mass += key_score(prefix);
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
    size_t n = 0, n_above = k;
    uint32_t bound = lower_bound(u.n, scratch, k, &n_above);
    size_t zeros = k - n_above;        /* the lowest pages of score zero fill the budget */
    for (size_t i = 0; i < u.n; i++) { /* candidates overwrite keys that were read already */
        bool zero = scratch[i] == ZERO_KEY, keep = scratch[i] >= bound && (!zero || zeros > 0);
        zeros -= keep && zero;
        scratch[n] = keep ? (uint32_t)i : scratch[n];
        n += keep;
    }
    struct cut cut = find_cut(&u, n, scratch, k, enough);
    size_t chosen = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t key = unit_key(&u, scratch[i]);
        if (key < cut.key || (key == cut.key && cut.at_key == 0))
            continue;
        cut.at_key -= key == cut.key;
        for (size_t page = (size_t)scratch[i] * unit;
             page < (size_t)(scratch[i] + 1) * unit && page < n_pages; page++)
            if (page_eligible(&u, page))
                pages[chosen++] = (uint32_t)page;
    }
    return chosen;
}
