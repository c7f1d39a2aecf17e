/* logprobs.h: how likely the model found a token, and which ones it found likeliest. */
#ifndef SERVE_LOGPROBS_H
#define SERVE_LOGPROBS_H

#include "decoder/model/gguf.h"

#include <stdint.h>

enum { LOGPROBS_TOP = 20 };

struct logprob {
    uint32_t id;
    float logprob; /* natural logarithm, of the softmax of the logits: at temperature 1, before any filter */
};
struct token_logprobs {
    struct logprob token;
    struct logprob top[LOGPROBS_TOP]; /* likeliest first; ties: the lower id */
    unsigned n_top;
    struct gguf_str piece, top_piece[LOGPROBS_TOP]; /* their bytes; for api_reply */
    size_t at, at_char; /* where the token begins in the text, in bytes and in characters; for api_reply */
};

/* Of logits (n), n >= 1, with a finite one among them. Fills token, top and n_top = min(n_top, n). */
void logprobs_of(const float *logits, uint32_t n, uint32_t id, unsigned n_top, struct token_logprobs *out);

#endif
