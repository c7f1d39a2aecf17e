/* model.c: the blocks of a history, and what was promised of them. */
#include "tests/sim/cluster.h"
#include "tests/store/sim_file.h" /* sim_must */

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- blocks ---- */

static void fill(uint64_t *rng, uint8_t *out, size_t len)
{
    for (size_t i = 0; i < len; i += 8) {
        uint64_t r = random_next(rng);
        memcpy(out + i, &r, len - i < 8 ? len - i : 8);
    }
}

void model_make(struct cluster *k)
{
    for (unsigned i = 0; i < k->plan.n_keys; i++) {
        struct sim_key *key = &k->keys[i];
        *key = (struct sim_key){.number = i, .known = -1};
        key->layout = &k->plan.layouts[random_below(&k->rng, k->plan.n_layouts)];
        key->pages = (unsigned)layout_pages(key->layout);
        key->key.layer = (uint32_t)random_below(&k->rng, 3);
        fill(&k->rng, key->key.chain, CHAIN_BYTES);
        key->key.chain[0] = (uint8_t)i;
        for (unsigned n = 0; n < MAX_NODES; n++)
            key->promise[n].version = -1;
        for (unsigned v = 0; v < k->plan.n_versions; v++) {
            struct version *version = &key->version[v];
            version->payload = sim_must(buf_new(layout_block_bytes(key->layout)));
            version->checksums = sim_must(malloc(key->pages * sizeof *version->checksums));
            fill(&k->rng, version->payload->data, version->payload->len);
            block_checksums(&key->key, key->layout, version->payload->data, version->checksums);
        }
    }
}

void model_free(struct cluster *k)
{
    for (unsigned i = 0; i < k->plan.n_keys; i++)
        for (unsigned v = 0; v < k->plan.n_versions; v++) {
            struct version *version = &k->keys[i].version[v];
            if (!k->failed && atomic_load(&version->payload->refs) != 1)
                BROKEN(k, "k%u.v%u: all is closed, and somebody still holds its bytes", i, v);
            buf_unref(version->payload);
            free(version->checksums);
        }
}

int model_version(const struct sim_key *key, const uint64_t *checksums, size_t n)
{
    for (int v = 0; v < MAX_VERSIONS && key->version[v].checksums; v++)
        if (n == key->pages && memcmp(key->version[v].checksums, checksums, n * sizeof *checksums) == 0)
            return v;
    return -1;
}

struct sim_key *model_key(struct cluster *k, const Scoutkv__Key *wire)
{
    struct block_key key;
    if (!key_from_wire(wire, 0, &key) || key.chain[0] >= k->plan.n_keys)
        return NULL;
    struct sim_key *found = &k->keys[key.chain[0]];
    return key_equal(&key, &found->key) ? found : NULL;
}

/* ---- promises ---- */

bool promise_holds(const struct cluster *k, const struct sim_key *key, unsigned node)
{
    const struct promise *p = &key->promise[node];
    const struct sim_node *n = &k->nodes[node];
    if (p->version < 0)
        return false;
    return (n->core && p->life == n->life) || (n->sim && p->dir && p->dir == n->dir);
}

bool promise_safe(const struct cluster *k, const struct sim_key *key, int version)
{
    for (unsigned n = 0; k->plan.victim >= 0 && n < k->plan.n_nodes; n++)
        if ((int)n != k->plan.victim && key->promise[n].version == version && promise_holds(k, key, n))
            return true;
    return false;
}

void promise_void(struct sim_key *key, unsigned node)
{
    key->promise[node] = (struct promise){.version = -1};
}

static void promise_of(struct sim_client *c, struct sim_key *key, int put, int version, unsigned node,
                       bool durable, uint64_t began)
{
    struct cluster *k = c->k;
    const struct put_ack *a = &c->ack[key->number][node][put];
    struct promise *p = &key->promise[node];
    if (key->removed[node] >= began) /* a DROP came between, and perhaps a repair: nothing follows */
        return;
    if (a->event < began || (durable && !a->durable)) {
        LOST(k, "%s is told that n%u holds k%u.v%d, but n%u has not acknowledged that%s", c->name, node + 1,
             key->number, version, node + 1, a->event < began ? "" : " as durable");
        return;
    }
    if (!views_member(k, node)) /* removed meanwhile */
        return;
    if (a->version != version) {
        LOST(k, "%s is told that n%u holds k%u.v%d, but n%u has acknowledged v%d", c->name, node + 1,
             key->number, version, node + 1, a->version);
        return;
    }
    if (promise_holds(k, key, node) && p->version != version && p->event < a->event) {
        WRONG(k, "n%u acknowledged k%u.v%d, and later v%d", node + 1, key->number, p->version, version);
        return;
    }
    if (promise_holds(k, key, node) && p->event > a->event)
        return;
    *p = (struct promise){.version = version,
                          .life = a->life,
                          .dir = durable                                     ? a->dir
                                 : p->version == version && p->dir == a->dir ? p->dir
                                                                             : 0,
                          .event = a->event,
                          .since = promise_holds(k, key, node) ? p->since : ++k->event};
}

void promise_made(struct sim_client *c, struct sim_key *key, int put, int version, uint64_t holders,
                  bool durable, uint64_t began)
{
    struct cluster *k = c->k;
    if (!holders)
        BROKEN(k, "%s put k%u, and it has no holders", c->name, key->number);
    for (unsigned i = 0; i < 64; i++) {
        int node = holders >> i & 1 ? client_node_of(c, i) : -1;
        if (node >= 0)
            promise_of(c, key, put, version, (unsigned)node, durable, began);
        else if (holders >> i & 1)
            BROKEN(k, "%s put k%u, and its holders are %" PRIx64 ", where %u is no node", c->name,
                   key->number, holders, i);
    }
    key->known = version;
}
