/* tokenizer_spm.c: the "llama" tokenizer (SentencePiece BPE).
 *
 * Characters merge into pieces, highest score first; what is no piece in the end becomes byte tokens. The
 * file writes spaces as U+2581 ("▁"): pieces are kept with real spaces, and a "▁" in the text counts as a
 * space, as it does in SentencePiece.
 *
 * DESIGN. A megabyte is not merged as one word. No merge can reach over a pair of neighbouring characters
 * that occurs inside no piece (for English vocabularies: before nearly every space), so text is cut there,
 * and the short parts are merged one by one: the same ids, with queues that fit the cache. The pairs are kept
 * as a hashed bit set; a false hit only makes a part longer. */
#include "decoder/model/tokenizer_impl.h"
#include "decoder/model/utf8.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#define SPACE_MARK "\xe2\x96\x81" /* U+2581 */
#define PAIR_BITS 20

/* Replaces every "▁" by a space, in place; returns the new length. */
static size_t unmark_spaces(char *s, size_t n)
{
    size_t w = 0;
    for (size_t i = 0; i < n; w++) {
        bool mark = s[i] == SPACE_MARK[0] && n - i >= 3 && memcmp(s + i, SPACE_MARK, 3) == 0;
        s[w] = mark ? ' ' : s[i];
        i += mark ? 3 : 1;
    }
    return w;
}

void tokenizer_spm_piece(struct gguf_str *piece, char *bytes)
{
    piece->len = unmark_spaces(bytes, piece->len);
}

/* Bytes of the character at p; what is no character counts as characters of one byte. */
static size_t char_len(const char *p, size_t n)
{
    if ((unsigned char)*p < 0x80)
        return 1;
    size_t len = utf8_char(p, n);
    return len ? len : 1;
}

static uint32_t pair_hash(const char *l, size_t l_len, const char *r, size_t r_len)
{
    uint32_t a = 0, b = 0;
    memcpy(&a, l, l_len);
    memcpy(&b, r, r_len);
    return (uint32_t)((a * 0x9e3779b97f4a7c15u + b) * 0xbf58476d1ce4e5b9u >> (64 - PAIR_BITS));
}

static void join_pairs(struct tokenizer *t, struct gguf_str piece)
{
    size_t at = 0, len = piece.len ? char_len(piece.data, piece.len) : 0;
    while (at + len < piece.len) {
        size_t next = at + len, next_len = char_len(piece.data + next, piece.len - next);
        uint32_t h = pair_hash(piece.data + at, len, piece.data + next, next_len);
        t->joined[h / 8] |= (uint8_t)(1u << h % 8);
        at = next;
        len = next_len;
    }
}

static bool rate(const struct tokenizer *t, const char *text, const struct symbol *l, const struct symbol *r,
                 struct merge *m)
{
    (void)r;
    m->id = tokenizer_lookup(t, text + l->at, m->len);
    if (m->id == TOKENIZER_NONE)
        return false;
    m->cost = -t->score[m->id];
    return true;
}

static int emit_bytes(struct encoder *e, const char *p, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        uint32_t id = e->tok->byte_id[(unsigned char)p[i]];
        if (id == TOKENIZER_NONE) /* one unknown token for the whole character */
            return tokenizer_emit(e, e->tok->unknown);
        int r = tokenizer_emit(e, id);
        if (r)
            return r;
    }
    return 0;
}

/* Merges the symbols added so far, and emits and forgets them. */
static int finish_part(struct encoder *e, const char *text)
{
    int r = tokenizer_merge_run(e, text);
    for (uint32_t i = e->n_symbols ? 0 : NO_SYMBOL; r == 0 && i != NO_SYMBOL; i = e->symbols[i].next) {
        const struct symbol *s = &e->symbols[i];
        r = s->id == TOKENIZER_NONE ? emit_bytes(e, text + s->at, s->len) : tokenizer_emit(e, s->id);
    }
    tokenizer_merge_begin(e);
    return r;
}

static int encode_clean(struct encoder *e, const char *text, size_t len)
{
    const struct tokenizer *t = e->tok;
    int r = 0;
    tokenizer_merge_begin(e);
    for (size_t at = 0, last_len = 0, n; r == 0 && at < len; at += n, last_len = n) {
        n = char_len(text + at, len - at);
        if (e->n_symbols) {
            uint32_t h = pair_hash(text + at - last_len, last_len, text + at, n);
            if (!(t->joined[h / 8] >> h % 8 & 1) && (r = finish_part(e, text)))
                break;
        }
        r = tokenizer_merge_add(e, at, n, tokenizer_lookup(t, text + at, n));
    }
    return r ? r : finish_part(e, text);
}

static int encode_text(struct encoder *e, const char *text, size_t len)
{
    bool prefix = e->tok->space_prefix;
    if (!prefix && !memmem(text, len, SPACE_MARK, 3))
        return encode_clean(e, text, len);
    char *copy = malloc(len + 1);
    if (!copy)
        return skv_fail(e->err, -ENOMEM, "out of memory while tokenizing");
    copy[0] = ' ';
    memcpy(copy + prefix, text, len);
    int r = encode_clean(e, copy, unmark_spaces(copy, len + prefix));
    free(copy);
    return r;
}

/* "<0x0A>" → 10; -1 if the text isn't of that form. */
static int byte_value(struct gguf_str s)
{
    int high, low;
    if (s.len != 6 || memcmp(s.data, "<0x", 3) != 0 || s.data[5] != '>')
        return -1;
    const char *digits = "0123456789ABCDEF", *h = memchr(digits, s.data[3], 16),
               *l = memchr(digits, s.data[4], 16);
    if (!h || !l)
        return -1;
    high = (int)(h - digits);
    low = (int)(l - digits);
    return high * 16 + low;
}

/* A byte token is written "<0x0A>"; its piece becomes that byte. */
static int load_bytes(struct tokenizer *t, const struct gguf *g, struct skv_error *err)
{
    memset(t->byte_id, 0xff, sizeof t->byte_id);
    for (uint32_t i = 0; i < t->n; i++) {
        if (t->type[i] != TOKEN_BYTE)
            continue;
        int b = byte_value(t->piece[i]);
        if (b < 0)
            return skv_fail(err, -EINVAL, "%s: token %u is a byte token but its text is not like <0x0A>",
                            gguf_path(g), i);
        t->byte_id[b] = i;
        t->arena[t->piece[i].data - t->arena] = (char)b;
        t->piece[i].len = 1;
    }
    for (int b = 0; b < 256 && t->unknown == TOKENIZER_NONE; b++)
        if (t->byte_id[b] == TOKENIZER_NONE)
            return skv_fail(err, -EINVAL,
                            "%s: the vocabulary has no token for byte 0x%02X and no unknown token",
                            gguf_path(g), b);
    return 0;
}

int tokenizer_spm_load(struct tokenizer *t, const struct gguf *g, struct skv_error *err)
{
    struct gguf_array scores;
    int r = gguf_array(g, "tokenizer.ggml.scores", GGUF_NEED, GGUF_F32, &scores, err);
    if (r)
        return r;
    if (scores.n != t->n)
        return skv_fail(err, -EINVAL, "%s: %llu scores for %u tokens; the file is damaged", gguf_path(g),
                        (unsigned long long)scores.n, t->n);
    t->score = malloc(t->n * sizeof *t->score);
    t->joined = calloc(1, 1u << (PAIR_BITS - 3));
    if (!t->score || !t->joined)
        return skv_fail(err, -ENOMEM, "%s: out of memory for the vocabulary", gguf_path(g));
    for (uint32_t i = 0; i < t->n; i++) {
        t->score[i] = gguf_array_f32(&scores, i);
        if (!isfinite(t->score[i]))
            return skv_fail(err, -EINVAL, "%s: the score of token %u is not a number; the file is damaged",
                            gguf_path(g), i);
        if (t->type[i] == TOKEN_NORMAL || t->type[i] == TOKEN_UNUSED)
            join_pairs(t, t->piece[i]);
    }
    t->space_prefix = true;
    if ((r = gguf_bool(g, "tokenizer.ggml.add_space_prefix", GGUF_OPT, &t->space_prefix, err)))
        return r;
    t->encode_text = encode_text;
    t->rate = rate;
    return load_bytes(t, g, err);
}
