/* client_put.c: writing blocks.
 *
 * A PUT waits in the queue of its node until the bulk lane has the byte credit for it. What was queued for a
 * node that is lost goes to the next live node in rank, as a new write would; what was on its way fails,
 * because nobody knows whether it arrived. */
#include "decoder/tier/client_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

void put_free(struct put *p)
{
    buf_unref(p->payload);
    free(p);
}

/* Calls back and frees. */
static void put_finish(struct client *c, struct put *p, int rc, const uint64_t *stored,
                       const struct skv_error *err)
{
    c->puts_open--;
    if (rc && !c->put_failure.code)
        c->put_failure = *err;
    if (p->done)
        p->done(p->arg, rc, stored, p->n_checksums, rc ? err : NULL);
    put_free(p);
}

void put_failed(struct client *c, struct put *p, int rc, const struct skv_error *why)
{
    struct skv_error err;
    skv_fail(&err, rc, "%s", why->text);
    put_finish(c, p, rc, NULL, &err);
}

/* Queues the PUT on the first live node in rank. */
static int put_place(struct client *c, struct put *p, struct skv_error *err)
{
    uint8_t order[PLACEMENT_MAX_NODES];
    char name[384];
    placement_rank(&c->map, key_hash(&p->key), order);
    unsigned i = 0;
    while (i < c->map.n && !c->nodes[order[i]].up)
        i++;
    if (i == c->map.n)
        return client_node_down(c, order[0], err);
    struct client_node *n = &c->nodes[order[i]];
    const struct lane *l = &c->lanes[order[i] * (1 + c->opts.lanes)];
    if (p->payload->len > n->max_block || (l->greeted && p->payload->len > l->credit_limit))
        return skv_fail(err, -EMSGSIZE,
                        "%s takes blocks of at most %llu bytes, not %zu: hold fewer KV heads per block",
                        node_name(n, name),
                        (unsigned long long)(n->max_block < l->credit_limit ? n->max_block : l->credit_limit),
                        p->payload->len);
    p->next = NULL;
    *(n->puts ? &n->puts_end->next : &n->puts) = p;
    n->puts_end = p;
    c->put_backlog += p->payload->len;
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
    size_t n = layout_pages(l);
    struct put *p = malloc(sizeof *p + n * sizeof *checksums);
    if (!p)
        return skv_fail(err, -ENOMEM, "out of memory");
    *p = (struct put){.key = *key,
                      .layout = *l,
                      .payload = payload,
                      .ack = ack,
                      .done = done,
                      .arg = arg,
                      .n_checksums = n};
    memcpy(p->checksums, checksums, n * sizeof *checksums);
    int rc = put_place(c, p, err);
    if (rc) {
        free(p);
        return rc;
    }
    buf_ref(payload);
    c->puts_open++;
    return 0;
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

static struct buf *put_header(const struct client_node *n, const struct put *p, uint64_t id)
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
    h.id = id;
    h.body_case = SCOUTKV__HEADER__BODY_PUT;
    h.put = &put;
    return header_pack(&h);
}

bool put_next(struct client *c, unsigned lane, uint64_t now, struct outgoing *out)
{
    struct lane *l = &c->lanes[lane];
    struct client_node *n = &c->nodes[l->node];
    struct put *p = n->puts;
    if (!p || p->payload->len > l->credit)
        return false;
    if (n->puts_probe && (now < n->puts_not_before || l->credit < l->credit_limit))
        return false;
    struct request *r = request_new(c, REQUEST_PUT, lane, now + c->opts.timeout_ns);
    if (!r)
        return false;
    *out = (struct outgoing){.header = put_header(n, p, r->id)};
    if (!out->header) {
        request_free(c, r);
        return false;
    }
    out->payload = (struct view){p->payload->data, p->payload->len, buf_ref(p->payload)};
    n->puts = p->next;
    r->put = p;
    l->credit -= p->payload->len;
    c->put_backlog -= p->payload->len;
    return true;
}

/* The node still reads its disks and can't tell whether it has the block. Until it can, one PUT at a time is
 * enough to find out. False when the PUT's time is up. */
static bool put_postpone(struct client *c, struct client_node *n, struct put *p, uint64_t deadline,
                         uint64_t now)
{
    if (!p->give_up)
        p->give_up = deadline;
    if (now + STARTING_PAUSE_NS >= p->give_up)
        return false;
    n->puts_probe = true;
    n->puts_not_before = now + STARTING_PAUSE_NS;
    p->next = n->puts;
    if (!n->puts)
        n->puts_end = p;
    n->puts = p;
    c->put_backlog += p->payload->len;
    return true;
}

static void credit_back(struct lane *l, uint64_t bytes)
{
    uint64_t used = l->credit_limit - l->credit;
    l->credit += bytes < used ? bytes : used;
}

void put_answered(struct client *c, struct request *r, const struct message *m, uint64_t now)
{
    struct lane *l = &c->lanes[r->lane];
    struct client_node *n = &c->nodes[l->node];
    struct put *p = r->put;
    struct tier_totals *t = &c->totals.tier;
    if (m->header->body_case == SCOUTKV__HEADER__BODY_REFUSED) {
        struct skv_error err;
        int rc = refusal(n, m->header->refused, &err);
        uint64_t deadline = r->deadline;
        credit_back(l, m->header->refused->credit);
        t->refused++;
        bool starting = refused_starting(m->header->refused);
        request_free(c, r);
        n->puts_probe = n->puts_probe && starting;
        if (!starting || !put_postpone(c, n, p, deadline, now))
            put_finish(c, p, rc, NULL, &err);
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
    if (exists && a->n_checksums != p->n_checksums) {
        struct skv_error err;
        char name[384];
        skv_fail(&err, -EEXIST,
                 "%s holds this block with %zu pages, not %zu: another writer uses the same identity for "
                 "another shape",
                 node_name(n, name), a->n_checksums, p->n_checksums);
        request_free(c, r);
        put_finish(c, p, err.code, NULL, &err);
        return;
    }
    t->put_blocks++;
    t->put_bytes += p->payload->len;
    t->put_same += a->result == SCOUTKV__PUT_ACK__RESULT__SAME;
    t->put_exists += exists;
    request_free(c, r);
    put_finish(c, p, 0, exists ? a->checksums : NULL, NULL);
}

void put_node_lost(struct client *c, unsigned node)
{
    struct put *p = c->nodes[node].puts, *next;
    c->nodes[node].puts = NULL;
    for (; p; p = next) {
        struct skv_error err;
        next = p->next;
        c->put_backlog -= p->payload->len;
        int rc = put_place(c, p, &err);
        if (rc)
            put_finish(c, p, rc, NULL, &err);
    }
}
