/* command.h: other programs that are run to their end for what they print. */
#ifndef CLI_COMMAND_H
#define CLI_COMMAND_H

#include <stddef.h>

enum { COMMAND_ARGS = 24 };

struct command { /* all zero is empty */
    char *argv[COMMAND_ARGS + 1];
    unsigned n;
};
void command_add(struct command *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void command_free(struct command *);

/* What the program writes to its stdout, and its exit status; -errno if it could not be run. Its stderr is
 * ours, for it says there what is wrong. */
int command_run(struct command *, char *out, size_t cap);

#endif
