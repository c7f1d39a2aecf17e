/* test_tier_restart.c: objects and leases of real memory nodes with a disk, which are killed and started
 * again: what was acknowledged as durable is there, through the same tier and through a new one. */
#include "common/clock.h"
#include "decoder/tier/tier.h"
#include "tests/unit/nodes.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

enum { N_SIDECARS = 24, N_BLOCKS = 8 };

struct process {
    pid_t pid;
    char dir[64], disk[96], listen[64];
};

/* Starts it, at the address that it had before. */
static void start(struct process *p)
{
    int out[2];
    char line[256] = "", *at = NULL;
    assert_int_equal(pipe(out), 0);
    p->pid = fork();
    if (p->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(out[1], 1);
        close(out[0]);
        close(out[1]);
        execl(memnode_path(), "scoutkv-memnode", "--listen", p->listen, "--ram", "32MiB", "--id", "n1",
              "--disk", p->disk, (char *)NULL);
        _exit(127);
    }
    close(out[1]);
    FILE *f = fdopen(out[0], "r");
    while (f && fgets(line, sizeof line, f) && !(at = strstr(line, "tcp://")))
        ;
    if (!at)
        fail_msg("the node did not say where it listens");
    at[strcspn(at, " \n")] = 0;
    snprintf(p->listen, sizeof p->listen, "%.60s", at + 6);
    fclose(f);
}

static void stop(struct process *p, int signal)
{
    kill(p->pid, signal);
    waitpid(p->pid, NULL, 0);
    p->pid = 0;
}

static int setup(void **state)
{
    struct process *p = *state = calloc(1, sizeof *p);
    strcpy(p->dir, "/tmp/scoutkv-restart-XXXXXX");
    if (!mkdtemp(p->dir))
        return -1;
    snprintf(p->disk, sizeof p->disk, "%s/d:128MiB", p->dir);
    strcpy(p->listen, "127.0.0.1:0");
    start(p);
    return 0;
}

static int teardown(void **state)
{
    struct process *p = *state;
    char command[128];
    if (p->pid)
        stop(p, SIGKILL);
    snprintf(command, sizeof command, "rm -r %s", p->dir);
    int rc = system(command);
    free(p);
    return rc;
}

static struct tier *tier_of(const struct process *p)
{
    struct tier_opts o = {.nodes = p->listen, .timeout_ms = 5000};
    struct tier *t;
    struct skv_error err;
    if (tier_open(&o, &t, &err))
        fail_msg("%s", err.text);
    return t;
}

/* The same tier, once it has the node back. */
static void wait_back(struct tier *t)
{
    struct tier_counter *all = NULL;
    struct skv_error err;
    size_t n;
    uint64_t end = clock_ns() + 30 * NS_PER_S;
    while (tier_stats(t, &all, &n, &err)) {
        if (clock_ns() > end)
            fail_msg("the node is not back: %s", err.text);
        tier_pump(t, 50, NULL);
    }
    free(all);
}

static void put(struct tier *t, enum tier_object kind, const char *name, const void *bytes, size_t len,
                uint64_t ttl_ms)
{
    struct skv_error err;
    struct tier_object_opts o = {.durable = true, .ttl_ms = ttl_ms};
    if (tier_object_put(t, kind, name, bytes, len, &o, &err))
        fail_msg("%s", err.text);
}

static void is(struct tier *t, enum tier_object kind, const char *name, const void *bytes, size_t len)
{
    struct skv_error err;
    struct buf *b;
    if (tier_object_get(t, kind, name, &b, NULL, &err))
        fail_msg("%s", err.text);
    assert_int_equal(b->len, len);
    assert_memory_equal(b->data, bytes, len);
    buf_unref(b);
}

static void check_all(struct tier *t, const uint8_t *bytes)
{
    struct skv_error err;
    struct buf *b;
    char name[32];
    is(t, TIER_MANIFEST, "ctx", "third", 5);
    assert_int_equal(tier_object_get(t, TIER_MANIFEST, "dropped", &b, NULL, &err), -ENOENT);
    assert_int_equal(tier_object_get(t, TIER_MANIFEST, "ended", &b, NULL, &err), -ENOENT);
    for (unsigned i = 0; i < N_SIDECARS; i++) { /* together more than half of RAM */
        snprintf(name, sizeof name, "part/%u", i);
        is(t, TIER_SIDECAR, name, bytes + i, TIER_OBJECT_MAX - 1000 * i);
    }
}

static uint64_t counter(struct tier *t, const char *name)
{
    struct tier_counter *all;
    struct skv_error err;
    size_t n;
    uint64_t value = UINT64_MAX;
    assert_int_equal(tier_stats(t, &all, &n, &err), 0);
    for (size_t i = 0; i < n; i++)
        if (strcmp(all[i].name, name) == 0)
            value = all[i].value;
    free(all);
    return value;
}

static void kills_and_restarts(void **state)
{
    struct process *p = *state;
    struct tier *t = tier_of(p);
    struct skv_error err;
    char name[32];
    uint8_t *bytes = malloc(TIER_OBJECT_MAX + N_SIDECARS);
    for (size_t i = 0; i < TIER_OBJECT_MAX + N_SIDECARS; i++)
        bytes[i] = (uint8_t)(i * 7 + (i >> 9));
    const struct block_layout layout = {.dtype = 1, .d_k = 64, .d_v = 64, .n_heads = 2};
    struct block_key keys[N_BLOCKS];
    uint64_t sums[8];
    for (uint32_t i = 0; i < N_BLOCKS; i++) {
        struct buf *b = buf_copy(bytes, layout_block_bytes(&layout));
        keys[i] = (struct block_key){.chain = {1, 2, 3}, .layer = i};
        block_checksums(&keys[i], &layout, b->data, sums);
        assert_int_equal(tier_put(t, &keys[i], &layout, b, sums, TIER_ACK_DURABLE, NULL, NULL, &err), 0);
        buf_unref(b);
    }
    assert_int_equal(tier_flush(t, &err), 0);
    assert_int_equal(tier_pin(t, "ctx", keys, N_BLOCKS, 600000, &err), 0);
    put(t, TIER_MANIFEST, "ctx", "first", 5, 0);
    put(t, TIER_MANIFEST, "dropped", "first", 5, 0);
    put(t, TIER_MANIFEST, "ended", "first", 5, 500);
    for (unsigned i = 0; i < N_SIDECARS; i++) {
        snprintf(name, sizeof name, "part/%u", i);
        put(t, TIER_SIDECAR, name, bytes + i, TIER_OBJECT_MAX - 1000 * i, i % 2 ? 3600000 : 0);
    }
    assert_int_equal(tier_object_drop(t, TIER_MANIFEST, "dropped", &err), 0);
    put(t, TIER_MANIFEST, "ctx", "second", 6, 0);
    put(t, TIER_MANIFEST, "ctx", "third", 5, 0); /* durable, and so is what was done before it */
    uint64_t ended = clock_ns() + 600 * NS_PER_MS;
    for (unsigned i = 0; i < 3; i++) {
        stop(p, i == 2 ? SIGTERM : SIGKILL);
        start(p);
        while (clock_ns() < ended)
            usleep(10000);
        if (i) {
            wait_back(t);
        } else {
            tier_close(t);
            t = tier_of(p);
        }
        check_all(t, bytes);
        assert_int_equal(counter(t, "leases"), N_BLOCKS);
        assert_int_equal(tier_drop(t, keys, 1, &err), -EBUSY);
        assert_int_equal(counter(t, "objects"), N_SIDECARS + 1);
    }
    tier_close(t);
    stop(p, SIGTERM);
    char command[4200];
    snprintf(command, sizeof command, "%s --verify %s/d >/dev/null", memnode_path(), p->dir);
    assert_int_equal(system(command), 0);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(kills_and_restarts, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
