/* kernel_jobs.h: what `scoutkv bench kernels` times: each kernel over more bytes than caches hold, with how
 * many bytes and operations a pass is. */
#ifndef CLI_KERNEL_JOBS_H
#define CLI_KERNEL_JOBS_H

#include "common/error.h"
#include "common/pool.h"

#include <stddef.h>
#include <stdint.h>

struct kernel_job {
    const char *name, *about;
    int (*make)(struct kernel_job *, size_t bytes); /* about so many; 0 or -ENOMEM */
    void (*pass)(struct kernel_job *, struct pool *);
    void (*free)(struct kernel_job *);
    uint32_t g;    /* query rows of a group */
    uint32_t type; /* of weights, enum ggml_type; of representatives, enum reps_kind; of pages, enum
                    * skv_dtype, f16 if not given */
    /* Set by make: */
    double bytes; /* that a pass reads */
    double flops; /* f32 multiplications and additions of a pass; 0: integers, which have another peak */
    void *self;
};

/* A copy of the table, ended by a job without a name. */
enum { KERNEL_JOBS = 32 };
void kernel_jobs(struct kernel_job out[KERNEL_JOBS]);

#endif
