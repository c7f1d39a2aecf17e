/* trace_report.c: see trace_report.h. */
#include "decoder/cli/trace_report.h"
#include "decoder/cli/json_out.h"
#include "common/size.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>

/* A real shape to compare with: 32 layers, 8 KV heads, K and V of 128 dimensions, f16. */
enum { REAL_BYTES_PER_TOKEN = 32 * 8 * 2 * 128 * 2 };

static double share(uint64_t part, uint64_t whole)
{
    return whole ? (double)part / (double)whole : 0;
}

static double fetch_gbps(const struct trace_report *r)
{
    return r->did->fetch.sum ? (double)r->did->fetched_bytes / (double)r->did->fetch.sum : 0; /* B/ns */
}

static uint64_t whole_bytes(const struct trace_report *r)
{
    return (uint64_t)r->whole->seen.n * TRACE_BLOCK * r->bytes_per_token;
}

/* ---- the table ---- */

static void print_what(const struct trace_report *r)
{
    char n[32], tokens[32], blocks[32], distinct[32], size[32], block[32], per_token[32];
    printf("%s: %s requests, %s tokens in %s blocks of %d, of which %s are distinct\n", r->trace,
           count_format(n, sizeof n, r->whole->requests),
           count_format(tokens, sizeof tokens, r->whole->tokens),
           count_format(blocks, sizeof blocks, r->whole->blocks), TRACE_BLOCK,
           count_format(distinct, sizeof distinct, r->whole->seen.n));
    printf(
        "%s a token makes blocks of %s, %s (%.1f GB) in all; an 8B shape (32 layers, 8 KV heads of 128, f16) "
        "has\n%s a token, %.4g times as much\n",
        size_format(per_token, sizeof per_token, r->bytes_per_token),
        size_format(block, sizeof block, (uint64_t)TRACE_BLOCK * r->bytes_per_token),
        size_format(size, sizeof size, whole_bytes(r)), (double)whole_bytes(r) / 1e9, "128 KiB",
        (double)REAL_BYTES_PER_TOKEN / r->bytes_per_token);
}

static void print_row(const char *name, uint64_t blocks, uint64_t tokens, const struct trace_bound *of)
{
    char a[32], b[32];
    printf("%-16s %14s  %6.2f %% %16s  %6.2f %%\n", name, count_format(a, sizeof a, blocks),
           100 * share(blocks, of->blocks), count_format(b, sizeof b, tokens),
           100 * share(tokens, of->tokens));
}

static void print_hits(const struct trace_report *r)
{
    char n[32];
    printf("%-16s %14s %9s %17s\n", "", "blocks", "", "tokens");
    print_row("requested", r->bound->blocks, r->bound->tokens, r->bound);
    print_row("hits", r->did->hit_blocks, r->did->hit_tokens, r->bound);
    print_row("infinite cache", r->bound->hit_blocks, r->bound->hit_tokens, r->bound);
    puts("(a hit: this block and all before it in its request were on a node and arrived with the right "
         "bytes;\n"
         "infinite cache: they all were in earlier requests of this replay)");
    if (r->older_blocks)
        printf(
            "%s of the hits had been stored before this replay began: a --seed of its own gives it blocks of "
            "its own\n",
            count_format(n, sizeof n, r->older_blocks));
}

static void print_time(const char *name, const struct hist *h)
{
    char n[32];
    printf("%-16s %14s %9.3f %9.3f %9.3f %9.2f\n", name, count_format(n, sizeof n, h->count),
           (double)hist_quantile(h, 0.5) / 1e6, (double)hist_quantile(h, 0.99) / 1e6,
           (double)hist_quantile(h, 0.999) / 1e6, (double)h->sum / 1e9);
}

static void print_times(const struct trace_report *r)
{
    printf("\n%-16s %14s %9s %9s %9s %9s\n", "ms per request", "requests", "p50", "p99", "p999", "seconds");
    print_time("lookup", &r->did->lookup);
    print_time("fetch", &r->did->fetch);
    print_time("put", &r->did->put);
    if (r->speed > 0) /* what its sum would be is of no meaning */
        printf("%-16s %14s %9.3f %9.3f %9.3f\n", "begun late", "", (double)hist_quantile(r->late, 0.5) / 1e6,
               (double)hist_quantile(r->late, 0.99) / 1e6, (double)hist_quantile(r->late, 0.999) / 1e6);
}

static void print_moved(const struct trace_report *r)
{
    char a[32], b[32], c[32], d[32];
    const struct replay_counts *did = r->did;
    printf("\nfetched %s, %.2f GB/s while fetching; put %s in %s blocks, of which %s were refused (FULL)\n",
           size_format(a, sizeof a, did->fetched_bytes), fetch_gbps(r),
           size_format(b, sizeof b, did->put_bytes), count_format(c, sizeof c, did->put_blocks),
           count_format(d, sizeof d, did->full_blocks));
    if (r->has_evicted)
        printf("evicted on the nodes: %s blocks from RAM, %s from disk",
               count_format(a, sizeof a, r->evicted_ram), count_format(b, sizeof b, r->evicted_disk));
    else
        printf("evicted on the nodes: unknown, since they did not answer");
    printf("; misses that were there: %s evicted between\nlookup and fetch, %s behind a block that was not\n",
           count_format(c, sizeof c, did->gone_blocks), count_format(d, sizeof d, did->stranded_blocks));
}

void trace_report_print(const struct trace_report *r)
{
    char n[32], of[32], speed[64];
    print_what(r);
    snprintf(speed, sizeof speed, "%.4g times as fast as recorded", r->speed);
    printf("\n%s of %s requests replayed in %.2f s, one at a time, %s, on %u node%s\n\n",
           count_format(n, sizeof n, r->did->requests), count_format(of, sizeof of, r->whole->requests),
           r->seconds, r->speed > 0 ? speed : "as fast as it went", r->nodes, r->nodes == 1 ? "" : "s");
    print_hits(r);
    print_times(r);
    print_moved(r);
}

/* ---- JSON ---- */

static void set_count(json_t *o, const char *name, uint64_t n)
{
    json_object_set_new(o, name, json_integer((json_int_t)n));
}

static json_t *hits_json(uint64_t blocks, uint64_t tokens, const struct trace_bound *of)
{
    return json_pack("{s:I, s:I, s:f, s:f}", "blocks", (json_int_t)blocks, "tokens", (json_int_t)tokens,
                     "block_rate", share(blocks, of->blocks), "token_rate", share(tokens, of->tokens));
}

static json_t *time_json(const struct hist *h)
{
    return json_pack("{s:I, s:f, s:f, s:f, s:f}", "requests", (json_int_t)h->count, "p50",
                     (double)hist_quantile(h, 0.5) / 1e6, "p99", (double)hist_quantile(h, 0.99) / 1e6, "p999",
                     (double)hist_quantile(h, 0.999) / 1e6, "total", (double)h->sum / 1e6);
}

static void set_sizes(json_t *o, const struct trace_report *r)
{
    set_count(o, "trace_requests", r->whole->requests);
    set_count(o, "trace_distinct_bytes", whole_bytes(r));
    set_count(o, "bytes_per_token", r->bytes_per_token);
    set_count(o, "block_bytes", (uint64_t)TRACE_BLOCK * r->bytes_per_token);
    set_count(o, "real_bytes_per_token", REAL_BYTES_PER_TOKEN);
    json_object_set_new(o, "real_ratio", json_real((double)REAL_BYTES_PER_TOKEN / r->bytes_per_token));
    set_count(o, "nodes", r->nodes);
    json_object_set_new(o, "speed", r->speed > 0 ? json_real(r->speed) : json_null());
}

static void set_counts(json_t *o, const struct trace_report *r)
{
    const struct replay_counts *did = r->did;
    set_count(o, "requests", did->requests);
    set_count(o, "blocks", r->bound->blocks);
    set_count(o, "tokens", r->bound->tokens);
    set_count(o, "distinct_blocks", r->bound->seen.n);
    json_object_set_new(o, "hits", hits_json(did->hit_blocks, did->hit_tokens, r->bound));
    json_object_set_new(o, "bound", hits_json(r->bound->hit_blocks, r->bound->hit_tokens, r->bound));
    set_count(o, "older_blocks", r->older_blocks);
    set_count(o, "gone_blocks", did->gone_blocks);
    set_count(o, "stranded_blocks", did->stranded_blocks);
    set_count(o, "put_blocks", did->put_blocks);
    set_count(o, "put_bytes", did->put_bytes);
    set_count(o, "full_blocks", did->full_blocks);
    set_count(o, "fetched_bytes", did->fetched_bytes);
    json_object_set_new(o, "evicted",
                        r->has_evicted ? json_pack("{s:I, s:I}", "ram", (json_int_t)r->evicted_ram, "disk",
                                                   (json_int_t)r->evicted_disk)
                                       : json_null());
}

int trace_report_json(const struct trace_report *r, struct skv_error *err)
{
    json_t *o = json_object(), *trace = json_string(r->trace);
    json_object_set_new(o, "trace", trace ? trace : json_string("(not UTF-8)"));
    json_object_set_new(o, "complete", json_boolean(r->did->requests == r->whole->requests));
    set_counts(o, r);
    json_object_set_new(o, "seconds", json_real(r->seconds));
    json_object_set_new(o, "fetch_gbps", json_real(fetch_gbps(r)));
    json_object_set_new(o, "lookup_ms", time_json(&r->did->lookup));
    json_object_set_new(o, "fetch_ms", time_json(&r->did->fetch));
    json_object_set_new(o, "put_ms", time_json(&r->did->put));
    json_object_set_new(o, "late_ms", r->speed > 0 ? time_json(r->late) : json_null());
    set_sizes(o, r);
    return json_out(o, err);
}
