/* clients.c: the lives of clients: what tier.c does with the core, on simulated sockets. */
#include "tests/sim/cluster.h"
#include "tests/sim/ops.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLICE_MS = 20 }; /* as in tier.c */

/* ---- life ---- */

static void lane_close(struct conn *conn)
{
    if (conn->open)
        net_reset(conn);
    conn->open = false;
}

/* As tier.c: a lane is closed when the core says so, and opened to where its node is now. */
static struct conn *lane_check(struct sim_client *c, unsigned lane)
{
    struct cluster *k = c->k;
    struct conn *conn = net_conn(k, c->number, lane);
    if (client_take_reset(c->core, lane))
        lane_close(conn);
    int node = client_node_of(c, lane / (1 + k->plan.lanes));
    if (conn->open || node < 0)
        return conn;
    conn->node = (unsigned)node;
    conn->open = true;
    say(k, "%s.%u takes a new connection to n%u", c->name, lane % (1 + k->plan.lanes), conn->node + 1);
    net_reset(conn);
    return conn;
}

void client_start(struct sim_client *c)
{
    struct cluster *k = c->k;
    const struct plan *p = &k->plan;
    static struct cluster_view v;
    views_of_client(c, &v);
    struct client_opts o = {.nodes = v.node,
                            .n_nodes = v.n,
                            .epoch = v.epoch,
                            .cluster = "default",
                            .name = c->name,
                            .replicas = p->replicas,
                            .timeout_ns = p->timeout,
                            .heartbeat_ns = p->heartbeat,
                            .get_window = p->get_window,
                            .lanes = p->lanes};
    c->life++;
    say(k, "%s starts, process %u", c->name, c->life);
    c->core = client_new(&o, clock_at(&c->clock, k->now));
    c->ready = c->stalled = c->giving = false;
    c->putting = 0;
    c->wake = k->now;
    c->start_at = c->resume_at = UINT64_MAX;
    c->next_op = k->calm ? UINT64_MAX : k->now;
    for (unsigned i = 0; i < client_n_lanes(c->core); i++)
        lane_check(c, i);
    net_release(k);
}

void client_end(struct sim_client *c)
{
    struct cluster *k = c->k;
    say(k, "%s ends", c->name);
    ops_sweep(c, true);
    client_free(c->core);
    c->core = NULL;
    c->stalled = false;
    c->resume_at = UINT64_MAX;
    for (unsigned i = 0; i < MAX_SLOTS * (1 + k->plan.lanes); i++)
        lane_close(net_conn(k, c->number, i));
}

int client_node_of(const struct sim_client *c, unsigned number)
{
    const char *address = number < PLACEMENT_MAX_NODES ? client_node_address(c->core, number) : NULL;
    return address ? address[strlen("host")] - '1' : -1;
}

bool client_knows(const struct sim_client *c, unsigned node)
{
    for (unsigned i = 0; i < MAX_SLOTS; i++)
        if (client_node_of(c, i) == (int)node)
            return true;
    return false;
}

/* ---- messages ---- */

/* Notes which block a PUT is about: its acknowledgement has only a number. */
static void note_put(struct sim_client *c, const struct conn *conn, const struct buf *header)
{
    struct cluster *k = c->k;
    Scoutkv__Header *h = scoutkv__header__unpack(NULL, header->len, header->data);
    if (!h)
        BROKEN(k, "%s packs a header that can't be read", c->name);
    else if (h->body_case == SCOUTKV__HEADER__BODY_PUT) {
        const struct sim_key *key = model_key(k, h->put->key);
        int version = key ? model_version(key, h->put->checksums, h->put->n_checksums) : -1;
        if (version < 0)
            WRONG(k, "%s sends a PUT of a block that nobody wrote", c->name);
        else
            c->sent[c->n_sent++ % SENT_PUTS] =
                (struct sent_put){.id = h->id,
                                  .lane = conn->lane,
                                  .socket = conn->socket,
                                  .key = (int)key->number,
                                  .version = version,
                                  .durable = h->put->ack == SCOUTKV__ACK__DURABLE};
    }
    if (h)
        scoutkv__header__free_unpacked(h, NULL);
}

static const struct sent_put *find_put(const struct sim_client *c, const struct flight *f, uint64_t id)
{
    for (unsigned i = 0; i < SENT_PUTS && i < c->n_sent; i++)
        if (c->sent[i].id == id && c->sent[i].lane == f->conn->lane && c->sent[i].socket == f->socket)
            return &c->sent[i];
    return NULL;
}

/* Reads along: what the acknowledgement of a PUT promises. */
static void note_ack(struct sim_client *c, const struct flight *f)
{
    struct cluster *k = c->k;
    Scoutkv__Header *h = scoutkv__header__unpack(NULL, f->header->len, f->header->data);
    if (!h || h->body_case != SCOUTKV__HEADER__BODY_PUT_ACK) {
        if (h)
            scoutkv__header__free_unpacked(h, NULL);
        return;
    }
    const struct sent_put *put = find_put(c, f, h->id);
    if (put) {
        struct put_ack *a = &c->ack[put->key][f->conn->node][put->version];
        bool exists = h->put_ack->result == SCOUTKV__PUT_ACK__RESULT__EXISTS;
        uint64_t removed = k->keys[put->key].removed[f->conn->node];
        int version = exists
                          ? model_version(&k->keys[put->key], h->put_ack->checksums, h->put_ack->n_checksums)
                          : put->version;
        if (version < 0 || (exists && version == put->version))
            WRONG(k, "n%u says that k%d exists, with checksums that %s", f->conn->node + 1, put->key,
                  version < 0 ? "nobody made" : "are those of the PUT");
        /* An older answer that was overtaken adds nothing, unless it says more. */
        if (f->event >= a->event || f->life > a->life)
            *a = (struct put_ack){.event = f->event,
                                  .life = f->life,
                                  .dir = f->dir,
                                  .version = version,
                                  .durable = put->durable || (a->durable && a->event > removed &&
                                                              a->version == version && a->dir == f->dir)};
    }
    scoutkv__header__free_unpacked(h, NULL);
}

void client_message(struct sim_client *c, struct flight *f)
{
    struct cluster *k = c->k;
    uint64_t local = clock_at(&c->clock, k->now);
    c->wake = k->now;
    if (!f->header) {
        client_lane_lost(c->core, f->conn->lane, "the connection was closed", local);
        return;
    }
    note_ack(c, f);
    client_receive(c->core, f->conn->lane, f->header->data, f->header->len, f->payload.len ? 2 : 1,
                   f->payload, local);
}

/* ---- pumping ---- */

static void send_all(struct sim_client *c)
{
    struct cluster *k = c->k;
    struct outgoing out;
    uint64_t local = clock_at(&c->clock, k->now);
    for (unsigned i = 0; i < client_n_lanes(c->core); i++) {
        struct conn *conn = lane_check(c, i);
        while (conn->open && net_takes(conn) && client_next(c->core, i, local, &out)) {
            if (out.payload.len)
                note_put(c, conn, out.header);
            net_send(conn, TO_NODE, out.header, &out.payload);
            outgoing_clear(&out);
        }
    }
}

static void greet(struct sim_client *c)
{
    struct cluster *k = c->k;
    struct skv_error err;
    int rc = client_ready(c->core, &err);
    if (rc > 0) {
        say(k, "%s is ready", c->name);
        c->ready = true;
    } else if (rc < 0) { /* the program says so, and is run again */
        say(k, "%s can't begin: %s", c->name, err.text);
        client_end(c);
        c->start_at = k->now + random_between(&k->rng, 10, 1000) * NS_PER_MS;
    }
}

/* As tier_pump sleeps. */
static uint64_t next_wake(const struct sim_client *c)
{
    uint64_t local = clock_at(&c->clock, c->k->now), at = client_wakeup(c->core);
    uint64_t in = at > local + NS_PER_MS ? at - local : NS_PER_MS;
    return c->k->now + (in < SLICE_MS * NS_PER_MS ? in : SLICE_MS * NS_PER_MS);
}

void client_wake(struct sim_client *c)
{
    struct cluster *k = c->k;
    send_all(c);
    client_tick(c->core, clock_at(&c->clock, k->now));
    c->wake = next_wake(c);
    if (!c->ready)
        greet(c);
    if (!c->core)
        return;
    ops_sweep(c, false);
    if (c->ready && k->now >= c->next_op) {
        if (c->n_ops < k->plan.max_open)
            op_any(c);
        c->next_op = k->now + random_below(&k->rng, 2 * k->plan.op_every);
    }
    if (c->ready && c->number == 0 && k->now >= k->next_view)
        views_change(c);
    send_all(c);
}

bool clients_idle(const struct cluster *k)
{
    for (unsigned i = 0; i < k->plan.n_clients; i++)
        if (k->clients[i].n_ops)
            return false;
    return true;
}
