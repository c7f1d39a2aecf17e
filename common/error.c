/* error.c: see error.h. */
#include "common/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

__attribute__((visibility("default"))) int skv_fail(struct skv_error *err, int code, const char *fmt, ...)
{
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        err->code = code;
        vsnprintf(err->text, sizeof err->text, fmt, ap);
        va_end(ap);
    }
    return code;
}

__attribute__((visibility("default"))) int skv_exit_code(int code)
{
    switch (code) {
    case -ENODATA:
    case -EBADMSG:
        return 3;
    case -EHOSTUNREACH:
    case -EPROTONOSUPPORT:
        return 4;
    default:
        return code < 0 ? 1 : 0;
    }
}
