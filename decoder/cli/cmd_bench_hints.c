/* cmd_bench_hints.c: `scoutkv bench hints`: of the pages that decode steps ask memory nodes for, how many
 * come from RAM where RAM holds a part of the blocks and disks the rest.
 *
 * DESIGN. Many contexts are stored, then decoded in turns, as a server would: every round each has a turn of
 * some tokens, in an order from the seed. What the nodes count over these turns, and only these, is the hit
 * rate. Beside it stands a bound: the context tells of every page that it fetched, so the blocks that were
 * read most are known in hindsight, and what RAM would have served had it held just these all along. Texts
 * are fed as they go on and prompts with their answers, so that every run asks the same of the nodes. */
#include "common/options.h"
#include "common/progress.h"
#include "common/size.h"
#include "decoder/cli/ask.h"
#include "decoder/cli/bench_hints.h"
#include "decoder/cli/cli.h"
#include "decoder/cli/interrupt.h"
#include "decoder/model/recall_words.h"
#include "decoder/tier/tier.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct node_counts {
    uint64_t bytes, blocks, ram_bytes, ram_blocks, pages, disk_pages, promoted, evicted, hints;
};

struct bench {
    const struct hints_args *args;
    struct engine engine;
    struct asker asker;
    struct meter meter;
    struct hints_work work;
    struct hints_tally tally;
    skv_context **ctx; /* [work.n] */
    struct node_counts before, after;
    uint64_t hinted, digest, right, asked;
    double prefill_s;
};

#define AT(member) offsetof(struct hints_args, member)
static const struct opt table[] = {
    {"model", 'm', OPT_STRING, AT(model), "FILE", "GGUF model", .required = true},
    {"file", 'f', OPT_STRING, AT(file), "FILE", "text that contexts are pieces of"},
    {"contexts", 0, OPT_U32, AT(contexts), "N", "how many pieces of it", .min = 1, .max = 4096},
    {"prompts", 0, OPT_STRING, AT(prompts), "FILE",
     "contexts that are prompts besides: lines of JSON, {\"prompt\": …, \"answer\": …}"},
    {"n-prompts", 0, OPT_U32, AT(n_prompts), "N", "how many of them", .min = 1, .max = 4096},
    {"tokens", 0, OPT_U64, AT(tokens), "N", "length of a piece of text, what is decoded included",
     .min = 1024, .max = 1 << 24},
    {"decode", 0, OPT_U32, AT(decode), "N", "tokens at the end of each context that go in by decode steps",
     .min = 1, .max = 1 << 20},
    {"turn", 0, OPT_U32, AT(turn), "N", "of these, in one turn", .min = 1, .max = 1 << 20},
    {"questions", 0, OPT_U32, AT(questions), "N",
     "without --file and --prompts, for a model of `make-model recall`: one text, and facts of it that are "
     "asked "
     "for, a question a turn",
     .min = 1, .max = 1 << 20},
    {"seed", 's', OPT_U64, AT(seed), "S", "of the texts' places, of facts and turns"},
    {"json", 0, OPT_FLAG, AT(json), NULL, "print one object instead of the table"},
    {0},
};

/* ---- what the nodes count ---- */

static int read_nodes(const struct bench *b, struct node_counts *out, struct skv_error *err)
{
    const struct kv_options *kv = &b->args->kv;
    struct tier_opts opts = {.nodes = kv->nodes,
                             .cluster = kv->cluster,
                             .ns = kv->ns,
                             .replicas = kv->replicas,
                             .timeout_ms = kv->timeout_ms};
    struct {
        const char *name;
        uint64_t *sum;
    } wanted[] = {
        {"bytes", &out->bytes},
        {"blocks", &out->blocks},
        {"ram_bytes", &out->ram_bytes},
        {"ram_blocks", &out->ram_blocks},
        {"get_pages", &out->pages},
        {"get_disk_pages", &out->disk_pages},
        {"disk_promoted", &out->promoted},
        {"ram_evicted", &out->evicted},
        {"hints", &out->hints},
    };
    struct tier_counter *counters = NULL;
    struct tier *tier;
    size_t n = 0;
    *out = (struct node_counts){0};
    int rc = tier_open(&opts, &tier, err);
    if (rc)
        return rc;
    rc = tier_stats(tier, &counters, &n, err);
    for (size_t i = 0; i < n && !rc; i++)
        for (size_t k = 0; k < sizeof wanted / sizeof *wanted; k++)
            if (!strcmp(counters[i].name, wanted[k].name))
                *wanted[k].sum += counters[i].value;
    free(counters);
    tier_close(tier);
    return rc;
}

/* ---- storing ---- */

static int store_contexts(struct bench *b, struct skv_error *err)
{
    struct skv_context_opts opts;
    struct progress bar;
    int rc = engine_context_opts(&b->engine, &opts, err);
    opts.fetched = hints_tally_page;
    progress_begin(&bar, "contexts", "contexts", b->work.n);
    for (size_t i = 0; i < b->work.n && !rc; i++) {
        const struct hints_stream *s = &b->work.streams[i];
        opts.fetched_arg = hints_tally_context(&b->tally, i);
        if (i == 0)
            rc = engine_context(&b->engine, &opts, &b->ctx[i], &b->asker.session, err);
        else
            rc = skv_context_open(b->engine.tier, &b->engine.shape, &opts, &b->ctx[i], err);
        if (rc)
            break;
        session_use(b->asker.session, b->ctx[i]);
        rc = engine_prefill(&b->engine, b->asker.session, "prefill", s->ids, s->n_prefill, NULL, NULL, err);
        if (!rc)
            rc = skv_flush(b->ctx[i], err);
        progress_update(&bar, i + 1);
    }
    b->prefill_s = progress_seconds(&bar);
    progress_end(&bar);
    return rc;
}

/* ---- decoding ---- */

static void digest(struct bench *b)
{
    size_t n = b->engine.model->params.vocab * sizeof *b->asker.logits;
    b->digest = XXH3_64bits_withSeed(b->asker.logits, n, b->digest);
}

/* The context's next tokens, or its next question. */
static int take_turn(struct bench *b, size_t i, struct skv_error *err)
{
    struct hints_stream *s = &b->work.streams[i];
    int rc = 0;
    session_use(b->asker.session, b->ctx[i]);
    if (s->n_questions) {
        const struct recall_question *q = &s->questions[s->asked++];
        struct answer said = {0};
        rc = ask_feed(&b->asker, &b->meter, b->ctx[i], q->ids, q->n, err);
        if (!rc)
            rc = ask_answer(&b->asker, &b->meter, b->ctx[i], RECALL_DIGITS, &said, err);
        digest(b);
        b->asked++;
        b->right += answer_right(&said, q->fact->value);
        return rc;
    }
    for (uint32_t k = 0; k < b->args->turn && s->at < s->n && !rc; k++) {
        rc = ask_feed(&b->asker, &b->meter, b->ctx[i], &s->ids[s->at++], 1, err);
        digest(b);
    }
    return rc;
}

static int decode(struct bench *b, struct skv_error *err)
{
    uint64_t random = b->args->seed;
    struct progress bar;
    size_t *order = malloc(b->work.n * sizeof *order), done = 0;
    int rc = order ? 0 : skv_fail(err, -ENOMEM, "out of memory");
    progress_begin(&bar, "turns", "turns", b->work.turns);
    for (bool any = true; any && !rc;) {
        any = false;
        hints_shuffle(order, b->work.n, &random);
        for (size_t i = 0; i < b->work.n && !rc; i++) {
            if (hints_stream_over(&b->work.streams[order[i]]))
                continue;
            any = true;
            rc = take_turn(b, order[i], err);
            progress_update(&bar, ++done);
        }
    }
    progress_end(&bar);
    free(order);
    for (size_t i = 0; i < b->work.n && !rc; i++) {
        struct skv_stats s;
        skv_context_stats(b->ctx[i], &s);
        b->hinted += s.blocks_hinted;
    }
    return rc;
}

/* ---- telling ---- */

static double share(uint64_t part, uint64_t all)
{
    return all ? (double)part / (double)all : 0;
}

static void print_table(const struct bench *b)
{
    uint64_t pages = b->after.pages - b->before.pages, disk = b->after.disk_pages - b->before.disk_pages;
    char stored[32], ram[32];
    printf("hints                    %s\n", b->args->kv.hints);
    printf("contexts                 %zu, %" PRIu64 " turns, %" PRIu64 " decode steps\n", b->work.n,
           b->work.turns, meter_steps(&b->meter));
    printf("stored                   %s in %" PRIu64 " blocks, %s of them in RAM (%.1f %%)\n",
           size_format(stored, sizeof stored, b->after.bytes), b->after.blocks,
           size_format(ram, sizeof ram, b->after.ram_bytes), 100 * share(b->after.ram_bytes, b->after.bytes));
    printf("pages asked of nodes     %" PRIu64 " while decoding, %.2f of selected\n", pages,
           1 - meter_hit_share(&b->meter));
    printf("from their RAM           %.1f %%\n", 100 * share(pages - disk, pages));
    printf("the best as many blocks  %.1f %%, chosen in hindsight\n",
           100 * hints_tally_best(&b->tally, b->after.ram_blocks));
    printf("told                     %" PRIu64 " blocks in %" PRIu64 " hints; %" PRIu64
           " came back into RAM, %" PRIu64 " left it\n",
           b->hinted, b->after.hints, b->after.promoted - b->before.promoted,
           b->after.evicted - b->before.evicted);
    printf("a step                   %.2f ms at p50, of which %.2f waiting for pages\n",
           meter_ms(&b->meter, METER_STEP, 0.5), meter_ms(&b->meter, METER_WAIT, 0.5));
    if (b->asked)
        printf("answers                  %" PRIu64 " of %" PRIu64 " right\n", b->right, b->asked);
    printf("digest of all logits     %016" PRIx64 "\n", b->digest);
}

static int print_json(const struct bench *b, struct skv_error *err)
{
    uint64_t pages = b->after.pages - b->before.pages, disk = b->after.disk_pages - b->before.disk_pages;
    char sum[17];
    snprintf(sum, sizeof sum, "%016" PRIx64, b->digest);
    json_t *o = json_pack(
        "{s:b, s:I, s:I, s:I, s:I, s:f, s:I, s:I, s:f, s:f, s:I, s:I, s:I, s:I, s:I, s:o, s:s, s:f}", "hints",
        !strcmp(b->args->kv.hints, "on"), "contexts", (json_int_t)b->work.n, "bytes",
        (json_int_t)b->after.bytes, "blocks", (json_int_t)b->after.blocks, "ram_blocks",
        (json_int_t)b->after.ram_blocks, "ram_share", share(b->after.ram_bytes, b->after.bytes), "pages",
        (json_int_t)pages, "disk_pages", (json_int_t)disk, "ram_hit_rate", share(pages - disk, pages),
        "best_static_hit_rate", hints_tally_best(&b->tally, b->after.ram_blocks), "blocks_hinted",
        (json_int_t)b->hinted, "promoted", (json_int_t)(b->after.promoted - b->before.promoted), "evicted",
        (json_int_t)(b->after.evicted - b->before.evicted), "asked", (json_int_t)b->asked, "right",
        (json_int_t)b->right, "detail", meter_json(&b->meter), "digest", sum, "prefill_seconds",
        b->prefill_s);
    int bad = !o || json_dumpf(o, stdout, JSON_INDENT(2)) || putchar('\n') == EOF || fflush(stdout);
    json_decref(o);
    return bad ? skv_fail(err, -EIO, "cannot write the JSON output") : 0;
}

/* ---- the command ---- */

static int bench(struct bench *b, struct skv_error *err)
{
    int rc = engine_open(&b->engine, b->args->model, &b->args->kv, err);
    if (!rc)
        rc = hints_work_make(&b->work, &b->engine, b->args, err);
    if (!rc)
        rc = hints_tally_make(&b->tally, b->work.n, b->engine.model->params.n_layers, err);
    if (!rc && !(b->ctx = calloc(b->work.n, sizeof *b->ctx)))
        rc = skv_fail(err, -ENOMEM, "out of memory");
    if (!rc)
        rc = asker_open(&b->asker, &b->engine, err);
    if (!rc)
        rc = engine_connect(&b->engine, err);
    if (!rc)
        rc = store_contexts(b, err);
    if (!rc)
        rc = read_nodes(b, &b->before, err);
    if (!rc)
        rc = decode(b, err);
    if (!rc)
        rc = read_nodes(b, &b->after, err);
    if (rc)
        return rc;
    if (b->args->json)
        return print_json(b, err);
    print_table(b);
    return 0;
}

static void close_bench(struct bench *b)
{
    asker_close(&b->asker);
    for (size_t i = 0; b->ctx && i < b->work.n; i++)
        if (b->ctx[i])
            skv_context_close(b->ctx[i]);
    engine_close(&b->engine);
    hints_work_free(&b->work);
    hints_tally_free(&b->tally);
    free(b->ctx);
    free(b);
}

static int check(const struct hints_args *a, struct skv_error *err)
{
    if (!a->kv.nodes)
        return skv_fail(
            err, -EINVAL,
            "nodes: give memory nodes with disks, whose counters are read; deploy/cluster up --disk "
            "SIZE starts some");
    if (a->decode >= a->tokens && a->file)
        return skv_fail(err, -EINVAL, "decode: %u of the %" PRIu64 " tokens (--tokens) leave none to store",
                        a->decode, a->tokens);
    return 0;
}

int cmd_bench_hints(int argc, char **argv)
{
    struct hints_args a = {.contexts = 16,
                           .n_prompts = 16,
                           .tokens = 4096,
                           .decode = 256,
                           .turn = 32,
                           .questions = 200,
                           .seed = 1};
    struct opt_memory mem = {0};
    struct skv_error err = {0};
    kv_options_defaults(&a.kv);
    a.kv.window = 128;
    a.kv.budget = 256;
    a.kv.cache = 1 << 20;
    const struct opt_group groups[] = {{"Options", table, &a},
                                       {"Policy", kv_policy_table, &a.kv},
                                       {"KV cache", kv_cache_table, &a.kv},
                                       {"Memory nodes", kv_node_table, &a.kv},
                                       {0}};
    const struct opt_command cmd = {
        "scoutkv bench hints", "-m MODEL (-f TEXT | --prompts FILE | both) --nodes LIST [options]",
        "Stores contexts on memory nodes whose RAM holds only a part of them, decodes them in turns, and "
        "tells "
        "how many of\n"
        "the pages that the nodes were asked for came from RAM. Start the nodes anew for each run, and "
        "compare "
        "--hints on\n"
        "with --hints off; deploy/hints does both. The bound beside it: what RAM would have served had it "
        "held, "
        "from the\n"
        "first step to the last, the blocks that turned out to be read most. The digest of all logits must "
        "be "
        "the same.",
        "  deploy/hints                          # starts nodes, runs both, prints the table\n"
        "  scoutkv bench hints -m model.gguf -f book.txt --nodes n1@127.0.0.1:7071 --hints off\n"
        "  scoutkv bench hints -m recall.gguf --tokens 65536 --questions 200 --nodes n1@127.0.0.1:7071",
        groups};
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    struct bench *b = calloc(1, sizeof *b);
    if (!b)
        return 1;
    b->args = &a;
    rc = check(&a, &err);
    if (!rc)
        rc = kv_check(&a.kv, &err);
    if (rc) {
        rc = options_mistake(&cmd, "%s", err.text);
    } else {
        interrupt_catch();
        rc = bench(b, &err);
        rc = rc ? cli_fail(cmd.name, &err) : 0;
        if (interrupted())
            rc = EXIT_INTERRUPTED;
    }
    close_bench(b);
    options_free(&mem);
    return rc;
}
