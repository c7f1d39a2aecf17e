#include "decoder/cli/task_text.h"
#include "decoder/cli/recall_task.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- of facts ---- */

static uint64_t protected_facts(const struct recall_text *t, const struct kv_ranges *protected)
{
    uint64_t n = 0;
    for (size_t i = 0; i < t->n_facts; i++) {
        uint64_t from = t->facts[i].token + 1, to = from + RECALL_FACT_TOKENS;
        for (size_t k = 0; k < protected->n; k++)
            if (protected->range[k].from < to && from < protected->range[k].to) {
                n++;
                break;
            }
    }
    return n;
}

static int make_facts(struct task_text *t, const struct tokenizer *tok, const struct task_text_opts *o,
                      struct skv_error *err)
{
    struct skv_error why;
    int rc = task_plan_make(&t->plan, o->kind, o->seed, o->facts, o->questions, err);
    if (rc)
        return rc;
    struct recall_text_opts opts = {
        .seed = o->seed,
        .n_tokens = o->tokens - 1, /* BOS */
        .n_facts = t->plan.n_facts,
        .keep_first = o->kv->sinks + SKV_BLOCK,
        .keep_last = ask_far_behind(o->kv),
        .plan = t->plan.facts,
    };
    rc = recall_text_make(&t->facts, &opts, &why);
    if (rc)
        return skv_fail(err, rc, "%s: %s (--facts, and those that --questions take in each of --texts)",
                        task_name(o->kind), why.text);
    rc = recall_text_ids(&t->facts, tok, &t->ids, &t->n_ids, err);
    if (rc)
        return rc;
    t->stop = t->ids[t->n_ids - 1]; /* the last sentence ends, too */
    t->n_forks = t->plan.n_forks;
    t->n_asks = t->plan.n_asks;
    return 0;
}

/* After other questions the last answer is said to its end first. */
static int ask_fact(const struct task_text *t, struct asker *a, struct meter *m, skv_context *fork,
                    const struct recall_fact *fact, bool *right, struct skv_error *err)
{
    const uint32_t end[] = {a->said, t->stop};
    struct recall_question q;
    struct answer said = {0};
    int rc = recall_question_make(&q, a->engine->tok, fact, err);
    if (!rc && skv_length(fork) > t->n_ids)
        rc = ask_feed(a, m, fork, end, 2, err);
    if (!rc)
        rc = ask_feed(a, m, fork, q.ids, q.n, err);
    if (!rc)
        rc = ask_answer(a, m, fork, strlen(fact->value), &said, err);
    *right = !rc && answer_right(&said, fact->value);
    return rc;
}

static int ask_question(const struct task_text *t, struct asker *a, struct meter *m, skv_context *fork,
                        const struct task_question *q, struct found *sum, struct skv_error *err)
{
    uint64_t found = 0;
    bool right = true;
    int rc = 0;
    for (uint32_t i = 0; i < q->n && !rc && (right || !q->chain); i++) {
        rc = ask_fact(t, a, m, fork, &t->facts.facts[t->plan.asks[q->from + i]], &right, err);
        found += right;
    }
    found_add(sum, &(struct found){1, found == q->n, q->n, found});
    return rc;
}

/* ---- of words ---- */

static int make_words(struct task_text *t, const struct tokenizer *tok, const struct task_text_opts *o,
                      struct skv_error *err)
{
    struct recall_vocab vocab;
    uint32_t word[COUNTING_WORDS];
    enum counting_kind kind = o->kind == TASK_COMMON_WORDS ? COUNTING_COMMON : COUNTING_FREQUENT;
    int rc = counting_text_make(&t->words, kind, o->seed, o->tokens - 1, err);
    if (!rc)
        rc = tokenizer_encode(tok, t->words.text, t->words.len, true, false, &t->ids, &t->n_ids, err);
    if (rc)
        return rc;
    if (t->n_ids != t->words.n_tokens + 1)
        return skv_fail(err, -EINVAL,
                        "the model cuts the text into %zu tokens, not %zu: its vocabulary is not that of "
                        "`scoutkv make-model counting`",
                        t->n_ids, t->words.n_tokens + 1);
    if (recall_vocab_make(&vocab))
        return skv_fail(err, -ENOMEM, "out of memory");
    counting_words(&vocab, word);
    recall_vocab_free(&vocab);
    for (size_t i = 0; i < t->words.n_answers; i++)
        t->answer[i] = word[t->words.answer[i]];
    t->n_forks = 1;
    t->n_asks = t->words.n_answers;
    return 0;
}

/* Its number, or COUNTING_ANSWERS. */
static size_t answer_of(const struct task_text *t, uint32_t id)
{
    for (size_t i = 0; i < t->words.n_answers; i++)
        if (t->answer[i] == id)
            return i;
    return COUNTING_ANSWERS;
}

/* As many words as there are answers; each goes back in, right or wrong. */
static int ask_words(const struct task_text *t, struct asker *a, struct meter *m, skv_context *fork,
                     struct found *sum, struct skv_error *err)
{
    bool named[COUNTING_ANSWERS + 1] = {false};
    uint32_t *mark, id;
    uint64_t found = 0;
    size_t n;
    int rc =
        tokenizer_encode(a->engine->tok, COUNTING_MARK, strlen(COUNTING_MARK), false, false, &mark, &n, err);
    if (rc)
        return rc;
    rc = ask_feed(a, m, fork, mark, n, err);
    free(mark);
    for (size_t said = 0; said < t->words.n_answers && !rc; said++) {
        if (said)
            rc = ask_feed(a, m, fork, &id, 1, err);
        if (!rc)
            rc = ask_next(a, &id, err);
        if (rc || tokenizer_is_eog(a->engine->tok, id))
            break;
        size_t i = answer_of(t, id);
        found += i < COUNTING_ANSWERS && !named[i];
        named[i] = true;
    }
    found_add(sum, &(struct found){1, found == t->words.n_answers, t->words.n_answers, found});
    return rc;
}

/* ---- both ---- */

int task_text_make(struct task_text *t, const struct tokenizer *tok, const struct task_text_opts *o,
                   struct skv_error *err)
{
    *t = (struct task_text){.of_words = task_of_words(o->kind)};
    return t->of_words ? make_words(t, tok, o, err) : make_facts(t, tok, o, err);
}

void task_text_free(struct task_text *t)
{
    task_plan_free(&t->plan);
    recall_text_free(&t->facts);
    counting_text_free(&t->words);
    free(t->ids);
    *t = (struct task_text){0};
}

struct task_figures task_text_figures(const struct task_text *t, const struct kv_ranges *protected)
{
    if (!t->of_words)
        return (struct task_figures){.fact_pages = recall_fact_pages(&t->facts),
                                     .protected_facts = protected_facts(&t->facts, protected)};
    struct task_figures f = {.answer_count = t->words.count[t->words.answer[t->words.n_answers - 1]]};
    for (uint32_t w = 0; w < COUNTING_WORDS; w++) {
        bool answer = false;
        for (size_t i = 0; i < t->words.n_answers; i++)
            answer |= t->words.answer[i] == w;
        if (!answer && t->words.count[w] > f.other_count)
            f.other_count = t->words.count[w];
    }
    return f;
}

void found_add(struct found *sum, const struct found *f)
{
    sum->questions += f->questions;
    sum->right += f->right;
    sum->references += f->references;
    sum->found += f->found;
}

size_t task_text_asks(const struct task_text *t, size_t fork)
{
    if (t->of_words)
        return t->n_asks;
    const struct task_fork *f = &t->plan.forks[fork];
    size_t n = 0;
    for (uint32_t i = f->from; i < f->from + f->n; i++)
        n += t->plan.questions[i].n;
    return n;
}

int task_text_ask(const struct task_text *t, struct asker *a, struct meter *m, skv_context *ctx, size_t fork,
                  struct found *scored, struct found *before, struct skv_error *err)
{
    if (t->of_words)
        return ask_words(t, a, m, ctx, scored, err);
    const struct task_fork *f = &t->plan.forks[fork];
    int rc = 0;
    for (uint32_t i = f->from; i < f->from + f->n && !rc; i++) {
        const struct task_question *q = &t->plan.questions[i];
        rc = ask_question(t, a, m, ctx, q, q->scored ? scored : before, err);
    }
    return rc;
}
