#include "decoder/cli/recall_task.h"
#include "decoder/scoutkv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

uint64_t recall_task_facts(uint64_t tokens)
{
    uint64_t facts = (uint64_t)((double)tokens * 2048 / 1e6);
    return facts > 128 ? facts : 128;
}

int recall_text_ids(const struct recall_text *text, const struct tokenizer *tok, uint32_t **ids, size_t *n,
                    struct skv_error *err)
{
    int rc = tokenizer_encode(tok, text->text, text->len, true, false, ids, n, err);
    if (!rc && *n != text->n_tokens + 1)
        rc =
            skv_fail(err, -EINVAL,
                     "the model cuts the text into %zu tokens, not %zu: what is asked for are facts in words "
                     "of the recall model; `scoutkv make-model recall -o recall.gguf` writes one",
                     *n, text->n_tokens + 1);
    return rc;
}

uint64_t recall_fact_pages(const struct recall_text *text)
{
    uint64_t pages = 0, last = UINT64_MAX; /* facts rise, so equal pages are neighbours */
    for (size_t i = 0; i < text->n_facts; i++) {
        uint64_t page = (text->facts[i].token + 1) / SKV_PAGE; /* BOS is token 0 */
        pages += page != last;
        last = page;
    }
    return pages;
}

int recall_question_make(struct recall_question *q, const struct tokenizer *tok,
                         const struct recall_fact *fact, struct skv_error *err)
{
    char text[RECALL_QUESTION_MAX];
    uint32_t *ids;
    size_t n;
    recall_question(fact, text);
    int rc = tokenizer_encode(tok, text, strlen(text), false, false, &ids, &n, err);
    if (rc)
        return rc;
    *q = (struct recall_question){.fact = fact, .n = (uint32_t)n};
    if (n <= QUESTION_TOKENS)
        memcpy(q->ids, ids, n * sizeof *ids);
    free(ids);
    if (n <= QUESTION_TOKENS && n)
        return 0;
    return skv_fail(err, -EINVAL, "the model cuts '%s' into %zu tokens: not a recall model", text, n);
}

/* One question out of each of n equal parts of the facts. */
static int make_questions(struct recall_task *t, const struct tokenizer *tok, size_t n, uint64_t seed,
                          struct skv_error *err)
{
    uint64_t random = seed ^ 0x71;
    t->questions = calloc(n, sizeof *t->questions);
    if (!t->questions)
        return skv_fail(err, -ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++) {
        size_t from = i * t->text.n_facts / n, to = (i + 1) * t->text.n_facts / n;
        const struct recall_fact *fact = &t->text.facts[from + recall_below(&random, (uint32_t)(to - from))];
        int rc = recall_question_make(&t->questions[i], tok, fact, err);
        if (rc)
            return rc;
    }
    for (size_t i = n; i > 1; i--) {
        size_t other = recall_below(&random, (uint32_t)i);
        struct recall_question q = t->questions[i - 1];
        t->questions[i - 1] = t->questions[other];
        t->questions[other] = q;
    }
    t->n_questions = n;
    return 0;
}

int recall_task_make(struct recall_task *t, const struct tokenizer *tok, const struct recall_task_opts *o,
                     struct skv_error *err)
{
    *t = (struct recall_task){0};
    if (o->questions > o->facts)
        return skv_fail(err, -EINVAL, "%" PRIu64 " questions need as many facts; there are %" PRIu64,
                        o->questions, o->facts);
    struct recall_text_opts text = {
        .seed = o->seed,
        .n_tokens = o->tokens - 1,
        .n_facts = o->facts,
        .keep_first = o->keep_first,
        .keep_last = o->keep_last,
    };
    int rc = recall_text_make(&t->text, &text, err);
    if (!rc)
        rc = recall_text_ids(&t->text, tok, &t->ids, &t->n, err);
    if (!rc)
        rc = make_questions(t, tok, o->questions, o->seed, err);
    if (rc)
        recall_task_free(t);
    else
        t->fact_pages = recall_fact_pages(&t->text);
    return rc;
}

void recall_task_free(struct recall_task *t)
{
    recall_text_free(&t->text);
    free(t->ids);
    free(t->questions);
    *t = (struct recall_task){0};
}
