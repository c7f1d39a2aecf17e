/* step_report.c: see step_report.h. */
#include "decoder/cli/step_report.h"
#include "common/size.h"
#include "decoder/cli/plan_model.h"
#include "decoder/cli/json_out.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const part_name[STEP_PARTS] = {"step",  "scout", "wait",         "attention",
                                                  "merge", "rest",  "without_scout"};
static const char *const way_name[] = {"default", "in series", "no cache", "one stage"};

struct step_row *step_report_add(struct step_report *r, enum step_way way, unsigned length, double hits)
{
    assert(r->n < STEP_ROWS);
    struct step_row *row = &r->rows[r->n++];
    row->way = way;
    row->length = length;
    row->hits = hits;
    row->error = NAN;
    return row;
}

const struct step_row *step_report_row(const struct step_report *r, enum step_way way, double hits)
{
    for (size_t i = 0; i < r->n; i++) {
        const struct step_row *row = &r->rows[i];
        if (row->way == way && row->length == r->n_lengths - 1 && fabs(row->hits - hits) < 1e-9)
            return row;
    }
    return NULL;
}

double step_report_hits(const struct step_report *r)
{
    return r->trace ? -1 : 0;
}

double step_report_dense_bytes(const struct step_report *r, unsigned length)
{
    return (double)r->tokens[length] * (double)shape_token_bytes(r->shape) / r->shape->layers;
}

/* ---- figures ---- */

static double each(uint64_t sum, const struct step_row *row)
{
    return row->layers ? (double)sum / (double)row->layers : 0;
}

static double p50(const struct step_row *row, enum step_part part)
{
    return series_middle(&row->part[part]).median;
}

static double held(const struct step_row *row)
{
    return row->wanted ? (double)row->held / (double)row->wanted : 1;
}

static double of_dense(const struct step_report *r, const struct step_row *row)
{
    return each(row->fetched, row) / step_report_dense_bytes(r, row->length);
}

/* Of the scout, beside plain reads of the same round. */
static struct middle scout_share(const struct step_report *r, const struct step_row *row)
{
    struct series read = {.n = 0};
    for (uint32_t i = 0; i < r->read_gbps.n; i++)
        series_note(&read, each(row->scout_bytes, row) / row->part[STEP_SCOUT].at[i] / 1e6);
    return series_ratio(&read, &r->read_gbps);
}

/* What memory alone would take to give dense its bytes, beside the step. */
static struct middle bound(const struct step_report *r, const struct step_row *row)
{
    struct series ms = {.n = 0};
    for (uint32_t i = 0; i < r->read_gbps.n; i++)
        series_note(&ms, step_report_dense_bytes(r, row->length) / r->read_gbps.at[i] / 1e6);
    return series_ratio(&ms, &row->part[STEP_WHOLE]);
}

static struct middle over_dense(const struct step_report *r, const struct step_row *row)
{
    return series_ratio(&r->dense[row->length], &row->part[STEP_WHOLE]);
}

static double fetch_ms(const struct step_row *row, double quantile)
{
    return (double)hist_quantile(&row->fetch, quantile) / 1e6;
}

/* The row whose fetches are alike: nothing held, in series. */
static const struct step_row *steady(const struct step_report *r)
{
    return step_report_row(r, STEP_IN_SERIES, 0);
}

/* ---- constants, and what they predict ---- */

/* a and b of y = a + b x by least squares, not below 0; one x: b is y / x. */
static void fit_line(size_t n, const double *x, const double *y, double *a, double *b)
{
    double sx = 0, sy = 0, sxx = 0, sxy = 0;
    for (size_t i = 0; i < n; i++) {
        sx += x[i];
        sy += y[i];
        sxx += x[i] * x[i];
        sxy += x[i] * y[i];
    }
    double over = (double)n * sxx - sx * sx;
    *b = over > 0 ? ((double)n * sxy - sx * sy) / over : -1;
    *a = (sy - *b * sx) / (double)n;
    if (*b <= 0 || *a < 0) {
        *a = 0;
        *b = sy / sx;
    }
}

static double far_blocks(const struct step_report *r, unsigned length)
{
    return (double)(r->tokens[length] - r->window) / SKV_BLOCK;
}

/* From the default way at contexts [0, lengths), in which only the scout differs, and fetches in series. */
static bool find_constants(const struct step_report *r, unsigned lengths, struct plan_constants *c)
{
    double x[STEP_ROWS], y[STEP_ROWS], scan, scout_at_0, page = 0, merge = 0, rest = 0;
    double heads = r->shape->kv_heads, pages = (r->budget + r->window) / (double)SKV_PAGE;
    double candidates = r->budget / SKV_PAGE > 128 ? r->budget / (double)SKV_PAGE : 128;
    if (lengths < 2)
        return false;
    for (unsigned i = 0; i < lengths; i++) {
        x[i] = far_blocks(r, i);
        y[i] = p50(&r->rows[i], STEP_SCOUT);
        page += p50(&r->rows[i], STEP_ATTENTION) / lengths;
        merge += p50(&r->rows[i], STEP_MERGE) / lengths;
        rest += p50(&r->rows[i], STEP_REST) / lengths;
    }
    fit_line(lengths, x, y, &scout_at_0, &scan);
    size_t n = 0;
    double saved = 0;
    for (size_t i = 0; i < r->n; i++) {
        const struct step_row *series = &r->rows[i], *same = step_report_row(r, STEP_DEFAULT, series->hits);
        if (series->way != STEP_IN_SERIES)
            continue;
        x[n] = each(series->fetched, series);
        y[n++] = p50(series, STEP_WAIT);
        double shorter = fmin(p50(series, STEP_WAIT), p50(series, STEP_ATTENTION));
        saved += (p50(series, STEP_UNSCOUTED) - p50(same, STEP_UNSCOUTED)) / shorter;
    }
    double fetch_at_0, a_byte;
    fit_line(n, x, y, &fetch_at_0, &a_byte);
    *c = (struct plan_constants){.g = (double)r->shape->heads / r->shape->kv_heads,
                                 .d = r->shape->d,
                                 .threads = r->threads,
                                 .scan_ns = scan / heads * 1e6,
                                 .candidate_ns = scout_at_0 / candidates / heads * 1e6,
                                 .page_ns = page / pages / heads * 1e6,
                                 .merge_ns = merge / pages / heads * 1e6,
                                 .fetch_us = fetch_at_0 * 1e3,
                                 .fetch_gbps = 1 / a_byte / 1e6,
                                 .overlap = fmax(0, fmin(1, saved / (double)n)),
                                 .rest_us = fmax(0, rest) * 1e3};
    return true;
}

/* A row of the default way at the longest context, predicted from shorter ones; NAN: there are too few. */
static double predicted(const struct step_report *r, const struct step_row *row)
{
    struct plan_constants c;
    struct plan_cost cost;
    unsigned last = r->n_lengths - 1;
    if (row->way != STEP_DEFAULT || row->length != last || !find_constants(r, last, &c))
        return NAN;
    const struct plan p = {.shape = r->shape,
                           .tokens = (double)r->tokens[last],
                           .budget = r->budget,
                           .window = r->window,
                           .hits = held(row),
                           .nodes = r->nodes,
                           .replicas = 1,
                           .decoders = 1,
                           .node_ram = 1e18,
                           .threads = r->threads};
    plan_predict(&p, &c, &cost);
    return cost.layer_ms;
}

/* ---- a table ---- */

static void print_head(const struct step_report *r)
{
    char cache[32], count[32];
    printf(
        "%s: %u layers, %u query heads, %u KV heads of %u dims, f16; %u of its layers real, over %u nodes by "
        "TCP, pages verified;\n",
        r->shape->name, r->shape->layers, r->shape->heads, r->shape->kv_heads, r->shape->d, r->real_layers,
        r->nodes);
    printf("budget %u tokens per KV head, window %u, cache %s for all layers; %u threads, isa %s; filled in "
           "%.0f "
           "s\n",
           r->budget, r->window, size_format(cache, sizeof cache, r->cache), r->threads, skv_isa(),
           r->fill_s);
    if (r->trace)
        printf("trace: %.1f %% of the pages of a step were held, of %s steps in %u layers, %u tokens "
               "selected of "
               "up to %s,\n"
               "%.1f of a block that pages are selected from\n",
               100 * r->trace->mean, count_format(count, sizeof count, r->trace->steps), r->trace->layers,
               r->trace->budget, count_format(cache, sizeof cache, r->trace->tokens), r->trace->per_block);
    printf("ms of one layer, medians of %u rounds of %u steps\n\n", r->rounds, r->steps);
}

static void print_rows(const struct step_report *r)
{
    char tokens[32], fetched[32], hits[32];
    printf("%-10s %9s %6s %6s %8s %7s %7s %9s %7s %7s %10s %9s %8s  %s\n", "", "tokens", "hits", "held",
           "step", "scout", "wait", "attention", "merge", "rest", "fetched", "of dense", "dense",
           "dense / step");
    for (size_t i = 0; i < r->n; i++) {
        const struct step_row *row = &r->rows[i];
        struct middle ratio = over_dense(r, row);
        snprintf(hits, sizeof hits, row->hits < 0 ? "trace" : "%.0f %%", 100 * row->hits);
        printf("%-10s %9s %6s %4.1f %% %8.3f %7.3f %7.3f %9.3f %7.3f %7.3f %10s %7.3f %% %8.1f  %.1f (%.1f … "
               "%.1f)\n",
               way_name[row->way], count_format(tokens, sizeof tokens, r->tokens[row->length]), hits,
               100 * held(row), p50(row, STEP_WHOLE), p50(row, STEP_SCOUT), p50(row, STEP_WAIT),
               p50(row, STEP_ATTENTION), p50(row, STEP_MERGE), p50(row, STEP_REST),
               size_format(fetched, sizeof fetched, (uint64_t)each(row->fetched, row)),
               100 * of_dense(r, row), series_middle(&r->dense[row->length]).median, ratio.median, ratio.low,
               ratio.high);
    }
}

static void print_middle(const char *name, struct middle m)
{
    printf("%-58s %.3f (%.3f … %.3f)\n", name, m.median, m.low, m.high);
}

static void print_ratios(const struct step_report *r)
{
    double hits = step_report_hits(r);
    const struct step_row *row = step_report_row(r, STEP_DEFAULT, hits), *first = &r->rows[0];
    unsigned last = r->n_lengths - 1;
    printf("\nall %u layers at the longest context: step %.1f ms, dense %.1f ms\n", r->shape->layers,
           p50(row, STEP_WHOLE) * r->shape->layers, series_middle(&r->dense[last]).median * r->shape->layers);
    print_middle("dense from memory / step", over_dense(r, row));
    print_middle("a plain read of dense's bytes / step", bound(r, row));
    print_middle("scout's bytes a second / plain reads", scout_share(r, row));
    if (r->n_lengths > 1) {
        print_middle("step without scout, longest / shortest context",
                     series_ratio(&row->part[STEP_UNSCOUTED], &first->part[STEP_UNSCOUTED]));
        print_middle("whole step, longest / shortest context",
                     series_ratio(&row->part[STEP_WHOLE], &first->part[STEP_WHOLE]));
    }
    for (enum step_way way = STEP_IN_SERIES; way <= STEP_ONE_STAGE; way++) {
        char name[64];
        snprintf(name, sizeof name, "%s / default", way_name[way]);
        print_middle(name,
                     series_ratio(&step_report_row(r, way, hits)->part[STEP_WHOLE], &row->part[STEP_WHOLE]));
    }
    printf("%-58s %.2f (p50 %.3f ms, p99 %.3f ms of %" PRIu64 ")\n",
           "fetch of a step, nothing held: p99 / p50", fetch_ms(steady(r), 0.99) / fetch_ms(steady(r), 0.5),
           fetch_ms(steady(r), 0.5), fetch_ms(steady(r), 0.99), steady(r)->fetch.count);
    printf("%-58s %.4f\n", "output beside dense's, relative error", row->error);
    printf("%-58s %.1f GB/s, dense %.2f of it\n", "plain reads", series_middle(&r->read_gbps).median,
           step_report_dense_bytes(r, last) / series_middle(&r->dense[last]).median / 1e6 /
               series_middle(&r->read_gbps).median);
}

static void print_constants(const struct step_report *r)
{
    struct plan_constants c;
    if (!find_constants(r, r->n_lengths, &c))
        return;
    printf("\nconstants for `scoutkv plan`, of all contexts (--json has them for --constants): for one KV "
           "head, a block "
           "%.3g ns,\n"
           "a candidate %.3g ns, a page %.3g ns and %.3g ns to merge it; for a layer, a fetch %.3g us and a "
           "byte "
           "at %.3g GB/s, rest\n"
           "%.3g us; overlap %.2f\n",
           c.scan_ns, c.candidate_ns, c.page_ns, c.merge_ns, c.fetch_us, c.fetch_gbps, c.rest_us, c.overlap);
}

static void print_predicted(const struct step_report *r)
{
    if (r->n_lengths < 3)
        return;
    printf(
        "\nlongest context as `scoutkv plan` predicts it from the shorter ones and the fetches in series\n");
    printf("%6s %12s %10s %20s\n", "held", "predicted", "measured", "predicted / measured");
    for (size_t i = 0; i < r->n; i++) {
        double ms = predicted(r, &r->rows[i]), was = p50(&r->rows[i], STEP_WHOLE);
        if (!isnan(ms))
            printf("%4.1f %% %12.3f %10.3f %20.2f\n", 100 * held(&r->rows[i]), ms, was, ms / was);
    }
}

void step_report_print(const struct step_report *r)
{
    print_head(r);
    print_rows(r);
    print_ratios(r);
    print_constants(r);
    print_predicted(r);
}

/* ---- JSON ---- */

static json_t *row_json(const struct step_report *r, const struct step_row *row)
{
    json_t *o = json_pack("{s:s, s:I, s:b, s:f, s:I}", "way", way_name[row->way], "tokens",
                          (json_int_t)r->tokens[row->length], "trace", row->hits < 0, "held_share", held(row),
                          "layers_measured", (json_int_t)row->layers),
           *ms = json_object();
    json_object_set_new(o, "hits", row->hits < 0 ? json_null() : json_real(row->hits));
    for (unsigned p = 0; p < STEP_PARTS; p++)
        series_set(ms, part_name[p], series_middle(&row->part[p]));
    json_object_set_new(o, "ms", ms);
    json_object_set_new(o, "fetched_bytes", json_real(each(row->fetched, row)));
    json_object_set_new(o, "fetched_of_dense", json_real(of_dense(r, row)));
    json_object_set_new(o, "scout_bytes", json_real(each(row->scout_bytes, row)));
    series_set(o, "scout_of_reads", scout_share(r, row));
    series_set(o, "dense_over_step", over_dense(r, row));
    series_set(o, "read_over_step", bound(r, row));
    json_object_set_new(o, "error", series_number(row->error));
    json_object_set_new(o, "predicted_ms", series_number(predicted(r, row)));
    if (row->fetch.count)
        json_object_set_new(o, "fetch_ms",
                            json_pack("{s:f, s:f}", "p50", fetch_ms(row, 0.5), "p99", fetch_ms(row, 0.99)));
    return o;
}

static json_t *ratios_json(const struct step_report *r)
{
    double hits = step_report_hits(r);
    const struct step_row *row = step_report_row(r, STEP_DEFAULT, hits), *first = &r->rows[0];
    json_t *o = json_object();
    series_set(o, "dense_over_step", over_dense(r, row));
    series_set(o, "scout_of_reads", scout_share(r, row));
    series_set(o, "without_scout_long_over_short",
               series_ratio(&row->part[STEP_UNSCOUTED], &first->part[STEP_UNSCOUTED]));
    series_set(o, "long_over_short", series_ratio(&row->part[STEP_WHOLE], &first->part[STEP_WHOLE]));
    series_set(
        o, "in_series_over_default",
        series_ratio(&step_report_row(r, STEP_IN_SERIES, hits)->part[STEP_WHOLE], &row->part[STEP_WHOLE]));
    series_set(
        o, "no_cache_over_default",
        series_ratio(&step_report_row(r, STEP_NO_CACHE, hits)->part[STEP_WHOLE], &row->part[STEP_WHOLE]));
    series_set(
        o, "one_stage_over_default",
        series_ratio(&step_report_row(r, STEP_ONE_STAGE, hits)->part[STEP_WHOLE], &row->part[STEP_WHOLE]));
    json_object_set_new(o, "fetch_p99_over_p50",
                        json_real(fetch_ms(steady(r), 0.99) / fetch_ms(steady(r), 0.5)));
    return o;
}

int step_report_json(const struct step_report *r, struct skv_error *err)
{
    json_t *rows = json_array(), *dense = json_array();
    for (size_t i = 0; i < r->n; i++)
        json_array_append_new(rows, row_json(r, &r->rows[i]));
    for (unsigned i = 0; i < r->n_lengths; i++) {
        json_t *d = json_pack("{s:I, s:f}", "tokens", (json_int_t)r->tokens[i], "bytes",
                              step_report_dense_bytes(r, i));
        series_set(d, "ms", series_middle(&r->dense[i]));
        json_array_append_new(dense, d);
    }
    json_t *o = json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f}", "shape", r->shape->name,
                          "isa", skv_isa(), "layers", (json_int_t)r->shape->layers, "real_layers",
                          (json_int_t)r->real_layers, "budget", (json_int_t)r->budget, "window",
                          (json_int_t)r->window, "cache_bytes", (json_int_t)r->cache, "nodes",
                          (json_int_t)r->nodes, "threads", (json_int_t)r->threads, "fill_seconds", r->fill_s);
    if (r->trace)
        json_object_set_new(o, "trace_held_share", json_real(r->trace->mean));
    series_set(o, "read_gbps", series_middle(&r->read_gbps));
    json_object_set_new(o, "dense", dense);
    json_object_set_new(o, "rows", rows);
    json_object_set_new(o, "ratios", ratios_json(r));
    struct plan_constants c;
    if (find_constants(r, r->n_lengths, &c))
        json_object_set_new(o, "constants", plan_constants_json(&c));
    return json_out(o, err);
}
