#include "decoder/model/constructed.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decoder/kernels/kernels.h"
#include "decoder/model/gguf_write.h"

int constructed_open(struct constructed *m, const struct constructed_shape *s)
{
    assert(s->n_layers <= CONSTRUCTED_LAYERS);
    *m = (struct constructed){.shape = *s};
    size_t attn = (size_t)s->head_dim * s->dim, mlp = (size_t)s->ff * s->dim;
    size_t per_layer = attn * (2 * s->n_heads + 2 * s->n_kv) + 3 * mlp;
    int rc = recall_vocab_make(&m->vocab);
    if (rc < 0)
        return rc;
    m->embed = calloc(m->vocab.n * s->dim, sizeof(float));
    m->output = calloc(m->vocab.n * s->dim, sizeof(float));
    m->norm = calloc(s->dim, sizeof(float));
    m->weights = calloc(per_layer * s->n_layers, sizeof(float));
    if (!m->embed || !m->output || !m->norm || !m->weights)
        return -ENOMEM;
    for (unsigned d = 0; d < s->dim; d++)
        m->norm[d] = 1;
    for (unsigned i = 0; i < s->n_layers; i++) {
        struct constructed_layer *l = &m->layer[i];
        l->q = m->weights + i * per_layer;
        l->k = l->q + attn * s->n_heads;
        l->v = l->k + attn * s->n_kv;
        l->o = l->v + attn * s->n_kv;
        l->gate = l->o + attn * s->n_heads;
        l->up = l->gate + mlp;
        l->down = l->up + mlp;
    }
    return 0;
}

void constructed_free(struct constructed *m)
{
    recall_vocab_free(&m->vocab);
    free(m->embed);
    free(m->output);
    free(m->norm);
    free(m->weights);
}

static void put_metadata(struct gguf_writer *w, const struct constructed *m)
{
    const struct constructed_shape *s = &m->shape;
    gguf_put_string(w, "general.architecture", "llama");
    gguf_put_string(w, "general.name", s->name);
    gguf_put_u32(w, "general.file_type", 0); /* mostly F32 */
    gguf_put_u32(w, "llama.vocab_size", (uint32_t)m->vocab.n);
    gguf_put_u32(w, "llama.context_length", 1u << 21);
    gguf_put_u32(w, "llama.embedding_length", s->dim);
    gguf_put_u32(w, "llama.block_count", s->n_layers);
    gguf_put_u32(w, "llama.feed_forward_length", s->ff);
    gguf_put_u32(w, "llama.attention.head_count", s->n_heads);
    gguf_put_u32(w, "llama.attention.head_count_kv", s->n_kv);
    gguf_put_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-6f);
    gguf_put_u32(w, "llama.rope.dimension_count", s->head_dim);
    gguf_put_f32(w, "llama.rope.freq_base", s->rope_base);
    if (s->n_heads * s->head_dim != s->dim) { /* what readers suppose otherwise */
        gguf_put_u32(w, "llama.attention.key_length", s->head_dim);
        gguf_put_u32(w, "llama.attention.value_length", s->head_dim);
    }
}

static int put_tokenizer(struct gguf_writer *w, const struct recall_vocab *v)
{
    struct gguf_str *text = malloc(v->n * sizeof *text);
    float *score = malloc(v->n * sizeof *score);
    int32_t *type = malloc(v->n * sizeof *type);
    int rc = text && score && type ? 0 : -ENOMEM;
    for (size_t i = 0; rc == 0 && i < v->n; i++) {
        text[i] = (struct gguf_str){v->pieces[i].text, strlen(v->pieces[i].text)};
        score[i] = v->pieces[i].score;
        type[i] = v->pieces[i].type;
    }
    if (rc == 0) {
        gguf_put_string(w, "tokenizer.ggml.model", "llama");
        gguf_put_string_array(w, "tokenizer.ggml.tokens", v->n, text);
        gguf_put_array(w, "tokenizer.ggml.scores", GGUF_F32, v->n, score);
        gguf_put_array(w, "tokenizer.ggml.token_type", GGUF_I32, v->n, type);
        gguf_put_u32(w, "tokenizer.ggml.unknown_token_id", RECALL_ID_UNK);
        gguf_put_u32(w, "tokenizer.ggml.bos_token_id", RECALL_ID_BOS);
        gguf_put_u32(w, "tokenizer.ggml.eos_token_id", RECALL_ID_EOS);
        gguf_put_bool(w, "tokenizer.ggml.add_bos_token", true);
        gguf_put_bool(w, "tokenizer.ggml.add_eos_token", false);
        gguf_put_bool(w, "tokenizer.ggml.add_space_prefix", true);
    }
    free(text);
    free(score);
    free(type);
    return rc;
}

static void put_matrix(struct gguf_writer *w, const char *name, uint64_t rows, uint64_t cols,
                       const float *data)
{
    gguf_put_tensor(w, name, rows > 1 ? 2 : 1, (uint64_t[]){cols, rows}, GGML_F32, data);
}

static void put_layer(struct gguf_writer *w, const struct constructed *m, unsigned i)
{
    const struct constructed_shape *s = &m->shape;
    const struct constructed_layer *l = &m->layer[i];
    const uint32_t q = s->n_heads * s->head_dim, kv = s->n_kv * s->head_dim;
    const struct {
        const char *name;
        uint64_t rows, cols;
        const float *data;
    } t[] = {
        {"attn_norm", 1, s->dim, m->norm},    {"attn_q", q, s->dim, l->q},
        {"attn_k", kv, s->dim, l->k},         {"attn_v", kv, s->dim, l->v},
        {"attn_output", s->dim, q, l->o},     {"ffn_norm", 1, s->dim, m->norm},
        {"ffn_gate", s->ff, s->dim, l->gate}, {"ffn_up", s->ff, s->dim, l->up},
        {"ffn_down", s->dim, s->ff, l->down},
    };
    for (size_t j = 0; j < sizeof t / sizeof *t; j++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%u.%s.weight", i, t[j].name);
        put_matrix(w, name, t[j].rows, t[j].cols, t[j].data);
    }
}

int constructed_save(const struct constructed *m, const char *path, struct skv_error *err)
{
    const uint64_t dim = m->shape.dim, n = m->vocab.n;
    struct gguf_writer *w = gguf_writer_new();
    uint16_t *half = malloc(n * dim * sizeof *half);
    int rc = w && half ? put_tokenizer(w, &m->vocab) : -ENOMEM;
    if (rc < 0) {
        skv_fail(err, rc, "out of memory");
        goto cleanup;
    }
    put_metadata(w, m);
    put_matrix(w, "token_embd.weight", n, dim, m->embed);
    for (unsigned i = 0; i < m->shape.n_layers; i++)
        put_layer(w, m, i);
    put_matrix(w, "output_norm.weight", 1, dim, m->norm);
    /* Every step reads all of it, and tokens lie far apart: half the bytes lose nothing. */
    kernels_get()->f32_to_f16(n * dim, m->output, half);
    gguf_put_tensor(w, "output.weight", 2, (uint64_t[]){dim, n}, GGML_F16, half);
    rc = gguf_writer_save(w, path, err);
cleanup:
    gguf_writer_free(w);
    free(half);
    return rc;
}
