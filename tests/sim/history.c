/* history.c: see history.h. Time, and the acts of a history: trouble, calm, judgement, the end. */
#include "tests/sim/cluster.h"
#include "tests/sim/look.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- time ---- */

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t node_next(const struct sim_node *n)
{
    return !n->core ? n->start_at : n->frozen ? n->thaw_at : n->wake;
}

static void node_turn(struct sim_node *n)
{
    if (!n->core) {
        node_start(n);
    } else if (n->frozen) {
        say(n->k, "%s goes on", n->id);
        n->frozen = false;
        n->thaw_at = UINT64_MAX;
        n->wake = n->k->now;
        net_release(n->k);
    } else {
        node_wake(n);
        if (!n->core && n->start_at < n->k->now) /* its disk's death was planned */
            n->start_at = n->k->now + NS_PER_MS;
    }
}

static uint64_t client_next_turn(const struct sim_client *c)
{
    return !c->core ? c->start_at : c->stalled ? c->resume_at : c->wake;
}

static void client_turn(struct sim_client *c)
{
    struct cluster *k = c->k;
    if (!c->core) {
        client_start(c);
    } else if (c->stalled) {
        say(k, "%s goes on", c->name);
        c->stalled = false;
        c->resume_at = UINT64_MAX;
        c->stalled_for += clock_at(&c->clock, k->now) - c->stalled_since;
        c->wake = k->now;
        net_release(k);
    } else {
        client_wake(c);
    }
}

static void heal(struct cluster *k, unsigned c, unsigned n)
{
    say(k, "c%u and n%u reach each other again", c + 1, n + 1);
    k->cut[c][n][0] = k->cut[c][n][1] = false;
    k->heal_at[c][n] = UINT64_MAX;
    net_release(k);
}

/* The next thing that happens, if that is before `until`. */
static bool step(struct cluster *k, uint64_t until)
{
    const struct plan *p = &k->plan;
    uint64_t at = least(net_next(k), k->next_fault);
    for (unsigned i = 0; i < p->n_nodes; i++)
        at = least(at, node_next(&k->nodes[i]));
    for (unsigned i = 0; i < p->n_clients; i++)
        at = least(at, client_next_turn(&k->clients[i]));
    for (unsigned c = 0; c < p->n_clients; c++)
        for (unsigned n = 0; n < p->n_nodes; n++)
            at = least(at, k->heal_at[c][n]);
    if (at >= until) {
        k->now = until;
        return false;
    }
    k->now = at > k->now ? at : k->now;
    if (net_next(k) <= at) {
        net_deliver(k);
        return true;
    }
    if (k->next_fault <= at) {
        fault_any(k);
        k->next_fault = k->now + random_below(&k->rng, 2 * p->fault_every);
        return true;
    }
    for (unsigned i = 0; i < p->n_nodes; i++)
        if (node_next(&k->nodes[i]) <= at) {
            node_turn(&k->nodes[i]);
            return true;
        }
    for (unsigned i = 0; i < p->n_clients; i++)
        if (client_next_turn(&k->clients[i]) <= at) {
            client_turn(&k->clients[i]);
            return true;
        }
    for (unsigned c = 0; c < p->n_clients; c++)
        for (unsigned n = 0; n < p->n_nodes; n++)
            if (k->heal_at[c][n] <= at)
                heal(k, c, n);
    return true;
}

static void run_for(struct cluster *k, uint64_t ns)
{
    uint64_t until = k->now + ns;
    while (!k->failed && step(k, until))
        ;
}

/* ---- beginning and end ---- */

static struct sim_clock a_clock(uint64_t *rng)
{
    struct sim_clock c = {.offset = random_below(rng, UINT64_C(1) << 50)};
    if (random_percent(rng, 40))
        c.skew = (int64_t)random_below(rng, 400) - 150; /* -15 … +25 % */
    return c;
}

static void say_plan(struct cluster *k)
{
    const struct plan *p = &k->plan;
    char disks[MAX_NODES + 1] = "";
    for (unsigned i = 0; i < p->n_nodes; i++)
        disks[i] = p->disk[i] ? 'd' : '-';
    say(k, "%u nodes (disks: %s), %u clients, %u keys of %u versions, blocks of %zu bytes, %u replicas",
        p->n_nodes, disks, p->n_clients, p->n_keys, p->n_versions, layout_block_bytes(&p->layouts[0]),
        p->replicas);
    say(k,
        "timeout %.3f s, heartbeat %.3f s, latency %.6f s + %.6f s, %u GET lanes, window %" PRIu64
        ", credit %" PRIu64,
        (double)p->timeout / 1e9, (double)p->heartbeat / 1e9, (double)p->latency / 1e9,
        (double)p->jitter / 1e9, p->lanes, p->get_window, p->put_credit);
    say(k, "of a million messages %u are lost, %u doubled, %u reordered, %u flipped; a fault every %.3f s",
        p->drop, p->twice, p->reorder, p->flip, (double)p->fault_every / 1e9);
}

static void begin(struct cluster *k)
{
    plan_make(&k->plan, &k->rng);
    say_plan(k);
    model_make(k);
    net_open(k);
    memset(k->heal_at, 0xff, sizeof k->heal_at);
    views_begin(k);
    for (unsigned i = 0; i < k->plan.n_nodes; i++) {
        struct sim_node *n = &k->nodes[i];
        *n = (struct sim_node){.k = k, .number = i, .clock = a_clock(&k->rng)};
        snprintf(n->id, sizeof n->id, "n%u", i + 1);
        node_start(n);
    }
    for (unsigned i = 0; i < k->plan.n_clients; i++) {
        struct sim_client *c = &k->clients[i];
        *c = (struct sim_client){.k = k, .number = i, .clock = a_clock(&k->rng)};
        snprintf(c->name, sizeof c->name, "c%u", i + 1);
        client_start(c);
    }
    k->next_fault = k->now + random_below(&k->rng, 2 * k->plan.fault_every);
}

static void end(struct cluster *k)
{
    for (unsigned i = 0; i < k->plan.n_clients; i++)
        if (k->clients[i].core)
            client_end(&k->clients[i]);
    for (unsigned i = 0; i < k->plan.n_nodes; i++) {
        if (k->nodes[i].core)
            node_end(&k->nodes[i], END_KILL);
        if (k->nodes[i].sim)
            sim_free(k->nodes[i].sim);
    }
    net_close(k);
    model_free(k);
}

/* ---- acts ---- */

static const char *busy(struct cluster *k, const char **who)
{
    const char *what = NULL;
    for (unsigned i = 0; i < k->plan.n_nodes && !what; i++) {
        *who = k->nodes[i].id;
        what = !k->nodes[i].core || k->nodes[i].frozen ? "it does not run"
               : look_starting(k->nodes[i].core)       ? "it reads its disk"
               : views_member(k, i) && look_epoch(k->nodes[i].core) != views_epoch(k)
                   ? "it does not know the newest view"
                   : look_node_busy(k->nodes[i].core);
    }
    for (unsigned i = 0; i < k->plan.n_clients && !what; i++) {
        struct sim_client *c = &k->clients[i];
        *who = c->name;
        what = !c->core || !c->ready || c->stalled       ? "it is not ready"
               : client_epoch(c->core) != views_epoch(k) ? "it does not know the newest view"
               : c->n_ops                                ? "a request has not ended"
                                                         : look_client_busy(c->core);
    }
    return what;
}

/* Nothing is on its way any more, everybody is up, and all credit is back: within bounded time. */
static void settle(struct cluster *k, const char *when)
{
    const char *what, *who;
    run_for(k, 100 * NS_PER_MS + 4 * (k->plan.latency + k->plan.jitter)); /* what is on its way comes first */
    uint64_t until = k->now + k->plan.timeout * (8 + 6 * k->plan.n_nodes) + 20 * NS_PER_S;
    while (!k->failed && (what = busy(k, &who))) {
        if (k->now >= until)
            BROKEN(k, "%s, and it does not settle: %s: %s", when, who, what);
        run_for(k, 10 * NS_PER_MS);
    }
    say(k, "%s: settled", when);
}

/* Who was wrong about a PIN ends with it: nobody renews. */
static void check_leases_end(struct cluster *k)
{
    run_for(k, 12 * NS_PER_S);
    for (unsigned i = 0; i < k->plan.n_nodes && !k->failed; i++)
        if (look_leases(k->nodes[i].core))
            BROKEN(k, "%s still holds %" PRIu64 " leases, which have all ended", k->nodes[i].id,
                   look_leases(k->nodes[i].core));
}

static void judgement(struct cluster *k)
{
    void (*const probes[])(struct sim_client *) = {op_probe_promised, op_probe_rest, op_probe_put,
                                                   op_probe_promised};
    for (unsigned p = 0; p < sizeof probes / sizeof *probes; p++) {
        for (unsigned i = 0; i < k->plan.n_clients && !k->failed; i++)
            probes[p](&k->clients[i]);
        for (unsigned i = 0; i < k->plan.n_clients; i++)
            k->clients[i].wake = k->now;
        if (!k->failed)
            settle(k, "all was asked for");
    }
}

bool cluster_run(uint64_t seed, bool verbose, struct cluster_counts *counts)
{
    struct cluster *k = calloc(1, sizeof *k);
    if (!k) {
        perror("check_cluster");
        return false;
    }
    k->seed = k->rng = seed;
    k->verbose = verbose;
    k->counts = counts;
    k->now = 1000 * NS_PER_S;
    random_next(&k->rng);
    begin(k);
    run_for(k, k->plan.duration);
    if (!k->failed) {
        faults_cease(k);
        settle(k, "faults have ceased");
    }
    if (!k->failed)
        judgement(k);
    if (!k->failed)
        check_leases_end(k);
    counts->seconds += k->now / NS_PER_S - 1000;
    end(k);
    bool ok = !k->failed;
    free(k);
    return ok;
}
