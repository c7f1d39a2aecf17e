/* utf8.h: validity of UTF-8, and a stream that turns arbitrary pieces of bytes into valid UTF-8.
 *
 * Tokens are byte strings that may end inside a character. A stream holds such an end back until the rest has
 * come, and replaces what can never become a character by U+FFFD, one for each maximal broken part. */
#ifndef DECODER_MODEL_UTF8_H
#define DECODER_MODEL_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of the valid character at p (1..4), or 0 if there is none within n bytes. */
size_t utf8_char(const char *p, size_t n);
/* Length of the longest prefix that is valid UTF-8. */
size_t utf8_valid(const char *p, size_t n);

struct utf8_stream { /* all zero = empty */
    uint8_t held[4]; /* the beginning of a character */
    uint8_t n_held;
};

/* The most that a push of n bytes writes; a flush writes at most UTF8_ROOM(0). */
#define UTF8_ROOM(n) (3 * (size_t)(n) + 4)

/* Appends bytes and writes all that is complete to out (UTF8_ROOM(n) bytes). Returns how many were written.
 */
size_t utf8_stream_push(struct utf8_stream *, const char *bytes, size_t n, char *out);
/* The end: writes U+FFFD if a character was left incomplete. */
size_t utf8_stream_flush(struct utf8_stream *, char *out);

#endif
