/* calibration.h: what follows from a calibration: is it whole, which bytes does it change, how does it split
 * a budget. */
#ifndef SCOUT_CALIBRATION_H
#define SCOUT_CALIBRATION_H

#include "common/identity.h"
#include "decoder/scoutkv.h"

enum { CALIBRATION_TAG = 18, CALIBRATION_HEADS = 1 << 14, CALIBRATION_DIMS = 1024 };

static inline size_t calibration_n(const struct skv_calibration *c)
{
    return (size_t)c->n_layers * c->n_kv_heads;
}
static inline const struct skv_calibration_head *calibration_head(const struct skv_calibration *c,
                                                                  unsigned layer, unsigned kv_head)
{
    return &c->heads[(size_t)layer * c->n_kv_heads + kv_head];
}

/* The weights of learned salience (d_k + 2), or NULL. */
static inline const float *calibration_salience(const struct skv_calibration *c, unsigned layer,
                                                unsigned kv_head)
{
    return c && c->d_k ? c->salience + ((size_t)layer * c->n_kv_heads + kv_head) * (c->d_k + 2) : NULL;
}
/* P (d_rep, d_k) and behind it R, of one head; NULL: keys are not projected. */
static inline const float *calibration_projection(const struct skv_calibration *c, unsigned layer,
                                                  unsigned kv_head)
{
    return c && c->d_rep ? c->projection + ((size_t)layer * c->n_kv_heads + kv_head) * 2 * c->d_rep * c->d_k
                         : NULL;
}
static inline size_t calibration_projection_floats(const struct skv_calibration *c)
{
    return calibration_n(c) * 2 * c->d_rep * c->d_k;
}
/* out (rows, d_rep) = x (rows, d_k) · Pᵀ. In fixed order, without fused operations. */
void calibration_project(unsigned d_rep, unsigned d_k, const float *p, size_t rows, const float *x,
                         float *out);
static inline size_t calibration_salience_floats(const struct skv_calibration *c)
{
    return c->d_k ? calibration_n(c) * ((size_t)c->d_k + 2) : 0;
}

/* -EINVAL says which number cannot be. */
int calibration_check(const struct skv_calibration *, struct skv_error *);
/* In one piece, to be freed with free(); NULL: no memory. */
struct skv_calibration *calibration_copy(const struct skv_calibration *);
/* Of all that it says. */
void calibration_hash(const struct skv_calibration *, uint8_t out[CHAIN_BYTES]);
/* Names the bytes that the index has with it: "-" and 16 hex digits, or "" where they are as without (NULL,
 * or every gamma is 1 and there is neither salience nor projection). */
void calibration_tag(const struct skv_calibration *, char tag[CALIBRATION_TAG]);

/* A KV head that takes part in a schedule; calibrated: NULL without a calibration. */
struct schedule_head {
    unsigned layer;
    const struct skv_calibration_head *calibrated;
};
/* Splits k units of unit_tokens a head over n heads: out[n] sums to n·k, and is at least 1 if k is. Of
 * n_layers; the calibrated schedule needs calibrated heads. -ENOMEM. */
int schedule_split(enum skv_schedule, const struct schedule_head *, size_t n, unsigned n_layers, uint32_t k,
                   uint32_t unit_tokens, uint32_t *out);

#endif
