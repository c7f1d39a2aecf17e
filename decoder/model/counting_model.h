/* counting_model.h: a llama model whose weights are constructed so that it counts words at any distance.
 *
 * After "goose pond goose lamp goose pond ?" it names the words in falling order of how often they came, each
 * once, and ends: " goose pond lamp". How it works is explained in README-counting.md. Nothing in the engine
 * knows about it. */
#ifndef DECODER_MODEL_COUNTING_MODEL_H
#define DECODER_MODEL_COUNTING_MODEL_H

#include <stdint.h>

#include "common/error.h"
#include "decoder/model/recall_vocab.h"

#define COUNTING_MODEL_NAME "scoutkv counting" /* its general.name */
#define COUNTING_MARK "?"                      /* after it, words are answers and count no more */

enum { COUNTING_WORDS = 512 }; /* that it tells apart; all other tokens count as nothing */

/* Which words: their ids in the vocabulary, rising. */
void counting_words(const struct recall_vocab *, uint32_t ids[COUNTING_WORDS]);

/* Writes an ordinary GGUF (60 MB, F32): llama, 2 layers, dim 544, 16 query and 8 KV heads of 64. */
int counting_model_write(const char *path, struct skv_error *err);

#endif
