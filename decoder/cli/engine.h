/* engine.h: what every command that runs a model opens first, and the passes they share. */
#ifndef CLI_ENGINE_H
#define CLI_ENGINE_H

#include "decoder/cli/kv_options.h"
#include "decoder/cli/on_loss.h"
#include "decoder/model/forward.h"
#include "decoder/model/tokenizer.h"

struct engine { /* zero it first */
    struct model *model;
    struct tokenizer *tok;
    skv_tier *tier;
    struct skv_model shape;
    const struct kv_options *kv;
    struct skv_calibration *calibration; /* or NULL */
    char recipe[32];
    struct kv_ranges ranges; /* what is protected; add before engine_context */
    struct on_loss loss;     /* of the session that was opened last */
};

/* The model and its vocabulary. The tier comes later, when everything that needs no node was checked. */
int engine_open(struct engine *, const char *path, const struct kv_options *, struct skv_error *);
int engine_connect(struct engine *, struct skv_error *);
void engine_close(struct engine *); /* after sessions and contexts */

/* A new context and its session; opts as engine_context_opts made and the caller changed them. */
int engine_context_opts(struct engine *, struct skv_context_opts *, struct skv_error *);
int engine_context(struct engine *, const struct skv_context_opts *, skv_context **, struct session **,
                   struct skv_error *);
/* The session for a context that came about otherwise. */
int engine_session(struct engine *, skv_context *, struct session **, struct skv_error *);

/* Prefill with a progress bar; *seconds (may be NULL) is how long it took. -EINTR after Ctrl-C: what is done
 * stays. */
int engine_prefill(const struct engine *, struct session *, const char *label, const uint32_t *ids, size_t n,
                   float *logits, double *seconds, struct skv_error *);

/* All layers: at rest, and in the unsealed tail. */
uint64_t kv_bytes_per_token(const struct model_params *, enum skv_dtype);
uint64_t kv_local_bytes_per_token(const struct model_params *, enum skv_dtype);
uint64_t peak_rss(void); /* of this process, bytes */

#endif
