/* tokenizer.c: loading a vocabulary, special tokens, pieces. See tokenizer.h.
 *
 * DESIGN. All token texts are copied into one arena and turned there into the bytes they stand for, so that a
 * piece is a view and text is looked up as it is. Special tokens are found in one pass over the text, through
 * a table by first byte; of overlapping ones the longest wins, then the leftmost (llama.cpp looks for the
 * longest first in all of the text). What lies between goes to the kind of tokenizer, see tokenizer_spm.c and
 * tokenizer_bpe.c. */
#include "decoder/model/tokenizer_impl.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <xxhash.h>

#define MAX_VOCAB (1u << 24)

/* ---- pieces by their bytes ---- */

static uint32_t *piece_slot(const struct tokenizer *t, const char *bytes, size_t len)
{
    for (uint32_t h = (uint32_t)XXH3_64bits(bytes, len);; h++) {
        uint32_t *slot = &t->slot[h & t->mask];
        if (!*slot)
            return slot;
        struct gguf_str p = t->piece[*slot - 1];
        if (p.len == len && memcmp(p.data, bytes, len) == 0)
            return slot;
    }
}

uint32_t tokenizer_lookup(const struct tokenizer *t, const char *bytes, size_t len)
{
    if (len > t->max_piece)
        return TOKENIZER_NONE;
    uint32_t at = *piece_slot(t, bytes, len);
    return at ? at - 1 : TOKENIZER_NONE;
}

/* Only what plain text may become: never a control token, and byte tokens only as a fallback. User-defined
 * tokens are found before. */
static int index_pieces(struct tokenizer *t)
{
    uint32_t slots = 8;
    while (slots < 2 * t->n)
        slots *= 2;
    t->slot = calloc(slots, sizeof *t->slot);
    t->mask = slots - 1;
    if (!t->slot)
        return -ENOMEM;
    for (uint32_t i = 0; i < t->n; i++) {
        if (t->piece[i].len == 0 || (t->type[i] != TOKEN_NORMAL && t->type[i] != TOKEN_UNUSED))
            continue;
        *piece_slot(t, t->piece[i].data, t->piece[i].len) = i + 1; /* of equal pieces, the last counts */
        if (t->piece[i].len > t->max_piece)
            t->max_piece = t->piece[i].len;
    }
    return 0;
}

/* ---- special tokens ---- */

static bool is_special(const struct tokenizer *t, uint32_t id)
{
    uint8_t type = t->type[id];
    return t->piece[id].len && (type == TOKEN_CONTROL || type == TOKEN_UNKNOWN || type == TOKEN_USER_DEFINED);
}

static int by_first_then_longest(const void *a, const void *b, void *arg)
{
    const struct tokenizer *t = arg;
    uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
    struct gguf_str p = t->piece[i], q = t->piece[j];
    if (p.data[0] != q.data[0])
        return (unsigned char)p.data[0] < (unsigned char)q.data[0] ? -1 : 1;
    if (p.len != q.len)
        return p.len > q.len ? -1 : 1;
    return i < j ? -1 : i > j;
}

static int index_special(struct tokenizer *t)
{
    for (uint32_t i = 0; i < t->n; i++)
        t->n_special += is_special(t, i);
    t->special = malloc((t->n_special + 1) * sizeof *t->special);
    if (!t->special)
        return -ENOMEM;
    uint32_t k = 0;
    for (uint32_t i = 0; i < t->n; i++)
        if (is_special(t, i))
            t->special[k++] = i;
    qsort_r(t->special, k, sizeof *t->special, by_first_then_longest, t);
    for (uint32_t b = 0, at = 0; b <= 256; b++) {
        while (at < k && (unsigned char)t->piece[t->special[at]].data[0] < b)
            at++;
        t->special_at[b] = at;
    }
    return 0;
}

struct found { /* a special token in the text */
    size_t at, len;
    uint32_t id;
};

static int by_longest(const void *a, const void *b)
{
    const struct found *f = a, *g = b;
    if (f->len != g->len)
        return f->len > g->len ? -1 : 1;
    if (f->id != g->id)
        return f->id < g->id ? -1 : 1;
    return f->at < g->at ? -1 : f->at > g->at;
}

static int by_place(const void *a, const void *b)
{
    const struct found *f = a, *g = b;
    return f->at < g->at ? -1 : f->at > g->at;
}

/* All places where a special token is written out, overlapping ones too; *out is the caller's to free. */
static int find_all(const struct encoder *e, const char *text, size_t len, bool control, struct found **out,
                    size_t *n)
{
    const struct tokenizer *t = e->tok;
    size_t cap = 0;
    for (size_t at = 0; at < len; at++) {
        unsigned b = (unsigned char)text[at];
        for (uint32_t k = t->special_at[b]; k < t->special_at[b + 1]; k++) {
            uint32_t id = t->special[k];
            struct gguf_str p = t->piece[id];
            if ((!control && t->type[id] != TOKEN_USER_DEFINED) || p.len > len - at ||
                memcmp(text + at, p.data, p.len) != 0)
                continue;
            if (*n == cap) {
                cap = cap ? 2 * cap : 64;
                struct found *grown = realloc(*out, cap * sizeof *grown);
                if (!grown)
                    return skv_fail(e->err, -ENOMEM, "out of memory while tokenizing");
                *out = grown;
            }
            (*out)[(*n)++] = (struct found){.at = at, .len = p.len, .id = id};
        }
    }
    return 0;
}

/* Keeps those that stand: none overlaps, longer ones first; then in the order of the text. */
static int settle(const struct encoder *e, size_t len, struct found *f, size_t *n)
{
    if (*n == 0)
        return 0;
    bool *taken = calloc(len, sizeof *taken); /* of each byte of the text */
    if (!taken)
        return skv_fail(e->err, -ENOMEM, "out of memory while tokenizing");
    qsort(f, *n, sizeof *f, by_longest);
    size_t kept = 0;
    for (size_t i = 0; i < *n; i++) {
        /* What was taken before is at least as long, so an overlap covers an end. */
        if (taken[f[i].at] || taken[f[i].at + f[i].len - 1])
            continue;
        memset(taken + f[i].at, true, f[i].len);
        f[kept++] = f[i];
    }
    free(taken);
    *n = kept;
    qsort(f, kept, sizeof *f, by_place);
    return 0;
}

/* ---- encoding ---- */

int tokenizer_emit(struct encoder *e, uint32_t id)
{
    assert(id < e->tok->n);
    struct ids *a = &e->ids;
    if (a->n == a->cap) {
        size_t cap = a->cap ? a->cap * 2 : 64;
        uint32_t *grown = realloc(a->p, cap * sizeof *grown);
        if (!grown)
            return skv_fail(e->err, -ENOMEM, "out of memory while tokenizing");
        a->p = grown;
        a->cap = cap;
    }
    a->p[a->n++] = id;
    return 0;
}

static int encode_all(struct encoder *e, const char *text, size_t len, bool control)
{
    struct found *found = NULL;
    size_t n_found = 0, at = 0;
    int r = find_all(e, text, len, control, &found, &n_found);
    if (r == 0)
        r = settle(e, len, found, &n_found);
    for (size_t i = 0; r == 0 && i <= n_found; i++) {
        size_t end = i < n_found ? found[i].at : len;
        if (end > at)
            r = e->tok->encode_text(e, text + at, end - at);
        if (r == 0 && i < n_found) {
            r = tokenizer_emit(e, found[i].id);
            at = end + found[i].len;
        }
    }
    free(found);
    return r;
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, bool add_bos,
                     bool parse_special, uint32_t **ids, size_t *n, struct skv_error *err)
{
    *ids = NULL;
    *n = 0;
    if (len >= UINT32_MAX)
        return skv_fail(err, -EFBIG,
                        "a text of %zu bytes is too long to tokenize at once; the limit is 4 GiB", len);
    struct encoder e = {.tok = t, .err = err, .ids.cap = len / 4 + 16};
    e.ids.p = malloc(e.ids.cap * sizeof *e.ids.p);
    int r = e.ids.p ? 0 : skv_fail(err, -ENOMEM, "out of memory while tokenizing");
    if (r == 0 && add_bos && t->bos != TOKENIZER_NONE)
        r = tokenizer_emit(&e, t->bos);
    if (r == 0)
        r = encode_all(&e, text, len, parse_special);
    tokenizer_merge_free(&e);
    pcre2_match_data_free(e.match);
    pcre2_match_context_free(e.match_context);
    pcre2_jit_stack_free(e.jit_stack);
    if (r) {
        free(e.ids.p);
        return r;
    }
    *ids = e.ids.p;
    *n = e.ids.n;
    return 0;
}

/* ---- loading ---- */

static int load_types(struct tokenizer *t, const struct gguf *g, struct skv_error *err)
{
    struct gguf_array types = {.n = 0};
    int r = gguf_array(g, "tokenizer.ggml.token_type", GGUF_OPT, GGUF_I32, &types, err);
    if (r)
        return r;
    if (types.raw && types.n != t->n)
        return skv_fail(err, -EINVAL, "%s: %llu token types for %u tokens; the file is damaged", gguf_path(g),
                        (unsigned long long)types.n, t->n);
    for (uint32_t i = 0; i < t->n; i++) {
        int32_t type = types.raw ? gguf_array_i32(&types, i) : TOKEN_NORMAL;
        t->type[i] = type >= TOKEN_NORMAL && type <= TOKEN_BYTE ? (uint8_t)type : TOKEN_NORMAL;
    }
    return 0;
}

/* Copies all token texts into the arena; those that plain text becomes turn into their bytes there. */
static int load_pieces(struct tokenizer *t, const struct gguf_array *texts,
                       void (*to_piece)(struct gguf_str *, char *))
{
    size_t total = 0;
    for (uint32_t i = 0; i < t->n; i++)
        total += texts->strings[i].len;
    t->arena = malloc(total + 1);
    if (!t->arena)
        return -ENOMEM;
    char *p = t->arena;
    for (uint32_t i = 0; i < t->n; i++) {
        struct gguf_str s = texts->strings[i];
        memcpy(p, s.data, s.len);
        t->piece[i] = (struct gguf_str){p, s.len};
        if (t->type[i] == TOKEN_NORMAL || t->type[i] == TOKEN_UNUSED)
            to_piece(&t->piece[i], p);
        p += s.len;
    }
    return 0;
}

static int load_id(const struct tokenizer *t, const struct gguf *g, const char *key, uint32_t *id,
                   struct skv_error *err)
{
    int r = gguf_u32(g, key, GGUF_OPT, id, err);
    if (r)
        return r;
    if (*id != TOKENIZER_NONE && *id >= t->n)
        return skv_fail(err, -EINVAL, "%s: %s is %u, beyond the vocabulary of %u tokens; the file is damaged",
                        gguf_path(g), key, *id, t->n);
    return 0;
}

/* Where files forget to say it, the names of tokens do: "ends a turn" as chat models write it. */
static const char *const eot_names[] = {"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>",
                                        "<|endoftext|>"};
static const char *const eog_names[] = {"<|eom_id|>", "<|end_of_text|>", "</s>"};

static bool is_control_named(const struct tokenizer *t, uint32_t id, const char *name)
{
    return t->type[id] == TOKEN_CONTROL && gguf_str_is(t->piece[id], name);
}

static int load_special_ids(struct tokenizer *t, const struct gguf *g, struct skv_error *err)
{
    uint32_t eom = TOKENIZER_NONE;
    int r;
    if ((r = load_id(t, g, "tokenizer.ggml.bos_token_id", &t->bos, err)) ||
        (r = load_id(t, g, "tokenizer.ggml.eos_token_id", &t->eos, err)) ||
        (r = load_id(t, g, "tokenizer.ggml.eot_token_id", &t->eot, err)) ||
        (r = load_id(t, g, "tokenizer.ggml.eom_token_id", &eom, err)) ||
        (r = load_id(t, g, "tokenizer.ggml.unknown_token_id", &t->unknown, err)))
        return r;
    for (uint32_t i = 0; i < t->n; i++) {
        for (size_t k = 0; k < sizeof eot_names / sizeof eot_names[0]; k++)
            if (is_control_named(t, i, eot_names[k])) {
                t->eog[i] = true;
                t->eot = t->eot == TOKENIZER_NONE ? i : t->eot;
            }
        for (size_t k = 0; k < sizeof eog_names / sizeof eog_names[0]; k++)
            t->eog[i] |= is_control_named(t, i, eog_names[k]);
    }
    const uint32_t ends[] = {t->eos, t->eot, eom};
    for (size_t k = 0; k < 3; k++)
        if (ends[k] != TOKENIZER_NONE)
            t->eog[ends[k]] = true;
    return 0;
}

static int load(struct tokenizer *t, const struct gguf *g, struct skv_error *err)
{
    struct gguf_str model;
    struct gguf_array texts;
    int r = gguf_string(g, "tokenizer.ggml.model", GGUF_NEED, &model, err);
    if (r)
        return r;
    bool spm = gguf_str_is(model, "llama");
    if (!spm && !gguf_str_is(model, "gpt2"))
        return skv_fail(err, -ENOTSUP,
                        "%s: tokenizer model \"%.*s\" is not supported; supported: llama, gpt2", gguf_path(g),
                        (int)(model.len > 80 ? 80 : model.len), model.data);
    if ((r = gguf_array(g, "tokenizer.ggml.tokens", GGUF_NEED, GGUF_STRING, &texts, err)))
        return r;
    if (texts.n == 0 || texts.n > MAX_VOCAB)
        return skv_fail(err, -EINVAL, "%s: a vocabulary of %llu tokens; from 1 to %u are possible",
                        gguf_path(g), (unsigned long long)texts.n, MAX_VOCAB);
    t->n = (uint32_t)texts.n;
    t->piece = calloc(t->n, sizeof *t->piece);
    t->type = calloc(t->n, sizeof *t->type);
    t->eog = calloc(t->n, sizeof *t->eog);
    bool full = !t->piece || !t->type || !t->eog;
    if (!full && (r = load_types(t, g, err)))
        return r;
    if (full || load_pieces(t, &texts, spm ? tokenizer_spm_piece : tokenizer_bpe_piece) || index_pieces(t) ||
        index_special(t))
        return skv_fail(err, -ENOMEM, "%s: out of memory for the vocabulary", gguf_path(g));
    if (spm && t->n > 2) { /* SentencePiece's own order, for files that don't say */
        t->unknown = 0;
        t->bos = 1;
        t->eos = 2;
    }
    t->adds_bos = spm;
    if ((r = load_special_ids(t, g, err)) ||
        (r = spm ? tokenizer_spm_load(t, g, err) : tokenizer_bpe_load(t, g, err)))
        return r;
    return gguf_bool(g, "tokenizer.ggml.add_bos_token", GGUF_OPT, &t->adds_bos, err);
}

int tokenizer_from_gguf(const struct gguf *g, struct tokenizer **out, struct skv_error *err)
{
    *out = NULL;
    struct tokenizer *t = calloc(1, sizeof *t);
    if (!t)
        return skv_fail(err, -ENOMEM, "%s: out of memory for the vocabulary", gguf_path(g));
    t->bos = t->eos = t->eot = t->unknown = TOKENIZER_NONE;
    int r = load(t, g, err);
    if (r)
        tokenizer_free(t);
    else
        *out = t;
    return r;
}

void tokenizer_free(struct tokenizer *t)
{
    if (!t)
        return;
    free(t->piece);
    free(t->type);
    free(t->eog);
    free(t->arena);
    free(t->slot);
    free(t->special);
    free(t->score);
    free(t->joined);
    free(t->rank);
    pcre2_code_free(t->words);
    free(t);
}

/* ---- facts ---- */

struct gguf_str tokenizer_piece(const struct tokenizer *t, uint32_t id, bool special)
{
    if (id >= t->n || (!special && (t->type[id] == TOKEN_CONTROL || t->type[id] == TOKEN_UNKNOWN)))
        return (struct gguf_str){"", 0};
    return t->piece[id];
}

uint32_t tokenizer_n_vocab(const struct tokenizer *t)
{
    return t->n;
}

uint32_t tokenizer_bos(const struct tokenizer *t)
{
    return t->bos;
}

uint32_t tokenizer_eos(const struct tokenizer *t)
{
    return t->eos;
}

uint32_t tokenizer_eot(const struct tokenizer *t)
{
    return t->eot;
}

bool tokenizer_is_eog(const struct tokenizer *t, uint32_t id)
{
    return id < t->n && t->eog[id];
}

void tokenizer_forbid_eog(const struct tokenizer *t, uint32_t n, float *logits)
{
    const bool *end = t->eog + (n < t->n ? n : t->n);
    for (const bool *at = t->eog; (at = memchr(at, true, (size_t)(end - at))); at++)
        logits[at - t->eog] = -INFINITY;
}

bool tokenizer_adds_bos(const struct tokenizer *t)
{
    return t->adds_bos;
}
