/* cmd_logits.c: token ids in, logits after each of them out, so that engines can be compared number by
 * number. */
#include "common/progress.h"
#include "decoder/cli/cli.h"
#include "decoder/cli/engine.h"
#include "decoder/cli/interrupt.h"
#include "decoder/cli/reload.h"
#include "decoder/cli/text_io.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct logits_args {
    const char *model, *tokens, *output;
    uint64_t prefill_tokens;
    struct kv_options kv;
};

#define AT(member) offsetof(struct logits_args, member)
static const struct opt table[] = {
    {"model", 'm', OPT_STRING, AT(model), "FILE", "GGUF model", .required = true},
    {"tokens", 0, OPT_STRING, AT(tokens), "FILE", "token ids separated by white space; - is standard input",
     .required = true},
    {"output", 'o', OPT_STRING, AT(output), "FILE", "logits, little-endian f32 [tokens][vocabulary]",
     .required = true},
    {"prefill-tokens", 0, OPT_U64, AT(prefill_tokens), "N",
     "the first N tokens are a prompt (--prefill, --chunk); the others are decode steps (--policy); all are "
     "if not given"},
    {0},
};

struct logits {
    const struct logits_args *args;
    struct engine engine;
    skv_context *ctx;
    struct session *session;
    uint32_t *ids;
    size_t n;
    float *rows; /* (chunk, vocab) */
    FILE *out;
};

/* Tokens of the next pass: a prompt's end at multiples of the chunk, like session_prefill's; then one by one.
 */
static uint32_t pass_length(const struct logits *l, size_t at, size_t n_prefill)
{
    if (at >= n_prefill)
        return 1;
    size_t room = l->args->kv.chunk - at % l->args->kv.chunk, left = n_prefill - at;
    return (uint32_t)(left < room ? left : room);
}

static int evaluate(struct logits *l, struct skv_error *err)
{
    size_t n_prefill = l->args->prefill_tokens < l->n ? (size_t)l->args->prefill_tokens : l->n;
    size_t vocab = l->engine.model->params.vocab;
    struct progress bar;
    int rc = 0;
    progress_begin(&bar, "logits", "tokens", l->n);
    for (size_t at = 0; at < l->n && !rc;) {
        reload_nodes(l->engine.tier);
        uint32_t n = pass_length(l, at, n_prefill);
        rc = session_eval(l->session, at < n_prefill ? SKV_PREFILL : SKV_DECODE, l->ids + at, n, l->rows,
                          true, err);
        if (!rc && fwrite(l->rows, vocab * sizeof *l->rows, n, l->out) != n)
            rc = skv_fail(err, -EIO, "cannot write %s: %s", l->args->output, strerror(errno));
        if (!rc && interrupted())
            rc = skv_fail(err, -EINTR, "interrupted");
        progress_update(&bar, at += n);
    }
    progress_end(&bar);
    return rc;
}

static int logits(struct logits *l, struct skv_error *err)
{
    const struct logits_args *a = l->args;
    struct skv_context_opts opts;
    char *text = NULL;
    size_t len;
    int rc = engine_open(&l->engine, a->model, &a->kv, err);
    if (!rc)
        rc = read_all(a->tokens, &text, &len, err);
    if (!rc)
        rc = parse_ids(text, a->tokens, l->engine.model->params.vocab, &l->ids, &l->n, err);
    free(text);
    if (!rc)
        rc = engine_context_opts(&l->engine, &opts, err);
    if (rc)
        return rc;
    size_t rows = a->prefill_tokens ? a->kv.chunk : 1;
    l->rows = malloc(rows * l->engine.model->params.vocab * sizeof *l->rows);
    l->out = fopen(a->output, "wb");
    if (!l->rows || !l->out)
        return skv_fail(err, l->rows ? -errno : -ENOMEM, "cannot write %s: %s", a->output,
                        l->rows ? strerror(errno) : "out of memory");
    rc = engine_connect(&l->engine, err);
    if (!rc)
        rc = engine_context(&l->engine, &opts, &l->ctx, &l->session, err);
    if (!rc)
        rc = evaluate(l, err);
    if (fclose(l->out) && !rc)
        rc = skv_fail(err, -EIO, "cannot write %s: %s", a->output, strerror(errno));
    return rc;
}

int cmd_logits(int argc, char **argv)
{
    struct logits_args a = {0};
    struct opt_memory mem = {0};
    struct skv_error err = {0};
    kv_options_defaults(&a.kv);
    const struct opt_group groups[] = {{"Options", table, &a},
                                       {"Policy", kv_policy_table, &a.kv},
                                       {"KV cache", kv_cache_table, &a.kv},
                                       {"Memory nodes", kv_node_table, &a.kv},
                                       {0}};
    const struct opt_command cmd = {
        "scoutkv logits", "-m MODEL --tokens FILE -o OUT [options]",
        "Writes the model's logits after every token of a list. Tokens are fed by decode steps, so that "
        "every KV\n"
        "option has its effect; --prefill-tokens feeds the first ones as a prompt instead.",
        "  scoutkv tokenize -m model.gguf -f story.txt > story.ids\n"
        "  scoutkv logits -m model.gguf --tokens story.ids -o story.f32 --kv-type f32\n"
        "  scoutkv logits -m model.gguf --tokens book.ids -o dense.f32 --policy dense\n"
        "  scoutkv logits -m model.gguf --tokens book.ids -o prompt.f32 --prefill-tokens 1000000 --prefill "
        "dense",
        groups};
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    struct logits l = {.args = &a};
    rc = kv_check(&a.kv, &err);
    if (rc) {
        rc = options_mistake(&cmd, "%s", err.text);
        goto out;
    }
    interrupt_catch();
    rc = logits(&l, &err);
    rc = rc ? cli_fail(cmd.name, &err) : 0;
    if (interrupted())
        rc = EXIT_INTERRUPTED;
    session_close(l.session);
    if (l.ctx)
        skv_context_close(l.ctx);
    engine_close(&l.engine);
out:
    free(l.rows);
    free(l.ids);
    options_free(&mem);
    return rc;
}
