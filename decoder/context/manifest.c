/* manifest.c: see manifest.h. */
#include "decoder/context/manifest.h"
#include "decoder/scout/policy.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MANIFEST_VERSION = 4, MAY_SKIP = 0x8000, ISA_BYTES = 16 };
#define MANIFEST_MAGIC "SKVMANI"
#define MANIFEST_TOKENS (1ull << 32) /* more no context has */

enum section {
    SECTION_OPTIONS = 1,
    SECTION_RECIPE,
    SECTION_PROTECT,
    SECTION_MODEL,
    SECTION_ISA,
    SECTION_ENGINE,
    SECTION_PARTS,
    SECTION_LAYERS,
    SECTION_DECODE_LAYERS,
    SECTION_SCHEDULE,
    SECTION_CALIBRATION,
    SECTION_REFRESH,
    SECTION_REPRESENTATIVES,
    SECTION_TURN,
    SECTION_PACKED,
    SECTIONS,
};

struct stored_select {
    uint32_t policy, budget, unit;
    float mass;
    uint32_t given, tail;
    float opt[SKV_POLICY_OPTS];
};
struct stored_layer_select {
    uint32_t from, to;
    struct stored_select select;
};
/* Of decode, then of each range of layers; there only if one of them refreshes. */
struct stored_refresh {
    uint32_t every, budget;
};
/* Of the same, the cosines; and behind them, in bytes, the state: there only if one turns, or did. */
struct stored_turn {
    uint64_t bytes;
    float below[1 + SKV_LAYER_RANGES];
    uint32_t reserved;
};
static_assert(sizeof(struct stored_turn) == 48, "stored as it is");
/* There only where K and V are kept in few bits. */
struct stored_packed {
    uint64_t local_bytes, rounded_to;
};
struct stored_options {
    struct stored_select decode, prefill;
    uint64_t cache_bytes;
    uint32_t window, seal_lag, sinks, dtype, durable, history;
};
static_assert(sizeof(struct stored_options) == 112, "stored as it is");
struct stored_calibration {
    uint8_t fingerprint[SKV_FINGERPRINT];
    uint32_t n_layers, n_kv_heads, d_k, d_rep; /* and behind it heads, weights of salience, projections */
};
static_assert(sizeof(struct skv_calibration_head) == 4 * (5 + SKV_KNOTS), "stored as it is");
static_assert(sizeof(struct skv_layer) == 24 && sizeof(struct skv_range) == 16, "stored as they are");

int manifest_check_name(const char *name, struct skv_error *err)
{
    size_t n = name ? strlen(name) : 0;
    if (n == 0 || n > MANIFEST_NAME)
        return skv_fail(err, -EINVAL, "a saved context's name has 1 to %d bytes, this one %zu", MANIFEST_NAME,
                        n);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)name[i] < ' ' || name[i] == 0x7f)
            return skv_fail(err, -EINVAL, "a saved context's name has no control characters");
    return 0;
}

void manifest_free(struct manifest *m)
{
    free(m->recipe);
    free(m->calibration);
    free(m->layers);
    free(m->protect);
    free(m->engine);
    free(m->parts);
    *m = (struct manifest){0};
}

/* ---- bytes ---- */

static struct stored_select store_select(const struct skv_select *s)
{
    struct stored_select out = {s->policy, s->budget, s->unit, s->mass, s->given, s->tail, {0}};
    memcpy(out.opt, s->opt, sizeof out.opt);
    return out;
}

static struct skv_select load_select(const struct stored_select *s)
{
    struct skv_select out = {.policy = (enum skv_policy)s->policy,
                             .budget = s->budget,
                             .unit = s->unit,
                             .mass = s->mass,
                             .given = s->given,
                             .tail = s->tail == 1};
    memcpy(out.opt, s->opt, sizeof out.opt);
    return out;
}

static uint8_t *pack_section(uint8_t *at, uint32_t number, const void *bytes, size_t n)
{
    uint32_t head[2] = {number, (uint32_t)n};
    memcpy(at, head, sizeof head);
    if (n)
        memcpy(at + sizeof head, bytes, n);
    return at + sizeof head + n;
}

static size_t calibration_bytes(const struct skv_calibration *c)
{
    return c ? sizeof(struct stored_calibration) + calibration_n(c) * sizeof *c->heads +
                   (calibration_salience_floats(c) + calibration_projection_floats(c)) * sizeof(float)
             : 0;
}

/* A section like any other, but of four pieces. */
static uint8_t *pack_calibration(uint8_t *at, const struct skv_calibration *c)
{
    struct stored_calibration stored = {
        .n_layers = c->n_layers, .n_kv_heads = c->n_kv_heads, .d_k = c->d_k, .d_rep = c->d_rep};
    size_t heads = calibration_n(c) * sizeof *c->heads,
           salience = calibration_salience_floats(c) * sizeof *c->salience;
    uint32_t head[2] = {SECTION_CALIBRATION, (uint32_t)calibration_bytes(c)};
    memcpy(stored.fingerprint, c->fingerprint, sizeof stored.fingerprint);
    memcpy(at, head, sizeof head);
    memcpy(at + sizeof head, &stored, sizeof stored);
    memcpy(at + sizeof head + sizeof stored, c->heads, heads);
    if (c->d_k)
        memcpy(at + sizeof head + sizeof stored + heads, c->salience, salience);
    if (c->d_rep)
        memcpy(at + sizeof head + sizeof stored + heads + salience, c->projection,
               calibration_projection_floats(c) * sizeof *c->projection);
    return at + sizeof head + head[1];
}

static size_t store_refresh(const struct skv_context_opts *o, struct stored_refresh *out)
{
    bool any = o->decode.refresh || o->decode.refresh_turn > 0.0f;
    out[0] = (struct stored_refresh){o->decode.refresh, o->decode.refresh_budget};
    for (uint32_t i = 0; i < o->n_decode_layers; i++) {
        const struct skv_select *s = &o->decode_layers[i].select;
        out[i + 1] = (struct stored_refresh){s->refresh, s->refresh_budget};
        any |= s->refresh || s->refresh_turn > 0.0f;
    }
    return any ? (1 + o->n_decode_layers) * sizeof *out : 0;
}

/* false: there is nothing to store. */
static bool store_turn(const struct manifest *m, struct stored_turn *out)
{
    const struct skv_context_opts *o = &m->opts;
    bool any = m->turn_bytes || o->decode.refresh_turn > 0.0f;
    *out = (struct stored_turn){.bytes = m->turn_bytes, .below = {o->decode.refresh_turn}};
    for (uint32_t i = 0; i < o->n_decode_layers; i++) {
        out->below[1 + i] = o->decode_layers[i].select.refresh_turn;
        any |= out->below[1 + i] > 0.0f;
    }
    return any;
}

int manifest_pack(const struct manifest *m, const char *name, uint8_t **out, size_t *n, struct skv_error *err)
{
    const struct skv_context_opts *o = &m->opts;
    struct stored_options stored = {.decode = store_select(&o->decode),
                                    .prefill = store_select(&o->prefill),
                                    .cache_bytes = o->cache_bytes,
                                    .window = o->window,
                                    .seal_lag = o->seal_lag,
                                    .sinks = o->sinks,
                                    .dtype = o->dtype,
                                    .durable = o->durable,
                                    .history = o->history};
    struct stored_layer_select layers[SKV_LAYER_RANGES] = {0};
    for (uint32_t i = 0; i < o->n_decode_layers; i++)
        layers[i] = (struct stored_layer_select){o->decode_layers[i].from, o->decode_layers[i].to,
                                                 store_select(&o->decode_layers[i].select)};
    struct stored_refresh refresh[1 + SKV_LAYER_RANGES];
    size_t refresh_bytes = store_refresh(o, refresh);
    struct stored_turn turn;
    bool turns = store_turn(m, &turn);
    size_t recipe = m->recipe ? strlen(m->recipe) : 0;
    size_t size = sizeof m->head + SECTIONS * 8 + sizeof stored + sizeof layers + sizeof refresh +
                  sizeof turn + sizeof(struct stored_packed) + 2 * sizeof(uint32_t) + recipe +
                  calibration_bytes(o->calibration) + o->n_protect * sizeof *m->protect + strlen(m->model) +
                  strlen(m->isa) + m->engine_bytes + m->n_parts * sizeof *m->parts +
                  m->n_layers * sizeof *m->layers;
    if (size > TIER_OBJECT_MAX)
        return skv_fail(err, -EFBIG,
                        "context \"%s\" cannot be saved: its unsealed tail of %zu MiB and %zu protected "
                        "ranges do not fit a manifest; use a smaller window",
                        name, m->n_parts, o->n_protect);
    uint8_t *bytes = malloc(size), *at = bytes + sizeof m->head;
    if (!bytes)
        return skv_fail(err, -ENOMEM, "out of memory");
    struct manifest_head head = m->head;
    memcpy(head.magic, MANIFEST_MAGIC, sizeof head.magic);
    head.version = MANIFEST_VERSION;
    memcpy(bytes, &head, sizeof head);
    at = pack_section(at, SECTION_OPTIONS, &stored, sizeof stored);
    if (m->recipe)
        at = pack_section(at, SECTION_RECIPE, m->recipe, recipe);
    at = pack_section(at, SECTION_PROTECT, m->protect, o->n_protect * sizeof *m->protect);
    at = pack_section(at, SECTION_LAYERS, m->layers, m->n_layers * sizeof *m->layers);
    at = pack_section(at, SECTION_DECODE_LAYERS, layers, o->n_decode_layers * sizeof *layers);
    uint32_t schedule = o->schedule;
    if (schedule != SKV_UNIFORM)
        at = pack_section(at, SECTION_SCHEDULE, &schedule, sizeof schedule);
    uint32_t representatives = o->representatives;
    if (representatives != SKV_REPS_FULL)
        at = pack_section(at, SECTION_REPRESENTATIVES, &representatives, sizeof representatives);
    if (o->calibration)
        at = pack_calibration(at, o->calibration);
    if (refresh_bytes)
        at = pack_section(at, SECTION_REFRESH, refresh, refresh_bytes);
    if (turns)
        at = pack_section(at, SECTION_TURN, &turn, sizeof turn);
    struct stored_packed packed = {m->local_bytes, m->rounded_to};
    if (m->local_bytes != head.token_bytes)
        at = pack_section(at, SECTION_PACKED, &packed, sizeof packed);
    at = pack_section(at, SECTION_MODEL, m->model, strlen(m->model));
    at = pack_section(at, SECTION_ISA, m->isa, strlen(m->isa));
    at = pack_section(at, SECTION_ENGINE, m->engine, m->engine_bytes);
    at = pack_section(at, SECTION_PARTS, m->parts, m->n_parts * sizeof *m->parts);
    *out = bytes;
    *n = (size_t)(at - bytes);
    assert(*n <= size);
    return 0;
}

static bool load_options(struct skv_context_opts *o, const uint8_t *at, size_t n)
{
    struct stored_options s;
    if (n != sizeof s)
        return false;
    memcpy(&s, at, sizeof s);
    o->decode = load_select(&s.decode);
    o->prefill = load_select(&s.prefill);
    o->cache_bytes = s.cache_bytes;
    o->window = s.window;
    o->seal_lag = s.seal_lag;
    o->sinks = s.sinks;
    o->dtype = (enum skv_dtype)s.dtype;
    o->durable = s.durable == 1;
    o->history = s.history == 1;
    return s.durable <= 1 && s.history <= 1 && skv_dtype_name(o->dtype) &&
           policy_check(&o->decode, NULL) == 0 && policy_check(&o->prefill, NULL) == 0;
}

static bool load_decode_layers(struct skv_context_opts *o, const uint8_t *at, size_t n)
{
    struct stored_layer_select s[SKV_LAYER_RANGES];
    if (n > sizeof s || n % sizeof *s)
        return false;
    memcpy(s, at, n);
    o->n_decode_layers = (uint32_t)(n / sizeof *s);
    for (uint32_t i = 0; i < o->n_decode_layers; i++)
        o->decode_layers[i] = (struct skv_layer_select){s[i].from, s[i].to, load_select(&s[i].select)};
    return true; /* context_new checks them */
}

static bool load_schedule(struct skv_context_opts *o, const uint8_t *at, size_t n)
{
    uint32_t schedule = SKV_SCHEDULES;
    if (n == sizeof schedule)
        memcpy(&schedule, at, sizeof schedule);
    o->schedule = (enum skv_schedule)schedule;
    return schedule < SKV_SCHEDULES;
}

static bool load_representatives(struct skv_context_opts *o, const uint8_t *at, size_t n)
{
    uint32_t representatives = SKV_REPRESENTATIVES;
    if (n == sizeof representatives)
        memcpy(&representatives, at, sizeof representatives);
    o->representatives = (enum skv_representatives)representatives;
    return representatives < SKV_REPRESENTATIVES;
}

static bool load_calibration(struct manifest *m, const uint8_t *at, size_t n)
{
    struct stored_calibration s;
    struct skv_calibration c = {0};
    if (n < sizeof s)
        return false;
    memcpy(&s, at, sizeof s);
    memcpy(c.fingerprint, s.fingerprint, sizeof c.fingerprint);
    c.n_layers = s.n_layers;
    c.n_kv_heads = s.n_kv_heads;
    c.d_k = s.d_k;
    c.d_rep = s.d_rep;
    if (calibration_n(&c) > CALIBRATION_HEADS || c.d_k > CALIBRATION_DIMS || c.d_rep > c.d_k ||
        n != calibration_bytes(&c))
        return false;
    struct skv_calibration_head *heads = malloc(n); /* aligned */
    if (!heads)
        return false;
    memcpy(heads, at + sizeof s, n - sizeof s);
    c.heads = heads;
    c.salience = (const float *)(heads + calibration_n(&c));
    c.projection = c.salience + calibration_salience_floats(&c);
    if (calibration_check(&c, NULL) == 0)
        m->opts.calibration = m->calibration = calibration_copy(&c);
    free(heads);
    return m->calibration != NULL;
}

/* Its section is behind those of the options and the ranges of layers. */
static bool load_refresh(struct skv_context_opts *o, const uint8_t *at, size_t n)
{
    struct stored_refresh s[1 + SKV_LAYER_RANGES];
    if (n != (1 + o->n_decode_layers) * sizeof *s)
        return false;
    memcpy(s, at, n);
    o->decode.refresh = s[0].every;
    o->decode.refresh_budget = s[0].budget;
    for (uint32_t i = 0; i < o->n_decode_layers; i++) {
        o->decode_layers[i].select.refresh = s[i + 1].every;
        o->decode_layers[i].select.refresh_budget = s[i + 1].budget;
    }
    return true; /* context_new checks them */
}

static bool load_turn(struct manifest *m, const uint8_t *at, size_t n)
{
    struct stored_turn s;
    if (n != sizeof s)
        return false;
    memcpy(&s, at, sizeof s);
    m->turn_bytes = s.bytes;
    m->opts.decode.refresh_turn = s.below[0];
    for (uint32_t i = 0; i < m->opts.n_decode_layers; i++)
        m->opts.decode_layers[i].select.refresh_turn = s.below[1 + i];
    return s.bytes <= m->head.received_bytes; /* context_new checks the cosines */
}

static bool load_packed(struct manifest *m, const uint8_t *at, size_t n)
{
    struct stored_packed s;
    if (n != sizeof s)
        return false;
    memcpy(&s, at, sizeof s);
    m->local_bytes = s.local_bytes;
    m->rounded_to = s.rounded_to;
    return s.local_bytes <= 1 << 30 && s.rounded_to <= m->head.len;
}

/* A copy of n bytes with a zero behind them in place of old. */
static void *copy_bytes(void *old, const uint8_t *at, size_t n)
{
    char *copy = malloc(n + 1);
    free(old);
    if (copy) {
        memcpy(copy, at, n);
        copy[n] = 0;
    }
    return copy;
}

static bool copy_text(char *out, size_t size, const uint8_t *at, size_t n)
{
    if (n >= size)
        return false;
    memcpy(out, at, n);
    out[n] = 0;
    return true;
}

static bool load_section(struct manifest *m, uint32_t number, const uint8_t *at, size_t n)
{
    switch (number) {
    case SECTION_OPTIONS:
        return load_options(&m->opts, at, n);
    case SECTION_RECIPE:
        m->recipe = copy_bytes(m->recipe, at, n);
        return m->recipe;
    case SECTION_LAYERS:
        m->layers = copy_bytes(m->layers, at, n);
        m->n_layers = n / sizeof *m->layers;
        return m->layers && n % sizeof *m->layers == 0;
    case SECTION_PROTECT:
        m->protect = copy_bytes(m->protect, at, n);
        m->opts.n_protect = n / sizeof *m->protect;
        return m->protect && n % sizeof *m->protect == 0;
    case SECTION_DECODE_LAYERS:
        return load_decode_layers(&m->opts, at, n);
    case SECTION_SCHEDULE:
        return load_schedule(&m->opts, at, n);
    case SECTION_REPRESENTATIVES:
        return load_representatives(&m->opts, at, n);
    case SECTION_CALIBRATION:
        return load_calibration(m, at, n);
    case SECTION_REFRESH:
        return load_refresh(&m->opts, at, n);
    case SECTION_TURN:
        return load_turn(m, at, n);
    case SECTION_PACKED:
        return load_packed(m, at, n);
    case SECTION_MODEL:
        return copy_text(m->model, sizeof m->model, at, n);
    case SECTION_ISA:
        return copy_text(m->isa, sizeof m->isa, at, n);
    case SECTION_ENGINE:
        m->engine = copy_bytes(m->engine, at, n);
        m->engine_bytes = n;
        return m->engine && n <= MANIFEST_ENGINE;
    default:
        assert(number == SECTION_PARTS);
        m->parts = copy_bytes(m->parts, at, n);
        m->n_parts = n / sizeof *m->parts;
        return m->parts && n % sizeof *m->parts == 0;
    }
}

static bool sizes_agree(const struct manifest *m)
{
    const struct manifest_head *h = &m->head;
    uint64_t blocks = h->len / BLOCK_TOKENS;
    return h->len <= MANIFEST_TOKENS && h->sealed <= h->indexed && h->indexed <= blocks &&
           h->n_passes <= h->len && h->token_bytes <= 1 << 30 &&
           (h->len + BLOCK_TOKENS - 1) / BLOCK_TOKENS - h->sealed <= 1 << 20 &&
           h->received_bytes < UINT64_C(1) << 40 && h->state_bytes == manifest_state_bytes(m) &&
           m->n_parts == (h->state_bytes + PART_BYTES - 1) / PART_BYTES && h->flags <= MANIFEST_FLAGS &&
           m->n_layers > 0 && m->n_layers <= MAX_LAYERS;
}

int manifest_unpack(struct manifest *m, const char *name, const uint8_t *bytes, size_t n,
                    struct skv_error *err)
{
    unsigned seen = 0;
    *m = (struct manifest){0};
    if (n < sizeof m->head)
        return skv_fail(err, -EBADMSG, "saved context \"%s\" is cut: %zu bytes", name, n);
    memcpy(&m->head, bytes, sizeof m->head);
    m->local_bytes = m->head.token_bytes;
    if (memcmp(m->head.magic, MANIFEST_MAGIC, sizeof m->head.magic) != 0)
        return skv_fail(err, -EBADMSG, "\"%s\" is not a saved context", name);
    if (m->head.version != MANIFEST_VERSION)
        return skv_fail(err, -EPROTONOSUPPORT,
                        "saved context \"%s\" has version %u, this program reads %d: save it again", name,
                        m->head.version, MANIFEST_VERSION);
    for (size_t at = sizeof m->head; at < n;) {
        uint32_t head[2];
        if (n - at < sizeof head)
            goto damaged;
        memcpy(head, bytes + at, sizeof head);
        at += sizeof head;
        if (head[1] > n - at)
            goto damaged;
        if (head[0] >= SECTIONS || head[0] == 0) {
            if (!(head[0] & MAY_SKIP))
                return skv_fail(err, -EPROTONOSUPPORT,
                                "saved context \"%s\" holds what this program does not know (section %u): "
                                "use a newer one",
                                name, head[0]);
        } else if (seen >> head[0] & 1 || !load_section(m, head[0], bytes + at, head[1])) {
            goto damaged;
        } else {
            seen |= 1u << head[0];
        }
        at += head[1];
    }
    m->opts.recipe = m->recipe;
    m->opts.hints =
        true; /* whoever goes on with it may tell them, whether or not it was saved by one who did */
    m->opts.protect = m->protect;
    const unsigned needed = 1u << SECTION_OPTIONS | 1u << SECTION_LAYERS | 1u << SECTION_PARTS;
    if ((seen & needed) != needed || !sizes_agree(m))
        goto damaged;
    return 0;
damaged:
    return skv_fail(err, -EBADMSG, "saved context \"%s\" is damaged: its sizes disagree", name);
}

/* ---- on the tier ---- */

int manifest_read(struct skv_tier *t, const char *name, struct manifest *m, struct skv_error *err)
{
    struct buf *b = NULL;
    uint64_t revision = 0;
    *m = (struct manifest){0};
    int rc = manifest_check_name(name, err);
    if (rc)
        return rc;
    rc = tier_object_get(t->tier, TIER_MANIFEST, name, &b, &revision, err);
    if (rc == -ENOENT)
        return skv_fail(err, rc, "no context \"%s\" is saved on these nodes: see `scoutkv context list`",
                        name);
    if (rc)
        return rc;
    rc = manifest_unpack(m, name, b->data, b->len, err);
    m->revision = revision;
    buf_unref(b);
    return rc;
}

int manifest_write(struct skv_tier *t, const char *name, struct manifest *m, struct skv_error *err)
{
    uint8_t *bytes;
    size_t n;
    uint64_t revision = 0;
    int rc = manifest_pack(m, name, &bytes, &n, err);
    if (rc)
        return rc;
    struct tier_object_opts o = {.ttl_ms = m->head.ttl_ms,
                                 .durable = m->opts.durable,
                                 .absent = m->revision == 0,
                                 .expect = m->revision,
                                 .revision = &revision};
    rc = tier_object_put(t->tier, TIER_MANIFEST, name, bytes, n, &o, err);
    free(bytes);
    if (rc == -ESTALE)
        return skv_fail(err, -EEXIST,
                        m->revision ? "context \"%s\" was saved by somebody else meanwhile"
                                    : "a context \"%s\" is saved already: remove it, or take another name",
                        name);
    if (rc == 0)
        m->revision = revision;
    return rc;
}

static void hex(char *out, const uint8_t *bytes, size_t n)
{
    sodium_bin2hex(out, 2 * n + 1, bytes, n);
}

void manifest_owner(const struct manifest *m, const char *name, char out[OWNER_TEXT])
{
    char id[2 * PART_ID + 1];
    hex(id, m->head.part_id, PART_ID);
    snprintf(out, OWNER_TEXT, "%.200s#%.16s", name, id);
}

/* ---- state ---- */

void manifest_part_name(const struct manifest *m, size_t part, char name[TIER_NAME_MAX + 1])
{
    char id[2 * PART_ID + 1];
    hex(id, m->head.part_id, PART_ID);
    snprintf(name, TIER_NAME_MAX + 1, "part/%s/%zu", id, part);
}

static void hash_part(const uint8_t *bytes, size_t len, uint8_t out[CHAIN_BYTES])
{
    struct identity id;
    identity_begin(&id, "scoutkv part");
    identity_add(&id, bytes, len);
    identity_end(&id, out);
}

size_t manifest_state_bytes(const struct manifest *m)
{
    const struct manifest_head *h = &m->head;
    uint64_t n_local = (h->len + BLOCK_TOKENS - 1) / BLOCK_TOKENS - h->sealed;
    return h->indexed * CHAIN_BYTES + h->n_passes * sizeof(struct pass_run) +
           h->len * (4 + (h->flags & MANIFEST_TAGS ? SKV_TAG : 0)) + n_local * BLOCK_TOKENS * m->local_bytes +
           h->received_bytes;
}

static size_t state_part_bytes(const struct manifest *m, size_t part)
{
    size_t left = m->head.state_bytes - part * PART_BYTES;
    return left < PART_BYTES ? left : PART_BYTES;
}

struct state_read {
    const struct manifest *m;
    uint8_t *state;
    size_t n;
};

static int on_part(void *arg, size_t part, int rc, const uint8_t *bytes, size_t len, struct skv_error *err)
{
    struct state_read *r = arg;
    uint8_t hash[CHAIN_BYTES];
    if (rc == -ENOENT)
        return skv_fail(err, -ENODATA, "part %zu of the saved context is on no node: the context is lost",
                        part);
    if (rc)
        return rc;
    hash_part(bytes, len, hash);
    if (len != state_part_bytes(r->m, part) || memcmp(hash, r->m->parts[part], CHAIN_BYTES) != 0)
        return skv_fail(err, -EBADMSG, "part %zu of the saved context does not match its hash", part);
    size_t from = part * PART_BYTES;
    memcpy(r->state + from, bytes, r->n - from < len ? r->n - from : len);
    return 0;
}

static void name_part(void *arg, size_t i, char name[TIER_NAME_MAX + 1])
{
    struct state_read *r = arg;
    manifest_part_name(r->m, i, name);
}

int manifest_read_state(struct skv_tier *t, const struct manifest *m, size_t n, uint8_t *state,
                        struct skv_error *err)
{
    assert(n <= m->head.state_bytes);
    struct state_read r = {m, state, n};
    return tier_sidecars_get(t->tier, (n + PART_BYTES - 1) / PART_BYTES, name_part, on_part, &r, err);
}

int manifest_write_state(struct skv_tier *t, struct manifest *m, const uint8_t *state, struct skv_error *err)
{
    m->n_parts = (m->head.state_bytes + PART_BYTES - 1) / PART_BYTES;
    free(m->parts);
    m->parts = calloc(m->n_parts + 1, sizeof *m->parts);
    if (!m->parts)
        return skv_fail(err, -ENOMEM, "out of memory");
    struct tier_object_opts o = {.ttl_ms = sidecar_ttl(m->head.ttl_ms), .durable = m->opts.durable};
    char name[TIER_NAME_MAX + 1];
    int rc = 0;
    for (size_t i = 0; i < m->n_parts && rc == 0; i++) {
        const uint8_t *at = state + i * PART_BYTES;
        hash_part(at, state_part_bytes(m, i), m->parts[i]);
        manifest_part_name(m, i, name);
        rc = tier_object_put(t->tier, TIER_SIDECAR, name, at, state_part_bytes(m, i), &o, err);
    }
    return rc;
}

void manifest_drop_state(struct skv_tier *t, const struct manifest *m, const char *name)
{
    char owner[OWNER_TEXT];
    manifest_owner(m, name, owner);
    char part[TIER_NAME_MAX + 1];
    for (size_t i = 0; i < m->n_parts; i++) {
        manifest_part_name(m, i, part);
        tier_object_drop(t->tier, TIER_SIDECAR, part, NULL);
    }
    tier_unpin(t->tier, owner, NULL, 0, NULL);
}
