/* policy.h: the ways of choosing which far pages a KV head reads, behind one interface.
 *
 * Far is what lies behind the window; protected tokens are read in any case and are not chosen. A policy sees
 * one KV head's far pages as arrays (struct far_view) and gives page numbers. Pure: the context owns all
 * memory, and whoever has keys can make the arrays (offline comparison does). A policy is a row of a table,
 * in a file of its own. */
#ifndef SCOUT_POLICY_H
#define SCOUT_POLICY_H

#include "decoder/scout/parts.h"
#include "decoder/scout/reps.h"
#include "decoder/scoutkv.h"

enum {
    PIECE_BLOCKS = 64,
    PIECE_PAGES = PIECE_BLOCKS * 4,
    SLICE_PIECES = 64, /* scanned at once, by one thread */
};

/* What is kept of PIECE_PAGES consecutive pages of one KV head; parts that no policy asked for are NULL. */
struct far_piece {
    const uint8_t *page_groups, *block_groups; /* reps.h; of one kind in all, of projected keys or not */
    const float *norms;                        /* largest |k| of each page */
    const void *part[INDEX_PARTS];             /* parts.h */
    const float *scatter;  /* (view_dims) reps_scatter of its first block, for all its pages */
    const float *salience; /* predicted log mass of each page; NULL: not learned */
    enum reps_kind page_kind;
};

/* Needs, as bits besides those of parts (1 << enum index_part). */
enum {
    NEEDS_RECEIVED = 1 << 16, /* the mass that pages have received */
    NEEDS_MEAN_QUERY = 1 << 17,
    NEEDS_TRUTH = 1 << 18,    /* true masses: reads every page; for measuring */
    NEEDS_SALIENCE = 1 << 19, /* as learned; without a calibration the mean query stands in for it */
};

struct far_view {
    /* who chooses, and for what */
    unsigned layer, head, d_k, d_v, rows; /* rows: query heads of the group (prefill: times pooled queries) */
    const float *q;                       /* (rows, d_k) scaled */
    unsigned d_rep;                       /* dims of representatives; 0: keys are not projected for them */
    const float *q_rep;                   /* (rows, d_rep) the query that goes with them */
    uint64_t position;                    /* of the query: the token's */
    /* from what */
    size_t n_pages, n_blocks;
    const struct far_piece *pieces; /* ceil(n_blocks / PIECE_BLOCKS) */
    const uint64_t *eligible;       /* bitmap of pages that may be chosen */
    const float *received;          /* (n_pages) decayed mass, any scale; NULL: none yet */
    const float *mean_q;            /* (rows, view_dims) as view_q is; NULL: none yet */
    const float *truth;             /* (rows, truth_ld) true log masses of pages */
    size_t truth_ld;
    /* how much: k units of 1, 2 or 4 pages; fewer once they hold the share `mass` (0: never fewer) */
    size_t k;
    unsigned unit;
    float mass;
    const float *opt; /* POLICY_OPTS values, as the policy's table names them */

    /* Filled while choosing. */
    bool estimated; /* lse and share are set */
    float *lse,
        *share; /* (rows) log mass of all far pages, and the chosen and protected pages' share of it */
    /* If not NULL: what is not chosen, attended by its estimate: a partial (m, l, o) a row, o (rows, d_v) and
     * l relative to m; l = 0: nothing is left. */
    float *tail_m, *tail_l, *tail_o;
    uint64_t bytes; /* of the index that were read */
    void *scratch;  /* policy_room() bytes, 64-aligned */
};

struct policy_opt {
    const char *name;
    float value, min, max; /* if not given */
    const char *about;
};

struct policy {
    const char *name, *about, *source;
    struct policy_opt opts[SKV_POLICY_OPTS];
    uint32_t needs;
    bool tails;        /* can fill the tail, */
    bool always_tails; /* and does in every decode step */
    /* Scores of all pages, larger is better; what is no positive number counts as zero. */
    void (*score)(struct far_view *, float *score);
    /* Or, instead of score: bytes of scratch, slices [0, n) that may run at once, and then the choice: rising
     * page numbers (room for k·unit), only eligible ones; returns how many. */
    size_t (*room)(const struct far_view *);
    void (*scan)(struct far_view *, unsigned slice);
    size_t (*choose)(struct far_view *, uint32_t *pages);
};

/* NULL: there is none of that number. */
const struct policy *policy_get(enum skv_policy);
/* -EINVAL: no such policy, or options that it has not. */
int policy_check(const struct skv_select *, struct skv_error *);
/* Steps after which received mass counts half, for whoever goes by it. */
float policy_half_life(const struct skv_select *);
/* What the policy needs with these options and this calibration, or NULL. */
uint32_t policy_needs(const struct skv_select *, const struct skv_calibration *);
/* The value of every option, given or not; for a head that is calibrated, or NULL. */
void policy_opts(const struct skv_select *, const struct skv_calibration_head *, float opt[SKV_POLICY_OPTS]);

/* Choosing in three steps; policies without pages of their own choice (dense, window) take none of them. */
size_t policy_room(const struct policy *, const struct far_view *);
static inline unsigned policy_slices(const struct policy *p, const struct far_view *v)
{
    return p->scan
               ? (unsigned)((v->n_blocks + SLICE_PIECES * PIECE_BLOCKS - 1) / (SLICE_PIECES * PIECE_BLOCKS))
               : 0;
}
size_t policy_choose(const struct policy *, struct far_view *, uint32_t *pages);

/* The next array of n bytes in a room that begins at base (NULL: only its size is asked for); *at moves on.
 */
static inline void *policy_take(char *base, size_t *at, size_t n)
{
    void *array = base ? base + *at : NULL;
    *at += (n + 63) / 64 * 64;
    return array;
}

/* For `score`: room for (rows, *ld) log masses in the scratch, and their sum of softmaxes over pages. */
float *policy_rows(const struct far_view *, size_t *ld);
void policy_sum_shares(struct far_view *, float *logmass, size_t ld, float *score);

/* For policies that fill the tail, once v->lse is set: empties it; adds what is not read, with its shares
 * (rows) of the far mass and its mean value (f16), which is not worth reading for a share next to nothing. */
void policy_tail_begin(struct far_view *);
void policy_tail_add(struct far_view *, const float *share, const uint16_t *mean);

/* Which representatives its pages have. */
static inline enum reps_kind view_pages(const struct far_view *v)
{
    return v->n_pages ? v->pieces[0].page_kind : REPS_PAGE;
}

/* Dims of representatives, and the query for them. */
static inline unsigned view_dims(const struct far_view *v)
{
    return v->d_rep ? v->d_rep : v->d_k;
}
static inline const float *view_q(const struct far_view *v)
{
    return v->d_rep ? v->q_rep : v->q;
}

/* Log masses of pages for rows q (as view_q is) by their representatives; returns the bytes read. */
uint64_t policy_scan_pages(const struct far_view *, const float *q, float *logmass, size_t ld);

/* It reads representatives, whose bytes depend on the calibration. */
bool policy_reads_representatives(enum skv_policy);

/* Cascade's needs depend on its options, some of which a calibration may say. */
uint32_t cascade_needs(const float *opt);
/* Its options say that there is no first stage, which alone reads the blocks' representatives. */
bool cascade_takes_all(const struct skv_select *);
void cascade_calibrated(const struct skv_select *, const struct skv_calibration_head *, float *opt);

extern const struct policy policy_cascade, policy_norm_only, policy_oracle, policy_random, policy_sinks,
    policy_strided, policy_bigbird, policy_block_sparse, policy_heavy_hitter, policy_tova, policy_salience,
    policy_quest, policy_retrieval, policy_hierarchical;

#endif
