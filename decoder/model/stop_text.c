#include "decoder/model/stop_text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int grow(struct stop_text *s, size_t more)
{
    if (s->len + more <= s->room)
        return 0;
    size_t room = 2 * (s->len + more);
    char *text = realloc(s->text, room);
    if (!text)
        return -ENOMEM;
    s->text = text;
    s->room = room;
    return 0;
}

/* Where the first stop string begins that lies in text[from, len), or len. */
static size_t find_stop(const struct stop_text *s, size_t from)
{
    size_t first = s->len;
    for (size_t i = 0; i < s->n_stops; i++) {
        size_t n = strlen(s->stops[i]);
        const char *at = n ? memmem(s->text + from, s->len - from, s->stops[i], n) : NULL;
        if (at && (size_t)(at - s->text) < first)
            first = (size_t)(at - s->text);
    }
    return first;
}

/* Where the longest end of the text begins that a stop string begins with. */
static size_t find_possible_stop(const struct stop_text *s, size_t from)
{
    for (size_t at = from; at < s->len; at++)
        for (size_t i = 0; i < s->n_stops; i++)
            if (strlen(s->stops[i]) > s->len - at && !memcmp(s->stops[i], s->text + at, s->len - at))
                return at;
    return s->len;
}

int stop_text_push(struct stop_text *s, const char *bytes, size_t n)
{
    if (s->stopped)
        return 0;
    int rc = grow(s, UTF8_ROOM(n));
    if (rc)
        return rc;
    s->len += utf8_stream_push(&s->utf8, bytes, n, s->text + s->len);
    size_t stop = find_stop(s, s->sure);
    s->stopped = stop < s->len;
    s->len = stop;
    s->sure = s->stopped ? stop : find_possible_stop(s, s->sure);
    return 0;
}

int stop_text_end(struct stop_text *s)
{
    int rc = grow(s, UTF8_ROOM(0));
    if (rc)
        return rc;
    if (!s->stopped)
        s->len += utf8_stream_flush(&s->utf8, s->text + s->len);
    s->sure = s->len;
    return 0;
}

void stop_text_free(struct stop_text *s)
{
    free(s->text);
    *s = (struct stop_text){0};
}
