/* cmd_context.c: saved contexts by name. `save` and `resume` are `scoutkv run` under other words; the rest
 * needs no model. */
#include "common/size.h"
#include "decoder/cli/cli.h"
#include "decoder/cli/context_show.h"
#include "decoder/cli/resume.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct context_args {
    struct kv_options kv; /* of which the nodes are used */
    const char *ttl;
    bool json;
    struct opt_list operands;
};

#define AT(member) offsetof(struct context_args, member)
static const struct opt json_table[] = {
    {"json", 0, OPT_FLAG, AT(json), NULL, "print JSON, times in ms since 1970"}, {0}};
static const struct opt ttl_table[] = {
    {"ttl", 0, OPT_STRING, AT(ttl), "TIME",
     "time to live, from now: 12h, 7d, 2w; that of the context if not given"},
    {0}};
static const struct opt no_table[] = {{0}};

/* What a verb needs besides its arguments, and what it does with the tier. */
struct verb {
    const char *name, *synopsis, *about, *examples;
    const struct opt *options;
    size_t n_operands;
    int (*act)(skv_tier *, const struct context_args *, uint64_t ttl_ms, struct skv_error *);
};

static int act(const struct verb *v, int argc, char **argv)
{
    struct context_args a = {0};
    struct opt_memory mem = {0};
    struct skv_error err = {0};
    struct skv_tier_opts opts;
    skv_tier *t = NULL;
    uint64_t ttl_ms;
    kv_options_defaults(&a.kv);
    const struct opt_group groups[] = {
        {"Options", v->options, &a}, {"Memory nodes", kv_node_table, &a.kv}, {0}};
    const struct opt_command cmd = {.name = v->name,
                                    .synopsis = v->synopsis,
                                    .about = v->about,
                                    .examples = v->examples,
                                    .groups = v->options == no_table ? groups + 1 : groups,
                                    .operands = &a.operands,
                                    .n_operands = v->n_operands};
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    if (resume_ttl(a.ttl, &ttl_ms, &err))
        rc = options_mistake(&cmd, "%s", err.text);
    else if (!a.kv.nodes && !a.kv.disk.n)
        rc = options_mistake(&cmd, "missing --nodes LIST (or --disk): where contexts are saved");
    if (rc >= 0)
        goto out;
    kv_tier_opts(&a.kv, &opts);
    rc = skv_tier_open(&opts, &t, &err);
    if (!rc)
        rc = v->act(t, &a, ttl_ms, &err);
    if (t)
        skv_tier_close(t);
    rc = rc ? cli_fail(cmd.name, &err) : 0;
out:
    options_free(&mem);
    return rc;
}

/* ---- verbs that look ---- */

static int do_list(skv_tier *t, const struct context_args *a, uint64_t ttl_ms, struct skv_error *err)
{
    (void)ttl_ms;
    return context_list(t, a->json, err);
}

static int context_list_main(int argc, char **argv)
{
    return act(
        &(struct verb){"scoutkv context list", "--nodes LIST [--json]",
                       "Lists the contexts that are saved on the nodes: how many tokens, of which model, how "
                       "old, how long they still\n"
                       "stay if nobody uses them, and whether their blocks are leased until then.",
                       "  scoutkv context list --nodes 10.0.0.1:7070,10.0.0.2:7070", json_table, 0, do_list},
        argc, argv);
}

static int do_show(skv_tier *t, const struct context_args *a, uint64_t ttl_ms, struct skv_error *err)
{
    (void)ttl_ms;
    return context_show(t, a->operands.item[0], a->json, err);
}

static int context_show_main(int argc, char **argv)
{
    return act(
        &(struct verb){"scoutkv context show", "NAME --nodes LIST [--json]",
                       "Shows what a context was saved with, and asks the nodes which of its blocks they "
                       "have. Exit code 3: some are gone.",
                       "  scoutkv context show book --nodes 10.0.0.1:7070", json_table, 1, do_show},
        argc, argv);
}

/* ---- verbs that change ---- */

static int do_fork(skv_tier *t, const struct context_args *a, uint64_t ttl_ms, struct skv_error *err)
{
    return skv_saved_fork(t, a->operands.item[0], a->operands.item[1], ttl_ms, err);
}

static int context_fork_main(int argc, char **argv)
{
    return act(
        &(struct verb){"scoutkv context fork", "FROM TO --nodes LIST [--ttl TIME]",
                       "Gives a saved context a second name, under which it can go another way. Its blocks "
                       "are shared, not copied.",
                       "  scoutkv context fork book book-spanish --nodes 10.0.0.1:7070 --ttl 2d", ttl_table,
                       2, do_fork},
        argc, argv);
}

static int do_pin(skv_tier *t, const struct context_args *a, uint64_t ttl_ms, struct skv_error *err)
{
    return skv_saved_pin(t, a->operands.item[0], ttl_ms, err);
}

static int context_pin_main(int argc, char **argv)
{
    return act(
        &(struct verb){"scoutkv context pin", "NAME --nodes LIST [--ttl TIME]",
                       "Leases the blocks of a saved context from now on for its time to live, or the one "
                       "given: nodes don't evict them, and\n"
                       "the context stays as long. A save does that too; whoever has the context open "
                       "renews it.",
                       "  scoutkv context pin book --nodes 10.0.0.1:7070 --ttl 30d", ttl_table, 1, do_pin},
        argc, argv);
}

static int do_unpin(skv_tier *t, const struct context_args *a, uint64_t ttl_ms, struct skv_error *err)
{
    (void)ttl_ms;
    return skv_saved_unpin(t, a->operands.item[0], err);
}

static int context_unpin_main(int argc, char **argv)
{
    return act(
        &(struct verb){"scoutkv context unpin", "NAME --nodes LIST",
                       "Ends the leases of a saved context: nodes may evict its blocks when they need room. "
                       "Its name stays until its time\n"
                       "is over.",
                       "  scoutkv context unpin book --nodes 10.0.0.1:7070", no_table, 1, do_unpin},
        argc, argv);
}

static int do_rm(skv_tier *t, const struct context_args *a, uint64_t ttl_ms, struct skv_error *err)
{
    (void)ttl_ms;
    return skv_saved_remove(t, a->operands.item[0], err);
}

static int context_rm_main(int argc, char **argv)
{
    return act(
        &(struct verb){"scoutkv context rm", "NAME --nodes LIST",
                       "Removes a saved context: its name and its leases. Blocks that others share stay, "
                       "the rest goes when nodes need room.",
                       "  scoutkv context rm book --nodes 10.0.0.1:7070", no_table, 1, do_rm},
        argc, argv);
}

/* ---- verbs that run the model ---- */

/* `scoutkv run OPTION NAME MORE… ARGS…`, where argv is the verb, NAME and ARGS. */
static int run_as(const char *verb, const char *what, const char *option, const char *const *more,
                  size_t n_more, int argc, char **argv)
{
    bool help = argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"));
    if (help || argc < 2 || argv[1][0] == '-') {
        fprintf(help ? stdout : stderr,
                "Usage: scoutkv context %s NAME -m MODEL [options of scoutkv run]\n\n%s\n"
                "All options of `scoutkv run` may follow: see `scoutkv run --help`.\n",
                verb, what);
        return help ? 0 : 2;
    }
    char **args = malloc(((size_t)argc + n_more + 2) * sizeof *args);
    int n = 0;
    if (!args)
        return 1;
    args[n++] = argv[0];
    args[n++] = (char *)(uintptr_t)option; /* only read, like the others */
    args[n++] = argv[1];
    for (size_t i = 0; i < n_more; i++)
        args[n++] = (char *)(uintptr_t)more[i];
    for (int i = 2; i < argc; i++)
        args[n++] = argv[i];
    args[n] = NULL;
    int rc = cmd_run(n, args);
    free(args);
    return rc;
}

static int context_save_main(int argc, char **argv)
{
    static const char *const more[] = {"-n", "0"};
    return run_as(
        "save",
        "Prefills a text and saves the context under NAME: what `scoutkv run -n 0 --save NAME` does.\n\n"
        "  scoutkv context save book -m model.gguf -f book.txt -c 200000 --nodes 10.0.0.1:7070 --ttl 30d\n",
        "--save", more, 2, argc, argv);
}

static int context_resume_main(int argc, char **argv)
{
    return run_as(
        "resume",
        "Goes on with a saved context, with what it was saved with: what `scoutkv run --resume NAME` "
        "does.\n\n"
        "  scoutkv context resume book -m model.gguf --nodes 10.0.0.1:7070 -p ' In short,' -n 100\n",
        "--resume", NULL, 0, argc, argv);
}

int cmd_context(int argc, char **argv)
{
    static const struct cli_command commands[] = {
        {"list", context_list_main, "what is saved"},
        {"show", context_show_main, "what one was saved with, and what is still there of it"},
        {"save", context_save_main, "prefill a text and save it"},
        {"resume", context_resume_main, "go on with one"},
        {"fork", context_fork_main, "give one a second name, to go another way"},
        {"pin", context_pin_main, "lease its blocks for a time"},
        {"unpin", context_unpin_main, "end its leases"},
        {"rm", context_rm_main, "remove one"},
        {0},
    };
    return cli_dispatch(
        commands, "scoutkv context",
        "Contexts that are saved on memory nodes under a name, and outlive the process that made "
        "them.\n"
        "\n"
        "Usage: scoutkv context COMMAND [NAME] [options]",
        "", argc, argv);
}
