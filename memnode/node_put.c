/* node_put.c: PUT.
 *
 * DESIGN. All that can be refused is refused first; then the block is copied into the store, verified on the
 * way, and answered: at once for `ack ram`, when it is on the medium for `ack durable`. A large block is
 * taken in by pieces, so that hits wait for a piece and not for a block. Until all of it is in, a PUT is
 * parked with its bytes; so are those behind it, and those for which the store has no room while too much
 * waits for the disks: oldest first whatever their lane, so that nobody starves. A lane's unanswered bytes
 * are bounded by the credit that it was granted. */
#include "memnode/node_impl.h"
#include "common/clock.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE_BYTES = 64 << 10 };
#define REASON(x) SCOUTKV__REFUSED__REASON__##x

/* ---- answers ---- */

static void answer_put(struct call *c, Scoutkv__PutAck__Result result, const struct block *stored,
                       size_t bytes)
{
    Scoutkv__PutAck ack = SCOUTKV__PUT_ACK__INIT;
    ack.result = result;
    ack.credit = bytes;
    if (result == SCOUTKV__PUT_ACK__RESULT__EXISTS) {
        ack.n_checksums = layout_pages(&stored->layout);
        ack.checksums = (uint64_t *)(uintptr_t)stored->checksums; /* only read */
    }
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.body_case = SCOUTKV__HEADER__BODY_PUT_ACK;
    h.put_ack = &ack;
    call_answer(c, &h, NULL);
}

static struct call call_of(struct put_job *j)
{
    return (struct call){
        .node = j->node, .peer = &j->lane->peer, .lane = j->lane, .id = j->id, .now = j->node->now};
}

/* ---- PUTs that are not answered yet ---- */

static struct put_job *job_new(struct call *c)
{
    struct put_job *j = calloc(1, sizeof *j);
    if (!j) {
        call_refuse(c, REASON(FULL), c->message->payload.len, "node '%s' is out of memory", c->node->id);
        return NULL;
    }
    struct lane *l = c->lane;
    *j = (struct put_job){.next_of_lane = l->puts,
                          .node = c->node,
                          .lane = l,
                          .id = c->id,
                          .ns = l->ns,
                          .bytes = c->message->payload.len,
                          .since_ns = c->now};
    if (l->puts)
        l->puts->prev_of_lane = j;
    l->puts = j;
    l->unacknowledged += j->bytes;
    return j;
}

/* Of one that is neither parked nor with the store any more. */
static void job_free(struct put_job *j)
{
    struct lane *l = j->lane;
    if (j->prev_of_lane)
        j->prev_of_lane->next_of_lane = j->next_of_lane;
    else
        l->puts = j->next_of_lane;
    if (j->next_of_lane)
        j->next_of_lane->prev_of_lane = j->prev_of_lane;
    l->unacknowledged -= j->bytes;
    if (j->header)
        scoutkv__header__free_unpacked(j->header, NULL);
    buf_unref(j->payload.owner);
    buf_unref(j->taking.buf);
    free(j);
}

static void park(struct call *c, const struct taking *t)
{
    struct node *n = c->node;
    struct message *m = c->message;
    struct put_job *j = job_new(c);
    if (!j) {
        buf_unref(t->buf);
        return;
    }
    j->taking = *t;
    assert(m->payload.owner);
    buf_ref(m->payload.owner);
    j->payload = m->payload;
    j->header = m->header;
    m->header = NULL;
    *n->parked_end = j;
    n->parked_end = &j->next;
}

static void unpark(struct node *n, struct put_job *j)
{
    struct put_job **at = &n->parked;
    while (*at != j)
        at = &(*at)->next;
    *at = j->next;
    if (n->parked_end == &j->next)
        n->parked_end = at;
}

void puts_forget(struct node *n, struct lane *l)
{
    while (l->puts) {
        struct put_job *j = l->puts;
        if (j->stored)
            store_waiter_cancel(&j->waiter);
        else
            unpark(n, j);
        job_free(j);
    }
}

/* ---- stored, and to be on the medium ---- */

static void on_durable(struct store_waiter *w, int rc)
{
    struct put_job *j = (struct put_job *)((char *)w - offsetof(struct put_job, waiter));
    struct node *n = j->node;
    struct call c = call_of(j);
    Scoutkv__PutAck__Result result = j->result;
    const struct block *b = rc == 0 ? store_find(n->store, &j->key) : NULL;
    size_t bytes = j->bytes;
    job_free(j);
    n->counters.puts_durable += rc == 0;
    if (rc == 0 && b)
        answer_put(&c, result, b, bytes);
    else if (rc == 0 || rc == -ECANCELED)
        call_refuse(&c, REASON(CONFLICT), bytes, "the block was dropped before it was on a disk of node '%s'",
                    n->id);
    else if (rc == -EAGAIN)
        call_refuse_starting(&c, bytes);
    else
        call_refuse(&c, REASON(READ_ONLY), bytes,
                    "node '%s' could not write the block to its disk and holds it in RAM only: %.300s", n->id,
                    *store_trouble(n->store) ? store_trouble(n->store) : strerror(-rc));
}

/* The block is in the store: answers, now or later. */
static void settle(struct call *c, const Scoutkv__Put *put, struct block *b, Scoutkv__PutAck__Result result)
{
    struct node *n = c->node;
    size_t bytes = c->message->payload.len;
    if (put->ack == SCOUTKV__ACK__DURABLE) {
        struct put_job *j = job_new(c);
        if (!j)
            return;
        j->key = b->key;
        j->result = result;
        j->stored = true;
        j->waiter.done = on_durable;
        if (store_when_durable(n->store, b, &j->waiter))
            return;
        job_free(j); /* it is there already */
        n->counters.puts_durable++;
    }
    answer_put(c, result, b, bytes);
}

/* ---- the operation ---- */

/* Whether the lane has the credit for this PUT; else it has been refused. */
static bool credit_left(struct call *c)
{
    size_t len = c->message->payload.len;
    uint64_t granted = c->node->put_credit;
    if (!c->lane->bulk) {
        call_refuse(c, REASON(CREDIT), len, "PUTs travel on a lane of their own; say HELLO with bulk set");
        return false;
    }
    if (len > granted) {
        call_refuse(c, REASON(CREDIT), len, "this PUT has %zu bytes and the lane was granted %" PRIu64, len,
                    granted);
        return false;
    }
    if (len > granted - c->lane->unacknowledged) {
        call_refuse(c, REASON(CREDIT), len,
                    "this PUT has %zu bytes, %zu of the lane are unanswered, and it was granted %" PRIu64,
                    len, c->lane->unacknowledged, granted);
        return false;
    }
    return true;
}

static bool ack_possible(struct call *c, Scoutkv__Ack ack)
{
    size_t len = c->message->payload.len;
    if (ack == SCOUTKV__ACK__RAM || (ack == SCOUTKV__ACK__DURABLE && c->node->n_disks))
        return true;
    if (c->node->n_disks)
        call_refuse_malformed(c, len, "a PUT asks for the ack 'ram' or 'durable'");
    else
        call_refuse(c, REASON(NOT_DURABLE), len,
                    "node '%s' has no disk and cannot acknowledge 'durable'; ask for 'ram', or use a node "
                    "with a data directory",
                    c->node->id);
    return false;
}

/* Whether a PUT may be stored as far as its header and sizes tell; else it has been refused. */
static bool put_acceptable(struct call *c, struct block_key *key, struct block_layout *layout)
{
    const Scoutkv__Put *put = c->message->header->put;
    size_t len = c->message->payload.len;
    if (!credit_left(c) || view_stale(c, len))
        return false;
    if (!key_from_wire(put->key, c->lane->ns, key) || !layout_from_wire(put->layout, layout)) {
        call_refuse_malformed(c, len, "a PUT needs a key with a chain of 32 bytes and a possible layout");
        return false;
    }
    if (layout_block_bytes(layout) > PROTO_MAX_PAYLOAD) {
        call_refuse(c, REASON(TOO_LARGE), len,
                    "a block of this layout has %zu bytes and the limit is %d; split its KV heads over "
                    "several ranges",
                    layout_block_bytes(layout), PROTO_MAX_PAYLOAD);
        return false;
    }
    if (len != layout_block_bytes(layout) || put->n_checksums != layout_pages(layout)) {
        call_refuse_malformed(
            c, len, "the payload of a PUT has the size that its layout says, and one checksum a page");
        return false;
    }
    return ack_possible(c, put->ack);
}

/* Verifies the next piece, and copies it. 0: all is in; -EINPROGRESS;
 * -EBADMSG: it has been refused. */
static int take_piece(struct call *c, const struct block_key *key, const struct block_layout *layout,
                      struct taking *t)
{
    const Scoutkv__Put *put = c->message->header->put;
    const struct view *payload = &c->message->payload;
    size_t page = layout_page_bytes(layout);
    for (size_t bytes = 0; t->pages < layout_pages(layout); t->pages++, bytes += page) {
        uint32_t head = layout->head0 + t->pages / BLOCK_PAGES;
        const uint8_t *from = payload->data + t->pages * page;
        if (bytes >= PIECE_BYTES)
            return -EINPROGRESS;
        if (page_checksum(key, head, t->pages % BLOCK_PAGES, from, page) != put->checksums[t->pages]) {
            call_refuse(
                c, REASON(CHECKSUM), payload->len,
                "page %u of KV head %u does not match its checksum: the bytes changed on their way, or "
                "the sums were made for another key; send the block again",
                t->pages % BLOCK_PAGES, head);
            return -EBADMSG;
        }
        memory_stream(t->buf->data + t->pages * page, from, page);
    }
    return 0;
}

/* Another version of the block is there, and stays. If its record is damaged, it is not: a writer who has
 * good bytes in hand would be told to adopt some that can't be read. False: there is none any more. */
static bool answer_exists(struct call *c, struct block *b)
{
    struct node *n = c->node;
    size_t len = c->message->payload.len;
    const char *owner = lease_owner(n->leases, b, c->now);
    if (node_starting(n)) { /* a later version of it may yet be read */
        call_refuse_starting(c, len);
    } else if (b->buf || !b->damaged) {
        n->counters.puts_exists++;
        settle(c, c->message->header->put, b, SCOUTKV__PUT_ACK__RESULT__EXISTS);
    } else if (owner) {
        call_refuse(c, REASON(LEASED), len,
                    "node '%s' holds another version of this block, which is damaged, but leased by '%s'",
                    n->id, owner);
    } else {
        store_remove(n->store, b);
        return false;
    }
    return true;
}

/* The block is there: answers, unless it is damaged and to be stored again (false). */
static bool answer_present(struct call *c, struct block *b, const struct block_layout *layout)
{
    const Scoutkv__Put *put = c->message->header->put;
    if (!block_has(b, layout, put->checksums))
        return answer_exists(c, b);
    if (b->damaged)
        return false;
    c->node->counters.puts_same++;
    settle(c, put, b, SCOUTKV__PUT_ACK__RESULT__SAME);
    return true;
}

/* Whether there is nothing to take in: the block is there, or may be; then it has been answered. */
static bool answered(struct call *c, const struct block_key *key, const struct block_layout *layout)
{
    struct block *b = store_find(c->node->store, key);
    if (b)
        return answer_present(c, b, layout);
    if (node_starting(c->node))
        call_refuse_starting(c, c->message->payload.len);
    return node_starting(c->node);
}

/* Goes on with an acceptable PUT. 0: it was answered; -EAGAIN: not now; -EINPROGRESS: there is more to do. */
static int put_now(struct call *c, const struct block_key *key, const struct block_layout *layout,
                   struct taking *t)
{
    struct node *n = c->node;
    const Scoutkv__Put *put = c->message->header->put;
    size_t len = c->message->payload.len;
    struct skv_error why = {0};
    struct block *b = NULL;
    bool anew = store_find(n->store, key) != NULL;
    int rc = t->buf ? 0 : store_room(n->store, len, &t->buf, &why);
    if (rc == 0) {
        rc = take_piece(c, key, layout, t);
        if (rc == -EBADMSG)
            return 0;
        if (rc == 0)
            rc = store_put(n->store, key, layout, t->buf, put->checksums, &b, &why);
    }
    if (rc == -EAGAIN || rc == -EINPROGRESS)
        return rc;
    if (rc == -EROFS) {
        call_refuse(c, REASON(READ_ONLY), len, "%s", why.text);
    } else if (rc) {
        call_refuse_full(c, len, &why);
    } else {
        n->counters.puts_stored += !anew;
        n->counters.puts_same += anew;
        n->counters.put_bytes += len;
        settle(c, put, b, anew ? SCOUTKV__PUT_ACK__RESULT__SAME : SCOUTKV__PUT_ACK__RESULT__STORED);
    }
    return 0;
}

void op_put(struct call *c)
{
    struct node *n = c->node;
    struct block_key key;
    struct block_layout layout;
    struct taking t = {0};
    n->counters.puts++;
    if (!put_acceptable(c, &key, &layout) || answered(c, &key, &layout))
        return;
    int rc = n->parked ? -EAGAIN : put_now(c, &key, &layout, &t);
    n->counters.puts_parked += rc == -EAGAIN;
    if (rc)
        park(c, &t);
    else
        buf_unref(t.buf);
}

/* ---- parked ones ---- */

bool puts_run(struct node *n)
{
    struct put_job *j = n->parked;
    struct message m = {.header = j->header, .payload = j->payload};
    struct call c = call_of(j);
    struct block_key key;
    struct block_layout layout;
    bool ok =
        key_from_wire(j->header->put->key, j->ns, &key) && layout_from_wire(j->header->put->layout, &layout);
    assert(ok);
    (void)ok;
    c.message = &m;
    int rc = answered(&c, &key, &layout) ? 0 : put_now(&c, &key, &layout, &j->taking);
    if (rc == 0) {
        unpark(n, j);
        job_free(j);
    }
    return rc != -EAGAIN;
}

void puts_tick(struct node *n, uint64_t now)
{
    while (n->parked && now > n->parked->since_ns + DISK_PATIENCE_MS * NS_PER_MS) {
        struct put_job *j = n->parked;
        struct call c = call_of(j);
        struct store_stats s;
        size_t bytes = j->bytes;
        unpark(n, j);
        job_free(j);
        if (node_starting(n)) { /* a block that is known to be damaged: no disk takes anything yet */
            call_refuse_starting(&c, bytes);
            continue;
        }
        store_stats(n->store, &s);
        call_refuse(&c, REASON(FULL), bytes,
                    "node '%s' had no room for this block within %d s: its disks are too slow for what is "
                    "put, and %.1f MiB wait to be written; put less at once, or add a disk or a node",
                    n->id, DISK_PATIENCE_MS / 1000, (double)s.dirty_bytes / (1 << 20));
    }
}
