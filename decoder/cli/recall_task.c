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

static int tokenize_text(struct recall_task *t, const struct tokenizer *tok, struct skv_error *err)
{
    int rc = tokenizer_encode(tok, t->text.text, t->text.len, true, false, &t->ids, &t->n, err);
    if (!rc && t->n != t->text.n_tokens + 1)
        rc = skv_fail(err, -EINVAL,
                      "the model cuts the text into %zu tokens, not %zu: eval recall needs a model with the "
                      "vocabulary of "
                      "`scoutkv make-model recall`",
                      t->n, t->text.n_tokens + 1);
    return rc;
}

static void count_pages(struct recall_task *t)
{
    uint64_t last = UINT64_MAX; /* facts rise, so equal pages are neighbours */
    for (size_t i = 0; i < t->text.n_facts; i++) {
        uint64_t page = (t->text.facts[i].token + 1) / SKV_PAGE; /* BOS is token 0 */
        t->fact_pages += page != last;
        last = page;
    }
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
        struct recall_question *q = &t->questions[i];
        char text[RECALL_QUESTION_MAX];
        uint32_t *ids;
        size_t n_ids;
        q->fact = &t->text.facts[from + recall_below(&random, (uint32_t)(to - from))];
        recall_question(q->fact, text);
        int rc = tokenizer_encode(tok, text, strlen(text), false, false, &ids, &n_ids, err);
        if (rc)
            return rc;
        if (n_ids <= QUESTION_TOKENS)
            memcpy(q->ids, ids, n_ids * sizeof *ids);
        q->n = (uint32_t)n_ids;
        free(ids);
        if (n_ids > QUESTION_TOKENS || !n_ids)
            return skv_fail(err, -EINVAL, "the model cuts '%s' into %zu tokens: not a recall model", text,
                            n_ids);
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
        rc = tokenize_text(t, tok, err);
    if (!rc)
        rc = make_questions(t, tok, o->questions, o->seed, err);
    if (rc)
        recall_task_free(t);
    else
        count_pages(t);
    return rc;
}

void recall_task_free(struct recall_task *t)
{
    recall_text_free(&t->text);
    free(t->ids);
    free(t->questions);
    *t = (struct recall_task){0};
}
