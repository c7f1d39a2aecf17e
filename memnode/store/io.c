/* io.c: which backend a node takes; see io.h. */
#include "memnode/store/io.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct io *io_new(struct skv_error *why, struct skv_error *err)
{
    const char *asked = getenv("SCOUTKV_IO");
    bool threads = asked && strcmp(asked, "threads") == 0, uring = asked && strcmp(asked, "uring") == 0;
    struct skv_error refusal;
    skv_fail(why, 0, "%s", "");
    if (asked && *asked && !threads && !uring) {
        skv_fail(err, -EINVAL, "SCOUTKV_IO is \"%s\" in the environment; it can be threads or uring", asked);
        return NULL;
    }
    if (threads) {
        skv_fail(why, 0, "threads read and write, not io_uring, as SCOUTKV_IO in the environment asks for");
        return io_threads_new(err);
    }
    struct io *io = io_uring_new(uring ? err : &refusal);
    if (io || uring)
        return io;
    skv_fail(why, refusal.code, "%s; threads read and write instead, which is slower", refusal.text);
    return io_threads_new(err);
}
