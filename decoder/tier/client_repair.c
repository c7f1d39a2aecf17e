/* client_repair.c: copies that are missing are made good.
 *
 * A write that fell short and a read that missed leave a note: this block, these nodes. One note at a time is
 * worked off when its node can be had: DESCRIBE asks a node that holds the block for its layout and
 * checksums, the pages are fetched as any reader would fetch them, every one verified, and put where they
 * lack. So a repair never makes a version that no writer made. Between two repairs it rests for as long as
 * the last one took: half of the links belong to others.
 *
 * Notes are a bounded memory, not a log: what does not fit is forgotten, and what this client never noticed
 * is not its business. Rebuilding what a lost node held is the cluster's. */
#include "decoder/tier/client_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { REPAIRS_MAX = 4096, RECENT = 4096, LOOK_AT = 64 };

struct repair {
    struct block_key key;
    unsigned node;
};

enum phase { PHASE_IDLE, PHASE_DESCRIBE, PHASE_FETCH, PHASE_PUT };

struct repairs {
    struct repair ring[REPAIRS_MAX];
    uint32_t first, n;
    uint64_t recent[RECENT]; /* fingerprints of what was noted: not again for each page of a block */
    /* the one at work */
    enum phase phase;
    struct repair now;
    uint64_t asked; /* nodes that were asked to describe it */
    uint64_t started, rest_until;
    struct block_layout layout;
    struct buf *payload;
    uint64_t *checksums;     /* [layout_pages] */
    struct tier_want *wants; /* [layout_pages] */
    struct tier_fetch *fetch;
};

static uint64_t fingerprint(const struct repair *r)
{
    return key_hash(&r->key) * 0x9e3779b97f4a7c15u + r->node;
}

/* Whether the node should hold the block, as the view is now. */
static bool should_hold(const struct client *c, const struct repair *r)
{
    uint8_t order[PLACEMENT_MAX_NODES];
    placement_rank(&c->map, key_hash(&r->key), order);
    for (unsigned i = 0; i < c->opts.replicas && i < c->map.n; i++)
        if (order[i] == r->node)
            return !c->nodes[r->node].addr.draining;
    return false;
}

void repair_note(struct client *c, const struct block_key *key, uint64_t nodes)
{
    uint8_t order[PLACEMENT_MAX_NODES];
    if (c->opts.replicas == 1 || (!c->repairs && !(c->repairs = calloc(1, sizeof *c->repairs))))
        return;
    struct repairs *s = c->repairs;
    if (s->phase == PHASE_FETCH && key_equal(key, &s->now.key)) /* its own reads: that is known */
        return;
    placement_rank(&c->map, key_hash(key), order);
    for (unsigned i = 0; i < c->opts.replicas && i < c->map.n; i++) {
        struct repair r = {*key, order[i]};
        uint64_t print = fingerprint(&r), *recent = &s->recent[print % RECENT];
        if (!(nodes & node_bit(order[i])) || c->nodes[order[i]].addr.draining || *recent == print ||
            s->n == REPAIRS_MAX)
            continue;
        *recent = print;
        s->ring[(s->first + s->n++) % REPAIRS_MAX] = r;
    }
}

size_t client_repairs_open(const struct client *c)
{
    return c->repairs ? c->repairs->n + (c->repairs->phase != PHASE_IDLE) : 0;
}

static void clear(struct client *c, struct repairs *s)
{
    if (s->fetch)
        client_fetch_free(c, s->fetch, NULL);
    buf_unref(s->payload);
    free(s->checksums);
    free(s->wants);
    s->fetch = NULL;
    s->payload = NULL;
    s->checksums = NULL;
    s->wants = NULL;
    s->phase = PHASE_IDLE;
}

void repairs_free(struct client *c)
{
    if (c->repairs)
        clear(c, c->repairs);
    free(c->repairs);
    c->repairs = NULL;
}

/* The one at work is over, whether it succeeded or not. again: it may be noted anew. */
static void finish(struct client *c, struct repairs *s, bool again)
{
    uint64_t print = fingerprint(&s->now), *recent = &s->recent[print % RECENT];
    if (again && *recent == print)
        *recent = 0;
    s->rest_until = c->now + (c->now - s->started);
    clear(c, s);
}

/* ---- the steps ---- */

static void describe_next(struct client *c, struct repairs *s);

static void on_put(void *arg, const struct tier_put_result *r)
{
    struct client *c = arg;
    c->totals.tier.repaired += r->rc == 0 && !r->stored;
    /* A node that is full, or that holds another version, is left alone: every read would note it again, and
     * the block would be carried to it each time. */
    finish(c, c->repairs, r->rc == -EHOSTUNREACH || (r->rc == 0 && !r->stored));
}

static void on_page(void *arg, size_t want, int rc, const uint8_t *bytes)
{
    struct repairs *s = ((struct client *)arg)->repairs;
    size_t len = layout_page_bytes(&s->layout);
    if (rc == 0)
        memcpy(s->payload->data + want * len, bytes, len);
}

static void begin_fetch(struct client *c, struct repairs *s)
{
    size_t n = layout_pages(&s->layout);
    s->payload = buf_new(layout_block_bytes(&s->layout));
    s->wants = calloc(n, sizeof *s->wants);
    for (size_t i = 0; s->wants && i < n; i++)
        s->wants[i] = (struct tier_want){&s->now.key, (uint16_t)(i / BLOCK_PAGES), (uint8_t)(i % BLOCK_PAGES),
                                         s->checksums[i]};
    s->phase = PHASE_FETCH;
    if (!s->payload || !s->wants ||
        client_fetch_begin(c, &s->layout, s->wants, n, on_page, c, &s->fetch, NULL))
        finish(c, s, true);
}

static void on_described(void *arg, int rc, const struct message *m, const struct skv_error *err)
{
    struct client *c = arg;
    struct repairs *s = c->repairs;
    (void)err;
    const Scoutkv__Described *d = rc == 0 ? m->header->described : NULL;
    if (!d || !d->found || !layout_from_wire(d->layout, &s->layout) ||
        d->n_checksums != layout_pages(&s->layout)) {
        describe_next(c, s);
        return;
    }
    size_t bytes = d->n_checksums * sizeof *s->checksums;
    s->checksums = malloc(bytes);
    if (!s->checksums) {
        finish(c, s, true);
        return;
    }
    memcpy(s->checksums, d->checksums, bytes);
    begin_fetch(c, s);
}

/* Asks the next node in rank what the block is. */
static void describe_next(struct client *c, struct repairs *s)
{
    uint8_t order[PLACEMENT_MAX_NODES];
    placement_rank(&c->map, key_hash(&s->now.key), order);
    s->phase = PHASE_DESCRIBE;
    for (unsigned i = 0; i < c->map.n; i++) {
        const struct client_node *n = &c->nodes[order[i]];
        if (!n->up || n->suspect || s->asked & node_bit(order[i]) || order[i] == s->now.node)
            continue;
        Scoutkv__Key key = SCOUTKV__KEY__INIT;
        key.chain = (ProtobufCBinaryData){CHAIN_BYTES, s->now.key.chain};
        key.layer = s->now.key.layer;
        Scoutkv__Describe describe = SCOUTKV__DESCRIBE__INIT;
        describe.key = &key;
        Scoutkv__Header h = SCOUTKV__HEADER__INIT;
        h.body_case = SCOUTKV__HEADER__BODY_DESCRIBE;
        h.describe = &describe;
        s->asked |= node_bit(order[i]);
        if (client_call(c, order[i], false, &h, (struct view){0}, SCOUTKV__HEADER__BODY_DESCRIBED,
                        on_described, c, c->now, NULL) == 0)
            return;
    }
    finish(c, s, true);
}

static void fetched(struct client *c, struct repairs *s)
{
    int rc = client_fetch_free(c, s->fetch, NULL);
    s->fetch = NULL;
    s->phase = PHASE_PUT;
    if (rc) /* no node has all of it: nothing to try again */
        finish(c, s, rc == -EHOSTUNREACH);
    else if (!should_hold(c, &s->now))
        finish(c, s, false);
    else if (put_begin(c, (int)s->now.node, &s->now.key, &s->layout, s->payload, s->checksums, TIER_ACK_RAM,
                       on_put, c, NULL))
        finish(c, s, true);
}

/* Takes the first of a few notes whose node can be had; the others go to the end, or are forgotten if the
 * cluster has changed and the node is not to hold the block any more. */
static bool take(struct client *c, struct repairs *s)
{
    for (unsigned i = 0; i < LOOK_AT && i < s->n; i++) {
        struct repair r = s->ring[s->first];
        const struct client_node *n = &c->nodes[r.node];
        s->first = (s->first + 1) % REPAIRS_MAX;
        if (!should_hold(c, &r)) {
            s->n--;
            continue;
        }
        if (n->up && !n->suspect) {
            s->n--;
            s->now = r;
            return true;
        }
        s->ring[(s->first + s->n - 1) % REPAIRS_MAX] = r;
    }
    return false;
}

void repair_tick(struct client *c, uint64_t now)
{
    struct repairs *s = c->repairs;
    if (!s)
        return;
    if (s->phase == PHASE_FETCH && client_fetch_done(s->fetch))
        fetched(c, s);
    if (s->phase != PHASE_IDLE || !s->n || now < s->rest_until || !take(c, s))
        return;
    s->asked = 0;
    s->started = now;
    describe_next(c, s);
}
