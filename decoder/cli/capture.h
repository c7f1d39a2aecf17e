/* capture.h: tokens, which of their queries are measured, and the trace of a pass over them. */
#ifndef CLI_CAPTURE_H
#define CLI_CAPTURE_H

#include "decoder/cli/engine.h"
#include "decoder/model/kv_trace.h"

struct capture { /* zero it first */
    uint32_t *ids;
    uint8_t *mark; /* enum kv_trace_mark */
    size_t n;
};

/* The first n tokens of the text's bytes from `skip` on; `queries` of its second half are marked. */
int capture_text(struct capture *, const struct tokenizer *, const char *path, uint64_t skip, uint64_t tokens,
                 uint32_t queries, struct skv_error *);
/* These ids, copied, and marked in the same way. */
int capture_ids(struct capture *, const uint32_t *ids, size_t n, uint32_t queries, struct skv_error *);
/* A prompt and its answer from a file of JSON lines; queries that copy the answer's digits are marked, and
 * the `queries` before them. -ERANGE: there are fewer prompts. */
int capture_prompt(struct capture *, const struct tokenizer *, const char *path, uint32_t index,
                   uint32_t queries, struct skv_error *);
void capture_free(struct capture *);

/* A prefill over the tokens as e's options say, into a trace at `path`, which is committed and still open. */
int capture_run(const struct capture *, struct engine *e, const char *label, const char *path,
                struct kv_trace **out, struct skv_error *);

#endif
