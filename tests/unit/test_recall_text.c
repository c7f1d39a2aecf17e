/* test_recall_text.c: the recall model's corpus, and that the tokenizer sees it as it is meant. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <math.h>
#include <cmocka.h>

#include "decoder/model/recall_model.h"
#include "decoder/model/recall_text.h"
#include "decoder/model/recall_vocab.h"
#include "decoder/model/tokenizer.h"

static void *grab(size_t n, size_t size)
{
    void *p = calloc(n, size);
    assert_non_null(p);
    return p;
}

/* The tokenizer of a recall model as written. */
static int open_tokenizer(void **state)
{
    struct skv_error err = {0};
    struct gguf *file = NULL;
    struct tokenizer *tok = NULL;
    const char *dir = getenv("TMPDIR");
    char path[4096];
    snprintf(path, sizeof path, "%s/test_recall_text-XXXXXX", dir ? dir : "/tmp");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    if (recall_model_write(path, &(struct recall_opts){.seed = 7}, &err) < 0 ||
        gguf_open(path, &file, &err) < 0 || tokenizer_from_gguf(file, &tok, &err) < 0)
        fail_msg("%s", err.text);
    unlink(path);
    gguf_close(file);
    *state = tok;
    return 0;
}

static int close_tokenizer(void **state)
{
    tokenizer_free(*state);
    return 0;
}

static size_t encode(const struct tokenizer *tok, const char *text, uint32_t **ids)
{
    size_t n;
    struct skv_error err = {0};
    if (tokenizer_encode(tok, text, strlen(text), false, false, ids, &n, &err) < 0)
        fail_msg("%s", err.text);
    return n;
}

static struct recall_text make_text(uint64_t seed, size_t n_tokens, size_t n_facts, size_t keep_last)
{
    struct recall_text t;
    struct skv_error err = {0};
    struct recall_text_opts o = {seed, n_tokens, n_facts, 16, keep_last, NULL};
    if (recall_text_make(&t, &o, &err) < 0)
        fail_msg("%s", err.text);
    return t;
}

static int by_string(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void assert_all_differ(char **s, size_t n, const char *what)
{
    qsort(s, n, sizeof *s, by_string);
    for (size_t i = 1; i < n; i++) {
        if (strcmp(s[i - 1], s[i]) == 0)
            fail_msg("%s occurs twice: \"%s\"", what, s[i]);
    }
}

static void text_is_as_described(void **state)
{
    (void)state;
    const size_t n_tokens = 200000, n_facts = 410, window = 1024;
    struct recall_text t = make_text(6, n_tokens, n_facts, window),
                       u = make_text(6, n_tokens, n_facts, window);
    assert_int_equal(t.len, strlen(t.text));
    assert_string_equal(t.text, u.text);
    recall_text_free(&u);
    char **names = grab(n_facts, sizeof *names), **sentences = grab(n_tokens / 6, sizeof *sentences);
    double part = (double)(n_tokens - window) / (double)n_facts;
    const char *from = t.text;
    for (size_t i = 0; i < n_facts; i++) {
        char want[64];
        const struct recall_fact *f = &t.facts[i];
        names[i] = t.facts[i].name;
        assert_true(f->token >= 16 && f->token + RECALL_FACT_TOKENS + window <= n_tokens);
        if (fabs((double)f->token - part * ((double)i + 0.5)) > part / 2 + 64)
            fail_msg("fact %zu of %zu lies at token %zu", i, n_facts, f->token);
        snprintf(want, sizeof want, " The key of %s is %s.", f->name, f->value);
        from = strstr(from, want); /* in the order of the text */
        assert_non_null(from);
    }
    assert_all_differ(names, n_facts, "a name");
    size_t n = 0;
    for (char *s = strtok(t.text, "."); s; s = strtok(NULL, "."))
        sentences[n++] = s;
    assert_all_differ(sentences, n, "a sentence");
    printf("%zu sentences, all different\n", n);
    free(names);
    free(sentences);
    recall_text_free(&t);
}

static void every_length_is_met(void **state)
{
    (void)state;
    struct recall_text t;
    struct skv_error err;
    for (size_t n = RECALL_FORM_MIN; n < 200; n++) {
        assert_int_equal(recall_text_make(&t, &(struct recall_text_opts){.seed = n, .n_tokens = n}, &err), 0);
        assert_int_equal(t.n_tokens, n);
        recall_text_free(&t);
    }
    for (size_t n_facts = 1; n_facts < 128; n_facts++) { /* as dense as it goes */
        struct recall_text_opts o = {
            .seed = n_facts, .n_tokens = 24 * n_facts + 148, .n_facts = n_facts, .keep_last = 100};
        assert_int_equal(recall_text_make(&t, &o, &err), 0);
        recall_text_free(&t);
        o.n_facts += 2;
        assert_int_equal(recall_text_make(&t, &o, &err), -EINVAL);
    }
    assert_int_equal(recall_text_make(&t, &(struct recall_text_opts){.n_tokens = 5}, &err), -EINVAL);
    assert_int_equal(
        recall_text_make(&t, &(struct recall_text_opts){.n_tokens = 1000, .n_facts = 2, .keep_last = 999},
                         &err),
        -EINVAL);
    assert_int_equal(
        recall_text_make(&t, &(struct recall_text_opts){.n_tokens = 1u << 30, .n_facts = RECALL_N_NAMES + 1},
                         &err),
        -EINVAL);
}

/* Facts as planned, where planned as far as there is room, and the tokenizer counts the same. */
static void a_plan_is_followed(void **state)
{
    enum { FACTS = 100, TOKENS = 20000, LAST = 500 };
    struct recall_plan plan[FACTS] = {0};
    struct recall_text_opts o = {
        .seed = 9, .n_tokens = TOKENS, .n_facts = FACTS, .keep_first = 64, .keep_last = LAST, .plan = plan};
    struct recall_text t;
    struct skv_error err = {0};
    uint32_t *ids;
    for (unsigned i = 0; i < FACTS; i++) {
        recall_name(i, plan[i].name);
        recall_name(i + 1, plan[i].value);
        plan[i].relation = i % RECALL_N_RELATIONS;
        plan[i].at = i < 20 ? 0.05 : i < 60 ? 0.5 : 1; /* heaps, the last one where there is no room */
    }
    if (recall_text_make(&t, &o, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(encode(*state, t.text, &ids), TOKENS);
    for (unsigned i = 0; i < FACTS; i++) {
        const struct recall_fact *f = &t.facts[i];
        char want[64];
        snprintf(want, sizeof want, " The key of %s %s %s.", f->name, recall_relations[f->relation],
                 f->value);
        assert_string_equal(f->name, plan[i].name);
        assert_non_null(strstr(t.text, want));
        assert_true(f->token >= 64 && f->token + RECALL_FACT_TOKENS - 1 <= TOKENS - LAST);
        double at = (double)f->token / TOKENS;
        assert_true(i < 20 ? at > 0.05 && at < 0.08 : i < 60 ? at > 0.45 && at < 0.55 : at > 0.85);
    }
    free(ids);
    recall_text_free(&t);
}

/* The id that is meant for a piece of text; a plain search, so that it can be wrong only in what it wants. */
static uint32_t meant(const struct recall_vocab *v, const char *mark, const char *text, size_t len)
{
    char piece[64];
    snprintf(piece, sizeof piece, "%s%.*s", mark, (int)len, text);
    for (uint32_t i = 259; i < v->n; i++) {
        if (strcmp(v->pieces[i].text, piece) == 0)
            return i;
    }
    fail_msg("no piece \"%s\"", piece);
    return 0;
}

static void words_are_tokens(void **state)
{
    struct recall_vocab v;
    struct recall_text t = make_text(7, 6000, 200, 0);
    uint32_t *ids;
    size_t n = encode(*state, t.text, &ids), i = 0;
    assert_int_equal(recall_vocab_make(&v), 0);
    assert_int_equal(n, t.n_tokens);
    for (const char *s = t.text; *s; s += *s == ' ') {
        size_t len = strcspn(s, " ,."), head = len == RECALL_DIGITS && *s <= '9' ? 3 : len;
        assert_int_equal(ids[i++], meant(&v, "\xe2\x96\x81", s, head));
        if (head < len)
            assert_int_equal(ids[i++], meant(&v, "", s + head, len - head));
        for (s += len; *s == ',' || *s == '.'; s++)
            assert_int_equal(ids[i++], meant(&v, "", s, 1));
    }
    assert_int_equal(i, n);
    free(ids);
    recall_text_free(&t);
    recall_vocab_free(&v);
}

static void names_and_values_are_tokens(void **state)
{
    uint32_t *ids;
    for (unsigned i = 0; i < RECALL_N_NAMES; i++) {
        char name[RECALL_NAME_MAX];
        recall_name(i, name);
        size_t n = encode(*state, name, &ids);
        if (n != 1)
            fail_msg("the name %s is %zu tokens", name, n);
        free(ids);
    }
    uint64_t rng = 8;
    for (unsigned i = 0; i < 20000; i++) {
        char value[16];
        unsigned number = i < 1000 ? i * 1001 : recall_below(&rng, 1000000); /* doubled triples first */
        snprintf(value, sizeof value, "%06u", number);
        size_t n = encode(*state, value, &ids);
        if (n != 2 || tokenizer_piece(*state, ids[0], false).len != 4 ||
            memcmp(tokenizer_piece(*state, ids[1], false).data, value + 3, 3) != 0)
            fail_msg("%s is %zu tokens, not its two halves", value, n);
        free(ids);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_is_as_described),        cmocka_unit_test(every_length_is_met),
        cmocka_unit_test(a_plan_is_followed),          cmocka_unit_test(words_are_tokens),
        cmocka_unit_test(names_and_values_are_tokens),
    };
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
