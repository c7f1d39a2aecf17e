/* client_put.c: writing blocks.
 *
 * A block is written to the first `replicas` live nodes in rank; each copy waits in the queue of its node
 * until the bulk lane has the byte credit for it. A copy whose node is lost goes to the next live node; one
 * that lies with a suspect is made elsewhere too. The writer hears when there are as many copies as there can
 * be: `replicas`, or one on every live node, less those that refused it. What it lacks is noted for
 * client_repair.c. A block that no live node takes waits for one that was lost a
 * moment ago, for as long as a request may take.
 *
 * Nodes may hold different versions of a block, of several writers. The first in rank among those that
 * answered decides which one stays; only nodes that hold that one are named as holders. */
#include "decoder/tier/client_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- one copy ---- */

void put_free(struct put *p)
{
    buf_unref(p->payload);
    free(p->stored);
    free(p);
}

void put_copy_free(struct put_copy *copy)
{
    struct put *p = copy->put;
    p->at &= ~node_bit(copy->node);
    if (!p->at)
        put_free(p);
    free(copy);
}

/* Ends a copy; the put goes on. */
static struct put *copy_end(struct put_copy *copy)
{
    struct put *p = copy->put;
    p->at &= ~node_bit(copy->node);
    free(copy);
    return p;
}

static int copy_queue(struct client *c, struct put *p, unsigned node, struct skv_error *err)
{
    char name[384];
    struct client_node *n = &c->nodes[node];
    const struct lane *l = &c->lanes[node * (1 + c->opts.lanes)];
    if (p->payload->len > n->max_block || (l->greeted && p->payload->len > l->credit_limit))
        return skv_fail(err, -EMSGSIZE,
                        "%s takes blocks of at most %llu bytes, not %zu: hold fewer KV heads per block",
                        node_name(n, name),
                        (unsigned long long)(n->max_block < l->credit_limit ? n->max_block : l->credit_limit),
                        p->payload->len);
    struct put_copy *copy = calloc(1, sizeof *copy);
    if (!copy)
        return skv_fail(err, -ENOMEM, "out of memory");
    copy->put = p;
    copy->node = node;
    *(n->puts ? &n->puts_end->next : &n->puts) = copy;
    n->puts_end = copy;
    p->at |= node_bit(node);
    c->put_backlog += p->payload->len;
    return 0;
}

/* ---- the block ---- */

/* Calls back, once. */
static void put_answer(struct client *c, struct put *p, int rc, const struct skv_error *err)
{
    struct tier_totals *t = &c->totals.tier;
    unsigned copies = (unsigned)__builtin_popcountll(p->holders);
    p->answered = true;
    c->puts_open--;
    if (p->only < 0 && rc && !c->put_failure.code)
        c->put_failure = *err;
    if (p->only < 0 && rc == 0) {
        t->put_blocks++;
        t->put_bytes += p->payload->len;
        t->put_exists += p->stored != NULL;
        if (copies < c->opts.replicas) {
            t->short_puts++;
            repair_note(c, &p->key, ~p->holders);
        }
    }
    struct tier_put_result result = {.rc = rc,
                                     .holders = p->holders,
                                     .stored = p->stored,
                                     .n_pages = p->n_checksums,
                                     .err = rc ? err : NULL};
    if (p->done)
        p->done(p->arg, &result);
}

/* The next node that a copy may be made at, or -1. */
static int put_pick(const struct client *c, const struct put *p, const uint8_t *order, bool suspects)
{
    for (unsigned i = 0; i < c->map.n; i++) {
        unsigned node = order[i];
        const struct client_node *n = &c->nodes[node];
        if (n->up && !n->addr.draining && (suspects || !n->suspect) &&
            !((p->at | p->acked | p->refused) & node_bit(node)) && (p->only < 0 || p->only == (int)node))
            return (int)node;
    }
    return -1;
}

/* Why the first node in rank, or the only one that is wanted, is sent nothing. */
static void put_nowhere(const struct client *c, unsigned node, struct skv_error *err)
{
    if (c->nodes[node].member && c->nodes[node].addr.draining)
        skv_fail(
            err, -EHOSTUNREACH,
            "memory node %s is draining, and no node of the cluster that is not takes the block: add one",
            c->nodes[node].id);
    else
        client_node_down(c, node, err);
}

/* Makes as many copies as should be on their way. */
static void put_place(struct client *c, struct put *p)
{
    uint8_t order[PLACEMENT_MAX_NODES];
    int node;
    unsigned want = p->only < 0 ? c->opts.replicas : 1;
    placement_rank(&c->map, key_hash(&p->key), order);
    uint64_t suspects = nodes_suspect(c);
    while ((unsigned)__builtin_popcountll((p->at & ~suspects) | p->acked | p->refused) < want) {
        node = put_pick(c, p, order, !(p->at | p->acked));
        if (node < 0)
            break;
        struct skv_error err;
        if (copy_queue(c, p, (unsigned)node, &err)) {
            p->failed = err;
            p->refused |= node_bit((unsigned)node);
        }
    }
    if (!(p->at | p->acked | p->refused) && !p->failed.code)
        put_nowhere(c, p->only < 0 ? order[0] : (unsigned)p->only, &p->failed);
}

enum put_state { PUT_GOING, PUT_ACKED, PUT_FAILED };

/* Places what is to be placed and tells how it stands. */
static enum put_state put_drive(struct client *c, struct put *p)
{
    if (p->answered)
        return PUT_GOING;
    p->failed.code = p->refused ? p->failed.code : 0; /* a node that was down says nothing now */
    put_place(c, p);
    if (p->at & ~nodes_suspect(c))
        return PUT_GOING;
    if (p->acked)
        return PUT_ACKED;
    if (p->at)
        return PUT_GOING; /* only suspects have it: their deadlines run */
    if (p->refused || p->only >= 0 || !nodes_returning(c, UINT64_MAX, &p->give_up))
        return PUT_FAILED;
    p->next = c->stranded;
    c->stranded = p;
    client_due(c, p->give_up);
    return PUT_GOING;
}

static void put_settle(struct client *c, struct put *p)
{
    enum put_state state = put_drive(c, p);
    if (state == PUT_ACKED)
        put_answer(c, p, 0, NULL);
    else if (state == PUT_FAILED)
        put_answer(c, p, p->failed.code, &p->failed);
    if (p->answered && !p->at)
        put_free(p);
}

int put_begin(struct client *c, int only, const struct block_key *key, const struct block_layout *l,
              struct buf *payload, const uint64_t *checksums, enum tier_ack ack, tier_put_fn *done, void *arg,
              struct skv_error *err)
{
    size_t n = layout_pages(l);
    struct put *p = calloc(1, sizeof *p + n * sizeof *checksums);
    if (!p)
        return skv_fail(err, -ENOMEM, "out of memory");
    *p = (struct put){.key = *key,
                      .layout = *l,
                      .payload = buf_ref(payload),
                      .ack = ack,
                      .only = only,
                      .done = done,
                      .arg = arg,
                      .rank = UINT32_MAX,
                      .n_checksums = n};
    memcpy(p->checksums, checksums, n * sizeof *checksums);
    if (put_drive(c, p) == PUT_FAILED) {
        int rc = skv_fail(err, p->failed.code, "%s", p->failed.text);
        put_free(p);
        return rc;
    }
    c->puts_open++;
    return 0;
}

int client_put(struct client *c, const struct block_key *key, const struct block_layout *l,
               struct buf *payload, const uint64_t *checksums, enum tier_ack ack, tier_put_fn *done,
               void *arg, struct skv_error *err)
{
    assert(c->map.n);
    if (!layout_valid(l) || payload->len != layout_block_bytes(l) || key->ns != c->opts.ns)
        return skv_fail(err, -EINVAL,
                        "a block's bytes, layout and namespace must agree (%zu bytes, namespace %llu)",
                        payload->len, (unsigned long long)key->ns);
    return put_begin(c, -1, key, l, payload, checksums, ack, done, arg, err);
}

uint64_t client_put_backlog(const struct client *c)
{
    return c->put_backlog;
}

size_t client_puts_open(const struct client *c)
{
    return c->puts_open;
}

int client_put_failure(struct client *c, struct skv_error *err)
{
    int rc = c->put_failure.code;
    if (rc && err)
        *err = c->put_failure;
    c->put_failure.code = 0;
    return rc;
}

static struct buf *put_header(const struct client_node *n, const struct put *p, const struct request *r)
{
    Scoutkv__Key key = SCOUTKV__KEY__INIT;
    key.chain = (ProtobufCBinaryData){CHAIN_BYTES, (uint8_t *)p->key.chain};
    key.layer = p->key.layer;
    Scoutkv__Layout layout = SCOUTKV__LAYOUT__INIT;
    layout.dtype = p->layout.dtype;
    layout.d_k = p->layout.d_k;
    layout.d_v = p->layout.d_v;
    layout.head0 = p->layout.head0;
    layout.n_heads = p->layout.n_heads;
    Scoutkv__Put put = SCOUTKV__PUT__INIT;
    put.key = &key;
    put.layout = &layout;
    put.n_checksums = p->n_checksums;
    put.checksums = (uint64_t *)p->checksums;
    put.ack = p->ack == TIER_ACK_DURABLE ? SCOUTKV__ACK__DURABLE : SCOUTKV__ACK__RAM;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.version = n->version;
    h.id = r->id;
    h.epoch = r->epoch;
    h.body_case = SCOUTKV__HEADER__BODY_PUT;
    h.put = &put;
    return header_pack(&h);
}

bool put_next(struct client *c, unsigned lane, uint64_t now, struct outgoing *out)
{
    struct lane *l = &c->lanes[lane];
    struct client_node *n = &c->nodes[l->node];
    struct put_copy *copy = n->puts;
    struct put *p = copy ? copy->put : NULL;
    if (!p || p->payload->len > l->credit || view_newer_at(c, l->node))
        return false;
    if (n->puts_probe && (now < n->puts_not_before || l->credit < l->credit_limit))
        return false;
    struct request *r = request_new(c, REQUEST_PUT, lane, now + c->opts.timeout_ns);
    if (!r)
        return false;
    r->epoch = c->epoch;
    *out = (struct outgoing){.header = put_header(n, p, r)};
    if (!out->header) {
        request_free(c, r);
        return false;
    }
    out->payload = (struct view){p->payload->data, p->payload->len, buf_ref(p->payload)};
    n->puts = copy->next;
    copy->next = NULL;
    r->copy = copy;
    l->credit -= p->payload->len;
    c->put_backlog -= p->payload->len;
    return true;
}

/* One that was sent in vain is to be sent first again. */
static void copy_requeue(struct client *c, struct put_copy *copy)
{
    struct client_node *n = &c->nodes[copy->node];
    copy->next = n->puts;
    if (!n->puts)
        n->puts_end = copy;
    n->puts = copy;
    c->put_backlog += copy->put->payload->len;
}

/* The node still reads its disks and can't tell whether it has the block. Until it can, one PUT at a time is
 * enough to find out. False when the copy's time is up. */
static bool copy_postpone(struct client *c, struct put_copy *copy, uint64_t deadline, uint64_t now)
{
    struct client_node *n = &c->nodes[copy->node];
    if (!copy->give_up)
        copy->give_up = deadline;
    if (now + STARTING_PAUSE_NS >= copy->give_up)
        return false;
    n->puts_probe = true;
    n->puts_not_before = now + STARTING_PAUSE_NS;
    copy_requeue(c, copy);
    return true;
}

static void credit_back(struct lane *l, uint64_t bytes)
{
    uint64_t used = l->credit_limit - l->credit;
    l->credit += bytes < used ? bytes : used;
}

/* The copy went by an older view than the node's: it is placed anew when there is that one, if not yet. */
static void put_stale(struct client *c, struct request *r, const struct message *m, uint64_t now)
{
    struct put_copy *copy = r->copy;
    if (m->header->epoch <= r->epoch) {
        node_broke_protocol(c, copy->node, now, "a view that is not newer to a write that it calls stale");
        return;
    }
    c->totals.tier.stale++;
    credit_back(&c->lanes[r->lane], m->header->refused->credit);
    request_free(c, r);
    if (view_newer_at(c, copy->node))
        copy_requeue(c, copy);
    else
        put_settle(c, copy_end(copy));
}

static void put_refused(struct client *c, struct put_copy *copy, const struct skv_error *why)
{
    struct put *p = copy->put;
    p->failed = *why;
    p->refused |= node_bit(copy->node);
    put_settle(c, copy_end(copy));
}

static unsigned rank_of(const struct client *c, const struct put *p, unsigned node)
{
    uint8_t order[PLACEMENT_MAX_NODES];
    unsigned rank = 0;
    placement_rank(&c->map, key_hash(&p->key), order);
    while (order[rank] != node)
        rank++;
    return rank;
}

/* Notes which version the node holds: ours, or (stored) another. */
static void put_acked(struct client *c, struct put *p, unsigned node, const uint64_t *stored)
{
    size_t bytes = p->n_checksums * sizeof *stored;
    unsigned rank = rank_of(c, p, node);
    const uint64_t *held = stored ? stored : p->checksums, *stays = p->stored ? p->stored : p->checksums;
    bool same = p->acked && memcmp(held, stays, bytes) == 0;
    if (p->acked && !same)
        c->totals.tier.conflicts++;
    if (!p->acked || (!same && rank < p->rank)) { /* it decides */
        uint64_t *copy = stored ? malloc(bytes) : NULL;
        if (copy)
            memcpy(copy, stored, bytes);
        free(p->stored);
        p->stored = copy;
        p->holders = 0;
        same = true;
    }
    p->holders |= same ? node_bit(node) : 0;
    p->rank = rank < p->rank ? rank : p->rank;
    p->acked |= node_bit(node);
}

void put_answered(struct client *c, struct request *r, const struct message *m, uint64_t now)
{
    struct lane *l = &c->lanes[r->lane];
    struct client_node *n = &c->nodes[l->node];
    struct put_copy *copy = r->copy;
    struct put *p = copy->put;
    struct skv_error err;
    if (m->header->body_case == SCOUTKV__HEADER__BODY_REFUSED) {
        if (refused_stale(m->header->refused)) {
            put_stale(c, r, m, now);
            return;
        }
        refusal(n, m->header->refused, &err);
        uint64_t deadline = r->deadline;
        credit_back(l, m->header->refused->credit);
        c->totals.tier.refused++;
        bool starting = refused_starting(m->header->refused);
        request_free(c, r);
        n->puts_probe = n->puts_probe && starting;
        if (!starting || !copy_postpone(c, copy, deadline, now))
            put_refused(c, copy, &err);
        return;
    }
    n->puts_probe = false;
    const Scoutkv__PutAck *a =
        m->header->body_case == SCOUTKV__HEADER__BODY_PUT_ACK ? m->header->put_ack : NULL;
    bool exists = a && a->result == SCOUTKV__PUT_ACK__RESULT__EXISTS;
    if (!a || (unsigned)a->result > SCOUTKV__PUT_ACK__RESULT__EXISTS) {
        node_broke_protocol(c, l->node, now, "no proper acknowledgement to a PUT");
        return;
    }
    credit_back(l, a->credit);
    request_free(c, r);
    if (exists && a->n_checksums != p->n_checksums) {
        char name[384];
        skv_fail(&err, -EEXIST,
                 "%s holds this block with %zu pages, not %zu: another writer uses the same identity for "
                 "another shape",
                 node_name(n, name), a->n_checksums, p->n_checksums);
        put_refused(c, copy, &err);
        return;
    }
    c->totals.tier.put_same += a->result == SCOUTKV__PUT_ACK__RESULT__SAME;
    put_acked(c, p, copy->node, exists ? a->checksums : NULL);
    put_settle(c, copy_end(copy));
}

/* ---- nodes that come and go ---- */

void put_lost(struct client *c, struct put_copy *copy)
{
    put_settle(c, copy_end(copy));
}

void put_node_shunned(struct client *c, unsigned node)
{
    struct put_copy *copy = c->nodes[node].puts, *next;
    c->nodes[node].puts = NULL;
    for (; copy; copy = next) {
        next = copy->next;
        c->put_backlog -= copy->put->payload->len;
        put_settle(c, copy_end(copy));
    }
    for (uint32_t i = 0; i < c->n_slots; i++) /* those on their way are made elsewhere, too */
        if (c->slots[i]->kind == REQUEST_PUT && c->slots[i]->copy->node == node)
            put_settle(c, c->slots[i]->copy->put);
}

void put_node_back(struct client *c)
{
    struct put *p = c->stranded, *next;
    c->stranded = NULL;
    for (; p; p = next) {
        next = p->next;
        put_settle(c, p);
    }
}

static void forget(struct client *c, struct put *p, uint64_t gone)
{
    p->refused &= ~gone;
    p->acked &= ~gone;
    p->holders &= ~gone;
    p->rank = UINT32_MAX;
    for (unsigned i = 0; i < c->n_nodes; i++)
        if (p->holders & node_bit(i)) {
            unsigned rank = rank_of(c, p, i);
            p->rank = rank < p->rank ? rank : p->rank;
        }
}

void put_forget_nodes(struct client *c, uint64_t gone)
{
    for (struct put *p = c->stranded; p; p = p->next)
        forget(c, p, gone);
    for (unsigned i = 0; i < c->n_nodes; i++)
        for (struct put_copy *copy = c->nodes[i].puts; copy; copy = copy->next)
            forget(c, copy->put, gone);
    for (uint32_t i = 0; i < c->n_slots; i++)
        if (c->slots[i]->kind == REQUEST_PUT)
            forget(c, c->slots[i]->copy->put, gone);
}

void put_view_changed(struct client *c)
{
    for (unsigned i = 0; i < c->n_nodes; i++) /* what was not sent yet goes where it belongs now */
        put_node_shunned(c, i);
    put_node_back(c);
}

void put_tick(struct client *c, uint64_t now)
{
    struct put **at = &c->stranded, *p;
    while ((p = *at)) {
        if (now < p->give_up) {
            client_due(c, p->give_up);
            at = &p->next;
            continue;
        }
        *at = p->next;
        put_answer(c, p, p->failed.code, &p->failed);
        put_free(p);
        at = &c->stranded; /* the callback may have added others */
    }
}
