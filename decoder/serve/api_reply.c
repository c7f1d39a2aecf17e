#include "decoder/serve/api_reply.h"
#include "decoder/model/utf8.h"

#include <jansson.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void api_answer_name(struct api_answer *a)
{
    uint8_t random[12];
    randombytes_buf(random, sizeof random);
    char hex[2 * sizeof random + 1];
    sodium_bin2hex(hex, sizeof hex, random, sizeof random);
    snprintf(a->id, sizeof a->id, "%s-%s", a->chat ? "chatcmpl" : "cmpl", hex);
}

static char *dump(json_t *o)
{
    char *text = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(o);
    return text;
}

static char *event(json_t *o)
{
    char *body = dump(o), *text = NULL;
    if (body && asprintf(&text, "data: %s\n\n", body) < 0)
        text = NULL;
    free(body);
    return text;
}

/* ---- logprobs ---- */

/* JSON is Unicode, and a token may be part of a character. */
static json_t *piece_text(struct gguf_str piece)
{
    struct utf8_stream s = {0};
    char *text = malloc(UTF8_ROOM(piece.len) + UTF8_ROOM(0));
    if (!text)
        return NULL;
    size_t n = utf8_stream_push(&s, piece.data, piece.len, text);
    n += utf8_stream_flush(&s, text + n);
    json_t *o = json_stringn(text, n);
    free(text);
    return o;
}

static json_t *piece_bytes(struct gguf_str piece)
{
    json_t *list = json_array();
    for (size_t i = 0; i < piece.len; i++)
        json_array_append_new(list, json_integer((unsigned char)piece.data[i]));
    return list;
}

/* JSON has no infinities: what can't come is as unlikely as OpenAI says it. */
static json_t *number(float logprob)
{
    return json_real(logprob > -9999 ? (double)logprob : -9999);
}

static json_t *chat_token(struct logprob l, struct gguf_str piece)
{
    return json_pack("{s:o, s:o, s:o}", "token", piece_text(piece), "logprob", number(l.logprob), "bytes",
                     piece_bytes(piece));
}

static json_t *chat_logprobs(const struct token_logprobs *l, size_t n)
{
    json_t *content = json_array();
    for (size_t i = 0; i < n; i++) {
        json_t *token = chat_token(l[i].token, l[i].piece), *top = json_array();
        for (unsigned k = 0; k < l[i].n_top; k++)
            json_array_append_new(top, chat_token(l[i].top[k], l[i].top_piece[k]));
        json_object_set_new(token, "top_logprobs", top);
        json_array_append_new(content, token);
    }
    return json_pack("{s:o, s:n}", "content", content, "refusal");
}

static json_t *completion_logprobs(const struct token_logprobs *l, size_t n)
{
    json_t *tokens = json_array(), *logprobs = json_array(), *tops = json_array(), *offsets = json_array();
    for (size_t i = 0; i < n; i++) {
        json_t *top = json_object();
        for (unsigned k = 0; k < l[i].n_top; k++) {
            json_t *name = piece_text(l[i].top_piece[k]);
            if (name && !json_object_get(top, json_string_value(name))) /* the likelier of two alike */
                json_object_set_new(top, json_string_value(name), number(l[i].top[k].logprob));
            json_decref(name);
        }
        json_array_append_new(tokens, piece_text(l[i].piece));
        json_array_append_new(logprobs, number(l[i].token.logprob));
        json_array_append_new(tops, top);
        json_array_append_new(offsets, json_integer((json_int_t)l[i].at_char));
    }
    return json_pack("{s:o, s:o, s:o, s:o}", "tokens", tokens, "token_logprobs", logprobs, "top_logprobs",
                     tops, "text_offset", offsets);
}

static json_t *logprobs(const struct api_answer *a, const struct token_logprobs *l, size_t n)
{
    return !a->logprobs ? json_null() : a->chat ? chat_logprobs(l, n) : completion_logprobs(l, n);
}

/* ---- whole answers and chunks ---- */

static json_t *finish_reason(const char *finish)
{
    return finish ? json_string(finish) : json_null();
}

static json_t *usage_object(const struct api_usage *u)
{
    return json_pack("{s:I, s:I, s:I, s:{s:I}}", "prompt_tokens", (json_int_t)u->prompt, "completion_tokens",
                     (json_int_t)u->completion, "total_tokens", (json_int_t)(u->prompt + u->completion),
                     "prompt_tokens_details", "cached_tokens", (json_int_t)u->cached);
}

/* What is not in OpenAI's API: how much of the context the answer did without. */
static void add_loss(const struct api_answer *a, json_t *o, const struct api_usage *u)
{
    if (a->degrades)
        json_object_set_new(o, "scoutkv",
                            json_pack("{s:I, s:f}", "degraded_steps", (json_int_t)u->degraded,
                                      "estimated_missed_mass", u->missed_mass));
}

/* choices: taken over. */
static json_t *head(const struct api_answer *a, const char *object, json_t *choices)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:o}", "id", a->id, "object", object, "created",
                     (json_int_t)a->created, "model", a->model, "choices", choices);
}

char *api_reply(const struct api_answer *a, const char *text, size_t len, const char *finish,
                const struct token_logprobs *l, size_t n, const struct api_usage *u)
{
    json_t *choice;
    if (a->chat)
        choice = json_pack("[{s:i, s:{s:s, s:o, s:n}, s:o, s:o}]", "index", 0, "message", "role", "assistant",
                           "content", json_stringn(text, len), "refusal", "logprobs", logprobs(a, l, n),
                           "finish_reason", finish_reason(finish));
    else
        choice = json_pack("[{s:i, s:o, s:o, s:o}]", "index", 0, "text", json_stringn(text, len), "logprobs",
                           logprobs(a, l, n), "finish_reason", finish_reason(finish));
    json_t *o = head(a, a->chat ? "chat.completion" : "text_completion", choice);
    json_object_set_new(o, "usage", usage_object(u));
    add_loss(a, o, u);
    return dump(o);
}

/* A chunk; choice (taken over) NULL: one without. */
static json_t *chunk_object(const struct api_answer *a, json_t *choice, const struct api_usage *u)
{
    json_t *o = head(a, a->chat ? "chat.completion.chunk" : "text_completion",
                     choice ? json_pack("[o]", choice) : json_array());
    if (a->include_usage)
        json_object_set_new(o, "usage", u ? usage_object(u) : json_null());
    return o;
}

static char *chunk(const struct api_answer *a, json_t *choice, const struct api_usage *u)
{
    return event(chunk_object(a, choice, u));
}

char *api_chunk_begin(const struct api_answer *a)
{
    return chunk(a,
                 json_pack("{s:i, s:{s:s, s:s}, s:n, s:n}", "index", 0, "delta", "role", "assistant",
                           "content", "", "logprobs", "finish_reason"),
                 NULL);
}

char *api_chunk_text(const struct api_answer *a, const char *text, size_t len, const struct token_logprobs *l,
                     size_t n)
{
    json_t *choice = a->chat
                         ? json_pack("{s:i, s:{s:o}, s:o, s:n}", "index", 0, "delta", "content",
                                     json_stringn(text, len), "logprobs", logprobs(a, l, n), "finish_reason")
                         : json_pack("{s:i, s:o, s:o, s:n}", "index", 0, "text", json_stringn(text, len),
                                     "logprobs", logprobs(a, l, n), "finish_reason");
    return choice ? chunk(a, choice, NULL) : NULL;
}

char *api_chunk_finish(const struct api_answer *a, const char *finish, const struct api_usage *u)
{
    json_t *choice =
        a->chat
            ? json_pack("{s:i, s:{}, s:n, s:s}", "index", 0, "delta", "logprobs", "finish_reason", finish)
            : json_pack("{s:i, s:s, s:n, s:s}", "index", 0, "text", "", "logprobs", "finish_reason", finish);
    json_t *o = choice ? chunk_object(a, choice, NULL) : NULL;
    if (o)
        add_loss(a, o, u);
    return o ? event(o) : NULL;
}

char *api_chunk_usage(const struct api_answer *a, const struct api_usage *u)
{
    return chunk(a, NULL, u);
}

static json_t *error_object(const struct api_error *e)
{
    /* They may quote what a client sent, and cut it anywhere. */
    json_t *message = piece_text((struct gguf_str){e->message, strlen(e->message)});
    json_t *param = e->param[0] ? piece_text((struct gguf_str){e->param, strlen(e->param)}) : json_null();
    return json_pack("{s:{s:o, s:s, s:o, s:s?}}", "error", "message", message, "type", e->type, "param",
                     param, "code", e->code);
}

char *api_chunk_error(const struct api_error *e)
{
    return event(error_object(e));
}

char *api_error_body(const struct api_error *e)
{
    return dump(error_object(e));
}
