/* eval_tasks.h: `scoutkv eval tasks`, shared by its two files: measuring (eval_tasks.c) and telling
 * (eval_tasks_report.c). */
#ifndef CLI_EVAL_TASKS_H
#define CLI_EVAL_TASKS_H

#include "decoder/cli/eval_rows.h"
#include "decoder/cli/eval_stats.h"
#include "decoder/cli/meter.h"
#include "decoder/cli/task_text.h"

struct task_row {                /* a policy at a task */
    struct found scored, before; /* before: questions that are asked only for what comes after them */
    double *share;               /* malloc'd: found of the scored references, of each fork that was asked */
    size_t n_shares;
    double *text_share; /* [n_texts] the same of each text */
    size_t n_texts;
    bool out_of_time; /* dense: as many forks as fit the time */
    double seconds;
    struct meter meter;
};

struct task_result {
    enum task_kind kind;
    size_t facts;                /* in a text; 0: it is of words */
    struct task_figures figures; /* of the first text; but fact_pages: the least, protected_facts: of all */
    struct task_row *row;        /* [n_policies], malloc'd */
};

struct task_policy {
    struct eval_choice choice;
    bool history;   /* its base notes what pages received */
    uint64_t cache; /* bytes */
};

struct tasks_result {
    const char *model;
    const struct kv_options *kv;
    uint64_t seed, tokens, texts, questions;
    uint32_t budget;
    struct task_policy *policy; /* malloc'd */
    size_t n_policies;
    struct task_result task[TASK_KINDS];
    size_t n_tasks;
    uint64_t context_kv_bytes;
    uint64_t kv_heads; /* of all layers */
    double seconds;
    struct skv_stats lost; /* summed over all contexts */
    const struct on_loss *on_loss;
    const skv_tier *tier;
};

void tasks_print_head(const struct tasks_result *);
void tasks_print_task(const struct tasks_result *, const struct task_result *);
void tasks_print_end(const struct tasks_result *);
int tasks_write_json(const struct tasks_result *, const char *path, struct skv_error *);

#endif
