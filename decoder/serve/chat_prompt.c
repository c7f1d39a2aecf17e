#include "decoder/serve/chat_prompt.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int chat_template_choose(const struct gguf *g, const char *name, enum chat_template *out,
                         struct skv_error *err)
{
    struct gguf_str jinja = {0};
    if (name ? chat_template_named(name, out)
             : gguf_string(g, "tokenizer.chat_template", GGUF_OPT, &jinja, NULL) == 0 && jinja.len &&
                   chat_template_recognise(jinja.data, jinja.len, out))
        return 0;
    return skv_fail(err, -EINVAL, "the model's file has %s",
                    jinja.len ? "a chat template that is none of those known here" : "no chat template");
}

int chat_prompt(const struct tokenizer *tok, enum chat_template t, const struct chat_message *m, size_t n,
                uint32_t **ids, size_t *n_ids, struct skv_error *err)
{
    struct chat_text text;
    bool bos = tokenizer_adds_bos(tok);
    int rc = chat_template_write(t, m, n, &text, err);
    *ids = NULL;
    *n_ids = 0;
    for (size_t i = 0; !rc && i < text.n_parts; i++, bos = false) {
        const struct chat_part *p = &text.parts[i];
        uint32_t *part, *grown;
        size_t n_part;
        rc =
            tokenizer_encode(tok, text.text + p->from, p->to - p->from, bos, p->control, &part, &n_part, err);
        if (rc)
            break;
        grown = realloc(*ids, (*n_ids + n_part + 1) * sizeof *grown);
        if (grown) {
            memcpy(grown + *n_ids, part, n_part * sizeof *part);
            *ids = grown;
            *n_ids += n_part;
        } else {
            rc = skv_fail(err, -ENOMEM, "out of memory");
        }
        free(part);
    }
    chat_text_free(&text);
    if (rc) {
        free(*ids);
        *ids = NULL;
    }
    return rc;
}

int chat_prompt_stop(const struct tokenizer *tok, enum chat_template t, const char **stop,
                     struct skv_error *err)
{
    const char *end = chat_template_end(t);
    uint32_t *ids;
    size_t n;
    int rc = tokenizer_encode(tok, end, strlen(end), false, true, &ids, &n, err);
    if (rc)
        return rc;
    *stop = n == 1 && tokenizer_is_eog(tok, ids[0]) ? NULL : end;
    free(ids);
    return 0;
}
