/* client_get.c: fetching pages.
 *
 * Every page of a fetch lies in at most one queue: of the node that is asked next, of the stranded, which
 * only a node that is down may have, or of the doomed, which no node has; so one array of links serves all
 * queues. GETs are built only when a lane has room in its window, from the oldest fetch first and in page
 * order, so pages arrive about in the order in which they are merged. Small fetches that are queued together
 * travel in one GET, and so do the answers: a message costs as much as some ten KiB of pages.
 *
 * A page is asked of the one of its holders (the first `replicas` nodes in rank, those that live) that should
 * answer soonest. One that its node misses, spoils or cannot give goes to the next. Where an answer takes
 * longer than nearly all of that node's, another holder is asked as well, and the first answer counts: a page
 * may be on its way from two nodes, or on its way from one and queued for another. A node that still reads
 * its disks is asked last, and again for as long as a request may take.
 *
 * A caller that has no more time gives a fetch up. Nodes that it then still waited for are behind until they
 * answer a GET: whoever is in a hurry need not wait for them again, and others are asked first. */
#include "decoder/tier/client_fetch.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- which node ---- */

static uint64_t bytes_asked(const struct client *c, unsigned node)
{
    uint64_t bytes = 0;
    for (unsigned i = 1; i <= c->opts.lanes; i++)
        bytes += c->lanes[node * (1 + c->opts.lanes) + i].asked;
    return bytes;
}

/* What to prefer, lowest first: holders, by how soon they should answer; holders that are suspect; others, in
 * rank; those that still read their disks. */
static double ask_cost(const struct client *c, const struct tier_fetch *f, unsigned node, unsigned rank)
{
    const struct client_node *n = &c->nodes[node];
    if (f->starting[node].give_up)
        return 4e18 + rank;
    if (rank >= c->opts.replicas)
        return 3e18 + rank;
    if (n->suspect || c->behind & node_bit(node))
        return 2e18 + rank;
    double queued = (double)(bytes_asked(c, node) + f->queue[node].n * f->page_bytes);
    return ((double)n->delays.mean + 1) * (1 + queued / PROTO_REPLY_BYTES);
}

/* The node to ask for the page, or -1. holders: only a holder that is neither suspect nor starting. */
static int page_pick(struct client *c, struct tier_fetch *f, uint32_t page, bool holders)
{
    const struct block_key *key = f->wants[page].key;
    if (f->ranked != key) {
        placement_rank(&c->map, key_hash(key), f->order);
        f->ranked = key;
    }
    uint64_t not = f->no[page] | f->at[page];
    int best = -1;
    double best_cost = holders ? 1e18 : 1e19;
    for (unsigned i = 0; i < c->map.n; i++) {
        unsigned node = f->order[i];
        double cost = !c->nodes[node].up || not &node_bit(node) ? 1e19 : ask_cost(c, f, node, i);
        if (cost < best_cost) {
            best_cost = cost;
            best = (int)node;
        }
    }
    return best;
}

static void page_queue_at(struct tier_fetch *f, uint32_t page, unsigned node)
{
    f->at[page] |= node_bit(node);
    queue_push(f, &f->queue[node], page);
}

/* A page that is nowhere: queues it for the next node, or gives it up. Nodes are asked twice: a block that is
 * being moved (client_move.c) may come to one that has just said no, and be dropped where it was before that
 * one is asked. */
static void page_place(struct client *c, struct tier_fetch *f, uint32_t page)
{
    int node = page_pick(c, f, page, false);
    if (node < 0 && c->map.n > 1 && !(f->flags[page] & (FLAG_AGAIN | FLAG_BAD))) {
        f->flags[page] |= FLAG_AGAIN;
        f->no[page] = 0;
        node = page_pick(c, f, page, false);
    }
    if (node >= 0) {
        page_queue_at(f, page, (unsigned)node);
        return;
    }
    uint64_t by;
    for (unsigned i = 0; i < c->map.n; i++) /* the last in rank that could not be asked is named */
        if (!c->nodes[f->order[i]].up && !(f->no[page] & node_bit(f->order[i])))
            f->late = c->nodes[f->order[i]].why;
    if (nodes_returning(c, ~f->no[page], &by)) {
        queue_push(f, &f->stranded, page);
        f->give_up = by > f->give_up ? by : f->give_up;
        client_due(c, f->give_up);
    } else {
        queue_push(f, &f->doomed, page);
        c->n_doomed++;
    }
}

/* The node will not bring the page; others still may. */
static void page_left(struct client *c, struct tier_fetch *f, uint32_t page, unsigned node)
{
    f->at[page] &= ~node_bit(node);
    if (!f->at[page] && !(f->flags[page] & FLAG_DONE))
        page_place(c, f, page);
}

static void page_refused(struct client *c, struct tier_fetch *f, uint32_t page, unsigned node)
{
    f->no[page] |= node_bit(node);
    page_left(c, f, page, node);
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
    struct tier_fetch *f =
        masks_reserve(c, l) ? calloc(1, sizeof *f + n * (2 * sizeof *f->at + sizeof *f->link + 1)) : NULL;
    if (!f)
        return skv_fail(err, -ENOMEM, "out of memory");
    *f = (struct tier_fetch){.layout = *l,
                             .page_bytes = layout_page_bytes(l),
                             .wants = wants,
                             .n = (uint32_t)n,
                             .left = (uint32_t)n,
                             .on_page = on_page,
                             .arg = arg,
                             .at = (uint64_t *)(f + 1)};
    f->no = f->at + n;
    f->link = (uint32_t *)(f->no + n);
    f->flags = (uint8_t *)(f->link + n);
    for (uint32_t i = 0; i < n; i++)
        page_place(c, f, i);
    if (n) {
        *(c->fetches ? &c->fetches_end->next : &c->fetches) = f;
        c->fetches_end = f;
    }
    *out = f;
    return 0;
}

static void part_ended(struct get_part *p)
{
    if (p->fetch)
        p->fetch->requests--;
    p->fetch = NULL;
}

void get_request_ended(struct request *r)
{
    for (unsigned i = 0; i < r->asked->n_parts; i++)
        part_ended(&r->asked->part[i]);
}

/* The part of a request that asks for pages of the fetch, or NULL. */
static struct get_part *part_of(const struct request *r, const struct tier_fetch *f)
{
    for (unsigned i = 0; r->kind == REQUEST_GET && i < r->asked->n_parts; i++)
        if (r->asked->part[i].fetch == f)
            return &r->asked->part[i];
    return NULL;
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
    }
    for (uint32_t i = 0; f->requests; i++) { /* a page that has come may still come from another node */
        assert(i < c->n_slots);
        struct get_part *p = part_of(c->slots[i], f);
        if (p)
            part_ended(p);
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
    f->flags[page] |= FLAG_DONE;
    if (--f->left == 0)
        fetch_unlink(c, f);
    f->on_page(f->arg, page, rc, bytes);
}

/* ---- answers ---- */

static const char *pages_wrong(const struct request *r, const Scoutkv__Pages *p, const struct view *payload)
{
    bool whole = true;
    for (unsigned i = 0; i < view_parts(payload); i++)
        whole &= view_part(payload, i)->len % r->page_bytes == 0;
    if (!whole || view_len(payload) != p->n_found * r->page_bytes ||
        (p->n_found && p->page_bytes != r->page_bytes))
        return "pages of another size than asked for";
    for (size_t i = 0; i < p->n_found; i++)
        if (p->found[i] >= r->n_pages)
            return "a page that was not asked for";
    for (size_t i = 0; i < p->n_missed; i++)
        if (p->missed[i] >= r->n_pages)
            return "a page that was not asked for";
    return NULL;
}

/* The fetch that a page of the request is of; NULL if it was freed. */
static struct tier_fetch *fetch_of(const struct request *r, uint32_t i)
{
    return r->asked->part[r->asked->page[i].part].fetch;
}

/* The same, or NULL if it does not wait for the page any more: it was answered, or came from elsewhere. */
static struct tier_fetch *awaiting(const struct request *r, uint32_t i)
{
    struct tier_fetch *f = r->answered[i >> 6] >> (i & 63) & 1 ? NULL : fetch_of(r, i);
    return f && !(f->flags[r->asked->page[i].want] & FLAG_DONE) ? f : NULL;
}

/* Notes for each fetch of the request why it fails, or may. */
static void note_late(struct request *r, const struct skv_error *why)
{
    for (unsigned i = 0; i < r->asked->n_parts; i++)
        if (r->asked->part[i].fetch)
            r->asked->part[i].fetch->late = *why;
}

/* Another answer than pages: the node is done with them. */
static void get_refused(struct client *c, struct request *r)
{
    for (uint32_t i = 0; i < r->n_pages; i++) {
        struct tier_fetch *f = awaiting(r, i);
        uint32_t page = r->asked->page[i].want;
        if (!f)
            continue;
        f->flags[page] |= FLAG_LATE;
        page_refused(c, f, page, c->lanes[r->lane].node);
    }
}

/* Marks one page of the request as answered. False if it was already. */
static bool take_answer(struct client *c, struct request *r, uint32_t i)
{
    uint64_t bit = UINT64_C(1) << (i & 63);
    if (r->answered[i >> 6] & bit)
        return false;
    r->answered[i >> 6] |= bit;
    r->n_left--;
    r->asked->part[r->asked->page[i].part].n_left--;
    c->lanes[r->lane].asked -= r->page_bytes;
    return true;
}

static void page_found(struct client *c, struct tier_fetch *f, uint32_t page, unsigned node,
                       const uint8_t *bytes)
{
    const struct tier_want *w = &f->wants[page];
    if (f->flags[page] & FLAG_DONE) {
        c->totals.tier.hedge_bytes += f->page_bytes;
        return;
    }
    if (!c->opts.unchecked &&
        page_checksum(w->key, f->layout.head0 + w->head, w->page, bytes, f->page_bytes) != w->checksum) {
        c->totals.tier.bad_checksums++;
        f->flags[page] |= FLAG_BAD;
        page_refused(c, f, page, node);
        return;
    }
    c->totals.tier.get_pages++;
    c->totals.tier.get_bytes += f->page_bytes;
    if (f->no[page])
        repair_note(c, w->key, f->no[page]);
    page_done(c, f, page, 0, bytes);
}

/* The node still reads its disks. What it was asked for goes to others, and back to it if they don't have it,
 * until the time for that is up. */
static void get_starting(struct client *c, struct request *r, unsigned node, uint64_t now)
{
    for (unsigned i = 0; i < r->asked->n_parts; i++) {
        struct tier_fetch *f = r->asked->part[i].fetch;
        if (!f)
            continue;
        if (!f->starting[node].give_up)
            f->starting[node].give_up = r->deadline;
        f->starting[node].not_before = now + STARTING_PAUSE_NS;
    }
    for (uint32_t i = 0; i < r->n_pages; i++) {
        struct tier_fetch *f = awaiting(r, i);
        uint32_t page = r->asked->page[i].want;
        if (!f)
            continue;
        bool again = f->starting[node].not_before < f->starting[node].give_up;
        f->flags[page] |= again ? 0 : FLAG_LATE;
        f->no[page] |= again ? 0 : node_bit(node);
        page_left(c, f, page, node);
    }
}

/* One page of an answer: its bytes, or NULL: the node has not got it. */
static void get_page_answered(struct client *c, struct request *r, uint32_t i, unsigned node,
                              const uint8_t *bytes)
{
    if (!take_answer(c, r, i))
        return;
    struct get_part *part = &r->asked->part[r->asked->page[i].part];
    struct tier_fetch *f = part->fetch;
    uint32_t page = r->asked->page[i].want;
    if (part->n_left == 0)
        part_ended(part);
    if (bytes && f) {
        page_found(c, f, page, node, bytes);
    } else if (bytes) {
        c->totals.tier.hedge_bytes += r->page_bytes;
    } else if (f) {
        c->totals.tier.misses++;
        page_refused(c, f, page, node);
    }
}

/* The request ends when each of its pages was answered; `last` adds nothing to that. */
void get_answered(struct client *c, struct request *r, const struct message *m, uint64_t now)
{
    unsigned node = c->lanes[r->lane].node;
    c->behind &= ~node_bit(node);
    if (m->header->body_case == SCOUTKV__HEADER__BODY_REFUSED) {
        struct skv_error why;
        refusal(&c->nodes[node], m->header->refused, &why);
        c->totals.tier.refused++;
        note_late(r, &why);
        if (refused_starting(m->header->refused))
            get_starting(c, r, node, now);
        else
            get_refused(c, r);
        request_free(c, r);
        return;
    }
    const Scoutkv__Pages *p = m->header->body_case == SCOUTKV__HEADER__BODY_PAGES ? m->header->pages : NULL;
    const char *wrong = p ? pages_wrong(r, p, &m->payload) : "no pages to a GET";
    if (wrong) {
        node_broke_protocol(c, node, now, wrong);
        return;
    }
    for (unsigned i = 0, page = 0; i < view_parts(&m->payload); i++) {
        const struct view *part = view_part(&m->payload, i);
        for (size_t at = 0; at < part->len; at += r->page_bytes)
            get_page_answered(c, r, p->found[page++], node, part->data + at);
    }
    for (size_t i = 0; i < p->n_missed; i++)
        get_page_answered(c, r, p->missed[i], node, NULL);
    delays_add(&c->nodes[node].delays, now - r->heard);
    if (r->n_left == 0) {
        request_free(c, r);
        return;
    }
    r->deadline =
        now + c->opts.timeout_ns; /* a long answer on a slow link: the clock runs from part to part */
    hedge_schedule(c, r, node, now);
}

/* ---- hedges and failures ---- */

void get_hedge(struct client *c, struct request *r, bool any)
{
    unsigned node = c->lanes[r->lane].node;
    struct delays *d = &c->nodes[node].delays;
    uint64_t waited = c->now - r->heard;
    r->hedge_at = NO_DEADLINE;
    d->mean = waited > d->mean ? waited : d->mean;
    get_node_shunned(c, node); /* what is only queued there, behind this one, is placed anew */
    for (uint32_t i = 0; i < r->n_pages; i++) {
        struct tier_fetch *f = awaiting(r, i);
        uint32_t page = r->asked->page[i].want;
        if (!f || f->at[page] != node_bit(node))
            continue;
        int other = page_pick(c, f, page, !any);
        if (other < 0)
            continue;
        c->totals.tier.hedged++;
        page_queue_at(f, page, (unsigned)other);
    }
}

void get_failed(struct client *c, struct request *r, const struct skv_error *why)
{
    note_late(r, why);
    for (uint32_t i = 0; i < r->n_pages; i++) {
        struct tier_fetch *f = awaiting(r, i);
        if (f)
            page_left(c, f, r->asked->page[i].want, c->lanes[r->lane].node);
    }
}

void get_node_shunned(struct client *c, unsigned node)
{
    for (struct tier_fetch *f = c->fetches; f; f = f->next) {
        struct page_queue waiting = f->queue[node];
        f->queue[node] = (struct page_queue){0};
        while (waiting.n)
            page_left(c, f, queue_pop(f, &waiting), node);
    }
}

void get_node_back(struct client *c, unsigned node)
{
    c->behind &= ~node_bit(node);
    for (struct tier_fetch *f = c->fetches; f; f = f->next) {
        struct page_queue waiting = f->stranded;
        f->stranded = (struct page_queue){0};
        f->starting[node].give_up = f->starting[node].not_before = 0;
        while (waiting.n)
            page_place(c, f, queue_pop(f, &waiting)); /* to this node, or back to the stranded */
    }
}

void get_forget_nodes(struct client *c, uint64_t gone)
{
    c->behind &= ~gone;
    for (struct tier_fetch *f = c->fetches; f; f = f->next) {
        f->ranked = NULL;
        for (unsigned i = 0; i < c->n_nodes; i++)
            if (gone & node_bit(i))
                f->starting[i].give_up = f->starting[i].not_before = 0;
        for (uint32_t i = 0; gone && i < f->n; i++)
            f->no[i] &= ~gone;
    }
}

void get_view_changed(struct client *c)
{
    for (struct tier_fetch *f = c->fetches; f; f = f->next) {
        struct page_queue waiting = f->stranded;
        f->stranded = (struct page_queue){0};
        while (waiting.n)
            page_place(c, f, queue_pop(f, &waiting));
    }
}

void get_tick(struct client *c, uint64_t now)
{
    for (struct tier_fetch *f = c->fetches; f; f = f->next) {
        if (f->stranded.n && now < f->give_up)
            client_due(c, f->give_up);
        else
            for (; f->stranded.n; c->n_doomed++)
                queue_push(f, &f->doomed, queue_pop(f, &f->stranded));
    }
}

/* Why a page can't be had. */
static int doom_code(const struct client *c, const struct tier_fetch *f, uint32_t page)
{
    bool all_said_no = !(c->map.members & ~f->no[page]);
    return f->flags[page] & FLAG_LATE || !all_said_no ? -EHOSTUNREACH
           : f->flags[page] & FLAG_BAD                ? -EBADMSG
                                                      : -ENODATA;
}

static int doom(const struct client *c, const struct tier_fetch *f, uint32_t page, struct skv_error *err)
{
    const struct tier_want *w = &f->wants[page];
    unsigned long long name = 0; /* the first 8 bytes of the chain name a block well enough for people */
    for (int i = 0; i < 8; i++)
        name = name << 8 | w->key->chain[i];
    int rc = doom_code(c, f, page);
    if (rc == -EHOSTUNREACH)
        return skv_fail(err, rc, "cannot read page %u of head %u of block %016llx, layer %u: %.350s", w->page,
                        f->layout.head0 + w->head, name, w->key->layer, f->late.text);
    if (rc == -EBADMSG)
        return skv_fail(err, rc,
                        "page %u of head %u of block %016llx, layer %u failed its checksum, and no other "
                        "node of %u has a good "
                        "copy: look for failing memory or disks",
                        w->page, f->layout.head0 + w->head, name, w->key->layer, c->map.n);
    return skv_fail(
        err, rc,
        "page %u of head %u of block %016llx, layer %u is lost: all %u memory nodes were asked (was it "
        "evicted, or a node restarted empty?)",
        w->page, f->layout.head0 + w->head, name, w->key->layer, c->map.n);
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
            page_done(c, f, page, doom_code(c, f, page), NULL);
        }
    }
}

/* ---- callers without time ---- */

bool client_fetch_behind(const struct client *c, const struct tier_fetch *f)
{
    uint64_t by;
    for (uint32_t i = 0; c->behind && i < f->n; i++) {
        if (f->flags[i] & FLAG_DONE)
            continue;
        uint64_t from = f->at[i] ? f->at[i] : nodes_returning(c, ~f->no[i], &by);
        if (from & ~c->behind)
            return false;
    }
    return c->behind != 0;
}

/* Whom it waits for: nodes that have its requests, and those that are to come back. */
static uint64_t fetch_awaits(const struct client *c, const struct tier_fetch *f)
{
    uint64_t nodes = 0, by;
    for (uint32_t i = 0, n = 0; n < f->requests; i++)
        if (part_of(c->slots[i], f)) {
            nodes |= node_bit(c->lanes[c->slots[i]->lane].node);
            n++;
        }
    for (uint32_t i = 0; f->stranded.n && i < f->n; i++)
        if (!(f->flags[i] & FLAG_DONE) && !f->at[i])
            nodes |= nodes_returning(c, ~f->no[i], &by);
    return nodes;
}

void client_fetch_give_up(struct client *c, struct tier_fetch *f)
{
    uint64_t nodes = fetch_awaits(c, f);
    c->behind |= nodes;
    if (nodes) {
        unsigned node = (unsigned)__builtin_ctzll(nodes);
        skv_fail(&f->late, -EHOSTUNREACH, "memory node %s at %s has not answered in the time that a step has",
                 client_node_id(c, node), client_node_address(c, node));
    }
    c->n_doomed -= f->doomed.n;
    f->doomed.n = f->stranded.n = 0;
    for (uint32_t i = 0, left = f->left; left; i++) {
        if (f->flags[i] & FLAG_DONE)
            continue;
        if (f->at[i])
            f->flags[i] |= FLAG_LATE;
        if (!f->failure.code)
            doom(c, f, i, &f->failure);
        left--;
        page_done(c, f, i, doom_code(c, f, i), NULL);
    }
}
