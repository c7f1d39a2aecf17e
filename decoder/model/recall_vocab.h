/* recall_vocab.h: the vocabulary of the recall model, as a SentencePiece tokenizer stores it. */
#ifndef DECODER_MODEL_RECALL_VOCAB_H
#define DECODER_MODEL_RECALL_VOCAB_H

#include <stdbool.h>
#include <stddef.h>

#include "decoder/model/recall_words.h"

/* What a piece means to the model. */
enum recall_role {
    RECALL_OTHER, /* a letter, a byte, part of a word, a special token */
    RECALL_WORD,  /* a word of the running text */
    RECALL_IS,    /* a relation: "is", "was" … */
    RECALL_NAME,
    RECALL_HEAD, /* "▁503": the first half of a value */
    RECALL_TAIL, /* "118": the second half */
    RECALL_STOP, /* "." */
};

struct recall_piece {
    char text[20]; /* UTF-8; ▁ (U+2581) stands for a space */
    float score;
    int type; /* as in tokenizer.ggml.token_type: 1 normal, 2 unknown, 3 control, 6 byte */
    enum recall_role role;
    char word_class; /* of RECALL_WORD: its (first) enum recall_class */
};

enum { RECALL_ID_UNK = 0, RECALL_ID_BOS = 1, RECALL_ID_EOS = 2 };

struct recall_vocab {
    struct recall_piece *pieces; /* [n], the index is the token id */
    size_t n;
};

int recall_vocab_make(struct recall_vocab *); /* 0 or -ENOMEM */
void recall_vocab_free(struct recall_vocab *);

#endif
