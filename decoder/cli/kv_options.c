#include "decoder/cli/kv_options.h"
#include "decoder/model/quant.h"
#include "memnode/disk_options.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AT(member) offsetof(struct kv_options, member)

const struct opt kv_node_table[] = {
    {"nodes", 0, OPT_STRING, AT(nodes), "LIST",
     "memory nodes as host:port,host:port…, each with *weight if they differ, and as id@host:port if it may "
     "be away at the start, or @FILE with such a node a line, which SIGHUP has read again; without it, one "
     "runs in this process"},
    {"cluster", 0, OPT_STRING, AT(cluster), "NAME", "name that the nodes were started with"},
    {"namespace", 0, OPT_U64, AT(ns), "N", "tenant; blocks of different tenants never meet (0 if not given)"},
    {"ram", 0, OPT_SIZE, AT(ram), "SIZE", "memory of the node inside this process", .min = 1 << 20},
    {"disk", 0, OPT_LIST, AT(disk), "DIR:SIZE",
     "a directory that the node inside this process keeps blocks in, and how much of it they may take"},
    {"replicas", 0, OPT_U32, AT(replicas), "R",
     "nodes that each block is written to: it survives the loss of all but one of them", .min = 1, .max = 64},
    {"heartbeat-ms", 0, OPT_U32, AT(heartbeat_ms), "MS",
     "a node that is silent for two of these is passed over while others can answer", .min = 10,
     .max = 60000},
    {"timeout-ms", 0, OPT_U32, AT(timeout_ms), "MS", "deadline of every request to a node", .min = 1,
     .max = 3600000},
    {"threads", 't', OPT_U32, AT(threads), "N", "compute threads; all cores if not given", .min = 1,
     .max = 1024},
    {0},
};

const struct opt kv_policy_table[] = {
    {"policy", 0, OPT_STRING, AT(policy), "NAME[:OPTION=VALUE…]",
     "what a decode step attends to besides window and protected tokens: cascade (the scout's choice), dense "
     "(everything) and many more, which `scoutkv policies` explains"},
    {"layer-policy", 0, OPT_LIST, AT(layer_policy), "A[-B]=NAME[:OPTION=VALUE…]",
     "layers A to B (the first is 0) follow another policy, with the same budget"},
    {"alpha", 0, OPT_DOUBLE, AT(alpha), "A", "the same as --policy cascade:alpha=A", .max = 1},
    {"beta", 0, OPT_DOUBLE, AT(beta), "B", "the same as --policy cascade:beta=B", .max = 4},
    {0},
};

const struct opt kv_loss_table[] = {
    {"on-loss", 0, OPT_CHOICE, AT(on_loss), NULL,
     "when no memory node can give a page that a step chose. fail: end with status 3 (4 if its nodes don't "
     "answer); "
     "what was generated stays. degrade: go on without it, and tell the estimated attention mass missed. "
     "recompute: "
     "compute its block again from the tokens, store it, repeat the step",
     .choices = "fail|degrade|recompute"},
    {"step-deadline", 0, OPT_U32, AT(step_deadline_ms), "MS",
     "a decode step that has waited so long for pages takes those that are late for lost (--on-loss), and "
     "waits "
     "no more for their nodes until these answer; for --timeout-ms if not given",
     .min = 1, .max = 3600000},
    {0},
};

const struct opt kv_cache_table[] = {
    {"tail", 0, OPT_FLAG, AT(tail), NULL,
     "with cascade: attend to what was not selected as well, each block as its mean value with its estimated "
     "mass"},
    {"budget", 0, OPT_U32, AT(budget), "TOKENS", "tokens selected per KV head and layer and step", .min = 0,
     .max = 1 << 30},
    {"refresh", 0, OPT_U32, AT(refresh), "N",
     "every N-th position selects more, so that what the policy overlooks is seen from time to time; "
     "policies "
     "that go by what pages received learn from it what all pages would get; 0: never",
     .max = 1 << 30},
    {"refresh-turn", 0, OPT_DOUBLE, AT(refresh_turn), "COS",
     "so does every step of a KV head whose query has turned: its cosine with those of the last steps (each "
     "counts half 16 steps later) is below COS, as when the topic shifts; 0.4 is a start; 0: never",
     .max = 1},
    {"refresh-budget", 0, OPT_U32, AT(refresh_budget), "X", "how many times the budget a refresh selects",
     .min = 1, .max = 1 << 20},
    {"mass", 0, OPT_DOUBLE, AT(mass), "P",
     "select fewer once they are estimated to hold this share of the far attention mass (0…1); the whole "
     "budget if "
     "not given",
     .max = 1},
    {"select", 0, OPT_U32, AT(select), "16|32|64", "tokens selected together"},
    {"calib", 0, OPT_STRING, AT(calib), "FILE",
     "what `scoutkv calibrate` measured of this model: how much spread counts in each head's "
     "representatives, and "
     "which heads read afar"},
    {"schedule", 0, OPT_CHOICE, AT(schedule), NULL,
     "how decode steps split the budget over layers and KV heads, with the same sum: all alike; lower layers "
     "a "
     "quarter; or where it holds most, which --calib tells (and which it means if not given)",
     .choices = "uniform|narrow-low|calibrated"},
    {"representatives", 0, OPT_CHOICE, AT(representatives), NULL,
     "what is kept of every page for the scout: full, or lean: a fifth of it, which finds less of what is "
     "copied from afar",
     .choices = "full|lean"},
    {"window", 0, OPT_U32, AT(window), "TOKENS", "newest tokens, always local and always attended",
     .max = 1 << 30},
    {"seal-lag", 0, OPT_U32, AT(seal_lag), "TOKENS",
     "tokens behind the head that stay unsealed and can be taken back for free; the window if not given",
     .max = 1 << 30},
    {"sinks", 0, OPT_U32, AT(sinks), "TOKENS", "first tokens, always attended", .max = 1 << 30},
    {"protect", 0, OPT_LIST, AT(protect), "A:B", "positions from A up to B, always attended"},
    {"cache", 0, OPT_SIZE, AT(cache), "SIZE", "fetched pages that are kept"},
    {"prefill", 0, OPT_STRING, AT(prefill), "NAME[:OPTION=VALUE…]",
     "what the tokens of a prompt attend to: dense is exact"},
    {"prefill-budget", 0, OPT_U32, AT(prefill_budget), "TOKENS", "the budget of a prompt's chunk",
     .max = 1 << 30},
    {"chunk", 0, OPT_U32, AT(chunk), "TOKENS",
     "tokens of a prompt computed together; chunks begin at multiples of it, a multiple of 64", .min = 64,
     .max = 1 << 16},
    {"kv-type", 0, OPT_CHOICE, AT(kv_type), NULL,
     "how keys and values are kept, on the nodes, on their way and in the cache: q8_0 takes 0.53 of f16's "
     "bytes, q4 0.34, rounded when a page of 16 tokens is full; `scoutkv "
     "eval` says what that costs",
     .choices = "f16|f32|q8_0|q4"},
    {"activations", 0, OPT_CHOICE, AT(activations), NULL,
     "what a decode step multiplies weights with. int8: activations rounded to 8 bits, 32 with a scale, "
     "where "
     "weights have 8 bits or fewer; faster, most of all for Q4_K and Q6_K; `scoutkv eval text` says what "
     "that costs",
     .choices = "exact|int8"},
    {"ack", 0, OPT_CHOICE, AT(ack), NULL, "when a node has a block: in its memory, or on its disk",
     .choices = "ram|durable"},
    {"hints", 0, OPT_CHOICE, AT(hints), NULL,
     "tell memory nodes that have disks which blocks will be asked for often, so that those stay in their "
     "RAM "
     "and others go first; the output is the same either way",
     .choices = "on|off"},
    {0},
};

void kv_options_defaults(struct kv_options *o)
{
    struct skv_context_opts d;
    skv_context_defaults(&d);
    *o = (struct kv_options){
        .cluster = "default",
        .ram = 4ull << 30,
        .replicas = 1,
        .heartbeat_ms = 250,
        .timeout_ms = 5000,
        .policy = skv_policy_name(d.decode.policy),
        .prefill = skv_policy_name(d.prefill.policy),
        .representatives = "full",
        .kv_type = skv_dtype_name(d.dtype),
        .activations = "exact",
        .ack = d.durable ? "durable" : "ram",
        .hints = d.hints ? "on" : "off",
        .on_loss = "fail",
        .alpha = -1,
        .beta = -1,
        .budget = d.decode.budget,
        .refresh = d.decode.refresh,
        .refresh_budget = d.decode.refresh_budget,
        .refresh_turn = (double)d.decode.refresh_turn,
        .select = d.decode.unit,
        .mass = d.decode.mass,
        .window = d.window,
        .seal_lag = d.seal_lag,
        .sinks = d.sinks,
        .cache = d.cache_bytes,
        .prefill_budget = d.prefill.budget,
        .chunk = 512,
    };
}

int kv_ranges_add(struct kv_ranges *r, uint64_t from, uint64_t to, struct skv_error *err)
{
    struct skv_range *grown = realloc(r->range, (r->n + 1) * sizeof *grown);
    if (!grown)
        return skv_fail(err, -ENOMEM, "out of memory");
    r->range = grown;
    r->range[r->n++] = (struct skv_range){from, to};
    return 0;
}

static int add_protected(const struct kv_options *o, struct kv_ranges *ranges, struct skv_error *err)
{
    for (size_t i = 0; i < o->protect.n; i++) {
        const char *text = o->protect.item[i];
        uint64_t from, to;
        char end;
        if (sscanf(text, "%" SCNu64 ":%" SCNu64 "%c", &from, &to, &end) != 2 || strchr(text, '-') ||
            from >= to)
            return skv_fail(err, -EINVAL, "protect: expected A:B with A < B, two token positions, not '%s'",
                            text);
        int rc = kv_ranges_add(ranges, from, to, err);
        if (rc)
            return rc;
    }
    return 0;
}

int kv_node_check(const struct kv_options *o, struct skv_error *err)
{
    struct disk_options disks;
    struct skv_error why;
    if (o->disk.n && o->nodes)
        return skv_fail(
            err, -EINVAL,
            "disk: it belongs to the node inside this process, which --nodes replaces; give it to "
            "scoutkv-memnode");
    if (disk_options_parse(o->disk.item, o->disk.n, &disks, &why))
        return skv_fail(err, -EINVAL, "disk: %.450s", why.text);
    disk_options_free(&disks);
    return 0;
}

enum skv_on_loss kv_on_loss(const struct kv_options *o)
{
    return strcmp(o->on_loss, "degrade") ? SKV_LOSS_FAIL : SKV_LOSS_DEGRADE;
}

int kv_policy(const struct kv_options *o, struct skv_select *out, struct skv_error *err)
{
    char spec[SKV_POLICY_TEXT];
    int n = snprintf(spec, sizeof spec, "%.100s", o->policy);
    if (o->alpha >= 0)
        n += snprintf(spec + n, sizeof spec - (size_t)n, ":alpha=%g", o->alpha);
    if (o->beta >= 0)
        snprintf(spec + n, sizeof spec - (size_t)n, ":beta=%g", o->beta);
    return skv_policy_parse(spec, out, err);
}

int kv_layers(const struct kv_options *o, struct skv_context_opts *out, struct skv_error *err)
{
    for (size_t i = 0; i < o->layer_policy.n; i++) {
        const char *text = o->layer_policy.item[i], *spec = strchr(text, '=');
        struct skv_layer_select y = {.select = out->decode};
        char end = 0;
        int n = sscanf(text, "%" SCNu32 "-%" SCNu32 "%c", &y.from, &y.to, &end);
        if (n < 3 || end != '=') {
            n = sscanf(text, "%" SCNu32 "%c", &y.from, &end);
            y.to = y.from;
        }
        if (n < 2 || end != '=' || text[0] == '-' || y.to < y.from || y.to == UINT32_MAX)
            return skv_fail(err, -EINVAL,
                            "layer-policy: '%s': expected A=POLICY or A-B=POLICY with layers A <= B", text);
        if (out->n_decode_layers == SKV_LAYER_RANGES)
            return skv_fail(err, -EINVAL, "layer-policy: at most %d", SKV_LAYER_RANGES);
        y.to++;
        y.select.tail = false;
        int rc = skv_policy_parse(spec + 1, &y.select, err);
        if (rc)
            return rc;
        y.select.tail = o->tail && y.select.policy == SKV_CASCADE;
        out->decode_layers[out->n_decode_layers++] = y;
    }
    return 0;
}

void kv_say_salience(const struct skv_select *s, const struct skv_calibration *c)
{
    static bool said;
    if (s->policy != SKV_SALIENCE || (c && c->d_k) || said)
        return;
    said = true;
    fputs("salience is not learned: a page's is what the mean of past queries gives its keys (k·mean q); "
          "`scoutkv calibrate` learns it, for --calib\n",
          stderr);
}

bool kv_dtype_named(const char *name, size_t len, enum skv_dtype *type)
{
    for (*type = SKV_F16; skv_dtype_name(*type); ++*type)
        if (strlen(skv_dtype_name(*type)) == len && memcmp(skv_dtype_name(*type), name, len) == 0)
            return true;
    return false;
}

enum skv_dtype kv_dtype(const struct kv_options *o)
{
    enum skv_dtype type;
    return kv_dtype_named(o->kv_type, strlen(o->kv_type), &type) ? type : SKV_F16;
}

enum skv_representatives kv_representatives(const struct kv_options *o)
{
    return o->representatives && !strcmp(o->representatives, "lean") ? SKV_REPS_LEAN : SKV_REPS_FULL;
}

int kv_schedule(const struct kv_options *o, enum skv_schedule *out, struct skv_error *err)
{
    *out = o->calib ? SKV_CALIBRATED : SKV_UNIFORM;
    for (unsigned i = 0; o->schedule && i < SKV_SCHEDULES; i++)
        if (!strcmp(o->schedule, skv_schedule_name((enum skv_schedule)i)))
            *out = (enum skv_schedule)i;
    return *out == SKV_CALIBRATED && !o->calib
               ? skv_fail(err, -EINVAL,
                          "schedule: calibrated needs --calib FILE, which `scoutkv calibrate` writes")
               : 0;
}

/* What of ours changes the bits of K and V, besides the context's own options. */
#define RECIPE "chunk=%" PRIu32 " sums=%d%s"
#define INT8 " int8"

bool kv_recipe_read(const char *recipe, uint32_t *chunk, const char **activations)
{
    int sums, end = 0;
    if (!recipe || sscanf(recipe, "chunk=%" SCNu32 " sums=%d%n", chunk, &sums, &end) != 2)
        return false;
    bool int8 = !strcmp(recipe + end, INT8);
    *activations = int8 ? "int8" : "exact";
    return (int8 || !recipe[end]) && sums == QUANT_LANES && *chunk > 0 && *chunk % SKV_BLOCK == 0;
}

enum activations kv_activations(const struct kv_options *o)
{
    return !strcmp(o->activations, "int8") ? ACTIVATIONS_INT8 : ACTIVATIONS_EXACT;
}

int kv_context_opts(const struct kv_options *o, struct kv_ranges *ranges, char recipe[32],
                    struct skv_context_opts *out, struct skv_error *err)
{
    if (o->select != 16 && o->select != 32 && o->select != 64)
        return skv_fail(err, -EINVAL, "select: %u is not one of 16, 32, 64", o->select);
    if (o->chunk % SKV_BLOCK)
        return skv_fail(err, -EINVAL, "chunk: %u is not a multiple of %d", o->chunk, SKV_BLOCK);
    if (o->seal_lag && o->seal_lag < o->window)
        return skv_fail(err, -EINVAL, "seal-lag: %u is less than the window (%u)", o->seal_lag, o->window);
    int rc = kv_node_check(o, err);
    if (!rc)
        rc = add_protected(o, ranges, err);
    if (rc)
        return rc;
    skv_context_defaults(out);
    rc = kv_policy(o, &out->decode, err);
    if (!rc)
        rc = skv_policy_parse(o->prefill, &out->prefill, err);
    if (rc)
        return rc;
    snprintf(recipe, 32, RECIPE, o->chunk, QUANT_LANES, kv_activations(o) == ACTIVATIONS_INT8 ? INT8 : "");
    out->decode.budget = o->budget;
    out->decode.unit = out->prefill.unit = o->select;
    out->decode.mass = (float)o->mass;
    out->decode.tail = o->tail;
    out->decode.refresh = o->refresh;
    out->decode.refresh_budget = o->refresh_budget;
    out->decode.refresh_turn = (float)o->refresh_turn;
    if (o->tail && out->decode.policy != SKV_CASCADE)
        return skv_fail(
            err, -EINVAL,
            "tail: an option of cascade; %s estimates no mass of what it leaves out, or always attends to it",
            o->policy);
    rc = kv_layers(o, out, err);
    if (!rc)
        rc = kv_schedule(o, &out->schedule, err);
    if (rc)
        return rc;
    out->prefill.budget = o->prefill_budget;
    out->window = o->window;
    out->seal_lag = o->seal_lag;
    out->sinks = o->sinks;
    out->protect = ranges->range;
    out->n_protect = ranges->n;
    out->cache_bytes = o->cache;
    out->representatives = kv_representatives(o);
    out->dtype = kv_dtype(o);
    out->on_loss = kv_on_loss(o);
    out->step_deadline_ms = o->step_deadline_ms;
    out->durable = !strcmp(o->ack, "durable");
    out->hints = !strcmp(o->hints, "on");
    out->recipe = recipe;
    return 0;
}

int kv_check(const struct kv_options *o, struct skv_error *err)
{
    struct skv_context_opts opts;
    struct kv_ranges ranges = {0};
    char recipe[32];
    int rc = kv_context_opts(o, &ranges, recipe, &opts, err);
    free(ranges.range);
    return rc;
}

void kv_tier_opts(const struct kv_options *o, struct skv_tier_opts *out)
{
    *out = (struct skv_tier_opts){
        .nodes = o->nodes,
        .cluster = o->cluster,
        .ns = o->ns,
        .ram = o->ram,
        .disks = o->disk.item,
        .n_disks = o->disk.n,
        .replicas = o->replicas,
        .heartbeat_ms = o->heartbeat_ms,
        .timeout_ms = o->timeout_ms,
        .threads = o->threads,
    };
}
