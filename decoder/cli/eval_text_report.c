/* eval_text_report.c: the result of `scoutkv eval text` as a table for people, as JSON for programs, and as a
 * plot. */
#include "common/size.h"
#include "decoder/cli/eval_text.h"
#include "decoder/cli/node_report.h"
#include "decoder/cli/svg_plot.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A text on which as many newest tokens are this near to dense doesn't need what is far. */
#define TELLS 1.02

struct text_figures text_figures(const struct text_result *r, const struct text_row *row)
{
    size_t n = r->pieces.n;
    struct text_figures f = {.nats = estimate_paired(row->nats, r->row[0].nats, n),
                             .kl = estimate_mean(row->text_kl, n)};
    f.perplexity = exp(estimate_mean(row->nats, n).mean);
    f.ratio = exp(f.nats.mean);
    f.kl_p99 = (double)values_quantile(row->kl, n * r->score, 0.99);
    f.agreement = row->scored ? (double)row->agreed / (double)row->scored : 0;
    f.held_per_token = row->held_tokens > 0 ? row->held_bytes / row->held_tokens / (double)r->head_layers : 0;
    return f;
}

static bool is_newest(const struct text_row *row)
{
    return row->choice.select.policy == SKV_SINKS;
}

/* Budgets at which the text cannot tell policies apart, as words; "" if there are none. */
static void untold(const struct text_result *r, char *out, size_t len)
{
    size_t n = 0;
    out[0] = 0;
    for (size_t i = 0; i < r->n_rows && n < len; i++)
        if (is_newest(&r->row[i]) && text_figures(r, &r->row[i]).ratio <= TELLS)
            n += (size_t)snprintf(out + n, len - n, "%s%u", n ? ", " : "", r->row[i].choice.select.budget);
}

/* ---- for people ---- */

static void print_row(const struct text_result *r, const struct text_row *row, int width)
{
    struct text_figures f = text_figures(r, row);
    const struct meter *m = &row->meter;
    char budget[16] = "-", spread[32] = "-", fetched[32], read[32], missed[16] = "-", hits[16] = "-";
    if (row->budgeted)
        snprintf(budget, sizeof budget, "%u", row->choice.select.budget);
    if (isfinite(f.nats.se))
        snprintf(spread, sizeof spread, "%.4f", f.nats.se);
    if (m->wanted)
        snprintf(hits, sizeof hits, "%.1f %%", 100 * meter_hit_share(m));
    if (m->missed_n > 0)
        snprintf(missed, sizeof missed, "%.3f", meter_missed_mass(m));
    printf("%-*s %6s %10.4f %7.4f %8.4f %7s %8.5f %7.4f %7.1f %% %12s %9.2f %11s %8.1f %8s %7s\n", width,
           row->label, budget, f.perplexity, f.ratio, f.nats.mean, spread, f.kl.mean, f.kl_p99,
           100 * f.agreement, size_format(fetched, sizeof fetched, (uint64_t)meter_bytes_per_step(m)),
           f.held_per_token, size_format(read, sizeof read, (uint64_t)meter_scout_bytes_per_step(m)),
           1000 * meter_mean_ms(m, METER_SCOUT), hits, missed);
}

void text_print(const struct text_result *r)
{
    char tokens[32], length[32], scored[32], time[32], budgets[128];
    const struct text_pieces *p = &r->pieces;
    printf("%s, from %g %% on: %s tokens; ", r->file, r->from,
           count_format(tokens, sizeof tokens, p->text_tokens));
    printf("%zu pieces of %s, the last %" PRIu64 " of each scored (%s in all, in %s)\n", p->n,
           count_format(length, sizeof length, p->len), r->score,
           count_format(scored, sizeof scored, p->n * r->score),
           duration_format(time, sizeof time, r->seconds));
    printf("besides the budget: window %u, sinks %u; selected together: %u tokens; keys and values: ",
           r->kv->window, r->kv->sinks, r->kv->select);
    for (unsigned i = 0; i < r->n_types; i++)
        printf("%s%s, %" PRIu64 " bytes a token", i ? "; " : "", skv_dtype_name(r->type[i]),
               r->token_bytes[i]);
    fputs("\n\n", stdout);
    int width = 12;
    for (size_t i = 0; i < r->n_rows; i++)
        if ((int)strlen(r->row[i].label) > width)
            width = (int)strlen(r->row[i].label);
    printf("%-*s %6s %10s %7s %8s %7s %8s %7s %9s %12s %9s %11s %8s %8s %7s\n", width, "policy", "budget",
           "perplexity", "ratio", "nats", "+-", "KL", "p99", "same top", "fetched/step", "B/token",
           "scout reads", "scout us", "held", "missed");
    for (size_t i = 0; i < r->n_rows; i++)
        print_row(r, &r->row[i], width);
    puts("\nratio, nats: perplexity by dense's, and its logarithm, with its standard error over pieces; KL: "
         "of dense to the\nrow, nats a token; B/token: representatives per layer and KV head; held: of the "
         "selected pages; missed: estimated");
    untold(r, budgets, sizeof budgets);
    if (*budgets)
        printf("note: sinks (the newest tokens) is within %.0f %% of dense at %s tokens: there this text "
               "cannot tell policies "
               "apart\n",
               100 * (TELLS - 1), budgets);
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

static json_t *row_json(const struct text_result *r, const struct text_row *row)
{
    struct text_figures f = text_figures(r, row);
    json_t *budget = row->budgeted ? json_integer(row->choice.select.budget) : json_null();
    return json_pack(
        "{s:s, s:o, s:s, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "policy",
        row->choice.name, "budget", budget, "kv_type", skv_dtype_name(row->type), "cache_bytes",
        (json_int_t)row->cache, "perplexity", number(f.perplexity), "ratio", number(f.ratio), "ratio_min",
        number(exp(f.nats.min)), "ratio_max", number(exp(f.nats.max)), "nats", number(f.nats.mean), "nats_se",
        number(f.nats.se), "kl", number(f.kl.mean), "kl_se", number(f.kl.se), "kl_p99", number(f.kl_p99),
        "argmax_agreement", number(f.agreement), "representative_bytes_per_token", number(f.held_per_token),
        "text_nats", numbers(row->nats, r->pieces.n), "costs", meter_json(&row->meter));
}

static json_t *rows_json(const struct text_result *r)
{
    json_t *rows = json_array();
    for (size_t i = 0; rows && i < r->n_rows; i++)
        json_array_append_new(rows, row_json(r, &r->row[i]));
    return rows;
}

static json_t *places_json(const struct text_pieces *p)
{
    json_t *at = json_array();
    for (size_t i = 0; at && i < p->n; i++)
        json_array_append_new(at, json_integer((json_int_t)p->at[i]));
    return at;
}

static json_t *untold_json(const struct text_result *r)
{
    json_t *a = json_array();
    for (size_t i = 0; a && i < r->n_rows; i++)
        if (is_newest(&r->row[i]) && text_figures(r, &r->row[i]).ratio <= TELLS)
            json_array_append_new(a, json_integer(r->row[i].choice.select.budget));
    return a;
}

int text_write_json(const struct text_result *r, const char *path, struct skv_error *err)
{
    const struct kv_options *kv = r->kv;
    json_t *o =
        json_pack("{s:s, s:s, s:I, s:f, s:I, s:I, s:I, s:I, s:o, s:I, s:I, s:I, s:I, s:f, s:o, s:o}", "model",
                  r->model, "file", r->file, "seed", (json_int_t)r->seed, "from_percent", r->from, "tokens",
                  (json_int_t)r->pieces.len, "score", (json_int_t)r->score, "texts", (json_int_t)r->pieces.n,
                  "text_tokens", (json_int_t)r->pieces.text_tokens, "places", places_json(&r->pieces),
                  "window", (json_int_t)kv->window, "sinks", (json_int_t)kv->sinks, "select",
                  (json_int_t)kv->select, "context_kv_bytes", (json_int_t)r->context_kv_bytes, "seconds",
                  r->seconds, "cannot_tell_at", untold_json(r), "rows", rows_json(r));
    if (!o)
        return skv_fail(err, -ENOMEM, "out of memory for the JSON output");
    json_t *types = json_object();
    for (unsigned i = 0; types && i < r->n_types; i++)
        json_object_set_new(types, skv_dtype_name(r->type[i]), json_integer((json_int_t)r->token_bytes[i]));
    json_object_set_new(o, "kv_bytes_per_token", types);
    json_object_set_new(o, "tier", node_report_json(r->tier));
    json_object_set_new(o, "loss", on_loss_json(r->on_loss, &r->lost));
    int bad = json_dump_file(o, path, JSON_INDENT(2));
    json_decref(o);
    return bad ? skv_fail(err, -EIO, "cannot write %s", path) : 0;
}

/* ---- as plots ---- */

enum { RATIO, KL, PLOTS };

struct curves {
    struct svg_series *series[PLOTS]; /* [n_rows] each */
    double *x, *y[PLOTS], *spread[PLOTS];
    size_t n_series;
};

static bool curves_new(struct curves *c, size_t n)
{
    bool ok = (c->x = calloc(n, sizeof *c->x));
    for (int p = 0; p < PLOTS; p++) {
        ok &= (c->series[p] = calloc(n, sizeof *c->series[p])) != NULL;
        ok &= (c->y[p] = calloc(n, sizeof *c->y[p])) != NULL;
        ok &= (c->spread[p] = calloc(n, sizeof *c->spread[p])) != NULL;
    }
    return ok;
}

static void curves_free(struct curves *c)
{
    free(c->x);
    for (int p = 0; p < PLOTS; p++) {
        free(c->series[p]);
        free(c->y[p]);
        free(c->spread[p]);
    }
}

/* Rows that differ by nothing but budget follow each other, and are a series. */
static void add_curves(struct curves *c, const struct text_result *r)
{
    for (size_t i = 0; i < r->n_rows; i++) {
        const struct text_row *row = &r->row[i];
        struct text_figures f = text_figures(r, row);
        c->x[i] = row->choice.select.budget;
        c->y[RATIO][i] = f.ratio;
        c->spread[RATIO][i] = f.ratio * f.nats.se;
        c->y[KL][i] = f.kl.mean;
        c->spread[KL][i] = f.kl.se;
        if (!row->budgeted)
            continue;
        bool first = i == 0 || strcmp(row->label, r->row[i - 1].label);
        c->n_series += first;
        for (int p = 0; p < PLOTS; p++) {
            struct svg_series *s = &c->series[p][c->n_series - 1];
            if (first)
                *s = (struct svg_series){
                    .name = row->label, .x = c->x + i, .y = c->y[p] + i, .spread = c->spread[p] + i};
            s->n++;
        }
    }
}

int text_write_svg(const struct text_result *r, const char *path, struct skv_error *err)
{
    struct curves c = {0};
    char title[PLOTS][160];
    struct svg_plot plot[PLOTS];
    int rc = curves_new(&c, r->n_rows) ? 0 : skv_fail(err, -ENOMEM, "out of memory");
    if (!rc)
        add_curves(&c, r);
    snprintf(title[RATIO], sizeof title[RATIO],
             "Perplexity against dense: %zu texts of %zu tokens, last %" PRIu64, r->pieces.n, r->pieces.len,
             r->score);
    snprintf(title[KL], sizeof title[KL], "Next-token distribution: KL(dense ‖ policy)");
    for (int p = 0; p < PLOTS && !rc; p++)
        plot[p] = (struct svg_plot){.title = title[p],
                                    .x_label = "far tokens read per KV head, layer and step",
                                    .y_label = p == RATIO ? "perplexity ÷ dense" : "nats per token",
                                    .log_x = true,
                                    .log_y = p == KL,
                                    .x_ticks = c.series[p][0].x,
                                    .n_x_ticks = c.series[p][0].n,
                                    .y_line = 1,
                                    .y_line_name = p == RATIO ? "dense" : NULL,
                                    .series = c.series[p],
                                    .n_series = c.n_series};
    if (!rc)
        rc = svg_plot_write(plot, PLOTS, path, err);
    curves_free(&c);
    return rc;
}
