/* fetch_report.h: what `scoutkv bench fetch` measured, and how it is told: a table, JSON, CSV, a plot. */
#ifndef CLI_FETCH_REPORT_H
#define CLI_FETCH_REPORT_H

#include "decoder/cli/fetch_load.h"
#include "decoder/cli/peer.h"
#include "decoder/cli/series.h"

/* Of one size; figures of rounds, times of all rounds together. */
struct fetch_row {
    uint64_t size;                                 /* of a block */
    uint64_t request_bytes;                        /* of a request none of whose blocks is missing */
    struct series gbps, rps, client_cpu, node_cpu; /* cpu: seconds per 10^9 bytes */
    struct series tcp_gbps, tcp_client_cpu, tcp_server_cpu;
    uint64_t requests, found, missed, unfinished; /* found, missed: pages */
    uint64_t get_pages, disk_pages; /* that the nodes gave out; that they read from disks for it */
    struct hist latency, late, tcp_latency;
};

struct fetch_report {
    unsigned nodes, lanes;
    struct fetch_load_opts load; /* of each round */
    uint32_t rounds;
    bool checked, disk;
    uint64_t set;
    struct fetch_row *rows;
    size_t n;
};

void fetch_report_print(const struct fetch_report *);
int fetch_report_json(const struct fetch_report *, struct skv_error *);
int fetch_report_csv(const struct fetch_report *, struct skv_error *);
int fetch_report_plot(const struct fetch_report *, const char *path, struct skv_error *);

#endif
