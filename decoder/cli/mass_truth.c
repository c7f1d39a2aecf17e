/* mass_truth.c: see mass_truth.h. */
#include "decoder/cli/mass_truth.h"

#include "decoder/kernels/kernels.h"
#include "decoder/scoutkv.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = 8 };

size_t mass_sealed_blocks(uint64_t t, uint32_t window)
{
    return t + 1 > window ? (size_t)((t + 1 - window) / SKV_BLOCK) : 0;
}

/* ---- room ---- */

static bool resize(double **p, size_t n)
{
    double *grown = realloc(*p, (n ? n : 1) * sizeof **p);
    if (grown)
        *p = grown;
    return grown;
}

static int make_room(struct mass_truth *m, size_t tokens)
{
    size_t rows = m->rows, pages = m->n_pages;
    m->ld = (pages + 63) / 64 * 64;
    if (tokens <= m->tokens_room && pages <= m->pages_room && rows == m->rows_room && m->d_v == m->dims_room)
        return 0;
    free(m->logmass);
    m->logmass = malloc((rows * m->ld + 1) * sizeof *m->logmass);
    m->tokens_room = 0;
    if (!m->logmass || !resize(&m->far, rows * pages) || !resize(&m->far_mass, rows) ||
        !resize(&m->near_mass, rows) || !resize(&m->lse, rows) || !resize(&m->part, rows * pages * m->d_v) ||
        !resize(&m->near, rows * m->d_v) || !resize(&m->dense, rows * m->d_v) ||
        !resize(&m->score, rows * tokens))
        return -ENOMEM;
    m->tokens_room = tokens;
    m->pages_room = pages;
    m->rows_room = rows;
    m->dims_room = m->d_v;
    return 0;
}

void mass_truth_free(struct mass_truth *m)
{
    free(m->logmass);
    free(m->far);
    free(m->far_mass);
    free(m->near_mass);
    free(m->lse);
    free(m->part);
    free(m->near);
    free(m->dense);
    free(m->score);
    *m = (struct mass_truth){0};
}

/* ---- one row ---- */

static double dot(unsigned d, const float *a, const float *b)
{
    double lanes[LANES] = {0}, sum = 0;
    unsigned whole = d / LANES * LANES;
    for (unsigned i = 0; i < whole; i += LANES)
        for (unsigned j = 0; j < LANES; j++)
            lanes[j] += (double)a[i + j] * (double)b[i + j];
    for (unsigned i = whole; i < d; i++)
        sum += (double)a[i] * (double)b[i];
    for (unsigned j = 0; j < LANES; j++)
        sum += lanes[j];
    return sum;
}

static double largest(const double *x, size_t n)
{
    double max = -INFINITY;
    for (size_t i = 0; i < n; i++)
        max = x[i] > max ? x[i] : max;
    return max;
}

static double log_sum_exp(const double *x, size_t n)
{
    double max = largest(x, n), sum = 0;
    if (!isfinite(max))
        return max;
    for (size_t i = 0; i < n; i++)
        sum += exp(x[i] - max);
    return max + log(sum);
}

/* far and far_mass from the log masses of pages; without far mass all are 0. */
static void share_out(struct mass_truth *m, unsigned row, const double *logmass)
{
    double *far = m->far + row * m->n_pages;
    double lse = log_sum_exp(logmass + m->n_protected, m->n_pages - m->n_protected);
    for (size_t p = 0; p < m->n_pages; p++)
        far[p] = p < m->n_protected || !isfinite(lse) ? 0 : exp(logmass[p] - lse);
    m->far_mass[row] = isfinite(lse) ? exp(lse - m->lse[row]) : 0;
}

/* Turns scores into p and sums p·v where they belong. */
static void outputs(struct mass_truth *m, const struct mass_head *h, unsigned row, double *score, size_t n)
{
    double *near = m->near + row * m->d_v, *dense = m->dense + row * m->d_v;
    double *parts = m->part + row * m->n_pages * m->d_v;
    memset(near, 0, m->d_v * sizeof *near);
    memset(dense, 0, m->d_v * sizeof *dense);
    memset(parts, 0, m->n_pages * m->d_v * sizeof *parts);
    m->near_mass[row] = 0;
    for (size_t j = 0; j < n; j++) {
        size_t page = j / SKV_PAGE;
        bool far = page >= m->n_protected && page < m->n_pages;
        double p = exp(score[j] - m->lse[row]), *to = far ? parts + page * m->d_v : near;
        const float *v = h->v + j * h->v_step;
        m->near_mass[row] += far ? 0 : p;
        for (unsigned i = 0; i < m->d_v; i++)
            to[i] += p * (double)v[i];
    }
    for (unsigned i = 0; i < m->d_v; i++)
        dense[i] = near[i];
    for (size_t p = m->n_protected; p < m->n_pages; p++)
        for (unsigned i = 0; i < m->d_v; i++)
            dense[i] += parts[p * m->d_v + i];
}

static int row_truth(struct mass_truth *m, const struct mass_head *h, uint64_t t, unsigned row,
                     double *logmass)
{
    size_t n = (size_t)t + 1;
    const float *q = h->q + t * h->q_step + (size_t)row * h->d_k;
    double *score = m->score + row * n;
    for (size_t j = 0; j < n; j++)
        score[j] = (double)h->scale * dot(h->d_k, q, h->k + j * h->k_step);
    m->lse[row] = log_sum_exp(score, n);
    if (!isfinite(m->lse[row]))
        return -ERANGE;
    for (size_t p = 0; p < m->n_pages; p++) {
        logmass[p] = log_sum_exp(score + p * SKV_PAGE, SKV_PAGE);
        m->logmass[row * m->ld + p] = (float)logmass[p];
    }
    for (size_t p = m->n_pages; p < m->ld; p++)
        m->logmass[row * m->ld + p] = -INFINITY;
    share_out(m, row, logmass);
    outputs(m, h, row, score, n);
    return 0;
}

int mass_truth_at(struct mass_truth *m, const struct mass_head *h, uint64_t t, uint32_t window,
                  uint32_t protected_pages)
{
    m->rows = h->rows;
    m->d_v = h->d_v;
    m->n_pages = mass_sealed_blocks(t, window) * (SKV_BLOCK / SKV_PAGE);
    m->n_protected = protected_pages < m->n_pages ? protected_pages : m->n_pages;
    double *logmass = malloc((m->n_pages + 1) * sizeof *logmass);
    int rc = logmass ? make_room(m, (size_t)t + 1) : -ENOMEM;
    for (unsigned row = 0; row < h->rows && rc == 0; row++)
        rc = row_truth(m, h, t, row, logmass);
    free(logmass);
    return rc;
}

/* ---- what a choice is worth ---- */

/* Attention over near, chosen and the tail only: their p sum to less than 1, and softmax makes up for it. */
static double output_error(const struct mass_truth *m, unsigned row, const uint32_t *pages, size_t n,
                           const struct mass_tail *tail)
{
    double weight = tail && tail->l[row] > 0 ? exp((double)tail->m[row] - m->lse[row]) : 0;
    const double *near = m->near + row * m->d_v, *dense = m->dense + row * m->d_v;
    const double *parts = m->part + row * m->n_pages * m->d_v, *far = m->far + row * m->n_pages;
    double read = m->near_mass[row], norm = 0, distance = 0;
    for (size_t i = 0; i < n; i++)
        read += m->far_mass[row] * far[pages[i]];
    read += weight > 0 ? weight * (double)tail->l[row] : 0;
    for (unsigned d = 0; d < m->d_v; d++) {
        double sum = near[d];
        for (size_t i = 0; i < n; i++)
            sum += parts[pages[i] * m->d_v + d];
        sum += weight > 0 ? weight * (double)tail->o[row * m->d_v + d] : 0;
        double e = (read > 0 ? sum / read : 0) - dense[d];
        distance += e * e;
        norm += dense[d] * dense[d];
    }
    return norm > 0 ? sqrt(distance / norm) : 0;
}

struct mass_outcome mass_outcome_of(const struct mass_truth *m, const uint32_t *pages, size_t n,
                                    const struct mass_tail *tail)
{
    struct mass_outcome out = {0};
    for (unsigned row = 0; row < m->rows; row++) {
        const double *far = m->far + row * m->n_pages;
        double held = 0;
        for (size_t i = 0; i < n; i++)
            held += far[pages[i]];
        out.rows += m->n_pages > m->n_protected;
        out.held_rows += held;
        out.held += held * m->far_mass[row];
        out.far += m->far_mass[row];
        out.error += output_error(m, row, pages, n, tail);
    }
    return out;
}

void mass_truth_score(const struct mass_truth *m, float *score)
{
    for (size_t p = 0; p < m->n_pages; p++) {
        double sum = 0;
        for (unsigned row = 0; row < m->rows; row++)
            sum += m->far[row * m->n_pages + p] * m->far_mass[row];
        score[p] = (float)sum;
    }
}

/* ---- every position ---- */

void mass_received(const struct mass_head *h, uint64_t t, float *score, float *got)
{
    const struct kernels *k = kernels_get();
    size_t n = (size_t)t + 1, n_pages = (size_t)t / SKV_PAGE + 1;
    for (unsigned row = 0; row < h->rows; row++, got += n_pages) {
        const float *q = h->q + t * h->q_step + (size_t)row * h->d_k;
        for (size_t j = 0; j < n; j++)
            score[j] = h->scale * k->dot(h->d_k, q, h->k + j * h->k_step);
        float share = (float)(1 / k->exp_sum(n, score, k->max(n, score)));
        for (size_t p = 0; p < n_pages; p++) {
            size_t end = (p + 1) * SKV_PAGE < n ? (p + 1) * SKV_PAGE : n;
            float sum = 0;
            for (size_t j = p * SKV_PAGE; j < end; j++)
                sum += score[j];
            got[p] = sum * share;
        }
    }
}
