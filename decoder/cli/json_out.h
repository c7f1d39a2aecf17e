/* json_out.h: what --json prints. */
#ifndef CLI_JSON_OUT_H
#define CLI_JSON_OUT_H

#include "common/error.h"

#include <jansson.h>

/* Prints the object to standard output, six digits a number, flushes, and frees it. NULL: there was no memory
 * for it. 0, or -EIO with its sentence. */
int json_out(json_t *, struct skv_error *);

#endif
