#include "decoder/cli/answer.h"

#include <ctype.h>
#include <string.h>

void answer_add(struct answer *a, struct gguf_str piece, bool ends_text, size_t want)
{
    a->tokens++;
    for (size_t i = 0; i < piece.len && !a->over; i++) {
        unsigned char c = (unsigned char)piece.data[i];
        if (isalnum(c) && a->n + 1 < sizeof a->word)
            a->word[a->n++] = (char)c;
        else if (c != ' ' || a->n)
            a->over = true; /* only spaces before the word, nothing inside it */
    }
    if (ends_text || a->n >= want || a->tokens >= ANSWER_TOKENS)
        a->over = true;
}

bool answer_right(const struct answer *a, const char *want)
{
    return strcmp(a->word, want) == 0;
}
