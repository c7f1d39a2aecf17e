/* cmd_plan.c: `scoutkv plan`: what a configuration would cost, before there is one. */
#include "common/size.h"
#include "decoder/cli/cli.h"
#include "decoder/cli/plan_model.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct args {
    const char *model, *constants, *representatives;
    uint64_t context, ram, cache;
    uint32_t nodes, replicas, decoders, threads, budget, window;
    double link, disk, hits;
    bool json;
};

#define AT(member) offsetof(struct args, member)
static const struct opt table[] = {
    {"model", 'm', OPT_CHOICE, AT(model), NULL, "shape of the model", .choices = SHAPE_NAMES},
    {"context", 0, OPT_SIZE, AT(context), "N", "tokens: 1M, 16M", .min = 65536, .max = 1e12},
    {"nodes", 0, OPT_U32, AT(nodes), "N", "memory nodes", .min = 1, .max = 65536},
    {"link", 0, OPT_DOUBLE, AT(link), "GBIT", "of every machine, each way; 0: loopback, as measured",
     .max = 1e6},
    {"disk", 0, OPT_DOUBLE, AT(disk), "GBPS", "10^9 bytes a second of a node's disks; 0: it has none",
     .max = 1e5},
    {"ram", 0, OPT_SIZE, AT(ram), "SIZE", "of a node, for blocks", .min = 1 << 20, .max = 1e15},
    {"replicas", 0, OPT_U32, AT(replicas), "R", "nodes that each block is on", .min = 1, .max = 64},
    {"decoders", 0, OPT_U32, AT(decoders), "N", "machines that share the KV heads (tensor parallel)",
     .min = 1, .max = 64},
    {"threads", 't', OPT_U32, AT(threads), "N", "of a decoder; as many as were measured if not given",
     .min = 1, .max = 1024},
    {"budget", 0, OPT_U32, AT(budget), "N", "tokens selected per KV head and layer", .min = 16,
     .max = 1 << 24},
    {"window", 0, OPT_U32, AT(window), "N", "newest tokens, attended always", .min = 1, .max = 1 << 24},
    {"cache", 0, OPT_SIZE, AT(cache), "SIZE",
     "fetched pages that are kept; four times the budget if not given"},
    {"hits", 0, OPT_DOUBLE, AT(hits), "P", "share of selected pages that are in it (0…1)", .max = 1},
    {"representatives", 0, OPT_CHOICE, AT(representatives), NULL, "what a decoder keeps of a page",
     .choices = "full|lean"},
    {"constants", 0, OPT_STRING, AT(constants), "FILE",
     "what scoutkv bench step --json printed on the machine in question"},
    {"json", 0, OPT_FLAG, AT(json), NULL, "print one object instead of the table"},
    {0},
};

static int read_constants(const char *path, struct plan_constants *c, struct skv_error *err)
{
    json_error_t why;
    json_t *o = json_load_file(path, 0, &why);
    if (!o)
        return skv_fail(err, -EIO, "cannot read %s: %s", path, why.text);
    const json_t *in = json_object_get(o, "constants");
    int rc = in ? plan_constants_read(in, c, err)
                : skv_fail(err, -EINVAL,
                           "%s has no \"constants\": bench step prints them for two lengths or more", path);
    json_decref(o);
    return rc;
}

static void print_size(const char *name, double bytes, const char *after)
{
    char text[32];
    printf("%-34s %12s%s\n", name, size_format(text, sizeof text, (uint64_t)bytes), after);
}

static void print_plan(const struct plan *p, const struct plan_cost *c, const struct plan_change *changes,
                       unsigned n, const char *constants)
{
    char tokens[32];
    printf("%s, %s tokens, %.0f nodes, %.0f decoder%s of %.0f threads; constants %s; without weights\n\n",
           p->shape->name, count_format(tokens, sizeof tokens, (uint64_t)p->tokens), p->nodes, p->decoders,
           p->decoders > 1 ? "s" : "", p->threads, constants);
    printf("%-34s %9.1f ms = %u layers of %.3f ms\n", "step", c->step_ms, p->shape->layers, c->layer_ms);
    for (unsigned i = 0; i < PLAN_PARTS; i++)
        printf("  %-32s %9.1f ms%s%s\n", plan_part_name[i], c->part_ms[i] * p->shape->layers,
               i == PLAN_FETCH ? ", besides what is hidden" : "",
               i == (unsigned)c->bottleneck ? "   <- most" : "");
    if (c->disk_bound)
        printf("%-34s\n", "  the fetch waits for disks");
    print_size("fetched a step", c->fetch_bytes, "");
    printf("%-34s %10.4f %%\n", "  of what dense reads", 100 * c->fetch_bytes / c->dense_bytes);
    print_size("keys and values", c->kv_bytes, p->replicas > 1 ? ", replicas and all" : "");
    print_size("  of one node", c->node_bytes, c->fits ? "" : ": MORE THAN ITS RAM, and it has no disk");
    printf("%-34s %10.1f %%\n", "  of these, on its disk alone", 100 * c->from_disk);
    print_size("a decoder: representatives", c->rep_bytes, "");
    print_size("  window", c->window_bytes, "");
    print_size("  cache", c->cache_bytes, "");
    printf("\n%-26s %10s %8s  %14s\n", "if only this changed", "step ms", "/ now", "a decoder has");
    for (unsigned i = 0; i < n; i++)
        printf("%-26s %10.1f %8.2f  %14s\n", changes[i].name, changes[i].cost.step_ms,
               changes[i].cost.step_ms / c->step_ms,
               size_format(tokens, sizeof tokens,
                           (uint64_t)(changes[i].cost.rep_bytes + changes[i].cost.window_bytes +
                                      changes[i].cost.cache_bytes)));
}

static int print_json(const struct plan *p, const struct plan_constants *k, const struct plan_cost *c,
                      const struct plan_change *changes, unsigned n, struct skv_error *err)
{
    json_t *parts = json_object(), *list = json_array();
    for (unsigned i = 0; i < PLAN_PARTS; i++)
        json_object_set_new(parts, plan_part_name[i], json_real(c->part_ms[i]));
    for (unsigned i = 0; i < n; i++)
        json_array_append_new(list, json_pack("{s:s, s:f, s:f}", "change", changes[i].name, "step_ms",
                                              changes[i].cost.step_ms, "of_now",
                                              changes[i].cost.step_ms / c->step_ms));
    json_t *o =
        json_pack("{s:s, s:f, s:f, s:o, s:s, s:I, s:I, s:I, s:f, s:b, s:I, s:I, s:I, s:o, s:o}", "model",
                  p->shape->name, "step_ms", c->step_ms, "layer_ms", c->layer_ms, "layer_parts_ms", parts,
                  "bottleneck", plan_part_name[c->bottleneck], "fetch_bytes", (json_int_t)c->fetch_bytes,
                  "dense_bytes", (json_int_t)c->dense_bytes, "node_bytes", (json_int_t)c->node_bytes,
                  "from_disk", c->from_disk, "fits", c->fits, "representative_bytes",
                  (json_int_t)c->rep_bytes, "window_bytes", (json_int_t)c->window_bytes, "cache_bytes",
                  (json_int_t)c->cache_bytes, "changes", list, "constants", plan_constants_json(k));
    int bad = !o || json_dumpf(o, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(8)) || putchar('\n') == EOF ||
              fflush(stdout);
    json_decref(o);
    return bad ? skv_fail(err, -EIO, "cannot write the JSON output") : 0;
}

static int plan(const struct args *a, struct skv_error *err)
{
    struct plan_constants k = plan_measured;
    struct plan_change changes[PLAN_CHANGES];
    struct plan_cost cost;
    int rc = a->constants ? read_constants(a->constants, &k, err) : 0;
    if (rc)
        return rc;
    const struct model_shape *m = shape_named(a->model);
    struct plan p = {.shape = m,
                     .tokens = (double)a->context,
                     .budget = a->budget,
                     .window = a->window,
                     .hits = a->hits,
                     .nodes = a->nodes,
                     .replicas = a->replicas,
                     .decoders = a->decoders,
                     .link_gbit = a->link,
                     .disk_gbps = a->disk,
                     .node_ram = (double)a->ram,
                     .threads = a->threads ? a->threads : k.threads,
                     .cache = a->cache ? (double)a->cache : 4.0 * a->budget * (double)shape_token_bytes(m),
                     .lean = !strcmp(a->representatives, "lean")};
    plan_predict(&p, &k, &cost);
    unsigned n = plan_changes(&p, &k, changes);
    if (a->json)
        return print_json(&p, &k, &cost, changes, n, err);
    print_plan(&p, &cost, changes, n, a->constants ? a->constants : "built in");
    return fflush(stdout) ? skv_fail(err, -errno, "cannot write: %s", strerror(errno)) : 0;
}

int cmd_plan(int argc, char **argv)
{
    struct args a = {.model = "llama-3-8b",
                     .representatives = "full",
                     .context = 1 << 20,
                     .ram = UINT64_C(64) << 30,
                     .nodes = 3,
                     .replicas = 1,
                     .decoders = 1,
                     .budget = 2048,
                     .window = 1024,
                     .link = 100,
                     .hits = 0.77};
    struct opt_memory mem = {0};
    struct skv_error err = {0};
    const struct opt_group groups[] = {{"Options", table, &a}, {0}};
    const struct opt_command cmd = {
        "scoutkv plan", "[options]",
        "Predicts what a decode step's attention costs over memory nodes, from what bench step measured: "
        "time in "
        "parts, bytes\n"
        "fetched, memory of a node and of a decoder, and what would change if one thing of the configuration "
        "did. "
        "The model's\n"
        "weights are not part of it. Built-in constants are those of a machine of two cores with AVX2; for "
        "others, "
        "run bench step\n"
        "there and give what it printed. Threads are taken to share the work evenly.",
        "  scoutkv plan --model llama-3-70b --context 16M --nodes 64 --link 100 --ram 128GiB\n"
        "  scoutkv bench step --json >step.json; scoutkv plan --constants step.json --context 1M --link 0\n"
        "  scoutkv plan --context 4M --nodes 8 --ram 32GiB --disk 5 --replicas 2 --json",
        groups};
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    if (shape_named(a.model)->kv_heads % a.decoders)
        rc = options_mistake(&cmd, "decoders: the model's %u KV heads cannot be shared evenly by %u",
                             shape_named(a.model)->kv_heads, a.decoders);
    else if ((rc = plan(&a, &err)))
        rc = cli_fail(cmd.name, &err);
    options_free(&mem);
    return rc;
}
