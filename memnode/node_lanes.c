/* node_lanes.c: peers (lanes) and what is sent to them; see node.h. */
#include "memnode/node_impl.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

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
    return OUTGOING_OVERHEAD + header->len + (payload ? view_len(payload) : 0);
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

void lane_forget(struct node *n, struct lane *l)
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
    if (l->n_cold)
        cold_forget(n, l);
    if (l->puts)
        puts_forget(n, l);
    object_jobs_forget(n, l);
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

void lane_reap(struct node *n, const struct node_peer *p)
{
    struct lane *l = *lane_slot(n, p);
    if (l && l->gone)
        lane_forget(n, l);
}

struct lane *lane_heard(struct node *n, const struct node_peer *p, uint64_t now)
{
    struct lane *l = *lane_slot(n, p);
    if (l) {
        l->heard_ns = now;
        list_remove(n, l);
        list_add_first(n, l);
    }
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
        l->gone = n->waiting = true;
    if (rc != -EAGAIN)
        return;
    size_t bytes = outgoing_bytes(header, payload);
    struct outgoing *o = l->out_bytes + bytes <= LANE_QUEUE_BYTES ? malloc(sizeof *o) : NULL;
    if (!o) {
        log_write(n->log, LOG_LEVEL_WARN, "client '%s' does not read its answers and is dropped", l->client);
        n->counters.unread++;
        l->gone = n->waiting = true;
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

bool lane_flush(struct node *n, struct lane *l, uint64_t now)
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

void call_answer(struct call *c, Scoutkv__Header *h, const struct view *payload)
{
    h->version = PROTO_VERSION_MAX;
    h->id = c->id;
    h->epoch = c->node->epoch;
    struct buf *packed = header_pack(h);
    if (!packed) /* the client's deadline will tell it */
        c->node->counters.unread++;
    else if (c->lane)
        lane_send(c->node, c->lane, packed, payload, c->now);
    else if (offer(c->node, c->peer, packed, payload) == -EAGAIN)
        c->node->counters.unread++; /* strangers get no queue */
    buf_unref(packed);
}

void call_answer_done(struct call *c, uint32_t count, uint64_t revision)
{
    Scoutkv__Done done = SCOUTKV__DONE__INIT;
    done.count = count;
    done.revision = revision;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.body_case = SCOUTKV__HEADER__BODY_DONE;
    h.done = &done;
    call_answer(c, &h, NULL);
}

static void refuse(struct call *c, Scoutkv__Refused *refused, const char *fmt, va_list ap)
{
    char text[500];
    vsnprintf(text, sizeof text, fmt, ap);
    refused->text = text;
    refused->version_min = PROTO_VERSION_MIN;
    refused->version_max = PROTO_VERSION_MAX;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.body_case = SCOUTKV__HEADER__BODY_REFUSED;
    h.refused = refused;
    c->node->counters.refused[refused->reason]++;
    log_write(c->node->log, LOG_LEVEL_DEBUG, "refused: %s", text);
    call_answer(c, &h, NULL);
}

void call_refuse(struct call *c, Scoutkv__Refused__Reason reason, uint64_t credit, const char *fmt, ...)
{
    Scoutkv__Refused refused = SCOUTKV__REFUSED__INIT;
    va_list ap;
    refused.reason = reason;
    refused.credit = credit;
    va_start(ap, fmt);
    refuse(c, &refused, fmt, ap);
    va_end(ap);
}

void call_refuse_conflict(struct call *c, uint64_t revision, const char *fmt, ...)
{
    Scoutkv__Refused refused = SCOUTKV__REFUSED__INIT;
    va_list ap;
    refused.reason = SCOUTKV__REFUSED__REASON__CONFLICT;
    refused.revision = revision;
    va_start(ap, fmt);
    refuse(c, &refused, fmt, ap);
    va_end(ap);
}

void call_refuse_malformed(struct call *c, uint64_t credit, const char *what)
{
    c->node->counters.malformed++;
    call_refuse(c, SCOUTKV__REFUSED__REASON__MALFORMED, credit, "%s", what);
}

void call_refuse_full(struct call *c, uint64_t credit, const struct skv_error *err)
{
    struct node *n = c->node;
    if (err)
        return call_refuse(c, SCOUTKV__REFUSED__REASON__FULL, credit, "%s", err->text);
    struct store_stats s;
    store_stats(n->store, &s);
    call_refuse(
        c, SCOUTKV__REFUSED__REASON__FULL, credit,
        "node '%s' is full: %.1f of its %.1f MiB for blocks are taken, by %" PRIu64
        " blocks; start it with a larger --ram, add a node, or drop contexts that are no longer needed",
        n->id, (double)memory_used(n->memory, MEMORY_STORE) / (1 << 20),
        (double)memory_limit(n->memory, MEMORY_STORE) / (1 << 20), s.blocks);
}

bool node_starting(const struct node *n)
{
    return n->finding;
}

void call_refuse_starting(struct call *c, uint64_t credit)
{
    double progress = 0;
    store_state(c->node->store, &progress);
    call_refuse(
        c, SCOUTKV__REFUSED__REASON__STARTING, credit,
        "node '%s' has started and read %.0f %% of its disks' index; what was asked for may be in the "
        "rest, so ask again in a moment",
        c->node->id, progress * 100);
}
