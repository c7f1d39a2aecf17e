/* plan.c: what kind of history a seed is. */
#include "tests/sim/cluster.h"

#include <string.h>

static uint64_t one_of(uint64_t *rng, const uint64_t *choices, size_t n)
{
    return choices[random_below(rng, n)];
}
#define ONE_OF(rng, ...) \
    one_of(rng, (const uint64_t[]){__VA_ARGS__}, sizeof((uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t))

/* Blocks of 1 KiB to 1 MiB; those of 256 KiB are answered in several messages. */
static void plan_blocks(struct plan *p, uint64_t *rng)
{
    static const struct block_layout small[] = {{1, 8, 8, 0, 2},  {1, 64, 64, 0, 1}, {2, 3, 1, 5, 1},
                                                {1, 33, 7, 2, 3}, {1, 16, 16, 0, 9}, {2, 32, 32, 0, 1},
                                                {1, 4, 4, 0, 40}},
                                     medium[] = {{1, 128, 128, 0, 8},
                                                 {1, 100, 60, 3, 9},
                                                 {2, 128, 100, 0, 4}},
                                     large = {1, 128, 128, 0, 32};
    uint64_t kind = random_below(rng, 100);
    p->n_layouts = 1 + random_percent(rng, 40);
    for (unsigned i = 0; i < p->n_layouts; i++)
        p->layouts[i] = kind < 70 || i > 0 ? small[random_below(rng, sizeof small / sizeof *small)]
                        : kind < 97        ? medium[random_below(rng, 3)]
                                           : large;
    p->n_keys = (unsigned)(kind < 70   ? random_between(rng, 3, MAX_KEYS)
                           : kind < 97 ? random_between(rng, 3, 16)
                                       : random_between(rng, 2, 5));
    p->n_versions = (unsigned)random_between(rng, 1, MAX_VERSIONS);
    p->ram = 64 << 20;
    if (kind >= 94) { /* no node has room for them all */
        p->tight = true;
        p->ram = NODE_RAM_MIN;
        p->n_keys = kind < 97 ? MAX_KEYS : 12;
        p->n_layouts = 1;
        p->n_versions = 1;
    }
    uint64_t block = 0;
    for (unsigned i = 0; i < p->n_layouts; i++)
        block = layout_block_bytes(&p->layouts[i]) > block ? layout_block_bytes(&p->layouts[i]) : block;
    p->put_credit = random_percent(rng, 30) ? 16 << 20 : block * random_between(rng, 1, 5);
    p->get_window = random_percent(rng, 30) ? 8 << 20 : (uint64_t)512 << random_below(rng, 12);
    uint64_t least = p->latency > NS_PER_MS / 2 ? block : block / 8; /* page by page takes for ever */
    p->get_window = p->get_window < least ? least : p->get_window;
}

static void plan_nodes(struct plan *p, uint64_t *rng)
{
    p->n_nodes = (unsigned)random_between(rng, 3, MAX_NODES);
    p->n_clients = (unsigned)random_between(rng, 1, MAX_CLIENTS);
    p->lanes = 1 + random_percent(rng, 25);
    p->replicas = (unsigned)random_between(rng, 1, 3);
    p->ids = random_percent(rng, 50);
    unsigned disks = (unsigned)ONE_OF(rng, 0, 0, 100, 100, 60);
    for (unsigned i = 0; i < p->n_nodes; i++)
        p->disk[i] = random_percent(rng, disks);
    p->durable_percent = disks == 100 ? (unsigned)ONE_OF(rng, 0, 50, 100) : random_percent(rng, 20) ? 30 : 0;
    p->bad_disks = disks && random_percent(rng, 12);
    if (p->bad_disks) {
        uint32_t rate = (uint32_t)ONE_OF(rng, 3000, 30000);
        p->disk_faults.write_error = random_percent(rng, 50) ? rate : 0;
        p->disk_faults.write_no_space = random_percent(rng, 50) ? rate : 0;
        p->disk_faults.sync_error = random_percent(rng, 30) ? rate : 0;
    }
}

static void plan_network(struct plan *p, uint64_t *rng)
{
    p->latency = ONE_OF(rng, 20000, 100000, 1000000, 10 * NS_PER_MS);
    p->jitter = random_percent(rng, 30) ? p->latency / 10 : p->latency * random_between(rng, 1, 5);
    p->hwm = (unsigned)ONE_OF(rng, 2, 32, 32);
    p->unnoticed = (unsigned)ONE_OF(rng, 0, 10, 50);
    if (random_percent(rng, 65)) /* what TCP does; the rest is worse */
        return;
    uint32_t rate = (uint32_t)ONE_OF(rng, 1000, 5000, 30000);
    p->drop = random_percent(rng, 40) ? rate : 0;
    p->twice = random_percent(rng, 50) ? (uint32_t)ONE_OF(rng, 10000, 100000, 300000) : 0;
    p->reorder = random_percent(rng, 40) ? rate * 5 : 0;
    p->flip = random_percent(rng, 30) ? rate : 0;
}

static void plan_faults(struct plan *p, uint64_t *rng)
{
    static const unsigned usual[N_FAULTS] = {
        [FAULT_KILL] = 10,  [FAULT_POWER] = 6,  [FAULT_DISK_DIES] = 4, [FAULT_STOP] = 4,
        [FAULT_EMPTY] = 3,  [FAULT_FREEZE] = 8, [FAULT_PARTITION] = 8, [FAULT_ONE_WAY] = 5,
        [FAULT_BREAK] = 10, [FAULT_STALL] = 5,  [FAULT_CRASH] = 3,     [FAULT_SLOW] = 6};
    memcpy(p->weight, usual, sizeof usual);
    if (random_percent(rng, 50)) /* some kinds only */
        for (int i = 0; i < N_FAULTS; i++)
            p->weight[i] *= random_percent(rng, 40);
    p->weight[FAULT_BREAK]++;
    p->fault_every = ONE_OF(rng, 50, 200, 700, 2000) * NS_PER_MS;
}

/* All that goes wrong concerns one node, and the others have a copy of everything: nobody may be kept waiting
 * for long, and nothing may fail. */
static void plan_victim(struct plan *p, uint64_t *rng)
{
    p->victim = (int)random_below(rng, p->n_nodes);
    p->replicas = (unsigned)random_between(rng, 2, 3);
    p->drop = p->twice = p->reorder = p->flip = 0;
    p->tight = p->bad_disks = false;
    p->disk_faults = (struct sim_faults){0};
    p->layouts[0] = p->layouts[1] = (struct block_layout){1, 8, 8, 0, 2};
    p->get_window = 8 << 20;
    p->put_credit = 16 << 20;
    p->ram = 64 << 20;
    p->hwm = 32;
    for (unsigned i = 0; i < p->n_nodes; i++)
        p->disk[i] = p->disk[0];
    p->durable_percent = p->disk[0] ? p->durable_percent : 0;
}

/* Nodes come and go; now and then another one answers at a node's address. */
static void plan_views(struct plan *p, uint64_t *rng)
{
    if (p->victim >= 0)
        return;
    if (random_percent(rng, 45)) {
        unsigned least = p->replicas > 2 ? p->replicas : 2;
        p->views = 1 + (unsigned)random_below(rng, 3);
        p->first_members = (unsigned)random_between(rng, least, p->n_nodes);
        p->view_every = p->duration / random_between(rng, 2, 15);
    }
    if (p->ids && random_percent(rng, 25))
        p->impostors = (unsigned)ONE_OF(rng, 10, 50);
}

void plan_make(struct plan *p, uint64_t *rng)
{
    *p = (struct plan){.victim = -1};
    plan_nodes(p, rng);
    plan_network(p, rng);
    plan_blocks(p, rng);
    plan_faults(p, rng);
    if (random_percent(rng, 20))
        plan_victim(p, rng);
    p->timeout = ONE_OF(rng, 300, 1000, 5000) * NS_PER_MS;
    if (p->timeout < 30 * (p->latency + p->jitter))
        p->timeout = 30 * (p->latency + p->jitter);
    p->heartbeat = p->timeout / random_between(rng, 2, 8);
    p->duration = random_between(rng, 1, 8) * (NS_PER_S + p->timeout / 4);
    p->max_open = (unsigned)random_between(rng, 1, 8);
    p->op_every = p->duration / random_between(rng, 15, 100);
    plan_views(p, rng);
}
