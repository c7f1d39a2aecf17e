/* tier.c: the shell around the client core: one zmq DEALER per lane, the clock, waiting, and the embedded
 * node.
 *
 * A pump first receives all that has come, then sends, then looks at deadlines: a caller that computed for
 * longer than a deadline finds its answers, not timeouts. A lane that libzmq reports as disconnected is lost
 * at once; one whose node is merely silent, by the deadline. */
#include "decoder/tier/follow.h"
#include "decoder/tier/tier_internal.h"

#include "common/clock.h"
#include "common/zmqx.h"
#include "memnode/disk_options.h"
#include "memnode/server.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_LANES = 256,                                     /* what one poll takes, */
    MAX_GET_LANES = MAX_LANES / PLACEMENT_MAX_NODES - 1, /* so that a cluster may grow to its limit */
    SLICE_MS = 20,                                       /* between looks at deadlines and connections */
    PUT_BACKLOG = 8 << 20,    /* bytes queued here beyond the nodes' credit, before tier_put waits */
    EMBEDDED_SCRUB = 8 << 20, /* bytes a second that the embedded node reads again */
};
static const char EMBEDDED[] = "inproc://memnode";

struct tier_lane {
    struct zmqx_socket *socket;
    struct outgoing pending; /* taken from the core; the socket would not take it yet */
    uint64_t disconnected;   /* as last seen in the socket's events */
    int failed;              /* -errno of a socket call, to be handled by the next pump */
    bool readable, told;     /* by the last poll, and not looked at since: messages, events */
};

struct tier {
    void *zmq;
    struct server *server; /* the embedded node, or NULL */
    struct client *client;
    char *cluster;
    uint64_t ns;
    struct follow *follow; /* --nodes etcd://…, or NULL */
    char *view_file;       /* --nodes @FILE, or NULL */
    unsigned lanes_per_node;
    struct tier_lane *lanes; /* [PLACEMENT_MAX_NODES * lanes_per_node]; the first client_n_lanes are in use */
    bool pumping;
    struct tier_told told;
};

struct client *tier_client(struct tier *t)
{
    return t->client;
}

struct tier_told *tier_told(struct tier *t)
{
    return &t->told;
}

uint64_t tier_ns(const struct tier *t)
{
    return t->ns;
}

/* ---- lanes ---- */

static int lane_open(struct tier *t, unsigned lane, struct skv_error *err)
{
    char endpoint[ZMQX_ENDPOINT];
    const char *address = client_node_address(t->client, lane / t->lanes_per_node);
    int rc = zmqx_endpoint_parse(t->server ? EMBEDDED : address, endpoint, err);
    if (rc == 0)
        rc = zmqx_dealer(t->zmq, endpoint, PROTO_MAX_PAYLOAD, &t->lanes[lane].socket, err);
    t->lanes[lane].disconnected = 0;
    t->lanes[lane].readable = false;
    t->lanes[lane].told = true;
    return rc;
}

static void lane_close(struct tier_lane *l)
{
    outgoing_clear(&l->pending);
    zmqx_close(l->socket);
    l->socket = NULL;
    l->failed = 0;
}

/* Sends what the core has and the socket takes; calls nobody back. True if something went out. */
static bool lane_send(struct tier *t, unsigned lane, uint64_t now)
{
    struct tier_lane *l = &t->lanes[lane];
    bool moved = false;
    while (l->socket && !l->failed && (l->pending.header || client_next(t->client, lane, now, &l->pending))) {
        int rc = zmqx_send(l->socket, NULL, l->pending.header, &l->pending.payload);
        if (rc) {
            l->failed = rc == -EAGAIN ? 0 : rc;
            break;
        }
        outgoing_clear(&l->pending);
        moved = true;
    }
    return moved;
}

static bool lane_receive(struct tier *t, unsigned lane, uint64_t now)
{
    struct tier_lane *l = &t->lanes[lane];
    struct zmqx_message m;
    bool moved = false;
    int rc = -EAGAIN;
    while (l->socket && l->readable && (rc = zmqx_recv(l->socket, &m)) == 0) {
        client_receive(t->client, lane, m.header.data, m.header.len, m.n_frames, m.payload, now);
        zmqx_message_clear(&m);
        lane_send(t, lane, now); /* the room that this answer made is asked for at once */
        moved = true;
    }
    l->readable = false;
    if (rc != -EAGAIN)
        l->failed = rc;
    return moved;
}

/* Tells the core of a broken connection and replaces those that it wants replaced. */
static void lane_check(struct tier *t, unsigned lane, uint64_t now)
{
    struct tier_lane *l = &t->lanes[lane];
    if (l->socket && (l->told || l->failed)) {
        uint64_t disconnected = zmqx_events(l->socket).disconnected;
        l->told = false;
        if (l->failed || disconnected != l->disconnected) {
            outgoing_clear(&l->pending);
            client_lane_lost(t->client, lane, l->failed ? strerror(-l->failed) : "the connection was closed",
                             now);
        }
        l->disconnected = disconnected;
        l->failed = 0;
    }
    if (client_take_reset(t->client, lane))
        lane_close(l);
    if (!l->socket && client_node_address(t->client, lane / t->lanes_per_node))
        lane_open(t, lane, NULL); /* if this fails, the next pump tries again, and the node's deadline runs */
}

/* ---- pumping ---- */

void tier_send(struct tier *t)
{
    uint64_t now = clock_ns();
    for (unsigned i = 0; i < client_n_lanes(t->client); i++)
        lane_send(t, i, now);
}

/* Looks at what the last poll found, and sends. True if something moved. */
static bool pump_once(struct tier *t)
{
    bool moved = false;
    uint64_t now = clock_ns();
    for (unsigned i = 0; i < client_n_lanes(t->client); i++)
        moved |= lane_receive(t, i, now);
    if (!moved) /* connections are looked at only when there is nothing better to do */
        for (unsigned i = 0; i < client_n_lanes(t->client); i++)
            lane_check(t, i, now);
    for (unsigned i = 0; i < client_n_lanes(t->client); i++)
        moved |= lane_send(t, i, now);
    client_tick(t->client, now);
    return moved;
}

/* Notes which lanes have something; *woken: wake_fd (-1: none) is readable. */
static int poll_lanes(struct tier *t, int wake_fd, int timeout_ms, bool *woken)
{
    struct zmqx_poll_item items[MAX_LANES + 1];
    uint16_t lane_of[MAX_LANES];
    unsigned n = 0;
    for (unsigned i = 0; i < client_n_lanes(t->client); i++)
        if (t->lanes[i].socket) {
            lane_of[n] = (uint16_t)i;
            items[n++] = (struct zmqx_poll_item){.socket = t->lanes[i].socket,
                                                 .want_write = t->lanes[i].pending.header != NULL,
                                                 .want_events = true};
        }
    unsigned n_lanes = n;
    if (wake_fd >= 0)
        items[n++] = (struct zmqx_poll_item){.fd = wake_fd};
    int rc = zmqx_poll(items, n, timeout_ms);
    for (unsigned i = 0; i < n_lanes && rc > 0; i++) {
        t->lanes[lane_of[i]].readable |= items[i].readable;
        t->lanes[lane_of[i]].told |= items[i].told;
    }
    *woken = rc > 0 && wake_fd >= 0 && items[n - 1].readable;
    return rc;
}

/* How long a pump that may last until then may sleep. */
static int nap(const struct tier *t, uint64_t now, uint64_t end)
{
    uint64_t wakeup = client_wakeup(t->client), until = wakeup < end ? wakeup : end;
    uint64_t left_ms = until > now ? (until - now + NS_PER_MS - 1) / NS_PER_MS : 1;
    return left_ms < SLICE_MS ? (int)left_ms : SLICE_MS;
}

/* Goes by what etcd knows. A node may have told a newer view meanwhile: then that stays. */
static void follow_view(struct tier *t)
{
    struct cluster_view *v = follow_take(t->follow);
    if (v)
        client_set_view(t->client, v, clock_ns(), NULL);
    free(v);
}

int tier_pump_or(struct tier *t, int wake_fd, int timeout_ms, struct skv_error *err)
{
    bool woken = false;
    assert(!t->pumping); /* a callback waited */
    if (t->follow && t->client)
        follow_view(t);
    t->pumping = true;
    uint64_t now = clock_ns(), end = now + (uint64_t)timeout_ms * NS_PER_MS;
    tier_send(t); /* before the first look, as that would have to be repeated after sending */
    int rc = poll_lanes(t, wake_fd, 0, &woken);
    while (rc >= 0 && !pump_once(t) && !woken && timeout_ms > 0 && (now = clock_ns()) < end)
        rc = poll_lanes(t, wake_fd, nap(t, now, end), &woken);
    t->pumping = false;
    return rc < 0 ? skv_fail(err, rc, "cannot wait for the memory nodes: %s", strerror(-rc)) : 0;
}

int tier_pump(struct tier *t, int timeout_ms, struct skv_error *err)
{
    return tier_pump_or(t, -1, timeout_ms, err);
}

void tier_wait_answered(struct tier_wait *w, int rc, const struct skv_error *err)
{
    w->open--;
    if (rc && !w->failure.code)
        w->failure = *err;
}

int tier_wait_all(struct tier *t, struct tier_wait *w, struct skv_error *err)
{
    while (w->open)
        tier_pump(t, SLICE_MS, NULL);
    if (w->failure.code && err)
        *err = w->failure;
    return w->failure.code;
}

/* ---- open and close ---- */

static int start_embedded(struct tier *t, const struct tier_opts *o, struct skv_error *err)
{
    struct disk_options disks;
    int rc = disk_options_parse(o->disks, o->n_disks, &disks, err);
    if (rc)
        return rc;
    struct node_opts node = {.id = "embedded",
                             .cluster = t->cluster,
                             .ram = o->ram,
                             .disks = disks.disk,
                             .n_disks = disks.n,
                             .scrub_rate = EMBEDDED_SCRUB};
    t->server = server_start(t->zmq, EMBEDDED, &node, err);
    disk_options_free(&disks);
    return t->server ? 0 : err->code;
}

/* The nodes to begin with: those of --nodes, or the embedded one. */
static int parse_nodes(struct tier *t, const char *nodes, struct cluster_view *v, struct skv_error *err)
{
    *v = (struct cluster_view){.n = 1, .node[0] = {.address = "inside this process", .weight = 1}};
    if (!nodes)
        return 0;
    if (strncmp(nodes, TIER_ETCD, strlen(TIER_ETCD)) == 0) {
        t->follow = follow_start(nodes + strlen(TIER_ETCD), t->cluster, v, err);
        return t->follow ? 0 : err->code;
    }
    if (nodes[0] != '@')
        return node_list_parse(nodes, v->node, &v->n, err);
    if (!(t->view_file = strdup(nodes + 1)))
        return skv_fail(err, -ENOMEM, "out of memory");
    return cluster_view_load(t->view_file, v, err);
}

static int start_lanes(struct tier *t, const struct tier_opts *o, const struct cluster_view *v,
                       struct skv_error *err)
{
    uint32_t get_lanes = o->lanes ? o->lanes : 1;
    if (get_lanes > MAX_GET_LANES)
        return skv_fail(err, -EINVAL, "%u GET lanes to each node are too many: at most %d", get_lanes,
                        MAX_GET_LANES);
    uint64_t timeout = (o->timeout_ms ? o->timeout_ms : 5000) * NS_PER_MS;
    uint64_t heartbeat = (o->heartbeat_ms ? o->heartbeat_ms : 250) * NS_PER_MS;
    struct client_opts opts = {.nodes = v->node,
                               .n_nodes = v->n,
                               .epoch = v->epoch,
                               .cluster = t->cluster,
                               .name = "scoutkv",
                               .ns = o->ns,
                               .replicas = o->replicas ? o->replicas : 1,
                               .may_lack = o->may_lack,
                               .timeout_ns = timeout,
                               .heartbeat_ns = heartbeat < timeout / 2 ? heartbeat : timeout / 2,
                               .get_window = o->get_window ? o->get_window : 8 << 20,
                               .lanes = get_lanes,
                               .unchecked = o->unchecked};
    t->client = client_new(&opts, clock_ns());
    t->lanes_per_node = 1 + get_lanes;
    t->lanes = t->client ? calloc(PLACEMENT_MAX_NODES * t->lanes_per_node, sizeof *t->lanes) : NULL;
    if (!t->lanes)
        return skv_fail(err, -ENOMEM, "out of memory");
    for (unsigned i = 0; i < client_n_lanes(t->client); i++) {
        int rc = lane_open(t, i, err);
        if (rc)
            return rc;
    }
    return 0;
}

int tier_open(const struct tier_opts *o, struct tier **out, struct skv_error *err)
{
    struct skv_error own;
    int rc;
    if (!err)
        err = &own;
    struct tier *t = calloc(1, sizeof *t);
    struct cluster_view *v = malloc(sizeof *v);
    if (!t || !v || !(t->cluster = strdup(o->cluster ? o->cluster : "default"))) {
        rc = skv_fail(err, -ENOMEM, "out of memory");
        goto error;
    }
    t->ns = o->ns;
    if ((rc = parse_nodes(t, o->nodes, v, err)))
        goto error;
    if (!(t->zmq = zmqx_ctx_new(1, err))) {
        rc = err->code;
        goto error;
    }
    if (!o->nodes && (rc = start_embedded(t, o, err)))
        goto error;
    if ((rc = start_lanes(t, o, v, err)))
        goto error;
    while ((rc = client_ready(t->client, err)) == 0)
        tier_pump(t, SLICE_MS, NULL);
    if (rc < 0)
        goto error;
    unsigned n = client_n_nodes(t->client); /* nodes may have known of more than were named */
    if (o->replicas > n) {
        rc = skv_fail(err, -EINVAL, "%u replicas need as many memory nodes; there %s %u", o->replicas,
                      n == 1 ? "is" : "are", n);
        goto error;
    }
    free(v);
    *out = t;
    return 0;
error:
    free(v);
    tier_close(t);
    return rc;
}

void tier_close(struct tier *t)
{
    if (!t)
        return;
    for (unsigned i = 0; t->lanes && i < client_n_lanes(t->client); i++)
        lane_close(&t->lanes[i]);
    server_stop(t->server);
    follow_stop(t->follow);
    client_free(t->client);
    zmqx_ctx_free(t->zmq);
    free(t->lanes);
    free(t->view_file);
    free(t->cluster);
    free(t);
}

/* ---- which nodes ---- */

void tier_view(const struct tier *t, struct cluster_view *out)
{
    client_view(t->client, out);
}

int tier_set_view(struct tier *t, const struct cluster_view *v, struct skv_error *err)
{
    assert(!t->pumping);
    if (t->server)
        return skv_fail(err, -ENOTSUP, "the node inside this process is the only one: there is no cluster");
    return client_set_view(t->client, v, clock_ns(), err);
}

int tier_reload(struct tier *t, struct skv_error *err)
{
    if (!t->view_file)
        return skv_fail(err, -ENOTSUP, "there is no file of nodes to read again: give one as --nodes @FILE");
    struct cluster_view *v = malloc(sizeof *v);
    int rc = v ? cluster_view_load(t->view_file, v, err) : skv_fail(err, -ENOMEM, "out of memory");
    if (rc == 0)
        rc = tier_set_view(t, v, err);
    free(v);
    return rc;
}

/* ---- writing and reading ---- */

int tier_put(struct tier *t, const struct block_key *key, const struct block_layout *l, struct buf *payload,
             const uint64_t *checksums, enum tier_ack ack, tier_put_fn *done, void *arg,
             struct skv_error *err)
{
    int rc = client_put(t->client, key, l, payload, checksums, ack, done, arg, err);
    if (rc)
        return rc;
    tier_send(t);
    while (client_put_backlog(t->client) > PUT_BACKLOG && !t->pumping)
        tier_pump(t, SLICE_MS, NULL);
    return 0;
}

int tier_flush(struct tier *t, struct skv_error *err)
{
    while (client_puts_open(t->client))
        tier_pump(t, SLICE_MS, NULL);
    return client_put_failure(t->client, err);
}

int tier_fetch_begin(struct tier *t, const struct block_layout *l, const struct tier_want *wants, size_t n,
                     tier_page_fn *on_page, void *arg, struct tier_fetch **out, struct skv_error *err)
{
    return client_fetch_begin(t->client, l, wants, n, on_page, arg, out, err);
}

bool tier_fetch_done(const struct tier_fetch *f)
{
    return client_fetch_done(f);
}

int tier_fetch_end(struct tier *t, struct tier_fetch *f, struct skv_error *err)
{
    while (!client_fetch_done(f))
        tier_pump(t, SLICE_MS, NULL);
    return client_fetch_free(t->client, f, err);
}

/* Milliseconds until then, rounded up, at most a slice. */
static int slice_until(uint64_t until_ns)
{
    uint64_t now = clock_ns(), ms = until_ns > now ? (until_ns - now) / NS_PER_MS + 1 : 0;
    return ms < SLICE_MS ? (int)ms : SLICE_MS;
}

int tier_fetch_end_by(struct tier *t, struct tier_fetch *f, uint64_t until_ns, struct skv_error *err)
{
    if (!client_fetch_done(f))
        tier_pump(t, 0, NULL); /* what has come is taken, also by who is late */
    while (!client_fetch_done(f) && clock_ns() < until_ns && !client_fetch_behind(t->client, f))
        tier_pump(t, slice_until(until_ns), NULL);
    if (!client_fetch_done(f))
        client_fetch_give_up(t->client, f);
    return client_fetch_free(t->client, f, err);
}

void tier_get_totals(const struct tier *t, struct tier_totals *out)
{
    *out = client_totals(t->client)->tier;
    out->etcd_lost = t->follow ? follow_losses(t->follow) : 0;
}

bool tier_takes_hints(const struct tier *t)
{
    for (unsigned i = 0; i < client_n_nodes(t->client); i++)
        if (client_node_has_disk(t->client, client_node_at(t->client, i)))
            return true;
    return false;
}

uint64_t tier_hints_lost(const struct tier *t)
{
    return t->told.failed + client_totals(t->client)->tier.lost;
}

unsigned tier_n_nodes(const struct tier *t)
{
    return client_n_nodes(t->client);
}

unsigned tier_nodes_up(const struct tier *t)
{
    unsigned up = 0;
    for (unsigned i = 0; i < client_n_nodes(t->client); i++)
        up += client_node_up(t->client, client_node_at(t->client, i));
    return up;
}
