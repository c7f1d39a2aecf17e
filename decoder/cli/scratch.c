#include "decoder/cli/scratch.h"

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int scratch_make(const char *parent, char out[PATH_MAX], struct skv_error *err)
{
    char dir[PATH_MAX];
    out[0] = 0;
    if (snprintf(dir, sizeof dir, "%s/scoutkv-bench-XXXXXX", parent) >= (int)sizeof dir)
        return skv_fail(err, -ENAMETOOLONG, "the name of the directory is too long");
    if (!mkdtemp(dir))
        return skv_fail(err, -errno, "cannot make a directory in %s: %s", parent, strerror(errno));
    memcpy(out, dir, sizeof dir);
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

void scratch_remove(const char *dir)
{
    if (dir[0] && nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS))
        fprintf(stderr, "scoutkv: cannot remove %s: %s\n", dir, strerror(errno));
}
