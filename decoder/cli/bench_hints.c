#include "decoder/cli/bench_hints.h"
#include "decoder/cli/ask.h"
#include "decoder/cli/capture.h"
#include "decoder/cli/text_io.h"
#include "decoder/cli/text_pieces.h"
#include "decoder/model/recall_words.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- what is fed ---- */

static int add_stream(struct hints_work *w, const uint32_t *ids, size_t n, size_t decode,
                      struct skv_error *err)
{
    struct hints_stream *s = realloc(w->streams, (w->n + 1) * sizeof *s);
    if (s)
        w->streams = s;
    uint32_t *copy = s ? malloc(n * sizeof *copy) : NULL;
    if (!copy)
        return skv_fail(err, -ENOMEM, "out of memory");
    memcpy(copy, ids, n * sizeof *copy);
    w->streams[w->n++] =
        (struct hints_stream){.ids = copy, .n = n, .n_prefill = n - decode, .at = n - decode};
    return 0;
}

static int add_text(struct hints_work *w, const struct engine *e, const struct hints_args *a,
                    struct skv_error *err)
{
    struct text_pieces pieces = {0};
    char *text;
    size_t bytes;
    int rc = read_all(a->file, &text, &bytes, err);
    if (rc)
        return rc;
    rc = text_pieces_cut(&pieces, e->tok, text, bytes, 0, a->contexts, a->tokens, a->seed, err);
    free(text);
    for (size_t i = 0; i < pieces.n && !rc; i++)
        rc = add_stream(w, pieces.ids + i * pieces.len, pieces.len, a->decode, err);
    text_pieces_free(&pieces);
    return rc;
}

static int add_prompts(struct hints_work *w, const struct engine *e, const struct hints_args *a,
                       struct skv_error *err)
{
    int rc = 0;
    for (uint32_t i = 0; i < a->n_prompts && !rc; i++) {
        struct capture c = {0};
        rc = capture_prompt(&c, e->tok, a->prompts, i, 0, err);
        if (!rc && c.n <= a->decode)
            rc = skv_fail(err, -EINVAL, "%s: prompt %u has %zu tokens, and %u (--decode) are to be decoded",
                          a->prompts, i, c.n, a->decode);
        if (!rc)
            rc = add_stream(w, c.ids, c.n, a->decode, err);
        capture_free(&c);
    }
    return rc;
}

static int add_recall(struct hints_work *w, const struct engine *e, const struct hints_args *a,
                      struct skv_error *err)
{
    struct recall_task_opts o = {.seed = a->seed,
                                 .tokens = a->tokens,
                                 .facts = recall_task_facts(a->tokens),
                                 .questions = a->questions,
                                 .keep_first = a->kv.sinks + SKV_BLOCK,
                                 .keep_last = ask_far_behind(&a->kv)};
    if (o.facts < a->questions)
        o.facts = a->questions;
    int rc = recall_task_make(&w->task, e->tok, &o, err);
    if (!rc)
        rc = add_stream(w, w->task.ids, w->task.n, 0, err);
    if (rc)
        return rc;
    w->streams[0].questions = w->task.questions;
    w->streams[0].n_questions = w->task.n_questions;
    return 0;
}

int hints_work_make(struct hints_work *w, const struct engine *e, const struct hints_args *a,
                    struct skv_error *err)
{
    int rc = a->file ? add_text(w, e, a, err) : 0;
    if (!rc && a->prompts)
        rc = add_prompts(w, e, a, err);
    if (!rc && w->n == 0)
        rc = add_recall(w, e, a, err);
    for (size_t i = 0; i < w->n && !rc; i++) {
        const struct hints_stream *s = &w->streams[i];
        w->turns += s->n_questions ? s->n_questions : (s->n - s->n_prefill + a->turn - 1) / a->turn;
    }
    return rc;
}

void hints_work_free(struct hints_work *w)
{
    for (size_t i = 0; i < w->n; i++)
        free(w->streams[i].ids);
    free(w->streams);
    recall_task_free(&w->task);
    *w = (struct hints_work){0};
}

bool hints_stream_over(const struct hints_stream *s)
{
    return s->n_questions ? s->asked == s->n_questions : s->at == s->n;
}

void hints_shuffle(size_t *order, size_t n, uint64_t *random)
{
    for (size_t i = 0; i < n; i++) {
        size_t j = recall_below(random, i + 1);
        order[i] = order[j];
        order[j] = i;
    }
}

/* ---- what was read ---- */

struct hints_counts {
    uint32_t **blocks; /* [n_layers][cap] pages fetched */
    size_t *cap;
};

int hints_tally_make(struct hints_tally *t, size_t n_contexts, unsigned n_layers, struct skv_error *err)
{
    t->n_layers = n_layers;
    t->contexts = calloc(n_contexts, sizeof *t->contexts);
    for (; t->contexts && t->n < n_contexts; t->n++) {
        struct hints_counts *c = &t->contexts[t->n];
        c->blocks = calloc(n_layers, sizeof *c->blocks);
        c->cap = calloc(n_layers, sizeof *c->cap);
        if (!c->blocks || !c->cap) {
            t->n++;
            break;
        }
    }
    bool ok = t->n == n_contexts && t->contexts && t->contexts[t->n - 1].blocks && t->contexts[t->n - 1].cap;
    return ok ? 0 : skv_fail(err, -ENOMEM, "out of memory");
}

void hints_tally_free(struct hints_tally *t)
{
    for (size_t i = 0; i < t->n; i++) {
        for (unsigned l = 0; t->contexts[i].blocks && l < t->n_layers; l++)
            free(t->contexts[i].blocks[l]);
        free(t->contexts[i].blocks);
        free(t->contexts[i].cap);
    }
    free(t->contexts);
    *t = (struct hints_tally){0};
}

void *hints_tally_context(struct hints_tally *t, size_t context)
{
    return &t->contexts[context];
}

void hints_tally_page(void *context, uint32_t layer, uint32_t kv_head, uint64_t page)
{
    struct hints_counts *c = context;
    size_t block = page / (SKV_BLOCK / SKV_PAGE), cap = block + block / 4 + 64;
    (void)kv_head;
    if (block >= c->cap[layer]) {
        uint32_t *grown = realloc(c->blocks[layer], cap * sizeof *grown);
        if (!grown)
            return; /* the bound gets lower by a page */
        memset(grown + c->cap[layer], 0, (cap - c->cap[layer]) * sizeof *grown);
        c->blocks[layer] = grown;
        c->cap[layer] = cap;
    }
    c->blocks[layer][block]++;
}

static int most_first(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x < y) - (x > y);
}

double hints_tally_best(const struct hints_tally *t, uint64_t n_blocks)
{
    uint64_t all = 0, best = 0;
    size_t n = 0;
    for (size_t i = 0; i < t->n; i++)
        for (unsigned l = 0; l < t->n_layers; l++)
            n += t->contexts[i].cap[l];
    uint32_t *counts = malloc(n * sizeof *counts + 1);
    if (!counts)
        return 0;
    n = 0;
    for (size_t i = 0; i < t->n; i++)
        for (unsigned l = 0; l < t->n_layers; l++)
            for (size_t b = 0; b < t->contexts[i].cap[l]; b++)
                counts[n++] = t->contexts[i].blocks[l][b];
    qsort(counts, n, sizeof *counts, most_first);
    for (size_t i = 0; i < n; i++) {
        all += counts[i];
        best += i < n_blocks ? counts[i] : 0;
    }
    free(counts);
    return all ? (double)best / (double)all : 0;
}
