/* answer.h: what a model says, token by token, held against the one word that would be right. */
#ifndef CLI_ANSWER_H
#define CLI_ANSWER_H

#include "decoder/model/gguf.h"

#include <stdbool.h>

enum { ANSWER_MAX = 24, ANSWER_TOKENS = 12 };

struct answer {            /* all zero before the first token */
    char word[ANSWER_MAX]; /* the first letters and digits, without what stands around them */
    unsigned n, tokens;
    bool over; /* nothing that comes can change the result */
};

/* want: length of the right word: what is as long is whole. ends_text: the token is one that ends a text. */
void answer_add(struct answer *, struct gguf_str piece, bool ends_text, size_t want);
bool answer_right(const struct answer *, const char *want);

#endif
