/* ram.c: RAM as a cache of what is on disks: what a block is worth there, who goes, and who comes back. */
#include "memnode/store/store_impl.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

enum { MOST_KEEP = 16, ROOM_AT_ONCE = 8 << 20 };
/* Uses that the hint "as the average" counts for. */
static const float hint_uses = 1;
/* A use counts half when every block has been used so often since, on average. */
static const double half_life = 4;

/* ---- what a block is worth ---- */

/* What is left of 1 after so many uses of blocks, halved every `half` of them. */
static double fade(const struct store *s, uint64_t used, double half)
{
    return exp2(-(double)(s->uses - used) / half);
}

static double long_run(const struct store *s)
{
    return half_life * (double)(s->stats.blocks + 1);
}

static float worth(const struct block *b)
{
    return b->heat + hint_uses * b->keep;
}

double block_value(const struct store *s, const struct block *b)
{
    return (double)worth(b) * fade(s, b->used, long_run(s));
}

/* The rate at which it is used, by two memories: a long one that counts, for what is asked for now and then
 * by many, and a short one of the last use alone, for what is asked for again and again while somebody's turn
 * lasts. The short one forgets in a part of the time in which RAM could be filled anew: else recency would be
 * all, and that is no good where each block comes once a round. */
static double ram_value(const struct store *s, const struct block *b)
{
    double brief = (double)(s->stats.ram_blocks + 1) / 4, length = long_run(s);
    double again = b->heat > 0 ? fade(s, b->used, brief) / brief : 0; /* what was only put is not read yet */
    return again + (double)worth(b) * fade(s, b->used, length) / length;
}

static void block_use(struct store *s, struct block *b)
{
    s->uses++;
    b->heat = (float)((double)b->heat * fade(s, b->used, long_run(s))) + 1;
    b->used = s->uses;
}

/* ---- in RAM and out of it ---- */

/* Four lists an octave of what the block was worth when it was last used. Of two in one list, the one used
 * longer ago is worth less now; so the one worth least of all is the coldest of some list. */
static struct ram_list *ram_list_of(struct store *s, const struct block *b)
{
    float at = 16 + 4 * log2f(worth(b)); /* worth is 1/16 at least */
    return &s->ram[at < 0 ? 0 : at < RAM_LISTS - 1 ? (unsigned)at : RAM_LISTS - 1];
}

static void list_remove(struct store *s, struct block *b)
{
    struct ram_list *l = ram_list_of(s, b);
    *(b->colder ? &b->colder->hotter : &l->coldest) = b->hotter;
    *(b->hotter ? &b->hotter->colder : &l->hottest) = b->colder;
}

static void list_add_hottest(struct store *s, struct block *b)
{
    struct ram_list *l = ram_list_of(s, b);
    b->hotter = NULL;
    b->colder = l->hottest;
    *(l->hottest ? &l->hottest->hotter : &l->coldest) = b;
    l->hottest = b;
}

static void list_add_coldest(struct store *s, struct block *b)
{
    struct ram_list *l = ram_list_of(s, b);
    b->colder = NULL;
    b->hotter = l->coldest;
    *(l->coldest ? &l->coldest->colder : &l->hottest) = b;
    l->coldest = b;
}

void ram_attach(struct store *s, struct block *b, struct buf *buf)
{
    assert(!b->buf);
    b->buf = buf;
    list_add_hottest(s, b);
    s->stats.ram_blocks++;
    s->stats.ram_bytes += buf->len;
}

void ram_detach(struct store *s, struct block *b)
{
    if (!b->buf)
        return;
    list_remove(s, b);
    s->stats.ram_blocks--;
    s->stats.ram_bytes -= b->buf->len;
    buf_unref(b->buf);
    b->buf = NULL;
}

static bool may_leave_ram(const struct block *b)
{
    return block_on_disk(b) && !b->put && !b->damaged && !b->unproven;
}

/* The block in RAM that is worth least, of those that may go. */
static struct block *ram_worst(struct store *s)
{
    struct block *worst = NULL;
    double least = 0;
    for (unsigned i = 0; i < RAM_LISTS; i++) {
        struct block *b = s->ram[i].coldest;
        while (b && !may_leave_ram(b))
            b = b->hotter;
        double value = b ? ram_value(s, b) : 0;
        if (b && (!worst || value < least)) {
            worst = b;
            least = value;
        }
    }
    return worst;
}

size_t ram_evict_one(struct store *s)
{
    struct block *worst = ram_worst(s);
    if (!worst)
        return 0;
    size_t len = worst->buf->len;
    ram_detach(s, worst);
    s->stats.evicted_ram++;
    return len;
}

struct buf *ram_take(struct store *s, size_t len)
{
    /* Bytes that zmq still sends, or a span with other slots in use, give nothing back at once: so a bound.
     */
    size_t evicted = 0;
    for (;;) {
        struct buf *buf = memory_block(s->memory, len);
        s->ram_full = evicted > 0 || !buf;
        if (buf || evicted > 4 * len + (1 << 20))
            return buf;
        size_t more = ram_evict_one(s);
        if (!more)
            return NULL;
        evicted += more;
    }
}

bool store_make_room(struct store *s, size_t len)
{
    size_t evicted = 0, given = s->spare < len ? s->spare : len;
    memory_uncharge(s->memory, given);
    s->spare -= given;
    while (!memory_charge(s->memory, len)) {
        size_t more = evicted < ROOM_AT_ONCE + 4 * len ? ram_evict_one(s) : 0;
        if (!more)
            return false;
        evicted += more;
    }
    memory_uncharge(s->memory, len);
    return true;
}

/* A list is in order of use without being searched: who is expected to be used more is placed, and counts, as
 * if used just now; who is expected to be used less, as if used longest ago of all that are alike. */
void store_hint(struct store *s, struct block *b, float keep)
{
    const float least = 1.0f / MOST_KEEP, most = MOST_KEEP;
    keep = keep > least ? keep < most ? keep : most : least;
    bool more = keep > b->keep;
    if (b->buf)
        list_remove(s, b);
    if (more) {
        b->heat *= (float)fade(s, b->used, long_run(s));
        b->used = s->uses;
    }
    b->keep = keep;
    if (!b->buf)
        return;
    const struct block *coldest = ram_list_of(s, b)->coldest;
    if (more || !coldest) {
        list_add_hottest(s, b);
    } else {
        if (coldest->used < b->used)
            b->used = coldest->used;
        list_add_coldest(s, b);
    }
}

/* ---- use, and the way back into RAM ---- */

static void promoted(void *arg, struct buf *buf, uint32_t n_bad);

struct promotion {
    struct store *store;
    struct block_key key;
    uint64_t sequence;
};

/* Whether the block, about to be used, should come back into RAM: it was used before, or is expected to be
 * used much (pages that clients keep are not asked for again, so once is not enough), and RAM has room or
 * holds one that is worth less. */
static bool earns_ram(struct store *s, const struct block *b)
{
    if (s->loads >= BACKGROUND_READS || s->in_flight >= IO_DEPTH / 2 || (b->heat == 0 && b->keep <= 1))
        return false;
    const struct block *worst = s->ram_full ? ram_worst(s) : NULL;
    return !worst || ram_value(s, b) > ram_value(s, worst);
}

void store_touch(struct store *s, struct block *b)
{
    bool earns = !b->buf && !b->loading && !b->damaged && block_on_disk(b) && earns_ram(s, b);
    if (b->buf)
        list_remove(s, b);
    block_use(s, b);
    if (b->buf)
        list_add_hottest(s, b);
    if (!earns)
        return;
    struct promotion *p = malloc(sizeof *p);
    if (!p)
        return;
    *p = (struct promotion){s, b->key, b->sequence};
    if (read_block(s, b, promoted, p)) {
        free(p);
        return;
    }
    b->loading = true;
    s->loads++;
}

static void promoted(void *arg, struct buf *buf, uint32_t n_bad)
{
    struct promotion *p = arg;
    struct store *s = p->store;
    struct block *b = store_find(s, &p->key);
    s->loads--;
    if (b && b->sequence == p->sequence)
        b->loading = false;
    if (b && b->sequence == p->sequence && !b->buf && buf && n_bad == 0) {
        ram_attach(s, b, buf);
        s->stats.promoted++;
    } else {
        buf_unref(buf);
    }
    free(p);
}
