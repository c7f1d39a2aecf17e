/* policy_keys.c: what keys tell about a query without an estimate of ours: bounds, and the truth. */
#include "decoder/kernels/kernels.h"
#include "decoder/scout/policy.h"

#include <string.h>

/* Largest q·k that a key inside the page's box could have, for each page of a piece. */
static void box_bounds(unsigned d_k, unsigned rows, const float *q, size_t n, const uint16_t *boxes,
                       float *out, size_t ld)
{
    const struct kernels *k = kernels_get();
    float box[2 * 1024];
    for (size_t p = 0; p < n; p++) {
        k->f16_to_f32(2 * d_k, boxes + p * 2 * d_k, box);
        for (unsigned r = 0; r < rows; r++) {
            const float *row = q + (size_t)r * d_k;
            float sum[8] = {0};
            for (unsigned i = 0; i < d_k; i += 8)
                for (unsigned j = 0; j < 8; j++) {
                    float low = row[i + j] * box[i + j], high = row[i + j] * box[d_k + i + j];
                    sum[j] += low > high ? low : high;
                }
            out[r * ld + p] =
                ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
        }
    }
}

static void score_quest(struct far_view *v, float *score)
{
    size_t ld;
    float *bound = policy_rows(v, &ld);
    for (size_t p = 0; p < v->n_pages; p += PIECE_PAGES) {
        size_t left = v->n_pages - p, n = left < PIECE_PAGES ? left : PIECE_PAGES;
        box_bounds(v->d_k, v->rows, v->q, n, v->pieces[p / PIECE_PAGES].part[PART_BOX], bound + p, ld);
    }
    v->bytes += v->n_pages * 2 * v->d_k * sizeof(uint16_t);
    policy_sum_shares(v, bound, ld, score);
}

const struct policy policy_quest = {
    .name = "quest",
    .about =
        "the pages whose box of smallest and largest key values bounds q·k highest; the peer that all cite",
    .source = "Quest, Tang et al. 2024; query heads of a group by the sum of softmaxes",
    .needs = 1u << PART_BOX,
    .score = score_quest,
};

static void score_oracle(struct far_view *v, float *score)
{
    size_t ld;
    float *mass = policy_rows(v, &ld);
    for (unsigned r = 0; r < v->rows; r++)
        memcpy(mass + r * ld, v->truth + r * v->truth_ld, v->n_pages * sizeof *mass);
    policy_sum_shares(v, mass, ld, score);
}

const struct policy policy_oracle = {
    .name = "oracle",
    .about =
        "the pages of the largest true mass: reads every page first, so it only serves to measure others",
    .source = "control: no policy of pages gets more mass for as many tokens",
    .needs = NEEDS_TRUTH,
    .score = score_oracle,
};
