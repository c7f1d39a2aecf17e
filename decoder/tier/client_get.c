/* client_get.c: fetching pages.
 *
 * Every page of a fetch lies in at most one queue: of the node that is asked next, or of the doomed, which no
 * node has; so one array of links serves all queues. GETs are built only when a lane has room in its window,
 * from the oldest fetch first and in page order, so pages arrive about in the order in which they are merged.
 * A page that its node misses, spoils or cannot give goes to the next node in rank. A node that still reads
 * its disks is asked again, for as long as a request may take. */
#include "decoder/tier/client_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum flaw { FLAW_LATE = 1, FLAW_BAD = 2 }; /* some node was gone or late; some copy failed its checksum */

struct page_queue {
    uint32_t first, last, n;
};

struct tier_fetch {
    struct tier_fetch *next; /* among those not done */
    struct block_layout layout;
    size_t page_bytes;
    const struct tier_want *wants;
    uint32_t n, left;
    tier_page_fn *on_page;
    void *arg;
    struct skv_error failure;       /* the first page's */
    struct skv_error late;          /* why a node last failed to answer */
    const struct block_key *ranked; /* key that `order` is for, or NULL */
    uint8_t order[PLACEMENT_MAX_NODES];
    struct page_queue doomed;
    struct page_queue queue[PLACEMENT_MAX_NODES];
    struct {
        uint64_t not_before; /* to be asked again then */
        uint64_t give_up;    /* 0: it was not starting when it was asked */
    } starting[PLACEMENT_MAX_NODES];
    uint32_t *link; /* [n] the next page in the same queue */
    uint8_t *asked; /* [n] nodes of the rank order that are done with */
    uint8_t *flaws; /* [n] */
};

static void queue_push(struct tier_fetch *f, struct page_queue *q, uint32_t page)
{
    f->link[page] = NO_PAGE;
    if (q->n++)
        f->link[q->last] = page;
    else
        q->first = page;
    q->last = page;
}

static void queue_push_first(struct tier_fetch *f, struct page_queue *q, uint32_t page)
{
    f->link[page] = q->first;
    if (q->n++ == 0) {
        f->link[page] = NO_PAGE;
        q->last = page;
    }
    q->first = page;
}

static uint32_t queue_pop(struct tier_fetch *f, struct page_queue *q)
{
    uint32_t page = q->first;
    q->first = f->link[page];
    q->n--;
    return page;
}

/* Queues the page on the first live node in rank that was not asked yet. */
static void page_place(struct client *c, struct tier_fetch *f, uint32_t page)
{
    const struct block_key *key = f->wants[page].key;
    if (f->ranked != key) {
        placement_rank(&c->map, key_hash(key), f->order);
        f->ranked = key;
    }
    for (; f->asked[page] < c->map.n; f->asked[page]++) {
        unsigned node = f->order[f->asked[page]];
        if (c->nodes[node].up) {
            queue_push(f, &f->queue[node], page);
            return;
        }
        f->flaws[page] |= FLAW_LATE;
        f->late = c->nodes[node].why;
    }
    queue_push(f, &f->doomed, page);
    c->n_doomed++;
}

static void page_next_node(struct client *c, struct tier_fetch *f, uint32_t page)
{
    f->asked[page]++;
    page_place(c, f, page);
}

/* ---- begin and end ---- */

static int fetch_check(const struct client *c, const struct block_layout *l, const struct tier_want *wants,
                       size_t n, struct skv_error *err)
{
    if (!layout_valid(l) || n >= NO_PAGE)
        return skv_fail(err, -EINVAL, "a fetch needs a valid layout and fewer than 2^32 - 1 pages");
    for (size_t i = 0; i < n; i++)
        if (wants[i].head >= l->n_heads || wants[i].page >= BLOCK_PAGES || wants[i].key->ns != c->opts.ns)
            return skv_fail(err, -EINVAL,
                            "wanted page %zu (head %u, page %u) is not one of its layout and namespace", i,
                            wants[i].head, wants[i].page);
    return 0;
}

static bool masks_reserve(struct client *c, const struct block_layout *l)
{
    size_t need = (size_t)l->n_heads * GET_PAGES;
    if (need > PROTO_MAX_HEADER) /* a mask takes at least a byte of the header */
        need = PROTO_MAX_HEADER;
    if (need <= c->get.masks_size)
        return true;
    uint32_t *masks = realloc(c->get.masks, need * sizeof *masks);
    if (!masks)
        return false;
    c->get.masks = masks;
    c->get.masks_size = need;
    return true;
}

int client_fetch_begin(struct client *c, const struct block_layout *l, const struct tier_want *wants,
                       size_t n, tier_page_fn *on_page, void *arg, struct tier_fetch **out,
                       struct skv_error *err)
{
    assert(c->map.n);
    int rc = fetch_check(c, l, wants, n, err);
    if (rc)
        return rc;
    struct tier_fetch *f = masks_reserve(c, l) ? malloc(sizeof *f + n * (sizeof *f->link + 2)) : NULL;
    if (!f)
        return skv_fail(err, -ENOMEM, "out of memory");
    *f = (struct tier_fetch){.layout = *l,
                             .page_bytes = layout_page_bytes(l),
                             .wants = wants,
                             .n = (uint32_t)n,
                             .left = (uint32_t)n,
                             .on_page = on_page,
                             .arg = arg,
                             .link = (uint32_t *)(f + 1)};
    f->asked = (uint8_t *)(f->link + n);
    f->flaws = f->asked + n;
    memset(f->asked, 0, 2 * n);
    for (uint32_t i = 0; i < n; i++)
        page_place(c, f, i);
    if (n) {
        *(c->fetches ? &c->fetches_end->next : &c->fetches) = f;
        c->fetches_end = f;
    }
    *out = f;
    return 0;
}

bool client_fetch_done(const struct tier_fetch *f)
{
    return f->left == 0;
}

static void fetch_unlink(struct client *c, struct tier_fetch *f)
{
    struct tier_fetch *before = NULL;
    for (struct tier_fetch *at = c->fetches; at != f; at = at->next)
        before = at;
    *(before ? &before->next : &c->fetches) = f->next;
    if (c->fetches_end == f)
        c->fetches_end = before;
}

int client_fetch_free(struct client *c, struct tier_fetch *f, struct skv_error *err)
{
    if (f->left) {
        fetch_unlink(c, f);
        c->n_doomed -= f->doomed.n;
        for (uint32_t i = 0; i < c->n_slots; i++)
            if (c->slots[i]->kind == REQUEST_GET && c->slots[i]->fetch == f)
                c->slots[i]->fetch = NULL;
    }
    int rc = f->failure.code;
    if (rc && err)
        *err = f->failure;
    free(f);
    return rc;
}

/* Ends one page. The callback may begin other fetches. */
static void page_done(struct client *c, struct tier_fetch *f, uint32_t page, int rc, const uint8_t *bytes)
{
    if (--f->left == 0)
        fetch_unlink(c, f);
    f->on_page(f->arg, page, rc, bytes);
}

/* ---- asking ---- */

/* Bytes that a Want for one page takes in a header, besides its masks: key (chain, layer), checksum, tags,
 * lengths. */
enum { WANT_BYTES = 80, WANT_PAGE_BYTES = 8 };

static bool same_key(const struct block_key *a, const struct block_key *b)
{
    return a == b || key_equal(a, b);
}

/* Fills the scratch with Wants for the first pages of the node's queue, at most max_pages; r->pages notes
 * them. The queue is left as it is. Returns the number of Wants. */
static size_t get_gather(struct client *c, struct tier_fetch *f, unsigned node, uint32_t max_pages,
                         struct request *r)
{
    struct get_scratch *g = &c->get;
    uint32_t n_heads = f->layout.n_heads, at = f->queue[node].first, n = 0;
    size_t n_wants = 0, bytes = 64, limit = c->nodes[node].max_header;
    const struct tier_want *before = NULL;
    for (; n < max_pages && n < f->queue[node].n; at = f->link[at]) {
        const struct tier_want *w = &f->wants[at];
        bool extends = before && same_key(before->key, w->key) &&
                       (w->head > before->head || (w->head == before->head && w->page > before->page));
        bytes += WANT_PAGE_BYTES + (extends ? 0 : WANT_BYTES + n_heads);
        if (bytes > limit)
            break;
        if (!extends) {
            g->key[n_wants] = (Scoutkv__Key)SCOUTKV__KEY__INIT;
            g->key[n_wants].chain = (ProtobufCBinaryData){CHAIN_BYTES, (uint8_t *)w->key->chain};
            g->key[n_wants].layer = w->key->layer;
            Scoutkv__Get__Want *want = g->want_at[n_wants] = &g->want[n_wants];
            *want = (Scoutkv__Get__Want)SCOUTKV__GET__WANT__INIT;
            want->key = &g->key[n_wants];
            want->masks = g->masks + n_wants * n_heads;
            want->n_masks = n_heads;
            memset(want->masks, 0, n_heads * sizeof *want->masks);
            want->checksums = g->checksum + n;
            n_wants++;
        }
        g->want[n_wants - 1].masks[w->head] |= 1u << w->page;
        g->want[n_wants - 1].n_checksums++;
        g->checksum[n] = w->checksum;
        r->pages[n++] = at;
        before = w;
    }
    r->n_pages = r->n_left = n;
    return n_wants;
}

/* Pages that the lane may ask for now; 0: better wait until more room makes a GET worth sending. */
static uint32_t get_room(const struct client *c, const struct lane *l, const struct tier_fetch *f,
                         uint32_t queued)
{
    uint64_t window = c->opts.get_window, page = f->page_bytes;
    uint64_t room = l->asked < window ? (window - l->asked) / page : 0;
    if (l->asked == 0 && room == 0)
        return 1; /* a page larger than the window must pass too */
    uint64_t worth = window / 2 < PROTO_REPLY_BYTES ? window / 2 / page : PROTO_REPLY_BYTES / page;
    if (room < worth && room < queued)
        return 0;
    uint64_t most = GET_BYTES / page < GET_PAGES ? GET_BYTES / page : GET_PAGES;
    return (uint32_t)(room < most ? room : most);
}

bool get_next(struct client *c, unsigned lane, uint64_t now, struct outgoing *out)
{
    struct lane *l = &c->lanes[lane];
    struct tier_fetch *f = c->fetches;
    while (f && (f->queue[l->node].n == 0 || now < f->starting[l->node].not_before))
        f = f->next;
    if (!f || l->gets == LANE_GETS)
        return false;
    struct page_queue *q = &f->queue[l->node];
    uint32_t room = get_room(c, l, f, q->n);
    struct request *r = room ? request_new(c, REQUEST_GET, lane, now + c->opts.timeout_ns) : NULL;
    if (!r)
        return false;
    r->fetch = f;
    r->page_bytes = f->page_bytes;
    l->gets++;
    Scoutkv__Get get = SCOUTKV__GET__INIT;
    get.n_wants = get_gather(c, f, l->node, room, r);
    get.wants = c->get.want_at;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.version = c->nodes[l->node].version;
    h.id = r->id;
    h.body_case = SCOUTKV__HEADER__BODY_GET;
    h.get = &get;
    l->asked += r->n_pages * r->page_bytes;
    *out = (struct outgoing){.header = header_pack(&h)};
    if (!out->header) {
        request_free(c, r);
        return false;
    }
    assert(out->header->len <= c->nodes[l->node].max_header);
    for (uint32_t i = 0; i < r->n_pages; i++)
        queue_pop(f, q);
    memset(r->answered, 0, sizeof r->answered);
    return true;
}

/* ---- answers ---- */

static const char *pages_wrong(const struct request *r, const Scoutkv__Pages *p, size_t payload)
{
    if (payload != p->n_found * r->page_bytes || (p->n_found && p->page_bytes != r->page_bytes))
        return "pages of another size than asked for";
    for (size_t i = 0; i < p->n_found; i++)
        if (p->found[i] >= r->n_pages)
            return "a page that was not asked for";
    for (size_t i = 0; i < p->n_missed; i++)
        if (p->missed[i] >= r->n_pages)
            return "a page that was not asked for";
    return NULL;
}

/* Marks one page of the request as answered. False if it was already. */
static bool take_answer(struct client *c, struct request *r, uint32_t i)
{
    uint64_t bit = UINT64_C(1) << (i & 63);
    if (r->answered[i >> 6] & bit)
        return false;
    r->answered[i >> 6] |= bit;
    r->n_left--;
    c->lanes[r->lane].asked -= r->page_bytes;
    return true;
}

static void page_found(struct client *c, struct tier_fetch *f, uint32_t page, const uint8_t *bytes)
{
    const struct tier_want *w = &f->wants[page];
    if (page_checksum(w->key, f->layout.head0 + w->head, w->page, bytes, f->page_bytes) != w->checksum) {
        c->totals.tier.bad_checksums++;
        f->flaws[page] |= FLAW_BAD;
        page_next_node(c, f, page);
        return;
    }
    c->totals.tier.get_pages++;
    c->totals.tier.get_bytes += f->page_bytes;
    page_done(c, f, page, 0, bytes);
}

/* The node still reads its disks: its pages go back to the head of its queue, to be asked for again. False
 * when their time is up. */
static bool get_postpone(struct request *r, unsigned node, uint64_t now)
{
    struct tier_fetch *f = r->fetch;
    if (!f)
        return true;
    if (!f->starting[node].give_up)
        f->starting[node].give_up = r->deadline;
    if (now + STARTING_PAUSE_NS >= f->starting[node].give_up)
        return false;
    f->starting[node].not_before = now + STARTING_PAUSE_NS;
    for (uint32_t i = r->n_pages; i-- > 0;)
        if (!(r->answered[i >> 6] >> (i & 63) & 1))
            queue_push_first(f, &f->queue[node], r->pages[i]);
    return true;
}

/* The request ends when each of its pages was answered; `last` adds nothing to that. */
void get_answered(struct client *c, struct request *r, const struct message *m, uint64_t now)
{
    unsigned node = c->lanes[r->lane].node;
    if (m->header->body_case == SCOUTKV__HEADER__BODY_REFUSED) {
        struct skv_error why;
        refusal(&c->nodes[node], m->header->refused, &why);
        c->totals.tier.refused++;
        if (!refused_starting(m->header->refused) || !get_postpone(r, node, now))
            get_failed(c, r, &why);
        request_free(c, r);
        return;
    }
    const Scoutkv__Pages *p = m->header->body_case == SCOUTKV__HEADER__BODY_PAGES ? m->header->pages : NULL;
    const char *wrong = p ? pages_wrong(r, p, m->payload.len) : "no pages to a GET";
    if (wrong) {
        node_broke_protocol(c, node, now, wrong);
        return;
    }
    const uint8_t *bytes = m->payload.data;
    for (size_t i = 0; i < p->n_found; i++, bytes += r->page_bytes)
        if (take_answer(c, r, p->found[i]) && r->fetch)
            page_found(c, r->fetch, r->pages[p->found[i]], bytes);
    for (size_t i = 0; i < p->n_missed; i++)
        if (take_answer(c, r, p->missed[i]) && r->fetch) {
            c->totals.tier.misses++;
            page_next_node(c, r->fetch, r->pages[p->missed[i]]);
        }
    r->deadline =
        now + c->opts.timeout_ns; /* a long answer on a slow link: the clock runs from part to part */
    if (r->n_left == 0)
        request_free(c, r);
}

/* ---- failures ---- */

void get_failed(struct client *c, struct request *r, const struct skv_error *why)
{
    struct tier_fetch *f = r->fetch;
    if (!f)
        return;
    f->late = *why;
    for (uint32_t i = 0; i < r->n_pages; i++)
        if (!(r->answered[i >> 6] >> (i & 63) & 1)) {
            f->flaws[r->pages[i]] |= FLAW_LATE;
            page_next_node(c, f, r->pages[i]);
        }
}

void get_node_lost(struct client *c, unsigned node)
{
    for (struct tier_fetch *f = c->fetches; f; f = f->next) {
        struct page_queue waiting = f->queue[node];
        f->queue[node] = (struct page_queue){0};
        while (waiting.n)
            page_place(c, f, queue_pop(f, &waiting)); /* sees that the node is down */
    }
}

static int doom(const struct client *c, const struct tier_fetch *f, uint32_t page, struct skv_error *err)
{
    const struct tier_want *w = &f->wants[page];
    unsigned long long name = 0; /* the first 8 bytes of the chain name a block well enough for people */
    for (int i = 0; i < 8; i++)
        name = name << 8 | w->key->chain[i];
    if (f->flaws[page] & FLAW_LATE)
        return skv_fail(err, -EHOSTUNREACH,
                        "cannot read page %u of head %u of block %016llx, layer %u: %.350s", w->page,
                        f->layout.head0 + w->head, name, w->key->layer, f->late.text);
    if (f->flaws[page] & FLAW_BAD)
        return skv_fail(err, -EBADMSG,
                        "page %u of head %u of block %016llx, layer %u failed its checksum, and no other "
                        "node of %u has a good "
                        "copy: look for failing memory or disks",
                        w->page, f->layout.head0 + w->head, name, w->key->layer, c->map.n);
    return skv_fail(
        err, -ENODATA,
        "page %u of head %u of block %016llx, layer %u is lost: all %u memory nodes were asked (was it "
        "evicted, or a node restarted empty?)",
        w->page, f->layout.head0 + w->head, name, w->key->layer, c->map.n);
}

static int doom_code(uint8_t flaws)
{
    return flaws & FLAW_LATE ? -EHOSTUNREACH : flaws & FLAW_BAD ? -EBADMSG : -ENODATA;
}

void get_deliver_doomed(struct client *c)
{
    for (struct tier_fetch *f = c->fetches, *next; f; f = next) {
        next = f->next;
        while (f->doomed.n) {
            uint32_t page = queue_pop(f, &f->doomed);
            c->n_doomed--;
            if (!f->failure.code)
                doom(c, f, page, &f->failure);
            page_done(c, f, page, doom_code(f->flaws[page]), NULL);
        }
    }
}
