/* clean.c: eviction. Space comes back by segments.
 *
 * DESIGN. When few segments are free, the one whose blocks are worth least together is emptied. What leases
 * hold is moved; so is what is worth more than the average block, if at least half of the segment is gained,
 * and everything if a segment is mostly empty; the rest is evicted. Blocks leave a segment by being placed
 * elsewhere (log.c commits that) or by losing their entry; when none is left and nobody reads, it is free.
 * Worth is what block_value says; to choose, a sample of each segment is looked at. */
#include "memnode/store/store_impl.h"

#include <errno.h>
#include <stdlib.h>

enum {
    SAMPLE = 32,
    FULLEST = 31 /* of 32: a segment that leases hold to that share is not worth emptying */
};

uint32_t segments_free(const struct disk *d)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < d->n_segments; i++) {
        enum segment_state state = d->segments[i].state;
        n += state == SEGMENT_FREE || state == SEGMENT_PREPARING || state == SEGMENT_READY;
    }
    return n;
}

void segment_settle(struct disk *d, uint32_t segment)
{
    struct segment *g = &d->segments[segment];
    if (g->state != SEGMENT_SEALED || g->n_live || g->busy || d->store->state != STORE_SERVING)
        return;
    g->state = SEGMENT_FREE;
    g->cleaning = false;
    if (d->victim == segment)
        d->victim = NO_SEGMENT;
    d->store->moved = true;
}

/* ---- which one ---- */

struct sample {
    double value;  /* mean of a block */
    double leased; /* share */
};

static struct sample sample_of(const struct store *s, const struct segment *g)
{
    struct sample x = {0};
    unsigned n = 0;
    for (const struct block *b = g->live; b && n < SAMPLE; b = b->next_in_segment, n++) {
        x.value += block_value(s, b);
        x.leased += block_held(b);
    }
    if (n) {
        x.value /= n;
        x.leased /= n;
    }
    return x;
}

static uint64_t leased_bytes(const struct segment *g)
{
    uint64_t bytes = 0;
    for (const struct block *b = g->live; b; b = b->next_in_segment)
        bytes += block_held(b) ? record_bytes(&b->layout) : 0;
    return bytes;
}

/* The segment to empty, and the mean value of all blocks. NO_SEGMENT: nothing can go. */
static uint32_t choose(const struct disk *d, double *mean)
{
    const struct store *s = d->store;
    uint32_t best = NO_SEGMENT;
    double best_worth = 0, total = 0;
    unsigned n = 0;
    for (uint32_t i = 0; i < d->n_segments; i++) {
        const struct segment *g = &d->segments[i];
        if (g->state != SEGMENT_SEALED || g->busy)
            continue;
        struct sample x = sample_of(s, g);
        double fill = (double)g->live_bytes / (double)d->segment_bytes;
        double worth = fill * (x.value + 8 * x.leased); /* moving what is leased costs and gains nothing */
        total += x.value;
        n++;
        if ((best == NO_SEGMENT || worth < best_worth) && leased_bytes(g) < d->segment_bytes / 32 * FULLEST) {
            best = i;
            best_worth = worth;
        }
    }
    *mean = n ? total / n : 0;
    return best;
}

/* ---- emptying it ---- */

struct move {
    struct disk *disk;
    struct block_key key;
    uint64_t sequence;
};

static void evict(struct store *s, struct block *b)
{
    /* What is in RAM too stays there no longer: it would be a block that no disk holds. */
    block_free(s, b);
    s->stats.evicted_disk++;
}

static void moved(void *arg, struct buf *buf, uint32_t n_bad)
{
    struct move *m = arg;
    struct disk *d = m->disk;
    struct store *s = d->store;
    struct block *b = store_find(s, &m->key);
    d->moving--;
    s->moved = true;
    if (b && b->sequence == m->sequence && block_on_disk(b)) {
        b->loading = false;
        if (buf && !s->closing) { /* no memory to queue it: the next round tries again */
            if (!b->put && put_start(s, b, buf, d))
                b->put->rotten = n_bad > 0;          /* it moves as it is: its good pages are worth it */
        } else if (!buf && !s->closing && !b->put) { /* not a page of it can be read */
            if (block_held(b) || b->buf) {
                block_unplace(s, b);
                b->damaged = true; /* the next PUT brings it back */
            } else {
                evict(s, b);
            }
        }
    }
    buf_unref(buf);
    free(m);
}

static void move(struct disk *d, struct block *b)
{
    struct store *s = d->store;
    if (b->buf) {
        (void)put_start(s, b, b->buf, d); /* no memory: the next round tries again */
        return;
    }
    struct move *m = malloc(sizeof *m);
    if (!m)
        return;
    *m = (struct move){d, b->key, b->sequence};
    if (read_block(s, b, moved, m)) {
        free(m);
        if (!block_held(b)) /* no memory to move it through: then it goes */
            evict(s, b);
        return;
    }
    b->loading = true;
    d->moving++;
}

/* Sends off what must or should be kept and evicts the rest, some blocks at a time. */
static void empty(struct disk *d)
{
    struct store *s = d->store;
    struct segment *g = &d->segments[d->victim];
    bool nowhere = segments_free(d) == 0 && d->open == NO_SEGMENT && !d->writing && !d->syncing;
    for (struct block *b = g->live, *next; b && d->moving < BACKGROUND_READS && d->moves.bytes < GROUP_BYTES;
         b = next) {
        next = b->next_in_segment;
        if (nowhere && !block_held(b) && !b->loading && !(b->put && b->put->waiters)) {
            put_abandon(b); /* a crash left no segment to move it to */
            evict(s, b);
            continue;
        }
        if (b->put)
            put_hurry(s, b, d); /* or it would wait for the segment that waits for it */
        if (b->put || b->loading)
            continue;
        if (block_held(b) || b->spared)
            move(d, b);
        else
            evict(s, b);
    }
}

/* Decides who is spared, once, when the victim is chosen. */
static void spare(struct disk *d, double mean)
{
    struct store *s = d->store;
    struct segment *g = &d->segments[d->victim];
    uint64_t room = d->segment_bytes / 2, leased = leased_bytes(g);
    bool sparse = g->live_bytes <= room;
    room = leased < room ? room - leased : 0;
    for (struct block *b = g->live; b; b = b->next_in_segment) {
        uint64_t bytes = record_bytes(&b->layout);
        b->spared = !block_held(b) && bytes <= room && (sparse || block_value(s, b) > mean);
        if (b->spared)
            room -= bytes;
    }
}

void clean_run(struct disk *d)
{
    if (d->failed || d->store->held)
        return;
    if (d->victim == NO_SEGMENT) {
        double mean;
        if ((d->stuck && !d->store->tick) || segments_free(d) > SPARE_SEGMENTS)
            return;
        d->victim = choose(d, &mean);
        if (d->victim == NO_SEGMENT) {
            d->stuck = segments_free(d) < SPARE_SEGMENTS && d->open == NO_SEGMENT;
            return;
        }
        d->stuck = false;
        d->segments[d->victim].cleaning = true;
        d->store->moved = true;
        spare(d, mean);
    }
    empty(d);
}
