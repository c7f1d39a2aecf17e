/* recall_text.h: a seeded corpus for the recall model: running text with facts in it, and their questions.
 *
 * Running text is sentences that never repeat. A fact is the sentence "The key of Levet is 503118." (8
 * tokens: its value is two). Facts lie at all depths, one at a random place of each of n_facts equal parts.
 * By the model's vocabulary each word, name and mark is one token, so tokens are counted without a tokenizer;
 * the tests check the count against one. */
#ifndef DECODER_MODEL_RECALL_TEXT_H
#define DECODER_MODEL_RECALL_TEXT_H

#include "common/error.h"
#include "decoder/model/recall_words.h"

#define RECALL_DIGITS 6
#define RECALL_FACT_TOKENS 8
#define RECALL_QUESTION_MAX (sizeof "The key of  is" + RECALL_NAME_MAX)

struct recall_text_opts {
    uint64_t seed;
    size_t n_tokens;   /* tokens of the text, BOS not counted; met exactly */
    size_t n_facts;    /* at most RECALL_N_NAMES, and at most one in 24 tokens */
    size_t keep_first; /* no fact begins before this token (attention sinks, a system prompt) */
    size_t keep_last;  /* no fact reaches into this many last tokens (the window) */
};

struct recall_fact {
    char name[RECALL_NAME_MAX];
    char digits[RECALL_DIGITS + 1];
    size_t token; /* where the sentence begins; BOS, if there is one, not counted */
};

struct recall_text {
    char *text; /* UTF-8, no newline, NUL-terminated */
    size_t len;
    size_t n_tokens;
    struct recall_fact *facts; /* in the order of the text; names differ */
    size_t n_facts;
};

/* Fills *out, to be freed by recall_text_free. -EINVAL if the facts do not fit. */
int recall_text_make(struct recall_text *out, const struct recall_text_opts *, struct skv_error *err);
void recall_text_free(struct recall_text *);

/* "The key of Levet is", to be fed after the text; the model goes on with the digits and a full stop. When
 * fed as a continuation, the tokenizer's leading space mark makes it a new sentence. */
void recall_question(const struct recall_fact *, char out[RECALL_QUESTION_MAX]);

#endif
