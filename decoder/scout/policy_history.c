/* policy_history.c: what past steps tell, and what a page tells before it was ever asked for; no policy here
 * looks at the query. */
#include "decoder/scout/policy.h"
#include "decoder/scout/scout.h"

#include <math.h>
#include <string.h>

static void score_received(struct far_view *v, float *score)
{
    if (v->received)
        memcpy(score, v->received, v->n_pages * sizeof *score);
    else
        memset(score, 0, v->n_pages * sizeof *score);
}

const struct policy policy_heavy_hitter = {
    .name = "heavy-hitter",
    .about = "the pages that received the most attention mass so far, older mass fading",
    .source = "H2O, Zhang et al. 2023, as retention of pages",
    .opts = {{"half-life", 512, 0, 1 << 24, "steps after which mass counts half"}},
    .needs = NEEDS_RECEIVED,
    .score = score_received,
};

const struct policy policy_tova = {
    .name = "tova",
    .about = "the pages that the last step attended to most",
    .source = "TOVA, Oren et al. 2024, by pages",
    .opts = {{"half-life", 0, 0, 0, "always 0: only the last step counts"}},
    .needs = NEEDS_RECEIVED,
    .score = score_received,
};

static void score_norm(struct far_view *v, float *score)
{
    for (size_t p = 0; p < v->n_pages; p++)
        score[p] = v->pieces[p / PIECE_PAGES].norms[p % PIECE_PAGES];
    v->bytes += v->n_pages * sizeof(float);
}

const struct policy policy_norm_only = {
    .name = "norm-only",
    .about = "the pages with the largest key norms, whatever the query (a control)",
    .source = "control",
    .score = score_norm,
};

/* As a calibration has learned to predict it. */
static void score_learned(struct far_view *v, float *score)
{
    float most = -INFINITY;
    for (size_t p = 0; p < v->n_pages; p++)
        most = fmaxf(most, v->pieces[p / PIECE_PAGES].salience[p % PIECE_PAGES]);
    for (size_t p = 0; p < v->n_pages; p++)
        score[p] = expf(v->pieces[p / PIECE_PAGES].salience[p % PIECE_PAGES] - most);
    v->bytes += v->n_pages * sizeof(float);
}

/* Without a calibration the average query stands for all that will come. */
static void score_salience(struct far_view *v, float *score)
{
    size_t ld;
    float *mass = policy_rows(v, &ld);
    if (v->n_pages && v->pieces[0].salience) {
        score_learned(v, score);
        return;
    }
    if (!v->mean_q) {
        memset(score, 0, v->n_pages * sizeof *score);
        return;
    }
    v->bytes += policy_scan_pages(v, v->mean_q, mass, ld);
    policy_sum_shares(v, mass, ld, score);
}

const struct policy policy_salience = {
    .name = "salience",
    .about =
        "the pages that are predicted to receive the most: by what --calib has learned, else by the mean of "
        "the queries so far",
    .source = "KVzap-like (learned); Expected Attention (mean query), Devoto et al. 2025",
    .needs = NEEDS_SALIENCE,
    .score = score_salience,
};
