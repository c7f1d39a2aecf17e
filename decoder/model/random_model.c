/* random_model.c: see random_model.h.
 *
 * A weight is a function of seed, tensor and index (a counter through a mixing function), so that a file
 * larger than memory is written row by row, and each weight is the same whatever the format around it. */
#include "decoder/model/random_model.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "decoder/model/gguf_write.h"
#include "decoder/model/quant.h"

enum { N_BYTES = 256, FIRST_BYTE = 3, FIRST_PIECE = FIRST_BYTE + N_BYTES, PIECE_BYTES = 12 };

void random_model_defaults(struct random_model_opts *o)
{
    *o = (struct random_model_opts){.arch = MODEL_LLAMA,
                                    .type = GGML_F16,
                                    .n_layers = 2,
                                    .dim = 256,
                                    .n_heads = 8,
                                    .n_kv_heads = 2,
                                    .ff = 512,
                                    .vocab = 512,
                                    .context = 32768,
                                    .rope_base = 10000,
                                    .seed = 1};
}

/* ---- weights ---- */

struct filler {
    uint64_t seed; /* of this tensor */
    uint32_t type, cols;
    float mean, scale;
    float *row; /* room for one row, shared by all tensors */
};

static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

/* Near enough to a normal variable: the sum of four uniform ones, with variance 1. */
static float bell(uint64_t bits)
{
    uint32_t sum = 0;
    for (unsigned i = 0; i < 4; i++)
        sum += bits >> 16 * i & 0xffff;
    return ((float)sum / 65535 - 2) * 1.7320508f;
}

static int fill_rows(void *arg, uint64_t row, uint64_t n_rows, void *out, struct skv_error *err)
{
    (void)err;
    const struct filler *f = arg;
    size_t row_bytes = ggml_row_bytes(f->type, f->cols);
    for (uint64_t r = row; r < row + n_rows; r++, out = (uint8_t *)out + row_bytes) {
        for (uint32_t i = 0; i < f->cols; i++)
            f->row[i] = f->mean + f->scale * bell(mix(f->seed + (r * f->cols + i) * 0x9e3779b97f4a7c15));
        quant_from_f32(f->type, f->cols, f->row, out);
    }
    return 0;
}

struct builder {
    const struct random_model_opts *o;
    struct gguf_writer *writer;
    struct filler *fillers; /* [n]: they live until the file is saved */
    size_t n;
    float *row;
};

static void add(struct builder *b, const char *name, uint32_t type, uint64_t rows, uint32_t cols, float mean,
                float scale)
{
    const uint64_t ne[2] = {cols, rows};
    struct filler *f = &b->fillers[b->n++];
    *f = (struct filler){mix(b->o->seed * 1000003 + b->n), type, cols, mean, scale, b->row};
    gguf_put_tensor_rows(b->writer, name, rows > 1 ? 2 : 1, ne, type, fill_rows, f);
}

/* Keeps the size of what passes through: inputs of variance 1 give outputs of variance 1. */
static void add_matrix(struct builder *b, const char *name, uint32_t rows, uint32_t cols)
{
    add(b, name, b->o->type, rows, cols, 0, 1 / sqrtf((float)cols));
}

static void add_layer(struct builder *b, uint32_t layer)
{
    const struct random_model_opts *o = b->o;
    uint32_t kv = o->dim / o->n_heads * o->n_kv_heads;
    const struct {
        const char *name;
        uint32_t rows, cols;
    } matrices[] = {{"attn_q", o->dim, o->dim},      {"attn_k", kv, o->dim},      {"attn_v", kv, o->dim},
                    {"attn_output", o->dim, o->dim}, {"ffn_gate", o->ff, o->dim}, {"ffn_up", o->ff, o->dim},
                    {"ffn_down", o->dim, o->ff}};
    const char *const norms[] = {"attn_norm", "ffn_norm"};
    char name[64];
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++) {
        snprintf(name, sizeof name, "blk.%u.%s.weight", layer, matrices[i].name);
        add_matrix(b, name, matrices[i].rows, matrices[i].cols);
        if (o->arch == MODEL_QWEN2 && i < 3) {
            snprintf(name, sizeof name, "blk.%u.%s.bias", layer, matrices[i].name);
            add(b, name, GGML_F32, 1, matrices[i].rows, 0, 0.1f);
        }
    }
    for (size_t i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "blk.%u.%s.weight", layer, norms[i]);
        add(b, name, GGML_F32, 1, o->dim, 1, 0.1f);
    }
}

/* ---- metadata ---- */

static void put_params(struct gguf_writer *w, const struct random_model_opts *o)
{
    const char *arch = model_arch_name(o->arch);
    const struct {
        const char *name;
        uint32_t value;
    } counts[] = {{"block_count", o->n_layers},
                  {"embedding_length", o->dim},
                  {"feed_forward_length", o->ff},
                  {"context_length", o->context},
                  {"attention.head_count", o->n_heads},
                  {"attention.head_count_kv", o->n_kv_heads},
                  {"rope.dimension_count", o->dim / o->n_heads},
                  {"vocab_size", o->vocab}};
    char key[64];
    gguf_put_string(w, "general.architecture", arch);
    gguf_put_string(w, "general.name", "random");
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        snprintf(key, sizeof key, "%s.%s", arch, counts[i].name);
        gguf_put_u32(w, key, counts[i].value);
    }
    snprintf(key, sizeof key, "%s.rope.freq_base", arch);
    gguf_put_f32(w, key, o->rope_base);
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", arch);
    gguf_put_f32(w, key, 1e-5f);
}

/* Piece i after the bytes: first the space mark and the printable ASCII characters, then all words of two
 * letters, of three … in order, so that every longer word can be merged from pieces that come before it. */
static int piece(uint32_t i, char out[PIECE_BYTES])
{
    if (i == 0)
        return snprintf(out, PIECE_BYTES, "\xe2\x96\x81");
    if (i <= '~' - ' ')
        return snprintf(out, PIECE_BYTES, "%c", (char)(' ' + i));
    i -= '~' - ' ' + 1;
    int letters = 2;
    for (uint32_t words = 26 * 26; i >= words; words *= 26, letters++)
        i -= words;
    for (int at = letters; at-- > 0; i /= 26)
        out[at] = (char)('a' + i % 26);
    return letters;
}

static int put_vocabulary(struct gguf_writer *w, uint32_t vocab, struct skv_error *err)
{
    enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, BYTE = 6 };
    static const char *const special[] = {"<unk>", "<s>", "</s>"};
    struct gguf_str *pieces = calloc(vocab, sizeof *pieces);
    char(*text)[PIECE_BYTES] = calloc(vocab, sizeof *text);
    float *scores = calloc(vocab, sizeof *scores);
    int32_t *types = calloc(vocab, sizeof *types);
    int rc =
        pieces && text && scores && types ? 0 : skv_fail(err, -ENOMEM, "out of memory for %u pieces", vocab);
    for (uint32_t i = 0; i < vocab && rc == 0; i++) {
        int len;
        if (i < FIRST_BYTE)
            len = snprintf(text[i], PIECE_BYTES, "%s", special[i]);
        else if (i < FIRST_PIECE)
            len = snprintf(text[i], PIECE_BYTES, "<0x%02X>", i - FIRST_BYTE);
        else
            len = piece(i - FIRST_PIECE, text[i]);
        pieces[i] = (struct gguf_str){text[i], (size_t)len};
        types[i] = i == 0 ? UNKNOWN : i < FIRST_BYTE ? CONTROL : i < FIRST_PIECE ? BYTE : NORMAL;
        scores[i] = i < FIRST_PIECE ? 0 : -(float)(i - FIRST_PIECE);
    }
    if (rc == 0) {
        gguf_put_string(w, "tokenizer.ggml.model", "llama");
        gguf_put_string_array(w, "tokenizer.ggml.tokens", vocab, pieces);
        gguf_put_array(w, "tokenizer.ggml.scores", GGUF_F32, vocab, scores);
        gguf_put_array(w, "tokenizer.ggml.token_type", GGUF_I32, vocab, types);
        gguf_put_u32(w, "tokenizer.ggml.unknown_token_id", 0);
        gguf_put_u32(w, "tokenizer.ggml.bos_token_id", 1);
        gguf_put_u32(w, "tokenizer.ggml.eos_token_id", 2);
        gguf_put_bool(w, "tokenizer.ggml.add_bos_token", true);
        gguf_put_bool(w, "tokenizer.ggml.add_eos_token", false);
    }
    free(pieces);
    free(text);
    free(scores);
    free(types);
    return rc;
}

/* ---- the whole ---- */

static int check(const struct random_model_opts *o, struct skv_error *err)
{
    uint32_t block;
    if (!ggml_type_supported(o->type) || !ggml_type_block(o->type, &block))
        return skv_fail(err, -EINVAL, "weights of type %d can't be written", (int)o->type);
    if (o->n_layers == 0 || o->dim == 0 || o->ff == 0 || o->n_heads == 0 || o->n_kv_heads == 0)
        return skv_fail(err, -EINVAL, "layers, dim, ff and heads must be 1 or more");
    if (o->n_layers > 4096 || o->dim > 1 << 20 || o->ff > 1 << 22 || o->vocab > 1 << 22)
        return skv_fail(err, -EINVAL,
                        "too large: at most 4096 layers, dim 1048576, ff and vocabulary 4194304");
    if (o->n_heads % o->n_kv_heads || o->dim % o->n_heads || o->dim / o->n_heads % 8)
        return skv_fail(
            err, -EINVAL,
            "dim %u with %u query and %u KV heads: heads must share evenly, and have a multiple of 8 dims",
            o->dim, o->n_heads, o->n_kv_heads);
    if (o->dim % block || o->ff % block)
        return skv_fail(err, -EINVAL,
                        "%s stores weights in blocks of %u: dim %u and ff %u must be multiples of it",
                        ggml_type_name(o->type), block, o->dim, o->ff);
    if (o->vocab < FIRST_PIECE)
        return skv_fail(err, -EINVAL,
                        "the vocabulary has %u tokens; it needs %d at least (the bytes and three more)",
                        o->vocab, FIRST_PIECE);
    return 0;
}

int random_model_write(const char *path, const struct random_model_opts *o, struct skv_error *err)
{
    int rc = check(o, err);
    if (rc)
        return rc;
    struct builder b = {.o = o, .writer = gguf_writer_new()};
    b.fillers = calloc(3 + (size_t)o->n_layers * 12, sizeof *b.fillers);
    b.row = malloc((o->dim > o->ff ? o->dim : o->ff) * sizeof *b.row);
    if (!b.writer || !b.fillers || !b.row) {
        rc = skv_fail(err, -ENOMEM, "out of memory for a model of %u layers", o->n_layers);
        goto cleanup;
    }
    put_params(b.writer, o);
    rc = put_vocabulary(b.writer, o->vocab, err);
    if (rc)
        goto cleanup;
    add(&b, "token_embd.weight", o->type, o->vocab, o->dim, 0, 1);
    for (uint32_t i = 0; i < o->n_layers; i++)
        add_layer(&b, i);
    add(&b, "output_norm.weight", GGML_F32, 1, o->dim, 1, 0.1f);
    if (!o->tied)
        add_matrix(&b, "output.weight", o->vocab, o->dim);
    rc = gguf_writer_save(b.writer, path, err);
cleanup:
    gguf_writer_free(b.writer);
    free(b.fillers);
    free(b.row);
    return rc;
}
