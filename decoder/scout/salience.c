/* salience.c: see salience.h. */
#include "decoder/scout/salience.h"
#include "decoder/scout/reps.h"

#include <math.h>

float salience_page(const struct kernels *kernels, unsigned d_k, const float *w, const float *k)
{
    double y[REPS_PAGE_KEYS], most = -INFINITY, sum = 0;
    for (unsigned i = 0; i < REPS_PAGE_KEYS; i++, k += d_k) {
        double norm = sqrt((double)kernels->dot(d_k, k, k));
        y[i] = (double)kernels->dot(d_k, w, k) + (double)w[d_k] * norm + (double)w[d_k + 1];
        most = y[i] > most ? y[i] : most;
    }
    for (unsigned i = 0; i < REPS_PAGE_KEYS; i++)
        sum += exp(2 * (y[i] - most));
    float mass = (float)(most + 0.5 * log(sum));
    return isfinite(mass) ? mass : -INFINITY; /* not of a broken model's keys */
}
