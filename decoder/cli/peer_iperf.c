/* peer_iperf.c: see peer_iperf.h. */
#include "decoder/cli/peer_iperf.h"
#include "common/clock.h"
#include "decoder/cli/child.h"
#include "decoder/cli/command.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OUTPUT_BYTES = 1 << 20, START_MS = 5000 };
static const char PROGRAM[] = "iperf3";

int iperf_open(struct iperf *p, const char **missing, struct skv_error *err)
{
    *p = (struct iperf){0};
    *missing = child_found(PROGRAM) ? NULL : PROGRAM;
    if (*missing)
        return 0;
    char port[16];
    if ((p->port = loopback_port(err)) < 0)
        return p->port;
    snprintf(port, sizeof port, "%d", p->port);
    char *argv[] = {(char *)PROGRAM, "-s", "-B", "127.0.0.1", "-p", port, NULL};
    p->pid = child_start(argv, -1, err);
    return p->pid < 0 ? (int)p->pid : 0;
}

void iperf_close(struct iperf *p)
{
    if (p->pid > 0)
        child_end(p->pid, SIGKILL);
    *p = (struct iperf){0};
}

static int parse(const char *out, double *gbps)
{
    json_t *root = json_loads(out, JSON_DISABLE_EOF_CHECK, NULL);
    json_t *bits =
        json_object_get(json_object_get(json_object_get(root, "end"), "sum_received"), "bits_per_second");
    int rc = json_is_number(bits) && json_number_value(bits) > 0 ? 0 : -EIO;
    if (!rc)
        *gbps = json_number_value(bits) / 8e9;
    json_decref(root);
    return rc;
}

int iperf_run(const struct iperf *p, uint64_t bytes, double seconds, double *gbps, struct skv_error *err)
{
    struct command c = {.n = 0};
    char *out = malloc(OUTPUT_BYTES);
    int rc;
    if (!out)
        return skv_fail(err, -ENOMEM, "out of memory");
    command_add(&c, "%s", PROGRAM);
    command_add(&c, "-c");
    command_add(&c, "127.0.0.1");
    command_add(&c, "-p");
    command_add(&c, "%d", p->port);
    command_add(&c, "-t");
    command_add(&c, "%.0f", ceil(seconds));
    command_add(&c, "-l");
    command_add(&c, "%" PRIu64, bytes);
    command_add(&c, "-J");
    uint64_t until = clock_ns() + START_MS * NS_PER_MS; /* its server may not listen yet */
    while ((rc = command_run(&c, out, OUTPUT_BYTES)) > 0 && clock_ns() < until)
        nanosleep(&(struct timespec){.tv_nsec = 50 * (long)NS_PER_MS}, NULL);
    if (rc || parse(out, gbps))
        rc = skv_fail(err, -EIO, "iperf3 failed (exit code %d)", rc);
    command_free(&c);
    free(out);
    return rc;
}
