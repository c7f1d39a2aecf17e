/* text_pieces.h: pieces of a text, of equal length, spread over it. */
#ifndef CLI_TEXT_PIECES_H
#define CLI_TEXT_PIECES_H

#include "decoder/model/tokenizer.h"

struct text_pieces {
    uint32_t *ids; /* (n, len): each BOS, where the model expects it, and then tokens of the text */
    uint64_t *at;  /* [n]: of the text's tokens, counted from where reading began, the piece's first */
    size_t n, len;
    size_t text_tokens; /* that there were to choose from */
};

/* Cuts n pieces of len tokens from the text's bytes behind `from` percent of it, beginning with the line
 * after. The text is divided into n equal parts, and the seed says where in its part each piece lies: they
 * never overlap. -EINVAL: the text is too short for that. */
int text_pieces_cut(struct text_pieces *, const struct tokenizer *, const char *text, size_t bytes,
                    double from, size_t n, size_t len, uint64_t seed, struct skv_error *);
void text_pieces_free(struct text_pieces *);

/* Where n pieces of len begin in a text of n_tokens; false if they don't fit. */
bool text_pieces_place(size_t n_tokens, size_t n, size_t len, uint64_t seed, uint64_t *at);

#endif
