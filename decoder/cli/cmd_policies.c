/* cmd_policies.c: `scoutkv policies`: the ways of choosing what to attend to, explained. */
#include "common/options.h"
#include "decoder/cli/cli.h"
#include "decoder/scoutkv.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct policies_args {
    bool json;
};

static const struct opt table[] = {
    {"json", 0, OPT_FLAG, offsetof(struct policies_args, json), NULL, "print one array instead"},
    {0},
};

static json_t *opts_json(const struct skv_policy_info *p)
{
    json_t *opts = json_array();
    for (unsigned i = 0; i < p->n_opts; i++) {
        const struct skv_policy_opt *o = &p->opts[i];
        json_array_append_new(opts, json_pack("{s:s, s:f, s:f, s:f, s:s}", "name", o->name, "default",
                                              (double)o->value, "min", (double)o->min, "max", (double)o->max,
                                              "about", o->about));
    }
    return opts;
}

static int print_json(void)
{
    struct skv_policy_info p;
    json_t *all = json_array();
    for (int i = 0; i < SKV_POLICIES; i++)
        if (skv_policy_describe((enum skv_policy)i, &p) == 0)
            json_array_append_new(all, json_pack("{s:s, s:s, s:s, s:o}", "name", p.name, "about", p.about,
                                                 "source", p.source, "options", opts_json(&p)));
    int rc = json_dumpf(all, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(all);
    return rc || fflush(stdout) ? 1 : 0;
}

/* Text wrapped behind an indent. */
static void wrap(const char *text, unsigned indent)
{
    const unsigned width = 100;
    unsigned at = indent;
    for (const char *word = text; *word;) {
        size_t n = strcspn(word, " ");
        if (at > indent && at + n > width) {
            printf("\n%*s", (int)indent, "");
            at = indent;
        }
        at += (unsigned)printf("%.*s%s", (int)n, word, word[n] ? " " : "");
        word += n + (word[n] == ' ');
    }
    putchar('\n');
}

static void print_text(void)
{
    struct skv_policy_info p;
    puts("Every step attends to the window and to protected tokens (sinks, --protect). A policy chooses, for "
         "each KV\n"
         "head, which of the pages behind the window are read as well, as many as --budget tokens fill.\n");
    for (int i = 0; i < SKV_POLICIES; i++) {
        if (skv_policy_describe((enum skv_policy)i, &p))
            continue;
        printf("  %-14s", p.name);
        wrap(p.about, 16);
        printf("%16s", "");
        wrap(p.source, 16);
        for (unsigned j = 0; j < p.n_opts; j++) {
            const struct skv_policy_opt *o = &p.opts[j];
            printf("%16s%s=%g  ", "", o->name, (double)o->value);
            wrap(o->about, 34);
        }
    }
    puts("\nFor example: --policy cascade, --policy cascade:beta=0.3, --policy strided:stride=8");
}

int cmd_policies(int argc, char **argv)
{
    struct policies_args a = {0};
    struct opt_memory mem = {0};
    const struct opt_group groups[] = {{"Options", table, &a}, {0}};
    const struct opt_command cmd = {
        "scoutkv policies", "[--json]",
        "Lists the policies that --policy and --prefill know, with their options and where they come from.",
        "  scoutkv policies\n  scoutkv policies --json", groups};
    int rc = options_start(&cmd, argc, argv, &mem);
    if (rc >= 0)
        return rc;
    rc = 0;
    if (a.json)
        rc = print_json();
    else
        print_text();
    options_free(&mem);
    return rc;
}
