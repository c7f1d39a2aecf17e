/* task_plan.c: plans of tasks.
 *
 * DESIGN. A text is cut into as many equal parts as it has facts; each fact lies in the first half of its
 * part, so that no two share a page unless the text is crowded. The maker of a task takes parts at random,
 * from a range if the task says where its facts lie, and fills them; what is left becomes facts that nobody
 * asks for, about other names, in all four relations. */
#include "decoder/cli/task_plan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VALUES = 1000000, POOL = 128 };

struct pool { /* facts to be asked for in any fork */
    uint32_t *fact;
    size_t n, next;
};

struct maker {
    struct task_plan *plan;
    uint64_t random;
    bool *taken;     /* [n_facts] */
    uint8_t *values; /* [VALUES / 8] a bit each: used */
    uint16_t names[RECALL_N_NAMES];
    size_t n_names;  /* used, the first of them */
    uint32_t *pools; /* [n_facts] for those of struct pool */
    size_t n_pooled;
    size_t questions;
};

static uint32_t below(struct maker *m, size_t n)
{
    return recall_below(&m->random, (uint32_t)n);
}

/* ---- facts ---- */

static uint32_t take(struct maker *m, size_t from, size_t to)
{
    size_t at = from + below(m, to - from);
    while (m->taken[at])
        at = at + 1 < to ? at + 1 : from;
    m->taken[at] = true;
    return (uint32_t)at;
}

static uint32_t take_any(struct maker *m)
{
    return take(m, 0, m->plan->n_facts);
}

static unsigned new_name(struct maker *m)
{
    return m->names[m->n_names++];
}

static void write_digits(struct maker *m, char value[RECALL_DIGITS + 1])
{
    uint32_t v;
    do
        v = below(m, VALUES);
    while (m->values[v / 8] & 1u << v % 8);
    m->values[v / 8] |= (uint8_t)(1u << v % 8);
    snprintf(value, RECALL_DIGITS + 1, "%06u", v);
}

static void tell(struct maker *m, uint32_t fact, unsigned name, unsigned relation)
{
    struct recall_plan *f = &m->plan->facts[fact];
    recall_name(name, f->name);
    f->relation = relation;
    write_digits(m, f->value);
}

/* All others: each a name that was not used, with "is"; when there are none left, with "was", and so on. */
static void tell_the_rest(struct maker *m)
{
    size_t free_names = RECALL_N_NAMES - m->n_names, told = 0;
    for (uint32_t i = 0; i < m->plan->n_facts; i++)
        if (!m->taken[i]) {
            tell(m, i, m->names[m->n_names + told % free_names], (unsigned)(told / free_names));
            told++;
        }
}

/* ---- questions ---- */

static void begin_fork(struct maker *m)
{
    struct task_plan *p = m->plan;
    p->forks[p->n_forks++].from = (uint32_t)p->n_questions;
}

static struct task_question *begin_question(struct maker *m)
{
    struct task_plan *p = m->plan;
    struct task_question *q = &p->questions[p->n_questions++];
    p->forks[p->n_forks - 1].n++;
    *q = (struct task_question){.from = (uint32_t)p->n_asks, .scored = true};
    return q;
}

static void ask(struct maker *m, uint32_t fact)
{
    struct task_plan *p = m->plan;
    p->asks[p->n_asks++] = fact;
    p->questions[p->n_questions - 1].n++;
}

static void one_of_many(struct maker *m)
{
    uint32_t fact = take_any(m);
    begin_question(m);
    tell(m, fact, new_name(m), 0);
    ask(m, fact);
}

/* The name's other relations are there to be mistaken for it. */
static void one_of_alike(struct maker *m)
{
    unsigned name = new_name(m), right = below(m, RECALL_N_RELATIONS);
    begin_question(m);
    for (unsigned r = 0; r < RECALL_N_RELATIONS; r++) {
        uint32_t fact = take_any(m);
        tell(m, fact, name, r);
        if (r == right)
            ask(m, fact);
    }
}

static void all_of_a_name(struct maker *m)
{
    unsigned name = new_name(m);
    begin_question(m);
    for (unsigned r = 0; r < RECALL_N_RELATIONS; r++) {
        uint32_t fact = take_any(m);
        tell(m, fact, name, r);
        ask(m, fact);
    }
}

static void several_names(struct maker *m)
{
    begin_question(m);
    for (int i = 0; i < TASK_PARTS; i++) {
        uint32_t fact = take_any(m);
        tell(m, fact, new_name(m), 0);
        ask(m, fact);
    }
}

/* Links lie in no order; the last value is digits. */
static void chain_of_names(struct maker *m)
{
    unsigned name = new_name(m);
    begin_question(m)->chain = true;
    for (int hop = 0; hop < TASK_PARTS; hop++) {
        uint32_t fact = take_any(m);
        struct recall_plan *f = &m->plan->facts[fact];
        if (hop + 1 == TASK_PARTS) {
            tell(m, fact, name, 0);
        } else {
            recall_name(name, f->name);
            name = new_name(m);
            recall_name(name, f->value);
        }
        ask(m, fact);
    }
}

static void fork_each(struct maker *m, void question(struct maker *))
{
    for (size_t i = 0; i < m->questions; i++) {
        begin_fork(m);
        question(m);
    }
}

static void needle(struct maker *m)
{
    fork_each(m, one_of_many);
}

static void multi_key(struct maker *m)
{
    fork_each(m, one_of_alike);
}

static void multi_value(struct maker *m)
{
    fork_each(m, all_of_a_name);
}

static void multi_query(struct maker *m)
{
    fork_each(m, several_names);
}

static void tracking(struct maker *m)
{
    fork_each(m, chain_of_names);
}

/* ---- questions after others ---- */

/* n facts from [from, to), which has as many that nobody took. */
static void fill(struct maker *m, struct pool *p, size_t n, size_t from, size_t to)
{
    *p = (struct pool){.fact = m->pools + m->n_pooled, .n = n};
    m->n_pooled += n;
    for (size_t i = 0; i < n; i++) {
        p->fact[i] = take(m, from, to);
        tell(m, p->fact[i], new_name(m), 0);
    }
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* TASK_BEFORE questions about `distinct` facts of the pool, in turn. */
static void ask_before(struct maker *m, struct pool *p, size_t distinct)
{
    for (size_t i = 0; i < distinct; i++) {
        size_t other = i + below(m, p->n - i);
        uint32_t fact = p->fact[other];
        p->fact[other] = p->fact[i];
        p->fact[i] = fact;
    }
    for (size_t i = 0; i < TASK_BEFORE; i++) {
        begin_question(m)->scored = false;
        ask(m, p->fact[i % distinct]);
    }
}

/* Each fact of the pool comes once before any comes again, in another fork. */
static void ask_scored(struct maker *m, struct pool *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        begin_question(m);
        ask(m, p->fact[p->next++ % p->n]);
    }
}

static size_t fork_count(size_t questions)
{
    return (questions + TASK_AFTER - 1) / TASK_AFTER;
}

static size_t scored_in(const struct maker *m, size_t fork)
{
    size_t n = fork_count(m->questions);
    return m->questions * (fork + 1) / n - m->questions * fork / n;
}

/* Forks with questions of before[i] and then scored ones of after[i], i in turn. */
static void fork_late(struct maker *m, struct pool *before, struct pool *after, size_t n_pools,
                      size_t distinct)
{
    size_t first = below(m, n_pools);
    for (size_t f = 0; f < fork_count(m->questions); f++) {
        size_t pool = (first + f) % n_pools;
        begin_fork(m);
        ask_before(m, &before[pool], distinct);
        ask_scored(m, &after[pool], scored_in(m, f));
    }
}

static void constraint(struct maker *m)
{
    size_t n = m->plan->n_facts, early = n / TASK_EARLY;
    struct pool before, after;
    fill(m, &after, least(early, m->questions), 0, early);
    fill(m, &before, least(n / 4, POOL), early, n);
    fork_late(m, &before, &after, 1, TASK_BEFORE);
}

static void topic_shift(struct maker *m)
{
    size_t n = m->plan->n_facts, half = n / 2;
    struct pool before[2], after[2];
    for (int i = 0; i < 2; i++) {
        size_t from = i ? half : 0, to = i ? n : half;
        fill(m, &before[i], least(n / 4, POOL), from, to);
        fill(m, &after[!i], least(n / 4, m->questions), from, to);
    }
    fork_late(m, before, after, 2, TASK_BEFORE);
}

static void sleeper(struct maker *m)
{
    size_t n = m->plan->n_facts;
    struct pool before, after;
    fill(m, &after, least(n / 2, m->questions), 0, n);
    fill(m, &before, least(n / 4, POOL), 0, n);
    fork_late(m, &before, &after, 1, TASK_FEW);
}

/* ---- tasks ---- */

static const struct task {
    const char *name, *about;
    void (*make)(struct maker *);
    unsigned facts, names; /* that a question takes */
    unsigned pooled;       /* names that it takes besides, however many questions there are */
} tasks[TASK_KINDS] = {
    [TASK_NEEDLE] = {"needle", "one fact of the text", needle, 1, 1, 0},
    [TASK_MULTI_KEY] = {"multi-key", "one fact, of a name that has three other values besides", multi_key,
                        RECALL_N_RELATIONS, 1, 0},
    [TASK_MULTI_VALUE] = {"multi-value", "all four values of a name", multi_value, RECALL_N_RELATIONS, 1, 0},
    [TASK_MULTI_QUERY] = {"multi-query", "four facts, one after the other", multi_query, TASK_PARTS,
                          TASK_PARTS, 0},
    [TASK_TRACKING] = {"variable-tracking", "a chain of four facts: each answer is asked for next", tracking,
                       TASK_PARTS, TASK_PARTS, 0},
    [TASK_CONSTRAINT] = {"constraint", "a fact told early, not asked for while 32 others are, needed then",
                         constraint, 0, 1, POOL},
    [TASK_TOPIC_SHIFT] = {"topic-shift", "a fact of one half of the text, after 32 questions about the other",
                          topic_shift, 0, 2, 2 * POOL},
    [TASK_SLEEPER] = {"sleeper", "a fact that nobody asked for, after 32 questions about four others",
                      sleeper, 0, 1, POOL},
    [TASK_COMMON_WORDS] = {.name = "common-words",
                           .about = "the ten words of a list that come ten times as often as the others"},
    [TASK_FREQUENT_WORDS] = {.name = "frequent-words",
                             .about =
                                 "the three most frequent words of a text whose words follow Zipf's law"},
};

const char *task_name(enum task_kind k)
{
    return tasks[k].name;
}

const char *task_about(enum task_kind k)
{
    return tasks[k].about;
}

static bool choose_task(const char *name, enum task_choice chosen[TASK_KINDS])
{
    bool all = !strcmp(name, "all"), found = all;
    for (int k = 0; k < TASK_KINDS; k++)
        if (!strcmp(name, tasks[k].name)) {
            chosen[k] = TASK_NAMED;
            found = true;
        } else if (all && !chosen[k]) {
            chosen[k] = TASK_OF_ALL;
        }
    return found;
}

int task_fit(bool of_words, enum task_choice chosen[TASK_KINDS], struct skv_error *err)
{
    for (int k = 0; k < TASK_KINDS; k++) {
        if (task_of_words((enum task_kind)k) == of_words)
            continue;
        if (chosen[k] == TASK_NAMED)
            return skv_fail(err, -EINVAL,
                            of_words ? "%s: the counting model knows no facts; `scoutkv make-model recall -o "
                                       "recall.gguf` writes the model for this task"
                                     : "%s: it takes a model that counts; `scoutkv make-model counting -o "
                                       "counting.gguf` writes one",
                            tasks[k].name);
        chosen[k] = TASK_NOT_CHOSEN;
    }
    return 0;
}

int task_list(const char *list, enum task_choice chosen[TASK_KINDS], struct skv_error *err)
{
    memset(chosen, 0, TASK_KINDS * sizeof *chosen);
    if (!*list)
        return skv_fail(err, -EINVAL, "tasks: the list is empty");
    while (*list) {
        char name[32];
        size_t len = strcspn(list, ",");
        snprintf(name, sizeof name, "%.*s", (int)(len < sizeof name ? len : sizeof name), list);
        if (!choose_task(name, chosen))
            return skv_fail(err, -EINVAL, "tasks: there is no '%s'; see --help for those there are", name);
        list += len + (list[len] == ',');
    }
    return 0;
}

size_t task_facts(enum task_kind k, size_t facts, size_t questions)
{
    size_t needed = tasks[k].facts * questions;
    size_t most = facts > needed ? facts : needed;
    return most > TASK_LEAST_FACTS ? most : TASK_LEAST_FACTS;
}

/* ---- plans ---- */

static int check(enum task_kind k, size_t facts, size_t questions, struct skv_error *err)
{
    size_t names = tasks[k].names * questions + tasks[k].pooled;
    if (names < RECALL_N_NAMES && facts <= (RECALL_N_NAMES - names) * RECALL_N_RELATIONS)
        return 0;
    return skv_fail(err, -EINVAL,
                    "%s: %zu questions and %zu facts in a text are too many for the %d names there are: more "
                    "--texts, fewer --questions or fewer --facts",
                    tasks[k].name, questions, facts, RECALL_N_NAMES);
}

static int take_memory(struct maker *m, struct task_plan *p)
{
    size_t asks = m->questions * TASK_PARTS + fork_count(m->questions) * TASK_BEFORE;
    m->taken = calloc(p->n_facts, sizeof *m->taken);
    m->values = calloc(VALUES / 8, 1);
    m->pools = calloc(p->n_facts, sizeof *m->pools);
    p->facts = calloc(p->n_facts, sizeof *p->facts);
    p->asks = calloc(asks, sizeof *p->asks);
    p->questions = calloc(asks, sizeof *p->questions);
    p->forks = calloc(m->questions, sizeof *p->forks);
    return m->taken && m->values && m->pools && p->facts && p->asks && p->questions && p->forks ? 0 : -ENOMEM;
}

static void shuffle_names(struct maker *m)
{
    for (unsigned i = 0; i < RECALL_N_NAMES; i++) { /* built from the front */
        unsigned j = below(m, i + 1);
        m->names[i] = m->names[j];
        m->names[j] = (uint16_t)i;
    }
}

static void place(struct maker *m)
{
    struct task_plan *p = m->plan;
    for (size_t i = 0; i < p->n_facts; i++)
        p->facts[i].at = ((double)i + recall_unit(&m->random) / 2) / (double)p->n_facts;
}

int task_plan_make(struct task_plan *p, enum task_kind k, uint64_t seed, size_t facts, size_t questions,
                   struct skv_error *err)
{
    struct maker m = {.plan = p, .random = seed, .questions = questions};
    *p = (struct task_plan){.n_facts = task_facts(k, facts, questions)};
    int rc = check(k, p->n_facts, questions, err);
    if (rc)
        return rc;
    rc = take_memory(&m, p);
    if (rc) {
        skv_fail(err, rc, "out of memory");
    } else {
        shuffle_names(&m);
        place(&m);
        tasks[k].make(&m);
        tell_the_rest(&m);
    }
    free(m.taken);
    free(m.values);
    free(m.pools);
    if (rc)
        task_plan_free(p);
    return rc;
}

void task_plan_free(struct task_plan *p)
{
    free(p->facts);
    free(p->asks);
    free(p->questions);
    free(p->forks);
    *p = (struct task_plan){0};
}
