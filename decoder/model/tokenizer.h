/* tokenizer.h: text to token ids and back, with the vocabulary of a GGUF file.
 *
 * Two kinds, named by tokenizer.ggml.model and independent of the model's architecture: "llama"
 * (SentencePiece BPE: pieces with scores, bytes as a fallback) and "gpt2" (byte-level BPE: a pre-tokenizer
 * named by tokenizer.ggml.pre, then ranked merges). Ids are those of llama.cpp on the same file, with one
 * exception on purpose: plain text never becomes a control token unless parse_special asks for it.
 *
 * A tokenizer copies what it needs, so the GGUF may be closed. It is immutable: many threads may encode. */
#ifndef DECODER_MODEL_TOKENIZER_H
#define DECODER_MODEL_TOKENIZER_H

#include "decoder/model/gguf.h"

struct tokenizer;

#define TOKENIZER_NONE UINT32_MAX /* no such token */

int tokenizer_from_gguf(const struct gguf *, struct tokenizer **out, struct skv_error *err);
void tokenizer_free(struct tokenizer *); /* NULL is allowed */

/* Any bytes are accepted; what is not UTF-8 becomes byte tokens. parse_special: control tokens written out in
 * text ("<|eot_id|>") become those tokens. User-defined tokens are always recognised. The caller frees *ids,
 * which is non-NULL on success even if *n is 0. */
int tokenizer_encode(const struct tokenizer *, const char *text, size_t len, bool add_bos, bool parse_special,
                     uint32_t **ids, size_t *n, struct skv_error *err);

/* The bytes that a token stands for, as a view that lives as long as the tokenizer. They may be part of a
 * character (see utf8.h). Control tokens are empty, unless special asks for their names. Unknown ids are
 * empty. */
struct gguf_str tokenizer_piece(const struct tokenizer *, uint32_t id, bool special);

uint32_t tokenizer_n_vocab(const struct tokenizer *);
uint32_t tokenizer_bos(const struct tokenizer *); /* TOKENIZER_NONE if the vocabulary has none; so below */
uint32_t tokenizer_eos(const struct tokenizer *);
uint32_t tokenizer_eot(const struct tokenizer *); /* end of a turn of a conversation */
/* Does generation end with this token: EOS, EOT and their kin. */
bool tokenizer_is_eog(const struct tokenizer *, uint32_t id);
/* Takes every chance from those tokens, as llama.cpp's --ignore-eos does; logits (n). */
void tokenizer_forbid_eog(const struct tokenizer *, uint32_t n, float *logits);
/* Does the model expect BOS first. */
bool tokenizer_adds_bos(const struct tokenizer *);

#endif
