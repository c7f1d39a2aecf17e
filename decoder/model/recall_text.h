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
#define RECALL_FACT_TOKENS 8 /* of a fact whose value is digits; one less if it is a name */
#define RECALL_QUESTION_MAX (sizeof "The key of  " + RECALL_NAME_MAX + RECALL_RELATION_MAX)

/* A fact that the caller wants told. Names and values are copied. */
struct recall_plan {
    char name[RECALL_NAME_MAX];
    char value[RECALL_DIGITS + 1]; /* six digits, or a name */
    unsigned relation;             /* of recall_relations: each is another value of the same name */
    double at;                     /* 0…1: where among the places that a fact may have; rising */
};

struct recall_text_opts {
    uint64_t seed;
    size_t n_tokens;                /* tokens of the text, BOS not counted; met exactly */
    size_t n_facts;                 /* at most RECALL_N_NAMES if not planned, and at most one in 24 tokens */
    size_t keep_first;              /* no fact begins before this token (attention sinks, a system prompt) */
    size_t keep_last;               /* no fact reaches into this many last tokens (the window) */
    const struct recall_plan *plan; /* n_facts of them; NULL: names and digits by the seed, one in each of
                                     * n_facts equal parts */
};

struct recall_fact {
    char name[RECALL_NAME_MAX];
    char value[RECALL_DIGITS + 1]; /* six digits, or a name */
    unsigned relation;
    size_t token; /* where the sentence begins; BOS, if there is one, not counted */
};

struct recall_text {
    char *text; /* UTF-8, no newline, NUL-terminated */
    size_t len;
    size_t n_tokens;
    struct recall_fact *facts; /* in the order of the text; names differ, unless planned otherwise */
    size_t n_facts;
};

/* Fills *out, to be freed by recall_text_free. -EINVAL if the facts do not fit. */
int recall_text_make(struct recall_text *out, const struct recall_text_opts *, struct skv_error *err);
void recall_text_free(struct recall_text *);

/* "The key of Levet is", to be fed after the text; the model goes on with the digits and a full stop. When
 * fed as a continuation, the tokenizer's leading space mark makes it a new sentence. */
void recall_question(const struct recall_fact *, char out[RECALL_QUESTION_MAX]);

#endif
