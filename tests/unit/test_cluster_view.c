/* The text of a cluster view: what is taken, what comes back, and what people read when it is wrong. */
#include "common/cluster_view.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static int parse(const char *text, struct cluster_view *v, struct skv_error *err)
{
    return cluster_view_parse(text, strlen(text), v, err);
}

static void text_is_read(void **state)
{
    (void)state;
    struct cluster_view v;
    static const char text[] = "# three nodes\n"
                               "\n"
                               "epoch 18446744073709551615\t# the last\r\n"
                               "n1@10.0.0.1:7401\n"
                               "  rack-2/n*2@node-2.lan:80*2.5   draining # on its way out\n"
                               "n3@[::1]:065535*0.125"; /* no newline at the end */
    assert_int_equal(parse(text, &v, NULL), 0);
    assert_true(v.epoch == UINT64_MAX);
    assert_int_equal(v.n, 3);
    assert_string_equal(v.node[0].id, "n1");
    assert_string_equal(v.node[0].address, "10.0.0.1:7401");
    assert_true(v.node[0].weight == 1 && !v.node[0].draining);
    assert_string_equal(v.node[1].id, "rack-2/n*2");
    assert_string_equal(v.node[1].address, "node-2.lan:80");
    assert_true(v.node[1].weight == 2.5 && v.node[1].draining);
    assert_string_equal(v.node[2].address, "[::1]:65535");
    assert_true(v.node[2].weight == 0.125);
    assert_int_equal(parse("a@h:1\n", &v, NULL), 0);
    assert_int_equal(v.epoch, 0);
}

static void what_is_written_reads_the_same(void **state)
{
    (void)state;
    struct cluster_view v = {.epoch = 1234567890123, .n = CLUSTER_MAX_NODES}, again;
    for (size_t i = 0; i < v.n; i++) {
        struct cluster_node *n = &v.node[i];
        memset(n->id, 'x', 60);
        n->id[60] = (char)('a' + i / 10);
        n->id[61] = (char)('0' + i % 10);
        memset(n->address, 'h', 255);
        memcpy(n->address + 255, ":650", 4);
        n->address[259] = n->id[61];
        n->address[260] = (char)('0' + i / 10);
        n->weight = i % 3 ? 1.0 / (double)(i + 1) : 1;
        n->draining = i % 5 == 0;
    }
    struct buf *b = cluster_view_format(&v);
    assert_non_null(b);
    assert_int_equal(cluster_view_parse((const char *)b->data, b->len, &again, NULL), 0);
    assert_true(cluster_view_equal(&v, &again));
    buf_unref(b);
}

static void equal_is_by_id_and_not_by_order(void **state)
{
    (void)state;
    struct cluster_view a, b;
    static const char *const other[] = {"epoch 3\na@h:1\nb@h:2*2",
                                        "epoch 2\na@h:1\nb@h:2",
                                        "epoch 2\na@h:1\nb@h:3*2",
                                        "epoch 2\na@h:1\nc@h:2*2",
                                        "epoch 2\na@h:1\nb@h:2*2 draining",
                                        "epoch 2\na@h:1\nb@h:2*2\nc@h:3",
                                        "epoch 2\na@h:1"};
    parse("epoch 2\na@h:1\nb@h:2*2", &a, NULL);
    assert_int_equal(parse("epoch 2\nb@h:2*2\na@h:1", &b, NULL), 0);
    assert_true(cluster_view_equal(&a, &b));
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
        assert_int_equal(parse(other[i], &b, NULL), 0);
        if (cluster_view_equal(&a, &b) || cluster_view_equal(&b, &a))
            fail_msg("view %zu is said to be the same", i);
    }
    assert_ptr_equal(cluster_view_find(&a, "b"), &a.node[1]);
    assert_null(cluster_view_find(&a, "h"));
}

static void what_is_wrong_is_said_with_its_line(void **state)
{
    (void)state;
    static const struct {
        const char *text, *line, *word;
    } bad[] = {
        {"", "", "no memory node"},
        {"epoch 1\n# n1@h:1\n", "", "no memory node"},
        {"n1@h:1\nn2 h:2\n", "line 2 ", "host:port"},
        {"h:1\n", "line 1 ", "id before '@' is missing"},
        {"@h:1\n", "line 1 ", "1 to 63"},
        {"n,1@h:1\n", "line 1 ", "comma"},
        {"n1@h:1\n\nn1@h:2\n", "line 3 ", "its id stands there already"},
        {"n1@h:1\nn2@h:01\n", "line 2 ", "its address stands there already"},
        {"n1@h:1 drained\n", "line 1 ", "draining"},
        {"n1@h:1 draining now\n", "line 1 ", "more follows"},
        {"n1@h:1*0\n", "line 1 ", "weight"},
        {"n1@h:1*-1\n", "line 1 ", "weight"},
        {"n1@h:0\n", "line 1 ", "port"},
        {"epoch\nn1@h:1\n", "line 1 ", "epoch"},
        {"epoch -1\nn1@h:1\n", "line 1 ", "epoch"},
        {"epoch 1x\nn1@h:1\n", "line 1 ", "epoch"},
        {"epoch 18446744073709551616\nn1@h:1\n", "line 1 ", "64 bits"},
        {"epoch 1 2\nn1@h:1\n", "line 1 ", "more follows"},
        {"epoch 1\nepoch 2\nn1@h:1\n", "line 2 ", "once"},
        {"n1@h:1\nepoch 2\n", "line 2 ", "before the nodes"},
    };
    struct cluster_view v;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct skv_error err = {0};
        if (parse(bad[i].text, &v, &err) != -EINVAL || !strstr(err.text, bad[i].line) ||
            !strstr(err.text, bad[i].word))
            fail_msg("\"%s\" was taken, or the sentence is not right: %s", bad[i].text, err.text);
    }
    struct skv_error err = {0};
    assert_int_equal(cluster_view_parse("n1@h\0:1\n", 8, &v, &err), -EINVAL);
    char many[65 * 16] = "";
    for (int i = 0; i < 65; i++)
        sprintf(many + strlen(many), "n%d@h:%d\n", i, i + 1);
    assert_int_equal(parse(many, &v, &err), -EINVAL);
    assert_non_null(strstr(err.text, "line 65 "));
    char *huge = malloc(CLUSTER_VIEW_TEXT + 1);
    assert_non_null(huge);
    memset(huge, '\n', CLUSTER_VIEW_TEXT + 1);
    assert_int_equal(cluster_view_parse(huge, CLUSTER_VIEW_TEXT + 1, &v, &err), -EINVAL);
    assert_non_null(strstr(err.text, "longer than"));
    free(huge);
}

/* Whatever the bytes are, a view that is taken can be written and read again, and nothing is read or written
 * out of bounds (the text has no NUL at its end: the sanitizers watch). */
static void any_bytes_are_survived(void **state)
{
    (void)state;
    static const char seed_text[] = "epoch 12\nn1@10.0.0.1:7401*2 draining\nn2@[::1]:80 # c\n";
    static const char alphabet[] = "@:*#,.[]\n\t -+0159enx\r";
    uint64_t seed = 7, taken = 0;
    for (int round = 0; round < 40000; round++) {
        size_t len = sizeof seed_text - 1;
        char *text = malloc(len);
        assert_non_null(text);
        memcpy(text, seed_text, len);
        for (unsigned k = 0; k < 1 + (unsigned)round % 4; k++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            text[(seed >> 33) % len] =
                seed & 1 << 20 ? alphabet[(seed >> 40) % (sizeof alphabet - 1)] : (char)(seed >> 55);
        }
        if (round % 3 == 0)
            len = (seed >> 20) % len;
        struct cluster_view v, again;
        if (cluster_view_parse(text, len, &v, NULL) == 0) {
            struct buf *b = cluster_view_format(&v);
            assert_non_null(b);
            if (cluster_view_parse((const char *)b->data, b->len, &again, NULL) ||
                !cluster_view_equal(&v, &again))
                fail_msg("round %d: written as \"%.*s\"", round, (int)b->len, b->data);
            buf_unref(b);
            taken++;
        }
        free(text);
    }
    assert_true(taken > 1000); /* or the rounds tried nothing */
}

static void files_are_read(void **state)
{
    (void)state;
    char path[] = "/tmp/scoutkv-view-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    static const char good[] = "epoch 4\nn1@h:1\n", more[] = "bad\n";
    struct cluster_view v;
    struct skv_error err;
    assert_int_equal(write(fd, good, sizeof good - 1), sizeof good - 1);
    assert_int_equal(cluster_view_load(path, &v, &err), 0);
    assert_int_equal(v.epoch, 4);
    assert_int_equal(write(fd, more, sizeof more - 1), sizeof more - 1);
    assert_int_equal(cluster_view_load(path, &v, &err), -EINVAL);
    assert_non_null(strstr(err.text, path));
    assert_non_null(strstr(err.text, "line 3 "));
    close(fd);
    unlink(path);
    assert_int_equal(cluster_view_load(path, &v, &err), -ENOENT);
    assert_non_null(strstr(err.text, path));
    assert_int_equal(cluster_view_load("/tmp", &v, &err), -EISDIR);
}

int main(void)
{
    const struct CMUnitTest all[] = {
        cmocka_unit_test(text_is_read),
        cmocka_unit_test(what_is_written_reads_the_same),
        cmocka_unit_test(equal_is_by_id_and_not_by_order),
        cmocka_unit_test(what_is_wrong_is_said_with_its_line),
        cmocka_unit_test(any_bytes_are_survived),
        cmocka_unit_test(files_are_read),
    };
    return cmocka_run_group_tests(all, NULL, NULL);
}
