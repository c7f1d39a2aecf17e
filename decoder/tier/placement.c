/* placement.c: see placement.h. A node's score is -weight / ln(u), u uniform in (0, 1) from the two hashes:
 * the logarithmic method, whose winner is node i with probability weight_i / sum of weights. */
#include "decoder/tier/placement.h"

#define XXH_INLINE_ALL
#include <assert.h>
#include <errno.h>
#include <math.h>
#include <string.h>
#include <xxhash.h>

/* ---- the list of addresses ---- */

int node_list_parse(const char *text, struct cluster_node *out, size_t *n, struct skv_error *err)
{
    size_t count = 0;
    for (const char *at = text;; count++) {
        size_t len = strcspn(at, ",");
        if (count == PLACEMENT_MAX_NODES)
            return skv_fail(err, -EINVAL, "--nodes names more than %d memory nodes", PLACEMENT_MAX_NODES);
        const char *wrong = len ? cluster_node_parse(at, len, &out[count]) : "it is empty";
        if (wrong)
            return skv_fail(err, -EINVAL,
                            "--nodes entry %zu \"%.*s\" is not [id@]host:port[*weight]: %s; example: "
                            "10.0.0.1:7401,10.0.0.2:7401*2",
                            count + 1, (int)(len < 80 ? len : 80), at, wrong);
        for (size_t i = 0; i < count; i++)
            if (strcmp(out[i].address, out[count].address) == 0)
                return skv_fail(err, -EINVAL, "--nodes names %s twice: give each memory node once",
                                out[i].address);
            else if (out[count].id[0] && strcmp(out[i].id, out[count].id) == 0)
                return skv_fail(err, -EINVAL, "--nodes gives the id %s twice: each memory node has its own",
                                out[i].id);
        if (!at[len])
            break;
        at += len + 1;
    }
    *n = count + 1;
    return 0;
}

/* ---- rendezvous hashing ---- */

void cluster_map_add(struct cluster_map *m, unsigned number, const char *id, double weight, bool draining)
{
    assert(m->n < PLACEMENT_MAX_NODES && number < PLACEMENT_MAX_NODES && weight > 0);
    assert(!(m->members & UINT64_C(1) << number));
    m->nodes[m->n].id_hash = XXH3_64bits(id, strlen(id));
    m->nodes[m->n].weight = weight;
    m->nodes[m->n].number = (uint8_t)number;
    m->nodes[m->n++].draining = draining;
    m->members |= UINT64_C(1) << number;
    m->epoch++;
}

static double score(const struct cluster_map *m, unsigned at, uint64_t hash)
{
    uint64_t pair[2] = {m->nodes[at].id_hash, hash};
    uint64_t h = XXH3_64bits(pair, sizeof pair);
    double u = ((double)(h >> 11) + 0.5) * 0x1p-53; /* never 0 or 1 */
    return -m->nodes[at].weight / log(u);
}

/* Equal scores (a matter of 2^-53) go to the lower id hash, so that the order of the list never shows. */
static bool before(const struct cluster_map *m, double sa, unsigned a, double sb, unsigned b)
{
    if (m->nodes[a].draining != m->nodes[b].draining)
        return m->nodes[b].draining;
    return sa > sb || (sa == sb && m->nodes[a].id_hash < m->nodes[b].id_hash);
}

void placement_rank(const struct cluster_map *m, uint64_t hash, uint8_t *order)
{
    double s[PLACEMENT_MAX_NODES];
    for (unsigned i = 0; i < m->n; i++) {
        s[i] = score(m, i, hash);
        unsigned at = i; /* insertion sort: a few nodes, or rarely many */
        for (; at > 0 && before(m, s[i], i, s[order[at - 1]], order[at - 1]); at--)
            order[at] = order[at - 1];
        order[at] = (uint8_t)i;
    }
    for (unsigned i = 0; i < m->n; i++)
        order[i] = m->nodes[order[i]].number;
}

uint64_t name_hash(unsigned kind, const char *name)
{
    return XXH3_64bits_withSeed(name, strlen(name), kind + 1);
}
