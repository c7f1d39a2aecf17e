/* recall_words.h: the small language of the recall model: its words, its names, its sentence forms.
 *
 * Every word, name and mark is one token of the model, and a value of six digits is two. The language is
 * fixed; seeds choose the model's codes and a corpus's sentences, never the words. */
#ifndef DECODER_MODEL_RECALL_WORDS_H
#define DECODER_MODEL_RECALL_WORDS_H

#include <stddef.h>
#include <stdint.h>

/* Word classes; a sentence form is a string of these letters and of the marks ',' and '.'. */
enum recall_class {
    RECALL_START = 'S',  /* The, Every …: a determiner that opens a sentence */
    RECALL_OPEN = 'O',   /* Yesterday, Later …: opens a sentence, before a comma */
    RECALL_DET = 'D',    /* the, every … */
    RECALL_ADJ = 'A',    /* quiet … */
    RECALL_NOUN = 'N',   /* miller … */
    RECALL_VERB = 'V',   /* carried …: takes an object */
    RECALL_INTR = 'I',   /* waited …: takes none */
    RECALL_PREP = 'P',   /* across, of … */
    RECALL_ADVERB = 'R', /* slowly … */
    RECALL_CONJ = 'C',   /* while … */
    RECALL_FRAME = 'F',  /* key, is …: words that only facts use */
};
extern const char recall_classes[]; /* all of them */

/* The words of a class, without spaces around; *n of them. */
const char *const *recall_words(enum recall_class, size_t *n);

/* Sentence forms; form i has strlen(recall_forms[i]) tokens. Every length from the shortest to the longest
 * exists, so that sentences can fill any number of tokens exactly. */
extern const char *const recall_forms[];
extern const size_t recall_n_forms;
#define RECALL_FORM_MIN 6
#define RECALL_FORM_MAX 16

/* What may stand between a name and its value: each makes a value of its own for the same name. The first is
 * "is". */
#define RECALL_N_RELATIONS 4
#define RECALL_RELATION_MAX 8 /* bytes with the final 0 */
extern const char recall_relations[RECALL_N_RELATIONS][RECALL_RELATION_MAX];

/* Names: a consonant, a vowel, a consonant and an ending, as in "Levet". */
#define RECALL_N_NAMES 3360
#define RECALL_NAME_MAX 6 /* bytes with the final 0 */
void recall_name(unsigned i, char out[RECALL_NAME_MAX]);

/* A seeded stream of random numbers (splitmix64), equal on every machine. */
static inline uint64_t recall_rand(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
static inline uint32_t recall_below(uint64_t *state, uint32_t n) /* uniform in [0, n), n > 0 */
{
    return (uint32_t)(((recall_rand(state) >> 32) * n) >> 32);
}
static inline double recall_unit(uint64_t *state) /* uniform in [0, 1) */
{
    return (double)(recall_rand(state) >> 11) * 0x1p-53;
}

#endif
