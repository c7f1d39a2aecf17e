/* http.c: between libmicrohttpd and the rest.
 *
 * A request's body is gathered up to the limit, then its route answers it. An answer that the worker makes
 * comes through a ticket: as long as there is nothing to send, the connection is suspended, and libmicrohttpd
 * doesn't look at it; so http_watch does, to see that a client is gone. */
#include "common/clock.h"
#include "decoder/serve/serve_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DROPPED = 64 << 20 /* bytes beyond the limit that are read to answer politely */ };

/* ---- answers ---- */

static enum MHD_Result queue(struct call *c, int status, struct MHD_Response *r, const char *type)
{
    if (!r)
        return MHD_NO;
    MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    enum MHD_Result result = MHD_queue_response(c->connection, (unsigned)status, r);
    MHD_destroy_response(r);
    return result;
}

static struct MHD_Response *text_response(char *body)
{
    struct MHD_Response *r =
        body ? MHD_create_response_from_buffer(strlen(body), body, MHD_RESPMEM_MUST_FREE) : NULL;
    if (!r)
        free(body);
    return r;
}

enum MHD_Result http_json(struct call *c, int status, char *body)
{
    return queue(c, status, text_response(body), "application/json");
}

static void add_retry_after(struct MHD_Response *r, uint64_t seconds)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, seconds);
    MHD_add_response_header(r, MHD_HTTP_HEADER_RETRY_AFTER, text);
}

enum MHD_Result http_error(struct call *c, const struct api_error *e, uint64_t retry_after_s,
                           const char *allow)
{
    struct MHD_Response *r = text_response(api_error_body(e));
    if (r && retry_after_s)
        add_retry_after(r, retry_after_s);
    if (r && allow)
        MHD_add_response_header(r, MHD_HTTP_HEADER_ALLOW, allow);
    if (r && e->status == 401)
        MHD_add_response_header(r, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
    return queue(c, e->status, r, "application/json");
}

static enum MHD_Result refuse(struct call *c, int status, const char *code, const char *sentence)
{
    struct api_error e;
    api_error(&e, status, code, NULL, "%s", sentence);
    return http_error(c, &e, 0, NULL);
}

/* ---- answers through a ticket ---- */

static void fall_asleep(void *connection)
{
    MHD_suspend_connection(connection);
}

static void wake_up(void *connection)
{
    MHD_resume_connection(connection);
}

static ssize_t read_ticket(void *arg, uint64_t at, char *to, size_t max)
{
    struct call *c = arg;
    (void)at;
    long n = ticket_take(c->ticket, to, max, fall_asleep, wake_up, c->connection);
    return n < 0 ? MHD_CONTENT_READER_END_OF_STREAM : n;
}

/* What the worker has decided, or sleep until it has. */
static enum MHD_Result answer_ticket(struct call *c)
{
    struct ticket *t = c->ticket;
    if (!ticket_answered(t, fall_asleep, wake_up, c->connection))
        return MHD_YES;
    /* A whole answer's length is known; it does not change any more. */
    uint64_t size = t->event_stream ? MHD_SIZE_UNKNOWN : t->len;
    struct MHD_Response *r = MHD_create_response_from_callback(size, 16 << 10, read_ticket, c, NULL);
    if (r && t->event_stream)
        MHD_add_response_header(r, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache");
    return queue(c, t->status, r, t->event_stream ? "text/event-stream" : "application/json");
}

enum MHD_Result http_ticket(struct call *c, struct ticket *t)
{
    struct serve *s = c->serve;
    c->ticket = t;
    pthread_mutex_lock(&s->lock);
    c->next = s->calls;
    c->link = &s->calls;
    if (c->next)
        c->next->link = &c->next;
    s->calls = c;
    pthread_mutex_unlock(&s->lock);
    return answer_ticket(c);
}

static void unlist(struct call *c)
{
    pthread_mutex_lock(&c->serve->lock);
    *c->link = c->next;
    if (c->next)
        c->next->link = c->link;
    pthread_mutex_unlock(&c->serve->lock);
}

static bool is_gone(struct call *c)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(c->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct pollfd p = {.fd = info ? info->connect_fd : -1, .events = POLLRDHUP};
    return poll(&p, 1, 0) > 0 && p.revents & (POLLRDHUP | POLLHUP | POLLERR);
}

void http_watch(struct serve *s)
{
    struct api_error e;
    uint64_t now = clock_ns(), ping = s->opts.ping_ms * NS_PER_MS;
    api_error(&e, 408, "client_gone", NULL, "the client closed its side of the connection");
    pthread_mutex_lock(&s->lock);
    for (struct call *c = s->calls; c; c = c->next) {
        if (is_gone(c)) {
            atomic_store(&c->ticket->gone, true);
            ticket_fail(c->ticket, &e); /* wakes it, so that it is closed */
        } else if (now > ping) {
            ticket_ping(c->ticket, now - ping);
        }
    }
    pthread_mutex_unlock(&s->lock);
}

bool http_busy(struct serve *s)
{
    pthread_mutex_lock(&s->lock);
    bool busy = s->calls != NULL;
    pthread_mutex_unlock(&s->lock);
    return busy;
}

/* ---- requests ---- */

static const char *header(struct MHD_Connection *c, const char *name)
{
    return MHD_lookup_connection_value(c, MHD_HEADER_KIND, name);
}

/* What can be refused before the body has come. *result is set if it was. */
static bool refused(struct call *c, const char *url, const char *method, enum MHD_Result *result)
{
    struct api_error e;
    const char *allow = NULL, *length = header(c->connection, MHD_HTTP_HEADER_CONTENT_LENGTH);
    c->route = route_find(url, method, &c->path_rest, &allow, &e);
    if (!c->route) {
        *result = http_error(c, &e, 0, allow);
    } else if (!c->route->open &&
               !api_keys_allow(c->serve->keys, header(c->connection, MHD_HTTP_HEADER_AUTHORIZATION),
                               &c->tenant)) {
        *result = refuse(c, 401, "invalid_api_key",
                         "the API key is missing or wrong: send it as \"Authorization: Bearer KEY\"");
    } else if (length && strtoull(length, NULL, 10) > c->serve->opts.max_body) {
        api_error(&e, 413, "request_too_large", NULL, "the body has %s bytes; at most %" PRIu64 " are taken",
                  length, c->serve->opts.max_body);
        *result = http_error(c, &e, 0, NULL);
    } else {
        return false;
    }
    return true;
}

static enum MHD_Result add_body(struct call *c, const char *bytes, size_t n)
{
    uint64_t most = c->serve->opts.max_body;
    if (c->len + n > most || c->dropped) { /* its length was not told before */
        c->dropped += n;
        return c->dropped > DROPPED ? MHD_NO : MHD_YES;
    }
    if (c->len + n > c->room) {
        size_t room = 2 * (c->len + n);
        char *grown = realloc(c->body, room);
        if (!grown)
            return MHD_NO;
        c->body = grown;
        c->room = room;
    }
    memcpy(c->body + c->len, bytes, n);
    c->len += n;
    return MHD_YES;
}

static enum MHD_Result answer(struct call *c)
{
    struct api_error e;
    if (!c->dropped)
        return c->route->answer(c);
    api_error(&e, 413, "request_too_large", NULL, "the body has more than %" PRIu64 " bytes",
              c->serve->opts.max_body);
    return http_error(c, &e, 0, NULL);
}

enum MHD_Result http_request(void *serve, struct MHD_Connection *connection, const char *url,
                             const char *method, const char *version, const char *upload, size_t *upload_size,
                             void **call)
{
    struct call *c = *call;
    enum MHD_Result result;
    (void)version;
    if (!c) {
        *call = c = calloc(1, sizeof *c);
        if (!c)
            return MHD_NO;
        c->serve = serve;
        c->connection = connection;
        return refused(c, url, method, &result) ? result : MHD_YES;
    }
    if (*upload_size) {
        result = add_body(c, upload, *upload_size);
        *upload_size = 0;
        return result;
    }
    return c->ticket ? answer_ticket(c) : answer(c);
}

void http_completed(void *serve, struct MHD_Connection *connection, void **call,
                    enum MHD_RequestTerminationCode why)
{
    struct call *c = *call;
    (void)serve, (void)connection, (void)why;
    if (!c)
        return;
    if (c->ticket) {
        unlist(c);
        atomic_store(&c->ticket->gone, true); /* nobody reads what may still come */
        ticket_release(c->ticket);
    }
    free(c->body);
    free(c);
    *call = NULL;
}
