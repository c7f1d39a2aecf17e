/* policy_cascade.c: ours. Two stages of representatives, and a prior.
 *
 * First the representatives of all blocks are scored, which is all that grows with the context; the best of
 * them, many more than the budget needs, are candidates. Then their pages are scored by the finer
 * representatives, and the best of those are read. Both stages estimate log masses, so what is left out has a
 * known weight.
 *
 * The prior is what is known of a page whatever this query says. The share that it is estimated to get is
 * multiplied by (received + r) / (mean received + r) to the power β(1−α): what past steps tell; r keeps pages
 * that were never read in the game. And by its salience to the power βα: the mass that a calibration has
 * learned to predict, or without one what the mean of past queries would give it (only among candidates).
 * Estimates of mass leave the prior out. */
#include "decoder/scout/policy.h"
#include "decoder/scout/scout.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* As many candidate blocks as the budget has pages (four times its tokens), but not fewer than this: where
 * the budget is small, looking closer at a few more costs next to nothing. */
enum { MIN_CANDIDATES = 128, GROUP = REPS_LANES, BLOCK = 4 };

enum { OPT_ALPHA, OPT_BETA, OPT_HALF_LIFE, OPT_CANDIDATES };

/* Of a page that never received anything, as a share of the mean. */
static const float never_read = 0.1f;

struct cascade {
    size_t n_candidates;
    /* blocks; unused where all are candidates */
    size_t block_ld;
    float *block_mass;              /* (rows, block_ld) */
    float *block_score, *block_lse; /* (n_blocks), (rows) */
    uint32_t *candidates;           /* block numbers, rising */
    /* pages of the candidates, in whole groups of 8: lane i of group g is page 8·group_at[g] + i */
    size_t n_groups, ld;
    const uint8_t **groups;
    const float **scatter; /* of the group's piece */
    uint32_t *group_at;
    uint64_t *eligible;          /* bitmap of lanes that may be chosen */
    float *mass, *score;         /* (rows, ld), (ld) */
    float *mean_mass, *mean_lse; /* of the mean query: (rows, ld), (rows) */
    float *salience;             /* (ld) log */
    uint32_t *order;             /* of scout_top */
};

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static bool learned(const struct far_view *v)
{
    return v->n_pages && v->pieces && v->pieces[0].salience;
}

static float salience_power(const struct far_view *v)
{
    return v->opt[OPT_BETA] * v->opt[OPT_ALPHA];
}

static bool mean_query_speaks(const struct far_view *v)
{
    return salience_power(v) > 0.0f && v->mean_q && !learned(v);
}

static size_t candidates(const struct far_view *v)
{
    if (v->opt[OPT_CANDIDATES] < 0)
        return v->n_blocks;
    if (v->opt[OPT_CANDIDATES] > 0)
        return (size_t)v->opt[OPT_CANDIDATES];
    return v->k * v->unit > MIN_CANDIDATES ? v->k * v->unit : MIN_CANDIDATES;
}

/* Sizes, and every array's place behind base; returns how much room all need. */
static size_t lay_out(const struct far_view *v, struct cascade *c, char *base)
{
    size_t enough = candidates(v);
    c->n_candidates = enough < v->n_blocks ? enough : v->n_blocks;
    bool two = c->n_candidates < v->n_blocks;
    c->block_ld = two ? round_up(v->n_blocks, 16) : 0;
    /* candidates may share a group of two blocks, or have one each; all blocks fill all groups */
    size_t lanes = two ? c->n_candidates * GROUP : v->n_pages;
    c->ld = round_up(lanes < v->n_pages ? lanes : v->n_pages, 64);
    size_t n_order = v->n_pages > v->n_blocks ? v->n_pages : v->n_blocks, at = round_up(sizeof *c, 64);
#define TAKE(array, n)                                \
    do {                                              \
        c->array = base ? (void *)(base + at) : NULL; \
        at += round_up((n) * sizeof *c->array, 64);   \
    } while (0)
    TAKE(block_mass, v->rows * c->block_ld);
    TAKE(block_score, c->block_ld);
    TAKE(block_lse, v->rows);
    TAKE(candidates, c->n_candidates);
    TAKE(groups, c->ld / GROUP);
    TAKE(scatter, c->ld / GROUP);
    TAKE(group_at, c->ld / GROUP);
    TAKE(eligible, c->ld / 64 + 1);
    TAKE(mass, v->rows * c->ld);
    TAKE(score, c->ld);
    size_t mean = salience_power(v) > 0.0f ? 1 : 0; /* room is asked for before the view is filled */
    TAKE(mean_mass, mean * v->rows * c->ld);
    TAKE(mean_lse, mean * v->rows);
    TAKE(salience, mean * c->ld);
    TAKE(order, n_order);
#undef TAKE
    return at;
}

static size_t room(const struct far_view *v)
{
    struct cascade c;
    return lay_out(v, &c, NULL);
}

static bool two_stages(const struct far_view *v, const struct cascade *c)
{
    return c->n_candidates < v->n_blocks;
}

/* ---- prior ---- */

static float prior_power(const struct far_view *v)
{
    return v->received ? v->opt[OPT_BETA] * (1.0f - v->opt[OPT_ALPHA]) : 0.0f;
}

static float mean_received(const struct far_view *v)
{
    double sum = 0;
    for (size_t p = 0; p < v->n_pages; p++)
        sum += (double)v->received[p];
    return (float)(sum / (double)v->n_pages);
}

static float prior_factor(float received, float mean, float power)
{
    return received > 0.0f ? powf((received + never_read * mean) / ((1.0f + never_read) * mean), power)
                           : powf(never_read / (1.0f + never_read), power);
}

/* ---- first stage: blocks ---- */

/* A slice lays out the scratch for itself: all write the same values. */
static void scan(struct far_view *v, unsigned slice)
{
    struct cascade c;
    lay_out(v, &c, v->scratch);
    size_t first = (size_t)slice * SLICE_PIECES, from = first * PIECE_BLOCKS;
    if (!two_stages(v, &c) || from >= v->n_blocks)
        return;
    const uint8_t *groups[SLICE_PIECES];
    size_t end = from + SLICE_PIECES * PIECE_BLOCKS;
    end = end < v->n_blocks ? end : v->n_blocks;
    for (size_t at = from; at < end; at += PIECE_BLOCKS)
        groups[(at - from) / PIECE_BLOCKS] = v->pieces[at / PIECE_BLOCKS].block_groups;
    struct scout_head sh = {
        .kind = REPS_BLOCK, .groups = groups, .pages_per_piece = PIECE_BLOCKS, .d_k = view_dims(v)};
    scout_score(&sh, end - from, v->rows, view_q(v), c.block_mass + from, c.block_ld);
}

static float page_salience(const struct far_view *v, size_t page)
{
    return v->pieces[page / PIECE_PAGES].salience[page % PIECE_PAGES];
}

/* A block is worth its most salient page. */
static void weigh_blocks_learned(struct far_view *v, struct cascade *c)
{
    float power = learned(v) ? salience_power(v) : 0.0f, most = -INFINITY;
    if (!(power > 0.0f))
        return;
    for (size_t p = 0; p < v->n_pages; p++)
        most = fmaxf(most, page_salience(v, p));
    for (size_t b = 0; b < v->n_blocks; b++) {
        float of_block = -INFINITY;
        for (size_t p = b * BLOCK; p < (b + 1) * BLOCK; p++)
            of_block = fmaxf(of_block, page_salience(v, p));
        c->block_score[b] *= expf(power * (of_block - most));
    }
    v->bytes += v->n_pages * sizeof(float);
}

static void weigh_blocks(const struct far_view *v, struct cascade *c)
{
    float power = prior_power(v), mean = power != 0.0f ? mean_received(v) : 0.0f;
    if (!(mean > 0.0f))
        return;
    float never = prior_factor(0, mean, power);
    for (size_t b = 0; b < v->n_blocks; b++) {
        float most = 0.0f;
        for (size_t p = b * BLOCK; p < (b + 1) * BLOCK; p++)
            most = v->received[p] > most ? v->received[p] : most;
        c->block_score[b] *= most > 0.0f ? prior_factor(most, mean, power) : never;
    }
}

static void pick_candidates(struct far_view *v, struct cascade *c)
{
    if (!two_stages(v, c)) {
        for (size_t i = 0; i < c->n_candidates; i++)
            c->candidates[i] = (uint32_t)i;
        return;
    }
    scout_aggregate(v->n_blocks, v->rows, c->block_mass, c->block_ld, c->block_lse, c->block_score);
    weigh_blocks(v, c);
    weigh_blocks_learned(v, c);
    size_t n = scout_top(v->n_blocks, c->block_score, NULL, c->n_candidates, 1, 0, c->order, c->candidates);
    assert(n == c->n_candidates);
    (void)n;
    v->bytes += round_up(v->n_blocks, GROUP) / GROUP * reps_group_bytes(REPS_BLOCK, view_dims(v)) +
                round_up(v->n_blocks, PIECE_BLOCKS) / PIECE_BLOCKS * view_dims(v) * sizeof(float);
}

/* ---- second stage: the candidates' pages ---- */

/* Nearly every candidate lies in another piece, and all their weights are wanted before the first page is. */
static void ask_for(const float *w, unsigned n)
{
    for (unsigned i = 0; w && i < n; i += 64 / sizeof *w)
        __builtin_prefetch(w + i, 0, 2);
}

static void gather_groups(struct far_view *v, struct cascade *c)
{
    size_t group_bytes = reps_group_bytes(view_pages(v), view_dims(v));
    c->n_groups = 0;
    memset(c->eligible, 0, (c->ld / 64 + 1) * sizeof *c->eligible);
    for (size_t i = 0; i < c->n_candidates; i++) {
        uint64_t page = (uint64_t)c->candidates[i] * BLOCK;
        uint32_t at = (uint32_t)(page / GROUP);
        if (c->n_groups == 0 || c->group_at[c->n_groups - 1] != at) {
            c->scatter[c->n_groups] = v->pieces[page / PIECE_PAGES].scatter;
            ask_for(c->scatter[c->n_groups], view_dims(v));
            c->groups[c->n_groups] =
                v->pieces[page / PIECE_PAGES].page_groups + page % PIECE_PAGES / GROUP * group_bytes;
            c->group_at[c->n_groups++] = at;
        }
        size_t lane = (c->n_groups - 1) * GROUP + page % GROUP;
        uint64_t four = v->eligible[page / 64] >> (page % 64) & 15;
        c->eligible[lane / 64] |= four << (lane % 64);
    }
    v->bytes += c->n_groups * group_bytes;
}

/* The other half of a group whose one block is no candidate counts as empty. */
static void blank_others(const struct far_view *v, struct cascade *c)
{
    size_t i = 0;
    for (size_t half = 0; half < c->n_groups * 2; half++) {
        uint32_t block = c->group_at[half / 2] * 2 + (uint32_t)(half % 2);
        if (i < c->n_candidates && c->candidates[i] == block) {
            i++;
            continue;
        }
        for (unsigned r = 0; r < v->rows; r++)
            for (unsigned j = 0; j < BLOCK; j++)
                c->mass[r * c->ld + half * BLOCK + j] = -INFINITY;
    }
}

static uint32_t page_of_lane(const struct cascade *c, size_t lane)
{
    return c->group_at[lane / GROUP] * GROUP + (uint32_t)(lane % GROUP);
}

static void weigh_pages(const struct far_view *v, struct cascade *c)
{
    float power = prior_power(v), mean = power != 0.0f ? mean_received(v) : 0.0f;
    for (size_t i = 0; mean > 0.0f && i < c->n_groups * GROUP; i++)
        if (c->eligible[i / 64] >> (i % 64) & 1)
            c->score[i] *= prior_factor(v->received[page_of_lane(c, i)], mean, power);
}

static void weigh_salience(struct far_view *v, struct cascade *c, const struct scout_head *sh)
{
    size_t n = c->n_groups * GROUP;
    float power = learned(v) || mean_query_speaks(v) ? salience_power(v) : 0.0f, most = -INFINITY;
    if (!(power > 0.0f))
        return;
    if (!learned(v)) {
        scout_score(sh, n, v->rows, v->mean_q, c->mean_mass, c->ld);
        scout_aggregate(n, v->rows, c->mean_mass, c->ld, c->mean_lse, c->salience);
    }
    for (size_t i = 0; i < n; i++)
        if (c->eligible[i / 64] >> (i % 64) & 1) {
            c->salience[i] = learned(v) ? page_salience(v, page_of_lane(c, i)) : logf(c->salience[i]);
            most = fmaxf(most, c->salience[i]);
        }
    for (size_t i = 0; i < n && isfinite(most); i++)
        if (c->eligible[i / 64] >> (i % 64) & 1)
            c->score[i] *= expf(power * (c->salience[i] - most));
}

/* ---- what the first stage says too little ---- */

enum { PROBES = 16 };

static int by_size(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* A block's centre and spread don't see what its pages' outliers show: where every few tokens have a key that
 * stands apart, all blocks are judged by nats too low, and a tail of blocks that nobody looked into would
 * have next to no weight. So a few blocks are looked into that no score has chosen, and `low` (rows) is by
 * how much the others are too low too: the median, since one block with a needle says nothing of the rest. */
static void probe(struct far_view *v, const struct cascade *c, float *low)
{
    const uint8_t *groups[PROBES];
    const float *scatter[PROBES];
    float mass[PROBES * GROUP], gap[PROBES];
    uint32_t block[PROBES];
    size_t group_bytes = reps_group_bytes(view_pages(v), view_dims(v));
    memset(low, 0, v->rows * sizeof *low);
    if (!two_stages(v, c))
        return;
    for (size_t i = 0; i < PROBES; i++) {
        block[i] = (uint32_t)((2 * i + 1) * v->n_blocks / (2 * PROBES));
        size_t page = (size_t)block[i] * BLOCK;
        const struct far_piece *piece = &v->pieces[page / PIECE_PAGES];
        groups[i] = piece->page_groups + page % PIECE_PAGES / GROUP * group_bytes;
        scatter[i] = piece->scatter;
    }
    const struct scout_head sh = {.kind = view_pages(v),
                                  .groups = groups,
                                  .scatter = scatter,
                                  .pages_per_piece = GROUP,
                                  .d_k = view_dims(v)};
    for (unsigned r = 0; r < v->rows; r++) {
        size_t n = 0;
        scout_score(&sh, PROBES * GROUP, 1, view_q(v) + (size_t)r * view_dims(v), mass, PROBES * GROUP);
        for (size_t i = 0; i < PROBES; i++) {
            const float *page = mass + i * GROUP + block[i] % 2 * BLOCK;
            double sum = 0, most = (double)page[0];
            for (unsigned j = 1; j < BLOCK; j++)
                most = (double)page[j] > most ? (double)page[j] : most;
            for (unsigned j = 0; j < BLOCK; j++)
                sum += exp((double)page[j] - most);
            gap[n] = (float)(most + log(sum) - log((double)c->block_mass[r * c->block_ld + block[i]])) -
                     c->block_lse[r];
            n += isfinite(gap[n]) != 0; /* not so: its share is too small for a number */
        }
        qsort(gap, n, sizeof *gap, by_size);
        low[r] = n ? gap[n / 2] : 0;
    }
    v->bytes += PROBES * group_bytes;
}

/* Each row's log mass of everything far, and the share of it that is read: what is chosen, and what of the
 * candidates is protected. mass holds the shares among candidates; low (rows): by how much blocks are judged
 * too low. */
static void estimate(struct far_view *v, const struct cascade *c, const uint32_t *lanes, size_t n,
                     const float *low)
{
    v->estimated = true;
    for (unsigned r = 0; r < v->rows; r++) {
        const float *share = c->mass + r * c->ld;
        double read = 0, others = 0;
        for (size_t i = 0; i < n; i++)
            read += (double)share[lanes[i]];
        for (size_t i = 0; i < c->n_groups * GROUP; i++)
            if (!(c->eligible[i / 64] >> (i % 64) & 1))
                read += (double)share[i];
        if (two_stages(v, c)) {
            double candidates = 0;
            for (size_t i = 0; i < c->n_candidates; i++)
                candidates += (double)c->block_mass[r * c->block_ld + c->candidates[i]];
            others = candidates < 1 ? exp((double)c->block_lse[r] + (double)low[r] - (double)v->lse[r]) *
                                          (1 - candidates)
                                    : 0;
        }
        if (!isfinite(v->lse[r]) || !isfinite(others)) {
            v->share[r] = 1.0f;
            continue;
        }
        v->share[r] = (float)((read < 1 ? read : 1) / (1 + others));
        v->lse[r] += (float)log1p(others);
    }
}

/* ---- the tail ---- */

/* Everything that is eligible and not chosen stands for itself by its block's mean value: candidates by their
 * pages' estimates, others by the block's. c->eligible loses the chosen lanes. candidates_lse (rows): before
 * estimate() added what others have. */
static void fill_tail(struct far_view *v, struct cascade *c, const uint32_t *lanes, size_t n,
                      const float *candidates_lse, const float *low)
{
    float share[256], of_candidates[256], of_blocks[256];
    policy_tail_begin(v);
    for (unsigned r = 0; r < v->rows; r++) {
        of_candidates[r] = expf(candidates_lse[r] - v->lse[r]);
        of_blocks[r] = two_stages(v, c) ? expf(c->block_lse[r] + low[r] - v->lse[r]) : 0;
    }
    for (size_t i = 0; i < n; i++)
        c->eligible[lanes[i] / 64] &= ~(UINT64_C(1) << (lanes[i] % 64));
    size_t candidate = 0, half = 0;
    for (uint32_t b = 0; b < v->n_blocks; b++) {
        uint64_t page = (uint64_t)b * BLOCK, four = v->eligible[page / 64] >> (page % 64) & 15;
        if (candidate < c->n_candidates && c->candidates[candidate] == b) {
            candidate++;
            while (c->group_at[half / 2] * 2 + half % 2 != b)
                half++;
            size_t lane = half * BLOCK;
            for (unsigned r = 0; r < v->rows; r++) {
                share[r] = 0;
                for (unsigned j = 0; j < BLOCK; j++)
                    if (c->eligible[(lane + j) / 64] >> ((lane + j) % 64) & 1)
                        share[r] += c->mass[r * c->ld + lane + j];
                share[r] *= of_candidates[r];
            }
        } else {
            for (unsigned r = 0; r < v->rows; r++)
                share[r] = c->block_mass[r * c->block_ld + b] * of_blocks[r] *
                           (float)__builtin_popcountll(four) / BLOCK;
        }
        const uint16_t *means = v->pieces[b / PIECE_BLOCKS].part[PART_VALUE];
        policy_tail_add(v, share, means + (size_t)(b % PIECE_BLOCKS) * v->d_v);
    }
    for (unsigned r = 0; r < v->rows; r++) /* a broken estimate must not break the result */
        if (!isfinite(v->lse[r]) || !isfinite(v->tail_l[r]))
            v->tail_l[r] = 0;
}

static size_t choose(struct far_view *v, uint32_t *pages)
{
    float candidates_lse[256], low[256] = {0};
    struct cascade c;
    assert(v->rows <= 256);
    lay_out(v, &c, v->scratch);
    pick_candidates(v, &c);
    struct scout_head sh = {.kind = view_pages(v),
                            .groups = c.groups,
                            .scatter = c.scatter,
                            .pages_per_piece = GROUP,
                            .d_k = view_dims(v)};
    gather_groups(v, &c);
    size_t n_lanes = c.n_groups * GROUP;
    scout_score(&sh, n_lanes, v->rows, view_q(v), c.mass, c.ld);
    blank_others(v, &c);
    scout_aggregate(n_lanes, v->rows, c.mass, c.ld, v->lse, c.score);
    weigh_pages(v, &c);
    weigh_salience(v, &c, &sh);
    size_t n = scout_top(n_lanes, c.score, c.eligible, v->k, v->unit, v->mass, c.order, pages);
    memcpy(candidates_lse, v->lse, v->rows * sizeof *candidates_lse);
    if (v->tail_l)
        probe(v, &c, low);
    estimate(v, &c, pages, n, low);
    if (v->tail_l)
        fill_tail(v, &c, pages, n, candidates_lse, low);
    for (size_t i = 0; i < n; i++)
        pages[i] = page_of_lane(&c, pages[i]);
    return n;
}

uint32_t cascade_needs(const float *opt)
{
    return (opt[OPT_BETA] * (1.0f - opt[OPT_ALPHA]) != 0.0f ? NEEDS_RECEIVED : 0) |
           (opt[OPT_BETA] * opt[OPT_ALPHA] != 0.0f ? NEEDS_SALIENCE : 0);
}

bool cascade_takes_all(const struct skv_select *s)
{
    return s->given >> OPT_CANDIDATES & 1 && s->opt[OPT_CANDIDATES] < 0;
}

void cascade_calibrated(const struct skv_select *s, const struct skv_calibration_head *h, float *opt)
{
    if (!(s->given >> OPT_ALPHA & 1))
        opt[OPT_ALPHA] = h->alpha;
    if (!(s->given >> OPT_BETA & 1))
        opt[OPT_BETA] = h->beta;
}

const struct policy policy_cascade = {
    .name = "cascade",
    .about = "the pages of the largest attention mass that two stages of representatives estimate, times a "
             "prior of what past steps attended to",
    .source = "this project's design",
    .opts =
        {{"alpha", 0.0f, 0, 1,
          "how much of the prior is salience; the rest is received mass (if not given: as "
          "calibrated)"},
         {"beta", 0.0f, 0, 4,
          "weight of the prior; 0: the query alone decides (if not given: as calibrated)"},
         {"half-life", 512, 0, 1 << 24, "steps after which received mass counts half"},
         {"candidates", 0, -1, 1 << 24,
          "blocks whose pages are looked at; 0: as many as the budget has pages, at least 128; -1: all, in "
          "one stage"}},
    .tails = true,
    .room = room,
    .scan = scan,
    .choose = choose,
};
