/* faults.c: what goes wrong, and for how long. */
#include "tests/sim/cluster.h"

#include <string.h>

/* Mostly short against a deadline, sometimes long. */
static uint64_t a_while(struct cluster *k)
{
    uint64_t most = random_percent(&k->rng, 60)   ? k->plan.timeout / 2
                    : random_percent(&k->rng, 70) ? 2 * k->plan.timeout
                                                  : 6 * k->plan.timeout;
    return NS_PER_MS + random_below(&k->rng, most);
}

static struct sim_node *any_node(struct cluster *k)
{
    return &k->nodes[k->plan.victim >= 0 ? (uint64_t)k->plan.victim : random_below(&k->rng, k->plan.n_nodes)];
}

static struct sim_client *any_client(struct cluster *k)
{
    return &k->clients[random_below(&k->rng, k->plan.n_clients)];
}

/* ---- of nodes ---- */

static bool end_node(struct cluster *k, enum fault f)
{
    struct sim_node *n = any_node(k);
    if (!n->core)
        return false;
    if (f == FAULT_DISK_DIES) {
        if (!n->sim || n->impostor)
            return false;
        say(k, "✗ %s will die soon, in the middle of its disk's work", n->id);
        sim_power_loss_after(n->sim, random_below(&k->rng, 30));
        n->start_at = k->now + a_while(k); /* or when it has died */
        return true;
    }
    k->counts->power_losses += f == FAULT_POWER;
    k->counts->kills += f == FAULT_KILL || f == FAULT_EMPTY;
    k->counts->stops += f == FAULT_STOP;
    k->counts->emptied += f == FAULT_EMPTY;
    node_end(n, f == FAULT_POWER ? END_POWER : f == FAULT_STOP ? END_STOP : END_KILL);
    if (f == FAULT_EMPTY)
        node_empty(n);
    n->start_at = k->now + a_while(k);
    return true;
}

static bool freeze(struct cluster *k)
{
    struct sim_node *n = any_node(k);
    if (!n->core || n->frozen)
        return false;
    say(k, "✗ %s is frozen", n->id);
    n->frozen = true;
    n->thaw_at = k->now + a_while(k);
    k->counts->freezes++;
    return true;
}

static bool slow(struct cluster *k)
{
    struct sim_node *n = any_node(k);
    n->slow = k->plan.timeout / random_between(&k->rng, 2, 50);
    n->slow_until = k->now + a_while(k);
    say(k, "✗ the links of %s are slow, by up to %.3f s", n->id, (double)n->slow / 1e9);
    k->counts->slow++;
    return true;
}

/* ---- of links ---- */

static bool partition(struct cluster *k, bool one_way)
{
    unsigned node = any_node(k)->number, one = any_client(k)->number;
    bool all = random_percent(&k->rng, 50);
    int way = one_way ? (int)random_below(&k->rng, 2) : -1;
    uint64_t until = k->now + a_while(k);
    for (unsigned c = 0; c < k->plan.n_clients; c++) {
        if (c != one && !all)
            continue;
        say(k, "✗ c%u and n%u are cut off from each other%s", c + 1, node + 1,
            way < 0          ? ""
            : way == TO_NODE ? ", towards the node"
                             : ", towards the client");
        for (int w = 0; w < 2; w++)
            k->cut[c][node][w] = k->cut[c][node][w] || way < 0 || way == w;
        k->heal_at[c][node] = until;
    }
    k->counts->partitions++;
    return true;
}

static bool break_connection(struct cluster *k)
{
    struct sim_client *c = any_client(k);
    if (!c->core)
        return false;
    unsigned lanes = 1 + k->plan.lanes, lane = any_node(k)->number * lanes;
    struct conn *conn = net_conn(k, c->number, lane + (unsigned)random_below(&k->rng, lanes));
    bool noticed = !random_percent(&k->rng, k->plan.unnoticed);
    say(k, "✗ the connection of %s.%u to n%u breaks%s", c->name, conn->lane % (1 + k->plan.lanes),
        conn->node + 1, noticed ? "" : ", unnoticed");
    net_break(conn, random_percent(&k->rng, 50),
              noticed ? random_below(&k->rng, 4 * (k->plan.latency + k->plan.jitter)) : UINT64_MAX);
    k->counts->breaks++;
    return true;
}

/* ---- of clients ---- */

static bool stall(struct cluster *k)
{
    struct sim_client *c = any_client(k);
    if (!c->core || c->stalled)
        return false;
    say(k, "✗ %s computes for long", c->name);
    c->stalled = true;
    c->stalled_since = clock_at(&c->clock, k->now);
    c->resume_at = k->now + a_while(k);
    k->counts->stalls++;
    return true;
}

static bool crash(struct cluster *k)
{
    struct sim_client *c = any_client(k);
    if (!c->core)
        return false;
    client_end(c);
    c->start_at = k->now + a_while(k) / 4;
    k->counts->crashes++;
    return true;
}

/* ---- any ---- */

static bool inject(struct cluster *k, enum fault f)
{
    switch (f) {
    case FAULT_FREEZE:
        return freeze(k);
    case FAULT_PARTITION:
    case FAULT_ONE_WAY:
        return partition(k, f == FAULT_ONE_WAY);
    case FAULT_BREAK:
        return break_connection(k);
    case FAULT_STALL:
        return stall(k);
    case FAULT_CRASH:
        return crash(k);
    case FAULT_SLOW:
        return slow(k);
    default:
        return end_node(k, f);
    }
}

void fault_any(struct cluster *k)
{
    unsigned sum = 0;
    for (int f = 0; f < N_FAULTS; f++)
        sum += k->plan.weight[f];
    uint64_t n = random_below(&k->rng, sum);
    int f = 0;
    for (; n >= k->plan.weight[f]; f++)
        n -= k->plan.weight[f];
    k->counts->faults += inject(k, (enum fault)f);
}

void faults_cease(struct cluster *k)
{
    static const struct sim_faults none;
    say(k, "faults cease");
    k->calm = true;
    k->next_fault = UINT64_MAX;
    memset(k->cut, 0, sizeof k->cut);
    for (unsigned i = 0; i < k->plan.n_nodes; i++) {
        struct sim_node *n = &k->nodes[i];
        n->slow_until = 0;
        if (n->impostor)
            node_end(n, END_KILL);
        if (n->sim) {
            sim_set_faults(n->sim, &none);
            sim_set_pace(n->sim, 100);
        }
        if (n->frozen)
            n->thaw_at = k->now;
        else if (!n->core)
            n->start_at = k->now;
        if (n->core && n->sim) /* what was to make it die within a reap */
            sim_power_loss_after(n->sim, UINT64_MAX);
    }
    for (unsigned i = 0; i < k->plan.n_clients; i++) {
        struct sim_client *c = &k->clients[i];
        c->next_op = UINT64_MAX;
        if (!c->core)
            c->start_at = k->now;
        else if (c->stalled)
            c->resume_at = k->now;
    }
    for (unsigned c = 0; c < k->plan.n_clients; c++)
        for (unsigned i = 0; i < MAX_SLOTS * (1 + k->plan.lanes); i++)
            if (net_conn(k, c, i)->broken) /* what nobody noticed is noticed now */
                net_break(net_conn(k, c, i), false, k->plan.latency);
    views_calm(k);
    net_release(k);
}
