/* fetch_report.c: see fetch_report.h. */
#include "decoder/cli/fetch_report.h"
#include "common/size.h"
#include "decoder/cli/svg_plot.h"
#include "decoder/cli/json_out.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *key;
    double q;
} quantiles[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999}, {"max", 1}};
enum { QUANTILES = sizeof quantiles / sizeof quantiles[0] };

static double us(const struct hist *h, double q)
{
    return (double)hist_quantile(h, q) / 1e3;
}

static double disk_share(const struct fetch_row *r)
{
    return r->get_pages ? (double)r->disk_pages / (double)r->get_pages : 0;
}

/* ---- a table ---- */

static void print_head(const struct fetch_report *r)
{
    char request[64] = "all of each", rate[64] = "", end[64] = "", set[32];
    if (r->load.pages)
        snprintf(request, sizeof request, "%" PRIu32 " page%s of each", r->load.pages,
                 r->load.pages == 1 ? "" : "s");
    if (r->load.rate > 0)
        snprintf(rate, sizeof rate, ", %g requests a second are due", r->load.rate);
    if (r->load.count)
        snprintf(end, sizeof end, " or %" PRIu64 " requests", r->load.count);
    printf("requests of %" PRIu32 " block%s (%s), %" PRIu32
           " in flight%s, from %u node%s over %u lane%s each, pages %s;\n"
           "of a set of %s%s; median (lowest … highest) of %" PRIu32
           " rounds of %g s%s in turn with a plain TCP pair\n",
           r->load.batch, r->load.batch == 1 ? "" : "s", request, r->load.window, rate, r->nodes,
           r->nodes == 1 ? "" : "s", r->lanes, r->lanes == 1 ? "" : "s",
           r->checked ? "verified" : "not verified", size_format(set, sizeof set, r->set),
           r->disk ? " on disks" : "", r->rounds, r->load.seconds, end);
}

static void print_speed(const struct fetch_report *r)
{
    char size[32];
    printf("\n%10s %-22s %11s  %-22s %s\n", "block", "  GB/s", "requests/s", "  TCP GB/s", "  share of TCP");
    for (size_t i = 0; i < r->n; i++) {
        const struct fetch_row *w = &r->rows[i];
        struct middle a = series_middle(&w->gbps), t = series_middle(&w->tcp_gbps),
                      s = series_ratio(&w->gbps, &w->tcp_gbps);
        printf("%10s %6.3f (%.3f … %.3f) %11.0f  %6.3f (%.3f … %.3f)   %.2f (%.2f … %.2f)\n",
               size_format(size, sizeof size, w->size), a.median, a.low, a.high,
               series_middle(&w->rps).median, t.median, t.low, t.high, s.median, s.low, s.high);
    }
}

static void print_times(const struct fetch_report *r)
{
    char size[32];
    printf("\n%10s %9s %9s %9s %9s %9s %9s  %9s %9s   %s\n", "block", "avg µs", "p50", "p90", "p99", "p99.9",
           "max", "TCP p50", "p99", "CPU s/GB: client + nodes (TCP)");
    for (size_t i = 0; i < r->n; i++) {
        const struct fetch_row *w = &r->rows[i];
        printf("%10s %8.0f", size_format(size, sizeof size, w->size), hist_mean(&w->latency) / 1e3);
        for (size_t q = 0; q < QUANTILES; q++)
            printf(" %9.0f", us(&w->latency, quantiles[q].q));
        printf("  %9.0f %9.0f   %.2f + %.2f (%.2f + %.2f)\n", us(&w->tcp_latency, 0.5),
               us(&w->tcp_latency, 0.99), series_middle(&w->client_cpu).median,
               series_middle(&w->node_cpu).median, series_middle(&w->tcp_client_cpu).median,
               series_middle(&w->tcp_server_cpu).median);
    }
}

/* What a reader should know beside the figures. */
static void print_notes(const struct fetch_report *r)
{
    char size[32];
    for (size_t i = 0; i < r->n; i++) {
        const struct fetch_row *w = &r->rows[i];
        size_format(size, sizeof size, w->size);
        if (r->disk)
            printf("\n%s: %.0f %% of the pages were read from disks", size, disk_share(w) * 100);
        if (w->missed)
            printf("\n%s: %" PRIu64 " pages came, %" PRIu64 " were not there, as was asked for", size,
                   w->found, w->missed);
        if (r->load.rate > 0)
            printf("\n%s: requests began p50 %.0f µs, p99 %.0f µs after they were due", size,
                   us(&w->late, 0.5), us(&w->late, 0.99));
        if (w->unfinished)
            printf("\n%s: %" PRIu64
                   " requests were not done in twice the time: this rate is more than there can be",
                   size, w->unfinished);
    }
    putchar('\n');
}

void fetch_report_print(const struct fetch_report *r)
{
    print_head(r);
    print_speed(r);
    print_times(r);
    print_notes(r);
}

/* ---- JSON ---- */

static json_t *times_json(const struct hist *h)
{
    json_t *o = json_pack("{s:I, s:f}", "n", (json_int_t)h->count, "avg", hist_mean(h) / 1e3);
    for (size_t q = 0; q < QUANTILES && o; q++)
        json_object_set_new(o, quantiles[q].key, json_real(us(h, quantiles[q].q)));
    return o;
}

static json_t *row_json(const struct fetch_report *r, const struct fetch_row *w)
{
    json_t *o =
        json_pack("{s:I, s:I, s:I, s:I, s:I, s:f, s:o, s:o}", "size", (json_int_t)w->size, "request_bytes",
                  (json_int_t)w->request_bytes, "requests", (json_int_t)w->requests, "pages",
                  (json_int_t)w->found, "missed_pages", (json_int_t)w->missed, "disk_share", disk_share(w),
                  "latency_us", times_json(&w->latency), "tcp_latency_us", times_json(&w->tcp_latency));
    if (!o)
        return NULL;
    if (r->load.rate > 0) {
        json_object_set_new(o, "late_us", times_json(&w->late));
        json_object_set_new(o, "unfinished", json_integer((json_int_t)w->unfinished));
    }
    series_set(o, "gbps", series_middle(&w->gbps));
    series_set(o, "requests_per_s", series_middle(&w->rps));
    series_set(o, "tcp_gbps", series_middle(&w->tcp_gbps));
    series_set(o, "tcp_share", series_ratio(&w->gbps, &w->tcp_gbps));
    series_set(o, "client_cpu_s_per_gb", series_middle(&w->client_cpu));
    series_set(o, "node_cpu_s_per_gb", series_middle(&w->node_cpu));
    series_set(o, "tcp_client_cpu_s_per_gb", series_middle(&w->tcp_client_cpu));
    series_set(o, "tcp_server_cpu_s_per_gb", series_middle(&w->tcp_server_cpu));
    return o;
}

int fetch_report_json(const struct fetch_report *r, struct skv_error *err)
{
    json_t *rows = json_array();
    for (size_t i = 0; i < r->n; i++)
        json_array_append_new(rows, row_json(r, &r->rows[i]));
    json_t *o = json_pack("{s:I, s:I, s:I, s:I, s:I, s:b, s:b, s:f, s:f, s:I, s:I, s:f, s:o}", "nodes",
                          (json_int_t)r->nodes, "lanes", (json_int_t)r->lanes, "batch",
                          (json_int_t)r->load.batch, "pages_per_block", (json_int_t)r->load.pages, "window",
                          (json_int_t)r->load.window, "verified", r->checked, "disk", r->disk, "misses",
                          r->load.misses, "rate", r->load.rate, "set_bytes", (json_int_t)r->set, "rounds",
                          (json_int_t)r->rounds, "seconds", r->load.seconds, "sizes", rows);
    return json_out(o, err);
}

/* ---- CSV ---- */

static void csv_middle(struct middle m)
{
    printf(",%.6g,%.6g,%.6g", m.median, m.low, m.high);
}

int fetch_report_csv(const struct fetch_report *r, struct skv_error *err)
{
    printf(
        "size,request_bytes,requests,gbps,gbps_low,gbps_high,tcp_gbps,tcp_gbps_low,tcp_gbps_high,tcp_share,"
        "tcp_share_low,tcp_share_high,requests_per_s,avg_us");
    for (size_t q = 0; q < QUANTILES; q++)
        printf(",%s_us", quantiles[q].key);
    printf(",client_cpu_s_per_gb,node_cpu_s_per_gb,tcp_client_cpu_s_per_gb,tcp_server_cpu_s_per_gb\n");
    for (size_t i = 0; i < r->n; i++) {
        const struct fetch_row *w = &r->rows[i];
        printf("%" PRIu64 ",%" PRIu64 ",%" PRIu64, w->size, w->request_bytes, w->requests);
        csv_middle(series_middle(&w->gbps));
        csv_middle(series_middle(&w->tcp_gbps));
        csv_middle(series_ratio(&w->gbps, &w->tcp_gbps));
        printf(",%.6g,%.6g", series_middle(&w->rps).median, hist_mean(&w->latency) / 1e3);
        for (size_t q = 0; q < QUANTILES; q++)
            printf(",%.6g", us(&w->latency, quantiles[q].q));
        printf(",%.6g,%.6g,%.6g,%.6g\n", series_middle(&w->client_cpu).median,
               series_middle(&w->node_cpu).median, series_middle(&w->tcp_client_cpu).median,
               series_middle(&w->tcp_server_cpu).median);
    }
    return fflush(stdout) ? skv_fail(err, -errno, "cannot write: %s", strerror(errno)) : 0;
}

/* ---- a plot ---- */

enum { CURVES = 5 };

int fetch_report_plot(const struct fetch_report *r, const char *path, struct skv_error *err)
{
    double *x = calloc(r->n * (1 + CURVES + 2), sizeof *x), *y = x + r->n, *bars = y + CURVES * r->n;
    if (!x)
        return skv_fail(err, -ENOMEM, "out of memory");
    for (size_t i = 0; i < r->n; i++) {
        const struct fetch_row *w = &r->rows[i];
        struct middle ours = series_middle(&w->gbps), tcp = series_middle(&w->tcp_gbps);
        x[i] = (double)w->size / 1024;
        y[i] = ours.median;
        y[r->n + i] = tcp.median;
        y[2 * r->n + i] = us(&w->latency, 0.5);
        y[3 * r->n + i] = us(&w->latency, 0.99);
        y[4 * r->n + i] = us(&w->tcp_latency, 0.5);
        bars[i] = (ours.high - ours.low) / 2;
        bars[r->n + i] = (tcp.high - tcp.low) / 2;
    }
    const struct svg_series speed[] = {
        {.name = "fetch", .x = x, .y = y, .spread = bars, .n = r->n},
        {.name = "plain TCP pair", .x = x, .y = y + r->n, .spread = bars + r->n, .n = r->n}};
    const struct svg_series times[] = {{.name = "fetch, p50", .x = x, .y = y + 2 * r->n, .n = r->n},
                                       {.name = "fetch, p99", .x = x, .y = y + 3 * r->n, .n = r->n},
                                       {.name = "plain TCP pair, p50", .x = x, .y = y + 4 * r->n, .n = r->n}};
    const struct svg_plot plots[] = {{.title = "Bytes a second by the size of a block",
                                      .x_label = "KiB",
                                      .y_label = "GB/s",
                                      .log_x = true,
                                      .x_ticks = x,
                                      .n_x_ticks = r->n,
                                      .series = speed,
                                      .n_series = 2},
                                     {.title = "Time of a request by the size of a block",
                                      .x_label = "KiB",
                                      .y_label = "µs",
                                      .log_x = true,
                                      .log_y = true,
                                      .x_ticks = x,
                                      .n_x_ticks = r->n,
                                      .series = times,
                                      .n_series = 3}};
    int rc = svg_plot_write(plots, 2, path, err);
    free(x);
    return rc;
}
