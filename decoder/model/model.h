/* model.h: a transformer in a GGUF file, opened for computing.
 *
 * Architectures llama and qwen2. Weights stay in the mapped file, in its formats; everything that the forward
 * pass relies on (hyperparameters against each other, each tensor's shape and type) is checked when a model
 * is opened, and a tensor that the pass would not use is refused: leaving it out would be another model.
 * Immutable once open. */
#ifndef DECODER_MODEL_MODEL_H
#define DECODER_MODEL_MODEL_H

#include "common/error.h"
#include "decoder/model/gguf.h"
#include "decoder/model/matmul.h"
#include "decoder/model/rope.h"
#include "decoder/scoutkv.h"

enum model_arch { MODEL_LLAMA, MODEL_QWEN2 };

struct model_params {
    enum model_arch arch;
    uint32_t n_layers, dim, ff, vocab;
    uint32_t n_heads, n_kv_heads; /* a multiple of n_kv_heads query heads: they share KV heads in order */
    uint32_t d_k, d_v;            /* dims of a head's key and value */
    uint32_t train_context;       /* positions it was trained for */
    float norm_eps;
    enum rope_order rope_order;
    uint32_t rope_pairs; /* the first 2·rope_pairs dims of a head turn */
    double rope_base;
    double rope_factor; /* linear scaling: positions are divided by it; 1 without */
};

struct layer_weights {
    const float *attn_norm, *ffn_norm;     /* (dim) */
    struct matrix q, k, v;                 /* (heads · head dim, dim) */
    const float *q_bias, *k_bias, *v_bias; /* (rows of q, k, v) or NULL */
    struct matrix o;                       /* (dim, n_heads · d_v) */
    struct matrix gate, up;                /* (ff, dim) */
    struct matrix down;                    /* (dim, ff) */
};

struct model {
    struct gguf *gguf; /* owned; the tokenizer reads its metadata too */
    struct model_params params;
    struct matrix embedding;      /* (vocab, dim) */
    const float *output_norm;     /* (dim) */
    struct matrix output;         /* (vocab, dim); the embedding where the file has none of its own */
    struct layer_weights *layers; /* [n_layers] */
    double *rope_freq;            /* [rope_pairs]: radians per position */
    float *spread;           /* f32 copies of small models' layer matrices, which prefill multiplies with */
    struct skv_layer *shape; /* [n_layers], for model_shape */
    uint8_t fingerprint[SKV_FINGERPRINT];
    enum activations activations; /* of decode; exact unless set before the first session */
};

int model_open(const char *path, struct model **out, struct skv_error *err);
/* The same from a file that is open already; takes the gguf over, also on failure. */
int model_from_gguf(struct gguf *, struct model **out, struct skv_error *err);
void model_close(struct model *); /* NULL is allowed */

/* Names what the model computes: BLAKE2b over the hyperparameters and, per tensor in file order, name, type,
 * shape and content. Of a file above 256 MiB each tensor's content stands for itself by its first, middle and
 * last 64 KiB, so that opening doesn't read everything; the metadata of the tokenizer doesn't count (ids are
 * ids). */
static inline const uint8_t *model_fingerprint(const struct model *m)
{
    return m->fingerprint;
}

/* The shape that a context needs; its layers belong to the model. */
void model_shape(const struct model *, struct skv_model *out);

const char *model_arch_name(enum model_arch);

#endif
