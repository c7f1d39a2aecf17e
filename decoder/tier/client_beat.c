/* client_beat.c: which nodes are alive, and how fast they answer.
 *
 * Every message from a node is a sign of life. One that was silent for a heartbeat is sent a PING, which the
 * node's core answers, not zmq's I/O thread; silent for another, it is suspect: nothing new goes there while
 * others can be had, and what is on its way is asked of others too. Nothing is given up before its deadline,
 * so a suspicion that was wrong costs some messages and no more. Time only counts here when the caller pumps:
 * one that computed for seconds finds the PONG before it looks at the clock. */
#include "decoder/tier/client_internal.h"

#include <string.h>

enum { DELAYS_ENOUGH = 32, DELAYS_FULL = 1024, DELAY_UNIT_NS = 1000 };

void delays_add(struct delays *d, uint64_t ns)
{
    uint64_t x = ns / DELAY_UNIT_NS + 1, square = x > UINT32_MAX ? UINT64_MAX : x * x;
    unsigned i = 63 - (unsigned)__builtin_clzll(square); /* half powers of two are whole ones of the square */
    d->bucket[i < DELAY_BUCKETS ? i : DELAY_BUCKETS - 1]++;
    d->mean = d->mean ? (7 * d->mean + ns) / 8 : ns;
    if (++d->count < DELAYS_FULL)
        return;
    d->count = 0;
    for (i = 0; i < DELAY_BUCKETS; i++)
        d->count += d->bucket[i] /= 2;
}

uint64_t delays_quantile(const struct delays *d, double q)
{
    uint32_t below = 0;
    if (d->count < DELAYS_ENOUGH)
        return 0;
    unsigned i = 0;
    while (i < DELAY_BUCKETS - 1 && (below += d->bucket[i]) < q * d->count)
        i++;
    uint64_t end = UINT64_C(1) << (i + 1) / 2; /* of the bucket: 2^((i + 1) / 2) */
    return (end + ((i + 1) % 2 ? end * 27 / 64 : 0)) * DELAY_UNIT_NS;
}

bool beat_next(struct client *c, unsigned lane, uint64_t now, struct outgoing *out)
{
    struct client_node *n = &c->nodes[c->lanes[lane].node];
    if (c->lanes[lane].bulk || !n->up || n->ping_sent || now < n->heard + c->opts.heartbeat_ns)
        return false;
    struct request *r = request_new(c, REQUEST_PING, lane, now + c->opts.timeout_ns);
    if (!r)
        return false;
    Scoutkv__Ping ping = SCOUTKV__PING__INIT;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.version = n->version;
    h.id = r->id;
    h.epoch = c->epoch;
    h.body_case = SCOUTKV__HEADER__BODY_PING;
    h.ping = &ping;
    *out = (struct outgoing){.header = header_pack(&h)};
    if (!out->header) {
        request_free(c, r);
        return false;
    }
    n->ping_sent = now;
    return true;
}

void beat_answered(struct client *c, struct request *r, const struct message *m, uint64_t now)
{
    unsigned node = c->lanes[r->lane].node;
    struct client_node *n = &c->nodes[node];
    const Scoutkv__Pong *pong = m->header->body_case == SCOUTKV__HEADER__BODY_PONG ? m->header->pong : NULL;
    if (!pong || pong->incarnation.len != sizeof n->incarnation ||
        memcmp(pong->incarnation.data, n->incarnation, sizeof n->incarnation) != 0) {
        node_broke_protocol(c, node, now, "no PONG of its own to a PING");
        return;
    }
    n->ping_sent = 0;
    n->delays.mean -= n->delays.mean / 8; /* one that was slow, and so is not asked, gets another chance */
    request_free(c, r);
}

void beat_heard(struct client *c, unsigned node, uint64_t now)
{
    struct client_node *n = &c->nodes[node];
    n->heard = now;
    n->suspect = false;
}

/* When the node becomes suspect, if nothing comes from it. */
static uint64_t suspect_at(const struct client *c, const struct client_node *n)
{
    if (!n->up || !n->ping_sent || n->suspect)
        return NO_DEADLINE;
    return (n->heard > n->ping_sent ? n->heard : n->ping_sent) + c->opts.heartbeat_ns;
}

void beat_tick(struct client *c, uint64_t now)
{
    for (unsigned i = 0; i < c->n_nodes; i++) {
        if (now < suspect_at(c, &c->nodes[i]))
            continue;
        c->nodes[i].suspect = true;
        c->totals.tier.suspected++;
        for (uint32_t s = 0; s < c->n_slots; s++)
            if (c->slots[s]->kind == REQUEST_GET && c->lanes[c->slots[s]->lane].node == i)
                get_hedge(c, c->slots[s], true);
        get_node_shunned(c, i);
        put_node_shunned(c, i);
    }
}

uint64_t beat_wakeup(const struct client *c)
{
    uint64_t first = NO_DEADLINE;
    for (unsigned i = 0; i < c->n_nodes; i++) {
        const struct client_node *n = &c->nodes[i];
        uint64_t at = !n->up         ? NO_DEADLINE
                      : n->ping_sent ? suspect_at(c, n)
                                     : n->heard + c->opts.heartbeat_ns;
        first = at < first ? at : first;
    }
    return first;
}
