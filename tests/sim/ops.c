/* ops.c: what clients do: put blocks, fetch pages of their own and of others', ask, hint, drop, pin and
 * unpin; and what must hold when the answer comes. */
#include "tests/sim/ops.h"
#include "tests/store/sim_file.h" /* sim_must */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- beginning and ending ---- */

static struct op *op_new(struct sim_client *c, enum op_kind kind)
{
    struct cluster *k = c->k;
    struct op *o = sim_must(calloc(1, sizeof *o));
    *o = (struct op){.next = c->ops,
                     .client = c,
                     .kind = kind,
                     .number = ++k->serial,
                     .began = ++k->event,
                     .since = clock_at(&c->clock, k->now),
                     .stalled_for = c->stalled_for,
                     .give_up = UINT64_MAX};
    c->ops = o;
    c->n_ops++;
    return o;
}

static void op_free(struct op *o)
{
    struct op **at = &o->client->ops;
    while (*at != o)
        at = &(*at)->next;
    *at = o->next;
    o->client->n_ops--;
    free(o->wants);
    free(o->answered);
    free(o->of);
    free(o);
}

static void failed(struct op *o, int rc, const char *why)
{
    struct cluster *k = o->client->k;
    say(k, "%s op %" PRIu64 ": %s (%s)", o->client->name, o->number, strerror(-rc), why);
    if (o->must)
        BROKEN(k, "%s: all is well, and a request fails: %s", o->client->name, why);
}

/* Each request may take the timeout on every node, and that again for one that is starting and for one that
 * is waited for; and its turn comes when those before it are done. */
static uint64_t patience(const struct cluster *k)
{
    return k->plan.timeout * (4 + 3 * k->plan.n_nodes) + 2 * NS_PER_S;
}

/* What a frozen node may cost: two heartbeats until it is suspected, and a deadline. */
static void check_stall(struct op *o)
{
    struct sim_client *c = o->client;
    struct cluster *k = c->k;
    uint64_t took = clock_at(&c->clock, k->now) - o->since - (c->stalled_for - o->stalled_for);
    uint64_t most =
        2 * k->plan.heartbeat + k->plan.timeout + 50 * NS_PER_MS + 20 * (k->plan.latency + k->plan.jitter);
    if (o->safe && took > most)
        BROKEN(k, "%s op %" PRIu64 ": it took %.3f s, where %.3f s are allowed: only n%d has faults", c->name,
               o->number, (double)took / 1e9, (double)most / 1e9, k->plan.victim + 1);
}

static void fetch_end(struct op *o)
{
    struct sim_client *c = o->client;
    struct skv_error err = {0};
    bool done = client_fetch_done(o->fetch);
    int rc = client_fetch_free(c->core, o->fetch, &err);
    if (done && o->n_answered != o->n_wants)
        BROKEN(c->k, "%s: a fetch is done, and %zu of its %zu pages were not called back", c->name,
               o->n_wants - o->n_answered, o->n_wants);
    if (done && rc != o->first_failure)
        BROKEN(c->k, "%s: a fetch ends with %d, and its first failure was %d", c->name, rc, o->first_failure);
    if (done)
        check_stall(o);
    if (rc)
        say(c->k, "%s op %" PRIu64 ": fetch: %s", c->name, o->number, err.text);
    else
        say(c->k, "%s op %" PRIu64 ": fetch %s", c->name, o->number, done ? "done" : "given up");
    op_free(o);
}

void ops_sweep(struct sim_client *c, bool all)
{
    struct cluster *k = c->k;
    uint64_t local = clock_at(&c->clock, k->now);
    for (struct op *o = c->ops, *next; o; o = next) {
        next = o->next;
        if (o->kind == OP_FETCH && (all || client_fetch_done(o->fetch) || k->now >= o->give_up))
            fetch_end(o);
        else if (all || o->done)
            op_free(o);
        else if (local - o->since - (c->stalled_for - o->stalled_for) > patience(k) && !k->failed)
            BROKEN(k, "%s op %" PRIu64 ": a request (kind %d) has no end", c->name, o->number, (int)o->kind);
    }
}

/* ---- choosing ---- */

static struct sim_key *any_key(struct cluster *k)
{
    return &k->keys[random_below(&k->rng, k->plan.n_keys)];
}

/* Different ones. */
static void any_keys(struct op *o, unsigned most)
{
    struct cluster *k = o->client->k;
    unsigned n = (unsigned)random_between(&k->rng, 1, most);
    for (unsigned i = 0; i < n; i++) {
        struct sim_key *key = any_key(k);
        bool is_new = true;
        for (unsigned j = 0; j < o->n_keys; j++)
            is_new = is_new && o->key[j] != key;
        if (is_new)
            o->key[o->n_keys++] = key;
    }
}

/* ---- PUT ---- */

static void on_put(void *arg, const struct tier_put_result *r)
{
    struct op *o = arg;
    struct sim_client *c = o->client;
    struct cluster *k = c->k;
    struct sim_key *key = o->key[0];
    if (o->done) {
        BROKEN(k, "%s: the PUT of k%u is called back twice", c->name, key->number);
        return;
    }
    o->done = true;
    c->putting &= ~(UINT64_C(1) << key->number);
    if (r->rc) {
        k->counts->failed_calls++;
        if (r->rc == -ENOSPC || r->rc == -EROFS) /* an operator's turn */
            o->must = o->must && !k->plan.tight && !k->plan.bad_disks;
        if (r->rc == -EPROTO && !k->plan.twice)
            BROKEN(k, "%s put k%u: %s", c->name, key->number, r->err->text);
        failed(o, r->rc, r->err->text);
        if (o->safe)
            BROKEN(k, "%s can't put k%u, though only n%d has faults: %s", c->name, key->number,
                   k->plan.victim + 1, r->err->text);
        return;
    }
    check_stall(o);
    int version = r->stored ? model_version(key, r->stored, r->n_pages) : o->version;
    k->counts->acks++;
    k->counts->other_version += r->stored != NULL;
    if (version < 0 || (r->stored && version == o->version)) {
        WRONG(k, "%s put k%u.v%d and is told to adopt %s", c->name, key->number, o->version,
              version < 0 ? "checksums that nobody made" : "what it has");
        return;
    }
    say(k, "%s op %" PRIu64 ": k%u.v%d is acknowledged, holders %" PRIx64, c->name, o->number, key->number,
        version, r->holders);
    if (o->must && k->plan.n_versions == 1 && !k->plan.tight && !k->plan.bad_disks &&
        (unsigned)__builtin_popcountll(r->holders) < k->plan.replicas)
        BROKEN(k, "%s put k%u with all nodes up, and its holders are only %" PRIx64, c->name, key->number,
               r->holders);
    promise_made(c, key, o->version, version, r->holders, o->durable, o->began);
}

static void put(struct sim_client *c, bool must)
{
    struct cluster *k = c->k;
    struct sim_key *key = any_key(k);
    struct skv_error err;
    if (c->putting >> key->number & 1)
        return;
    struct op *o = op_new(c, OP_PUT);
    o->key[o->n_keys++] = key;
    o->version = (int)random_below(&k->rng, k->plan.n_versions);
    o->durable = !must && random_percent(&k->rng, k->plan.durable_percent);
    o->must = must;
    o->safe = k->plan.victim >= 0;
    c->putting |= UINT64_C(1) << key->number;
    k->counts->puts++;
    say(k, "%s op %" PRIu64 ": put k%u.v%d, %s", c->name, o->number, key->number, o->version,
        o->durable ? "durable" : "ram");
    int rc = client_put(c->core, &key->key, key->layout, key->version[o->version].payload,
                        key->version[o->version].checksums, o->durable ? TIER_ACK_DURABLE : TIER_ACK_RAM,
                        on_put, o, &err);
    if (rc == 0)
        return;
    o->done = true;
    c->putting &= ~(UINT64_C(1) << key->number);
    failed(o, rc, err.text);
}

/* ---- FETCH ---- */

/* Whether a node that was to hold the block when the fetch began, and is not `but`, has held it ever since.
 */
static bool was_held(const struct op *o, unsigned i, int but, unsigned *node)
{
    struct cluster *k = o->client->k;
    for (unsigned n = 0; n < k->plan.n_nodes; n++) {
        const struct promise *then = &o->held[i][n], *now = &o->key[i]->promise[n];
        if ((int)n == but || !client_knows(o->client, n) || then->version < 0 || now->since != then->since ||
            !promise_holds(k, o->key[i], n))
            continue;
        *node = n;
        if ((then->dir && then->dir == now->dir) || then->life == now->life)
            return true;
    }
    return false;
}

/* Whether this failure may be told. */
static void judge_failure(struct op *o, size_t want, int rc)
{
    struct sim_client *c = o->client;
    struct cluster *k = c->k;
    unsigned i = o->of[want], node = 0;
    nodes_note_evictions(k);
    bool held = was_held(o, i, -1, &node);
    bool safe = o->safe && was_held(o, i, k->plan.victim, &node);
    k->counts->misses += rc == -ENODATA;
    k->counts->unreachable += rc != -ENODATA;
    if (rc != -ENODATA && rc != -EHOSTUNREACH && rc != -EBADMSG)
        BROKEN(k, "%s: a page fails with %d, which tier.h does not name", c->name, rc);
    else if (rc == -EBADMSG && !k->plan.flip)
        WRONG(k, "%s: bytes of k%u.v%d fail their checksum", c->name, o->key[i]->number, o->wanted[i]);
    else if (rc == -ENODATA && held)
        LOST(k, "%s is told that no node has k%u.v%d, which n%u acknowledged and holds", c->name,
             o->key[i]->number, o->wanted[i], node + 1);
    else if ((o->must && held) || safe)
        LOST(k, "%s can't read k%u.v%d (%s), which n%u acknowledged and nothing has happened to", c->name,
             o->key[i]->number, o->wanted[i], strerror(-rc), node + 1);
    else if (o->must && rc != -ENODATA)
        BROKEN(k, "%s asks for k%u.v%d, which nobody has, and gets %d though all is well", c->name,
               o->key[i]->number, o->wanted[i], rc);
}

static void on_page(void *arg, size_t want, int rc, const uint8_t *bytes)
{
    struct op *o = arg;
    struct sim_client *c = o->client;
    struct cluster *k = c->k;
    if (want >= o->n_wants || o->answered[want]) {
        BROKEN(k, "%s: page %zu of a fetch is called back %s", c->name, want,
               want < o->n_wants ? "twice" : "that was not wanted");
        return;
    }
    o->answered[want] = 1;
    o->n_answered++;
    if (rc) {
        o->first_failure = o->first_failure ? o->first_failure : rc;
        judge_failure(o, want, rc);
        return;
    }
    const struct sim_key *key = o->key[o->of[want]];
    const struct tier_want *w = &o->wants[want];
    size_t slot = (size_t)w->head * BLOCK_PAGES + w->page, len = layout_page_bytes(key->layout);
    int version = o->wanted[o->of[want]];
    k->counts->pages++;
    if (version < 0 || memcmp(bytes, key->version[version].payload->data + slot * len, len) != 0)
        WRONG(k, "%s: page %zu of k%u has other bytes than v%d", c->name, slot, key->number, version);
}

static struct op *fetch_new(struct sim_client *c)
{
    struct op *o = op_new(c, OP_FETCH);
    size_t most = 0;
    for (unsigned i = 0; i < c->k->plan.n_layouts; i++)
        most = layout_pages(&c->k->plan.layouts[i]) > most ? layout_pages(&c->k->plan.layouts[i]) : most;
    o->wants = sim_must(malloc(OP_KEYS * most * sizeof *o->wants));
    o->answered = sim_must(calloc(OP_KEYS, most));
    o->of = sim_must(calloc(OP_KEYS, most));
    return o;
}

/* Wants pages of one more block: all, or some. */
static void fetch_add(struct op *o, struct sim_key *key, int version, unsigned percent)
{
    struct cluster *k = o->client->k;
    unsigned i = o->n_keys++;
    o->key[i] = key;
    o->wanted[i] = version;
    o->safe = (i == 0 || o->safe) && promise_safe(k, key, version);
    for (unsigned n = 0; n < k->plan.n_nodes; n++) {
        o->held[i][n] = (struct promise){.version = -1};
        if (key->promise[n].version == version && promise_holds(k, key, n))
            o->held[i][n] = key->promise[n];
    }
    for (unsigned p = 0; p < key->pages; p++) {
        if (!random_percent(&k->rng, percent))
            continue;
        o->of[o->n_wants] = (uint8_t)i;
        o->wants[o->n_wants++] =
            (struct tier_want){&key->key, (uint16_t)(p / BLOCK_PAGES), (uint8_t)(p % BLOCK_PAGES),
                               key->version[version].checksums[p]};
    }
}

static void fetch_start(struct op *o)
{
    struct sim_client *c = o->client;
    struct cluster *k = c->k;
    struct skv_error err;
    k->counts->fetches++;
    if (k->verbose) {
        char text[OP_KEYS * 12] = "";
        for (unsigned i = 0; i < o->n_keys; i++)
            sprintf(text + strlen(text), " k%u.v%d", o->key[i]->number, o->wanted[i]);
        say(k, "%s op %" PRIu64 ": fetch %zu pages of%s", c->name, o->number, o->n_wants, text);
    }
    int rc =
        client_fetch_begin(c->core, o->key[0]->layout, o->wants, o->n_wants, on_page, o, &o->fetch, &err);
    if (rc) {
        BROKEN(k, "%s: a fetch does not begin: %s", c->name, err.text);
        op_free(o);
    }
}

static void fetch(struct sim_client *c)
{
    struct cluster *k = c->k;
    struct op *o = fetch_new(c);
    unsigned most = (unsigned)random_between(&k->rng, 1, OP_KEYS);
    unsigned percent = random_percent(&k->rng, 50) ? 100 : (unsigned)random_between(&k->rng, 5, 80);
    uint64_t at = random_below(&k->rng, k->plan.n_keys);
    struct sim_key *first = &k->keys[at];
    for (unsigned i = 0; i < k->plan.n_keys && o->n_keys < most; i++) {
        struct sim_key *key = &k->keys[(at + i) % k->plan.n_keys];
        bool guess = random_percent(&k->rng, 10);
        if (key->layout == first->layout && (key->known >= 0 || guess) && random_percent(&k->rng, 70))
            fetch_add(o, key, guess ? (int)random_below(&k->rng, k->plan.n_versions) : key->known, percent);
    }
    if (!o->n_wants) {
        op_free(o);
        return;
    }
    if (random_percent(&k->rng, 5))
        o->give_up = k->now + random_below(&k->rng, k->plan.timeout);
    fetch_start(o);
}

/* ---- HAVE, HINT, DROP, PIN, UNPIN ---- */

static void judge_have(struct op *o, const ProtobufCBinaryData *present)
{
    struct sim_client *c = o->client;
    struct cluster *k = c->k;
    if (present->len != o->n_keys) {
        BROKEN(k, "n%u answers HAVE for %u keys with %zu", o->node + 1, o->n_keys, present->len);
        return;
    }
    nodes_note_evictions(k);
    for (unsigned i = 0; i < o->n_keys; i++) {
        const struct promise *p = &o->key[i]->promise[o->node];
        bool held = promise_holds(k, o->key[i], o->node) && p->event < o->began;
        bool same = p->life == k->nodes[o->node].life || (p->dir && p->dir == k->nodes[o->node].dir);
        if (held && same && !present->data[i] && o->key[i]->removed[o->node] < o->began)
            LOST(k, "n%u says that it has no k%u, which it has acknowledged", o->node + 1, o->key[i]->number);
    }
}

static void on_reply(void *arg, int rc, const struct message *m, const struct skv_error *err)
{
    struct op *o = arg;
    struct cluster *k = o->client->k;
    if (o->done) {
        BROKEN(k, "%s: a call is answered twice", o->client->name);
        return;
    }
    o->done = true;
    if (rc) {
        k->counts->failed_calls++;
        failed(o, rc, err->text);
    } else if (o->kind == OP_HAVE) {
        judge_have(o, &m->header->have_ack->present);
    } else if (m->header->done->count > o->n_keys && o->n_keys) {
        BROKEN(k, "n%u acted on %u of %u keys", o->node + 1, m->header->done->count, o->n_keys);
    }
}

static void call_send(struct op *o, Scoutkv__Header__BodyCase kind, Scoutkv__Header__BodyCase expect)
{
    struct sim_client *c = o->client;
    struct cluster *k = c->k;
    Scoutkv__Key key[OP_KEYS], *keys[OP_KEYS];
    float keep[OP_KEYS];
    char owner[8];
    for (unsigned i = 0; i < o->n_keys; i++) {
        key[i] = (Scoutkv__Key)SCOUTKV__KEY__INIT;
        key[i].chain = (ProtobufCBinaryData){CHAIN_BYTES, o->key[i]->key.chain};
        key[i].layer = o->key[i]->key.layer;
        keys[i] = &key[i];
        keep[i] = (float)random_below(&k->rng, 100);
    }
    Scoutkv__Have have = SCOUTKV__HAVE__INIT;
    Scoutkv__Hint hint = SCOUTKV__HINT__INIT;
    Scoutkv__Drop drop = SCOUTKV__DROP__INIT;
    Scoutkv__Pin pin = SCOUTKV__PIN__INIT;
    Scoutkv__Unpin unpin = SCOUTKV__UNPIN__INIT;
    have.n_keys = hint.n_keys = drop.n_keys = pin.n_keys = unpin.n_keys = o->n_keys;
    have.keys = hint.keys = drop.keys = pin.keys = unpin.keys = keys;
    hint.n_keep = o->n_keys;
    hint.keep = keep;
    snprintf(owner, sizeof owner, "m%u", o->owner + 1);
    pin.owner = unpin.owner = owner;
    pin.ttl_ms = (uint32_t)random_between(&k->rng, 100, 3000);
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.body_case = kind;
    if (kind == SCOUTKV__HEADER__BODY_HAVE)
        h.have = &have;
    else if (kind == SCOUTKV__HEADER__BODY_HINT)
        h.hint = &hint;
    else if (kind == SCOUTKV__HEADER__BODY_DROP)
        h.drop = &drop;
    else if (kind == SCOUTKV__HEADER__BODY_PIN)
        h.pin = &pin;
    else
        h.unpin = &unpin;
    struct skv_error err;
    k->counts->calls++;
    int rc = client_call(c->core, o->slot, false, &h, (struct view){0}, expect, on_reply, o,
                         clock_at(&c->clock, k->now), &err);
    if (rc) {
        o->done = true;
        failed(o, rc, err.text);
    }
}

static void call(struct sim_client *c)
{
    static const struct {
        unsigned of_100;
        enum op_kind kind;
        Scoutkv__Header__BodyCase body, expect;
    } kinds[] = {
        {25, OP_HAVE, SCOUTKV__HEADER__BODY_HAVE, SCOUTKV__HEADER__BODY_HAVE_ACK},
        {10, OP_HINT, SCOUTKV__HEADER__BODY_HINT, SCOUTKV__HEADER__BODY_DONE},
        {5, OP_DROP, SCOUTKV__HEADER__BODY_DROP, SCOUTKV__HEADER__BODY_DONE},
        {40, OP_PIN, SCOUTKV__HEADER__BODY_PIN, SCOUTKV__HEADER__BODY_DONE},
        {20, OP_UNPIN, SCOUTKV__HEADER__BODY_UNPIN, SCOUTKV__HEADER__BODY_DONE},
    };
    struct cluster *k = c->k;
    uint64_t n = random_below(&k->rng, 100);
    unsigned i = 0;
    for (; n >= kinds[i].of_100; i++)
        n -= kinds[i].of_100;
    struct op *o = op_new(c, kinds[i].kind);
    o->slot = client_node_at(c->core, (unsigned)random_below(&k->rng, client_n_nodes(c->core)));
    o->node = (unsigned)client_node_of(c, o->slot);
    o->owner = (unsigned)random_below(&k->rng, MAX_OWNERS);
    any_keys(o, o->kind == OP_DROP ? 2 : OP_KEYS);
    if (o->kind == OP_UNPIN && random_percent(&k->rng, 30))
        o->n_keys = 0; /* all of this owner's */
    say(k, "%s op %" PRIu64 ": a call to n%u", c->name, o->number, o->node + 1);
    call_send(o, kinds[i].body, kinds[i].expect);
}

void op_any(struct sim_client *c)
{
    uint64_t kind = random_below(&c->k->rng, 100);
    if (kind < 40)
        put(c, false);
    else if (kind < 80)
        fetch(c);
    else
        call(c);
}

/* ---- when faults have ceased ---- */

static void probe(struct sim_client *c, struct sim_key *key, int version)
{
    struct op *o = fetch_new(c);
    fetch_add(o, key, version, 100);
    o->must = true;
    fetch_start(o);
}

static bool promised(struct cluster *k, const struct sim_key *key, int version)
{
    for (unsigned n = 0; n < k->plan.n_nodes; n++)
        if (key->promise[n].version == version && promise_holds(k, key, n))
            return true;
    return false;
}

void op_probe_promised(struct sim_client *c)
{
    struct cluster *k = c->k;
    for (unsigned i = 0; i < k->plan.n_keys; i++)
        for (int v = 0; v < (int)k->plan.n_versions; v++)
            if (promised(k, &k->keys[i], v)) {
                k->counts->probes++;
                probe(c, &k->keys[i], v);
            }
}

void op_probe_rest(struct sim_client *c)
{
    struct cluster *k = c->k;
    for (unsigned i = 0; i < k->plan.n_keys; i++) {
        struct sim_key *key = &k->keys[i];
        k->counts->gone += key->known >= 0 && !promised(k, key, key->known);
        for (int v = 0; v < (int)k->plan.n_versions; v++)
            if (!promised(k, key, v))
                probe(c, key, v);
    }
}

void op_probe_put(struct sim_client *c)
{
    put(c, true);
}
