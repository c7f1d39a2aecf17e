/* eval_recall.c: `scoutkv eval recall`: does a policy find what a question needs, and at what cost?
 *
 * DESIGN. One long context is prefilled and stored. Each question is asked in a fresh fork of it, with an
 * empty cache, its tokens fed by decode steps; the answer is what the model then says. Facts lie neither in
 * the window nor in a protected range, and the budget is at most a tenth of the pages that hold a fact, so
 * only the query can tell which to fetch. What the decoder holds is read from the counters of scoutkv.h after
 * every step and must stay below --limit percent of the context's keys and values. */
#include "common/clock.h"
#include "common/progress.h"
#include "common/size.h"
#include "decoder/cli/ask.h"
#include "decoder/cli/cli.h"
#include "decoder/cli/engine.h"
#include "decoder/cli/eval.h"
#include "decoder/cli/interrupt.h"
#include "decoder/cli/recall_task.h"
#include "decoder/model/sample.h"
#include "decoder/tier/tier.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BUDGET_PAGES = 64, MAX_CACHE = 16 << 20 };

struct eval_args {
    const char *model, *policies, *json, *answers, *pids;
    uint64_t tokens, facts, questions, seed;
    double dense_seconds, limit;
    struct kv_options kv;
};

#define AT(member) offsetof(struct eval_args, member)
static const struct opt table[] = {
    {"model", 'm', OPT_STRING, AT(model), "FILE", "a model of `scoutkv make-model recall`", .required = true},
    {"tokens", 0, OPT_U64, AT(tokens), "N", "length of the context", .min = 1024, .max = 1 << 27},
    {"facts", 0, OPT_U64, AT(facts), "N", "facts in the text; max(128, 2048 per million tokens) if not given",
     .min = 1},
    {"questions", 0, OPT_U64, AT(questions), "N", "facts that are asked for, spread over all depths",
     .min = 1},
    {"seed", 's', OPT_U64, AT(seed), "S", "of the text, its facts and the choice of questions"},
    {"policies", 0, OPT_STRING, AT(policies), "LIST", "rows of the table"},
    {"dense-seconds", 0, OPT_DOUBLE, AT(dense_seconds), "S",
     "how long `dense` may take; it answers one question at least", .max = 1e6},
    {"limit", 0, OPT_DOUBLE, AT(limit), "PERCENT",
     "most that window, protected, representatives and cache may take of the context's keys and values; more "
     "is a failure",
     .min = 0.1, .max = 1000},
    {"node-pids", 0, OPT_STRING, AT(pids), "LIST",
     "process ids of the nodes, if on this machine: shows their peak RSS"},
    {"json", 0, OPT_STRING, AT(json), "FILE", "write the result there too"},
    {"answers", 0, OPT_STRING, AT(answers), "FILE",
     "write a line there for every answer as it comes: policy, name that was asked for, value due, value "
     "said "
     "(- if none), milliseconds of its longest step"},
    {0},
};

struct eval {
    const struct eval_args *args;
    struct engine engine;
    struct recall_task task;
    struct skv_context_opts opts;
    skv_context *base; /* the stored context */
    struct asker asker;
    FILE *answers;       /* of --answers, or NULL */
    uint64_t base_pages; /* bytes of pages that the base holds itself, besides what forks hold */
    struct eval_result result;
};

/* ---- before the first pass ---- */

static int parse_policies(const char *list, struct eval_result *r, struct skv_error *err)
{
    while (*list) {
        char name[SKV_POLICY_TEXT];
        size_t len = strcspn(list, ",");
        snprintf(name, sizeof name, "%.*s", len < sizeof name ? (int)len : 0, list);
        if (r->n_rows == EVAL_POLICIES)
            return skv_fail(err, -EINVAL, "policies: at most %d", EVAL_POLICIES);
        struct eval_row *row = &r->row[r->n_rows++];
        int rc = skv_policy_parse(name, &row->select, err);
        if (rc)
            return rc;
        skv_policy_format(&row->select, row->policy);
        list += len + (list[len] == ',');
    }
    return r->n_rows ? 0 : skv_fail(err, -EINVAL, "policies: the list is empty");
}

static int make_task(struct eval *e, struct skv_error *err)
{
    const struct eval_args *a = e->args;
    const struct kv_options *kv = &a->kv;
    struct recall_task_opts o = {
        .seed = a->seed,
        .tokens = a->tokens,
        .facts = a->facts ? a->facts : recall_task_facts(a->tokens),
        .questions = a->questions,
        .keep_first = kv->sinks + SKV_BLOCK,
        .keep_last = ask_far_behind(kv),
    };
    for (size_t i = 0; i < e->engine.ranges.n; i++)
        if (e->engine.ranges.range[i].to > kv->sinks)
            return skv_fail(err, -EINVAL,
                            "protect: eval recall puts facts everywhere behind the sinks; use --sinks");
    int rc = recall_task_make(&e->task, e->engine.tok, &o, err);
    if (rc)
        return rc;
    struct eval_result *r = &e->result;
    r->seed = a->seed;
    r->tokens = e->task.n;
    r->facts = o.facts;
    r->fact_pages = e->task.fact_pages;
    uint64_t tenth = e->task.fact_pages / 10 * SKV_PAGE;
    r->budget_tokens = kv->budget                            ? kv->budget
                       : tenth < MAX_BUDGET_PAGES * SKV_PAGE ? tenth
                                                             : MAX_BUDGET_PAGES * SKV_PAGE;
    r->budget_tokens -= r->budget_tokens % kv->select;
    if (r->budget_tokens > tenth)
        fprintf(stderr,
                "note: a budget of %" PRIu64
                " tokens is more than a tenth of the pages that hold a fact (%" PRIu64
                " tokens): a policy may find facts by chance\n",
                r->budget_tokens, tenth);
    return 0;
}

/* ---- the stored context ---- */

/* What is left of the limit when everything else is counted, at most MAX_CACHE. */
static uint64_t cache_for(const struct eval *e)
{
    if (e->args->kv.cache)
        return e->args->kv.cache;
    struct skv_stats s;
    skv_context_stats(e->base, &s);
    /* Slack: the tail grows by the tokens of a question, what then seals stays until it is acknowledged, and
     * its representatives come on top. */
    uint64_t token = kv_local_bytes_per_token(&e->engine.model->params, kv_dtype(&e->args->kv));
    uint64_t rest = s.window_bytes + s.representative_bytes + s.cache_bytes + 3 * SKV_BLOCK * token;
    uint64_t limit = (uint64_t)((double)s.context_bytes * e->args->limit / 100);
    uint64_t left = limit > rest ? limit - rest : 0;
    return left < MAX_CACHE ? left : MAX_CACHE;
}

static int store_context(struct eval *e, struct skv_error *err)
{
    const struct kv_options *kv = &e->args->kv;
    struct eval_result *r = &e->result;
    uint64_t kv_bytes = e->task.n * kv_bytes_per_token(&e->engine.model->params, kv_dtype(kv));
    e->opts.decode.budget = (uint32_t)r->budget_tokens;
    for (size_t i = 0; i < r->n_rows; i++) {
        kv_say_salience(&r->row[i].select, e->engine.calibration);
        e->opts.history |= skv_policy_history(&r->row[i].select, e->engine.calibration);
    }
    if (!kv->cache) /* during prefill too the decoder holds little */
        e->opts.cache_bytes = kv_bytes / 50 < MAX_CACHE ? kv_bytes / 50 : MAX_CACHE;
    int rc = engine_context(&e->engine, &e->opts, &e->base, &e->asker.session, err);
    if (!rc)
        rc = engine_prefill(&e->engine, e->asker.session, "prefill", e->task.ids, e->task.n, NULL,
                            &r->prefill_s, err);
    uint64_t start = clock_ns();
    if (!rc)
        rc = skv_flush(e->base, err);
    r->flush_s = (double)(clock_ns() - start) * 1e-9;
    if (!rc) /* the cache of the prefill is of no more use: forks have their own */
        rc = skv_context_configure(e->base, &e->opts.decode, 0, err);
    if (rc)
        return rc;
    skv_context_stats(e->base, &r->base);
    r->context_kv_bytes = r->base.context_bytes;
    r->cache_bytes = cache_for(e);
    e->base_pages = r->base.cache_bytes;
    return 0;
}

/* ---- questions ---- */

static int answer(struct eval *e, struct eval_row *row, skv_context *fork, const struct recall_question *q,
                  struct answer *a, struct skv_error *err)
{
    int rc = ask_feed(&e->asker, &row->meter, fork, q->ids, q->n, err);
    return rc ? rc : ask_answer(&e->asker, &row->meter, fork, RECALL_DIGITS, a, err);
}

/* At once: somebody may be waiting for it. */
static int tell(struct eval *e, const struct eval_row *row, const struct recall_fact *fact,
                const struct answer *a, struct skv_error *err)
{
    if (!e->answers)
        return 0;
    int bad = fprintf(e->answers, "%s %s %s %s %.1f\n", row->policy, fact->name, fact->value,
                      a->n ? a->word : "-", (double)e->asker.longest_ns / 1e6) < 0;
    if (fflush(e->answers) || bad)
        return skv_fail(err, -EIO, "cannot write %s: %s", e->args->answers, strerror(errno));
    return 0;
}

static int ask(struct eval *e, struct eval_row *row, const struct recall_question *q, struct skv_error *err)
{
    struct skv_select select = row->select;
    struct answer a = {0};
    skv_context *fork;
    select.budget = e->opts.decode.budget;
    select.unit = e->opts.decode.unit;
    select.mass = e->opts.decode.mass;
    select.refresh = e->opts.decode.refresh;
    select.refresh_budget = e->opts.decode.refresh_budget;
    select.refresh_turn = e->opts.decode.refresh_turn;
    select.tail = e->opts.decode.tail && select.policy == SKV_CASCADE;
    e->asker.longest_ns = e->asker.held_bytes = 0;
    int rc = skv_context_fork(e->base, &fork, err);
    if (rc)
        return rc;
    rc = skv_context_configure(fork, &select, e->result.cache_bytes, err);
    session_use(e->asker.session, fork);
    if (!rc)
        rc = answer(e, row, fork, q, &a, err);
    session_use(e->asker.session, e->base);
    if (e->asker.held_bytes + e->base_pages > row->decoder_kv_bytes)
        row->decoder_kv_bytes = e->asker.held_bytes + e->base_pages;
    on_loss_add(&e->result.lost, fork);
    skv_context_close(fork);
    row->asked += !rc;
    row->right += !rc && answer_right(&a, q->fact->value);
    return rc ? rc : tell(e, row, q->fact, &a, err);
}

static int run_policy(struct eval *e, struct eval_row *row, struct skv_error *err)
{
    struct progress bar;
    const char *name = row->policy;
    int rc = 0;
    progress_begin(&bar, name, "questions", e->task.n_questions);
    for (size_t i = 0; i < e->task.n_questions && !rc && !row->out_of_time; i++) {
        rc = ask(e, row, &e->task.questions[i], err);
        progress_update(&bar, i + 1);
        row->out_of_time = row->select.policy == SKV_DENSE &&
                           progress_seconds(&bar) >= e->args->dense_seconds && i + 1 < e->task.n_questions;
    }
    if (!rc)
        fprintf(stderr, "%s%-13s %" PRIu64 " of %" PRIu64 " right in %.1f s\n", bar.on ? "\r\033[K" : "",
                name, row->right, row->asked, progress_seconds(&bar));
    progress_end(&bar);
    return rc;
}

/* ---- memory of the nodes ---- */

static int read_nodes(const struct eval *e, struct eval_result *r, struct skv_error *err)
{
    const struct kv_options *kv = &e->args->kv;
    struct tier_opts opts = {.nodes = kv->nodes,
                             .cluster = kv->cluster,
                             .ns = kv->ns,
                             .replicas = kv->replicas,
                             .timeout_ms = kv->timeout_ms};
    struct tier_counter *counters = NULL;
    struct tier *tier;
    size_t n = 0;
    if (!kv->nodes)
        return 0;
    int rc = tier_open(&opts, &tier, err);
    if (rc)
        return rc;
    rc = tier_stats(tier, &counters, &n, err);
    if (!rc && !(r->nodes = calloc(tier_n_nodes(tier), sizeof *r->nodes)))
        rc = skv_fail(err, -ENOMEM, "out of memory");
    for (size_t i = 0; i < n && !rc; i++) {
        if (strcmp(counters[i].name, "bytes") || r->n_nodes == tier_n_nodes(tier))
            continue;
        struct eval_node *node = &r->nodes[r->n_nodes++];
        memcpy(node->name, counters[i].node, sizeof node->name);
        node->bytes = counters[i].value;
    }
    free(counters);
    tier_close(tier);
    return rc;
}

static uint64_t rss_of(long pid)
{
    char path[64], line[256];
    unsigned long long kib = 0;
    snprintf(path, sizeof path, "/proc/%ld/status", pid);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %llu kB", &kib) == 1)
            break;
    if (f)
        fclose(f);
    return kib * 1024;
}

static uint64_t rss_of_all(const char *pids)
{
    uint64_t sum = 0;
    while (pids && *pids) {
        char *end;
        sum += rss_of(strtol(pids, &end, 10));
        pids = end == pids || !*end ? NULL : end + 1;
    }
    return sum;
}

/* ---- the command ---- */

static int check_limit(const struct eval *e, struct skv_error *err)
{
    const struct eval_result *r = &e->result;
    char held[32], whole[32];
    if ((double)r->decoder_kv_bytes <= (double)r->context_kv_bytes * e->args->limit / 100)
        return 0;
    return skv_fail(err, -EOVERFLOW,
                    "the decoder held %s of the context's %s, more than %g %%: lower --cache or --window, or "
                    "raise --limit",
                    size_format(held, sizeof held, r->decoder_kv_bytes),
                    size_format(whole, sizeof whole, r->context_kv_bytes), e->args->limit);
}

static int open_answers(struct eval *e, struct skv_error *err)
{
    if (!e->args->answers || (e->answers = fopen(e->args->answers, "w")))
        return 0;
    return skv_fail(err, -errno, "cannot write %s: %s", e->args->answers, strerror(errno));
}

static int evaluate(struct eval *e, struct skv_error *err)
{
    struct eval_result *r = &e->result;
    int rc = open_answers(e, err);
    if (!rc)
        rc = engine_open(&e->engine, e->args->model, &e->args->kv, err);
    if (!rc)
        rc = engine_context_opts(&e->engine, &e->opts, err);
    if (!rc)
        rc = make_task(e, err);
    if (!rc)
        rc = asker_open(&e->asker, &e->engine, err);
    if (!rc)
        rc = engine_connect(&e->engine, err);
    if (!rc)
        rc = store_context(e, err);
    if (!rc) /* now: while questions are asked, a node may go */
        rc = read_nodes(e, r, err);
    for (size_t i = 0; i < r->n_rows && !rc; i++) {
        rc = run_policy(e, &r->row[i], err);
        if (r->row[i].decoder_kv_bytes > r->decoder_kv_bytes)
            r->decoder_kv_bytes = r->row[i].decoder_kv_bytes;
    }
    if (rc)
        return rc;
    on_loss_add(&r->lost, e->base);
    r->on_loss = &e->engine.loss;
    r->peak_rss = peak_rss();
    r->nodes_rss = rss_of_all(e->args->pids);
    r->tier = e->engine.tier;
    eval_print(r);
    if (e->args->json)
        rc = eval_write_json(r, e->args->json, err);
    return rc ? rc : check_limit(e, err);
}

static void close_eval(struct eval *e)
{
    asker_close(&e->asker);
    if (e->base)
        skv_context_close(e->base);
    engine_close(&e->engine);
    recall_task_free(&e->task);
    if (e->answers)
        fclose(e->answers);
    free(e->result.nodes);
    free(e);
}

static int eval_recall(int argc, char **argv)
{
    struct eval_args a = {.tokens = 65536,
                          .questions = 64,
                          .seed = 1,
                          .policies = "window,norm-only,cascade,dense",
                          .dense_seconds = 60,
                          .limit = 10};
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
        "scoutkv eval recall", "-m MODEL [--tokens N] [--nodes LIST] [options]",
        "Stores one long text with many facts in it, then asks for some of them under several policies, each "
        "question\n"
        "in a fresh fork with an empty cache, fed by decode steps. Prints right answers, time and bytes "
        "fetched per\n"
        "step, and what the decoder holds. No fact lies in the window, and the budget (if not given: a tenth "
        "of the\n"
        "pages that hold a fact, at most 1024 tokens) is far too small for all facts: only the query can "
        "tell which.\n"
        "The cache, if not given, is what the limit leaves, at most 16 MiB.\n"
        "\n"
        "window: sees nothing far; norm-only: the largest keys whatever the question, a control; cascade: "
        "the scout's\n"
        "choice; dense: reads everything at every step, on as many questions as fit --dense-seconds.",
        "  scoutkv make-model recall -o recall.gguf\n"
        "  scoutkv eval recall -m recall.gguf\n"
        "  scoutkv eval recall -m recall.gguf --tokens 1000000 --nodes 127.0.0.1:7071,127.0.0.1:7072 --json "
        "out.json\n"
        "  scoutkv eval recall -m recall.gguf --policies cascade --budget 64",
        groups};
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    struct eval *e = calloc(1, sizeof *e);
    if (!e)
        return 1;
    e->args = &a;
    rc = parse_policies(a.policies, &e->result, &err);
    if (!rc) {
        struct kv_ranges ranges = {0};
        char recipe[32];
        rc = kv_context_opts(&a.kv, &ranges, recipe, &e->opts, &err);
        free(ranges.range);
    }
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

int cmd_eval(int argc, char **argv)
{
    static const struct cli_command tasks[] = {
        {"recall", eval_recall,
         "facts in a long text: right answers, time, bytes and memory of several policies"},
        {"tasks", cmd_eval_tasks,
         "kinds of questions about long texts: what each policy finds, beside bytes and time"},
        {"mass", eval_mass, "policies on captured traces: attention mass held, output error, bytes"},
        {"text", cmd_eval_text,
         "perplexity on a text, and how far it is from dense's, beside bytes and time"},
        {0},
    };
    return cli_dispatch(tasks, "scoutkv eval", "Usage: scoutkv eval TASK -m MODEL [options]", "", argc, argv);
}
