#include "decoder/serve/chat_template.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[] = {"chatml", "llama2", "llama3", "mistral", "mistral-v3", "gemma", "phi-3"};
static_assert(sizeof names / sizeof *names == CHAT_TEMPLATES, "a name each");

const char *chat_template_name(enum chat_template t)
{
    return names[t];
}

bool chat_template_named(const char *name, enum chat_template *out)
{
    for (int i = 0; i < CHAT_TEMPLATES; i++)
        if (!strcmp(name, names[i])) {
            *out = (enum chat_template)i;
            return true;
        }
    return false;
}

static bool has(const char *text, size_t len, const char *mark)
{
    return memmem(text, len, mark, strlen(mark)) != NULL;
}

bool chat_template_recognise(const char *jinja, size_t len, enum chat_template *out)
{
    if (has(jinja, len, "<|im_start|>"))
        *out = CHAT_CHATML;
    else if (has(jinja, len, "<|start_header_id|>"))
        *out = CHAT_LLAMA3;
    else if (has(jinja, len, "<start_of_turn>"))
        *out = CHAT_GEMMA;
    else if (has(jinja, len, "<|assistant|>") && has(jinja, len, "<|end|>"))
        *out = CHAT_PHI3;
    else if (!has(jinja, len, "[INST]") || has(jinja, len, "[SYSTEM_PROMPT]"))
        return false;
    else if (has(jinja, len, "<<SYS>>"))
        *out = CHAT_LLAMA2;
    else
        *out = has(jinja, len, " [/INST]") ? CHAT_MISTRAL : CHAT_MISTRAL_V3;
    return true;
}

const char *chat_template_end(enum chat_template t)
{
    switch (t) {
    case CHAT_CHATML:
        return "<|im_end|>";
    case CHAT_LLAMA3:
        return "<|eot_id|>";
    case CHAT_GEMMA:
        return "<end_of_turn>";
    case CHAT_PHI3:
        return "<|end|>";
    default:
        return "</s>";
    }
}

/* ---- writing ---- */

static int add(struct chat_text *o, bool control, const char *text, size_t len)
{
    if (len == 0)
        return 0;
    if (o->len + len > o->room) {
        size_t room = 2 * (o->len + len);
        char *grown = realloc(o->text, room);
        if (!grown)
            return -ENOMEM;
        o->text = grown;
        o->room = room;
    }
    if (o->n_parts == 0 || o->parts[o->n_parts - 1].control != control) {
        struct chat_part *grown = realloc(o->parts, (o->n_parts + 1) * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        o->parts = grown;
        o->parts[o->n_parts++] = (struct chat_part){control, o->len, o->len};
    }
    memcpy(o->text + o->len, text, len);
    o->len += len;
    o->parts[o->n_parts - 1].to = o->len;
    return 0;
}

/* What goes around a message: {control, text} before it, {text, control, text} after it. */
static int put(struct chat_text *o, const char *control, const char *text)
{
    int rc = add(o, true, control, strlen(control));
    return rc ? rc : add(o, false, text, strlen(text));
}

/* Templates trim what is said. */
static int say(struct chat_text *o, const struct chat_message *m)
{
    const char *from = m->text, *to = m->text + m->len, blanks[] = " \t\r\n";
    while (from < to && memchr(blanks, *from, 4))
        from++;
    while (to > from && memchr(blanks, to[-1], 4))
        to--;
    return add(o, false, from, (size_t)(to - from));
}

static int verbatim(struct chat_text *o, const struct chat_message *m)
{
    return add(o, false, m->text, m->len);
}

static const char *role_name(enum chat_role r, const char *assistant)
{
    return r == CHAT_SYSTEM ? "system" : r == CHAT_USER ? "user" : assistant;
}

static int write_chatml(const struct chat_message *m, size_t n, struct chat_text *o)
{
    int rc = 0;
    for (size_t i = 0; i < n && !rc; i++) {
        rc = put(o, "<|im_start|>", role_name(m[i].role, "assistant"));
        rc = rc ? rc : put(o, "", "\n");
        rc = rc ? rc : verbatim(o, &m[i]);
        rc = rc ? rc : put(o, "<|im_end|>", "\n");
    }
    return rc ? rc : put(o, "<|im_start|>", "assistant\n");
}

static int write_llama3(const struct chat_message *m, size_t n, struct chat_text *o)
{
    int rc = 0;
    for (size_t i = 0; i < n && !rc; i++) {
        rc = put(o, "<|start_header_id|>", role_name(m[i].role, "assistant"));
        rc = rc ? rc : put(o, "<|end_header_id|>", "\n\n");
        rc = rc ? rc : say(o, &m[i]);
        rc = rc ? rc : put(o, "<|eot_id|>", "");
    }
    rc = rc ? rc : put(o, "<|start_header_id|>", "assistant");
    return rc ? rc : put(o, "<|end_header_id|>", "\n\n");
}

static int write_phi3(const struct chat_message *m, size_t n, struct chat_text *o)
{
    static const char *const marks[] = {"<|system|>", "<|user|>", "<|assistant|>"};
    int rc = 0;
    for (size_t i = 0; i < n && !rc; i++) {
        rc = put(o, marks[m[i].role], "\n");
        rc = rc ? rc : verbatim(o, &m[i]);
        rc = rc ? rc : put(o, "<|end|>", "\n");
    }
    return rc ? rc : put(o, "<|assistant|>", "\n");
}

/* The system's message goes before the first of the user's. */
static int write_gemma(const struct chat_message *m, size_t n, struct chat_text *o)
{
    const struct chat_message *system = m[0].role == CHAT_SYSTEM ? m : NULL;
    int rc = 0;
    for (size_t i = system ? 1 : 0; i < n && !rc; i++) {
        rc = put(o, "<start_of_turn>", role_name(m[i].role, "model"));
        rc = rc ? rc : put(o, "", "\n");
        if (!rc && system && i == 1) {
            rc = say(o, system);
            rc = rc ? rc : put(o, "", "\n\n");
        }
        rc = rc ? rc : say(o, &m[i]);
        rc = rc ? rc : put(o, "<end_of_turn>", "\n");
    }
    return rc ? rc : put(o, "<start_of_turn>", "model\n");
}

static int write_llama2(const struct chat_message *m, size_t n, struct chat_text *o)
{
    const struct chat_message *system = m[0].role == CHAT_SYSTEM ? m : NULL;
    size_t first = system ? 1 : 0;
    int rc = 0;
    for (size_t i = first; i < n && !rc; i++) {
        if (m[i].role == CHAT_ASSISTANT) {
            rc = put(o, "", " ");
            rc = rc ? rc : say(o, &m[i]);
            rc = rc ? rc : put(o, "", " ");
            rc = rc ? rc : put(o, "</s>", "");
            continue;
        }
        rc = put(o, i > first ? "<s>" : "", "[INST] ");
        if (!rc && system && i == first) {
            rc = put(o, "", "<<SYS>>\n");
            rc = rc ? rc : verbatim(o, system);
            rc = rc ? rc : put(o, "", "\n<</SYS>>\n\n");
        }
        rc = rc ? rc : say(o, &m[i]);
        rc = rc ? rc : put(o, "", " [/INST]");
    }
    return rc;
}

/* v3: "[INST]" and "[/INST]" are control tokens, and the system's message goes before the last of the user's.
 */
static int write_mistral(const struct chat_message *m, size_t n, bool v3, struct chat_text *o)
{
    const struct chat_message *system = m[0].role == CHAT_SYSTEM ? m : NULL;
    size_t spoken = v3 ? n - 1 : system ? 1 : 0; /* the message that the system's goes with */
    int rc = 0;
    for (size_t i = system ? 1 : 0; i < n && !rc; i++) {
        if (m[i].role == CHAT_ASSISTANT) {
            rc = verbatim(o, &m[i]);
            rc = rc ? rc : put(o, "</s>", "");
            continue;
        }
        rc = v3 ? put(o, "[INST]", " ") : put(o, "", "[INST] ");
        if (!rc && system && i == spoken) {
            rc = verbatim(o, system);
            rc = rc ? rc : put(o, "", "\n\n");
        }
        rc = rc ? rc : verbatim(o, &m[i]);
        rc = rc ? rc : v3 ? put(o, "[/INST]", "") : put(o, "", " [/INST]");
    }
    return rc;
}

/* Families that have no form for it: a second system's message, or turns that don't alternate. */
static int check_turns(enum chat_template t, const struct chat_message *m, size_t n, struct skv_error *err)
{
    enum chat_role next = CHAT_USER;
    for (size_t i = m[0].role == CHAT_SYSTEM ? 1 : 0; i < n; i++) {
        if (m[i].role != next)
            return skv_fail(err, -EINVAL,
                            "message %zu is the %s's: with the chat template %s, after at most one system "
                            "message, user and assistant take turns, the user first",
                            i, role_name(m[i].role, "assistant"), names[t]);
        next = next == CHAT_USER ? CHAT_ASSISTANT : CHAT_USER;
    }
    if (next == CHAT_USER)
        return skv_fail(err, -EINVAL, "with the chat template %s the last message must be the user's",
                        names[t]);
    return 0;
}

int chat_template_write(enum chat_template t, const struct chat_message *m, size_t n, struct chat_text *out,
                        struct skv_error *err)
{
    *out = (struct chat_text){0};
    if (n == 0)
        return skv_fail(err, -EINVAL, "there is no message");
    bool free_turns = t == CHAT_CHATML || t == CHAT_LLAMA3 || t == CHAT_PHI3;
    int rc = free_turns ? 0 : check_turns(t, m, n, err);
    if (rc)
        return rc;
    switch (t) {
    case CHAT_CHATML:
        rc = write_chatml(m, n, out);
        break;
    case CHAT_LLAMA3:
        rc = write_llama3(m, n, out);
        break;
    case CHAT_PHI3:
        rc = write_phi3(m, n, out);
        break;
    case CHAT_GEMMA:
        rc = write_gemma(m, n, out);
        break;
    case CHAT_LLAMA2:
        rc = write_llama2(m, n, out);
        break;
    default:
        rc = write_mistral(m, n, t == CHAT_MISTRAL_V3, out);
    }
    return rc ? skv_fail(err, rc, "out of memory") : 0;
}

void chat_text_free(struct chat_text *t)
{
    free(t->text);
    free(t->parts);
    *t = (struct chat_text){0};
}
