/* cmd_trace.c: `scoutkv trace`: queries, keys and values of a text, as a file to compare policies with. */
#include "common/size.h"
#include "decoder/cli/capture.h"
#include "decoder/cli/cli.h"
#include "decoder/cli/interrupt.h"

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

static int take(const struct trace_args *a, const struct tokenizer *tok, struct capture *c,
                struct skv_error *err)
{
    return a->prompts ? capture_prompt(c, tok, a->prompts, a->prompt, a->queries, err)
                      : capture_text(c, tok, a->file, a->skip, a->tokens, a->queries, err);
}

static int trace(const struct trace_args *a, struct engine *e, struct capture *c, struct kv_trace **out,
                 struct skv_error *err)
{
    int rc = engine_open(e, a->model, &a->kv, err);
    if (!rc)
        rc = take(a, e->tok, c, err);
    if (!rc)
        rc = engine_connect(e, err);
    return rc ? rc : capture_run(c, e, "trace", a->output, out, err);
}

static void report(const struct trace_args *a, const struct capture *c, const struct kv_trace *trace)
{
    size_t copying = 0, ordinary = 0;
    char size[32];
    for (size_t i = 0; i < c->n; i++) {
        copying += c->mark[i] == KV_TRACE_COPY;
        ordinary += c->mark[i] == KV_TRACE_ORDINARY;
    }
    printf("%s: %zu tokens, %u layers, %s; %zu queries that copy an answer and %zu others are marked\n",
           a->output, c->n, trace->head.n_layers, size_format(size, sizeof size, trace->bytes), copying,
           ordinary);
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
    struct capture c = {0};
    struct engine e = {0};
    struct kv_trace *out = NULL;
    rc = check(&cmd, &a);
    if (rc) {
        options_free(&mem);
        return rc;
    }
    interrupt_catch();
    rc = trace(&a, &e, &c, &out, &err);
    if (rc == 0)
        report(&a, &c, out);
    rc = rc ? cli_fail(cmd.name, &err) : 0;
    if (interrupted())
        rc = EXIT_INTERRUPTED;
    kv_trace_close(out);
    engine_close(&e);
    capture_free(&c);
    options_free(&mem);
    return rc;
}
