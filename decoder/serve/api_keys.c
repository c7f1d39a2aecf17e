#include "decoder/serve/api_keys.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { HASH = crypto_generichash_BYTES };

struct api_keys {
    uint8_t secret[crypto_generichash_KEYBYTES];
    uint8_t (*hash)[HASH];
    size_t n;
};

static void hash_key(const struct api_keys *k, const char *key, size_t len, uint8_t out[HASH])
{
    crypto_generichash(out, HASH, (const uint8_t *)key, len, k->secret, sizeof k->secret);
}

static int add(struct api_keys *k, const char *key, size_t len, struct skv_error *err)
{
    uint8_t(*grown)[HASH] = realloc(k->hash, (k->n + 1) * sizeof *grown);
    if (!grown)
        return skv_fail(err, -ENOMEM, "out of memory");
    k->hash = grown;
    hash_key(k, key, len, k->hash[k->n++]);
    return 0;
}

/* Printable, without blanks: what a header can carry. */
static size_t key_length(const char *s)
{
    size_t n = 0;
    while (s[n] > ' ' && s[n] < 0x7f)
        n++;
    return n;
}

static int read_lines(struct api_keys *k, const char *path, FILE *f, struct skv_error *err)
{
    char *line = NULL;
    size_t room = 0, number = 0;
    int rc = 0;
    while (!rc && getline(&line, &room, f) >= 0) {
        char *at = line + strspn(line, " \t\r\n");
        size_t n = key_length(at);
        number++;
        if (*at == 0 || *at == '#')
            continue;
        if (at[n + strspn(at + n, " \t\r\n")])
            rc = skv_fail(err, -EINVAL, "%s:%zu: expected one key of printable ASCII a line", path, number);
        else
            rc = add(k, at, n, err);
    }
    if (line)
        sodium_memzero(line, room);
    free(line);
    if (!rc && ferror(f))
        rc = skv_fail(err, -EIO, "cannot read %s", path);
    if (!rc && k->n == 0)
        rc = skv_fail(err, -EINVAL, "%s holds no key: write one a line", path);
    return rc;
}

int api_keys_read(const char *path, struct api_keys **out, struct skv_error *err)
{
    *out = NULL;
    if (sodium_init() < 0)
        return skv_fail(err, -EIO, "libsodium found no source of random numbers");
    FILE *f = fopen(path, "re");
    if (!f)
        return skv_fail(err, -errno, "cannot open the keys %s: %s", path, strerror(errno));
    struct api_keys *k = calloc(1, sizeof *k);
    int rc = k ? 0 : skv_fail(err, -ENOMEM, "out of memory");
    if (!rc) {
        randombytes_buf(k->secret, sizeof k->secret);
        rc = read_lines(k, path, f, err);
    }
    fclose(f);
    if (rc) {
        api_keys_free(k);
        return rc;
    }
    *out = k;
    return 0;
}

void api_keys_free(struct api_keys *k)
{
    if (!k)
        return;
    sodium_memzero(k->secret, sizeof k->secret);
    free(k->hash);
    free(k);
}

size_t api_keys_count(const struct api_keys *k)
{
    return k->n;
}

bool api_keys_allow(const struct api_keys *k, const char *authorization)
{
    static const char scheme[] = "Bearer ";
    if (!k)
        return true;
    if (!authorization || strncasecmp(authorization, scheme, sizeof scheme - 1) != 0)
        return false;
    const char *key = authorization + sizeof scheme - 1;
    key += strspn(key, " ");
    uint8_t hash[HASH];
    unsigned found = 0;
    hash_key(k, key, key_length(key), hash);
    for (size_t i = 0; i < k->n; i++)
        found |= sodium_memcmp(hash, k->hash[i], HASH) == 0; /* no early way out */
    return found != 0 && key[key_length(key)] == 0;
}
