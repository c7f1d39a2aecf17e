/* calibrate_fit.h: from traces to a calibration: for each KV head, how much of the spread counts, how much of
 * its attention is far, and which keys will receive it; for each layer, what a prior is worth. */
#ifndef CLI_CALIBRATE_FIT_H
#define CLI_CALIBRATE_FIT_H

#include "common/pool.h"
#include "decoder/cli/projection_fit.h"
#include "decoder/cli/salience_fit.h"
#include "decoder/model/kv_trace.h"
#include "decoder/scout/calibration.h"

/* gammas 0, 1/8 … 1; kinds of marked queries; priors: none, and three β of three α each */
enum {
    FIT_GAMMAS = 9,
    FIT_KINDS = 2,
    FIT_ALPHAS = 3,
    FIT_BETAS = 3,
    FIT_PRIORS = 1 + FIT_ALPHAS * FIT_BETAS
};

struct fit_sums { /* over the rows of queries of one kind */
    double rows, far;
    double held[FIT_GAMMAS][SKV_KNOTS]; /* far mass in the best 16, 32 … tokens */
    double divergence[FIT_GAMMAS];      /* of blocks' estimated shares from the true ones, times far mass */
    /* Of all traces but the first, far mass not held, over all knots: with each prior, and with projected
     * keys */
    double prior_rows, prior_missed[FIT_PRIORS], projected_missed;
};
struct fit_head {
    struct fit_sums of[FIT_KINDS];
    struct salience_fit salience;
    struct projection_fit projection;
};
struct fit {
    uint32_t window, protected_pages;
    uint32_t d_rep; /* dims to project keys to, if that holds more; 0: not tried */
    uint8_t fingerprint[SKV_FINGERPRINT];
    uint32_t n_layers, n_kv_heads, d_k; /* of the first trace */
    struct fit_head *heads;             /* (n_layers, n_kv_heads) */
    uint64_t queries[FIT_KINDS];
};

/* Adds the marked queries of a trace; all traces are of one model. Heads are parts of the pool's work. */
int fit_add(struct fit *, const struct kv_trace *, struct pool *, struct skv_error *);
/* What fits best; kinds of queries count alike, however many there are of each. *out: free(). -EINVAL: no
 * query had anything far. */
int fit_calibration(const struct fit *, struct skv_calibration **out, struct skv_error *);
void fit_free(struct fit *);

#endif
