/* tier_world.h: a client core and node cores under a fake network and a fake clock, all in one thread and
 * decided by one seed. Messages of a lane keep their order unless `reorder` is set. The network checks the
 * byte credits of both directions on everything that passes. */
#ifndef TESTS_TIER_WORLD_H
#define TESTS_TIER_WORLD_H

#include "common/clock.h"
#include "decoder/tier/client.h"
#include "memnode/node.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORLD_NODES = 6, WORLD_LANES = 64 };

struct world_message {
    struct world_message *next;
    uint64_t time;
    bool to_client;
    unsigned lane, generation;
    struct buf *header;
    struct view payload;
};

struct world;
struct world_node {
    struct world *world;
    unsigned number;
    struct node *core; /* NULL: dead */
    bool mute;         /* takes everything, answers nothing */
    uint64_t slow_ns;  /* its answers take so much longer */
};

struct world {
    uint64_t now, rng;
    unsigned n_nodes, lanes_per_node, replicas;
    uint64_t get_window, put_credit, ram;
    struct client *client;
    struct world_node nodes[WORLD_NODES];
    struct cluster_node addrs[WORLD_NODES];
    struct world_message *line; /* by time */
    unsigned generation[WORLD_LANES];
    int ends_at[WORLD_LANES]; /* the node whose address the lane was connected to; -1: to none */
    uint64_t last_time[WORLD_LANES][2];
    /* the network's character */
    uint64_t delay_ns;
    unsigned drop_percent, twice_percent, flip_percent;
    bool reorder;
    /* what it saw */
    uint64_t asked[WORLD_LANES], unacked[WORLD_LANES], page_bytes;
    uint64_t worst_asked, worst_unacked, gets;
    /* may change or swallow (false) a message before it is delivered */
    bool (*tamper)(struct world *, struct world_message *);
    void *tamper_arg;
    bool unchecked; /* the client's option */
};

static inline uint64_t world_random(struct world *w)
{
    uint64_t z = w->rng += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
static inline bool world_chance(struct world *w, unsigned percent)
{
    return percent && world_random(w) % 100 < percent;
}

static inline void world_message_free(struct world_message *m)
{
    buf_unref(m->header);
    buf_unref(m->payload.owner);
    free(m);
}

static inline void world_enqueue(struct world *w, bool to_client, unsigned lane, struct buf *header,
                                 const struct view *payload)
{
    struct world_message *m = calloc(1, sizeof *m);
    uint64_t *last = &w->last_time[lane][to_client];
    m->time = w->now + 1 + (w->delay_ns ? world_random(w) % w->delay_ns : 0) +
              (to_client ? w->nodes[w->ends_at[lane]].slow_ns : 0);
    if (!w->reorder && m->time < *last)
        m->time = *last;
    *last = m->time;
    m->to_client = to_client;
    m->lane = lane;
    m->generation = w->generation[lane];
    m->header = buf_ref(header);
    if (payload && payload->len) {
        m->payload = *payload;
        if (payload->owner && !world_chance(w, w->flip_percent)) {
            buf_ref(payload->owner);
        } else {
            struct buf *copy = view_copy(payload);
            if (payload->owner)
                copy->data[world_random(w) % copy->len] ^= (uint8_t)(1u << world_random(w) % 8);
            m->payload = (struct view){copy->data, copy->len, copy};
        }
    }
    struct world_message **at = &w->line;
    while (*at && (*at)->time <= m->time)
        at = &(*at)->next;
    m->next = *at;
    *at = m;
}

static inline void world_send(struct world *w, bool to_client, unsigned lane, struct buf *header,
                              const struct view *payload)
{
    if (world_chance(w, w->drop_percent))
        return;
    world_enqueue(w, to_client, lane, header, payload);
    if (world_chance(w, w->twice_percent))
        world_enqueue(w, to_client, lane, header, payload);
}

static inline int world_node_send(void *arg, const struct node_peer *peer, struct buf *header,
                                  const struct view *payload)
{
    struct world_node *n = arg;
    unsigned lane, generation;
    memcpy(&lane, peer->id, 4);
    memcpy(&generation, peer->id + 4, 4);
    if (n->mute)
        return 0;
    if (generation != n->world->generation[lane])
        return -EHOSTUNREACH;
    world_send(n->world, true, lane, header, payload);
    return 0;
}

static inline void world_node_start(struct world *w, unsigned i, const char *id)
{
    struct node_opts opts = {.id = id, .ram = w->ram ? w->ram : 64 << 20, .put_credit = w->put_credit};
    struct skv_error err;
    w->nodes[i] = (struct world_node){.world = w, .number = i};
    w->nodes[i].core = node_new(&opts, world_node_send, &w->nodes[i], &err);
    if (!w->nodes[i].core) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
}

/* (Re)connects a lane to the node at the address that the client has for it. */
static inline void world_connect(struct world *w, unsigned lane)
{
    const char *address = client_node_address(w->client, lane / w->lanes_per_node);
    if (lane >= WORLD_LANES)
        abort();
    w->generation[lane]++;
    w->asked[lane] = w->unacked[lane] = 0;
    w->ends_at[lane] = -1;
    for (int i = 0; address && i < WORLD_NODES; i++)
        if (strcmp(w->addrs[i].address, address) == 0)
            w->ends_at[lane] = i;
}

/* The node is gone: what is on its way is lost, and the client's lanes break. */
static inline void world_node_kill(struct world *w, unsigned i, bool notice)
{
    node_free(w->nodes[i].core);
    w->nodes[i].core = NULL;
    for (unsigned l = 0; l < client_n_lanes(w->client); l++) {
        if (w->ends_at[l] != (int)i)
            continue;
        w->generation[l]++;
        w->asked[l] = w->unacked[l] = 0;
        if (notice)
            client_lane_lost(w->client, l, "the connection was closed", w->now);
    }
}

/* A client of all nodes, greeting them on fresh lanes. */
static inline void world_client(struct world *w)
{
    for (unsigned l = 0; l < WORLD_LANES; l++) {
        w->generation[l]++;
        w->asked[l] = w->unacked[l] = 0;
        w->ends_at[l] = -1;
    }
    struct client_opts opts = {.nodes = w->addrs,
                               .n_nodes = w->n_nodes,
                               .cluster = "default",
                               .name = "test",
                               .replicas = w->replicas ? w->replicas : 1,
                               .timeout_ns = NS_PER_S,
                               .heartbeat_ns = 250 * NS_PER_MS,
                               .get_window = w->get_window,
                               .lanes = w->lanes_per_node - 1,
                               .unchecked = w->unchecked};
    w->client = client_new(&opts, w->now);
}

static inline void world_open(struct world *w, uint64_t seed, unsigned n_nodes, uint32_t get_lanes)
{
    w->rng = seed;
    w->now = NS_PER_S;
    w->n_nodes = n_nodes;
    w->lanes_per_node = 1 + get_lanes;
    if (!w->get_window)
        w->get_window = 1 << 20;
    if (!w->put_credit)
        w->put_credit = 1 << 20;
    for (unsigned i = 0; i < WORLD_NODES; i++) {
        char id[16];
        snprintf(id, sizeof id, "n%u", i + 1);
        w->addrs[i].weight = w->addrs[i].weight > 0 ? w->addrs[i].weight : 1;
        snprintf(w->addrs[i].address, sizeof w->addrs[i].address, "host%u:7401", i + 1);
        if (i < n_nodes)
            world_node_start(w, i, id);
    }
    world_client(w);
}

static inline void world_close(struct world *w)
{
    client_free(w->client);
    for (unsigned i = 0; i < WORLD_NODES; i++)
        node_free(w->nodes[i].core);
    for (struct world_message *m = w->line, *next; m; m = next) {
        next = m->next;
        world_message_free(m);
    }
}

/* Reads along: what is asked for and what is unacknowledged, per lane. */
static inline void world_watch(struct world *w, unsigned lane, struct buf *header, size_t payload,
                               bool to_client)
{
    Scoutkv__Header *h = scoutkv__header__unpack(NULL, header->len, header->data);
    if (!h)
        return;
    if (h->body_case == SCOUTKV__HEADER__BODY_GET) {
        w->gets++;
        for (size_t i = 0; i < h->get->n_wants; i++)
            w->asked[lane] += h->get->wants[i]->n_checksums * w->page_bytes;
    } else if (h->body_case == SCOUTKV__HEADER__BODY_PAGES && to_client) {
        w->asked[lane] -= (h->pages->n_found + h->pages->n_missed) * w->page_bytes;
    } else if (h->body_case == SCOUTKV__HEADER__BODY_PUT) {
        w->unacked[lane] += payload;
    } else if (h->body_case == SCOUTKV__HEADER__BODY_PUT_ACK) {
        w->unacked[lane] -= h->put_ack->credit;
    } else if (h->body_case == SCOUTKV__HEADER__BODY_REFUSED) {
        w->unacked[lane] -= h->refused->credit;
    }
    if (w->asked[lane] > w->worst_asked)
        w->worst_asked = w->asked[lane];
    if (w->unacked[lane] > w->worst_unacked)
        w->worst_unacked = w->unacked[lane];
    scoutkv__header__free_unpacked(h, NULL);
}

static inline void world_deliver(struct world *w, struct world_message *m)
{
    struct world_node *n = &w->nodes[w->ends_at[m->lane]];
    if (m->to_client) {
        world_watch(w, m->lane, m->header, m->payload.len, true);
        client_receive(w->client, m->lane, m->header->data, m->header->len, m->payload.len ? 2 : 1,
                       m->payload, w->now);
    } else if (n->core) {
        struct node_peer peer = {.len = 8};
        struct message msg;
        struct skv_error err;
        uint64_t id;
        memcpy(peer.id, &m->lane, 4);
        memcpy(peer.id + 4, &m->generation, 4);
        int rc = message_parse(&msg, m->header->data, m->header->len, m->payload.len ? 2 : 1, m->payload, &id,
                               &err);
        if (rc) {
            node_malformed(n->core, &peer, id, rc, err.text, w->now);
        } else {
            node_receive(n->core, &peer, &msg, w->now);
            message_clear(&msg);
        }
    }
}

/* Lets the client send, then delivers the next message or, if there is none, lets 10 ms pass. */
static inline void world_step(struct world *w)
{
    struct outgoing out;
    for (unsigned l = 0; l < client_n_lanes(w->client); l++) {
        unsigned node = l / w->lanes_per_node;
        bool member = client_node_address(w->client, node) != NULL;
        if (client_take_reset(w->client, l) || (w->ends_at[l] < 0 && member))
            world_connect(w, l);
        bool there = w->ends_at[l] >= 0 && w->nodes[w->ends_at[l]].core;
        while ((there || client_node_up(w->client, node)) && client_next(w->client, l, w->now, &out)) {
            world_watch(w, l, out.header, out.payload.len, false);
            if (there)
                world_send(w, false, l, out.header, &out.payload);
            outgoing_clear(&out);
        }
    }
    struct world_message *m = w->line;
    if (m && m->time <= w->now + 10 * NS_PER_MS) {
        w->line = m->next;
        w->now = m->time > w->now ? m->time : w->now;
        if (m->generation == w->generation[m->lane] && (!w->tamper || w->tamper(w, m)))
            world_deliver(w, m);
        world_message_free(m);
    } else {
        w->now += 10 * NS_PER_MS;
    }
    for (unsigned i = 0; i < WORLD_NODES; i++)
        if (w->nodes[i].core)
            node_run(w->nodes[i].core, w->now);
    client_tick(w->client, w->now);
}

/* Steps until the client is ready (its answer). */
static inline int world_greet(struct world *w, struct skv_error *err)
{
    int rc;
    while ((rc = client_ready(w->client, err)) == 0)
        world_step(w);
    return rc;
}

/* ---- blocks made from a number ---- */

struct world_block {
    struct block_key key;
    struct buf *payload;
    uint64_t checksums[64];
};

static inline void world_block_make(struct world_block *b, const struct block_layout *l, uint64_t number)
{
    struct world random = {.rng = number};
    b->key = (struct block_key){.layer = (uint32_t)(number % 3)};
    for (int i = 0; i < CHAIN_BYTES; i++)
        b->key.chain[i] = (uint8_t)world_random(&random);
    b->payload = buf_new(layout_block_bytes(l));
    for (size_t i = 0; i < b->payload->len; i++)
        b->payload->data[i] = (uint8_t)world_random(&random);
    block_checksums(&b->key, l, b->payload->data, b->checksums);
}

#endif
