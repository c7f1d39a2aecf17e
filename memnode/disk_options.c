/* disk_options.c: see disk_options.h. */
#include "memnode/disk_options.h"
#include "common/size.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The last colon counts: a directory may have some in its name, a size has none. */
static int parse_one(const char *text, struct store_disk *out, struct skv_error *err)
{
    const char *colon = strrchr(text, ':');
    if (!colon || colon == text || size_parse(colon + 1, &out->size))
        return skv_fail(err, -EINVAL, "'%.300s' is not DIR:SIZE, such as /var/lib/scoutkv:200GiB", text);
    if (out->size < STORE_DISK_MIN)
        return skv_fail(err, -EINVAL, "'%.300s' is too small: a disk has at least %d MiB", text,
                        STORE_DISK_MIN >> 20);
    out->dir = strndup(text, (size_t)(colon - text));
    return out->dir ? 0 : skv_fail(err, -ENOMEM, "out of memory");
}

int disk_options_parse(const char *const *texts, size_t n, struct disk_options *out, struct skv_error *err)
{
    int rc = 0;
    *out = (struct disk_options){0};
    if (n > STORE_MAX_DISKS)
        return skv_fail(err, -EINVAL, "%zu disks are too many: a node takes at most %d", n, STORE_MAX_DISKS);
    for (size_t i = 0; i < n && rc == 0; i++) {
        rc = parse_one(texts[i], &out->disk[i], err);
        if (rc)
            break;
        out->n++;
        for (size_t j = 0; j < i; j++)
            if (strcmp(out->disk[i].dir, out->disk[j].dir) == 0)
                rc = skv_fail(err, -EINVAL, "'%.300s' is given twice: every disk has a directory of its own",
                              out->disk[i].dir);
    }
    if (rc)
        disk_options_free(out);
    return rc;
}

uint64_t disk_options_bytes(const struct disk_options *o)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < o->n; i++)
        sum += o->disk[i].size;
    return sum;
}

void disk_options_free(struct disk_options *o)
{
    for (size_t i = 0; i < o->n; i++)
        free((char *)(uintptr_t)o->disk[i].dir);
    o->n = 0;
}
