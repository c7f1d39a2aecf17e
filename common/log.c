/* log.c: see log.h. */
#include "common/log.h"

#include <stdarg.h>
#include <string.h>
#include <time.h>

static const char *const names[] = {"error", "warn", "info", "debug"};

void log_write(const struct log *log, enum log_level level, const char *fmt, ...)
{
    if (!log || level > log->level)
        return;
    char line[1024];
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    size_t n = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &tm);
    n += (size_t)snprintf(line + n, sizeof line - n, ".%03dZ %s %.100s: ", (int)(now.tv_nsec / 1000000),
                          names[level], log->name);
    va_list ap;
    va_start(ap, fmt);
    int m = vsnprintf(line + n, sizeof line - n - 1, fmt, ap); /* one byte less: the newline */
    va_end(ap);
    if (m > 0)
        n = n + (size_t)m < sizeof line - 1 ? n + (size_t)m : sizeof line - 2;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = '?';
    line[n++] = '\n';
    fwrite(line, 1, n, log->out);
    fflush(log->out);
}

bool log_level_parse(const char *s, enum log_level *out)
{
    for (int i = 0; i < (int)(sizeof names / sizeof names[0]); i++)
        if (strcmp(s, names[i]) == 0) {
            *out = (enum log_level)i;
            return true;
        }
    return false;
}
