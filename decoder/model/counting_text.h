/* counting_text.h: seeded texts for the counting model: RULER's two aggregation tasks, and their answers.
 *
 * COUNTING_COMMON: a numbered list, "1. goose 2. lamp …", shuffled. Ten words come ten times as often as all
 * others: 30 times and 3 times, as long as there are new words for the length; then all words are in it and
 * both grow. COUNTING_FREQUENT: the word of rank k comes in the share k^-2 / zeta(2) of all places, shuffled;
 * rank 1 is no word but "....", so the three most frequent words are ranks 2 to 4. */
#ifndef DECODER_MODEL_COUNTING_TEXT_H
#define DECODER_MODEL_COUNTING_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "decoder/model/counting_model.h"

enum counting_kind { COUNTING_COMMON, COUNTING_FREQUENT };
enum { COUNTING_COMMON_WORDS = 10, COUNTING_FREQUENT_WORDS = 3, COUNTING_ANSWERS = 10 };

struct counting_text {
    char *text; /* UTF-8, no newline, NUL-terminated */
    size_t len;
    size_t n_tokens;                   /* BOS not counted */
    uint32_t count[COUNTING_WORDS];    /* how often word i of counting_words comes */
    uint32_t answer[COUNTING_ANSWERS]; /* the words that come most often: numbers i, falling */
    size_t n_answers;
};

/* Fills *out, to be freed by counting_text_free, with as much as n_tokens hold (up to 5 fewer). -EINVAL if
 * they are too few. */
int counting_text_make(struct counting_text *out, enum counting_kind, uint64_t seed, size_t n_tokens,
                       struct skv_error *err);
void counting_text_free(struct counting_text *);

#endif
