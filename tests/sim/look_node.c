/* look_node.c: see look.h. */
#include "memnode/node_impl.h"
#include "tests/sim/look.h"

const uint64_t *look_block(struct node *n, const struct block_key *key)
{
    struct block *b = store_find(n->store, key);
    return b && (b->buf || b->segment != NO_SEGMENT) ? b->checksums : NULL;
}

uint64_t look_leases(struct node *n)
{
    return leases_count(n->leases);
}

uint64_t look_refused(struct node *n)
{
    uint64_t sum = 0;
    for (int i = 0; i < N_REASONS; i++)
        sum += n->counters.refused[i];
    return sum;
}

uint64_t look_evicted(struct node *n)
{
    struct store_stats s;
    store_stats(n->store, &s);
    return s.evicted_disk;
}

uint64_t look_epoch(struct node *n)
{
    return n->epoch;
}

bool look_starting(struct node *n)
{
    return node_starting(n);
}

const char *look_node_busy(struct node *n)
{
    if (n->parked)
        return "a PUT is parked";
    if (n->cold || n->batches || n->reading_bytes)
        return "a GET waits for the disks";
    for (const struct lane *l = n->lanes; l; l = l->next) {
        if (l->out || l->out_bytes)
            return "an answer waits for a peer";
        if (l->jobs || l->n_cold || l->job_bytes)
            return "a lane has a GET that is not answered";
        if (l->puts || l->unacknowledged)
            return "a lane has a PUT that is not answered";
    }
    if (memory_used(n->memory, MEMORY_REPLIES))
        return "memory for replies is taken";
    return NULL;
}
