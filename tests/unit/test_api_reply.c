/* Bodies and chunks in OpenAI's form, errors, and how likely tokens are said to be. */
#include "decoder/serve/api_reply.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <errno.h>

static const struct api_answer completion = {.id = "cmpl-1", .model = "m", .created = 5, .logprobs = true};
static const struct api_answer chat = {
    .chat = true, .id = "chatcmpl-1", .model = "m", .created = 5, .include_usage = true};
static const struct api_usage usage = {.prompt = 10, .cached = 4, .completion = 3};

static json_t *parse(char *text)
{
    json_error_t why;
    json_t *o = text ? json_loads(text, 0, &why) : NULL;
    if (!o)
        fail_msg("no JSON: %s", text ? text : "(none)");
    free(text);
    return o;
}

static json_t *parse_event(char *text)
{
    size_t n = text ? strlen(text) : 0;
    if (n < 8 || strncmp(text, "data: ", 6) != 0 || strcmp(text + n - 2, "\n\n") != 0 ||
        strchr(text, '\n') != text + n - 2)
        fail_msg("no event: %s", text ? text : "(none)");
    char *body = strndup(text + 6, n - 8);
    free(text);
    return parse(body);
}

static void expect(json_t *o, const char *json)
{
    json_t *want = json_loads(json, 0, NULL);
    assert_non_null(want);
    if (!json_equal(o, want)) {
        char *is = json_dumps(o, 0);
        print_error("is:     %s\nwanted: %s\n", is, json);
        free(is);
        fail();
    }
    json_decref(o);
    json_decref(want);
}

static struct token_logprobs token(uint32_t id, const char *piece, float logprob, size_t at)
{
    return (struct token_logprobs){.token = {id, logprob}, .piece = {piece, strlen(piece)}, .at_char = at};
}

static void whole_answers(void **state)
{
    (void)state;
    struct token_logprobs l[2] = {token(1, " a", -0.5f, 0), token(2, "\xc3", -INFINITY, 2)};
    l[0].n_top = 2;
    l[0].top[0] = (struct logprob){1, -0.5f};
    l[0].top[1] = (struct logprob){7, -1.5f};
    l[0].top_piece[0] = (struct gguf_str){" a", 2};
    l[0].top_piece[1] = (struct gguf_str){"b", 1};
    expect(parse(api_reply(&completion, "x\"y", 3, "stop", l, 2, &usage)),
           "{\"id\": \"cmpl-1\", \"object\": \"text_completion\", \"created\": 5, \"model\": \"m\", "
           "\"choices\": [{\"index\": "
           "0, \"text\": \"x\\\"y\", \"logprobs\": {\"tokens\": [\" a\", \"\\ufffd\"], \"token_logprobs\": "
           "[-0.5, -9999.0], "
           "\"top_logprobs\": [{\" a\": -0.5, \"b\": -1.5}, {}], \"text_offset\": [0, 2]}, "
           "\"finish_reason\": \"stop\"}], "
           "\"usage\": {\"prompt_tokens\": 10, \"completion_tokens\": 3, \"total_tokens\": 13, "
           "\"prompt_tokens_details\": "
           "{\"cached_tokens\": 4}}}");
    expect(parse(api_reply(&chat, "hi", 2, "length", NULL, 0, &usage)),
           "{\"id\": \"chatcmpl-1\", \"object\": \"chat.completion\", \"created\": 5, \"model\": \"m\", "
           "\"choices\": "
           "[{\"index\": 0, \"message\": {\"role\": \"assistant\", \"content\": \"hi\", \"refusal\": null}, "
           "\"logprobs\": null, "
           "\"finish_reason\": \"length\"}], \"usage\": {\"prompt_tokens\": 10, \"completion_tokens\": 3, "
           "\"total_tokens\": 13, "
           "\"prompt_tokens_details\": {\"cached_tokens\": 4}}}");
}

static void chunks(void **state)
{
    (void)state;
#define HEAD                                                                                             \
    "{\"id\": \"chatcmpl-1\", \"object\": \"chat.completion.chunk\", \"created\": 5, \"model\": \"m\", " \
    "\"choices\": "
    expect(parse_event(api_chunk_begin(&chat)),
           HEAD "[{\"index\": 0, \"delta\": {\"role\": \"assistant\", \"content\": \"\"}, \"logprobs\": "
                "null, \"finish_reason\": "
                "null}], \"usage\": null}");
    expect(parse_event(api_chunk_text(&chat, "a\nb", 3, NULL, 0)),
           HEAD "[{\"index\": 0, \"delta\": {\"content\": \"a\\nb\"}, \"logprobs\": null, \"finish_reason\": "
                "null}], \"usage\": "
                "null}");
    expect(
        parse_event(api_chunk_finish(&chat, "stop", &usage)), HEAD
        "[{\"index\": 0, \"delta\": {}, \"logprobs\": null, \"finish_reason\": \"stop\"}], \"usage\": null}");
    struct api_answer degrades = chat;
    struct api_usage lost = usage;
    degrades.degrades = true;
    degrades.include_usage = false;
    lost.degraded = 2;
    lost.missed_mass = 0.25;
    expect(parse_event(api_chunk_finish(&degrades, "stop", &lost)), HEAD
           "[{\"index\": 0, \"delta\": {}, \"logprobs\": null, \"finish_reason\": \"stop\"}], \"scoutkv\": "
           "{\"degraded_steps\": 2, \"estimated_missed_mass\": 0.25}}");
    expect(parse_event(api_chunk_usage(&chat, &usage)),
           HEAD "[], \"usage\": {\"prompt_tokens\": 10, \"completion_tokens\": 3, \"total_tokens\": 13, "
                "\"prompt_tokens_details\": {\"cached_tokens\": 4}}}");
    struct token_logprobs l = token(1, "a", -1, 0);
    expect(parse_event(api_chunk_text(&completion, "a", 1, &l, 1)),
           "{\"id\": \"cmpl-1\", \"object\": \"text_completion\", \"created\": 5, \"model\": \"m\", "
           "\"choices\": [{\"index\": 0, "
           "\"text\": \"a\", \"logprobs\": {\"tokens\": [\"a\"], \"token_logprobs\": [-1.0], "
           "\"top_logprobs\": [{}], "
           "\"text_offset\": [0]}, \"finish_reason\": null}]}");
    struct api_answer told = chat;
    told.logprobs = true;
    told.include_usage = false;
    l = token(1, "\xc3\xa9", -1, 0);
    expect(parse_event(api_chunk_text(&told, "\xc3\xa9", 2, &l, 1)),
           HEAD "[{\"index\": 0, \"delta\": {\"content\": \"\\u00e9\"}, \"logprobs\": {\"content\": "
                "[{\"token\": \"\\u00e9\", "
                "\"logprob\": -1.0, \"bytes\": [195, 169], \"top_logprobs\": []}], \"refusal\": null}, "
                "\"finish_reason\": null}]}");
}

static void errors(void **state)
{
    (void)state;
    struct api_error e;
    struct skv_error err;
    api_error(&e, 400, NULL, "top_p", "no \xff good");
    expect(parse(api_error_body(&e)),
           "{\"error\": {\"message\": \"no \\ufffd good\", \"type\": \"invalid_request_error\", "
           "\"param\": \"top_p\", \"code\": null}}");
    api_error(&e, 429, "queue_full", NULL, "later");
    expect(parse_event(api_chunk_error(&e)),
           "{\"error\": {\"message\": \"later\", \"type\": \"rate_limit_error\", \"param\": null, \"code\": "
           "\"queue_full\"}}");
    static const struct {
        int code, status;
    } of[] = {{-EHOSTUNREACH, 503}, {-ENODATA, 503}, {-EBADMSG, 503},
              {-ENOSPC, 503},       {-ENOMEM, 503},  {-EDOM, 500}};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        skv_fail(&err, of[i].code, "why");
        api_error_of(&e, &err);
        assert_int_equal(e.status, of[i].status);
        assert_string_equal(e.type, "server_error");
        assert_string_equal(e.message, "why");
    }
}

static void ids_differ(void **state)
{
    (void)state;
    struct api_answer a = chat, b = chat;
    api_answer_name(&a);
    api_answer_name(&b);
    assert_memory_equal(a.id, "chatcmpl-", 9);
    assert_int_equal(strlen(a.id), 9 + 24);
    assert_string_not_equal(a.id, b.id);
}

static void likelihoods(void **state)
{
    (void)state;
    const float logits[] = {1, NAN, 3, 3, -INFINITY, 2};
    struct token_logprobs l;
    double sum = exp(1) + 2 * exp(3) + exp(2);
    logprobs_of(logits, 6, 5, 4, &l);
    assert_float_equal(l.token.logprob, 2 - log(sum), 1e-6);
    assert_int_equal(l.n_top, 4);
    const uint32_t order[] = {2, 3, 5, 0}; /* equals: the lower id first */
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(l.top[i].id, order[i]);
    assert_float_equal(l.top[3].logprob, 1 - log(sum), 1e-6);
    logprobs_of(logits, 6, 4, 0, &l);
    assert_int_equal(l.n_top, 0);
    assert_true(isinf(l.token.logprob));
    const float large[] = {1000, 1000};
    logprobs_of(large, 2, 1, 1, &l);
    assert_float_equal(l.token.logprob, -log(2), 1e-6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_answers), cmocka_unit_test(chunks),      cmocka_unit_test(errors),
        cmocka_unit_test(ids_differ),    cmocka_unit_test(likelihoods),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
