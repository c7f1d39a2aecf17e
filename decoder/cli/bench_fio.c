/* bench_fio.c: see bench_fio.h. */
#include "decoder/cli/bench_fio.h"
#include "decoder/cli/command.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OUTPUT_BYTES = 1 << 20 };

bool fio_version(char *out, uint32_t len)
{
    struct command c = {.n = 0};
    command_add(&c, "fio");
    command_add(&c, "--version");
    int rc = command_run(&c, out, len);
    command_free(&c);
    out[strcspn(out, "\n")] = 0;
    if (rc)
        out[0] = 0;
    return rc == 0;
}

/* Of the one job: what it read or wrote. Notes may stand before the object. */
static int parse(const char *out, const char *side, double *gbps)
{
    const char *begin = strchr(out, '{');
    json_t *root = begin ? json_loads(begin, JSON_DISABLE_EOF_CHECK, NULL) : NULL;
    json_t *job = json_array_get(json_object_get(root, "jobs"), 0);
    json_t *bytes = json_object_get(json_object_get(job, side), "bw_bytes");
    int rc = json_is_number(bytes) && json_integer_value(json_object_get(job, "error")) == 0 ? 0 : -EIO;
    if (!rc)
        *gbps = json_number_value(bytes) / 1e9;
    json_decref(root);
    return rc;
}

int fio_run(const struct fio_job *j, double *gbps, struct skv_error *err)
{
    struct command c = {.n = 0};
    char *out = malloc(OUTPUT_BYTES);
    if (!out)
        return skv_fail(err, -ENOMEM, "out of memory");
    command_add(&c, "fio");
    command_add(&c, "--name=peer");
    command_add(&c, "--filename=%s", j->file);
    command_add(&c, "--rw=%s", j->rw);
    command_add(&c, "--bs=%" PRIu64, j->block);
    command_add(&c, "--size=%" PRIu64, j->size);
    command_add(&c, "--iodepth=%" PRIu32, j->depth);
    command_add(&c, "--ioengine=io_uring");
    command_add(&c, "--direct=1");
    command_add(&c, "--randrepeat=0"); /* other places in every round, as ours */
    command_add(&c, "--output-format=json");
    if (j->align)
        command_add(&c, "--blockalign=%" PRIu64, j->align);
    if (j->sync_every)
        command_add(&c, "--fdatasync=%" PRIu32, j->sync_every);
    if (j->seconds) {
        command_add(&c, "--time_based");
        command_add(&c, "--runtime=%" PRIu32, j->seconds);
    }
    int rc = command_run(&c, out, OUTPUT_BYTES);
    if (rc < 0)
        skv_fail(err, rc, "cannot run fio: %s", strerror(-rc));
    else if (rc > 0 || parse(out, strstr(j->rw, "read") ? "read" : "write", gbps))
        rc = skv_fail(err, -EIO, "fio --rw=%s failed (exit code %d)", j->rw, rc);
    command_free(&c);
    free(out);
    return rc;
}
