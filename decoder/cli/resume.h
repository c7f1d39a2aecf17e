/* resume.h: what `scoutkv run` keeps beside a saved context, and how its options meet the command line's. */
#ifndef CLI_RESUME_H
#define CLI_RESUME_H

#include "decoder/cli/engine.h"
#include "decoder/model/sample.h"

/* The sampler as bytes for skv_save_opts.engine (malloc'd, a JSON text), and back. -EBADMSG when they are
 * none of ours. */
int resume_pack_sampler(const struct sampler *, char **out, struct skv_error *);
int resume_unpack_sampler(const struct skv_saved *, struct sampler *, struct skv_error *);

/* Whether the command line named an option. */
struct resume_typed {
    const struct opt_command *command;
    const struct opt_memory *memory;
};
/* Sets kv and *opts to what the context was saved with; those that may differ (how to select in decode steps,
 * cache, ack) stay as typed. opts points into saved. -EINVAL: an option that was typed says something else.
 */
int resume_options(const struct skv_saved *, const struct resume_typed *, struct kv_options *kv,
                   struct skv_context_opts *opts, struct skv_error *);

/* The name that the model's file gives it, else the file's own; at most SKV_MODEL_NAME_MAX bytes. */
void resume_model_name(const struct model *, char out[SKV_MODEL_NAME_MAX + 1]);

/* -EINVAL says what is wrong with the text of a time to live; NULL gives 0. */
int resume_ttl(const char *text, uint64_t *ms, struct skv_error *);

#endif
