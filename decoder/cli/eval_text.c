/* eval_text.c: `scoutkv eval text`: what a policy costs in quality on real text, beside what it costs in
 * bytes.
 *
 * DESIGN. Pieces of a text are prefilled densely but for their last tokens, which are then fed by decode
 * steps, the true ones whatever the model would have said: each step's logits are scored with the token that
 * follows. Every row does so in a fresh fork with an empty cache; the first is dense, whose logits stay for
 * the others to be compared with. `sinks` at every budget is always there: as many tokens, the newest instead
 * of the chosen. What it loses tells how much the text needs what lies far at all. Policies that go by what
 * pages received fork from a base of their own, so that the others don't carry its cost. */
#include "common/clock.h"
#include "common/progress.h"
#include "decoder/cli/cli.h"
#include "decoder/cli/eval_text.h"
#include "decoder/cli/interrupt.h"
#include "decoder/cli/reload.h"
#include "decoder/cli/text_io.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct text_args {
    const char *model, *file, *policies, *budgets, *kv_types, *json, *svg;
    uint32_t tokens, score, texts;
    uint64_t seed;
    double from;
    struct kv_options kv;
};

#define AT(member) offsetof(struct text_args, member)
static const struct opt table[] = {
    {"model", 'm', OPT_STRING, AT(model), "FILE", "GGUF model", .required = true},
    {"file", 'f', OPT_STRING, AT(file), "FILE", "the text; - is standard input", .required = true},
    {"tokens", 0, OPT_U32, AT(tokens), "N", "length of a piece of the text", .min = 128, .max = 1 << 27},
    {"score", 0, OPT_U32, AT(score), "N", "its last tokens, which are decoded and scored", .min = 1,
     .max = 1 << 20},
    {"texts", 0, OPT_U32, AT(texts), "K", "pieces, spread over the file; none overlap", .min = 1,
     .max = 10000},
    {"from", 0, OPT_DOUBLE, AT(from), "PERCENT", "leave out what comes before this part of the file",
     .max = 99.99},
    {"seed", 's', OPT_U64, AT(seed), "S", "of the pieces' places"},
    {"policies", 0, OPT_STRING, AT(policies), "LIST",
     "rows of the table, one for each budget, as NAME[:OPTION=VALUE…] (see scoutkv policies), or all; dense, "
     "window and sinks are always there"},
    {"budgets", 0, OPT_STRING, AT(budgets), "LIST",
     "far tokens read per KV head and layer and step, or percentages of --tokens"},
    {"kv-types", 0, OPT_STRING, AT(kv_types), "LIST",
     "dense and the policies once for each of these types of keys and values (see --kv-type, which is one); "
     "everything is compared with dense in the first"},
    {"json", 0, OPT_STRING, AT(json), "FILE", "write the result there too"},
    {"svg", 0, OPT_STRING, AT(svg), "FILE", "draw perplexity over budgets there"},
    {0},
};

struct text_eval {
    const struct text_args *args;
    struct engine engine;
    struct skv_context_opts opts;
    skv_context *base; /* of the text and window that are measured now */
    struct session *session;
    size_t vocab;
    float *dense;      /* (score, vocab): logits of the text that is measured now */
    double *dense_lse; /* [score] */
    float *logits;     /* (vocab) */
    struct progress bar;
    char label[32]; /* of bars */
    struct text_result result;
};

/* ---- before the first pass ---- */

static int add_row(struct text_eval *e, enum skv_dtype type, struct eval_choice choice, uint32_t budget,
                   struct skv_error *err)
{
    struct text_result *r = &e->result;
    size_t texts = e->args->texts, score = e->args->score;
    struct text_row row = {.choice = choice, .type = type, .cache = e->args->kv.cache};
    bool other = r->n_rows && type != r->row[0].type;
    snprintf(row.label, sizeof row.label, "%s%s%s", choice.name, other ? " " : "",
             other ? skv_dtype_name(type) : "");
    row.budgeted = eval_takes_budget(&choice.select);
    row.choice.select.budget = row.budgeted ? budget : 0;
    for (size_t i = 0; i < r->n_rows; i++)
        if (r->row[i].type == type && !strcmp(r->row[i].choice.name, choice.name) &&
            r->row[i].choice.select.budget == row.choice.select.budget)
            return 0;
    struct text_row *grown = realloc(r->row, (r->n_rows + 1) * sizeof *grown);
    if (!grown)
        return skv_fail(err, -ENOMEM, "out of memory");
    r->row = grown;
    r->row[r->n_rows] = row;
    struct text_row *at = &r->row[r->n_rows++];
    at->nats = calloc(texts, sizeof *at->nats);
    at->text_kl = calloc(texts, sizeof *at->text_kl);
    at->kl = calloc(texts * score, sizeof *at->kl);
    return at->nats && at->text_kl && at->kl ? 0 : skv_fail(err, -ENOMEM, "out of memory");
}

static int make_types(struct text_eval *e, struct skv_error *err)
{
    struct text_result *r = &e->result;
    const char *list = e->args->kv_types ? e->args->kv_types : e->args->kv.kv_type;
    for (size_t len; *list; list += len + (list[len] == ',')) {
        enum skv_dtype type;
        len = strcspn(list, ",");
        if (!kv_dtype_named(list, len, &type))
            return skv_fail(err, -EINVAL, "kv-types: '%.*s' is none: f16, f32, q8_0 and q4 are",
                            len > 40 ? 40 : (int)len, list);
        bool known = false;
        for (unsigned i = 0; i < r->n_types; i++)
            known |= r->type[i] == type;
        if (!known)
            r->type[r->n_types++] = type;
    }
    return r->n_types ? 0 : skv_fail(err, -EINVAL, "kv-types: the list is empty");
}

/* dense, in the first type also window and sinks at every budget, then what was asked for. */
static int make_rows(struct text_eval *e, unsigned type, struct skv_error *err)
{
    const struct text_args *a = e->args;
    struct eval_choices rows = {0};
    uint32_t *budgets = NULL;
    size_t n = 0;
    int rc = eval_policies(type == 0 ? "dense,window,sinks" : "dense", &e->opts.decode, &rows, err);
    if (!rc)
        rc = eval_policies(a->policies, &e->opts.decode, &rows, err);
    if (!rc)
        rc = eval_budgets(a->budgets, a->tokens, a->kv.select, &budgets, &n, err);
    for (size_t i = 0; i < rows.n && !rc; i++)
        for (size_t b = 0; b < n && !rc; b++)
            rc = add_row(e, e->result.type[type], rows.at[i], budgets[b], err);
    free(rows.at);
    free(budgets);
    return rc;
}

/* The first scored step must see sealed tokens that are neither window nor protected. */
static int check_lengths(const struct text_args *a, struct skv_error *err)
{
    uint64_t lag = a->kv.seal_lag > a->kv.window ? a->kv.seal_lag : a->kv.window;
    uint64_t near = lag + a->kv.sinks + 2 * SKV_BLOCK;
    if (a->score < a->tokens && a->tokens - a->score > near)
        return 0;
    return skv_fail(err, -EINVAL,
                    "of %u tokens %u are scored: the first of those must have more than %" PRIu64
                    " before them (window, sinks and two blocks), or nothing is far: more --tokens, or a "
                    "smaller --window or --score",
                    a->tokens, a->score, near);
}

static int cut_pieces(struct text_eval *e, struct skv_error *err)
{
    const struct text_args *a = e->args;
    char *text = NULL;
    size_t len;
    int rc = read_all(a->file, &text, &len, err);
    if (!rc)
        rc = text_pieces_cut(&e->result.pieces, e->engine.tok, text, len, a->from, a->texts, a->tokens,
                             a->seed, err);
    free(text);
    uint32_t trained = e->engine.model->params.train_context;
    if (!rc && trained && a->tokens > trained)
        fprintf(stderr, "note: the model was trained for %u tokens: at %u all rows may be bad\n", trained,
                a->tokens);
    return rc;
}

static void size_caches(struct text_eval *e)
{
    struct text_result *r = &e->result;
    for (unsigned i = 0; i < r->n_types; i++)
        r->token_bytes[i] = kv_bytes_per_token(&e->engine.model->params, r->type[i]);
    for (size_t i = 0; i < r->n_rows && !e->args->kv.cache; i++)
        r->row[i].cache = eval_cache(&r->row[i].choice.select,
                                     kv_bytes_per_token(&e->engine.model->params, r->row[i].type));
}

static int take_memory(struct text_eval *e, struct skv_error *err)
{
    e->vocab = e->engine.model->params.vocab;
    e->dense = malloc(e->args->score * e->vocab * sizeof *e->dense);
    e->dense_lse = malloc(e->args->score * sizeof *e->dense_lse);
    e->logits = malloc(e->vocab * sizeof *e->logits);
    return e->dense && e->dense_lse && e->logits ? 0 : skv_fail(err, -ENOMEM, "out of memory");
}

/* ---- measuring ---- */

/* What one step's logits say of the token that follows. */
static int score_step(struct text_eval *e, struct text_row *row, size_t text, size_t step, uint32_t next,
                      struct skv_error *err)
{
    float *dense = e->dense + step * e->vocab;
    size_t score = e->args->score;
    double lse = logits_lse(e->logits, e->vocab);
    if (!isfinite(lse))
        return skv_fail(err, -EDOM,
                        "%s: logits that are no numbers, %zu tokens into the scored ones of text %zu: is the "
                        "model damaged?",
                        row->label, step, text + 1);
    if (row == e->result.row) {
        memcpy(dense, e->logits, e->vocab * sizeof *dense);
        e->dense_lse[step] = lse;
    }
    double kl = logits_kl(dense, e->dense_lse[step], e->logits, lse, e->vocab);
    row->nats[text] += (lse - (double)e->logits[next]) / (double)score;
    row->text_kl[text] += kl / (double)score;
    row->kl[text * score + step] = (float)kl;
    row->agreed += logits_argmax(dense, e->vocab) == logits_argmax(e->logits, e->vocab);
    row->scored++;
    return 0;
}

/* Tokens of a flushed context that representatives stand for. */
static uint64_t sealed_tokens(const struct text_eval *e, const skv_context *ctx, enum skv_dtype type,
                              const struct skv_stats *s)
{
    uint64_t blocks = (skv_length(ctx) + SKV_BLOCK - 1) / SKV_BLOCK;
    uint64_t token = kv_local_bytes_per_token(&e->engine.model->params, type);
    return blocks * SKV_BLOCK - s->window_bytes / token;
}

static int decode_text(struct text_eval *e, struct text_row *row, size_t text, skv_context *fork,
                       struct skv_error *err)
{
    const struct text_args *a = e->args;
    const uint32_t *ids = e->result.pieces.ids + text * a->tokens + a->tokens - a->score - 1;
    struct skv_stats s;
    int rc = 0;
    for (size_t i = 0; i < a->score && !rc; i++) {
        reload_nodes(e->engine.tier);
        meter_begin(&row->meter, fork);
        rc = session_eval(e->session, SKV_DECODE, &ids[i], 1, e->logits, false, err);
        if (!rc) {
            meter_end(&row->meter, fork);
            rc = score_step(e, row, text, i, ids[i + 1], err);
        }
        progress_update(&e->bar, e->bar.done + 1);
        if (!rc && interrupted())
            rc = skv_fail(err, -EINTR, "interrupted");
    }
    if (!rc)
        rc = skv_flush(fork, err);
    skv_context_stats(fork, &s);
    row->held_bytes += (double)s.representative_bytes;
    row->held_tokens += (double)sealed_tokens(e, fork, row->type, &s);
    if (row->type == e->result.type[0])
        e->result.context_kv_bytes = s.context_bytes;
    return rc;
}

static int measure(struct text_eval *e, struct text_row *row, size_t text, struct skv_error *err)
{
    skv_context *fork = NULL;
    int rc = eval_fork(e->session, e->base, &row->choice.select, row->cache, &fork, err);
    if (rc)
        return rc;
    rc = decode_text(e, row, text, fork, err);
    session_use(e->session, e->base);
    on_loss_add(&e->result.lost, fork);
    skv_context_close(fork);
    return rc;
}

static void close_base(struct text_eval *e)
{
    session_close(e->session);
    e->session = NULL;
    if (!e->base)
        return;
    on_loss_add(&e->result.lost, e->base);
    skv_context_close(e->base);
    e->base = NULL;
}

/* The text up to its scored tokens, stored as this type, for the rows that need history or for the others. */
static int open_base(struct text_eval *e, size_t text, enum skv_dtype type, bool history,
                     struct skv_error *err)
{
    const struct text_args *a = e->args;
    struct skv_context_opts opts = e->opts;
    opts.history = history;
    opts.dtype = type;
    int rc = engine_context(&e->engine, &opts, &e->base, &e->session, err);
    if (!rc)
        rc = engine_prefill(&e->engine, e->session, e->label, e->result.pieces.ids + text * a->tokens,
                            a->tokens - a->score - 1, NULL, NULL, err);
    return rc ? rc : skv_flush(e->base, err);
}

/* Dense is first, and needs no history. */
static int measure_text(struct text_eval *e, size_t text, struct skv_error *err)
{
    struct text_result *r = &e->result;
    int rc = 0;
    snprintf(e->label, sizeof e->label, "text %zu of %u", text + 1, e->args->texts);
    for (unsigned base = 0; base < 2 * r->n_types && !rc; base++) {
        enum skv_dtype type = r->type[base / 2];
        bool history = base % 2;
        size_t n = 0;
        for (size_t i = 0; i < r->n_rows; i++)
            n += r->row[i].type == type && r->row[i].history == history;
        if (n == 0)
            continue;
        rc = open_base(e, text, type, history, err);
        progress_begin(&e->bar, e->label, "steps", n * e->args->score);
        for (size_t i = 0; i < r->n_rows && !rc; i++)
            if (r->row[i].type == type && r->row[i].history == history)
                rc = measure(e, &r->row[i], text, err);
        progress_end(&e->bar);
        close_base(e);
    }
    return rc;
}

/* ---- the command ---- */

static int evaluate(struct text_eval *e, struct skv_error *err)
{
    const struct text_args *a = e->args;
    struct text_result *r = &e->result;
    int rc = engine_open(&e->engine, a->model, &a->kv, err);
    for (size_t i = 0; rc == 0 && i < e->result.n_rows; i++) {
        kv_say_salience(&e->result.row[i].choice.select, e->engine.calibration);
        e->result.row[i].history = skv_policy_history(&e->result.row[i].choice.select, e->engine.calibration);
    }
    if (!rc)
        rc = engine_context_opts(&e->engine, &e->opts, err);
    if (!rc)
        rc = cut_pieces(e, err);
    if (!rc)
        rc = take_memory(e, err);
    if (!rc)
        rc = engine_connect(&e->engine, err);
    if (rc)
        return rc;
    size_caches(e);
    for (unsigned l = 0; l < e->engine.shape.n_layers; l++)
        r->head_layers += e->engine.shape.layers[l].n_kv_heads;
    uint64_t start = clock_ns();
    for (size_t t = 0; t < a->texts && !rc; t++)
        rc = measure_text(e, t, err);
    if (rc)
        return rc;
    r->seconds = (double)(clock_ns() - start) * 1e-9;
    r->tier = e->engine.tier;
    r->on_loss = &e->engine.loss;
    text_print(r);
    if (a->json)
        rc = text_write_json(r, a->json, err);
    if (!rc && a->svg)
        rc = text_write_svg(r, a->svg, err);
    return rc;
}

/* All mistakes of the command line that need neither model nor text. */
static int prepare(struct text_eval *e, struct skv_error *err)
{
    const struct text_args *a = e->args;
    struct kv_ranges ranges = {0};
    char recipe[32];
    int rc = kv_context_opts(&a->kv, &ranges, recipe, &e->opts, err);
    free(ranges.range);
    if (!rc)
        rc = check_lengths(a, err);
    if (!rc)
        rc = make_types(e, err);
    for (unsigned i = 0; i < e->result.n_types && !rc; i++)
        rc = make_rows(e, i, err);
    e->result.model = a->model;
    e->result.file = a->file;
    e->result.seed = a->seed;
    e->result.score = a->score;
    e->result.from = a->from;
    e->result.kv = &a->kv;
    e->result.opts = &e->opts;
    return rc;
}

static void close_eval(struct text_eval *e)
{
    close_base(e);
    engine_close(&e->engine);
    for (size_t i = 0; i < e->result.n_rows; i++) {
        free(e->result.row[i].nats);
        free(e->result.row[i].text_kl);
        free(e->result.row[i].kl);
    }
    free(e->result.row);
    text_pieces_free(&e->result.pieces);
    free(e->dense);
    free(e->dense_lse);
    free(e->logits);
    free(e);
}

int cmd_eval_text(int argc, char **argv)
{
    struct text_args a = {.tokens = 4096,
                          .score = 512,
                          .texts = 8,
                          .seed = 1,
                          .policies = "random,norm-only,heavy-hitter,quest,cascade,oracle",
                          .budgets = "64,128,256,10%"};
    struct opt_memory mem = {0};
    struct skv_error err = {0};
    kv_options_defaults(&a.kv);
    a.kv.window = 128;
    a.kv.prefill = "dense";
    a.kv.cache = 0; /* computed unless given */
    const struct opt_group groups[] = {{"Options", table, &a},
                                       {"KV cache", kv_cache_table, &a.kv},
                                       {"Loss", kv_loss_table, &a.kv},
                                       {"Memory nodes", kv_node_table, &a.kv},
                                       {0}};
    const struct opt_command cmd = {
        "scoutkv eval text", "-m MODEL -f TEXT [--policies LIST] [--budgets LIST] [options]",
        "How much worse a model predicts a text when its policy reads only a budget of what is far. Pieces "
        "of "
        "the\n"
        "text are prefilled densely; their last tokens are fed by decode steps, every policy in a fresh fork "
        "with\n"
        "an empty cache, and each step is scored with the true next token. Compared with dense on the same "
        "tokens:\n"
        "perplexity and its difference in nats (with its standard error over texts), how far the next-token\n"
        "distribution moved (KL), how often the likeliest token stayed; beside it what a step cost.\n"
        "\n"
        "`window` reads nothing far; `sinks` has a window that is longer by the budget: as many tokens, all "
        "near. Where\n"
        "it is as good as dense, the text does not need what is far, and says nothing about policies. The "
        "cache, if not\n"
        "given, is twice the row's budget. With --kv-types, what keeping keys and values in fewer bits "
        "costs.",
        "  scoutkv eval text -m model.gguf -f novel.txt --from 90\n"
        "  scoutkv eval text -m model.gguf -f novel.txt --policies cascade,cascade:beta=0.5 --budgets 10% "
        "--texts 16\n"
        "  scoutkv eval text -m model.gguf -f novel.txt --tokens 100000 --window 1024 --budgets 1%,2%,5% "
        "--json t.json --svg t.svg\n"
        "  scoutkv eval text -m model.gguf -f novel.txt --policies cascade --kv-types f16,q8_0,q4",
        groups};
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    struct text_eval *e = calloc(1, sizeof *e);
    if (!e)
        return 1;
    e->args = &a;
    rc = options_typed(&cmd, &mem, "budget")
             ? skv_fail(&err, -EINVAL, "budget: the rows have several: give --budgets %u", a.kv.budget)
         : a.kv_types && options_typed(&cmd, &mem, "kv-type")
             ? skv_fail(&err, -EINVAL, "kv-type: --kv-types names all: leave one of them out")
             : prepare(e, &err);
    if (rc) {
        rc = options_mistake(&cmd, "%s", err.text);
    } else {
        interrupt_catch();
        rc = evaluate(e, &err);
        rc = rc ? cli_fail(cmd.name, &err) : 0;
        if (rc)
            on_loss_hint(&a.kv, &err);
        if (interrupted())
            rc = EXIT_INTERRUPTED;
    }
    close_eval(e);
    options_free(&mem);
    return rc;
}
