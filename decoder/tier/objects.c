/* objects.c: manifests and sidecars on the nodes; every call waits for its answers.
 *
 * DESIGN. An object lies on the first live nodes in the rank of its name, on as many as a block. The writer
 * chooses its revision: later than any it has seen, and than the wall clock, so that revisions of one name
 * are in order whatever some nodes have missed. The first node in rank is written first: of two writers with
 * the same condition it refuses one, who then has changed nothing. A reader of a manifest asks every live
 * node for its revision and so finds the latest wherever it was put while others were away; sidecars never
 * change, so the first that is found will do. Nodes that lack what was found are given it. More in
 * proto/README.md. */
#include "decoder/tier/tier_internal.h"

#include "common/clock.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { TRIES = 16 }; /* at a revision that is late enough */

struct tier_ranked tier_rank_nodes(struct tier *t, enum tier_object kind, const char *name)
{
    struct tier_ranked r = {.live = 0};
    uint8_t order[PLACEMENT_MAX_NODES];
    struct client *c = tier_client(t);
    unsigned n = client_n_nodes(c), at = 0;
    placement_rank(client_map(c), name_hash(kind, name), order);
    for (unsigned i = 0; i < n; i++)
        if (client_node_up(c, order[i]) && !client_node_suspect(c, order[i]))
            r.order[at++] = order[i];
    r.live = at;
    for (unsigned i = 0; i < n; i++)
        if (client_node_up(c, order[i]) && client_node_suspect(c, order[i]))
            r.order[at++] = order[i];
    r.up = at;
    for (unsigned i = 0; i < n; i++)
        if (!client_node_up(c, order[i]))
            r.order[at++] = order[i];
    r.n = at;
    return r;
}

struct object_id {
    struct tier *t;
    Scoutkv__ObjectKind kind;
    const char *name;
};

static int identify(struct object_id *id, struct tier *t, enum tier_object kind, const char *name,
                    struct skv_error *err)
{
    *id = (struct object_id){
        t, kind == TIER_MANIFEST ? SCOUTKV__OBJECT_KIND__MANIFEST : SCOUTKV__OBJECT_KIND__SIDECAR, name};
    return tier_check_name("an object", name, err);
}

static struct tier_ranked rank_nodes(const struct object_id *id)
{
    return tier_rank_nodes(id->t, id->kind == SCOUTKV__OBJECT_KIND__MANIFEST ? TIER_MANIFEST : TIER_SIDECAR,
                           id->name);
}

/* "None" may be said only when every node was asked. */
static int none_of(struct tier *t, const struct skv_error *failure, struct skv_error *err)
{
    struct client *c = tier_client(t);
    if (failure->code) {
        if (err)
            *err = *failure;
        return failure->code;
    }
    for (unsigned i = 0; i < client_n_nodes(c); i++)
        if (!client_node_up(c, client_node_at(c, i)))
            return client_node_down(c, client_node_at(c, i), err);
    return 0;
}

static uint64_t later_than(uint64_t seen)
{
    uint64_t now = clock_wall_ns() / 1000;
    return now > seen ? now : seen + 1;
}

/* ---- one request to one node ---- */

struct ask {
    struct tier_wait *wait;
    const struct object_id *id;
    unsigned node;
    bool brief;           /* a GET that wants no bytes */
    struct skv_error err; /* code 0: answered as it should be */
    uint32_t count;
    uint64_t checksum, revision, ttl_ms; /* revision: of a conflict, too */
    bool found, dropped;
    struct buf *bytes; /* of a GET; one reference */
};

static void take_object(struct ask *a, const struct message *m)
{
    const Scoutkv__Object *o = m->header->object;
    a->found = o->found;
    a->dropped = o->dropped && !o->found;
    a->checksum = o->checksum;
    a->revision = o->revision;
    a->ttl_ms = o->ttl_ms;
    if (!o->found || a->brief)
        return;
    if (object_checksum(a->id->kind, a->id->name, m->payload.data, m->payload.len) != o->checksum)
        skv_fail(&a->err, -EBADMSG, "object \"%s\" failed its checksum", a->id->name);
    else if (!(a->bytes = buf_copy(m->payload.data, m->payload.len)))
        skv_fail(&a->err, -ENOMEM, "out of memory");
}

static void answered(void *arg, int rc, const struct message *m, const struct skv_error *err)
{
    struct ask *a = arg;
    if (rc) {
        a->err = *err;
        a->revision = m ? m->header->refused->revision : 0;
    } else if (m->header->body_case == SCOUTKV__HEADER__BODY_DONE) {
        a->count = m->header->done->count;
        a->revision = m->header->done->revision;
    } else {
        take_object(a, m);
    }
    tier_wait_answered(a->wait, 0, NULL);
}

/* Sends it; `a` has its answer when a->wait is over. */
static void begin(struct ask *a, Scoutkv__Header *h, struct buf *payload)
{
    struct view v = payload ? (struct view){payload->data, payload->len, payload} : (struct view){0};
    struct skv_error err;
    a->wait->open++;
    int rc = client_call(tier_client(a->id->t), a->node, payload != NULL, h, v,
                         h->body_case == SCOUTKV__HEADER__BODY_OBJECT_GET ? SCOUTKV__HEADER__BODY_OBJECT
                                                                          : SCOUTKV__HEADER__BODY_DONE,
                         answered, a, clock_ns(), &err);
    if (rc)
        answered(a, rc, NULL, &err);
}

static void begin_get(struct ask *a)
{
    Scoutkv__ObjectGet get = SCOUTKV__OBJECT_GET__INIT;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    get.kind = a->id->kind;
    get.name = (char *)(uintptr_t)a->id->name; /* only read, like the others */
    get.brief = a->brief;
    h.body_case = SCOUTKV__HEADER__BODY_OBJECT_GET;
    h.object_get = &get;
    begin(a, &h, NULL);
}

static void begin_drop(struct ask *a, uint64_t revision)
{
    Scoutkv__ObjectDrop drop = SCOUTKV__OBJECT_DROP__INIT;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    drop.kind = a->id->kind;
    drop.name = (char *)(uintptr_t)a->id->name;
    drop.revision = revision;
    h.body_case = SCOUTKV__HEADER__BODY_OBJECT_DROP;
    h.object_drop = &drop;
    begin(a, &h, NULL);
}

/* ---- PUT ---- */

struct putting {
    struct buf *bytes;
    uint64_t checksum, revision;
    struct tier_object_opts opts;
};

static void begin_put(struct ask *a, const struct putting *p)
{
    Scoutkv__ObjectPut put = SCOUTKV__OBJECT_PUT__INIT;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    put.kind = a->id->kind;
    put.name = (char *)(uintptr_t)a->id->name;
    put.checksum = p->checksum;
    put.revision = p->revision;
    put.expect = p->opts.expect;
    put.absent = p->opts.absent;
    put.ttl_ms = p->opts.ttl_ms;
    put.ack = p->opts.durable ? SCOUTKV__ACK__DURABLE : SCOUTKV__ACK__RAM;
    h.body_case = SCOUTKV__HEADER__BODY_OBJECT_PUT;
    h.object_put = &put;
    begin(a, &h, p->bytes);
}

/* Puts it on one node. -EAGAIN: a later revision is there, and p->revision is later now: the whole put is to
 * be tried again. -ESTALE: the condition does not hold. */
static int put_on(const struct object_id *id, unsigned node, struct putting *p, struct skv_error *err)
{
    bool sidecar = id->kind == SCOUTKV__OBJECT_KIND__SIDECAR, free = !p->opts.expect && !p->opts.absent;
    for (int tries = 0;; tries++) {
        struct tier_wait wait = {0};
        struct ask a = {.wait = &wait, .id = id, .node = node};
        begin_put(&a, p);
        tier_wait_all(id->t, &wait, NULL);
        if (a.err.code == 0)
            return 0;
        *err = a.err;
        if (a.err.code != -ESTALE || !a.revision || !free || tries == TRIES)
            return a.err.code;
        p->revision = later_than(a.revision);
        if (!sidecar) /* its copies may have different ones */
            return -EAGAIN;
    }
}

/* Puts it on the first nodes in rank that take it. 0: so many have it as can be; or as put_on. */
static int put_round(const struct object_id *id, struct putting *p, struct skv_error *err)
{
    struct client *c = tier_client(id->t);
    struct skv_error failure = {0}, one;
    struct tier_ranked r = rank_nodes(id);
    unsigned copies = client_replicas(c), have = 0;
    if (r.up == 0)
        return client_node_down(c, r.order[0], err);
    for (unsigned i = 0; i < r.up && have < copies && (i < r.live || !have); i++) {
        int rc = put_on(id, r.order[i], p, &one);
        if (rc == -EAGAIN || rc == -ESTALE) {
            if (err)
                *err = one;
            return rc;
        }
        have += rc == 0;
        if (rc && !failure.code)
            failure = one;
    }
    r = rank_nodes(id); /* one that died meanwhile is not waited for */
    if (have && have >= (copies < r.live ? copies : r.live))
        return 0;
    if (err)
        *err = failure;
    return failure.code;
}

int tier_object_put(struct tier *t, enum tier_object kind, const char *name, const void *bytes, size_t len,
                    const struct tier_object_opts *opts, struct skv_error *err)
{
    static_assert((int)TIER_OBJECT_MAX == (int)PROTO_MAX_OBJECT, "told in tier.h");
    struct object_id id;
    int rc = identify(&id, t, kind, name, err);
    if (rc)
        return rc;
    if (len > PROTO_MAX_OBJECT)
        return skv_fail(err, -EMSGSIZE, "object \"%s\" has %zu bytes; at most %d are stored under one name",
                        name, len, PROTO_MAX_OBJECT);
    struct putting p = {.bytes = buf_copy(bytes, len)};
    if (!p.bytes)
        return skv_fail(err, -ENOMEM, "out of memory");
    if (opts)
        p.opts = *opts;
    p.checksum = object_checksum(id.kind, name, bytes, len);
    p.revision = later_than(p.opts.expect);
    for (int tries = 0; (rc = put_round(&id, &p, err)) == -EAGAIN && tries < TRIES; tries++)
        ;
    buf_unref(p.bytes);
    if (rc == -EAGAIN)
        return skv_fail(err, -ESTALE, "\"%s\" is changed by others all the time; try again", name);
    if (rc == 0 && p.opts.revision)
        *p.opts.revision = p.revision;
    return rc;
}

/* ---- GET ---- */

/* The answers of the live nodes, in rank. */
struct reading {
    struct object_id id;
    struct tier_wait wait;
    struct ask asks[PLACEMENT_MAX_NODES];
    unsigned n;
};

static struct ask *add_ask(struct reading *r, unsigned node, bool brief)
{
    struct ask *a = &r->asks[r->n++];
    *a = (struct ask){.wait = &r->wait, .id = &r->id, .node = node, .brief = brief};
    return a;
}

/* Asks these nodes, the first one for the bytes as well. */
static void ask_nodes(struct reading *r, const uint8_t *order, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        begin_get(add_ask(r, order[i], i > 0));
    tier_wait_all(r->id.t, &r->wait, NULL);
}

static bool is_manifest(const struct reading *r)
{
    return r->id.kind == SCOUTKV__OBJECT_KIND__MANIFEST;
}

/* Whether what `a` tells counts more than what `b` does. Of a sidecar any copy does, even if others know that
 * it was dropped. */
static bool counts_more(const struct reading *r, const struct ask *a, const struct ask *b)
{
    if (!is_manifest(r) && a->found != b->found)
        return a->found;
    return a->revision > b->revision;
}

/* The latest that some node has or dropped; NULL: there is none. */
static struct ask *latest(struct reading *r)
{
    struct ask *best = NULL;
    for (unsigned i = 0; i < r->n; i++) {
        struct ask *a = &r->asks[i];
        if ((a->found || a->dropped) && (!best || counts_more(r, a, best)))
            best = a;
    }
    return best;
}

/* Has its bytes come, from a node that only told about it if need be. NULL: they can't be had. */
static struct ask *with_bytes(struct reading *r, uint64_t revision)
{
    for (int pass = 0; pass < 2; pass++) /* those that have come already first */
        for (unsigned i = 0; i < r->n; i++) {
            struct ask *a = &r->asks[i];
            bool right = a->found && (!is_manifest(r) || a->revision == revision);
            if (right && pass && a->brief && !a->err.code) {
                a->brief = false;
                begin_get(a);
                tier_wait_all(r->id.t, &r->wait, NULL);
                right = a->found && (!is_manifest(r) || a->revision == revision);
            }
            if (right && a->bytes)
                return a;
        }
    return NULL;
}

/* Gives it to nodes that should have it and don't, or have it older, or damaged. That they may refuse it is
 * no matter of the reader's. */
static void repair(struct reading *r, const struct ask *best)
{
    struct ask puts[PLACEMENT_MAX_NODES];
    struct tier_wait wait = {0};
    struct putting p = {.bytes = best->bytes,
                        .checksum = best->checksum,
                        .revision = best->revision,
                        .opts = {.ttl_ms = best->ttl_ms}};
    unsigned n = 0, copies = client_replicas(tier_client(r->id.t));
    for (unsigned i = 0; i < r->n; i++) {
        const struct ask *a = &r->asks[i];
        bool bad = a->err.code == -EBADMSG, answer = !a->err.code;
        bool older = answer && is_manifest(r) && a->found && a->revision < best->revision;
        bool lacks = answer && i < copies && !a->found && !best->dropped;
        if (!bad && !older && !lacks)
            continue;
        puts[n] = (struct ask){.wait = &wait, .id = &r->id, .node = a->node};
        if (best->dropped)
            begin_drop(&puts[n++], best->revision);
        else
            begin_put(&puts[n++], &p);
    }
    tier_wait_all(r->id.t, &wait, NULL);
}

static int read_end(struct reading *r, struct buf **out, uint64_t *revision, struct skv_error *err)
{
    struct skv_error failure = {0};
    struct ask *best = latest(r), *holder = NULL;
    if (best && !best->dropped)
        holder = with_bytes(r, best->revision);
    for (unsigned i = 0; i < r->n && !failure.code; i++)
        failure = r->asks[i].err;
    if (holder || (best && best->dropped))
        repair(r, holder ? holder : best);
    if (holder) {
        *out = buf_ref(holder->bytes);
        if (revision)
            *revision = holder->revision;
        return 0;
    }
    int rc = best && best->dropped ? 0 : none_of(r->id.t, &failure, err);
    return rc ? rc : skv_fail(err, -ENOENT, "no memory node holds an object named \"%s\"", r->id.name);
}

int tier_object_get(struct tier *t, enum tier_object kind, const char *name, struct buf **out,
                    uint64_t *revision, struct skv_error *err)
{
    struct reading *r = calloc(1, sizeof *r);
    if (!r)
        return skv_fail(err, -ENOMEM, "out of memory");
    int rc = identify(&r->id, t, kind, name, err);
    if (rc == 0) {
        /* Of a sidecar any copy will do; those that should have it are asked, so that they get it. */
        struct tier_ranked k = rank_nodes(&r->id);
        unsigned copies = client_replicas(tier_client(t));
        unsigned first = kind == TIER_MANIFEST || copies > k.live ? k.live : copies;
        ask_nodes(r, k.order, first);
        if (!latest(r))
            ask_nodes(r, k.order + first, k.live - first);
        if (!latest(r))
            ask_nodes(r, k.order + k.live, k.up - k.live);
        rc = read_end(r, out, revision, err);
    }
    for (unsigned i = 0; i < r->n; i++)
        buf_unref(r->asks[i].bytes);
    free(r);
    return rc;
}

/* ---- DROP ---- */

int tier_object_drop(struct tier *t, enum tier_object kind, const char *name, struct skv_error *err)
{
    struct skv_error failure = {0};
    struct object_id id;
    uint64_t count = 0, later = 0;
    int rc = identify(&id, t, kind, name, err);
    if (rc)
        return rc;
    for (int tries = 0; tries == 0 || (later && tries < TRIES); tries++) {
        struct tier_wait wait = {0};
        struct ask asks[PLACEMENT_MAX_NODES];
        struct tier_ranked r = rank_nodes(&id);
        unsigned n = r.up;
        uint64_t revision = later_than(later);
        for (unsigned i = 0; i < n; i++) {
            asks[i] = (struct ask){.wait = &wait, .id = &id, .node = r.order[i]};
            begin_drop(&asks[i], revision);
        }
        tier_wait_all(t, &wait, NULL);
        later = 0;
        failure.code = 0;
        for (unsigned i = 0; i < n; i++) {
            count += asks[i].err.code ? 0 : asks[i].count;
            if (asks[i].err.code && !failure.code && client_node_up(tier_client(t), asks[i].node))
                failure = asks[i].err; /* one that went down is told when it is back and read */
            if (asks[i].err.code == -ESTALE && asks[i].revision > later)
                later = asks[i].revision;
        }
    }
    if (count && !failure.code)
        return 0;
    rc = none_of(t, &failure, err);
    return rc ? rc : skv_fail(err, -ENOENT, "no memory node holds an object named \"%s\"", name);
}

/* ---- LIST ---- */

struct listed {
    char *name; /* owned */
    uint64_t revision;
    bool dropped;
};

struct listing {
    struct tier_wait wait;
    struct listed *all;
    size_t n, room;
    bool more;
};

static int listing_add(struct listing *l, const Scoutkv__ObjectNames *a, size_t i)
{
    if (l->n == l->room) {
        size_t room = 2 * l->room + 64;
        struct listed *all = realloc(l->all, room * sizeof *all);
        if (!all)
            return -ENOMEM;
        l->all = all;
        l->room = room;
    }
    l->all[l->n] = (struct listed){strdup(a->names[i]), a->revisions[i], a->dropped[i]};
    return l->all[l->n].name ? (l->n++, 0) : -ENOMEM;
}

static void names_answered(void *arg, int rc, const struct message *m, const struct skv_error *err)
{
    struct listing *l = arg;
    struct skv_error own;
    l->more = false;
    if (rc == 0) {
        const Scoutkv__ObjectNames *a = m->header->object_names;
        if (a->n_revisions != a->n_names || a->n_dropped != a->n_names)
            rc = skv_fail(&own, -EPROTO, "a memory node listed %zu names with %zu revisions", a->n_names,
                          a->n_revisions);
        for (size_t i = 0; rc == 0 && i < a->n_names; i++)
            if (listing_add(l, a, i))
                rc = skv_fail(&own, -ENOMEM, "out of memory");
        l->more = rc == 0 && a->more && a->n_names;
        err = &own;
    }
    tier_wait_answered(&l->wait, rc, err);
}

/* All names of one node. */
static int list_node(struct tier *t, struct listing *l, unsigned node, Scoutkv__ObjectList *list,
                     struct skv_error *err)
{
    int rc = 0;
    list->after = (char *)(uintptr_t) "";
    do {
        Scoutkv__Header h = SCOUTKV__HEADER__INIT;
        h.body_case = SCOUTKV__HEADER__BODY_OBJECT_LIST;
        h.object_list = list;
        l->wait = (struct tier_wait){.open = 1};
        rc = client_call(tier_client(t), node, false, &h, (struct view){0},
                         SCOUTKV__HEADER__BODY_OBJECT_NAMES, names_answered, l, clock_ns(), err);
        if (rc == 0)
            rc = tier_wait_all(t, &l->wait, err);
        if (rc == 0 && l->more && strcmp(l->all[l->n - 1].name, list->after) <= 0)
            rc = skv_fail(err, -EPROTO, "a memory node lists names in no order");
        else if (rc == 0 && l->more)
            list->after = l->all[l->n - 1].name;
    } while (rc == 0 && l->more);
    return rc;
}

static int by_name(const void *a, const void *b)
{
    const struct listed *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order ? order : (x->revision < y->revision) - (x->revision > y->revision);
}

int tier_object_list(struct tier *t, enum tier_object kind, const char *prefix,
                     void (*each)(void *arg, const char *name), void *arg, struct skv_error *err)
{
    struct client *c = tier_client(t);
    struct listing l = {0};
    struct skv_error failure = {0};
    Scoutkv__ObjectList list = SCOUTKV__OBJECT_LIST__INIT;
    unsigned n_listed = 0;
    int rc = 0;
    if (prefix && strlen(prefix) > TIER_NAME_MAX)
        return skv_fail(err, -EINVAL, "no object's name has more than %d bytes", TIER_NAME_MAX);
    list.kind = kind == TIER_MANIFEST ? SCOUTKV__OBJECT_KIND__MANIFEST : SCOUTKV__OBJECT_KIND__SIDECAR;
    list.prefix = (char *)(uintptr_t)(prefix ? prefix : "");
    list.dropped = true;
    for (unsigned i = 0; i < client_n_nodes(c) && rc == 0; i++) {
        unsigned node = client_node_at(c, i);
        rc = list_node(t, &l, node, &list, &failure);
        n_listed += rc == 0;
        if (rc && !client_node_up(c, node)) /* it is away: the others' names are what there is */
            rc = 0;
    }
    if (rc || n_listed == 0) {
        if (err)
            *err = failure;
        rc = failure.code;
    } else if (l.n) {
        qsort(l.all, l.n, sizeof *l.all, by_name);
    }
    for (size_t i = 0; i < l.n && rc == 0; i++)
        if ((i == 0 || strcmp(l.all[i].name, l.all[i - 1].name) != 0) && !l.all[i].dropped)
            each(arg, l.all[i].name);
    for (size_t i = 0; i < l.n; i++)
        free(l.all[i].name);
    free(l.all);
    return rc;
}
