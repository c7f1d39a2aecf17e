/* client_move.c: one block brought to where it belongs, which is on the first `replicas` nodes in rank that
 * take blocks.
 *
 * All nodes that can be had are asked what they hold (DESCRIBE). For each version: the pages are fetched as
 * any reader would fetch them, every one verified, and put where they lack, so no version is made that no
 * writer made; the leases are taken there too; and only when each of its places has answered for its copy,
 * the copies elsewhere are dropped. Every step may be the last and the next attempt goes on from what it
 * finds, so nothing has to be remembered.
 *
 * Versions: writers that did not see each other may have left different bytes under one key, and readers may
 * want either. A node holds one of them. The version that lies first in rank has the first choice of places;
 * the others have what is left, so none is ever dropped for the sake of another. */
#include "decoder/tier/client_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { VERSIONS_MAX = 4 }; /* of one block that are looked after */

struct move_version {
    struct block_layout layout;
    uint64_t *checksums;    /* [layout_pages] */
    uint64_t holders, hurt; /* nodes that hold it, and that hold it damaged */
    uint64_t targets;       /* where it belongs */
};

struct move_lease {
    char *owner;
    unsigned version;
    uint64_t until;
    uint64_t at; /* nodes that have it */
};

struct move_part {
    struct move *move;
    unsigned node;
};

struct move {
    struct move *next;
    struct client *client;
    struct block_key key;
    struct move_opts opts;
    move_fn *done;
    void *arg;
    uint64_t known;     /* nodes that have told what they hold */
    uint64_t occupied;  /* those of them that hold some version */
    uint64_t map_epoch; /* of the map that places are chosen by */
    uint64_t claimed;   /* places given to versions */
    uint64_t lost; /* as the client had counted when it began: whoever was lost since may have lost blocks */
    unsigned open; /* answers on their way */
    unsigned n_versions, n_leases;
    unsigned at; /* the version at work */
    bool drop;   /* its copies elsewhere may go */
    struct move_version version[VERSIONS_MAX];
    struct move_lease *lease;
    struct buf *payload;
    struct tier_want *wants; /* [layout_pages] */
    struct tier_fetch *fetch;
    struct move_result result;
    struct move_part part[PLACEMENT_MAX_NODES];
};

/* ---- where a block belongs ---- */

uint64_t block_places(const struct client *c, const uint8_t *order, uint64_t taken)
{
    uint64_t places = 0;
    unsigned n = 0;
    for (unsigned i = 0; i < c->map.n && n < c->opts.replicas; i++)
        if (!(taken & node_bit(order[i])) && !c->nodes[order[i]].addr.draining) {
            places |= node_bit(order[i]);
            n++;
        }
    return places;
}

/* Gives each version its places, in rank order of those who hold them. */
static void assign_places(struct client *c, struct move *m)
{
    uint8_t order[PLACEMENT_MAX_NODES];
    uint64_t assigned = 0;
    placement_rank(&c->map, key_hash(&m->key), order);
    for (unsigned i = 0; i < c->map.n; i++)
        for (unsigned v = 0; v < m->n_versions; v++) {
            struct move_version *x = &m->version[v];
            uint64_t own = x->holders | x->hurt;
            if (!(own & node_bit(order[i])) || assigned & node_bit(v))
                continue;
            assigned |= node_bit(v);
            x->targets = block_places(c, order, (m->occupied & ~own) | m->claimed);
            m->claimed |= x->targets;
        }
}

/* ---- life ---- */

static void move_free(struct client *c, struct move *m)
{
    if (m->fetch)
        client_fetch_free(c, m->fetch, NULL);
    buf_unref(m->payload);
    free(m->wants);
    for (unsigned i = 0; i < m->n_versions; i++)
        free(m->version[i].checksums);
    for (unsigned i = 0; i < m->n_leases; i++)
        free(m->lease[i].owner);
    free(m->lease);
    free(m);
}

void moves_free(struct client *c)
{
    while (c->moves) {
        struct move *m = c->moves;
        c->moves = m->next;
        move_free(c, m);
    }
}

bool move_open(const struct client *c, const struct block_key *key)
{
    for (const struct move *m = c->moves; m; m = m->next)
        if (key_equal(&m->key, key))
            return true;
    return false;
}

static void failed(struct move *m, const struct skv_error *err)
{
    if (!m->result.rc) {
        m->result.rc = err->code;
        m->result.err = *err;
    }
}

static void finish(struct move *m)
{
    struct client *c = m->client;
    struct move **at = &c->moves;
    while (*at != m)
        at = &(*at)->next;
    *at = m->next;
    for (unsigned v = 0; v < m->n_versions; v++)
        m->result.missing +=
            c->opts.replicas - (unsigned)__builtin_popcountll(m->version[v].targets & m->version[v].holders);
    m->result.versions = m->n_versions;
    m->done(m->arg, &m->result);
    move_free(c, m);
}

/* Nodes have come or gone, or are to hold other blocks now: the next attempt goes by that. */
static bool view_changed(struct move *m)
{
    struct skv_error err;
    if (m->client->map.epoch == m->map_epoch)
        return false;
    skv_fail(&err, -ESTALE, "the cluster's view changed while a block was being moved");
    failed(m, &err);
    return true;
}

static void begin_version(struct move *m);

static void next_version(struct move *m)
{
    buf_unref(m->payload);
    m->payload = NULL;
    free(m->wants);
    m->wants = NULL;
    if (++m->at < m->n_versions && !view_changed(m))
        begin_version(m);
    else
        finish(m);
}

/* ---- dropping what lies elsewhere ---- */

static Scoutkv__Key wire_key(struct move *m)
{
    Scoutkv__Key key = SCOUTKV__KEY__INIT;
    key.chain = (ProtobufCBinaryData){CHAIN_BYTES, m->key.chain};
    key.layer = m->key.layer;
    return key;
}

static bool call(struct move *m, unsigned node, Scoutkv__Header *h, Scoutkv__Header__BodyCase expect,
                 client_reply_fn *reply)
{
    struct skv_error err;
    m->open++;
    if (client_call_once(m->client, node, h, expect, reply, &m->part[node], m->client->now, &err) == 0)
        return true;
    m->open--;
    failed(m, &err);
    return false;
}

static void on_dropped(void *arg, int rc, const struct message *reply, const struct skv_error *err)
{
    struct move *m = ((struct move_part *)arg)->move;
    if (rc == -EBUSY)
        m->result.leased++; /* somebody took a lease just now */
    else if (rc)
        failed(m, err);
    else
        m->result.dropped += reply->header->done->count;
    if (--m->open == 0)
        next_version(m);
}

static void on_unpinned(void *arg, int rc, const struct message *reply, const struct skv_error *err)
{
    struct move *m = ((struct move_part *)arg)->move;
    (void)rc, (void)reply, (void)err; /* if it failed, so will the DROP behind it */
    if (--m->open == 0)
        next_version(m);
}

static void drop_at(struct move *m, unsigned node)
{
    Scoutkv__Key key = wire_key(m), *keys[] = {&key};
    for (unsigned i = 0; i < m->n_leases; i++) {
        if (m->lease[i].version != m->at || !(m->lease[i].at & node_bit(node)))
            continue;
        Scoutkv__Unpin unpin = SCOUTKV__UNPIN__INIT;
        unpin.owner = m->lease[i].owner;
        unpin.n_keys = 1;
        unpin.keys = keys;
        Scoutkv__Header h = SCOUTKV__HEADER__INIT;
        h.body_case = SCOUTKV__HEADER__BODY_UNPIN;
        h.unpin = &unpin;
        if (!call(m, node, &h, SCOUTKV__HEADER__BODY_DONE, on_unpinned))
            return;
    }
    Scoutkv__Drop drop = SCOUTKV__DROP__INIT;
    drop.n_keys = 1;
    drop.keys = keys;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.body_case = SCOUTKV__HEADER__BODY_DROP;
    h.drop = &drop;
    call(m, node, &h, SCOUTKV__HEADER__BODY_DONE, on_dropped);
}

/* There must be as many copies as there should be, each confirmed by a node that was not lost since. */
static void begin_drop(struct move *m)
{
    struct client *c = m->client;
    const struct move_version *v = &m->version[m->at];
    uint64_t elsewhere = (v->holders | v->hurt) & ~v->targets;
    bool complete =
        !(v->targets & ~v->holders) && (unsigned)__builtin_popcountll(v->targets) == c->opts.replicas;
    m->open = 1;
    if (!view_changed(m) && m->opts.drop && m->drop && complete && c->totals.tier.lost == m->lost)
        for (unsigned node = 0; node < PLACEMENT_MAX_NODES; node++)
            if (elsewhere & node_bit(node))
                drop_at(m, node);
    if (--m->open == 0)
        next_version(m);
}

/* ---- leases ---- */

static void on_pinned(void *arg, int rc, const struct message *reply, const struct skv_error *err)
{
    struct move_part *part = arg;
    struct move *m = part->move;
    if (rc)
        failed(m, err);
    if (rc || reply->header->done->count == 0) /* it is not there any more */
        m->drop = false;
    if (--m->open == 0)
        begin_drop(m);
}

static void pin_at(struct move *m, unsigned node, const struct move_lease *l)
{
    Scoutkv__Key key = wire_key(m), *keys[] = {&key};
    uint64_t left_ms = l->until > m->client->now ? (l->until - m->client->now) / NS_PER_MS : 0;
    Scoutkv__Pin pin = SCOUTKV__PIN__INIT;
    pin.owner = l->owner;
    pin.n_keys = 1;
    pin.keys = keys;
    pin.ttl_ms = left_ms < UINT32_MAX ? (uint32_t)left_ms : UINT32_MAX;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.body_case = SCOUTKV__HEADER__BODY_PIN;
    h.pin = &pin;
    if (!call(m, node, &h, SCOUTKV__HEADER__BODY_DONE, on_pinned))
        m->drop = false;
}

static void begin_pins(struct move *m)
{
    const struct move_version *v = &m->version[m->at];
    m->drop = true;
    m->open = 1;
    for (unsigned i = 0; i < m->n_leases && !view_changed(m); i++)
        for (unsigned node = 0; node < PLACEMENT_MAX_NODES && m->lease[i].version == m->at; node++)
            if (v->targets & v->holders & ~m->lease[i].at & node_bit(node))
                pin_at(m, node, &m->lease[i]);
    if (--m->open == 0)
        begin_drop(m);
}

/* ---- copying ---- */

static void on_put(void *arg, const struct tier_put_result *r)
{
    struct move_part *part = arg;
    struct move *m = part->move;
    struct move_version *v = &m->version[m->at];
    if (r->rc) {
        failed(m, r->err);
    } else if (!r->stored) { /* else it took another version meanwhile, which stays */
        v->holders |= node_bit(part->node);
        m->result.copied++;
        m->result.copied_bytes += layout_block_bytes(&v->layout);
    }
    if (--m->open == 0)
        begin_pins(m);
}

static uint64_t lacking(const struct move *m)
{
    const struct move_version *v = &m->version[m->at];
    return v->targets & ~v->holders & m->known;
}

static void begin_puts(struct move *m)
{
    struct client *c = m->client;
    const struct move_version *v = &m->version[m->at];
    uint64_t nodes = lacking(m);
    struct skv_error err;
    m->open = 1;
    for (unsigned node = 0; node < PLACEMENT_MAX_NODES; node++) {
        if (!(nodes & node_bit(node)))
            continue;
        m->open++;
        if (put_begin(c, (int)node, &m->key, &v->layout, m->payload, v->checksums,
                      c->nodes[node].durable ? TIER_ACK_DURABLE : TIER_ACK_RAM, on_put, &m->part[node],
                      &err)) {
            m->open--;
            failed(m, &err);
        }
    }
    if (--m->open == 0)
        begin_pins(m);
}

static void on_page(void *arg, size_t want, int rc, const uint8_t *bytes)
{
    struct move *m = arg;
    size_t len = layout_page_bytes(&m->version[m->at].layout);
    if (rc == 0)
        memcpy(m->payload->data + want * len, bytes, len);
}

static void begin_version(struct move *m)
{
    struct move_version *v = &m->version[m->at];
    struct skv_error err = {.code = -ENOMEM, .text = "out of memory"};
    if (!lacking(m)) {
        begin_pins(m);
        return;
    }
    size_t n = layout_pages(&v->layout);
    m->payload = buf_new(layout_block_bytes(&v->layout));
    m->wants = calloc(n, sizeof *m->wants);
    for (size_t i = 0; m->wants && i < n; i++)
        m->wants[i] = (struct tier_want){&m->key, (uint16_t)(i / BLOCK_PAGES), (uint8_t)(i % BLOCK_PAGES),
                                         v->checksums[i]};
    if (m->payload && m->wants &&
        client_fetch_begin(m->client, &v->layout, m->wants, n, on_page, m, &m->fetch, &err) == 0)
        return;
    failed(m, &err);
    next_version(m);
}

void moves_tick(struct client *c)
{
    struct skv_error err;
    for (struct move *m = c->moves, *next; m; m = next) {
        next = m->next;
        if (!m->fetch || !client_fetch_done(m->fetch))
            continue;
        int rc = client_fetch_free(c, m->fetch, &err);
        m->fetch = NULL;
        if (rc) {
            failed(m, &err);
            next_version(m);
        } else if (view_changed(m)) {
            finish(m);
        } else {
            begin_puts(m);
        }
        next = c->moves; /* what ended may have begun others, or freed the next */
    }
}

/* ---- who has it ---- */

/* The version of this description; VERSIONS_MAX: there is no room for it. */
static unsigned version_of(struct move *m, const struct block_layout *l, const uint64_t *checksums)
{
    size_t bytes = layout_pages(l) * sizeof *checksums;
    for (unsigned v = 0; v < m->n_versions; v++)
        if (layout_equal(&m->version[v].layout, l) && memcmp(m->version[v].checksums, checksums, bytes) == 0)
            return v;
    uint64_t *copy = m->n_versions < VERSIONS_MAX ? malloc(bytes) : NULL;
    if (!copy)
        return VERSIONS_MAX;
    memcpy(copy, checksums, bytes);
    m->version[m->n_versions] = (struct move_version){.layout = *l, .checksums = copy};
    return m->n_versions++;
}

/* False when out of memory. */
static bool note_lease(struct move *m, unsigned version, unsigned node, const Scoutkv__Lease *l)
{
    uint64_t until = m->client->now + l->ttl_ms * NS_PER_MS;
    for (unsigned i = 0; i < m->n_leases; i++) {
        struct move_lease *x = &m->lease[i];
        if (x->version != version || strcmp(x->owner, l->owner) != 0)
            continue;
        x->at |= node_bit(node);
        x->until = x->until > until ? x->until : until;
        return true;
    }
    struct move_lease *grown = realloc(m->lease, (m->n_leases + 1) * sizeof *grown);
    char *owner = grown ? strdup(l->owner) : NULL;
    m->lease = grown ? grown : m->lease;
    if (!owner)
        return false;
    m->lease[m->n_leases++] = (struct move_lease){owner, version, until, node_bit(node)};
    return true;
}

static void describe(struct move *m, unsigned node, const Scoutkv__Described *d)
{
    struct block_layout l;
    m->known |= node_bit(node);
    if (!d->found)
        return;
    m->occupied |= node_bit(node);
    if (!layout_from_wire(d->layout, &l) || d->n_checksums != layout_pages(&l))
        return; /* what it is can't be told: it stays as it is */
    unsigned v = version_of(m, &l, d->checksums);
    if (v == VERSIONS_MAX)
        return;
    bool hurt = d->damaged || m->opts.lacking & node_bit(node);
    *(hurt ? &m->version[v].hurt : &m->version[v].holders) |= node_bit(node);
    for (size_t i = 0; i < d->n_leases; i++)
        if (!note_lease(m, v, node, d->leases[i]))
            m->opts.drop = false;
}

static void all_described(struct move *m)
{
    if (!m->n_versions || view_changed(m)) { /* it is gone, or nobody could be asked */
        finish(m);
        return;
    }
    assign_places(m->client, m);
    m->at = 0;
    begin_version(m);
}

static void on_described(void *arg, int rc, const struct message *reply, const struct skv_error *err)
{
    struct move_part *part = arg;
    struct move *m = part->move;
    if (rc)
        failed(m, err);
    else
        describe(m, part->node, reply->header->described);
    if (--m->open == 0)
        all_described(m);
}

int client_move(struct client *c, const struct block_key *key, const struct move_opts *o, move_fn *done,
                void *arg)
{
    struct move *m = calloc(1, sizeof *m);
    if (!m)
        return -ENOMEM;
    *m = (struct move){.next = c->moves,
                       .client = c,
                       .key = *key,
                       .opts = *o,
                       .done = done,
                       .arg = arg,
                       .map_epoch = c->map.epoch,
                       .lost = c->totals.tier.lost,
                       .open = 1};
    c->moves = m;
    Scoutkv__Key wire = wire_key(m);
    Scoutkv__Describe ask = SCOUTKV__DESCRIBE__INIT;
    ask.key = &wire;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.body_case = SCOUTKV__HEADER__BODY_DESCRIBE;
    h.describe = &ask;
    for (unsigned node = 0; node < PLACEMENT_MAX_NODES; node++) {
        m->part[node] = (struct move_part){m, node};
        if (is_member(c, node) && c->nodes[node].up && !c->nodes[node].suspect)
            call(m, node, &h, SCOUTKV__HEADER__BODY_DESCRIBED, on_described);
    }
    if (--m->open == 0)
        all_described(m);
    return 0;
}
