/* node_get.c: GET, answered by a stream of Pages messages of about 1 MiB.
 *
 * DESIGN. A GET is a job with a cursor over the pages it wants. One step makes one message: it walks on,
 * plans what goes in, and copies the pages into one buf, because frames of 1 MiB run faster than frames of a
 * page. A run of neighbouring pages of 64 KiB or more is worth a message without copying: a view into the
 * block itself. A step that finds no memory leaves the cursor where it was. Blocks are looked up anew in
 * every step, so a DROP in between costs a miss, no more. */
#include "memnode/node_impl.h"
#include "common/clock.h"

#include <stdlib.h>
#include <string.h>

enum { ZERO_COPY_BYTES = 64 << 10 };

/* ---- the cursor ---- */

/* Moves to the next wanted page, if not on one. False at the end. */
static bool cursor_settle(const Scoutkv__Get *g, struct cursor *c)
{
    for (; c->want < g->n_wants; c->want++, c->head = c->page = 0, c->sum = 0) {
        const Scoutkv__Get__Want *w = g->wants[c->want];
        for (; c->head < w->n_masks; c->head++, c->page = 0)
            for (; c->page < BLOCK_PAGES; c->page++)
                if (w->masks[c->head] >> c->page & 1)
                    return true;
    }
    return false;
}

static void cursor_pass(struct cursor *c)
{
    c->page++;
    c->index++;
    c->sum++;
}

/* ---- one step ---- */

/* The stored page under the cursor, or NULL: not here, or not the version wanted. */
static const uint8_t *page_at(const struct block *b, const Scoutkv__Get *g, const struct cursor *c)
{
    size_t slot = (size_t)c->head * BLOCK_PAGES + c->page;
    if (!b || c->head >= b->layout.n_heads || b->checksums[slot] != g->wants[c->want]->checksums[c->sum])
        return NULL;
    return b->buf->data + slot * layout_page_bytes(&b->layout);
}

/* Bytes of the run of neighbouring wanted pages that begins under the cursor, as far as one message holds
 * them. */
static size_t run_length(const struct block *b, const Scoutkv__Get *g, struct cursor c)
{
    size_t len = layout_page_bytes(&b->layout), run = 0;
    const uint8_t *next = page_at(b, g, &c);
    size_t want = c.want;
    while (next && run + len <= PROTO_REPLY_BYTES) {
        run += len;
        next += len;
        cursor_pass(&c);
        if (!cursor_settle(g, &c) || c.want != want || page_at(b, g, &c) != next)
            break;
    }
    return run;
}

struct step_state {
    struct cursor at;
    size_t n_found, n_missed, bytes, page_bytes;
    struct block *whole; /* the run to send without copying lies in this block */
    bool last;
};

/* Plans the next message from s->at on: fills node->plan and moves s->at behind it. */
static void plan(struct node *n, const struct get_job *job, struct step_state *s)
{
    const Scoutkv__Get *g = job->header->get;
    struct page_plan *p = &n->plan;
    struct block *b = NULL;
    size_t looked_up = SIZE_MAX;
    uint32_t checked = 0; /* pages with an index below are known to belong to a short run */
    while (cursor_settle(g, &s->at)) {
        if (s->at.want != looked_up) {
            struct block_key key;
            looked_up = s->at.want;
            bool ok = key_from_wire(g->wants[looked_up]->key, job->ns, &key);
            assert(ok);
            (void)ok;
            b = store_find(n->store, &key);
        }
        const uint8_t *source = page_at(b, g, &s->at);
        if (!source) {
            p->missed[s->n_missed++] = s->at.index;
            cursor_pass(&s->at);
            continue;
        }
        size_t len = layout_page_bytes(&b->layout);
        if (s->whole && (b != s->whole || source != p->source[0] + s->bytes))
            return;
        if ((s->page_bytes && len != s->page_bytes) || s->bytes + len > PROTO_REPLY_BYTES)
            return;
        if (!s->whole && s->at.index >= checked) {
            size_t run = run_length(b, g, s->at);
            checked = s->at.index + (uint32_t)(run / len);
            if (run >= ZERO_COPY_BYTES && s->n_found)
                return; /* the run goes alone, next time */
            if (run >= ZERO_COPY_BYTES)
                s->whole = b;
        }
        s->page_bytes = len;
        s->bytes += len;
        p->source[s->n_found] = source;
        p->found[s->n_found++] = s->at.index;
        cursor_pass(&s->at);
    }
    s->last = true;
}

/* The planned pages as one payload; false when there is no memory for it. Owns a reference. */
static bool gather(struct node *n, const struct step_state *s, struct view *out)
{
    *out = (struct view){0};
    if (s->whole) {
        *out = (struct view){n->plan.source[0], s->bytes, buf_ref(s->whole->buf)};
    } else if (s->n_found) {
        struct buf *buf = memory_buf(n->memory, MEMORY_REPLIES, s->bytes);
        if (!buf)
            return false;
        for (size_t i = 0; i < s->n_found; i++)
            memcpy(buf->data + i * s->page_bytes, n->plan.source[i], s->page_bytes);
        *out = (struct view){buf->data, s->bytes, buf};
    }
    return true;
}

enum step get_step(struct node *n, struct lane *l, uint64_t now)
{
    struct get_job *job = l->jobs;
    struct step_state s = {.at = job->at};
    struct view payload;
    plan(n, job, &s);
    if (!gather(n, &s, &payload))
        return STEP_NO_MEMORY;
    Scoutkv__Pages pages = SCOUTKV__PAGES__INIT;
    pages.n_found = s.n_found;
    pages.found = n->plan.found;
    pages.n_missed = s.n_missed;
    pages.missed = n->plan.missed;
    pages.last = s.last;
    pages.page_bytes = (uint32_t)s.page_bytes;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.body_case = SCOUTKV__HEADER__BODY_PAGES;
    h.pages = &pages;
    struct call c = {.node = n, .peer = &l->peer, .lane = l, .id = job->header->id, .now = now};
    call_answer(&c, &h, &payload);
    buf_unref(payload.owner);
    n->counters.get_pages += s.n_found;
    n->counters.get_bytes += s.bytes;
    n->counters.get_misses += s.n_missed;
    n->counters.get_zero_copy_bytes += s.whole ? s.bytes : 0;
    job->at = s.at;
    job->moved_ns = now;
    if (!s.last)
        return STEP_SENT;
    get_drop(l);
    return STEP_DONE;
}

/* ---- jobs ---- */

void get_drop(struct lane *l)
{
    struct get_job *job = l->jobs;
    l->jobs = job->next;
    if (!l->jobs)
        l->jobs_end = &l->jobs;
    else if (l->jobs->moved_ns < job->moved_ns)
        l->jobs->moved_ns = job->moved_ns; /* its patience starts when its turn comes */
    l->job_bytes -= job->bytes;
    scoutkv__header__free_unpacked(job->header, NULL);
    free(job);
}

uint64_t get_id(const struct get_job *job)
{
    return job->header->id;
}

static unsigned popcount_of(const Scoutkv__Get__Want *w, bool *ok)
{
    unsigned n = 0;
    for (size_t i = 0; i < w->n_masks; i++) {
        *ok = *ok && w->masks[i] < 1u << BLOCK_PAGES;
        n += (unsigned)__builtin_popcount(w->masks[i]);
    }
    return n;
}

/* Whether every want is well formed; *bytes: about what the parsed GET takes in memory. */
static bool get_valid(const Scoutkv__Get *g, size_t *bytes)
{
    bool ok = true;
    size_t total = 0;
    *bytes = sizeof(struct get_job);
    for (size_t i = 0; i < g->n_wants && ok; i++) {
        const Scoutkv__Get__Want *w = g->wants[i];
        struct block_key key;
        total += w->n_checksums;
        *bytes +=
            sizeof *w + sizeof *w->key + CHAIN_BYTES + w->n_masks * sizeof *w->masks + w->n_checksums * 8;
        ok = key_from_wire(w->key, 0, &key) && popcount_of(w, &ok) == w->n_checksums && ok;
    }
    return ok && total <= MAX_WANTS;
}

void op_get(struct call *c)
{
    struct lane *l = c->lane;
    size_t bytes;
    c->node->counters.gets++;
    if (!get_valid(c->message->header->get, &bytes)) {
        c->node->counters.malformed++;
        return call_refuse(
            c, SCOUTKV__REFUSED__REASON__MALFORMED, 0,
            "a want of a GET has a key of %d bytes, one mask a head and one checksum a wanted page; "
            "this one has not",
            CHAIN_BYTES);
    }
    struct get_job *job = l->job_bytes + bytes <= LANE_JOB_BYTES ? calloc(1, sizeof *job) : NULL;
    if (!job)
        return call_refuse(
            c, SCOUTKV__REFUSED__REASON__CREDIT, 0,
            "this lane has %zu bytes of GETs unanswered; read the answers before asking for more",
            l->job_bytes);
    *job = (struct get_job){.header = c->message->header, .ns = l->ns, .bytes = bytes, .moved_ns = c->now};
    c->message->header = NULL;
    *l->jobs_end = job;
    l->jobs_end = &job->next;
    l->job_bytes += bytes;
    /* A small one is answered at once; a long one, or one behind others, goes on in node_run. */
    if (l->jobs == job && !l->out)
        get_step(c->node, l, c->now);
    c->node->waiting |= lane_waits(l);
}
