/* The two sides of a request: a bounded queue, and a ticket that is written by one and read by the other. */
#include "decoder/serve/exchange.h"
#include "common/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static int slept, woken;

static void count_sleep(void *connection)
{
    (void)connection;
    slept++;
}

static void count_wake(void *connection)
{
    (void)connection;
    woken++;
}

static struct ticket *new_ticket(bool stream)
{
    struct api_request r = {.stream = stream};
    struct ticket *t = ticket_new(&r);
    assert_non_null(t);
    slept = woken = 0;
    return t;
}

static bool answered(struct ticket *t)
{
    return ticket_answered(t, count_sleep, count_wake, NULL);
}

static void expect(struct ticket *t, size_t max, const char *want)
{
    char bytes[500] = "";
    long n = ticket_take(t, bytes, max, count_sleep, count_wake, NULL);
    assert_int_equal(n, (long)strlen(want));
    assert_memory_equal(bytes, want, strlen(want));
}

static void a_stream_sleeps_and_wakes(void **state)
{
    (void)state;
    struct ticket *t = new_ticket(true);
    char bytes[8];
    assert_false(answered(t));
    assert_true(slept == 1 && woken == 0);
    ticket_event(t, strdup("data: one\n\n"));
    ticket_event(t, strdup("data: two\n\n"));
    assert_int_equal(woken, 1); /* once */
    assert_true(answered(t) && t->event_stream && t->status == 200);
    assert_int_equal(ticket_backlog(t), 22);
    expect(t, 15, "data: one\n\ndata");
    expect(t, 100, ": two\n\n");
    assert_int_equal(slept, 1);
    expect(t, 100, "");
    assert_int_equal(slept, 2);
    ticket_end(t);
    assert_int_equal(woken, 2);
    assert_int_equal(ticket_take(t, bytes, sizeof bytes, count_sleep, count_wake, NULL), -1);
    ticket_event(t, strdup("late")); /* what comes behind the end goes nowhere */
    assert_int_equal(ticket_backlog(t), 0);
    ticket_release(t);
}

static void failures_before_and_within_a_stream(void **state)
{
    (void)state;
    struct api_error e;
    api_error(&e, 503, NULL, NULL, "gone");
    struct ticket *t = new_ticket(true);
    ticket_fail(t, &e);
    assert_true(answered(t) && t->status == 503 && !t->event_stream);
    assert_int_equal(t->out[0], '{');
    ticket_body(t, strdup("{}")); /* it has its answer */
    assert_int_equal(t->status, 503);
    ticket_release(t);

    t = new_ticket(true);
    ticket_event(t, strdup("data: x\n\n"));
    ticket_fail(t, &e);
    assert_true(t->status == 200 && t->done);
    assert_memory_equal(t->out + 9, "data: {\"error\"", 14);
    ticket_release(t);

    t = new_ticket(true);
    ticket_event(t, NULL); /* out of memory */
    assert_true(answered(t) && t->status == 503 && t->done);
    ticket_release(t);
}

static void silence_gets_comments(void **state)
{
    (void)state;
    struct ticket *t = new_ticket(true);
    ticket_ping(t, t->accepted_ns); /* not silent for long enough */
    assert_int_equal(t->status, 0);
    ticket_ping(t, clock_ns() + 1);
    assert_true(answered(t) && t->event_stream);
    assert_int_equal(t->out[0], ':');
    assert_memory_equal(t->out + t->len - 2, "\n\n", 2);
    ticket_release(t);
    t = new_ticket(false);
    ticket_ping(t, clock_ns() + 1); /* an answer that is one JSON */
    assert_true(t->status == 0 && t->len == 0);
    ticket_release(t);
}

static void the_queue_is_bounded(void **state)
{
    (void)state;
    struct exchange x;
    struct api_error e;
    struct ticket *t[3];
    uint64_t after;
    assert_int_equal(exchange_init(&x, 2, 4, UINT64_MAX), 0);
    assert_null(exchange_take(&x, 0));
    atomic_store(&x.active, 4);
    for (int i = 0; i < 3; i++)
        t[i] = new_ticket(false);
    assert_int_equal(exchange_put(&x, t[0], &after, &e), 0);
    assert_int_equal(exchange_put(&x, t[1], &after, &e), 0);
    assert_int_not_equal(exchange_put(&x, t[2], &after, &e), 0);
    assert_true(e.status == 429 && after == 1);
    atomic_store(&x.active, 3); /* a slot is free: the worker is in a step, and will take one after it */
    assert_int_equal(exchange_put(&x, t[2], &after, &e), 0);
    assert_ptr_equal(exchange_take(&x, 0), t[0]);
    ticket_release(t[0]);
    assert_ptr_equal(exchange_take(&x, 0), t[1]);
    ticket_release(t[1]);
    assert_ptr_equal(exchange_take(&x, 0), t[2]);
    ticket_release(t[2]);
    atomic_store(&x.active, 4);
    assert_int_equal(exchange_put(&x, t[0], &after, &e), 0);
    assert_int_equal(exchange_put(&x, t[1], &after, &e), 0);
    exchange_served(&x, 40);
    assert_int_not_equal(exchange_put(&x, t[2], &after, &e), 0);
    assert_int_equal(after, 10); /* one of four ends every 10 s */
    assert_ptr_equal(exchange_take(&x, 0), t[0]);
    assert_int_equal(exchange_put(&x, t[2], &after, &e), 0);
    assert_int_equal(exchange_waiting(&x), 2);

    atomic_store(&t[2]->gone, true); /* the last one: those behind it must still be found */
    exchange_sweep(&x, 0, &e);
    assert_int_equal(exchange_waiting(&x), 1);
    assert_int_equal(exchange_put(&x, t[0], &after, &e), 0);
    api_error(&e, 503, "timeout", NULL, "over");
    exchange_sweep(&x, UINT64_MAX, &e);
    assert_int_equal(exchange_waiting(&x), 0);
    assert_true(t[0]->status == 503 && t[1]->status == 503 && t[2]->status == 0);

    exchange_close(&x, &e);
    assert_int_not_equal(exchange_put(&x, t[1], &after, &e), 0);
    assert_int_equal(e.status, 503);
    assert_null(exchange_take(&x, 10000)); /* does not wait */
    ticket_release(t[0]);                  /* the reference that exchange_take gave */
    for (int i = 0; i < 3; i++)
        ticket_release(t[i]);
    exchange_destroy(&x);
}

/* Who is first is taken when there is room for it, and nobody before it. */
static void memory_is_bounded(void **state)
{
    (void)state;
    struct exchange x;
    struct api_error e;
    struct ticket *t[4];
    uint64_t after;
    const uint64_t bytes[4] = {60, 50, 10, 30};
    assert_int_equal(exchange_init(&x, 2, 8, 100), 0);
    for (int i = 0; i < 4; i++) {
        t[i] = new_ticket(false);
        t[i]->bytes = bytes[i];
    }
    assert_int_equal(exchange_put(&x, t[0], &after, &e), 0); /* does not wait, */
    assert_int_equal(exchange_put(&x, t[1], &after, &e), 0); /* but this, */
    assert_int_equal(exchange_put(&x, t[2], &after, &e), 0); /* and this behind it, though there is room */
    assert_int_not_equal(exchange_put(&x, t[3], &after, &e), 0);
    assert_int_equal(e.status, 429);
    assert_ptr_equal(exchange_take(&x, 0), t[0]);
    atomic_store(&x.active, 1);
    assert_null(exchange_take(&x, 1));
    assert_int_equal(exchange_taken(&x), 60);
    assert_true(exchange_more(&x, 40));
    assert_false(exchange_more(&x, 1));
    exchange_give(&x, 100);
    atomic_store(&x.active, 0);
    assert_ptr_equal(exchange_take(&x, 0), t[1]);
    assert_ptr_equal(exchange_take(&x, 0), t[2]);
    assert_int_equal(exchange_taken(&x), 60);
    atomic_store(&x.active, 2);
    assert_int_equal(exchange_put(&x, t[3], &after, &e), 0);
    assert_ptr_equal(exchange_take(&x, 0), t[3]);
    exchange_give(&x, 90);
    assert_int_equal(exchange_taken(&x), 0);
    for (int i = 0; i < 4; i++) {
        ticket_release(t[i]);
        ticket_release(t[i]); /* the reference that exchange_take gave */
    }
    exchange_destroy(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stream_sleeps_and_wakes), cmocka_unit_test(failures_before_and_within_a_stream),
        cmocka_unit_test(silence_gets_comments),     cmocka_unit_test(the_queue_is_bounded),
        cmocka_unit_test(memory_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
