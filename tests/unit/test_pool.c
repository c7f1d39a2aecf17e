/* test_pool.c: every part once, however many threads there are, and whoever else runs something meanwhile. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>

#include "common/pool.h"

enum { PARTS = 57, RUNS = 300 };

struct job {
    atomic_uint done[PARTS];
};

static void part(void *arg, unsigned i)
{
    struct job *j = arg;
    atomic_fetch_add(&j->done[i], 1);
}

static void *run_many(void *arg)
{
    struct pool *pool = arg;
    uintptr_t wrong = 0;
    for (unsigned run = 0; run < RUNS; run++) {
        struct job j = {0};
        pool_run(pool, PARTS, part, &j);
        for (unsigned i = 0; i < PARTS; i++)
            wrong += atomic_load(&j.done[i]) != 1;
    }
    return (void *)wrong;
}

static void test_each_part_once(void **state)
{
    (void)state;
    for (unsigned threads = 0; threads <= 4; threads++) {
        struct pool *pool = pool_new(threads);
        assert_non_null(pool);
        assert_true(threads == 0 || pool_threads(pool) == threads);
        assert_null(run_many(pool));
        pool_free(pool);
    }
    assert_null(run_many(NULL));
    assert_int_equal(pool_threads(NULL), 1);
}

/* As the session's and the tier's of a server. */
static void test_pools_side_by_side(void **state)
{
    (void)state;
    struct pool *a = pool_new(2), *b = pool_new(3);
    pthread_t thread;
    void *wrong;
    assert_int_equal(pthread_create(&thread, NULL, run_many, a), 0);
    assert_null(run_many(b));
    assert_int_equal(pthread_join(thread, &wrong), 0);
    assert_null(wrong);
    pool_free(a);
    pool_free(b);
    pool_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_part_once),
        cmocka_unit_test(test_pools_side_by_side),
    };
    return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
