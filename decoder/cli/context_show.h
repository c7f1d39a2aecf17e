/* context_show.h: saved contexts as tables for people and JSON for programs. */
#ifndef CLI_CONTEXT_SHOW_H
#define CLI_CONTEXT_SHOW_H

#include "decoder/scoutkv.h"

int context_list(skv_tier *, bool json, struct skv_error *);
/* -ENODATA, after it was shown, when blocks are gone. */
int context_show(skv_tier *, const char *name, bool json, struct skv_error *);

#endif
