/* scrub.c: reads what lies on the disks, slowly, to find what rotted before a reader does. A bad page is
 * marked (it is a miss, and the next PUT of its block writes it anew); a block that RAM still holds is
 * written anew at once, and one without a single good page is dropped. */
#include "memnode/store/store_impl.h"

#include <stdlib.h>

struct scrub {
    struct store *store;
    struct block_key key;
    uint64_t sequence;
    uint8_t *bytes;
    uint32_t n, first, n_pages, n_bad;
    size_t page_bytes;
};

static void pages_done(void *arg, uint64_t good);

/* Reads the next pages of the block, or ends. */
static void go_on(struct scrub *x)
{
    struct store *s = x->store;
    struct block *b = s->closing ? NULL : store_find(s, &x->key);
    bool there = b && b->sequence == x->sequence && block_on_disk(b);
    if (there && x->first < x->n_pages) {
        uint32_t left = x->n_pages - x->first, most = STORE_READ_PAGES;
        if (most * x->page_bytes > 1 << 20)
            most = (uint32_t)((1 << 20) / x->page_bytes);
        x->n = left < most ? left : most;
        if (read_pages(s, b, x->first, x->n, x->bytes, pages_done, x) == 0)
            return;
    } else if (there && x->n_bad) {
        if (b->buf && !b->put && !b->leases)
            (void)put_start(s, b, b->buf, NULL);
        else if (!b->buf && !block_held(b) && !b->loading && x->n_bad == x->n_pages)
            block_free(s, b);
    }
    s->scrubbing = false;
    free(x->bytes);
    free(x);
}

static void pages_done(void *arg, uint64_t good)
{
    struct scrub *x = arg;
    struct store *s = x->store;
    uint32_t n_bad = x->n - (uint32_t)__builtin_popcountll(good);
    if (!s->closing) {
        s->stats.scrub_bytes += x->n * x->page_bytes;
        s->stats.scrub_bad_pages += n_bad;
    }
    x->n_bad += n_bad;
    x->first += x->n;
    go_on(x);
}

/* The next block in the order of the table: of a bucket by rising sequence, then the next bucket. */
static struct block *next_block(struct store *s)
{
    for (unsigned looked = 0; looked < 4096; looked++) {
        struct block *best = NULL;
        if (s->scrub_bucket >= s->n_buckets) {
            s->scrub_bucket = 0;
            s->scrub_after = 0;
            s->stats.scrub_passes++;
            return NULL;
        }
        for (struct block *b = s->buckets[s->scrub_bucket]; b; b = b->next)
            if (block_on_disk(b) && b->sequence > s->scrub_after && (!best || b->sequence < best->sequence))
                best = b;
        if (best) {
            s->scrub_after = best->sequence;
            return best;
        }
        s->scrub_bucket++;
        s->scrub_after = 0;
    }
    return NULL;
}

void scrub_run(struct store *s)
{
    if (!s->scrub_rate || s->scrubbing || s->now < s->scrub_at)
        return;
    struct block *b = next_block(s);
    if (!b) {
        s->scrub_at = s->now + 100000000; /* looked at much, or came round */
        return;
    }
    struct scrub *x = malloc(sizeof *x);
    if (!x)
        return;
    size_t page = layout_page_bytes(&b->layout), len = (size_t)layout_pages(&b->layout) * page;
    size_t room = len < STORE_READ_PAGES * page ? len : STORE_READ_PAGES * page;
    *x = (struct scrub){.store = s,
                        .key = b->key,
                        .sequence = b->sequence,
                        .n_pages = (uint32_t)layout_pages(&b->layout),
                        .page_bytes = page,
                        .bytes = aligned_alloc(DISK_PAGE, (room + DISK_PAGE - 1) / DISK_PAGE * DISK_PAGE)};
    if (!x->bytes) {
        free(x);
        return;
    }
    /* What it is behind is made up for, a tenth of a second at most. */
    if (s->scrub_at + 100000000 < s->now)
        s->scrub_at = s->now - 100000000;
    s->scrub_at += (uint64_t)((double)len / (double)s->scrub_rate * 1e9);
    s->scrubbing = true;
    go_on(x);
}
