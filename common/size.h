/* size.h: byte counts and durations as people write and read them. */
#ifndef COMMON_SIZE_H
#define COMMON_SIZE_H

#include <stddef.h>
#include <stdint.h>

/* "4GiB", "512M", "1.5G", "4096": K, M, G, T are powers of 1024, with or without "B" or "iB", in any case.
 * 0, or -EINVAL for anything else, -ERANGE beyond 64 bits. */
int size_parse(const char *text, uint64_t *out);

/* "3.2 GiB", "512 B". Returns buf. */
char *size_format(char *buf, size_t len, uint64_t bytes);

/* "90s", "15m", "12h", "7d", "2w" in milliseconds; a number alone is seconds. 0, -EINVAL or -ERANGE. */
int duration_parse(const char *text, uint64_t *ms);

/* "42s", "3m05s", "2h10m". Returns buf. */
char *duration_format(char *buf, size_t len, double seconds);

/* 1234567 -> "1,234,567". Returns buf. */
char *count_format(char *buf, size_t len, uint64_t n);

#endif
