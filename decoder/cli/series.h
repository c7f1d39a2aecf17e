/* series.h: figures of several rounds, and their middle: machines are shared, so a bench tells the median of
 * rounds beside the lowest and the highest. */
#ifndef CLI_SERIES_H
#define CLI_SERIES_H

#include <jansson.h>
#include <stdint.h>

enum { SERIES_MAX = 99 };

struct series { /* all zero is empty */
    double at[SERIES_MAX];
    uint32_t n;
};
struct middle {
    double median, low, high;
};

void series_note(struct series *, double);
struct middle series_middle(const struct series *); /* all NAN if there is nothing */
/* Of a / b round by round: what slows a minute slows both. */
struct middle series_ratio(const struct series *a, const struct series *b);

/* A JSON number, null if it is NAN. */
json_t *series_number(double);
/* Sets NAME to the median and NAME_spread to [lowest, highest]. */
void series_set(json_t *object, const char *name, struct middle);

#endif
