/* salience_fit.c: see salience_fit.h. */
#include "decoder/cli/salience_fit.h"

#include "decoder/scout/calibration.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Of the exponent of a token's weight, the ridge (a share of each feature's variance), and of the mass that
 * counts as none: as on recall3m, the only model that they were tried on. */
static const double weight_power = 0.3, ridge = 0.002, least_mass = 1e-7;

/* LAPACK's solver of positive definite systems, column by column; it comes with OpenBLAS. */
extern void dposv_(const char *uplo, const int *n, const int *nrhs, double *a, const int *lda, double *b,
                   const int *ldb, int *info);

int salience_fit_new(struct salience_fit *f, unsigned d_k)
{
    f->n = d_k + 2;
    f->weight = 0;
    f->sum = calloc((size_t)f->n * f->n, sizeof *f->sum);
    f->got = calloc(f->n, sizeof *f->got);
    return f->sum && f->got ? 0 : -ENOMEM;
}

void salience_fit_free(struct salience_fit *f)
{
    free(f->sum);
    free(f->got);
    *f = (struct salience_fit){0};
}

void salience_fit_add(struct salience_fit *f, const float *k, double mass)
{
    unsigned n = f->n;
    double x[CALIBRATION_DIMS + 2], square = 0, got = mass > least_mass ? mass : least_mass;
    for (unsigned i = 0; i < n - 2; i++) {
        x[i] = (double)k[i];
        square += x[i] * x[i];
    }
    x[n - 2] = sqrt(square);
    x[n - 1] = 1;
    assert(n <= CALIBRATION_DIMS + 2);
    double weight = pow(got, weight_power), y = log(got);
    for (unsigned i = 0; i < n; i++) {
        for (unsigned j = 0; j <= i; j++)
            f->sum[(size_t)i * n + j] += weight * x[i] * x[j];
        f->got[i] += weight * x[i] * y;
    }
    f->weight += weight;
}

bool salience_fit_solve(const struct salience_fit *f, float *w)
{
    int n = (int)f->n, one = 1, info = 0;
    size_t size = (size_t)f->n * f->n;
    double *a = malloc(size * sizeof *a), *b = malloc(f->n * sizeof *b);
    bool ok = a && b && f->weight > 0;
    if (ok) {
        memcpy(a, f->sum, size * sizeof *a);
        memcpy(b, f->got, f->n * sizeof *b);
        const double *mean = f->sum + (size_t)(n - 1) * f->n; /* the last row: sums with the constant */
        for (int i = 0; i < n - 1; i++) {
            double variance = f->sum[(size_t)i * f->n + i] - mean[i] * mean[i] / f->weight;
            a[(size_t)i * f->n + i] += ridge * (variance > 0 ? variance : 0) + 1e-9 * f->weight;
        }
        dposv_("U", &n, &one, a, &n, b, &n, &info); /* rows are columns to it: our lower is its upper */
        ok = info == 0;
    }
    for (int i = 0; i < n && ok; i++) {
        w[i] = (float)b[i];
        ok = isfinite(w[i]);
    }
    if (!ok)
        memset(w, 0, f->n * sizeof *w);
    free(a);
    free(b);
    return ok;
}
