/* objects_many.c: reads many objects with a few requests under way at once: a saved context's index is
 * thousands of them, and a round trip for each would be most of its opening.
 *
 * Each object goes its own way down the nodes in rank of its name: found, or the next one is asked. For
 * sidecars only: they never change, so the first copy that passes its checksum will do. */
#include "decoder/tier/tier_internal.h"

#include "common/clock.h"

#include <errno.h>
#include <stdlib.h>

enum { AT_ONCE = 16 }; /* of up to 1 MiB each */

struct many;

/* One object being read. */
struct read {
    struct many *many;
    size_t i;
    unsigned place; /* in rank, of the node asked */
    struct tier_ranked nodes;
    struct skv_error failure; /* of a node that may have it; code 0: none */
    char name[TIER_NAME_MAX + 1];
};

struct many {
    struct tier *t;
    size_t n, next; /* of which `next` have been begun */
    unsigned open;
    tier_object_name_fn *name;
    tier_object_fn *each;
    void *arg;
    struct skv_error failure; /* the first that each() returned */
    struct read reads[AT_ONCE];
};

static void read_next(struct read *);
static void read_ask(struct read *);

/* Hands the outcome over and uses the place for the next object. */
static void read_done(struct read *r, int rc, struct view bytes, const struct skv_error *why)
{
    struct many *m = r->many;
    struct skv_error err = {0};
    if (rc)
        err = *why;
    rc = m->each(m->arg, r->i, rc, bytes.data, bytes.len, &err);
    if (rc && !m->failure.code) {
        m->failure = err;
        m->failure.code = rc;
    }
    m->open--;
    read_next(r);
}

static void read_answered(void *arg, int rc, const struct message *a, const struct skv_error *err)
{
    struct read *r = arg;
    const Scoutkv__ObjectKind kind = SCOUTKV__OBJECT_KIND__SIDECAR;
    if (rc == 0 && a->header->object->found) {
        if (object_checksum(kind, r->name, a->payload.data, a->payload.len) == a->header->object->checksum) {
            read_done(r, 0, a->payload, NULL);
            return;
        }
        skv_fail(&r->failure, -EBADMSG, "object \"%.100s\" failed its checksum", r->name);
    } else if (rc && !r->failure.code) {
        r->failure = *err;
    }
    r->place++;
    read_ask(r);
}

/* Asks the node at r->place, or says that nobody has it. */
static void read_ask(struct read *r)
{
    struct client *c = tier_client(r->many->t);
    Scoutkv__ObjectGet get = SCOUTKV__OBJECT_GET__INIT;
    get.kind = SCOUTKV__OBJECT_KIND__SIDECAR;
    get.name = r->name;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.body_case = SCOUTKV__HEADER__BODY_OBJECT_GET;
    h.object_get = &get;
    struct skv_error err;
    for (; r->place < r->nodes.n; r->place++) {
        int rc = client_call(c, r->nodes.order[r->place], false, &h, (struct view){0},
                             SCOUTKV__HEADER__BODY_OBJECT, read_answered, r, clock_ns(), &err);
        if (rc == 0)
            return;
        if (!r->failure.code)
            r->failure = err;
    }
    if (!r->failure.code)
        skv_fail(&r->failure, -ENOENT, "no memory node holds an object named \"%.100s\"", r->name);
    read_done(r, r->failure.code, (struct view){0}, &r->failure);
}

static void read_next(struct read *r)
{
    struct many *m = r->many;
    if (m->next == m->n || m->failure.code)
        return;
    r->i = m->next++;
    r->place = 0;
    r->failure.code = 0;
    m->open++;
    m->name(m->arg, r->i, r->name);
    r->nodes = tier_rank_nodes(m->t, TIER_SIDECAR, r->name);
    read_ask(r);
}

int tier_sidecars_get(struct tier *t, size_t n, tier_object_name_fn *name, tier_object_fn *each, void *arg,
                      struct skv_error *err)
{
    struct many *m = calloc(1, sizeof *m);
    if (!m)
        return skv_fail(err, -ENOMEM, "out of memory");
    *m = (struct many){.t = t, .n = n, .name = name, .each = each, .arg = arg};
    for (unsigned i = 0; i < AT_ONCE; i++) {
        m->reads[i].many = m;
        read_next(&m->reads[i]);
    }
    while (m->open)
        tier_pump(t, 20, NULL);
    int rc = m->failure.code;
    if (rc)
        skv_fail(err, rc, "%s", m->failure.text);
    free(m);
    return rc;
}
