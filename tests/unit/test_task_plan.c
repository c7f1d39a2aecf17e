/* What the texts of `scoutkv eval tasks` say and what is asked of them: answers are unique, questions are of
 * the kind that their task promises, and facts lie where only a choice can reach them. */
#include "decoder/cli/task_plan.h"
#include "decoder/scoutkv.h"

#include <ctype.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { FACTS = 512, QUESTIONS = 50, SEEDS = 20 };

static struct task_plan make(enum task_kind kind, uint64_t seed)
{
    struct task_plan p;
    struct skv_error err = {0};
    if (task_plan_make(&p, kind, seed, FACTS, QUESTIONS, &err))
        fail_msg("%s, seed %llu: %s", task_name(kind), (unsigned long long)seed, err.text);
    assert_int_equal(p.n_facts, FACTS);
    return p;
}

static const struct recall_plan *asked(const struct task_plan *p, const struct task_question *q, size_t i)
{
    return &p->facts[p->asks[q->from + i]];
}

static bool is_digits(const char *value)
{
    return isdigit((unsigned char)value[0]);
}

static int by_words(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void all_differ(char (*words)[32], size_t n, const char *what)
{
    char **sorted = calloc(n, sizeof *sorted);
    assert_non_null(sorted);
    for (size_t i = 0; i < n; i++)
        sorted[i] = words[i];
    qsort(sorted, n, sizeof *sorted, by_words);
    for (size_t i = 1; i < n; i++)
        if (!strcmp(sorted[i - 1], sorted[i]))
            fail_msg("%s twice: %s", what, sorted[i]);
    free(sorted);
}

/* No name has two values of a relation, and no value of digits has two names. */
static void answers_are_unique(void **state)
{
    (void)state;
    static char keys[FACTS][32], values[FACTS][32];
    for (int k = 0; k < TASK_OF_FACTS; k++)
        for (uint64_t seed = 1; seed <= SEEDS; seed++) {
            struct task_plan p = make((enum task_kind)k, seed);
            size_t n_values = 0;
            for (size_t i = 0; i < p.n_facts; i++) {
                const struct recall_plan *f = &p.facts[i];
                assert_true(f->name[0] && f->value[0] && f->relation < RECALL_N_RELATIONS);
                snprintf(keys[i], sizeof keys[i], "%s %u", f->name, f->relation);
                if (is_digits(f->value))
                    snprintf(values[n_values++], sizeof *values, "%s", f->value);
            }
            all_differ(keys, p.n_facts, "a question's name and relation");
            all_differ(values, n_values, "a value");
            task_plan_free(&p);
        }
}

/* What is asked is within the plan, one thing after the other, every part of it once. */
static void parts_fit(void **state)
{
    (void)state;
    for (int k = 0; k < TASK_OF_FACTS; k++) {
        struct task_plan p = make((enum task_kind)k, 3);
        uint32_t question = 0, ask = 0;
        for (size_t f = 0; f < p.n_forks; f++) {
            assert_int_equal(p.forks[f].from, question);
            assert_true(p.forks[f].n > 0);
            question += p.forks[f].n;
        }
        assert_int_equal(question, p.n_questions);
        size_t scored = 0;
        for (size_t q = 0; q < p.n_questions; q++) {
            scored += p.questions[q].scored;
            assert_int_equal(p.questions[q].from, ask);
            assert_true(p.questions[q].n > 0);
            ask += p.questions[q].n;
        }
        assert_int_equal(ask, p.n_asks);
        assert_int_equal(scored, QUESTIONS);
        for (size_t i = 0; i < p.n_asks; i++)
            assert_true(p.asks[i] < p.n_facts);
        task_plan_free(&p);
    }
}

/* The text made of the plan has each fact far from both ends, and no two in a page. */
static void facts_are_far(void **state)
{
    (void)state;
    enum { TOKENS = 65536, FIRST = 80, LAST = 1216 };
    for (int k = 0; k < TASK_OF_FACTS; k++) {
        struct task_plan p = make((enum task_kind)k, 5);
        struct recall_text_opts o = {.seed = 5,
                                     .n_tokens = TOKENS,
                                     .n_facts = p.n_facts,
                                     .keep_first = FIRST,
                                     .keep_last = LAST,
                                     .plan = p.facts};
        struct recall_text t;
        struct skv_error err = {0};
        if (recall_text_make(&t, &o, &err))
            fail_msg("%s", err.text);
        size_t before = 0; /* first token behind the page of the fact before */
        for (size_t i = 0; i < t.n_facts; i++) {
            assert_string_equal(t.facts[i].name, p.facts[i].name);
            assert_string_equal(t.facts[i].value, p.facts[i].value);
            size_t from = t.facts[i].token + 1, to = from + RECALL_FACT_TOKENS; /* BOS */
            if (from < FIRST || to > TOKENS + 1 - LAST || from < before)
                fail_msg("%s: fact %zu at %zu", task_name((enum task_kind)k), i, from);
            before = (to + SKV_PAGE - 1) / SKV_PAGE * SKV_PAGE;
        }
        recall_text_free(&t);
        task_plan_free(&p);
    }
}

/* Asked facts lie at all depths: each quarter of the text has its part. */
static void all_depths_are_asked(void **state)
{
    (void)state;
    for (int k = TASK_NEEDLE; k <= TASK_TRACKING; k++) {
        struct task_plan p = make((enum task_kind)k, 7);
        size_t in[4] = {0};
        for (size_t i = 0; i < p.n_asks; i++)
            in[4 * p.asks[i] / FACTS]++;
        for (int i = 0; i < 4; i++)
            if (in[i] < p.n_asks / 12)
                fail_msg("%s: %zu of %zu in quarter %d", task_name((enum task_kind)k), in[i], p.n_asks, i);
        task_plan_free(&p);
    }
}

static size_t facts_of(const struct task_plan *p, const char *name)
{
    size_t n = 0;
    for (size_t i = 0; i < p->n_facts; i++)
        n += !strcmp(p->facts[i].name, name);
    return n;
}

static void a_needle_is_alone(void **state)
{
    (void)state;
    struct task_plan p = make(TASK_NEEDLE, 9);
    for (size_t q = 0; q < p.n_questions; q++) {
        assert_int_equal(p.questions[q].n, 1);
        assert_int_equal(facts_of(&p, asked(&p, &p.questions[q], 0)->name), 1);
    }
    task_plan_free(&p);
}

static void a_key_has_others_like_it(void **state)
{
    (void)state;
    struct task_plan p = make(TASK_MULTI_KEY, 9);
    size_t relations[RECALL_N_RELATIONS] = {0};
    for (size_t q = 0; q < p.n_questions; q++) {
        const struct recall_plan *f = asked(&p, &p.questions[q], 0);
        assert_int_equal(p.questions[q].n, 1);
        assert_int_equal(facts_of(&p, f->name), RECALL_N_RELATIONS);
        relations[f->relation]++;
    }
    for (int r = 0; r < RECALL_N_RELATIONS; r++)
        assert_true(relations[r] > QUESTIONS / 12);
    task_plan_free(&p);
}

static void all_values_of_a_name_are_asked(void **state)
{
    (void)state;
    struct task_plan p = make(TASK_MULTI_VALUE, 9);
    for (size_t q = 0; q < p.n_questions; q++) {
        unsigned seen = 0;
        assert_int_equal(p.questions[q].n, RECALL_N_RELATIONS);
        for (size_t i = 0; i < RECALL_N_RELATIONS; i++) {
            assert_string_equal(asked(&p, &p.questions[q], i)->name, asked(&p, &p.questions[q], 0)->name);
            seen |= 1u << asked(&p, &p.questions[q], i)->relation;
        }
        assert_int_equal(seen, (1u << RECALL_N_RELATIONS) - 1);
    }
    task_plan_free(&p);
}

static void several_names_are_asked(void **state)
{
    (void)state;
    static char names[QUESTIONS * TASK_PARTS][32];
    struct task_plan p = make(TASK_MULTI_QUERY, 9);
    assert_int_equal(p.n_asks, QUESTIONS * TASK_PARTS);
    for (size_t q = 0; q < p.n_questions; q++)
        assert_int_equal(p.questions[q].n, TASK_PARTS);
    for (size_t i = 0; i < p.n_asks; i++)
        snprintf(names[i], sizeof names[i], "%s", p.facts[p.asks[i]].name);
    all_differ(names, p.n_asks, "a name that is asked for");
    task_plan_free(&p);
}

/* Each value is the next name, to the digits at the end; a link may lie before or behind the next. */
static void chains_hold(void **state)
{
    (void)state;
    struct task_plan p = make(TASK_TRACKING, 9);
    size_t forward = 0;
    for (size_t q = 0; q < p.n_questions; q++) {
        const struct task_question *c = &p.questions[q];
        assert_true(c->chain);
        assert_int_equal(c->n, TASK_PARTS);
        for (size_t i = 0; i + 1 < c->n; i++) {
            assert_string_equal(asked(&p, c, i)->value, asked(&p, c, i + 1)->name);
            assert_int_equal(asked(&p, c, i)->relation, 0);
            forward += asked(&p, c, i) < asked(&p, c, i + 1);
        }
        assert_true(is_digits(asked(&p, c, c->n - 1)->value));
        assert_int_equal(facts_of(&p, asked(&p, c, 0)->name), 1);
    }
    assert_true(forward > QUESTIONS && forward < 2 * QUESTIONS);
    task_plan_free(&p);
}

/* One fact that a fork asks for: where, whether it is scored, and whether the fork asked for it before. */
struct late {
    uint32_t fact;
    bool scored, again;
};

/* Forks of questions after others: TASK_BEFORE and then some that are scored. Calls look for each ask. */
static void look_at_late(enum task_kind kind, void look(const struct task_plan *, size_t fork, struct late))
{
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct task_plan p = make(kind, seed);
        assert_int_equal(p.n_forks, (QUESTIONS + TASK_AFTER - 1) / TASK_AFTER);
        for (size_t f = 0; f < p.n_forks; f++) {
            const struct task_question *q = &p.questions[p.forks[f].from];
            assert_true(p.forks[f].n > TASK_BEFORE && p.forks[f].n <= TASK_BEFORE + TASK_AFTER);
            for (size_t i = 0; i < p.forks[f].n; i++) {
                struct late late = {p.asks[q[i].from], q[i].scored, false};
                assert_int_equal(q[i].n, 1);
                assert_int_equal(q[i].scored, i >= TASK_BEFORE);
                assert_int_equal(facts_of(&p, p.facts[late.fact].name), 1);
                for (size_t j = 0; j < i; j++)
                    late.again |= p.asks[q[j].from] == late.fact;
                look(&p, f, late);
            }
        }
        task_plan_free(&p);
    }
}

static void constraint_is_early(const struct task_plan *p, size_t fork, struct late late)
{
    (void)fork;
    assert_int_equal(late.scored, late.fact < p->n_facts / TASK_EARLY);
    assert_int_equal(late.scored, p->facts[late.fact].at < 1.0 / TASK_EARLY);
    assert_false(late.again);
}

static void constraints_are_early_and_not_asked_before(void **state)
{
    (void)state;
    look_at_late(TASK_CONSTRAINT, constraint_is_early);
}

static void topic_has_shifted(const struct task_plan *p, size_t fork, struct late late)
{
    bool second = p->asks[p->questions[p->forks[fork].from].from] >= p->n_facts / 2;
    assert_int_equal(late.fact >= p->n_facts / 2, second != late.scored);
    assert_false(late.again);
    if (fork > 0) /* shifts go both ways */
        assert_int_not_equal(second, p->asks[p->questions[p->forks[fork - 1].from].from] >= p->n_facts / 2);
}

static void topics_shift_to_the_other_half(void **state)
{
    (void)state;
    look_at_late(TASK_TOPIC_SHIFT, topic_has_shifted);
}

static void sleeper_sleeps(const struct task_plan *p, size_t fork, struct late late)
{
    const struct task_question *q = &p->questions[p->forks[fork].from];
    bool few = false;
    for (int i = 0; i < TASK_FEW; i++)
        few |= p->asks[q[i].from] == late.fact;
    assert_int_equal(few, !late.scored);
    if (late.scored)
        assert_false(late.again);
}

static void sleepers_were_never_asked(void **state)
{
    (void)state;
    look_at_late(TASK_SLEEPER, sleeper_sleeps);
}

static void seeds_decide(void **state)
{
    (void)state;
    for (int k = 0; k < TASK_OF_FACTS; k++) {
        struct task_plan a = make((enum task_kind)k, 11), b = make((enum task_kind)k, 11),
                         c = make((enum task_kind)k, 12);
        assert_memory_equal(a.facts, b.facts, a.n_facts * sizeof *a.facts);
        assert_int_equal(a.n_asks, b.n_asks);
        assert_memory_equal(a.asks, b.asks, a.n_asks * sizeof *a.asks);
        assert_memory_not_equal(a.facts, c.facts, a.n_facts * sizeof *a.facts);
        task_plan_free(&a);
        task_plan_free(&b);
        task_plan_free(&c);
    }
}

static void texts_grow_with_questions(void **state)
{
    (void)state;
    struct task_plan p;
    struct skv_error err = {0};
    assert_int_equal(task_facts(TASK_NEEDLE, 1, 1), TASK_LEAST_FACTS);
    assert_int_equal(task_facts(TASK_NEEDLE, 600, 100), 600);
    assert_int_equal(task_facts(TASK_MULTI_VALUE, 600, 200), 800);
    assert_int_equal(task_plan_make(&p, TASK_TRACKING, 1, 1, 200, &err), 0); /* every fact is asked for */
    assert_int_equal(p.n_facts, 800);
    task_plan_free(&p);
    for (int k = TASK_CONSTRAINT; k <= TASK_SLEEPER; k++) /* the same few again, in a small text */
        for (size_t n = 1; n <= 300; n += 23) {
            assert_int_equal(task_plan_make(&p, (enum task_kind)k, n, 1, n, &err), 0);
            assert_int_equal(p.n_facts, TASK_LEAST_FACTS);
            assert_int_equal(p.n_questions, n + p.n_forks * TASK_BEFORE);
            task_plan_free(&p);
        }
    assert_int_equal(task_plan_make(&p, TASK_NEEDLE, 1, 13000, 10, &err), 0); /* all four relations */
    task_plan_free(&p);
    assert_int_equal(task_plan_make(&p, TASK_NEEDLE, 1, 14000, 10, &err), -EINVAL);
    assert_int_equal(task_plan_make(&p, TASK_MULTI_QUERY, 1, 1, RECALL_N_NAMES / TASK_PARTS, &err), -EINVAL);
    assert_non_null(strstr(err.text, "--texts"));
}

static void lists_of_tasks(void **state)
{
    (void)state;
    enum task_choice chosen[TASK_KINDS];
    struct skv_error err = {0};
    assert_int_equal(task_list("multi-key,variable-tracking", chosen, &err), 0);
    for (int k = 0; k < TASK_KINDS; k++)
        assert_int_equal(chosen[k], k == TASK_MULTI_KEY || k == TASK_TRACKING ? TASK_NAMED : TASK_NOT_CHOSEN);
    assert_int_equal(task_list("all", chosen, &err), 0);
    for (int k = 0; k < TASK_KINDS; k++)
        assert_int_equal(chosen[k], TASK_OF_ALL);
    const char *const bad[] = {"", "needle,", "needles", "needle,,multi-key", "needle multi-key"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int rc = task_list(bad[i], chosen, &err);
        if (i == 1 ? rc != 0 : rc != -EINVAL)
            fail_msg("'%s' gave %d", bad[i], rc);
    }
    assert_int_equal(task_list("a-name-that-is-longer-than-any-task-has-ever-been", chosen, &err), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_unique),
        cmocka_unit_test(parts_fit),
        cmocka_unit_test(facts_are_far),
        cmocka_unit_test(all_depths_are_asked),
        cmocka_unit_test(a_needle_is_alone),
        cmocka_unit_test(a_key_has_others_like_it),
        cmocka_unit_test(all_values_of_a_name_are_asked),
        cmocka_unit_test(several_names_are_asked),
        cmocka_unit_test(chains_hold),
        cmocka_unit_test(constraints_are_early_and_not_asked_before),
        cmocka_unit_test(topics_shift_to_the_other_half),
        cmocka_unit_test(sleepers_were_never_asked),

        cmocka_unit_test(seeds_decide),
        cmocka_unit_test(texts_grow_with_questions),
        cmocka_unit_test(lists_of_tasks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
