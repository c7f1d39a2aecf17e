/* node_objects.c: OBJECT_PUT, _GET, _LIST and _DROP: manifests and sidecars.
 *
 * DESIGN. Whoever puts an object chooses its revision, later than all it has seen; the node takes what is
 * later than what it holds and refuses the rest, so that copies on several nodes can be compared whatever
 * they missed (proto/README.md). A dropped object leaves a mark with the drop's revision for a day. */
#include "memnode/node_impl.h"
#include "common/clock.h"

#include <errno.h>
#include <string.h>

enum {
    LIST_MAX = 500, /* names of an answer: at most 256 bytes each, so the header limit holds */
    DROP_DAYS = 1,  /* a drop is remembered for so long */
};
static const uint64_t FOR_EVER = UINT64_MAX;

#define REASON(x) SCOUTKV__REFUSED__REASON__##x

static bool acceptable(struct call *c, Scoutkv__ObjectKind kind, const char *name, size_t name_min)
{
    size_t len = strlen(name);
    if ((kind == SCOUTKV__OBJECT_KIND__MANIFEST || kind == SCOUTKV__OBJECT_KIND__SIDECAR) &&
        len >= name_min && len <= OBJECT_NAME_MAX)
        return true;
    call_refuse_malformed(c, 0, "an object is a manifest or a sidecar with a name of 1 to 255 bytes");
    return false;
}

static bool ack_possible(struct call *c, Scoutkv__Ack ack)
{
    const struct node *n = c->node;
    if (ack == SCOUTKV__ACK__RAM)
        return true;
    call_refuse(c, REASON(NOT_DURABLE), 0,
                n->n_disks ? "node '%s' keeps manifests and sidecars in RAM only, so far, and cannot "
                             "acknowledge 'durable' for them; ask for 'ram'"
                           : "node '%s' has no disk and cannot acknowledge 'durable'; ask for 'ram', or use "
                             "a node with a data directory",
                n->id);
    return false;
}

static uint64_t end_of(const struct call *c, uint64_t ttl_ms)
{
    bool endless = !ttl_ms || ttl_ms > (UINT64_MAX - c->now) / NS_PER_MS;
    return endless ? FOR_EVER : c->now + ttl_ms * NS_PER_MS;
}

/* What is held under this name; it is forgotten first if it has ended. */
static const struct object *held_of(struct call *c, Scoutkv__ObjectKind kind, const char *name)
{
    objects_tick(c->node->objects, c->now);
    return object_find(c->node->objects, c->lane->ns, kind, name);
}

/* ---- PUT ---- */

/* What becomes of a put: the revision under which it is to be stored; 0: it has been answered. */
static uint64_t judge(struct call *c, const Scoutkv__ObjectPut *put, const struct object *held)
{
    struct node *n = c->node;
    uint64_t revision = held ? held->revision : 0, end = end_of(c, put->ttl_ms);
    bool live = held && !held->dropped, same = live && held->checksum == put->checksum;
    bool sidecar = put->kind == SCOUTKV__OBJECT_KIND__SIDECAR;
    if (same && (sidecar || put->revision == revision)) {
        if (!sidecar || end > held->until)
            object_move_end(n->objects, held, end);
        call_answer_done(c, 1, revision);
    } else if (live && sidecar) {
        call_refuse_conflict(
            c, 0, "sidecar '%s' is there with other bytes, and sidecars never change; use another name",
            put->name);
    } else if (live && put->absent) {
        call_refuse_conflict(c, revision, "'%s' is there already, under revision %" PRIu64, put->name,
                             revision);
    } else if (put->expect && revision > put->expect) {
        call_refuse_conflict(c, revision,
                             "manifest '%s' has revision %" PRIu64 ", not %" PRIu64
                             ": somebody else changed it; read it and try again",
                             put->name, revision, put->expect);
    } else if (put->revision && put->revision <= revision) {
        call_refuse_conflict(c, revision, "'%s' has revision %" PRIu64 ", and %" PRIu64 " is not later",
                             put->name, revision, put->revision);
    } else {
        uint64_t seen = revision > put->expect ? revision : put->expect;
        return put->revision ? put->revision : seen + 1;
    }
    return 0;
}

void op_object_put(struct call *c)
{
    struct node *n = c->node;
    const Scoutkv__ObjectPut *put = c->message->header->object_put;
    const struct view *payload = &c->message->payload;
    n->counters.object_puts++;
    if (!acceptable(c, put->kind, put->name, 1))
        return;
    if (payload->len > PROTO_MAX_OBJECT)
        return call_refuse(c, REASON(TOO_LARGE), 0, "an object has at most %d bytes, not %zu",
                           PROTO_MAX_OBJECT, payload->len);
    if (!ack_possible(c, put->ack))
        return;
    if (object_checksum(put->kind, put->name, payload->data, payload->len) != put->checksum)
        return call_refuse(c, REASON(CHECKSUM), 0, "object '%s' does not match its checksum; send it again",
                           put->name);
    uint64_t revision = judge(c, put, held_of(c, put->kind, put->name));
    if (!revision)
        return;
    (void)store_make_room(n->store, payload->len + OBJECT_NAME_MAX + 4096); /* if not, it says so itself */
    struct object_version v = {.revision = revision,
                               .checksum = put->checksum,
                               .until = end_of(c, put->ttl_ms),
                               .bytes = payload->data,
                               .len = payload->len};
    if (object_store(n->objects, c->lane->ns, put->kind, put->name, &v))
        return call_refuse_full(c, 0, NULL);
    call_answer_done(c, 1, revision);
}

/* ---- DROP ---- */

void op_object_drop(struct call *c)
{
    struct node *n = c->node;
    const Scoutkv__ObjectDrop *drop = c->message->header->object_drop;
    n->counters.object_drops++;
    if (!acceptable(c, drop->kind, drop->name, 1) || !ack_possible(c, drop->ack))
        return;
    const struct object *held = held_of(c, drop->kind, drop->name);
    if (!held || held->dropped)
        return call_answer_done(c, 0, held ? held->revision : 0);
    if (drop->revision && drop->revision <= held->revision)
        return call_refuse_conflict(c, held->revision,
                                    "'%s' has revision %" PRIu64 ", and a drop at %" PRIu64 " is not later",
                                    drop->name, held->revision, drop->revision);
    struct object_version v = {.revision = drop->revision ? drop->revision : held->revision + 1,
                               .until = c->now + DROP_DAYS * 24 * 3600 * NS_PER_S,
                               .dropped = true};
    if (object_store(n->objects, c->lane->ns, drop->kind, drop->name, &v))
        return call_refuse_full(c, 0, NULL);
    call_answer_done(c, 1, v.revision);
}

/* ---- GET, LIST ---- */

void op_object_get(struct call *c)
{
    const Scoutkv__ObjectGet *get = c->message->header->object_get;
    c->node->counters.object_gets++;
    if (!acceptable(c, get->kind, get->name, 1))
        return;
    const struct object *o = held_of(c, get->kind, get->name);
    Scoutkv__Object answer = SCOUTKV__OBJECT__INIT;
    struct view payload = {0};
    if (o) {
        answer.found = !o->dropped;
        answer.dropped = o->dropped;
        answer.checksum = o->checksum;
        answer.revision = o->revision;
        answer.ttl_ms = o->until == FOR_EVER ? 0 : (o->until - c->now + NS_PER_MS - 1) / NS_PER_MS;
        if (!o->dropped && !get->brief)
            payload = (struct view){o->bytes->data, o->bytes->len, o->bytes};
    }
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.body_case = SCOUTKV__HEADER__BODY_OBJECT;
    h.object = &answer;
    call_answer(c, &h, &payload);
}

void op_object_list(struct call *c)
{
    const Scoutkv__ObjectList *list = c->message->header->object_list;
    const struct object *found[LIST_MAX];
    const char *names[LIST_MAX];
    uint64_t revisions[LIST_MAX];
    protobuf_c_boolean dropped[LIST_MAX];
    bool more;
    c->node->counters.object_lists++;
    if (!acceptable(c, list->kind, list->prefix, 0))
        return;
    objects_tick(c->node->objects, c->now);
    size_t n = objects_list(c->node->objects, c->lane->ns, list->kind, list->prefix, list->after,
                            list->dropped, found, LIST_MAX, &more);
    for (size_t i = 0; i < n; i++) {
        names[i] = found[i]->name;
        revisions[i] = found[i]->revision;
        dropped[i] = found[i]->dropped;
    }
    Scoutkv__ObjectNames answer = SCOUTKV__OBJECT_NAMES__INIT;
    answer.n_names = answer.n_revisions = answer.n_dropped = n;
    answer.names = (char **)(uintptr_t)names; /* only read */
    answer.revisions = revisions;
    answer.dropped = dropped;
    answer.more = more;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.body_case = SCOUTKV__HEADER__BODY_OBJECT_NAMES;
    h.object_names = &answer;
    call_answer(c, &h, NULL);
}
