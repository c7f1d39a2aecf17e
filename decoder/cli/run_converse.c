/* run_converse.c: a conversation in the terminal.
 *
 * DESIGN. Every turn writes out the whole conversation by the model's template and looks how far its tokens
 * are those that the context holds; only what comes behind is prefilled. That is right for every template,
 * also for those that write an earlier message otherwise when another one follows, and a text that is
 * tokenized otherwise than it was generated costs a prefill of its rest and nothing else. */
#include "decoder/cli/interrupt.h"
#include "decoder/cli/run.h"
#include "decoder/cli/text_io.h"
#include "decoder/serve/chat_prompt.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct talk {
    struct run *r;
    const struct skv_context_opts *opts;
    enum chat_template template;
    struct chat_message *messages; /* malloc'd, and so are their texts */
    size_t n, room;
    const char **stops; /* those of --stop, and the template's */
    bool terminal;      /* a person types */
    uint64_t turns, prefilled, generated;
    double prefill_s, decode_s;
};

/* ---- messages ---- */

/* text (malloc'd) is taken over. */
static int say(struct talk *t, enum chat_role role, char *text, size_t len, struct skv_error *err)
{
    if (text && t->n == t->room) {
        size_t room = 2 * t->room + 8;
        struct chat_message *grown = realloc(t->messages, room * sizeof *grown);
        if (!grown) {
            free(text);
            text = NULL;
        } else {
            t->messages = grown;
            t->room = room;
        }
    }
    if (!text)
        return skv_fail(err, -ENOMEM, "out of memory");
    t->messages[t->n++] = (struct chat_message){role, text, len};
    return 0;
}

static void unsay(struct talk *t)
{
    free((char *)t->messages[--t->n].text);
}

/* The system's message is always attended: what two conversations have in common that part in the first thing
 * that is said. */
static int protect_system(struct talk *t, struct skv_error *err)
{
    struct run *r = t->r;
    uint32_t *ids[2] = {0};
    size_t n[2], same = 0;
    struct chat_message m[2] = {t->messages[0]};
    int rc = 0;
    for (int i = 0; i < 2 && !rc; i++) {
        m[1] = (struct chat_message){CHAT_USER, i ? "b" : "a", 1};
        rc = chat_prompt(r->engine.tok, t->template, m, 2, &ids[i], &n[i], err);
    }
    while (!rc && same < n[0] && same < n[1] && ids[0][same] == ids[1][same])
        same++;
    if (!rc && same)
        rc = kv_ranges_add(&r->engine.ranges, 0, same, err);
    free(ids[0]);
    free(ids[1]);
    return rc;
}

/* ---- a turn ---- */

/* How far the prompt is what the context holds; its last token's logits are needed in any case. */
static int common(const struct run *r, size_t *n, struct skv_error *err)
{
    size_t len = (size_t)skv_length(r->ctx), most = len < r->n_prompt - 1 ? len : r->n_prompt - 1;
    uint32_t *held = malloc((most + 1) * sizeof *held);
    if (!held)
        return skv_fail(err, -ENOMEM, "out of memory");
    int rc = skv_tokens(r->ctx, 0, most, held);
    for (*n = 0; !rc && *n < most && held[*n] == r->prompt[*n];)
        ++*n;
    free(held);
    return rc ? skv_fail(err, rc, "the context's tokens cannot be read") : 0;
}

static int prefill(struct talk *t, struct skv_error *err)
{
    struct run *r = t->r;
    size_t from = 0;
    double seconds = 0;
    int rc = run_check_room(r, 0, err);
    if (!rc && !r->ctx)
        rc = run_open_new(r, t->opts, err);
    if (!rc)
        rc = common(r, &from, err);
    if (!rc && from < skv_length(r->ctx))
        rc = session_truncate(r->session, from, err);
    if (!rc)
        rc = engine_prefill(&r->engine, r->session, "prefill", r->prompt + from, r->n_prompt - from,
                            r->logits, &seconds, err);
    t->prefilled += r->n_prompt - from;
    t->prefill_s += seconds;
    return rc;
}

/* The answer becomes a message, as far as it was shown. */
static int answer(struct talk *t, struct skv_error *err)
{
    struct run *r = t->r;
    r->emit = (struct emit){.out = stdout, .s = {.stops = t->stops, .n_stops = r->args->stop.n + 1}};
    r->n_ids = 0;
    int rc = run_generate(r, err);
    t->generated += r->n_ids;
    t->decode_s += r->decode_s;
    if (!rc && (putchar('\n') == EOF || fflush(stdout)))
        rc = skv_fail(err, -EIO, "cannot write the text");
    if (!rc)
        rc = say(t, CHAT_ASSISTANT, strndup(r->emit.s.text ? r->emit.s.text : "", r->emit.s.len),
                 r->emit.s.len, err);
    emit_free(&r->emit);
    return rc;
}

/* After Ctrl-C: an answer ends, a message that was going in is forgotten, and the conversation goes on. */
static int turn(struct talk *t, struct skv_error *err)
{
    struct run *r = t->r;
    free(r->prompt);
    int rc = chat_prompt(r->engine.tok, t->template, t->messages, t->n, &r->prompt, &r->n_prompt, err);
    if (!rc)
        rc = prefill(t, err);
    if (!rc) {
        rc = answer(t, err);
        t->turns++;
    } else if (rc == -EINTR && interrupted()) {
        unsay(t);
        fputs("interrupted: the message is forgotten\n", stderr);
        rc = 0;
    }
    if (!rc && r->ended && !strcmp(r->ended, "context"))
        fprintf(stderr, "the context is full (%" PRIu64 " tokens): -c allows more\n", r->limit);
    return rc;
}

/* ---- lines ---- */

static void help(void)
{
    fputs("  /exit   ends the conversation, as the end of the input (Ctrl-D) does\n"
          "  /help   says this\n"
          "  Any other line goes to the model; one that begins with / needs a blank before it.\n"
          "  Ctrl-C ends an answer; where a line is awaited, the conversation.\n",
          stderr);
}

/* A line without its end, malloc'd; *line NULL: there are no more. */
static int read_line(const struct talk *t, char **line, size_t *len, struct skv_error *err)
{
    size_t room = 0;
    *line = NULL;
    if (t->terminal)
        fputs("> ", stderr);
    errno = 0;
    ssize_t n = getline(line, &room, stdin);
    int why = errno;
    if (n < 0) {
        free(*line);
        *line = NULL;
        if (t->terminal)
            fputc('\n', stderr);
        return feof(stdin) || interrupted()
                   ? 0
                   : skv_fail(err, why ? -why : -EIO, "cannot read the next line: %s",
                              strerror(why ? why : EIO));
    }
    while (n && ((*line)[n - 1] == '\n' || (*line)[n - 1] == '\r'))
        (*line)[--n] = 0;
    *len = (size_t)n;
    return 0;
}

/* Whether the line is for us; *end: it ends the conversation. */
static bool command(const char *line, bool *end)
{
    *end = !strcmp(line, "/exit");
    if (line[0] == '/' && !*end) {
        if (strcmp(line, "/help") != 0)
            fprintf(stderr, "%.40s: no such command\n", line);
        help();
    }
    return line[0] == '/' || line[strspn(line, " \t")] == 0;
}

static int lines(struct talk *t, struct skv_error *err)
{
    char *line;
    size_t len = 0;
    bool end = false;
    int rc = t->n && t->messages[t->n - 1].role == CHAT_USER ? turn(t, err) : 0;
    while (!rc && !end && (!interrupted() || interrupt_forgive())) {
        rc = read_line(t, &line, &len, err);
        if (rc || !line)
            break;
        if (command(line, &end)) {
            free(line);
            continue;
        }
        rc = say(t, CHAT_USER, line, len, err);
        if (!rc)
            rc = turn(t, err);
    }
    return rc;
}

/* ---- the conversation ---- */

static int first_messages(struct talk *t, struct skv_error *err)
{
    const struct run_args *a = t->r->args;
    char *text = NULL;
    size_t len = 0;
    int rc = a->system ? say(t, CHAT_SYSTEM, strdup(a->system), strlen(a->system), err) : 0;
    if (!rc && a->system)
        rc = protect_system(t, err);
    if (!rc && a->file)
        rc = read_all(a->file, &text, &len, err);
    if (!rc && a->prompt) {
        text = strdup(a->prompt);
        len = strlen(a->prompt);
    }
    return !rc && (a->file || a->prompt) ? say(t, CHAT_USER, text, len, err) : rc;
}

static int begin(struct talk *t, struct skv_context_opts *opts, struct skv_error *err)
{
    struct run *r = t->r;
    const struct run_args *a = r->args;
    struct skv_error why;
    if (chat_template_choose(r->engine.model->gguf, a->chat_template, &t->template, &why))
        return skv_fail(err, -EINVAL, "%.150s: say how conversations are written by --chat-template %s",
                        why.text, CHAT_TEMPLATE_CHOICES);
    t->stops = calloc(a->stop.n + 1, sizeof *t->stops);
    if (!t->stops)
        return skv_fail(err, -ENOMEM, "out of memory");
    for (size_t i = 0; i < a->stop.n; i++)
        t->stops[i] = a->stop.item[i];
    int rc = chat_prompt_stop(r->engine.tok, t->template, &t->stops[a->stop.n], err);
    if (!rc && !t->stops[a->stop.n])
        t->stops[a->stop.n] = ""; /* there is a token for it */
    if (!rc)
        rc = first_messages(t, err);
    if (!rc)
        rc = engine_context_opts(&r->engine, opts, err);
    return rc ? rc : engine_connect(&r->engine, err);
}

static void summary(const struct talk *t)
{
    fprintf(stderr,
            "conversation %" PRIu64 " answers; prompts %" PRIu64 " tokens in %.2f s, generated %" PRIu64
            " tokens in %.2f s (%.1f tokens/s)\n",
            t->turns, t->prefilled, t->prefill_s, t->generated, t->decode_s,
            t->decode_s > 0 ? (double)t->generated / t->decode_s : 0);
    run_print_costs(t->r);
}

int run_converse(struct run *r, struct skv_context_opts *opts, struct skv_error *err)
{
    struct talk t = {.r = r, .opts = opts, .terminal = isatty(STDIN_FILENO)};
    int rc = begin(&t, opts, err);
    if (!rc && t.terminal)
        fputs("A line is answered; /help tells the rest.\n", stderr);
    if (!rc)
        rc = lines(&t, err);
    if (!rc && r->ctx)
        summary(&t);
    while (t.n)
        unsay(&t);
    free(t.messages);
    free(t.stops);
    return rc;
}
