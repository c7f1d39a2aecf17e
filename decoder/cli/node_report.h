/* node_report.h: what memory nodes that failed or dawdled cost a run. */
#ifndef CLI_NODE_REPORT_H
#define CLI_NODE_REPORT_H

#include "decoder/scoutkv.h"

#include <jansson.h>
#include <stdio.h>

/* A line for people, if there is anything to tell. */
void node_report_print(const skv_tier *, FILE *);
/* All counters, as in struct skv_tier_stats. NULL when out of memory. */
json_t *node_report_json(const skv_tier *);

#endif
