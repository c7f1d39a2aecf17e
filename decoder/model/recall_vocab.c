/* recall_vocab.c: pieces so chosen that merging always ends in whole words.
 *
 * A SentencePiece tokenizer starts from characters and keeps merging the neighbours whose union is the piece
 * of highest score. Here every word is a piece together with all its prefixes, each with the leading space
 * mark, and besides digits nothing else is longer than a character: a merge can only take the next character
 * to a word's beginning, so it runs from the left to the end of the word whatever the scores.
 *
 * Only digits need scores: "▁503118" must become "▁503" "118", though any two or three digits are a piece
 * too. Pieces with the space mark come before those without; among equals the tokenizer takes the leftmost.
 */
#include "decoder/model/recall_vocab.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SPACE "\xe2\x96\x81"
#define SPACE_BYTES 3

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_BYTE = 6, N_FIXED = 3 + 256 };
static const float score_marked = -1, score_plain = -2;

/* Room for pieces with their duplicates: the sum of the lengths of all words is far below. */
enum { MOST_PIECES = 40000 };

static void add(struct recall_vocab *v, const char *text, size_t len, float score, int type,
                enum recall_role role, char word_class)
{
    assert(v->n < MOST_PIECES && len < sizeof v->pieces->text);
    struct recall_piece *p = &v->pieces[v->n++];
    *p = (struct recall_piece){.score = score, .type = type, .role = role, .word_class = word_class};
    memcpy(p->text, text, len);
}

/* A word and its prefixes, "▁" itself not among them. */
static void add_word(struct recall_vocab *v, const char *word, enum recall_role role, char word_class)
{
    char text[32];
    size_t len = (size_t)snprintf(text, sizeof text, SPACE "%s", word);
    for (size_t k = SPACE_BYTES + 1; k < len; k++)
        add(v, text, k, score_marked, TYPE_NORMAL, RECALL_OTHER, 0);
    add(v, text, len, score_marked, TYPE_NORMAL, role, word_class);
}

static void add_fixed(struct recall_vocab *v)
{
    add(v, "<unk>", 5, 0, TYPE_UNKNOWN, RECALL_OTHER, 0);
    add(v, "<s>", 3, 0, TYPE_CONTROL, RECALL_OTHER, 0);
    add(v, "</s>", 4, 0, TYPE_CONTROL, RECALL_OTHER, 0);
    for (unsigned b = 0; b < 256; b++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", b);
        add(v, text, 6, 0, TYPE_BYTE, RECALL_OTHER, 0);
    }
    assert(v->n == N_FIXED);
}

static bool is_relation(const char *word)
{
    for (unsigned i = 0; i < RECALL_N_RELATIONS; i++) {
        if (strcmp(word, recall_relations[i]) == 0)
            return true;
    }
    return false;
}

static void add_words(struct recall_vocab *v)
{
    for (const char *c = recall_classes; *c; c++) {
        size_t n;
        const char *const *words = recall_words((enum recall_class) * c, &n);
        for (size_t i = 0; i < n; i++)
            add_word(v, words[i], is_relation(words[i]) ? RECALL_IS : RECALL_WORD, *c);
    }
    for (unsigned i = 0; i < RECALL_N_NAMES; i++) {
        char name[RECALL_NAME_MAX];
        recall_name(i, name);
        add_word(v, name, RECALL_NAME, 0);
    }
}

static void add_digits_and_chars(struct recall_vocab *v)
{
    char d[4];
    for (unsigned i = 0; i < 1000; i++) {
        snprintf(d, sizeof d, "%03u", i);
        add_word(v, d, RECALL_HEAD, 0);
        add(v, d, 3, score_plain, TYPE_NORMAL, RECALL_TAIL, 0);
        if (i % 10 == 0)
            add(v, d, 2, score_plain, TYPE_NORMAL, RECALL_OTHER, 0);
    }
    add(v, SPACE, SPACE_BYTES, score_plain, TYPE_NORMAL, RECALL_OTHER, 0);
    for (char c = '!'; c <= '~'; c++)
        add(v, &c, 1, score_plain, TYPE_NORMAL, c == '.' ? RECALL_STOP : RECALL_OTHER, 0);
}

/* By text; among equal texts the one with the highest role first, then in the order of classes. */
static int by_text(const void *a, const void *b)
{
    const struct recall_piece *x = a, *y = b;
    int c = strcmp(x->text, y->text);
    if (c == 0)
        c = (int)y->role - (int)x->role;
    return c ? c : x->word_class - y->word_class;
}

int recall_vocab_make(struct recall_vocab *v)
{
    *v = (struct recall_vocab){.pieces = calloc(MOST_PIECES, sizeof *v->pieces)};
    if (!v->pieces)
        return -ENOMEM;
    add_fixed(v);
    add_words(v);
    add_digits_and_chars(v);
    qsort(v->pieces + N_FIXED, v->n - N_FIXED, sizeof *v->pieces, by_text);
    size_t n = N_FIXED;
    for (size_t i = N_FIXED; i < v->n; i++) {
        if (i == N_FIXED || strcmp(v->pieces[i].text, v->pieces[n - 1].text) != 0)
            v->pieces[n++] = v->pieces[i];
    }
    v->n = n;
    return 0;
}

void recall_vocab_free(struct recall_vocab *v)
{
    free(v->pieces);
    *v = (struct recall_vocab){0};
}
