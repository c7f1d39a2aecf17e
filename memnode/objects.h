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
    uint64_t revision; /* 1 for the first put of a name, then rising */
    uint64_t checksum;
    struct buf *bytes;
    char name[];
};

struct objects;

struct objects *objects_new(struct memory *); /* NULL when out of memory */
void objects_free(struct objects *);          /* NULL is allowed */

const struct object *object_find(const struct objects *, uint64_t ns, Scoutkv__ObjectKind, const char *name);
/* Stores a copy, in place of the former one if there is. -ENOSPC. */
int object_store(struct objects *, uint64_t ns, Scoutkv__ObjectKind, const char *name, const void *bytes,
                 size_t len, uint64_t checksum, const struct object **out);
/* Names after `after` that begin with prefix, in order: fills out[max] (valid until the next object_store)
 * and says whether there are more. Returns how many. */
size_t objects_list(const struct objects *, uint64_t ns, Scoutkv__ObjectKind, const char *prefix,
                    const char *after, const char **out, size_t max, bool *more);
uint64_t objects_count(const struct objects *);

#endif
