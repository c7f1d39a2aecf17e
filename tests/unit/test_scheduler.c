/* Whose turn it is: simulated prompts and streams under a clock of the test's own. */
#include "decoder/serve/scheduler.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>

enum { CHUNK_NS = 1000, STEP_NS = 10 /* a sequence */ };

struct world {
    struct scheduler s;
    unsigned chunks[SCHEDULER_SLOTS], tokens[SCHEDULER_SLOTS]; /* that are left */
    uint64_t now, prefill_ns, decode_ns, done_at[SCHEDULER_SLOTS];
};

static unsigned add(struct world *w, unsigned chunks, unsigned tokens)
{
    int slot = scheduler_add(&w->s);
    assert_true(slot >= 0);
    w->chunks[slot] = chunks;
    w->tokens[slot] = tokens;
    return (unsigned)slot;
}

static void decoded(struct world *w, unsigned slot)
{
    if (--w->tokens[slot] == 0) {
        scheduler_remove(&w->s, slot);
        w->done_at[slot] = w->now;
    }
}

/* One step; what kind. */
static enum scheduler_kind turn(struct world *w)
{
    struct scheduler_step step;
    scheduler_next(&w->s, &step);
    uint64_t ns = step.kind == STEP_PREFILL ? CHUNK_NS : step.n * STEP_NS;
    if (step.kind == STEP_NONE)
        return step.kind;
    assert_true(step.n >= 1);
    w->now += ns;
    *(step.kind == STEP_PREFILL ? &w->prefill_ns : &w->decode_ns) += ns;
    if (step.kind == STEP_PREFILL && --w->chunks[step.slot[0]] == 0)
        scheduler_decode(&w->s, step.slot[0]);
    scheduler_ran(&w->s, &step, ns);
    if (step.kind == STEP_DECODE)
        for (unsigned i = 0; i < step.n; i++)
            decoded(w, step.slot[i]);
    return step.kind;
}

static void slots_are_bounded_and_reused(void **state)
{
    (void)state;
    struct world w = {0};
    scheduler_init(&w.s, 2);
    assert_int_equal(turn(&w), STEP_NONE);
    unsigned a = add(&w, 1, 1);
    add(&w, 1, 1);
    assert_int_equal(scheduler_add(&w.s), -1);
    scheduler_remove(&w.s, a);
    assert_int_equal(scheduler_add(&w.s), (int)a);
}

static void streams_go_together(void **state)
{
    (void)state;
    struct world w = {0};
    struct scheduler_step step;
    scheduler_init(&w.s, 4);
    for (unsigned i = 0; i < 4; i++)
        add(&w, 1, 10000);
    while (w.s.slot[0].phase != SLOT_DECODE || w.s.slot[1].phase != SLOT_DECODE ||
           w.s.slot[2].phase != SLOT_DECODE || w.s.slot[3].phase != SLOT_DECODE)
        turn(&w);
    scheduler_next(&w.s, &step);
    assert_int_equal(step.kind, STEP_DECODE);
    assert_int_equal(step.n, 4);
    scheduler_hold(&w.s, 2, true);
    scheduler_next(&w.s, &step);
    assert_int_equal(step.n, 3);
    for (unsigned i = 0; i < step.n; i++)
        assert_int_not_equal(step.slot[i], 2);
    for (unsigned i = 0; i < 4; i++)
        scheduler_hold(&w.s, i, true);
    assert_int_equal(turn(&w), STEP_NONE);
    scheduler_hold(&w.s, 1, false);
    assert_int_equal(turn(&w), STEP_DECODE);
}

static void a_long_prompt_takes_half_of_a_streams_time(void **state)
{
    (void)state;
    struct world w = {0};
    scheduler_init(&w.s, 2);
    unsigned stream = add(&w, 1, 100000);
    turn(&w);
    for (unsigned i = 0; i < 50; i++)
        assert_int_equal(turn(&w), STEP_DECODE);
    add(&w, 200, 1);
    assert_int_equal(turn(&w), STEP_PREFILL); /* at once */
    w.prefill_ns = w.decode_ns = 0;
    unsigned in_a_row = 0, before = w.tokens[stream];
    for (unsigned i = 0; i < 2000; i++) {
        in_a_row = turn(&w) == STEP_PREFILL ? in_a_row + 1 : 0;
        assert_true(in_a_row <= 1); /* never waits for two chunks */
    }
    assert_true(before - w.tokens[stream] > 1900);
    int64_t difference = (int64_t)(w.prefill_ns - w.decode_ns);
    assert_true(difference >= -CHUNK_NS && difference <= CHUNK_NS);
}

/* What was spent while nobody waited is not held against anybody. */
static void the_past_is_forgotten(void **state)
{
    (void)state;
    struct world w = {0};
    scheduler_init(&w.s, 3);
    add(&w, 500, 100000);
    for (unsigned i = 0; i < 500; i++)
        assert_int_equal(turn(&w), STEP_PREFILL);
    for (unsigned i = 0; i < 5000; i++)
        assert_int_equal(turn(&w), STEP_DECODE);
    add(&w, 1000, 1);
    unsigned steps = 0;
    for (unsigned chunks = 0; chunks < 10; chunks += turn(&w) == STEP_PREFILL)
        steps++;
    assert_in_range(steps, 9 * (CHUNK_NS / STEP_NS), 11 * (CHUNK_NS / STEP_NS) + 10);
}

static void a_short_prompt_is_not_behind_a_long_one(void **state)
{
    (void)state;
    struct world w = {0};
    scheduler_init(&w.s, 4);
    unsigned long_one = add(&w, 1000, 1);
    for (unsigned i = 0; i < 5; i++)
        turn(&w);
    unsigned short_one = add(&w, 2, 1), other = add(&w, 3, 1);
    uint64_t begin = w.now;
    while (!w.done_at[short_one] || !w.done_at[other])
        turn(&w);
    assert_true(w.done_at[short_one] - begin <= 8 * CHUNK_NS);
    assert_true(w.done_at[other] - begin <= 10 * CHUNK_NS);
    assert_true(w.chunks[long_one] > 900);
}

/* Random comings and goings: everybody ends, nobody twice. */
static void everybody_ends(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 50; seed++) {
        struct world w = {0};
        unsigned left = 300;
        srand(seed);
        scheduler_init(&w.s, 1 + (unsigned)rand() % 16);
        while (left || w.s.n_used) {
            if (left && rand() % 3 == 0 && w.s.n_used < w.s.n_slots) {
                add(&w, 1 + (unsigned)rand() % 20, 1 + (unsigned)rand() % 50);
                left--;
            }
            if (turn(&w) == STEP_NONE && w.s.n_used)
                fail_msg("seed %u: nobody has a turn", seed);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slots_are_bounded_and_reused),
        cmocka_unit_test(streams_go_together),
        cmocka_unit_test(a_long_prompt_takes_half_of_a_streams_time),
        cmocka_unit_test(the_past_is_forgotten),
        cmocka_unit_test(a_short_prompt_is_not_behind_a_long_one),
        cmocka_unit_test(everybody_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
