/* eval_report.c: the result of `scoutkv eval recall` as a table for people and as JSON for programs. */
#include "common/size.h"
#include "decoder/cli/eval.h"
#include "decoder/cli/node_report.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

static double percent(double part, uint64_t whole)
{
    return whole ? 100 * part / (double)whole : 0;
}

static int name_width(const struct eval_result *r)
{
    size_t width = 10;
    for (size_t i = 0; i < r->n_rows; i++) {
        size_t n = strlen(r->row[i].policy);
        width = n > width ? n : width;
    }
    return (int)width;
}

static void print_row(const struct eval_result *r, const struct eval_row *row, int width)
{
    char answers[32], fetched[32], held[32];
    const struct meter *m = &row->meter;
    snprintf(answers, sizeof answers, "%" PRIu64 "/%" PRIu64, row->right, row->asked);
    printf("%-*s %9s %9.2f %8.2f %8.2f %8.2f %8.2f %12s %8.3f %12s\n", width, row->policy, answers,
           meter_mean_ms(m, METER_STEP), meter_mean_ms(m, METER_SCOUT), meter_mean_ms(m, METER_WAIT),
           meter_mean_ms(m, METER_ATTEND), meter_mean_ms(m, METER_REST),
           size_format(fetched, sizeof fetched, (uint64_t)meter_bytes_per_step(m)),
           percent(meter_bytes_per_step(m), r->context_kv_bytes),
           size_format(held, sizeof held, row->decoder_kv_bytes));
}

static void print_memory(const struct eval_result *r)
{
    char a[32], b[32], c[32], d[32];
    printf("decoder: at most %s of keys and values = %.1f %% of the context's %s; peak RSS %s\n",
           size_format(a, sizeof a, r->decoder_kv_bytes),
           percent((double)r->decoder_kv_bytes, r->context_kv_bytes),
           size_format(b, sizeof b, r->context_kv_bytes), size_format(c, sizeof c, r->peak_rss));
    printf("         window and unsealed %s, representatives %s, cache up to %s\n",
           size_format(a, sizeof a, r->base.window_bytes),
           size_format(b, sizeof b, r->base.representative_bytes), size_format(c, sizeof c, r->cache_bytes));
    uint64_t stored = 0;
    for (size_t i = 0; i < r->n_nodes; i++) {
        printf("%s %s %s", i ? "," : "nodes:  ", r->nodes[i].name,
               size_format(a, sizeof a, r->nodes[i].bytes));
        stored += r->nodes[i].bytes;
    }
    if (!r->n_nodes)
        printf("nodes:   one inside this process");
    else
        printf("; together %s", size_format(b, sizeof b, stored));
    if (r->nodes_rss)
        printf("; sum of peak RSS %s", size_format(d, sizeof d, r->nodes_rss));
    putchar('\n');
}

void eval_print(const struct eval_result *r)
{
    char tokens[32], time[32];
    printf("\n%s tokens, %" PRIu64 " facts in %" PRIu64 " pages; budget %" PRIu64
           " tokens per KV head and step (%" PRIu64 " pages: at most a tenth)\n",
           count_format(tokens, sizeof tokens, r->tokens), r->facts, r->fact_pages, r->budget_tokens,
           r->budget_tokens / SKV_PAGE);
    printf("prefill  %s, %.0f tokens/s (and %.1f s until all was acknowledged)\n\n",
           duration_format(time, sizeof time, r->prefill_s),
           r->prefill_s > 0 ? (double)r->tokens / r->prefill_s : 0, r->flush_s);
    int width = name_width(r);
    printf("%-*s %9s %9s %8s %8s %8s %8s %12s %8s %12s\n", width, "policy", "right", "ms/step", "scout",
           "wait", "attend", "rest", "fetched/step", "% dense", "decoder KV");
    for (size_t i = 0; i < r->n_rows; i++)
        print_row(r, &r->row[i], width);
    for (size_t i = 0; i < r->n_rows; i++)
        if (r->row[i].out_of_time)
            printf("(%s: as many questions as fit the time)\n", r->row[i].policy);
    putchar('\n');
    on_loss_print(r->on_loss, &r->lost, stdout);
    print_memory(r);
    node_report_print(r->tier, stdout);
}

static json_t *row_json(const struct eval_result *r, const struct eval_row *row)
{
    return json_pack("{s:I, s:I, s:f, s:I, s:f, s:I, s:o}", "asked", (json_int_t)row->asked, "right",
                     (json_int_t)row->right, "bytes_per_step", meter_bytes_per_step(&row->meter),
                     "dense_bytes_per_step", (json_int_t)r->context_kv_bytes, "ms_per_step",
                     meter_mean_ms(&row->meter, METER_STEP), "decoder_kv_bytes",
                     (json_int_t)row->decoder_kv_bytes, "detail", meter_json(&row->meter));
}

static json_t *nodes_json(const struct eval_result *r)
{
    json_t *nodes = json_array();
    for (size_t i = 0; nodes && i < r->n_nodes; i++)
        json_array_append_new(
            nodes, json_pack("{s:s, s:I}", "node", r->nodes[i].name, "bytes", (json_int_t)r->nodes[i].bytes));
    return nodes;
}

int eval_write_json(const struct eval_result *r, const char *path, struct skv_error *err)
{
    json_t *o = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:I, s:I, s:o}", "seed",
                          (json_int_t)r->seed, "tokens", (json_int_t)r->tokens, "facts", (json_int_t)r->facts,
                          "fact_pages", (json_int_t)r->fact_pages, "budget_tokens",
                          (json_int_t)r->budget_tokens, "decoder_kv_bytes", (json_int_t)r->decoder_kv_bytes,
                          "context_kv_bytes", (json_int_t)r->context_kv_bytes, "cache_bytes",
                          (json_int_t)r->cache_bytes, "prefill_seconds", r->prefill_s, "flush_seconds",
                          r->flush_s, "peak_rss_bytes", (json_int_t)r->peak_rss, "nodes_peak_rss_bytes",
                          (json_int_t)r->nodes_rss, "nodes", nodes_json(r));
    json_object_set_new(o, "tier", node_report_json(r->tier));
    for (size_t i = 0; o && i < r->n_rows; i++)
        json_object_set_new(o, r->row[i].policy, row_json(r, &r->row[i]));
    json_object_set_new(o, "loss", on_loss_json(r->on_loss, &r->lost));
    if (!o)
        return skv_fail(err, -ENOMEM, "out of memory for the JSON output");
    int bad = json_dump_file(o, path, JSON_INDENT(2));
    json_decref(o);
    return bad ? skv_fail(err, -EIO, "cannot write %s", path) : 0;
}
