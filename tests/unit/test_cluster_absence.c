/* Who is taken out of a cluster, and who is not. */
#include "decoder/cli/cluster_absence.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <cmocka.h>

enum { AFTER = 600, R = 2 };

/* A look at n nodes; bit i of here: node ni is there. */
static void look(struct absences *a, unsigned n, unsigned here, uint64_t now)
{
    absences_begin(a);
    for (unsigned i = 0; i < n; i++) {
        char id[16];
        snprintf(id, sizeof id, "n%u", i);
        absences_note(a, id, here >> i & 1 ? 100 + i : 0, false, now);
    }
    absences_end(a);
}

static void one_that_stays_away_is_taken_out(void **state)
{
    (void)state;
    struct absences a = {0};
    const char *id;
    look(&a, 4, 0xf, 100);
    assert_int_equal(absences_judge(&a, R, AFTER, 100, &id), ABSENCE_NONE);
    look(&a, 4, 0xd, 200);
    look(&a, 4, 0xd, 700); /* it counts from when it was first missed */
    assert_int_equal(absences_judge(&a, R, AFTER, 200 + AFTER - 1, &id), ABSENCE_WAIT);
    assert_int_equal(absences_judge(&a, R, AFTER, 200 + AFTER, &id), ABSENCE_REMOVE);
    assert_string_equal(id, "n1");
}

static void one_that_comes_back_keeps_its_place(void **state)
{
    (void)state;
    struct absences a = {0};
    const char *id;
    look(&a, 4, 0xe, 100);
    look(&a, 4, 0xf, 500);
    look(&a, 4, 0xe, 650);
    assert_int_equal(absences_judge(&a, R, AFTER, 800, &id), ABSENCE_WAIT);
    assert_int_equal(absences_judge(&a, R, AFTER, 650 + AFTER, &id), ABSENCE_REMOVE);
}

static void never_while_as_many_are_away_as_there_are_replicas(void **state)
{
    (void)state;
    struct absences a = {0};
    const char *id;
    look(&a, 5, 0x1f, 50);
    look(&a, 5, 0x1c, 100); /* two of five, with two copies: some blocks may be on these two only */
    assert_int_equal(absences_judge(&a, R, AFTER, 100000, &id), ABSENCE_TOO_MANY);
    assert_int_equal(absences_judge(&a, 3, AFTER, 100000, &id), ABSENCE_REMOVE);
    look(&a, 5, 0x1e, 100001); /* one is back with its blocks: the other has been away for long */
    assert_int_equal(absences_judge(&a, R, AFTER, 100001, &id), ABSENCE_REMOVE);
    assert_string_equal(id, "n0");
    struct absences single = {0};
    look(&single, 3, 0x6, 100); /* without copies, nobody is ever taken out */
    assert_int_equal(absences_judge(&single, 1, AFTER, 100000, &id), ABSENCE_TOO_MANY);
}

/* A node that was taken out, or came back empty, counts until its copies are made again: blocks that it
 * shared with the one away may be on that one only. */
static void never_before_the_copies_are_made_again(void **state)
{
    (void)state;
    struct absences a = {0};
    const char *id;
    look(&a, 4, 0x7, 100);
    assert_int_equal(absences_judge(&a, R, AFTER, 100 + AFTER, &id), ABSENCE_REMOVE);
    look(&a, 3, 0x7, 800); /* n3 was taken out */
    assert_int_equal(absences_owing(&a), 1);
    assert_int_equal(absences_judge(&a, R, AFTER, 800, &id), ABSENCE_NONE);
    look(&a, 3, 0x3, 801);
    assert_int_equal(absences_judge(&a, R, AFTER, 801, &id), ABSENCE_TOO_MANY);
    assert_int_equal(absences_judge(&a, R, AFTER, 100000, &id), ABSENCE_TOO_MANY);
    look(&a, 3, 0x7, 100001);
    absences_whole(&a);
    assert_int_equal(absences_owing(&a), 0);
    look(&a, 3, 0x3, 100002);
    assert_int_equal(absences_judge(&a, R, AFTER, 100001 + AFTER, &id), ABSENCE_WAIT);

    struct absences b = {0}; /* n0 came back empty, and nobody saw that it was away */
    look(&b, 4, 0xf, 100);
    assert_int_equal(absences_owing(&b), 0);
    absences_begin(&b);
    assert_int_equal(absences_note(&b, "n0", 999, false, 200), 2);
    assert_int_equal(absences_note(&b, "n1", 0, false, 200), -1);
    assert_int_equal(absences_note(&b, "n2", 102, false, 200), 0);
    assert_int_equal(absences_note(&b, "n3", 103, false, 200), 0);
    absences_end(&b);
    assert_int_equal(absences_owing(&b), 1);
    assert_int_equal(absences_judge(&b, R, AFTER, 100000, &id), ABSENCE_TOO_MANY);
    assert_int_equal(absences_judge(&b, 3, AFTER, 100000, &id), ABSENCE_REMOVE);

    absences_begin(&b); /* it dies again while the other is back: that is one, not two */
    absences_note(&b, "n0", 0, false, 300);
    for (unsigned i = 1; i < 4; i++)
        absences_note(&b, (const char *[]){"n1", "n2", "n3"}[i - 1], 100 + i, false, 300);
    absences_end(&b);
    assert_int_equal(absences_owing(&b), 0);
    assert_int_equal(absences_judge(&b, R, AFTER, 300 + AFTER, &id), ABSENCE_REMOVE);
    assert_string_equal(id, "n0");
}

static void never_below_the_replicas(void **state)
{
    (void)state;
    struct absences a = {0};
    const char *id;
    look(&a, 2, 0x1, 100);
    assert_int_equal(absences_judge(&a, R, AFTER, 100000, &id), ABSENCE_TOO_FEW);
    absences_begin(&a); /* and one that is being drained is none to stay */
    absences_note(&a, "n0", 100, false, 100);
    absences_note(&a, "n1", 0, false, 100);
    absences_note(&a, "n2", 102, true, 100);
    absences_end(&a);
    assert_int_equal(absences_judge(&a, R, AFTER, 100000, &id), ABSENCE_TOO_FEW);
}

static void members_come_and_go(void **state)
{
    (void)state;
    struct absences a = {0};
    const char *id;
    look(&a, 4, 0x7, 100);
    look(&a, 3, 0x7, 200); /* n3 was taken out by somebody */
    assert_int_equal(a.n, 3);
    assert_int_equal(absences_judge(&a, R, AFTER, 100000, &id), ABSENCE_NONE);
    absences_begin(&a);
    assert_int_equal(absences_note(&a, "n9", 0, false, 300), -1);
    assert_int_equal(absences_note(&a, "n9", 0, false, 301), 0);
    assert_int_equal(absences_note(&a, "n9", 1, false, 302), 2); /* with what, nobody knows */
    assert_int_equal(absences_note(&a, "n9", 0, false, 303), -1);
    assert_int_equal(absences_note(&a, "n9", 1, false, 304), 1);
    absences_end(&a);
    assert_int_equal(a.n, 1);
    for (unsigned i = 0; i < 200; i++) { /* no more than a cluster may have */
        char name[8];
        snprintf(name, sizeof name, "x%u", i);
        absences_note(&a, name, 0, false, 400);
    }
    assert_int_equal(a.n, CLUSTER_MAX_NODES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_that_stays_away_is_taken_out),
        cmocka_unit_test(one_that_comes_back_keeps_its_place),
        cmocka_unit_test(never_while_as_many_are_away_as_there_are_replicas),
        cmocka_unit_test(never_before_the_copies_are_made_again),
        cmocka_unit_test(never_below_the_replicas),
        cmocka_unit_test(members_come_and_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
