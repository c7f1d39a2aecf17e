/* cmd_trace.c: `scoutkv trace`: queries, keys and values of a text, as a file to compare policies with.
 *
 * The text goes through the model as a prompt with dense attention, so what is captured is what every policy
 * would have to approximate. Which queries are measured later is decided here, where the text is known. */
#include "common/size.h"
#include "decoder/cli/cli.h"
#include "decoder/cli/engine.h"
#include "decoder/cli/interrupt.h"
#include "decoder/cli/text_io.h"
#include "decoder/model/kv_trace.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct trace_args {
    const char *model, *file, *prompts, *output;
    uint64_t tokens, skip;
    uint32_t prompt, queries;
    struct kv_options kv;
};

#define AT(member) offsetof(struct trace_args, member)
static const struct opt table[] = {
    {"model", 'm', OPT_STRING, AT(model), "FILE", "GGUF model", .required = true},
    {"output", 'o', OPT_STRING, AT(output), "FILE", "the trace", .required = true},
    {"file", 'f', OPT_STRING, AT(file), "FILE", "text; - is standard input"},
    {"skip", 0, OPT_U64, AT(skip), "BYTES", "leave out the text's first bytes"},
    {"tokens", 'n', OPT_U64, AT(tokens), "N",
     "end after N tokens (of a text; a prompt is always taken whole)", .min = 2, .max = 1 << 28},
    {"prompts", 0, OPT_STRING, AT(prompts), "FILE",
     "instead of a text: JSON lines {\"prompt\": …, \"answer\": …}; the answer is fed behind its prompt, and "
     "the "
     "queries that copy its digits are marked"},
    {"prompt", 0, OPT_U32, AT(prompt), "I", "which of the prompts, from 0"},
    {"queries", 0, OPT_U32, AT(queries), "N",
     "ordinary queries to mark: the last ones before an answer, or spread over a text's second half",
     .min = 1, .max = 1 << 20},
    {0},
};

struct capture {
    const struct trace_args *args;
    struct engine engine;
    skv_context *ctx;
    struct session *session;
    uint32_t *ids;
    uint8_t *mark;
    size_t n;
    struct kv_trace *trace;
};

/* ---- what is fed, and which queries are measured ---- */

static int mark_room(struct capture *c, struct skv_error *err)
{
    c->mark = calloc(c->n, 1);
    return c->mark ? 0 : skv_fail(err, -ENOMEM, "out of memory");
}

/* The N queries before position `end`, or evenly spread ones of [from, end). */
static void mark_ordinary(struct capture *c, size_t from, size_t end)
{
    size_t n = end - from < c->args->queries ? end - from : c->args->queries;
    for (size_t i = 0; i < n; i++)
        c->mark[end - 1 - i * (end - from) / n] = KV_TRACE_ORDINARY;
}

static int take_text(struct capture *c, struct skv_error *err)
{
    const struct trace_args *a = c->args;
    char *text;
    size_t len;
    int rc = read_all(a->file, &text, &len, err);
    if (rc)
        return rc;
    size_t at = a->skip < len ? (size_t)a->skip : len;
    while (at < len && ((unsigned char)text[at] & 0xC0) == 0x80) /* not from within a character */
        at++;
    rc = tokenizer_encode(c->engine.tok, text + at, len - at, tokenizer_adds_bos(c->engine.tok), false,
                          &c->ids, &c->n, err);
    free(text);
    if (rc)
        return rc;
    if (c->n > a->tokens)
        c->n = (size_t)a->tokens;
    if (c->n < 2)
        return skv_fail(err, -EINVAL, "%s has no text behind its first %" PRIu64 " bytes: use another --skip",
                        a->file, a->skip);
    rc = mark_room(c, err);
    if (rc == 0)
        mark_ordinary(c, c->n / 2, c->n);
    return rc;
}

static bool has_digit(const struct tokenizer *tok, uint32_t id)
{
    struct gguf_str piece = tokenizer_piece(tok, id, false);
    for (size_t i = 0; i < piece.len; i++)
        if (isdigit((unsigned char)piece.data[i]))
            return true;
    return false;
}

/* Tokens of prompt + answer; the answer's are those behind what the prompt alone begins with. */
static int take_answer(struct capture *c, const char *prompt, const char *answer, struct skv_error *err)
{
    const struct tokenizer *tok = c->engine.tok;
    bool bos = tokenizer_adds_bos(tok);
    uint32_t *alone = NULL;
    char *whole = NULL;
    size_t n_alone, same = 0, first = 0;
    int rc = tokenizer_encode(tok, prompt, strlen(prompt), bos, false, &alone, &n_alone, err);
    if (rc)
        return rc;
    int len = asprintf(&whole, "%s %s", prompt, answer);
    rc = len < 0 ? skv_fail(err, -ENOMEM, "out of memory")
                 : tokenizer_encode(tok, whole, (size_t)len, bos, false, &c->ids, &c->n, err);
    free(len < 0 ? NULL : whole);
    if (rc == 0)
        rc = mark_room(c, err);
    if (rc)
        goto out;
    while (same < n_alone && same < c->n && alone[same] == c->ids[same])
        same++;
    for (size_t i = c->n; i-- > (same ? same : 1);)
        if (has_digit(tok, c->ids[i]))
            c->mark[first = i - 1] = KV_TRACE_COPY;
    if (!first) {
        rc = skv_fail(err, -EINVAL, "%s: the answer of prompt %u has no digits to copy: '%s'",
                      c->args->prompts, c->args->prompt, answer);
        goto out;
    }
    mark_ordinary(c, first > c->args->queries ? first - c->args->queries : 0, first);
out:
    free(alone);
    return rc;
}

/* The line of JSON number `index`, blank lines not counted; NULL: there are fewer. */
static const char *line_at(const char *text, uint32_t index, size_t *len)
{
    for (;; text += *len + 1) {
        *len = strcspn(text, "\n");
        if (strspn(text, " \t\r") < *len && index-- == 0)
            return text;
        if (!text[*len])
            return NULL;
    }
}

static int take_prompt(struct capture *c, struct skv_error *err)
{
    const struct trace_args *a = c->args;
    json_error_t why;
    json_t *o = NULL;
    char *text;
    size_t len;
    int rc = read_all(a->prompts, &text, &len, err);
    if (rc)
        return rc;
    const char *line = line_at(text, a->prompt, &len);
    const char *prompt = NULL, *answer = NULL;
    if (!line)
        rc = skv_fail(err, -EINVAL, "%s has no prompt %u: they are counted from 0", a->prompts, a->prompt);
    else if (!(o = json_loadb(line, len, 0, &why)))
        rc = skv_fail(err, -EINVAL, "%s: prompt %u is not JSON: %s", a->prompts, a->prompt, why.text);
    else if (json_unpack(o, "{s:s, s:s}", "prompt", &prompt, "answer", &answer))
        rc = skv_fail(err, -EINVAL, "%s: prompt %u must be an object with the strings prompt and answer",
                      a->prompts, a->prompt);
    else
        rc = take_answer(c, prompt, answer, err);
    json_decref(o);
    free(text);
    return rc;
}

/* ---- the pass ---- */

static int create(struct capture *c, struct skv_error *err)
{
    const struct model_params *p = &c->engine.model->params;
    struct kv_trace_head head = {.n_layers = p->n_layers,
                                 .n_heads = p->n_heads,
                                 .n_kv_heads = p->n_kv_heads,
                                 .d_k = p->d_k,
                                 .d_v = p->d_v,
                                 .n_tokens = c->n,
                                 .scale = c->engine.shape.layers[0].scale};
    memcpy(head.fingerprint, model_fingerprint(c->engine.model), sizeof head.fingerprint);
    int rc = kv_trace_create(c->args->output, &head, &c->trace, err);
    if (rc)
        return rc;
    memcpy(c->trace->ids, c->ids, c->n * sizeof *c->ids);
    memcpy(c->trace->mark, c->mark, c->n);
    return 0;
}

/* A pass's tokens are the context's newest. */
static void watch(void *arg, uint32_t layer, uint32_t n, const float *q, const float *k, const float *v)
{
    struct capture *c = arg;
    kv_trace_put(c->trace, layer, skv_length(c->ctx) - n, n, q, k, v);
}

static int capture(struct capture *c, struct skv_error *err)
{
    const struct trace_args *a = c->args;
    struct skv_context_opts opts;
    int rc = engine_open(&c->engine, a->model, &a->kv, err);
    if (!rc)
        rc = a->prompts ? take_prompt(c, err) : take_text(c, err);
    if (!rc)
        rc = engine_context_opts(&c->engine, &opts, err);
    if (!rc)
        rc = engine_connect(&c->engine, err);
    if (!rc)
        rc = engine_context(&c->engine, &opts, &c->ctx, &c->session, err);
    if (!rc)
        rc = create(c, err);
    if (rc)
        return rc;
    session_watch(c->session, watch, c);
    rc = engine_prefill(&c->engine, c->session, "trace", c->ids, c->n, NULL, NULL, err);
    return rc ? rc : kv_trace_commit(c->trace, err);
}

static void report(const struct capture *c)
{
    size_t copying = 0, ordinary = 0;
    char size[32];
    for (size_t i = 0; i < c->n; i++) {
        copying += c->mark[i] == KV_TRACE_COPY;
        ordinary += c->mark[i] == KV_TRACE_ORDINARY;
    }
    printf("%s: %zu tokens, %u layers, %s; %zu queries that copy an answer and %zu others are marked\n",
           c->args->output, c->n, c->trace->head.n_layers, size_format(size, sizeof size, c->trace->bytes),
           copying, ordinary);
}

static int check(const struct opt_command *cmd, const struct trace_args *a)
{
    if (!a->file == !a->prompts)
        return options_mistake(cmd, "%s",
                               a->file ? "give --file or --prompts, not both"
                                       : "give a text (--file) or prompts with answers (--prompts)");
    struct skv_error err;
    return kv_node_check(&a->kv, &err) ? options_mistake(cmd, "%s", err.text) : 0;
}

int cmd_trace(int argc, char **argv)
{
    struct trace_args a = {.tokens = 4096, .queries = 48};
    struct opt_memory mem = {0};
    struct skv_error err = {0};
    kv_options_defaults(&a.kv);
    a.kv.prefill = "dense";
    const struct opt_group groups[] = {{"Options", table, &a}, {"Memory nodes", kv_node_table, &a.kv}, {0}};
    const struct opt_command cmd = {
        "scoutkv trace", "-m MODEL (-f TEXT | --prompts FILE) -o FILE [options]",
        "Writes the queries, keys and values that a model computes over a text, of all layers, with dense\n"
        "attention. `scoutkv eval mass` compares policies on such traces offline. A trace takes 4 bytes per "
        "number:\n"
        "33 MiB for 4,096 tokens of a model of 4 layers with 4 query and 2 KV heads of 64.",
        "  scoutkv trace -m model.gguf -f book.txt -n 4096 --skip 1000000 -o book.kvt\n"
        "  scoutkv trace -m model.gguf --prompts recall-4k.jsonl --prompt 3 -o recall-3.kvt\n"
        "  scoutkv eval mass --trace recall-3.kvt",
        groups};
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    struct capture c = {.args = &a};
    rc = check(&cmd, &a);
    if (rc)
        goto out;
    interrupt_catch();
    rc = capture(&c, &err);
    if (rc == 0)
        report(&c);
    rc = rc ? cli_fail(cmd.name, &err) : 0;
    if (interrupted())
        rc = EXIT_INTERRUPTED;
out:
    kv_trace_close(c.trace);
    session_close(c.session);
    if (c.ctx)
        skv_context_close(c.ctx);
    engine_close(&c.engine);
    free(c.ids);
    free(c.mark);
    options_free(&mem);
    return rc;
}
