/* utf8.c: see utf8.h.
 *
 * One table-free rule decides everything: which bytes may follow a lead byte. The second byte's range is
 * narrower after E0, ED, F0 and F4 (overlong forms, surrogates, beyond U+10FFFF); the others are 80..BF. */
#include "decoder/model/utf8.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

/* Bytes of a character that begins with lead; 0 if none does. */
static size_t lead_length(uint8_t lead)
{
    if (lead < 0x80)
        return 1;
    if (lead < 0xc2)
        return 0;
    if (lead < 0xe0)
        return 2;
    if (lead < 0xf0)
        return 3;
    return lead < 0xf5 ? 4 : 0;
}

/* May b be the byte at position at (>= 1) of a character that begins with lead? */
static bool may_follow(uint8_t lead, size_t at, uint8_t b)
{
    uint8_t low = 0x80, high = 0xbf;
    if (at == 1) {
        low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : low;
        high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : high;
    }
    return b >= low && b <= high;
}

size_t utf8_char(const char *p, size_t n)
{
    const uint8_t *u = (const uint8_t *)p;
    size_t len = n ? lead_length(u[0]) : 0;
    if (len > n)
        return 0;
    for (size_t i = 1; i < len; i++)
        if (!may_follow(u[0], i, u[i]))
            return 0;
    return len;
}

size_t utf8_valid(const char *p, size_t n)
{
    size_t i = 0;
    while (i < n) {
        uint64_t eight;
        if (n - i >= 8 && (memcpy(&eight, p + i, 8), (eight & 0x8080808080808080u) == 0)) {
            i += 8;
            continue;
        }
        size_t len = utf8_char(p + i, n - i);
        if (len == 0)
            break;
        i += len;
    }
    return i;
}

static size_t put_replacement(char *out)
{
    memcpy(out, "\xef\xbf\xbd", 3);
    return 3;
}

size_t utf8_stream_push(struct utf8_stream *s, const char *bytes, size_t n, char *out)
{
    size_t w = 0;
    for (size_t i = 0; i < n; i++) {
        uint8_t b = (uint8_t)bytes[i];
        assert(s->n_held < 4);
        if (s->n_held && !may_follow(s->held[0], s->n_held, b)) {
            w += put_replacement(out + w);
            s->n_held = 0;
        }
        if (s->n_held == 0 && lead_length(b) == 0) {
            w += put_replacement(out + w);
            continue;
        }
        s->held[s->n_held++] = b;
        if (s->n_held == lead_length(s->held[0])) {
            memcpy(out + w, s->held, s->n_held);
            w += s->n_held;
            s->n_held = 0;
        }
    }
    return w;
}

size_t utf8_stream_flush(struct utf8_stream *s, char *out)
{
    size_t w = s->n_held ? put_replacement(out) : 0;
    s->n_held = 0;
    return w;
}
