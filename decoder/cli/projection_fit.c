/* projection_fit.c: see projection_fit.h. Matrices are row by row here and column by column to LAPACK, which
 * for symmetric ones is the same, and for others the transpose. */
#include "decoder/cli/projection_fit.h"

#include <cblas.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* LAPACK's eigenvalues and singular values; they come with OpenBLAS. */
extern void dsyev_(const char *jobz, const char *uplo, const int *n, double *a, const int *lda, double *w,
                   double *work, const int *lwork, int *info);
extern void dgesvd_(const char *jobu, const char *jobvt, const int *m, const int *n, double *a,
                    const int *lda, double *s, double *u, const int *ldu, double *vt, const int *ldvt,
                    double *work, const int *lwork, int *info);

/* Of the mean variance: directions that nobody has seen are not divided by nothing. */
static const double floor_share = 1e-6;

int projection_fit_new(struct projection_fit *f, unsigned d_k)
{
    *f = (struct projection_fit){.d_k = d_k};
    f->q = calloc((size_t)d_k * d_k, sizeof *f->q);
    f->k = calloc((size_t)d_k * d_k, sizeof *f->k);
    f->mean = calloc(d_k, sizeof *f->mean);
    return f->q && f->k && f->mean ? 0 : -ENOMEM;
}

void projection_fit_free(struct projection_fit *f)
{
    free(f->q);
    free(f->k);
    free(f->mean);
    *f = (struct projection_fit){0};
}

static void add(unsigned d, const float *x, double *sum)
{
    for (unsigned i = 0; i < d; i++)
        for (unsigned j = 0; j < d; j++)
            sum[(size_t)i * d + j] += (double)x[i] * (double)x[j];
}

void projection_fit_query(struct projection_fit *f, const float *q)
{
    add(f->d_k, q, f->q);
    f->n_q++;
}

void projection_fit_key(struct projection_fit *f, const float *k)
{
    add(f->d_k, k, f->k);
    for (unsigned i = 0; i < f->d_k; i++)
        f->mean[i] += (double)k[i];
    f->n_k++;
}

/* m (d, d) symmetric -> its root and the root's inverse. */
static bool roots(int d, double *m, double *root, double *inverse)
{
    int info = 0, n_work = 8 * d;
    size_t n = (size_t)d;
    double *w = malloc(n * sizeof *w), *work = malloc((size_t)n_work * sizeof *work), sum = 0;
    bool ok = w && work;
    if (ok) {
        dsyev_("V", "U", &d, m, &d, w, work, &n_work, &info); /* row i of m: the i-th eigenvector */
        ok = info == 0;
    }
    for (size_t i = 0; i < n && ok; i++)
        sum += w[i];
    ok = ok && isfinite(sum) && sum > 0;
    memset(root, 0, n * n * sizeof *root);
    memset(inverse, 0, n * n * sizeof *inverse);
    for (size_t e = 0; e < n && ok; e++) {
        double least = floor_share * sum / d, s = sqrt(w[e] > least ? w[e] : least);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++) {
                double x = m[e * n + i] * m[e * n + j];
                root[i * n + j] += s * x;
                inverse[i * n + j] += x / s;
            }
    }
    free(w);
    free(work);
    return ok;
}

/* out (rows, d) <- a (rows, d) · b (d, d), in single precision. */
static void times(size_t rows, size_t d, const double *a, const double *b, float *out)
{
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < d; j++) {
            double sum = 0;
            for (size_t k = 0; k < d; k++)
                sum += a[i * d + k] * b[k * d + j];
            out[i * d + j] = (float)sum;
        }
}

bool projection_fit_solve(const struct projection_fit *f, unsigned d_rep, float *p)
{
    int d = (int)f->d_k, info = 0, n_work = 16 * d;
    size_t n = f->d_k, size = n * n;
    double *memory = malloc((9 * size + n + (size_t)n_work) * sizeof *memory);
    if (!memory)
        return false;
    double *q = memory, *k = q + size, *q_root = k + size, *q_inverse = q_root + size,
           *k_root = q_inverse + size, *k_inverse = k_root + size, *product = k_inverse + size,
           *u = product + size, *vt = u + size, *s = vt + size, *work = s + n;
    for (size_t i = 0; i < size; i++) {
        q[i] = f->q[i] / (f->n_q > 0 ? f->n_q : 1);
        k[i] = f->n_k > 0 ? f->k[i] / f->n_k - f->mean[i / n] * f->mean[i % n] / f->n_k / f->n_k : 0;
    }
    bool ok = roots(d, q, q_root, q_inverse) && roots(d, k, k_root, k_inverse);
    if (ok) { /* (Σq^½ Σk^½)ᵀ row by row is Σq^½ Σk^½ column by column */
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, d, d, d, 1, k_root, d, q_root, d, 0, product,
                    d);
        dgesvd_("A", "A", &d, &d, product, &d, s, u, &d, vt, &d, work, &n_work, &info);
        ok = info == 0; /* row i of u: left singular vector i; entry (i, j) of Vᵀ at vt[j·n + i] */
    }
    for (size_t i = 0; i < d_rep && ok; i++) {
        double root = sqrt(s[i]);
        for (size_t j = 0; j < n; j++) {
            q[i * n + j] = root * u[i * n + j];
            k[i * n + j] = root * vt[j * n + i];
        }
    }
    if (ok) {
        times(d_rep, n, k, k_inverse, p);
        times(d_rep, n, q, q_inverse, p + d_rep * n);
    }
    for (size_t i = 0; i < 2 * d_rep * n && ok; i++)
        ok = isfinite(p[i]);
    free(memory);
    return ok;
}
