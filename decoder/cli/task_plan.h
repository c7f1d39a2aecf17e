/* task_plan.h: what the texts of `scoutkv eval tasks` say, and what is asked of them; the names of all tasks.
 *
 * Pure: kind and seed decide all of it. Tasks of words have no plan: their texts are all of it
 * (decoder/model/counting_text.h). A plan is a list of facts, spread evenly over a text, and of forks of
 * that text; in each fork questions are asked one after the other. A question has one reference or several,
 * each a fact to ask for. Names, and values of digits, are never used twice for different things. */
#ifndef CLI_TASK_PLAN_H
#define CLI_TASK_PLAN_H

#include "decoder/model/recall_text.h"

#include <stdbool.h>

enum task_kind {
    TASK_NEEDLE,
    TASK_MULTI_KEY,
    TASK_MULTI_VALUE,
    TASK_MULTI_QUERY,
    TASK_TRACKING,
    TASK_CONSTRAINT,
    TASK_TOPIC_SHIFT,
    TASK_SLEEPER,
    TASK_OF_FACTS, /* so many, for the recall model; the others are for the counting model: */
    TASK_COMMON_WORDS = TASK_OF_FACTS,
    TASK_FREQUENT_WORDS,
    TASK_KINDS
};

enum {
    TASK_PARTS = 4,         /* references of a question that has several; hops of a chain */
    TASK_BEFORE = 32,       /* questions of a fork that come before the scored ones, in the last three */
    TASK_AFTER = 8,         /* these, at most */
    TASK_EARLY = 8,         /* constraints lie in the first eighth of the text */
    TASK_FEW = 4,           /* facts that are asked for again and again before a sleeper */
    TASK_LEAST_FACTS = 128, /* in a text */
};

const char *task_name(enum task_kind);
const char *task_about(enum task_kind); /* a line */
static inline bool task_of_words(enum task_kind k)
{
    return k >= TASK_OF_FACTS;
}
enum task_choice { TASK_NOT_CHOSEN, TASK_OF_ALL, TASK_NAMED };
/* "NAME,…" or "all". -EINVAL (usage) names what is wrong. */
int task_list(const char *list, enum task_choice chosen[TASK_KINDS], struct skv_error *);
/* Keeps those that fit the model: of words, or of facts. -EINVAL: one that doesn't was named. */
int task_fit(bool of_words, enum task_choice chosen[TASK_KINDS], struct skv_error *);

struct task_question {
    uint32_t from, n; /* references: asks[from, from + n) of the plan */
    bool scored;      /* or asked only for what comes after it */
    bool chain; /* each answer is the name that is asked for next: what comes after a wrong one is lost */
};

struct task_fork {
    uint32_t from, n; /* questions */
};

struct task_plan {
    struct recall_plan *facts; /* in the order of the text */
    uint32_t *asks;            /* facts */
    struct task_question *questions;
    struct task_fork *forks;
    size_t n_facts, n_asks, n_questions, n_forks;
};

/* Facts that a text has for this many questions: `facts`, or as many as it takes. Not of words. */
size_t task_facts(enum task_kind, size_t facts, size_t questions);
/* -EINVAL: more facts than there are names for. To be freed with task_plan_free. */
int task_plan_make(struct task_plan *, enum task_kind, uint64_t seed, size_t facts, size_t questions,
                   struct skv_error *);
void task_plan_free(struct task_plan *);

#endif
