/* model.c: hyperparameters, fingerprint, opening and closing; see model.h. */
#include "decoder/model/model.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/identity.h"
#include "decoder/kernels/kernels.h"
#include "decoder/model/weights.h"

enum { MAX_LAYERS = 4096, MAX_HEADS = 65536, MAX_DIM = 1 << 24 };

static const struct {
    const char *name;
    enum rope_order order;
} archs[] = {
    [MODEL_LLAMA] = {"llama", ROPE_NEIGHBOURS},
    [MODEL_QWEN2] = {"qwen2", ROPE_HALVES},
};

const char *model_arch_name(enum model_arch arch)
{
    return archs[arch].name;
}

/* Keys are "llama.block_count" and so on. */
struct reader {
    const struct gguf *gguf;
    const char *arch;
    char key[80];
    struct skv_error *err;
};

static const char *key(struct reader *r, const char *name)
{
    snprintf(r->key, sizeof r->key, "%s.%s", r->arch, name);
    return r->key;
}

static int read_u32(struct reader *r, const char *name, enum gguf_want want, uint32_t max, uint32_t *value)
{
    int rc = gguf_u32(r->gguf, key(r, name), want, value, r->err);
    if (rc == 0 && (*value == 0 || *value > max))
        rc = skv_fail(r->err, -EINVAL, "%s: %s is %u; it must lie between 1 and %u", gguf_path(r->gguf),
                      r->key, *value, max);
    return rc;
}

static int read_positive(struct reader *r, const char *name, enum gguf_want want, float *value)
{
    int rc = gguf_f32(r->gguf, key(r, name), want, value, r->err);
    if (rc == 0 && !(*value > 0 && isfinite(*value)))
        rc = skv_fail(r->err, -EINVAL, "%s: %s is %g; it must be a number above 0", gguf_path(r->gguf),
                      r->key, (double)*value);
    return rc;
}

static int read_arch(struct reader *r, enum model_arch *arch)
{
    struct gguf_str name;
    int rc = gguf_string(r->gguf, "general.architecture", GGUF_NEED, &name, r->err);
    if (rc)
        return rc;
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++)
        if (gguf_str_is(name, archs[i].name)) {
            *arch = (enum model_arch)i;
            r->arch = archs[i].name;
            return 0;
        }
    return skv_fail(r->err, -ENOTSUP, "%s: architecture %.*s is not supported; llama and qwen2 are",
                    gguf_path(r->gguf), (int)(name.len < 60 ? name.len : 60), name.data);
}

/* Features of these architectures that change the arithmetic and that we don't have. */
static int refuse_unsupported(struct reader *r)
{
    uint32_t experts = 0;
    int rc = gguf_u32(r->gguf, key(r, "expert_count"), GGUF_OPT, &experts, r->err);
    if (rc == 0 && experts > 0)
        rc = skv_fail(r->err, -ENOTSUP, "%s: mixtures of experts (%s = %u) are not supported",
                      gguf_path(r->gguf), r->key, experts);
    if (rc)
        return rc;
    struct gguf_str type = {"none", 4};
    rc = gguf_string(r->gguf, key(r, "rope.scaling.type"), GGUF_OPT, &type, r->err);
    if (rc == 0 && !gguf_str_is(type, "none") && !gguf_str_is(type, "linear"))
        rc = skv_fail(r->err, -ENOTSUP, "%s: RoPE scaling %.*s is not supported; none and linear are",
                      gguf_path(r->gguf), (int)(type.len < 60 ? type.len : 60), type.data);
    return rc;
}

static int read_rope(struct reader *r, struct model_params *p)
{
    float base = 10000, factor = 1;
    uint32_t dims = p->d_k;
    struct gguf_str type = {"linear", 6}; /* of old files, which name a factor only */
    int rc = read_positive(r, "rope.freq_base", GGUF_OPT, &base);
    if (rc == 0)
        rc = read_u32(r, "rope.dimension_count", GGUF_OPT, p->d_k, &dims);
    if (rc == 0)
        rc = gguf_string(r->gguf, key(r, "rope.scaling.type"), GGUF_OPT, &type, r->err);
    if (rc == 0 && gguf_str_is(type, "linear")) {
        rc = read_positive(r, "rope.scale_linear", GGUF_OPT, &factor);
        if (rc == 0)
            rc = read_positive(r, "rope.scaling.factor", GGUF_OPT, &factor);
    }
    if (rc)
        return rc;
    if (dims % 2)
        return skv_fail(r->err, -EINVAL, "%s: %s.rope.dimension_count is %u; dims turn in pairs",
                        gguf_path(r->gguf), r->arch, dims);
    p->rope_pairs = dims / 2;
    p->rope_base = (double)base;
    p->rope_factor = (double)factor;
    return 0;
}

static int read_heads(struct reader *r, struct model_params *p)
{
    int rc = read_u32(r, "attention.head_count", GGUF_NEED, MAX_HEADS, &p->n_heads);
    p->n_kv_heads = p->n_heads;
    if (rc == 0)
        rc = read_u32(r, "attention.head_count_kv", GGUF_OPT, MAX_HEADS, &p->n_kv_heads);
    if (rc)
        return rc;
    bool own = gguf_has(r->gguf, key(r, "attention.key_length"));
    if (p->n_heads % p->n_kv_heads || (!own && p->dim % p->n_heads))
        return skv_fail(r->err, -EINVAL, "%s: %u query heads can't share %u KV heads of %u dims evenly",
                        gguf_path(r->gguf), p->n_heads, p->n_kv_heads, p->dim);
    p->d_k = p->dim / p->n_heads;
    rc = read_u32(r, "attention.key_length", GGUF_OPT, UINT16_MAX, &p->d_k);
    p->d_v = p->d_k;
    if (rc == 0)
        rc = read_u32(r, "attention.value_length", GGUF_OPT, UINT16_MAX, &p->d_v);
    if (rc == 0 && (p->d_k == 0 || p->d_k % 8 || p->d_k > UINT16_MAX))
        rc = skv_fail(r->err, -ENOTSUP, "%s: heads of %u dims are not supported; a multiple of 8 is needed",
                      gguf_path(r->gguf), p->d_k);
    if (rc == 0 && (uint64_t)p->n_heads * (p->d_k > p->d_v ? p->d_k : p->d_v) > MAX_DIM)
        rc = skv_fail(r->err, -EINVAL, "%s: %u heads of %u dims are more than this engine takes",
                      gguf_path(r->gguf), p->n_heads, p->d_k);
    return rc;
}

static int read_params(const struct gguf *gguf, struct model_params *p, struct skv_error *err)
{
    struct reader r = {.gguf = gguf, .err = err};
    int rc = read_arch(&r, &p->arch);
    if (rc)
        return rc;
    p->rope_order = archs[p->arch].order;
    p->train_context = 0;
    p->norm_eps = 1e-5f;
    if ((rc = read_u32(&r, "block_count", GGUF_NEED, MAX_LAYERS, &p->n_layers)) ||
        (rc = read_u32(&r, "embedding_length", GGUF_NEED, MAX_DIM, &p->dim)) ||
        (rc = read_u32(&r, "feed_forward_length", GGUF_NEED, MAX_DIM, &p->ff)) ||
        (rc = gguf_u32(gguf, key(&r, "context_length"), GGUF_OPT, &p->train_context, err)) ||
        (rc = read_positive(&r, "attention.layer_norm_rms_epsilon", GGUF_OPT, &p->norm_eps)) ||
        (rc = read_heads(&r, p)) || (rc = read_rope(&r, p)))
        return rc;
    return refuse_unsupported(&r);
}

/* ---- fingerprint ---- */

static void add_content(struct identity *id, const struct gguf_tensor *t, bool all)
{
    const size_t sample = 64 << 10;
    const uint8_t *bytes = t->data;
    if (all || t->nbytes <= 3 * sample) {
        identity_add(id, bytes, t->nbytes);
        return;
    }
    identity_add(id, bytes, sample);
    identity_add(id, bytes + (t->nbytes - sample) / 2, sample);
    identity_add(id, bytes + t->nbytes - sample, sample);
}

static void make_fingerprint(struct model *m)
{
    const struct model_params *p = &m->params;
    const uint32_t counts[] = {p->n_layers,   p->dim, p->ff,  p->vocab,     p->n_heads,
                               p->n_kv_heads, p->d_k, p->d_v, p->rope_pairs};
    const double numbers[] = {(double)p->norm_eps, p->rope_base, p->rope_factor};
    const char *arch = model_arch_name(p->arch);
    struct identity id;
    size_t size, data_offset;
    gguf_bytes(m->gguf, &size, &data_offset);
    identity_begin(&id, "scoutkv model");
    identity_add(&id, arch, strlen(arch));
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        identity_add_u64(&id, counts[i]);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        uint64_t bits;
        memcpy(&bits, &numbers[i], sizeof bits);
        identity_add_u64(&id, bits);
    }
    for (size_t i = 0; i < gguf_n_tensors(m->gguf); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(m->gguf, i);
        identity_add(&id, t->name.data, t->name.len);
        identity_add_u64(&id, t->type);
        for (unsigned d = 0; d < 4; d++)
            identity_add_u64(&id, t->ne[d]);
        add_content(&id, t, size <= 256u << 20);
    }
    identity_end(&id, m->fingerprint);
}

/* ---- open and close ---- */

static int make_shape(struct model *m, struct skv_error *err)
{
    const struct model_params *p = &m->params;
    m->shape = calloc(p->n_layers, sizeof *m->shape);
    if (!m->shape)
        return skv_fail(err, -ENOMEM, "out of memory for %u layers", p->n_layers);
    for (uint32_t i = 0; i < p->n_layers; i++)
        m->shape[i] = (struct skv_layer){.d_k = p->d_k,
                                         .d_v = p->d_v,
                                         .n_heads = p->n_heads,
                                         .n_kv_heads = p->n_kv_heads,
                                         .scale = (float)(1 / sqrt((double)p->d_k))};
    return 0;
}

void model_shape(const struct model *m, struct skv_model *out)
{
    out->n_layers = m->params.n_layers;
    out->layers = m->shape;
    memcpy(out->fingerprint, m->fingerprint, sizeof out->fingerprint);
}

int model_from_gguf(struct gguf *gguf, struct model **out, struct skv_error *err)
{
    struct model *m = calloc(1, sizeof *m);
    int rc = m ? 0 : skv_fail(err, -ENOMEM, "out of memory for a model");
    if (!m) {
        gguf_close(gguf);
        return rc;
    }
    m->gguf = gguf;
    if ((rc = kernels_check(err)) || (rc = read_params(gguf, &m->params, err)) ||
        (rc = weights_load(m, err)) || (rc = weights_spread(m, err)) || (rc = make_shape(m, err))) {
        model_close(m);
        return rc;
    }
    make_fingerprint(m);
    *out = m;
    return 0;
}

int model_open(const char *path, struct model **out, struct skv_error *err)
{
    struct gguf *gguf;
    int rc = gguf_open(path, &gguf, err);
    return rc ? rc : model_from_gguf(gguf, out, err);
}

void model_close(struct model *m)
{
    if (!m)
        return;
    free(m->spread);
    free(m->layers);
    free(m->rope_freq);
    free(m->shape);
    gguf_close(m->gguf);
    free(m);
}
