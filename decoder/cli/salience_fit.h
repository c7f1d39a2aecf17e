/* salience_fit.h: ridge regression of the log mass that tokens receive on their keys (scout/salience.h). */
#ifndef CLI_SALIENCE_FIT_H
#define CLI_SALIENCE_FIT_H

#include "common/error.h"
#include <stdbool.h>
#include <stddef.h>

/* Normal equations of one KV head: features are a key, its norm and 1. */
struct salience_fit {
    unsigned n;  /* d_k + 2 */
    double *sum; /* (n, n) Σ weight · features featuresᵀ, lower triangle */
    double *got; /* (n) Σ weight · features · log mass */
    double weight;
};

/* For keys of d_k dims; -ENOMEM. */
int salience_fit_new(struct salience_fit *, unsigned d_k);
void salience_fit_free(struct salience_fit *);
/* A token of key k (d_k) received `mass` of a query's attention on average. Tokens of more mass weigh more:
 * to be right about those is what selection needs. */
void salience_fit_add(struct salience_fit *, const float *k, double mass);
/* w (d_k + 2). False, and zeros: nothing was added, or nothing can be told from it. */
bool salience_fit_solve(const struct salience_fit *, float *w);

#endif
