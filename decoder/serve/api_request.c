#include "decoder/serve/api_request.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A parameter, by name, with the function that takes it. JSON's null is as good as leaving one out. */
struct param {
    const char *name;
    int (*take)(struct api_request *, const char *name, const json_t *, struct api_error *);
};

static int wrong(struct api_error *e, const char *name, const char *expected)
{
    return api_error(e, 400, NULL, name, "'%s' must be %s", name, expected);
}

/* ---- kinds of values ---- */

static int number_in(const json_t *v, const char *name, double min, double max, const char *expected,
                     double *out, struct api_error *e)
{
    double x = json_is_number(v) ? json_number_value(v) : NAN;
    if (!(x >= min && x <= max))
        return wrong(e, name, expected);
    *out = x;
    return 0;
}

static int integer_in(const json_t *v, const char *name, int64_t min, int64_t max, const char *expected,
                      int64_t *out, struct api_error *e)
{
    if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max)
        return wrong(e, name, expected);
    *out = json_integer_value(v);
    return 0;
}

static int truth(const json_t *v, const char *name, bool *out, struct api_error *e)
{
    if (!json_is_boolean(v))
        return wrong(e, name, "true or false");
    *out = json_is_true(v);
    return 0;
}

/* ---- what is asked ---- */

static int take_model(struct api_request *r, const char *name, const json_t *v, struct api_error *e)
{
    if (!json_is_string(v))
        return wrong(e, name, "the name of a model");
    r->model = json_string_value(v);
    return 0;
}

int api_ids(const json_t *list, const char *param, uint32_t **ids, size_t *n, struct api_error *e)
{
    size_t i;
    const json_t *v;
    *n = json_array_size(list);
    if (!json_is_array(list))
        return wrong(e, param, "a list of token ids");
    *ids = malloc((*n + 1) * sizeof **ids);
    if (!*ids)
        return api_error(e, 503, "out_of_room", NULL, "out of memory for %zu tokens", *n);
    json_array_foreach(list, i, v)
    {
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > UINT32_MAX) {
            free(*ids);
            *ids = NULL;
            return api_error(e, 400, NULL, param, "'%s': item %zu is no token id", param, i);
        }
        (*ids)[i] = (uint32_t)json_integer_value(v);
    }
    return 0;
}

/* A text, a list of token ids, or a list of one of these. */
static int take_prompt(struct api_request *r, const char *name, const json_t *v, struct api_error *e)
{
    const json_t *first = json_array_get(v, 0);
    if (json_is_string(first) || json_is_array(first)) {
        if (json_array_size(v) > 1)
            return api_error(e, 400, NULL, name, "'prompt' is a list of %zu prompts: send one a request",
                             json_array_size(v));
        v = first;
    }
    if (json_is_string(v)) {
        r->prompt = json_string_value(v);
        r->prompt_len = json_string_length(v);
        return 0;
    }
    if (!json_is_array(v))
        return wrong(e, name, "a text or a list of token ids");
    return api_ids(v, name, &r->ids, &r->n_ids, e);
}

static int take_role(const json_t *v, size_t i, enum chat_role *out, struct api_error *e)
{
    static const struct {
        const char *name;
        enum chat_role role;
    } roles[] = {{"system", CHAT_SYSTEM},
                 {"developer", CHAT_SYSTEM},
                 {"user", CHAT_USER},
                 {"assistant", CHAT_ASSISTANT}};
    const char *name = json_string_value(v);
    for (size_t k = 0; name && k < sizeof roles / sizeof *roles; k++)
        if (!strcmp(name, roles[k].name)) {
            *out = roles[k].role;
            return 0;
        }
    return api_error(e, 400, NULL, "messages", "message %zu: 'role' must be system, user or assistant", i);
}

/* Parts of content are joined, by replacing the list by one text in the JSON that r owns. */
static int join_parts(json_t *message, size_t i, struct api_error *e)
{
    const json_t *parts = json_object_get(message, "content"), *part;
    size_t k, len = 0;
    json_array_foreach(parts, k, part)
    {
        const char *type = json_string_value(json_object_get(part, "type"));
        if (!type || strcmp(type, "text") != 0 || !json_is_string(json_object_get(part, "text")))
            return api_error(
                e, 400, NULL, "messages",
                "message %zu: part %zu of 'content' is no {\"type\": \"text\", \"text\": …}: only "
                "text is read",
                i, k);
        len += json_string_length(json_object_get(part, "text"));
    }
    char *text = malloc(len + 1), *at = text;
    json_array_foreach(parts, k, part)
    {
        const json_t *v = json_object_get(part, "text");
        if (at)
            at = mempcpy(at, json_string_value(v), json_string_length(v));
    }
    int bad = !text || json_object_set_new(message, "content", json_stringn_nocheck(text, len));
    free(text);
    return bad ? api_error(e, 503, "out_of_room", NULL, "out of memory for the messages") : 0;
}

static int take_messages(struct api_request *r, const char *name, const json_t *v, struct api_error *e)
{
    size_t i;
    json_t *message;
    if (!json_is_array(v) || json_array_size(v) == 0)
        return wrong(e, name, "a list of messages");
    r->messages = calloc(json_array_size(v), sizeof *r->messages);
    if (!r->messages)
        return api_error(e, 503, "out_of_room", NULL, "out of memory for the messages");
    json_array_foreach(v, i, message)
    {
        struct chat_message *m = &r->messages[i];
        int rc = take_role(json_object_get(message, "role"), i, &m->role, e);
        if (!rc && json_is_array(json_object_get(message, "content")))
            rc = join_parts(message, i, e);
        const json_t *content = json_object_get(message, "content");
        if (!rc && !json_is_string(content))
            rc = api_error(e, 400, NULL, name, "message %zu: 'content' must be a text", i);
        if (rc)
            return rc;
        m->text = json_string_value(content);
        m->len = json_string_length(content);
        r->n_messages++;
    }
    return 0;
}

/* ---- how it is answered ---- */

static int take_max(struct api_request *r, const char *name, const json_t *v, struct api_error *e)
{
    return integer_in(v, name, 0, INT32_MAX, "a number of tokens, 0 or more", &r->max_tokens, e);
}

static int take_temperature(struct api_request *r, const char *name, const json_t *v, struct api_error *e)
{
    double x = 0;
    int rc = number_in(v, name, 0, 2, "a number from 0 to 2", &x, e);
    r->temperature = (float)x;
    return rc;
}

static int take_top_p(struct api_request *r, const char *name, const json_t *v, struct api_error *e)
{
    double x = 0;
    int rc = number_in(v, name, 0, 1, "a number above 0 and up to 1", &x, e);
    r->top_p = x > 0 && x < 1e-6 ? 1e-6f : (float)x;
    return rc || x > 0 ? rc : wrong(e, name, "a number above 0 and up to 1");
}

static int take_min_p(struct api_request *r, const char *name, const json_t *v, struct api_error *e)
{
    double x = 0;
    int rc = number_in(v, name, 0, 1, "a number from 0 to 1", &x, e);
    r->min_p = (float)x;
    return rc;
}

static int take_top_k(struct api_request *r, const char *name, const json_t *v, struct api_error *e)
{
    int64_t n = 0;
    int rc = integer_in(v, name, 0, INT32_MAX, "a number of tokens; 0: all", &n, e);
    r->top_k = (uint32_t)n;
    return rc;
}

static int take_seed(struct api_request *r, const char *name, const json_t *v, struct api_error *e)
{
    int64_t n = 0;
    int rc = integer_in(v, name, INT64_MIN, INT64_MAX, "an integer of 64 bits", &n, e);
    r->seed = (uint64_t)n;
    r->has_seed = rc == 0;
    return rc;
}

static int add_stop(struct api_request *r, const json_t *v, struct api_error *e)
{
    const char *text = json_string_value(v);
    if (!text || strlen(text) != json_string_length(v) || !*text)
        return wrong(e, "stop", "a text, or a list of up to 4, none of them empty");
    r->stop[r->n_stop++] = text;
    return 0;
}

static int take_stop(struct api_request *r, const char *name, const json_t *v, struct api_error *e)
{
    size_t i;
    const json_t *item;
    if (json_is_string(v))
        return add_stop(r, v, e);
    if (!json_is_array(v) || json_array_size(v) > API_STOPS)
        return wrong(e, name, "a text, or a list of up to 4, none of them empty");
    json_array_foreach(v, i, item)
    {
        int rc = add_stop(r, item, e);
        if (rc)
            return rc;
    }
    return 0;
}

static int take_stream(struct api_request *r, const char *name, const json_t *v, struct api_error *e)
{
    return truth(v, name, &r->stream, e);
}

static int take_stream_options(struct api_request *r, const char *name, const json_t *v, struct api_error *e)
{
    const json_t *usage = json_object_get(v, "include_usage");
    if (!json_is_object(v))
        return wrong(e, name, "an object");
    return usage && !json_is_null(usage) ? truth(usage, "stream_options.include_usage", &r->include_usage, e)
                                         : 0;
}

static int take_ignore_eos(struct api_request *r, const char *name, const json_t *v, struct api_error *e)
{
    return truth(v, name, &r->ignore_eos, e);
}

/* completions: how many; chat: whether. */
static int take_logprobs(struct api_request *r, const char *name, const json_t *v, struct api_error *e)
{
    int64_t n = 0;
    if (r->chat)
        return truth(v, name, &r->logprobs, e);
    int rc = integer_in(v, name, 0, 5, "a number from 0 to 5", &n, e);
    r->logprobs = rc == 0;
    r->n_top = (unsigned)n;
    return rc;
}

static int take_top_logprobs(struct api_request *r, const char *name, const json_t *v, struct api_error *e)
{
    int64_t n = 0;
    int rc = integer_in(v, name, 0, API_TOP_LOGPROBS, "a number from 0 to 20", &n, e);
    r->n_top = (unsigned)n;
    return rc;
}

/* ---- what is known, but only one way of it is done ---- */

static int only_one(struct api_request *r, const char *name, const json_t *v, struct api_error *e)
{
    (void)r;
    return json_is_integer(v) && json_integer_value(v) == 1
               ? 0
               : api_error(e, 400, "unsupported_value", name,
                           "'%s' can only be 1: send more requests instead", name);
}

static int only_nothing(struct api_request *r, const char *name, const json_t *v, struct api_error *e)
{
    (void)r;
    bool nothing = json_is_false(v) || (json_is_number(v) && json_number_value(v) == 0) ||
                   ((json_is_array(v) || json_is_object(v)) && !json_array_size(v) && !json_object_size(v)) ||
                   (json_is_string(v) && (!json_string_length(v) || !strcmp(json_string_value(v), "none")));
    return nothing ? 0
                   : api_error(e, 400, "unsupported_parameter", name, "'%s' is not supported: leave it out",
                               name);
}

static int only_text(struct api_request *r, const char *name, const json_t *v, struct api_error *e)
{
    const char *type = json_string_value(json_object_get(v, "type"));
    (void)r;
    return type && !strcmp(type, "text")
               ? 0
               : api_error(e, 400, "unsupported_value", name, "'%s' can only be {\"type\": \"text\"}", name);
}

/* About the client, not about the answer. */
static int ignored(struct api_request *r, const char *name, const json_t *v, struct api_error *e)
{
    (void)r, (void)name, (void)v, (void)e;
    return 0;
}

static const struct param both[] = {
    {"model", take_model},
    {"max_tokens", take_max},
    {"temperature", take_temperature},
    {"top_p", take_top_p},
    {"seed", take_seed},
    {"stop", take_stop},
    {"stream", take_stream},
    {"stream_options", take_stream_options},
    {"logprobs", take_logprobs},
    {"top_k", take_top_k},
    {"min_p", take_min_p},
    {"ignore_eos", take_ignore_eos},
    {"n", only_one},
    {"presence_penalty", only_nothing},
    {"frequency_penalty", only_nothing},
    {"logit_bias", only_nothing},
    {"user", ignored},
    {"metadata", ignored},
    {"store", ignored},
    {"service_tier", ignored},
    {"safety_identifier", ignored},
    {"prompt_cache_key", ignored},
    {0},
};
static const struct param completion_only[] = {
    {"prompt", take_prompt}, {"best_of", only_one}, {"echo", only_nothing}, {"suffix", only_nothing}, {0}};
static const struct param chat_only[] = {
    {"messages", take_messages},         {"max_completion_tokens", take_max},
    {"top_logprobs", take_top_logprobs}, {"tools", only_nothing},
    {"tool_choice", only_nothing},       {"functions", only_nothing},
    {"function_call", only_nothing},     {"parallel_tool_calls", ignored},
    {"response_format", only_text},      {0},
};

/* ---- the whole ---- */

static const struct param *find(const struct param *table, const char *name)
{
    for (; table->name; table++)
        if (!strcmp(table->name, name))
            return table;
    return NULL;
}

json_t *api_body(const char *body, size_t len, struct api_error *e)
{
    json_error_t why;
    json_t *o = json_loadb(body, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
    if (!o) {
        api_error(e, 400, NULL, NULL, "the body is no JSON: %s (line %d, column %d)", why.text, why.line,
                  why.column);
        return NULL;
    }
    if (!json_is_object(o)) {
        api_error(e, 400, NULL, NULL, "the body must be a JSON object");
        json_decref(o);
        return NULL;
    }
    return o;
}

static int check_whole(const struct api_request *r, struct api_error *e)
{
    const char *what = r->chat ? "messages" : "prompt";
    if (r->chat ? !r->messages : !r->prompt && !r->ids)
        return api_error(e, 400, "missing_required_parameter", what, "'%s' is missing", what);
    if (r->chat && r->n_top && !r->logprobs)
        return api_error(e, 400, NULL, "top_logprobs", "'top_logprobs' needs 'logprobs': true");
    if (r->include_usage && !r->stream)
        return api_error(e, 400, NULL, "stream_options", "'stream_options' is for 'stream': true");
    if (json_object_get(r->json, "max_tokens") && json_object_get(r->json, "max_completion_tokens"))
        return api_error(e, 400, NULL, "max_tokens",
                         "'max_tokens' and 'max_completion_tokens' are the same: send one");
    return 0;
}

int api_request_parse(bool chat, const char *body, size_t len, struct api_request *r, struct api_error *e)
{
    const char *name;
    json_t *v;
    *r = (struct api_request){.chat = chat, .max_tokens = -1, .temperature = 1, .top_p = 1};
    r->json = api_body(body, len, e);
    if (!r->json)
        return -EINVAL;
    json_object_foreach(r->json, name, v)
    {
        const struct param *p = find(both, name);
        if (!p)
            p = find(chat ? chat_only : completion_only, name);
        if (!p)
            return api_error(e, 400, "unknown_parameter", name, "'%.40s' is no parameter of this request",
                             name);
        int rc = json_is_null(v) ? 0 : p->take(r, name, v, e);
        if (rc)
            return rc;
    }
    return check_whole(r, e);
}

void api_request_free(struct api_request *r)
{
    free(r->ids);
    free(r->messages);
    json_decref(r->json);
    *r = (struct api_request){0};
}
