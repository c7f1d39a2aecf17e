/* client.c: nodes, lanes, requests, HELLO, deadlines and plain calls; see client.h. */
#include "decoder/tier/client_internal.h"

#include "common/clock.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A lane that was silent for this long says HELLO again first: nodes forget those who are silent for an hour.
 */
static const uint64_t IDLE_NS = 600 * NS_PER_S;
/* A node that was lost is greeted again after this long: it may be refusing each HELLO at once. */
static const uint64_t RETRY_NS = 250 * NS_PER_MS;

/* ---- making and freeing ---- */

struct client *client_new(const struct client_opts *o, uint64_t now)
{
    assert(o->n_nodes >= 1 && o->n_nodes <= PLACEMENT_MAX_NODES && o->lanes >= 1);
    struct client *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->opts = *o;
    c->now = now;
    c->next_due = NO_DEADLINE;
    c->lanes = calloc(PLACEMENT_MAX_NODES * (1 + (size_t)o->lanes), sizeof *c->lanes);
    if (!c->lanes) {
        client_free(c);
        return NULL;
    }
    for (unsigned i = 0; i < PLACEMENT_MAX_NODES * (1 + o->lanes); i++) {
        c->lanes[i].node = i / (1 + o->lanes);
        c->lanes[i].bulk = i % (1 + o->lanes) == 0;
    }
    view_begin(c, o, now);
    return c;
}

void client_free(struct client *c)
{
    if (!c)
        return;
    moves_free(c);
    repairs_free(c); /* its fetch looks at the slots */
    for (uint32_t i = 0; i < c->n_slots; i++) {
        if (c->slots[i]->kind == REQUEST_PUT)
            put_copy_free(c->slots[i]->copy);
        outgoing_clear(&c->slots[i]->message);
        free(c->slots[i]->asked);
        free(c->slots[i]);
    }
    for (unsigned i = 0; i < c->n_nodes; i++)
        for (struct put_copy *p = c->nodes[i].puts, *next; p; p = next) {
            next = p->next;
            put_copy_free(p);
        }
    for (struct put *p = c->stranded, *next; p; p = next) {
        next = p->next;
        put_free(p);
    }
    free(c->slots);
    free(c->free_slots);
    free(c->lanes);
    free(c->get.masks);
    free(c);
}

void outgoing_clear(struct outgoing *o)
{
    buf_unref(o->header);
    buf_unref(o->payload.owner);
    *o = (struct outgoing){0};
}

/* ---- requests ---- */

static bool slot_add(struct client *c)
{
    if (c->n_slots == c->cap_slots) {
        uint32_t cap = c->cap_slots ? c->cap_slots * 2 : 64;
        if (cap > UINT16_MAX + 1)
            return false;
        struct request **slots = realloc(c->slots, cap * sizeof *slots);
        if (!slots)
            return false;
        c->slots = slots;
        uint32_t *spare = realloc(c->free_slots, cap * sizeof *spare);
        if (!spare)
            return false;
        c->free_slots = spare;
        c->cap_slots = cap;
    }
    if (!(c->slots[c->n_slots] = calloc(1, sizeof **c->slots)))
        return false;
    c->free_slots[c->n_free++] = c->n_slots++;
    return true;
}

struct request *request_new(struct client *c, enum request_kind kind, unsigned lane, uint64_t deadline)
{
    if (c->n_free == 0 && !slot_add(c))
        return NULL;
    uint32_t slot = c->free_slots[c->n_free - 1];
    struct request *r = c->slots[slot];
    if (kind == REQUEST_GET && !r->asked && !(r->asked = malloc(sizeof *r->asked)))
        return NULL;
    if (kind == REQUEST_GET)
        r->asked->n_parts = r->n_pages = r->n_left = 0;
    c->n_free--;
    r->id = ++c->serial << 16 | slot;
    r->kind = kind;
    r->lane = lane;
    r->deadline = deadline;
    r->hedge_at = NO_DEADLINE;
    client_due(c, deadline);
    return r;
}

void client_due(struct client *c, uint64_t when)
{
    if (when < c->next_due)
        c->next_due = when;
}

void request_free(struct client *c, struct request *r)
{
    assert(r->kind != REQUEST_FREE);
    struct lane *l = &c->lanes[r->lane];
    if (r->kind == REQUEST_GET)
        get_request_ended(r);
    if (r->kind == REQUEST_GET && l->gets) { /* not of a lane that was lost: it starts anew */
        l->gets--;
        l->asked -= r->n_left * r->page_bytes;
    }
    outgoing_clear(&r->message);
    r->queued = r->stale = false;
    r->kind = REQUEST_FREE;
    c->free_slots[c->n_free++] = r->id & UINT16_MAX;
}

static struct request *request_find(struct client *c, uint64_t id, unsigned lane)
{
    uint32_t slot = id & UINT16_MAX;
    if (slot >= c->n_slots)
        return NULL;
    struct request *r = c->slots[slot];
    return r->kind != REQUEST_FREE && r->id == id && r->lane == lane ? r : NULL;
}

/* ---- nodes ---- */

uint64_t nodes_returning(const struct client *c, uint64_t among, uint64_t *by)
{
    uint64_t nodes = 0;
    *by = 0;
    for (unsigned i = 0; i < c->n_nodes; i++) {
        const struct client_node *n = &c->nodes[i];
        if (!n->member || n->up || !(among & node_bit(i)) || n->return_by <= c->now)
            continue;
        nodes |= node_bit(i);
        *by = n->return_by > *by ? n->return_by : *by;
    }
    return nodes;
}

uint64_t nodes_suspect(const struct client *c)
{
    uint64_t suspect = 0;
    for (unsigned i = 0; i < c->n_nodes; i++)
        suspect |= c->nodes[i].suspect ? node_bit(i) : 0;
    return suspect;
}

const char *node_name(const struct client_node *n, char buf[384])
{
    if (n->id[0])
        snprintf(buf, 384, "memory node %s (%s)", n->id, n->addr.address);
    else
        snprintf(buf, 384, "the memory node at %s", n->addr.address);
    return buf;
}

/* Ends a request that its node will not answer. */
static void request_lost(struct client *c, struct request *r, const struct skv_error *why)
{
    struct put_copy *copy = r->copy;
    client_reply_fn *reply = r->reply;
    void *arg = r->arg;
    switch (r->kind) {
    case REQUEST_GET:
        get_failed(c, r, why);
        request_free(c, r);
        break;
    case REQUEST_PUT:
        request_free(c, r);
        put_lost(c, copy);
        break;
    case REQUEST_CALL:
        request_free(c, r);
        reply(arg, -EHOSTUNREACH, NULL, why);
        break;
    default:
        request_free(c, r);
    }
}

void node_lost(struct client *c, unsigned node, uint64_t now, int code, const char *fmt, ...)
{
    struct client_node *n = &c->nodes[node];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(n->why.text, sizeof n->why.text, fmt, ap);
    va_end(ap);
    n->why.code = -EHOSTUNREACH;
    n->rc = code;
    if (n->up) {
        n->return_by = now + c->opts.timeout_ns;
        c->totals.tier.lost++;
    }
    n->up = n->suspect = n->identified = false;
    n->ping_sent = n->epoch = n->given = 0;
    n->retry_at = now + RETRY_NS;
    n->greet_deadline = n->retry_at + c->opts.timeout_ns;
    unsigned first = node * (1 + c->opts.lanes), end = first + 1 + c->opts.lanes;
    for (unsigned l = first; l < end; l++)
        c->lanes[l] = (struct lane){.node = node, .bulk = c->lanes[l].bulk, .reset = true};
    struct skv_error why = n->why;
    for (uint32_t i = 0; i < c->n_slots;
         i++) { /* callbacks may add slots meanwhile, but none for this node */
        struct request *r = c->slots[i];
        if (r->kind != REQUEST_FREE && r->lane >= first && r->lane < end)
            request_lost(c, r, &why);
    }
    put_node_shunned(c, node);
    get_node_shunned(c, node);
}

void node_broke_protocol(struct client *c, unsigned node, uint64_t now, const char *what)
{
    char name[384];
    c->totals.malformed++;
    node_lost(c, node, now, -EHOSTUNREACH, "%s answers nonsense (%s): use the same release on both ends",
              node_name(&c->nodes[node], name), what);
}

void client_lane_lost(struct client *c, unsigned lane, const char *why, uint64_t now)
{
    struct lane *l = &c->lanes[lane];
    char name[384];
    if (!c->nodes[l->node].member)
        return;
    if (!c->nodes[l->node]
             .up) { /* still greeting: say HELLO again on the next connection, until the deadline */
        l->hello_sent = l->greeted = false;
        return;
    }
    node_lost(c, l->node, now, -EHOSTUNREACH, "%s was lost: %s; is scoutkv-memnode still running there?",
              node_name(&c->nodes[l->node], name), why);
}

bool client_take_reset(struct client *c, unsigned lane)
{
    bool reset = c->lanes[lane].reset;
    c->lanes[lane].reset = false;
    return reset;
}

int client_ready(const struct client *c, struct skv_error *err)
{
    if (c->map.n)
        return 1;
    unsigned absent = 0;
    for (unsigned i = 0; i < c->n_nodes; i++) {
        const struct client_node *n = &c->nodes[i];
        if (!n->member || !n->rc)
            continue;
        if (n->rc != -EHOSTUNREACH || ++absent > (c->opts.may_lack ? c->opts.may_lack : c->opts.replicas - 1))
            return skv_fail(err, n->rc, "%s", n->why.text);
        if (!n->id[0])
            return skv_fail(err, n->rc,
                            "%.400s (to begin without it, say which node it is: n1@%.64s if it has --id n1)",
                            n->why.text, n->addr.address);
    }
    return 0;
}

unsigned client_n_nodes(const struct client *c)
{
    return c->map.n;
}

unsigned client_node_at(const struct client *c, unsigned i)
{
    return c->map.nodes[i].number;
}

unsigned client_n_lanes(const struct client *c)
{
    return c->n_lanes;
}

const struct cluster_map *client_map(const struct client *c)
{
    return &c->map;
}

bool client_node_up(const struct client *c, unsigned node)
{
    return c->nodes[node].up;
}

const struct cluster_node *client_node(const struct client *c, unsigned node)
{
    return &c->nodes[node].addr;
}

bool client_node_suspect(const struct client *c, unsigned node)
{
    return c->nodes[node].suspect;
}

unsigned client_replicas(const struct client *c)
{
    return c->opts.replicas;
}

bool client_node_has_disk(const struct client *c, unsigned node)
{
    return client_node_up(c, node) && c->nodes[node].durable;
}

const char *client_node_id(const struct client *c, unsigned node)
{
    return c->nodes[node].id;
}

int client_node_down(const struct client *c, unsigned node, struct skv_error *err)
{
    return skv_fail(err, -EHOSTUNREACH, "%s", c->nodes[node].why.text);
}

const struct client_totals *client_totals(const struct client *c)
{
    return &c->totals;
}

/* ---- HELLO ---- */

static bool hello_next(struct client *c, unsigned lane, uint64_t now, struct outgoing *out)
{
    struct lane *l = &c->lanes[lane];
    if (l->hello_sent || now < c->nodes[l->node].retry_at)
        return false;
    for (uint32_t i = 0; i < c->n_slots; i++) /* one that went down with an earlier connection */
        if (c->slots[i]->kind == REQUEST_HELLO && c->slots[i]->lane == lane)
            request_free(c, c->slots[i]);
    struct request *r =
        request_new(c, REQUEST_HELLO, lane, NO_DEADLINE); /* greet_deadline is for all lanes */
    if (!r)
        return false;
    Scoutkv__Hello hello = SCOUTKV__HELLO__INIT;
    hello.version_min = PROTO_VERSION_MIN;
    hello.version_max = PROTO_VERSION_MAX;
    hello.cluster = (char *)c->opts.cluster;
    hello.namespace_ = c->opts.ns;
    hello.client = (char *)c->opts.name;
    hello.bulk = l->bulk;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.version = PROTO_VERSION_MIN;
    h.id = r->id;
    h.epoch = c->epoch;
    h.body_case = SCOUTKV__HEADER__BODY_HELLO;
    h.hello = &hello;
    *out = (struct outgoing){.header = header_pack(&h)};
    if (!out->header) {
        request_free(c, r);
        return false;
    }
    l->hello_sent = true;
    return true;
}

static bool id_valid(const char *id)
{
    size_t len = strlen(id);
    for (size_t i = 0; i < len; i++)
        if (!isgraph((unsigned char)id[i]))
            return false;
    return len >= 1 && len <= NODE_ID_MAX;
}

/* Notes who answered. False when it is not one that can be used; the node is then lost. */
static bool hello_identify(struct client *c, unsigned node, const Scoutkv__HelloAck *a, uint64_t now)
{
    struct client_node *n = &c->nodes[node];
    char name[384];
    if (!id_valid(a->node) || a->incarnation.len != sizeof n->incarnation || a->max_header < MIN_HEADER ||
        a->version < PROTO_VERSION_MIN || a->version > PROTO_VERSION_MAX) {
        node_broke_protocol(c, node, now, "its HELLO answer has no usable name, version or limits");
        return false;
    }
    if (n->id[0] && strcmp(n->id, a->node) != 0) {
        node_lost(c, node, now, c->map.n ? -EHOSTUNREACH : -EINVAL,
                  "memory node %s should be at %s, but \"%s\" answers there: correct --nodes, or the "
                  "cluster's view",
                  n->id, n->addr.address, a->node);
        return false;
    }
    for (unsigned i = 0; i < c->n_nodes; i++)
        if (i != node && strcmp(c->nodes[i].id, a->node) == 0) {
            node_lost(
                c, node, now, -EINVAL,
                "%s and %s both answer as memory node \"%s\": give each node once, and each its own --id",
                c->nodes[i].addr.address, n->addr.address, a->node);
            return false;
        }
    bool other = memcmp(n->incarnation, a->incarnation.data, sizeof n->incarnation) != 0;
    if (other && n->identified) {
        node_lost(c, node, now, -EHOSTUNREACH, "%s was started anew while it was greeted",
                  node_name(n, name));
        return false;
    }
    c->totals.tier.reborn += other && n->version; /* it was here before: what it had is gone */
    strcpy(n->id, a->node);
    memcpy(n->incarnation, a->incarnation.data, sizeof n->incarnation);
    n->identified = true;
    n->version = a->version;
    n->durable = a->durable;
    n->max_header = a->max_header < PROTO_MAX_HEADER ? a->max_header : PROTO_MAX_HEADER;
    n->max_block = a->max_block < PROTO_MAX_PAYLOAD ? a->max_block : PROTO_MAX_PAYLOAD;
    return true;
}

static void hello_answered(struct client *c, struct request *r, const struct message *m, uint64_t now)
{
    unsigned lane = r->lane, node = c->lanes[lane].node;
    struct client_node *n = &c->nodes[node];
    if (m->header->body_case == SCOUTKV__HEADER__BODY_REFUSED) {
        struct skv_error err;
        int rc = refusal(n, m->header->refused, &err);
        c->totals.tier.refused++;
        node_lost(c, node, now, rc, "%s", err.text);
        return;
    }
    if (m->header->body_case != SCOUTKV__HEADER__BODY_HELLO_ACK) {
        node_broke_protocol(c, node, now, "no HELLO answer to a HELLO");
        return;
    }
    if (!hello_identify(c, node, m->header->hello_ack, now))
        return;
    request_free(c, r);
    struct lane *l = &c->lanes[lane];
    l->greeted = true;
    l->credit = l->credit_limit = l->bulk ? m->header->hello_ack->put_credit : 0;
    bool all = true;
    for (unsigned i = 0; i < c->n_lanes; i++)
        all &= c->lanes[i].node != node || c->lanes[i].greeted;
    if (!all)
        return;
    if (n->up) /* a lane was greeted again after a long silence */
        return;
    n->up = true;
    n->rc = 0;
    n->delays = (struct delays){0};
    put_node_back(c);
    get_node_back(c, node);
}

/* ---- calls ---- */

static void call_queue(struct lane *l, struct request *r, uint64_t not_before)
{
    struct request **at = &l->calls;
    while (*at)
        at = &(*at)->next;
    r->queued = true;
    r->not_before = not_before;
    r->next = NULL;
    *at = r;
}

static int call_begin(struct client *c, unsigned node, bool bulk, bool once, Scoutkv__Header *header,
                      struct view payload, Scoutkv__Header__BodyCase expect, client_reply_fn *reply,
                      void *arg, uint64_t now, struct skv_error *err)
{
    struct client_node *n = &c->nodes[node];
    if (!n->up)
        return client_node_down(c, node, err);
    unsigned lane = node * (1 + c->opts.lanes) + (bulk ? 0 : 1);
    struct request *r = request_new(c, REQUEST_CALL, lane, now + c->opts.timeout_ns);
    if (!r)
        return skv_fail(err, -ENOMEM, "out of memory");
    header->version = n->version;
    header->id = r->id;
    header->epoch = r->epoch = c->epoch;
    r->message.header = header_pack(header);
    if (!r->message.header || r->message.header->len > n->max_header) {
        int rc = r->message.header ? -EMSGSIZE : -ENOMEM;
        request_free(c, r);
        return skv_fail(err, rc, "%s",
                        rc == -ENOMEM ? "out of memory" : "the request is larger than the memory node takes");
    }
    r->message.payload = payload;
    if (payload.owner)
        buf_ref(payload.owner);
    r->expect = expect;
    r->reply = reply;
    r->arg = arg;
    r->give_up = r->deadline;
    r->once = once;
    call_queue(&c->lanes[lane], r, now);
    return 0;
}

int client_call(struct client *c, unsigned node, bool bulk, Scoutkv__Header *header, struct view payload,
                Scoutkv__Header__BodyCase expect, client_reply_fn *reply, void *arg, uint64_t now,
                struct skv_error *err)
{
    return call_begin(c, node, bulk, false, header, payload, expect, reply, arg, now, err);
}

int client_call_once(struct client *c, unsigned node, Scoutkv__Header *header,
                     Scoutkv__Header__BodyCase expect, client_reply_fn *reply, void *arg, uint64_t now,
                     struct skv_error *err)
{
    return call_begin(c, node, false, true, header, (struct view){0}, expect, reply, arg, now, err);
}

/* The lane's next call that may be sent now. What is sent stays with the request: it may be asked again. */
static bool call_next(struct lane *l, uint64_t now, struct outgoing *out)
{
    struct request **at = &l->calls;
    while (*at && now < (*at)->not_before)
        at = &(*at)->next;
    struct request *r = *at;
    if (!r)
        return false;
    *at = r->next;
    r->queued = false;
    *out = r->message;
    buf_ref(out->header);
    if (out->payload.owner)
        buf_ref(out->payload.owner);
    return true;
}

/* Packs a call once more, for the view of now. */
static void call_renew(struct client *c, struct request *r)
{
    struct buf *old = r->message.header;
    Scoutkv__Header *h = scoutkv__header__unpack(NULL, old->len, old->data);
    if (h) {
        h->epoch = c->epoch;
        r->message.header = header_pack(h);
        scoutkv__header__free_unpacked(h, NULL);
    }
    if (!h || !r->message.header) { /* out of memory: it is refused once more */
        r->message.header = old;
        return;
    }
    r->epoch = c->epoch;
    buf_unref(old);
}

void calls_view_changed(struct client *c)
{
    for (uint32_t i = 0; i < c->n_slots; i++) {
        struct request *r = c->slots[i];
        if (r->kind != REQUEST_CALL || !r->stale)
            continue;
        call_renew(c, r);
        r->stale = false;
        r->not_before = 0;
    }
}

/* The call went by an older view than the node's. It is sent again when there is a newer one, to the same
 * node if that is still a member. */
static void call_stale(struct client *c, struct request *r, uint64_t now)
{
    c->totals.tier.stale++;
    r->deadline = now + c->opts.timeout_ns;
    r->stale = r->epoch >= c->epoch;
    if (!r->stale)
        call_renew(c, r);
    call_queue(&c->lanes[r->lane], r, r->stale ? NO_DEADLINE : now);
}

static void call_answered(struct client *c, struct request *r, const struct message *m, uint64_t now)
{
    client_reply_fn *reply = r->reply;
    void *arg = r->arg;
    unsigned node = c->lanes[r->lane].node;
    bool refused = m->header->body_case == SCOUTKV__HEADER__BODY_REFUSED;
    if (refused && refused_stale(m->header->refused) && !r->once) {
        if (m->header->epoch > r->epoch)
            call_stale(c, r, now);
        else
            node_broke_protocol(c, node, now, "a view that is not newer to a write that it calls stale");
        return;
    }
    if (refused && refused_starting(m->header->refused) && now + STARTING_PAUSE_NS < r->give_up) {
        c->totals.tier.refused++;
        r->deadline = now + STARTING_PAUSE_NS + c->opts.timeout_ns;
        call_queue(&c->lanes[r->lane], r, now + STARTING_PAUSE_NS);
        return;
    }
    if (m->header->body_case == r->expect) {
        request_free(c, r);
        reply(arg, 0, m, NULL);
    } else if (refused) {
        struct skv_error err;
        int rc = refusal(&c->nodes[node], m->header->refused, &err);
        c->totals.tier.refused++;
        request_free(c, r);
        reply(arg, rc, m, &err);
    } else {
        node_broke_protocol(c, node, now, "a reply of another kind than asked for");
    }
}

/* ---- messages and time ---- */

int refusal(const struct client_node *n, const Scoutkv__Refused *r, struct skv_error *err)
{
    static const struct {
        int code;
        const char *what;
    } reasons[] = {
        [SCOUTKV__REFUSED__REASON__MALFORMED] = {-EPROTO, "cannot read the request"},
        [SCOUTKV__REFUSED__REASON__VERSION] = {-EPROTONOSUPPORT, "speaks another version of the protocol"},
        [SCOUTKV__REFUSED__REASON__CLUSTER] = {-EHOSTUNREACH, "belongs to another cluster"},
        [SCOUTKV__REFUSED__REASON__NAMESPACE] = {-EACCES, "does not serve this namespace"},
        [SCOUTKV__REFUSED__REASON__FULL] = {-ENOSPC, "has no room"},
        [SCOUTKV__REFUSED__REASON__NOT_DURABLE] = {-ENOTSUP, "has no disk"},
        [SCOUTKV__REFUSED__REASON__CHECKSUM] = {-EBADMSG, "got bytes that fail their checksums"},
        [SCOUTKV__REFUSED__REASON__TOO_LARGE] = {-EMSGSIZE, "finds the request too large"},
        [SCOUTKV__REFUSED__REASON__LEASED] = {-EBUSY, "keeps blocks that are leased"},
        [SCOUTKV__REFUSED__REASON__CONFLICT] = {-ESTALE, "has another revision"},
        [SCOUTKV__REFUSED__REASON__CREDIT] = {-EPROTO, "was sent more than it granted"},
        [SCOUTKV__REFUSED__REASON__NO_HELLO] = {-EPROTO, "does not know this client any more"},
        [SCOUTKV__REFUSED__REASON__STARTING] = {-EHOSTUNREACH, "is still reading its disks"},
        [SCOUTKV__REFUSED__REASON__READ_ONLY] = {-EROFS, "takes no writes"},
        [SCOUTKV__REFUSED__REASON__STALE_VIEW] = {-ESTALE, "knows a newer view of the cluster"},
    };
    unsigned reason = (unsigned)r->reason;
    bool known = reason < sizeof reasons / sizeof *reasons;
    char name[384], text[200];
    size_t len = 0; /* the node's words are a stranger's: printable characters only */
    for (const char *p = r->text; *p && len < sizeof text - 1; p++)
        text[len++] = iscntrl((unsigned char)*p) ? '?' : *p;
    text[len] = 0;
    return skv_fail(err, known ? reasons[reason].code : -EPROTO, "%s %s%s%s", node_name(n, name),
                    known ? reasons[reason].what : "refuses", len ? ": " : "", text);
}

bool refused_starting(const Scoutkv__Refused *r)
{
    return r->reason == SCOUTKV__REFUSED__REASON__STARTING;
}

bool refused_stale(const Scoutkv__Refused *r)
{
    return r->reason == SCOUTKV__REFUSED__REASON__STALE_VIEW;
}

static void dispatch(struct client *c, unsigned lane, const struct message *m, uint64_t now)
{
    const Scoutkv__Header *h = m->header;
    unsigned node = c->lanes[lane].node;
    struct request *r = request_find(c, h->id, lane);
    bool refused = h->body_case == SCOUTKV__HEADER__BODY_REFUSED;
    c->nodes[node].epoch = h->epoch;
    if (refused && ((!r && h->id == 0) || h->refused->reason == SCOUTKV__REFUSED__REASON__NO_HELLO)) {
        struct skv_error err; /* the node could not even read the request's number, or forgot this lane */
        refusal(&c->nodes[node], h->refused, &err);
        c->totals.tier.refused++;
        node_lost(c, node, now, -EHOSTUNREACH, "%s", err.text);
        return;
    }
    if (!r || r->queued) { /* given up already, or not even sent */
        c->totals.late++;
        return;
    }
    switch (r->kind) {
    case REQUEST_HELLO:
        hello_answered(c, r, m, now);
        break;
    case REQUEST_PING:
        beat_answered(c, r, m, now);
        break;
    case REQUEST_GET:
        get_answered(c, r, m, now);
        break;
    case REQUEST_PUT:
        put_answered(c, r, m, now);
        break;
    case REQUEST_CALL:
        call_answered(c, r, m, now);
        break;
    case REQUEST_FREE:
        assert(false);
    }
}

void client_receive(struct client *c, unsigned lane, const void *frame0, size_t len0, unsigned n_frames,
                    struct view payload, uint64_t now)
{
    struct message m;
    struct skv_error err;
    uint64_t id;
    char name[384];
    unsigned node = c->lanes[lane].node;
    c->now = now;
    if (c->lanes[lane].reset || !c->nodes[node].member) { /* from a connection that is to be replaced */
        c->totals.late++;
        return;
    }
    int rc = message_parse(&m, frame0, len0, n_frames, payload, &id, &err);
    if (rc) {
        c->totals.malformed++;
        node_lost(c, node, now, rc == -EPROTONOSUPPORT ? rc : -EHOSTUNREACH,
                  "%s sent what cannot be read: %.300s", node_name(&c->nodes[node], name), err.text);
        return;
    }
    beat_heard(c, node, now);
    dispatch(c, lane, &m, now);
    message_clear(&m);
}

bool client_next(struct client *c, unsigned lane, uint64_t now, struct outgoing *out)
{
    struct lane *l = &c->lanes[lane];
    c->now = now;
    if (l->reset || !c->nodes[l->node].member)
        return false;
    if (l->greeted && now - l->last_sent > IDLE_NS) {
        l->greeted = l->hello_sent = false;
        c->nodes[l->node].greet_deadline = now + c->opts.timeout_ns;
    }
    bool sent;
    if (!l->greeted)
        sent = hello_next(c, lane, now, out);
    else if (beat_next(c, lane, now, out) || call_next(l, now, out))
        sent = true;
    else
        sent = l->bulk ? put_next(c, lane, now, out) : get_next(c, lane, now, out);
    if (sent)
        l->last_sent = now;
    return sent;
}

/* Nodes whose lanes were not all greeted in time. */
static void tick_greetings(struct client *c, uint64_t now)
{
    for (unsigned i = 0; i < c->n_lanes; i++) {
        unsigned node = c->lanes[i].node;
        if (c->lanes[i].greeted || !c->nodes[node].member || now < c->nodes[node].greet_deadline)
            continue;
        node_lost(c, node, now, -EHOSTUNREACH,
                  "no memory node answers at %s within %u ms: is scoutkv-memnode running there?",
                  c->nodes[node].addr.address, (unsigned)(c->opts.timeout_ns / NS_PER_MS));
    }
}

/* Deadlines and hedges of requests. */
static void tick_requests(struct client *c, uint64_t now)
{
    bool late[PLACEMENT_MAX_NODES] = {false};
    char name[384];
    c->next_due = NO_DEADLINE;
    for (uint32_t i = 0; i < c->n_slots; i++) {
        struct request *r = c->slots[i];
        if (r->kind == REQUEST_FREE)
            continue;
        if (r->deadline <= now) {
            late[c->lanes[r->lane].node] = true;
            c->totals.tier.timeouts++;
            continue;
        }
        if (r->hedge_at <= now)
            get_hedge(c, r, c->nodes[c->lanes[r->lane].node].suspect);
        client_due(c, r->deadline < r->hedge_at ? r->deadline : r->hedge_at);
    }
    for (unsigned i = 0; i < c->n_nodes; i++)
        if (late[i])
            node_lost(c, i, now, -EHOSTUNREACH, "%s did not answer within %u ms",
                      node_name(&c->nodes[i], name), (unsigned)(c->opts.timeout_ns / NS_PER_MS));
    get_tick(c, now);
    put_tick(c, now);
}

void client_tick(struct client *c, uint64_t now)
{
    c->now = now;
    tick_greetings(c, now);
    beat_tick(c, now);
    view_tick(c, now);
    if (now >= c->next_due)
        tick_requests(c, now);
    if (c->n_doomed)
        get_deliver_doomed(c);
    moves_tick(c);
    repair_tick(c, now);
}

uint64_t client_wakeup(const struct client *c)
{
    uint64_t beat = beat_wakeup(c);
    return beat < c->next_due ? beat : c->next_due;
}
