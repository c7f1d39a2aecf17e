/* scoutkv load, check and stats against memory nodes in threads of this process: exit codes, the log, the
 * verdicts. */
#include "common/zmqx.h"
#include "decoder/cli/cli.h"
#include "decoder/cli/load_blocks.h"
#include "decoder/tier/tier.h"
#include "memnode/server.h"

#include <fcntl.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

struct world {
    void *zmq;
    struct server *server[2];
    char nodes[2 * ZMQX_ENDPOINT], log[64];
    char out[1 << 16]; /* what the last command printed to stdout */
};

static int start(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    struct skv_error err;
    w->zmq = zmqx_ctx_new(1, NULL);
    for (int i = 0; i < 2; i++) {
        struct node_opts opts = {.id = i ? "two" : "one", .ram = 64 << 20};
        w->server[i] = server_start(w->zmq, "tcp://127.0.0.1:0", &opts, &err);
        assert_non_null(w->server[i]);
        snprintf(w->nodes + strlen(w->nodes), ZMQX_ENDPOINT, "%s%s", i ? "," : "",
                 server_endpoint(w->server[i]) + strlen("tcp://"));
    }
    strcpy(w->log, "/tmp/test_tier_commands.XXXXXX");
    close(mkstemp(w->log));
    *state = w;
    return 0;
}

static int stop(void **state)
{
    struct world *w = *state;
    for (int i = 0; i < 2; i++)
        server_stop(w->server[i]);
    zmqx_ctx_free(w->zmq);
    unlink(w->log);
    free(w);
    return 0;
}

typedef int command_fn(int, char **);

/* Runs a command with its stdout in w->out and its stderr thrown away. */
static int run(struct world *w, command_fn *command, int argc, ...)
{
    char *argv[24];
    va_list ap;
    va_start(ap, argc);
    for (int i = 0; i < argc; i++)
        argv[i] = va_arg(ap, char *);
    va_end(ap);
    argv[argc] = NULL;
    FILE *capture = tmpfile();
    fflush(stdout);
    fflush(stderr);
    int out = dup(1), err = dup(2), null = open("/dev/null", O_WRONLY);
    dup2(fileno(capture), 1);
    dup2(null, 2);
    int rc = command(argc, argv);
    fflush(stdout);
    fflush(stderr);
    dup2(out, 1);
    dup2(err, 2);
    close(out);
    close(err);
    close(null);
    rewind(capture);
    w->out[fread(w->out, 1, sizeof w->out - 1, capture)] = 0;
    fclose(capture);
    return rc;
}

static void expect(struct world *w, int present, int missing, int wrong)
{
    char want[100];
    int rc = run(w, cmd_check, 6, "check", "--nodes", w->nodes, "--log", w->log, "--json");
    snprintf(want, sizeof want, "{\"present\":%d,\"missing\":%d,\"wrong\":%d}\n", present, missing, wrong);
    assert_string_equal(w->out, want);
    assert_int_equal(rc, missing || wrong ? 3 : 0);
}

static void loaded_blocks_are_checked(void **state)
{
    struct world *w = *state;
    struct skv_error err;
    assert_int_equal(run(w, cmd_load, 13, "load", "--nodes", w->nodes, "--log", w->log, "--seed", "7",
                         "--count", "40", "--size", "64K", "--ack", "ram"),
                     0);
    expect(w, 40, 0, 0);
    /* One dropped, one replaced by other bytes under its key. */
    struct tier_opts o = {.nodes = w->nodes};
    struct tier *t;
    struct block_layout layout;
    struct block_key key;
    struct buf *payload;
    uint64_t sums[64];
    assert_int_equal(load_layout(64 << 10, &layout, &err), 0);
    assert_true(layout_pages(&layout) <= 64);
    assert_int_equal(tier_open(&o, &t, &err), 0);
    for (uint64_t i = 3; i <= 4; i++) {
        assert_int_equal(load_block(&layout, 0, 7, i, &key, &payload, sums), 0);
        assert_int_equal(tier_drop(t, &key, 1, &err), 0);
        if (i == 4) {
            payload->data[100] ^= 1;
            block_checksums(&key, &layout, payload->data, sums);
            assert_int_equal(tier_put(t, &key, &layout, payload, sums, TIER_ACK_RAM, NULL, NULL, &err), 0);
            assert_int_equal(tier_flush(t, &err), 0);
        }
        buf_unref(payload);
    }
    tier_close(t);
    expect(w, 38, 1, 1);
    /* Loading again finds the other bytes and says so; the log then promises only the rest. */
    assert_int_equal(run(w, cmd_load, 11, "load", "--nodes", w->nodes, "--log", w->log, "--seed", "7",
                         "--count", "5", "--size", "64K"),
                     3);
    expect(w, 4, 0, 0);
}

static void logs_that_are_cut_or_foreign(void **state)
{
    struct world *w = *state;
    assert_int_equal(run(w, cmd_load, 11, "load", "--nodes", w->nodes, "--log", w->log, "--count", "3",
                         "--size", "256", "--seed", "1"),
                     0);
    FILE *f = fopen(w->log, "a");
    fputs("block 77 seed 1 si", f); /* killed while writing */
    fclose(f);
    expect(w, 3, 0, 0);
    f = fopen(w->log, "a");
    fputs("\n", f);
    fclose(f);
    assert_int_equal(run(w, cmd_check, 5, "check", "--nodes", w->nodes, "--log", w->log), 1);
    f = fopen(w->log, "w");
    fputs("block 99 seed 1 size 256 ack ram\n", f); /* never written */
    fclose(f);
    expect(w, 0, 1, 0);
    assert_int_equal(run(w, cmd_check, 5, "check", "--nodes", w->nodes, "--log", "/nonexistent/log"), 1);
}

static void every_size_makes_blocks(void **state)
{
    (void)state;
    struct block_layout l;
    for (uint64_t size = 256; size <= 4 << 20; size *= 2) {
        assert_int_equal(load_layout(size, &l, NULL), 0);
        assert_true(layout_valid(&l) && layout_block_bytes(&l) == size);
    }
    assert_int_equal(load_layout(768 * 1000, &l, NULL), 0);
    assert_int_equal(layout_block_bytes(&l), 768 * 1000);
    assert_true(load_layout(0, &l, NULL) && load_layout(100, &l, NULL) && load_layout(256 * 1031, &l, NULL));
}

static void exit_codes(void **state)
{
    struct world *w = *state;
    assert_int_equal(run(w, cmd_load, 3, "load", "--nodes", w->nodes), 2);
    assert_int_equal(run(w, cmd_load, 7, "load", "--nodes", w->nodes, "--log", w->log, "--size", "1000"), 2);
    assert_int_equal(run(w, cmd_stats, 2, "stats", "--help"), 0);
    assert_non_null(strstr(w->out, "--nodes"));
    assert_int_equal(run(w, cmd_check, 2, "check", "--help"), 0);
    assert_int_equal(run(w, cmd_load, 2, "load", "--help"), 0);
    assert_int_equal(run(w, cmd_stats, 5, "stats", "--nodes", "127.0.0.1:1", "--timeout-ms", "200"), 4);
    /* Nodes without a disk refuse what must be durable. */
    assert_int_equal(
        run(w, cmd_load, 9, "load", "--nodes", w->nodes, "--log", w->log, "--count", "2", "--ack", "durable"),
        1);
    expect(w, 0, 0, 0);
}

static void stats_for_people_and_programs(void **state)
{
    struct world *w = *state;
    assert_int_equal(
        run(w, cmd_load, 9, "load", "--nodes", w->nodes, "--log", w->log, "--count", "50", "--size", "4K"),
        0);
    assert_int_equal(run(w, cmd_stats, 4, "stats", "--nodes", w->nodes, "--json"), 0);
    json_t *root = json_loads(w->out, 0, NULL), *nodes = json_object_get(root, "nodes");
    json_int_t blocks = json_integer_value(json_object_get(json_object_get(nodes, "one"), "blocks")) +
                        json_integer_value(json_object_get(json_object_get(nodes, "two"), "blocks"));
    assert_int_equal(blocks, 50);
    const char *trouble = json_string_value(json_object_get(json_object_get(nodes, "one"), "trouble"));
    assert_true(trouble && !*trouble);
    json_decref(root);
    assert_int_equal(run(w, cmd_stats, 3, "stats", "--nodes", w->nodes), 0);
    assert_non_null(strstr(w->out, "puts_stored"));
    assert_non_null(strstr(w->out, "total"));
    assert_null(strstr(w->out, "trouble"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(loaded_blocks_are_checked, start, stop),
        cmocka_unit_test_setup_teardown(logs_that_are_cut_or_foreign, start, stop),
        cmocka_unit_test(every_size_makes_blocks),
        cmocka_unit_test_setup_teardown(exit_codes, start, stop),
        cmocka_unit_test_setup_teardown(stats_for_people_and_programs, start, stop),
    };
    return cmocka_run_group_tests_name("tier_commands", tests, NULL, NULL);
}
