#include "decoder/serve/prefixes.h"
#include "common/clock.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

static void add(crypto_generichash_state *h, const void *bytes, size_t n)
{
    crypto_generichash_update(h, bytes, n);
}

/* Servers that would make other bits must not replace each other's. */
void prefixes_init(struct prefixes *p, skv_tier *tier, const struct skv_model *m,
                   const struct skv_context_opts *o, const char *tenant, const char *model, uint64_t ttl_ms)
{
    *p = (struct prefixes){.tier = tier, .tenant = tenant, .model = model, .ttl_ms = ttl_ms};
    crypto_generichash_state h;
    char prefill[SKV_POLICY_TEXT];
    skv_policy_format(&o->prefill, prefill);
    const uint32_t numbers[] = {
        o->prefill.budget,           o->prefill.unit, o->window, o->seal_lag, o->sinks, (uint32_t)o->dtype,
        (uint32_t)o->representatives};
    crypto_generichash_init(&h, NULL, 0, sizeof p->key);
    add(&h, m->fingerprint, sizeof m->fingerprint);
    add(&h, prefill, strlen(prefill) + 1);
    add(&h, numbers, sizeof numbers);
    add(&h, &o->prefill.mass, sizeof o->prefill.mass);
    for (size_t i = 0; i < o->n_protect; i++)
        add(&h, &o->protect[i], sizeof o->protect[i]);
    if (o->recipe)
        add(&h, o->recipe, strlen(o->recipe) + 1);
    if (o->salt)
        add(&h, o->salt, 32);
    if (o->calibration)
        add(&h, o->calibration->heads,
            (size_t)o->calibration->n_layers * o->calibration->n_kv_heads * sizeof *o->calibration->heads);
    add(&h, skv_isa(), strlen(skv_isa()));
    crypto_generichash_final(&h, p->key, sizeof p->key);
}

static void hash_ids(const struct prefixes *p, const uint32_t *ids, size_t n, uint8_t out[PREFIX_HASH])
{
    uint8_t whole[crypto_generichash_BYTES];
    crypto_generichash(whole, sizeof whole, (const uint8_t *)ids, n * sizeof *ids, p->key, sizeof p->key);
    memcpy(out, whole, PREFIX_HASH);
}

static void name_hash(const struct prefixes *p, const uint8_t hash[PREFIX_HASH], char out[PREFIX_NAME])
{
    int n = snprintf(out, PREFIX_NAME, "serve/%s%s", p->tenant, p->tenant[0] ? "/" : "");
    sodium_bin2hex(out + n, (size_t)(PREFIX_NAME - n), hash, PREFIX_HASH);
}

void prefixes_name(const struct prefixes *p, const uint32_t *ids, size_t n, char out[PREFIX_NAME])
{
    uint8_t hash[PREFIX_HASH];
    hash_ids(p, ids, n, hash);
    name_hash(p, hash, out);
}

static void note(struct prefixes *p, const uint8_t hash[PREFIX_HASH], uint64_t now_ns)
{
    size_t at = (hash[0] | (size_t)hash[1] << 8) % PREFIX_SEEN;
    memcpy(p->seen[at].hash, hash, PREFIX_HASH);
    p->seen[at].leased_ns = now_ns;
}

static bool is_due(const struct prefixes *p, const uint8_t hash[PREFIX_HASH], uint64_t now_ns)
{
    size_t at = (hash[0] | (size_t)hash[1] << 8) % PREFIX_SEEN;
    return memcmp(p->seen[at].hash, hash, PREFIX_HASH) != 0 || p->seen[at].leased_ns == 0 ||
           now_ns - p->seen[at].leased_ns > p->ttl_ms / 2 * NS_PER_MS;
}

static int save(struct prefixes *p, skv_context *c, const uint8_t hash[PREFIX_HASH], uint64_t now_ns,
                struct skv_error *err)
{
    char name[PREFIX_NAME];
    name_hash(p, hash, name);
    int rc =
        skv_context_snapshot(c, name, &(struct skv_save_opts){.ttl_ms = p->ttl_ms, .model = p->model}, err);
    if (rc == 0)
        note(p, hash, now_ns);
    return rc;
}

int prefixes_keep(struct prefixes *p, skv_context *c, const uint32_t *ids, size_t n, uint64_t now_ns,
                  struct skv_error *err)
{
    uint8_t hash[PREFIX_HASH];
    hash_ids(p, ids, n, hash);
    return save(p, c, hash, now_ns, err);
}

int prefixes_found(struct prefixes *p, skv_context *c, const uint32_t *ids, size_t n, uint64_t now_ns,
                   struct skv_error *err)
{
    uint8_t hash[PREFIX_HASH];
    char name[PREFIX_NAME];
    hash_ids(p, ids, n, hash);
    if (!is_due(p, hash, now_ns))
        return 0;
    name_hash(p, hash, name);
    int rc = skv_saved_pin(p->tier, name, p->ttl_ms, err);
    if (rc == -ENOENT)
        return save(p, c, hash, now_ns, err);
    if (rc == 0)
        note(p, hash, now_ns);
    return rc;
}
