#include "decoder/serve/api_error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

static const char *type_of(int status)
{
    return status == 429 ? "rate_limit_error" : status >= 500 ? "server_error" : "invalid_request_error";
}

int api_error(struct api_error *e, int status, const char *code, const char *param, const char *fmt, ...)
{
    va_list ap;
    *e = (struct api_error){.status = status, .type = type_of(status), .code = code};
    snprintf(e->param, sizeof e->param, "%s", param ? param : "");
    va_start(ap, fmt);
    vsnprintf(e->message, sizeof e->message, fmt, ap);
    va_end(ap);
    return -EINVAL;
}

/* What may be there again when the client asks again is 503. */
void api_error_of(struct api_error *e, const struct skv_error *err)
{
    switch (err->code) {
    case -EHOSTUNREACH:
        api_error(e, 503, "memory_node_unreachable", NULL, "%s", err->text);
        return;
    case -ENODATA:
    case -EBADMSG:
        api_error(e, 503, "context_lost", NULL, "%s", err->text);
        return;
    case -ENOSPC:
    case -ENOMEM:
        api_error(e, 503, "out_of_room", NULL, "%s", err->text);
        return;
    default:
        api_error(e, 500, NULL, NULL, "%s", err->text);
    }
}
