/* peer_iperf.h: iperf3 as a yardstick: one TCP stream that nobody looks at, no requests. */
#ifndef CLI_PEER_IPERF_H
#define CLI_PEER_IPERF_H

#include "common/error.h"

#include <stdint.h>
#include <sys/types.h>

struct iperf {
    pid_t pid; /* of its server; 0: none */
    int port;
};

/* *missing: as for peers (peer.h). */
int iperf_open(struct iperf *, const char **missing, struct skv_error *);
void iperf_close(struct iperf *);
/* Writes of so many bytes; rounded up to whole seconds. *gbps: 10^9 bytes a second, as received. */
int iperf_run(const struct iperf *, uint64_t bytes, double seconds, double *gbps, struct skv_error *);

#endif
