/* eval_mass.c: `scoutkv eval mass`: policies compared on captured queries, keys and values, without a model
 * or a node; see mass_eval.h. */
#include "common/progress.h"
#include "decoder/cli/cli.h"
#include "decoder/cli/interrupt.h"
#include "decoder/cli/kv_options.h"
#include "decoder/cli/mass_eval.h"
#include "decoder/model/calibration_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct mass_args {
    struct opt_list traces;
    const char *policies, *budgets, *json;
    struct kv_options kv; /* of these, calib, schedule and representatives */
    uint32_t window, sinks, select, threads;
    bool layers, calibration;
};

#define AT(member) offsetof(struct mass_args, member)
static const struct opt table[] = {
    {"trace", 0, OPT_LIST, AT(traces), "FILE", "traces of `scoutkv trace`, all of one model"},
    {"policies", 0, OPT_STRING, AT(policies), "LIST",
     "NAME[:option=value…],…; all that `scoutkv policies` lists if not given"},
    {"budgets", 0, OPT_STRING, AT(budgets), "LIST", "tokens selected per KV head"},
    {"select", 0, OPT_U32, AT(select), "16|32|64", "tokens selected together"},
    {"window", 0, OPT_U32, AT(window), "TOKENS",
     "newest tokens, always attended; far is what lies behind them in whole blocks of 64", .max = 1 << 30},
    {"sinks", 0, OPT_U32, AT(sinks), "TOKENS", "first tokens, always attended, rounded up to pages of 16",
     .max = 1 << 30},
    {"calib", 0, OPT_STRING, AT(kv.calib), "FILE", "what `scoutkv calibrate` measured of the traces' model"},
    {"schedule", 0, OPT_CHOICE, AT(kv.schedule), NULL,
     "how a budget is split over layers and KV heads, with the same sum; --calib means calibrated",
     .choices = "uniform|narrow-low|calibrated"},
    {"representatives", 0, OPT_CHOICE, AT(kv.representatives), NULL,
     "of pages: full, or lean: without the keys that stand out, a fifth of the bytes",
     .choices = "full|lean"},
    {"layers", 0, OPT_FLAG, AT(layers), NULL, "show the share of each layer too"},
    {"calibration", 0, OPT_FLAG, AT(calibration), NULL,
     "for policies that estimate what they miss: estimated against true, by deciles of the estimate, and the "
     "worst case that holds whatever the keys"},
    {"json", 0, OPT_STRING, AT(json), "FILE",
     "write the result there too; - is standard output, without tables"},
    {"threads", 't', OPT_U32, AT(threads), "N", "compute threads; all cores if not given", .min = 1,
     .max = 1024},
    {0},
};

/* ---- lists ---- */

static int add_policy(struct mass_setup *s, const char *spec, struct skv_error *err)
{
    if (s->n_policies == MASS_POLICIES)
        return skv_fail(err, -EINVAL, "policies: more than %d", MASS_POLICIES);
    struct skv_select *p = &s->policy[s->n_policies];
    *p = (struct skv_select){.unit = s->unit};
    int rc = skv_policy_parse(spec, p, err);
    if (rc)
        return rc;
    skv_policy_format(p, s->label[s->n_policies]);
    for (unsigned i = 0; i < s->n_policies; i++)
        if (!strcmp(s->label[i], s->label[s->n_policies]))
            return skv_fail(err, -EINVAL, "policies: %s is named twice", spec);
    s->n_policies++;
    return 0;
}

static int parse_policies(struct mass_setup *s, const char *list, struct skv_error *err)
{
    int rc = 0;
    if (!list) {
        for (unsigned i = 0; i < SKV_POLICIES && rc == 0; i++)
            rc = add_policy(s, skv_policy_name((enum skv_policy)i), err);
        return rc;
    }
    char *copy = strdup(list), *rest = copy, *spec;
    if (!copy)
        return skv_fail(err, -ENOMEM, "out of memory");
    while (rc == 0 && (spec = strsep(&rest, ",")))
        rc = add_policy(s, spec, err);
    free(copy);
    return rc;
}

static int parse_budgets(struct mass_setup *s, const char *list, struct skv_error *err)
{
    for (const char *at = list;; at++) {
        char *end;
        errno = 0;
        unsigned long long n = strtoull(at, &end, 10);
        if (end == at || *at == '-' || errno || n > 1u << 30 || (*end && *end != ','))
            return skv_fail(err, -EINVAL, "budgets: '%s' is no list of tokens like 64,128", list);
        if (n < s->unit)
            return skv_fail(err, -EINVAL,
                            "budgets: %llu tokens are less than the %u that are selected together", n,
                            s->unit);
        if (s->n_budgets == MASS_BUDGETS)
            return skv_fail(err, -EINVAL, "budgets: more than %d", MASS_BUDGETS);
        s->budget[s->n_budgets++] = (uint32_t)n;
        if (!*end)
            return 0;
        at = end;
    }
}

static int make_setup(const struct mass_args *a, struct mass_setup *s, struct skv_error *err)
{
    if (a->select != 16 && a->select != 32 && a->select != 64)
        return skv_fail(err, -EINVAL, "select: %u: one of 16, 32, 64", a->select);
    if (!a->traces.n)
        return skv_fail(err, -EINVAL, "trace: give at least one");
    s->window = a->window;
    s->unit = a->select;
    s->protected_pages = (a->sinks + SKV_PAGE - 1) / SKV_PAGE;
    s->calibration = a->calibration;
    s->representatives = kv_representatives(&a->kv);
    int rc = kv_schedule(&a->kv, &s->schedule, err);
    if (rc)
        return rc;
    rc = parse_policies(s, a->policies, err);
    return rc ? rc : parse_budgets(s, a->budgets, err);
}

/* ---- traces ---- */

static int check_trace(const struct mass_result *r, const struct kv_trace *t, struct skv_error *err)
{
    if (t->head.d_k % 8)
        return skv_fail(err, -EINVAL, "%s: keys of %u dims: the scout wants a multiple of 8", t->path,
                        t->head.d_k);
    if (r->n_traces && (memcmp(r->head.fingerprint, t->head.fingerprint, sizeof t->head.fingerprint) ||
                        r->head.n_layers != t->head.n_layers || r->head.n_heads != t->head.n_heads ||
                        r->head.n_kv_heads != t->head.n_kv_heads || r->head.d_k != t->head.d_k))
        return skv_fail(err, -EINVAL, "%s is of another model than %s: compare them in runs of their own",
                        t->path, r->traces[0].file);
    const struct skv_calibration *c = r->setup->calib;
    if (c && (memcmp(c->fingerprint, t->head.fingerprint, sizeof c->fingerprint) ||
              c->n_layers != t->head.n_layers || c->n_kv_heads != t->head.n_kv_heads ||
              (c->d_k && c->d_k != t->head.d_k)))
        return skv_fail(err, -EINVAL, "calib: it was made for another model than that of %s", t->path);
    return 0;
}

/* Queries too early to have anything far are no measurement. */
static int check_far(const struct mass_setup *s, const struct mass_trace *t, struct skv_error *err)
{
    double rows = 0;
    for (size_t i = 0; i < (size_t)t->n_layers * mass_cells(s); i++)
        rows += t->cells[i].rows;
    return rows > 0
               ? 0
               : skv_fail(err, -EINVAL,
                          "%s: no marked query has far pages behind a window of %u and the protected tokens: "
                          "use a smaller --window, or a longer trace",
                          t->file, s->window);
}

static int one_trace(struct mass_result *r, struct pool *pool, const char *path, struct skv_error *err)
{
    struct kv_trace *t = NULL;
    int rc = kv_trace_open(path, &t, err);
    if (rc == 0)
        rc = check_trace(r, t, err);
    if (rc == 0) {
        struct mass_trace *out = &r->traces[r->n_traces];
        if (!r->n_traces)
            r->head = t->head;
        r->n_traces++;
        rc = mass_run(r->setup, t, pool, out, r->samples, err);
        out->file = path; /* the trace is closed */
        if (rc == 0)
            rc = check_far(r->setup, out, err);
    }
    kv_trace_close(t);
    return rc;
}

static int eval_traces(const struct mass_args *a, struct mass_result *r, struct skv_error *err)
{
    const struct mass_setup *s = r->setup;
    struct pool *pool = pool_new(a->threads);
    struct progress bar;
    int rc = 0;
    r->traces = calloc(a->traces.n, sizeof *r->traces);
    r->samples = calloc((size_t)s->n_policies * s->n_budgets, sizeof *r->samples);
    if (!pool || !r->traces || !r->samples)
        rc = skv_fail(err, -ENOMEM, "out of memory");
    progress_begin(&bar, "eval mass", "traces", a->traces.n);
    for (size_t i = 0; i < a->traces.n && rc == 0; i++) {
        rc = one_trace(r, pool, a->traces.item[i], err);
        progress_update(&bar, i + 1);
    }
    r->seconds = progress_seconds(&bar);
    progress_end(&bar);
    pool_free(pool);
    return rc;
}

static int tell(const struct mass_args *a, const struct mass_result *r, struct skv_error *err)
{
    if (!a->json || strcmp(a->json, "-")) {
        mass_print(r, a->layers);
        if (a->calibration)
            mass_print_calibration(r);
    }
    return a->json ? mass_write_json(r, a->json, err) : 0;
}

static void result_free(struct mass_result *r)
{
    const struct mass_setup *s = r->setup;
    for (size_t i = 0; i < r->n_traces; i++)
        free(r->traces[i].cells);
    for (unsigned i = 0; r->samples && i < s->n_policies * s->n_budgets; i++)
        free(r->samples[i].at);
    free(r->traces);
    free(r->samples);
}

int eval_mass(int argc, char **argv)
{
    struct mass_args a = {.budgets = "64,128,256,512", .window = 128, .sinks = 64, .select = 16};
    struct opt_memory mem = {0};
    struct skv_error err = {0};
    const struct opt_group groups[] = {{"Options", table, &a}, {0}};
    const struct opt_command cmd = {
        "scoutkv eval mass",
        "--trace FILE… [options]",
        "Compares policies on captured traces, in seconds, at equal numbers of selected tokens. For every "
        "layer,\n"
        "KV head and marked query it computes where the attention really goes, lets each policy choose "
        "pages, "
        "and\n"
        "prints the share of the far attention mass that they hold, the error of the attention output, and "
        "the "
        "bytes\n"
        "that the policy keeps and reads to choose. `oracle` chooses by the truth: no choice of whole pages "
        "holds more.\n"
        "Policies that go by the past see all queries before under dense attention.",
        "  scoutkv trace -m model.gguf --prompts recall-4k.jsonl --prompt 0 -o recall-0.kvt\n"
        "  scoutkv eval mass --trace recall-0.kvt\n"
        "  scoutkv eval mass --trace recall-0.kvt --policies quest,cascade,cascade:beta=0.5,oracle --budgets "
        "64 "
        "--layers\n"
        "  scoutkv eval mass --trace recall-0.kvt --policies cascade --calibration --json -",
        groups,
        &a.traces,
        OPERANDS_ANY};
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    struct mass_setup *setup = calloc(1, sizeof *setup);
    struct mass_result r = {.setup = setup};
    struct skv_calibration *calib = NULL;
    if (!setup) {
        rc = 1;
    } else if (make_setup(&a, setup, &err)) {
        rc = options_mistake(&cmd, "%s", err.text);
    } else {
        interrupt_catch();
        rc = a.kv.calib ? calibration_load(a.kv.calib, NULL, &calib, &err) : 0;
        setup->calib = calib;
        for (unsigned i = 0; rc == 0 && i < setup->n_policies; i++)
            kv_say_salience(&setup->policy[i], calib);
        if (rc == 0)
            rc = eval_traces(&a, &r, &err);
        if (rc == 0)
            rc = tell(&a, &r, &err);
        rc = rc ? cli_fail(cmd.name, &err) : 0;
        if (interrupted())
            rc = EXIT_INTERRUPTED;
    }
    result_free(&r);
    free(calib);
    free(setup);
    options_free(&mem);
    return rc;
}
