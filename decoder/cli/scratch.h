/* scratch.h: a folder for the time of a command. */
#ifndef CLI_SCRATCH_H
#define CLI_SCRATCH_H

#include "common/error.h"

#include <limits.h>

/* Makes PARENT/scoutkv-bench-XXXXXX. */
int scratch_make(const char *parent, char out[PATH_MAX], struct skv_error *);
/* Removes it with all that is in it; says on stderr if it can't. An empty name is no folder. */
void scratch_remove(const char *dir);

#endif
