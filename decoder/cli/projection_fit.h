/* projection_fit.h: to fewer dims, so that scores lose the least: the d' directions in which queries and keys
 * of a KV head meet the most, E(q·k - (R q)·(P k))² least, by an SVD of Σq^½ Σk^½ (design §6; InfiniGen,
 * LRQK). */
#ifndef CLI_PROJECTION_FIT_H
#define CLI_PROJECTION_FIT_H

#include <stdbool.h>
#include <stddef.h>

/* Second moments of one KV head. */
struct projection_fit {
    unsigned d_k;
    double *q, *k, *mean; /* (d_k, d_k) Σ q qᵀ, Σ k kᵀ, (d_k) Σ k */
    double n_q, n_k;
};

/* -ENOMEM. */
int projection_fit_new(struct projection_fit *, unsigned d_k);
void projection_fit_free(struct projection_fit *);
void projection_fit_query(struct projection_fit *, const float *q);
void projection_fit_key(struct projection_fit *, const float *k);
/* p (2, d_rep, d_k): P, then R (scoutkv.h). False: nothing was added, or nothing can be told from it. */
bool projection_fit_solve(const struct projection_fit *, unsigned d_rep, float *p);

#endif
