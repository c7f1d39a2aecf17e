/* node.c: see node.h. Life, which operation a message is, and what goes on by itself. */
#include "memnode/node_impl.h"
#include "common/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

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
    n->n_disks = o->n_disks;
    for (size_t i = 0; i < o->n_disks; i++)
        n->disk_bytes += o->disks[i].size;
    n->start_ns = o->start_ns;
    n->cold_end = &n->cold;
    n->parked_end = &n->parked;
    n->objects_parked_end = &n->objects_parked;
    if (n->ram < NODE_RAM_MIN)
        return skv_fail(err, -EINVAL, "a memory node needs at least %d MiB of RAM", NODE_RAM_MIN >> 20);
    assert(!o->n_disks || o->io);
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
    n->leases = n->memory ? leases_new(n->memory) : NULL;
    if (!n->leases) {
        skv_fail(err, -ENOMEM, "out of memory");
        goto error;
    }
    struct store_opts store = {.memory = n->memory,
                               .io = n->n_disks ? o->io : NULL,
                               .disks = o->disks,
                               .n_disks = o->n_disks,
                               .name = n->id,
                               .node = o->incarnation,
                               .scrub_rate = o->scrub_rate,
                               .log = o->log};
    if (!(n->store = store_open(&store, err)))
        goto error;
    n->objects = objects_new(&(struct objects_opts){
        .memory = n->memory, .store = n->store, .wall_offset = o->wall_offset, .disks = n->n_disks > 0});
    if (!n->objects) {
        skv_fail(err, -ENOMEM, "out of memory");
        goto error;
    }
    n->indexing = n->finding = n->n_disks > 0;
    store_hold(n->store, n->finding);
    return n;
error:
    node_free(n);
    return NULL;
}

void node_free(struct node *n)
{
    if (!n)
        return;
    while (n->lanes)
        lane_forget(n, n->lanes);
    leases_free(n->leases);
    n->leases = NULL; /* what is still being read adds none */
    store_close(n->store);
    objects_free(n->objects); /* reads that it began have ended now, */
    cold_free(n);             /* and those into these buffers */
    memory_free(n->memory);
    buf_unref(n->view);
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

int node_poll_fd(const struct node *n)
{
    return n->n_disks ? store_fd(n->store) : -1;
}

bool node_flushed(const struct node *n, uint64_t *left)
{
    struct store_stats s = {0};
    if (n->n_disks)
        store_stats(n->store, &s);
    *left = s.dirty_bytes;
    return !n->n_disks || store_flushed(n->store);
}

const char *node_trouble(const struct node *n)
{
    return store_trouble(n->store);
}

/* Every call begins with the time. */
static void told(struct node *n, uint64_t now)
{
    n->now = now;
    if (!n->start_ns)
        n->start_ns = now;
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
    case SCOUTKV__HEADER__BODY_DESCRIBE:
        return op_describe(c);
    case SCOUTKV__HEADER__BODY_LIST:
        return op_list(c);
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
    case SCOUTKV__HEADER__BODY_OBJECT_DROP:
        return op_object_drop(c);
    case SCOUTKV__HEADER__BODY_VIEW_PUT:
        return op_view_put(c);
    case SCOUTKV__HEADER__BODY_VIEW_GET:
        return op_view_get(c);
    case SCOUTKV__HEADER__BODY_STATS:
        return op_stats(c);
    default:
        c->node->counters.malformed++;
        return call_refuse(c, SCOUTKV__REFUSED__REASON__MALFORMED, 0, "that is an answer, not a request");
    }
}

void node_receive(struct node *n, const struct node_peer *p, struct message *m, uint64_t now)
{
    told(n, now);
    struct call c = {
        .node = n, .peer = p, .lane = lane_heard(n, p, now), .message = m, .id = m->header->id, .now = now};
    dispatch(&c);
    lane_reap(n, p);
}

void node_malformed(struct node *n, const struct node_peer *p, uint64_t id, int rc, const char *reason,
                    uint64_t now)
{
    told(n, now);
    struct call c = {.node = n, .peer = p, .lane = lane_heard(n, p, now), .id = id, .now = now};
    bool version = rc == -EPROTONOSUPPORT;
    if (version)
        n->counters.wrong_version++;
    else
        n->counters.malformed++;
    call_refuse(&c, version ? SCOUTKV__REFUSED__REASON__VERSION : SCOUTKV__REFUSED__REASON__MALFORMED, 0,
                "%s", reason);
    lane_reap(n, p);
}

/* ---- what waits ---- */

static enum node_work run_lanes(struct node *n, uint64_t now)
{
    enum node_work work = NODE_IDLE;
    for (struct lane *l = n->lanes, *next; l; l = next) {
        next = l->next;
        bool moved = lane_flush(n, l, now);
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
    return work;
}

/* Says once when all that lies on the disks is known. */
static void note_index(struct node *n)
{
    struct store_stats s;
    if (store_state(n->store, NULL) == STORE_STARTING)
        return;
    n->indexing = false;
    store_stats(n->store, &s);
    double seconds = (double)s.restart_ns / 1e9, gib = (double)s.bytes / (1 << 30);
    log_write(n->log, LOG_LEVEL_INFO,
              "index complete %.3f s after the start: %" PRIu64
              " blocks, %.2f GiB; read %.1f MiB in %.3f s (%.1f GiB of data a second)",
              (double)(n->now - n->start_ns) / 1e9, s.blocks - s.own_blocks, gib,
              (double)s.restart_bytes / (1 << 20), seconds, seconds > 0 ? gib / seconds : 0);
}

enum node_work node_run(struct node *n, uint64_t now)
{
    enum node_work work = NODE_IDLE;
    told(n, now);
    if (n->n_disks) { /* completions first: they are what the rest may go on with */
        store_run(n->store, now);
        if (n->indexing)
            note_index(n);
        if (n->finding)
            work = object_find_run(n, now);
    }
    if (n->objects_parked && object_jobs_run(n))
        work = NODE_BUSY;
    if (n->parked && puts_run(n))
        work = NODE_BUSY;
    if (n->waiting) {
        n->waiting = false; /* what goes on waiting says so */
        enum node_work lanes = run_lanes(n, now);
        n->waiting |= lanes != NODE_IDLE;
        work = lanes > work ? lanes : work;
    }
    if (n->cold) {
        enum node_work cold = cold_run(n, now);
        work = cold > work ? cold : work;
    }
    if (n->n_disks && store_busy(n->store))
        work = NODE_BUSY;
    return n->waiting && work == NODE_IDLE ? NODE_BLOCKED : work;
}

void node_tick(struct node *n, uint64_t now)
{
    told(n, now);
    uint64_t before = leases_count(n->leases);
    leases_tick(n->leases, now);
    view_keep(n);
    n->counters.leases_ended += before - leases_count(n->leases);
    if (!n->finding)
        objects_tick(n->objects, now);
    cold_tick(n, now);
    puts_tick(n, now);
    object_jobs_tick(n, now);
    for (struct lane *l = n->lanes, *next; l; l = next) {
        next = l->next;
        while (l->jobs && !l->out && now > l->jobs->moved_ns + JOB_PATIENCE_MS * NS_PER_MS) {
            uint64_t id = get_id(l->jobs);
            get_drop(l);
            get_refuse_unread(n, l, id, now);
        }
        if (l->out && now > l->stuck_ns + LANE_PATIENCE_MS * NS_PER_MS) {
            log_write(n->log, LOG_LEVEL_WARN, "client '%s' has not read for %d s and is dropped", l->client,
                      LANE_PATIENCE_MS / 1000);
            n->counters.unread++;
            l->gone = true;
        }
        bool idle = !lane_waits(l) && !l->n_cold && !l->puts && !l->objects;
        if (l->gone || (idle && now > l->heard_ns + n->idle_ns))
            lane_forget(n, l);
    }
}
