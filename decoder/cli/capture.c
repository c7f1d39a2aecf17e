/* capture.c: see capture.h.
 *
 * The text goes through the model as a prompt with dense attention, so what is captured is what every policy
 * would have to approximate. Which queries are measured later is decided here, where the text is known. */
#include "decoder/cli/capture.h"
#include "decoder/cli/text_io.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what is fed, and which queries are measured ---- */

static int mark_room(struct capture *c, struct skv_error *err)
{
    c->mark = calloc(c->n, 1);
    return c->mark ? 0 : skv_fail(err, -ENOMEM, "out of memory");
}

/* The N queries before position `end`, or evenly spread ones of [from, end). */
static void mark_ordinary(struct capture *c, size_t from, size_t end, uint32_t queries)
{
    size_t n = end - from < queries ? end - from : queries;
    for (size_t i = 0; i < n; i++)
        c->mark[end - 1 - i * (end - from) / n] = KV_TRACE_ORDINARY;
}

int capture_text(struct capture *c, const struct tokenizer *tok, const char *path, uint64_t skip,
                 uint64_t tokens, uint32_t queries, struct skv_error *err)
{
    char *text;
    size_t len;
    int rc = read_all(path, &text, &len, err);
    if (rc)
        return rc;
    size_t at = skip < len ? (size_t)skip : len;
    while (at < len && ((unsigned char)text[at] & 0xC0) == 0x80) /* not from within a character */
        at++;
    rc = tokenizer_encode(tok, text + at, len - at, tokenizer_adds_bos(tok), false, &c->ids, &c->n, err);
    free(text);
    if (rc)
        return rc;
    if (c->n > tokens)
        c->n = (size_t)tokens;
    if (c->n < 2)
        return skv_fail(err, -EINVAL, "%s has no text behind its first %" PRIu64 " bytes: use another --skip",
                        path, skip);
    rc = mark_room(c, err);
    if (rc == 0)
        mark_ordinary(c, c->n / 2, c->n, queries);
    return rc;
}

int capture_ids(struct capture *c, const uint32_t *ids, size_t n, uint32_t queries, struct skv_error *err)
{
    c->ids = malloc(n * sizeof *c->ids + 1);
    if (!c->ids)
        return skv_fail(err, -ENOMEM, "out of memory");
    memcpy(c->ids, ids, n * sizeof *ids);
    c->n = n;
    int rc = mark_room(c, err);
    if (rc == 0)
        mark_ordinary(c, n / 2, n, queries);
    return rc;
}

static bool has_digit(const struct tokenizer *tok, uint32_t id)
{
    struct gguf_str piece = tokenizer_piece(tok, id, false);
    for (size_t i = 0; i < piece.len; i++)
        if (isdigit((unsigned char)piece.data[i]))
            return true;
    return false;
}

/* Tokens of prompt + answer; the answer's are those behind what the prompt alone begins with. */
static int take_answer(struct capture *c, const struct tokenizer *tok, const char *path, uint32_t index,
                       const char *prompt, const char *answer, uint32_t queries, struct skv_error *err)
{
    bool bos = tokenizer_adds_bos(tok);
    uint32_t *alone = NULL;
    char *whole = NULL;
    size_t n_alone, same = 0, first = 0;
    int rc = tokenizer_encode(tok, prompt, strlen(prompt), bos, false, &alone, &n_alone, err);
    if (rc)
        return rc;
    int len = asprintf(&whole, "%s %s", prompt, answer);
    rc = len < 0 ? skv_fail(err, -ENOMEM, "out of memory")
                 : tokenizer_encode(tok, whole, (size_t)len, bos, false, &c->ids, &c->n, err);
    free(len < 0 ? NULL : whole);
    if (rc == 0)
        rc = mark_room(c, err);
    if (rc)
        goto out;
    while (same < n_alone && same < c->n && alone[same] == c->ids[same])
        same++;
    for (size_t i = c->n; i-- > (same ? same : 1);)
        if (has_digit(tok, c->ids[i]))
            c->mark[first = i - 1] = KV_TRACE_COPY;
    if (!first) {
        rc = skv_fail(err, -EINVAL, "%s: the answer of prompt %u has no digits to copy: '%s'", path, index,
                      answer);
        goto out;
    }
    mark_ordinary(c, first > queries ? first - queries : 0, first, queries);
out:
    free(alone);
    return rc;
}

/* The line of JSON number `index`, blank lines not counted; NULL: there are fewer. */
static const char *line_at(const char *text, uint32_t index, size_t *len)
{
    for (;; text += *len + 1) {
        *len = strcspn(text, "\n");
        if (strspn(text, " \t\r") < *len && index-- == 0)
            return text;
        if (!text[*len])
            return NULL;
    }
}

int capture_prompt(struct capture *c, const struct tokenizer *tok, const char *path, uint32_t index,
                   uint32_t queries, struct skv_error *err)
{
    json_error_t why;
    json_t *o = NULL;
    char *text;
    size_t len;
    int rc = read_all(path, &text, &len, err);
    if (rc)
        return rc;
    const char *line = line_at(text, index, &len);
    const char *prompt = NULL, *answer = NULL;
    if (!line)
        rc = skv_fail(err, -ERANGE, "%s has no prompt %u: they are counted from 0", path, index);
    else if (!(o = json_loadb(line, len, 0, &why)))
        rc = skv_fail(err, -EINVAL, "%s: prompt %u is not JSON: %s", path, index, why.text);
    else if (json_unpack(o, "{s:s, s:s}", "prompt", &prompt, "answer", &answer))
        rc = skv_fail(err, -EINVAL, "%s: prompt %u must be an object with the strings prompt and answer",
                      path, index);
    else
        rc = take_answer(c, tok, path, index, prompt, answer, queries, err);
    json_decref(o);
    free(text);
    return rc;
}

void capture_free(struct capture *c)
{
    free(c->ids);
    free(c->mark);
    *c = (struct capture){0};
}

/* ---- the pass ---- */

struct pass {
    struct kv_trace *trace;
    skv_context *ctx;
};

static int create(const struct capture *c, const struct engine *e, const char *path, struct kv_trace **out,
                  struct skv_error *err)
{
    const struct model_params *p = &e->model->params;
    struct kv_trace_head head = {.n_layers = p->n_layers,
                                 .n_heads = p->n_heads,
                                 .n_kv_heads = p->n_kv_heads,
                                 .d_k = p->d_k,
                                 .d_v = p->d_v,
                                 .n_tokens = c->n,
                                 .scale = e->shape.layers[0].scale};
    memcpy(head.fingerprint, model_fingerprint(e->model), sizeof head.fingerprint);
    int rc = kv_trace_create(path, &head, out, err);
    if (rc)
        return rc;
    memcpy((*out)->ids, c->ids, c->n * sizeof *c->ids);
    memcpy((*out)->mark, c->mark, c->n);
    return 0;
}

/* A pass's tokens are the context's newest. */
static void watch(void *arg, uint32_t layer, uint32_t n, const float *q, const float *k, const float *v)
{
    struct pass *p = arg;
    kv_trace_put(p->trace, layer, skv_length(p->ctx) - n, n, q, k, v);
}

int capture_run(const struct capture *c, struct engine *e, const char *label, const char *path,
                struct kv_trace **out, struct skv_error *err)
{
    struct skv_context_opts opts;
    struct session *session = NULL;
    struct pass p = {0};
    int rc = engine_context_opts(e, &opts, err);
    if (!rc)
        rc = engine_context(e, &opts, &p.ctx, &session, err);
    if (!rc)
        rc = create(c, e, path, &p.trace, err);
    if (!rc) {
        session_watch(session, watch, &p);
        rc = engine_prefill(e, session, label, c->ids, c->n, NULL, NULL, err);
    }
    if (!rc)
        rc = kv_trace_commit(p.trace, err);
    session_close(session);
    if (p.ctx)
        skv_context_close(p.ctx);
    if (rc)
        kv_trace_close(p.trace);
    else
        *out = p.trace;
    return rc;
}
