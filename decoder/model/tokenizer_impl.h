/* tokenizer_impl.h: what the files of the tokenizer share. Nobody else includes it. */
#ifndef DECODER_MODEL_TOKENIZER_IMPL_H
#define DECODER_MODEL_TOKENIZER_IMPL_H

#include "decoder/model/tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

enum token_type { /* numbers as in the file; any other means normal */
                  TOKEN_NORMAL = 1,
                  TOKEN_UNKNOWN = 2,
                  TOKEN_CONTROL = 3,
                  TOKEN_USER_DEFINED = 4,
                  TOKEN_UNUSED = 5,
                  TOKEN_BYTE = 6,
};

struct ids { /* a growing array of token ids */
    uint32_t *p;
    size_t n, cap;
};

/* One call of tokenizer_merge works on these; they are reused from word to word. */
struct symbol {
    uint32_t at, len;    /* the bytes text[at, at + len) */
    uint32_t id;         /* TOKENIZER_NONE: no token has these bytes */
    uint32_t prev, next; /* neighbours, NO_SYMBOL at the ends; a symbol with len 0 was merged away */
};
#define NO_SYMBOL UINT32_MAX

struct merge {
    float cost; /* lower goes first, then the leftmost */
    uint32_t left, right;
    uint32_t len; /* of both together when the merge was proposed: stale if they have grown since */
    uint32_t id;  /* of the token that both become */
};

struct encoder { /* the state of one tokenizer_encode call */
    const struct tokenizer *tok;
    struct ids ids;
    struct symbol *symbols;
    struct merge *heap; /* a binary heap, cheapest first */
    size_t n_symbols, cap_symbols, n_heap, cap_heap;
    pcre2_match_data *match;
    pcre2_match_context *match_context;
    pcre2_jit_stack *jit_stack;
    struct skv_error *err;
};

struct rank { /* gpt2: the merge of two tokens; left == TOKENIZER_NONE marks a free slot */
    uint32_t left, right, id;
    float cost; /* position in the list of merges, exact: there are fewer than 2^24 */
};

struct tokenizer {
    /* What a kind of tokenizer does. encode_text: a text that holds no special tokens and stands at the
     * beginning or after one. rate: may two neighbouring symbols merge, at what cost and into which token? */
    int (*encode_text)(struct encoder *, const char *text, size_t len);
    bool (*rate)(const struct tokenizer *, const char *text, const struct symbol *l, const struct symbol *r,
                 struct merge *);

    uint32_t n;             /* size of the vocabulary */
    struct gguf_str *piece; /* [n] the bytes of each token, in arena */
    uint8_t *type;          /* [n] enum token_type */
    bool *eog;              /* [n] */
    char *arena;
    uint32_t *slot; /* [mask + 1] pieces that text may become, by their bytes: 1 + id, 0 = free */
    uint32_t mask;
    size_t max_piece;
    uint32_t bos, eos, eot, unknown;
    uint32_t byte_id[256]; /* the token of each single byte; NONE where unknown stands in (llama only) */
    bool adds_bos;

    uint32_t *special; /* [n_special] control, unknown and user-defined tokens by (first byte, longest, id) */
    uint32_t n_special;
    uint32_t special_at[257]; /* those that begin with byte b: special[special_at[b], special_at[b + 1]) */

    float *score;      /* llama: [n] */
    bool space_prefix; /* llama: a space goes before the first word */
    uint8_t *joined;   /* llama: bit set of hashed character pairs that occur inside some piece */

    struct rank *rank; /* gpt2: [rank_mask + 1] open addressing by (left, right) */
    uint32_t rank_mask;
    bool whole_words; /* gpt2: a word that is a token is that token, whatever the merges would make of it */
    pcre2_code *words;
};

/* tokenizer.c */
uint32_t tokenizer_lookup(const struct tokenizer *, const char *bytes, size_t len); /* id or NONE */
int tokenizer_emit(struct encoder *, uint32_t id);

/* tokenizer_merge.c: merges neighbours, cheapest first, until none can. begin, add every symbol from left to
 * right, run; then walk the survivors from symbol 0 along next. */
void tokenizer_merge_begin(struct encoder *);
int tokenizer_merge_add(struct encoder *, size_t at, size_t len, uint32_t id);
int tokenizer_merge_run(struct encoder *, const char *text);
void tokenizer_merge_free(struct encoder *);

/* tokenizer_spm.c and tokenizer_bpe.c. load_pieces turns the file's token texts into bytes, in place; load
 * reads the rest once pieces can be looked up. */
void tokenizer_spm_piece(struct gguf_str *piece, char *bytes);
int tokenizer_spm_load(struct tokenizer *, const struct gguf *, struct skv_error *err);
void tokenizer_bpe_piece(struct gguf_str *piece, char *bytes);
int tokenizer_bpe_load(struct tokenizer *, const struct gguf *, struct skv_error *err);

#endif
