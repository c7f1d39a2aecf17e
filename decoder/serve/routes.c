/* routes.c: what is served under which path. */
#include "common/clock.h"
#include "common/size.h"
#include "decoder/serve/room.h"
#include "decoder/serve/chat_prompt.h"
#include "decoder/serve/serve_impl.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

static enum MHD_Result json(struct call *c, json_t *o)
{
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    return http_json(c, 200, text);
}

/* ---- about the server ---- */

static enum MHD_Result health(struct call *c)
{
    struct exchange *x = &c->serve->exchange;
    return json(c,
                json_pack("{s:s, s:s, s:i, s:i, s:I, s:I, s:i, s:i}", "status",
                          exchange_closed(x) ? "stopping" : "ok", "model", c->serve->opts.model_id, "active",
                          (int)atomic_load(&x->active), "waiting", (int)exchange_waiting(x), "memory",
                          (json_int_t)x->memory, "memory_taken", (json_int_t)exchange_taken(x), "nodes",
                          (int)atomic_load(&x->nodes), "nodes_up", (int)atomic_load(&x->nodes_up)));
}

static json_t *model_object(const struct serve *s)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:I}", "id", s->opts.model_id, "object", "model", "created",
                     (json_int_t)s->started, "owned_by", "scoutkv", "max_model_len",
                     (json_int_t)s->opts.limit);
}

static enum MHD_Result models(struct call *c)
{
    return json(c, json_pack("{s:s, s:[o]}", "object", "list", "data", model_object(c->serve)));
}

static int check_model(const struct serve *s, const char *name, struct api_error *e)
{
    if (!name || !strcmp(name, s->opts.model_id))
        return 0;
    return api_error(e, 404, "model_not_found", "model", "there is no model '%.80s' here, but '%s'", name,
                     s->opts.model_id);
}

static enum MHD_Result one_model(struct call *c)
{
    struct api_error e;
    if (check_model(c->serve, c->path_rest, &e))
        return http_error(c, &e, 0, NULL);
    return json(c, model_object(c->serve));
}

/* ---- text and tokens ---- */

static int bool_field(const json_t *o, const char *name, bool *out, struct api_error *e)
{
    const json_t *v = json_object_get(o, name);
    *out = json_is_true(v);
    return !v || json_is_boolean(v) ? 0 : api_error(e, 400, NULL, name, "'%s' must be true or false", name);
}

static int tokenize_body(const struct call *c, const json_t *o, json_t **out, struct api_error *e)
{
    const json_t *content = json_object_get(o, "content");
    bool bos, special;
    uint32_t *ids;
    size_t n;
    struct skv_error err;
    if (!json_is_string(content))
        return api_error(e, 400, NULL, "content", "'content' must be a text");
    if (bool_field(o, "add_special", &bos, e) || bool_field(o, "parse_special", &special, e))
        return -EINVAL;
    const struct tokenizer *tok = c->serve->opts.tok;
    if (tokenizer_encode(tok, json_string_value(content), json_string_length(content),
                         bos && tokenizer_adds_bos(tok), special, &ids, &n, &err)) {
        api_error_of(e, &err);
        return -EINVAL;
    }
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, json_integer(ids[i]));
    free(ids);
    *out = json_pack("{s:o}", "tokens", list);
    return 0;
}

static int detokenize_body(const struct call *c, const json_t *o, json_t **out, struct api_error *e)
{
    const struct tokenizer *tok = c->serve->opts.tok;
    uint32_t *ids;
    size_t n;
    if (api_ids(json_object_get(o, "tokens"), "tokens", &ids, &n, e))
        return -EINVAL;
    struct stop_text text = {0};
    int rc = 0;
    for (size_t i = 0; i < n && !rc; i++) {
        struct gguf_str piece = tokenizer_piece(tok, ids[i], true);
        rc = ids[i] >= tokenizer_n_vocab(tok)
                 ? api_error(e, 400, NULL, "tokens", "token id %u is outside the vocabulary of %u", ids[i],
                             tokenizer_n_vocab(tok))
                 : stop_text_push(&text, piece.data, piece.len);
    }
    rc = rc ? rc : stop_text_end(&text);
    if (!rc)
        *out = json_pack("{s:o}", "content", json_stringn(text.text, text.len));
    else if (rc == -ENOMEM)
        api_error(e, 503, "out_of_room", NULL, "out of memory");
    stop_text_free(&text);
    free(ids);
    return rc;
}

/* A body that is a JSON object, and what a function makes of it. */
static enum MHD_Result by_body(struct call *c, int (*make)(const struct call *, const json_t *, json_t **,
                                                           struct api_error *))
{
    struct api_error e;
    json_t *out = NULL, *o = api_body(c->body, c->len, &e);
    int rc = o ? make(c, o, &out, &e) : -EINVAL;
    json_decref(o);
    return rc ? http_error(c, &e, 0, NULL) : json(c, out);
}

static enum MHD_Result tokenize(struct call *c)
{
    return by_body(c, tokenize_body);
}

static enum MHD_Result detokenize(struct call *c)
{
    return by_body(c, detokenize_body);
}

/* ---- completions: what a request becomes for the worker ---- */

static int text_prompt(struct ticket *t, const struct serve *s, struct api_error *e)
{
    const struct api_request *r = &t->request;
    struct skv_error err;
    int rc = tokenizer_encode(s->opts.tok, r->prompt, r->prompt_len, tokenizer_adds_bos(s->opts.tok), false,
                              &t->ids, &t->n_ids, &err);
    if (rc)
        api_error_of(e, &err);
    return rc;
}

static int conversation(struct ticket *t, const struct serve *s, struct api_error *e)
{
    const struct api_request *r = &t->request;
    const char *end = NULL;
    struct skv_error err;
    if (!s->opts.chat_template)
        return api_error(e, 400, "no_chat_template", NULL, "%s", s->opts.no_chat);
    int rc = chat_prompt(s->opts.tok, *s->opts.chat_template, r->messages, r->n_messages, &t->ids, &t->n_ids,
                         &err);
    if (!rc)
        rc = chat_prompt_stop(s->opts.tok, *s->opts.chat_template, &end, &err);
    if (rc == -EINVAL)
        return api_error(e, 400, NULL, "messages", "%s", err.text);
    if (rc)
        api_error_of(e, &err);
    else if (end)
        t->stop[t->n_stop++] = end;
    return rc;
}

static int token_prompt(struct ticket *t, const struct serve *s, struct api_error *e)
{
    t->ids = t->request.ids;
    t->n_ids = t->request.n_ids;
    t->request.ids = NULL;
    for (size_t i = 0; i < t->n_ids; i++)
        if (t->ids[i] >= s->opts.model->params.vocab)
            return api_error(e, 400, NULL, "prompt", "token id %u is outside the model's vocabulary of %u",
                             t->ids[i], s->opts.model->params.vocab);
    return 0;
}

static int check_length(struct ticket *t, const struct serve *s, struct api_error *e)
{
    const struct api_request *r = &t->request;
    const char *what = r->chat ? "messages" : "prompt";
    uint64_t most = s->opts.max_tokens ? s->opts.max_tokens : s->opts.limit;
    if (t->n_ids == 0)
        return api_error(e, 400, NULL, what, "the prompt has no tokens");
    if (t->n_ids > s->opts.limit)
        return api_error(e, 400, "context_length_exceeded", what,
                         "the prompt has %zu tokens, and a context holds %" PRIu64, t->n_ids, s->opts.limit);
    if (r->max_tokens < 0) {
        t->max_tokens = r->chat ? most : most < 16 ? most : 16;
        return 0;
    }
    t->max_tokens = (uint64_t)r->max_tokens;
    if (t->max_tokens > most)
        return api_error(e, 400, NULL, "max_tokens",
                         "'max_tokens' is %" PRIu64 "; at most %" PRIu64 " are generated", t->max_tokens,
                         most);
    if (t->n_ids + t->max_tokens > s->opts.limit)
        return api_error(e, 400, "context_length_exceeded", what,
                         "the prompt has %zu tokens, %" PRIu64
                         " more are asked for, and a context holds %" PRIu64,
                         t->n_ids, t->max_tokens, s->opts.limit);
    return 0;
}

/* What it will hold, for as many tokens as it may come to; of an answer without a limit a beginning. */
static int check_room(struct ticket *t, const struct serve *s, struct api_error *e)
{
    const struct serve_opts *o = &s->opts;
    uint64_t answer = t->request.max_tokens < 0 && t->max_tokens > ROOM_ANSWER ? ROOM_ANSWER : t->max_tokens;
    t->tokens = t->n_ids + answer < o->limit ? t->n_ids + answer : o->limit;
    t->bytes = room_bytes(o->shape, o->context, o->chunk, t->tokens);
    if (t->bytes <= o->memory)
        return 0;
    char needs[32], has[32];
    return api_error(
        e, 400, "context_length_exceeded", t->request.chat ? "messages" : "prompt",
        "a context of %" PRIu64 " tokens needs %s of memory, and this server has %s for all requests "
        "(--memory): ask for fewer tokens",
        t->tokens, size_format(needs, sizeof needs, t->bytes), size_format(has, sizeof has, o->memory));
}

static int fill_ticket(struct ticket *t, const struct serve *s, struct api_error *e)
{
    struct api_request *r = &t->request;
    int rc = 0;
    for (size_t i = 0; i < r->n_stop; i++)
        t->stop[t->n_stop++] = r->stop[i];
    if (r->chat)
        rc = conversation(t, s, e);
    else if (r->prompt)
        rc = text_prompt(t, s, e);
    else
        rc = token_prompt(t, s, e);
    if (!rc)
        rc = check_length(t, s, e);
    if (!rc)
        rc = check_room(t, s, e);
    if (!r->has_seed)
        randombytes_buf(&r->seed, sizeof r->seed);
    t->answer = (struct api_answer){.chat = r->chat,
                                    .include_usage = r->include_usage,
                                    .logprobs = r->logprobs,
                                    .degrades = s->opts.context->on_loss == SKV_LOSS_DEGRADE,
                                    .model = s->opts.model_id,
                                    .created = (int64_t)(clock_wall_ns() / NS_PER_S)};
    api_answer_name(&t->answer);
    return rc;
}

static int make_ticket(const struct call *c, bool chat, struct ticket **out, struct api_error *e)
{
    struct api_request r = {0};
    struct ticket *t = NULL;
    int rc = api_request_parse(chat, c->body, c->len, &r, e);
    if (!rc)
        rc = check_model(c->serve, r.model, e);
    if (!rc && !(t = ticket_new(&r)))
        rc = api_error(e, 503, "out_of_room", NULL, "out of memory");
    if (!rc) {
        t->tenant = c->tenant;
        rc = fill_ticket(t, c->serve, e);
    }
    api_request_free(&r);
    if (rc)
        ticket_release(t);
    else
        *out = t;
    return rc;
}

static enum MHD_Result complete(struct call *c, bool chat)
{
    struct api_error e;
    struct ticket *t;
    uint64_t retry_after_s = 0;
    int rc = make_ticket(c, chat, &t, &e);
    if (!rc && (rc = exchange_put(&c->serve->exchange, t, &retry_after_s, &e)) != 0)
        ticket_release(t);
    return rc ? http_error(c, &e, retry_after_s, NULL) : http_ticket(c, t);
}

static enum MHD_Result completions(struct call *c)
{
    return complete(c, false);
}

static enum MHD_Result chat_completions(struct call *c)
{
    return complete(c, true);
}

/* ---- paths ---- */

static const struct route routes[] = {
    {"/health", false, true, health},
    {"/v1/models", false, false, models},
    {"/v1/models/", false, false, one_model},
    {"/v1/completions", true, false, completions},
    {"/v1/chat/completions", true, false, chat_completions},
    {"/tokenize", true, false, tokenize},
    {"/detokenize", true, false, detokenize},
};

static bool matches(const struct route *r, const char *url, const char **rest)
{
    size_t n = strlen(r->path);
    bool open_end = r->path[n - 1] == '/';
    *rest = url + (open_end ? n : 0);
    return open_end ? !strncmp(url, r->path, n) && url[n] : !strcmp(url, r->path);
}

const struct route *route_find(const char *url, const char *method, const char **rest, const char **allow,
                               struct api_error *e)
{
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        const struct route *r = &routes[i];
        if (!matches(r, url, rest))
            continue;
        if (r->post ? !strcmp(method, "POST") : !strcmp(method, "GET") || !strcmp(method, "HEAD"))
            return r;
        *allow = r->post ? "POST" : "GET, HEAD";
        api_error(e, 405, "method_not_allowed", NULL, "%s takes %s, not %.20s", r->path, *allow, method);
        return NULL;
    }
    api_error(e, 404, "unknown_path", NULL,
              "there is nothing at %.100s: /v1/chat/completions, /v1/completions, /v1/models, /tokenize, "
              "/detokenize and /health are served",
              url);
    return NULL;
}
