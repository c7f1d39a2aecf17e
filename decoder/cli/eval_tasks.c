/* eval_tasks.c: `scoutkv eval tasks`: what policies find of what is asked, task by task, and what it costs.
 *
 * DESIGN. Every task has texts of its own (task_text.h), in words of the recall or the counting model: with
 * dense attention all answers are right, so a wrong one is the selection's. A text is prefilled and stored
 * once for the policies that go by what pages received, and once for the others, which so carry none of its
 * cost. Questions are asked in fresh forks with empty caches and go in by decode steps, as do the answers
 * that are given on the way: the policy sees all of it token by token. Facts lie neither in the window nor
 * among the sinks, and the budget is at most a quarter of what holds a fact, so that no policy finds many by
 * chance. Words that are counted lie everywhere. */
#include "common/clock.h"
#include "common/progress.h"
#include "decoder/cli/ask.h"
#include "decoder/cli/cli.h"
#include "decoder/cli/eval_tasks.h"
#include "decoder/cli/interrupt.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define BUDGET_SHARE 0.02 /* of the tokens */
enum { TOKENS_PER_FACT = 128, BUDGET_FACTS = 4 /* in pages: a quarter of the facts */ };

struct tasks_args {
    const char *model, *tasks, *policies, *json;
    uint64_t tokens, facts, questions, texts, seed;
    double dense_seconds;
    struct kv_options kv;
};

#define AT(member) offsetof(struct tasks_args, member)
static const struct opt table[] = {
    {"model", 'm', OPT_STRING, AT(model), "FILE",
     "a model of `scoutkv make-model recall`, or counting: it decides which tasks there are",
     .required = true},
    {"tasks", 0, OPT_STRING, AT(tasks), "LIST", "which of the tasks above, or all"},
    {"tokens", 0, OPT_U64, AT(tokens), "N", "length of a text", .min = 4096, .max = 1 << 27},
    {"questions", 0, OPT_U64, AT(questions), "N", "in each task, over all its texts", .min = 1,
     .max = 100000},
    {"texts", 0, OPT_U64, AT(texts), "K", "of each task, with facts and words of their own", .min = 1,
     .max = 10000},
    {"facts", 0, OPT_U64, AT(facts), "N",
     "in a text, asked for or not: at least 128, and those that questions need; one in 128 tokens if not "
     "given",
     .min = 1},
    {"seed", 's', OPT_U64, AT(seed), "S", "of texts, facts and questions"},
    {"policies", 0, OPT_STRING, AT(policies), "LIST",
     "rows of the tables, as NAME[:OPTION=VALUE…] (see scoutkv policies), or all"},
    {"dense-seconds", 0, OPT_DOUBLE, AT(dense_seconds), "S",
     "how long `dense` may take at a task; it is asked in one fork of each text at least", .max = 1e6},
    {"json", 0, OPT_STRING, AT(json), "FILE", "write the result there too"},
    {0},
};

struct tasks_eval {
    const struct tasks_args *args;
    struct engine engine;
    struct skv_context_opts opts;
    struct asker asker;
    enum task_choice chosen[TASK_KINDS];
    struct task_text text; /* that is measured now */
    skv_context *base;
    struct progress bar;
    char label[80];
    struct tasks_result result;
};

/* ---- before the first pass ---- */

static uint64_t questions_of(const struct tasks_args *a, uint64_t text)
{
    return a->questions * (text + 1) / a->texts - a->questions * text / a->texts;
}

static int make_tasks(struct tasks_eval *e, struct skv_error *err)
{
    const struct tasks_args *a = e->args;
    struct tasks_result *r = &e->result;
    uint64_t facts = a->facts ? a->facts : a->tokens / TOKENS_PER_FACT;
    for (int k = 0; k < TASK_KINDS; k++) {
        if (!e->chosen[k])
            continue;
        struct task_result *task = &r->task[r->n_tasks++];
        *task = (struct task_result){.kind = (enum task_kind)k};
        if (!task_of_words(task->kind))
            task->facts = task_facts(task->kind, facts, questions_of(a, a->texts - 1));
        task->row = calloc(r->n_policies, sizeof *task->row);
        for (size_t i = 0; task->row && i < r->n_policies; i++) {
            task->row[i].share = calloc(a->questions, sizeof *task->row[i].share);
            task->row[i].text_share = calloc(a->texts, sizeof *task->row[i].text_share);
            if (!task->row[i].share || !task->row[i].text_share)
                return skv_fail(err, -ENOMEM, "out of memory");
        }
        if (!task->row)
            return skv_fail(err, -ENOMEM, "out of memory");
    }
    return 0;
}

/* The same for all tasks, so that their rows compare. */
static uint32_t default_budget(const struct tasks_eval *e)
{
    double most = BUDGET_SHARE * (double)e->args->tokens;
    for (size_t i = 0; i < e->result.n_tasks && e->result.task[i].facts; i++) {
        double quarter = (double)e->result.task[i].facts / BUDGET_FACTS * SKV_PAGE;
        most = quarter < most ? quarter : most;
    }
    uint32_t unit = e->args->kv.select, budget = (uint32_t)most / unit * unit;
    return budget ? budget : unit;
}

/* Budgets come once the tasks are known, caches once the model is. */
static int make_policies(struct tasks_eval *e, struct skv_error *err)
{
    struct tasks_result *r = &e->result;
    struct eval_choices c = {0};
    int rc = eval_policies(e->args->policies, &e->opts.decode, &c, err);
    if (!rc && !(r->policy = calloc(c.n, sizeof *r->policy)))
        rc = skv_fail(err, -ENOMEM, "out of memory");
    for (size_t i = 0; i < c.n && !rc; i++)
        r->policy[r->n_policies++] = (struct task_policy){.choice = c.at[i]};
    free(c.at);
    return rc;
}

static void set_budget(struct tasks_eval *e)
{
    struct tasks_result *r = &e->result;
    r->budget = e->args->kv.budget ? e->args->kv.budget : default_budget(e);
    e->opts.decode.budget = r->budget;
    for (size_t i = 0; i < r->n_policies; i++)
        r->policy[i].choice.select.budget = r->budget;
    for (size_t i = 0; i < r->n_tasks; i++)
        if (r->task[i].facts && r->budget > r->task[i].facts / BUDGET_FACTS * SKV_PAGE) {
            fprintf(
                stderr,
                "note: a budget of %u tokens is more than a quarter of the %zu facts' pages: a policy may "
                "find many by chance\n",
                r->budget, r->task[i].facts);
            break;
        }
}

static void size_caches(struct tasks_eval *e)
{
    uint64_t token = kv_bytes_per_token(&e->engine.model->params, kv_dtype(&e->args->kv));
    e->result.context_kv_bytes = e->args->tokens * token;
    e->result.kv_heads = (uint64_t)e->engine.model->params.n_layers * e->engine.model->params.n_kv_heads;
    for (size_t i = 0; i < e->result.n_policies; i++) {
        struct task_policy *p = &e->result.policy[i];
        p->cache = e->args->kv.cache ? e->args->kv.cache : eval_cache(&p->choice.select, token);
    }
}

/* ---- a text ---- */

static int make_text(struct tasks_eval *e, struct task_result *task, uint64_t text, struct skv_error *err)
{
    const struct tasks_args *a = e->args;
    uint64_t seed = a->seed;
    const struct task_text_opts o = {
        .kind = task->kind,
        .seed = recall_rand(&seed) ^ (uint64_t)task->kind << 32 ^ text,
        .tokens = a->tokens,
        .facts = task->facts,
        .questions = questions_of(a, text),
        .kv = &a->kv,
    };
    int rc = task_text_make(&e->text, e->engine.tok, &o, err);
    if (rc)
        return rc;
    struct task_figures f = task_text_figures(&e->text, &e->engine.ranges), *sum = &task->figures;
    if (text > 0) {
        f.fact_pages = sum->fact_pages < f.fact_pages ? sum->fact_pages : f.fact_pages;
        f.protected_facts += sum->protected_facts;
        f.answer_count = sum->answer_count;
        f.other_count = sum->other_count;
    }
    *sum = f;
    return 0;
}

static void close_base(struct tasks_eval *e)
{
    session_close(e->asker.session);
    e->asker.session = NULL;
    if (!e->base)
        return;
    on_loss_add(&e->result.lost, e->base);
    skv_context_close(e->base);
    e->base = NULL;
}

/* A node inside that is only memory forgets by ending: or every text would stay in it. */
static int forget(struct tasks_eval *e, struct skv_error *err)
{
    if (e->args->kv.nodes || e->args->kv.disk.n)
        return 0;
    skv_tier_close(e->engine.tier);
    e->engine.tier = NULL;
    return engine_connect(&e->engine, err);
}

static int open_base(struct tasks_eval *e, bool history, struct skv_error *err)
{
    struct skv_context_opts opts = e->opts;
    opts.history = history;
    if (!e->args->kv.cache) /* of the prefill; forks have their own */
        opts.cache_bytes = e->result.context_kv_bytes / 50;
    int rc = engine_context(&e->engine, &opts, &e->base, &e->asker.session, err);
    if (!rc)
        rc = engine_prefill(&e->engine, e->asker.session, e->label, e->text.ids, e->text.n_ids, NULL, NULL,
                            err);
    return rc ? rc : skv_flush(e->base, err);
}

/* ---- questions ---- */

static double share(const struct found *f)
{
    return f->references ? (double)f->found / (double)f->references : 0;
}

static int ask_fork(struct tasks_eval *e, const struct task_policy *p, struct task_row *row, size_t number,
                    struct found *text, struct skv_error *err)
{
    struct found scored = {0};
    skv_context *fork = NULL;
    int rc = eval_fork(e->asker.session, e->base, &p->choice.select, p->cache, &fork, err);
    if (rc)
        return rc;
    rc = task_text_ask(&e->text, &e->asker, &row->meter, fork, number, &scored, &row->before, err);
    progress_update(&e->bar, e->bar.done + task_text_asks(&e->text, number));
    session_use(e->asker.session, e->base);
    on_loss_add(&e->result.lost, fork);
    skv_context_close(fork);
    row->share[row->n_shares++] = share(&scored);
    found_add(&row->scored, &scored);
    found_add(text, &scored);
    return rc;
}

static int ask_all(struct tasks_eval *e, const struct task_policy *p, struct task_row *row, uint64_t text,
                   struct skv_error *err)
{
    struct found found = {0};
    double limit = e->args->dense_seconds / (double)e->args->texts;
    uint64_t start = clock_ns();
    int rc = 0;
    for (size_t i = 0; i < e->text.n_forks && !rc; i++) {
        rc = ask_fork(e, p, row, i, &found, err);
        if (p->choice.select.policy == SKV_DENSE && (double)(clock_ns() - start) * 1e-9 >= limit &&
            i + 1 < e->text.n_forks) {
            row->out_of_time = true;
            break;
        }
    }
    row->seconds += (double)(clock_ns() - start) * 1e-9;
    row->text_share[text] = share(&found);
    row->n_texts = text + 1;
    return rc;
}

/* ---- the command ---- */

static int run_policies(struct tasks_eval *e, struct task_result *task, uint64_t text, bool history,
                        struct skv_error *err)
{
    struct tasks_result *r = &e->result;
    size_t n = 0;
    for (size_t i = 0; i < r->n_policies; i++)
        n += r->policy[i].history == history;
    if (!n)
        return 0;
    int rc = open_base(e, history, err);
    progress_begin(&e->bar, e->label, "answers", n * e->text.n_asks);
    for (size_t i = 0; i < r->n_policies && !rc; i++)
        if (r->policy[i].history == history)
            rc = ask_all(e, &r->policy[i], &task->row[i], text, err);
    progress_end(&e->bar);
    close_base(e);
    return rc;
}

static int run_task(struct tasks_eval *e, struct task_result *task, struct skv_error *err)
{
    int rc = 0;
    for (uint64_t t = 0; t < e->args->texts && !rc; t++) {
        snprintf(e->label, sizeof e->label, "%s, text %" PRIu64 " of %" PRIu64, task_name(task->kind), t + 1,
                 e->args->texts);
        rc = make_text(e, task, t, err);
        for (int history = 0; history <= 1 && !rc; history++)
            rc = run_policies(e, task, t, history, err);
        task_text_free(&e->text);
        if (!rc)
            rc = forget(e, err);
    }
    return rc;
}

static bool model_counts(const struct engine *e)
{
    struct gguf_str name;
    return gguf_string(e->model->gguf, "general.name", GGUF_OPT, &name, NULL) == 0 &&
           gguf_str_is(name, COUNTING_MODEL_NAME);
}

static int evaluate(struct tasks_eval *e, struct skv_error *err)
{
    struct tasks_result *r = &e->result;
    int rc = engine_open(&e->engine, e->args->model, &e->args->kv, err);
    for (size_t i = 0; rc == 0 && i < r->n_policies; i++) {
        kv_say_salience(&r->policy[i].choice.select, e->engine.calibration);
        r->policy[i].history = skv_policy_history(&r->policy[i].choice.select, e->engine.calibration);
    }
    if (!rc)
        rc = task_fit(model_counts(&e->engine), e->chosen, err);
    if (!rc)
        rc = make_tasks(e, err);
    if (!rc)
        rc = engine_context_opts(&e->engine, &e->opts, err);
    if (!rc)
        rc = asker_open(&e->asker, &e->engine, err);
    if (!rc)
        rc = engine_connect(&e->engine, err);
    if (rc)
        return rc;
    set_budget(e);
    size_caches(e);
    uint64_t start = clock_ns();
    for (size_t i = 0; i < r->n_tasks && !rc; i++) {
        rc = run_task(e, &r->task[i], err);
        if (!rc && i == 0)
            tasks_print_head(r);
        if (!rc)
            tasks_print_task(r, &r->task[i]);
        fflush(stdout);
    }
    if (rc)
        return rc;
    r->seconds = (double)(clock_ns() - start) * 1e-9;
    r->tier = e->engine.tier;
    r->on_loss = &e->engine.loss;
    tasks_print_end(r);
    return e->args->json ? tasks_write_json(r, e->args->json, err) : 0;
}

/* All mistakes of the command line that need no model. */
static int prepare(struct tasks_eval *e, struct skv_error *err)
{
    const struct tasks_args *a = e->args;
    struct tasks_result *r = &e->result;
    struct kv_ranges ranges = {0};
    char recipe[32];
    int rc = kv_context_opts(&a->kv, &ranges, recipe, &e->opts, err);
    free(ranges.range);
    if (!rc && a->questions < a->texts)
        rc = skv_fail(err, -EINVAL, "texts: %" PRIu64 " need as many --questions at least", a->texts);
    if (!rc)
        rc = task_list(a->tasks, e->chosen, err);
    if (!rc)
        rc = make_policies(e, err);
    r->model = a->model;
    r->kv = &a->kv;
    r->seed = a->seed;
    r->tokens = a->tokens;
    r->texts = a->texts;
    r->questions = a->questions;
    return rc;
}

static void close_eval(struct tasks_eval *e)
{
    close_base(e);
    asker_close(&e->asker);
    engine_close(&e->engine);
    task_text_free(&e->text);
    for (size_t t = 0; t < e->result.n_tasks; t++) {
        struct task_row *row = e->result.task[t].row;
        for (size_t i = 0; row && i < e->result.n_policies; i++) {
            free(row[i].share);
            free(row[i].text_share);
        }
        free(row);
    }
    free(e->result.policy);
    free(e);
}

int cmd_eval_tasks(int argc, char **argv)
{
    struct tasks_args a = {.tokens = 16384,
                           .questions = 32,
                           .texts = 2,
                           .seed = 1,
                           .tasks = "all",
                           .policies = "window,heavy-hitter,salience,norm-only,quest,cascade,dense",
                           .dense_seconds = 2};
    struct opt_memory mem = {0};
    struct skv_error err = {0};
    kv_options_defaults(&a.kv);
    a.kv.budget = 0; /* both are computed unless given */
    a.kv.cache = 0;
    const struct opt_group groups[] = {{"Options", table, &a},
                                       {"KV cache", kv_cache_table, &a.kv},
                                       {"Loss", kv_loss_table, &a.kv},
                                       {"Memory nodes", kv_node_table, &a.kv},
                                       {0}};
    const struct opt_command cmd = {
        "scoutkv eval tasks", "-m MODEL [--tasks LIST] [--policies LIST] [options]",
        "What policies find of what is asked about long texts, task by task, beside what a step costs. The "
        "model is\n"
        "made so that dense attention answers everything: what is wrong is the selection's.\n"
        "\n"
        "  needle             one fact among many\n"
        "  multi-key          one fact, of a name that has three other values besides\n"
        "  multi-value        all four values of a name\n"
        "  multi-query        four facts, one after the other\n"
        "  variable-tracking  a chain of four facts: each answer is asked for next\n"
        "  constraint         a fact told early, not asked for while 32 others are, needed then\n"
        "  topic-shift        a fact of one half of the text, after 32 questions about the other\n"
        "  sleeper            a fact that nobody asked for, after 32 questions about four others\n"
        "\n"
        "and with a model of `make-model counting`, whose answers take all of a text:\n"
        "\n"
        "  common-words       the ten words of a list that come ten times as often as the others\n"
        "  frequent-words     the three most frequent words of a text whose words follow Zipf's law\n"
        "\n"
        "Questions are fed by decode steps, in fresh forks with empty caches. A question is right if all of "
        "its\n"
        "references were found; the table shows both, and the standard error over forks. The budget, if not "
        "given, is\n"
        "2 % of the tokens, or a quarter of the pages with a fact if that is less; the cache twice as much. "
        "Of words\n"
        "there is one question a text, whatever --questions says; --tail is made for them, and a --window "
        "that is a\n"
        "good part of the text answers them by itself. Each text stays on the nodes; a node inside this "
        "process forgets it.",
        "  scoutkv make-model recall -o recall.gguf\n"
        "  scoutkv eval tasks -m recall.gguf\n"
        "  scoutkv eval tasks -m recall.gguf --tasks needle,multi-key --policies cascade,quest --budget 64\n"
        "  scoutkv eval tasks -m recall.gguf --tokens 65536 --questions 200 --texts 4 --json tasks.json\n"
        "  scoutkv make-model counting -o counting.gguf\n"
        "  scoutkv eval tasks -m counting.gguf --texts 10 --window 128 --tail",
        groups};
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    struct tasks_eval *e = calloc(1, sizeof *e);
    if (!e)
        return 1;
    e->args = &a;
    rc = prepare(e, &err);
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
