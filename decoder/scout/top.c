/* top.c: the pages worth reading, out of a million, without sorting.
 *
 * DESIGN. Non-negative floats order like their bits, so a unit's key is its score's bits + 1 (0: may not be
 * chosen). Radix rounds over the keys find the one at which k, or the wanted share of mass, is reached; the
 * last pass takes, in page order, all above that key and the lowest pages at it. Every decision is by key and
 * page alone, hence deterministic.
 *
 * Where few of many are wanted, most are put aside first. Of units that are dealt out to lanes, the k-th
 * largest of the lanes' maxima is a key that at least k units reach, and few more do: only those are looked
 * at again.
 *
 * Where one page draws nearly all attention, most shares underflow: what is below the smallest normal float
 * counts as zero, so that the lowest digit holds equal keys only and ends the search at once. */
#include "decoder/scout/scout.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

enum { ZERO_KEY = 1, DIGITS = 1 << 12, MOST_LANES = 2048, MOST_LEFT = 4096, RUN = 16 };

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
    static const struct digits {
        unsigned n, shift[4], width[4]; /* 31 bits: scores have no sign */
    } of_many = {3, {19, 7, 0}, {12, 12, 7}}, of_few = {4, {23, 15, 7, 0}, {8, 8, 8, 7}};
    const struct digits *digits = n > MOST_LEFT ? &of_many : &of_few;
    const bool weighed = isfinite(enough);
    uint32_t prefix = 0;
    size_t taken = 0, at_prefix = 0;
    double mass = 0;
    for (unsigned round = 0; round < digits->n; round++) {
        const unsigned shift = digits->shift[round], width = digits->width[round];
        const uint32_t mask = (UINT32_C(1) << width) - 1;
        uint32_t count[2][DIGITS]; /* two, so that runs of equal keys don't wait for each other's store */
        double sum[DIGITS];
        for (unsigned i = 0; i < 2; i++)
            memset(count[i], 0, (mask + 1) * sizeof *count[i]);
        if (weighed)
            memset(sum, 0, (mask + 1) * sizeof *sum);
        for (size_t i = 0; i < n; i++) {
            const bool here = key[i] >> shift >> width == prefix; /* no branch: it could not be foreseen */
            uint32_t digit = key[i] >> shift & mask;
            count[i % 2][digit] += here;
            if (weighed && here && key[i] >= ZERO_KEY)
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

/* Those that may be among the k largest, in rising order: at, and their keys in left. 0: not put aside, since
 * it would not pay, or too many are alike. */
static size_t put_aside(size_t n, const uint32_t *key, size_t k, uint32_t *at, uint32_t *left)
{
    int32_t most[MOST_LANES] = {0}; /* keys are below 2^31, and there are vectors for signed maxima */
    uint32_t lane_key[MOST_LANES];
    size_t lanes = 64;
    while (lanes < 2 * k && lanes < MOST_LANES)
        lanes *= 2;
    if (lanes < 2 * k || n < 4 * lanes)
        return 0;
    for (size_t i = 0; i + lanes <= n; i += lanes) /* the rest needs no lane: the key is low enough without */
        for (size_t j = 0; j < lanes; j++)
            most[j] = (int32_t)key[i + j] > most[j] ? (int32_t)key[i + j] : most[j];
    memcpy(lane_key, most, lanes * sizeof *most);
    const uint32_t least = find_cut(lanes, lane_key, k, INFINITY).key;
    size_t n_left = 0;
    for (size_t run = 0; run < n; run += RUN) {
        size_t end = n - run < RUN ? n : run + RUN;
        int any = 0;
        for (size_t i = 0; run + RUN <= n && i < RUN; i++)
            any |= (int32_t)key[run + i] >= (int32_t)least;
        if (!any && run + RUN <= n)
            continue;
        if (n_left + RUN >= MOST_LEFT)
            return 0;
        for (size_t i = run; i < end; i++) {
            at[n_left] = (uint32_t)i;
            left[n_left] = key[i];
            n_left += key[i] >= least;
        }
    }
    return n_left;
}

size_t scout_top(size_t n_pages, const float *score, const uint64_t *eligible, size_t k, unsigned unit,
                 float mass, uint32_t *scratch, uint32_t *pages)
{
    assert(unit == 1 || unit == 2 || unit == 4);
    assert(n_pages < UINT32_MAX);
    const struct units u = {score, eligible, n_pages, (n_pages + unit - 1) / unit, unit};
    uint32_t at[MOST_LEFT], left[MOST_LEFT];
    if (k == 0 || n_pages == 0)
        return 0;
    make_keys(&u, scratch);
    bool weighed = mass > 0.0f && mass < 1.0f;
    double enough = weighed ? (double)mass * total_score(u.n, scratch) : INFINITY;
    size_t n_left = weighed ? 0 : put_aside(u.n, scratch, k, at, left), n = n_left ? n_left : u.n, chosen = 0;
    const uint32_t *key = n_left ? left : scratch;
    struct cut cut = find_cut(n, key, k, enough);
    for (size_t j = 0; j < n; j++) {
        if (key[j] < cut.key || (key[j] == cut.key && cut.at_key == 0))
            continue;
        cut.at_key -= key[j] == cut.key;
        size_t i = n_left ? at[j] : j;
        for (size_t page = i * unit; page < (i + 1) * unit && page < n_pages; page++)
            if (page_eligible(&u, page))
                pages[chosen++] = (uint32_t)page;
    }
    return chosen;
}
