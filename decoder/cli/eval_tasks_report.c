/* eval_tasks_report.c: the result of `scoutkv eval tasks` as tables for people and as JSON for programs. */
#include "common/size.h"
#include "decoder/cli/eval_tasks.h"
#include "decoder/cli/node_report.h"
#include "decoder/cli/on_loss.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

static double percent(uint64_t part, uint64_t whole)
{
    return whole ? 100 * (double)part / (double)whole : 0;
}

/* ---- for people ---- */

void tasks_print_head(const struct tasks_result *r)
{
    char tokens[32];
    uint64_t questions = r->task[0].facts ? r->questions : r->texts;
    printf("texts of %s tokens, %" PRIu64 " a task; %" PRIu64
           " questions a task; budget %u tokens per KV head and "
           "step (%.2g %% of the tokens)\n",
           count_format(tokens, sizeof tokens, r->tokens), r->texts, questions, r->budget,
           percent(r->budget, r->tokens));
    printf("besides the budget: window %u, sinks %u; selected together: %u tokens\n", r->kv->window,
           r->kv->sinks, r->kv->select);
}

static int name_width(const struct tasks_result *r)
{
    size_t width = 12;
    for (size_t i = 0; i < r->n_policies; i++) {
        size_t n = strlen(r->policy[i].choice.name);
        width = n > width ? n : width;
    }
    return (int)width;
}

/* Of the choices of KV heads, those that were of a larger budget. */
static double refreshed_percent(const struct tasks_result *r, const struct meter *m)
{
    return percent(m->refreshes, meter_steps(m) * r->kv_heads);
}

static void print_row(const struct tasks_result *r, const struct task_policy *p, const struct task_row *row,
                      int width)
{
    const struct meter *m = &row->meter;
    const struct found *f = &row->scored;
    struct estimate share = estimate_mean(row->share, row->n_shares),
                    texts = estimate_mean(row->text_share, row->n_texts);
    char right[48], spread[16] = "-", range[32] = "-", fetched[32], read[32], hits[16] = "-",
                    before[16] = "-";
    snprintf(right, sizeof right, "%" PRIu64 "/%" PRIu64, f->right, f->questions);
    if (isfinite(share.se))
        snprintf(spread, sizeof spread, "%.1f", 100 * share.se);
    if (row->n_texts > 1)
        snprintf(range, sizeof range, "%.1f-%.1f", 100 * texts.min, 100 * texts.max);
    if (row->before.references)
        snprintf(before, sizeof before, "%.1f", percent(row->before.found, row->before.references));
    if (m->wanted)
        snprintf(hits, sizeof hits, "%.1f %%", 100 * meter_hit_share(m));
    printf("%-*s %9s %7.1f %5s %12s %6s %12s %11s %8.1f %8.2f %8s %9.1f%s\n", width, p->choice.name, right,
           percent(f->found, f->references), spread, range, before,
           size_format(fetched, sizeof fetched, (uint64_t)meter_bytes_per_step(m)),
           size_format(read, sizeof read, (uint64_t)meter_scout_bytes_per_step(m)),
           1000 * meter_mean_ms(m, METER_SCOUT), meter_mean_ms(m, METER_STEP), hits, refreshed_percent(r, m),
           row->out_of_time ? "  (as many as fit the time)" : "");
}

void tasks_print_task(const struct tasks_result *r, const struct task_result *t)
{
    int width = name_width(r);
    printf("\n%s: %s; ", task_name(t->kind), task_about(t->kind));
    if (t->facts)
        printf("%zu facts in a text, in %" PRIu64 " pages\n", t->facts, t->figures.fact_pages);
    else
        printf("the last answer comes %" PRIu64 " times, the next word %" PRIu64 " times\n",
               t->figures.answer_count, t->figures.other_count);
    if (t->figures.protected_facts)
        printf("note: %" PRIu64
               " facts of all texts touch what --protect names: they are always attended to\n",
               t->figures.protected_facts);
    printf("%-*s %9s %7s %5s %12s %6s %12s %11s %8s %8s %8s %9s\n", width, "policy", "right", "found %", "+-",
           "texts", "before", "fetched/step", "scout reads", "scout us", "ms/step", "held", "refresh %");
    for (size_t i = 0; i < r->n_policies; i++)
        print_row(r, &r->policy[i], &t->row[i], width);
}

void tasks_print_end(const struct tasks_result *r)
{
    char time[32];
    printf(
        "\nright: questions of which every reference was found; found: references, with their standard error "
        "over forks and\ntheir range over texts; before: found of the unscored; held: of the selected pages; "
        "refresh:\nof the choices of KV heads, those of --refresh-budget. All of it took %s\n",
        duration_format(time, sizeof time, r->seconds));
    on_loss_print(r->on_loss, &r->lost, stdout);
    node_report_print(r->tier, stdout);
}

/* ---- for programs ---- */

static json_t *number(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static json_t *numbers(const double *x, size_t n)
{
    json_t *a = json_array();
    for (size_t i = 0; a && i < n; i++)
        json_array_append_new(a, number(x[i]));
    return a;
}

static json_t *found_share(const struct found *f)
{
    return f->references ? json_real((double)f->found / (double)f->references) : json_null();
}

static json_t *row_json(const struct task_policy *p, const struct task_row *row)
{
    const struct found *f = &row->scored;
    return json_pack("{s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:b, s:f, s:I, s:o}", "asked",
                     (json_int_t)f->questions, "right", (json_int_t)f->right, "references",
                     (json_int_t)f->references, "references_found", (json_int_t)f->found, "found",
                     found_share(f), "found_se", number(estimate_mean(row->share, row->n_shares).se),
                     "found_by_text", numbers(row->text_share, row->n_texts), "found_before",
                     found_share(&row->before), "out_of_time", row->out_of_time, "seconds", row->seconds,
                     "cache_bytes", (json_int_t)p->cache, "costs", meter_json(&row->meter));
}

static json_t *task_json(const struct tasks_result *r, const struct task_result *t)
{
    json_t *rows = json_object();
    for (size_t i = 0; rows && i < r->n_policies; i++)
        json_object_set_new(rows, r->policy[i].choice.name, row_json(&r->policy[i], &t->row[i]));
    const struct task_figures *f = &t->figures;
    if (t->facts)
        return json_pack("{s:I, s:I, s:I, s:o}", "facts", (json_int_t)t->facts, "fact_pages",
                         (json_int_t)f->fact_pages, "protected_facts", (json_int_t)f->protected_facts,
                         "policies", rows);
    return json_pack("{s:I, s:I, s:o}", "answer_count", (json_int_t)f->answer_count, "other_count",
                     (json_int_t)f->other_count, "policies", rows);
}

static json_t *tasks_json(const struct tasks_result *r)
{
    json_t *tasks = json_object();
    for (size_t i = 0; tasks && i < r->n_tasks; i++)
        json_object_set_new(tasks, task_name(r->task[i].kind), task_json(r, &r->task[i]));
    return tasks;
}

int tasks_write_json(const struct tasks_result *r, const char *path, struct skv_error *err)
{
    json_t *o = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:o}", "model", r->model,
                          "seed", (json_int_t)r->seed, "tokens", (json_int_t)r->tokens, "texts",
                          (json_int_t)r->texts, "questions", (json_int_t)r->questions, "budget_tokens",
                          (json_int_t)r->budget, "window", (json_int_t)r->kv->window, "sinks",
                          (json_int_t)r->kv->sinks, "select", (json_int_t)r->kv->select, "context_kv_bytes",
                          (json_int_t)r->context_kv_bytes, "seconds", r->seconds, "tasks", tasks_json(r));
    if (!o)
        return skv_fail(err, -ENOMEM, "out of memory for the JSON output");
    json_object_set_new(o, "tier", node_report_json(r->tier));
    json_object_set_new(o, "loss", on_loss_json(r->on_loss, &r->lost));
    int bad = json_dump_file(o, path, JSON_INDENT(2));
    json_decref(o);
    return bad ? skv_fail(err, -EIO, "cannot write %s", path) : 0;
}
