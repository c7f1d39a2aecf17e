/* log.h: lines for the operator, on stderr or where the program says. There is no global logger: whoever logs
 * is handed one, and NULL means silence (the library never logs by itself). */
#ifndef COMMON_LOG_H
#define COMMON_LOG_H

#include <stdbool.h>
#include <stdio.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

struct log {
    FILE *out;
    const char *name; /* of the program or node; kept by the caller */
    enum log_level level;
};

/* "2026-01-31T12:00:00.123Z warn name: sentence". One write per line, so lines of several processes don't
 * mix. Control characters (names come from strangers) are written as '?'. */
void log_write(const struct log *, enum log_level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* "error", "warn", "info", "debug". */
bool log_level_parse(const char *, enum log_level *out);

#endif
