#include "decoder/cli/emit.h"

#include <errno.h>
#include <string.h>

static int write_sure(struct emit *e, struct skv_error *err)
{
    size_t n = e->s.sure - e->written;
    if (e->out && n && (fwrite(e->s.text + e->written, 1, n, e->out) != n || fflush(e->out)))
        return skv_fail(err, errno ? -errno : -EIO, "cannot write the text: %s",
                        strerror(errno ? errno : EIO));
    e->written = e->s.sure;
    return 0;
}

int emit_push(struct emit *e, const char *bytes, size_t n, struct skv_error *err)
{
    int rc = stop_text_push(&e->s, bytes, n);
    return rc ? skv_fail(err, rc, "out of memory") : write_sure(e, err);
}

int emit_end(struct emit *e, struct skv_error *err)
{
    int rc = stop_text_end(&e->s);
    return rc ? skv_fail(err, rc, "out of memory") : write_sure(e, err);
}

void emit_free(struct emit *e)
{
    stop_text_free(&e->s);
    *e = (struct emit){0};
}
