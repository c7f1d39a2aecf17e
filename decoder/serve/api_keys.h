/* api_keys.h: who may ask. Only hashes of the keys are kept, under a secret of this process, and all of them
 * are compared in constant time: how long it takes tells nothing about any key. */
#ifndef SERVE_API_KEYS_H
#define SERVE_API_KEYS_H

#include "common/error.h"

#include <stdbool.h>
#include <stddef.h>

struct api_keys;

/* A key a line; blanks around it, empty lines and lines that begin with # don't count. -EINVAL: it holds no
 * key, or what is no key. */
int api_keys_read(const char *path, struct api_keys **out, struct skv_error *);
void api_keys_free(struct api_keys *); /* NULL is allowed */
size_t api_keys_count(const struct api_keys *);

/* authorization: the header's value, "Bearer KEY", or NULL. keys NULL: anybody may. */
bool api_keys_allow(const struct api_keys *, const char *authorization);

#endif
