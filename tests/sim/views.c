/* views.c: which nodes the cluster has, and how that changes. c1 is the operator's client as well: it keeps
 * the newest view, as a file would, and gives it to nodes; all others hear of it from them. */
#include "tests/sim/cluster.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const struct sim_view *newest(const struct cluster *k)
{
    return &k->views[k->n_views - 1];
}

uint64_t views_epoch(const struct cluster *k)
{
    return k->plan.views ? newest(k)->epoch : 0;
}

bool views_member(const struct cluster *k, unsigned node)
{
    return newest(k)->state[node] != ABSENT;
}

void views_begin(struct cluster *k)
{
    struct sim_view *v = &k->views[k->n_views++];
    *v = (struct sim_view){.epoch = k->plan.views};
    for (unsigned i = 0; i < k->plan.n_nodes; i++)
        v->state[i] = !k->plan.views || i < k->plan.first_members ? MEMBER : ABSENT;
    k->next_view = k->plan.views ? k->now + random_below(&k->rng, 2 * k->plan.view_every) : UINT64_MAX;
}

static void expand(const struct cluster *k, const struct sim_view *from, bool ids, struct cluster_view *out)
{
    out->epoch = from->epoch;
    out->n = 0;
    for (unsigned i = 0; i < k->plan.n_nodes; i++) {
        struct cluster_node *n = &out->node[out->n];
        if (from->state[i] == ABSENT)
            continue;
        *n = (struct cluster_node){.weight = 1, .draining = from->state[i] == DRAINING};
        if (ids)
            snprintf(n->id, sizeof n->id, "n%u", i + 1);
        snprintf(n->address, sizeof n->address, "host%u:7401", i + 1);
        out->n++;
    }
}

/* Has a node that is still a member, by which the newest view can be heard of. */
static bool leads_on(const struct cluster *k, const struct sim_view *v)
{
    for (unsigned i = 0; i < k->plan.n_nodes; i++)
        if (v->state[i] != ABSENT && views_member(k, i))
            return true;
    return false;
}

void views_of_client(struct sim_client *c, struct cluster_view *out)
{
    struct cluster *k = c->k;
    struct sim_view v = *newest(k);
    bool ids = k->plan.ids || k->plan.views;
    if (k->plan.views && c->number && random_percent(&k->rng, 40)) {
        const struct sim_view *old = &k->views[random_below(&k->rng, k->n_views)];
        if (leads_on(k, old))
            v = *old;
    }
    if (k->plan.views && c->number && random_percent(&k->rng, 25)) { /* a list of seeds */
        v.epoch = 0;
        ids = k->plan.ids;
        for (unsigned i = 0; i < k->plan.n_nodes; i++) {
            struct sim_view less = v;
            less.state[i] = ABSENT;
            if (random_percent(&k->rng, 50) && leads_on(k, &less))
                v = less;
            else if (v.state[i] == DRAINING)
                v.state[i] = MEMBER;
        }
    }
    expand(k, &v, ids, out);
    if (k->plan.views)
        say(k, "%s begins with %zu nodes%s of epoch %" PRIu64, c->name, out->n, ids ? "" : " without ids",
            out->epoch);
}

bool views_lost(const struct sim_client *c)
{
    struct cluster *k = c->k;
    for (unsigned i = 0; i < k->plan.n_nodes; i++)
        if (views_member(k, i) && client_knows(c, i))
            return false;
    return true;
}

/* ---- changing it ---- */

static unsigned count(const struct cluster *k, const struct sim_view *v, enum member what)
{
    unsigned n = 0;
    for (unsigned i = 0; i < k->plan.n_nodes; i++)
        n += v->state[i] == what;
    return n;
}

/* All that is promised of it another member has promised as well. */
static bool may_leave(const struct cluster *k, unsigned node)
{
    for (unsigned i = 0; i < k->plan.n_keys; i++) {
        const struct sim_key *key = &k->keys[i];
        bool other = key->promise[node].version < 0;
        for (unsigned n = 0; n < k->plan.n_nodes && !other; n++)
            other = n != node && key->promise[n].version == key->promise[node].version &&
                    promise_holds(k, key, n) && (!key->promise[node].dir || key->promise[n].dir);
        if (!other)
            return false;
    }
    return true;
}

/* One node's next state in life. False: it can't be had now. */
static bool change(struct cluster *k, struct sim_view *v, unsigned node)
{
    switch (v->state[node]) {
    case ABSENT:
        v->state[node] = MEMBER;
        return true;
    case MEMBER:
        v->state[node] = DRAINING;
        return count(k, v, MEMBER) >= (k->plan.replicas > 2 ? k->plan.replicas : 2);
    default:
        if (random_percent(&k->rng, 30)) { /* the operator thinks better of it */
            v->state[node] = MEMBER;
            return true;
        }
        v->state[node] = ABSENT;
        return may_leave(k, node);
    }
}

static void on_given(void *arg, int rc, const struct message *m, const struct skv_error *err)
{
    struct sim_client *c = arg;
    (void)m;
    c->giving = false;
    if (rc)
        say(c->k, "%s can't give the view: %s", c->name, err->text);
    if (rc == -ESTALE || rc == -EEXIST)
        BROKEN(c->k, "%s gives a view of epoch %" PRIu64 ", newer than all, and it is refused: %s", c->name,
               views_epoch(c->k), err->text);
}

/* Gives it to one node, and hears of it there like any client; or goes by it at once, and all get it. */
static void give(struct sim_client *c)
{
    struct cluster *k = c->k;
    static struct cluster_view v;
    struct skv_error err;
    uint64_t local = clock_at(&c->clock, k->now);
    expand(k, newest(k), true, &v);
    if (!c->giving && random_percent(&k->rng, 50)) {
        unsigned node = client_node_at(c->core, (unsigned)random_below(&k->rng, client_n_nodes(c->core)));
        c->giving = client_give_view(c->core, node, &v, on_given, c, local, &err) == 0;
        if (c->giving)
            return;
    }
    if (client_set_view(c->core, &v, local, &err))
        BROKEN(k, "%s does not take the newest view: %s", c->name, err.text);
}

void views_change(struct sim_client *c)
{
    static const char *const words[] = {"removes", "adds", "drains"};
    struct cluster *k = c->k;
    k->next_view = k->now + random_below(&k->rng, 2 * k->plan.view_every);
    struct sim_view v = *newest(k);
    unsigned node = (unsigned)random_below(&k->rng, k->plan.n_nodes);
    nodes_note_evictions(k);
    if (k->n_views == MAX_VIEWS || client_epoch(c->core) < v.epoch || !change(k, &v, node))
        return;
    v.epoch += random_between(&k->rng, 1, 3);
    k->views[k->n_views++] = v;
    k->counts->views++;
    say(k, "✎ %s %s n%u: epoch %" PRIu64, c->name, words[v.state[node]], node + 1, v.epoch);
    for (unsigned i = 0; v.state[node] == ABSENT && i < k->plan.n_keys; i++)
        promise_void(&k->keys[i], node);
    give(c);
}

void views_calm(struct cluster *k)
{
    struct sim_client *c = &k->clients[0];
    static struct cluster_view v;
    struct skv_error err;
    k->next_view = UINT64_MAX;
    if (!k->plan.views)
        return;
    for (unsigned i = 0; i < k->plan.n_clients; i++)
        if (k->clients[i].core && views_lost(&k->clients[i])) { /* its user is told, and begins it anew */
            client_end(&k->clients[i]);
            k->clients[i].start_at = k->now;
        }
    expand(k, newest(k), true, &v);
    if (c->core && client_set_view(c->core, &v, clock_at(&c->clock, k->now), &err))
        BROKEN(k, "%s does not take the newest view: %s", c->name, err.text);
}

/* ---- what is seen on the wire ---- */

static bool is_write(const Scoutkv__Header *h)
{
    return h->body_case == SCOUTKV__HEADER__BODY_PUT || h->body_case == SCOUTKV__HEADER__BODY_DROP ||
           h->body_case == SCOUTKV__HEADER__BODY_PIN;
}

void views_note_request(struct conn *c, unsigned generation, const Scoutkv__Header *h, uint64_t epoch)
{
    for (unsigned i = 0; i < c->n_stale && i < STALE_WRITES;
         i++) /* sent again under its number, in time now */
        if (c->stale[i].id == h->id && h->epoch >= epoch)
            c->stale[i].id = 0;
    if (!is_write(h) || h->epoch >= epoch || c->k->plan.twice) /* doubled: the first may have been in time */
        return;
    c->stale[c->n_stale++ % STALE_WRITES] = (struct stale_write){h->id, h->epoch, epoch, generation};
    c->k->counts->stale++;
}

void views_check_answer(struct conn *c, bool impostor, const struct buf *header)
{
    struct cluster *k = c->k;
    if (!impostor && !c->n_stale)
        return;
    Scoutkv__Header *h = scoutkv__header__unpack(NULL, header->len, header->data);
    if (!h)
        return;
    bool done = h->body_case == SCOUTKV__HEADER__BODY_PUT_ACK || h->body_case == SCOUTKV__HEADER__BODY_DONE;
    bool served =
        done || h->body_case == SCOUTKV__HEADER__BODY_PAGES || h->body_case == SCOUTKV__HEADER__BODY_HAVE_ACK;
    for (unsigned i = 0; done && i < c->n_stale && i < STALE_WRITES; i++)
        if (c->stale[i].id == h->id && c->stale[i].generation == c->generation)
            BROKEN(k, "n%u knows epoch %" PRIu64 ", and takes a write of c%u by epoch %" PRIu64, c->node + 1,
                   c->stale[i].known, c->client + 1, c->stale[i].epoch);
    if (impostor && served)
        BROKEN(k, "c%u takes another node at the address of n%u for n%u", c->client + 1, c->node + 1,
               c->node + 1);
    scoutkv__header__free_unpacked(h, NULL);
}
