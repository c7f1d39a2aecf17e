/* step_report.h: what `scoutkv bench step` measured, and how it is told: a table, JSON. */
#ifndef CLI_STEP_REPORT_H
#define CLI_STEP_REPORT_H

#include "common/hist.h"
#include "decoder/cli/series.h"
#include "decoder/cli/step_hits.h"
#include "decoder/cli/step_keys.h"

enum step_part {
    STEP_WHOLE,
    STEP_SCOUT,
    STEP_WAIT,
    STEP_ATTENTION,
    STEP_MERGE,
    STEP_REST,
    STEP_UNSCOUTED, /* the whole without the scout */
    STEP_PARTS
};

/* What is different from the default. */
enum step_way { STEP_DEFAULT, STEP_IN_SERIES, STEP_NO_CACHE, STEP_ONE_STAGE };

struct step_row {
    enum step_way way;
    unsigned length;                /* index into the contexts */
    double hits;                    /* that are made; below 0: the trace's, step by step */
    struct series part[STEP_PARTS]; /* ms of one layer: each round's median */
    struct hist fetch;              /* in series: ns from asking for a layer's pages to having them all */
    uint64_t layers;                /* that were measured; sums over them: */
    uint64_t wanted, held, fetched, scout_bytes; /* pages, pages, bytes, bytes */
    double error; /* of the output beside dense, relative; NAN: not looked at */
};

enum { STEP_ROWS = 24 };
struct step_report {
    const struct model_shape *shape;
    uint64_t tokens[STEP_LENGTHS];
    unsigned n_lengths;
    uint32_t real_layers, budget, window, rounds, steps, nodes, threads;
    uint64_t cache; /* of the whole model */
    double fill_s;
    const struct step_hits *trace; /* or NULL */
    struct step_row rows[STEP_ROWS];
    size_t n;
    struct series dense[STEP_LENGTHS]; /* ms of one layer */
    struct series read_gbps;
};

struct step_row *step_report_add(struct step_report *, enum step_way, unsigned length, double hits);
/* Of the longest context, of this way and hits; NULL: not measured. */
const struct step_row *step_report_row(const struct step_report *, enum step_way, double hits);
/* The share of hits that is told for a default configuration: the trace's, as a row's `hits`, else 0. */
double step_report_hits(const struct step_report *);
/* K and V of one layer at a context's length: what dense reads for it. */
double step_report_dense_bytes(const struct step_report *, unsigned length);

void step_report_print(const struct step_report *);
int step_report_json(const struct step_report *, struct skv_error *);

#endif
