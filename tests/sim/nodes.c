/* nodes.c: the lives of memory nodes: processes that begin, run, freeze and end, on disks that survive them.
 */
#include "memnode/store/store.h"
#include "tests/sim/cluster.h"
#include "tests/sim/look.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { DISK_BYTES = 64 << 20 };
static const int64_t WALL_NS = INT64_C(1800000000000000000); /* since 1970 */

/* ---- life ---- */

static void incarnation(const struct sim_node *n, uint8_t out[16])
{
    uint64_t a = random_mix(n->k->seed * 64 + n->number), b = random_mix(a + n->life);
    memcpy(out, &a, 8);
    memcpy(out + 8, &b, 8);
}

/* Somebody took its address: for a while another node answers there. */
static void impostor_begin(struct sim_node *n)
{
    struct cluster *k = n->k;
    n->impostor = !k->calm && n->life > 1 && random_percent(&k->rng, k->plan.impostors);
    if (!n->impostor)
        return;
    n->leave_at = k->now + random_below(&k->rng, 2 * k->plan.timeout);
    n->aside = n->sim;
    n->sim = NULL;
    k->counts->impostors++;
    k->counts->faults++;
}

static void impostor_end(struct sim_node *n)
{
    n->impostor = false;
    n->sim = n->aside;
    n->aside = NULL;
}

void node_start(struct sim_node *n)
{
    struct cluster *k = n->k;
    const struct plan *p = &k->plan;
    const struct store_disk disk = {"disk", DISK_BYTES};
    uint8_t identity[16];
    struct skv_error err = {0};
    n->life++;
    n->clock.offset = random_below(&k->rng, UINT64_C(1) << 50); /* as after a boot */
    incarnation(n, identity);
    impostor_begin(n);
    if (p->disk[n->number] && !n->sim && !n->impostor) {
        n->dir++;
        n->disk_faults = 0;
        memset(n->may_lease, 0, sizeof n->may_lease);
        n->sim = sim_new(random_next(&k->rng));
    }
    struct node_opts o = {.id = n->impostor ? "other" : n->id,
                          .ram = p->ram,
                          .put_credit = p->put_credit,
                          .incarnation = identity,
                          .wall_offset = WALL_NS - (int64_t)n->clock.offset,
                          .disks = n->sim ? &disk : NULL,
                          .n_disks = n->sim != NULL,
                          .io = n->sim ? sim_io(n->sim) : NULL};
    if (n->sim) {
        static const struct sim_faults none;
        sim_set_faults(n->sim, &none);
        sim_set_pace(n->sim, (unsigned[]){100, 60, 20}[random_below(&k->rng, 3)]);
    }
    n->core = node_new(&o, net_answer, n, &err);
    if (!n->core) {
        BROKEN(k, "%s does not start: %s", n->id, err.text);
        return;
    }
    if (n->sim && !k->calm)
        sim_set_faults(n->sim, &p->disk_faults);
    say(k, "%s starts, process %u%s", n->id, n->life,
        n->impostor ? ": another node at its address"
        : n->sim    ? ""
                    : ", RAM only");
    n->frozen = false;
    n->evicted = 0;
    memset(n->lease, 0, sizeof n->lease);
    if (!n->sim && !n->impostor)
        memset(n->may_lease, 0, sizeof n->may_lease);
    n->start_at = n->thaw_at = UINT64_MAX;
    n->wake = k->now;
    n->tick = k->now + random_below(&k->rng, 500 * NS_PER_MS);
    net_release(k);
}

/* Lets it write what it has, for a while. */
static void flush(struct sim_node *n)
{
    struct cluster *k = n->k;
    uint64_t left, local = clock_at(&n->clock, k->now);
    for (int i = 0; i < 2000 && !sim_dead(n->sim) && !node_flushed(n->core, &left); i++)
        node_run(n->core, local += NS_PER_MS);
}

/* What its clients see of its end. */
static void break_all(struct sim_node *n, bool silent)
{
    struct cluster *k = n->k;
    for (unsigned c = 0; c < k->plan.n_clients; c++)
        for (unsigned i = 0; i < MAX_SLOTS * (1 + k->plan.lanes); i++) {
            struct conn *conn = net_conn(k, c, i);
            if (!conn->open || conn->node != n->number)
                continue;
            bool unnoticed = silent || (!k->calm && random_percent(&k->rng, k->plan.unnoticed));
            net_break(conn, !silent || random_percent(&k->rng, 50),
                      unnoticed ? UINT64_MAX : k->plan.latency + random_below(&k->rng, k->plan.jitter + 1));
        }
}

static void count_disk_faults(struct sim_node *n)
{
    const struct sim_counts *c = sim_counts(n->sim);
    uint64_t faults = c->write_faults + c->sync_faults - n->disk_faults;
    n->disk_faults += faults;
    n->k->counts->disk_faults += faults;
    n->k->counts->faults += faults;
}

void node_end(struct sim_node *n, enum end how)
{
    static const char *const words[] = {"is killed", "loses its power", "ends in order"};
    struct cluster *k = n->k;
    if (how == END_STOP && n->sim)
        flush(n);
    say(k, "%s %s", n->id, words[how]);
    nodes_note_evictions(k);
    if (n->sim && !sim_dead(n->sim)) {
        if (how == END_POWER)
            sim_power_loss(n->sim);
        else if (how == END_KILL)
            sim_kill(n->sim);
    }
    node_free(n->core);
    n->core = NULL;
    n->frozen = false;
    if (n->sim) {
        count_disk_faults(n);
        sim_io(n->sim)->ops->close(sim_io(n->sim));
    }
    if (n->impostor)
        impostor_end(n);
    break_all(n, how == END_POWER);
}

void node_empty(struct sim_node *n)
{
    say(n->k, "%s has lost its blocks", n->id);
    if (n->sim)
        sim_free(n->sim);
    n->sim = NULL; /* another one comes when it starts */
}

/* ---- leases ---- */

static unsigned owner_of(const char *name)
{
    return (unsigned)(name[1] - '1'); /* "m1" … */
}

/* Its clock, but for what began anew when the machine did. */
static uint64_t wall(const struct sim_node *n)
{
    return clock_at(&n->clock, n->k->now) - n->clock.offset;
}

/* A PIN that waits for the disk ends that much later. */
#define PARKED_NS (5 * NS_PER_S)

/* A PIN, done or refused half-way: which leases there are, and may be. */
static void note_pin(struct sim_node *n, const Scoutkv__Pin *pin, bool done)
{
    unsigned owner = owner_of(pin->owner);
    uint64_t until = wall(n) + pin->ttl_ms * NS_PER_MS, at_most = until + (n->sim ? PARKED_NS : 0);
    for (size_t i = 0; i < pin->n_keys; i++) {
        struct sim_key *key = model_key(n->k, pin->keys[i]);
        if (!look_block(n->core, &key->key))
            continue;
        uint64_t *may = &n->may_lease[owner][key->number];
        *may = (n->sim || !done) && *may > at_most ? *may : at_most;
        if (done)
            n->lease[owner][key->number] = until;
    }
}

/* What a disk keeps of a lease that was given back may return with the next process. */
static void unpin(struct sim_node *n, unsigned owner, unsigned key)
{
    n->lease[owner][key] = 0;
    if (!n->sim)
        n->may_lease[owner][key] = 0;
}

static void note_unpin(struct sim_node *n, const Scoutkv__Unpin *u)
{
    unsigned owner = owner_of(u->owner);
    for (size_t i = 0; i < u->n_keys; i++)
        unpin(n, owner, model_key(n->k, u->keys[i])->number);
    for (unsigned i = 0; u->n_keys == 0 && i < n->k->plan.n_keys; i++)
        unpin(n, owner, i);
}

static unsigned count_leases(const struct sim_node *n, uint64_t (*leases)[MAX_KEYS])
{
    unsigned sum = 0;
    for (unsigned o = 0; o < MAX_OWNERS; o++)
        for (unsigned i = 0; i < n->k->plan.n_keys; i++) {
            if (leases[o][i] <= wall(n))
                leases[o][i] = 0;
            sum += leases[o][i] != 0;
        }
    return sum;
}

/* After a tick nothing is left that has ended, and all that has not. */
static void check_leases(struct sim_node *n)
{
    struct cluster *k = n->k;
    unsigned least = count_leases(n, n->lease), most = count_leases(n, n->may_lease);
    uint64_t held = look_leases(n->core);
    k->counts->leases += held;
    if (held < least || held > most)
        BROKEN(k, "%s holds %" PRIu64 " leases, where %u to %u were taken and have not ended", n->id, held,
               least, most);
}

/* ---- running ---- */

/* Blocks that its disk made room with are not promised any more. */
void nodes_note_evictions(struct cluster *k)
{
    for (unsigned i = 0; i < k->plan.n_nodes; i++) {
        struct sim_node *n = &k->nodes[i];
        uint64_t evicted = n->core && n->sim ? look_evicted(n->core) : 0;
        if (!n->core || evicted == n->evicted)
            continue;
        n->evicted = evicted;
        for (unsigned j = 0; j < k->plan.n_keys; j++)
            if (!look_starting(n->core) && !look_block(n->core, &k->keys[j].key))
                promise_void(&k->keys[j], i);
    }
}

static void tick(struct sim_node *n, uint64_t local)
{
    struct cluster *k = n->k;
    n->tick = k->now + 500 * NS_PER_MS;
    node_tick(n->core, local);
    check_leases(n);
}

void node_wake(struct sim_node *n)
{
    struct cluster *k = n->k;
    uint64_t local = clock_at(&n->clock, k->now);
    enum node_work work = node_run(n->core, local);
    if (n->sim && sim_dead(n->sim)) {
        k->counts->power_losses++;
        node_end(n, END_POWER);
        return;
    }
    if (n->impostor && k->now >= n->leave_at) {
        node_end(n, END_KILL);
        n->start_at = k->now + NS_PER_MS;
        return;
    }
    if (k->now >= n->tick)
        tick(n, local);
    bool soon = work == NODE_BUSY || (n->sim && sim_in_flight(n->sim)); /* its disk has no fd to poll */
    n->wake = k->now + (soon                   ? 50000 + random_below(&k->rng, 200000)
                        : work == NODE_BLOCKED ? 2 * NS_PER_MS
                        : n->sim               ? 100 * NS_PER_MS
                                               : 500 * NS_PER_MS);
    if (n->tick < n->wake)
        n->wake = n->tick;
}

static void note_removals(struct sim_node *n, const Scoutkv__Header *h)
{
    struct cluster *k = n->k;
    for (size_t i = 0; i < h->drop->n_keys; i++) {
        struct sim_key *key = model_key(k, h->drop->keys[i]);
        if (!look_block(n->core, &key->key)) {
            promise_void(key, n->number);
            key->removed[n->number] = k->event;
        }
    }
}

void node_message(struct sim_node *n, struct flight *f)
{
    struct cluster *k = n->k;
    struct node_peer peer = net_peer(f);
    struct message m;
    struct skv_error err;
    uint64_t id, local = clock_at(&n->clock, k->now), refused = look_refused(n->core);
    int rc =
        message_parse(&m, f->header->data, f->header->len, f->payload.len ? 2 : 1, f->payload, &id, &err);
    if (rc) {
        BROKEN(k, "c%u sends what can't be read: %s", f->conn->client + 1, err.text);
        return;
    }
    Scoutkv__Header *h = m.header; /* the node may take it, and free it */
    int kind = (int)h->body_case;
    views_note_request(f->conn, f->generation, h, look_epoch(n->core));
    node_receive(n->core, &peer, &m, local);
    bool done = look_refused(n->core) == refused;
    if (kind == SCOUTKV__HEADER__BODY_DROP)
        note_removals(n, h);
    else if (kind == SCOUTKV__HEADER__BODY_PIN)
        note_pin(n, h->pin, done);
    else if (kind == SCOUTKV__HEADER__BODY_UNPIN && done)
        note_unpin(n, h->unpin);
    message_clear(&m);
    n->wake = k->now;
}
