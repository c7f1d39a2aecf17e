/* mass_truth.h: where the attention of one query really goes, and what is lost by reading only some pages.
 *
 * A query at position t attends to tokens 0..t. As in a context of the same options (`../context`): blocks
 * that lie `window` behind the head are sealed, and their pages are far, but for the protected ones at the
 * start; all else is read in any case. All in f64 from the f32 keys and values. */
#ifndef CLI_MASS_TRUTH_H
#define CLI_MASS_TRUTH_H

#include <stddef.h>
#include <stdint.h>

/* One KV head's keys and values among those of all, and the query heads that share it. */
struct mass_head {
    const float *q, *k, *v;        /* of the first token; q is not scaled */
    size_t q_step, k_step, v_step; /* floats from one token to the next */
    uint32_t rows, d_k, d_v;
    float scale;
};

struct mass_truth {
    uint32_t rows, d_v;
    size_t n_pages; /* sealed; the first n_protected of them are read in any case */
    size_t n_protected;
    size_t ld;         /* of logmass: n_pages rounded up to 64 */
    float *logmass;    /* (rows, ld) log Σ exp(q·k) of each sealed page */
    double *far;       /* (rows, n_pages) share of the far mass: they sum to 1; 0 for protected pages */
    double *far_mass;  /* (rows) share of the row's whole attention that is far */
    double *near_mass; /* (rows) the rest of it */
    double *lse;       /* (rows) log of the row's whole mass */
    double *part;      /* (rows, n_pages, d_v) Σ p·v of each page, p of the whole attention */
    double *near;      /* (rows, d_v) the same of all that is read in any case */
    double *dense;     /* (rows, d_v) of everything: the output of exact attention */
    double *score;     /* (rows, tokens) work space */
    size_t tokens_room, pages_room, rows_room, dims_room;
};

/* Sealed blocks when a query at position t attends. */
size_t mass_sealed_blocks(uint64_t t, uint32_t window);

/* Fills *truth, which is zero at first, for the query at position t; 0 or -ENOMEM. -ERANGE: a score is not a
 * finite number. */
int mass_truth_at(struct mass_truth *, const struct mass_head *, uint64_t t, uint32_t window,
                  uint32_t protected_pages);
void mass_truth_free(struct mass_truth *);

/* What a policy attends to without reading it, by estimate (scout/policy.h): m (rows), l (rows), o (rows,
 * d_v). */
struct mass_tail {
    const float *m, *l, *o;
};

/* What reading these pages (rising, far ones) besides what is near gives, summed over rows. tail: or NULL. */
struct mass_outcome {
    unsigned rows;    /* that have far mass at all */
    double held_rows; /* Σ of the share of the row's far mass that the pages hold */
    double held, far; /* Σ of what they hold as a share of the row's whole attention, and of the far mass */
    double error;     /* Σ ‖output - dense‖ / ‖dense‖ over all of the group's rows */
};
struct mass_outcome mass_outcome_of(const struct mass_truth *, const uint32_t *pages, size_t n,
                                    const struct mass_tail *tail);

/* What the oracle goes by: score (n_pages) receives each page's far mass, summed over rows; 0 for protected
 * ones. No choice of as many pages holds more than those of the largest. */
void mass_truth_score(const struct mass_truth *, float *score);

/* What every page up to the query's own gets of the query at position t: got (rows, t/16 + 1) shares of the
 * whole attention; of f32 scores, since it is asked for every position. score: t+1 floats of work space. */
void mass_received(const struct mass_head *, uint64_t t, float *score, float *got);

#endif
