/* recall_text.c: the corpus generator.
 *
 * Design: one pass, sentence by sentence. Before each sentence every fact whose place has been reached is
 * written. A sentence that has occurred before (by 64-bit hash) is drawn again. Near the end only such forms
 * are taken as leave nothing, or room for another sentence, so the token count is met exactly. */
#include "decoder/model/recall_text.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    WORD_MAX = 16,                                               /* bytes of a word with its space */
    FACT_ROOM = RECALL_FORM_MAX + RECALL_FACT_TOKENS,            /* tokens a fact may need */
    END_ROOM = FACT_ROOM + RECALL_FACT_TOKENS + RECALL_FORM_MAX, /* a late fact ends before keep_last */
};

struct writer {
    struct recall_text *out;
    size_t n_tokens; /* wanted in all */
    uint64_t rng;
    uint64_t *seen; /* hashes of sentences, open addressing, 0 is free */
    size_t mask;    /* slots - 1, a power of two less one */
};

static bool first_time(struct writer *w, const char *sentence, size_t len)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < len; i++)
        h = (h ^ (unsigned char)sentence[i]) * 0x100000001b3u;
    h = recall_rand(&h) | 1;
    size_t slot = h & w->mask;
    for (; w->seen[slot]; slot = (slot + 1) & w->mask) {
        if (w->seen[slot] == h)
            return false;
    }
    w->seen[slot] = h;
    return true;
}

static void append(struct recall_text *out, const char *s, size_t len)
{
    memcpy(out->text + out->len, s, len + 1);
    out->len += len;
}

/* Writes form as words to s; returns the length. The first word of the text has no space before it. */
static size_t fill_form(struct writer *w, const char *form, char *s)
{
    size_t len = 0;
    for (const char *c = form; *c; c++) {
        if (*c == ',' || *c == '.') {
            s[len++] = *c;
            continue;
        }
        size_t n;
        const char *const *words = recall_words((enum recall_class) * c, &n);
        const char *word = words[recall_below(&w->rng, (uint32_t)n)];
        if (len > 0 || w->out->len > 0)
            s[len++] = ' ';
        size_t k = strlen(word);
        assert(k + 1 < WORD_MAX);
        memcpy(s + len, word, k);
        len += k;
    }
    s[len] = 0;
    return len;
}

static void write_sentence(struct writer *w)
{
    char s[RECALL_FORM_MAX * WORD_MAX + 1];
    size_t left = w->n_tokens - w->out->n_tokens;
    assert(left >= RECALL_FORM_MIN);
    for (;;) {
        const char *form = recall_forms[recall_below(&w->rng, (uint32_t)recall_n_forms)];
        size_t n = strlen(form);
        assert(n >= RECALL_FORM_MIN && n <= RECALL_FORM_MAX);
        if (n != left && n + RECALL_FORM_MIN > left)
            continue;
        size_t len = fill_form(w, form, s);
        if (!first_time(w, s, len))
            continue;
        append(w->out, s, len);
        w->out->n_tokens += n;
        return;
    }
}

static void choose_fact(struct writer *w, struct recall_fact *f, unsigned name)
{
    recall_name(name, f->name);
    snprintf(f->value, sizeof f->value, "%0*u", RECALL_DIGITS, recall_below(&w->rng, 1000000));
}

static void take_planned(const struct recall_plan *p, struct recall_fact *f)
{
    memcpy(f->name, p->name, sizeof f->name);
    memcpy(f->value, p->value, sizeof f->value);
    f->relation = p->relation;
}

static void write_fact(struct writer *w, struct recall_fact *f)
{
    f->token = w->out->n_tokens;
    char s[RECALL_QUESTION_MAX + RECALL_DIGITS + 4], question[RECALL_QUESTION_MAX];
    recall_question(f, question);
    int len = snprintf(s, sizeof s, "%s%s %s.", w->out->len > 0 ? " " : "", question, f->value);
    append(w->out, s, (size_t)len);
    w->out->n_tokens += RECALL_FACT_TOKENS - (f->value[0] > '9'); /* a name is one token, six digits two */
}

/* Where fact i should begin: anywhere in its part of the text, or where it is planned if that leaves room for
 * those behind it. */
static size_t place_fact(struct writer *w, const struct recall_text_opts *o, size_t i)
{
    if (i == o->n_facts)
        return SIZE_MAX;
    size_t room = o->n_tokens - o->keep_first - o->keep_last - END_ROOM;
    if (o->plan) {
        size_t at = (size_t)(o->plan[i].at * (double)room), last = room - (o->n_facts - i) * FACT_ROOM;
        return o->keep_first + (at < last ? at : last);
    }
    double part = (double)room / (double)o->n_facts;
    return o->keep_first + (size_t)(part * ((double)i + recall_unit(&w->rng)));
}

static void write_all(struct writer *w, const struct recall_text_opts *o, const uint16_t *names)
{
    size_t next = 0, place = place_fact(w, o, 0);
    while (w->out->n_tokens < o->n_tokens) {
        if (w->out->n_tokens < place) {
            write_sentence(w);
            continue;
        }
        if (o->plan)
            take_planned(&o->plan[next], &w->out->facts[next]);
        else
            choose_fact(w, &w->out->facts[next], names[next]);
        write_fact(w, &w->out->facts[next]);
        assert(w->out->n_tokens + o->keep_last <= o->n_tokens);
        place = place_fact(w, o, ++next);
    }
    assert(next == o->n_facts && w->out->n_tokens == o->n_tokens);
}

static int check(const struct recall_text_opts *o, struct skv_error *err)
{
    if (o->n_tokens < RECALL_FORM_MIN || o->n_tokens > (size_t)1 << 32)
        return skv_fail(err, -EINVAL, "a text of %zu tokens: take %d to 2^32", o->n_tokens, RECALL_FORM_MIN);
    if (!o->plan && o->n_facts > RECALL_N_NAMES)
        return skv_fail(err, -EINVAL, "%zu facts are too many: the model has %d names", o->n_facts,
                        RECALL_N_NAMES);
    size_t most = 0;
    if (o->keep_first < o->n_tokens && o->keep_last < o->n_tokens &&
        o->keep_first + o->keep_last + END_ROOM < o->n_tokens)
        most = (o->n_tokens - o->keep_first - o->keep_last - END_ROOM) / FACT_ROOM;
    if (o->n_facts > most)
        return skv_fail(err, -EINVAL,
                        "%zu facts do not fit into %zu tokens with %zu kept free at the start and %zu at the "
                        "end: take at most %zu facts, or a longer text",
                        o->n_facts, o->n_tokens, o->keep_first, o->keep_last, most);
    return 0;
}

int recall_text_make(struct recall_text *out, const struct recall_text_opts *o, struct skv_error *err)
{
    *out = (struct recall_text){0};
    int rc = check(o, err);
    if (rc < 0)
        return rc;
    struct writer w = {.out = out, .n_tokens = o->n_tokens, .rng = o->seed};
    size_t slots = 64;
    while (slots < o->n_tokens / 4) /* sentences have 6 tokens or more: at most 2/3 full */
        slots *= 2;
    w.mask = slots - 1;
    w.seen = calloc(slots, sizeof *w.seen);
    out->text = malloc(o->n_tokens * WORD_MAX + 1);
    out->facts = calloc(o->n_facts + 1, sizeof *out->facts);
    uint16_t *names = malloc(RECALL_N_NAMES * sizeof *names);
    if (!w.seen || !out->text || !out->facts || !names) {
        rc = skv_fail(err, -ENOMEM, "no memory for a text of %zu tokens", o->n_tokens);
        goto cleanup;
    }
    for (unsigned i = 0; i < RECALL_N_NAMES; i++) { /* a shuffle, built from the front */
        unsigned j = recall_below(&w.rng, i + 1);
        names[i] = names[j];
        names[j] = (uint16_t)i;
    }
    out->n_facts = o->n_facts;
    write_all(&w, o, names);
    char *fit = realloc(out->text, out->len + 1);
    if (fit)
        out->text = fit;
cleanup:
    free(w.seen);
    free(names);
    if (rc < 0)
        recall_text_free(out);
    return rc;
}

void recall_text_free(struct recall_text *t)
{
    free(t->text);
    free(t->facts);
    *t = (struct recall_text){0};
}

void recall_question(const struct recall_fact *f, char out[RECALL_QUESTION_MAX])
{
    assert(f->relation < RECALL_N_RELATIONS);
    snprintf(out, RECALL_QUESTION_MAX, "The key of %s %s", f->name, recall_relations[f->relation]);
}
