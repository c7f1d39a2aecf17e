/* calls.c: the requests that wait for their answers: HAVE, DROP, PIN, UNPIN, STATS.
 *
 * A block normally lies on its first nodes in rank, but may lie further down (its node was away when it was
 * written), and readers walk the rank order. So: HAVE asks on until a node says yes; DROP, PIN and
 * UNPIN go to every node, each of which acts on what it holds. Nodes that can't be asked fail DROP, which
 * must not be undone by their return; the others do without, as long as fewer are missing than there are
 * replicas. */
#include "decoder/tier/tier_internal.h"

#include "common/clock.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CALL_KEYS = 4096 }; /* keys in one request: about 200 KiB of header */

/* ---- requests about many keys ---- */

/* One such operation under way. */
struct keys_op {
    struct tier *t;
    struct tier_wait wait;
    uint64_t absent;       /* nodes that could not be asked, */
    struct skv_error gone; /* and why not */
    Scoutkv__Header__BodyCase kind;
    const struct block_key *keys;
    const char *owner; /* PIN, UNPIN */
    uint32_t ttl_ms;   /* PIN */
    bool *present;     /* HAVE */
};

/* One request of it: keys[index[0..n)]. */
struct keys_part {
    struct keys_op *op;
    unsigned node;
    size_t n;
    uint32_t index[];
};

static void part_answered(void *arg, int rc, const struct message *m, const struct skv_error *err)
{
    struct keys_part *p = arg;
    struct keys_op *op = p->op;
    struct skv_error own;
    if (rc == 0 && op->kind == SCOUTKV__HEADER__BODY_HAVE) {
        const ProtobufCBinaryData *present = &m->header->have_ack->present;
        if (present->len != p->n) {
            rc = skv_fail(&own, -EPROTO, "a memory node answered HAVE for %zu keys with %zu", p->n,
                          present->len);
            err = &own;
        } else {
            for (size_t i = 0; i < p->n; i++)
                op->present[p->index[i]] |= present->data[i] != 0;
        }
    }
    if (rc == -EHOSTUNREACH) {
        op->absent |= UINT64_C(1) << p->node;
        op->gone = *err;
        rc = 0;
    }
    tier_wait_answered(&op->wait, rc, err);
    free(p);
}

/* Points the body of h at the keys; the bodies share their shape but not their type. */
static int part_send(struct keys_part *p, unsigned node, Scoutkv__Key *key, Scoutkv__Key **key_at)
{
    struct keys_op *op = p->op;
    for (size_t i = 0; i < p->n; i++) {
        const struct block_key *k = &op->keys[p->index[i]];
        key[i] = (Scoutkv__Key)SCOUTKV__KEY__INIT;
        key[i].chain = (ProtobufCBinaryData){CHAIN_BYTES, (uint8_t *)k->chain};
        key[i].layer = k->layer;
        key_at[i] = &key[i];
    }
    Scoutkv__Have have = SCOUTKV__HAVE__INIT;
    Scoutkv__Drop drop = SCOUTKV__DROP__INIT;
    Scoutkv__Pin pin = SCOUTKV__PIN__INIT;
    Scoutkv__Unpin unpin = SCOUTKV__UNPIN__INIT;
    have.n_keys = drop.n_keys = pin.n_keys = unpin.n_keys = p->n;
    have.keys = drop.keys = pin.keys = unpin.keys = key_at;
    pin.owner = unpin.owner = (char *)op->owner;
    pin.ttl_ms = op->ttl_ms;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.body_case = op->kind;
    switch (op->kind) {
    case SCOUTKV__HEADER__BODY_HAVE:
        h.have = &have;
        break;
    case SCOUTKV__HEADER__BODY_DROP:
        h.drop = &drop;
        break;
    case SCOUTKV__HEADER__BODY_PIN:
        h.pin = &pin;
        break;
    default:
        assert(op->kind == SCOUTKV__HEADER__BODY_UNPIN);
        h.unpin = &unpin;
    }
    struct skv_error err;
    op->wait.open++;
    int rc = client_call(tier_client(op->t), node, false, &h, (struct view){0},
                         op->kind == SCOUTKV__HEADER__BODY_HAVE ? SCOUTKV__HEADER__BODY_HAVE_ACK
                                                                : SCOUTKV__HEADER__BODY_DONE,
                         part_answered, p, clock_ns(), &err);
    if (rc)
        part_answered(p, rc, NULL, &err);
    return rc;
}

/* Sends keys[index[0..n)] to one node, in as many requests as they need. Failures are noted in op->wait. */
static void op_send(struct keys_op *op, unsigned node, const uint32_t *index, size_t n)
{
    size_t most = n < CALL_KEYS ? n : CALL_KEYS;
    Scoutkv__Key *key = malloc((most + 1) * (sizeof *key + sizeof(Scoutkv__Key *)));
    Scoutkv__Key **key_at = (Scoutkv__Key **)(key + most + 1);
    size_t at = 0;
    do { /* once also for no keys: UNPIN of all */
        size_t part_n = n - at < CALL_KEYS ? n - at : CALL_KEYS;
        struct keys_part *p = key ? malloc(sizeof *p + part_n * sizeof *p->index) : NULL;
        if (!p) {
            skv_fail(&op->wait.failure, -ENOMEM, "out of memory");
            break;
        }
        p->op = op;
        p->node = node;
        p->n = part_n;
        if (part_n)
            memcpy(p->index, index + at, part_n * sizeof *index);
        at += part_n;
        if (part_send(p, node, key, key_at))
            break;
    } while (at < n);
    free(key);
}

static int check_keys(struct tier *t, const struct block_key *keys, size_t n, struct skv_error *err)
{
    if (n > UINT32_MAX)
        return skv_fail(err, -EINVAL, "too many keys");
    for (size_t i = 0; i < n; i++)
        if (keys[i].ns != tier_ns(t))
            return skv_fail(err, -EINVAL, "key %zu is of namespace %llu, but the tier was opened for %llu", i,
                            (unsigned long long)keys[i].ns, (unsigned long long)tier_ns(t));
    return 0;
}

/* Fewer nodes may be missing than there are replicas: what was written to that many is still asked about.
 */
static int check_absent(const struct keys_op *op, struct skv_error *err)
{
    if ((unsigned)__builtin_popcountll(op->absent) < client_replicas(tier_client(op->t)))
        return 0;
    return skv_fail(err, -EHOSTUNREACH, "%s", op->gone.text);
}

/* A node that is down, or silent while others need not be waited for. */
static bool is_absent(struct keys_op *op, unsigned node)
{
    struct client *c = tier_client(op->t);
    bool up = client_node_up(c, node);
    if (up && !(client_node_suspect(c, node) && client_replicas(c) > 1))
        return false;
    op->absent |= UINT64_C(1) << node;
    if (up)
        skv_fail(&op->gone, -EHOSTUNREACH, "memory node %s is silent", client_node_id(c, node));
    else
        client_node_down(c, node, &op->gone);
    return true;
}

/* Asks each key's `place`-th node in rank about it, if it is not known to be present, and waits. */
static int have_round(struct keys_op *op, size_t n, unsigned place, uint32_t *index, uint8_t *node_of,
                      struct skv_error *err)
{
    struct client *c = tier_client(op->t);
    uint8_t order[PLACEMENT_MAX_NODES];
    for (size_t i = 0; i < n; i++)
        if (!op->present[i]) {
            placement_rank(client_map(c), key_hash(&op->keys[i]), order);
            node_of[i] = order[place];
        }
    for (unsigned at = 0; at < client_n_nodes(c); at++) {
        unsigned node = client_node_at(c, at);
        size_t m = 0;
        for (size_t i = 0; i < n; i++)
            if (!op->present[i] && node_of[i] == node)
                index[m++] = (uint32_t)i;
        if (m && !is_absent(op, node))
            op_send(op, node, index, m);
    }
    return tier_wait_all(op->t, &op->wait, err);
}

/* Sends all keys to every node and waits. */
static int op_broadcast(struct keys_op *op, size_t n, struct skv_error *err)
{
    struct client *c = tier_client(op->t);
    uint32_t *index = malloc((n + 1) * sizeof *index);
    if (!index)
        return skv_fail(err, -ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++)
        index[i] = (uint32_t)i;
    uint64_t map;
    int rc;
    do { /* nodes that came meanwhile are to hear it too, and those that left don't matter */
        map = client_map(c)->epoch;
        op->absent = 0;
        op->wait.failure.code = 0;
        for (unsigned i = 0; i < client_n_nodes(c); i++)
            if (!is_absent(op, client_node_at(c, i)))
                op_send(op, client_node_at(c, i), index, n);
        rc = tier_wait_all(op->t, &op->wait, err);
    } while (client_map(c)->epoch != map);
    free(index);
    return rc;
}

int tier_have(struct tier *t, const struct block_key *keys, size_t n, bool *present, struct skv_error *err)
{
    struct keys_op op = {.t = t, .kind = SCOUTKV__HEADER__BODY_HAVE, .keys = keys, .present = present};
    int rc = check_keys(t, keys, n, err);
    memset(present, 0, n * sizeof *present);
    if (rc || n == 0)
        return rc;
    uint32_t *index = malloc(n * (sizeof *index + 1));
    if (!index)
        return skv_fail(err, -ENOMEM, "out of memory");
    for (unsigned place = 0; rc == 0 && place < client_map(tier_client(t))->n && memchr(present, false, n);
         place++)
        rc = have_round(&op, n, place, index, (uint8_t *)(index + n), err);
    free(index);
    return rc || !memchr(present, false, n) ? rc : check_absent(&op, err);
}

int tier_drop(struct tier *t, const struct block_key *keys, size_t n, struct skv_error *err)
{
    struct keys_op op = {.t = t, .kind = SCOUTKV__HEADER__BODY_DROP, .keys = keys};
    int rc = check_keys(t, keys, n, err);
    if (rc == 0 && n)
        rc = op_broadcast(&op, n, err);
    return rc || !op.absent ? rc : skv_fail(err, -EHOSTUNREACH, "%s", op.gone.text);
}

int tier_check_name(const char *what, const char *name, struct skv_error *err)
{
    size_t len = name ? strlen(name) : 0;
    if (len >= 1 && len <= TIER_NAME_MAX)
        return 0;
    return skv_fail(err, -EINVAL, "the name of %s must have 1 to %d bytes, not %zu", what, TIER_NAME_MAX,
                    len);
}

int tier_pin(struct tier *t, const char *owner, const struct block_key *keys, size_t n, uint32_t ttl_ms,
             struct skv_error *err)
{
    struct keys_op op = {
        .t = t, .kind = SCOUTKV__HEADER__BODY_PIN, .keys = keys, .owner = owner, .ttl_ms = ttl_ms};
    int rc = check_keys(t, keys, n, err);
    if (rc || (rc = tier_check_name("a lease's owner", owner, err)) || n == 0)
        return rc;
    bool *present = calloc(n, sizeof *present);
    if (!present)
        return skv_fail(err, -ENOMEM, "out of memory");
    size_t found = 0;
    rc = op_broadcast(&op, n, err);
    if (rc == 0)
        rc = check_absent(&op, err);
    if (rc == 0) /* nodes count copies: whether each block has one is another question */
        rc = tier_have(t, keys, n, present, err);
    for (size_t i = 0; i < n; i++)
        found += present[i];
    free(present);
    if (rc == 0 && found < n)
        rc = skv_fail(err, -ENODATA, "only %zu of the %zu blocks to pin for \"%s\" are on the memory nodes",
                      found, n, owner);
    return rc;
}

int tier_unpin(struct tier *t, const char *owner, const struct block_key *keys, size_t n,
               struct skv_error *err)
{
    struct keys_op op = {.t = t, .kind = SCOUTKV__HEADER__BODY_UNPIN, .keys = keys, .owner = owner};
    int rc = check_keys(t, keys, n, err);
    if (rc == 0)
        rc = tier_check_name("a lease's owner", owner, err);
    if (rc == 0)
        rc = op_broadcast(&op, n, err);
    return rc ? rc : check_absent(&op, err);
}

/* ---- STATS ---- */

/* One node being asked. */
struct node_read {
    struct tier_node *node;
    struct tier_wait *wait;
    uint64_t asked;
};

/* A node's words are a stranger's. */
static void printable(char *out, size_t size, const char *text)
{
    size_t len = 0;
    for (; *text && len + 1 < size; text++)
        out[len++] = iscntrl((unsigned char)*text) ? '?' : *text;
    out[len] = 0;
}

/* Every counter, and "trouble" last. */
static int counters_copy(struct tier_node *to, const Scoutkv__StatsAck *a, struct skv_error *err)
{
    struct tier_counter *all = calloc(a->n_counters + 1, sizeof *all);
    if (!all)
        return skv_fail(err, -ENOMEM, "out of memory");
    for (size_t i = 0; i <= a->n_counters; i++) {
        bool last = i == a->n_counters;
        all[i].value = last ? 0 : a->counters[i]->value;
        snprintf(all[i].node, sizeof all[i].node, "%s", to->id);
        snprintf(all[i].name, sizeof all[i].name, "%s", last ? "trouble" : a->counters[i]->name);
        if (last)
            printable(all[i].text, sizeof all[i].text, a->trouble);
    }
    to->counter = all;
    to->n_counters = a->n_counters + 1;
    return 0;
}

static void node_answered(void *arg, int rc, const struct message *m, const struct skv_error *err)
{
    struct node_read *r = arg;
    r->node->answer_ns = clock_ns() - r->asked;
    r->node->epoch = m ? m->header->epoch : 0;
    if (rc)
        r->node->why = *err;
    else
        counters_copy(r->node, m->header->stats_ack, &r->node->why);
    tier_wait_answered(r->wait, 0, NULL);
}

static void node_ask(struct tier *t, struct node_read *r, unsigned number)
{
    struct client *c = tier_client(t);
    struct tier_node *n = r->node;
    Scoutkv__Stats stats = SCOUTKV__STATS__INIT;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.body_case = SCOUTKV__HEADER__BODY_STATS;
    h.stats = &stats;
    const struct cluster_node *as = client_node(c, number);
    snprintf(n->id, sizeof n->id, "%s", client_node_id(c, number));
    snprintf(n->address, sizeof n->address, "%s", as->address);
    n->weight = as->weight;
    n->draining = as->draining;
    n->up = client_node_up(c, number);
    n->incarnation = client_node_incarnation(c, number);
    n->suspect = n->up && client_node_suspect(c, number);
    r->asked = clock_ns();
    if (client_call(c, number, false, &h, (struct view){0}, SCOUTKV__HEADER__BODY_STATS_ACK, node_answered, r,
                    r->asked, &n->why) == 0)
        r->wait->open++;
}

int tier_nodes(struct tier *t, struct tier_node **out, size_t *n, struct skv_error *err)
{
    struct client *c = tier_client(t);
    struct tier_wait wait = {0};
    *n = client_n_nodes(c);
    *out = calloc(*n, sizeof **out);
    struct node_read *r = calloc(*n, sizeof *r);
    if (!*out || !r) {
        free(*out);
        free(r);
        return skv_fail(err, -ENOMEM, "out of memory");
    }
    for (size_t i = 0; i < *n; i++) {
        r[i].node = &(*out)[i];
        r[i].wait = &wait;
        node_ask(t, &r[i], client_node_at(c, (unsigned)i));
    }
    tier_wait_all(t, &wait, NULL);
    free(r);
    return 0;
}

void tier_nodes_free(struct tier_node *nodes, size_t n)
{
    for (size_t i = 0; nodes && i < n; i++)
        free(nodes[i].counter);
    free(nodes);
}

int tier_stats(struct tier *t, struct tier_counter **out, size_t *n, struct skv_error *err)
{
    struct tier_node *nodes;
    struct skv_error why = {0};
    size_t n_nodes, absent = 0, all = 0;
    int rc = tier_nodes(t, &nodes, &n_nodes, err);
    if (rc)
        return rc;
    for (size_t i = 0; i < n_nodes; i++) {
        all += nodes[i].n_counters;
        absent += !nodes[i].counter;
        if (!nodes[i].counter && !why.code)
            why = nodes[i].why;
    }
    *n = 0;
    *out = malloc((all + 1) * sizeof **out);
    if (!*out)
        rc = skv_fail(err, -ENOMEM, "out of memory");
    else if (absent >= client_replicas(tier_client(t)))
        rc = skv_fail(err, why.code, "%s", why.text);
    for (size_t i = 0; rc == 0 && i < n_nodes; *n += nodes[i++].n_counters)
        if (nodes[i].counter)
            memcpy(*out + *n, nodes[i].counter, nodes[i].n_counters * sizeof **out);
    if (rc)
        free(*out);
    tier_nodes_free(nodes, n_nodes);
    return rc;
}
