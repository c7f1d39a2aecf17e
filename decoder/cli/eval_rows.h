/* eval_rows.h: what the rows of every `scoutkv eval` table begin with: a policy as it was written, the tokens
 * it may read, and a fresh fork of a stored context that selects so. */
#ifndef CLI_EVAL_ROWS_H
#define CLI_EVAL_ROWS_H

#include "decoder/cli/engine.h"

struct eval_choice {
    char name[SKV_POLICY_TEXT]; /* with its options: what rows and JSON call it */
    struct skv_select select;   /* its budget is the row's */
};

struct eval_choices {
    struct eval_choice *at; /* malloc'd */
    size_t n;
};

/* "NAME[:OPTION=VALUE…],…" into choices, each with base's budget, unit, mass and refresh, and cascade with
 * its tail; "all" stands for every policy there is. They are added to those that are there. -EINVAL (usage)
 * names what is wrong. */
int eval_policies(const char *list, const struct skv_select *base, struct eval_choices *, struct skv_error *);
/* Whether its rows differ by budget. */
bool eval_takes_budget(const struct skv_select *);

/* "64,256,10%" into tokens, rising and without doubles: percentages are of `tokens`, and each budget is
 * rounded down to whole selections of `unit`, but not below one. *budgets is malloc'd. -EINVAL (usage). */
int eval_budgets(const char *list, uint64_t tokens, uint32_t unit, uint32_t **budgets, size_t *n,
                 struct skv_error *);

/* Bytes of a row's cache if nobody says otherwise: twice what its budget reads in a step, because consecutive
 * steps choose nearly the same pages. */
uint64_t eval_cache(const struct skv_select *, uint64_t token_bytes);
/* A fork of base that selects so, with an empty cache, in the session's place of it. */
int eval_fork(struct session *, skv_context *base, const struct skv_select *, uint64_t cache_bytes,
              skv_context **fork, struct skv_error *);

#endif
