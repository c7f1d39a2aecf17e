/* meter.h: what decode steps cost, from the counters of scoutkv.h and the clock around each step.
 *
 * "rest" is the time of a step that the context didn't spend: the model's matrices. */
#ifndef CLI_METER_H
#define CLI_METER_H

#include "common/hist.h"
#include "decoder/scoutkv.h"

#include <jansson.h>
#include <stdio.h>

enum meter_part {
    METER_STEP,
    METER_SCOUT,
    METER_WAIT,
    METER_ATTEND,
    METER_REST,
    METER_UNSCOUTED, /* the step without the scout: wait, attention and rest together */
    METER_PARTS
};

struct meter {
    struct hist part[METER_PARTS]; /* nanoseconds of each step */
    uint64_t fetched_bytes, scout_bytes, wanted, held, refreshes;
    double missed, missed_n;
    struct skv_stats before;
    uint64_t started;
};

void meter_clear(struct meter *);
void meter_begin(struct meter *, const skv_context *);
void meter_end(struct meter *, const skv_context *);

uint64_t meter_steps(const struct meter *);
double meter_bytes_per_step(const struct meter *);
double meter_scout_bytes_per_step(const struct meter *); /* representatives that the scout read */
double meter_mean_ms(const struct meter *, enum meter_part);
double meter_ms(const struct meter *, enum meter_part, double quantile);
/* Of one step: what a failure cost shows here, not in the quantiles. */
double meter_longest_ms(const struct meter *, enum meter_part);
double meter_hit_share(
    const struct meter *); /* of selected pages, those that were held; 1 if none were selected */
double meter_missed_mass(const struct meter *); /* mean estimate; 0 if none was made */

/* Lines for people: time of a step and its parts, bytes, hits, missed mass. */
void meter_print(const struct meter *, FILE *);
/* The same as an object: {"steps", "ms": {"step": {"mean", "p50", "p99", "max"}, "scout": {…}, …}, …}. NULL
 * when out of memory. */
json_t *meter_json(const struct meter *);

#endif
