/* test_counting.c: the constructed counting model, run densely by our own forward pass, names every word of a
 * text in the order of its count; its texts hold what RULER's definitions say, in as many tokens as they
 * claim. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "decoder/model/counting_model.h"
#include "decoder/model/counting_text.h"
#include "decoder/model/tokenizer.h"
#include "tests/unit/model_run.h"

static const char *model_path;

struct counter {
    struct run run;
    struct tokenizer *tok;
    struct recall_vocab vocab;
    uint32_t word[COUNTING_WORDS];
    float *logits;
};

static struct counter counter_open(void)
{
    struct counter c = {.run = run_start(model_path, SKV_F16, 1)};
    struct skv_error err = {0};
    if (tokenizer_from_gguf(c.run.model->gguf, &c.tok, &err))
        fail_msg("%s", err.text);
    assert_int_equal(recall_vocab_make(&c.vocab), 0);
    assert_int_equal(c.vocab.n, c.run.model->params.vocab);
    counting_words(&c.vocab, c.word);
    c.logits = calloc(c.vocab.n, sizeof *c.logits);
    assert_non_null(c.logits);
    return c;
}

static void counter_close(struct counter *c)
{
    recall_vocab_free(&c->vocab);
    tokenizer_free(c->tok);
    free(c->logits);
    run_end(&c->run);
}

static void feed(struct counter *c, const uint32_t *ids, size_t n)
{
    struct skv_error err = {0};
    for (size_t i = 0; i < n; i++)
        if (session_eval(c->run.session, SKV_DECODE, &ids[i], 1, c->logits, false, &err))
            fail_msg("%s", err.text);
}

/* Prefills the text, then asks. Returns the text's tokens. */
static size_t ask(struct counter *c, const char *text)
{
    struct skv_error err = {0};
    uint32_t *ids, *mark = NULL;
    size_t n, n_mark = 0;
    if (tokenizer_encode(c->tok, text, strlen(text), true, false, &ids, &n, &err) ||
        tokenizer_encode(c->tok, COUNTING_MARK, 1, false, false, &mark, &n_mark, &err))
        fail_msg("%s", err.text);
    run_restart(&c->run, SKV_F16);
    prefill(&c->run, ids, n, 512, NULL);
    feed(c, mark, n_mark);
    free(ids);
    free(mark);
    return n;
}

/* What the model says next; *lead: over the second, as a share of it. */
static uint32_t say(struct counter *c, double *lead)
{
    uint32_t best = 0;
    float second = -INFINITY;
    for (uint32_t i = 1; i < c->vocab.n; i++) {
        if (c->logits[i] > c->logits[best]) {
            second = c->logits[best];
            best = i;
        } else if (c->logits[i] > second) {
            second = c->logits[i];
        }
    }
    *lead = (double)(c->logits[best] - second) / (double)c->logits[best];
    feed(c, &best, 1);
    return best;
}

/* All words of a small text, to its end. Words after the mark count no more; what is no word counts never. */
static void names_words_in_order(void **state)
{
    (void)state;
    static const char *const want[] = {"\u2581bread", "\u2581goose", "\u2581pond", "\u2581lamp"};
    struct counter c = counter_open();
    double lead;
    ask(&c,
        "goose pond goose lamp, 17 goose pond .... bread bread bread bread Levet Levet Levet Levet Levet");
    for (size_t i = 0; i < 4; i++)
        assert_string_equal(c.vocab.pieces[say(&c, &lead)].text, want[i]);
    assert_int_equal(say(&c, &lead), RECALL_ID_EOS);
    counter_close(&c);
}

/* Every one of the 512 words: after a text in which the i-th comes i mod 5 + 1 times its logit is that count
 * (over that of all words), and after the first 25 answers those are the words of the largest. */
static void counts_exactly(void **state)
{
    (void)state;
    enum { MOST = 5, ALL = 102 * 15 + 1 + 2 }; /* 102 fives of words, and two words more */
    struct counter c = counter_open();
    char *text = calloc(COUNTING_WORDS * MOST, 20), *end = text;
    bool named[COUNTING_WORDS] = {false};
    double lead, worst = 0;
    assert_non_null(text);
    for (unsigned times = MOST; times > 0; times--)
        for (unsigned w = 0; w < COUNTING_WORDS; w++)
            if (w % MOST + 1 >= times)
                end += sprintf(end, "%s%s", end == text ? "" : " ", c.vocab.pieces[c.word[w]].text + 3);
    assert_int_equal(ask(&c, text), 1 + ALL);
    for (unsigned w = 0; w < COUNTING_WORDS; w++)
        worst = fmax(worst, fabs((double)c.logits[c.word[w]] * ALL / 256 / (w % MOST + 1) - 1));
    printf("512 words: a logit is off by %.1e of a count at most\n", worst);
    assert_true(worst < 2e-3); /* places between words, e^-16 each, and f16 */
    for (unsigned i = 0; i < 25; i++) {
        uint32_t id = say(&c, &lead);
        unsigned w = 0;
        while (w < COUNTING_WORDS && c.word[w] != id)
            w++;
        assert_true(w < COUNTING_WORDS && !named[w] && w % MOST + 1 == MOST);
        named[w] = true;
    }
    free(text);
    counter_close(&c);
}

static struct counting_text make_text(enum counting_kind kind, uint64_t seed, size_t n)
{
    struct counting_text t;
    struct skv_error err = {0};
    if (counting_text_make(&t, kind, seed, n, &err))
        fail_msg("%s", err.text);
    return t;
}

/* The model's answers to a text of each kind, against its counts. */
static void answers_texts(void **state)
{
    (void)state;
    struct counter c = counter_open();
    for (int kind = COUNTING_COMMON; kind <= COUNTING_FREQUENT; kind++) {
        struct counting_text t = make_text((enum counting_kind)kind, 7, 4095);
        assert_int_equal(ask(&c, t.text), t.n_tokens + 1);
        bool found[COUNTING_ANSWERS] = {false};
        double lead, least = INFINITY;
        for (size_t i = 0; i < t.n_answers; i++) {
            uint32_t id = say(&c, &lead);
            size_t a = 0;
            while (a < t.n_answers && c.word[t.answer[a]] != id)
                a++;
            assert_true(a < t.n_answers && !found[a]);
            found[a] = true;
            if (i + 1 == t.n_answers || kind == COUNTING_FREQUENT)
                least = lead < least ? lead : least;
        }
        printf("kind %d: the last answer leads by %.3f of its count\n", kind, least);
        assert_true(least > (kind == COUNTING_COMMON ? 0.8 : 0.3));
        counting_text_free(&t);
    }
    counter_close(&c);
}

/* Counts are those of the definitions, and of the text itself. */
static void check_counts(const struct counter *c, enum counting_kind kind, size_t n_tokens)
{
    struct counting_text t = make_text(kind, n_tokens, n_tokens);
    struct skv_error err = {0};
    uint32_t *ids, count[COUNTING_WORDS] = {0}, top = 0, next = 0;
    size_t n;
    assert_true(t.n_tokens <= n_tokens && t.n_tokens + 5 >= n_tokens);
    if (tokenizer_encode(c->tok, t.text, t.len, true, false, &ids, &n, &err))
        fail_msg("%s", err.text);
    assert_int_equal(n, t.n_tokens + 1);
    for (size_t i = 0; i < n; i++)
        for (unsigned w = 0; w < COUNTING_WORDS; w++)
            count[w] += ids[i] == c->word[w];
    assert_memory_equal(count, t.count, sizeof count);
    for (size_t i = 0; i < t.n_answers; i++) {
        top = count[t.answer[i]];
        count[t.answer[i]] = 0;
    }
    for (unsigned w = 0; w < COUNTING_WORDS; w++)
        next = count[w] > next ? count[w] : next;
    printf("%zu tokens: the last answer comes %u times, the next word %u times\n", n_tokens, top, next);
    if (kind == COUNTING_COMMON) /* ten times, but for what doesn't divide */
        assert_true(top >= 30 && top % 10 == 0 && next - top / 10 <= 2);
    else /* 1/16 and 1/25, cut to whole numbers */
        assert_true(top * 16 / 25 + 1 >= next && next + 1 >= top * 16 / 25);
    free(ids);
    counting_text_free(&t);
}

static void texts_follow_the_definitions(void **state)
{
    (void)state;
    static const size_t n[] = {1500, 4095, 20000};
    struct counter c = counter_open();
    for (size_t i = 0; i < sizeof n / sizeof *n; i++) {
        check_counts(&c, COUNTING_COMMON, n[i]);
        check_counts(&c, COUNTING_FREQUENT, n[i]);
    }
    struct counting_text t;
    struct skv_error err = {0};
    assert_int_equal(counting_text_make(&t, COUNTING_COMMON, 1, 500, &err), -EINVAL);
    assert_non_null(strstr(err.text, "too few"));
    counter_close(&c);
}

static int start(void **state)
{
    static char path[600];
    struct skv_error err = {0};
    if (set_up(state))
        return -1;
    snprintf(path, sizeof path, "%s", file_named("counting.gguf"));
    model_path = path;
    return counting_model_write(path, &err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_words_in_order),
        cmocka_unit_test(counts_exactly),
        cmocka_unit_test(answers_texts),
        cmocka_unit_test(texts_follow_the_definitions),
    };
    return cmocka_run_group_tests(tests, start, tear_down);
}
