/* chat_template.h: how a conversation is written out for a model that was trained on conversations.
 *
 * Model files carry a program for that (tokenizer.chat_template, in Jinja). We run no programs from files:
 * the common families are recognised by the marks that their programs write, and written here. A conversation
 * becomes parts that are text and parts that name control tokens; only the latter may become such tokens, so
 * what users write never does. */
#ifndef SERVE_CHAT_TEMPLATE_H
#define SERVE_CHAT_TEMPLATE_H

#include "common/error.h"

#include <stdbool.h>
#include <stddef.h>

enum chat_template {
    CHAT_CHATML,     /* Qwen and many others */
    CHAT_LLAMA2,     /* Llama 2 */
    CHAT_LLAMA3,     /* Llama 3 to 3.3 */
    CHAT_MISTRAL,    /* Mistral and Mixtral Instruct, v0.1 and v0.2 */
    CHAT_MISTRAL_V3, /* v0.3, Nemo, Codestral: no blanks around the marks, which are control tokens */
    CHAT_GEMMA,      /* Gemma, Gemma 2 and 3 */
    CHAT_PHI3,       /* Phi-3 and Phi-3.5 */
    CHAT_TEMPLATES
};
#define CHAT_TEMPLATE_CHOICES "chatml|llama2|llama3|mistral|mistral-v3|gemma|phi-3"

const char *chat_template_name(enum chat_template);
bool chat_template_named(const char *name, enum chat_template *out);
/* What a file's Jinja program writes; false: none of these. */
bool chat_template_recognise(const char *jinja, size_t len, enum chat_template *out);

enum chat_role { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT };
struct chat_message {
    enum chat_role role;
    const char *text;
    size_t len;
};

struct chat_part {
    bool control; /* names of control tokens, else text */
    size_t from, to;
};
struct chat_text {
    char *text; /* malloc'd, not NUL-terminated */
    size_t len, room;
    struct chat_part *parts; /* malloc'd; neighbours differ in kind */
    size_t n_parts;
};

/* The conversation up to where the model speaks, without the token that begins a text (BOS). -EINVAL says
 * which message the family has no form for. *out is to be freed, on failure too. */
int chat_template_write(enum chat_template, const struct chat_message *, size_t n, struct chat_text *out,
                        struct skv_error *);
void chat_text_free(struct chat_text *);

/* The control token that ends what the model says. Where a vocabulary does not have it, it comes as text. */
const char *chat_template_end(enum chat_template);

#endif
