/* bench_hints.h: what `scoutkv bench hints` feeds, and what of the blocks was read. */
#ifndef CLI_BENCH_HINTS_H
#define CLI_BENCH_HINTS_H

#include "decoder/cli/engine.h"
#include "decoder/cli/recall_task.h"

struct hints_args {
    const char *model, *file, *prompts;
    uint64_t tokens, seed;
    uint32_t contexts, n_prompts, decode, turn, questions;
    bool json;
    struct kv_options kv;
};

/* A context: tokens to store, and tokens or questions to decode. */
struct hints_stream {
    uint32_t *ids;
    size_t n, n_prefill, at; /* at: fed so far */
    const struct recall_question *questions;
    size_t n_questions, asked;
};
struct hints_work {
    struct hints_stream *streams;
    size_t n;
    uint64_t turns; /* of all */
    struct recall_task task;
};

/* Pieces of --file and prompts of --prompts, or else a text of the recall model with its questions. */
int hints_work_make(struct hints_work *, const struct engine *, const struct hints_args *,
                    struct skv_error *);
void hints_work_free(struct hints_work *);
bool hints_stream_over(const struct hints_stream *);
/* 0 … n-1 in an order from the random state. */
void hints_shuffle(size_t *order, size_t n, uint64_t *random);

/* How many pages of each block were fetched. */
struct hints_tally {
    struct hints_counts *contexts; /* [n] */
    size_t n;
    unsigned n_layers;
};
int hints_tally_make(struct hints_tally *, size_t n_contexts, unsigned n_layers, struct skv_error *);
void hints_tally_free(struct hints_tally *);
/* What skv_context_opts.fetched_arg is for a context. */
void *hints_tally_context(struct hints_tally *, size_t context);
void hints_tally_page(void *context, uint32_t layer, uint32_t kv_head, uint64_t page);
/* The share of all fetched pages that lie in the n_blocks most read blocks. */
double hints_tally_best(const struct hints_tally *, uint64_t n_blocks);

#endif
