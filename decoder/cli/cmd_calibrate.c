/* cmd_calibrate.c: `scoutkv calibrate`: measures a model on text, and writes what the scout should know of
 * it. */
#include "common/clock.h"
#include "decoder/cli/calibrate_fit.h"
#include "decoder/cli/capture.h"
#include "decoder/cli/cli.h"
#include "decoder/cli/interrupt.h"
#include "decoder/cli/text_io.h"
#include "decoder/cli/text_pieces.h"
#include "decoder/model/calibration_file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct calibrate_args {
    const char *model, *file, *prompts, *output;
    uint64_t tokens, seed;
    uint32_t texts, first, n_prompts, queries, window, sinks;
    double to;
    uint32_t project;
    struct kv_options kv;
};

#define AT(member) offsetof(struct calibrate_args, member)
static const struct opt table[] = {
    {"model", 'm', OPT_STRING, AT(model), "FILE", "GGUF model", .required = true},
    {"file", 'f', OPT_STRING, AT(file), "TEXT", "text like that to come; - is standard input"},
    {"output", 'o', OPT_STRING, AT(output), "FILE", "the calibration"},
    {"texts", 0, OPT_U32, AT(texts), "N", "pieces of the text, spread over it", .min = 1, .max = 1000},
    {"tokens", 'n', OPT_U64, AT(tokens), "N", "length of a piece", .min = 128, .max = 1 << 20},
    {"to", 0, OPT_DOUBLE, AT(to), "PERCENT",
     "use the text up to here, so that the rest can tell what the calibration is worth", .min = 1,
     .max = 100},
    {"prompts", 0, OPT_STRING, AT(prompts), "FILE",
     "besides the text, or instead: JSON lines {\"prompt\": …, \"answer\": …} whose answers copy what was "
     "said "
     "long before; these queries count as much as all others together"},
    {"prompt", 0, OPT_U32, AT(first), "I", "the first of the prompts that are used, from 0"},
    {"n-prompts", 0, OPT_U32, AT(n_prompts), "N", "how many prompts are used, if there are as many", .min = 1,
     .max = 10000},
    {"queries", 0, OPT_U32, AT(queries), "N",
     "ordinary queries measured: the last ones before an answer, or spread over a piece's second half",
     .min = 1, .max = 1 << 20},
    {"window", 0, OPT_U32, AT(window), "TOKENS",
     "newest tokens, always attended; far is what lies behind them", .max = 1 << 30},
    {"sinks", 0, OPT_U32, AT(sinks), "TOKENS", "first tokens, always attended", .max = 1 << 30},
    {"project", 0, OPT_U32, AT(project), "DIMS",
     "dims that keys may be projected to before they are summarised, a multiple of 8; 0: five eighths of the "
     "head's; all of them: no projection",
     .max = CALIBRATION_DIMS},
    {"seed", 0, OPT_U64, AT(seed), "N", "where the pieces lie"},
    {0},
};

struct calibrate {
    const struct calibrate_args *args;
    struct engine engine;
    struct pool *pool;
    struct fit fit;
    struct text_pieces pieces;
    unsigned done, n_prompts;
    uint64_t start;
};

/* ---- measuring ---- */

/* The trace has no name while it is read. */
static int measure(struct calibrate *c, const struct capture *what, const char *label, struct skv_error *err)
{
    struct kv_trace *t = NULL;
    char *path;
    if (asprintf(&path, "%s.trace-%ld", c->args->output, (long)getpid()) < 0)
        return skv_fail(err, -ENOMEM, "out of memory");
    int rc = capture_run(what, &c->engine, label, path, &t, err);
    unlink(path);
    free(path);
    if (rc == 0)
        rc = fit_add(&c->fit, t, c->pool, err);
    kv_trace_close(t);
    if (rc == 0 && interrupted())
        rc = skv_fail(err, -EINTR, "interrupted");
    c->done += rc == 0;
    return rc;
}

static int measure_texts(struct calibrate *c, struct skv_error *err)
{
    const struct calibrate_args *a = c->args;
    struct text_pieces *p = &c->pieces;
    char *text, label[64];
    size_t len;
    int rc = read_all(a->file, &text, &len, err);
    if (rc)
        return rc;
    rc = text_pieces_cut(p, c->engine.tok, text, (size_t)((double)len * a->to / 100), 0, a->texts,
                         (size_t)a->tokens, a->seed, err);
    free(text);
    for (size_t i = 0; i < p->n && rc == 0; i++) {
        struct capture what = {0};
        snprintf(label, sizeof label, "text %zu of %zu", i + 1, p->n);
        rc = capture_ids(&what, p->ids + i * p->len, p->len, a->queries, err);
        if (rc == 0)
            rc = measure(c, &what, label, err);
        capture_free(&what);
    }
    return rc;
}

static int measure_prompts(struct calibrate *c, struct skv_error *err)
{
    const struct calibrate_args *a = c->args;
    char label[64];
    int rc = 0;
    for (uint32_t i = 0; i < a->n_prompts && rc == 0; i++) {
        struct capture what = {0};
        snprintf(label, sizeof label, "prompt %" PRIu32 " of %" PRIu32, i + 1, a->n_prompts);
        rc = capture_prompt(&what, c->engine.tok, a->prompts, a->first + i, a->queries, err);
        if (rc == -ERANGE && i > 0) { /* there are no more */
            capture_free(&what);
            return 0;
        }
        if (rc == 0)
            rc = measure(c, &what, label, err);
        c->n_prompts += rc == 0;
        capture_free(&what);
    }
    return rc;
}

/* ---- telling ---- */

/* What each head selects of a budget of 256 tokens, in tokens. */
static int split(const struct skv_calibration *k, uint32_t *tokens)
{
    struct schedule_head *heads = malloc(calibration_n(k) * sizeof *heads);
    if (!heads)
        return -ENOMEM;
    for (size_t i = 0; i < calibration_n(k); i++)
        heads[i] = (struct schedule_head){(unsigned)(i / k->n_kv_heads), &k->heads[i]};
    int rc = schedule_split(SKV_CALIBRATED, heads, calibration_n(k), k->n_layers, 256 / SKV_PAGE, SKV_PAGE,
                            tokens);
    free(heads);
    return rc;
}

static int report(const struct calibrate *c, const struct skv_calibration *k, struct skv_error *err)
{
    uint32_t *units = malloc(calibration_n(k) * sizeof *units);
    if (!units || split(k, units)) {
        free(units);
        return skv_fail(err, -ENOMEM, "out of memory");
    }
    char dims[32];
    snprintf(dims, sizeof dims, "%u of %u dims", k->d_rep, k->d_k);
    printf("%5s %7s  %10s %11s  %9s %9s %9s  %15s  %5s %5s\n", "layer", "KV head", "gamma page",
           "gamma block", "far mass", "in 64", "in 512", "budget for 256", "alpha", "beta");
    for (size_t i = 0; i < calibration_n(k); i++)
        printf("%5zu %7zu  %10.3f %11.3f  %9.3f %9.3f %9.3f  %15u  %5.2f %5.3f\n", i / k->n_kv_heads,
               i % k->n_kv_heads, (double)k->heads[i].gamma_page, (double)k->heads[i].gamma_block,
               (double)k->heads[i].far, (double)k->heads[i].held[2], (double)k->heads[i].held[5],
               units[i] * SKV_PAGE, (double)k->heads[i].alpha, (double)k->heads[i].beta);
    printf("representatives: %s%s\n", k->d_rep ? "of keys projected to " : "of keys as they are",
           k->d_rep ? dims : "");
    printf("far mass: of a query's attention, what lies behind the window; in 64, in 512: held by as many "
           "tokens\n"
           "%s: %u texts, %u prompts; %" PRIu64 " queries that copy an answer and %" PRIu64
           " others; %.1f s. Use it: --calib %s\n",
           c->args->output, c->done - c->n_prompts, c->n_prompts, c->fit.queries[0], c->fit.queries[1],
           (double)(clock_ns() - c->start) * 1e-9, c->args->output);
    free(units);
    return 0;
}

/* ---- the command ---- */

/* Of five eighths, eight keys that stand out take the bytes of five whole ones. */
static int projected_dims(struct calibrate *c, struct skv_error *err)
{
    uint32_t d_k = c->engine.model->params.d_k, d = c->args->project ? c->args->project : d_k * 5 / 8 / 8 * 8;
    if (d % 8)
        return skv_fail(err, -EINVAL, "project: %u is not a multiple of 8", d);
    c->fit.d_rep = d < d_k ? d : 0;
    return 0;
}

static int calibrate(struct calibrate *c, struct skv_error *err)
{
    const struct calibrate_args *a = c->args;
    struct skv_calibration *k = NULL;
    c->start = clock_ns();
    c->fit = (struct fit){.window = a->window, .protected_pages = (a->sinks + SKV_PAGE - 1) / SKV_PAGE};
    c->pool = pool_new(a->kv.threads);
    int rc = c->pool ? 0 : skv_fail(err, -ENOMEM, "out of memory");
    if (rc == 0)
        rc = engine_open(&c->engine, a->model, &a->kv, err);
    if (rc == 0)
        rc = engine_connect(&c->engine, err);
    if (rc == 0)
        rc = projected_dims(c, err);
    if (rc == 0 && a->file)
        rc = measure_texts(c, err);
    if (rc == 0 && a->prompts)
        rc = measure_prompts(c, err);
    if (rc == 0)
        rc = fit_calibration(&c->fit, &k, err);
    if (rc == 0)
        rc = calibration_save(k, a->output, err);
    if (rc == 0)
        rc = report(c, k, err);
    free(k);
    return rc;
}

static int check(const struct opt_command *cmd, const struct calibrate_args *a)
{
    struct skv_error err;
    if (!a->file && !a->prompts)
        return options_mistake(cmd, "give a text (--file), prompts with answers (--prompts), or both");
    return kv_node_check(&a->kv, &err) ? options_mistake(cmd, "%s", err.text) : 0;
}

int cmd_calibrate(int argc, char **argv)
{
    struct calibrate_args a = {.output = "calib.gguf",
                               .tokens = 4096,
                               .texts = 8,
                               .to = 80,
                               .n_prompts = 16,
                               .queries = 48,
                               .window = 128,
                               .sinks = 64,
                               .seed = 1};
    struct opt_memory mem = {0};
    struct skv_error err = {0};
    kv_options_defaults(&a.kv);
    a.kv.prefill = "dense";
    const struct opt_group groups[] = {{"Options", table, &a}, {"Memory nodes", kv_node_table, &a.kv}, {0}};
    const struct opt_command cmd = {
        "scoutkv calibrate", "-m MODEL -f TEXT [--prompts FILE] [-o FILE] [options]",
        "Measures a model on text, for minutes, and writes what the scout should know of it. Every policy "
        "works\n"
        "without. For each KV head of each layer:\n"
        "\n"
        "  gamma     how much of a representative's spread counts. A page's score estimates its attention "
        "mass from\n"
        "            the mean of its keys and how far they scatter; where queries don't look along the "
        "scatter,\n"
        "            less of it is right. Tried from 0 to 1; what holds the most far mass is kept.\n"
        "  far mass  how much of its attention lies behind the window, and what of it 16, 32, 64 … tokens "
        "hold.\n"
        "            Some heads read the neighbourhood only, some everything: --schedule calibrated splits "
        "the\n"
        "            same total of tokens so that they hold the most.\n"
        "  projection  to five eighths of the dims, so that scores lose the least: more keys that stand out "
        "then "
        "fit\n"
        "            the same bytes. Kept if that holds more far mass.\n"
        "  salience  which keys will receive attention, whoever asks: a ridge regression of the log mass "
        "that "
        "a\n"
        "            token received on its key. --policy salience goes by it, and cascade's prior.\n"
        "  alpha,    for each layer: what a prior of salience (alpha) and of the mass received so far "
        "(1 - alpha) adds\n"
        "  beta      to what the query says (beta); 0 where it adds nothing.\n"
        "\n"
        "Text has few queries that need a certain place far away. Prompts with answers (as for `scoutkv "
        "trace`) have\n"
        "them: something said early is needed late.\n"
        "The file is for this very model; any other refuses it.",
        "  scoutkv calibrate -m model.gguf -f book.txt -o model.calib.gguf\n"
        "  scoutkv calibrate -m model.gguf -f book.txt --prompts recall.jsonl\n"
        "  scoutkv eval text -m model.gguf -f book.txt --from 90 --calib model.calib.gguf\n"
        "  scoutkv eval mass --trace held-out.kvt --policies cascade --calib model.calib.gguf --schedule "
        "uniform",
        groups};
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    struct calibrate c = {.args = &a};
    rc = check(&cmd, &a);
    if (rc == 0) {
        interrupt_catch();
        rc = calibrate(&c, &err);
        rc = rc ? cli_fail(cmd.name, &err) : 0;
        if (interrupted())
            rc = EXIT_INTERRUPTED;
    }
    text_pieces_free(&c.pieces);
    fit_free(&c.fit);
    engine_close(&c.engine);
    pool_free(c.pool);
    options_free(&mem);
    return rc;
}
