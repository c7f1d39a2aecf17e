/* scout.h: from a query to the pages worth reading: scoring over representatives and choosing.
 *
 * Pure: takes arrays, gives arrays. Pages are numbered from the context's start. */
#ifndef SCOUT_SCOUT_H
#define SCOUT_SCOUT_H

#include "decoder/scout/reps.h"
#include <stdint.h>
#include <stddef.h>

/* Representatives of one KV head, of pages or of blocks, lie in pieces (a context's spans): piece i covers
 * pages [i·pages_per_piece, …). What is said of pages holds for blocks. */
struct scout_head {
    enum reps_kind kind;
    const uint8_t *const *groups; /* per piece: its groups of 8 (reps.h) */
    const float *const *scatter;  /* per piece: w (d_k) of reps_scatter; either NULL: 1 everywhere */
    unsigned pages_per_piece;     /* a multiple of 8 */
    unsigned d_k;
};

/* Log-mass scores (natural log, comparable with true log sum exp of scaled scores) of pages [0, n_pages) for
 * g scaled query rows q (g, d_k): out (g, ld), ld >= n_pages rounded up to 8; lanes without page get
 * -INFINITY. */
void scout_score(const struct scout_head *, size_t n_pages, unsigned g, const float *q, float *out,
                 size_t ld);

/* Combines g rows of log masses into one score per page: sum of softmaxes over pages.
 * logmass (g, ld) is overwritten with each page's share of its row's mass; lse (g) receives the log of that
 * mass. score (n_pages). */
void scout_aggregate(size_t n_pages, unsigned g, float *logmass, size_t ld, float *lse, float *score);

/* The k units of largest score; unit = 1, 2 or 4 pages, aligned from page 0. eligible: bitmap of pages that
 * may be chosen, NULL = all; a unit needs one such page, its score is the sum of theirs, and only they are
 * written. 0 < mass < 1: stops once the chosen hold that share of the eligible pages' total. Ties go to the
 * lower page; a score that is no positive number counts as zero. Pages come in rising order; returns how many
 * (<= k·unit). scratch: n_pages u32. */
size_t scout_top(size_t n_pages, const float *score, const uint64_t *eligible, size_t k, unsigned unit,
                 float mass, uint32_t *scratch, uint32_t *pages);

#endif
