/* Who waits behind whom when several prompts begin alike. */
#include "decoder/serve/share.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

enum { CHUNK = 4, SLOTS = 3, N = 41 };

static uint32_t ids[SLOTS][N];
static struct ticket tickets[SLOTS];
static struct sequence all[SLOTS];
static struct share share;
static char context; /* none is ever used: whether there is one is what counts */

/* Slot 0 prefills 40 of 41 tokens, 8 are in; the others have begun with nothing found. */
static void set_up(void)
{
    memset(all, 0, sizeof all);
    for (unsigned i = 0; i < SLOTS; i++) {
        for (uint32_t k = 0; k < N; k++)
            ids[i][k] = k;
        tickets[i] = (struct ticket){.ids = ids[i], .n_ids = N};
        all[i] =
            (struct sequence){.ticket = &tickets[i], .ctx = (skv_context *)&context, .begun_ns = 100 + i};
    }
    all[0].keep_at = 40;
    all[0].done = 8;
}

static bool finds(unsigned slot)
{
    share = (struct share){99, 0};
    return share_find(all, SLOTS, slot, CHUNK, &share);
}

static void the_same_prompt_waits(void **state)
{
    (void)state;
    set_up();
    assert_true(finds(1));
    assert_int_equal(share.leader, 0);
    assert_true(share_lasts(all, &share));
    all[0].keep_at = 0; /* it is kept */
    assert_false(share_lasts(all, &share));
    assert_false(finds(1));
    set_up();
    assert_false(finds(0)); /* nobody waits for itself */
    tickets[1].tenant = 1;  /* nor for another tenant's, which it would not find */
    assert_false(finds(1));
}

static void whoever_comes_next_is_another_leader(void **state)
{
    (void)state;
    set_up();
    assert_true(finds(1));
    all[0] = (struct sequence){0}; /* gone */
    assert_false(share_lasts(all, &share));
    all[0] = (struct sequence){
        .ticket = &tickets[0], .ctx = (skv_context *)&context, .keep_at = 40, .begun_ns = 200};
    assert_false(share_lasts(all, &share));
}

static void waiting_must_be_worth_it(void **state)
{
    (void)state;
    set_up();
    ids[1][31] = 999; /* 28 tokens in whole chunks are the same, and 32 are left to do */
    assert_false(finds(1));
    all[0].done = 12;
    assert_true(finds(1));
    all[1].found = 4; /* on the tier already */
    assert_false(finds(1));
    all[0].done = 16;
    assert_true(finds(1));
    all[1].found = 28;
    assert_false(finds(1));
    set_up();
    ids[1][2] = 999;
    all[0].done = 40;
    assert_false(finds(1));
}

static void short_prompts_and_the_last_token(void **state)
{
    (void)state;
    set_up();
    all[0].done = 36;
    tickets[1].n_ids = 8; /* its last token's logits are needed: one chunk can be shared */
    assert_true(finds(1));
    tickets[1].n_ids = 4;
    assert_false(finds(1));
    tickets[1].n_ids = 1;
    assert_false(finds(1));
}

static void nobody_waits_for_who_waits(void **state)
{
    (void)state;
    set_up();
    all[2].keep_at = 40;
    all[2].ctx = NULL;
    assert_true(finds(1));
    assert_int_equal(share.leader, 0);
    all[0].keep_at = 0;
    assert_false(finds(1));
    all[2].ctx = (skv_context *)&context; /* it began again, and leads */
    all[2].done = 4;
    assert_true(finds(1));
    assert_int_equal(share.leader, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_prompt_waits),      cmocka_unit_test(whoever_comes_next_is_another_leader),
        cmocka_unit_test(waiting_must_be_worth_it),   cmocka_unit_test(short_prompts_and_the_last_token),
        cmocka_unit_test(nobody_waits_for_who_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
