/* mass_report.c: the result of `scoutkv eval mass` as tables for people and as JSON for programs. */
#include "common/size.h"
#include "decoder/cli/mass_eval.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t queries_of(const struct mass_result *r, unsigned kind)
{
    uint64_t n = 0;
    for (size_t i = 0; i < r->n_traces; i++)
        n += r->traces[i].queries[kind];
    return n;
}

/* Mean over traces of one layer's share. */
static double layer_share(const struct mass_result *r, unsigned layer, unsigned kind, unsigned policy,
                          unsigned budget)
{
    double sum = 0, n = 0;
    for (size_t i = 0; i < r->n_traces; i++) {
        double x = mass_share(r, &r->traces[i], (int)layer, kind, policy, budget);
        sum += isnan(x) ? 0 : x;
        n += !isnan(x);
    }
    return n > 0 ? sum / n : NAN;
}

/* ---- for people ---- */

static void print_head(const struct mass_result *r, unsigned kind, unsigned budget, size_t traces,
                       bool layers)
{
    printf("\n%" PRIu32 " tokens selected; %s: %" PRIu64 " in %zu trace%s\n", r->setup->budget[budget],
           kind ? "ordinary queries" : "queries that copy an answer", queries_of(r, kind), traces,
           traces == 1 ? "" : "s");
    printf("%-28s %6s %6s %6s %6s %6s  %6s %6s  %7s %7s %9s", "policy", "share", "sd", "gap", "all", "rows",
           "error", "sd", "kept", "read", "step");
    for (unsigned l = 0; layers && l < r->head.n_layers; l++)
        printf(" %5s%-2u", "L", l);
    putchar('\n');
}

static void print_row(const struct mass_result *r, unsigned kind, unsigned policy, unsigned budget,
                      bool layers)
{
    struct mass_figure f = mass_figure_of(r, kind, policy, budget);
    char step[32], gap[16] = "-";
    if (!isnan(f.gap_closed))
        snprintf(gap, sizeof gap, "%.2f", f.gap_closed);
    printf("%-28s %6.3f %6.3f %6s %6.3f %6.3f  %6.3f %6.3f  %7.2f %7.2f %9s", r->setup->label[policy],
           f.share, f.share_sd, gap, f.share_all, f.share_rows, f.error, f.error_sd, f.kept_token,
           f.read_token, size_format(step, sizeof step, (uint64_t)f.read_step));
    for (unsigned l = 0; layers && l < r->head.n_layers; l++)
        printf(" %7.3f", layer_share(r, l, kind, policy, budget));
    putchar('\n');
}

static void print_legend(const struct mass_result *r)
{
    const struct mass_setup *s = r->setup;
    printf(
        "%zu trace%s, %u layers, %u query and %u KV heads of %u; window %u, first %u tokens protected, "
        "%u tokens selected together; %.1f s\n"
        "share: of a layer's far attention mass, in the selected pages (mean of layers, then of traces; sd "
        "over "
        "traces)\n"
        "gap: closed of the way from quest to oracle; all: the share of all layers' far mass together; rows: "
        "if every query row counts alike, "
        "however "
        "little\nfar mass it has\n"
        "error: relative L2 of a query head's output against dense\n"
        "kept, read: bytes per far token and KV head of what the policy chooses by; step: read per query and "
        "KV head\n",
        r->n_traces, r->n_traces == 1 ? "" : "s", r->head.n_layers, r->head.n_heads, r->head.n_kv_heads,
        r->head.d_k, s->window, s->protected_pages * SKV_PAGE, s->unit, r->seconds);
}

void mass_print(const struct mass_result *r, bool layers)
{
    const struct mass_setup *s = r->setup;
    print_legend(r);
    for (unsigned kind = 0; kind < MASS_KINDS; kind++)
        for (unsigned budget = 0; budget < s->n_budgets; budget++) {
            struct mass_figure f = mass_figure_of(r, kind, 0, budget);
            if (!f.traces)
                continue;
            print_head(r, kind, budget, f.traces, layers);
            for (unsigned policy = 0; policy < s->n_policies; policy++)
                print_row(r, kind, policy, budget, layers);
        }
}

void mass_print_calibration(const struct mass_result *r)
{
    const struct mass_setup *s = r->setup;
    for (unsigned policy = 0; policy < s->n_policies; policy++)
        for (unsigned budget = 0; budget < s->n_budgets; budget++) {
            struct mass_calibration c;
            if (!mass_calibration_of(&r->samples[policy * s->n_budgets + budget], &c))
                continue;
            printf("\nestimated missed share of the attention, %s at %" PRIu32
                   " tokens: correlation %.3f over %zu heads of queries\n  estimated",
                   s->label[policy], s->budget[budget], c.correlation, c.n);
            for (unsigned i = 0; i < 10; i++)
                printf(" %6.3f", c.decile[i].estimated);
            printf("   mean %.3f\n  true     ", c.estimated);
            for (unsigned i = 0; i < 10; i++)
                printf(" %6.3f", c.decile[i].missed);
            printf("   mean %.3f\n", c.missed);
            for (unsigned b = 0; b < BOUNDS; b++) {
                printf("  %-9s", b == BOUND_LEAST ? "at most" : bound_name((enum bound)b));
                for (unsigned i = 0; i < 10; i++)
                    printf(" %6.3f", c.decile[i].bound[b]);
                printf("   mean %.3f, a page's log mass %.1f over\n", c.bound[b], c.over[b]);
            }
            printf(
                "  (norm, ball, box: the worst case by what each keeps of a page; at most: by the least of "
                "the three, which %zu of %zu missed more than)\n",
                c.broken, c.n);
        }
}

/* ---- for programs ---- */

static json_t *real(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static json_t *trace_json(const struct mass_trace *t)
{
    return json_pack("{s:s, s:I, s:I, s:I}", "file", t->file, "tokens", (json_int_t)t->n_tokens,
                     "copy_queries", (json_int_t)t->queries[0], "ordinary_queries",
                     (json_int_t)t->queries[1]);
}

static json_t *shares_json(const struct mass_result *r, unsigned kind, unsigned policy, unsigned budget,
                           bool of_layers)
{
    json_t *list = json_array();
    size_t n = of_layers ? r->head.n_layers : r->n_traces;
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, real(of_layers ? layer_share(r, (unsigned)i, kind, policy, budget)
                                                   : mass_share(r, &r->traces[i], -1, kind, policy, budget)));
    return list;
}

/* {"norm": {"mean", "deciles"}, …} */
static json_t *bounds_json(const struct mass_calibration *c)
{
    json_t *all = json_object();
    for (unsigned b = 0; b < BOUNDS; b++) {
        json_t *deciles = json_array();
        for (unsigned i = 0; i < 10; i++)
            json_array_append_new(deciles, real(c->decile[i].bound[b]));
        json_object_set_new(all, bound_name((enum bound)b),
                            json_pack("{s:f, s:o, s:o}", "mean", c->bound[b], "log_mass_over",
                                      real(c->over[b]), "deciles", deciles));
    }
    return all;
}

static json_t *calibration_json(struct mass_samples *samples)
{
    struct mass_calibration c;
    if (!mass_calibration_of(samples, &c))
        return NULL;
    json_t *estimated = json_array(), *missed = json_array();
    for (unsigned i = 0; i < 10; i++) {
        json_array_append_new(estimated, real(c.decile[i].estimated));
        json_array_append_new(missed, real(c.decile[i].missed));
    }
    return json_pack("{s:I, s:f, s:f, s:f, s:o, s:o, s:o, s:I}", "samples", (json_int_t)c.n, "correlation",
                     c.correlation, "estimated", c.estimated, "true", c.missed, "estimated_deciles",
                     estimated, "true_deciles", missed, "at_most", bounds_json(&c), "bounds_broken",
                     (json_int_t)c.broken);
}

static json_t *policy_json(const struct mass_result *r, unsigned kind, unsigned policy, unsigned budget)
{
    struct mass_figure f = mass_figure_of(r, kind, policy, budget);
    return json_pack("{s:f, s:f, s:f, s:o, s:o, s:o, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "share", f.share,
                     "share_of_all_layers", f.share_all, "share_sd", f.share_sd, "share_per_trace",
                     shares_json(r, kind, policy, budget, false), "share_per_layer",
                     shares_json(r, kind, policy, budget, true), "gap_closed", real(f.gap_closed),
                     "share_of_rows", f.share_rows, "error", f.error, "error_sd", f.error_sd,
                     "tokens_selected", f.tokens, "bytes_kept_per_token", f.kept_token,
                     "bytes_read_per_token", f.read_token, "bytes_read_per_step", f.read_step);
}

/* {"64": {"cascade": …}} of the queries of one kind. */
static json_t *kind_json(const struct mass_result *r, unsigned kind)
{
    const struct mass_setup *s = r->setup;
    json_t *all = json_object();
    for (unsigned b = 0; b < s->n_budgets; b++) {
        json_t *o = json_object();
        char tokens[16];
        if (!mass_figure_of(r, kind, 0, b).traces) {
            json_decref(o);
            continue;
        }
        for (unsigned p = 0; p < s->n_policies; p++)
            json_object_set_new(o, s->label[p], policy_json(r, kind, p, b));
        snprintf(tokens, sizeof tokens, "%" PRIu32, s->budget[b]);
        json_object_set_new(all, tokens, o);
    }
    return all;
}

static json_t *calibrations_json(const struct mass_result *r)
{
    const struct mass_setup *s = r->setup;
    json_t *all = json_object();
    for (unsigned b = 0; b < s->n_budgets; b++) {
        json_t *o = json_object();
        char tokens[16];
        for (unsigned p = 0; p < s->n_policies; p++) {
            json_t *c = calibration_json(&r->samples[p * s->n_budgets + b]);
            if (c)
                json_object_set_new(o, s->label[p], c);
        }
        snprintf(tokens, sizeof tokens, "%" PRIu32, s->budget[b]);
        json_object_set_new(all, tokens, o);
    }
    return all;
}

int mass_write_json(const struct mass_result *r, const char *path, struct skv_error *err)
{
    const struct mass_setup *s = r->setup;
    json_t *traces = json_array();
    for (size_t i = 0; i < r->n_traces; i++)
        json_array_append_new(traces, trace_json(&r->traces[i]));
    json_t *o =
        json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:o}", "layers", (json_int_t)r->head.n_layers, "heads",
                  (json_int_t)r->head.n_heads, "kv_heads", (json_int_t)r->head.n_kv_heads, "window",
                  (json_int_t)s->window, "protected_tokens", (json_int_t)s->protected_pages * SKV_PAGE,
                  "select", (json_int_t)s->unit, "seconds", r->seconds, "traces", traces);
    for (unsigned kind = 0; o && kind < MASS_KINDS; kind++)
        json_object_set_new(o, mass_kind_name(kind), kind_json(r, kind));
    if (o && s->calibration)
        json_object_set_new(o, "calibration", calibrations_json(r));
    if (!o)
        return skv_fail(err, -ENOMEM, "out of memory for the JSON output");
    bool standard = !strcmp(path, "-");
    int bad = standard ? json_dumpf(o, stdout, JSON_INDENT(2)) || putchar('\n') == EOF
                       : json_dump_file(o, path, JSON_INDENT(2));
    json_decref(o);
    return bad ? skv_fail(err, -EIO, "cannot write %s", standard ? "the JSON output" : path) : 0;
}
