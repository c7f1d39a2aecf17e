/* run.h: what the files of `scoutkv run` share: cmd_run.c (its options, one prompt), run_loop.c (tokens), and
 * run_converse.c (a conversation). */
#ifndef CLI_RUN_H
#define CLI_RUN_H

#include "decoder/cli/emit.h"
#include "decoder/cli/engine.h"
#include "decoder/cli/meter.h"
#include "decoder/cli/resume.h"

struct run_args {
    const char *model, *prompt, *file, *tokens, *system, *save, *resume, *ttl, *chat_template;
    int64_t n_predict;
    uint64_t context, seed;
    double temp, top_p, min_p;
    uint32_t top_k;
    uint64_t ttl_ms;
    bool ignore_eos, json, special, fresh, cnv;
    struct opt_list stop, delimiter;
    struct kv_options kv;
};

struct run {
    const struct run_args *args;
    struct engine engine;
    skv_context *ctx;
    struct session *session;
    struct emit emit;
    struct sampler sampler;
    struct resume_typed typed;
    struct meter meter;
    float *logits;          /* (vocab), after the last token of the context */
    uint32_t *prompt, *ids; /* ids: generated; an end token is not among them */
    size_t n_prompt, n_ids, ids_room;
    uint64_t limit; /* of the context, tokens */
    uint64_t first; /* position of the first generated token */
    uint64_t found; /* tokens of the prompt that were on the tier */
    double open_s, prefill_s,
        decode_s;      /* open: until the context was there, and its logits if no prompt follows */
    const char *ended; /* "end", "stop", "length", "context", "interrupted" */
};

/* Draws tokens behind r->logits, steps them, and shows them, until r->ended says why no more. They begin
 * r->ids anew. */
int run_generate(struct run *, struct skv_error *);
/* -EINVAL: the limit is too low for what the context holds and the prompt. */
int run_check_room(const struct run *, uint64_t held, struct skv_error *);
/* A new context that begins with what of the prompt is on the tier (r->found), and its session. */
int run_open_new(struct run *, const struct skv_context_opts *, struct skv_error *);
/* Lines of the summary that don't depend on what was asked: steps, nodes, losses, memory. */
void run_print_costs(const struct run *);

/* Lines from standard input, an answer to each; the model is open and nothing else. */
int run_converse(struct run *, struct skv_context_opts *, struct skv_error *);

#endif
