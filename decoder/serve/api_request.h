/* api_request.h: the JSON of /v1/completions and /v1/chat/completions, as a struct whose every field is in
 * range.
 *
 * What would change the answer and is not done here (n > 1, penalties, tools …) is refused unless it says
 * what is done anyway; names that we don't know are refused as OpenAI refuses them, so a misspelt one is
 * found out. */
#ifndef SERVE_API_REQUEST_H
#define SERVE_API_REQUEST_H

#include "decoder/serve/api_error.h"
#include "decoder/serve/chat_template.h"

#include <jansson.h>
#include <stdint.h>

enum { API_STOPS = 4, API_TOP_LOGPROBS = 20 };

struct api_request {
    bool chat;
    const char *model; /* or NULL: whichever is served */

    /* One of these three. */
    const char *prompt; /* a text of prompt_len bytes, */
    size_t prompt_len;
    uint32_t *ids; /* or tokens (malloc'd), */
    size_t n_ids;
    struct chat_message *messages; /* or a conversation (malloc'd) */
    size_t n_messages;

    int64_t max_tokens;       /* -1: not given */
    float temperature, top_p; /* as OpenAI's: 1 and 1 if not given */
    float min_p;              /* these two are not of OpenAI's API: 0, none, if not given */
    uint32_t top_k;
    bool has_seed, ignore_eos;
    uint64_t seed;
    const char *stop[API_STOPS];
    size_t n_stop;
    bool stream, include_usage;
    bool logprobs;
    unsigned n_top; /* likeliest tokens told with each, at most API_TOP_LOGPROBS */

    json_t *json; /* what the pointers above point into */
};

/* Zero *out first. -EINVAL fills *e, a 400. *out is to be freed, on failure too. */
int api_request_parse(bool chat, const char *body, size_t len, struct api_request *out, struct api_error *e);
void api_request_free(struct api_request *);

/* For bodies of other requests: an object, NULL after filling *e. */
json_t *api_body(const char *body, size_t len, struct api_error *e);
/* A list of token ids; *ids is malloc'd. -EINVAL fills *e, naming param. */
int api_ids(const json_t *list, const char *param, uint32_t **ids, size_t *n, struct api_error *e);

#endif
