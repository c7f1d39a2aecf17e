#include "decoder/serve/api_keys.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { HASH = crypto_generichash_BYTES };

struct key {
    uint8_t hash[HASH];
    size_t tenant;
};
struct api_keys {
    uint8_t secret[crypto_generichash_KEYBYTES];
    struct key *key;
    size_t n;
    struct tenant *tenant;
    bool *salted; /* [n_tenants] by a secret in the file */
    size_t n_tenants;
};

static const struct tenant everybody; /* without keys, and "-" in a file */

static void hash_key(const struct api_keys *k, const char *key, size_t len, uint8_t out[HASH])
{
    crypto_generichash(out, HASH, (const uint8_t *)key, len, k->secret, sizeof k->secret);
}

/* The same at every server with the same file. */
static void hash_salt(const char *text, size_t len, uint8_t out[TENANT_SALT])
{
    static const char domain[] = "scoutkv: salt of a tenant";
    crypto_generichash(out, TENANT_SALT, (const uint8_t *)text, len, (const uint8_t *)domain, sizeof domain);
}

/* ---- a line ---- */

struct word {
    const char *at;
    size_t len;
};

/* The next one, printable and without blanks: what a header can carry; *rest goes behind it and what blanks
 * follow. Empty: there is none, or it is no such word. */
static struct word next_word(const char **rest)
{
    struct word w = {*rest, 0};
    while (w.at[w.len] > ' ' && w.at[w.len] < 0x7f)
        w.len++;
    *rest = w.at + w.len + strspn(w.at + w.len, " \t\r\n");
    return w;
}

static bool names_tenant(struct word w)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    return w.len <= TENANT_NAME_MAX && strspn(w.at, allowed) >= w.len;
}

static const char *line_wrong(struct word key, struct word tenant, struct word secret, const char *rest)
{
    if (key.len == 0 || *rest)
        return "expected KEY [TENANT [SECRET]] of printable ASCII";
    if (!names_tenant(tenant))
        return "a tenant's name has at most 40 letters, digits and any of . _ -";
    if (secret.len && secret.len < TENANT_SECRET_MIN)
        return "a tenant's secret has at least 16 characters: who guesses it can find what the tenant keeps";
    return NULL;
}

/* ---- tenants and keys ---- */

/* The tenant of that name, if need be a new one, whose salt is of `key`. */
static int take_tenant(struct api_keys *k, struct word name, struct word key, size_t *out)
{
    struct tenant t = everybody;
    if (name.len == 0) {
        uint8_t hash[TENANT_SALT];
        hash_salt(key.at, key.len, hash);
        hash_salt((const char *)hash, sizeof hash, hash); /* names are no secret, salts are */
        memcpy(t.name, "key-", 4);
        sodium_bin2hex(t.name + 4, sizeof t.name - 4, hash, 8);
    } else if (name.len > 1 || name.at[0] != '-') {
        memcpy(t.name, name.at, name.len);
    }
    for (*out = 0; *out < k->n_tenants; ++*out)
        if (!strcmp(k->tenant[*out].name, t.name))
            return 0;
    struct tenant *grown = realloc(k->tenant, (k->n_tenants + 1) * sizeof *grown);
    if (grown)
        k->tenant = grown;
    bool *salted = realloc(k->salted, (k->n_tenants + 1) * sizeof *salted);
    if (salted)
        k->salted = salted;
    if (!grown || !salted)
        return -ENOMEM;
    hash_salt(key.at, key.len, t.salt);
    k->tenant[k->n_tenants] = t;
    k->salted[k->n_tenants++] = false;
    return 0;
}

/* -EEXIST: another one was given before. */
static int take_secret(struct api_keys *k, size_t tenant, struct word secret)
{
    uint8_t salt[TENANT_SALT];
    hash_salt(secret.at, secret.len, salt);
    if (k->salted[tenant] && sodium_memcmp(salt, k->tenant[tenant].salt, sizeof salt) != 0)
        return -EEXIST;
    memcpy(k->tenant[tenant].salt, salt, sizeof salt);
    k->salted[tenant] = true;
    return 0;
}

/* -EEXIST: it is there already. */
static int take_key(struct api_keys *k, struct word key, size_t tenant)
{
    struct key *grown = realloc(k->key, (k->n + 1) * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    k->key = grown;
    grown[k->n].tenant = tenant;
    hash_key(k, key.at, key.len, grown[k->n].hash);
    for (size_t i = 0; i < k->n; i++)
        if (!sodium_memcmp(grown[i].hash, grown[k->n].hash, HASH))
            return -EEXIST;
    k->n++;
    return 0;
}

/* *why: what is wrong with it, else it was taken, or there is no memory. */
static int take_line(struct api_keys *k, const char *line, const char **why)
{
    struct word key = next_word(&line), name = next_word(&line), secret = next_word(&line);
    size_t tenant;
    *why = line_wrong(key, name, secret, line);
    if (*why)
        return -EINVAL;
    int rc = take_tenant(k, name, key, &tenant);
    if (rc)
        return rc;
    if (secret.len && !k->tenant[tenant].name[0])
        *why = "the tenant - has no secret: it shares with everybody who has none";
    else if (secret.len && take_secret(k, tenant, secret))
        *why = "the tenant has another secret in a line before";
    else if ((rc = take_key(k, key, tenant)) == -EEXIST)
        *why = "the key is in a line before";
    return *why ? -EINVAL : rc;
}

static int read_lines(struct api_keys *k, const char *path, FILE *f, struct skv_error *err)
{
    char *line = NULL;
    const char *why;
    size_t room = 0, number = 0;
    int rc = 0;
    while (!rc && getline(&line, &room, f) >= 0) {
        char *at = line + strspn(line, " \t\r\n");
        number++;
        if (*at == 0 || *at == '#')
            continue;
        rc = take_line(k, at, &why);
        if (rc)
            skv_fail(err, rc, "%s:%zu: %s", path, number, why ? why : "out of memory");
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
    if (k->tenant)
        sodium_memzero(k->tenant, k->n_tenants * sizeof *k->tenant);
    free(k->tenant);
    free(k->salted);
    free(k->key);
    free(k);
}

size_t api_keys_count(const struct api_keys *k)
{
    return k->n;
}

size_t api_keys_tenants(const struct api_keys *k)
{
    return k ? k->n_tenants : 1;
}

const struct tenant *api_keys_tenant(const struct api_keys *k, size_t i)
{
    return k ? &k->tenant[i] : &everybody;
}

bool api_keys_allow(const struct api_keys *k, const char *authorization, size_t *tenant)
{
    static const char scheme[] = "Bearer ";
    *tenant = 0;
    if (!k)
        return true;
    if (!authorization || strncasecmp(authorization, scheme, sizeof scheme - 1) != 0)
        return false;
    const char *rest = authorization + sizeof scheme - 1;
    rest += strspn(rest, " ");
    struct word key = next_word(&rest);
    uint8_t hash[HASH];
    size_t found = 0, whose = 0;
    hash_key(k, key.at, key.len, hash);
    for (size_t i = 0; i < k->n; i++) { /* no early way out */
        size_t same = sodium_memcmp(hash, k->key[i].hash, HASH) == 0;
        found |= same;
        whose |= (0 - same) & k->key[i].tenant;
    }
    *tenant = found ? whose : 0;
    return found && key.at[key.len] == 0;
}
