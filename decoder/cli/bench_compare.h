/* bench_compare.h: figures of two runs of the same benches, and which of them differ beyond the noise. Pure.
 */
#ifndef CLI_BENCH_COMPARE_H
#define CLI_BENCH_COMPARE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

enum { COMPARE_PATH = 256 };

/* A number NAME beside NAME_spread, [lowest, highest] of the run's rounds, which both runs have. */
struct compared {
    char path[COMPARE_PATH]; /* "step.rows[default 65536].dense_over_step" */
    bool ratio;              /* of figures of one run; others follow what else the machine does */
    double a, b, a_low, a_high, b_low, b_high;
    bool changed; /* the spreads have nothing in common */
};
struct comparison {
    struct compared *at;
    size_t n, room;
    size_t only_one; /* figures that one of both lacks */
};

/* 0 or -ENOMEM; to be freed in either case. */
int compare_runs(const json_t *a, const json_t *b, struct comparison *out);
void comparison_free(struct comparison *);

#endif
