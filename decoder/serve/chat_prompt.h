/* chat_prompt.h: a conversation as the tokens that a model goes on from: the template's text through the
 * model's tokenizer. The server uses it, and `scoutkv run -cnv`. */
#ifndef SERVE_CHAT_PROMPT_H
#define SERVE_CHAT_PROMPT_H

#include "decoder/model/tokenizer.h"
#include "decoder/serve/chat_template.h"

/* The template called `name`, or (NULL) the one that the model's file is recognised by. -EINVAL: the file has
 * none, or one that is not known here; the sentence leaves open what to do about it. */
int chat_template_choose(const struct gguf *, const char *name, enum chat_template *out, struct skv_error *);

/* *ids (malloc'd): up to where the model speaks, with BOS where the model expects it. -EINVAL: see
 * chat_template_write. */
int chat_prompt(const struct tokenizer *, enum chat_template, const struct chat_message *, size_t n,
                uint32_t **ids, size_t *n_ids, struct skv_error *);

/* *stop: what ends the model's turn as text where the vocabulary has no token for it; else NULL. */
int chat_prompt_stop(const struct tokenizer *, enum chat_template, const char **stop, struct skv_error *);

#endif
