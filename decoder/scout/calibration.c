/* calibration.c: see calibration.h; the split is in schedule.c. */
#include "decoder/scout/calibration.h"

#include <errno.h>
#include <math.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool share(float x)
{
    return x >= 0.0f && x <= 1.0f; /* false for NaN */
}

int calibration_check(const struct skv_calibration *c, struct skv_error *err)
{
    if (!c->n_layers || !c->n_kv_heads || c->n_layers > CALIBRATION_HEADS ||
        c->n_kv_heads > CALIBRATION_HEADS || calibration_n(c) > CALIBRATION_HEADS)
        return skv_fail(err, -EINVAL, "calibration: %u layers of %u KV heads: 1 to %d in all are supported",
                        c->n_layers, c->n_kv_heads, CALIBRATION_HEADS);
    for (size_t i = 0; i < calibration_n(c); i++) {
        const struct skv_calibration_head *h = &c->heads[i];
        bool ok = share(h->gamma_page) && share(h->gamma_block) && share(h->far) && share(h->held[0]) &&
                  share(h->alpha) && h->beta >= 0.0f && h->beta <= 4.0f;
        for (unsigned j = 1; j < SKV_KNOTS && ok; j++)
            ok = share(h->held[j]) && h->held[j] >= h->held[j - 1];
        if (!ok)
            return skv_fail(err, -EINVAL, "calibration: layer %zu, KV head %zu: numbers that cannot be",
                            i / c->n_kv_heads, i % c->n_kv_heads);
    }
    if (c->d_k > CALIBRATION_DIMS)
        return skv_fail(err, -EINVAL, "calibration: salience of keys of %u dims: at most %d", c->d_k,
                        CALIBRATION_DIMS);
    if (c->d_rep && (c->d_rep % 8 || c->d_rep > c->d_k))
        return skv_fail(err, -EINVAL,
                        "calibration: keys of %u dims projected to %u: a multiple of 8, and fewer", c->d_k,
                        c->d_rep);
    for (size_t i = 0; i < calibration_projection_floats(c); i++)
        if (!isfinite(c->projection[i]))
            return skv_fail(err, -EINVAL, "calibration: a number of a projection is not finite");
    for (size_t i = 0; i < calibration_salience_floats(c); i++)
        if (!isfinite(c->salience[i]))
            return skv_fail(err, -EINVAL, "calibration: a weight of salience is no finite number");
    return 0;
}

struct skv_calibration *calibration_copy(const struct skv_calibration *c)
{
    size_t n = calibration_n(c), n_floats = calibration_salience_floats(c),
           n_projection = calibration_projection_floats(c);
    struct skv_calibration *out =
        malloc(sizeof *out + n * sizeof *c->heads + (n_floats + n_projection) * sizeof(float));
    if (!out)
        return NULL;
    struct skv_calibration_head *heads = (struct skv_calibration_head *)(out + 1);
    float *salience = (float *)(heads + n);
    memcpy(heads, c->heads, n * sizeof *heads);
    if (n_floats)
        memcpy(salience, c->salience, n_floats * sizeof *salience);
    if (n_projection)
        memcpy(salience + n_floats, c->projection, n_projection * sizeof *salience);
    *out = *c;
    out->heads = heads;
    out->salience = n_floats ? salience : NULL;
    out->projection = n_projection ? salience + n_floats : NULL;
    return out;
}

void calibration_hash(const struct skv_calibration *c, uint8_t out[CHAIN_BYTES])
{
    struct identity id;
    identity_begin(&id, "scoutkv calibration");
    identity_add(&id, c->fingerprint, sizeof c->fingerprint);
    identity_add_u64(&id, c->n_layers);
    identity_add_u64(&id, c->n_kv_heads);
    identity_add(&id, c->heads, calibration_n(c) * sizeof *c->heads);
    if (c->d_k)
        identity_add(&id, c->salience, calibration_salience_floats(c) * sizeof *c->salience);
    if (c->d_rep)
        identity_add(&id, c->projection, calibration_projection_floats(c) * sizeof *c->projection);
    identity_end(&id, out);
}

void calibration_tag(const struct skv_calibration *c, char tag[CALIBRATION_TAG])
{
    bool other = false;
    uint8_t hash[CHAIN_BYTES];
    struct identity id;
    identity_begin(&id, "scoutkv gammas");
    for (size_t i = 0; c && i < calibration_n(c); i++) {
        float gamma[2] = {c->heads[i].gamma_page, c->heads[i].gamma_block};
        other |= gamma[0] != 1.0f || gamma[1] != 1.0f;
        identity_add(&id, gamma, sizeof gamma);
    }
    if (c && c->d_k)
        identity_add(&id, c->salience, calibration_salience_floats(c) * sizeof *c->salience);
    if (c && c->d_rep)
        identity_add(&id, c->projection, calibration_projection_floats(c) * sizeof *c->projection);
    other |= c && c->d_k;
    identity_end(&id, hash);
    tag[0] = 0;
    if (!other)
        return;
    tag[0] = '-';
    sodium_bin2hex(tag + 1, CALIBRATION_TAG - 1, hash, (CALIBRATION_TAG - 2) / 2);
}

void calibration_project(unsigned d_rep, unsigned d_k, const float *p, size_t rows, const float *x,
                         float *out)
{
    for (size_t r = 0; r < rows; r++, x += d_k)
        for (unsigned i = 0; i < d_rep; i++) {
            const float *w = p + (size_t)i * d_k;
            float lanes[8] = {0};
            for (unsigned j = 0; j < d_k; j += 8)
                for (unsigned k = 0; k < 8; k++)
                    lanes[k] += w[j + k] * x[j + k];
            *out++ = ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) +
                     ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
        }
}
