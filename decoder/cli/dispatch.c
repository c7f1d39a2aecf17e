/* dispatch.c: from a word of the command line to the function behind it. */
#include "decoder/cli/cli.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

static void show_list(const struct cli_command *commands, const char *path, const char *head,
                      const char *tail, FILE *out)
{
    fprintf(out, "%s\n\nCommands:\n", head);
    for (const struct cli_command *c = commands; c->name; c++)
        fprintf(out, "  %-12s %s\n", c->name, c->about);
    fprintf(out, "\n%s COMMAND --help teaches a command.%s%s\n", path, *tail ? "\n" : "", tail);
}

int cli_dispatch(const struct cli_command *commands, const char *path, const char *head, const char *tail,
                 int argc, char **argv)
{
    enum { MOST = 32 };
    const char *names[MOST];
    size_t n = 0;
    const char *word = argc > 1 ? argv[1] : NULL;
    if (!word) {
        show_list(commands, path, head, tail, stderr);
        return 2;
    }
    if (!strcmp(word, "--help") || !strcmp(word, "-h") || !strcmp(word, "help")) {
        show_list(commands, path, head, tail, stdout);
        return 0;
    }
    if (!strcmp(word, "--version")) {
        puts("scoutkv " SKV_VERSION);
        return 0;
    }
    for (const struct cli_command *c = commands; c->name; c++) {
        if (!strcmp(word, c->name))
            return c->main(argc - 1, argv + 1);
        assert(n < MOST);
        names[n++] = c->name;
    }
    const char *near = nearest_name(word, names, n);
    fprintf(stderr, "%s: unknown command '%s'%s%s%s (see %s --help)\n", path, word,
            near ? ": did you mean " : "", near ? near : "", near ? "?" : "", path);
    return 2;
}

int cli_fail(const char *command, const struct skv_error *err)
{
    fprintf(stderr, "%s: %s\n", command, err->text);
    return skv_exit_code(err->code);
}
