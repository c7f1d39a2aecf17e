/* serve_load.c: see serve_load.h. One thread with libcurl's multi interface, so that clients take little of
 * the machine that the server runs on. */
#include "decoder/cli/serve_load.h"
#include "common/clock.h"
#include "decoder/cli/interrupt.h"

#include <curl/curl.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { POLL_MS = 200, SAID = 400 };

struct client {
    struct serve_stream *stream;
    CURL *curl;
    char *body;
    char *line; /* what came of the next one */
    size_t len, room;
    bool done, failed;
    char said[SAID]; /* the server's, or why there is nothing */
    char why[CURL_ERROR_SIZE];
};

/* ---- what is asked ---- */

static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

/* Ids from the second half of the vocabulary: pieces of text, no control tokens. Draws are from few, so that
 * they cost little beside the model. */
static char *make_body(const struct serve_load_opts *o, unsigned stream)
{
    json_t *ids = json_array();
    for (uint32_t i = 0; i < o->prompt; i++)
        json_array_append_new(
            ids, json_integer(o->vocab / 2 + (json_int_t)(mix(o->seed * 1000003 + stream * 65537 + i) %
                                                          (o->vocab - o->vocab / 2))));
    json_t *body = json_pack("{s:o, s:I, s:f, s:i, s:I, s:b, s:b, s:{s:b}}", "prompt", ids, "max_tokens",
                             (json_int_t)o->tokens, "temperature", 1.0, "top_k", 40, "seed",
                             (json_int_t)(o->seed + stream), "ignore_eos", 1, "stream", 1, "stream_options",
                             "include_usage", 1);
    char *text = json_dumps(body, JSON_COMPACT);
    json_decref(body);
    return text;
}

/* ---- what comes ---- */

static bool grow(void *array, size_t *room, size_t want, size_t element)
{
    void *now, *grown;
    size_t more = *room * 2 + want + 64;
    if (want <= *room)
        return true;
    memcpy(&now, array, sizeof now);
    grown = realloc(now, more * element);
    if (!grown)
        return false;
    memcpy(array, &grown, sizeof grown);
    *room = more;
    return true;
}

static void note_text(struct client *c, const char *text, size_t len)
{
    struct serve_stream *s = c->stream;
    if (len == 0)
        return;
    if (!grow(&s->at, &s->room, s->n + 1, sizeof *s->at) || !grow(&s->text, &s->text_room, s->len + len, 1)) {
        c->failed = true;
        return;
    }
    s->at[s->n++] = clock_ns();
    memcpy(s->text + s->len, text, len);
    s->len += len;
}

static void take_line(struct client *c)
{
    static const char data[] = "data: ";
    if (c->len <= strlen(data) || memcmp(c->line, data, strlen(data))) {
        if (c->len && c->line[0] == '{') /* an error instead of a stream */
            snprintf(c->said, sizeof c->said, "%.*s", (int)(c->len < SAID ? c->len : SAID - 1), c->line);
        return;
    }
    const char *json = c->line + strlen(data);
    if (!strncmp(json, "[DONE]", 6)) {
        c->done = true;
        return;
    }
    json_t *o = json_loadb(json, c->len - strlen(data), 0, NULL), *choice;
    const json_t *text, *usage = json_object_get(o, "usage");
    choice = json_array_get(json_object_get(o, "choices"), 0);
    if ((text = json_object_get(choice, "text")) != NULL)
        note_text(c, json_string_value(text), json_string_length(text));
    if (json_is_object(usage))
        c->stream->tokens = (uint64_t)json_integer_value(json_object_get(usage, "completion_tokens"));
    if (json_object_get(o, "error"))
        snprintf(c->said, sizeof c->said, "%.*s", (int)(c->len < SAID ? c->len : SAID - 1), c->line);
    json_decref(o);
}

static size_t on_bytes(char *bytes, size_t one, size_t n, void *arg)
{
    struct client *c = arg;
    n *= one;
    for (size_t i = 0; i < n; i++) {
        if (bytes[i] == '\n') {
            take_line(c);
            c->len = 0;
            continue;
        }
        if (!grow(&c->line, &c->room, c->len + 1, 1))
            return 0;
        c->line[c->len++] = bytes[i];
    }
    return c->failed ? 0 : n;
}

/* ---- the streams ---- */

static int client_open(struct client *c, const struct serve_load_opts *o, unsigned stream, CURLM *multi,
                       const struct curl_slist *headers, struct skv_error *err)
{
    char url[400];
    snprintf(url, sizeof url, "%s/v1/completions", o->url);
    c->body = make_body(o, stream);
    c->curl = curl_easy_init();
    if (!c->body || !c->curl)
        return skv_fail(err, -ENOMEM, "out of memory");
    curl_easy_setopt(c->curl, CURLOPT_URL, url);
    curl_easy_setopt(c->curl, CURLOPT_POSTFIELDS, c->body);
    curl_easy_setopt(c->curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(c->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c->curl, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(c->curl, CURLOPT_TCP_NODELAY, 1L);
    curl_easy_setopt(c->curl, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(c->curl, CURLOPT_WRITEDATA, c);
    curl_easy_setopt(c->curl, CURLOPT_ERRORBUFFER, c->why);
    c->stream->begun_ns = clock_ns();
    return curl_multi_add_handle(multi, c->curl) ? skv_fail(err, -EIO, "curl takes no more transfers") : 0;
}

static int drive(CURLM *multi, struct skv_error *err)
{
    int running = 1;
    while (running) {
        if (curl_multi_perform(multi, &running) || curl_multi_poll(multi, NULL, 0, POLL_MS, NULL))
            return skv_fail(err, -EIO, "curl cannot go on");
        if (interrupted())
            return skv_fail(err, -EINTR, "interrupted");
    }
    return 0;
}

int serve_load_run(const struct serve_load_opts *o, struct serve_stream *streams, unsigned n,
                   struct skv_error *err)
{
    struct client *clients = calloc(n, sizeof *clients);
    CURLM *multi = curl_multi_init();
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    int rc = clients && multi && headers ? 0 : skv_fail(err, -ENOMEM, "out of memory");
    for (unsigned i = 0; i < n && !rc; i++) {
        streams[i] = (struct serve_stream){0};
        clients[i].stream = &streams[i];
        rc = client_open(&clients[i], o, i, multi, headers, err);
    }
    if (!rc)
        rc = drive(multi, err);
    for (unsigned i = 0; i < n && !rc; i++)
        if (!clients[i].done || clients[i].said[0])
            rc = skv_fail(err, -EIO, "stream %u of %u: %s", i + 1, n,
                          clients[i].said[0]  ? clients[i].said
                          : clients[i].why[0] ? clients[i].why
                                              : "it ended too soon");
    for (unsigned i = 0; clients && i < n; i++) {
        if (clients[i].curl) {
            curl_multi_remove_handle(multi, clients[i].curl);
            curl_easy_cleanup(clients[i].curl);
        }
        free(clients[i].body);
        free(clients[i].line);
    }
    curl_slist_free_all(headers);
    if (multi)
        curl_multi_cleanup(multi);
    free(clients);
    return rc;
}

void serve_stream_free(struct serve_stream *s)
{
    free(s->at);
    free(s->text);
    *s = (struct serve_stream){0};
}

/* ---- what it says ---- */

void serve_speed_of(const struct serve_stream *s, unsigned n, struct serve_speed *out)
{
    uint64_t from = 0, to = UINT64_MAX, pieces = 0;
    struct hist *first = calloc(1, sizeof *first);
    *out = (struct serve_speed){.tokens_per_s = NAN};
    for (unsigned i = 0; i < n; i++) {
        if (s[i].n == 0) {
            free(first);
            return;
        }
        if (first)
            hist_add(first, s[i].at[0] - s[i].begun_ns);
        from = s[i].at[0] > from ? s[i].at[0] : from;
        to = s[i].at[s[i].n - 1] < to ? s[i].at[s[i].n - 1] : to;
    }
    for (unsigned i = 0; i < n; i++)
        for (size_t j = 1; j < s[i].n; j++) {
            if (s[i].at[j] <= from || s[i].at[j] > to)
                continue;
            pieces++;
            if (s[i].at[j - 1] >= from)
                hist_add(&out->gaps, s[i].at[j] - s[i].at[j - 1]);
        }
    if (to > from)
        out->tokens_per_s = (double)pieces * 1e9 / (double)(to - from);
    out->first_p50_ms = first ? (double)hist_quantile(first, 0.5) * 1e-6 : NAN;
    out->first_max_ms = first ? (double)first->max * 1e-6 : NAN;
    free(first);
}
