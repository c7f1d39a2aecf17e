/* client_ask.c: GETs: which pages of which fetches travel in the next one of a lane. */
#include "decoder/tier/client_fetch.h"

#include <assert.h>
#include <string.h>

/* The share of a node's answers that are not hedged, and the least time before one is. */
static const double HEDGE_QUANTILE = 0.95;
static const uint64_t HEDGE_LEAST_NS = NS_PER_MS;

/* Bytes that a Want for one page takes in a header, besides its masks: key (chain, layer), checksum, tags,
 * lengths. */
enum { WANT_BYTES = 80, WANT_PAGE_BYTES = 8 };

static bool same_key(const struct block_key *a, const struct block_key *b)
{
    return a == b || key_equal(a, b);
}

static void want_begin(struct get_scratch *g, const struct tier_want *w, uint32_t n_heads,
                       uint32_t first_page)
{
    Scoutkv__Key *key = &g->key[g->n_wants];
    Scoutkv__Get__Want *want = g->want_at[g->n_wants] = &g->want[g->n_wants];
    *key = (Scoutkv__Key)SCOUTKV__KEY__INIT;
    key->chain = (ProtobufCBinaryData){CHAIN_BYTES, (uint8_t *)w->key->chain};
    key->layer = w->key->layer;
    *want = (Scoutkv__Get__Want)SCOUTKV__GET__WANT__INIT;
    want->key = key;
    want->masks = g->masks + g->n_masks;
    want->n_masks = n_heads;
    want->checksums = g->checksum + first_page;
    memset(want->masks, 0, n_heads * sizeof *want->masks);
    g->n_masks += n_heads;
    g->n_wants++;
}

/* Adds a part to the request, and Wants to the scratch, for the first pages of the fetch's queue at the node
 * that have not come by another way, so that the request has at most max_pages. The queue is left as it is.
 * False if the header is full. */
static bool get_gather(struct client *c, struct tier_fetch *f, unsigned node, uint32_t max_pages,
                       struct request *r)
{
    struct get_scratch *g = &c->get;
    struct get_asked *asked = r->asked;
    unsigned part = asked->n_parts;
    uint32_t n_heads = f->layout.n_heads, at = f->queue[node].first, first = r->n_pages, walked = 0;
    size_t limit = c->nodes[node].max_header;
    const struct tier_want *before = NULL;
    bool room = true;
    for (; r->n_pages < max_pages && walked < f->queue[node].n; at = f->link[at], walked++) {
        const struct tier_want *w = &f->wants[at];
        if (f->flags[at] & FLAG_DONE)
            continue;
        bool extends = before && same_key(before->key, w->key) &&
                       (w->head > before->head || (w->head == before->head && w->page > before->page));
        size_t bytes = WANT_PAGE_BYTES + (extends ? 0 : WANT_BYTES + n_heads);
        if (!(room = g->bytes + bytes <= limit))
            break;
        g->bytes += bytes;
        if (!extends)
            want_begin(g, w, n_heads, r->n_pages);
        g->want[g->n_wants - 1].masks[w->head] |= 1u << w->page;
        g->want[g->n_wants - 1].n_checksums++;
        g->checksum[r->n_pages] = w->checksum;
        asked->page[r->n_pages++] = (struct get_page){at, part};
        before = w;
    }
    if (r->n_pages > first) {
        g->walked[part] = walked;
        asked->part[part] = (struct get_part){f, r->n_pages - first};
        asked->n_parts++;
        f->requests++;
    }
    r->n_left = r->n_pages;
    return room;
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

/* The oldest fetch, from f on, that waits for this node. */
static struct tier_fetch *get_due(struct tier_fetch *f, unsigned node, uint64_t now)
{
    for (; f; f = f->next) {
        struct page_queue *q = &f->queue[node];
        while (q->n && (f->flags[q->first] & FLAG_DONE))
            queue_pop(f, q);
        if (q->n && now >= f->starting[node].not_before)
            return f;
    }
    return NULL;
}

/* Whether a GET that begins with pages of `first` may ask for all that `f` has queued at the node, too. A
 * node that still reads its disks refuses a GET of which it does not know everything. */
static bool get_joins(const struct tier_fetch *first, const struct tier_fetch *f, unsigned node,
                      uint32_t n_pages)
{
    return f->page_bytes == first->page_bytes && !f->starting[node].give_up &&
           !first->starting[node].give_up &&
           (n_pages + f->queue[node].n) * f->page_bytes <= PROTO_REPLY_BYTES;
}

/* Gathers a GET: of the fetch, and, while it is worth less than one message of an answer, of those behind it.
 */
static void get_gather_all(struct client *c, struct tier_fetch *first, unsigned node, uint32_t room,
                           struct request *r, uint64_t now)
{
    struct get_scratch *g = &c->get;
    g->n_wants = g->n_masks = 0;
    g->bytes = 64;
    bool more = get_gather(c, first, node, room, r);
    for (struct tier_fetch *f = first; more && (f = get_due(f->next, node, now)) && r->n_pages < room &&
                                       r->asked->n_parts < GET_PARTS &&
                                       get_joins(first, f, node, r->n_pages);)
        more = get_gather(c, f, node, room, r);
}

void hedge_schedule(struct client *c, struct request *r, unsigned node, uint64_t now)
{
    const struct client_node *n = &c->nodes[node];
    uint64_t delay = delays_quantile(&n->delays, HEDGE_QUANTILE);
    r->heard = now;
    if (n->suspect)
        r->hedge_at = now;
    else if (c->opts.replicas == 1 || c->map.n == 1 || !delay)
        r->hedge_at = NO_DEADLINE;
    else
        r->hedge_at = now + (delay > HEDGE_LEAST_NS ? delay : HEDGE_LEAST_NS);
    client_due(c, r->hedge_at);
}

bool get_next(struct client *c, unsigned lane, uint64_t now, struct outgoing *out)
{
    struct lane *l = &c->lanes[lane];
    struct tier_fetch *f = get_due(c->fetches, l->node, now);
    if (!f || l->gets == LANE_GETS)
        return false;
    uint32_t room = get_room(c, l, f, f->queue[l->node].n);
    struct request *r = room ? request_new(c, REQUEST_GET, lane, now + c->opts.timeout_ns) : NULL;
    if (!r)
        return false;
    r->page_bytes = f->page_bytes;
    l->gets++;
    get_gather_all(c, f, l->node, room, r, now);
    Scoutkv__Get get = SCOUTKV__GET__INIT;
    get.n_wants = c->get.n_wants;
    get.wants = c->get.want_at;
    get.frames = PROTO_MAX_FRAMES;
    Scoutkv__Header h = SCOUTKV__HEADER__INIT;
    h.version = c->nodes[l->node].version;
    h.id = r->id;
    h.epoch = c->epoch;
    h.body_case = SCOUTKV__HEADER__BODY_GET;
    h.get = &get;
    l->asked += r->n_pages * r->page_bytes;
    *out = (struct outgoing){.header = header_pack(&h)};
    if (!out->header) {
        request_free(c, r);
        return false;
    }
    assert(out->header->len <= c->nodes[l->node].max_header);
    for (unsigned i = 0; i < r->asked->n_parts; i++)
        for (struct tier_fetch *p = r->asked->part[i].fetch; c->get.walked[i]; c->get.walked[i]--)
            queue_pop(p, &p->queue[l->node]);
    memset(r->answered, 0, sizeof r->answered);
    hedge_schedule(c, r, l->node, now);
    return true;
}
