/* mass_index.c: see mass_index.h. */
#include "decoder/cli/mass_index.h"

#include "decoder/scout/calibration.h"
#include "decoder/scout/reps.h"
#include "decoder/scout/salience.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A piece's arrays while they are written. */
struct writer {
    uint8_t *page_groups, *block_groups;
    float *norms, *scatter, *salience; /* salience: NULL, or (pages) */
    void *part[INDEX_PARTS];
    enum reps_kind page_kind;
    unsigned dims; /* of representatives */
};

static struct far_piece piece_of(const struct writer *w)
{
    struct far_piece piece = {w->page_groups, w->block_groups, w->norms,    {0},
                              w->scatter,     w->salience,     w->page_kind};
    for (unsigned i = 0; i < INDEX_PARTS; i++)
        piece.part[i] = w->part[i];
    return piece;
}

static int piece_new(const struct mass_head *h, uint32_t needs, bool learned, struct writer *w)
{
    size_t page_bytes = reps_group_bytes(w->page_kind, w->dims),
           block_bytes = reps_group_bytes(REPS_BLOCK, w->dims);
    bool ok = (w->page_groups = malloc(PIECE_PAGES / REPS_LANES * page_bytes)) &&
              (w->block_groups = malloc(PIECE_BLOCKS / REPS_LANES * block_bytes)) &&
              (w->norms = calloc(PIECE_PAGES, sizeof *w->norms)) &&
              (w->scatter = malloc(w->dims * sizeof *w->scatter)) &&
              (!learned || (w->salience = calloc(PIECE_PAGES, sizeof *w->salience)));
    for (unsigned i = 0; i < INDEX_PARTS && ok; i++)
        if (needs >> i & 1)
            ok = (w->part[i] =
                      calloc(1, part_bytes((enum index_part)i,
                                           part_of_stretch((enum index_part)i) ? w->dims : h->d_k, h->d_v)));
    if (!ok)
        return -ENOMEM;
    for (size_t g = 0; g < PIECE_PAGES / REPS_LANES; g++)
        reps_group_clear(w->page_kind, w->dims, w->page_groups + g * page_bytes);
    for (size_t g = 0; g < PIECE_BLOCKS / REPS_LANES; g++)
        reps_group_clear(REPS_BLOCK, w->dims, w->block_groups + g * block_bytes);
    return 0;
}

static float largest_norm(unsigned d_k, const float *k)
{
    double most = 0;
    for (unsigned t = 0; t < SKV_PAGE; t++, k += d_k) {
        double square = 0;
        for (unsigned i = 0; i < d_k; i++)
            square += (double)k[i] * (double)k[i];
        most = square > most ? square : most;
    }
    return (float)sqrt(most);
}

/* A block's stretch is full with it. */
static void make_stretch(const struct mass_head *h, unsigned block, const struct writer *w)
{
    const struct far_piece piece = piece_of(w);
    for (unsigned i = 0; i < INDEX_PARTS; i++)
        if (w->part[i] && part_of_stretch((enum index_part)i))
            part_make((enum index_part)i, w->dims, h->d_v, block / PART_STRETCH, &piece, w->part[i]);
}

/* k (64, d_k), v (64, d_v) of a block; projected: room for (64, d_rep). */
static void piece_add(const struct mass_head *h, unsigned block, const float *k, const float *v,
                      const struct mass_learned *learned, float *projected, const struct writer *w)
{
    size_t page_bytes = reps_group_bytes(w->page_kind, w->dims),
           block_bytes = reps_group_bytes(REPS_BLOCK, w->dims);
    const float *summed = k;
    if (learned->d_rep) {
        calibration_project(learned->d_rep, h->d_k, learned->projection, SKV_BLOCK, k, projected);
        summed = projected;
    }
    for (unsigned p = 0; p < BLOCK_PAGES; p++) {
        const float *keys = k + (size_t)p * SKV_PAGE * h->d_k;
        unsigned page = block * BLOCK_PAGES + p;
        reps_build_gamma(w->page_kind, w->dims, summed + (size_t)p * SKV_PAGE * w->dims,
                         learned->gamma[REPS_PAGE], w->page_groups + page / REPS_LANES * page_bytes,
                         page % REPS_LANES);
        w->norms[page] = largest_norm(h->d_k, keys);
        if (learned->salience)
            w->salience[page] = salience_page(kernels_get(), h->d_k, learned->salience, keys);
    }
    reps_build_gamma(REPS_BLOCK, w->dims, summed, learned->gamma[REPS_BLOCK],
                     w->block_groups + block / REPS_LANES * block_bytes, block % REPS_LANES);
    if (block == 0)
        reps_scatter(w->dims, summed, w->scatter);
    for (unsigned i = 0; i < INDEX_PARTS; i++)
        if (w->part[i] && !part_of_stretch((enum index_part)i))
            part_add((enum index_part)i, h->d_k, h->d_v, block, k, v, w->part[i]);
    if ((block + 1) % PART_STRETCH == 0)
        make_stretch(h, block, w);
}

int mass_index_build(struct mass_index *x, const struct mass_head *h, size_t n_blocks, uint32_t needs,
                     enum reps_kind pages, const struct mass_learned *learned)
{
    float *block = malloc(SKV_BLOCK * (size_t)(2 * h->d_k + h->d_v) * sizeof *block);
    int rc = 0;
    x->n_pieces = (n_blocks + PIECE_BLOCKS - 1) / PIECE_BLOCKS;
    x->pieces = calloc(x->n_pieces + 1, sizeof *x->pieces);
    if (!block || !x->pieces)
        rc = -ENOMEM;
    for (size_t piece = 0; piece < x->n_pieces && rc == 0; piece++) {
        struct writer w = {.page_kind = pages, .dims = learned->d_rep ? learned->d_rep : h->d_k};
        rc = piece_new(h, needs, learned->salience, &w);
        x->pieces[piece] = piece_of(&w);
        for (size_t b = piece * PIECE_BLOCKS; b < n_blocks && b < (piece + 1) * PIECE_BLOCKS && rc == 0;
             b++) {
            float *v = block + SKV_BLOCK * (size_t)h->d_k;
            for (size_t t = 0; t < SKV_BLOCK; t++) {
                memcpy(block + t * h->d_k, h->k + (b * SKV_BLOCK + t) * h->k_step, h->d_k * sizeof *block);
                memcpy(v + t * h->d_v, h->v + (b * SKV_BLOCK + t) * h->v_step, h->d_v * sizeof *block);
            }
            piece_add(h, (unsigned)(b % PIECE_BLOCKS), block, v, learned, v + SKV_BLOCK * (size_t)h->d_v, &w);
        }
    }
    free(block);
    if (rc)
        mass_index_free(x);
    return rc;
}

void mass_index_free(struct mass_index *x)
{
    for (size_t i = 0; x->pieces && i < x->n_pieces; i++) {
        free((void *)(uintptr_t)x->pieces[i].page_groups);
        free((void *)(uintptr_t)x->pieces[i].block_groups);
        free((void *)(uintptr_t)x->pieces[i].norms);
        free((void *)(uintptr_t)x->pieces[i].scatter);
        free((void *)(uintptr_t)x->pieces[i].salience);
        for (unsigned part = 0; part < INDEX_PARTS; part++)
            free((void *)(uintptr_t)x->pieces[i].part[part]);
    }
    free(x->pieces);
    *x = (struct mass_index){0};
}

double mass_bytes_kept(const struct skv_select *s, enum reps_kind pages, const struct skv_calibration *c,
                       unsigned d_k, unsigned d_v)
{
    uint32_t needs = policy_needs(s, c);
    unsigned dims = c && c->d_rep ? c->d_rep : d_k;
    double bytes = 0;
    bool learned = needs & NEEDS_SALIENCE;
    if (policy_reads_representatives(s->policy) && !(learned && s->policy == SKV_SALIENCE))
        bytes += (double)reps_group_bytes(pages, dims) / (REPS_LANES * SKV_PAGE) +
                 (double)(dims * sizeof(float)) / (PIECE_PAGES * SKV_PAGE);
    if ((s->policy == SKV_CASCADE && !cascade_takes_all(s)) || s->policy == SKV_HIERARCHICAL)
        bytes += (double)reps_group_bytes(REPS_BLOCK, dims) / (REPS_LANES * SKV_BLOCK);
    if (s->policy == SKV_NORM_ONLY)
        bytes += (double)sizeof(float) / SKV_PAGE;
    if (learned)
        bytes += (double)sizeof(float) / SKV_PAGE;
    if (needs & NEEDS_RECEIVED)
        bytes += (double)sizeof(float) / SKV_PAGE;
    for (unsigned i = 0; i < INDEX_PARTS; i++)
        if (needs >> i & 1)
            bytes += (double)part_bytes((enum index_part)i, part_of_stretch((enum index_part)i) ? dims : d_k,
                                        d_v) /
                     (PIECE_PAGES * SKV_PAGE);
    return bytes;
}
