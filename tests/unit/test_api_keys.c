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
    size_t tenant;
    assert_int_equal(read_text("# people\nsk-one\n\n  sk-two \r\nsk-three", &k, &err), 0);
    assert_int_equal(api_keys_count(k), 3);
    assert_true(api_keys_allow(k, "Bearer sk-one", &tenant));
    assert_true(api_keys_allow(k, "bearer  sk-two", &tenant));
    assert_true(api_keys_allow(k, "Bearer sk-three", &tenant));
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
        if (api_keys_allow(k, wrong[i], &tenant))
            fail_msg("'%s' may ask", wrong[i] ? wrong[i] : "(none)");
    api_keys_free(k);
}

static void without_a_file_anybody_may(void **state)
{
    (void)state;
    size_t tenant;
    assert_true(api_keys_allow(NULL, NULL, &tenant));
    assert_true(api_keys_allow(NULL, "Bearer whatever", &tenant));
    assert_int_equal(api_keys_tenants(NULL), 1);
    assert_null(tenant_salt(api_keys_tenant(NULL, 0)));
    api_keys_free(NULL);
}

static void files_without_keys_are_refused(void **state)
{
    (void)state;
    struct api_keys *k;
    struct skv_error err;
    assert_int_not_equal(read_text("", &k, &err), 0);
    assert_int_not_equal(read_text("# none\n\n", &k, &err), 0);
    assert_int_not_equal(read_text("one two 0123456789abcdef four\n", &k, &err), 0);
    assert_non_null(strstr(err.text, ":1: "));
    assert_int_not_equal(read_text("ok\nschl\xc3\xbcssel\n", &k, &err), 0);
    assert_non_null(strstr(err.text, ":2: "));
    assert_int_not_equal(api_keys_read("/nonexistent/keys", &k, &err), 0);
    assert_non_null(strstr(err.text, "/nonexistent/keys"));
    assert_null(k);
}

/* The tenant of a key of the file. */
static const struct tenant *tenant_of(const struct api_keys *k, const char *authorization)
{
    size_t tenant;
    assert_true(api_keys_allow(k, authorization, &tenant));
    assert_true(tenant < api_keys_tenants(k));
    return api_keys_tenant(k, tenant);
}

static bool share(const struct tenant *a, const struct tenant *b)
{
    const uint8_t *x = tenant_salt(a), *y = tenant_salt(b);
    return x && y ? !memcmp(x, y, TENANT_SALT) : x == y;
}

static void keys_of_a_tenant_share_a_salt(void **state)
{
    (void)state;
    struct api_keys *k, *again;
    struct skv_error err;
    assert_int_equal(
        read_text("sk-alone\nsk-a1 alpha\nsk-b beta 0123456789abcdef\nsk-a2\talpha\nsk-all -\nsk-b2 beta\n",
                  &k, &err),
        0);
    assert_int_equal(api_keys_count(k), 6);
    assert_int_equal(api_keys_tenants(k), 4);
    const struct tenant *alone = tenant_of(k, "Bearer sk-alone"), *alpha = tenant_of(k, "Bearer sk-a1"),
                        *beta = tenant_of(k, "Bearer sk-b"), *all = tenant_of(k, "Bearer sk-all");
    assert_ptr_equal(tenant_of(k, "Bearer sk-a2"), alpha);
    assert_ptr_equal(tenant_of(k, "Bearer sk-b2"), beta);
    assert_string_equal(alpha->name, "alpha");
    assert_string_equal(all->name, "");
    assert_null(tenant_salt(all));
    assert_int_equal(strncmp(alone->name, "key-", 4), 0);
    assert_null(strstr(alone->name, "alone"));
    assert_false(share(alone, alpha));
    assert_false(share(alpha, beta));
    assert_false(share(alpha, all));
    /* Another server, whose file names other keys: the secret decides, or the first key. */
    assert_int_equal(
        read_text("sk-new beta\nsk-b3 beta 0123456789abcdef\nsk-a1 gamma\nsk-a9 alpha\n", &again, &err), 0);
    assert_true(share(tenant_of(again, "Bearer sk-new"), beta));
    assert_true(share(tenant_of(again, "Bearer sk-a1"), alpha));
    assert_false(share(tenant_of(again, "Bearer sk-a9"), alpha));
    api_keys_free(again);
    api_keys_free(k);
}

static void lines_that_would_mix_tenants_are_refused(void **state)
{
    (void)state;
    struct api_keys *k;
    struct skv_error err;
    assert_int_not_equal(read_text("sk-a al/pha\n", &k, &err), 0);
    assert_non_null(strstr(err.text, "letters"));
    assert_int_not_equal(read_text("sk-a alpha short\n", &k, &err), 0);
    assert_non_null(strstr(err.text, "at least 16"));
    assert_int_not_equal(read_text("sk-a a 0123456789abcdef\nsk-b a 0123456789abcdeg\n", &k, &err), 0);
    assert_non_null(strstr(err.text, ":2: "));
    assert_int_not_equal(read_text("sk-a - 0123456789abcdef\n", &k, &err), 0);
    assert_non_null(strstr(err.text, "no secret"));
    assert_int_not_equal(read_text("sk-a alpha\nsk-a beta\n", &k, &err), 0);
    assert_non_null(strstr(err.text, ":2: the key is in a line before"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_of_the_file_may),
        cmocka_unit_test(without_a_file_anybody_may),
        cmocka_unit_test(files_without_keys_are_refused),
        cmocka_unit_test(keys_of_a_tenant_share_a_salt),
        cmocka_unit_test(lines_that_would_mix_tenants_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
