#include "decoder/cli/emit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int grow(struct emit *e, size_t more, struct skv_error *err)
{
    if (e->len + more <= e->room)
        return 0;
    size_t room = 2 * (e->len + more);
    char *text = realloc(e->text, room);
    if (!text)
        return skv_fail(err, -ENOMEM, "out of memory");
    e->text = text;
    e->room = room;
    return 0;
}

static int write_until(struct emit *e, size_t end, struct skv_error *err)
{
    size_t n = end - e->written;
    if (e->out && n && (fwrite(e->text + e->written, 1, n, e->out) != n || fflush(e->out)))
        return skv_fail(err, errno ? -errno : -EIO, "cannot write the text: %s",
                        strerror(errno ? errno : EIO));
    e->written = end;
    return 0;
}

/* Where the first stop string begins that lies in text[from, len), or len. */
static size_t find_stop(const struct emit *e, size_t from)
{
    size_t first = e->len;
    for (size_t i = 0; i < e->stops.n; i++) {
        size_t n = strlen(e->stops.item[i]);
        const char *at = n ? memmem(e->text + from, e->len - from, e->stops.item[i], n) : NULL;
        if (at && (size_t)(at - e->text) < first)
            first = (size_t)(at - e->text);
    }
    return first;
}

/* Where the longest end of text begins that a stop string begins with. */
static size_t find_possible_stop(const struct emit *e, size_t from)
{
    for (size_t at = from; at < e->len; at++)
        for (size_t i = 0; i < e->stops.n; i++)
            if (strlen(e->stops.item[i]) > e->len - at &&
                !memcmp(e->stops.item[i], e->text + at, e->len - at))
                return at;
    return e->len;
}

int emit_push(struct emit *e, const char *bytes, size_t n, struct skv_error *err)
{
    int rc = e->stopped ? 0 : grow(e, UTF8_ROOM(n), err);
    if (rc || e->stopped)
        return rc;
    e->len += utf8_stream_push(&e->utf8, bytes, n, e->text + e->len);
    size_t stop = find_stop(e, e->written);
    if (stop < e->len) {
        e->stopped = true;
        e->len = stop;
        return write_until(e, stop, err);
    }
    return write_until(e, find_possible_stop(e, e->written), err);
}

int emit_end(struct emit *e, struct skv_error *err)
{
    int rc = grow(e, UTF8_ROOM(0), err);
    if (rc)
        return rc;
    if (!e->stopped)
        e->len += utf8_stream_flush(&e->utf8, e->text + e->len);
    return write_until(e, e->len, err);
}

void emit_free(struct emit *e)
{
    free(e->text);
    *e = (struct emit){0};
}
