/* bench_fio.h: fio, the yardstick for disks, run as a program beside ours. */
#ifndef CLI_BENCH_FIO_H
#define CLI_BENCH_FIO_H

#include "common/error.h"

#include <stdbool.h>
#include <stdint.h>

struct fio_job {
    const char *file;
    const char *rw; /* "randread", "write" */
    uint64_t block, size;
    uint64_t align; /* offsets are multiples of this; 0: of block */
    uint32_t depth;
    uint32_t sync_every; /* writes between two fdatasyncs; 0: none */
    uint32_t seconds;    /* 0: once over the file */
};

/* Whether fio can be run; its version ("fio-3.33") in out, or "". */
bool fio_version(char *out, uint32_t len);

/* io_uring and O_DIRECT. *gbps: 10^9 bytes a second, as fio says. */
int fio_run(const struct fio_job *, double *gbps, struct skv_error *err);

#endif
