/* progress.h: one line on stderr that shows how far long work is, how fast, and how long it will still take.
 *
 * Nothing is printed when stderr is no terminal, so logs and pipes stay clean. The line is redrawn at most
 * five times a second and wiped at the end. The time left follows the recent rate, since attention makes
 * later work slower than early work. */
#ifndef COMMON_PROGRESS_H
#define COMMON_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    const char *label, *unit; /* "prefill", "tokens"; kept */
    uint64_t total, done;
    double start, drawn; /* seconds of the monotonic clock */
    double mark;         /* when the recent rate was last measured */
    uint64_t mark_done;
    double rate; /* units per second, smoothed; 0: not known yet */
    bool on;
};

void progress_begin(struct progress *, const char *label, const char *unit, uint64_t total);
void progress_update(struct progress *, uint64_t done);
void progress_end(struct progress *);             /* wipes the line */
double progress_seconds(const struct progress *); /* since begin */

/* The line as it would be drawn; for progress.c and its test. */
void progress_line(const struct progress *, char *buf, unsigned len);

#endif
