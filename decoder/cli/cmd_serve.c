/* cmd_serve.c: the options of a server (decoder/serve), and its life: open, answer until told to stop, close.
 */
#include "common/log.h"
#include "common/size.h"
#include "decoder/cli/cli.h"
#include "decoder/cli/engine.h"
#include "decoder/cli/interrupt.h"
#include "decoder/cli/reload.h"
#include "decoder/cli/resume.h"
#include "decoder/serve/chat_prompt.h"
#include "decoder/serve/serve.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct serve_args {
    const char *model, *host, *api_keys, *alias, *chat_template, *ttl, *time_limit, *ping, *drain, *log_level;
    uint32_t port, parallel, queue;
    uint64_t context, max_tokens, max_body, memory;
    struct kv_options kv;
};

#define AT(member) offsetof(struct serve_args, member)
static const struct opt server_table[] = {
    {"model", 'm', OPT_STRING, AT(model), "FILE", "GGUF model", .required = true},
    {"host", 0, OPT_STRING, AT(host), "H",
     "name or address to listen on; one that is not loopback needs --api-keys"},
    {"port", 0, OPT_U32, AT(port), "P", "port to listen on; 0 takes a free one, and says which",
     .max = 65535},
    {"api-keys", 0, OPT_STRING, AT(api_keys), "FILE",
     "keys that clients must send one of, a line each: KEY, KEY TENANT or KEY TENANT SECRET; tenants share "
     "nothing that is kept (a key without one is its own; those of - share with `scoutkv run`); without it "
     "any "
     "key will do"},
    {"alias", 0, OPT_STRING, AT(alias), "NAME",
     "what clients call the model; the file's name without .gguf if not given"},
    {"chat-template", 0, OPT_CHOICE, AT(chat_template), NULL,
     "how conversations are written out for the model; what its file says if not given",
     .choices = CHAT_TEMPLATE_CHOICES},
    {"log-level", 0, OPT_CHOICE, AT(log_level), NULL, "what is written to stderr; info: a line a request",
     .choices = "error|warn|info|debug"},
    {0},
};
static const struct opt limit_table[] = {
    {"ctx-size", 'c', OPT_U64, AT(context), "N",
     "tokens that a context may hold; what the model was trained for if not given"},
    {"max-tokens", 0, OPT_U64, AT(max_tokens), "N",
     "most tokens of an answer; 0: as many as its context holds"},
    {"memory", 0, OPT_SIZE, AT(memory), "SIZE",
     "what the contexts of all requests that are worked on may hold here together: window, representatives "
     "and cache "
     "of each, for as many tokens as it may come to; others wait. Half of the free memory if not given",
     .min = 1 << 20},
    {"parallel", 0, OPT_U32, AT(parallel), "N",
     "requests worked on at once, whatever memory there is: more give more tokens a second, and each its own "
     "later",
     .min = 1, .max = SCHEDULER_SLOTS},
    {"queue", 0, OPT_U32, AT(queue), "N", "requests that may wait besides; the next one is answered 429",
     .max = 100000},
    {"max-body", 0, OPT_SIZE, AT(max_body), "SIZE", "largest request; a larger one is answered 413",
     .min = 1024},
    {"time-limit", 0, OPT_STRING, AT(time_limit), "TIME",
     "of a request, from its arrival: 90s, 10m; what it has said by then is its answer; none if not given"},
    {"ping", 0, OPT_STRING, AT(ping), "TIME",
     "a stream that is silent for so long (a long prompt, a queue) gets a comment, so that nobody on the way "
     "gives it up"},
    {"drain", 0, OPT_STRING, AT(drain), "TIME",
     "how long requests that are worked on may go on after SIGTERM or Ctrl-C"},
    {"ttl", 0, OPT_STRING, AT(ttl), "TIME",
     "how long the beginning of a prompt stays on the nodes after its last use: 12h, 7d"},
    {0},
};

static int parse_time(const char *name, const char *text, uint64_t least_ms, uint64_t *ms,
                      struct skv_error *err)
{
    *ms = 0;
    if (text && (duration_parse(text, ms) || *ms < least_ms || *ms > SKV_TTL_MAX_MS))
        return skv_fail(err, -EINVAL, "%s: expected a time such as 90s, 10m or 2h, not '%s'", name, text);
    return 0;
}

static int parse_times(const struct serve_args *a, struct serve_opts *o, struct skv_error *err)
{
    int rc = parse_time("time-limit", a->time_limit, 1, &o->time_limit_ms, err);
    if (!rc)
        rc = parse_time("ping", a->ping, 1, &o->ping_ms, err);
    if (!rc)
        rc = parse_time("drain", a->drain, 0, &o->drain_ms, err);
    if (!rc)
        rc = resume_ttl(a->ttl, &o->ttl_ms, err);
    return rc;
}

/* Mistakes that need no model. */
static int check_args(const struct opt_command *cmd, struct serve_args *a, struct serve_opts *o)
{
    struct skv_error err = {0};
    int rc = kv_check(&a->kv, &err);
    if (!rc)
        rc = parse_times(a, o, &err);
    return rc ? options_mistake(cmd, "%s", err.text) : -1;
}

/* The file's name without its folder and .gguf; *out is malloc'd. */
static char *model_id(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    size_t n = strlen(name);
    return strndup(name, n > 5 && !strcmp(name + n - 5, ".gguf") ? n - 5 : n);
}

/* Which template, or why there is none: then only chat is refused. */
static void choose_template(const struct serve_args *a, const struct model *m, enum chat_template *chosen,
                            struct serve_opts *o)
{
    static char why[300];
    struct skv_error err;
    if (chat_template_choose(m->gguf, a->chat_template, chosen, &err) == 0) {
        o->chat_template = chosen;
        return;
    }
    snprintf(why, sizeof why, "%.150s: start the server with --chat-template " CHAT_TEMPLATE_CHOICES,
             err.text);
    o->no_chat = why;
}

static void take_kv(const struct engine *e, const struct skv_context_opts *context, struct serve_opts *o)
{
    o->model = e->model;
    o->tok = e->tok;
    o->tier = e->tier;
    o->shape = &e->shape;
    o->context = context;
    o->chunk = e->kv->chunk;
    o->threads = e->kv->threads;
    o->recompute = !strcmp(e->kv->on_loss, "recompute");
}

/* What the kernel says can be had without swapping; else all there is. */
static uint64_t free_memory(void)
{
    uint64_t kib = 0;
    char line[128];
    FILE *f = fopen("/proc/meminfo", "r");
    while (f && !kib && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %" SCNu64 " kB", &kib) != 1)
            kib = 0;
    if (f)
        fclose(f);
    return kib ? kib << 10 : (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void take_limits(const struct serve_args *a, const struct model *m, struct serve_opts *o)
{
    o->host = a->host;
    o->port = (uint16_t)a->port;
    o->api_keys = a->api_keys;
    o->parallel = a->parallel;
    o->queue = a->queue;
    o->memory = a->memory ? a->memory : free_memory() / 2;
    o->limit = a->context ? a->context : m->params.train_context;
    o->max_tokens = a->max_tokens;
    o->max_body = a->max_body;
    o->stop = interrupted;
    o->between = reload_nodes;
}

static int serve(const struct serve_args *a, struct serve_opts *o, struct skv_error *err)
{
    struct engine engine = {0};
    struct skv_context_opts context;
    enum chat_template chosen;
    char saved_model[SKV_MODEL_NAME_MAX + 1], *id = a->alias ? strdup(a->alias) : model_id(a->model);
    struct serve *server;
    struct log log = {stderr, "serve", LOG_LEVEL_INFO};
    log_level_parse(a->log_level, &log.level);
    int rc = id ? engine_open(&engine, a->model, &a->kv, err) : skv_fail(err, -ENOMEM, "out of memory");
    if (!rc)
        rc = engine_context_opts(&engine, &context, err);
    if (!rc)
        rc = engine_connect(&engine, err);
    if (rc)
        goto out;
    choose_template(a, engine.model, &chosen, o);
    resume_model_name(engine.model, saved_model);
    take_kv(&engine, &context, o);
    take_limits(a, engine.model, o);
    o->model_id = id;
    o->saved_model = saved_model;
    o->log = &log;
    rc = serve_open(o, &server, err);
    if (rc)
        goto out;
    printf("listening on %s\n", serve_url(server));
    fflush(stdout);
    char memory[32];
    log_write(&log, LOG_LEVEL_INFO, "model %s, contexts of up to %llu tokens, %s for all, chat template: %s",
              id, (unsigned long long)o->limit, size_format(memory, sizeof memory, o->memory),
              o->chat_template ? chat_template_name(chosen) : "none");
    serve_run(server);
    log_write(&log, LOG_LEVEL_INFO, "stopping");
    serve_close(server);
out:
    engine_close(&engine);
    free(id);
    return rc;
}

int cmd_serve(int argc, char **argv)
{
    struct serve_args a = {.host = "127.0.0.1",
                           .port = 8080,
                           .parallel = 64,
                           .queue = 64,
                           .max_body = 64 << 20,
                           .ping = "10s",
                           .drain = "10s",
                           .ttl = "1d",
                           .log_level = "info"};
    struct serve_opts o = {0};
    struct opt_memory mem = {0};
    struct skv_error err = {0};
    kv_options_defaults(&a.kv);
    const struct opt_group groups[] = {{"Server", server_table, &a},
                                       {"Limits", limit_table, &a},
                                       {"Policy", kv_policy_table, &a.kv},
                                       {"KV cache", kv_cache_table, &a.kv},
                                       {"Loss", kv_loss_table, &a.kv},
                                       {"Memory nodes", kv_node_table, &a.kv},
                                       {0}};
    const struct opt_command cmd = {
        "scoutkv serve", "-m MODEL [--nodes LIST] [--port P] [options]",
        "Answers clients that speak OpenAI's API: /v1/chat/completions and /v1/completions (streaming or "
        "not),\n"
        "/v1/models, /tokenize, /detokenize, /health. Those that decode take each step together, with one "
        "pass over "
        "the\nweights; prompts go in by chunks in between. Whole chunks of every prompt stay on the memory "
        "nodes for --ttl after their last "
        "use:\n"
        "the next request that begins alike, here or at another server of the same nodes, starts behind "
        "them, and\n"
        "its usage counts them as cached_tokens. Everything about the KV cache is as in `scoutkv run`, and "
        "so are\n"
        "the tokens.\n"
        "SIGTERM and Ctrl-C: no new requests, those at work may end (--drain); a second one ends it at once.",
        "  scoutkv serve -m model.gguf\n"
        "  scoutkv serve -m model.gguf --nodes 10.0.0.1:7070,10.0.0.2:7070 --host 0.0.0.0 --api-keys "
        "keys.txt\n"
        "  curl http://127.0.0.1:8080/v1/chat/completions -d '{\"messages\": [{\"role\": \"user\", "
        "\"content\": "
        "\"Hello\"}]}'\n"
        "  curl -N http://127.0.0.1:8080/v1/completions -d '{\"prompt\": \"Once upon\", \"max_tokens\": 100, "
        "\"stream\": true}'",
        groups};
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    rc = check_args(&cmd, &a, &o);
    if (rc < 0) {
        interrupt_catch();
        rc = serve(&a, &o, &err);
        if (rc) {
            rc = cli_fail(cmd.name, &err);
            on_loss_hint(&a.kv, &err);
        }
    }
    options_free(&mem);
    return rc;
}
