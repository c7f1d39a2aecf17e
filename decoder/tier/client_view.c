/* client_view.c: which nodes there are.
 *
 * A node has a number for as long as it is a member; its lanes and all sets of nodes (bit i: node number i)
 * go by that. A new view gives new nodes free numbers and takes those of nodes that left: their lanes are
 * closed, what was on its way to them goes elsewhere, and every set forgets their bits, so that a number can
 * be some other node's.
 *
 * Every message tells the epoch of the view that its sender knows. When a node knows a newer one, this client
 * gets it from there before it writes anything more to that node; when one knows an older one, it is given
 * ours. So views spread along with the traffic, and one node that was told is enough. */
#include "decoder/tier/client_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- members ---- */

static void member_add(struct client *c, unsigned number, const struct cluster_node *as, uint64_t now)
{
    struct client_node *n = &c->nodes[number];
    *n = (struct client_node){.member = true,
                              .addr = *as,
                              .view = {.client = c, .node = number},
                              .greet_deadline = now + c->opts.timeout_ns,
                              .return_by = now + c->opts.timeout_ns};
    strcpy(n->id, as->id);
    skv_fail(&n->why, -EHOSTUNREACH, "no memory node has answered at %s yet", as->address);
    if (number >= c->n_nodes) {
        c->n_nodes = number + 1;
        c->n_lanes = c->n_nodes * (1 + c->opts.lanes);
    }
}

void view_begin(struct client *c, const struct client_opts *o, uint64_t now)
{
    c->epoch = o->epoch;
    for (unsigned i = 0; i < o->n_nodes; i++)
        member_add(c, i, &o->nodes[i], now);
}

static void map_make(struct client *c)
{
    uint64_t epoch = c->map.epoch;
    c->map = (struct cluster_map){.epoch = epoch + 1};
    for (unsigned i = 0; i < c->n_nodes; i++)
        if (c->nodes[i].member)
            cluster_map_add(&c->map, i, c->nodes[i].id, c->nodes[i].addr.weight, c->nodes[i].addr.draining);
}

void view_settle(struct client *c)
{
    if (c->map.n || client_ready(c, NULL) < 0)
        return;
    for (unsigned i = 0; i < c->n_nodes; i++)
        if (c->nodes[i].member && ((!c->nodes[i].up && !c->nodes[i].rc) || view_newer_at(c, i)))
            return;
    map_make(c);
}

/* The member that the view's node is: by id, or by address if it has not told its id yet. -1: a new one. */
static int member_of(const struct client *c, const struct cluster_node *node)
{
    for (unsigned i = 0; i < c->n_nodes; i++) {
        const struct client_node *n = &c->nodes[i];
        if (n->member && (n->id[0] ? strcmp(n->id, node->id) : strcmp(n->addr.address, node->address)) == 0)
            return (int)i;
    }
    return -1;
}

/* A connection that stands is kept even if the view has another address for it: that is for the next one. */
static void member_update(struct client *c, unsigned number, const struct cluster_node *as)
{
    struct client_node *n = &c->nodes[number];
    bool moved = strcmp(n->addr.address, as->address) != 0;
    n->addr = *as;
    strcpy(n->id, as->id);
    if (!moved || n->up)
        return;
    n->identified = false;
    n->greet_deadline = c->now + c->opts.timeout_ns;
    for (unsigned l = number * (1 + c->opts.lanes), end = l + 1 + c->opts.lanes; l < end; l++)
        c->lanes[l] = (struct lane){.node = number, .bulk = c->lanes[l].bulk, .reset = true};
}

/* Gives the view's new nodes numbers that nobody has. False: there were not enough. */
static bool members_add(struct client *c, const struct cluster_view *v, uint64_t taken, uint64_t now)
{
    unsigned number = 0;
    for (size_t i = 0; i < v->n; i++) {
        if (member_of(c, &v->node[i]) >= 0)
            continue;
        while (number < PLACEMENT_MAX_NODES && (c->nodes[number].member || taken & node_bit(number)))
            number++;
        if (number == PLACEMENT_MAX_NODES)
            return false;
        member_add(c, number, &v->node[i], now);
    }
    return true;
}

/* The numbers of nodes that the view has not; they are no members any more. */
static uint64_t members_leave(struct client *c, const struct cluster_view *v)
{
    uint64_t stay = 0, gone = 0;
    for (size_t i = 0; i < v->n; i++) {
        int number = member_of(c, &v->node[i]);
        if (number < 0)
            continue;
        stay |= node_bit((unsigned)number);
        member_update(c, (unsigned)number, &v->node[i]);
    }
    for (unsigned i = 0; i < c->n_nodes; i++)
        if (c->nodes[i].member && !(stay & node_bit(i))) {
            c->nodes[i].member = false;
            gone |= node_bit(i);
        }
    return gone;
}

/* ---- the view ---- */

uint64_t client_epoch(const struct client *c)
{
    return c->epoch;
}

uint64_t client_node_epoch(const struct client *c, unsigned node)
{
    return c->nodes[node].epoch;
}

uint64_t client_node_incarnation(const struct client *c, unsigned node)
{
    uint64_t first; /* 8 of 16 random bytes do */
    memcpy(&first, c->nodes[node].incarnation, sizeof first);
    return first;
}

const char *client_node_address(const struct client *c, unsigned node)
{
    return c->nodes[node].member ? c->nodes[node].addr.address : NULL;
}

void client_view(const struct client *c, struct cluster_view *out)
{
    *out = (struct cluster_view){.epoch = c->epoch};
    for (unsigned i = 0; i < c->n_nodes; i++)
        if (c->nodes[i].member) {
            out->node[out->n] = c->nodes[i].addr;
            strcpy(out->node[out->n++].id, c->nodes[i].id); /* as it said, if --nodes did not */
        }
}

/* Whether the view is to be applied: 1, 0 if it is the one in use, or -errno. */
static int view_due(const struct client *c, const struct cluster_view *v, struct skv_error *err)
{
    if (v->epoch < c->epoch)
        return skv_fail(err, -ESTALE,
                        "this view of the cluster has epoch %" PRIu64 ", and epoch %" PRIu64
                        " is in use: change the newer one",
                        v->epoch, c->epoch);
    struct cluster_view *now = malloc(sizeof *now);
    if (!now)
        return skv_fail(err, -ENOMEM, "out of memory");
    client_view(c, now);
    bool same = cluster_view_equal(now, v), room = now->n + v->n <= PLACEMENT_MAX_NODES;
    free(now);
    for (size_t i = 0; i < v->n && !room; i++)
        room = member_of(c, &v->node[i]) >= 0;
    if (!room) /* the old ones stay until the new ones are there */
        return skv_fail(err, -E2BIG,
                        "this view of the cluster replaces all %u nodes at once: do it in two steps",
                        c->map.n);
    if (!same && v->epoch && v->epoch == c->epoch)
        return skv_fail(err, -ESTALE,
                        "another view of epoch %" PRIu64
                        " is in use: a view that is changed gets a higher epoch",
                        v->epoch);
    return !same;
}

int client_set_view(struct client *c, const struct cluster_view *v, uint64_t now, struct skv_error *err)
{
    int due = view_due(c, v, err);
    if (due <= 0)
        return due;
    c->now = now;
    uint64_t gone = members_leave(c, v);
    bool room = members_add(c, v, gone, now);
    c->epoch = v->epoch;
    c->totals.tier.views++;
    if (c->map.n) {
        map_make(c);
        get_forget_nodes(c, gone);
        put_forget_nodes(c, gone);
    }
    for (unsigned i = 0; i < c->n_nodes; i++) {
        char name[384];
        if (!(gone & node_bit(i)))
            continue;
        node_lost(c, i, now, -EHOSTUNREACH, "%s is no member of the cluster any more",
                  node_name(&c->nodes[i], name));
        struct skv_error why = c->nodes[i].why; /* for whoever still asks it */
        c->nodes[i] = (struct client_node){.why = why};
    }
    if (!room) {
        members_add(c, v, 0, now);
        if (c->map.n)
            map_make(c);
    }
    put_view_changed(c);
    get_view_changed(c);
    calls_view_changed(c);
    return 0;
}

/* ---- between this client and the nodes ---- */

int client_give_view(struct client *c, unsigned node, const struct cluster_view *v, client_reply_fn *reply,
                     void *arg, uint64_t now, struct skv_error *err)
{
    struct buf *text = cluster_view_format(v);
    if (!text)
        return skv_fail(err, -ENOMEM, "out of memory");
    Scoutkv__ViewPut put = SCOUTKV__VIEW_PUT__INIT;
    put.epoch = v->epoch;
    put.checksum = view_checksum(text->data, text->len);
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.body_case = SCOUTKV__HEADER__BODY_VIEW_PUT;
    h.view_put = &put;
    int rc = client_call(c, node, false, &h, (struct view){text->data, text->len, text},
                         SCOUTKV__HEADER__BODY_DONE, reply, arg, now, err);
    buf_unref(text);
    return rc;
}

/* The node has it, or knows a newer one: its answer's epoch tells. */
static void on_given(void *arg, int rc, const struct message *m, const struct skv_error *err)
{
    struct view_call *call = arg;
    (void)rc;
    (void)m;
    (void)err;
    call->open = false;
}

static void on_view(void *arg, int rc, const struct message *m, const struct skv_error *err)
{
    struct view_call *call = arg;
    struct client *c = call->client;
    char name[384];
    call->open = false;
    if (rc) {
        if (m) /* it refuses to say, and would refuse all writes */
            node_lost(c, call->node, c->now, -EHOSTUNREACH,
                      "%s does not tell its view of the cluster: %.300s",
                      node_name(&c->nodes[call->node], name), err->text);
        return;
    }
    struct cluster_view *v = malloc(sizeof *v);
    if (!v || m->header->view->epoch <= c->epoch) { /* it started anew, or we have heard of this by now */
        free(v);
        return;
    }
    struct skv_error why;
    rc = view_checksum(m->payload.data, m->payload.len) == m->header->view->checksum
             ? cluster_view_parse((const char *)m->payload.data, m->payload.len, v, &why)
             : skv_fail(&why, -EBADMSG, "its text does not match its checksum");
    if (rc == 0 && v->epoch != m->header->view->epoch)
        rc = skv_fail(&why, -EINVAL, "its text has another epoch");
    if (rc == 0)
        rc = client_set_view(c, v, c->now, &why);
    free(v);
    if (rc && rc != -ENOMEM)
        node_lost(c, call->node, c->now, -EHOSTUNREACH, "%s tells a view of the cluster that is none: %.300s",
                  node_name(&c->nodes[call->node], name), why.text);
}

static void view_get(struct client *c, struct client_node *n, uint64_t now)
{
    Scoutkv__ViewGet get = SCOUTKV__VIEW_GET__INIT;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.body_case = SCOUTKV__HEADER__BODY_VIEW_GET;
    h.view_get = &get;
    n->view.open = client_call(c, n->view.node, false, &h, (struct view){0}, SCOUTKV__HEADER__BODY_VIEW,
                               on_view, &n->view, now, NULL) == 0;
}

static void view_give(struct client *c, struct client_node *n, uint64_t now)
{
    struct cluster_view *v = malloc(sizeof *v);
    if (!v)
        return;
    client_view(c, v);
    n->given = c->epoch;
    n->give_again = now + c->opts.heartbeat_ns; /* if it could not read it */
    n->view.open = client_give_view(c, n->view.node, v, on_given, &n->view, now, NULL) == 0;
    free(v);
}

void view_tick(struct client *c, uint64_t now)
{
    struct client_node *newest = NULL;
    for (unsigned i = 0; i < c->n_nodes; i++) {
        struct client_node *n = &c->nodes[i];
        if (!n->up)
            continue;
        if (n->epoch > c->epoch && (!newest || n->epoch > newest->epoch))
            newest = n;
        else if (n->epoch < c->epoch && (n->given != c->epoch || now >= n->give_again) && !n->view.open)
            view_give(c, n, now);
    }
    if (newest && !newest->view.open)
        view_get(c, newest, now);
    view_settle(c);
}
