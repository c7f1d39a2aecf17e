#include "decoder/cli/text_pieces.h"
#include "decoder/model/recall_words.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

bool text_pieces_place(size_t n_tokens, size_t n, size_t len, uint64_t seed, uint64_t *at)
{
    if (n == 0 || n_tokens / n < len)
        return false;
    for (size_t i = 0; i < n; i++) {
        size_t from = n_tokens / n * i, room = n_tokens / n - len;
        at[i] = from + (size_t)(recall_unit(&seed) * (double)(room + 1));
    }
    return true;
}

/* The first byte of the line that begins behind `from` percent. */
static size_t begin_of(const char *text, size_t bytes, double from)
{
    size_t at = (size_t)((double)bytes * from / 100);
    if (at == 0 || at >= bytes)
        return at;
    const char *line = memchr(text + at - 1, '\n', bytes - at + 1);
    return line ? (size_t)(line + 1 - text) : at;
}

int text_pieces_cut(struct text_pieces *p, const struct tokenizer *tok, const char *text, size_t bytes,
                    double from, size_t n, size_t len, uint64_t seed, struct skv_error *err)
{
    size_t begin = begin_of(text, bytes, from), total;
    size_t bos = tokenizer_adds_bos(tok) && tokenizer_bos(tok) != TOKENIZER_NONE;
    uint32_t *ids;
    int rc = tokenizer_encode(tok, text + begin, bytes - begin, false, false, &ids, &total, err);
    if (rc)
        return rc;
    *p = (struct text_pieces){.n = n, .len = len, .text_tokens = total};
    p->ids = calloc(n * len + 1, sizeof *p->ids);
    p->at = calloc(n + 1, sizeof *p->at);
    if (!p->ids || !p->at)
        rc = skv_fail(err, -ENOMEM, "out of memory");
    else if (!text_pieces_place(total, n, len - bos, seed, p->at))
        rc = skv_fail(err, -EINVAL,
                      "the text has %zu tokens%s, and %zu pieces of %zu need %zu: take fewer (--texts) or "
                      "shorter ones (--tokens)",
                      total, from > 0 ? " there (--from)" : "", n, len, n * (len - bos));
    for (size_t i = 0; i < n && !rc; i++) {
        if (bos)
            p->ids[i * len] = tokenizer_bos(tok);
        memcpy(p->ids + i * len + bos, ids + p->at[i], (len - bos) * sizeof *ids);
    }
    free(ids);
    return rc;
}

void text_pieces_free(struct text_pieces *p)
{
    free(p->ids);
    free(p->at);
    *p = (struct text_pieces){0};
}
