/* trace_report.h: what `scoutkv bench trace` measured, as a table for people or JSON for programs. */
#ifndef CLI_TRACE_REPORT_H
#define CLI_TRACE_REPORT_H

#include "decoder/cli/trace_bound.h"
#include "decoder/cli/trace_replay.h"

#include <stdbool.h>

struct trace_report {
    const char *trace;
    uint32_t bytes_per_token;
    double speed;                    /* 0: as fast as it goes */
    unsigned nodes;                  /* memory nodes */
    const struct trace_bound *whole; /* of all requests that were to be replayed */
    const struct trace_bound *bound; /* of those that were */
    const struct replay_counts *did;
    uint64_t older_blocks; /* hits that no request of this run had stored */
    double seconds;
    const struct hist *late; /* ns by which requests began after their time; with a speed */
    bool has_evicted;        /* false: the nodes did not say */
    uint64_t evicted_ram, evicted_disk;
};

void trace_report_print(const struct trace_report *);
int trace_report_json(const struct trace_report *, struct skv_error *);

#endif
