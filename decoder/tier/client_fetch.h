/* client_fetch.h: a fetch, as client_get.c (whom to ask, answers) and client_ask.c (GETs) know it. */
#ifndef TIER_CLIENT_FETCH_H
#define TIER_CLIENT_FETCH_H

#include "decoder/tier/client_internal.h"

/* Of a page: some node could not say whether it has it; some copy failed its checksum; it was handed out; all
 * nodes are asked for the second time. */
enum flag { FLAG_LATE = 1, FLAG_BAD = 2, FLAG_DONE = 4, FLAG_AGAIN = 8 };

struct page_queue {
    uint32_t first, last, n;
};

struct tier_fetch {
    struct tier_fetch *next; /* among those not done */
    struct block_layout layout;
    size_t page_bytes;
    const struct tier_want *wants;
    uint32_t n, left;
    uint32_t requests; /* on their way that ask for pages of it */
    tier_page_fn *on_page;
    void *arg;
    struct skv_error failure;       /* the first page's */
    struct skv_error late;          /* why a node last failed to answer */
    const struct block_key *ranked; /* key that `order` is for, or NULL */
    uint8_t order[PLACEMENT_MAX_NODES];
    struct page_queue doomed, stranded;
    uint64_t give_up; /* the stranded, then */
    struct page_queue queue[PLACEMENT_MAX_NODES];
    struct {
        uint64_t not_before; /* to be asked again then */
        uint64_t give_up;    /* 0: it was not starting when it was asked */
    } starting[PLACEMENT_MAX_NODES];
    uint64_t *at;   /* [n] nodes that the page is queued for or on its way from */
    uint64_t *no;   /* [n] nodes that have answered, but not with the page */
    uint32_t *link; /* [n] the next page in the same queue */
    uint8_t *flags; /* [n] */
};

static inline void queue_push(struct tier_fetch *f, struct page_queue *q, uint32_t page)
{
    f->link[page] = NO_PAGE;
    if (q->n++)
        f->link[q->last] = page;
    else
        q->first = page;
    q->last = page;
}

static inline uint32_t queue_pop(struct tier_fetch *f, struct page_queue *q)
{
    uint32_t page = q->first;
    q->first = f->link[page];
    q->n--;
    return page;
}

/* When another node is to be asked as well, if no more has come by then. */
void hedge_schedule(struct client *, struct request *, unsigned node, uint64_t now);

#endif
