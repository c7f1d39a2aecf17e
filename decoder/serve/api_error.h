/* api_error.h: why a request is not answered, as clients of OpenAI's API read it. */
#ifndef SERVE_API_ERROR_H
#define SERVE_API_ERROR_H

#include "common/error.h"

struct api_error {
    int status;       /* of HTTP */
    const char *type; /* "invalid_request_error" …, */
    const char *code; /* "model_not_found" …, or NULL; both live as long as the program */
    char param[48];   /* the parameter that is wrong; empty: none */
    char message[600];
};

/* Fills *e (param may be NULL) and returns -EINVAL. */
int api_error(struct api_error *e, int status, const char *code, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
/* The status that belongs to an -errno of ours, and its sentence. */
void api_error_of(struct api_error *e, const struct skv_error *err);

#endif
