/* What of a request's JSON is taken, what is refused, and which parameter is named then. */
#include "decoder/serve/api_request.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static struct api_request r;
static struct api_error e;

static void parse(bool chat, const char *body)
{
    if (api_request_parse(chat, body, strlen(body), &r, &e) != 0)
        fail_msg("%s: refused: %s", body, e.message);
}

static void refuse(bool chat, const char *body, const char *param)
{
    if (api_request_parse(chat, body, strlen(body), &r, &e) == 0)
        fail_msg("%s: not refused", body);
    api_request_free(&r);
    assert_int_equal(e.status, 400);
    assert_string_equal(e.type, "invalid_request_error");
    if (strcmp(e.param, param) != 0)
        fail_msg("%s: blamed '%s', not '%s'", body, e.param, param);
    assert_true(strlen(e.message) > 10);
}

static void defaults_are_openais(void **state)
{
    (void)state;
    parse(false, "{\"prompt\": \"x\"}");
    assert_string_equal(r.prompt, "x");
    assert_null(r.model);
    assert_true(r.max_tokens == -1 && r.temperature == 1 && r.top_p == 1 && r.min_p == 0 && r.top_k == 0);
    assert_false(r.has_seed || r.stream || r.logprobs || r.ignore_eos);
    assert_int_equal(r.n_stop, 0);
    api_request_free(&r);
}

static void everything_is_read(void **state)
{
    (void)state;
    parse(false, "{\"model\": \"m\", \"prompt\": [\"a\\u0000b\"], \"max_tokens\": 7, \"temperature\": 0.5, "
                 "\"top_p\": 0.25, "
                 "\"seed\": -3, \"stop\": [\"x\", \"y\"], \"stream\": true, \"stream_options\": "
                 "{\"include_usage\": true}, "
                 "\"logprobs\": 2, \"n\": 1, \"user\": \"u\", \"presence_penalty\": 0, \"logit_bias\": {}, "
                 "\"suffix\": null}");
    assert_string_equal(r.model, "m");
    assert_int_equal(r.prompt_len, 3);
    assert_memory_equal(r.prompt, "a\0b", 3);
    assert_int_equal(r.max_tokens, 7);
    assert_true(r.temperature == 0.5f && r.top_p == 0.25f && r.has_seed && r.seed == (uint64_t)-3);
    assert_int_equal(r.n_stop, 2);
    assert_string_equal(r.stop[1], "y");
    assert_true(r.stream && r.include_usage && r.logprobs);
    assert_int_equal(r.n_top, 2);
    api_request_free(&r);
}

static void prompts_may_be_tokens(void **state)
{
    (void)state;
    parse(false, "{\"prompt\": [1, 2, 3]}");
    assert_int_equal(r.n_ids, 3);
    assert_int_equal(r.ids[2], 3);
    api_request_free(&r);
    parse(false, "{\"prompt\": [[4, 5]]}");
    assert_int_equal(r.n_ids, 2);
    assert_int_equal(r.ids[0], 4);
    api_request_free(&r);
    refuse(false, "{\"prompt\": [1, -2]}", "prompt");
    refuse(false, "{\"prompt\": [1, \"x\"]}", "prompt");
    refuse(false, "{\"prompt\": [1, 4294967296]}", "prompt");
    refuse(false, "{\"prompt\": [\"a\", \"b\"]}", "prompt");
    refuse(false, "{\"prompt\": 3}", "prompt");
}

static void conversations_are_read(void **state)
{
    (void)state;
    parse(true, "{\"messages\": [{\"role\": \"developer\", \"content\": \"Be brief.\"}, {\"role\": \"user\", "
                "\"content\": "
                "[{\"type\": \"text\", \"text\": \"one \"}, {\"type\": \"text\", \"text\": \"two\"}]}], "
                "\"max_completion_tokens\": 5, \"logprobs\": true, \"top_logprobs\": 3, \"stop\": \"END\"}");
    assert_int_equal(r.n_messages, 2);
    assert_int_equal(r.messages[0].role, CHAT_SYSTEM);
    assert_int_equal(r.messages[1].role, CHAT_USER);
    assert_int_equal(r.messages[1].len, 7);
    assert_memory_equal(r.messages[1].text, "one two", 7);
    assert_int_equal(r.max_tokens, 5);
    assert_int_equal(r.n_top, 3);
    assert_string_equal(r.stop[0], "END");
    api_request_free(&r);
    refuse(true, "{\"messages\": []}", "messages");
    refuse(true, "{\"messages\": [{\"role\": \"tool\", \"content\": \"x\"}]}", "messages");
    refuse(true, "{\"messages\": [{\"role\": \"user\"}]}", "messages");
    refuse(true, "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image_url\"}]}]}",
           "messages");
    refuse(true, "{\"messages\": [7]}", "messages");
}

static void out_of_range_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *field, *param;
    } bad[] = {
        {"\"temperature\": 2.1", "temperature"},
        {"\"temperature\": -0.1", "temperature"},
        {"\"temperature\": \"hot\"", "temperature"},
        {"\"top_p\": 0", "top_p"},
        {"\"top_p\": 1.01", "top_p"},
        {"\"min_p\": 2", "min_p"},
        {"\"top_k\": -1", "top_k"},
        {"\"max_tokens\": -1", "max_tokens"},
        {"\"max_tokens\": 1.5", "max_tokens"},
        {"\"seed\": 0.5", "seed"},
        {"\"stop\": \"\"", "stop"},
        {"\"stop\": [1]", "stop"},
        {"\"stop\": [\"a\", \"b\", \"c\", \"d\", \"e\"]", "stop"},
        {"\"stop\": \"a\\u0000b\"", "stop"},
        {"\"stream\": 1", "stream"},
        {"\"stream\": true, \"stream_options\": {\"include_usage\": 1}", "stream_options.include_usage"},
        {"\"stream_options\": {\"include_usage\": true}", "stream_options"},
        {"\"logprobs\": 6", "logprobs"},
        {"\"logprobs\": true", "logprobs"},
        {"\"n\": 2", "n"},
        {"\"best_of\": 2", "best_of"},
        {"\"echo\": true", "echo"},
        {"\"frequency_penalty\": 0.5", "frequency_penalty"},
        {"\"logit_bias\": {\"5\": 1}", "logit_bias"},
        {"\"messages\": []", "messages"},
        {"\"temprature\": 1", "temprature"},
        {"\"model\": 3", "model"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char body[200];
        snprintf(body, sizeof body, "{\"prompt\": \"x\", %s}", bad[i].field);
        refuse(false, body, bad[i].param);
    }
    static const char chat[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], %s}";
    static const struct {
        const char *field, *param;
    } bad_chat[] = {
        {"\"logprobs\": 3", "logprobs"},
        {"\"top_logprobs\": 2", "top_logprobs"},
        {"\"logprobs\": true, \"top_logprobs\": 21", "top_logprobs"},
        {"\"tools\": [{\"type\": \"function\"}]", "tools"},
        {"\"response_format\": {\"type\": \"json_object\"}", "response_format"},
        {"\"max_tokens\": 1, \"max_completion_tokens\": 1", "max_tokens"},
        {"\"prompt\": \"x\"", "prompt"},
    };
    for (size_t i = 0; i < sizeof bad_chat / sizeof *bad_chat; i++) {
        char body[200];
        snprintf(body, sizeof body, chat, bad_chat[i].field);
        refuse(true, body, bad_chat[i].param);
    }
}

static void what_is_missing_or_no_json_is_refused(void **state)
{
    (void)state;
    refuse(false, "{}", "prompt");
    refuse(false, "{\"prompt\": null}", "prompt");
    refuse(true, "{}", "messages");
    refuse(false, "", "");
    refuse(false, "[1]", "");
    refuse(false, "{\"prompt\": \"x\"", "");
    refuse(false, "{\"prompt\": \"x\", \"prompt\": \"y\"}", "");
    refuse(false, "{\"prompt\": \"\xff\"}", "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_openais),    cmocka_unit_test(everything_is_read),
        cmocka_unit_test(prompts_may_be_tokens),   cmocka_unit_test(conversations_are_read),
        cmocka_unit_test(out_of_range_is_refused), cmocka_unit_test(what_is_missing_or_no_json_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
