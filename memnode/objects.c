/* objects.c: see objects.h. A sorted array of pointers: there are thousands, and lists want the order. */
#include "memnode/objects.h"
#include "common/clock.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    ENTRY_ROOM = 4096, /* holds one, and its share of the array */
    SETTLE_NS = 200000000,
    FINDING = 64, /* pages being read at once, about */
};
static const uint64_t FOR_EVER = UINT64_MAX;

struct objects {
    struct objects_opts opts;
    struct object **sorted;
    size_t n, room, n_former;
    uint64_t earliest; /* none ends before */
    uint64_t now, settle_at;
    bool found; /* what lies on the disks */
    size_t walked;
    unsigned finding;
};

struct objects *objects_new(const struct objects_opts *opts)
{
    struct objects *o = calloc(1, sizeof *o);
    if (!o)
        return NULL;
    *o = (struct objects){.opts = *opts, .earliest = FOR_EVER, .found = !opts->disks};
    return o;
}

static size_t entry_bytes(const char *name)
{
    return sizeof(struct object) + strlen(name) + 1 + sizeof(struct object *);
}

static void object_free(struct objects *o, struct object *e)
{
    o->n_former -= e->former;
    memory_uncharge(o->opts.memory, entry_bytes(e->name));
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
    if (!memory_charge(o->opts.memory, entry_bytes(name)))
        return NULL;
    struct object *e = calloc(1, sizeof *e + strlen(name) + 1);
    if (!e) {
        memory_uncharge(o->opts.memory, entry_bytes(name));
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

/* Takes back an entry that insert made. */
static void uninsert(struct objects *o, size_t i)
{
    object_free(o, o->sorted[i]);
    memmove(o->sorted + i, o->sorted + i + 1, (--o->n - i) * sizeof *o->sorted);
}

/* ---- blocks ---- */

static struct block *block_in(const struct objects *o, uint64_t ns, Scoutkv__ObjectKind kind,
                              const char *name, unsigned slot)
{
    struct block_key key;
    object_block_key(&key, ns, kind, name, slot);
    return store_find(o->opts.store, &key);
}

static void remove_block(struct objects *o, const struct object *e, unsigned slot)
{
    struct block *b = block_in(o, e->ns, e->kind, e->name, slot);
    if (b)
        store_remove(o->opts.store, b);
}

struct block *object_block(const struct objects *o, const struct object *e)
{
    /* A block of which nobody knows what it is may be a later version of it. */
    if (!e->former && block_in(o, e->ns, e->kind, e->name, !e->slot))
        return NULL;
    struct block *b = block_in(o, e->ns, e->kind, e->name, e->slot);
    return b && (b->buf || b->segment != NO_SEGMENT) ? b : NULL;
}

bool object_unreadable(const struct objects *o, uint64_t ns, Scoutkv__ObjectKind kind, const char *name)
{
    return block_in(o, ns, kind, name, 0) || block_in(o, ns, kind, name, 1);
}

static void set_former(struct objects *o, struct object *e, bool former)
{
    o->n_former += (size_t)former - (size_t)e->former;
    e->former = former;
}

/* Lets what it was before go, if what it is now is on the medium. */
static bool settle(struct objects *o, struct object *e)
{
    const struct block *b = e->former ? block_in(o, e->ns, e->kind, e->name, e->slot) : NULL;
    if (b && block_durable(b)) {
        remove_block(o, e, !e->slot);
        set_former(o, e, false);
    }
    return !e->former;
}

/* ---- ends ---- */

static void set_end(struct objects *o, struct object *e, uint64_t until)
{
    e->until = until;
    if (until < o->earliest)
        o->earliest = until;
}

static uint64_t wall_of(const struct objects *o, uint64_t until)
{
    return until == FOR_EVER ? 0 : until + (uint64_t)o->opts.wall_offset;
}

static uint64_t until_of(const struct objects *o, uint64_t wall)
{
    uint64_t wall_now = o->now + (uint64_t)o->opts.wall_offset;
    return wall == 0 ? FOR_EVER : wall <= wall_now ? o->now : wall - (uint64_t)o->opts.wall_offset;
}

/* To move an end means to write all of an object anew: so the block of one that is not a manifest tells a
 * later end, which is moved less often. It may live a little longer than it should, after a restart. */
static uint64_t end_to_store(const struct objects *o, Scoutkv__ObjectKind kind, uint64_t until)
{
    if (kind == SCOUTKV__OBJECT_KIND__MANIFEST || until == FOR_EVER || until <= o->now)
        return until;
    uint64_t slack = (until - o->now) / 4;
    return until + slack < until ? FOR_EVER : until + slack;
}

bool object_move_end(struct objects *o, const struct object *object, uint64_t until)
{
    struct object *e = (struct object *)(uintptr_t)object; /* it is ours */
    bool manifest = e->kind == SCOUTKV__OBJECT_KIND__MANIFEST;
    if (o->opts.disks && (manifest ? until != e->until_stored : until > e->until_stored))
        return false;
    set_end(o, e, until);
    return true;
}

void objects_tick(struct objects *o, uint64_t now)
{
    size_t n = 0;
    o->now = now;
    if (!o->found)
        return;
    if (o->n_former && now >= o->settle_at) {
        o->settle_at = now + SETTLE_NS;
        for (size_t i = 0; i < o->n && o->n_former; i++)
            settle(o, o->sorted[i]);
    }
    if (now < o->earliest)
        return;
    o->earliest = FOR_EVER;
    for (size_t i = 0; i < o->n; i++) {
        struct object *e = o->sorted[i];
        if (e->until <= now) {
            remove_block(o, e, 0);
            remove_block(o, e, 1);
            object_free(o, e);
            continue;
        }
        if (e->until < o->earliest)
            o->earliest = e->until;
        o->sorted[n++] = e;
    }
    o->n = n;
}

/* ---- storing ---- */

static void forget_bytes(struct objects *o, struct object *e)
{
    remove_block(o, e, 0);
    remove_block(o, e, 1);
    set_former(o, e, false);
}

/* The slot for the next version. -EAGAIN: both are needed. */
static int free_slot(struct objects *o, struct object *e, struct skv_error *err)
{
    if (settle(o, e))
        return !e->slot;
    const struct block *b = block_in(o, e->ns, e->kind, e->name, e->slot);
    if (b && b->put) {
        store_hurry(o->opts.store);
        return skv_fail(err, -EAGAIN, "the version before it is still being written");
    }
    return e->slot; /* it is lost, or its disk failed; the one before it may yet be there */
}

/* Makes the block of a version in this slot. */
static int put_block(struct objects *o, const struct object *e, unsigned slot, const struct object_version *v,
                     const struct object_head *head, struct skv_error *err)
{
    uint64_t checksums[OBJECT_PAGES];
    struct block_key key;
    struct block_layout l;
    struct block *b;
    struct buf *buf;
    object_block_key(&key, e->ns, e->kind, e->name, slot);
    object_block_layout(&l, v->len);
    assert(layout_pages(&l) <= OBJECT_PAGES);
    int rc = store_room(o->opts.store, layout_block_bytes(&l), &buf, err);
    if (rc)
        return rc;
    object_block_fill(buf->data, head, v->bytes);
    block_checksums(&key, &l, buf->data, checksums);
    remove_block(o, e, slot); /* what can't be read, or no longer counts */
    rc = store_put(o->opts.store, &key, &l, buf, checksums, &b, err);
    buf_unref(buf);
    return rc;
}

int object_store(struct objects *o, uint64_t ns, Scoutkv__ObjectKind kind, const char *name,
                 const struct object_version *v, struct skv_error *err)
{
    bool known = object_find(o, ns, kind, name), bare = v->dropped && !o->opts.disks;
    (void)store_make_room(o->opts.store, ENTRY_ROOM);
    size_t i = lower_bound(o, ns, kind, name);
    struct object *e = known ? o->sorted[i] : insert(o, i, ns, kind, name);
    if (!e)
        return skv_fail(err, -ENOSPC,
                        "no memory is left for the name of '%s': start the node with a larger --ram", name);
    if (known && v->makes_room && store_tight(o->opts.store))
        forget_bytes(o, e); /* its mark could wait for the room that it makes */
    int slot = known && !bare ? free_slot(o, e, err) : 0, rc = slot < 0 ? slot : 0;
    uint64_t until_stored = end_to_store(o, kind, v->until);
    struct object_head head = {.revision = v->revision,
                               .serial = e->serial + 1,
                               .checksum = v->checksum,
                               .end_wall = wall_of(o, until_stored),
                               .kind = kind,
                               .len = (uint32_t)v->len,
                               .dropped = v->dropped};
    memcpy(head.name, name, strlen(name));
    if (rc == 0 && !bare)
        rc = put_block(o, e, (unsigned)slot, v, &head, err);
    if ((rc == -ENOSPC || rc == -EAGAIN) && known && v->makes_room) {
        forget_bytes(o, e);
        bare = true;
        rc = 0;
    }
    if (rc) {
        if (!known)
            uninsert(o, i);
        return rc;
    }
    if (!o->opts.disks) /* there is no former one to fall back on */
        remove_block(o, e, bare ? e->slot : !slot);
    else if (bare)
        slot = e->slot;
    else if (known && slot != e->slot)
        set_former(o, e, block_in(o, ns, kind, name, e->slot));
    else if (!known)
        remove_block(o, e, 1);
    e->slot = (uint8_t)slot;
    e->revision = v->revision;
    e->serial = head.serial;
    e->checksum = v->checksum;
    e->len = v->len;
    e->dropped = v->dropped;
    e->until_stored = until_stored;
    set_end(o, e, v->until);
    return 0;
}

/* ---- restart ---- */

struct find {
    struct objects *o;
    struct block_key key;
    struct block_layout layout;
    struct store_read read;
    uint8_t *page;
    bool again; /* this is the second try */
};

/* What the first page of a block says becomes an entry, or the later of two. */
static void take_head(struct objects *o, const struct block_key *key, const struct block_layout *layout,
                      const void *page)
{
    struct object_head h;
    struct block_layout l;
    if (!object_block_head(page, key, &h) || h.len > PROTO_MAX_OBJECT)
        return;
    object_block_layout(&l, h.len);
    if (!layout_equal(&l, layout))
        return;
    size_t i = lower_bound(o, key->ns, h.kind, h.name);
    struct object *e = at_name(o, i, key->ns, h.kind, h.name);
    bool first = !e;
    if (first && !(e = insert(o, i, key->ns, h.kind, h.name)))
        return; /* it stays a block that nobody knows */
    if (!first) {
        set_former(o, e, true);
        if (h.revision < e->revision || (h.revision == e->revision && h.serial < e->serial))
            return;
    }
    e->slot = (uint8_t)object_block_slot(key);
    e->revision = h.revision;
    e->serial = h.serial;
    e->checksum = h.checksum;
    e->len = h.len;
    e->dropped = h.dropped;
    e->until_stored = until_of(o, h.end_wall);
    set_end(o, e, e->until_stored);
}

static void find_end(struct find *f)
{
    f->o->finding--;
    free(f->page);
    free(f);
}

static void page_read(struct store_read *r)
{
    struct find *f = r->arg;
    struct block *b = r->good || f->again ? NULL : store_find(f->o->opts.store, &f->key);
    f->again = true; /* a read may go wrong once, and whether the node knows the object depends on this one */
    if (b && b->segment != NO_SEGMENT && store_read(f->o->opts.store, b, &f->read) == 0)
        return;
    if (r->good)
        take_head(f->o, &f->key, &f->layout, f->page);
    find_end(f);
}

static void find_one(void *arg, struct block *b)
{
    struct objects *o = arg;
    if (b->damaged && !b->buf) { /* torn: nobody was told that it is there */
        store_remove(o->opts.store, b);
        return;
    }
    if (b->buf) {
        take_head(o, &b->key, &b->layout, b->buf->data);
        return;
    }
    struct find *f = malloc(sizeof *f);
    uint8_t *page = f ? aligned_alloc(OBJECT_PAGE, OBJECT_PAGE) : NULL;
    if (!page) {
        free(f);
        return;
    }
    *f = (struct find){.o = o, .key = b->key, .layout = b->layout, .page = page};
    f->read = (struct store_read){.into = page, .n = 1, .done = page_read, .arg = f};
    o->finding++;
    if (store_read(o->opts.store, b, &f->read))
        find_end(f);
}

int objects_begin(struct objects *o, uint64_t now)
{
    bool more = true;
    if (o->found)
        return 0;
    o->now = now;
    if (store_state(o->opts.store, NULL) == STORE_STARTING)
        return 2;
    while (more && o->finding < FINDING)
        more = store_walk_reserved(o->opts.store, &o->walked, find_one, o);
    if (more || o->finding)
        return o->finding ? 2 : 1;
    o->found = true;
    return 0;
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

const struct object *objects_next(const struct objects *o, size_t *at, Scoutkv__ObjectKind kind)
{
    while (*at < o->n) {
        const struct object *e = o->sorted[(*at)++];
        if (e->kind == kind && !e->dropped)
            return e;
    }
    return NULL;
}

uint64_t objects_count(const struct objects *o)
{
    uint64_t n = 0;
    for (size_t i = 0; i < o->n; i++)
        n += !o->sorted[i]->dropped && o->sorted[i]->kind < OBJECT_LEASES;
    return n;
}
