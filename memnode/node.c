/* node.c: see node.h. Peers, their answers, and which operation a message is. */
#include "memnode/node_impl.h"
#include "common/clock.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { STEPS_AT_ONCE = 4 }; /* messages of a GET sent before others get their turn */

/* ---- life ---- */

static int copy_opts(struct node *n, const struct node_opts *o, struct skv_error *err)
{
    n->id = strdup(o->id ? o->id : "node");
    n->cluster = strdup(o->cluster ? o->cluster : "default");
    n->namespaces = o->ns ? malloc((o->n_ns + 1) * sizeof *n->namespaces) : NULL;
    if (!n->id || !n->cluster || (o->ns && !n->namespaces))
        return skv_fail(err, -ENOMEM, "out of memory");
    if (o->ns && o->n_ns)
        memcpy(n->namespaces, o->ns, o->n_ns * sizeof *o->ns);
    n->n_namespaces = o->n_ns;
    n->ram = o->ram ? o->ram : UINT64_C(4) << 30;
    n->put_credit = o->put_credit ? o->put_credit : 16 << 20;
    n->idle_ns = (o->idle_ms ? o->idle_ms : 3600 * 1000) * NS_PER_MS;
    n->log = o->log;
    if (n->ram < NODE_RAM_MIN)
        return skv_fail(err, -EINVAL, "a memory node needs at least %d MiB of RAM", NODE_RAM_MIN >> 20);
    if (o->incarnation)
        memcpy(n->incarnation, o->incarnation, sizeof n->incarnation);
    else if (getrandom(n->incarnation, sizeof n->incarnation, 0) != (ssize_t)sizeof n->incarnation)
        return skv_fail(err, -errno, "no random bytes from the system: %s", strerror(errno));
    return 0;
}

struct node *node_new(const struct node_opts *o, node_send_fn *send, void *arg, struct skv_error *err)
{
    struct node *n = calloc(1, sizeof *n);
    if (!n) {
        skv_fail(err, -ENOMEM, "out of memory");
        return NULL;
    }
    n->send = send;
    n->send_arg = arg;
    if (copy_opts(n, o, err))
        goto error;
    n->memory = memory_new(n->ram);
    n->store = n->memory ? store_new(n->memory) : NULL;
    n->leases = n->memory ? leases_new(n->memory) : NULL;
    n->objects = n->memory ? objects_new(n->memory) : NULL;
    if (!n->store || !n->leases || !n->objects) {
        skv_fail(err, -ENOMEM, "out of memory");
        goto error;
    }
    return n;
error:
    node_free(n);
    return NULL;
}

static void lane_forget(struct node *, struct lane *);

void node_free(struct node *n)
{
    if (!n)
        return;
    while (n->lanes)
        lane_forget(n, n->lanes);
    leases_free(n->leases);
    objects_free(n->objects);
    store_free(n->store);
    memory_free(n->memory);
    free(n->id);
    free(n->cluster);
    free(n->namespaces);
    free(n);
}

const char *node_id(const struct node *n)
{
    return n->id;
}

void node_set_transport(struct node *n, const struct node_transport *t)
{
    n->transport = *t;
}

/* ---- lanes ---- */

static struct lane **lane_slot(struct node *n, const struct node_peer *p)
{
    struct lane **at = &n->lane_buckets[XXH3_64bits(p->id, p->len) % LANE_BUCKETS];
    while (*at && !((*at)->peer.len == p->len && memcmp((*at)->peer.id, p->id, p->len) == 0))
        at = &(*at)->next_of_bucket;
    return at;
}

static void list_remove(struct node *n, struct lane *l)
{
    if (l->prev)
        l->prev->next = l->next;
    else
        n->lanes = l->next;
    if (l->next)
        l->next->prev = l->prev;
    else
        n->oldest_lane = l->prev;
}

static void list_add_first(struct node *n, struct lane *l)
{
    l->prev = NULL;
    l->next = n->lanes;
    if (n->lanes)
        n->lanes->prev = l;
    else
        n->oldest_lane = l;
    n->lanes = l;
}

static size_t outgoing_bytes(const struct buf *header, const struct view *payload)
{
    return OUTGOING_OVERHEAD + header->len + (payload ? payload->len : 0);
}

static void drop_first_out(struct lane *l)
{
    struct outgoing *o = l->out;
    l->out = o->next;
    if (!l->out)
        l->out_end = &l->out;
    l->out_bytes -= outgoing_bytes(o->header, &o->payload);
    buf_unref(o->header);
    buf_unref(o->payload.owner);
    free(o);
}

static void lane_forget(struct node *n, struct lane *l)
{
    struct lane **at = lane_slot(n, &l->peer);
    assert(*at == l);
    *at = l->next_of_bucket;
    list_remove(n, l);
    n->n_lanes--;
    while (l->out)
        drop_first_out(l);
    while (l->jobs)
        get_drop(l);
    free(l);
}

struct lane *lane_open(struct node *n, const struct node_peer *p, uint64_t now)
{
    struct lane **at = lane_slot(n, p);
    if (*at)
        return *at;
    if (n->n_lanes ==
        MAX_LANES) { /* the one unheard for longest makes room; if it lives, it says HELLO again */
        lane_forget(n, n->oldest_lane);
        at = lane_slot(n, p);
    }
    struct lane *l = calloc(1, sizeof *l);
    if (!l)
        return NULL;
    l->peer = *p;
    l->heard_ns = now;
    l->out_end = &l->out;
    l->jobs_end = &l->jobs;
    *at = l;
    list_add_first(n, l);
    n->n_lanes++;
    return l;
}

/* ---- answers ---- */

/* The transport's verdict on one answer: 0 taken, -EAGAIN later; anything else: the peer is gone. */
static int offer(struct node *n, const struct node_peer *p, struct buf *header, const struct view *payload)
{
    int rc = n->send(n->send_arg, p, header, payload);
    if (rc && rc != -EAGAIN)
        n->counters.unread++;
    return rc;
}

void lane_send(struct node *n, struct lane *l, struct buf *header, const struct view *payload, uint64_t now)
{
    int rc = l->gone ? -EHOSTUNREACH : l->out ? -EAGAIN : offer(n, &l->peer, header, payload);
    if (rc && rc != -EAGAIN)
        l->gone = true;
    if (rc != -EAGAIN)
        return;
    size_t bytes = outgoing_bytes(header, payload);
    struct outgoing *o = l->out_bytes + bytes <= LANE_QUEUE_BYTES ? malloc(sizeof *o) : NULL;
    if (!o) {
        log_write(n->log, LOG_LEVEL_WARN, "client '%s' does not read its answers and is dropped", l->client);
        n->counters.unread++;
        l->gone = true;
        return;
    }
    *o = (struct outgoing){.header = buf_ref(header)};
    if (payload && payload->len) {
        assert(payload->owner);
        o->payload = *payload;
        buf_ref(payload->owner);
    }
    if (!l->out)
        l->stuck_ns = now;
    n->waiting = true;
    *l->out_end = o;
    l->out_end = &o->next;
    l->out_bytes += bytes;
}

void call_answer(struct call *c, Scoutkv__Header *h, const struct view *payload)
{
    h->version = PROTO_VERSION_MAX;
    h->id = c->id;
    struct buf *packed = header_pack(h);
    if (!packed) /* the client's deadline will tell it */
        c->node->counters.unread++;
    else if (c->lane)
        lane_send(c->node, c->lane, packed, payload, c->now);
    else if (offer(c->node, c->peer, packed, payload) == -EAGAIN)
        c->node->counters.unread++; /* strangers get no queue */
    buf_unref(packed);
}

void call_refuse(struct call *c, Scoutkv__Refused__Reason reason, uint64_t credit, const char *fmt, ...)
{
    char text[500];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    Scoutkv__Refused refused = SCOUTKV__REFUSED__INIT;
    refused.reason = reason;
    refused.text = text;
    refused.version_min = PROTO_VERSION_MIN;
    refused.version_max = PROTO_VERSION_MAX;
    refused.credit = credit;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.body_case = SCOUTKV__HEADER__BODY_REFUSED;
    h.refused = &refused;
    c->node->counters.refused[reason]++;
    log_write(c->node->log, LOG_LEVEL_DEBUG, "refused: %s", text);
    call_answer(c, &h, NULL);
}

/* ---- messages ---- */

static void dispatch(struct call *c)
{
    switch (c->message->header->body_case) {
    case SCOUTKV__HEADER__BODY_HELLO:
        return op_hello(c);
    case SCOUTKV__HEADER__BODY_PING:
        return op_ping(c);
    case SCOUTKV__HEADER__BODY_REFUSED: /* never answered: two ends that refuse each other would not stop */
        c->node->counters.malformed++;
        return;
    default:
        break;
    }
    if (!c->lane) {
        /* A PUT's bytes are given back: the client counts them as on their way. */
        uint64_t credit =
            c->message->header->body_case == SCOUTKV__HEADER__BODY_PUT ? c->message->payload.len : 0;
        return call_refuse(
            c, SCOUTKV__REFUSED__REASON__NO_HELLO, credit,
            "say HELLO first: this lane is new here, or was reconnected, or was idle for too long");
    }
    switch (c->message->header->body_case) {
    case SCOUTKV__HEADER__BODY_PUT:
        return op_put(c);
    case SCOUTKV__HEADER__BODY_GET:
        return op_get(c);
    case SCOUTKV__HEADER__BODY_HAVE:
        return op_have(c);
    case SCOUTKV__HEADER__BODY_HINT:
        return op_hint(c);
    case SCOUTKV__HEADER__BODY_DROP:
        return op_drop(c);
    case SCOUTKV__HEADER__BODY_PIN:
        return op_pin(c);
    case SCOUTKV__HEADER__BODY_UNPIN:
        return op_unpin(c);
    case SCOUTKV__HEADER__BODY_OBJECT_PUT:
        return op_object_put(c);
    case SCOUTKV__HEADER__BODY_OBJECT_GET:
        return op_object_get(c);
    case SCOUTKV__HEADER__BODY_OBJECT_LIST:
        return op_object_list(c);
    case SCOUTKV__HEADER__BODY_STATS:
        return op_stats(c);
    default:
        c->node->counters.malformed++;
        return call_refuse(c, SCOUTKV__REFUSED__REASON__MALFORMED, 0, "that is an answer, not a request");
    }
}

static void reap(struct node *n, const struct node_peer *p)
{
    struct lane *l = *lane_slot(n, p);
    if (l && l->gone)
        lane_forget(n, l);
}

static struct lane *heard(struct node *n, const struct node_peer *p, uint64_t now)
{
    struct lane *l = *lane_slot(n, p);
    if (l) {
        l->heard_ns = now;
        list_remove(n, l);
        list_add_first(n, l);
    }
    return l;
}

void node_receive(struct node *n, const struct node_peer *p, struct message *m, uint64_t now)
{
    struct call c = {
        .node = n, .peer = p, .lane = heard(n, p, now), .message = m, .id = m->header->id, .now = now};
    dispatch(&c);
    reap(n, p);
}

void node_malformed(struct node *n, const struct node_peer *p, uint64_t id, int rc, const char *reason,
                    uint64_t now)
{
    struct call c = {.node = n, .peer = p, .lane = heard(n, p, now), .id = id, .now = now};
    bool version = rc == -EPROTONOSUPPORT;
    if (version)
        n->counters.wrong_version++;
    else
        n->counters.malformed++;
    call_refuse(&c, version ? SCOUTKV__REFUSED__REASON__VERSION : SCOUTKV__REFUSED__REASON__MALFORMED, 0,
                "%s", reason);
    reap(n, p);
}

/* ---- what waits ---- */

/* Sends what the transport takes of the lane's queue. True if something moved. */
static bool flush(struct node *n, struct lane *l, uint64_t now)
{
    bool moved = false;
    while (l->out && !l->gone) {
        int rc = offer(n, &l->peer, l->out->header, &l->out->payload);
        if (rc == -EAGAIN)
            break;
        l->gone = rc != 0;
        l->stuck_ns = now;
        drop_first_out(l);
        moved = true;
    }
    return moved;
}

enum node_work node_run(struct node *n, uint64_t now)
{
    enum node_work work = NODE_IDLE;
    if (!n->waiting)
        return NODE_IDLE;
    for (struct lane *l = n->lanes, *next; l; l = next) {
        next = l->next;
        if (!lane_waits(l))
            continue;
        bool moved = flush(n, l, now);
        for (int i = 0; i < STEPS_AT_ONCE && l->jobs && !l->out && !l->gone; i++) {
            if (get_step(n, l, now) == STEP_NO_MEMORY)
                break;
            moved = true;
        }
        if (l->gone)
            lane_forget(n, l);
        else if (lane_waits(l) && work != NODE_BUSY)
            work = moved ? NODE_BUSY : NODE_BLOCKED;
    }
    n->waiting = work != NODE_IDLE;
    return work;
}

static void refuse_stale_get(struct node *n, struct lane *l, uint64_t now)
{
    struct call c = {.node = n, .peer = &l->peer, .lane = l, .id = get_id(l->jobs), .now = now};
    get_drop(l);
    call_refuse(&c, SCOUTKV__REFUSED__REASON__CREDIT, 0,
                "node '%s' has %" PRIu64
                " bytes of replies on their way that nobody reads, and its limit is %" PRIu64
                "; read them and ask again, or give the node more --ram",
                n->id, memory_used(n->memory, MEMORY_REPLIES), memory_limit(n->memory, MEMORY_REPLIES));
}

void node_tick(struct node *n, uint64_t now)
{
    uint64_t before = leases_count(n->leases);
    leases_tick(n->leases, now);
    n->counters.leases_ended += before - leases_count(n->leases);
    for (struct lane *l = n->lanes, *next; l; l = next) {
        next = l->next;
        while (l->jobs && !l->out && now > l->jobs->moved_ns + JOB_PATIENCE_MS * NS_PER_MS)
            refuse_stale_get(n, l, now);
        if (l->out && now > l->stuck_ns + LANE_PATIENCE_MS * NS_PER_MS) {
            log_write(n->log, LOG_LEVEL_WARN, "client '%s' has not read for %d s and is dropped", l->client,
                      LANE_PATIENCE_MS / 1000);
            n->counters.unread++;
            l->gone = true;
        }
        if (l->gone || (!lane_waits(l) && now > l->heard_ns + n->idle_ns))
            lane_forget(n, l);
    }
}
