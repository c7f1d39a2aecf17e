/* api_reply.h: what is sent back: JSON bodies, and the chunks of a stream, in OpenAI's form.
 *
 * All texts are malloc'd; NULL: out of memory. Text that goes in is valid UTF-8; the pieces of logprobs need
 * not be. Chunks are whole server-sent events, "data: …\n\n". */
#ifndef SERVE_API_REPLY_H
#define SERVE_API_REPLY_H

#include "decoder/serve/api_error.h"
#include "decoder/serve/logprobs.h"

#include <stdbool.h>

struct api_answer { /* what all parts of one answer say */
    bool chat, include_usage;
    bool logprobs;
    bool degrades; /* --on-loss: it is told what was missed */
    char id[40];
    const char *model;
    int64_t created; /* seconds since 1970 */
};
struct api_usage {
    uint64_t prompt, cached, completion; /* tokens; cached: of the prompt, found on the tier */
    uint64_t degraded;  /* steps, and chunks of the prompt, that went on without pages that no node gave, */
    double missed_mass; /* and the estimated share of the attention mass that these had, on average */
};

void api_answer_name(struct api_answer *); /* a new random id, by its kind */

char *api_reply(const struct api_answer *, const char *text, size_t len, const char *finish,
                const struct token_logprobs *, size_t n_logprobs, const struct api_usage *);

char *api_chunk_begin(const struct api_answer *); /* chat only: says who speaks */
char *api_chunk_text(const struct api_answer *, const char *text, size_t len, const struct token_logprobs *,
                     size_t n_logprobs);
char *api_chunk_finish(const struct api_answer *, const char *finish, const struct api_usage *);
char *api_chunk_usage(const struct api_answer *, const struct api_usage *);
char *api_chunk_error(const struct api_error *);
#define API_CHUNK_DONE "data: [DONE]\n\n"

char *api_error_body(const struct api_error *);

#endif
