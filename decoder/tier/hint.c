/* hint.c: HINT: how often blocks will be asked for, so that nodes keep the right ones in RAM.
 *
 * A hint is told and forgotten: nothing waits for its answer, one that fails is only counted, and it goes
 * over the bulk lane, where no GET waits behind it. The next is sent when all before it were answered, so a
 * node that is slow hears fewer. Only the nodes that a block should lie on are told; where it lies elsewhere
 * (its node was away when it was written), nobody hears of it. */
#include "decoder/tier/tier_internal.h"

#include "common/clock.h"

#include <errno.h>
#include <string.h>

/* What one node is told. */
struct batch {
    Scoutkv__Key key[TIER_HINT_KEYS], *key_at[TIER_HINT_KEYS];
    float keep[TIER_HINT_KEYS];
    size_t n;
};

static void answered(void *arg, int rc, const struct message *m, const struct skv_error *err)
{
    struct tier_told *told = arg;
    (void)m;
    (void)err;
    told->open--;
    told->failed += rc != 0;
}

static int send(struct tier *t, unsigned node, struct batch *b, struct skv_error *err)
{
    Scoutkv__Hint hint = SCOUTKV__HINT__INIT;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    hint.n_keys = hint.n_keep = b->n;
    hint.keys = b->key_at;
    hint.keep = b->keep;
    h.body_case = SCOUTKV__HEADER__BODY_HINT;
    h.hint = &hint;
    tier_told(t)->open++;
    int rc = client_call(tier_client(t), node, true, &h, (struct view){0}, SCOUTKV__HEADER__BODY_DONE,
                         answered, tier_told(t), clock_ns(), err);
    if (rc)
        tier_told(t)->open--;
    return rc;
}

/* The nodes that the block should lie on, as bits. */
static uint64_t places_of(const struct client *c, const struct block_key *key)
{
    uint8_t order[PLACEMENT_MAX_NODES];
    uint64_t places = 0;
    placement_rank(client_map(c), key_hash(key), order);
    for (unsigned i = 0; i < client_replicas(c) && i < client_map(c)->n; i++)
        places |= UINT64_C(1) << order[i];
    return places;
}

int tier_hint(struct tier *t, const struct block_key *keys, const float *keep, size_t n,
              struct skv_error *err)
{
    struct client *c = tier_client(t);
    uint64_t places[TIER_HINT_KEYS];
    struct batch b;
    int rc = 0;
    if (n > TIER_HINT_KEYS)
        return skv_fail(err, -EINVAL, "%zu hints at once: at most %d", n, TIER_HINT_KEYS);
    if (tier_told(t)->open)
        return skv_fail(err, -EAGAIN, "the hints before these are not answered yet");
    for (size_t i = 0; i < n; i++)
        places[i] = places_of(c, &keys[i]);
    for (unsigned at = 0; at < client_n_nodes(c); at++) {
        unsigned node = client_node_at(c, at);
        if (!client_node_has_disk(c, node))
            continue;
        b.n = 0;
        for (size_t i = 0; i < n; i++) {
            if (!(places[i] >> node & 1))
                continue;
            b.key[b.n] = (Scoutkv__Key)SCOUTKV__KEY__INIT;
            b.key[b.n].chain = (ProtobufCBinaryData){CHAIN_BYTES, (uint8_t *)(uintptr_t)keys[i].chain};
            b.key[b.n].layer = keys[i].layer;
            b.key_at[b.n] = &b.key[b.n];
            b.keep[b.n++] = keep[i];
        }
        int sent = b.n ? send(t, node, &b, err) : 0;
        rc = rc ? rc : sent;
    }
    tier_send(t);
    return rc;
}
