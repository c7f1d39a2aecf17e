/* api_keys.h: who may ask, and for whom. Only hashes of the keys are kept, under a secret of this process,
 * and all of them are compared in constant time: how long it takes tells nothing about any key.
 *
 * A tenant is who shares what is kept: prompts of different tenants have blocks and contexts of different
 * names, since the tenant's salt goes into them. */
#ifndef SERVE_API_KEYS_H
#define SERVE_API_KEYS_H

#include "common/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TENANT_NAME_MAX = 40, TENANT_SALT = 32, TENANT_SECRET_MIN = 16 };

struct tenant {
    char name[TENANT_NAME_MAX + 1]; /* empty: shares with everybody who has no salt, `scoutkv run` too */
    uint8_t salt[TENANT_SALT];      /* of a tenant with a name */
};
/* The salt for skv_context_opts, or NULL. */
static inline const uint8_t *tenant_salt(const struct tenant *t)
{
    return t->name[0] ? t->salt : NULL;
}

struct api_keys;

/* A line each: KEY, or KEY TENANT, or KEY TENANT SECRET; blanks around them, empty lines and lines that begin
 * with # don't count. A key without a tenant is one of its own, called after a hash of the key; "-" is the
 * one without a name. A tenant's salt is a hash of its secret, which any one of its lines may give, else of
 * the first of its keys. -EINVAL: the file holds no key, or what is none of this. */
int api_keys_read(const char *path, struct api_keys **out, struct skv_error *);
void api_keys_free(struct api_keys *); /* NULL is allowed */
size_t api_keys_count(const struct api_keys *);

/* keys NULL: one, without a name. */
size_t api_keys_tenants(const struct api_keys *);
const struct tenant *api_keys_tenant(const struct api_keys *, size_t i);

/* authorization: the header's value, "Bearer KEY", or NULL. Whether it may ask, and for which tenant. keys
 * NULL: anybody may. */
bool api_keys_allow(const struct api_keys *, const char *authorization, size_t *tenant);

#endif
