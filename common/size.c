#include "common/size.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static int unit_shift(const char *unit)
{
    static const char letters[] = "KMGT";
    if (!*unit || !strcasecmp(unit, "B"))
        return 0;
    const char *at = strchr(letters, toupper((unsigned char)*unit));
    if (!at || !*at)
        return -1;
    unit++;
    if (*unit && strcasecmp(unit, "B") && strcasecmp(unit, "iB"))
        return -1;
    return 10 * (int)(at - letters + 1);
}

int size_parse(const char *text, uint64_t *out)
{
    if (!isdigit((unsigned char)*text))
        return -EINVAL; /* strtold would take signs, blanks, "inf" and "nan" too */
    if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X'))
        return -EINVAL;
    char *end;
    long double value = strtold(text, &end);
    while (*end == ' ')
        end++;
    int shift = unit_shift(end);
    if (shift < 0)
        return -EINVAL;
    value = ldexpl(value, shift);
    if (!(value < 18446744073709551616.0L))
        return -ERANGE;
    *out = (uint64_t)value;
    return 0;
}

char *size_format(char *buf, size_t len, uint64_t bytes)
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    size_t u = 0;
    for (; value >= 1024 && u < 4; u++)
        value /= 1024;
    snprintf(buf, len, u == 0 ? "%.0f %s" : value < 100 ? "%.1f %s" : "%.0f %s", value, unit[u]);
    return buf;
}

char *duration_format(char *buf, size_t len, double seconds)
{
    uint64_t s = seconds > 0 ? (uint64_t)(seconds + 0.5) : 0;
    if (s < 60)
        snprintf(buf, len, "%us", (unsigned)s);
    else if (s < 3600)
        snprintf(buf, len, "%um%02us", (unsigned)(s / 60), (unsigned)(s % 60));
    else
        snprintf(buf, len, "%lluh%02um", (unsigned long long)(s / 3600), (unsigned)(s / 60 % 60));
    return buf;
}

char *count_format(char *buf, size_t len, uint64_t n)
{
    char digits[24];
    int total = snprintf(digits, sizeof digits, "%llu", (unsigned long long)n);
    size_t at = 0;
    for (int i = 0; i < total && at + 2 < len; i++) {
        if (i && (total - i) % 3 == 0)
            buf[at++] = ',';
        buf[at++] = digits[i];
    }
    if (len)
        buf[at] = 0;
    return buf;
}

int duration_parse(const char *text, uint64_t *ms)
{
    static const struct {
        char unit;
        double seconds;
    } units[] = {{0, 1}, {'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}, {'w', 7 * 86400}};
    char *end;
    double value = strtod(text, &end);
    if (end == text || (size_t)(end - text) != strspn(text, "0123456789."))
        return -EINVAL; /* strtod takes signs, spaces, exponents and names too */
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (*end == units[i].unit && (!*end || !end[1])) {
            value *= units[i].seconds * 1000;
            if (!(value < 1e18))
                return -ERANGE;
            *ms = (uint64_t)value;
            return 0;
        }
    return -EINVAL;
}
