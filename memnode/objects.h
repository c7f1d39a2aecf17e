/* objects.h: manifests and sidecars by (namespace, kind, name), sorted, so that they can be listed page by
 * page. Their names and what is told about them are in memory; their bytes are blocks of the store, in RAM,
 * on a disk or both, and are never evicted (object_block.h). */
#ifndef MEMNODE_OBJECTS_H
#define MEMNODE_OBJECTS_H

#include "memnode/object_block.h"
#include "memnode/store/store.h"
#include "proto/message.h"

/* Kinds of the node's own, which no client names: leases (node_leases.c), the cluster's view (node_view.c).
 */
#define OBJECT_LEASES ((Scoutkv__ObjectKind)100)
#define OBJECT_VIEW ((Scoutkv__ObjectKind)101)

struct object {
    uint64_t ns;
    Scoutkv__ObjectKind kind;
    uint64_t revision; /* rising */
    uint64_t serial;   /* see struct object_head */
    uint64_t checksum;
    uint64_t until;        /* ns; UINT64_MAX: for ever */
    uint64_t until_stored; /* the end that its block tells: not before `until`, or that is not known yet */
    size_t len;
    uint8_t slot; /* its version lies here, */
    bool former;  /* and in the other slot what it was before, until this one is on the medium */
    bool dropped; /* only the mark that a drop left */
    char name[];
};

/* What a put or a drop makes of it. */
struct object_version {
    uint64_t revision, checksum, until;
    bool dropped;
    bool makes_room;   /* a drop, which is done before its mark is kept when room is short */
    const void *bytes; /* copied */
    size_t len;
};

struct objects_opts {
    struct memory *memory;
    struct store *store;
    int64_t wall_offset; /* wall clock - the node's */
    bool disks;
};

struct objects;

struct objects *objects_new(const struct objects_opts *); /* NULL when out of memory */
void objects_free(struct objects *);                      /* before store_close; NULL is allowed */

/* Finds what lies on the disks, some at a time, once the store knows: 0 done, 1 there is more to do now, 2
 * something has to come from a disk first. Nothing else may be called before it is done. */
int objects_begin(struct objects *, uint64_t now_ns);

const struct object *object_find(const struct objects *, uint64_t ns, Scoutkv__ObjectKind, const char *name);
/* Whether something that can't be read lies under this name, of which nothing else is known. */
bool object_unreadable(const struct objects *, uint64_t ns, Scoutkv__ObjectKind, const char *name);
/* Its block; NULL, or without bytes anywhere: it can't be read any more. */
struct block *object_block(const struct objects *, const struct object *);
/* Stores a copy, in place of the former one if there is. 0; -EAGAIN: not now; -ENOSPC, -EROFS with the
 * sentence. Nothing has changed then. */
int object_store(struct objects *, uint64_t ns, Scoutkv__ObjectKind, const char *name,
                 const struct object_version *, struct skv_error *err);
/* Moves its end. False: it has to be stored anew for that, as its block tells another one. */
bool object_move_end(struct objects *, const struct object *, uint64_t until_ns);
/* Forgets what has ended, and what was replaced by something that is on the medium. */
void objects_tick(struct objects *, uint64_t now_ns);
/* Objects with names after `after` that begin with prefix, in order: fills out[max] (valid until something
 * changes) and says whether there are more. Returns how many. */
size_t objects_list(const struct objects *, uint64_t ns, Scoutkv__ObjectKind, const char *prefix,
                    const char *after, bool dropped_too, const struct object **out, size_t max, bool *more);
/* The next one of this kind, of any namespace, that was not dropped; *at begins with 0. NULL: that was all.
 */
const struct object *objects_next(const struct objects *, size_t *at, Scoutkv__ObjectKind);
uint64_t objects_count(const struct objects *); /* manifests and sidecars, without those that were dropped */

#endif
