/* objects.c: see objects.h. A sorted array of pointers: there are thousands at most, and lists want the
 * order. */
#include "memnode/objects.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct objects {
    struct memory *memory;
    struct object **sorted;
    size_t n, room, n_dropped;
    uint64_t earliest; /* none ends before */
};

struct objects *objects_new(struct memory *memory)
{
    struct objects *o = calloc(1, sizeof *o);
    if (o)
        *o = (struct objects){.memory = memory, .earliest = UINT64_MAX};
    return o;
}

static size_t entry_bytes(const char *name)
{
    return sizeof(struct object) + strlen(name) + 1 + sizeof(struct object *);
}

static void object_free(struct objects *o, struct object *e)
{
    memory_uncharge(o->memory, entry_bytes(e->name));
    buf_unref(e->bytes);
    free(e);
}

void objects_free(struct objects *o)
{
    if (!o)
        return;
    for (size_t i = 0; i < o->n; i++)
        object_free(o, o->sorted[i]);
    free(o->sorted);
    free(o);
}

static int compare(const struct object *o, uint64_t ns, Scoutkv__ObjectKind kind, const char *name)
{
    if (o->ns != ns)
        return o->ns < ns ? -1 : 1;
    if (o->kind != kind)
        return o->kind < kind ? -1 : 1;
    return strcmp(o->name, name);
}

/* The first object that is not less; o->n if all are. */
static size_t lower_bound(const struct objects *o, uint64_t ns, Scoutkv__ObjectKind kind, const char *name)
{
    size_t lo = 0, hi = o->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (compare(o->sorted[mid], ns, kind, name) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static struct object *at_name(const struct objects *o, size_t i, uint64_t ns, Scoutkv__ObjectKind kind,
                              const char *name)
{
    return i < o->n && compare(o->sorted[i], ns, kind, name) == 0 ? o->sorted[i] : NULL;
}

const struct object *object_find(const struct objects *o, uint64_t ns, Scoutkv__ObjectKind kind,
                                 const char *name)
{
    return at_name(o, lower_bound(o, ns, kind, name), ns, kind, name);
}

/* Makes room for one more and an entry for it at i. NULL when there is no memory. */
static struct object *insert(struct objects *o, size_t i, uint64_t ns, Scoutkv__ObjectKind kind,
                             const char *name)
{
    if (o->n == o->room) {
        size_t room = o->room ? 2 * o->room : 64;
        struct object **sorted = realloc(o->sorted, room * sizeof *sorted);
        if (!sorted)
            return NULL;
        o->sorted = sorted;
        o->room = room;
    }
    if (!memory_charge(o->memory, entry_bytes(name)))
        return NULL;
    struct object *e = calloc(1, sizeof *e + strlen(name) + 1);
    if (!e) {
        memory_uncharge(o->memory, entry_bytes(name));
        return NULL;
    }
    e->ns = ns;
    e->kind = kind;
    memcpy(e->name, name, strlen(name) + 1);
    memmove(o->sorted + i + 1, o->sorted + i, (o->n - i) * sizeof *o->sorted);
    o->sorted[i] = e;
    o->n++;
    return e;
}

void object_move_end(struct objects *o, const struct object *object, uint64_t until)
{
    struct object *e = (struct object *)(uintptr_t)object; /* it is ours */
    e->until = until;
    if (until < o->earliest)
        o->earliest = until;
}

int object_store(struct objects *o, uint64_t ns, Scoutkv__ObjectKind kind, const char *name,
                 const struct object_version *v)
{
    size_t i = lower_bound(o, ns, kind, name);
    struct object *e = at_name(o, i, ns, kind, name);
    struct buf *copy = v->dropped ? NULL : memory_buf(o->memory, MEMORY_STORE, v->len);
    if ((!copy && !v->dropped) || (!e && !(e = insert(o, i, ns, kind, name)))) {
        buf_unref(copy);
        return -ENOSPC;
    }
    if (v->len)
        memcpy(copy->data, v->bytes, v->len);
    buf_unref(e->bytes);
    o->n_dropped += (size_t)v->dropped - (size_t)e->dropped;
    e->bytes = copy;
    e->revision = v->revision;
    e->checksum = v->checksum;
    e->dropped = v->dropped;
    object_move_end(o, e, v->until);
    return 0;
}

void objects_tick(struct objects *o, uint64_t now)
{
    size_t n = 0;
    if (now < o->earliest)
        return;
    o->earliest = UINT64_MAX;
    for (size_t i = 0; i < o->n; i++) {
        struct object *e = o->sorted[i];
        if (e->until <= now) {
            o->n_dropped -= e->dropped;
            object_free(o, e);
            continue;
        }
        if (e->until < o->earliest)
            o->earliest = e->until;
        o->sorted[n++] = e;
    }
    o->n = n;
}

size_t objects_list(const struct objects *o, uint64_t ns, Scoutkv__ObjectKind kind, const char *prefix,
                    const char *after, bool dropped_too, const struct object **out, size_t max, bool *more)
{
    size_t n = 0, prefix_len = strlen(prefix);
    *more = false;
    for (size_t i = lower_bound(o, ns, kind, strcmp(after, prefix) > 0 ? after : prefix); i < o->n; i++) {
        const struct object *e = o->sorted[i];
        if (e->ns != ns || e->kind != kind || strncmp(e->name, prefix, prefix_len) != 0)
            break;
        if (strcmp(e->name, after) == 0 || (e->dropped && !dropped_too))
            continue;
        if (n == max) {
            *more = true;
            break;
        }
        out[n++] = e;
    }
    return n;
}

uint64_t objects_count(const struct objects *o)
{
    return o->n - o->n_dropped;
}
