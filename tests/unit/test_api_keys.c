/* Which keys a file holds, and who may ask. */
#include "decoder/serve/api_keys.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static int read_text(const char *text, struct api_keys **keys, struct skv_error *err)
{
    char path[] = "/tmp/scoutkv-keys-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    int rc = api_keys_read(path, keys, err);
    unlink(path);
    return rc;
}

static void keys_of_the_file_may(void **state)
{
    (void)state;
    struct api_keys *k;
    struct skv_error err;
    assert_int_equal(read_text("# people\nsk-one\n\n  sk-two \r\nsk-three", &k, &err), 0);
    assert_int_equal(api_keys_count(k), 3);
    assert_true(api_keys_allow(k, "Bearer sk-one"));
    assert_true(api_keys_allow(k, "bearer  sk-two"));
    assert_true(api_keys_allow(k, "Bearer sk-three"));
    static const char *const wrong[] = {
        NULL,
        "",
        "Bearer",
        "Bearer ",
        "sk-one",
        "Basic sk-one",
        "Bearer sk-on",
        "Bearer sk-onee",
        "Bearer # people",
        "Bearer sk-one sk-two",
        "Bearer SK-ONE",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        if (api_keys_allow(k, wrong[i]))
            fail_msg("'%s' may ask", wrong[i] ? wrong[i] : "(none)");
    api_keys_free(k);
}

static void without_a_file_anybody_may(void **state)
{
    (void)state;
    assert_true(api_keys_allow(NULL, NULL));
    assert_true(api_keys_allow(NULL, "Bearer whatever"));
    api_keys_free(NULL);
}

static void files_without_keys_are_refused(void **state)
{
    (void)state;
    struct api_keys *k;
    struct skv_error err;
    assert_int_not_equal(read_text("", &k, &err), 0);
    assert_int_not_equal(read_text("# none\n\n", &k, &err), 0);
    assert_int_not_equal(read_text("one two\n", &k, &err), 0);
    assert_non_null(strstr(err.text, ":1: "));
    assert_int_not_equal(read_text("ok\nschl\xc3\xbcssel\n", &k, &err), 0);
    assert_non_null(strstr(err.text, ":2: "));
    assert_int_not_equal(api_keys_read("/nonexistent/keys", &k, &err), 0);
    assert_non_null(strstr(err.text, "/nonexistent/keys"));
    assert_null(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_of_the_file_may),
        cmocka_unit_test(without_a_file_anybody_may),
        cmocka_unit_test(files_without_keys_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
