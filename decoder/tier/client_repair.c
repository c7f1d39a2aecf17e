/* client_repair.c: copies that are missing are made good.
 *
 * A write that fell short and a read that missed leave a note: this block, this node. One note at a time is
 * worked off when its node can be had, by client_move.c. Between two repairs it rests for as long as the last
 * one took: half of the links belong to others.
 *
 * Notes are a bounded memory, not a log: what does not fit is forgotten, and what this client never noticed
 * is not its business. Rebuilding what a lost node held is the cluster's (rebalance.c). */
#include "decoder/tier/client_internal.h"

#include <errno.h>
#include <stdlib.h>

enum { REPAIRS_MAX = 4096, RECENT = 4096, LOOK_AT = 64 };

struct repair {
    struct block_key key;
    unsigned node;
};

struct repairs {
    struct repair ring[REPAIRS_MAX];
    uint32_t first, n;
    uint64_t recent[RECENT]; /* fingerprints of what was noted: not again for each page of a block */
    /* the one at work */
    bool busy;
    struct repair now;
    uint64_t started, rest_until;
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
    return block_places(c, order, 0) & node_bit(r->node);
}

void repair_note(struct client *c, const struct block_key *key, uint64_t nodes)
{
    uint8_t order[PLACEMENT_MAX_NODES];
    if (c->opts.replicas == 1 || move_open(c, key) || /* its own reads: that is known */
        (!c->repairs && !(c->repairs = calloc(1, sizeof *c->repairs))))
        return;
    struct repairs *s = c->repairs;
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
    return c->repairs ? c->repairs->n + c->repairs->busy : 0;
}

void repairs_free(struct client *c)
{
    free(c->repairs);
    c->repairs = NULL;
}

/* The one at work is over, whether it succeeded or not. */
static void on_moved(void *arg, const struct move_result *r)
{
    struct client *c = arg;
    struct repairs *s = c->repairs;
    uint64_t print = fingerprint(&s->now), *recent = &s->recent[print % RECENT];
    /* A node that is full, or that holds another version, is left alone: every read would note it again, and
     * the block would be carried to it each time. */
    bool again = r->rc ? r->rc == -EHOSTUNREACH || r->rc == -ESTALE : !r->missing || !r->versions;
    if (again && *recent == print)
        *recent = 0;
    c->totals.tier.repaired += r->copied;
    s->rest_until = c->now + (c->now - s->started);
    s->busy = false;
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
    if (!s || s->busy || !s->n || now < s->rest_until || !take(c, s))
        return;
    struct move_opts opts = {.lacking = node_bit(s->now.node)};
    s->busy = true;
    s->started = now;
    s->busy = client_move(c, &s->now.key, &opts, on_moved, c) == 0 && s->busy;
}
