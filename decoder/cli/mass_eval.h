/* mass_eval.h: `scoutkv eval mass`, shared by its files: measuring one trace (mass_run.c), telling
 * (mass_report.c), options and order of work (eval_mass.c). */
#ifndef CLI_MASS_EVAL_H
#define CLI_MASS_EVAL_H

#include "common/pool.h"
#include "decoder/model/kv_trace.h"
#include "decoder/scout/bound.h"
#include "decoder/scout/calibration.h"
#include "decoder/scout/reps.h"
#include "decoder/scout/policy.h"

enum { MASS_POLICIES = 64, MASS_BUDGETS = 16, MASS_KINDS = 2 };

/* Kinds of queries: those of mark 1 (copy) and 2 (ordinary), apart. */
static inline const char *mass_kind_name(unsigned kind)
{
    return kind ? "ordinary" : "copy";
}

struct mass_setup {
    struct skv_select policy[MASS_POLICIES]; /* budget and unit are set for each measurement */
    char label[MASS_POLICIES][SKV_POLICY_TEXT];
    unsigned n_policies;
    uint32_t budget[MASS_BUDGETS]; /* tokens per KV head */
    unsigned n_budgets;
    uint32_t window, protected_pages, unit; /* unit: tokens selected together */
    bool calibration;                       /* keep samples */
    const struct skv_calibration *calib;    /* or NULL */
    enum skv_schedule schedule;             /* of the budgets, over layers and KV heads */
    enum skv_representatives representatives;
};

static inline enum reps_kind mass_pages(const struct mass_setup *s)
{
    return s->representatives == SKV_REPS_LEAN ? REPS_LEAN
           : s->calib && s->calib->d_rep       ? REPS_MANY
                                               : REPS_PAGE;
}

/* Sums of one policy and budget over queries, heads and rows. */
struct mass_cell {
    double far, held; /* Σ of rows' far mass, and of what of it is selected, as shares of all attention */
    double rows, held_rows; /* rows with far mass, Σ of the share of their far mass that is selected */
    double all_rows, error;
    double choices, tokens; /* choices (a query and KV head); tokens chosen */
    double far_tokens, bytes;
};
static inline unsigned mass_cell_at(const struct mass_setup *s, unsigned kind, unsigned policy,
                                    unsigned budget)
{
    return (kind * s->n_policies + policy) * s->n_budgets + budget;
}
static inline unsigned mass_cells(const struct mass_setup *s)
{
    return MASS_KINDS * s->n_policies * s->n_budgets;
}

/* What a policy estimated that a row of a query misses, as a share of the row's whole attention, what it
 * missed, and what it can have missed at most; over: by how much, on average, a bound on the log mass of an
 * unread page is above it. */
struct mass_sample {
    float estimated, missed, bound[BOUNDS], over[BOUNDS];
};
struct mass_samples {
    struct mass_sample *at; /* malloc'd */
    size_t n, room;
};

struct mass_trace { /* one trace's part of the result */
    const char *file;
    uint64_t n_tokens, queries[MASS_KINDS];
    uint32_t n_layers;
    struct mass_cell *cells; /* (n_layers, mass_cells) */
};

struct mass_result {
    const struct mass_setup *setup;
    struct kv_trace_head head; /* of the first trace: its shape is everyone's */
    struct mass_trace *traces;
    size_t n_traces;
    struct mass_samples *samples; /* (n_policies, n_budgets) */
    double seconds;
};

/* Measures all policies on one trace. The pool's threads work on KV heads; results don't depend on them. */
int mass_run(const struct mass_setup *, const struct kv_trace *, struct pool *, struct mass_trace *out,
             struct mass_samples *samples, struct skv_error *);

void mass_print(const struct mass_result *, bool layers);
void mass_print_calibration(const struct mass_result *);
/* path: "-" is standard output. */
int mass_write_json(const struct mass_result *, const char *path, struct skv_error *);

/* ---- mass_stats.c: from sums to figures ---- */

/* The share of a layer's far mass that was selected; layer -1: its mean over layers. NAN: no such queries. */
double mass_share(const struct mass_result *, const struct mass_trace *, int layer, unsigned kind,
                  unsigned policy, unsigned budget);

struct mass_figure {
    size_t traces;          /* that have such queries; 0: nothing below means anything */
    double share, share_sd; /* mean over traces of mass_share, and standard deviation over them */
    double share_all;       /* of the far mass of all layers together, what is selected */
    double share_rows;      /* the same with every row of a query counting alike, however little far mass */
    double error, error_sd; /* mean relative L2 error of a query head's output */
    double tokens;          /* chosen per query and KV head */
    double read_step;       /* bytes of the index read per query and KV head, */
    double read_token;      /* and far token */
    double kept_token;      /* bytes kept per far token and KV head */
    double gap_closed;      /* of the way from quest's share to the oracle's; NAN: not both are measured */
};
struct mass_figure mass_figure_of(const struct mass_result *, unsigned kind, unsigned policy,
                                  unsigned budget);

struct mass_decile {
    size_t n;
    double estimated, missed, bound[BOUNDS]; /* means */
};
struct mass_calibration {
    size_t n;
    double correlation; /* Pearson's */
    double estimated, missed, bound[BOUNDS], over[BOUNDS];
    size_t broken; /* samples that missed more than a bound says: none, or the program is wrong */
    struct mass_decile decile[10]; /* by what was estimated */
};
/* Sorts the samples. false: there are fewer than ten. */
bool mass_calibration_of(struct mass_samples *, struct mass_calibration *);

#endif
