/* test_model_files.c: model files that are unusual, wrong or damaged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "decoder/model/gguf_write.h"
#include "tests/unit/model_reference.h"
#include "tests/unit/model_run.h"

/* What differs from an ordinary copy of a random model; a name of NULL, a number of 0: nothing. */
struct variant {
    const char *drop, *transpose, *rename, *as_f16; /* tensors */
    const float *divisor;                           /* rope_freqs.weight, [pairs] */
    const char *arch, *scaling;
    float factor, eps, base;
    uint32_t layers, dim, heads, kv_heads, ff, rope_dims, experts, key_length;
    const char *expect; /* what the error must say; NULL: the model opens */
};

enum { V_LAYERS = 1, V_DIM = 64, V_HEADS = 4, V_KV_HEADS = 2, V_FF = 96, V_VOCAB = 260 };

static struct random_model_opts variant_base(void)
{
    struct random_model_opts o;
    random_model_defaults(&o);
    o.n_layers = V_LAYERS;
    o.dim = V_DIM;
    o.n_heads = V_HEADS;
    o.n_kv_heads = V_KV_HEADS;
    o.ff = V_FF;
    o.vocab = V_VOCAB;
    o.type = GGML_F32;
    return o;
}

static void put_count(struct gguf_writer *w, const char *arch, const char *name, uint32_t value,
                      uint32_t otherwise)
{
    char key[80];
    snprintf(key, sizeof key, "%s.%s", arch, name);
    if (value || otherwise)
        gguf_put_u32(w, key, value ? value : otherwise);
}

static void put_number(struct gguf_writer *w, const char *arch, const char *name, float value)
{
    char key[80];
    snprintf(key, sizeof key, "%s.%s", arch, name);
    if (value != 0)
        gguf_put_f32(w, key, value);
}

static const char *write_variant(const struct variant *v, const struct gguf *base)
{
    struct gguf_writer *w = gguf_writer_new();
    const char *path = file_named("variant.gguf"), *arch = v->arch ? v->arch : "llama";
    static const uint16_t halves[V_DIM];
    struct skv_error err;
    gguf_put_string(w, "general.architecture", arch);
    put_count(w, arch, "block_count", v->layers, V_LAYERS);
    put_count(w, arch, "embedding_length", v->dim, V_DIM);
    put_count(w, arch, "feed_forward_length", v->ff, V_FF);
    put_count(w, arch, "attention.head_count", v->heads, V_HEADS);
    put_count(w, arch, "attention.head_count_kv", v->kv_heads, V_KV_HEADS);
    put_count(w, arch, "attention.key_length", v->key_length, 0);
    put_count(w, arch, "rope.dimension_count", v->rope_dims, 0);
    put_count(w, arch, "expert_count", v->experts, 0);
    put_number(w, arch, "attention.layer_norm_rms_epsilon", v->eps);
    put_number(w, arch, "rope.freq_base", v->base);
    put_number(w, arch, "rope.scaling.factor", v->factor);
    if (v->scaling) {
        char key[80];
        snprintf(key, sizeof key, "%s.rope.scaling.type", arch);
        gguf_put_string(w, key, v->scaling);
    }
    for (size_t i = 0; i < gguf_n_tensors(base); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(base, i);
        char name[80];
        snprintf(name, sizeof name, "%.*s", (int)t->name.len, t->name.data);
        uint64_t ne[] = {t->ne[0], t->ne[1]};
        if (v->transpose && strcmp(name, v->transpose) == 0) {
            ne[0] = t->ne[1];
            ne[1] = t->ne[0];
        }
        if (v->drop && strcmp(name, v->drop) == 0)
            continue;
        bool f16 = v->as_f16 && strcmp(name, v->as_f16) == 0;
        if (v->rename && strcmp(name, v->rename) == 0)
            strcat(name, "2");
        gguf_put_tensor(w, name, t->n_dims, ne, f16 ? GGML_F16 : t->type,
                        f16 ? (const void *)halves : t->data);
    }
    if (v->divisor)
        gguf_put_tensor(w, "rope_freqs.weight", 1, (uint64_t[]){(v->rope_dims ? v->rope_dims : 16) / 2},
                        GGML_F32, v->divisor);
    if (gguf_writer_save(w, path, &err) != 0)
        fail_msg("%s", err.text);
    gguf_writer_free(w);
    return path;
}

static void test_wrong_files(void **state)
{
    (void)state;
    static const float nought[8] = {1, 2, 0};
    static const struct variant variants[] = {
        {.expect = NULL},
        {.drop = "output.weight", .expect = NULL}, /* then the embedding is the output */
        {.drop = "token_embd.weight", .expect = "token_embd.weight"},
        {.drop = "output_norm.weight", .expect = "output_norm.weight"},
        {.drop = "blk.0.attn_k.weight", .expect = "blk.0.attn_k.weight"},
        {.drop = "blk.0.ffn_norm.weight", .expect = "blk.0.ffn_norm.weight"},
        {.rename = "output.weight", .expect = "output.weight2"},
        {.transpose = "blk.0.attn_v.weight", .expect = "blk.0.attn_v.weight is 32 x 64"},
        {.transpose = "blk.0.ffn_down.weight", .expect = "blk.0.ffn_down.weight"},
        {.transpose = "token_embd.weight", .expect = "token_embd.weight"},
        {.as_f16 = "blk.0.attn_norm.weight", .expect = "F32"},
        {.layers = 2, .expect = "blk.1.attn_q.weight"},
        {.layers = 5000, .expect = "block_count"},
        {.dim = 128, .expect = "token_embd.weight"},
        {.ff = 128, .expect = "ffn_gate"},
        {.heads = 3, .expect = "share"},
        {.kv_heads = 3, .expect = "share"},
        {.kv_heads = 4, .expect = "attn_k.weight"},
        {.heads = 16, .expect = "multiple of 8"},
        {.key_length = 32, .expect = "attn_q.weight"},
        {.rope_dims = 18, .expect = "rope.dimension_count"},
        {.rope_dims = 7, .expect = "rope.dimension_count"},
        {.rope_dims = 8, .expect = NULL},
        {.arch = "qwen2", .expect = "attn_q.bias"},
        {.arch = "mamba", .expect = "mamba"},
        {.scaling = "yarn", .factor = 4, .expect = "yarn"},
        {.experts = 8, .expect = "experts"},
        {.eps = -1, .expect = "epsilon"},
        {.base = INFINITY, .expect = "freq_base"},
        {.scaling = "linear", .factor = -2, .expect = "factor"},
        {.divisor = nought, .expect = "rope_freqs.weight[2]"},
    };
    struct random_model_opts o = variant_base();
    struct gguf *base = open_gguf(write_random("base.gguf", &o));
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        const struct variant *v = &variants[i];
        struct model *m = NULL;
        struct skv_error err = {0};
        int rc = model_open(write_variant(v, base), &m, &err);
        if ((rc == 0) != (v->expect == NULL) || (rc && !strstr(err.text, v->expect)))
            fail_msg("variant %zu: %d \"%s\", expected \"%s\"", i, rc, err.text,
                     v->expect ? v->expect : "(a model)");
        if (rc == 0)
            model_close(m);
    }
    gguf_close(base);
}

/* Hyperparameters do what they say: the reference does the same sums. */
static void test_variants(void **state)
{
    (void)state;
    static const float divisor[8] = {1, 0.5f, 2, 4, 8, 1, 3, 100};
    static const struct variant variants[] = {
        {.scaling = "linear", .factor = 4},
        {.factor = 4}, /* a factor without a type means linear */
        {.scaling = "none", .factor = 4},
        {.divisor = divisor},
        {.rope_dims = 8, .base = 500000, .divisor = divisor},
        {.eps = 0.5f},
    };
    enum { N = 40 };
    uint32_t ids[N];
    make_ids(ids, N, V_VOCAB);
    struct random_model_opts o = variant_base();
    struct gguf *base = open_gguf(write_random("base.gguf", &o));
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        const struct variant *v = &variants[i];
        bool linear = v->factor != 0 && !(v->scaling && strcmp(v->scaling, "none") == 0);
        struct reference r = {.o = o, .gguf = base, .n = N, .n_rot = v->rope_dims ? v->rope_dims : 16};
        r.o.rope_base = v->base != 0 ? v->base : 10000;
        r.factor = linear ? (double)v->factor : 1;
        r.divisor = v->divisor;
        r.eps = (double)v->eps;
        char what[40];
        snprintf(what, sizeof what, "variant %zu", i);
        float *expected = reference_logits(&r, ids);
        check_passes(what, write_variant(v, base), ids, N, expected, SKV_F32, 1e-4);
        free(expected);
    }
    gguf_close(base);
}

/* Opens a model from bytes in memory and, if it opens, runs two tokens. Returns model_from_gguf's result. */
static int try_bytes(const uint8_t *bytes, size_t size, bool run)
{
    struct gguf *g;
    struct run r = {0};
    struct skv_error err = {0};
    int rc = gguf_open_memory(bytes, size, "damaged", &g, &err);
    if (rc == 0)
        rc = model_from_gguf(g, &r.model, &err);
    assert_true(rc == 0 || (rc < 0 && err.text[0] != 0));
    if (rc == 0 && run) {
        float *logits = malloc(2 * (size_t)r.model->params.vocab * sizeof *logits);
        run_context(&r, SKV_F16);
        assert_int_equal(session_open(r.model, tier, r.ctx, 1, &r.session, &err), 0);
        session_eval(r.session, SKV_PREFILL, (uint32_t[]){0, 1}, r.model->params.vocab > 1 ? 2 : 1, logits,
                     true, &err);
        session_close(r.session);
        skv_context_close(r.ctx);
        free(logits);
    }
    if (rc == 0)
        model_close(r.model);
    return rc;
}

static void test_damaged_files(void **state)
{
    (void)state;
    struct random_model_opts o = variant_base();
    size_t size, data_offset;
    o.dim = o.ff = 32;
    o.type = GGML_Q8_0;
    struct gguf *g = open_gguf(write_random("tiny.gguf", &o));
    const void *file = gguf_bytes(g, &size, &data_offset);
    uint8_t *bytes = malloc(size);
    memcpy(bytes, file, size);
    gguf_close(g);

    assert_int_equal(try_bytes(bytes, size, true), 0);
    for (size_t i = 0; i < 300; i++) /* every tensor is needed, so no shorter file is whole */
        assert_true(try_bytes(bytes, size * i / 300, false) < 0);

    /* Hyperparameters come first in the file, tensor descriptions last before the data. */
    unsigned opened = 0;
    for (size_t i = 0; i < data_offset; i++) {
        if (i == 700 && data_offset > 1700)
            i = data_offset - 1000;
        for (unsigned how = 0; how < 3; how++) {
            uint8_t was = bytes[i];
            bytes[i] = how == 0 ? (uint8_t)~was : how == 1 ? (uint8_t)(was + 1) : was ^ 0x80;
            opened += try_bytes(bytes, size, opened % 16 == 0) == 0;
            bytes[i] = was;
        }
    }
    assert_true(opened > 0);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wrong_files),
        cmocka_unit_test(test_variants),
        cmocka_unit_test(test_damaged_files),
    };
    return cmocka_run_group_tests_name("model files", tests, set_up, tear_down);
}
