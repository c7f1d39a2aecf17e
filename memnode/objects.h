/* objects.h: manifests and sidecars by (namespace, kind, name), sorted, so that they can be listed page by
 * page. */
#ifndef MEMNODE_OBJECTS_H
#define MEMNODE_OBJECTS_H

#include "memnode/memory.h"
#include "proto/message.h"

enum { OBJECT_NAME_MAX = 255 };

struct object {
    uint64_t ns;
    Scoutkv__ObjectKind kind;
    uint64_t revision; /* rising */
    uint64_t checksum;
    uint64_t until;    /* ns; UINT64_MAX: for ever */
    bool dropped;      /* only the mark that a drop left */
    struct buf *bytes; /* NULL when dropped */
    char name[];
};

/* What a put or a drop makes of it. */
struct object_version {
    uint64_t revision, checksum, until;
    bool dropped;
    const void *bytes; /* copied */
    size_t len;
};

struct objects;

struct objects *objects_new(struct memory *); /* NULL when out of memory */
void objects_free(struct objects *);          /* NULL is allowed */

const struct object *object_find(const struct objects *, uint64_t ns, Scoutkv__ObjectKind, const char *name);
/* Stores a copy, in place of the former one if there is. -ENOSPC: nothing has changed. */
int object_store(struct objects *, uint64_t ns, Scoutkv__ObjectKind, const char *name,
                 const struct object_version *);
void object_move_end(struct objects *, const struct object *, uint64_t until_ns);
/* Forgets what has ended. */
void objects_tick(struct objects *, uint64_t now_ns);
/* Objects with names after `after` that begin with prefix, in order: fills out[max] (valid until something
 * changes) and says whether there are more. Returns how many. */
size_t objects_list(const struct objects *, uint64_t ns, Scoutkv__ObjectKind, const char *prefix,
                    const char *after, bool dropped_too, const struct object **out, size_t max, bool *more);
uint64_t objects_count(const struct objects *); /* without those that were dropped */

#endif
