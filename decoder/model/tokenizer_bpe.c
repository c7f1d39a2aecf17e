/* tokenizer_bpe.c: the "gpt2" tokenizer (byte-level BPE).
 *
 * Text is cut into words by a regular expression that the vocabulary was trained with (PCRE2, with Unicode
 * classes); inside a word, bytes merge into tokens by the rank of the pair. The file writes bytes as
 * printable characters (space as "Ġ"): pieces are kept as the bytes themselves, and merges as pairs of ids.
 *
 * Bytes that are not UTF-8 make words of their own, so every text survives the round trip. */
#include "decoder/model/tokenizer_impl.h"
#include "decoder/model/utf8.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

/* \s as Unicode has it; PCRE2's own \s adds U+180E. */
#define S "\\p{White_Space}"
#define NOT_S "\\P{White_Space}"
#define WORDS_GPT2 \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" S "\\p{L}\\p{N}]+|" S "+(?!" NOT_S ")|" S "+"
#define WORDS_GPT4(digits)                                                         \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^" S \
    "\\p{L}\\p{N}]+[\\r\\n]*|" S "*[\\r\\n]+|" S "+(?!" NOT_S ")|" S "+"

static const struct pre_tokenizer {
    const char *name; /* tokenizer.ggml.pre */
    const char *words;
    bool whole_words, adds_bos;
} pre_tokenizers[] = {
    {"gpt-2", WORDS_GPT2, false, false},
    {"default", WORDS_GPT2, false, false},
    {"llama-bpe", WORDS_GPT4("\\p{N}{1,3}"), true, true},
    {"llama3", WORDS_GPT4("\\p{N}{1,3}"), true, true},
    {"llama-v3", WORDS_GPT4("\\p{N}{1,3}"), true, true},
    {"qwen2", WORDS_GPT4("\\p{N}"), false, false},
    {"deepseek-r1-qwen", WORDS_GPT4("\\p{N}"), false, false},
};
#define N_PRE (sizeof pre_tokenizers / sizeof pre_tokenizers[0])

/* ---- pieces ---- */

/* The byte that a file writes as this code point; -1 if none. Printable Latin-1 characters stand for
 * themselves, the other 68 bytes for U+0100 and on, in order. */
static int byte_of(uint32_t code)
{
    if ((code >= 0x21 && code <= 0x7e) || (code >= 0xa1 && code <= 0xac) || (code >= 0xae && code <= 0xff))
        return (int)code;
    if (code < 0x100)
        return -1;
    code -= 0x100;
    if (code <= 0x20) /* 00..20 */
        return (int)code;
    if (code <= 0x42) /* 7F..A0 */
        return (int)(code - 0x21 + 0x7f);
    return code == 0x43 ? 0xad : -1;
}

/* Writes the bytes of a token's text to out (may be the text itself, or NULL to look only); false if it isn't
 * of the byte alphabet. */
static bool to_bytes(struct gguf_str s, char *out, size_t *len)
{
    size_t w = 0;
    for (size_t i = 0, n; i < s.len; i += n) {
        n = utf8_char(s.data + i, s.len - i);
        if (n != 1 && n != 2) /* the alphabet ends at U+0143 */
            return false;
        uint32_t code = (unsigned char)s.data[i];
        if (n == 2)
            code = (code & 0x1f) << 6 | ((unsigned char)s.data[i + 1] & 0x3f);
        int b = byte_of(code);
        if (b < 0)
            return false;
        if (out)
            out[w] = (char)b;
        w++;
    }
    *len = w;
    return true;
}

void tokenizer_bpe_piece(struct gguf_str *piece, char *bytes)
{
    size_t len;
    if (!to_bytes(*piece, NULL, &len)) /* a text of another alphabet stays as it is */
        return;
    to_bytes(*piece, bytes, &len);
    piece->len = len;
}

/* ---- merges ---- */

static struct rank *rank_slot(const struct tokenizer *t, uint32_t left, uint32_t right)
{
    uint64_t h = ((uint64_t)left << 32 | right) * 0x9e3779b97f4a7c15u;
    for (uint32_t i = (uint32_t)(h >> 32);; i++) {
        struct rank *slot = &t->rank[i & t->rank_mask];
        if (slot->left == TOKENIZER_NONE || (slot->left == left && slot->right == right))
            return slot;
    }
}

static bool rate(const struct tokenizer *t, const char *text, const struct symbol *l, const struct symbol *r,
                 struct merge *m)
{
    (void)text;
    const struct rank *slot = rank_slot(t, l->id, r->id);
    m->id = slot->id;
    m->cost = slot->cost;
    return slot->left != TOKENIZER_NONE;
}

/* "Ġ t" → the ids of " ", "t" and " t". buf holds at least as many bytes as the text. */
static int read_merge(const struct tokenizer *t, struct gguf_str text, char *buf, struct rank *out)
{
    const char *space = text.len > 1 ? memchr(text.data + 1, ' ', text.len - 1) : NULL;
    if (!space)
        return -EINVAL;
    struct gguf_str left = {text.data, (size_t)(space - text.data)};
    struct gguf_str right = {space + 1, text.len - left.len - 1};
    size_t n_left, n_right;
    if (!to_bytes(left, buf, &n_left) || !to_bytes(right, buf + n_left, &n_right))
        return -EINVAL;
    out->left = tokenizer_lookup(t, buf, n_left);
    out->right = tokenizer_lookup(t, buf + n_left, n_right);
    out->id = tokenizer_lookup(t, buf, n_left + n_right);
    return out->left == TOKENIZER_NONE || out->right == TOKENIZER_NONE || out->id == TOKENIZER_NONE ? -EINVAL
                                                                                                    : 0;
}

static int load_merges(struct tokenizer *t, const struct gguf *g, struct skv_error *err)
{
    struct gguf_array merges;
    int r = gguf_array(g, "tokenizer.ggml.merges", GGUF_NEED, GGUF_STRING, &merges, err);
    if (r)
        return r;
    if (merges.n >= 1u << 24)
        return skv_fail(err, -EINVAL, "%s has %llu merges, more than this tokenizer can rank", gguf_path(g),
                        (unsigned long long)merges.n);
    uint32_t slots = 8;
    while (slots < 2 * merges.n)
        slots *= 2;
    size_t longest = 0;
    for (uint64_t i = 0; i < merges.n; i++)
        if (merges.strings[i].len > longest)
            longest = merges.strings[i].len;
    char *buf = malloc(longest + 1);
    t->rank = malloc(slots * sizeof *t->rank);
    if (!buf || !t->rank)
        r = skv_fail(err, -ENOMEM, "%s: out of memory for the merges", gguf_path(g));
    else
        memset(t->rank, 0xff, slots * sizeof *t->rank);
    t->rank_mask = slots - 1;
    for (uint64_t i = 0; r == 0 && i < merges.n; i++) {
        struct rank rank = {.cost = (float)i};
        if (read_merge(t, merges.strings[i], buf, &rank)) {
            r = skv_fail(err, -EINVAL,
                         "%s: merge %llu does not join two tokens into a third; the file is damaged",
                         gguf_path(g), (unsigned long long)i);
            break;
        }
        struct rank *slot = rank_slot(t, rank.left, rank.right);
        if (slot->left == TOKENIZER_NONE) /* of two equal merges, the first counts */
            *slot = rank;
    }
    free(buf);
    return r;
}

/* ---- words ---- */

static int pcre2_fail(int code, const char *what, struct skv_error *err)
{
    PCRE2_UCHAR8 text[120] = "";
    pcre2_get_error_message(code, text, sizeof text);
    return skv_fail(err, code == PCRE2_ERROR_NOMEMORY ? -ENOMEM : -EINVAL, "%s: %s", what,
                    (const char *)text);
}

static int load_words(struct tokenizer *t, const struct gguf *g, struct skv_error *err)
{
    struct gguf_str name = {"default", 7};
    int r = gguf_string(g, "tokenizer.ggml.pre", GGUF_OPT, &name, err);
    if (r)
        return r;
    const struct pre_tokenizer *p = pre_tokenizers, *end = p + N_PRE;
    while (p < end && !gguf_str_is(name, p->name))
        p++;
    if (p == end)
        return skv_fail(err, -ENOTSUP,
                        "%s: pre-tokenizer \"%.*s\" is not supported; supported: gpt-2, llama-bpe, qwen2",
                        gguf_path(g), (int)(name.len > 80 ? 80 : name.len), name.data);
    int code;
    PCRE2_SIZE at;
    t->words =
        pcre2_compile((PCRE2_SPTR)p->words, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
    if (!t->words)
        return pcre2_fail(code, "cannot compile the pre-tokenizer", err);
    pcre2_jit_compile(t->words,
                      PCRE2_JIT_COMPLETE); /* where there is no JIT, matching is slower and the same */
    t->whole_words = p->whole_words;
    t->adds_bos = p->adds_bos;
    return 0;
}

static int encode_word(struct encoder *e, const char *word, size_t len)
{
    const struct tokenizer *t = e->tok;
    uint32_t whole = t->whole_words || len == 1 ? tokenizer_lookup(t, word, len) : TOKENIZER_NONE;
    if (whole != TOKENIZER_NONE)
        return tokenizer_emit(e, whole);
    int r = 0;
    tokenizer_merge_begin(e);
    for (size_t i = 0; r == 0 && i < len; i++)
        r = tokenizer_merge_add(e, i, 1, t->byte_id[(unsigned char)word[i]]);
    if (r == 0)
        r = tokenizer_merge_run(e, word);
    for (uint32_t i = 0; r == 0 && i != NO_SYMBOL; i = e->symbols[i].next)
        r = tokenizer_emit(e, e->symbols[i].id);
    return r;
}

/* text is valid UTF-8. */
static int encode_words(struct encoder *e, const char *text, size_t len)
{
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(e->match);
    int r = 0;
    for (size_t at = 0, n; r == 0 && at < len; at += n) {
        int found = pcre2_match(e->tok->words, (PCRE2_SPTR)text, len, at, PCRE2_NO_UTF_CHECK | PCRE2_ANCHORED,
                                e->match, e->match_context);
        if (found < 0)
            return pcre2_fail(found, "cannot cut the text into words", e->err);
        n = span[1] - at;
        assert(span[0] == at && n > 0); /* every character begins a word, in each of the expressions */
        r = encode_word(e, text + at, n);
    }
    return r;
}

static int start_matching(struct encoder *e)
{
    if (e->match)
        return 0;
    e->match = pcre2_match_data_create(1, NULL);
    e->match_context = pcre2_match_context_create(NULL);
    e->jit_stack = pcre2_jit_stack_create(32 << 10, 8 << 20, NULL);
    if (!e->match || !e->match_context)
        return skv_fail(e->err, -ENOMEM, "out of memory while tokenizing");
    pcre2_jit_stack_assign(e->match_context, NULL, e->jit_stack); /* NULL: 32 KiB of the machine's stack */
    return 0;
}

static int encode_text(struct encoder *e, const char *text, size_t len)
{
    int r = start_matching(e);
    for (size_t at = 0; r == 0 && at < len;) {
        size_t n = utf8_valid(text + at, len - at);
        r = encode_words(e, text + at, n);
        at += n;
        for (n = 0; at + n < len && utf8_char(text + at + n, len - at - n) == 0;)
            n++;
        if (r == 0 && n)
            r = encode_word(e, text + at, n);
        at += n;
    }
    return r;
}

int tokenizer_bpe_load(struct tokenizer *t, const struct gguf *g, struct skv_error *err)
{
    for (int b = 0; b < 256; b++) {
        char byte = (char)b;
        t->byte_id[b] = tokenizer_lookup(t, &byte, 1);
        if (t->byte_id[b] == TOKENIZER_NONE)
            return skv_fail(err, -EINVAL,
                            "%s: the vocabulary has no token for byte 0x%02X; the file is damaged",
                            gguf_path(g), b);
    }
    t->encode_text = encode_text;
    t->rate = rate;
    int r = load_words(t, g, err);
    return r ? r : load_merges(t, g, err);
}
