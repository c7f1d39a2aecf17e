/* saved.c: saved contexts by name: leases, and what can be done without opening one.
 *
 * A lease belongs to one save (manifest_owner): a context saved again under its name is leased twice for a
 * moment and never not at all. Whoever opened or saved a context renews leases and manifest when half of
 * their time has passed; the sidecars last longer and are put again only when the new end needs it. */
#include "decoder/context/saved.h"
#include "decoder/context/span_store.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEYS_AT_ONCE = 1 << 16, RENEW_TRIES = 4, TTL_MIN_MS = 1000, SIDECAR_SLACK_MS = 30000 };

int saved_check_ttl(uint64_t ttl_ms, struct skv_error *err)
{
    if (ttl_ms == 0 || (ttl_ms >= TTL_MIN_MS && ttl_ms <= SKV_TTL_MAX_MS))
        return 0;
    return skv_fail(err, -EINVAL, "a time to live of %llu ms: it is at least a second and at most 49 days",
                    (unsigned long long)ttl_ms);
}

/* ---- its blocks ---- */

typedef int keys_fn(void *arg, const struct block_key *keys, size_t n, struct skv_error *err);

/* Calls fn with the keys of all blocks and layers, many at a time. chain: (indexed, CHAIN_BYTES). */
static int each_key(struct skv_tier *t, const struct manifest *m, const uint8_t *chain, keys_fn *fn,
                    void *arg, struct skv_error *err)
{
    uint64_t total = m->head.indexed * m->n_layers;
    size_t most = total < KEYS_AT_ONCE ? total : KEYS_AT_ONCE;
    struct block_key *keys = malloc((most + 1) * sizeof *keys);
    if (!keys)
        return skv_fail(err, -ENOMEM, "out of memory");
    int rc = 0;
    for (uint64_t at = 0; at < total && rc == 0;) {
        size_t n = 0;
        for (; n < most && at < total; n++, at++) {
            keys[n] = (struct block_key){.ns = t->ns, .layer = (uint32_t)(at % m->n_layers)};
            memcpy(keys[n].chain, chain + at / m->n_layers * CHAIN_BYTES, CHAIN_BYTES);
        }
        rc = fn(arg, keys, n, err);
    }
    free(keys);
    return rc;
}

struct pinning {
    struct skv_tier *t;
    char owner[OWNER_TEXT];
    uint32_t ttl_ms;
};

static int pin_keys(void *arg, const struct block_key *keys, size_t n, struct skv_error *err)
{
    const struct pinning *p = arg;
    return tier_pin(p->t->tier, p->owner, keys, n, p->ttl_ms, err);
}

int saved_lease(struct skv_tier *t, const struct manifest *m, const char *name, const uint8_t *chain,
                struct skv_error *err)
{
    struct pinning p = {.t = t, .ttl_ms = (uint32_t)m->head.ttl_ms};
    manifest_owner(m, name, p.owner);
    return each_key(t, m, chain, pin_keys, &p, err);
}

struct counting {
    struct skv_tier *t;
    uint64_t present;
};

static int count_keys(void *arg, const struct block_key *keys, size_t n, struct skv_error *err)
{
    struct counting *c = arg;
    bool *present = malloc(n);
    if (!present)
        return skv_fail(err, -ENOMEM, "out of memory");
    int rc = tier_have(c->t->tier, keys, n, present, err);
    for (size_t i = 0; i < n && rc == 0; i++)
        c->present += present[i];
    free(present);
    return rc;
}

/* The chain and, behind it, the passes: *out is malloc'd. */
static int read_chain(struct skv_tier *t, const struct manifest *m, uint8_t **out, struct skv_error *err)
{
    size_t n = m->head.indexed * CHAIN_BYTES + m->head.n_passes * sizeof(struct pass_run);
    *out = malloc(n + 1);
    if (!*out)
        return skv_fail(err, -ENOMEM, "out of memory");
    return manifest_read_state(t, m, n, *out, err);
}

/* ---- its sidecars, put again with a later end ---- */

static int put_again(struct skv_tier *t, const char *name, const struct tier_object_opts *o,
                     struct skv_error *err)
{
    struct buf *b;
    int rc = tier_object_get(t->tier, TIER_SIDECAR, name, &b, NULL, err);
    if (rc == -ENOENT)
        return skv_fail(err, -ENODATA, "%.60s of the saved context is on no node: it is lost", name);
    if (rc)
        return rc;
    rc = tier_object_put(t->tier, TIER_SIDECAR, name, b->data, b->len, o, err);
    buf_unref(b);
    return rc == -ESTALE ? 0 : rc; /* it was put by somebody else in between */
}

static int put_index_again(struct skv_tier *t, const struct manifest *m, const uint8_t *chain,
                           const struct tier_object_opts *o, struct skv_error *err)
{
    struct skv_model model = {.n_layers = (uint32_t)m->n_layers, .layers = m->layers};
    struct index_kind kind = index_kind_of(&m->opts);
    struct shape *s;
    char name[TIER_NAME_MAX + 1];
    int rc = shape_new(&model, &m->opts, &s, err);
    if (rc)
        return rc;
    for (uint64_t b = 0; b < m->head.indexed && rc == 0; b += SPAN_BLOCKS) {
        uint64_t last = b + SPAN_BLOCKS < m->head.indexed ? b + SPAN_BLOCKS - 1 : m->head.indexed - 1;
        for (size_t i = 0; i < span_objects(s) && rc == 0; i++) {
            span_object_name(s, chain + last * CHAIN_BYTES, i, &kind, name);
            rc = put_again(t, name, o, err);
        }
    }
    shape_unref(s);
    /* Others begin with what was prefilled only. */
    const uint8_t *passes = chain + m->head.indexed * CHAIN_BYTES;
    for (uint64_t i = 0; i < m->head.n_passes && rc == 0; i++) {
        struct pass_run p[2] = {0};
        memcpy(p, passes + i * sizeof *p, (i + 1 < m->head.n_passes ? 2 : 1) * sizeof *p);
        uint64_t next = i + 1 < m->head.n_passes ? p[1].from : m->head.len;
        if (p[0].n == 0)
            break;
        if (!pass_ends_within_span(&p[0], next, m->head.indexed))
            continue;
        span_place_name(chain + (next / BLOCK_TOKENS - 1) * CHAIN_BYTES, &kind, name);
        rc = put_again(t, name, o, err);
    }
    return rc;
}

/* Sees to it that parts and index last until the manifest's new end. */
static int keep_sidecars(struct skv_tier *t, struct manifest *m, const uint8_t *chain, bool parts,
                         struct skv_error *err)
{
    uint64_t now = wall_ms(), ttl = sidecar_ttl(m->head.ttl_ms);
    if (now + m->head.ttl_ms + SIDECAR_SLACK_MS <= m->head.sidecars_until_ms)
        return 0;
    struct tier_object_opts o = {.ttl_ms = ttl, .durable = m->opts.durable};
    char name[TIER_NAME_MAX + 1];
    int rc = 0;
    for (size_t i = 0; parts && i < m->n_parts && rc == 0; i++) {
        manifest_part_name(m, i, name);
        rc = put_again(t, name, &o, err);
    }
    if (rc == 0)
        rc = put_index_again(t, m, chain, &o, err);
    m->head.sidecars_until_ms = now + ttl;
    return rc;
}

/* ---- renewing ---- */

/* only_pinned: -ENOENT if its leases were ended. */
static int renew(struct skv_tier *t, const char *name, uint64_t ttl_ms, bool only_pinned,
                 struct skv_error *err)
{
    int rc = -EEXIST;
    for (int tries = 0; rc == -EEXIST && tries < RENEW_TRIES; tries++) {
        struct manifest m;
        uint8_t *chain = NULL;
        rc = manifest_read(t, name, &m, err);
        if (rc == 0 && only_pinned && !(m.head.flags & MANIFEST_PINNED))
            rc = -ENOENT;
        if (rc == 0) {
            m.head.flags |= MANIFEST_PINNED;
            m.head.ttl_ms = ttl_ms ? ttl_ms : m.head.ttl_ms;
            m.head.renewed_ms = wall_ms();
            rc = read_chain(t, &m, &chain, err);
        }
        if (rc == 0)
            rc = saved_lease(t, &m, name, chain, err);
        if (rc == 0)
            rc = keep_sidecars(t, &m, chain, true, err);
        if (rc == 0)
            rc = manifest_write(t, name, &m, err);
        free(chain);
        manifest_free(&m);
    }
    return rc;
}

int saved_adopt(struct skv_context *c, const char *name, uint64_t ttl_ms)
{
    char *copy = strdup(name);
    if (!copy)
        return -ENOMEM;
    free(c->saved_as);
    c->saved_as = copy;
    c->renew_every_ns = ttl_ms / 2 * NS_PER_MS;
    c->renew_at = clock_ns() + c->renew_every_ns;
    return 0;
}

void saved_keep(struct skv_context *c)
{
    uint64_t now;
    if (!c->saved_as || (now = clock_ns()) < c->renew_at)
        return;
    int rc = renew(c->tier, c->saved_as, 0, true, NULL);
    c->renew_at = now + (rc ? c->renew_every_ns / 8 : c->renew_every_ns);
    if (rc == -ENOENT) { /* removed, or unpinned: not ours any more */
        free(c->saved_as);
        c->saved_as = NULL;
    }
}

/* ---- scoutkv.h ---- */

struct saved {
    struct skv_saved told; /* points into m */
    struct manifest m;
};

static int read_saved(skv_tier *t, const char *name, struct saved **out, struct skv_error *err)
{
    struct saved *s = calloc(1, sizeof *s);
    if (!s)
        return skv_fail(err, -ENOMEM, "out of memory");
    int rc = manifest_read(t, name, &s->m, err);
    if (rc) {
        manifest_free(&s->m);
        free(s);
        return rc;
    }
    const struct manifest_head *h = &s->m.head;
    s->told = (struct skv_saved){.tokens = h->len,
                                 .bytes = h->len * h->token_bytes,
                                 .created_ms = h->created_ms,
                                 .updated_ms = h->updated_ms,
                                 .renewed_ms = h->renewed_ms,
                                 .ttl_ms = h->ttl_ms,
                                 .pinned = h->flags & MANIFEST_PINNED,
                                 .salted = h->flags & MANIFEST_SALTED,
                                 .opts = s->m.opts,
                                 .engine = s->m.engine,
                                 .engine_bytes = s->m.engine_bytes,
                                 .blocks = h->indexed * s->m.n_layers};
    snprintf(s->told.name, sizeof s->told.name, "%s", name);
    snprintf(s->told.model, sizeof s->told.model, "%s", s->m.model);
    memcpy(s->told.fingerprint, h->fingerprint, SKV_FINGERPRINT);
    *out = s;
    return 0;
}

int skv_saved_read(skv_tier *t, const char *name, struct skv_saved **out, struct skv_error *err)
{
    struct saved *s;
    int rc = read_saved(t, name, &s, err);
    if (rc == 0)
        *out = &s->told;
    return rc;
}

int skv_saved_check(skv_tier *t, const char *name, struct skv_saved **out, struct skv_error *err)
{
    struct saved *s;
    struct counting c = {.t = t};
    uint8_t *chain = NULL;
    int rc = read_saved(t, name, &s, err);
    if (rc)
        return rc;
    rc = read_chain(t, &s->m, &chain, err);
    if (rc == 0)
        rc = each_key(t, &s->m, chain, count_keys, &c, err);
    free(chain);
    if (rc) {
        skv_saved_free(&s->told);
        return rc;
    }
    s->told.blocks_present = c.present;
    *out = &s->told;
    return 0;
}

void skv_saved_free(struct skv_saved *told)
{
    struct saved *s = (struct saved *)told; /* its first member */
    if (!s)
        return;
    manifest_free(&s->m);
    free(s);
}

struct listing {
    char **names;
    size_t n, room;
    bool no_memory;
};

static void list_name(void *arg, const char *name)
{
    struct listing *l = arg;
    if (l->n == l->room) {
        size_t room = 2 * l->room + 16;
        char **names = realloc(l->names, room * sizeof *names);
        if (!names) {
            l->no_memory = true;
            return;
        }
        l->names = names;
        l->room = room;
    }
    if ((l->names[l->n] = strdup(name)))
        l->n++;
    else
        l->no_memory = true;
}

int skv_saved_list(skv_tier *t, char ***names, size_t *n, struct skv_error *err)
{
    struct listing l = {0};
    int rc = tier_object_list(t->tier, TIER_MANIFEST, NULL, list_name, &l, err);
    if (rc == 0 && l.no_memory)
        rc = skv_fail(err, -ENOMEM, "out of memory");
    if (rc) {
        while (l.n)
            free(l.names[--l.n]);
        free(l.names);
        return rc;
    }
    *names = l.names;
    *n = l.n;
    return 0;
}

int skv_saved_pin(skv_tier *t, const char *name, uint64_t ttl_ms, struct skv_error *err)
{
    int rc = saved_check_ttl(ttl_ms, err);
    return rc ? rc : renew(t, name, ttl_ms, false, err);
}

int skv_saved_unpin(skv_tier *t, const char *name, struct skv_error *err)
{
    struct manifest m;
    char owner[OWNER_TEXT];
    int rc = manifest_read(t, name, &m, err);
    if (rc == 0) {
        m.head.flags &= ~(uint32_t)MANIFEST_PINNED;
        /* Its end is where it was: the object's own is counted from this put. */
        uint64_t now = wall_ms(), end = m.head.renewed_ms + m.head.ttl_ms;
        m.head.ttl_ms = end > now + TTL_MIN_MS ? end - now : TTL_MIN_MS;
        m.head.renewed_ms = now;
        rc = manifest_write(t, name, &m, err);
    }
    if (rc == 0) {
        manifest_owner(&m, name, owner);
        rc = tier_unpin(t->tier, owner, NULL, 0, err);
    }
    manifest_free(&m);
    return rc;
}

int skv_saved_remove(skv_tier *t, const char *name, struct skv_error *err)
{
    struct manifest m;
    int rc = manifest_read(t, name, &m, err);
    bool readable = rc == 0;
    if (readable || rc == -EBADMSG || rc == -EPROTONOSUPPORT)
        rc = tier_object_drop(t->tier, TIER_MANIFEST, name, err);
    if (rc == 0 && readable)
        manifest_drop_state(t, &m, name);
    manifest_free(&m);
    return rc;
}

static int fork_manifest(skv_tier *t, struct manifest *m, const char *to, struct skv_error *err)
{
    uint8_t *state = malloc(m->head.state_bytes + 1);
    if (!state)
        return skv_fail(err, -ENOMEM, "out of memory");
    int rc = manifest_read_state(t, m, m->head.state_bytes, state, err);
    if (rc == 0) {
        randombytes_buf(m->head.part_id, sizeof m->head.part_id);
        m->head.created_ms = m->head.updated_ms = m->head.renewed_ms = wall_ms();
        m->head.flags |= MANIFEST_PINNED;
        m->revision = 0;
        rc = manifest_write_state(t, m, state, err);
        if (rc == 0)
            rc = saved_lease(t, m, to, state, err);
        if (rc == 0)
            rc = keep_sidecars(t, m, state, false, err);
        if (rc == 0)
            rc = manifest_write(t, to, m, err);
        if (rc)
            manifest_drop_state(t, m, to);
    }
    free(state);
    return rc;
}

int skv_saved_fork(skv_tier *t, const char *from, const char *to, uint64_t ttl_ms, struct skv_error *err)
{
    struct manifest m;
    struct saved *there;
    int rc = saved_check_ttl(ttl_ms, err);
    if (rc == 0)
        rc = manifest_check_name(to, err);
    if (rc)
        return rc;
    rc = read_saved(t, to, &there, NULL); /* manifest_write decides; this spares the work */
    if (rc == 0) {
        skv_saved_free(&there->told);
        return skv_fail(err, -EEXIST, "a context \"%s\" is saved already: remove it, or take another name",
                        to);
    }
    rc = manifest_read(t, from, &m, err);
    if (rc == 0) {
        m.head.ttl_ms = ttl_ms ? ttl_ms : m.head.ttl_ms;
        rc = fork_manifest(t, &m, to, err);
    }
    manifest_free(&m);
    return rc;
}
