/* eval.h: `scoutkv eval recall`, shared by its two files: measuring (eval_recall.c) and telling
 * (eval_report.c). */
#ifndef CLI_EVAL_H
#define CLI_EVAL_H

#include "decoder/cli/meter.h"
#include "decoder/cli/on_loss.h"

#include <stdint.h>

enum { EVAL_POLICIES = 24 };

struct eval_row {
    struct skv_select select;
    char policy[SKV_POLICY_TEXT];
    uint64_t asked, right;
    bool out_of_time; /* dense: as many questions as fit the time */
    struct meter meter;
    uint64_t decoder_kv_bytes; /* most that was held: window, protected, representatives, cache */
};

struct eval_node {
    char name[64];
    uint64_t bytes; /* of blocks stored */
};

struct eval_result {
    uint64_t seed, tokens, facts, fact_pages, budget_tokens, cache_bytes;
    uint64_t context_kv_bytes, decoder_kv_bytes; /* the latter: most over all rows */
    struct skv_stats base;                       /* of the stored context after prefill */
    struct skv_stats lost;                       /* summed over base and forks: what --on-loss tells */
    const struct on_loss *on_loss;
    double prefill_s, flush_s;
    uint64_t peak_rss;
    struct eval_row row[EVAL_POLICIES];
    size_t n_rows;
    struct eval_node *nodes; /* malloc'd; none when the node runs in this process */
    size_t n_nodes;
    uint64_t nodes_rss;   /* sum of their peak RSS; 0: not known */
    const skv_tier *tier; /* for what its nodes cost */
};

void eval_print(const struct eval_result *);
int eval_write_json(const struct eval_result *, const char *path, struct skv_error *);

#endif
