/* counting_text.c: what each word's count is, a shuffle, and the text.
 *
 * Tokens are counted without a tokenizer, as the vocabulary cuts: a word is one token, a full stop one, three
 * digits one, and the space mark before "...." one. */
#include "decoder/model/counting_text.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    NOISE = COUNTING_WORDS, /* in the place of a word */
    NOISE_TOKENS = 5,
    MORE_OFTEN = 10, /* times as often as others come the common words */
    LEAST_OFTEN = 3, /* which come this often at least */
    LEAST_OTHERS = 20,
    SPACE_MARK = 3, /* bytes before a piece's word */
    ITEM_MAX = 40   /* bytes */
};

struct maker {
    struct counting_text *out;
    struct recall_vocab vocab;
    uint32_t id[COUNTING_WORDS];
    uint64_t random;
    uint16_t rank[COUNTING_WORDS]; /* all words, shuffled: the first are the most frequent */
    uint16_t *items;               /* words in the order of the text */
    size_t n_items, n_noise;
};

static void shuffle(uint64_t *random, uint16_t *a, size_t n)
{
    for (size_t i = n; i > 1; i--) {
        size_t other = recall_below(random, (uint32_t)i);
        uint16_t x = a[i - 1];
        a[i - 1] = a[other];
        a[other] = x;
    }
}

/* Tokens of "12345. word". */
static size_t item_tokens(size_t number)
{
    size_t digits = 1;
    while (number >= 10) {
        number /= 10;
        digits++;
    }
    return (digits + 2) / 3 + 2;
}

/* How many items of a numbered list n tokens hold. */
static size_t list_items(size_t n_tokens, size_t *used)
{
    size_t n = 0, sum = 0;
    while (sum + item_tokens(n + 1) <= n_tokens)
        sum += item_tokens(++n);
    *used = sum;
    return n;
}

static int count_common(struct maker *m, size_t n_tokens)
{
    const size_t common = COUNTING_COMMON_WORDS, weight = common * MORE_OFTEN;
    size_t items = list_items(n_tokens, &m->out->n_tokens), others = COUNTING_WORDS - common;
    if (items < (weight + LEAST_OTHERS) * LEAST_OFTEN)
        return -EINVAL;
    if (items < (weight + others) * LEAST_OFTEN)
        others = items / LEAST_OFTEN - weight;
    uint32_t often = (uint32_t)(items / (weight + others));
    size_t over = items - (weight + others) * often;
    for (size_t i = 0; i < common + others; i++)
        m->out->count[m->rank[i]] = i < common ? often * MORE_OFTEN : often;
    for (size_t i = 0; i < over; i++) /* what doesn't divide */
        m->out->count[m->rank[common + i % others]]++;
    m->out->n_answers = common;
    return 0;
}

/* Of n places those of the word of rank k = 1, 2 … */
static uint32_t zipf(size_t n, size_t k)
{
    static const double zeta_2 = 1.6449340668482264;
    return (uint32_t)((double)n / ((double)k * (double)k * zeta_2));
}

static size_t zipf_tokens(size_t n)
{
    size_t sum = (size_t)zipf(n, 1) * NOISE_TOKENS;
    for (size_t i = 0; i < COUNTING_WORDS; i++)
        sum += zipf(n, i + 2);
    return sum;
}

static int count_frequent(struct maker *m, size_t n_tokens)
{
    size_t n = 0;
    for (size_t step = n_tokens; step > 0; step /= 2)
        while (zipf_tokens(n + step) <= n_tokens)
            n += step;
    m->n_noise = zipf(n, 1);
    for (size_t i = 0; i < COUNTING_WORDS; i++)
        m->out->count[m->rank[i]] = zipf(n, i + 2);
    m->out->n_answers = COUNTING_FREQUENT_WORDS;
    m->out->n_tokens = zipf_tokens(n);
    return zipf(n, COUNTING_FREQUENT_WORDS + 1) > zipf(n, COUNTING_FREQUENT_WORDS + 2) ? 0 : -EINVAL;
}

static int place_items(struct maker *m)
{
    m->n_items = m->n_noise;
    for (unsigned w = 0; w < COUNTING_WORDS; w++)
        m->n_items += m->out->count[w];
    m->items = malloc(m->n_items * sizeof *m->items);
    if (!m->items)
        return -ENOMEM;
    size_t n = 0;
    for (unsigned w = 0; w <= NOISE; w++)
        for (size_t left = w == NOISE ? m->n_noise : m->out->count[w]; left; left--)
            m->items[n++] = (uint16_t)w;
    assert(n == m->n_items);
    shuffle(&m->random, m->items, n);
    return 0;
}

static int write_items(struct maker *m, bool numbered)
{
    struct counting_text *t = m->out;
    t->text = malloc(m->n_items * ITEM_MAX + 1);
    if (!t->text)
        return -ENOMEM;
    for (size_t i = 0; i < m->n_items; i++) {
        const char *word =
            m->items[i] == NOISE ? "...." : m->vocab.pieces[m->id[m->items[i]]].text + SPACE_MARK;
        char number[24] = "";
        if (numbered)
            snprintf(number, sizeof number, "%zu. ", i + 1);
        t->len += (size_t)snprintf(t->text + t->len, ITEM_MAX, "%s%s%s", i ? " " : "", number, word);
    }
    char *fit = realloc(t->text, t->len + 1);
    if (fit)
        t->text = fit;
    return 0;
}

int counting_text_make(struct counting_text *out, enum counting_kind kind, uint64_t seed, size_t n_tokens,
                       struct skv_error *err)
{
    struct maker m = {.out = out, .random = seed};
    *out = (struct counting_text){0};
    int rc = recall_vocab_make(&m.vocab);
    if (rc == 0) {
        counting_words(&m.vocab, m.id);
        for (unsigned i = 0; i < COUNTING_WORDS; i++)
            m.rank[i] = (uint16_t)i;
        shuffle(&m.random, m.rank, COUNTING_WORDS);
        rc = kind == COUNTING_COMMON ? count_common(&m, n_tokens) : count_frequent(&m, n_tokens);
        for (size_t i = 0; i < out->n_answers; i++)
            out->answer[i] = m.rank[i];
    }
    if (rc == 0)
        rc = place_items(&m);
    if (rc == 0)
        rc = write_items(&m, kind == COUNTING_COMMON);
    if (rc == -EINVAL)
        skv_fail(err, rc, "%zu tokens are too few for words to be common in: take 1500 or more", n_tokens);
    else if (rc < 0)
        skv_fail(err, rc, "no memory for a text of %zu tokens", n_tokens);
    recall_vocab_free(&m.vocab);
    free(m.items);
    if (rc < 0)
        counting_text_free(out);
    return rc;
}

void counting_text_free(struct counting_text *t)
{
    free(t->text);
    *t = (struct counting_text){0};
}
