/* node_get.c: GET, answered by a stream of Pages messages of about 1 MiB.
 *
 * DESIGN. A GET is a job with a cursor over the pages it wants. One step makes one message: it walks on,
 * plans what goes in, and copies the pages into one buf, because frames of 1 MiB run faster than frames of a
 * page. A run of neighbouring pages of 64 KiB or more is worth a frame without copying: a view into the block
 * itself. A client that takes several frames a message gets runs of several blocks in one. A step that finds
 * no memory leaves the cursor where it was. Blocks are looked up anew in every step, so a DROP in between
 * costs a miss, no more. Pages that are only on a disk are set aside for node_cold.c: they hold up neither
 * the GET's other pages nor the GETs behind it. */
#include "memnode/node_impl.h"
#include "common/clock.h"

#include <stdlib.h>
#include <string.h>

enum { ZERO_COPY_BYTES = 64 << 10 };

/* ---- the cursor ---- */

bool cursor_settle(const Scoutkv__Get *g, struct cursor *c)
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

void cursor_pass(struct cursor *c)
{
    c->page++;
    c->index++;
    c->sum++;
}

struct block *cursor_block(struct node *n, const Scoutkv__Get *g, uint64_t ns, const struct cursor *c)
{
    struct block_key key;
    bool ok = key_from_wire(g->wants[c->want]->key, ns, &key);
    assert(ok);
    (void)ok;
    return store_find(n->store, &key);
}

enum page_place page_at(const struct block *b, const Scoutkv__Get *g, const struct cursor *c,
                        const uint8_t **source)
{
    size_t slot = (size_t)c->head * BLOCK_PAGES + c->page;
    *source = NULL;
    if (!b || c->head >= b->layout.n_heads || b->checksums[slot] != g->wants[c->want]->checksums[c->sum])
        return PAGE_MISSED;
    if (!b->buf)
        return b->segment != NO_SEGMENT ? PAGE_ON_DISK : PAGE_MISSED;
    *source = b->buf->data + slot * layout_page_bytes(&b->layout);
    return PAGE_IN_RAM;
}

/* ---- one step ---- */

static const uint8_t *in_ram(const struct block *b, const Scoutkv__Get *g, const struct cursor *c)
{
    const uint8_t *source;
    page_at(b, g, c, &source);
    return source;
}

/* Bytes of the run of neighbouring wanted pages that begins under the cursor, as far as one message holds
 * them. */
static size_t run_length(const struct block *b, const Scoutkv__Get *g, struct cursor c)
{
    size_t len = layout_page_bytes(&b->layout), run = 0;
    const uint8_t *next = in_ram(b, g, &c);
    size_t want = c.want;
    while (next && run + len <= PROTO_REPLY_BYTES) {
        run += len;
        next += len;
        cursor_pass(&c);
        if (!cursor_settle(g, &c) || c.want != want || in_ram(b, g, &c) != next)
            break;
    }
    return run;
}

struct step_state {
    struct cursor at;
    size_t n_found, n_missed, n_cold, bytes, page_bytes;
    unsigned n_parts, max_parts;
    bool last;
};

static unsigned frames_of(const struct get_job *job)
{
    uint32_t frames = job->header->get->frames;
    return frames == 0 ? 1 : frames > PROTO_MAX_FRAMES ? PROTO_MAX_FRAMES : frames;
}

/* Begins another frame. False if the message is full. */
static bool part_begin(struct page_plan *p, struct step_state *s, struct block *run)
{
    if (s->n_parts == s->max_parts)
        return false;
    p->part[s->n_parts++] = (struct plan_part){.first = (uint32_t)s->n_found, .run = run};
    return true;
}

/* The store hears once of each block that is wanted; of those that are only on disk when they are read. It
 * might bring them into RAM at once, and what is planned already out of it. */
static struct block *wanted_block(struct node *n, struct get_job *job, const struct cursor *at)
{
    struct block *b = cursor_block(n, job->header->get, job->ns, at);
    if (b && b->buf && at->want >= job->touched) {
        store_touch(n->store, b);
        job->touched = at->want + 1;
    }
    return b;
}

/* Also taken back: a step that found no memory is planned anew. */
static void set_aside(struct get_job *job, uint32_t index, bool cold)
{
    uint64_t bit = UINT64_C(1) << (index & 63), *word = &job->cold[index >> 6];
    *word = cold ? *word | bit : *word & ~bit;
}

/* Plans the next message from s->at on: fills node->plan and moves s->at behind it. */
static void plan(struct node *n, struct get_job *job, struct step_state *s)
{
    const Scoutkv__Get *g = job->header->get;
    struct page_plan *p = &n->plan;
    struct block *b = NULL;
    size_t looked_up = SIZE_MAX;
    uint32_t checked = 0; /* pages with an index below are known to belong to a short run */
    for (; cursor_settle(g, &s->at); cursor_pass(&s->at)) {
        if (s->at.want != looked_up) {
            looked_up = s->at.want;
            b = wanted_block(n, job, &s->at);
        }
        const uint8_t *source;
        enum page_place place = page_at(b, g, &s->at, &source);
        if (n->n_disks)
            set_aside(job, s->at.index, place == PAGE_ON_DISK);
        s->n_cold += place == PAGE_ON_DISK;
        if (place == PAGE_MISSED)
            p->missed[s->n_missed++] = s->at.index;
        if (place != PAGE_IN_RAM)
            continue;
        size_t len = layout_page_bytes(&b->layout);
        if ((s->page_bytes && len != s->page_bytes) || s->bytes + len > PROTO_REPLY_BYTES)
            return;
        struct plan_part *part = s->n_parts ? &p->part[s->n_parts - 1] : NULL;
        if (part && part->run && (part->run != b || source != p->source[part->first] + part->bytes))
            part = NULL; /* the run has ended */
        if (!(part && part->run) && s->at.index >= checked) {
            size_t run = run_length(b, g, s->at);
            checked = s->at.index + (uint32_t)(run / len);
            if (run >= ZERO_COPY_BYTES) {
                if ((s->n_found && s->bytes + run > PROTO_REPLY_BYTES) || !part_begin(p, s, b))
                    return; /* it begins the next message */
                part = &p->part[s->n_parts - 1];
            }
        }
        if (!part && !part_begin(p, s, NULL))
            return;
        p->part[s->n_parts - 1].bytes += len;
        s->page_bytes = len;
        s->bytes += len;
        p->source[s->n_found] = source;
        p->found[s->n_found++] = s->at.index;
    }
    s->last = true;
}

/* A payload in several parts. */
struct parts_buf {
    struct buf buf; /* its bytes are the first part's */
    unsigned n;
    struct view part[PROTO_MAX_FRAMES];
};

static void release_parts(struct buf *b)
{
    struct parts_buf *p = (struct parts_buf *)b;
    for (unsigned i = 0; i < p->n; i++)
        buf_unref(p->part[i].owner);
    free(p);
}

/* One planned frame; false when there is no memory for it. Owns a reference. */
static bool gather_part(struct node *n, const struct plan_part *part, size_t page_bytes, struct view *out)
{
    const uint8_t *const *source = n->plan.source + part->first;
    if (part->run) {
        *out = (struct view){source[0], part->bytes, buf_ref(part->run->buf)};
        return true;
    }
    struct buf *buf = memory_buf(n->memory, MEMORY_REPLIES, part->bytes);
    for (size_t at = 0; buf && at < part->bytes; at += page_bytes)
        memcpy(buf->data + at, *source++, page_bytes);
    if (buf)
        *out = (struct view){buf->data, part->bytes, buf};
    return buf != NULL;
}

/* The planned pages as a payload; false when there is no memory for it. Owns a reference. */
static bool gather(struct node *n, const struct step_state *s, struct view *out)
{
    *out = (struct view){0};
    if (s->n_parts <= 1)
        return s->n_parts == 0 || gather_part(n, &n->plan.part[0], s->page_bytes, out);
    struct parts_buf *p = calloc(1, sizeof *p);
    if (!p)
        return false;
    atomic_init(&p->buf.refs, 1);
    p->buf.release = release_parts;
    for (; p->n < s->n_parts; p->n++)
        if (!gather_part(n, &n->plan.part[p->n], s->page_bytes, &p->part[p->n])) {
            buf_unref(&p->buf);
            return false;
        }
    p->buf.data = (uint8_t *)(uintptr_t)p->part[0].data;
    p->buf.len = p->part[0].len;
    p->buf.rest = &p->part[1];
    p->buf.n_rest = p->n - 1;
    *out = (struct view){p->buf.data, p->buf.len, &p->buf};
    return true;
}

static size_t zero_copy_bytes(const struct page_plan *p, unsigned n_parts)
{
    size_t bytes = 0;
    for (unsigned i = 0; i < n_parts; i++)
        bytes += p->part[i].run ? p->part[i].bytes : 0;
    return bytes;
}

void get_send_pages(struct node *n, struct get_job *job, size_t n_found, size_t n_missed, size_t page_bytes,
                    bool last, const struct view *payload, uint64_t now)
{
    struct lane *l = job->lane;
    Scoutkv__Pages pages = SCOUTKV__PAGES__INIT;
    pages.n_found = n_found;
    pages.found = n->plan.found;
    pages.n_missed = n_missed;
    pages.missed = n->plan.missed;
    pages.last = last;
    pages.page_bytes = (uint32_t)page_bytes;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.body_case = SCOUTKV__HEADER__BODY_PAGES;
    h.pages = &pages;
    struct call c = {.node = n, .peer = &l->peer, .lane = l, .id = job->header->id, .now = now};
    call_answer(&c, &h, payload);
    n->counters.get_pages += n_found;
    n->counters.get_bytes += n_found * page_bytes;
    n->counters.get_misses += n_missed;
    job->moved_ns = now;
    if (n->n_disks && n_found && !n->served) {
        double progress = 1;
        n->served = true;
        store_state(n->store, &progress);
        log_write(n->log, LOG_LEVEL_INFO,
                  "first GET served %.3f s after the start, with %.0f %% of the index read",
                  (double)(now - n->start_ns) / 1e9, n->indexing ? progress * 100 : 100);
    }
}

static void take_first(struct lane *l)
{
    struct get_job *job = l->jobs;
    l->jobs = job->next;
    job->next = NULL;
    if (!l->jobs)
        l->jobs_end = &l->jobs;
    else if (l->jobs->moved_ns < job->moved_ns)
        l->jobs->moved_ns = job->moved_ns; /* its patience starts when its turn comes */
}

enum step get_step(struct node *n, struct lane *l, uint64_t now)
{
    struct get_job *job = l->jobs;
    struct step_state s = {.at = job->at, .max_parts = frames_of(job)};
    struct view payload;
    plan(n, job, &s);
    if (!gather(n, &s, &payload))
        return STEP_NO_MEMORY;
    job->at = s.at;
    job->n_cold += s.n_cold;
    bool last = s.last && !job->n_cold;
    if (s.n_found || s.n_missed || last)
        get_send_pages(n, job, s.n_found, s.n_missed, s.page_bytes, last, &payload, now);
    buf_unref(payload.owner);
    n->counters.get_zero_copy_bytes += zero_copy_bytes(&n->plan, s.n_parts);
    if (!s.last)
        return STEP_SENT;
    take_first(l);
    if (last)
        get_free(job);
    else
        cold_add(n, job);
    return STEP_DONE;
}

/* ---- jobs ---- */

void get_free(struct get_job *job)
{
    job->lane->job_bytes -= job->bytes;
    scoutkv__header__free_unpacked(job->header, NULL);
    free(job);
}

void get_drop(struct lane *l)
{
    struct get_job *job = l->jobs;
    take_first(l);
    get_free(job);
}

void get_refuse_unread(struct node *n, struct lane *l, uint64_t id, uint64_t now)
{
    struct call c = {.node = n, .peer = &l->peer, .lane = l, .id = id, .now = now};
    call_refuse(&c, SCOUTKV__REFUSED__REASON__CREDIT, 0,
                "node '%s' has %" PRIu64
                " bytes of replies on their way that nobody reads, and its limit is %" PRIu64
                "; read them and ask again, or give the node more --ram",
                n->id, memory_used(n->memory, MEMORY_REPLIES), memory_limit(n->memory, MEMORY_REPLIES));
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
static bool get_valid(const Scoutkv__Get *g, size_t *bytes, size_t *pages)
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
    *pages = total;
    return ok && total <= MAX_WANTS;
}

/* While disks are being read, a GET is served if all of it is known: what is not found, or in another version
 * only, may yet be. */
static bool all_known(struct node *n, const Scoutkv__Get *g, uint64_t ns)
{
    struct block *b = NULL;
    size_t looked_up = SIZE_MAX;
    const uint8_t *source;
    for (struct cursor at = {0}; cursor_settle(g, &at); cursor_pass(&at)) {
        if (at.want != looked_up)
            b = cursor_block(n, g, ns, &at);
        looked_up = at.want;
        if (page_at(b, g, &at, &source) == PAGE_MISSED)
            return false;
    }
    return true;
}

void op_get(struct call *c)
{
    struct node *n = c->node;
    struct lane *l = c->lane;
    size_t bytes, pages;
    n->counters.gets++;
    if (!get_valid(c->message->header->get, &bytes, &pages)) {
        n->counters.malformed++;
        return call_refuse(
            c, SCOUTKV__REFUSED__REASON__MALFORMED, 0,
            "a want of a GET has a key of %d bytes, one mask a head and one checksum a wanted page; "
            "this one has not",
            CHAIN_BYTES);
    }
    if (node_starting(n) && !all_known(n, c->message->header->get, l->ns))
        return call_refuse_starting(c, 0);
    size_t cold = n->n_disks ? (pages + 63) / 64 * sizeof(uint64_t) : 0;
    bytes += cold;
    struct get_job *job = l->job_bytes + bytes <= LANE_JOB_BYTES ? calloc(1, sizeof *job + cold) : NULL;
    if (!job)
        return call_refuse(
            c, SCOUTKV__REFUSED__REASON__CREDIT, 0,
            "this lane has %zu bytes of GETs unanswered; read the answers before asking for more",
            l->job_bytes);
    job->lane = l;
    job->header = c->message->header;
    job->ns = l->ns;
    job->bytes = bytes;
    job->moved_ns = c->now;
    job->ready_end = &job->ready;
    c->message->header = NULL;
    *l->jobs_end = job;
    l->jobs_end = &job->next;
    l->job_bytes += bytes;
    /* A small one is answered at once; a long one, or one behind others, goes on in node_run. */
    if (l->jobs == job && !l->out)
        get_step(n, l, c->now);
    n->waiting |= lane_waits(l);
}
