/* policy_static.c: patterns that look at neither keys nor queries. All fill the budget: what the pattern
 * leaves of it goes to the newest pages, so that policies compare at equal tokens. */
#include "decoder/scout/policy.h"

#include <math.h>

/* A page outside the pattern: below every page inside, the newest first. */
static float rank_of_rest(const struct far_view *v, size_t page)
{
    return (float)(page + 1) / (float)(v->n_pages + 1) * 0.5f;
}

static void score_sinks(struct far_view *v, float *score)
{
    for (size_t p = 0; p < v->n_pages; p++)
        score[p] = rank_of_rest(v, p);
}

const struct policy policy_sinks = {
    .name = "sinks",
    .about = "the first tokens and the newest: the budget prolongs the window",
    .source = "StreamingLLM, Xiao et al. 2023",
    .score = score_sinks,
};

/* Every stride-th page, counted back from the newest; 0: the stride that spends the budget. */
static void score_strided(struct far_view *v, float *score)
{
    size_t stride = (size_t)v->opt[0], k = v->k * v->unit;
    if (stride == 0)
        stride = k ? (v->n_pages + k - 1) / k : 1;
    stride = stride ? stride : 1;
    for (size_t p = 0; p < v->n_pages; p++)
        score[p] = (v->n_pages - 1 - p) % stride == 0 ? 1.0f : rank_of_rest(v, p);
}

const struct policy policy_strided = {
    .name = "strided",
    .about = "every n-th page, counted back from the newest",
    .source = "Sparse Transformer (strided), Child et al. 2019",
    .opts = {{"stride", 0, 0, 1 << 24, "pages from one to the next; 0: what spends the budget"}},
    .score = score_strided,
};

/* In each stripe of blocks the last ones, whole: 0: as many stripes as spend the budget with one block each.
 */
static void score_block_sparse(struct far_view *v, float *score)
{
    size_t budget = v->k * v->unit / 4, stripe = (size_t)v->opt[0], last = (size_t)v->opt[1];
    if (stripe == 0)
        stripe = budget ? (v->n_blocks * last + budget - 1) / budget : v->n_blocks;
    stripe = stripe ? stripe : 1;
    for (size_t p = 0; p < v->n_pages; p++)
        score[p] = p / 4 % stripe + last >= stripe ? 1.0f : rank_of_rest(v, p);
}

const struct policy policy_block_sparse = {
    .name = "block-sparse",
    .about = "whole blocks in a fixed layout: the last ones of each stripe",
    .source = "Sparse Transformer (fixed), Child et al. 2019; block-sparse kernels, Gray et al. 2017",
    .opts = {{"stripe", 0, 0, 1 << 24, "blocks of a stripe; 0: what spends the budget"},
             {"last", 1, 1, 1 << 16, "blocks of it that are read"}},
    .score = score_block_sparse,
};

/* A number in (0, 1] that depends on nothing but its arguments (SplitMix64, Steele et al. 2014). */
static float lot(uint64_t seed, uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t x = seed + a * 0x9e3779b97f4a7c15u + b * 0xbf58476d1ce4e5b9u + c * 0x94d049bb133111ebu;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    x ^= x >> 31;
    return (float)((x >> 40) + 1) / 16777216.0f;
}

static void score_random(struct far_view *v, float *score)
{
    for (size_t p = 0; p < v->n_pages; p++)
        score[p] = lot((uint64_t)v->opt[0], ((uint64_t)v->layer << 16) + v->head, v->position, p);
}

const struct policy policy_random = {
    .name = "random",
    .about = "pages by lot, drawn anew at every step (a control)",
    .source = "control",
    .opts = {{"seed", 1, 0, 1 << 24, "of the lots"}},
    .score = score_random,
};

/* A share of the budget for the first pages, the rest by lots that stay. */
static void score_bigbird(struct far_view *v, float *score)
{
    size_t global = (size_t)(v->opt[0] * (float)(v->k * v->unit));
    for (size_t p = 0; p < v->n_pages; p++)
        score[p] = p < global ? 2.0f : lot((uint64_t)v->opt[1], ((uint64_t)v->layer << 16) + v->head, 0, p);
}

const struct policy policy_bigbird = {
    .name = "bigbird",
    .about = "window, the first pages of all, and random ones that stay the same",
    .source = "BigBird, Zaheer et al. 2020",
    .opts = {{"global", 0.25f, 0, 1, "share of the budget for the first pages"},
             {"seed", 1, 0, 1 << 24, "of the lots"}},
    .score = score_bigbird,
};
