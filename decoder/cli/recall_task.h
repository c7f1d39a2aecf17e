/* recall_task.h: a long text with facts in it, and the questions to ask about them: a whole task for `eval
 * recall`, and the parts that other tasks are made of. */
#ifndef CLI_RECALL_TASK_H
#define CLI_RECALL_TASK_H

#include "decoder/model/recall_text.h"
#include "decoder/model/tokenizer.h"

enum { QUESTION_TOKENS = 32 };

struct recall_question {
    const struct recall_fact *fact;
    uint32_t ids[QUESTION_TOKENS];
    uint32_t n;
};

struct recall_task {
    struct recall_text text;
    uint32_t *ids; /* BOS and the text */
    size_t n;
    struct recall_question *questions; /* spread over all depths, shuffled: so are the first few */
    size_t n_questions;
    uint64_t fact_pages; /* pages of 16 tokens in which a fact begins */
};

struct recall_task_opts {
    uint64_t seed;
    uint64_t tokens; /* BOS included */
    uint64_t facts, questions;
    uint64_t keep_first, keep_last; /* tokens at both ends that hold no fact */
};

/* The text in tokens, after BOS; *ids is malloc'd, also on failure. -EINVAL if the model's vocabulary isn't
 * that of `make-model recall`. */
int recall_text_ids(const struct recall_text *, const struct tokenizer *, uint32_t **ids, size_t *n,
                    struct skv_error *);
/* Pages of 16 tokens in which a fact begins. */
uint64_t recall_fact_pages(const struct recall_text *);
/* The question in tokens; fact is kept. -EINVAL as above. */
int recall_question_make(struct recall_question *, const struct tokenizer *, const struct recall_fact *fact,
                         struct skv_error *);

/* Facts that a text of this length holds if nobody says otherwise. */
uint64_t recall_task_facts(uint64_t tokens);

/* -EINVAL if the facts don't fit, or the model's vocabulary isn't that of `make-model recall`. */
int recall_task_make(struct recall_task *, const struct tokenizer *, const struct recall_task_opts *,
                     struct skv_error *);
void recall_task_free(struct recall_task *);

#endif
