/* node_cold.c: the pages of GETs that are only on disks.
 *
 * DESIGN. A GET that has gone through its pages in RAM walks once more, through those that were set aside.
 * What fits one Pages message is a batch: one buffer, into whose places the store reads runs of neighbouring
 * pages and verifies them; no byte is copied between the disk's buffer and zmq's frame. A batch that is
 * complete is sent, whichever it is; pages that came back bad are misses, never served. Batches of one GET
 * and of many are read at once, as far as the memory for replies and READING_BYTES go; GETs take turns, the
 * oldest first.
 *
 * The store writes into a batch until it says done. So a batch outlives its GET, its lane and, at the node's
 * end, the store. */
#include "memnode/node_impl.h"
#include "common/clock.h"

#include <stdlib.h>
#include <string.h>

struct batch_run {
    struct store_read read;
    uint32_t index; /* of its first wanted page */
};

struct cold_batch {
    struct cold_batch *prev, *next; /* of node->batches */
    struct cold_batch *next_ready;
    struct node *node;
    struct get_job *job; /* NULL: gone */
    struct buf *buf;     /* NULL: no pages */
    size_t page_bytes, n_pages;
    unsigned n_open; /* reads that are not done */
    unsigned n_runs;
    size_t n_missed;
    uint32_t *missed; /* behind the runs */
    struct batch_run runs[];
};

/* ---- batches ---- */

static void batch_free(struct cold_batch *b)
{
    if (b->prev)
        b->prev->next = b->next;
    else
        b->node->batches = b->next;
    if (b->next)
        b->next->prev = b->prev;
    buf_unref(b->buf);
    free(b);
}

static void batch_complete(struct cold_batch *b)
{
    struct get_job *job = b->job;
    b->node->reading_bytes -= b->n_pages * b->page_bytes;
    if (!job) {
        batch_free(b);
        return;
    }
    *job->ready_end = b;
    job->ready_end = &b->next_ready;
}

static void on_read(struct store_read *r)
{
    struct cold_batch *b = r->arg;
    if (--b->n_open == 0)
        batch_complete(b);
}

/* ---- planning one ---- */

struct cold_plan {
    struct cursor at;
    size_t n_pages, page_bytes, n_missed;
    unsigned n_runs;
};

static bool is_cold(const struct get_job *job, uint32_t index)
{
    return job->cold[index >> 6] >> (index & 63) & 1;
}

static bool extends(const struct cold_run *r, const struct block *b, uint32_t slot, uint32_t index)
{
    return r->block == b && slot == r->first + r->n && index == r->from.index + r->n &&
           r->n < STORE_READ_PAGES;
}

/* Fills node->runs and node->plan.missed with the pages for one message, from p->at on. */
static void plan(struct node *n, struct get_job *job, struct cold_plan *p)
{
    const Scoutkv__Get *g = job->header->get;
    struct block *b = NULL;
    size_t looked_up = SIZE_MAX;
    for (; cursor_settle(g, &p->at); cursor_pass(&p->at)) {
        const uint8_t *source;
        uint32_t index = p->at.index, slot = p->at.head * BLOCK_PAGES + p->at.page;
        if (!is_cold(job, index))
            continue;
        if (p->at.want != looked_up) {
            looked_up = p->at.want;
            b = cursor_block(n, g, job->ns, &p->at);
            if (b && looked_up >= job->touched) {
                store_touch(n->store, b);
                job->touched = looked_up + 1;
            }
        }
        if (page_at(b, g, &p->at, &source) == PAGE_MISSED) { /* it was there when it was set aside */
            n->plan.missed[p->n_missed++] = index;
            continue;
        }
        size_t len = layout_page_bytes(&b->layout);
        if ((p->n_pages && len != p->page_bytes) || (p->n_pages + 1) * len > PROTO_REPLY_BYTES)
            return;
        struct cold_run *last = p->n_runs ? &n->runs[p->n_runs - 1] : NULL;
        if (last && extends(last, b, slot, index)) {
            last->n++;
        } else {
            if (p->n_runs == BATCH_RUNS)
                return;
            n->runs[p->n_runs++] = (struct cold_run){.block = b,
                                                     .first = slot,
                                                     .n = 1,
                                                     .from = p->at,
                                                     .n_pages = (uint32_t)p->n_pages,
                                                     .n_missed = (uint32_t)p->n_missed};
        }
        p->page_bytes = len;
        p->n_pages++;
    }
}

/* ---- starting one ---- */

static struct cold_batch *batch_new(struct node *n, struct get_job *job, const struct cold_plan *p)
{
    struct cold_batch *b =
        malloc(sizeof *b + p->n_runs * sizeof b->runs[0] + p->n_missed * sizeof *b->missed);
    struct buf *buf = b && p->n_pages ? memory_pages(n->memory, p->n_pages * p->page_bytes) : NULL;
    if (!b || (p->n_pages && !buf)) {
        free(b);
        return NULL;
    }
    *b = (struct cold_batch){
        .next = n->batches, .node = n, .job = job, .buf = buf, .page_bytes = p->page_bytes};
    b->missed = (uint32_t *)&b->runs[p->n_runs];
    if (n->batches)
        n->batches->prev = b;
    n->batches = b;
    return b;
}

/* Has one run read. False: there is no memory to. */
static bool run_start(struct node *n, struct cold_batch *b, const struct cold_run *r)
{
    struct batch_run *to = &b->runs[b->n_runs];
    uint8_t *into = b->buf->data + r->n_pages * b->page_bytes;
    *to = (struct batch_run){.read = {.into = into, .first = r->first, .n = r->n, .done = on_read, .arg = b},
                             .index = r->from.index};
    if (r->block->buf) { /* brought back into RAM meanwhile */
        memcpy(into, r->block->buf->data + r->first * b->page_bytes, r->n * b->page_bytes);
        to->read.good = ~UINT64_C(0);
    } else if (store_read(n->store, r->block, &to->read)) {
        return false;
    } else {
        b->n_open++;
    }
    b->n_runs++;
    return true;
}

/* Starts the GET's next batch. False: there was no memory for it. */
static bool batch_start(struct node *n, struct get_job *job, uint64_t now)
{
    struct cold_plan p = {.at = job->at};
    plan(n, job, &p);
    struct cold_batch *b = batch_new(n, job, &p);
    if (!b)
        return false;
    for (unsigned i = 0; i < p.n_runs; i++)
        if (!run_start(n, b, &n->runs[i])) { /* the batch ends before this run */
            p.at = n->runs[i].from;
            p.n_pages = n->runs[i].n_pages;
            p.n_missed = n->runs[i].n_missed;
            break;
        }
    if (p.n_pages + p.n_missed == 0) {
        batch_free(b);
        return false;
    }
    memcpy(b->missed, n->plan.missed, p.n_missed * sizeof *b->missed);
    b->n_missed = p.n_missed;
    b->n_pages = p.n_pages;
    job->at = p.at;
    job->n_cold -= (uint32_t)(p.n_pages + p.n_missed);
    job->n_batches++;
    job->moved_ns = now;
    n->reading_bytes += b->n_pages * b->page_bytes;
    if (b->n_open == 0)
        batch_complete(b);
    return true;
}

/* ---- sending one ---- */

static void batch_send(struct node *n, struct cold_batch *b, bool last, uint64_t now)
{
    size_t n_found = 0, n_missed = b->n_missed, from = 0, len = b->page_bytes;
    memcpy(n->plan.missed, b->missed, n_missed * sizeof *b->missed);
    for (unsigned r = 0; r < b->n_runs; r++)
        for (uint32_t i = 0; i < b->runs[r].read.n; i++, from++) {
            uint32_t index = b->runs[r].index + i;
            if (!(b->runs[r].read.good >> i & 1)) {
                n->plan.missed[n_missed++] = index;
                continue;
            }
            if (n_found != from) /* after a bad page, the rest moves up */
                memmove(b->buf->data + n_found * len, b->buf->data + from * len, len);
            n->plan.found[n_found++] = index;
        }
    struct view payload = {0};
    if (n_found)
        payload = (struct view){b->buf->data, n_found * len, b->buf};
    n->counters.get_disk_pages += n_found;
    n->counters.get_disk_bytes += n_found * len;
    get_send_pages(n, b->job, n_found, n_missed, len, last, &payload, now);
}

static bool lane_takes(const struct lane *l)
{
    return !l->out && !l->gone;
}

/* Sends what is complete, as far as the peer reads. True if something was. */
static bool send_ready(struct node *n, struct get_job *job, uint64_t now)
{
    bool moved = false;
    while (job->ready && lane_takes(job->lane)) {
        struct cold_batch *b = job->ready;
        job->ready = b->next_ready;
        if (!job->ready)
            job->ready_end = &job->ready;
        job->n_batches--;
        batch_send(n, b, !job->n_cold && !job->n_batches, now);
        batch_free(b);
        moved = true;
    }
    return moved;
}

/* ---- GETs ---- */

void cold_add(struct node *n, struct get_job *job)
{
    job->at = (struct cursor){0};
    job->touched = 0;
    job->lane->n_cold++;
    *n->cold_end = job;
    n->cold_end = &job->next;
}

/* Takes the GET at *at out of the list and frees it; its batches that are still being read stay. */
static void cold_remove(struct node *n, struct get_job **at)
{
    struct get_job *job = *at;
    *at = job->next;
    if (!job->next)
        n->cold_end = at;
    for (struct cold_batch *b = n->batches, *next; b; b = next) {
        next = b->next;
        if (b->job == job && b->n_open == 0)
            batch_free(b);
        else if (b->job == job)
            b->job = NULL;
    }
    job->lane->n_cold--;
    get_free(job);
}

enum node_work cold_run(struct node *n, uint64_t now)
{
    bool moved = false, starved = false, started;
    do {
        started = false;
        for (struct get_job **at = &n->cold; *at;) {
            struct get_job *job = *at;
            moved |= send_ready(n, job, now);
            if (job->n_cold && lane_takes(job->lane) && n->reading_bytes < READING_BYTES) {
                job->starved = !batch_start(n, job, now);
                starved |= job->starved;
                started |= !job->starved;
            }
            if (job->n_cold || job->n_batches)
                at = &job->next;
            else
                cold_remove(n, at);
        }
        moved |= started;
    } while (started);
    return moved ? NODE_BUSY : starved ? NODE_BLOCKED : NODE_IDLE;
}

static void refuse_slow(struct node *n, struct lane *l, uint64_t id, uint64_t now)
{
    struct call c = {.node = n, .peer = &l->peer, .lane = l, .id = id, .now = now};
    call_refuse(&c, SCOUTKV__REFUSED__REASON__FULL, 0,
                "node '%s' could not read this GET's pages within %d s: its disks are too slow for what is "
                "asked, and %.1f MiB are being read; ask for less at once, give the node more --ram, or add "
                "a disk or a node",
                n->id, DISK_PATIENCE_MS / 1000, (double)n->reading_bytes / (1 << 20));
}

void cold_tick(struct node *n, uint64_t now)
{
    for (struct get_job **at = &n->cold; *at;) {
        struct get_job *job = *at;
        struct lane *l = job->lane;
        uint64_t id = get_id(job);
        bool unread = job->starved && !job->n_batches;
        uint64_t patience = (unread ? JOB_PATIENCE_MS : DISK_PATIENCE_MS) * NS_PER_MS;
        if (l->out || now <= job->moved_ns + patience) {
            at = &job->next;
            continue;
        }
        cold_remove(n, at);
        if (unread)
            get_refuse_unread(n, l, id, now);
        else
            refuse_slow(n, l, id, now);
    }
}

void cold_forget(struct node *n, struct lane *l)
{
    for (struct get_job **at = &n->cold; *at;)
        if ((*at)->lane == l)
            cold_remove(n, at);
        else
            at = &(*at)->next;
}

void cold_free(struct node *n)
{
    assert(!n->cold);
    while (n->batches)
        batch_free(n->batches);
}
