#include "decoder/serve/ticket.h"
#include "common/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct ticket *ticket_new(struct api_request *request)
{
    struct ticket *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    pthread_mutex_init(&t->lock, NULL);
    atomic_init(&t->references, 1);
    t->request = *request;
    *request = (struct api_request){0};
    t->accepted_ns = t->written_ns = clock_ns();
    return t;
}

void ticket_hold(struct ticket *t)
{
    atomic_fetch_add(&t->references, 1);
}

void ticket_release(struct ticket *t)
{
    if (!t || atomic_fetch_sub(&t->references, 1) != 1)
        return;
    pthread_mutex_destroy(&t->lock);
    api_request_free(&t->request);
    free(t->ids);
    free(t->out);
    free(t);
}

/* ---- writing: with the lock held ---- */

static void wake(struct ticket *t)
{
    if (!t->wake)
        return;
    void (*fn)(void *) = t->wake;
    t->wake = NULL;
    fn(t->connection);
}

static bool append(struct ticket *t, const char *text, size_t n)
{
    if (t->sent == t->len)
        t->sent = t->len = 0;
    if (t->len + n > t->room) {
        size_t room = 2 * (t->len + n);
        char *grown = realloc(t->out, room);
        if (!grown)
            return false;
        t->out = grown;
        t->room = room;
    }
    memcpy(t->out + t->len, text, n);
    t->len += n;
    t->written_ns = clock_ns();
    return true;
}

static void begin_stream(struct ticket *t)
{
    if (t->status == 0) {
        t->status = 200;
        t->event_stream = true;
    }
}

/* Without memory for what should be said: a fixed text, or the end of the stream. */
static void out_of_memory(struct ticket *t)
{
    static const char body[] =
        "{\"error\":{\"message\":\"the server is out of memory\",\"type\":\"server_error\","
        "\"param\":null,\"code\":\"out_of_room\"}}";
    if (t->status == 0) {
        t->status = 503;
        append(t, body, sizeof body - 1);
    }
    t->done = true;
}

void ticket_event(struct ticket *t, char *text)
{
    pthread_mutex_lock(&t->lock);
    if (!t->done) {
        if (text)
            begin_stream(t);
        if (!text || !append(t, text, strlen(text)))
            out_of_memory(t);
        wake(t);
    }
    pthread_mutex_unlock(&t->lock);
    free(text);
}

static void set_body(struct ticket *t, int status, const char *body)
{
    if (body && append(t, body, strlen(body)))
        t->status = status;
    else
        out_of_memory(t);
    t->done = true;
    wake(t);
}

void ticket_body(struct ticket *t, char *body)
{
    pthread_mutex_lock(&t->lock);
    if (!t->done)
        set_body(t, 200, body);
    pthread_mutex_unlock(&t->lock);
    free(body);
}

void ticket_fail(struct ticket *t, const struct api_error *e)
{
    pthread_mutex_lock(&t->lock);
    bool begun = t->status != 0;
    char *text = t->done ? NULL : begun ? api_chunk_error(e) : api_error_body(e);
    if (!t->done && begun) {
        if (text)
            append(t, text, strlen(text));
        t->done = true;
        wake(t);
    } else if (!t->done) {
        set_body(t, e->status, text);
    }
    pthread_mutex_unlock(&t->lock);
    free(text);
}

void ticket_end(struct ticket *t)
{
    pthread_mutex_lock(&t->lock);
    t->done = true;
    wake(t);
    pthread_mutex_unlock(&t->lock);
}

size_t ticket_backlog(struct ticket *t)
{
    pthread_mutex_lock(&t->lock);
    size_t n = t->len - t->sent;
    pthread_mutex_unlock(&t->lock);
    return n;
}

void ticket_ping(struct ticket *t, uint64_t before_ns)
{
    char text[80];
    pthread_mutex_lock(&t->lock);
    if (!t->done && t->request.stream && t->written_ns < before_ns) {
        int n = snprintf(text, sizeof text, ": %llu of %zu tokens of the prompt are in\n\n",
                         (unsigned long long)atomic_load(&t->prefilled), t->n_ids);
        begin_stream(t);
        append(t, text, (size_t)n);
        wake(t);
    }
    pthread_mutex_unlock(&t->lock);
}

/* ---- reading ---- */

/* Under the lock, so that nobody wakes it before it sleeps. */
static void fall_asleep(struct ticket *t, void (*sleep)(void *), void (*wake_up)(void *), void *connection)
{
    t->wake = wake_up;
    t->connection = connection;
    sleep(connection);
}

bool ticket_answered(struct ticket *t, void (*sleep)(void *), void (*wake_up)(void *), void *connection)
{
    pthread_mutex_lock(&t->lock);
    bool answered = t->status != 0 && (t->event_stream || t->done);
    if (!answered)
        fall_asleep(t, sleep, wake_up, connection);
    pthread_mutex_unlock(&t->lock);
    return answered;
}

long ticket_take(struct ticket *t, char *to, size_t max, void (*sleep)(void *), void (*wake_up)(void *),
                 void *connection)
{
    pthread_mutex_lock(&t->lock);
    size_t n = t->len - t->sent < max ? t->len - t->sent : max;
    if (n) {
        memcpy(to, t->out + t->sent, n);
        t->sent += n;
    } else if (!t->done) {
        fall_asleep(t, sleep, wake_up, connection);
    }
    bool over = n == 0 && t->done;
    pthread_mutex_unlock(&t->lock);
    return over ? -1 : (long)n;
}
