#include "decoder/serve/sequence.h"
#include "common/clock.h"
#include "decoder/serve/room.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- the prompt ---- */

int sequence_open(struct serving *w, struct ticket *t, struct sequence *s)
{
    const struct api_request *r = &t->request;
    *s = (struct sequence){
        .ticket = t,
        .begun_ns = clock_ns(),
        .sampler = {{r->temperature, r->top_k, r->top_p, r->min_p}, r->seed},
        .text = {.stops = t->stop, .n_stops = t->n_stop},
    };
    return sequence_begin(w, s);
}

int sequence_begin(struct serving *w, struct sequence *s)
{
    struct ticket *t = s->ticket;
    struct skv_context_opts opts = *w->context;
    opts.salt = tenant_salt(api_keys_tenant(w->keys, t->tenant));
    /* All but the last: its logits are needed. */
    int rc =
        skv_context_open_prefix(w->tier, w->shape, &opts, t->ids, t->n_ids - 1, w->chunk, &s->ctx, &s->error);
    if (rc)
        return rc;
    s->found = s->done = skv_length(s->ctx);
    atomic_store(&t->prefilled, s->done);
    size_t whole = (t->n_ids - 1) / w->chunk * w->chunk;
    if (s->found == whole && whole &&
        prefixes_found(&w->prefixes[t->tenant], s->ctx, t->ids, whole, clock_ns(), &s->error) != 0)
        log_write(w->log, LOG_LEVEL_WARN, "%s: a beginning that was found could not be leased anew: %s",
                  t->answer.id, s->error.text);
    s->keep_at = s->found < whole ? whole : 0;
    s->error = (struct skv_error){0};
    return 0;
}

void sequence_wait(struct sequence *s)
{
    skv_context_close(s->ctx);
    s->ctx = NULL;
}

/* What fails here is told to the operator only: the request does not need it. */
static void keep(struct serving *w, struct sequence *s)
{
    struct skv_error err;
    s->keep_at = 0;
    if (prefixes_keep(&w->prefixes[s->ticket->tenant], s->ctx, s->ticket->ids, s->done, clock_ns(), &err) !=
        0)
        log_write(w->log, LOG_LEVEL_WARN, "%s: the prompt could not be kept for others: %s",
                  s->ticket->answer.id, err.text);
}

/* After each pass: whether it went on without pages that no node gave. */
static void note_loss(struct sequence *s)
{
    struct skv_stats stats;
    skv_context_stats(s->ctx, &stats);
    s->degraded += stats.passes_lost > s->lost_before; /* it counts layers */
    s->lost_before = stats.passes_lost;
}

/* Chunks end at multiples of the chunk's length: these are the passes of session_prefill. */
int sequence_prefill(struct serving *w, struct sequence *s)
{
    const struct ticket *t = s->ticket;
    size_t left = t->n_ids - s->done, room = w->chunk - s->done % w->chunk;
    uint32_t n = (uint32_t)(left < room ? left : room);
    session_use(w->session, s->ctx);
    int rc = session_eval(w->session, SKV_PREFILL, t->ids + s->done, n, n == left ? w->logits : NULL, false,
                          &s->error);
    if (rc)
        return rc;
    s->error.code = 0; /* a loss that was made good leaves its reason there */
    s->done += n;
    atomic_store(&s->ticket->prefilled, s->done);
    note_loss(s);
    if (s->degraded)
        s->keep_at = 0; /* nobody else would look for that */
    if (s->done == s->keep_at)
        keep(w, s);
    if (sequence_prefilled(s) && t->max_tokens == 0)
        s->finish = "length";
    return 0;
}

/* ---- what comes out ---- */

static int note_logprobs(struct serving *w, struct sequence *s, const float *logits)
{
    if (!s->ticket->request.logprobs)
        return 0;
    if (s->n_logprobs == s->logprobs_room) {
        size_t room = s->logprobs_room ? 2 * s->logprobs_room : 16;
        struct token_logprobs *grown = realloc(s->logprobs, room * sizeof *grown);
        if (!grown)
            return skv_fail(&s->error, -ENOMEM, "out of memory");
        s->logprobs = grown;
        s->logprobs_room = room;
    }
    struct token_logprobs *l = &s->logprobs[s->n_logprobs++];
    logprobs_of(logits, w->model->params.vocab, s->next, s->ticket->request.n_top, l);
    l->piece = tokenizer_piece(w->tok, s->next, false);
    for (unsigned i = 0; i < l->n_top; i++)
        l->top_piece[i] = tokenizer_piece(w->tok, l->top[i].id, true);
    l->at = s->text.len;
    l->at_char = s->chars;
    return 0;
}

static size_t count_chars(const char *text, size_t from, size_t to)
{
    size_t n = 0;
    for (; from < to; from++)
        n += (text[from] & 0xc0) != 0x80;
    return n;
}

/* How many entries of logprobs belong to text that is sure: those of tokens that begin in it. */
static size_t sure_logprobs(const struct sequence *s)
{
    size_t n = s->logprobs_sent;
    while (n < s->n_logprobs && s->logprobs[n].at < s->text.sure)
        n++;
    return n;
}

static void send_text(struct sequence *s)
{
    struct ticket *t = s->ticket;
    size_t n = sure_logprobs(s);
    if (!t->request.stream || s->text.sure == s->shown)
        return;
    ticket_event(t, api_chunk_text(&t->answer, s->text.text + s->shown, s->text.sure - s->shown,
                                   s->logprobs + s->logprobs_sent, n - s->logprobs_sent));
    s->shown = s->text.sure;
    s->logprobs_sent = n;
}

/* The next token has room; a longer answer than was foreseen may get more. */
static bool has_room(struct serving *w, struct sequence *s)
{
    struct ticket *t = s->ticket;
    if (skv_length(s->ctx) < t->tokens)
        return true;
    uint64_t tokens = t->tokens + ROOM_MORE < w->limit ? t->tokens + ROOM_MORE : w->limit;
    uint64_t bytes = room_bytes(w->shape, w->context, w->chunk, tokens);
    if (bytes > t->bytes && !exchange_more(w->exchange, bytes - t->bytes))
        return false;
    t->bytes = bytes > t->bytes ? bytes : t->bytes;
    t->tokens = tokens;
    return true;
}

static int take(struct serving *w, struct sequence *s, const float *logits)
{
    struct ticket *t = s->ticket;
    if (tokenizer_is_eog(w->tok, s->next)) {
        s->finish = "stop";
        return 0;
    }
    struct gguf_str piece = tokenizer_piece(w->tok, s->next, false);
    size_t before = s->text.len;
    int rc = note_logprobs(w, s, logits);
    if (!rc && (rc = stop_text_push(&s->text, piece.data, piece.len)) != 0)
        skv_fail(&s->error, rc, "out of memory");
    if (rc)
        return rc;
    if (s->text.len > before)
        s->chars += count_chars(s->text.text, before, s->text.len);
    s->n_generated++;
    if (s->text.stopped)
        s->finish = "stop";
    else if (s->n_generated >= t->max_tokens || skv_length(s->ctx) >= w->limit || !has_room(w, s))
        s->finish = "length";
    return 0;
}

int sequence_draw(struct serving *w, struct sequence *s, float *logits)
{
    struct ticket *t = s->ticket;
    note_loss(s);
    if (s->n_generated == 0) {
        s->first_ns = clock_ns();
        if (t->request.stream && t->answer.chat)
            ticket_event(t, api_chunk_begin(&t->answer));
    }
    if (t->request.ignore_eos)
        tokenizer_forbid_eog(w->tok, w->model->params.vocab, logits);
    int rc = sample_next(&s->sampler, logits, w->model->params.vocab, &s->next, &s->error);
    if (!rc)
        rc = take(w, s, logits);
    if (!rc && !s->finish)
        send_text(s);
    return rc;
}

static void tell(const struct serving *w, const struct sequence *s)
{
    const struct ticket *t = s->ticket;
    uint64_t now = clock_ns();
    if (s->degraded)
        log_write(w->log, LOG_LEVEL_WARN,
                  "%s: %" PRIu64 " steps went on without pages that no node gave in time", t->answer.id,
                  s->degraded);
    log_write(w->log, LOG_LEVEL_INFO,
              "%s: prompt %zu tokens, %" PRIu64 " of them found; generated %" PRIu64
              ", ended by: %s; waited %.3f s, first token after %.3f s, all after %.3f s",
              t->answer.id, t->n_ids, s->found, s->n_generated, s->finish,
              (double)(s->begun_ns - t->accepted_ns) * 1e-9,
              s->first_ns ? (double)(s->first_ns - t->accepted_ns) * 1e-9 : 0,
              (double)(now - t->accepted_ns) * 1e-9);
}

int sequence_finish(struct serving *w, struct sequence *s)
{
    struct ticket *t = s->ticket;
    struct skv_stats stats;
    skv_context_stats(s->ctx, &stats);
    const struct api_usage usage = {t->n_ids, s->found, s->n_generated, s->degraded,
                                    stats.lost_n > 0 ? stats.lost_mass / stats.lost_n : 0};
    int rc = stop_text_end(&s->text);
    if (rc)
        return skv_fail(&s->error, rc, "out of memory");
    /* Tokens that a stop string took away are not told; without one, those without text are, too. */
    size_t n = s->text.stopped ? sure_logprobs(s) : s->n_logprobs;
    s->n_logprobs = n;
    if (t->request.stream) {
        send_text(s);
        ticket_event(t, api_chunk_finish(&t->answer, s->finish, &usage));
        if (t->answer.include_usage)
            ticket_event(t, api_chunk_usage(&t->answer, &usage));
        ticket_event(t, strdup(API_CHUNK_DONE));
        ticket_end(t);
    } else {
        ticket_body(t, api_reply(&t->answer, s->text.text ? s->text.text : "", s->text.len, s->finish,
                                 s->logprobs, n, &usage));
    }
    tell(w, s);
    return 0;
}

void sequence_close(struct sequence *s)
{
    if (s->ctx)
        skv_context_close(s->ctx);
    stop_text_free(&s->text);
    free(s->logprobs);
    ticket_release(s->ticket);
    *s = (struct sequence){0};
}
