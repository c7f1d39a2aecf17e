/* task_text.h: a text of `scoutkv eval tasks` in tokens, and the forks in which it is asked about: of facts
 * (task_plan.h), or of words that are counted (decoder/model/counting_text.h). */
#ifndef CLI_TASK_TEXT_H
#define CLI_TASK_TEXT_H

#include "decoder/cli/ask.h"
#include "decoder/cli/task_plan.h"
#include "decoder/model/counting_text.h"

struct task_text_opts {
    enum task_kind kind;
    uint64_t seed, tokens;   /* BOS included; a text of words may be up to 5 shorter */
    size_t facts, questions; /* of a text of words there is one question */
    const struct kv_options *kv;
};

struct task_text {
    uint32_t *ids; /* BOS and the text */
    size_t n_ids;
    size_t n_forks, n_asks; /* asks: of all forks together */
    /* of facts */
    struct task_plan plan;
    struct recall_text facts;
    uint32_t stop; /* the token that ends a sentence */
    /* of words */
    bool of_words;
    struct counting_text words;
    uint32_t answer[COUNTING_ANSWERS]; /* as tokens */
};

/* To be freed with task_text_free, also on failure. -EINVAL if it doesn't fit, or the model's vocabulary
 * isn't the one it is written for. */
int task_text_make(struct task_text *, const struct tokenizer *, const struct task_text_opts *,
                   struct skv_error *);
void task_text_free(struct task_text *);

struct task_figures { /* a text, for readers of the table */
    uint64_t fact_pages,
        protected_facts;                /* pages in which a fact begins; facts that are always attended to */
    uint64_t answer_count, other_count; /* how often the rarest answer comes, and the next word */
};
struct task_figures task_text_figures(const struct task_text *, const struct kv_ranges *protected);

struct found {
    uint64_t questions, right; /* right: all of its references were found */
    uint64_t references, found;
};
void found_add(struct found *sum, const struct found *);

/* Asks all that is asked in fork number `fork` of this text, and adds what was found; before: of questions
 * that are asked only for what comes after them. The asker's session uses ctx. */
int task_text_ask(const struct task_text *, struct asker *, struct meter *, skv_context *ctx, size_t fork,
                  struct found *scored, struct found *before, struct skv_error *);
size_t task_text_asks(const struct task_text *, size_t fork);

#endif
