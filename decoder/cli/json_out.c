/* json_out.c: see json_out.h. */
#include "decoder/cli/json_out.h"

#include <errno.h>
#include <stdio.h>

int json_out(json_t *o, struct skv_error *err)
{
    int bad = !o || json_dumpf(o, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) || putchar('\n') == EOF ||
              fflush(stdout);
    json_decref(o);
    return bad ? skv_fail(err, -EIO, "cannot write the JSON output") : 0;
}
