/* node_objects.c: OBJECT_PUT, _GET, _LIST and _DROP: manifests and sidecars.
 *
 * DESIGN. Whoever puts an object chooses its revision, later than all it has seen; the node takes what is
 * later than what it holds and refuses the rest, so that copies on several nodes can be compared whatever
 * they missed (proto/README.md). A dropped object leaves a mark with the drop's revision for a day. What the
 * store has no room or no memory for now is parked with its message and tried again, oldest first. */
#include "memnode/node_impl.h"
#include "common/clock.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
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
    if (ack == SCOUTKV__ACK__RAM || (ack == SCOUTKV__ACK__DURABLE && c->node->n_disks))
        return true;
    if (c->node->n_disks)
        call_refuse_malformed(c, 0, "an object is put with the ack 'ram' or 'durable'");
    else
        call_refuse(c, REASON(NOT_DURABLE), 0,
                    "node '%s' has no disk and cannot acknowledge 'durable'; ask for 'ram', or use a node "
                    "with a data directory",
                    c->node->id);
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

/* ---- requests that wait ---- */

static struct call call_of(const struct object_job *j)
{
    return (struct call){
        .node = j->node, .peer = &j->lane->peer, .lane = j->lane, .id = j->id, .now = j->node->now};
}

static struct object_job *job_new(struct call *c)
{
    struct object_job *j = calloc(1, sizeof *j);
    if (!j) {
        call_refuse(c, REASON(FULL), 0, "node '%s' is out of memory", c->node->id);
        return NULL;
    }
    *j = (struct object_job){
        .node = c->node, .lane = c->lane, .id = c->id, .since_ns = c->now, .next_of_lane = c->lane->objects};
    if (c->lane->objects)
        c->lane->objects->prev_of_lane = j;
    c->lane->objects = j;
    return j;
}

static void leave_lane(struct object_job *j)
{
    *(j->prev_of_lane ? &j->prev_of_lane->next_of_lane : &j->lane->objects) = j->next_of_lane;
    if (j->next_of_lane)
        j->next_of_lane->prev_of_lane = j->prev_of_lane;
    j->lane = NULL;
}

static void job_free(struct object_job *j)
{
    if (j->lane)
        leave_lane(j);
    if (j->header)
        scoutkv__header__free_unpacked(j->header, NULL);
    buf_unref(j->payload.owner);
    free(j);
}

void object_park(struct call *c)
{
    struct node *n = c->node;
    struct message *m = c->message;
    if (m->payload.len > LANE_OBJECT_BYTES - c->lane->object_bytes)
        return call_refuse(c, REASON(CREDIT), 0,
                           "%zu bytes of objects already wait for the disks of node '%s'",
                           c->lane->object_bytes, n->id);
    struct object_job *j = job_new(c);
    if (!j)
        return;
    j->payload = m->payload;
    if (m->payload.owner)
        buf_ref(m->payload.owner);
    c->lane->object_bytes += m->payload.len;
    j->header = m->header;
    m->header = NULL;
    *n->objects_parked_end = j;
    n->objects_parked_end = &j->next;
}

static void unpark(struct node *n, struct object_job *j)
{
    struct object_job **at = &n->objects_parked;
    while (*at != j)
        at = &(*at)->next;
    *at = j->next;
    if (n->objects_parked_end == &j->next)
        n->objects_parked_end = at;
    j->lane->object_bytes -= j->payload.len;
}

void object_jobs_forget(struct node *n, struct lane *l)
{
    while (l->objects) {
        struct object_job *j = l->objects;
        if (j->state == OBJECT_READING) { /* the store has it until it is read */
            leave_lane(j);
            continue;
        }
        if (j->state == OBJECT_WRITING)
            store_waiter_cancel(&j->waiter);
        else
            unpark(n, j);
        job_free(j);
    }
}

/* ---- stored, and to be on the medium ---- */

static void on_durable(struct store_waiter *w, int rc)
{
    struct object_job *j = (struct object_job *)((char *)w - offsetof(struct object_job, waiter));
    struct node *n = j->node;
    struct call c = call_of(j);
    uint32_t count = j->count;
    uint64_t revision = j->revision;
    job_free(j);
    if (rc == 0 || rc == -ECANCELED) /* canceled: a later one is on the medium, or it has ended */
        call_answer_done(&c, count, revision);
    else
        call_refuse(&c, REASON(READ_ONLY), 0,
                    "node '%s' could not write the object to its disk and holds it in RAM only: %.300s",
                    n->id, *store_trouble(n->store) ? store_trouble(n->store) : strerror(-rc));
}

void object_settle(struct call *c, Scoutkv__ObjectKind kind, const char *name, Scoutkv__Ack ack,
                   uint32_t count)
{
    struct node *n = c->node;
    const struct object *o = object_find(n->objects, c->lane->ns, kind, name);
    struct block *b = o && ack == SCOUTKV__ACK__DURABLE ? object_block(n->objects, o) : NULL;
    uint64_t revision = o ? o->revision : 0;
    if (b) {
        struct object_job *j = job_new(c);
        if (!j)
            return;
        j->state = OBJECT_WRITING;
        j->count = count;
        j->revision = revision;
        j->waiter.done = on_durable;
        if (store_when_durable(n->store, b, &j->waiter))
            return;
        job_free(j); /* it is there already */
    }
    call_answer_done(c, count, revision);
}

/* Stores a version and answers. -EAGAIN: not now. */
static int store_version(struct call *c, Scoutkv__ObjectKind kind, const char *name, Scoutkv__Ack ack,
                         uint32_t count, const struct object_version *v)
{
    struct skv_error why = {0};
    int rc = object_store(c->node->objects, c->lane->ns, kind, name, v, &why);
    if (rc == 0)
        object_settle(c, kind, name, ack, count);
    else if (rc == -EROFS)
        call_refuse(c, REASON(READ_ONLY), 0, "%s", why.text);
    else if (rc != -EAGAIN)
        call_refuse_full(c, 0, &why);
    return rc == -EAGAIN ? rc : 0;
}

/* ---- PUT ---- */

/* Whether its block can be read, as far as is known, or is still in RAM. */
static bool intact(const struct node *n, const struct object *o)
{
    const struct block *b = object_block(n->objects, o);
    return b && (b->buf || !b->damaged);
}

/* Whether it need not be stored: its bytes are there, and their end could be moved. */
static bool nothing_to_store(struct call *c, const Scoutkv__ObjectPut *put, const struct object *held,
                             uint64_t end)
{
    bool sidecar = put->kind == SCOUTKV__OBJECT_KIND__SIDECAR;
    if (!intact(c->node, held))
        return false;
    return (sidecar && end <= held->until) || object_move_end(c->node->objects, held, end);
}

/* What becomes of a put: the revision under which it is to be stored; 0: it has been answered. */
static uint64_t judge(struct call *c, const Scoutkv__ObjectPut *put, const struct object *held)
{
    uint64_t revision = held ? held->revision : 0;
    bool live = held && !held->dropped, same = live && held->checksum == put->checksum;
    bool sidecar = put->kind == SCOUTKV__OBJECT_KIND__SIDECAR;
    if (same && (sidecar || put->revision == revision)) {
        if (!nothing_to_store(c, put, held, end_of(c, put->ttl_ms)))
            return revision;
        object_settle(c, put->kind, put->name, put->ack, 1);
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

/* -EAGAIN: not now. */
static int put_now(struct call *c)
{
    const Scoutkv__ObjectPut *put = c->message->header->object_put;
    const struct view *payload = &c->message->payload;
    const struct object *held = held_of(c, put->kind, put->name);
    uint64_t revision = judge(c, put, held), end = end_of(c, put->ttl_ms);
    if (!revision)
        return 0;
    if (held && held->revision == revision && put->kind == SCOUTKV__OBJECT_KIND__SIDECAR && held->until > end)
        end = held->until;
    struct object_version v = {.revision = revision,
                               .checksum = put->checksum,
                               .until = end,
                               .bytes = payload->data,
                               .len = payload->len};
    return store_version(c, put->kind, put->name, put->ack, 1, &v);
}

void op_object_put(struct call *c)
{
    const Scoutkv__ObjectPut *put = c->message->header->object_put;
    const struct view *payload = &c->message->payload;
    c->node->counters.object_puts++;
    if (view_stale(c, 0) || !acceptable(c, put->kind, put->name, 1))
        return;
    if (payload->len > PROTO_MAX_OBJECT)
        return call_refuse(c, REASON(TOO_LARGE), 0, "an object has at most %d bytes, not %zu",
                           PROTO_MAX_OBJECT, payload->len);
    if (!ack_possible(c, put->ack))
        return;
    if (object_checksum(put->kind, put->name, payload->data, payload->len) != put->checksum)
        return call_refuse(c, REASON(CHECKSUM), 0, "object '%s' does not match its checksum; send it again",
                           put->name);
    if (node_starting(c->node))
        call_refuse_starting(c, 0);
    else if (c->node->objects_parked || put_now(c))
        object_park(c);
}

/* ---- DROP ---- */

static int drop_now(struct call *c)
{
    const Scoutkv__ObjectDrop *drop = c->message->header->object_drop;
    const struct object *held = held_of(c, drop->kind, drop->name);
    bool again = held && held->dropped;
    if (!held || (again && (drop->ack != SCOUTKV__ACK__DURABLE || intact(c->node, held)))) {
        object_settle(c, drop->kind, drop->name, drop->ack, 0);
        return 0;
    }
    if (!again && drop->revision && drop->revision <= held->revision) {
        call_refuse_conflict(c, held->revision,
                             "'%s' has revision %" PRIu64 ", and a drop at %" PRIu64 " is not later",
                             drop->name, held->revision, drop->revision);
        return 0;
    }
    struct object_version v = {.revision = again            ? held->revision
                                           : drop->revision ? drop->revision
                                                            : held->revision + 1,
                               .until = end_of(c, DROP_DAYS * UINT64_C(86400000)),
                               .dropped = true,
                               .makes_room = drop->ack != SCOUTKV__ACK__DURABLE};
    return store_version(c, drop->kind, drop->name, drop->ack, !again, &v);
}

void op_object_drop(struct call *c)
{
    const Scoutkv__ObjectDrop *drop = c->message->header->object_drop;
    c->node->counters.object_drops++;
    if (view_stale(c, 0) || !acceptable(c, drop->kind, drop->name, 1) || !ack_possible(c, drop->ack))
        return;
    if (node_starting(c->node))
        call_refuse_starting(c, 0);
    else if (c->node->objects_parked || drop_now(c))
        object_park(c);
}

/* ---- GET ---- */

static void answer_object(struct call *c, const struct object_job *o, const struct view *payload)
{
    Scoutkv__Object answer = SCOUTKV__OBJECT__INIT;
    answer.found = true;
    answer.checksum = o->checksum;
    answer.revision = o->revision;
    answer.ttl_ms = o->ttl_ms;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.body_case = SCOUTKV__HEADER__BODY_OBJECT;
    h.object = &answer;
    call_answer(c, &h, payload);
}

static void answer_absent(struct call *c, const struct object *dropped)
{
    Scoutkv__Object answer = SCOUTKV__OBJECT__INIT;
    answer.dropped = dropped != NULL;
    answer.revision = dropped ? dropped->revision : 0;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.body_case = SCOUTKV__HEADER__BODY_OBJECT;
    h.object = &answer;
    call_answer(c, &h, NULL);
}

static void refuse_damaged(struct call *c, const char *name)
{
    call_refuse(c, REASON(CHECKSUM), 0,
                "what lies on the disks of node '%s' under '%s' is damaged; put it again, or drop it",
                c->node->id, name);
}

static struct view bytes_in(struct buf *block, size_t len)
{
    return (struct view){block->data + OBJECT_HEAD, len, block};
}

static void object_read(void *arg, struct buf *buf, uint32_t n_bad)
{
    struct object_job *j = arg;
    if (j->lane) {
        struct call c = call_of(j);
        struct view payload = buf ? bytes_in(buf, j->len) : (struct view){0};
        if (buf && n_bad == 0)
            answer_object(&c, j, &payload);
        else
            refuse_damaged(&c, "this name");
    }
    buf_unref(buf);
    job_free(j);
}

/* Has it read from a disk. -EAGAIN: no memory now. */
static int read_now(struct call *c, struct block *b, const struct object_job *answer)
{
    struct object_job *j = job_new(c);
    if (!j)
        return 0;
    j->state = OBJECT_READING;
    j->revision = answer->revision;
    j->checksum = answer->checksum;
    j->ttl_ms = answer->ttl_ms;
    j->len = answer->len;
    if (store_load(c->node->store, b, object_read, j) == 0)
        return 0;
    job_free(j);
    return -EAGAIN;
}

static int get_now(struct call *c)
{
    struct node *n = c->node;
    const Scoutkv__ObjectGet *get = c->message->header->object_get;
    const struct object *o = held_of(c, get->kind, get->name);
    if ((!o && object_unreadable(n->objects, c->lane->ns, get->kind, get->name)) ||
        (o && !o->dropped && !object_block(n->objects, o))) {
        refuse_damaged(c, get->name);
        return 0;
    }
    if (!o || o->dropped) {
        answer_absent(c, o);
        return 0;
    }
    struct object_job answer = {.revision = o->revision, .checksum = o->checksum, .len = o->len};
    answer.ttl_ms = o->until == FOR_EVER ? 0 : (o->until - c->now + NS_PER_MS - 1) / NS_PER_MS;
    struct block *b = object_block(n->objects, o);
    if (!b->buf && !get->brief)
        return read_now(c, b, &answer);
    struct view payload = get->brief ? (struct view){0} : bytes_in(b->buf, o->len);
    answer_object(c, &answer, &payload);
    return 0;
}

void op_object_get(struct call *c)
{
    const Scoutkv__ObjectGet *get = c->message->header->object_get;
    c->node->counters.object_gets++;
    if (!acceptable(c, get->kind, get->name, 1))
        return;
    if (node_starting(c->node))
        call_refuse_starting(c, 0);
    else if (get_now(c))
        object_park(c);
}

/* ---- those that are parked ---- */

static int try_again(struct call *c)
{
    switch (c->message->header->body_case) {
    case SCOUTKV__HEADER__BODY_OBJECT_PUT:
        return put_now(c);
    case SCOUTKV__HEADER__BODY_OBJECT_DROP:
        return drop_now(c);
    case SCOUTKV__HEADER__BODY_PIN:
        return pin_now(c);
    default:
        return get_now(c);
    }
}

bool object_jobs_run(struct node *n)
{
    bool moved = false;
    while (n->objects_parked) {
        struct object_job *j = n->objects_parked;
        struct message m = {.header = j->header, .payload = j->payload};
        struct call c = call_of(j);
        c.message = &m;
        if (try_again(&c))
            return moved;
        unpark(n, j);
        job_free(j);
        moved = true;
    }
    return moved;
}

void object_jobs_tick(struct node *n, uint64_t now)
{
    while (n->objects_parked && now > n->objects_parked->since_ns + DISK_PATIENCE_MS * NS_PER_MS) {
        struct object_job *j = n->objects_parked;
        struct call c = call_of(j);
        unpark(n, j);
        job_free(j);
        call_refuse(&c, REASON(FULL), 0,
                    "node '%s' had no room for an object within %d s: its disks are too slow for what is put",
                    n->id, DISK_PATIENCE_MS / 1000);
    }
}

/* ---- restart ---- */

enum node_work object_find_run(struct node *n, uint64_t now)
{
    int rc = objects_begin(n->objects, now);
    if (rc == 0)
        rc = leases_find(n);
    if (rc == 0)
        rc = view_find(n);
    if (rc)
        return rc == 1 ? NODE_BUSY : NODE_IDLE;
    n->finding = false;
    store_hold(n->store, false);
    log_write(n->log, LOG_LEVEL_INFO, "%" PRIu64 " objects and %" PRIu64 " leases are there",
              objects_count(n->objects), leases_count(n->leases));
    return NODE_BUSY;
}

/* ---- LIST ---- */

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
    if (node_starting(c->node))
        return call_refuse_starting(c, 0);
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
