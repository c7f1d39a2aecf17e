/* node_view.c: the view of the cluster that this node knows.
 *
 * DESIGN. A node does not act by the view: clients place blocks. It keeps the newest one that it was given,
 * hands it out, and tells its epoch in every answer, so that whoever talks to two nodes carries the newer
 * view to the other. A write by an older view is refused: the block would be put where it is looked for last.
 * Reads are served whatever the reader knows; they walk all nodes. With disks it is kept there as an object
 * of the node's own, within a moment: it is not waited for, as a node that starts with an old one, or none,
 * is told by the first client that knows better. */
#include "memnode/node_impl.h"
#include "common/cluster_view.h"

#include <errno.h>
#include <stdlib.h>

#define REASON(x) SCOUTKV__REFUSED__REASON__##x

bool view_stale(struct call *c, uint64_t credit)
{
    uint64_t theirs = c->message->header->epoch, ours = c->node->epoch;
    if (theirs >= ours)
        return false;
    call_refuse(c, REASON(STALE_VIEW), credit,
                "the write goes by epoch %" PRIu64
                " of the cluster's view, and node '%s' knows epoch %" PRIu64 "; get that and write again",
                theirs, c->node->id, ours);
    return true;
}

/* ---- keeping it ---- */

static const char NAME[] = "view";

static void view_take(struct node *n, const struct cluster_view *v, struct buf *text)
{
    buf_unref(n->view);
    n->view = buf_ref(text);
    n->epoch = v->epoch;
    n->view_nodes = v->n;
    n->view_unkept = n->n_disks > 0;
}

void view_keep(struct node *n)
{
    if (!n->view_unkept || node_starting(n))
        return;
    struct object_version version = {.revision = n->epoch,
                                     .checksum =
                                         object_checksum(OBJECT_VIEW, NAME, n->view->data, n->view->len),
                                     .until = UINT64_MAX,
                                     .bytes = n->view->data,
                                     .len = n->view->len};
    struct skv_error why;
    int rc = object_store(n->objects, 0, OBJECT_VIEW, NAME, &version, &why);
    n->view_unkept = rc == -EAGAIN;
    if (rc && rc != -EAGAIN)
        log_write(n->log, LOG_LEVEL_WARN, "the cluster's view is kept in RAM only: %s", why.text);
}

static void view_found(struct node *n, const uint8_t *bytes, size_t len)
{
    struct cluster_view *v = malloc(sizeof *v);
    struct buf *text = buf_copy(bytes, len);
    if (v && text && cluster_view_parse((const char *)bytes, len, v, NULL) == 0 && v->epoch > n->epoch) {
        view_take(n, v, text);
        n->view_unkept = false;
    }
    buf_unref(text);
    free(v);
}

struct finding {
    struct node *node;
    size_t len;
};

static void view_read(void *arg, struct buf *buf, uint32_t n_bad)
{
    struct finding *f = arg;
    f->node->view_reading = false;
    if (f->node->objects && buf && n_bad == 0)
        view_found(f->node, buf->data + OBJECT_HEAD, f->len);
    buf_unref(buf);
    free(f);
}

int view_find(struct node *n)
{
    const struct object *o = n->view_looked ? NULL : object_find(n->objects, 0, OBJECT_VIEW, NAME);
    struct block *b = o && !o->dropped ? object_block(n->objects, o) : NULL;
    n->view_looked = true;
    if (b && b->buf) {
        view_found(n, b->buf->data + OBJECT_HEAD, o->len);
    } else if (b) {
        struct finding *f = malloc(sizeof *f);
        if (f)
            *f = (struct finding){n, o->len};
        n->view_reading = f != NULL;
        if (f && store_load(n->store, b, view_read, f))
            view_read(f, NULL, 0);
    }
    return n->view_reading ? 2 : 0;
}

/* ---- operations ---- */

/* The payload as a view; NULL when it is none, or out of memory: then it has been refused. free() it. */
static struct cluster_view *view_parse(struct call *c)
{
    const struct view *payload = &c->message->payload;
    uint64_t epoch = c->message->header->view_put->epoch;
    struct cluster_view *v = malloc(sizeof *v);
    struct skv_error err;
    if (!v) {
        call_refuse(c, REASON(FULL), 0, "node '%s' is out of memory", c->node->id);
        return NULL;
    }
    int rc = view_checksum(payload->data, payload->len) == c->message->header->view_put->checksum
                 ? cluster_view_parse((const char *)payload->data, payload->len, v, &err)
                 : skv_fail(&err, -EBADMSG, "the view's text does not match its checksum");
    if (rc == 0 && (v->epoch != epoch || epoch == 0))
        rc = skv_fail(&err, -EINVAL,
                      "a view for nodes has an epoch of at least 1, the same in its text (%" PRIu64
                      ") and beside it (%" PRIu64 ")",
                      v->epoch, epoch);
    if (rc == 0)
        return v;
    call_refuse_malformed(c, 0, err.text);
    free(v);
    return NULL;
}

/* Whether the view is the one that is known, under the same epoch. */
static bool view_known(const struct node *n, const struct cluster_view *v, struct cluster_view *scratch)
{
    return n->view && n->epoch == v->epoch &&
           cluster_view_parse((const char *)n->view->data, n->view->len, scratch, NULL) == 0 &&
           cluster_view_equal(scratch, v);
}

void op_view_put(struct call *c)
{
    struct node *n = c->node;
    n->counters.view_puts++;
    struct cluster_view *v = view_parse(c), *scratch = v ? malloc(sizeof *scratch) : NULL;
    struct buf *text = scratch ? cluster_view_format(v) : NULL; /* ours: the payload is anybody's memory */
    if (!v)
        return;
    if (!text) {
        call_refuse(c, REASON(FULL), 0, "node '%s' is out of memory", n->id);
    } else if (v->epoch > n->epoch) {
        view_take(n, v, text);
        view_keep(n);
        log_write(n->log, LOG_LEVEL_INFO,
                  "the cluster has %zu nodes from epoch %" PRIu64 " on, says client '%s'%s", v->n, v->epoch,
                  c->lane->client,
                  cluster_view_find(v, n->id) ? "" : "; this node is not one of them any more");
        call_answer_done(c, 0, 0);
    } else if (view_known(n, v, scratch)) {
        call_answer_done(c, 0, 0);
    } else {
        call_refuse(c, REASON(CONFLICT), 0,
                    "node '%s' knows %s view of epoch %" PRIu64 ", so this one of epoch %" PRIu64
                    " is not taken; get the newest view, and change that",
                    n->id, n->epoch > v->epoch ? "a newer" : "another", n->epoch, v->epoch);
    }
    buf_unref(text);
    free(scratch);
    free(v);
}

void op_view_get(struct call *c)
{
    struct node *n = c->node;
    n->counters.view_gets++;
    Scoutkv__View view = SCOUTKV__VIEW__INIT;
    view.epoch = n->epoch;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.body_case = SCOUTKV__HEADER__BODY_VIEW;
    h.view = &view;
    struct view payload = n->view ? (struct view){n->view->data, n->view->len, n->view} : (struct view){0};
    view.checksum = n->view ? view_checksum(payload.data, payload.len) : 0;
    call_answer(c, &h, &payload);
}
