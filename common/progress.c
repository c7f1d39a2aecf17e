#include "common/progress.h"
#include "common/clock.h"
#include "common/size.h"

#include <stdio.h>
#include <unistd.h>

static double now(void)
{
    return 1e-9 * (double)clock_ns();
}

void progress_begin(struct progress *p, const char *label, const char *unit, uint64_t total)
{
    double t = now();
    *p = (struct progress){
        .label = label, .unit = unit, .total = total, .start = t, .mark = t, .on = isatty(2)};
}

double progress_seconds(const struct progress *p)
{
    return now() - p->start;
}

void progress_line(const struct progress *p, char *buf, unsigned len)
{
    enum { CELLS = 24 };
    char bar[CELLS + 1], rate[32], left[32] = "?";
    double share = p->total ? (double)p->done / (double)p->total : 1;
    for (int i = 0; i < CELLS; i++)
        bar[i] = i < (int)(share * CELLS) ? '#' : '.';
    bar[CELLS] = 0;
    count_format(rate, sizeof rate, (uint64_t)p->rate);
    if (p->rate > 0 && p->done <= p->total)
        duration_format(left, sizeof left, (double)(p->total - p->done) / p->rate);
    snprintf(buf, len, "%s [%s] %3.0f%%  %s %s/s  %s left", p->label, bar, 100 * share, rate, p->unit, left);
}

/* A rate over at least half a second, blended with the ones before it. */
static void measure(struct progress *p, double t)
{
    double span = t - p->mark;
    if (span < 0.5 || p->done <= p->mark_done)
        return;
    double rate = (double)(p->done - p->mark_done) / span;
    p->rate = p->rate > 0 ? 0.7 * p->rate + 0.3 * rate : rate;
    p->mark = t;
    p->mark_done = p->done;
}

void progress_update(struct progress *p, uint64_t done)
{
    p->done = done;
    if (!p->on)
        return;
    double t = now();
    measure(p, t);
    if (t - p->drawn < 0.2)
        return;
    p->drawn = t;
    char line[160];
    progress_line(p, line, sizeof line);
    fprintf(stderr, "\r\033[K%s", line);
    fflush(stderr);
}

void progress_end(struct progress *p)
{
    if (p->on && p->drawn > 0) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
    }
    p->on = false;
}
