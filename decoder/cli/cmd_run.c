/* cmd_run.c: a prompt in, its continuation out, and what that cost.
 *
 * DESIGN. The prompt goes through prefill, then every generated token is one decode step. A token is sampled
 * from the logits of the one before; the last one is stepped too only if a snapshot must hold it. The loop is
 * in run_loop.c, conversations are in run_converse.c. */
#include "common/clock.h"
#include "common/size.h"
#include "decoder/cli/cli.h"
#include "decoder/cli/interrupt.h"
#include "decoder/cli/node_report.h"
#include "decoder/cli/run.h"
#include "decoder/cli/text_io.h"
#include "decoder/serve/chat_template.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define AT(member) offsetof(struct run_args, member)
static const struct opt text_table[] = {
    {"model", 'm', OPT_STRING, AT(model), "FILE", "GGUF model", .required = true},
    {"prompt", 'p', OPT_STRING, AT(prompt), "TEXT", "what to continue"},
    {"file", 'f', OPT_STRING, AT(file), "FILE",
     "read the prompt from FILE, byte for byte; - is standard input"},
    {"tokens", 0, OPT_STRING, AT(tokens), "FILE",
     "read the prompt as token ids, as `scoutkv tokenize` prints them"},
    {"system", 0, OPT_STRING, AT(system), "TEXT", "text before the prompt whose tokens are always attended"},
    {"special", 0, OPT_FLAG, AT(special), NULL,
     "take names of control tokens in prompt and system text for those tokens"},
    {"predict", 'n', OPT_I64, AT(n_predict), "N",
     "tokens to generate; -1: until the model ends or the context is full", .min = -1, .max = 1e12},
    {"ctx-size", 'c', OPT_U64, AT(context), "N",
     "tokens that the context may hold; what the model was trained for if not given"},
    {"stop", 0, OPT_LIST, AT(stop), "TEXT", "end before this text"},
    {"ignore-eos", 0, OPT_FLAG, AT(ignore_eos), NULL, "never draw a token that ends a text"},
    {"delimiter", 0, OPT_LIST, AT(delimiter), "TEXT",
     "tokens of the prompt that contain this are always attended, with their page"},
    {"save", 0, OPT_STRING, AT(save), "NAME",
     "store the context at the end under this name, in place of what has it; see `scoutkv context`"},
    {"ttl", 0, OPT_STRING, AT(ttl), "TIME",
     "how long what --save stores stays after the last use: 12h, 7d, 2w (7d if not given)"},
    {"resume", 0, OPT_STRING, AT(resume), "NAME",
     "go on with a saved context, with its KV options and sampler; the prompt, if any, is appended"},
    {"fresh", 0, OPT_FLAG, AT(fresh), NULL,
     "prefill all of the prompt, even where a saved context has the same beginning"},
    {"cnv", 0, OPT_FLAG, AT(cnv), NULL,
     "a conversation: every line from standard input is answered; --system is its system message, and -p or "
     "-f, if given, its first line"},
    {"chat-template", 0, OPT_CHOICE, AT(chat_template), NULL,
     "how a conversation is written out for the model; what its file says if not given",
     .choices = CHAT_TEMPLATE_CHOICES},
    {"json", 0, OPT_FLAG, AT(json), NULL,
     "print one object at the end, with text, ids and figures, instead of streaming text"},
    {0},
};
static const struct opt sampling_table[] = {
    {"temp", 0, OPT_DOUBLE, AT(temp), "T", "temperature; 0 always takes the likeliest token", .min = 0,
     .max = 1000},
    {"top-k", 0, OPT_U32, AT(top_k), "N", "only the N likeliest; 0: all"},
    {"top-p", 0, OPT_DOUBLE, AT(top_p), "P", "only the likeliest that together have probability P; 1: all",
     .max = 1},
    {"min-p", 0, OPT_DOUBLE, AT(min_p), "P", "only those at least P times as likely as the likeliest; 0: all",
     .max = 1},
    {"seed", 's', OPT_U64, AT(seed), "S", "of sampling: the same seed draws the same tokens"},
    {0},
};

/* ---- the prompt ---- */

static int append_text(struct run *r, const char *text, size_t len, bool bos, struct skv_error *err)
{
    uint32_t *ids;
    size_t n;
    int rc = tokenizer_encode(r->engine.tok, text, len, bos, r->args->special, &ids, &n, err);
    if (rc)
        return rc;
    uint32_t *grown = realloc(r->prompt, (r->n_prompt + n + 1) * sizeof *grown);
    if (grown) {
        memcpy(grown + r->n_prompt, ids, n * sizeof *ids);
        r->prompt = grown;
        r->n_prompt += n;
    }
    free(ids);
    return grown ? 0 : skv_fail(err, -ENOMEM, "out of memory");
}

static int append_ids(struct run *r, const char *path, struct skv_error *err)
{
    char *text;
    size_t len;
    int rc = read_all(path, &text, &len, err);
    if (rc)
        return rc;
    rc = parse_ids(text, path, r->engine.model->params.vocab, &r->prompt, &r->n_prompt, err);
    free(text);
    return rc;
}

static bool contains_any(const struct opt_list *list, struct gguf_str piece)
{
    for (size_t i = 0; i < list->n; i++)
        if (*list->item[i] && memmem(piece.data, piece.len, list->item[i], strlen(list->item[i])))
            return true;
    return false;
}

/* Neighbouring delimiters become one range. */
static int protect_delimiters(struct run *r, struct skv_error *err)
{
    int rc = 0;
    for (size_t i = 0, from; i < r->n_prompt && !rc; i++) {
        for (from = i; i < r->n_prompt; i++)
            if (!contains_any(&r->args->delimiter, tokenizer_piece(r->engine.tok, r->prompt[i], true)))
                break;
        if (i > from)
            rc = kv_ranges_add(&r->engine.ranges, from, i, err);
    }
    return rc;
}

static int make_prompt(struct run *r, struct skv_error *err)
{
    const struct run_args *a = r->args;
    bool bos = !a->resume && tokenizer_adds_bos(r->engine.tok);
    int rc = 0;
    if (a->system) {
        rc = append_text(r, a->system, strlen(a->system), bos, err);
        if (!rc)
            rc = kv_ranges_add(&r->engine.ranges, 0, r->n_prompt, err);
        bos = false;
    }
    if (!rc && a->file) {
        char *text;
        size_t len;
        rc = read_all(a->file, &text, &len, err);
        if (!rc) {
            rc = append_text(r, text, len, bos, err);
            free(text);
        }
    } else if (!rc && a->tokens) {
        rc = append_ids(r, a->tokens, err);
    } else if (!rc && a->prompt) {
        rc = append_text(r, a->prompt, strlen(a->prompt), bos, err);
    }
    if (!rc && a->delimiter.n)
        rc = protect_delimiters(r, err);
    if (!rc && !r->n_prompt && !a->resume)
        rc = skv_fail(err, -EINVAL, "the prompt has no tokens: give text by -p or -f");
    return rc;
}

int run_check_room(const struct run *r, uint64_t held, struct skv_error *err)
{
    if (held + r->n_prompt <= r->limit)
        return 0;
    return skv_fail(err, -EINVAL,
                    "the prompt needs %" PRIu64 " tokens of context and %" PRIu64
                    " are allowed: raise it with -c %" PRIu64,
                    held + r->n_prompt, r->limit,
                    held + r->n_prompt + (uint64_t)(r->args->n_predict > 0 ? r->args->n_predict : 256));
}

/* ---- the context ---- */

/* Logits are not saved: the pass that the last token came in is done again, and gives its bits again. */
static int repeat_last_pass(struct run *r, struct skv_error *err)
{
    enum skv_mode mode = SKV_DECODE;
    uint64_t from = skv_last_pass(r->ctx, &mode), n = skv_length(r->ctx) - from;
    uint32_t *ids = malloc((n + 1) * sizeof *ids);
    int rc = ids ? skv_tokens(r->ctx, from, n, ids) : -ENOMEM;
    if (!rc && n == 0)
        rc = -EINVAL;
    if (rc)
        skv_fail(err, rc, "context \"%s\" has no token to go on from", r->args->resume);
    else if (!(rc = session_truncate(r->session, from, err)))
        rc = session_eval(r->session, mode, ids, (uint32_t)n, r->logits, false, err);
    free(ids);
    return rc;
}

/* The sampler goes on where it was, but for what was typed. */
static int resume_sampler(struct run *r, const struct skv_saved *saved, struct skv_error *err)
{
    const struct run_args *a = r->args;
    struct sample_opts asked = r->sampler.opts;
    int rc = resume_unpack_sampler(saved, &r->sampler, err);
    if (options_typed(r->typed.command, r->typed.memory, "temp"))
        r->sampler.opts.temperature = asked.temperature;
    if (options_typed(r->typed.command, r->typed.memory, "top-k"))
        r->sampler.opts.top_k = asked.top_k;
    if (options_typed(r->typed.command, r->typed.memory, "top-p"))
        r->sampler.opts.top_p = asked.top_p;
    if (options_typed(r->typed.command, r->typed.memory, "min-p"))
        r->sampler.opts.min_p = asked.min_p;
    if (options_typed(r->typed.command, r->typed.memory, "seed"))
        r->sampler.state = a->seed;
    return rc;
}

static int open_saved(struct run *r, struct kv_options *kv, struct skv_error *err)
{
    struct skv_saved *saved;
    struct skv_context_opts opts;
    int rc = skv_saved_read(r->engine.tier, r->args->resume, &saved, err);
    if (rc)
        return rc;
    rc = resume_options(saved, &r->typed, kv, &opts, err);
    if (!rc && r->engine.calibration)
        opts.calibration = r->engine.calibration;
    if (!rc)
        rc = resume_sampler(r, saved, err);
    if (!rc)
        rc = skv_context_reopen(r->engine.tier, &r->engine.shape, &opts, r->args->resume, &r->ctx, err);
    if (!rc)
        rc = engine_session(&r->engine, r->ctx, &r->session, err);
    skv_saved_free(saved);
    return rc;
}

/* All ids but the last: its logits are needed. */
int run_open_new(struct run *r, const struct skv_context_opts *opts, struct skv_error *err)
{
    int rc = r->args->fresh ? skv_context_open(r->engine.tier, &r->engine.shape, opts, &r->ctx, err)
                            : skv_context_open_prefix(r->engine.tier, &r->engine.shape, opts, r->prompt,
                                                      r->n_prompt - 1, r->engine.kv->chunk, &r->ctx, err);
    if (rc)
        return rc;
    r->found = skv_length(r->ctx);
    return engine_session(&r->engine, r->ctx, &r->session, err);
}

static int open_context(struct run *r, struct kv_options *kv, const struct skv_context_opts *opts,
                        struct skv_error *err)
{
    uint64_t start = clock_ns();
    int rc = r->args->resume ? open_saved(r, kv, err) : run_open_new(r, opts, err);
    if (!rc)
        rc = run_check_room(r, r->args->resume ? skv_length(r->ctx) : 0, err);
    if (!rc && !r->n_prompt)
        rc = repeat_last_pass(r, err);
    r->open_s = (double)(clock_ns() - start) * 1e-9;
    if (!rc && r->n_prompt)
        rc = engine_prefill(&r->engine, r->session, "prefill", r->prompt + r->found, r->n_prompt - r->found,
                            r->logits, &r->prefill_s, err);
    return rc;
}

/* What is saved ends with the last token shown, so that --resume goes on behind it. */
static int save(struct run *r, struct skv_error *err)
{
    int rc = 0;
    char model[SKV_MODEL_NAME_MAX + 1], *sampler = NULL;
    if (skv_length(r->ctx) < r->first + r->n_ids)
        rc = session_eval(r->session, SKV_DECODE, &r->ids[r->n_ids - 1], 1, NULL, false, err);
    if (!rc)
        rc = resume_pack_sampler(&r->sampler, &sampler, err);
    if (rc)
        return rc;
    resume_model_name(r->engine.model, model);
    rc = skv_context_snapshot(
        r->ctx, r->args->save,
        &(struct skv_save_opts){
            .ttl_ms = r->args->ttl_ms, .model = model, .engine = sampler, .engine_bytes = strlen(sampler)},
        err);
    free(sampler);
    return rc;
}

/* ---- figures ---- */

void run_print_costs(const struct run *r)
{
    struct skv_stats s;
    char a[32], b[32], c[32], d[32];
    skv_context_stats(r->ctx, &s);
    meter_print(&r->meter, stderr);
    node_report_print(r->engine.tier, stderr);
    on_loss_print(&r->engine.loss, &s, stderr);
    fprintf(stderr, "held here    window %s, representatives %s, pages %s, of a context of %s\n",
            size_format(a, sizeof a, s.window_bytes), size_format(b, sizeof b, s.representative_bytes),
            size_format(c, sizeof c, s.cache_bytes), size_format(d, sizeof d, s.context_bytes));
}

static void print_summary(const struct run *r)
{
    fputs(r->args->json ? "" : "\n", stderr); /* the text may have ended anywhere in its line */
    if (r->args->resume)
        fprintf(stderr, "resumed      %s, %" PRIu64 " tokens in %.2f s\n", r->args->resume,
                r->first - r->n_prompt, r->open_s);
    if (r->found)
        fprintf(stderr, "prefix       %" PRIu64 " of %zu tokens found on the tier in %.2f s\n", r->found,
                r->n_prompt, r->open_s);
    if (r->n_prompt)
        fprintf(stderr, "prompt       %zu tokens in %.2f s (%.0f tokens/s)\n", r->n_prompt - r->found,
                r->prefill_s, r->prefill_s > 0 ? (double)(r->n_prompt - r->found) / r->prefill_s : 0);
    fprintf(stderr, "generated    %zu tokens in %.2f s (%.1f tokens/s); ended by: %s\n", r->n_ids,
            r->decode_s, r->decode_s > 0 ? (double)r->n_ids / r->decode_s : 0, r->ended);
    run_print_costs(r);
}

static json_t *id_array(const uint32_t *ids, size_t n)
{
    json_t *list = json_array();
    for (size_t i = 0; list && i < n; i++)
        json_array_append_new(list, json_integer(ids[i]));
    return list;
}

static int print_json(const struct run *r, struct skv_error *err)
{
    struct skv_stats s;
    skv_context_stats(r->ctx, &s);
    json_t *decode = meter_json(&r->meter);
    json_object_set_new(decode, "seconds", json_real(r->decode_s));
    json_t *o = json_pack("{s:o, s:o, s:o, s:s, s:I, s:{s:I, s:I, s:f}, s:o}", "prompt_ids",
                          id_array(r->prompt, r->n_prompt), "ids", id_array(r->ids, r->n_ids), "text",
                          json_stringn(r->emit.s.text ? r->emit.s.text : "", r->emit.s.len), "ended",
                          r->ended, "seed", (json_int_t)r->args->seed, "prefill", "tokens",
                          (json_int_t)(r->n_prompt - r->found), "found", (json_int_t)r->found, "seconds",
                          r->prefill_s, "decode", decode);
    json_object_set_new(o, "memory",
                        json_pack("{s:I, s:I, s:I, s:I}", "window_bytes", (json_int_t)s.window_bytes,
                                  "representative_bytes", (json_int_t)s.representative_bytes, "cache_bytes",
                                  (json_int_t)s.cache_bytes, "context_bytes", (json_int_t)s.context_bytes));
    json_object_set_new(o, "tier", node_report_json(r->engine.tier));
    json_object_set_new(o, "loss", on_loss_json(&r->engine.loss, &s));
    if (!o)
        return skv_fail(err, -ENOMEM, "out of memory for the JSON output");
    int bad = json_dumpf(o, stdout, JSON_COMPACT) || putchar('\n') == EOF || fflush(stdout);
    json_decref(o);
    return bad ? skv_fail(err, -EIO, "cannot write the JSON output") : 0;
}

static void print_saved(const struct run *r)
{
    fprintf(stderr, "saved        %s, %" PRIu64 " tokens; go on with --resume %s\n", r->args->save,
            skv_length(r->ctx), r->args->save);
}

/* ---- the command ---- */

static int run(struct run *r, struct kv_options *kv, struct skv_context_opts *opts, struct skv_error *err)
{
    const struct run_args *a = r->args;
    int rc = engine_open(&r->engine, a->model, kv, err);
    if (rc)
        return rc;
    r->limit = a->context ? a->context : r->engine.model->params.train_context;
    r->logits = malloc(r->engine.model->params.vocab * sizeof *r->logits);
    if (!r->logits)
        return skv_fail(err, -ENOMEM, "out of memory");
    if (a->cnv)
        return run_converse(r, opts, err);
    rc = make_prompt(r, err);
    if (rc)
        return rc;
    rc = run_check_room(r, 0, err);
    if (!rc)
        rc = engine_context_opts(&r->engine, opts, err);
    if (!rc)
        rc = engine_connect(&r->engine, err);
    if (!rc)
        rc = open_context(r, kv, opts, err);
    if (!rc) {
        rc = run_generate(r, err);
        if (rc && a->json) { /* what there is, as the text that streams; the status tells that it failed */
            r->ended = "failed";
            print_json(r, NULL);
        }
    }
    if (!rc && a->save)
        rc = save(r, err);
    if (!rc && a->json)
        rc = print_json(r, err);
    return rc;
}

static int check_args(const struct opt_command *cmd, struct run_args *a, struct sample_opts *sample)
{
    struct skv_error err = {0};
    *sample = (struct sample_opts){(float)a->temp, a->top_k, (float)a->top_p, (float)a->min_p};
    int rc = kv_check(&a->kv, &err);
    if (!rc)
        rc = sample_check(sample, &err);
    if (!rc)
        rc = resume_ttl(a->ttl, &a->ttl_ms, &err);
    if (rc)
        return options_mistake(cmd, "%s", err.text);
    if (!!a->prompt + !!a->file + !!a->tokens > 1)
        return options_mistake(cmd, "more than one of -p, -f and --tokens: one of them is the prompt");
    if (a->cnv && (a->tokens || a->save || a->resume || a->json || a->special || a->delimiter.n))
        return options_mistake(cmd,
                               "--tokens, --save, --resume, --json, --special and --delimiter cannot be used "
                               "with -cnv, which is for people");
    if (a->chat_template && !a->cnv)
        return options_mistake(cmd, "--chat-template is for conversations: give -cnv, too");
    if (!a->prompt && !a->file && !a->tokens && !a->resume && !a->cnv)
        return options_mistake(cmd, "missing -p TEXT or -f FILE: what to continue");
    if (a->tokens && a->system)
        return options_mistake(
            cmd, "--tokens is the whole prompt: protect a part of it with --protect, not --system");
    if (a->resume && (a->delimiter.n || a->system || a->kv.protect.n))
        return options_mistake(cmd,
                               "--system, --delimiter and --protect cannot be used with --resume: the saved "
                               "context has its protected tokens");
    if (a->ttl && !a->save)
        return options_mistake(cmd, "--ttl is for what --save stores");
    return -1;
}

static void defaults(struct run_args *a)
{
    *a =
        (struct run_args){.n_predict = -1, .temp = 0.8, .top_k = 40, .top_p = 0.95, .min_p = 0.05, .seed = 1};
    kv_options_defaults(&a->kv);
}

int cmd_run(int argc, char **argv)
{
    struct run_args a;
    struct opt_memory mem = {0};
    struct skv_error err = {0};
    struct skv_context_opts opts;
    defaults(&a);
    const struct opt_group groups[] = {{"Text", text_table, &a},
                                       {"Sampling", sampling_table, &a},
                                       {"Policy", kv_policy_table, &a.kv},
                                       {"KV cache", kv_cache_table, &a.kv},
                                       {"Loss", kv_loss_table, &a.kv},
                                       {"Memory nodes", kv_node_table, &a.kv},
                                       {0}};
    const struct opt_command cmd = {
        "scoutkv run", "-m MODEL -p TEXT [options]",
        "Continues a prompt. The text streams to standard output; a summary of what it cost goes to standard "
        "error.\n"
        "Keys and values of all but the newest tokens lie on the memory nodes (without --nodes on one inside "
        "this\n"
        "process). At every step each KV head attends to the window, the protected tokens, and --budget "
        "tokens that\n"
        "the scout picks for it. With -cnv it answers lines as they are typed; /help there tells more.",
        "  scoutkv run -m model.gguf -p 'Once upon a time' -n 100\n"
        "  scoutkv run -m model.gguf -f book.txt -c 200000 --temp 0 --nodes 10.0.0.1:7070,10.0.0.2:7070\n"
        "  scoutkv run -m model.gguf -f book.txt -n 0 --nodes 10.0.0.1:7070 --save book\n"
        "  scoutkv run -m model.gguf -cnv --system 'Be brief.'\n"
        "  scoutkv run -m model.gguf --resume book --nodes 10.0.0.1:7070 -p ' In short,' --policy dense\n"
        "A prompt whose beginning a saved context has prefilled, with the same model and KV options, begins "
        "with that.",
        groups};
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    struct run *r = calloc(1, sizeof *r);
    if (!r)
        return 1;
    rc = check_args(&cmd, &a, &r->sampler.opts);
    if (rc >= 0)
        goto out;
    interrupt_catch();
    r->args = &a;
    r->typed = (struct resume_typed){&cmd, &mem};
    r->sampler.state = a.seed;
    r->emit = (struct emit){.out = a.json ? NULL : stdout, .s = {.stops = a.stop.item, .n_stops = a.stop.n}};
    rc = run(r, &a.kv, &opts, &err);
    if (rc) {
        rc = cli_fail(cmd.name, &err);
        on_loss_hint(&a.kv, &err);
    } else {
        if (!a.cnv)
            print_summary(r);
        if (a.save)
            print_saved(r);
    }
    if (interrupted())
        rc = EXIT_INTERRUPTED;
    session_close(r->session);
    if (r->ctx)
        skv_context_close(r->ctx);
    engine_close(&r->engine);
out:
    emit_free(&r->emit);
    free(r->logits);
    free(r->prompt);
    free(r->ids);
    free(r);
    options_free(&mem);
    return rc;
}
