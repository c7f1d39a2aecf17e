/* tier_cluster.c: what commands do to a whole cluster, on the sockets and the clock of a tier: rebalance.h,
 * and giving the nodes another view. */
#include "common/clock.h"
#include "decoder/tier/rebalance.h"
#include "decoder/tier/tier_internal.h"

#include <errno.h>
#include <string.h>

enum { WAIT_MS = 20 };

int tier_rebalance(struct tier *t, const struct rebalance_opts *o,
                   bool (*progress)(void *, const struct rebalance_report *), void *arg,
                   struct rebalance_report *out, struct skv_error *err)
{
    struct rebalance *r = rebalance_new(tier_client(t), o);
    if (!r)
        return skv_fail(err, -ENOMEM, "out of memory");
    bool go = true;
    for (rebalance_step(r, clock_ns()); !rebalance_done(r); rebalance_step(r, clock_ns())) {
        tier_pump(t, WAIT_MS, NULL);
        if (go && progress && !progress(arg, rebalance_report(r))) {
            rebalance_stop(r); /* what is on its way comes to its end: requests have deadlines */
            go = false;
        }
    }
    *out = *rebalance_report(r);
    rebalance_free(r);
    return go ? 0 : skv_fail(err, -ECANCELED, "the rebalance was interrupted; begin it again to go on");
}

/* ---- another view ---- */

/* The living node of the lowest id, or -1. Whoever changes the view asks it first: so of two who do that at
 * the same time one is refused, and has changed nothing. */
static int first_node(struct client *c)
{
    int first = -1;
    for (unsigned i = 0; i < client_n_nodes(c); i++) {
        unsigned node = client_node_at(c, i);
        if (client_node_up(c, node) &&
            (first < 0 || strcmp(client_node_id(c, node), client_node_id(c, (unsigned)first)) < 0))
            first = (int)node;
    }
    return first;
}

static void on_given(void *arg, int rc, const struct message *m, const struct skv_error *err)
{
    (void)m;
    tier_wait_answered(arg, rc, err);
}

static unsigned nodes_behind(struct client *c, uint64_t epoch, unsigned *last)
{
    unsigned behind = 0;
    for (unsigned i = 0; i < client_n_nodes(c); i++) {
        unsigned node = client_node_at(c, i);
        if (client_node_up(c, node) && client_node_epoch(c, node) >= epoch)
            continue;
        *last = node;
        behind++;
    }
    return behind;
}

int tier_change_view(struct tier *t, const struct cluster_view *v, unsigned wait_ms, unsigned *behind,
                     struct skv_error *err)
{
    struct client *c = tier_client(t);
    struct tier_wait wait = {.open = 1};
    int first = first_node(c), rc;
    unsigned last = 0;
    if (first < 0)
        return skv_fail(err, -EHOSTUNREACH, "no memory node of the cluster answers");
    rc = client_give_view(c, (unsigned)first, v, on_given, &wait, clock_ns(), err);
    if (rc || (rc = tier_wait_all(t, &wait, err)) || (rc = tier_set_view(t, v, err)))
        return rc;
    uint64_t end = clock_ns() + wait_ms * NS_PER_MS;
    while ((*behind = nodes_behind(c, v->epoch, &last)) && clock_ns() < end)
        tier_pump(t, WAIT_MS, NULL);
    if (*behind)
        client_node_down(c, last, err);
    return 0;
}
