/* calibration_file.c: see calibration_file.h. */
#include "decoder/model/calibration_file.h"

#include "decoder/model/gguf_write.h"
#include "decoder/scout/calibration.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

enum { VERSION = 2, HEX = 2 * CHAIN_BYTES };
#define KEY "scoutkv.calibration."

/* Each tensor is one member of every head. */
static const struct field {
    const char *name;
    size_t offset;
    unsigned n;
} fields[] = {
    {"gamma.page", offsetof(struct skv_calibration_head, gamma_page), 1},
    {"gamma.block", offsetof(struct skv_calibration_head, gamma_block), 1},
    {"far", offsetof(struct skv_calibration_head, far), 1},
    {"held", offsetof(struct skv_calibration_head, held), SKV_KNOTS},
    {"alpha", offsetof(struct skv_calibration_head, alpha), 1},
    {"beta", offsetof(struct skv_calibration_head, beta), 1},
};
enum { FIELDS = sizeof fields / sizeof *fields };

static void hex_of(const uint8_t bytes[CHAIN_BYTES], char out[HEX + 1])
{
    sodium_bin2hex(out, HEX + 1, bytes, CHAIN_BYTES);
}

/* ---- writing ---- */

static void put_field(struct gguf_writer *w, const struct skv_calibration *c, const struct field *f,
                      float *out)
{
    uint64_t ne[] = {f->n, c->n_kv_heads, c->n_layers};
    for (size_t i = 0; i < calibration_n(c); i++)
        memcpy(out + i * f->n, (const char *)&c->heads[i] + f->offset, f->n * sizeof *out);
    gguf_put_tensor(w, f->name, 3, ne, GGML_F32, out);
}

int calibration_save(const struct skv_calibration *c, const char *path, struct skv_error *err)
{
    char hex[HEX + 1];
    uint8_t hash[CHAIN_BYTES];
    struct gguf_writer *w = gguf_writer_new();
    float *out = malloc(calibration_n(c) * sizeof *c->heads);
    if (!w || !out) {
        gguf_writer_free(w);
        free(out);
        return skv_fail(err, -ENOMEM, "out of memory");
    }
    gguf_put_u32(w, KEY "version", VERSION);
    hex_of(c->fingerprint, hex);
    gguf_put_string(w, KEY "model", hex);
    gguf_put_u32(w, KEY "layers", c->n_layers);
    gguf_put_u32(w, KEY "kv_heads", c->n_kv_heads);
    calibration_hash(c, hash);
    hex_of(hash, hex);
    gguf_put_string(w, KEY "hash", hex);
    float *at = out;
    for (unsigned i = 0; i < FIELDS; i++) {
        put_field(w, c, &fields[i], at);
        at += calibration_n(c) * fields[i].n;
    }
    uint64_t ne[] = {c->d_k + 2, c->n_kv_heads, c->n_layers};
    if (c->d_k)
        gguf_put_tensor(w, "salience", 3, ne, GGML_F32, c->salience);
    uint64_t of_projection[] = {(uint64_t)c->d_rep * c->d_k, 2, c->n_kv_heads, c->n_layers};
    if (c->d_rep)
        gguf_put_tensor(w, "projection", 4, of_projection, GGML_F32, c->projection);
    int rc = gguf_writer_save(w, path, err);
    gguf_writer_free(w);
    free(out);
    return rc;
}

/* ---- reading ---- */

static int read_head(const struct gguf *g, struct skv_calibration *c, struct gguf_str *hash,
                     struct skv_error *err)
{
    uint32_t version;
    struct gguf_str model;
    if (!gguf_has(g, KEY "version"))
        return skv_fail(err, -EINVAL, "%s is no calibration: `scoutkv calibrate` writes one", gguf_path(g));
    int rc = gguf_u32(g, KEY "version", GGUF_NEED, &version, err);
    if (rc == 0 && version != VERSION)
        return skv_fail(err, -EPROTONOSUPPORT,
                        "%s: calibration of version %u, this program reads %d: make it "
                        "again",
                        gguf_path(g), version, VERSION);
    if (rc == 0)
        rc = gguf_string(g, KEY "model", GGUF_NEED, &model, err);
    if (rc == 0)
        rc = gguf_u32(g, KEY "layers", GGUF_NEED, &c->n_layers, err);
    if (rc == 0)
        rc = gguf_u32(g, KEY "kv_heads", GGUF_NEED, &c->n_kv_heads, err);
    if (rc == 0)
        rc = gguf_string(g, KEY "hash", GGUF_NEED, hash, err);
    if (rc)
        return rc;
    size_t n = 0;
    if (model.len != HEX ||
        sodium_hex2bin(c->fingerprint, sizeof c->fingerprint, model.data, model.len, NULL, &n, NULL) ||
        n != sizeof c->fingerprint)
        return skv_fail(err, -EBADMSG, "%s is damaged: its model has no name", gguf_path(g));
    if (!c->n_layers || !c->n_kv_heads || c->n_layers > CALIBRATION_HEADS ||
        c->n_kv_heads > CALIBRATION_HEADS || calibration_n(c) > CALIBRATION_HEADS)
        return skv_fail(err, -EBADMSG, "%s is damaged: %u layers of %u KV heads", gguf_path(g), c->n_layers,
                        c->n_kv_heads);
    return 0;
}

static int read_field(const struct gguf *g, const struct skv_calibration *c, const struct field *f,
                      struct skv_calibration_head *heads, struct skv_error *err)
{
    const struct gguf_tensor *t;
    int rc = gguf_tensor_need(g, f->name, &t, err);
    if (rc)
        return rc;
    if (t->type != GGML_F32 || t->ne[0] != f->n || t->ne[1] != c->n_kv_heads || t->ne[2] != c->n_layers ||
        t->ne[3] != 1)
        return skv_fail(err, -EBADMSG, "%s is damaged: tensor %s has another shape", gguf_path(g), f->name);
    for (size_t i = 0; i < calibration_n(c); i++)
        memcpy((char *)&heads[i] + f->offset, (const char *)t->data + i * f->n * sizeof(float),
               f->n * sizeof(float));
    return 0;
}

/* Salience and projection point into the file. */
static int read_learned(const struct gguf *g, struct skv_calibration *c, struct skv_error *err)
{
    const struct gguf_tensor *t = gguf_tensor_find(g, "salience");
    if (!t)
        return 0;
    if (t->type != GGML_F32 || t->ne[0] < 3 || t->ne[0] > CALIBRATION_DIMS + 2 || t->ne[1] != c->n_kv_heads ||
        t->ne[2] != c->n_layers || t->ne[3] != 1)
        return skv_fail(err, -EBADMSG, "%s is damaged: tensor salience has another shape", gguf_path(g));
    c->d_k = (uint32_t)t->ne[0] - 2;
    c->salience = (const float *)t->data;
    t = gguf_tensor_find(g, "projection");
    if (!t)
        return 0;
    if (t->type != GGML_F32 || t->ne[0] % c->d_k || t->ne[0] / c->d_k > c->d_k || t->ne[1] != 2 ||
        t->ne[2] != c->n_kv_heads || t->ne[3] != c->n_layers)
        return skv_fail(err, -EBADMSG, "%s is damaged: tensor projection has another shape", gguf_path(g));
    c->d_rep = (uint32_t)(t->ne[0] / c->d_k);
    c->projection = (const float *)t->data;
    return 0;
}

static int read_all_of(const struct gguf *g, const uint8_t *fingerprint, struct skv_calibration **out,
                       struct skv_error *err)
{
    struct skv_calibration c = {0};
    struct gguf_str hash;
    uint8_t is[CHAIN_BYTES];
    char hex[HEX + 1];
    int rc = read_head(g, &c, &hash, err);
    if (rc)
        return rc;
    if (fingerprint && memcmp(fingerprint, c.fingerprint, sizeof c.fingerprint) != 0)
        return skv_fail(err, -EINVAL, "%s was made for another model: run `scoutkv calibrate` with this one",
                        gguf_path(g));
    struct skv_calibration_head *heads = calloc(calibration_n(&c), sizeof *heads);
    if (!heads)
        return skv_fail(err, -ENOMEM, "out of memory");
    c.heads = heads;
    for (unsigned i = 0; i < FIELDS && rc == 0; i++)
        rc = read_field(g, &c, &fields[i], heads, err);
    if (rc == 0)
        rc = read_learned(g, &c, err);
    calibration_hash(&c, is);
    hex_of(is, hex);
    if (rc == 0 && !gguf_str_is(hash, hex))
        rc = skv_fail(err, -EBADMSG, "%s is damaged: its hash fails", gguf_path(g));
    if (rc == 0)
        rc = calibration_check(&c, err);
    if (rc == 0 && !(*out = calibration_copy(&c)))
        rc = skv_fail(err, -ENOMEM, "out of memory");
    free(heads);
    return rc;
}

int calibration_load(const char *path, const uint8_t *fingerprint, struct skv_calibration **out,
                     struct skv_error *err)
{
    struct gguf *g;
    int rc = gguf_open(path, &g, err);
    if (rc)
        return rc;
    rc = read_all_of(g, fingerprint, out, err);
    gguf_close(g);
    return rc;
}
