/* net.c: the network.
 *
 * A lane is a socket of its client; under it lies a connection, which breaks and is made anew. A node knows
 * its peers by connection, as a ROUTER does. What is on its way when a connection breaks arrives as far as
 * the break let it, then no more. What can't pass (a cut link, a frozen or dead end) waits, in order, as TCP
 * makes it wait. */
#include "tests/sim/cluster.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/store/sim_file.h" /* sim_must */

void net_open(struct cluster *k)
{
    for (unsigned c = 0; c < k->plan.n_clients; c++)
        for (unsigned i = 0; i < MAX_SLOTS * (1 + k->plan.lanes); i++) {
            struct conn *conn = &k->conns[c][i];
            *conn = (struct conn){.k = k, .client = c, .node = i / (1 + k->plan.lanes), .lane = i};
            conn->held_end[TO_NODE] = &conn->held[TO_NODE];
            conn->held_end[TO_CLIENT] = &conn->held[TO_CLIENT];
        }
}

struct conn *net_conn(struct cluster *k, unsigned client, unsigned lane)
{
    return &k->conns[client][lane];
}

static void flight_free(struct flight *f)
{
    f->conn->in_flight[f->way] -= f->header != NULL;
    buf_unref(f->header);
    buf_unref(f->payload.owner);
    free(f);
}

/* ---- what is on its way, by time ---- */

static bool earlier(const struct flight *a, const struct flight *b)
{
    return a->time != b->time ? a->time < b->time : a->serial < b->serial;
}

static void heap_push(struct cluster *k, struct flight *f)
{
    if (k->n_heap == k->cap_heap) {
        k->cap_heap = k->cap_heap ? 2 * k->cap_heap : 256;
        k->heap = sim_must(realloc(k->heap, k->cap_heap * sizeof *k->heap));
    }
    size_t i = k->n_heap++;
    for (; i && earlier(f, k->heap[(i - 1) / 2]); i = (i - 1) / 2)
        k->heap[i] = k->heap[(i - 1) / 2];
    k->heap[i] = f;
}

static struct flight *heap_pop(struct cluster *k)
{
    struct flight *first = k->heap[0], *last = k->heap[--k->n_heap];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < k->n_heap; i = child) {
        if (child + 1 < k->n_heap && earlier(k->heap[child + 1], k->heap[child]))
            child++;
        if (!earlier(k->heap[child], last))
            break;
        k->heap[i] = k->heap[child];
    }
    k->heap[i] = last;
    return first;
}

uint64_t net_next(const struct cluster *k)
{
    return k->n_heap ? k->heap[0]->time : UINT64_MAX;
}

/* ---- sending ---- */

bool net_takes(const struct conn *c)
{
    return c->in_flight[TO_NODE] < (c->k->nodes[c->node].core ? 64 : 1);
}

static struct flight *flight_new(struct conn *c, enum way way)
{
    struct flight *f = sim_must(calloc(1, sizeof *f));
    const struct sim_node *n = &c->k->nodes[c->node];
    *f = (struct flight){.serial = ++c->k->serial,
                         .conn = c,
                         .way = way,
                         .generation = c->generation,
                         .socket = c->socket,
                         .node = c->node,
                         .life = n->life,
                         .dir = n->dir,
                         .event = c->k->event};
    return f;
}

static uint64_t travel(struct conn *c)
{
    struct cluster *k = c->k;
    const struct sim_node *n = &k->nodes[c->node];
    uint64_t slow = k->now < n->slow_until ? random_below(&k->rng, n->slow) : 0;
    return 1 + k->plan.latency + random_below(&k->rng, k->plan.jitter + 1) + slow;
}

static void flip(struct cluster *k, struct view *payload)
{
    struct buf *copy = sim_must(view_copy(payload));
    copy->data[random_below(&k->rng, copy->len)] ^= (uint8_t)(1u << random_below(&k->rng, 8));
    buf_unref(payload->owner);
    *payload = (struct view){copy->data, copy->len, copy};
    k->counts->flips++;
    k->counts->faults++;
}

static void enqueue(struct conn *c, enum way way, struct buf *header, const struct view *payload)
{
    struct cluster *k = c->k;
    struct flight *f = flight_new(c, way);
    f->header = buf_ref(header);
    c->in_flight[way]++;
    if (payload && payload->len) {
        f->payload = *payload;
        buf_ref(payload->owner);
        if (!k->calm && random_chance(&k->rng, k->plan.flip))
            flip(k, &f->payload);
    }
    f->time = k->now + travel(c);
    if (!k->calm && random_chance(&k->rng, k->plan.reorder)) {
        k->counts->reorders++;
        k->counts->faults++;
    } else {
        f->time = f->time < c->last_time[way] ? c->last_time[way] : f->time;
        c->last_time[way] = f->time;
    }
    heap_push(k, f);
}

void net_send(struct conn *c, enum way way, struct buf *header, const struct view *payload)
{
    struct cluster *k = c->k;
    if (!k->calm && random_chance(&k->rng, k->plan.drop)) {
        k->counts->drops++;
        k->counts->faults++;
        struct flight gone = {.conn = c, .way = way, .header = header};
        say_message(k, &gone, "lost");
        return;
    }
    enqueue(c, way, header, payload);
    if (!k->calm && random_chance(&k->rng, k->plan.twice)) {
        k->counts->duplicates++;
        k->counts->faults++;
        enqueue(c, way, header, payload);
    }
}

/* A peer's id: client, lane and the connection's generation. */
static struct node_peer peer_of(const struct conn *c, unsigned generation)
{
    struct node_peer p = {.len = 12};
    memcpy(p.id, &c->client, 4);
    memcpy(p.id + 4, &c->lane, 4);
    memcpy(p.id + 8, &generation, 4);
    return p;
}

int net_answer(void *node, const struct node_peer *p, struct buf *header, const struct view *payload)
{
    struct sim_node *n = node;
    struct cluster *k = n->k;
    unsigned client, lane, generation;
    assert(p->len == 12);
    if (n->sim && sim_dead(n->sim)) /* the power went a moment ago */
        return 0;
    memcpy(&client, p->id, 4);
    memcpy(&lane, p->id + 4, 4);
    memcpy(&generation, p->id + 8, 4);
    struct conn *c = net_conn(k, client, lane);
    if (generation != c->generation) /* noticed, or not yet */
        return random_percent(&k->rng, 50) ? -EHOSTUNREACH : 0;
    if (c->in_flight[TO_CLIENT] >= k->plan.hwm)
        return -EAGAIN;
    views_check_answer(c, n->impostor, header);
    net_send(c, TO_CLIENT, header, payload);
    return 0;
}

/* ---- breaking ---- */

static void drop_held(struct conn *c, enum way way)
{
    for (struct flight *f = c->held[way], *next; f; f = next) {
        next = f->next;
        flight_free(f);
    }
    c->held[way] = NULL;
    c->held_end[way] = &c->held[way];
}

static void new_generation(struct conn *c, bool at_once)
{
    struct cluster *k = c->k;
    c->generation++;
    c->alive_until =
        at_once ? k->now : k->now + random_below(&k->rng, 2 * (k->plan.latency + k->plan.jitter));
    drop_held(c, TO_NODE);
    drop_held(c, TO_CLIENT);
}

void net_reset(struct conn *c)
{
    c->socket++;
    c->broken = false;
    new_generation(c, false);
}

void net_break(struct conn *c, bool at_once, uint64_t later)
{
    struct cluster *k = c->k;
    new_generation(c, at_once);
    c->broken = later == UINT64_MAX;
    if (c->broken)
        return;
    struct flight *f = flight_new(c, TO_CLIENT);
    f->time = k->now + 1 + later;
    if (f->time <= c->alive_until)
        f->time = c->alive_until + 1;
    heap_push(k, f);
}

void net_close(struct cluster *k)
{
    while (k->n_heap)
        flight_free(heap_pop(k));
    for (unsigned c = 0; c < k->plan.n_clients; c++)
        for (unsigned i = 0; i < MAX_SLOTS * (1 + k->plan.lanes); i++)
            for (int way = 0; way < 2; way++)
                drop_held(&k->conns[c][i], way);
    free(k->heap);
}

/* ---- arriving ---- */

static bool blocked(const struct conn *c, enum way way)
{
    const struct cluster *k = c->k;
    const struct sim_node *n = &k->nodes[c->node];
    if (way == TO_CLIENT && k->clients[c->client].stalled)
        return true;
    return k->cut[c->client][c->node][way] || (way == TO_NODE && (!n->core || n->frozen));
}

static bool obsolete(const struct flight *f)
{
    const struct conn *c = f->conn;
    if (f->node != c->node || (f->way == TO_CLIENT && f->socket != c->socket))
        return true;
    if (!f->header) /* news of a break */
        return false;
    return f->generation != c->generation && (f->generation + 1 != c->generation || f->time > c->alive_until);
}

static void hold(struct flight *f)
{
    struct conn *c = f->conn;
    f->next = NULL;
    *c->held_end[f->way] = f;
    c->held_end[f->way] = &f->next;
}

/* Puts what waited behind each other, from now on. */
static void release(struct conn *c, enum way way)
{
    struct cluster *k = c->k;
    struct flight *f = c->held[way], *next;
    c->held[way] = NULL;
    c->held_end[way] = &c->held[way];
    for (; f; f = next) {
        next = f->next;
        f->time = k->now;
        f->serial = ++k->serial;
        heap_push(k, f);
    }
    if (c->last_time[way] < k->now)
        c->last_time[way] = k->now;
}

void net_release(struct cluster *k)
{
    for (unsigned c = 0; c < k->plan.n_clients; c++)
        for (unsigned i = 0; i < MAX_SLOTS * (1 + k->plan.lanes); i++)
            for (int way = 0; way < 2; way++)
                if (k->conns[c][i].held[way] && !blocked(&k->conns[c][i], way))
                    release(&k->conns[c][i], way);
}

void net_deliver(struct cluster *k)
{
    struct flight *f = heap_pop(k);
    struct sim_client *client = &k->clients[f->conn->client];
    if (obsolete(f) || (f->way == TO_CLIENT && !client->core)) {
        say_message(k, f, "its connection is gone");
    } else if (blocked(f->conn, f->way)) {
        hold(f);
        return;
    } else {
        k->event++;
        k->counts->messages++;
        say_message(k, f, "");
        if (f->way == TO_NODE)
            node_message(&k->nodes[f->conn->node], f);
        else
            client_message(client, f);
    }
    flight_free(f);
}

/* The node learns who sent it. */
struct node_peer net_peer(const struct flight *f)
{
    return peer_of(f->conn, f->generation);
}
